/* SPDX-License-Identifier: MIT */
/*
 * lookout.c: a descriptor for the loops of others.
 *
 * A client waits for futex words, and no descriptor polls a futex. So a thread looks out for it: it sleeps on the bells
 * and obituaries that the client would sleep on, and sets an event (an eventfd) whenever one of them has changed. It is made
 * when somebody asks for the descriptor, one for each descriptor; who never asks pays nothing.
 *
 * Between the client's functions, either of these holds:
 *
 *     armed     it has parked as if it slept, and looked once more afterwards; the event is clear, or a change of the
 *               bell is on its way through the lookout
 *     alerted   the event is set, and the program's loop will come and look
 *
 * Whoever finds nothing arms: clear the event, park, fence, look again, and set the event if there was something after
 * all. Whoever undoes that (a sleep of its own) or newly wants something (room, after a send was told -EAGAIN) alerts.
 * So nobody has to know what the lookout does at the moment, and it knows nothing of a client: it reads words of the
 * server's through pointers that it is given, under a mutex, and they are taken from it before they are unmapped.
 * docs/ORDERING.md has the argument.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/os.h"
#include "client/reconnect.h"
#include "shm/doorbell.h"

#define STACK_BYTES (256u << 10)
#define SLICE_NS 1000000000ll
#define SLICES 4 /* 1, 2, 4, 8 s: as every other sleeper (wait.c) */
#define PAUSE_NS 1000000ll

/* One leader. The pointers are written by the client only. */
struct lookout_group {
    const uint32_t *bell;
    const uint32_t *obituary;
    const struct bf_lobby *lobby;
    uint32_t bell_seen;
    uint32_t obituary_seen;
    bool dead; /* the lobby's lock is free */
};

struct client_lookout {
    int event_fd;
    uint32_t fork_generation; /* of the process that has the thread */
    pthread_t thread;

    uint32_t order;        /* a futex word: counts what the thread is told */
    pthread_mutex_t mutex; /* of all below */
    bool stop;
    bool somebody_died;
    int64_t alarm_ns; /* when to set the event in any case; INT64_MAX: never */
    unsigned group_count;
    struct lookout_group groups[LOOKOUT_GROUPS_MAX];
};

/* --- the thread ------------------------------------------------------------------------------------------------------- */

/* The word may have changed. */
static bool look_at(const uint32_t *word, uint32_t *seen)
{
    uint32_t now = load_acquire(word); /* partners: doorbell_bump_recv; bf_obituary_close and the kernel */
    bool changed = now != *seen;
    *seen = now;
    return changed;
}

static bool look_at_group(struct lookout_group *g, bool ask_kernel)
{
    bool news = look_at(g->bell, &g->bell_seen);
    if (look_at(g->obituary, &g->obituary_seen)) {
        news = true;
        if (client_is_over(g->obituary_seen))
            bf_os_wake(g->obituary); /* the kernel woke one of us: pass it on */
    }
    if (ask_kernel && !g->dead && !bf_lobby_is_alive(g->lobby))
        news = g->dead = true;
    return news;
}

/* Under the mutex: is it time to look without a ring? */
static bool alarm_is_due(struct client_lookout *l)
{
    if (l->alarm_ns == INT64_MAX || bf_os_now_ns() < l->alarm_ns)
        return false;
    l->alarm_ns = INT64_MAX;
    return true;
}

/* Under the mutex: is there news? `waits` becomes what to sleep on for more. */
static bool look_at_all(struct client_lookout *l, bool ask_kernel, struct bf_os_wait *waits, unsigned *count)
{
    bool news = false;
    *count = 0;
    waits[(*count)++] = (struct bf_os_wait){&l->order, load_relaxed(&l->order)};
    for (unsigned i = 0; i < l->group_count; i++) {
        struct lookout_group *g = &l->groups[i];
        news |= look_at_group(g, ask_kernel);
        l->somebody_died |= g->dead;
        waits[(*count)++] = (struct bf_os_wait){g->bell, g->bell_seen};
        waits[(*count)++] = (struct bf_os_wait){g->obituary, g->obituary_seen};
    }
    return news;
}

static void *look_out(void *argument)
{
    struct client_lookout *l = argument;
    struct bf_os_wait waits[BF_OS_WAITS_MAX];
    unsigned count;
    uint32_t slice = 0;
    bool ask_kernel = false;
    bf_os_block_signals();
    for (;;) {
        pthread_mutex_lock(&l->mutex);
        bool stop = l->stop;
        bool news = !stop && look_at_all(l, ask_kernel, waits, &count);
        news |= alarm_is_due(l);
        int64_t alarm_ns = l->alarm_ns;
        pthread_mutex_unlock(&l->mutex);
        if (stop)
            return NULL;
        if (news)
            bf_os_event_set(l->event_fd);
        int64_t slice_end_ns = bf_os_now_ns() + (SLICE_NS << slice);
        int rc = bf_os_wait(waits, count, bf_min(slice_end_ns, alarm_ns));
        if (rc == -ETIMEDOUT && alarm_ns < slice_end_ns)
            continue;
        ask_kernel = rc == -ETIMEDOUT && slice == SLICES - 1;
        slice = rc == -ETIMEDOUT ? bf_min(slice + 1, SLICES - 1) : 0;
        if (rc < 0 &&
            rc != -ETIMEDOUT) { /* a word was unmapped while we took it up, or there is no memory: soon again */
            struct bf_os_wait pause = {&l->order, load_relaxed(&l->order)};
            bf_os_wait(&pause, 1, bf_os_now_ns() + PAUSE_NS);
        }
    }
}

static int start_thread(struct client_lookout *l)
{
    pthread_attr_t small;
    int rc = pthread_attr_init(&small);
    if (rc == 0) {
        pthread_attr_setstacksize(&small, STACK_BYTES);
        rc = pthread_create(&l->thread, &small, look_out, l);
        pthread_attr_destroy(&small);
    }
    if (rc == EINVAL) /* the program's thread-local variables need more than that */
        rc = pthread_create(&l->thread, NULL, look_out, l);
    return rc == 0 ? 0 : bf_error_errno(-rc, "cannot start the thread behind a descriptor: raise RLIMIT_NPROC");
}

/* --- for the client's thread ------------------------------------------------------------------------------------------ */

int bf_lookout_open(struct client_lookout **out)
{
    uint32_t word = 0;
    struct bf_os_wait changed = {&word, 1};
    *out = NULL;
    if (bf_os_wait(&changed, 1, 0) == -ENOSYS)
        return bf_error(BELFRY_EKERNEL, "this kernel has no futex_waitv: a client needs Linux 5.16 or newer");
    struct client_lookout *l = calloc(1, sizeof *l);
    if (l == NULL)
        return bf_error(-ENOMEM, "no memory for a descriptor");
    l->alarm_ns = INT64_MAX;
    l->fork_generation = bf_client_fork_generation;
    l->event_fd = bf_os_event();
    if (l->event_fd < 0) {
        int rc = l->event_fd == -EMFILE || l->event_fd == -ENFILE ? BELFRY_ENOFILES : l->event_fd;
        free(l);
        return bf_error(rc, "no descriptor left for an event: raise RLIMIT_NOFILE (ulimit -n), it is %llu",
                        (unsigned long long)bf_os_file_count_max());
    }
    bf_os_event_set(l->event_fd); /* nothing has been looked at yet */
    pthread_mutex_init(&l->mutex, NULL);
    int rc = start_thread(l);
    if (rc < 0) {
        bf_os_close(l->event_fd);
        free(l);
        return rc;
    }
    *out = l;
    return 0;
}

/* In a forked child there is no thread, and the event is the parent's. */
static bool is_ours(const struct client_lookout *l)
{
    return l->fork_generation == bf_client_fork_generation;
}

static void tell_thread(struct client_lookout *l)
{
    store_relaxed(&l->order, load_relaxed(&l->order) + 1); /* under the mutex, which orders it */
}

/* The kernel's one wake for a death may have come to the thread when it had to look elsewhere already, or nowhere: it is owed
   to the others. */
static void pass_on(const struct client_lookout *l)
{
    for (unsigned i = 0; i < l->group_count; i++)
        if (client_is_over(load_acquire(l->groups[i].obituary)))
            bf_os_wake(l->groups[i].obituary);
}

void bf_lookout_close(struct client_lookout *l)
{
    if (l == NULL)
        return;
    if (is_ours(l)) {
        pthread_mutex_lock(&l->mutex);
        l->stop = true;
        tell_thread(l);
        pthread_mutex_unlock(&l->mutex);
        bf_os_wake(&l->order);
        pthread_join(l->thread, NULL);
        pass_on(l);
    }
    bf_os_close(l->event_fd);
    free(l);
}

int bf_lookout_fd(const struct client_lookout *l)
{
    return is_ours(l) ? l->event_fd : bf_client_forked();
}

static bool watches(const struct client_lookout *l, struct belfry_client *const *leaders, unsigned count)
{
    if (l->group_count != count)
        return false;
    for (unsigned i = 0; i < count; i++)
        if (l->groups[i].bell != &leaders[i]->recv->bell)
            return false;
    return true;
}

void bf_lookout_watch(struct client_lookout *l, struct belfry_client *const *leaders, unsigned count)
{
    if (!is_ours(l) || watches(l, leaders, count))
        return;
    INVARIANT(count <= LOOKOUT_GROUPS_MAX);
    pthread_mutex_lock(&l->mutex);
    pass_on(l);
    for (unsigned i = 0; i < count; i++)
        l->groups[i] = (struct lookout_group){.bell = &leaders[i]->recv->bell,
                                              .obituary = &leaders[i]->shard->obituary,
                                              .lobby = &leaders[i]->shared->lobby,
                                              .bell_seen = load_acquire(&leaders[i]->recv->bell),
                                              .obituary_seen = load_acquire(&leaders[i]->shard->obituary)};
    l->group_count = count;
    l->somebody_died = false;
    tell_thread(l);
    pthread_mutex_unlock(&l->mutex);
    bf_os_wake(&l->order);
}

void bf_lookout_alert(struct client_lookout *l)
{
    if (is_ours(l))
        bf_os_event_set(l->event_fd);
}

/* After the event was cleared, so that the thread cannot have set it for this alarm already. */
static void set_alarm(struct client_lookout *l, int64_t alarm_ns)
{
    pthread_mutex_lock(&l->mutex);
    bool sooner = alarm_ns < l->alarm_ns;
    l->alarm_ns = alarm_ns;
    if (sooner)
        tell_thread(l);
    pthread_mutex_unlock(&l->mutex);
    if (sooner)
        bf_os_wake(&l->order);
}

/* What the thread has found out about locks is the client's to know. */
static void hear_of_deaths(struct client_lookout *l, struct belfry_client **leaders)
{
    pthread_mutex_lock(&l->mutex);
    for (unsigned i = 0; i < l->group_count && l->somebody_died; i++)
        leaders[i]->server_dead |= l->groups[i].dead;
    pthread_mutex_unlock(&l->mutex);
}

void bf_lookout_arm(struct client_lookout *l, struct belfry_client **members, unsigned count,
                    struct belfry_client **leaders, unsigned leader_count, int64_t alarm_ns)
{
    bool news = false;
    if (!is_ours(l))
        return;
    bf_lookout_watch(l, leaders, leader_count);
    bf_os_event_clear(l->event_fd); /* before the bells are read: whatever changes them from here on sets it again */
    set_alarm(l, alarm_ns);         /* as well: one that is due by now sets it again */
    hear_of_deaths(l, leaders);
    for (unsigned i = 0; i < leader_count; i++)
        doorbell_park_client(leaders[i]->send, leaders[i]->recv);
    for (unsigned i = 0; i < count; i++)
        store_relaxed(&members[i]->send->want_space, members[i]->wanted != 0);
    full_fence(); /* parked and want_space are visible before the last look; partner: shard.c, flush */
    for (unsigned i = 0; i < count && !news; i++)
        news = members[i]->stash_first != NULL || (!client_is_lost(members[i]) && bf_client_has_news(members[i]));
    if (news)
        bf_os_event_set(l->event_fd);
}

/* --- public ------------------------------------------------------------------------------------------------------------- */

int belfry_client_fd(belfry_client *c)
{
    int rc = client_check(c);
    if (rc < 0)
        return rc;
    if (c->poller != NULL)
        return bf_error(BELFRY_ESTATE, "the client of slot %u belongs to a poller: ask for that one's descriptor",
                        c->slot);
    if (c->lookout == NULL) {
        rc = bf_lookout_open(&c->lookout);
        if (rc < 0)
            return rc;
        bf_lookout_watch(c->lookout, &c, 1);
    }
    return bf_lookout_fd(c->lookout);
}

/* SPDX-License-Identifier: MIT */
/* lost.c: see lost.h. */
#include "server/lost.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/order.h"
#include "base/os.h"
#include "server/server.h"

#define LOOK_NS 8000000000ll /* another thread that waits here may have got the kernel's one wake, and been cancelled */

/* The shards of a thread: with own_loop there may be several. A fork leaves a copy that means nothing. */
struct shards_here {
    struct bf_shard *first;
    uint32_t pid;
};

static _Thread_local struct shards_here here;
static pthread_key_t key;
static bool key_is_made;
static pthread_mutex_t key_mutex = PTHREAD_MUTEX_INITIALIZER;

static __attribute__((cold)) void say_lost(const struct belfry_server *s, uint32_t index, const char *what_follows)
{
    bf_log(
        &s->log, BELFRY_LOG_ERROR,
        "the thread of shard %u has ended before its shard (by pthread_exit, pthread_cancel or exit in a handler?): its "
        "clients are lost%s",
        index, what_follows);
}

static __attribute__((noreturn, cold)) void lose(const struct belfry_server *s, uint32_t index)
{
    say_lost(s, index, ", so this process ends; a handler must return");
    abort();
}

/* --- on the thread itself ------------------------------------------------------------------------------------------ */

/* A thread of the program's has ended with the server on it, and all clients are told: what that means is the program's to say. */
static void thread_ends(void *value)
{
    const struct shards_here *h = value;
    if (h->first == NULL || h->pid != bf_os_pid())
        return;
    for (const struct bf_shard *s = h->first; s != NULL; s = s->next_here)
        if (!s->options->own_loop)
            lose(s->server, s->index);
        else
            say_lost(s->server, s->index, "; the thread that started the server must stay");
}

/* Once; but a failure is not for ever: the start that met it may be tried again. */
static int make_key(void)
{
    pthread_mutex_lock(&key_mutex);
    int rc = key_is_made ? 0 : -pthread_key_create(&key, thread_ends);
    key_is_made = rc == 0;
    pthread_mutex_unlock(&key_mutex);
    return rc;
}

int bf_lost_watch(struct bf_shard *s)
{
    int rc = make_key();
    if (rc == 0)
        rc = -pthread_setspecific(key, &here);
    if (rc < 0)
        return bf_error_errno(rc, "cannot watch over the thread of shard %u", s->index);
    if (here.pid != bf_os_pid())
        here = (struct shards_here){.pid = bf_os_pid()};
    s->next_here = here.first;
    here.first = s;
    return 0;
}

void bf_lost_forget(struct bf_shard *s)
{
    for (struct bf_shard **at = &here.first; *at != NULL; at = &(*at)->next_here)
        if (*at == s) {
            *at = s->next_here;
            break;
        }
}

/* --- on others ----------------------------------------------------------------------------------------------------- */

void bf_lost_look(const struct belfry_server *s)
{
    for (uint32_t i = 0; i < s->shard_count; i++)
        if ((load_relaxed(s->shards[i].own_obituary) & BELFRY_OBITUARY_DIED) != 0)
            lose(s, i);
}

static unsigned those_that_live(const struct belfry_server *s, struct bf_os_wait *waits)
{
    unsigned count = 0;
    for (uint32_t i = 0; i < s->shard_count; i++) {
        if (!s->shards[i].thread_started || s->shards[i].start_rc < 0)
            continue;
        const uint32_t *obituary = s->shards[i].own_obituary; /* not the clients': its one wake is theirs */
        uint32_t word = load_acquire(obituary);               /* partner: bf_obituary_close, and the kernel */
        if (word != BELFRY_OBITUARY_STOPPED)
            waits[count++] = (struct bf_os_wait){obituary, word};
    }
    return count;
}

void bf_lost_wait(const struct belfry_server *s)
{
    struct bf_os_wait waits[BELFRY_SHARDS_MAX];
    unsigned count;
    while ((count = those_that_live(s, waits)) > 0) {
        bf_lost_look(s);
        bf_os_wait(waits, count, bf_os_now_ns() + LOOK_NS);
    }
}

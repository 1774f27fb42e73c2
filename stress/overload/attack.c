/* SPDX-License-Identifier: MIT */
/* attack.c: see attack.h. */
#include "attack.h"

#include <belfry/abi.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host.h"
#include "people.h"

#define BURST 64 /* messages on one conn before it is the next one's turn */
#define LARGE_BYTES (1u << 20)
#define CONNS_MAX 64u
#define BOUNCE_MS 20
#define SITUATION(situation) (1u << (situation))

struct gang {
    struct stage *s;
    const struct plan *p;
    uint32_t index;
    uint32_t slots;
    belfry_client *client[CONNS_MAX];
    struct belfry_abi_send *send[CONNS_MAX];
    char lock_path[PLAN_TEXT_CHARS];
    char *large;
    int *fd; /* lock files that it made; by slot */
    uint32_t made;
    bool begun;
};

struct attack {
    bool connects; /* has conns from the start, new ones after each time */
    bool stirs;    /* goes on already in STIR */
    bool (*begin)(struct gang *g);
    bool (*step)(struct gang *g);
    void (*relax)(struct gang *g);
};

static bool failed(struct gang *g, const char *what)
{
    stage_wrong(g->s, "an attacker's %s failed: %s", what, belfry_last_error());
    return false;
}

/* ---- floods ------------------------------------------------------------------------------------------------------ */

static const char small[PEOPLE_CALL_BYTES] = {HOST_IGNORE};

static bool one_way_step(struct gang *g)
{
    for (uint32_t i = 0; i < g->p->conns; i++)
        for (int n = 0, rc = 0; n < BURST && rc == 0; n++)
            if ((rc = belfry_send_one_way(g->client[i], small, sizeof small)) < 0 && rc != -EAGAIN)
                return failed(g, "message");
    return true;
}
const struct attack attack_one_way = {.connects = true, .step = one_way_step};

static bool unread_step(struct gang *g)
{
    for (uint32_t i = 0; i < g->p->conns; i++)
        for (int n = 0, rc = 0; n < BURST && rc == 0; n++)
            if ((rc = belfry_send(g->client[i], small, sizeof small, NULL)) < 0 && rc != -EAGAIN)
                return failed(g, "request");
    return true;
}
const struct attack attack_unread = {.connects = true, .step = unread_step};

static bool large_begin(struct gang *g)
{
    g->large = calloc(1, HOST_MESSAGE_BYTES);
    return g->large != NULL;
}

static bool large_step(struct gang *g)
{
    for (uint32_t i = 0; i < g->p->conns; i++) {
        belfry_client *c = g->client[i];
        int rc = belfry_client_unsent_bytes(c) > 0 ? belfry_flush(c, 0) : belfry_send_one_way(c, g->large, LARGE_BYTES);
        if (rc < 0 && rc != -EAGAIN && rc != -ETIMEDOUT)
            return failed(g, "large message");
    }
    return true;
}
const struct attack attack_large = {.connects = true, .begin = large_begin, .step = large_step};

/* A map of our own segment beside the library's: from here we may do to it what we like. */
static struct belfry_abi_send *map_send(struct gang *g, const belfry_client *c)
{
    char path[PLAN_TEXT_CHARS];
    snprintf(path, sizeof path, "%s/" SERVICE "/current/segments/" SERVICE "_%u_send", g->s->directory,
             belfry_client_slot(c));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    void *map =
        fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(struct belfry_abi_send), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    return map == MAP_FAILED ? NULL : map;
}

static bool rings_step(struct gang *g)
{
    for (uint32_t i = 0; i < g->p->conns; i++) {
        if (g->send[i] == NULL && (g->send[i] = map_send(g, g->client[i])) == NULL) {
            stage_wrong(g->s, "an attacker cannot map its segment: %s", strerror(errno));
            return false;
        }
        __atomic_add_fetch(&g->send[i]->bell, 1, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, &g->send[i]->bell, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    }
    return true;
}

static void rings_relax(struct gang *g)
{
    for (uint32_t i = 0; i < g->p->conns; i++)
        if (g->send[i] != NULL)
            munmap(g->send[i], sizeof *g->send[i]);
    memset(g->send, 0, sizeof g->send);
}
const struct attack attack_rings = {.connects = true, .step = rings_step, .relax = rings_relax};

/* ---- one that does not read -------------------------------------------------------------------------------------- */

static bool slow_step(struct gang *g)
{
    static const char ask[] = {HOST_FEED};
    for (uint32_t i = 0; i < g->p->conns && !g->begun; i++)
        if (belfry_send_one_way(g->client[i], ask, sizeof ask) < 0)
            return failed(g, "message");
    g->begun = true;
    stage_pause(0.001);
    return true;
}
const struct attack attack_slow = {.connects = true, .stirs = true, .step = slow_step};

/* ---- names ------------------------------------------------------------------------------------------------------- */

static void lock_path(struct gang *g, char path[PLAN_TEXT_CHARS], uint32_t slot)
{
    snprintf(path, PLAN_TEXT_CHARS, "%s/" SERVICE "/current/shard-%u/slot_%u.lock", g->s->directory,
             slot % g->s->options->shards, slot);
}

/* Make the lock file of a slot that is free and lock it; of another user's server it must be readable, and speak. */
static bool grab(struct gang *g, uint32_t slot, bool speak)
{
    const struct belfry_abi_claim word = {.version = BELFRY_ABI_VERSION, .pid = (uint32_t)getpid()};
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char path[PLAN_TEXT_CHARS];
    lock_path(g, path, slot);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0604);
    if (fd < 0)
        return false;
    if (speak && write(fd, &word, sizeof word) != (ssize_t)sizeof word)
        stage_wrong(g->s, "an attacker's claim failed: %s", strerror(errno));
    fcntl(fd, F_OFD_SETLK, &lock);
    g->fd[slot] = fd;
    g->made++;
    return true;
}

static void let_go(struct gang *g, uint32_t slot)
{
    if (g->fd[slot] >= 0) {
        close(g->fd[slot]);
        g->made--;
    }
    g->fd[slot] = -1;
}

static bool names_begin(struct gang *g)
{
    g->slots = g->p->max_slots != 0 ? g->p->max_slots : SLOTS_DEFAULT;
    g->fd = malloc(g->slots * sizeof *g->fd);
    for (uint32_t i = 0; g->fd != NULL && i < g->slots; i++)
        g->fd[i] = -1;
    return g->fd != NULL;
}

static void names_relax(struct gang *g)
{
    for (uint32_t i = 0; i < g->slots; i++)
        let_go(g, i);
}

/* From the last slot on, so that the names of warm slots, which are the first, are left for others. */
static bool half_open_step(struct gang *g)
{
    for (uint32_t i = g->slots; i-- > 0 && g->made < g->s->scale->half_open;)
        if (g->fd[i] < 0)
            grab(g, i, false);
    stage_pause(0.001);
    return true;
}
const struct attack attack_half_open = {.begin = names_begin, .step = half_open_step, .relax = names_relax};

/* A name that the server has taken away is grabbed again. */
static bool slots_step(struct gang *g)
{
    struct stat st;
    for (uint32_t i = 0; i < g->slots; i++) {
        if (g->fd[i] >= 0 && fstat(g->fd[i], &st) == 0 && st.st_nlink == 0)
            let_go(g, i);
        if (g->fd[i] < 0)
            grab(g, i, true);
    }
    return true;
}
const struct attack attack_slots = {.begin = names_begin, .step = slots_step, .relax = names_relax};

static bool junk_step(struct gang *g)
{
    char path[PLAN_TEXT_CHARS];
    snprintf(path, sizeof path, "%s/" SERVICE "/current/shard-%u/junk-%u-%u", g->s->directory,
             g->made % g->s->options->shards, g->index, g->made);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    g->made++;
    return true;
}
const struct attack attack_junk = {.step = junk_step};

static bool touches_step(struct gang *g)
{
    if (!g->begun)
        lock_path(g, g->lock_path, belfry_client_slot(g->client[0]));
    g->begun = true;
    int fd = open(g->lock_path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return failed(g, "touch");
    close(fd);
    return true;
}
const struct attack attack_touches = {.connects = true, .step = touches_step};

/* ---- all that one user may have ---------------------------------------------------------------------------------- */

static bool connects_step(struct gang *g)
{
    int rc;
    belfry_client *c = stage_connect(g->s, true, &rc);
    if (c == NULL && rc != BELFRY_EQUOTA && rc != BELFRY_EFULL && rc != -ETIMEDOUT)
        return failed(g, "connect");
    belfry_close(c);
    return true;
}
const struct attack attack_connects = {.step = connects_step};

/* All conns but one begin a message that never becomes whole. The last asks for more than is left, again and again. */
static bool bytes_step(struct gang *g)
{
    uint32_t last = g->p->conns - 1;
    belfry_message m;
    for (uint32_t i = 0; i < last && !g->begun; i++)
        if (belfry_send(g->client[i], g->large, HOST_MESSAGE_BYTES, NULL) < 0)
            return failed(g, "large message");
    g->begun = true;
    int rc = belfry_call(g->client[last], g->large, HOST_MESSAGE_BYTES, &m, belfry_in_ms(BOUNCE_MS));
    if (rc == 0)
        belfry_release(g->client[last], &m);
    return rc == 0 || rc == -ENOBUFS || rc == -ETIMEDOUT || rc == -EAGAIN || failed(g, "large request");
}
const struct attack attack_bytes = {.connects = true, .begin = large_begin, .step = bytes_step};

/* ---- the process ------------------------------------------------------------------------------------------------- */

static void leave(struct gang *g)
{
    for (uint32_t i = 0; i < CONNS_MAX; i++) {
        belfry_close(g->client[i]);
        g->client[i] = NULL;
    }
}

static bool connect_all(struct gang *g)
{
    for (uint32_t i = 0; i < g->p->conns && g->p->attack->connects; i++)
        if ((g->client[i] = stage_connect(g->s, false, NULL)) == NULL)
            return false;
    return true;
}

static bool step(void *context, enum situation now)
{
    struct gang *g = context;
    if (now == BESIDE)
        return true;
    bool good = g->p->attack->step(g);
    if (now == DURING && !atomic_load_explicit(&g->s->board->attacked, memory_order_relaxed))
        atomic_store(&g->s->board->attacked, true);
    return good;
}

/* New conns: the old ones may be full to the brim. */
static void relax(void *context)
{
    struct gang *g = context;
    if (g->p->attack->relax != NULL)
        g->p->attack->relax(g);
    leave(g);
    g->begun = false;
    if (stage_now(g->s) != OVER)
        connect_all(g);
}

static void yield_if_wanted(struct stage *s)
{
    struct sched_param none = {0};
    if (s->options->yield)
        sched_setscheduler(0, SCHED_IDLE, &none);
}

int attack_actor(struct stage *s, const struct plan *p, uint32_t index)
{
    struct gang g = {.s = s, .p = p, .index = index};
    yield_if_wanted(s);
    if ((p->attack->begin != NULL && !p->attack->begin(&g)) || !connect_all(&g))
        return 1;
    stage_ready(s);
    uint32_t mask = SITUATION(BESIDE) | SITUATION(DURING) | (p->attack->stirs ? SITUATION(STIR) : 0u);
    bool good = stage_act(s, mask, step, relax, &g);
    leave(&g);
    free(g.large);
    free(g.fd);
    return good ? 0 : 1;
}

/* SPDX-License-Identifier: MIT */
/*
 * own_loop.c: a server without a thread: the program runs the shard's turns in a loop of its own.
 *
 * The thread that starts such a server is the shard's thread: the uring takes entries from it alone, and the obituary is
 * locked by it. It is only that while it runs a turn. In between it is any other thread, so whatever it does there to the
 * shard comes as a letter, and the event tells its loop.
 *
 * That event is an eventfd which the kernel sets when it has work for the uring, and which the shard sets itself when a
 * turn ends with work left. The uring's own descriptor would not do: with DEFER_TASKRUN it polls readable, but whoever
 * sleeps on it is not woken (tests/kernel/kernel-uring.c).
 */
#include <errno.h>

#include "base/error.h"
#include "base/os.h"
#include "server/server.h"

static struct bf_shard *only_shard(const struct belfry_server *s)
{
    return &s->shards[0];
}

int bf_own_loop_start(struct belfry_server *s)
{
    struct bf_shard *shard = only_shard(s);
    bf_shard_init(shard, s, 0, UINT32_MAX);
    int rc = bf_os_event();
    if (rc < 0)
        return bf_error(rc == -EMFILE || rc == -ENFILE ? BELFRY_ENOFILES : rc,
                        "no descriptor left for the event of a shard: raise RLIMIT_NOFILE (ulimit -n), it is %llu",
                        (unsigned long long)bf_os_file_count_max());
    shard->event_fd = rc;
    shard->owner = pthread_self();
    struct bf_shard *before = bf_shard_become(shard);
    rc = bf_shard_open(shard);
    bf_shard_become(before);
    shard->finished = rc < 0;
    bf_os_event_set(shard->event_fd); /* nothing has been looked at yet */
    shard->event_is_set = true;
    return rc;
}

bool bf_own_loop_is_here(const struct belfry_server *s)
{
    return s->options.own_loop && only_shard(s)->event_fd >= 0 && pthread_equal(only_shard(s)->owner, pthread_self());
}

/* May this thread run a turn now? */
static int check_turn(const struct belfry_server *s)
{
    if (!bf_own_loop_is_here(s))
        return bf_error(BELFRY_ETHREAD, "the turns of \"%s\" are run by the thread that started it", s->place.service);
    if (only_shard(s)->in_turn)
        return bf_error(BELFRY_ESTATE, "a handler of \"%s\" cannot run its turns", s->place.service);
    return 0;
}

/* Run the shard on this thread: a few turns, or to its end. */
static void run(struct bf_shard *shard, void (*turns)(struct bf_shard *shard))
{
    struct bf_shard *before = bf_shard_become(shard);
    shard->in_turn = true;
    turns(shard);
    if (shard->finished)
        bf_shard_close(shard);
    shard->in_turn = false;
    bf_shard_become(before);
}

int bf_own_loop_run(struct belfry_server *s)
{
    int rc = check_turn(s);
    if (rc == 0 && !only_shard(s)->finished)
        run(only_shard(s), bf_shard_run);
    return rc;
}

void bf_own_loop_end(struct belfry_server *s)
{
    bf_os_close(only_shard(s)->event_fd);
    only_shard(s)->event_fd = -1;
}

/* --- public ---------------------------------------------------------------------------------------------------------- */

static int check(const struct belfry_server *s, uint32_t shard)
{
    if (!s->options.own_loop)
        return bf_error(BELFRY_ESTATE, "the server \"%s\" has threads for its turns: set own_loop", s->place.service);
    if (shard >= s->shard_count)
        return bf_error(BELFRY_EOPTION, "there is no shard %u: the server \"%s\" has %u", shard, s->place.service,
                        s->shard_count);
    if (!s->started)
        return bf_error(BELFRY_ESTATE, "the server \"%s\" is not running", s->place.service);
    return 0;
}

int belfry_shard_turn(belfry_server *s, uint32_t shard)
{
    int rc = check(s, shard);
    if (rc == 0)
        rc = check_turn(s);
    if (rc < 0)
        return rc;
    if (!only_shard(s)->finished)
        run(only_shard(s), bf_shard_step);
    return only_shard(s)->finished ? 0 : 1;
}

int belfry_shard_fd(belfry_server *s, uint32_t shard)
{
    int rc = check(s, shard);
    return rc < 0 ? rc : only_shard(s)->event_fd;
}

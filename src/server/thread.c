/* SPDX-License-Identifier: MIT */
/*
 * thread.c: a shard's thread: it opens what the shard owns, reports, runs the loop, and closes everything again.
 *
 * The thread makes its own uring, arena and segments, so that they belong to it and to its memory node. It may be one of the
 * program's, which then runs the turns itself: own_loop.c.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/order.h"
#include "base/os.h"
#include "server/guard.h"
#include "server/io.h"
#include "server/lost.h"
#include "server/obituary.h"
#include "server/server.h"
#include "server/sleep.h"

#define CLOSE_LOOK_NS 10000000ll

static _Thread_local struct bf_shard *self;

struct bf_shard *bf_shard_self(void)
{
    return self;
}

struct bf_shard *bf_shard_become(struct bf_shard *s)
{
    struct bf_shard *before = self;
    self = s;
    return before;
}

static int allocate_lists(struct bf_shard *s)
{
    size_t count = s->pool.count;
    s->hot = calloc(count, sizeof *s->hot);
    s->parking = calloc(count, sizeof *s->parking);
    s->touched = calloc(count, sizeof *s->touched);
    bool others = s->options->access != BELFRY_ACCESS_OWNER;
    if (others)
        s->copy = malloc(ring_payload_max(s->pool.lobby->geometry.ring_bytes));
    if (s->hot == NULL || s->parking == NULL || s->touched == NULL || (others && s->copy == NULL))
        return bf_error(-ENOMEM, "no memory for %zu slots", count);
    return 0;
}

static int tell_start(struct bf_shard *s)
{
    const belfry_server_options *o = s->options;
    int rc = o->on_shard_start != NULL ? o->on_shard_start(s->server, s->index, o->user) : 0;
    s->told_start = rc >= 0;
    return rc < 0 ? bf_error(rc, "on_shard_start of shard %u said no: %s", s->index, belfry_error_text(rc)) : 0;
}

/* The last letters; then nothing of the user's runs on this thread any more. */
static void tell_stop(struct bf_shard *s)
{
    const belfry_server_options *o = s->options;
    struct mailbox_letter *letter = bf_mailbox_close(&s->mailbox);
    while (letter != NULL) {
        struct mailbox_letter *next = letter->next;
        letter->deliver(s, letter);
        letter = next;
    }
    if (s->told_start && o->on_shard_stop != NULL)
        o->on_shard_stop(s->server, s->index, o->user);
}

static int open_obituaries(struct bf_shard *s)
{
    int rc = bf_obituary_open(s->own_obituary);
    if (rc == 0 && (rc = bf_obituary_open(&s->lobby->obituary)) < 0)
        bf_obituary_close(s->own_obituary);
    return rc;
}

static void close_obituaries(struct bf_shard *s)
{
    bf_obituary_close(&s->lobby->obituary);
    bf_obituary_close(s->own_obituary);
}

static int open_all(struct bf_shard *s)
{
    struct belfry_server *server = s->server;
    const struct bf_geometry *g = &server->lobby.geometry;
    char locks[PLACE_PATH_BYTES + 64], service[PLACE_PATH_BYTES];

    s->lobby = lobby_shard(&server->lobby, s->index);
    s->counters = lobby_counters(&server->lobby, s->index);
    s->dirty.kind = SLOT_QUEUE_DIRTY;
    s->later.kind = SLOT_QUEUE_LATER;
    s->sweep_interval_ns = SWEEP_NS_MIN;
    s->swept_ns = bf_os_now_ns();
    s->service_dir = server->instance.service_dir;
    snprintf(service, sizeof service, "%.400s/%s", server->place.root, server->place.service);
    snprintf(locks, sizeof locks, "%s/%llu/shard-%u", service, (unsigned long long)g->instance, s->index);
    bf_spin_init(&s->spin, s->options->spin);
    bf_pace_init(&s->pace);
    bf_timers_init(&s->timers);

    int rc = bf_lost_watch(s);
    if (rc == 0)
        rc = bf_arena_open(&s->arena);
    if (rc == 0)
        rc = s->lock_dir = bf_instance_open_locks(&server->instance, s->index);
    if (rc >= 0)
        rc = bf_reactor_open(&s->reactor, g->slots_per_shard + 2, locks, service);
    if (rc == 0 && s->event_fd >= 0)
        rc = bf_reactor_tell(&s->reactor, s->event_fd);
    if (rc == 0) {
        uint32_t share = g->warm_pool / g->shards + (s->index < g->warm_pool % g->shards);
        struct bf_slot_pool_config config = {.lobby = &server->lobby,
                                             .log = s->log,
                                             .reactor = &s->reactor,
                                             .quota = &server->quota,
                                             .shard = s->index,
                                             .warm_target = share,
                                             .lock_dir = s->lock_dir,
                                             .segment_dir = server->instance.segment_dir,
                                             .no_fork = s->options->atfork};
        rc = bf_slot_pool_open(&s->pool, &config);
    }
    if (rc == 0 && s->options->sigbus_guard && (s->guard = bf_guard_add(&s->pool)) == NULL)
        rc = bf_error(-ENOMEM, "no memory for the guard of shard %u", s->index);
    if (rc == 0)
        rc = allocate_lists(s);
    if (rc == 0)
        rc = bf_slot_pool_fill(&s->pool);
    if (rc == 0)
        rc = open_obituaries(s);
    if (rc == 0 && (rc = tell_start(s)) < 0)
        close_obituaries(s); /* this thread ends, and that is no death */
    return rc;
}

/* After a start that failed there may be operations of the user's; else nothing is armed but, perhaps, the mailbox. */
static void end_waits(struct bf_shard *s)
{
    struct bf_event event;
    s->stopping = true; /* nothing new is started */
    if (s->mailbox_armed)
        bf_reactor_cancel_mailbox(&s->reactor);
    while (s->mailbox_armed || s->ios != NULL) {
        if (s->ios != NULL)
            bf_io_stop(s);
        bf_reactor_sleep(&s->reactor, s->ios != NULL ? CLOSE_LOOK_NS : -1);
        while (bf_reactor_next(&s->reactor, &event)) {
            s->mailbox_armed &= event.kind != BF_EVENT_MAILBOX;
            if (event.kind == BF_EVENT_OWNED)
                bf_io_done(s, &event);
        }
    }
}

/* Also for a half-opened one. */
static void close_all(struct bf_shard *s)
{
    bf_timers_drop(&s->timers);
    end_waits(s);
    if (s->reactor.uring.open)
        bf_reactor_close(&s->reactor);
    bf_guard_remove(s->guard);
    s->guard = NULL;
    if (s->pool.slots != NULL)
        bf_slot_pool_close(&s->pool);
    bf_os_close(s->lock_dir);
    store_relaxed(&s->counters->allocated_bytes, s->arena.allocated_bytes);
    bf_arena_close(&s->arena);
    free(s->hot);
    free(s->parking);
    free(s->touched);
    free(s->copy);
    s->hot = s->parking = s->touched = NULL;
    s->copy = NULL;
    bf_lost_forget(s);
}

int bf_shard_open(struct bf_shard *s)
{
    s->lock_dir = -1;
    bf_mailbox_open(&s->mailbox);
    int rc = open_all(s);
    if (rc < 0) {
        bf_server_report(s->server, s, rc, belfry_last_error());
        tell_stop(s);
        close_all(s);
        return rc;
    }
    store_relaxed(&s->lobby->cpu, s->cpu);
    store_release(&s->lobby->door, BELFRY_DOOR_OPEN);
    bf_server_report(s->server, s, 0, "");
    return 0;
}

void bf_shard_close(struct bf_shard *s)
{
    tell_stop(s);
    bf_reactor_submit(&s->reactor); /* the last turn has told some of their end after its flush */
    close_obituaries(s);
    close_all(s);
}

void *bf_shard_main(void *argument)
{
    struct bf_shard *s = argument;
    self = s;
    bf_os_block_signals();
    if (s->cpu != UINT32_MAX && bf_os_pin(s->cpu) < 0)
        s->cpu = UINT32_MAX; /* the processor went away: run where we may */
    if (bf_shard_open(s) == 0) {
        bf_shard_run(s);
        bf_shard_close(s);
    }
    return NULL;
}

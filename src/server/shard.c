/* SPDX-License-Identifier: MIT */
/*
 * shard.c: the turn.
 *
 *     collect completions  ->  drain hot conns  ->  flush: one fence, wakes, one submit  ->  one bite of house-keeping
 *
 * and, when a turn found nothing to do and polling no longer pays, sleep. Every step of going to sleep is in
 * docs/PROTOCOL.md, "The shard goes to sleep"; the order of its stores and loads is in docs/ORDERING.md.
 *
 * Hot slots are looked at every turn. A slot that stays quiet is parked: its client will ring. Every open slot has a
 * wait armed whenever the shard sleeps, hot or parked.
 */
#include "server/shard.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/order.h"
#include "base/os.h"
#include "server/conn.h"
#include "server/listener.h"
#include "server/obituary.h"
#include "server/server.h"
#include "shm/doorbell.h"

#define EVENTS_PER_TURN 1024
#define QUIET_SLEEPS_MAX 4 /* a hot slot without a message for this many sleeps is parked */
#define BUSY_HOT_MAX 8     /* with more hot slots than this, a busy shard parks quiet ones too ... */
#define BUSY_TURNS 256     /* ... looking for them once in this many turns */
#define MUTE_NS 10000000ll
#define SWEEP_NS_MIN 1000000000ll
#define SWEEP_NS_MAX 60000000000ll

static _Thread_local struct bf_shard *self;

struct bf_shard *bf_shard_self(void)
{
    return self;
}

/* --- small services for listener, conn and reply ------------------------------------------------------------------ */

void bf_shard_heat(struct bf_shard *s, struct bf_slot *slot)
{
    if (slot->phase != SLOT_OPEN || slot->hot_index != SLOT_NOT_HOT)
        return;
    slot->hot_index = s->hot_count;
    slot->quiet = 0;
    s->hot[s->hot_count++] = slot;
}

void bf_shard_cool(struct bf_shard *s, struct bf_slot *slot)
{
    if (slot->hot_index == SLOT_NOT_HOT)
        return;
    struct bf_slot *last = s->hot[--s->hot_count];
    s->hot[slot->hot_index] = last;
    last->hot_index = slot->hot_index;
    slot->hot_index = SLOT_NOT_HOT;
}

void bf_shard_touch(struct bf_shard *s, struct bf_slot *slot)
{
    if (slot->touched)
        return;
    slot->touched = true;
    s->touched[s->touched_count++] = slot;
}

void bf_shard_arm(struct bf_shard *s, struct bf_slot *slot)
{
    if (slot->wait_armed)
        return;
    slot->wait_value = doorbell_send_value(slot->send);
    bf_reactor_wait_bell(&s->reactor, &slot->send->bell, slot->wait_value, slot->index, slot->generation);
    slot->wait_armed = true;
    s->waits_armed++;
}

static void arm_mailbox(struct bf_shard *s)
{
    if (s->mailbox_armed)
        return;
    bf_reactor_wait_mailbox(&s->reactor, &s->mailbox_bell, load_acquire(&s->mailbox_bell));
    s->mailbox_armed = true;
}

/* --- collect ----------------------------------------------------------------------------------------------------- */

static void take_bell(struct bf_shard *s, const struct bf_event *event)
{
    struct bf_slot *slot = &s->pool.slots[event->slot];
    INVARIANT(slot->wait_armed && slot->generation == event->generation);
    slot->wait_armed = false;
    s->waits_armed--;
    switch (slot->phase) {
    case SLOT_OPEN:
        counter_add(&s->counters->rings, 1);
        if (event->result == -EFAULT) {
            bf_listener_end(s, slot, BELFRY_END_PEER_FAULT);
            return;
        }
        slot->heard = true;
        if (outbox_is_empty(&slot->conn->outbox))
            store_relaxed(&slot->recv->parked, 0);
        bf_shard_heat(s, slot);
        return;
    case SLOT_CLAIMED:
        if (event->result == -EFAULT)
            bf_listener_refuse(s, slot, BELFRY_END_PEER_FAULT, 0);
        else
            bf_listener_rung(s, slot);
        return;
    case SLOT_ENDING:
        bf_listener_ended(s, slot);
        return;
    default:
        INVARIANT(!"a wait on the doorbell of a slot without segments");
    }
}

/* Another instance may have become current; then this one only serves those it has. */
static void look_at_current(struct bf_shard *s)
{
    uint64_t current = bf_place_current(s->service_dir);
    uint64_t own = s->pool.lobby->geometry.instance;
    s->was_current |= current == own;
    if (s->draining || current == own || (current < own && !s->was_current))
        return; /* a lower number, or none: our own start has not swung the link yet */
    bf_log(s->log, BELFRY_LOG_INFO, "shard %u drains: instance %llu is current now", s->index,
           (unsigned long long)current);
    s->draining = s->pool.closing = true;
    store_relaxed(&s->lobby->door, BELFRY_DOOR_DRAINING);
    full_fence(); /* partner: client/claim.c reads the door after it has made the lock file */
    s->rescan = true;
}

static bool collect(struct bf_shard *s)
{
    struct bf_event event;
    int count = 0;
    while (count < EVENTS_PER_TURN && bf_reactor_next(&s->reactor, &event)) {
        count++;
        switch (event.kind) {
        case BF_EVENT_BELL:
            take_bell(s, &event);
            break;
        case BF_EVENT_FILE:
            bf_listener_event(s, event.name, event.closed);
            break;
        case BF_EVENT_SERVICE:
            look_at_current(s);
            break;
        case BF_EVENT_RESCAN: /* what was lost may have been about `current` */
            s->rescan = true;
            look_at_current(s);
            break;
        case BF_EVENT_GONE:
            bf_log(s->log, BELFRY_LOG_ERROR,
                   "somebody removed the directory of shard %u: no client can connect; restart "
                   "the server",
                   s->index);
            break;
        case BF_EVENT_MAILBOX:
            s->mailbox_armed = false;
            break;
        }
    }
    return count > 0;
}

/* --- drain ------------------------------------------------------------------------------------------------------- */

/* It rings and says nothing, again and again: its wait is armed again only after a pause, and its ring looked at then. */
static void mute(struct bf_shard *s, struct bf_slot *slot)
{
    slot->muted = true;
    slot->empty = 0;
    store_relaxed(&slot->recv->parked, BELFRY_PARKED_DATA);
    bf_shard_cool(s, slot);
    bf_listener_look_after(s, slot, MUTE_NS);
}

static bool drain(struct bf_shard *s)
{
    bool worked = false;
    for (uint32_t i = 0; i < s->hot_count;) {
        struct bf_slot *slot = s->hot[i];
        int rc = bf_conn_turn(slot->conn);
        if (bf_unlikely(rc < 0)) {
            bf_listener_end(s, slot,
                            (enum belfry_end) - rc); /* takes it out of the hot list: s->hot[i] is another now */
            worked = true;
            continue;
        }
        if (rc > 0) {
            slot->active = true;
            slot->heard = slot->suspected = false;
            slot->empty = 0;
            worked = true;
        } else if (bf_unlikely(slot->heard)) {
            slot->heard = false;
            counter_add(&s->counters->empty_rings, 1);
            if (++slot->empty >= EMPTY_RINGS_MAX) {
                mute(s, slot); /* s->hot[i] is another now */
                continue;
            }
        }
        i++;
    }
    return worked;
}

/* --- flush ------------------------------------------------------------------------------------------------------- */

struct bf_slot *bf_shard_bell_of(const struct bf_shard *s, struct bf_slot *slot)
{
    uint64_t at = load_relaxed(&slot->send->bell_at); /* after the fence: a model with it before fails */
    if (bf_likely(at == 0))
        return slot;
    uint32_t shards = s->pool.lobby->geometry.shards;
    uint64_t number = (at >> 32) - 1;
    if (number % shards != s->index || number / shards >= s->pool.count)
        return slot;
    struct bf_slot *leader = &s->pool.slots[number / shards];
    bool sound = leader->phase == SLOT_OPEN && leader->generation == (uint32_t)at && leader->uid == slot->uid &&
                 load_relaxed(&leader->send->bell_at) == 0;
    return sound ? leader : slot;
}

void bf_shard_ring(struct bf_shard *s, struct bf_slot *bell)
{
    if (!doorbell_client_wants(bell->send, bell->recv))
        return;
    doorbell_bump_recv(bell->recv);
    bf_reactor_wake(&s->reactor, &bell->recv->bell);
    counter_add(&s->counters->wakes, 1);
}

static void flush(struct bf_shard *s)
{
    if (s->touched_count > 0) {
        full_fence(); /* commits and positions are visible before we read who sleeps */
        for (uint32_t i = 0; i < s->touched_count; i++) {
            struct bf_slot *slot = s->touched[i];
            slot->touched = false;
            if (slot->phase != SLOT_OPEN)
                continue;
            struct belfry_conn *conn = slot->conn;
            bool news = conn->committed || (conn->in.has_published && load_relaxed(&slot->send->want_space) != 0);
            conn->committed = conn->in.has_published = false;
            if (news)
                bf_shard_ring(s, bf_shard_bell_of(s, slot));
        }
        s->touched_count = 0;
    }
    bf_reactor_submit(&s->reactor);
}

/* --- parking quiet slots ------------------------------------------------------------------------------------------ */

/*
 * Take slots that had no message for `quiet_max` looks out of the hot list and tell their clients to ring. The caller
 * fences and then calls look_at_parked().
 */
static void park_quiet(struct bf_shard *s, uint32_t quiet_max)
{
    s->parking_count = 0;
    for (uint32_t i = 0; i < s->hot_count;) {
        struct bf_slot *slot = s->hot[i];
        slot->quiet = slot->active ? 0 : slot->quiet + 1;
        slot->active = false;
        if (slot->quiet < quiet_max || slot->conn->dying != BELFRY_END_NONE || !outbox_is_empty(&slot->conn->outbox)) {
            i++;
            continue;
        }
        bf_shard_arm(s, slot); /* the value is read and the wait prepared before the client may ring */
        store_relaxed(&slot->recv->parked, BELFRY_PARKED_DATA);
        bf_shard_cool(s, slot);
        s->parking[s->parking_count++] = slot;
    }
}

/* After the fence: who spoke while being parked is hot again. */
static bool look_at_parked(struct bf_shard *s)
{
    bool work = false;
    for (uint32_t i = 0; i < s->parking_count; i++) {
        struct bf_slot *slot = s->parking[i];
        if (!bf_conn_has_work(slot->conn))
            continue;
        store_relaxed(&slot->recv->parked, 0);
        bf_shard_heat(s, slot);
        work = true;
    }
    s->parking_count = 0;
    return work;
}

/* --- house-keeping ------------------------------------------------------------------------------------------------ */

/* What only the slow sweep found was lost by somebody: count it, and serve it. An entry is suspected at one sweep and
   rescued at the next: a client may have been stopped between its commit and its ring. */
static void sweep(struct bf_shard *s, int64_t now_ns)
{
    s->swept_ns = now_ns;
    counter_add(&s->counters->sweeps, 1);
    for (uint32_t i = 0; i < s->pool.count; i++) {
        struct bf_slot *slot = &s->pool.slots[i];
        if (slot->phase != SLOT_OPEN)
            continue;
        if (slot->hot_index != SLOT_NOT_HOT || !bf_conn_has_work(slot->conn))
            continue;
        uint64_t position = slot->conn->in.position;
        if (slot->suspected && slot->suspected_at == position) {
            counter_add(&s->counters->rescued_wakes, 1);
            store_relaxed(&slot->recv->parked, 0);
            bf_shard_heat(s, slot);
        }
        slot->suspected = true;
        slot->suspected_at = position;
        s->sweep_interval_ns = SWEEP_NS_MIN;
    }
}

static bool house_keep(struct bf_shard *s)
{
    bool worked = bf_listener_work(s);
    if (bf_slot_pool_is_busy(&s->pool)) {
        struct bf_slot *made = bf_slot_pool_bite(&s->pool);
        if (made != NULL)
            bf_listener_look(s, made);
        worked = true;
    }
    if (++s->turns_since_clock >= BUSY_TURNS) {
        s->turns_since_clock = 0;
        int64_t now = bf_os_now_ns();
        if (s->later.first != NULL)
            bf_listener_tick(s, now);
        if (now - s->swept_ns >= SWEEP_NS_MAX && s->conn_count > 0) /* a shard that is never idle sweeps, too */
            sweep(s, now);
        if (s->hot_count > BUSY_HOT_MAX) {
            park_quiet(s, QUIET_SLEEPS_MAX);
            full_fence();
            look_at_parked(s);
        }
    }
    store_relaxed(&s->counters->allocated_bytes, s->arena.allocated_bytes);
    return worked;
}

/* --- sleep ------------------------------------------------------------------------------------------------------- */

static int64_t sleep_limit(struct bf_shard *s)
{
    int64_t now = bf_os_now_ns();
    int64_t next = s->later.first != NULL ? bf_listener_tick(s, now) : INT64_MAX;
    if (s->conn_count == 0)
        s->sweep_at_ns = 0;
    else if (s->sweep_at_ns == 0)
        s->sweep_at_ns = now + s->sweep_interval_ns;
    if (s->sweep_at_ns != 0)
        next = bf_min(next, s->sweep_at_ns);
    if (s->pool.refill_after_ns > now)
        next = bf_min(next, s->pool.refill_after_ns);
    if (next == INT64_MAX)
        return -1;
    return bf_max(next - now, 0);
}

/* A sleep is over: was it for the sweep? */
static void after_sleep(struct bf_shard *s)
{
    if (s->sweep_at_ns == 0)
        return;
    int64_t now = bf_os_now_ns();
    if (now < s->sweep_at_ns)
        return;
    s->sweep_at_ns = 0;
    s->sweep_interval_ns = bf_min(s->sweep_interval_ns * 2, SWEEP_NS_MAX);
    sweep(s, now);
}

static void go_to_sleep(struct bf_shard *s)
{
    int64_t limit_ns = sleep_limit(s);
    store_relaxed(&s->lobby->asleep, 1);
    park_quiet(s, QUIET_SLEEPS_MAX);
    for (uint32_t i = 0; i < s->hot_count; i++) {
        struct bf_slot *slot = s->hot[i];
        bf_shard_arm(s, slot);
        if (!outbox_is_empty(&slot->conn->outbox))
            store_relaxed(&slot->recv->parked, BELFRY_PARKED_SPACE);
    }
    arm_mailbox(s);
    full_fence(); /* asleep and parked are visible before the last look; partner: client/wait.c, bf_client_tell */

    bool work = look_at_parked(s) || (load_relaxed(&s->stop_requested) && !s->stopping) || s->dirty.first != NULL ||
                s->rescan || s->touched_count > 0 || bf_slot_pool_is_busy(&s->pool);
    for (uint32_t i = 0; i < s->hot_count && !work; i++)
        work = bf_conn_has_work(s->hot[i]->conn);
    if (!work) {
        counter_add(&s->counters->parks, 1);
        bf_reactor_sleep(&s->reactor, limit_ns);
    }
    store_relaxed(&s->lobby->asleep, 0);
    if (!work)
        after_sleep(s);
}

/* --- the loop ---------------------------------------------------------------------------------------------------- */

/* Nobody is left, or everybody has been told: done when the kernel waits on nothing of ours any more. */
static void continue_stopping(struct bf_shard *s)
{
    if (!s->stopping && load_acquire(&s->stop_requested)) {
        s->stopping = s->draining = s->pool.closing = true;
        store_relaxed(&s->lobby->door, BELFRY_DOOR_CLOSED);
        full_fence(); /* a claim made before this is found by the scan; one made after sees the door closed */
        bf_listener_end_all(s, BELFRY_END_STOPPED);
        s->rescan = true;
    }
    if (!s->stopping && s->draining && s->pool.active == 0 && !s->rescan && s->dirty.first == NULL) {
        store_relaxed(&s->lobby->door, BELFRY_DOOR_CLOSED);
        full_fence(); /* a claim made before this is found by the scan; one made after sees the door closed */
        s->stopping = s->rescan = true;
    }
    if (s->stopping && !s->rescan && s->dirty.first == NULL)
        s->finished = s->waits_armed == 0 && s->pool.active == 0;
}

/* Returns whether there was anything to do. */
static bool turn(struct bf_shard *s)
{
    bool worked = collect(s);
    worked |= drain(s);
    flush(s);
    if (worked) {
        counter_add(&s->counters->turns, 1);
        s->sweep_interval_ns = SWEEP_NS_MIN;
        s->sweep_at_ns = 0;
    }
    worked |= house_keep(s);
    if (bf_unlikely(s->draining || load_relaxed(&s->stop_requested)))
        continue_stopping(s);
    return worked;
}

static void run(struct bf_shard *s)
{
    bool polling = false;
    while (!s->finished) {
        if (turn(s)) {
            if (polling) {
                bf_spin_won(&s->spin);
                counter_add(&s->counters->polls_won, 1);
            }
            polling = false;
            continue;
        }
        if (!polling)
            bf_spin_begin(&s->spin);
        polling = true;
        if (bf_spin_again(&s->spin))
            continue;
        go_to_sleep(s);
        polling = false;
    }
}

/* --- the thread --------------------------------------------------------------------------------------------------- */

static int allocate_lists(struct bf_shard *s)
{
    size_t count = s->pool.count;
    s->hot = calloc(count, sizeof *s->hot);
    s->parking = calloc(count, sizeof *s->parking);
    s->touched = calloc(count, sizeof *s->touched);
    if (s->hot == NULL || s->parking == NULL || s->touched == NULL)
        return bf_error(-ENOMEM, "no memory for %zu slots", count);
    return 0;
}

static int open_shard(struct bf_shard *s)
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

    int rc = bf_arena_open(&s->arena);
    if (rc == 0)
        rc = s->lock_dir = bf_instance_open_locks(&server->instance, s->index);
    if (rc >= 0)
        rc = bf_reactor_open(&s->reactor, g->slots_per_shard + 2, locks, service);
    if (rc == 0) {
        uint32_t share = g->warm_pool / g->shards + (s->index < g->warm_pool % g->shards);
        struct bf_slot_pool_config config = {.lobby = &server->lobby,
                                             .log = s->log,
                                             .reactor = &s->reactor,
                                             .shard = s->index,
                                             .warm_target = share,
                                             .lock_dir = s->lock_dir,
                                             .segment_dir = server->instance.segment_dir,
                                             .no_fork = s->options->atfork};
        rc = bf_slot_pool_open(&s->pool, &config);
    }
    if (rc == 0)
        rc = allocate_lists(s);
    if (rc == 0)
        rc = bf_slot_pool_fill(&s->pool);
    if (rc == 0)
        rc = bf_obituary_open(s->lobby);
    return rc;
}

/* Also for a half-opened one. No wait is armed any more but, perhaps, the mailbox's. */
static void close_shard(struct bf_shard *s)
{
    struct bf_event event;
    if (s->mailbox_armed) {
        bf_reactor_cancel_mailbox(&s->reactor);
        while (s->mailbox_armed) {
            bf_reactor_sleep(&s->reactor, -1);
            while (bf_reactor_next(&s->reactor, &event))
                s->mailbox_armed &= event.kind != BF_EVENT_MAILBOX;
        }
    }
    if (s->reactor.uring.open)
        bf_reactor_close(&s->reactor);
    if (s->pool.slots != NULL)
        bf_slot_pool_close(&s->pool);
    bf_os_close(s->lock_dir);
    store_relaxed(&s->counters->allocated_bytes, s->arena.allocated_bytes);
    bf_arena_close(&s->arena);
    free(s->hot);
    free(s->parking);
    free(s->touched);
    s->hot = s->parking = s->touched = NULL;
}

void *bf_shard_main(void *argument)
{
    struct bf_shard *s = argument;
    self = s;
    s->lock_dir = -1;
    bf_os_block_signals();
    if (s->cpu != UINT32_MAX && bf_os_pin(s->cpu) < 0)
        s->cpu = UINT32_MAX; /* the processor went away: run where we may */

    int rc = open_shard(s);
    if (rc < 0) {
        const char *error = belfry_last_error();
        bf_server_report(s->server, s, rc, error);
        close_shard(s);
        return NULL;
    }
    store_relaxed(&s->lobby->cpu, s->cpu);
    store_release(&s->lobby->door, BELFRY_DOOR_OPEN);
    bf_server_report(s->server, s, 0, "");
    run(s);
    bf_obituary_close(s->lobby);
    close_shard(s);
    return NULL;
}

void bf_shard_stop(struct bf_shard *s)
{
    store_release(&s->stop_requested, true); /* partner: continue_stopping */
    add_release(&s->mailbox_bell, 1);        /* then the bell, so that a wait armed in between returns at once */
    bf_os_wake(&s->mailbox_bell);
}

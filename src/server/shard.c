/* SPDX-License-Identifier: MIT */
/*
 * shard.c: the turn.
 *
 *     collect completions  ->  deliver letters  ->  fire timers  ->  drain hot conns  ->  flush: one fence, wakes, one submit
 *     ->  one bite of house-keeping
 *
 * and, when a turn found nothing to do and polling no longer pays, sleep (sleep.c). thread.c starts and ends it.
 */
#include "server/shard.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/order.h"
#include "base/os.h"
#include "server/conn.h"
#include "server/guard.h"
#include "server/io.h"
#include "server/listener.h"
#include "server/server.h"
#include "server/sleep.h"
#include "shm/doorbell.h"
#include "shm/place.h"

#define PREFETCH_AHEAD 6 /* conns; decisions/0009 */
#define EVENTS_PER_TURN 1024
#define MUTE_NS 10000000ll
#define POLLS_PER_MARK 8 /* a turn that finds nothing is short, and comes again and again */
#define LETTERS_PER_TURN 64
#define TURNS_PER_STEP 4
#define COARSE_LAG_NS 20000000ll /* twice what the coarse clock may be behind */

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
        if (outbox_is_empty(&slot->conn->outbox) && load_relaxed(&slot->lobby->parked) != 0)
            store_relaxed(&slot->lobby->parked, 0); /* its neighbours read this line with every send */
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
    if (current == 0)
        bf_log(
            s->log, BELFRY_LOG_ERROR,
            "somebody removed the link `current`: no client finds this server any more; shard %u serves those that it "
            "has; start the server again",
            s->index);
    else
        bf_log(s->log, BELFRY_LOG_INFO, "shard %u drains: instance %llu is current now", s->index,
               (unsigned long long)current);
    bf_shard_refuse_claims(s);
}

static void tell_gone(struct bf_shard *s)
{
    if (!s->told_gone && !s->stopping)
        bf_log(s->log, BELFRY_LOG_ERROR,
               "somebody removed or moved the directory of shard %u: no client can connect; restart the server",
               s->index);
    s->told_gone = true;
}

/* The kernel tells of its removal only when nobody has it open any more, and we have. */
void bf_shard_look_at_directory(struct bf_shard *s)
{
    struct bf_os_file file;
    if (bf_os_stat(s->lock_dir, &file) == 0 && file.links == 0)
        tell_gone(s);
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
            bf_shard_look_at_directory(s);
            break;
        case BF_EVENT_RESCAN: /* what was lost may have been about `current` */
            s->rescan = true;
            look_at_current(s);
            break;
        case BF_EVENT_GONE:
            tell_gone(s);
            break;
        case BF_EVENT_MAILBOX:
            s->mailbox_armed = false;
            break;
        case BF_EVENT_OWNED:
            bf_io_done(s, &event);
            break;
        }
    }
    return count > 0;
}

/* --- deliver ----------------------------------------------------------------------------------------------------- */

static bool deliver(struct bf_shard *s)
{
    if (s->inbox == NULL)
        s->inbox = bf_mailbox_take(&s->mailbox);
    unsigned delivered = 0;
    for (; s->inbox != NULL && delivered < LETTERS_PER_TURN; delivered++) {
        struct mailbox_letter *letter = s->inbox;
        s->inbox = letter->next;
        letter->deliver(s, letter);
    }
    return delivered > 0;
}

/* --- fire -------------------------------------------------------------------------------------------------------- */

/* The coarse clock costs 3 ns and the exact one 27: that one is read only when a timer may be due soon. */
static bool fire(struct bf_shard *s)
{
    if (bf_timers_next_ns(&s->timers) - COARSE_LAG_NS > bf_os_coarse_ns())
        return false;
    return bf_timers_run(&s->timers, bf_os_now_ns()) > 0 || timers_are_due(&s->timers);
}

/* --- drain ------------------------------------------------------------------------------------------------------- */

/* It rings and says nothing, again and again: its wait is armed again only after a pause, and its ring looked at then. */
static void mute(struct bf_shard *s, struct bf_slot *slot)
{
    slot->muted = true;
    slot->empty = 0;
    store_relaxed(&slot->lobby->parked, BELFRY_PARKED_DATA);
    bf_shard_cool(s, slot);
    bf_listener_look_after(s, slot, MUTE_NS);
}

static bool drain(struct bf_shard *s)
{
    bool worked = false;
    for (uint32_t i = 0; i < s->hot_count;) {
        struct bf_slot *slot = s->hot[i];
        if (s->hot_count > i + PREFETCH_AHEAD)
            conn_prefetch(s->hot[i + PREFETCH_AHEAD]->conn);
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

void bf_shard_wake(struct bf_shard *s, struct bf_slot *slot)
{
    doorbell_bump_recv(slot->recv);
    if (bf_unlikely(slot->foreign))
        bf_reactor_wake_some(&s->reactor, &slot->recv->bell);
    else
        bf_reactor_wake(&s->reactor, &slot->recv->bell);
}

void bf_shard_ring(struct bf_shard *s, struct bf_slot *bell)
{
    if (!doorbell_client_wants(bell->send, bell->recv))
        return;
    bf_shard_wake(s, bell);
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

/* --- house-keeping ------------------------------------------------------------------------------------------------ */

static bool house_keep(struct bf_shard *s)
{
    bool worked = bf_listener_work(s);
    if (bf_slot_pool_is_busy(&s->pool)) {
        struct bf_slot *made = bf_slot_pool_bite(&s->pool);
        if (made != NULL)
            bf_listener_look(s, made);
        worked = true;
    }
    if (++s->turns_since_clock >= BF_TICK_TURNS) {
        s->turns_since_clock = 0;
        bf_shard_tick(s);
    }
    store_relaxed(&s->counters->allocated_bytes, s->arena.allocated_bytes);
    return worked;
}

/* --- the loop ---------------------------------------------------------------------------------------------------- */

/* Nobody is left, or everybody has been told: done when the kernel waits on nothing of ours any more. */
static void continue_stopping(struct bf_shard *s)
{
    if (!s->stopping && load_acquire(&s->stop_requested)) {
        s->stopping = s->draining = s->pool.closing = true;
        bf_timers_drop(&s->timers);
        store_relaxed(&s->lobby->door, BELFRY_DOOR_CLOSED);
        full_fence(); /* a claim made before this is found by the scan; one made after sees the door closed */
        bf_listener_end_all(s, BELFRY_END_STOPPED);
        s->rescan = true;
    }
    if (!s->stopping && s->draining && s->pool.active == 0 && !s->rescan && s->dirty.first == NULL) {
        store_relaxed(&s->lobby->door, BELFRY_DOOR_CLOSED);
        full_fence(); /* a claim made before this is found by the scan; one made after sees the door closed */
        s->stopping = s->rescan = true;
        bf_timers_drop(&s->timers);
    }
    if (s->stopping && s->ios != NULL)
        bf_io_stop(s);
    if (s->stopping && !s->rescan && s->dirty.first == NULL)
        s->finished = s->waits_armed == 0 && s->pool.active == 0 && s->inbox == NULL && s->ios == NULL;
}

/* Returns whether there was anything to do. */
static bool turn(struct bf_shard *s)
{
    bool worked = collect(s);
    if (bf_unlikely(s->inbox != NULL || !mailbox_is_empty(&s->mailbox)))
        worked |= deliver(s);
    if (bf_unlikely(s->timers.count > 0))
        worked |= fire(s);
    worked |= drain(s);
    if (bf_unlikely(load_relaxed(&s->pool.faults) != 0)) {
        bf_guard_take(s);
        worked = true;
    }
    flush(s);
    if (worked) {
        counter_add(&s->counters->turns, 1);
        s->sweep_interval_ns = SWEEP_NS_MIN;
        s->sweep_at_ns = 0;
    }
    worked |= house_keep(s);
    if (bf_unlikely(s->draining || load_relaxed(&s->stop_requested) || load_relaxed(&s->drain_ns) != 0)) {
        bf_shard_continue_draining(s);
        continue_stopping(s);
    }
    return worked;
}

/* At most so many turns that have work. Between them it polls and sleeps, or else ends at one that found nothing, and
   returns false then. The turn is called from here alone: so the compiler makes one function of all of it. */
static bool turn_on(struct bf_shard *s, uint64_t turns_max, bool sleeps)
{
    bool polling = false;
    pace_start(&s->pace);
    while (!s->finished) {
        bool worked = turn(s);
        if (worked || s->spin.polls % POLLS_PER_MARK == 0)
            pace_turn(s, &s->pace);
        if (worked) {
            if (--turns_max == 0)
                return true;
            if (polling) {
                bf_spin_won(&s->spin);
                counter_add(&s->counters->polls_won, 1);
            }
            polling = false;
            continue;
        }
        if (bf_unlikely(!sleeps))
            return false;
        if (!polling)
            bf_spin_begin(&s->spin);
        polling = true;
        if (bf_spin_again(&s->spin))
            continue;
        bf_shard_sleep(s);
        pace_start(&s->pace);
        polling = false;
    }
    return false;
}

void bf_shard_run(struct bf_shard *s)
{
    bf_shard_rouse(s);
    turn_on(s, UINT64_MAX, true);
}

/*
 * The event is cleared by the doze only, so while there is work it stays set without a system call. Several turns at
 * once, because after one that had work another finds out that there is no more.
 */
void bf_shard_step(struct bf_shard *s)
{
    bf_shard_rouse(s);
    bool worked = turn_on(s, TURNS_PER_STEP, false);
    if (!worked && !s->finished) {
        s->event_is_set = false;
        if (bf_shard_doze(s))
            return;
    }
    if (!s->event_is_set)
        bf_os_event_set(s->event_fd);
    s->event_is_set = true;
}

void bf_shard_init(struct bf_shard *s, struct belfry_server *server, uint32_t index, uint32_t cpu)
{
    memset((uint8_t *)s + offsetof(struct bf_shard, server), 0, sizeof *s - offsetof(struct bf_shard, server));
    s->server = server;
    s->options = &server->options;
    s->log = &server->log;
    s->index = index;
    s->cpu = cpu;
    s->event_fd = -1;
    store_relaxed(&s->stop_requested, false);
    store_relaxed(&s->drain_ns, 0);
    bf_tickets_reset(&s->tickets);
}

void bf_shard_stop(struct bf_shard *s)
{
    store_release(&s->stop_requested, true); /* partner: continue_stopping */
    bf_mailbox_ring(&s->mailbox);
}

/* SPDX-License-Identifier: MIT */
/*
 * sleep.c: how a shard leaves slots to their doorbells, goes to sleep, and what its clock is for.
 *
 * Every step of going to sleep is in docs/PROTOCOL.md, "The shard goes to sleep"; the order of its stores and loads is in
 * docs/ORDERING.md. Hot slots are looked at every turn. A slot that stays quiet is parked: its client will ring. Every
 * open slot has a wait armed whenever the shard sleeps, hot or parked.
 */
#include "server/sleep.h"

#include "base/check.h"
#include "base/order.h"
#include "base/os.h"
#include "server/conn.h"
#include "server/listener.h"
#include "server/lost.h"
#include "server/thrift.h"

#define QUIET_SLEEPS_MAX 4 /* a hot slot without a message for this many sleeps is parked */
#define BUSY_HOT_MAX 8     /* with more hot slots than this, a busy shard parks quiet ones too */

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
        store_relaxed(&slot->lobby->parked, BELFRY_PARKED_DATA);
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
        store_relaxed(&slot->lobby->parked, 0);
        bf_shard_heat(s, slot);
        work = true;
    }
    s->parking_count = 0;
    return work;
}

/* --- the clock ------------------------------------------------------------------------------------------------------ */

/* Nobody has touched its segments since they were made. If they were cut short since, better we find out than a client. */
static void look_at_warm(struct bf_shard *s, struct bf_slot *slot)
{
    load_relaxed(&slot->send->bell);
    load_relaxed(&slot->recv->bell);
    if (load_relaxed(&slot->faulted) != 0)
        bf_slot_pool_remake(&s->pool, slot);
}

/* What only the slow sweep found was lost by somebody: count it, and serve it. An entry is suspected at one sweep and
   rescued at the next: a client may have been stopped between its commit and its ring. */
static void sweep(struct bf_shard *s, int64_t now_ns)
{
    bf_lost_look(s->server);
    s->swept_ns = now_ns;
    counter_add(&s->counters->sweeps, 1);
    bf_shard_look_at_directory(s);
    for (uint32_t i = 0; i < s->pool.count; i++) {
        struct bf_slot *slot = &s->pool.slots[i];
        if (slot->phase == SLOT_WARM)
            look_at_warm(s, slot);
        if (slot->phase != SLOT_OPEN)
            continue;
        if (slot->hot_index != SLOT_NOT_HOT || !bf_conn_has_work(slot->conn))
            continue;
        uint64_t position = slot->conn->in.position;
        if (slot->suspected && slot->suspected_at == position) {
            counter_add(&s->counters->rescued_wakes, 1);
            store_relaxed(&slot->lobby->parked, 0);
            bf_shard_heat(s, slot);
        }
        slot->suspected = true;
        slot->suspected_at = position;
        s->sweep_interval_ns = SWEEP_NS_MIN;
    }
}

void bf_shard_tick(struct bf_shard *s)
{
    int64_t now = bf_os_now_ns();
    bf_thrift_look(s, BF_TICK_TURNS);
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

/* --- sleep ------------------------------------------------------------------------------------------------------- */

static void arm_mailbox(struct bf_shard *s)
{
    if (s->mailbox_armed)
        return;
    bf_reactor_wait_mailbox(&s->reactor, &s->mailbox.bell, load_acquire(&s->mailbox.bell));
    s->mailbox_armed = true;
}

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
    if (s->timers.count > 0)
        next = bf_min(next, bf_timers_next_ns(&s->timers));
    if (s->drain_until_ns != 0 && s->conn_count > 0)
        next = bf_min(next, s->drain_until_ns);
    if (s->stopping && s->ios != NULL)
        next = bf_min(next, s->io_cancel_at_ns);
    next = bf_min(next, bf_listener_weeds_at(s));
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

/* Say that we are about to sleep, then look once more. Is there work? */
static bool lie_down(struct bf_shard *s)
{
    store_relaxed(&s->lobby->asleep, 1);
    store_relaxed(&s->mailbox.asleep, 1);
    park_quiet(s, QUIET_SLEEPS_MAX);
    for (uint32_t i = 0; i < s->hot_count; i++) {
        struct bf_slot *slot = s->hot[i];
        bf_shard_arm(s, slot);
        if (!outbox_is_empty(&slot->conn->outbox))
            store_relaxed(&slot->lobby->parked, BELFRY_PARKED_SPACE);
    }
    arm_mailbox(s);
    full_fence(); /* asleep and parked are visible before the last look; partner: client/wait.c, bf_client_tell */

    bool asked = load_relaxed(&s->stop_requested) || load_relaxed(&s->drain_ns) != s->drain_until_ns;
    bool work = look_at_parked(s) || (asked && !s->stopping) || s->dirty.first != NULL || s->rescan ||
                s->touched_count > 0 || s->inbox != NULL || !mailbox_is_empty(&s->mailbox) ||
                bf_slot_pool_is_busy(&s->pool);
    for (uint32_t i = 0; i < s->hot_count && !work; i++)
        work = bf_conn_has_work(s->hot[i]->conn);
    return work || load_relaxed(&s->pool.faults) != 0; /* that look, too, may have met one */
}

static void get_up(struct bf_shard *s)
{
    store_relaxed(&s->lobby->asleep, 0);
    store_relaxed(&s->mailbox.asleep, 0);
}

void bf_shard_sleep(struct bf_shard *s)
{
    int64_t limit_ns = sleep_limit(s);
    bool work = lie_down(s);
    if (!work) {
        counter_add(&s->counters->parks, 1);
        bf_reactor_sleep(&s->reactor, limit_ns);
    }
    get_up(s);
    if (!work)
        after_sleep(s);
}

bool bf_shard_doze(struct bf_shard *s)
{
    int64_t limit_ns = sleep_limit(s);
    s->dozes = !lie_down(s) && limit_ns != 0 && bf_reactor_doze(&s->reactor, s->event_fd, limit_ns);
    if (s->dozes)
        counter_add(&s->counters->parks, 1);
    else
        get_up(s);
    return s->dozes;
}

void bf_shard_rouse(struct bf_shard *s)
{
    if (!s->dozes)
        return;
    s->dozes = false;
    get_up(s);
    after_sleep(s);
}

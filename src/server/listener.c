/* SPDX-License-Identifier: MIT */
/* listener.c: see listener.h. From the event to the conn, and from the conn to the recycled slot. */
#include "server/listener.h"

#include <errno.h>

#include "base/check.h"
#include "base/order.h"
#include "base/os.h"
#include "server/claim.h"
#include "server/conn.h"
#include "server/server.h"
#include "shm/doorbell.h"

#define LOOKS_PER_TURN 8 /* some 5 us each */
#define NS_PER_MS 1000000ll
#define LOOK_PAUSE_NS (1 * NS_PER_MS) /* doubles each time */
#define LOOK_DOUBLINGS 16
#define CLAIM_DOUBLINGS 7
#define VAIN_SHARE 16
#define VAIN_BURST_NS (4 * NS_PER_MS)
#define VAIN_PAUSE_NS (1 * NS_PER_MS) /* doubles each time */
#define VAIN_DOUBLINGS 6
#define VAIN_FORGIVEN_NS (1000 * NS_PER_MS)
#define JUNK_NS 5000
#define REFUSAL_NS 20000
#define REFUSAL_PAUSE_NS (10 * NS_PER_MS)
#define HELLO_GRACES 30 /* a locked claim may wait this many graces for its hello: its owner may be stopped */

/* --- what is done for nothing ---------------------------------------------------------------------------------------- */

/*
 * Whoever may make lock files can make us work: junk is removed, a claim beyond a user's share refused, a slot looked at
 * whose lock file was only touched. While there are others to serve, that gets a sixteenth of the time, after a burst;
 * `cost_ns` is roughly what it takes. False: later.
 */
static bool afford(struct bf_shard *shard, int64_t cost_ns)
{
    if (shard->hot_count == 0)
        return true;
    int64_t now = bf_os_now_ns();
    if (shard->vain_ns > now + VAIN_BURST_NS)
        return false;
    shard->vain_ns = bf_max(shard->vain_ns, now) + VAIN_SHARE * cost_ns;
    return true;
}

static void remove_junk(struct bf_shard *shard, const char *name)
{
    if (bf_claim_remove_junk(shard->lock_dir, name) == 0) /* else it is the event of its removal */
        counter_add(&shard->counters->junk_names, 1);
}

static bool is_slot(const struct bf_shard *shard, const char *name, uint32_t *number)
{
    const struct bf_geometry *g = &shard->pool.lobby->geometry;
    return bf_lock_name_parse(name, g->max_slots, number) && *number % g->shards == shard->index;
}

static void weed_entry(void *context, const char *name)
{
    struct bf_shard *shard = context;
    uint32_t number;
    if (name[0] == '.' || is_slot(shard, name, &number))
        return;
    if (shard->hot_count > 0)
        shard->vain_ns += VAIN_SHARE * JUNK_NS;
    remove_junk(shard, name);
}

/* Some of the names that were too many to be removed at once, or whose events were lost. */
static bool weed(struct bf_shard *shard)
{
    if ((!shard->weeding && !shard->junk_left) || !afford(shard, JUNK_NS))
        return false;
    if (!shard->weeding) /* what is made from now on is noted again: this pass may be past its place */
        shard->junk_left = false;
    shard->weeding = bf_os_list_some(shard->lock_dir, weed_entry, shard) > 0;
    return true;
}

int64_t bf_listener_weeds_at(const struct bf_shard *shard)
{
    if (!shard->junk_left && !shard->weeding)
        return INT64_MAX;
    return shard->hot_count > 0 ? shard->vain_ns - VAIN_BURST_NS : 0;
}

/* --- from the event to the look ---------------------------------------------------------------------------------- */

/* An open slot that was looked at in vain is not looked at again at once: the more often, the later. */
static bool was_in_vain(struct bf_shard *shard, struct bf_slot *slot)
{
    if ((slot->phase != SLOT_OPEN && slot->phase != SLOT_CLAIMED) || slot->vain == 0)
        return false;
    int64_t now = bf_os_now_ns(),
            again_ns = slot->looked_ns + (VAIN_PAUSE_NS << bf_min(slot->vain - 1, VAIN_DOUBLINGS));
    if (now >= again_ns)
        return false;
    if (!slot->queued[SLOT_QUEUE_LATER] || slot->look_at_ns > again_ns)
        bf_listener_look_after(shard, slot, again_ns - now);
    return true;
}

void bf_listener_event(struct bf_shard *shard, const char *name, bool closed)
{
    uint32_t number;
    counter_add(&shard->counters->watch_events, 1);
    if (name[0] == '\0' || name[0] == '.')
        return;
    if (!is_slot(shard, name, &number)) {
        if (afford(shard, JUNK_NS))
            remove_junk(shard, name);
        else
            shard->junk_left = true;
        return;
    }
    struct bf_slot *slot = &shard->pool.slots[number / shard->pool.lobby->geometry.shards];
    slot->hinted |= closed;
    if ((closed && slot->refusal != REFUSAL_NONE) || was_in_vain(shard, slot))
        return;
    slot->looks = 0;
    slot_queue_put(&shard->dirty, slot);
}

/* Events were lost: any slot may have changed, and one that says "closed" may be among the lost. How many names somebody
   has put beside the slots' does not matter here. */
static void rescan(struct bf_shard *shard)
{
    shard->rescan = false;
    shard->junk_left = true;
    counter_add(&shard->counters->rescans, 1);
    for (uint32_t i = 0; i < shard->pool.count; i++) {
        struct bf_slot *slot = &shard->pool.slots[i];
        slot->hinted = true;
        slot->looks = 0;
        slot_queue_put(&shard->dirty, slot);
    }
}

bool bf_listener_work(struct bf_shard *shard)
{
    struct bf_slot *slot;
    bool worked = false;
    shard->rescan |= shard->pool.name_left && !shard->draining; /* while it drains, the name is in nobody's way */
    shard->pool.name_left = false;
    if (bf_unlikely(shard->rescan)) {
        rescan(shard);
        worked = true;
    }
    for (int i = 0; i < LOOKS_PER_TURN && (slot = slot_queue_take(&shard->dirty)) != NULL; i++) {
        bf_listener_look(shard, slot);
        worked = true;
    }
    return weed(shard) || worked;
}

/*
 * The lock is still held after a hint, or not held yet: look again after 1, 2, 4, 8 ms and so on, at last every minute: then
 * nobody who has gone is noticed later than twice as long after his close as the kernel took to drop the lock. A claim that
 * is not finished is looked at some ten times a second, so that its grace is kept.
 */
static void look_later(struct bf_shard *shard, struct bf_slot *slot)
{
    uint32_t doublings = slot->phase == SLOT_CLAIMED ? CLAIM_DOUBLINGS : LOOK_DOUBLINGS;
    bf_listener_look_after(shard, slot, LOOK_PAUSE_NS << bf_min(slot->looks, doublings));
    slot->looks++;
}

void bf_listener_look_after(struct bf_shard *shard, struct bf_slot *slot, int64_t after_ns)
{
    slot->look_at_ns = bf_os_now_ns() + after_ns;
    slot_queue_put(&shard->later, slot);
}

void bf_listener_rung(struct bf_shard *shard, struct bf_slot *slot)
{
    if (++slot->empty < EMPTY_RINGS_MAX) {
        slot->looks = 0;
        slot_queue_put(&shard->dirty, slot);
    } else {
        look_later(shard, slot); /* which arms the wait again, too */
    }
}

/* It is time to look at this slot: in one of the next turns, since a thousand may be due at once. */
static void look_is_due(struct bf_shard *shard, struct bf_slot *slot)
{
    bool muted = slot->muted; /* it may wait for both */
    slot->muted = false;
    if (muted)
        bf_shard_heat(shard, slot);
    if (slot->refusal == REFUSAL_DUE && !afford(shard, REFUSAL_NS)) {
        bf_listener_look_after(shard, slot, REFUSAL_PAUSE_NS);
        return;
    }
    if (slot->refusal == REFUSAL_DUE)
        slot->refusal = REFUSAL_PAID;
    if (!muted || slot->hinted)
        slot_queue_put(&shard->dirty, slot);
}

int64_t bf_listener_tick(struct bf_shard *shard, int64_t now_ns)
{
    struct bf_slot_queue waiting = shard->later;
    int64_t next = INT64_MAX;
    shard->later.first = shard->later.last = NULL;
    struct bf_slot *slot;
    while ((slot = slot_queue_take(&waiting)) != NULL) {
        if (slot->look_at_ns > now_ns) {
            next = bf_min(next, slot->look_at_ns);
            slot_queue_put(&shard->later, slot);
        } else {
            look_is_due(shard, slot);
        }
    }
    for (slot = shard->later.first; slot != NULL; slot = slot->next[SLOT_QUEUE_LATER])
        next = bf_min(next, slot->look_at_ns);
    return next;
}

/* --- a claim begins ---------------------------------------------------------------------------------------------- */

/*
 * Another user may let go of a free slot's name when he likes, and a client take it that has seen the slot free. So first
 * everybody is told that it is not (`state`), then we look whether the name is still his. Whoever takes it later than that finds
 * the slot taken, and goes on (partner: client/claim.c, try_slot).
 */
static bool claim_stands(struct bf_shard *shard, struct bf_slot *slot, const struct bf_claim *claim,
                         enum belfry_abi_state state)
{
    bf_slot_publish(slot, state);
    full_fence();
    if (bf_claim_is_there(shard->lock_dir, slot->number, claim))
        return true;
    bf_slot_publish(slot, slot->phase == SLOT_COLD ? BELFRY_SLOT_COLD : BELFRY_SLOT_WARM);
    slot->looks = 0;
    slot_queue_put(&shard->dirty, slot);
    return false;
}

/* Has the time for a refusal been found? If not, it is looked for again later. */
static bool refusal_is_paid(struct bf_shard *shard, struct bf_slot *slot)
{
    bool paid = slot->refusal == REFUSAL_PAID || afford(shard, REFUSAL_NS);
    slot->refusal = paid ? REFUSAL_NONE : REFUSAL_DUE;
    if (!paid)
        bf_listener_look_after(shard, slot, REFUSAL_PAUSE_NS);
    return paid;
}

/* What lies at a free slot's name is no claim, or one that its owner has given up: it goes. */
static void clear_name(struct bf_shard *shard, struct bf_slot *slot, const struct bf_claim *claim)
{
    if (!refusal_is_paid(shard, slot) || !claim_stands(shard, slot, claim, BELFRY_SLOT_CLOSED))
        return;
    if (claim->kind == CLAIM_JUNK)
        counter_add(&shard->counters->junk_names, 1);
    bf_slot_pool_clear(&shard->pool, slot);
}

static void claim_begin(struct bf_shard *shard, struct bf_slot *slot, const struct bf_claim *claim)
{
    int64_t now = bf_os_now_ns();
    enum belfry_end no = shard->draining ? BELFRY_END_DRAINING : bf_quota_enter(&shard->server->quota, claim->uid, now);
    if (no == BELFRY_END_QUOTA && !refusal_is_paid(shard, slot))
        return;
    slot->refusal = REFUSAL_NONE;
    bool foreign = claim->uid != shard->server->quota.own_uid;
    if (foreign && !claim_stands(shard, slot, claim, BELFRY_SLOT_ASKED)) {
        if (no == BELFRY_END_NONE)
            bf_quota_leave(&shard->server->quota, claim->uid);
        return;
    }
    slot->counted = no == BELFRY_END_NONE;
    slot->device = claim->device;
    slot->inode = claim->inode;
    slot->uid = claim->uid;
    slot->gid = claim->gid;
    slot->foreign = foreign;
    slot->seen_locked = claim->kind == CLAIM_HELD;
    slot->claimed_ns = now;
    slot->vain = 0;
    store_relaxed(&slot->lobby->uid, claim->uid);
    if (slot->phase == SLOT_COLD)
        bf_slot_pool_demand(&shard->pool, slot);
    else
        bf_slot_pool_claimed(&shard->pool, slot);
    if (no != BELFRY_END_NONE)
        bf_listener_refuse(shard, slot, no, 0);
}

/* Hello, or what another user's client says in its lock file, is copied once and judged; its pid is never believed. */
static enum belfry_end judge_hello(const struct bf_slot *slot, const struct bf_claim *claim)
{
    if (slot->foreign)
        return claim->word.version == BELFRY_ABI_VERSION ? BELFRY_END_NONE : BELFRY_END_VERSION;
    if (load_relaxed(&slot->send->hello_version) != BELFRY_ABI_VERSION)
        return BELFRY_END_VERSION;
    if (load_relaxed(&slot->send->hello_generation) != slot->generation)
        return BELFRY_END_UNFINISHED;
    return BELFRY_END_NONE;
}

static void accept_conn(struct bf_shard *shard, struct bf_slot *slot, const struct bf_claim *claim)
{
    const belfry_server_options *o = shard->options;
    enum belfry_end no = shard->draining ? BELFRY_END_DRAINING : judge_hello(slot, claim);
    if (no == BELFRY_END_NONE && (slot->conn = bf_conn_new(shard, slot)) == NULL)
        no = BELFRY_END_NO_MEMORY;
    if (no != BELFRY_END_NONE) {
        bf_listener_refuse(shard, slot, no, 0);
        return;
    }
    slot->conn->pid = slot->foreign ? claim->word.pid : load_relaxed(&slot->send->hello_pid);
    int rc = o->on_connect != NULL ? o->on_connect(slot->conn, o->user) : 0;
    if (rc < 0) {
        bf_conn_free(slot->conn);
        slot->conn = NULL;
        bf_listener_refuse(shard, slot, BELFRY_END_REFUSED, rc);
        return;
    }
    slot->phase = SLOT_OPEN;
    slot->quiet = 0;
    slot->active = true;
    slot->heard = slot->muted = slot->suspected = false;
    slot->empty = slot->vain = 0;
    shard->conn_count++;
    counter_add(&shard->counters->connections_total, 1);
    counter_add(&shard->counters->connections_active, 1);
    store_release(&slot->recv->accepted, 1); /* partner: client/wait.c, told_end */
    if (!slot->foreign)
        bf_slot_publish(slot, BELFRY_SLOT_OPEN);
    else if ((rc = bf_slot_pool_share(&shard->pool, slot)) < 0) {
        bf_log(shard->log, BELFRY_LOG_WARNING,
               "slot %u cannot be shared with uid %u: %s; does the kernel have POSIX access lists on tmpfs "
               "(CONFIG_TMPFS_POSIX_ACL)?",
               slot->number, slot->uid, belfry_error_text(rc));
        bf_listener_end(shard, slot, BELFRY_END_NO_MEMORY);
        return;
    }
    store_relaxed(&slot->lobby->parked, 0); /* hot: the turn looks at it from now on */
    bf_shard_heat(shard, slot);
    /* Being accepted is news: a poller that follows this slot's bell has missed every ring before now. */
    slot->conn->committed = true;
    bf_shard_touch(shard, slot);
}

/* --- the look ---------------------------------------------------------------------------------------------------- */

static bool hello_is_there(const struct bf_slot *slot)
{
    return load_acquire(&slot->send->hello) != 0; /* partner: client/claim.c, say_hello */
}

/* The client is gone. What it committed is handled first; then the conn ends. */
static void conn_dies(struct bf_shard *shard, struct bf_slot *slot)
{
    if (slot->conn->dying != BELFRY_END_NONE)
        return;
    bool bye = load_relaxed(&slot->send->hello) == BELFRY_GOODBYE;
    slot->conn->dying = bye ? BELFRY_END_LEFT : BELFRY_END_DIED;
    slot->conn->dying_from = slot->conn->in.position;
    bf_shard_heat(shard, slot);
}

/* It was looked at, and all is as before. */
static void note_vain(struct bf_slot *slot)
{
    int64_t now = bf_os_now_ns();
    slot->vain = now - slot->looked_ns > VAIN_FORGIVEN_NS ? 1 : slot->vain + 1;
    slot->looked_ns = now;
}

static void look_at_open(struct bf_shard *shard, struct bf_slot *slot, const struct bf_claim *claim)
{
    if (claim->kind != CLAIM_HELD) {
        conn_dies(shard, slot);
        return;
    }
    if (!slot->hinted)
        return;
    /* The kernel says "closed" before it drops the lock; a forked child may hold it for long, and its end is another event. */
    slot->hinted = slot->looks <= LOOK_DOUBLINGS;
    note_vain(slot);
    if (slot->hinted)
        look_later(shard, slot);
}

/* `spoke`: hello was there before we asked the kernel about the lock. */
static void look_at_claimed(struct bf_shard *shard, struct bf_slot *slot, const struct bf_claim *claim, bool spoke)
{
    if (shard->draining) {
        bf_listener_refuse(shard, slot, shard->stopping ? BELFRY_END_STOPPED : BELFRY_END_DRAINING, 0);
        return;
    }
    if (load_relaxed(&slot->faulted) != 0) { /* by now, or when it was warm */
        bf_listener_refuse(shard, slot, BELFRY_END_PEER_FAULT, 0);
        return;
    }
    int64_t age_ns = bf_os_now_ns() - slot->claimed_ns;
    int64_t grace_ns = shard->options->claim_grace_ms * NS_PER_MS;
    bool held = claim->kind == CLAIM_HELD;
    bool was_locked = slot->seen_locked;
    slot->seen_locked |= held;

    if (!slot->foreign)            /* another user's cannot ring yet */
        bf_shard_arm(shard, slot); /* value and wait first, then the look */
    /* Looked at once: between two looks a client that lives may say it. */
    bool said = !slot->foreign && hello_is_there(slot);
    if (said && !held && !spoke) {
        slot_queue_put(&shard->dirty, slot); /* it came between our two looks: it may well be alive */
        return;
    }
    if (slot->foreign ? held : said) {
        accept_conn(shard, slot, claim);
        if (slot->phase == SLOT_OPEN)
            look_at_open(shard, slot, claim); /* it may have come, spoken and gone before we looked */
        return;
    }
    bool over = was_locked || claim->kind == CLAIM_WITHDRAWN;
    if (held ? age_ns >= HELLO_GRACES * grace_ns : over || age_ns >= grace_ns) {
        bf_listener_refuse(shard, slot, BELFRY_END_UNFINISHED, 0);
        return;
    }
    note_vain(slot);
    look_later(shard, slot);
}

void bf_listener_look(struct bf_shard *shard, struct bf_slot *slot)
{
    struct bf_claim claim;
    if (slot->phase == SLOT_MAKING || slot->phase == SLOT_ENDING)
        return; /* looked at again when that is over, or its lock file goes anyway */
    bool spoke = slot->send != NULL && hello_is_there(slot); /* BEFORE the lock is asked for */
    unsigned how = (shard->options->access != BELFRY_ACCESS_OWNER ? CLAIM_OF_OTHERS : 0) |
                   (slot->phase == SLOT_CLAIMED || slot->phase == SLOT_OPEN ? CLAIM_IS_BOUND : 0);
    if (bf_claim_look(shard->lock_dir, slot->number, how, &claim) < 0) {
        look_later(shard, slot);
        return;
    }
    bool theirs = claim.kind != CLAIM_NONE && claim.kind != CLAIM_JUNK;
    switch (slot->phase) {
    case SLOT_COLD:
    case SLOT_WARM:
        slot->hinted &= theirs;
        if (claim.kind == CLAIM_NONE)
            slot->refusal = REFUSAL_NONE;
        else if (claim.kind == CLAIM_JUNK || claim.kind == CLAIM_WITHDRAWN)
            clear_name(shard, slot, &claim);
        else
            claim_begin(shard, slot, &claim);
        if (slot->phase == SLOT_CLAIMED)
            look_at_claimed(shard, slot, &claim, spoke);
        return;
    case SLOT_CLAIMED:
    case SLOT_OPEN:
        if (!theirs || claim.inode != slot->inode || claim.device != slot->device) {
            if (slot->phase == SLOT_OPEN)
                bf_listener_end(shard, slot, BELFRY_END_LOCK_GONE);
            else
                bf_listener_refuse(shard, slot, BELFRY_END_LOCK_GONE, 0);
        } else if (slot->phase == SLOT_OPEN) {
            look_at_open(shard, slot, &claim);
        } else {
            look_at_claimed(shard, slot, &claim, spoke);
        }
        return;
    case SLOT_MAKING:
    case SLOT_ENDING:
        return;
    }
}

/* --- the end ----------------------------------------------------------------------------------------------------- */

/* Say why, ring, and take back the wait. The slot is recycled when the wait is over. */
static void tell_end(struct bf_shard *shard, struct bf_slot *slot, enum belfry_end why, int status)
{
    store_relaxed(&slot->recv->end_status, status);
    store_release(&slot->recv->end, (uint32_t)why); /* partner: client/wait.c, bf_client_end */
    full_fence(); /* the end, and what was said before it, are visible before we read who sleeps */
    struct bf_slot *leader = bf_shard_bell_of(shard, slot);
    if (leader != slot)
        bf_shard_ring(shard, leader);
    bf_shard_wake(shard, slot); /* its own bell in any case: others may follow it */
    store_relaxed(&slot->lobby->reason, (uint32_t)why);
    bf_slot_publish(slot, BELFRY_SLOT_CLOSED);
    if (slot->foreign) /* it may still wait for leave to map */
        bf_reactor_wake_some(&shard->reactor, &slot->lobby->state);
    slot->phase = SLOT_ENDING;
    slot->hinted = slot->muted = false;
    slot->empty = 0;
    if (slot->wait_armed)
        bf_reactor_cancel_bell(&shard->reactor, slot->index, slot->generation);
    else
        bf_listener_ended(shard, slot);
}

void bf_listener_ended(struct bf_shard *shard, struct bf_slot *slot)
{
    INVARIANT(slot->phase == SLOT_ENDING && !slot->wait_armed);
    bf_slot_pool_recycle(&shard->pool, slot);
}

void bf_listener_refuse(struct bf_shard *shard, struct bf_slot *slot, enum belfry_end why, int status)
{
    if (slot->phase == SLOT_MAKING) { /* a claim of a cold slot that has no segments yet */
        bf_slot_pool_give_up(&shard->pool, slot, why);
        return;
    }
    INVARIANT(slot->phase == SLOT_CLAIMED);
    if (slot->foreign) {
        bf_slot_pool_give_back(&shard->pool, slot, why);
        return;
    }
    counter_add(&shard->counters->refusals[why], 1);
    tell_end(shard, slot, why, status);
}

void bf_listener_end(struct bf_shard *shard, struct bf_slot *slot, enum belfry_end why)
{
    const belfry_server_options *o = shard->options;
    INVARIANT(slot->phase == SLOT_OPEN);
    bf_shard_cool(shard, slot);
    slot->phase = SLOT_ENDING;     /* from here on nothing makes it hot again, and nothing can be said to it */
    ring_publish(&slot->conn->in); /* exactly: what lies behind it has not been read, and never will be */
    bf_tickets_conn_over(slot->conn);
    if (o->on_disconnect != NULL)
        o->on_disconnect(slot->conn, why, o->user);
    bf_conn_free(slot->conn);
    slot->conn = NULL;
    shard->conn_count--;
    counter_add(&shard->counters->ends[why], 1); /* first: whoever sees that nobody is left sees how they ended */
    counter_add(&shard->counters->connections_active, -1);
    tell_end(shard, slot, why, 0);
}

void bf_listener_end_all(struct bf_shard *shard, enum belfry_end why)
{
    for (uint32_t i = 0; i < shard->pool.count; i++) {
        struct bf_slot *slot = &shard->pool.slots[i];
        if (slot->phase == SLOT_OPEN)
            bf_listener_end(shard, slot, why);
        else if (slot->phase == SLOT_CLAIMED)
            bf_listener_refuse(shard, slot, why, 0);
    }
}

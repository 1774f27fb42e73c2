/* SPDX-License-Identifier: MIT */
/*
 * drain.c: a shard that is to end without breaking anything off: belfry_drain().
 *
 * Claims are refused, as by an instance that has been replaced. A conn that is there is looked at after each of its
 * turns, and ended when nothing of it is open. What its client had sent by then is read; it is a ring at most, so a client
 * that never pauses is read for one ring more, and no further. Its end says how far it was read (listener.c), so its
 * client knows what was not.
 */
#include "base/check.h"
#include "base/order.h"
#include "base/os.h"
#include "server/conn.h"
#include "server/listener.h"

void bf_shard_drain(struct bf_shard *s, int64_t deadline_ns)
{
    store_release(&s->drain_ns, bf_max(deadline_ns, 1)); /* partner: bf_shard_continue_draining */
    bf_mailbox_ring(&s->mailbox);
}

void bf_shard_refuse_claims(struct bf_shard *s)
{
    s->draining = s->pool.closing = true;
    store_relaxed(&s->lobby->door, BELFRY_DOOR_DRAINING);
    full_fence(); /* partner: client/claim.c reads the door after it has made the lock file */
    s->rescan = true;
}

static void begin(struct bf_shard *s)
{
    bf_log(s->log, BELFRY_LOG_INFO, "shard %u drains, with %u conns", s->index, s->conn_count);
    if (!s->draining)
        bf_shard_refuse_claims(s);
    s->rescan = true; /* in any case: another turn follows, and looks at the conns */
    for (uint32_t i = 0; i < s->pool.count; i++) {
        struct bf_slot *slot = &s->pool.slots[i];
        if (slot->phase != SLOT_OPEN)
            continue;
        slot->conn->draining = true;
        slot->conn->drain_from = slot->conn->in.position;
        bf_shard_heat(s, slot); /* its next turn ends it, if it is idle */
    }
}

void bf_shard_continue_draining(struct bf_shard *s)
{
    int64_t until_ns = load_acquire(&s->drain_ns); /* partner: bf_shard_drain */
    if (until_ns == 0 || s->stopping)
        return;
    if (s->drain_until_ns == 0)
        begin(s);
    s->drain_until_ns = until_ns;
    if (s->conn_count > 0 && until_ns != BELFRY_FOREVER && bf_os_now_ns() >= until_ns) {
        bf_log(s->log, BELFRY_LOG_WARNING, "shard %u has not drained in time: %u conns are broken off", s->index,
               s->conn_count);
        bf_listener_end_all(s, BELFRY_END_STOPPED);
    }
}

bool bf_conn_is_drained(struct belfry_conn *conn)
{
    if (conn->in.position - conn->drain_from >= conn->in.capacity) /* all that was there when it began */
        conn->halted |= HALTED_BY_DRAIN;
    for (const struct ticket_record *record = conn->tickets; record != NULL; record = record->next)
        if (!record->cancelled)
            return false;
    bool read = (conn->halted & HALTED_BY_DRAIN) != 0 || ring_is_empty(&conn->in);
    return read && outbox_is_empty(&conn->outbox) && !conn->whole.parts.open;
}

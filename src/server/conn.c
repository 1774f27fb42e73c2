/* SPDX-License-Identifier: MIT */
/*
 * conn.c: from a ring to the user's handler. The handler is the only indirect call on a message's way.
 *
 * What the client wrote is copied out of its header once (ring_peek) and judged here: an unknown kind or flag is
 * refused with a code and costs the client nothing else; an impossible header ends the conn.
 */
#include "server/conn.h"

#include <errno.h>
#include <string.h>

#include "base/block.h"
#include "base/check.h"
#include "base/os.h"
#include "server/server.h"

#define BUDGET_BYTES 65536u /* of the outbox, per conn and turn: some 50 us of copying */
#define ECHOES_MAX 64u
#define ADMISSIONS_MAX 2 /* of large messages: each may be a map */

struct belfry_conn *bf_conn_new(struct bf_shard *shard, struct bf_slot *slot)
{
    struct belfry_conn *conn = bf_arena_alloc(&shard->arena, sizeof *conn);
    if (conn == NULL)
        return NULL;
    *conn = (struct belfry_conn){.shard = shard,
                                 .slot = slot,
                                 .foreign = slot->foreign,
                                 .kicked = BELFRY_END_KICKED,
                                 .thrift.budget = THRIFT_BUDGET};
    uint32_t ring_bytes = shard->pool.lobby->geometry.ring_bytes;
    const uint8_t *in = (const uint8_t *)slot->send + SEGMENT_HEADER_BYTES;
    uint8_t *out = (uint8_t *)slot->recv + SEGMENT_HEADER_BYTES;
    ring_consumer_init(&conn->in, in, ring_bytes, segment_colour(slot->number, SEGMENT_SEND), &slot->recv->consumed);
    ring_producer_init(&conn->out, out, ring_bytes, segment_colour(slot->number, SEGMENT_RECV), &slot->send->consumed);
    return conn;
}

static void clear_outbox(struct belfry_conn *conn)
{
    counter_add(&conn->shard->counters->outbox_bytes, -(int64_t)conn->outbox.bytes);
    outbox_clear(&conn->outbox, &conn->shard->arena);
    conn->halted &= (uint8_t)~HALTED_BY_OUTBOX;
}

void bf_conn_free(struct belfry_conn *conn)
{
    INVARIANT(conn->tickets == NULL);
    clear_outbox(conn);
    bf_whole_drop(conn);
    bf_arena_free(&conn->shard->arena, conn);
}

/* --- outbox to ring ---------------------------------------------------------------------------------------------- */

void bf_conn_resume(struct belfry_conn *conn)
{
    conn->halted &= (uint8_t)~HALTED_BY_OUTBOX;
    store_relaxed(&conn->slot->lobby->parked, 0); /* it is polled again */
}

/* A part of the oldest message, or several. As parts_send(). */
static int send_parts(struct belfry_conn *conn, struct outbox_message *message)
{
    struct parts_out parts = {.data = message->payload,
                              .bytes = message->bytes,
                              .sent = message->sent,
                              .id = message->id,
                              .kind = message->kind,
                              .flags = message->flags};
    bool moved = false;
    int rc = parts_send(&conn->out, &parts, BUDGET_BYTES, &moved);
    message->sent = parts.sent;
    conn->committed |= moved;
    return rc;
}

/* As parts_send(). */
static int send_whole(struct belfry_conn *conn, const struct outbox_message *message)
{
    void *data;
    int rc = ring_reserve(&conn->out, message->bytes, &data);
    if (rc < 0)
        return rc == -EAGAIN ? 0 : rc;
    memcpy(data, message->payload, message->bytes);
    ring_commit(&conn->out, message->kind, message->flags, message->id, message->bytes);
    conn->committed = true;
    return 1;
}

/* Returns whether something moved, or BELFRY_EPROTO. */
static int flush_outbox(struct belfry_conn *conn)
{
    uint64_t bytes = 0, position = conn->out.position;
    while (!outbox_is_empty(&conn->outbox) && bytes < BUDGET_BYTES) {
        struct outbox_message *message = conn->outbox.first;
        int rc = conn_is_large(conn, message->bytes) ? send_parts(conn, message) : send_whole(conn, message);
        if (rc < 0)
            return rc;
        if (rc == 0)
            break;
        bytes += bf_min(message->bytes, BUDGET_BYTES);
        counter_add(&conn->shard->counters->outbox_bytes, -(int64_t)outbox_cost(message->bytes));
        outbox_drop_first(&conn->outbox, &conn->shard->arena);
    }
    if (outbox_is_empty(&conn->outbox))
        bf_conn_resume(conn);
    return conn->out.position != position;
}

/* Would flush_outbox() move anything? */
static bool outbox_has_room(struct belfry_conn *conn)
{
    const struct outbox_message *message = conn->outbox.first;
    struct parts_out parts = {.bytes = message->bytes, .sent = message->sent};
    bool large = conn_is_large(conn, message->bytes);
    return ring_has_room(&conn->out, large ? parts_next_payload(&parts, conn->out.capacity) : message->bytes);
}

/* --- ring to handler --------------------------------------------------------------------------------------------- */

static inline void hand_over(struct belfry_conn *conn, const belfry_message *message)
{
    const belfry_server_options *o = conn->shard->options;
    conn->request_id = message->id;
    conn->request_open = message->kind == BELFRY_REQUEST;
    conn->in_handler = true;
    o->on_message(conn, message, o->user);
    conn->in_handler = false;
    if (conn->reservation != RESERVED_NONE)
        belfry_reply_abort(conn);
    if (bf_unlikely(conn->request_open)) {
        counter_add(&conn->shard->counters->unanswered, 1);
        if (bf_conn_fail(conn, conn->request_id, BELFRY_EUNANSWERED, NULL) < 0)
            conn->halted |=
                HALTED_BY_KICK; /* no memory for so little: better no conn than a client that waits for ever */
    }
}

int bf_conn_refuse(struct belfry_conn *conn, uint8_t kind, uint64_t id, int status)
{
    if (kind != BELFRY_REQUEST)
        return 0;
    return bf_conn_fail(conn, id, status, NULL) == BELFRY_EPROTO ? -BELFRY_END_PEER_FAULT : 0;
}

/* A message with a deadline, whose time may be over. As dispatch(). */
static int hand_over_in_time(struct belfry_conn *conn, const belfry_message *message)
{
    const struct bf_shard *shard = conn->shard;
    int64_t deadline_ns = (int64_t)message->cookie;
    if (shard->options->skip_expired && deadline_ns != 0 && bf_os_now_ns() >= deadline_ns) {
        counter_add(&shard->counters->expired, 1);
        return bf_conn_refuse(conn, (uint8_t)message->kind, message->id, -ETIMEDOUT);
    }
    hand_over(conn, message);
    return 1;
}

/* The client waits for this request no longer. The echo says that nothing with this id comes after it. */
static int take_cancel(struct belfry_conn *conn, const struct ring_entry *e)
{
    struct bf_shard *shard = conn->shard;
    counter_add(&shard->counters->cancels, 1);
    bf_tickets_cancel(conn, e->id, -ECANCELED);
    if (conn->whole.parts.open && conn->whole.parts.id == e->id) /* given up while it was on its way */
        bf_whole_drop(conn);
    uint64_t dropped = outbox_drop_request(&conn->outbox, e->id, &shard->arena);
    counter_add(&shard->counters->outbox_bytes, -(int64_t)dropped);
    if (dropped > 0 && outbox_is_empty(&conn->outbox))
        bf_conn_resume(conn);
    if (bf_conn_say(conn, BELFRY_CANCEL, 0, e->id, NULL, 0) == -ENOMEM)
        conn->halted |= HALTED_BY_KICK;
    return 0;
}

/* A message with more before its payload. */
static int take_extended(struct belfry_conn *conn, const struct ring_entry *e)
{
    struct extension x;
    int block = extension_read(e, &x);
    if (block == BELFRY_EPROTO)
        return -BELFRY_END_PEER_FAULT;
    if (block < 0)
        return bf_conn_refuse(conn, e->kind, e->id, block);
    belfry_message message = {.data = (const uint8_t *)e->data + block,
                              .size = e->bytes - (uint32_t)block,
                              .id = e->id,
                              .kind = e->kind,
                              .cookie = (uint64_t)x.deadline_ns};
    if (message.size > conn->shard->pool.lobby->geometry.message_bytes_max)
        return bf_conn_refuse(conn, e->kind, e->id, BELFRY_ETOOBIG);
    return hand_over_in_time(conn, &message);
}

static int take_part(struct belfry_conn *conn, const struct ring_entry *e)
{
    belfry_message message;
    int rc = bf_whole_take(conn, e, &message);
    if (rc <= 0)
        return rc;
    rc = hand_over_in_time(conn, &message);
    bf_whole_drop(conn);
    return rc;
}

/* What is neither a plain request nor a plain one-way message. */
static __attribute__((noinline)) int dispatch_rest(struct belfry_conn *conn, const struct ring_entry *e)
{
    if (e->kind == BELFRY_BYE)
        return -BELFRY_END_LEFT;
    if (e->kind == BELFRY_CANCEL)
        return take_cancel(conn, e);
    if ((e->kind == BELFRY_REQUEST || e->kind == BELFRY_ONE_WAY) && e->flags == BELFRY_FLAG_EXTENDED)
        return take_extended(conn, e);
    if (e->kind == BELFRY_PART)
        return take_part(conn, e);
    if (e->kind == BELFRY_ONE_WAY)
        return 0;
    return bf_conn_fail(conn, e->id, BELFRY_EUNSUPPORTED, NULL) == BELFRY_EPROTO ? -BELFRY_END_PEER_FAULT : 0;
}

/* One entry. 1: handed over; 0: refused or dropped; -WHOLE_LATER: not read; or -enum belfry_end. */
static bf_inlined int dispatch(struct belfry_conn *conn, const struct ring_entry *e)
{
    if (bf_unlikely(e->flags != 0 || (e->kind != BELFRY_REQUEST && e->kind != BELFRY_ONE_WAY))) {
        const struct ring_entry rest = *e; /* so that `e` can stay in registers */
        return dispatch_rest(conn, &rest);
    }
    if (bf_unlikely(e->bytes > conn->shard->pool.lobby->geometry.message_bytes_max))
        return bf_conn_refuse(conn, e->kind, e->id, BELFRY_ETOOBIG);
    belfry_message message = {.data = e->data, .size = e->bytes, .id = e->id, .kind = e->kind};
    hand_over(conn, &message);
    return 1;
}

/*
 * A conn that does not read its replies, or has as many deferred requests as it may, is heard no further. But it may say
 * that it waits no longer, which is what ends a stream; as often as it has echoes of that to read.
 */
static __attribute__((cold, noinline)) bool may_read_all_the_same(const struct belfry_conn *conn, uint8_t kind,
                                                                  uint8_t flags)
{
    if ((conn->halted & HALTED_BY_KICK) != 0)
        return false;
    if (conn->dying != BELFRY_END_NONE) /* what it committed is handled, and then it is over */
        return (conn->halted & HALTED_BY_OUTBOX) == 0;
    if (conn->halted == HALTED_BY_DRAIN && kind == BELFRY_PART)
        return conn->whole.parts.open && (flags == 0 || conn->whole.first_waits);
    return kind == BELFRY_BYE || (kind == BELFRY_CANCEL && conn->outbox.echoes < ECHOES_MAX);
}

static inline bool may_read(const struct belfry_conn *conn, const struct ring_entry *e)
{
    return bf_likely(conn->halted == 0) || may_read_all_the_same(conn, e->kind, e->flags);
}

/*
 * Another user could change it under the handler's eyes: what is handed over is a copy, of which nothing is read from the
 * ring again. Of a part other than the first nothing but its place in the whole is looked at, and it is copied there. NULL: it
 * was taken away meanwhile (guard.c), and zeros are no message.
 */
static __attribute__((cold, noinline)) const void *take_copy(struct belfry_conn *conn, const void *data, uint32_t bytes,
                                                             bool later_part)
{
    struct bf_shard *shard = conn->shard;
    bf_slot_pool_protect(&shard->pool, conn->slot);
    if (later_part)
        return data;
    memcpy(shard->copy, data, bytes);
    return load_relaxed(&conn->slot->faulted) == 0 ? shard->copy : NULL;
}

/* It has had its share of this turn. Is there more? */
static __attribute__((cold, noinline)) void cut_off(struct belfry_conn *conn)
{
    conn->thrift.cut_offs += !ring_is_empty(&conn->in);
}

static int read_ring(struct belfry_conn *conn)
{
    belfry_counters *counters = conn->shard->counters;
    uint64_t bytes = 0;
    int32_t budget = conn->thrift.budget;
    int count = 0, handed_over = 0, admitted = 0, rc = 0;
    for (;;) {
        struct ring_entry e;
        rc = ring_peek(&conn->in, &e);
        if (rc < 0)
            rc = -BELFRY_END_PEER_FAULT;
        else if (rc == 0 || !may_read(conn, &e))
            break;
        else {
            if (bf_unlikely(conn->foreign))
                e.data = take_copy(conn, e.data, e.bytes, e.kind == BELFRY_PART && e.flags == 0);
            rc = bf_likely(e.data != NULL) ? dispatch(conn, &e) : -BELFRY_END_PEER_FAULT;
        }
        if (rc < 0)
            break;
        handed_over += rc;
        ring_advance(&conn->in, &e);
        ring_free(&conn->in, conn->in.position);
        bytes += e.bytes;
        count++;
        if (bf_unlikely(conn->out_rc < 0))
            break;
        if (bf_unlikely(e.kind == BELFRY_PART) && e.flags != 0 && ++admitted == ADMISSIONS_MAX)
            break;
        budget -= THRIFT_MESSAGE + (int32_t)e.bytes;
        if (bf_unlikely(budget <= 0)) {
            cut_off(conn);
            break;
        }
    }
    if (count > 0) {
        counter_add(&counters->messages_in, handed_over);
        counter_add(&counters->bytes_in, (int64_t)bytes);
    }
    return rc < 0 && bf_likely(rc != -WHOLE_LATER) ? rc : count;
}

/* Has the outbox passed one of its marks? The user is told outside of handlers, so that he is in none twice. */
static __attribute__((cold, noinline)) void tell_backlog(struct belfry_conn *conn)
{
    const belfry_server_options *o = conn->shard->options;
    uint64_t waiting = conn_backlog(conn);
    bool high = waiting > (conn->told_high ? o->outbox_low_bytes : o->outbox_high_bytes);
    if (high == conn->told_high || o->on_backlog == NULL)
        return;
    conn->told_high = high;
    o->on_backlog(conn, high, o->user);
}

int bf_conn_turn(struct belfry_conn *conn)
{
    int sent = 0;
    if (bf_unlikely(!outbox_is_empty(&conn->outbox))) {
        if (conn->dying != BELFRY_END_NONE) /* nobody will ever read it */
            clear_outbox(conn);
        sent = flush_outbox(conn);
        if (sent < 0)
            return -BELFRY_END_PEER_FAULT;
    }
    int read = bf_unlikely((conn->halted & HALTED_BY_KICK) != 0) ? 0 : read_ring(conn);
    if (bf_unlikely((conn->halted & HALTED_BY_OUTBOX) != 0 || conn->told_high) && conn->dying == BELFRY_END_NONE)
        tell_backlog(conn);
    if (conn->committed || conn->in.has_published)
        bf_shard_touch(conn->shard, conn->slot);
    if (read < 0)
        return read;
    if (bf_unlikely(conn->out_rc < 0))
        return -BELFRY_END_PEER_FAULT;
    if (bf_unlikely((conn->halted & HALTED_BY_KICK) != 0))
        return -(int)conn->kicked;
    if (bf_unlikely(conn->dying != BELFRY_END_NONE) &&
        (read == 0 || conn->in.position - conn->dying_from >= conn->in.capacity)) /* it could be read round and round */
        return -(int)conn->dying;
    if (bf_unlikely(conn->draining) && bf_conn_is_drained(conn))
        return -BELFRY_END_DRAINED;
    return sent + read;
}

bool bf_conn_has_work(struct belfry_conn *conn)
{
    if (conn->dying != BELFRY_END_NONE || (conn->halted & HALTED_BY_KICK) != 0 || conn->out_rc < 0)
        return true;
    if (bf_unlikely(!outbox_is_empty(&conn->outbox)) && outbox_has_room(conn))
        return true;
    if (bf_likely(conn->halted == 0))
        return !ring_is_empty(&conn->in);
    struct ring_entry e;
    int rc = ring_peek(&conn->in, &e);
    return rc < 0 || (rc > 0 && may_read(conn, &e));
}

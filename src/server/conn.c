/* SPDX-License-Identifier: MIT */
/*
 * conn.c: from a ring to the user's handler. The handler is the only indirect call on a message's way.
 *
 * What the client wrote is copied out of its header once (ring_peek) and judged here: an unknown kind or flag is
 * refused with a code and costs the client nothing else; an impossible header ends the conn.
 */
#include "server/conn.h"

#include <errno.h>

#include "base/check.h"
#include "base/os.h"
#include "server/server.h"
#include "shm/extension.h"

#define BUDGET_MESSAGES 16 /* per conn and turn */
#define BUDGET_BYTES 262144u
#define ECHOES_MAX 64u

struct belfry_conn *bf_conn_new(struct bf_shard *shard, struct bf_slot *slot)
{
    struct belfry_conn *conn = bf_arena_alloc(&shard->arena, sizeof *conn);
    if (conn == NULL)
        return NULL;
    *conn = (struct belfry_conn){.shard = shard, .slot = slot};
    uint32_t ring_bytes = shard->pool.lobby->geometry.ring_bytes;
    const uint8_t *in = (const uint8_t *)slot->send + SEGMENT_HEADER_BYTES;
    uint8_t *out = (uint8_t *)slot->recv + SEGMENT_HEADER_BYTES;
    ring_consumer_init(&conn->in, in, ring_bytes, segment_colour(slot->number, SEGMENT_SEND), &slot->recv->consumed);
    ring_producer_init(&conn->out, out, ring_bytes, segment_colour(slot->number, SEGMENT_RECV), &slot->send->consumed);
    conn->pid = load_relaxed(&slot->send->hello_pid);
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
    bf_arena_free(&conn->shard->arena, conn);
}

/* --- outbox to ring ---------------------------------------------------------------------------------------------- */

static void resume_reading(struct belfry_conn *conn)
{
    conn->halted &= (uint8_t)~HALTED_BY_OUTBOX;
    store_relaxed(&conn->slot->lobby->parked, 0); /* it is polled again */
}

static int flush_outbox(struct belfry_conn *conn)
{
    int sent = 0;
    while (!outbox_is_empty(&conn->outbox)) {
        struct outbox_message *message = conn->outbox.first;
        void *data;
        int rc = ring_reserve(&conn->out, message->bytes, &data);
        if (rc == -EAGAIN)
            return sent;
        if (rc < 0)
            return rc;
        __builtin_memcpy(data, message->payload, message->bytes);
        ring_commit(&conn->out, message->kind, message->flags, message->id, message->bytes);
        conn->committed = true;
        counter_add(&conn->shard->counters->outbox_bytes, -(int64_t)outbox_cost(message->bytes));
        outbox_drop_first(&conn->outbox, &conn->shard->arena);
        sent++;
    }
    resume_reading(conn);
    return sent;
}

/* --- ring to handler --------------------------------------------------------------------------------------------- */

static inline void hand_over(struct belfry_conn *conn, const struct ring_entry *e, uint32_t block, int64_t deadline_ns)
{
    const belfry_server_options *o = conn->shard->options;
    belfry_message message = {.data = (const uint8_t *)e->data + block,
                              .size = e->bytes - block,
                              .id = e->id,
                              .kind = e->kind,
                              .cookie = (uint64_t)deadline_ns};
    conn->request_id = e->id;
    conn->request_open = e->kind == BELFRY_REQUEST;
    conn->in_handler = true;
    o->on_message(conn, &message, o->user);
    conn->in_handler = false;
    if (conn->reservation != RESERVED_NONE)
        belfry_reply_abort(conn);
    if (bf_unlikely(conn->request_open)) {
        counter_add(&conn->shard->counters->unanswered, 1);
        if (bf_conn_fail(conn, e->id, BELFRY_EUNANSWERED, NULL) < 0)
            conn->halted |=
                HALTED_BY_KICK; /* no memory for so little: better no conn than a client that waits for ever */
    }
}

/* 0, or the end of a conn whose client did what cannot be. */
static int refuse(struct belfry_conn *conn, const struct ring_entry *e, int status)
{
    if (e->kind != BELFRY_REQUEST)
        return 0;
    return bf_conn_fail(conn, e->id, status, NULL) == BELFRY_EPROTO ? -BELFRY_END_PEER_FAULT : 0;
}

/* The client waits for this request no longer. The echo says that nothing with this id comes after it. */
static int take_cancel(struct belfry_conn *conn, const struct ring_entry *e)
{
    struct bf_shard *shard = conn->shard;
    counter_add(&shard->counters->cancels, 1);
    bf_tickets_cancel(conn, e->id, -ECANCELED);
    uint64_t dropped = outbox_drop_request(&conn->outbox, e->id, &shard->arena);
    counter_add(&shard->counters->outbox_bytes, -(int64_t)dropped);
    if (dropped > 0 && outbox_is_empty(&conn->outbox))
        resume_reading(conn);
    if (bf_conn_say(conn, BELFRY_CANCEL, 0, e->id, NULL, 0) == -ENOMEM)
        conn->halted |= HALTED_BY_KICK;
    return 0;
}

/* A message with more before its payload. */
static int take_extended(struct belfry_conn *conn, const struct ring_entry *e)
{
    const struct bf_shard *shard = conn->shard;
    struct extension x;
    int block = extension_read(e, &x);
    if (block == BELFRY_EPROTO)
        return -BELFRY_END_PEER_FAULT;
    if (block < 0)
        return refuse(conn, e, block);
    if (e->bytes - (uint32_t)block > shard->pool.lobby->geometry.message_bytes_max)
        return refuse(conn, e, BELFRY_ETOOBIG);
    if (shard->options->skip_expired && x.deadline_ns != 0 && bf_os_now_ns() >= x.deadline_ns) {
        counter_add(&shard->counters->expired, 1);
        return refuse(conn, e, -ETIMEDOUT);
    }
    hand_over(conn, e, (uint32_t)block, x.deadline_ns);
    return 1;
}

/* What is neither a plain request nor a plain one-way message. */
static int dispatch_rest(struct belfry_conn *conn, const struct ring_entry *e)
{
    if (e->kind == BELFRY_BYE)
        return -BELFRY_END_LEFT;
    if (e->kind == BELFRY_CANCEL)
        return take_cancel(conn, e);
    if ((e->kind == BELFRY_REQUEST || e->kind == BELFRY_ONE_WAY) && e->flags == BELFRY_FLAG_EXTENDED)
        return take_extended(conn, e);
    if (e->kind == BELFRY_ONE_WAY)
        return 0;
    return bf_conn_fail(conn, e->id, BELFRY_EUNSUPPORTED, NULL) == BELFRY_EPROTO ? -BELFRY_END_PEER_FAULT : 0;
}

/* One entry. 1: handed over; 0: refused or dropped; or -enum belfry_end. */
static int dispatch(struct belfry_conn *conn, const struct ring_entry *e)
{
    if (bf_unlikely(e->flags != 0 || (e->kind != BELFRY_REQUEST && e->kind != BELFRY_ONE_WAY)))
        return dispatch_rest(conn, e);
    if (bf_unlikely(e->bytes > conn->shard->pool.lobby->geometry.message_bytes_max))
        return refuse(conn, e, BELFRY_ETOOBIG);
    hand_over(conn, e, 0, 0);
    return 1;
}

/*
 * A conn that does not read its replies, or has as many deferred requests as it may, is heard no further. But it may say
 * that it waits no longer, which is what ends a stream; as often as it has echoes of that to read.
 */
static bool may_read(const struct belfry_conn *conn, const struct ring_entry *e)
{
    if (bf_likely(conn->halted == 0))
        return true;
    if ((conn->halted & HALTED_BY_KICK) != 0)
        return false;
    if (conn->dying != BELFRY_END_NONE) /* what it committed is handled, and then it is over */
        return (conn->halted & HALTED_BY_OUTBOX) == 0;
    return e->kind == BELFRY_BYE || (e->kind == BELFRY_CANCEL && conn->outbox.echoes < ECHOES_MAX);
}

static int read_ring(struct belfry_conn *conn)
{
    belfry_counters *counters = conn->shard->counters;
    uint64_t bytes = 0;
    int count = 0, handed_over = 0, rc = 0;
    while (count < BUDGET_MESSAGES && bytes < BUDGET_BYTES) {
        struct ring_entry e;
        rc = ring_peek(&conn->in, &e);
        if (rc < 0)
            rc = -BELFRY_END_PEER_FAULT;
        else if (rc == 0 || !may_read(conn, &e))
            break;
        else
            rc = dispatch(conn, &e);
        if (rc < 0)
            break;
        handed_over += rc;
        ring_advance(&conn->in, &e);
        ring_free(&conn->in, conn->in.position);
        bytes += e.bytes;
        count++;
        if (bf_unlikely(conn->out_rc < 0))
            break;
    }
    if (count > 0) {
        counter_add(&counters->messages_in, handed_over);
        counter_add(&counters->bytes_in, (int64_t)bytes);
    }
    return rc < 0 ? rc : count;
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
    if (conn->committed || conn->in.has_published)
        bf_shard_touch(conn->shard, conn->slot);
    if (read < 0)
        return read;
    if (bf_unlikely(conn->out_rc < 0))
        return -BELFRY_END_PEER_FAULT;
    if (bf_unlikely((conn->halted & HALTED_BY_KICK) != 0))
        return -BELFRY_END_KICKED;
    if (bf_unlikely(conn->dying != BELFRY_END_NONE) && read == 0)
        return -(int)conn->dying;
    return sent + read;
}

bool bf_conn_has_work(struct belfry_conn *conn)
{
    if (conn->dying != BELFRY_END_NONE || (conn->halted & HALTED_BY_KICK) != 0 || conn->out_rc < 0)
        return true;
    if (bf_unlikely(!outbox_is_empty(&conn->outbox)) && ring_has_room(&conn->out, conn->outbox.first->bytes))
        return true;
    if (bf_likely(conn->halted == 0))
        return !ring_is_empty(&conn->in);
    struct ring_entry e;
    int rc = ring_peek(&conn->in, &e);
    return rc < 0 || (rc > 0 && may_read(conn, &e));
}

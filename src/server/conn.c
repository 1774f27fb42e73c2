/* SPDX-License-Identifier: MIT */
/*
 * conn.c: from a ring to the user's handler. The handler is the only indirect call on a message's way.
 *
 * What the client wrote is copied out of its header once (ring_peek) and judged here: an unknown kind or flag is
 * refused with a code and costs the client nothing else; an impossible header ends the conn.
 */
#include "server/conn.h"

#include "base/check.h"
#include "server/server.h"

#define BUDGET_MESSAGES 16 /* per conn and turn */
#define BUDGET_BYTES 262144u

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

void bf_conn_free(struct belfry_conn *conn)
{
    counter_add(&conn->shard->counters->outbox_bytes, -(int64_t)conn->outbox.bytes);
    outbox_clear(&conn->outbox, &conn->shard->arena);
    bf_arena_free(&conn->shard->arena, conn);
}

/* --- outbox to ring ---------------------------------------------------------------------------------------------- */

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
        ring_commit(&conn->out, message->kind, 0, message->id, message->bytes);
        conn->committed = true;
        counter_add(&conn->shard->counters->outbox_bytes, -(int64_t)outbox_cost(message->bytes));
        outbox_drop_first(&conn->outbox, &conn->shard->arena);
        sent++;
    }
    return sent;
}

/* --- ring to handler --------------------------------------------------------------------------------------------- */

static void hand_over(struct belfry_conn *conn, const struct ring_entry *e)
{
    const belfry_server_options *o = conn->shard->options;
    belfry_message message = {.data = e->data, .size = e->bytes, .id = e->id, .kind = e->kind};
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
            conn->kicked = true; /* no memory for so little: better no conn than a client that waits for ever */
    }
}

/* One entry. 1: handed over; 0: refused or dropped; or -enum belfry_end. */
static int dispatch(struct belfry_conn *conn, const struct ring_entry *e)
{
    const struct bf_shard *shard = conn->shard;
    if (bf_unlikely(e->kind == BELFRY_BYE))
        return -BELFRY_END_LEFT;
    bool known = e->flags == 0 && (e->kind == BELFRY_REQUEST || e->kind == BELFRY_ONE_WAY);
    if (bf_unlikely(!known)) {
        if (e->kind == BELFRY_ONE_WAY || e->kind == BELFRY_CANCEL)
            return 0;
        return bf_conn_fail(conn, e->id, BELFRY_EUNSUPPORTED, NULL) == BELFRY_EPROTO ? -BELFRY_END_PEER_FAULT : 0;
    }
    if (bf_unlikely(e->bytes > shard->pool.lobby->geometry.message_bytes_max)) {
        if (e->kind == BELFRY_REQUEST)
            bf_conn_fail(conn, e->id, BELFRY_ETOOBIG, NULL);
        return 0;
    }
    hand_over(conn, e);
    return 1;
}

static int read_ring(struct belfry_conn *conn)
{
    belfry_counters *counters = conn->shard->counters;
    uint64_t bytes = 0;
    int count = 0, handed_over = 0, rc = 0;
    while (count < BUDGET_MESSAGES && bytes < BUDGET_BYTES && outbox_is_empty(&conn->outbox) && !conn->kicked) {
        struct ring_entry e;
        rc = ring_peek(&conn->in, &e);
        if (rc < 0)
            rc = -BELFRY_END_PEER_FAULT;
        else if (rc > 0)
            rc = dispatch(conn, &e);
        else
            break;
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
        if (conn->dying != BELFRY_END_NONE) { /* nobody will ever read it */
            counter_add(&conn->shard->counters->outbox_bytes, -(int64_t)conn->outbox.bytes);
            outbox_clear(&conn->outbox, &conn->shard->arena);
        }
        sent = flush_outbox(conn);
        if (sent < 0)
            return -BELFRY_END_PEER_FAULT;
        if (outbox_is_empty(&conn->outbox))
            store_relaxed(&conn->slot->lobby->parked, 0); /* it is polled again */
    }
    int read = bf_unlikely(conn->kicked) ? 0 : read_ring(conn);
    if (conn->committed || conn->in.has_published)
        bf_shard_touch(conn->shard, conn->slot);
    if (read < 0)
        return read;
    if (bf_unlikely(conn->out_rc < 0))
        return -BELFRY_END_PEER_FAULT;
    if (bf_unlikely(conn->kicked))
        return -BELFRY_END_KICKED;
    if (bf_unlikely(conn->dying != BELFRY_END_NONE) && read == 0)
        return -(int)conn->dying;
    return sent + read;
}

bool bf_conn_has_work(struct belfry_conn *conn)
{
    if (conn->dying != BELFRY_END_NONE || conn->kicked || conn->out_rc < 0)
        return true;
    if (bf_unlikely(!outbox_is_empty(&conn->outbox)))
        return ring_has_room(&conn->out, conn->outbox.first->bytes);
    return !ring_is_empty(&conn->in);
}

/* SPDX-License-Identifier: MIT */
/*
 * reply.c: what a handler says to its client: the public functions, into the ring or, when it is full, the outbox.
 *
 * A message is visible to a polling client at its commit; one that sleeps is woken after the turn's fence (shard.c).
 */
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "server/conn.h"
#include "server/server.h"

/* --- room: in the ring, else in the outbox ------------------------------------------------------------------------ */

/* Does the outbox take so much more? One in which nothing waits takes any message. */
static bool outbox_takes(const struct belfry_conn *conn, uint64_t size)
{
    uint64_t waiting = conn_backlog(conn);
    return waiting == 0 || waiting + outbox_cost(size) <= conn->shard->options->outbox_bytes_max;
}

/* Drop pushes until it does; none, if all of them were too few. One that has begun to leave must leave whole. */
static void drop_pushes(struct belfry_conn *conn, uint64_t size)
{
    struct bf_shard *shard = conn->shard;
    uint64_t bytes = conn->outbox.bytes, dropped = 0;
    if (conn_backlog(conn) + outbox_cost(size) > shard->options->outbox_bytes_max + conn->outbox.push_bytes)
        return;
    while (!outbox_takes(conn, size) && outbox_drop_push(&conn->outbox, &shard->arena))
        dropped++;
    conn->backlog.dropped += dropped;
    counter_add(&shard->counters->pushes_dropped, (int64_t)dropped);
    counter_add(&shard->counters->outbox_bytes, (int64_t)(conn->outbox.bytes - bytes));
    if (outbox_is_empty(&conn->outbox)) {
        bf_conn_resume(conn);
        bf_shard_heat(shard, conn->slot);
    }
}

/* The client does not read: what the service wants to happen then. 0: there is room now. */
static int overflow(struct belfry_conn *conn, uint64_t size)
{
    struct bf_shard *shard = conn->shard;
    enum belfry_overflow policy = shard->options->overflow;
    if (policy == BELFRY_OVERFLOW_DROP_PUSH)
        drop_pushes(conn, size);
    if (outbox_takes(conn, size))
        return 0;
    conn->backlog.refused++;
    counter_add(&shard->counters->outbox_full, 1);
    if (policy == BELFRY_OVERFLOW_DISCONNECT && (conn->halted & HALTED_BY_KICK) == 0) {
        conn->kicked = BELFRY_END_BACKLOG;
        belfry_disconnect(conn);
    }
    return bf_error(BELFRY_EBACKLOG, "the client in slot %u (pid %u) does not read: its outbox holds %llu bytes",
                    conn->slot->number, conn->pid, (unsigned long long)conn->outbox.bytes);
}

static __attribute__((cold, noinline)) int outbox_room(struct belfry_conn *conn, uint64_t size, bool must, void **data)
{
    struct bf_shard *shard = conn->shard;
    if (conn->dying != BELFRY_END_NONE) { /* nobody will read it: say it to the wall */
        conn->reservation = RESERVED_NOWHERE;
    } else {
        /* As nothing is read while it holds something, there is at most one failure per conn beyond the limit. */
        int rc = must || outbox_takes(conn, size) ? 0 : overflow(conn, size);
        if (rc < 0)
            return rc;
        conn->reservation = RESERVED_OUTBOX;
    }
    conn->reserved_message = outbox_message_new(&shard->arena, size);
    if (conn->reserved_message == NULL) {
        conn->reservation = RESERVED_NONE;
        return bf_error(-ENOMEM, "no memory for a reply of %llu bytes in the outbox", (unsigned long long)size);
    }
    *data = conn->reserved_message->payload;
    return 0;
}

int bf_conn_wrong_thread(void)
{
    return bf_error(BELFRY_ETHREAD,
                    "a conn may be used on its shard's thread only: defer, and complete from elsewhere");
}

/* `must`: a failure, for which there is room even in a full outbox, so that no request stays without an answer. */
static int reserve(struct belfry_conn *conn, uint64_t size, bool must, void **data)
{
    if (bf_unlikely(conn->shard != bf_shard_self()))
        return bf_conn_wrong_thread();
    if (bf_unlikely(conn->slot->phase == SLOT_ENDING))
        return bf_error(BELFRY_EGONE, "the conn of slot %u is over", conn->slot->number);
    if (bf_unlikely(conn->reservation != RESERVED_NONE))
        return bf_error(BELFRY_ESTATE, "a reservation is open: commit or abort it first");
    if (bf_unlikely(size > conn->shard->pool.lobby->geometry.message_bytes_max))
        return bf_error(BELFRY_ETOOBIG, "a message of %llu bytes is larger than message_bytes_max, %u",
                        (unsigned long long)size, conn->shard->pool.lobby->geometry.message_bytes_max);
    conn->reservation_bytes = size;
    if (bf_likely(outbox_is_empty(&conn->outbox))) {
        int rc = ring_reserve(&conn->out, size, data);
        if (bf_likely(rc == 0)) {
            conn->reservation = RESERVED_RING;
            return 0;
        }
        if (rc != -EAGAIN && rc != BELFRY_ETOOBIG) { /* full; or it goes in parts, from the outbox */
            conn->out_rc = rc;
            bf_shard_heat(conn->shard, conn->slot); /* so that the turn ends it, whoever's handler this is */
            return bf_error(rc, "the client in slot %u broke the format of its ring", conn->slot->number);
        }
    }
    return outbox_room(conn, size, must, data);
}

static void queue(struct belfry_conn *conn, struct outbox_message *message)
{
    belfry_counters *counters = conn->shard->counters;
    if (outbox_is_empty(&conn->outbox) && !conn_is_large(conn, message->bytes)) {
        counter_add(&counters->stalls, 1);
        conn->backlog.stalls++;
    }
    outbox_put(&conn->outbox, message);
    conn->backlog.bytes_peak = bf_max(conn->backlog.bytes_peak, conn_backlog(conn));
    conn->halted |= HALTED_BY_OUTBOX;
    counter_add(&counters->outbox_bytes, (int64_t)outbox_cost(message->bytes));
    bf_shard_heat(conn->shard, conn->slot); /* so that the turn empties it */
}

static int commit(struct belfry_conn *conn, enum belfry_kind kind, uint8_t flags, uint64_t id, uint64_t size)
{
    belfry_counters *counters = conn->shard->counters;
    if (bf_unlikely(conn->reservation == RESERVED_NONE || size > conn->reservation_bytes))
        return bf_error(BELFRY_ESTATE, "commit without a reservation, or of more than was reserved");
    if (bf_likely(conn->reservation == RESERVED_RING)) {
        ring_commit(&conn->out, (uint8_t)kind, flags, id, size);
        conn->committed = true;
    } else if (conn->reservation == RESERVED_OUTBOX) {
        struct outbox_message *message = conn->reserved_message;
        message->kind = (uint8_t)kind;
        message->flags = flags;
        message->id = id;
        message->bytes = size;
        queue(conn, message);
    } else {
        outbox_message_free(conn->reserved_message, &conn->shard->arena);
    }
    conn->reservation = RESERVED_NONE;
    counter_add(&counters->messages_out, 1);
    counter_add(&counters->bytes_out, (int64_t)size);
    bf_shard_touch(conn->shard, conn->slot);
    return 0;
}

static void abort_reservation(struct belfry_conn *conn)
{
    if (conn->reservation == RESERVED_RING)
        ring_abort(&conn->out);
    else if (conn->reservation != RESERVED_NONE)
        outbox_message_free(conn->reserved_message, &conn->shard->arena);
    conn->reservation = RESERVED_NONE;
}

int bf_conn_say(struct belfry_conn *conn, enum belfry_kind kind, uint8_t flags, uint64_t id, const void *data,
                size_t size)
{
    void *room = NULL;
    int rc = reserve(conn, size, kind == BELFRY_FAILURE || kind == BELFRY_CANCEL, &room);
    if (rc < 0)
        return rc;
    if (size > 0)
        memcpy(room, data, size);
    return commit(conn, kind, flags, id, size);
}

/* It was promised when its ticket was given, so there is always room. */
void bf_conn_say_message(struct belfry_conn *conn, struct outbox_message *message)
{
    belfry_counters *counters = conn->shard->counters;
    void *room;
    counter_add(&counters->messages_out, 1);
    counter_add(&counters->bytes_out, (int64_t)message->bytes);
    bool fits = outbox_is_empty(&conn->outbox) && conn->reservation == RESERVED_NONE &&
                ring_reserve(&conn->out, message->bytes, &room) == 0;
    if (fits) {
        memcpy(room, message->payload, message->bytes);
        ring_commit(&conn->out, message->kind, message->flags, message->id, message->bytes);
        outbox_message_free(message, &conn->shard->arena);
        conn->committed = true;
    } else {
        queue(conn, message);
    }
    bf_shard_touch(conn->shard, conn->slot);
}

int bf_conn_fail(struct belfry_conn *conn, uint64_t id, int status, const char *text)
{
    struct {
        int32_t status;
        char text[FAILURE_TEXT_MAX];
    } failure = {.status = status};
    _Static_assert(offsetof(__typeof__(failure), text) == offsetof(struct belfry_abi_failure, text), "the same shape");
    size_t length = text == NULL ? 0 : strnlen(text, FAILURE_TEXT_MAX);
    size_t room = conn->shard->pool.lobby->geometry.message_bytes_max - sizeof failure.status;
    length = bf_min(length, room);
    memcpy(failure.text, text == NULL ? "" : text, length);
    return bf_conn_say(conn, BELFRY_FAILURE, 0, id, &failure, sizeof failure.status + length);
}

/* --- public ------------------------------------------------------------------------------------------------------ */

int bf_conn_not_open(const struct belfry_conn *conn, const belfry_message *m)
{
    if (conn->shard != bf_shard_self())
        return bf_conn_wrong_thread();
    return bf_error(BELFRY_EANSWERED, "message %llu is not a request that still wants an answer",
                    (unsigned long long)m->id);
}

int belfry_reply(belfry_conn *conn, const belfry_message *m, const void *data, size_t size)
{
    int rc = conn_check_open(conn, m);
    if (rc == 0)
        rc = bf_conn_say(conn, BELFRY_REPLY, 0, m->id, data, size);
    if (rc == 0)
        conn->request_open = false;
    return rc;
}

int belfry_reply_more(belfry_conn *conn, const belfry_message *m, const void *data, size_t size)
{
    int rc = conn_check_open(conn, m);
    return rc == 0 ? bf_conn_say(conn, BELFRY_REPLY, BELFRY_FLAG_MORE, m->id, data, size) : rc;
}

int belfry_reply_reserve(belfry_conn *conn, const belfry_message *m, size_t size, void **data)
{
    int rc = conn_check_open(conn, m);
    return rc == 0 ? reserve(conn, size, false, data) : rc;
}

int belfry_reply_commit(belfry_conn *conn, size_t size)
{
    if (bf_unlikely(conn->shard != bf_shard_self()))
        return bf_conn_wrong_thread();
    int rc = commit(conn, BELFRY_REPLY, 0, conn->request_id, size);
    if (rc == 0)
        conn->request_open = false;
    return rc;
}

void belfry_reply_abort(belfry_conn *conn)
{
    if (conn->shard == bf_shard_self())
        abort_reservation(conn);
    else
        bf_conn_wrong_thread();
}

int belfry_fail(belfry_conn *conn, const belfry_message *m, int status, const char *text)
{
    if (status >= 0)
        return bf_error(BELFRY_EOPTION, "a failure's status is negative, %d is not", status);
    int rc = conn_check_open(conn, m);
    if (rc == 0)
        rc = bf_conn_fail(conn, m->id, status, text);
    if (rc == 0)
        conn->request_open = false;
    return rc;
}

int belfry_push(belfry_conn *conn, const void *data, size_t size)
{
    return bf_conn_say(conn, BELFRY_PUSH, 0, 0, data, size);
}

void belfry_disconnect(belfry_conn *conn)
{
    if (conn->shard != bf_shard_self()) {
        bf_conn_wrong_thread();
        return;
    }
    conn->halted |= HALTED_BY_KICK;
    bf_shard_heat(conn->shard, conn->slot);
}

belfry_backlog belfry_conn_backlog(const belfry_conn *conn)
{
    belfry_backlog backlog = conn->backlog;
    backlog.bytes = conn_backlog(conn);
    return backlog;
}

int64_t belfry_message_deadline(const belfry_message *m)
{
    return m->cookie != 0 ? (int64_t)m->cookie : BELFRY_FOREVER;
}

void belfry_conn_set_user(belfry_conn *conn, void *pointer)
{
    conn->user = pointer;
}

void *belfry_conn_user(const belfry_conn *conn)
{
    return conn->user;
}

uint32_t belfry_conn_shard(const belfry_conn *conn)
{
    return conn->shard->index;
}

uint32_t belfry_conn_slot(const belfry_conn *conn)
{
    return conn->slot->number;
}

uint32_t belfry_conn_uid(const belfry_conn *conn)
{
    return conn->slot->uid;
}

uint32_t belfry_conn_gid(const belfry_conn *conn)
{
    return conn->slot->gid;
}

uint32_t belfry_conn_pid(const belfry_conn *conn)
{
    return conn->pid;
}

belfry_server *belfry_conn_server(const belfry_conn *conn)
{
    return conn->shard->server;
}

size_t belfry_conn_message_bytes_max(const belfry_conn *conn)
{
    return conn->shard->pool.lobby->geometry.message_bytes_max;
}

void *belfry_alloc(size_t size)
{
    struct bf_shard *shard = bf_shard_self();
    return shard == NULL ? NULL : bf_arena_alloc(&shard->arena, size);
}

void belfry_free(void *pointer)
{
    struct bf_shard *shard = bf_shard_self();
    if (pointer == NULL)
        return;
    INVARIANT(shard != NULL);
    bf_arena_free(&shard->arena, pointer);
}

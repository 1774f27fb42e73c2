/* SPDX-License-Identifier: MIT */
/* conn.h: one attached client: its two rings, its outbox, and the message being handled. */
#ifndef BF_SERVER_CONN_H
#define BF_SERVER_CONN_H

#include "server/shard.h"

/* Where belfry_reply_reserve() put what the handler is writing. */
enum conn_reservation { RESERVED_NONE, RESERVED_RING, RESERVED_OUTBOX, RESERVED_NOWHERE };

struct belfry_conn {
    struct bf_shard *shard;
    struct bf_slot *slot;
    void *user;
    struct ring_consumer_local in;
    struct ring_producer_local out;
    struct bf_outbox outbox;

    uint64_t request_id; /* of the message being handled */
    bool request_open;   /* ... and it still wants an answer */
    bool in_handler;
    bool committed; /* something for the client since the last fence */
    bool kicked;
    enum belfry_end dying; /* the client is gone; handle what it left behind, then end */
    int out_rc;            /* BELFRY_EPROTO: the client's position was impossible */

    enum conn_reservation reservation;
    uint64_t reservation_bytes;
    struct outbox_message *reserved_message;
    uint32_t pid;
};

/* Make the conn of a claimed slot. NULL: no memory. */
struct belfry_conn *bf_conn_new(struct bf_shard *shard, struct bf_slot *slot);
void bf_conn_free(struct belfry_conn *conn);

/*
 * One conn's share of a turn: first what waits in its outbox, then up to a budget of its messages. Returns how much was
 * done, 0 for nothing, or the negative reason (-enum belfry_end) why the conn must end now.
 */
int bf_conn_turn(struct belfry_conn *conn);

/* A turn of this conn is near: fetch what it will touch of its rings. */
static inline void conn_prefetch(const struct belfry_conn *conn)
{
    ring_consumer_prefetch(&conn->in);
    ring_producer_prefetch(&conn->out);
}

/* The shard's last look: is there something that bf_conn_turn() would do? */
bool bf_conn_has_work(struct belfry_conn *conn);

/* The conn of that id, if it is one of this shard's and not over. post.c. */
struct belfry_conn *bf_conn_of(struct bf_shard *shard, belfry_conn_id id);

/* Put one whole message into the ring or the outbox. reply.c. */
int bf_conn_say(struct belfry_conn *conn, enum belfry_kind kind, uint64_t id, const void *data, size_t size);
int bf_conn_fail(struct belfry_conn *conn, uint64_t id, int status, const char *text);

#endif

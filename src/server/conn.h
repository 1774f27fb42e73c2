/* SPDX-License-Identifier: MIT */
/* conn.h: one attached client: its two rings, its outbox, and the message being handled. */
#ifndef BF_SERVER_CONN_H
#define BF_SERVER_CONN_H

#include "base/check.h"
#include "server/shard.h"
#include "server/thrift.h"
#include "server/whole.h"

#define FAILURE_TEXT_MAX 255u

/* Why nothing more is read from a conn, in bits. */
enum { HALTED_BY_KICK = 1, HALTED_BY_TICKETS = 2, HALTED_BY_OUTBOX = 4, HALTED_BY_DRAIN = 8, HALTED_BY_PAGES = 16 };

/* Where belfry_reply_reserve() put what the handler is writing. */
enum conn_reservation { RESERVED_NONE, RESERVED_RING, RESERVED_OUTBOX, RESERVED_NOWHERE };

struct belfry_conn {
    struct bf_shard *shard;
    struct bf_slot *slot;
    void *user;
    struct ring_consumer_local in;
    struct ring_producer_local out;
    struct bf_outbox outbox;
    struct bf_thrift thrift;
    struct belfry_backlog backlog; /* but for its bytes */
    bool told_high;                /* on_backlog was, last */

    uint64_t request_id; /* of the message being handled */
    bool request_open;   /* ... and it still wants an answer */
    bool in_handler;
    bool committed; /* something for the client since the last fence */
    uint8_t halted;
    bool foreign;           /* of another user: handlers get copies */
    bool draining;          /* it ends as soon as nothing of it is open */
    uint64_t drain_from;    /* what had been read by then */
    enum belfry_end kicked; /* why, when it is halted by a kick */
    enum belfry_end dying;  /* the client is gone; handle what it left behind, then end */
    uint64_t dying_from;    /* what had been read by then: it left a ring at most */
    int out_rc;             /* BELFRY_EPROTO: the client's position was impossible */

    enum conn_reservation reservation;
    uint64_t reservation_bytes;
    struct outbox_message *reserved_message;
    struct bf_whole whole;
    uint32_t pid;
    uint32_t ticket_count; /* requests of it that are deferred, or whose holder has not come back yet */
    struct ticket_record *tickets;
};

/* Does it go in parts? */
static inline bool conn_is_large(const struct belfry_conn *conn, uint64_t bytes)
{
    return bytes > ring_payload_max(conn->out.capacity);
}

/* What waits in the outbox. A large message that is leaving may be there because of its size alone: it does not count. */
static inline uint64_t conn_backlog(const struct belfry_conn *conn)
{
    const struct outbox_message *first = conn->outbox.first;
    bool leaving = first != NULL && conn_is_large(conn, first->bytes);
    return conn->outbox.bytes - (leaving ? outbox_cost(first->bytes) : 0);
}

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

/* The outbox is empty again: it is read and polled as others are. */
void bf_conn_resume(struct belfry_conn *conn);

/* The shard's last look: is there something that bf_conn_turn() would do? */
bool bf_conn_has_work(struct belfry_conn *conn);

/* The conn of that id, if it is one of this shard's and not over. post.c. */
struct belfry_conn *bf_conn_of(struct bf_shard *shard, belfry_conn_id id);

/* drain.c: is nothing of a conn that drains open any more? Also stops reading when it has read a ring since. */
bool bf_conn_is_drained(struct belfry_conn *conn) __attribute__((cold));

/* Put one whole message into the ring or the outbox. `flags`: BELFRY_FLAG_MORE or 0. reply.c. */
int bf_conn_say(struct belfry_conn *conn, enum belfry_kind kind, uint8_t flags, uint64_t id, const void *data,
                size_t size);
int bf_conn_fail(struct belfry_conn *conn, uint64_t id, int status, const char *text);

/* The same for one that lies in memory already; takes it over. */
void bf_conn_say_message(struct belfry_conn *conn, struct outbox_message *message);

/* A request that is not handed over fails with `status`. 0, or -BELFRY_END_PEER_FAULT: its client did what cannot be. */
int bf_conn_refuse(struct belfry_conn *conn, uint8_t kind, uint64_t id, int status) __attribute__((cold));

/* Why `m` may not be answered: BELFRY_EANSWERED or BELFRY_ETHREAD. */
int bf_conn_not_open(const struct belfry_conn *conn, const belfry_message *m) __attribute__((cold));

/* The sentence for whoever uses a conn elsewhere. BELFRY_ETHREAD. */
int bf_conn_wrong_thread(void) __attribute__((cold));

/* Is `m` the request being handled, and unanswered? 0, or why not. */
static inline int conn_check_open(const struct belfry_conn *conn, const belfry_message *m)
{
    if (bf_unlikely(!conn->in_handler || !conn->request_open || m->id != conn->request_id || m->kind != BELFRY_REQUEST))
        return bf_conn_not_open(conn, m);
    return 0;
}

#endif

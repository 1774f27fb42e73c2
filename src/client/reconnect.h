/* SPDX-License-Identifier: MIT */
/*
 * reconnect.h (internal): what a client remembers so that it can go on with another connection.
 *
 *                  the end is noticed                  attached again
 *     CONNECTED --------------------------> LOST ----------------------------> CONNECTED, with what is to be sent again
 *                                            | an attempt failed: after a pause, the next
 *                                            | given up
 *                                            +--------> OVER: as without a policy
 *
 * While it is lost, the old maps stay where they were, so nothing that looks at them has to ask first. Sends are told
 * -EAGAIN; whoever waits makes the attempts. `again` is what must leave before anything new may.
 */
#ifndef BF_CLIENT_RECONNECT_H
#define BF_CLIENT_RECONNECT_H

#include "client/client.h"
#include "shm/place.h"

/* A request that was sent and has not had its last answer. */
struct client_flight {
    uint64_t id;      /* 0: this place of the table is free */
    const void *data; /* to be sent again; NULL: that may not be executed twice */
    void *block;      /* the data, when it is ours */
    uint64_t size;
    int64_t deadline_ns; /* 0: none */
    uint32_t replays;
    bool listed; /* while the loss is dealt with: it will be sent again */
};

/* What will be sent before anything else, in this order. */
struct client_again {
    struct client_again *next;
    uint64_t id;      /* 0: of a one-way message */
    const void *data; /* NULL: as the flight of this id says */
    void *block;      /* the data, when it is ours */
    uint64_t size;
    int64_t deadline_ns;
    uint8_t kind;
    uint64_t copy[]; /* or here */
};

/* Maps of an earlier connection, in which messages lie that the user has not released yet. */
struct client_past {
    struct client_past *next;
    void *send;
    void *recv;
    uint64_t bytes;
    uint64_t first; /* the numbers of its messages */
    uint64_t count;
    uint64_t open; /* of these, not released; and an open reservation */
    bool released[];
};

struct client_reconnect {
    belfry_reconnect policy;
    struct bf_place place;
    belfry_client_options options;

    bool lost;
    bool over;
    int over_rc;
    uint64_t epoch; /* counts what waiters must look at the stash for */
    uint64_t count;
    uint32_t attempts; /* since a server last accepted us */
    int64_t lost_ns;
    int64_t attempt_at_ns;

    struct client_flight *flights; /* a hash table: place = id & mask, or the next free one */
    uint32_t flight_capacity;      /* a power of two */
    uint32_t flight_count;
    struct client_again *again_first;
    struct client_again *again_last;
    uint64_t refused; /* payload + 1 of a send that was told -EAGAIN because of all this */

    bool marked;          /* the request that is being sent may be executed twice */
    const void *borrowed; /* ... and its caller waits, so that his memory stays */

    const uint8_t *reserved; /* the room of a reservation that the connection was lost under */
    uint64_t reserved_bytes;
    struct client_past *reserved_in;
    struct client_past *pasts;
};

static inline bool client_is_lost(const struct belfry_client *c)
{
    return c->reconnect != NULL && c->reconnect->lost;
}

/* Is there something that must leave before anything else may, or no connection at all? */
static inline bool client_is_busy(const struct belfry_client *c)
{
    return client_is_leaving(c) || (c->reconnect != NULL && (c->reconnect->lost || c->reconnect->again_first != NULL));
}

/* again.c: send again what fits. 1: nothing is left; 0: not yet; or a code. Nothing larger may be leaving. */
int bf_reconnect_push(struct belfry_client *c);

/* Put what waits here into the ring, as far as it fits. 1: nothing is left; 0: not yet; or a code. */
static inline int client_push(struct belfry_client *c)
{
    if (client_is_lost(c))
        return 0;
    int rc = client_is_leaving(c) ? bf_large_push(c) : 1;
    return rc > 0 && c->reconnect != NULL && c->reconnect->again_first != NULL ? bf_reconnect_push(c) : rc;
}

/* Can this policy work? 0 or BELFRY_EOPTION. Then: remember it. 0 or -ENOMEM. */
int bf_reconnect_check(const belfry_reconnect *policy);
int bf_reconnect_init(struct belfry_client *c, const struct bf_place *place, const belfry_client_options *o);
void bf_reconnect_free(struct belfry_client *c, bool usable);

/*
 * client_end() gave `rc`: what does that mean? -EAGAIN: it is lost, and will come back; or a code: it is over, or what
 * is left of it could not be looked after (-ENOMEM: ask again).
 */
int bf_reconnect_over(struct belfry_client *c, int rc);

/* The same, for one that waits until `deadline_ns`: attempts, and pauses. 0: look again; -ETIMEDOUT; or a code. */
int bf_reconnect_wait(struct belfry_client *c, int rc, int64_t deadline_ns);

/* The same, for a poller's look. True: belfry_receive() has something to say. *attempts are those it may still make. */
bool bf_reconnect_look(struct belfry_client *c, int rc, int *attempts);

/* When the next attempt is due; INT64_MAX: it is not lost. */
int64_t bf_reconnect_next_ns(const struct belfry_client *c);

/* A send of `bytes` met client_end() giving `rc`: as bf_reconnect_over(), and it is remembered who asked. */
int bf_reconnect_refuse(struct belfry_client *c, int rc, uint64_t bytes) __attribute__((cold));

/* A send of `bytes` on a connection that stands: may it go on? 0; -EAGAIN, and it is remembered who asked; or another code. */
int bf_reconnect_admit(struct belfry_client *c, uint64_t bytes);

/* What in_place_end and wanted are, now that something has changed. */
void bf_reconnect_settle(struct belfry_client *c);

/* flight.c: remember a request that is about to be sent. A `block` that holds its data may be taken over: then *block is NULL. */
int bf_reconnect_sent(struct belfry_client *c, uint64_t id, const void *data, uint64_t size, int64_t deadline_ns,
                      void **block);

/* flight.c: a message was received: what it answers is in flight no longer. */
void bf_reconnect_answered(struct belfry_client *c, const belfry_message *m);

/* Nobody waits for this request. True: the server need not be told. */
bool bf_reconnect_forget(struct belfry_client *c, uint64_t id);

/* Commit or abort the reservation under which the connection was lost. */
int bf_reconnect_commit(struct belfry_client *c, enum belfry_kind kind, uint64_t size, uint64_t *id);
void bf_reconnect_abort(struct belfry_client *c);

/* A large message that cannot leave yet; takes over the block. */
int bf_reconnect_later(struct belfry_client *c, enum belfry_kind kind, uint64_t id, const void *data, void **block,
                       uint64_t size, int64_t deadline_ns);

/* Give back a message of an earlier connection. */
void bf_reconnect_release(struct belfry_client *c, uint64_t number);

#endif

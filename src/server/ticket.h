/* SPDX-License-Identifier: MIT */
/*
 * ticket.h: requests whose answer comes later, from any thread.
 *
 * A ticket is a value: anybody may copy it, keep it too long or use it twice. What it names is a record in its shard's
 * table. Records are never freed while the server exists, so a stale ticket finds a record, and a serial number in it that is
 * no longer its own.
 *
 *              defer               final answer (any thread)              delivered
 *      FREE ----------> OPEN -----------------------------------> TAKEN ------------> FREE, serial + 1
 *                        |                                          ^
 *                        | cancelled        its holder answers      |
 *                        +----------> CANCELLED --------------------+
 *                        | conn over        all the same            |
 *                        +----------> GONE -------------------------+
 *
 * The holder of a ticket ends it, exactly once, whatever became of the request: so a client that sends, cancels and sends
 * again cannot make more work than `deferred_max` at a time.
 */
#ifndef BF_SERVER_TICKET_H
#define BF_SERVER_TICKET_H

#include <belfry/server.h>

#include "server/mailbox.h"

#define TICKETS_PER_CHUNK 256u
#define TICKET_CHUNKS_MAX 256u

enum ticket_state { TICKET_FREE, TICKET_OPEN, TICKET_CANCELLED, TICKET_GONE, TICKET_TAKEN };

#define TICKET_WORD(serial, state) ((uint64_t)(serial) << 8 | (uint64_t)(state))
#define TICKET_SERIAL(word) ((uint32_t)((word) >> 8))
#define TICKET_STATE_OF(word) ((enum ticket_state)((word)&0xff))

/* With the serial number in it, a letter of a ticket that is over cannot be counted for the next one. */
#define TICKET_QUEUED(serial, bytes) ((uint64_t)(serial) << 32 | (uint64_t)(bytes))
#define TICKET_QUEUED_BYTES(word) ((uint32_t)(word))

struct ticket_record {
    struct mailbox_letter returned; /* the holder's, when he ends a ticket that nobody waits for */
    uint64_t word;                  /* TICKET_WORD; several threads, by compare and swap */
    uint64_t queued;     /* TICKET_QUEUED: said by the holder, not yet in the client's ring; several threads */
    uint64_t refused;    /* the holder: what his last answer would have counted, which found no room */
    uint32_t bell;       /* the shard: counts changes that a waiting holder wants to know of; a futex word */
    uint32_t waited_for; /* the holder: 1 = about to sleep on `bell` */

    /* the shard's own */
    uint32_t place;
    struct belfry_conn *conn; /* NULL: over */
    uint64_t request_id;
    int64_t deadline_ns;
    struct ticket_record *next; /* of its conn, or of the free */
    struct ticket_record **at;
    bool cancelled; /* also when the answer was already on its way */
};

struct bf_ticket_table {
    struct ticket_record *chunks[TICKET_CHUNKS_MAX]; /* the shard, with release; any thread */

    /* the shard's own */
    uint32_t chunk_count;
    struct ticket_record *free_first; /* used last, reused last: a stale ticket is told apart for long */
    struct ticket_record **free_last;
};

struct bf_shard;
struct belfry_conn;

void bf_tickets_destroy(struct bf_ticket_table *table); /* no thread uses a ticket any more */

/* Records of an earlier run whose holders never came back are free again. Before the shard's thread starts. */
void bf_tickets_reset(struct bf_ticket_table *table);

/* The client no longer waits for this request, or its time is over. False: it is not deferred. */
bool bf_tickets_cancel(struct belfry_conn *conn, uint64_t request_id, int why);

/* The conn is over: its tickets are told. */
void bf_tickets_conn_over(struct belfry_conn *conn);

/* `bytes` that the holder of this ticket has said are in the ring, or dropped. */
void bf_ticket_credit(struct ticket_record *record, uint32_t serial, uint64_t bytes);

#endif

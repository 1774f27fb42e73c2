/* SPDX-License-Identifier: MIT */
/*
 * outbox.h: what a conn has to say while its client's ring is full.
 *
 * A list of messages, oldest first, bounded in bytes, in arena memory (or blocks, when large or from other threads). As
 * long as it is not empty the shard reads nothing more from that conn: back-pressure, never silent loss, never a
 * blocked shard.
 */
#ifndef BF_SERVER_OUTBOX_H
#define BF_SERVER_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/block.h"
#include "server/arena.h"
#include "server/ticket.h"

#define OUTBOX_ARENA_BYTES_MAX 65536u /* larger ones come and go too seldom to be kept in an arena */

struct outbox_message {
    struct outbox_message *next;
    struct ticket_record *record; /* whose holder may say more once this is gone; NULL: nobody's */
    uint64_t id;
    uint64_t bytes;  /* payload in use */
    uint64_t sent;   /* of these, in the ring already: of a message that goes in parts */
    uint32_t serial; /* of the ticket */
    uint8_t kind;
    uint8_t flags;
    bool in_block; /* said by another thread, or large: not the arena's, but base/block.h's */
    uint8_t payload[] __attribute__((aligned(8)));
};

struct bf_outbox {
    struct outbox_message *first;
    struct outbox_message *last;
    uint64_t bytes;                       /* in all, as outbox_cost() counts */
    uint64_t push_bytes;                  /* of pushes, among them */
    struct outbox_message *before_pushes; /* none up to this one may be dropped as a push; NULL: look from the first */
    uint32_t echoes;                      /* of cancellations, among them */
};

/* What a message counts for: an empty one takes memory, too. */
static inline uint64_t outbox_cost(uint64_t payload)
{
    return sizeof(struct outbox_message) + payload;
}

static inline bool outbox_is_empty(const struct bf_outbox *box)
{
    return box->first == NULL;
}

static inline struct outbox_message *outbox_message_new(struct bf_arena *arena, size_t payload)
{
    bool in_block = payload > OUTBOX_ARENA_BYTES_MAX;
    size_t bytes = sizeof(struct outbox_message) + payload;
    struct outbox_message *message = in_block ? bf_block_alloc(bytes) : bf_arena_alloc(arena, bytes);
    if (message != NULL)
        *message = (struct outbox_message){.bytes = payload, .in_block = in_block};
    return message;
}

static inline void outbox_message_free(struct outbox_message *message, struct bf_arena *arena)
{
    if (message->record != NULL)
        bf_ticket_credit(message->record, message->serial, outbox_cost(message->bytes));
    if (message->in_block)
        bf_block_free(message);
    else
        bf_arena_free(arena, message);
}

static inline void outbox_put(struct bf_outbox *box, struct outbox_message *message)
{
    message->next = NULL;
    if (box->last != NULL)
        box->last->next = message;
    else
        box->first = message;
    box->last = message;
    box->bytes += outbox_cost(message->bytes);
    box->push_bytes += message->kind == BELFRY_PUSH ? outbox_cost(message->bytes) : 0;
    box->echoes += message->kind == BELFRY_CANCEL;
}

/* Free the message behind `before`; NULL: the oldest. */
static inline void outbox_drop(struct bf_outbox *box, struct outbox_message *before, struct bf_arena *arena)
{
    struct outbox_message **at = before == NULL ? &box->first : &before->next, *message = *at;
    *at = message->next;
    if (box->last == message)
        box->last = before;
    if (box->before_pushes == message)
        box->before_pushes = before;
    box->bytes -= outbox_cost(message->bytes);
    box->push_bytes -= message->kind == BELFRY_PUSH ? outbox_cost(message->bytes) : 0;
    box->echoes -= message->kind == BELFRY_CANCEL;
    outbox_message_free(message, arena);
}

static inline void outbox_drop_first(struct bf_outbox *box, struct bf_arena *arena)
{
    outbox_drop(box, NULL, arena);
}

/* Free what answers request `id`. Returns the bytes, as outbox_cost() counts. */
static inline uint64_t outbox_drop_request(struct bf_outbox *box, uint64_t id, struct bf_arena *arena)
{
    uint64_t before_bytes = box->bytes;
    struct outbox_message *before = NULL;
    while ((before == NULL ? box->first : before->next) != NULL) {
        struct outbox_message *message = before == NULL ? box->first : before->next;
        if (message->id == id && (message->kind == BELFRY_REPLY || message->kind == BELFRY_FAILURE))
            outbox_drop(box, before, arena);
        else
            before = message;
    }
    return before_bytes - box->bytes;
}

/*
 * Drop the oldest push that has not begun to leave. False: there is none. What is passed over is not looked at again, so
 * whoever drops many pays for each message once.
 */
static inline bool outbox_drop_push(struct bf_outbox *box, struct bf_arena *arena)
{
    struct outbox_message *before = box->before_pushes;
    struct outbox_message *message = before == NULL ? box->first : before->next;
    while (message != NULL && (message->kind != BELFRY_PUSH || message->sent != 0)) {
        before = message;
        message = message->next;
    }
    box->before_pushes = before;
    if (message == NULL)
        return false;
    outbox_drop(box, before, arena);
    return true;
}

static inline void outbox_clear(struct bf_outbox *box, struct bf_arena *arena)
{
    while (!outbox_is_empty(box))
        outbox_drop_first(box, arena);
}

#endif

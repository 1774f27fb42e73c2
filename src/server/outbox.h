/* SPDX-License-Identifier: MIT */
/*
 * outbox.h: what a conn has to say while its client's ring is full.
 *
 * A list of whole messages in arena memory, oldest first, bounded in bytes. As long as it is not empty the shard reads
 * nothing more from that conn: back-pressure, never silent loss, never a blocked shard.
 */
#ifndef BF_SERVER_OUTBOX_H
#define BF_SERVER_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/arena.h"

struct outbox_message {
    struct outbox_message *next;
    uint64_t id;
    uint32_t bytes; /* payload in use */
    uint8_t kind;
    uint8_t payload[] __attribute__((aligned(8)));
};

struct bf_outbox {
    struct outbox_message *first;
    struct outbox_message *last;
    uint64_t bytes; /* in all, as outbox_cost() counts */
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
    return bf_arena_alloc(arena, sizeof(struct outbox_message) + payload);
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
}

/* Free the oldest message. */
static inline void outbox_drop_first(struct bf_outbox *box, struct bf_arena *arena)
{
    struct outbox_message *message = box->first;
    box->first = message->next;
    if (box->first == NULL)
        box->last = NULL;
    box->bytes -= outbox_cost(message->bytes);
    bf_arena_free(arena, message);
}

static inline void outbox_clear(struct bf_outbox *box, struct bf_arena *arena)
{
    while (!outbox_is_empty(box))
        outbox_drop_first(box, arena);
}

#endif

/* SPDX-License-Identifier: MIT */
/*
 * ring.h: a single-producer single-consumer queue of framed messages in memory that two processes share.
 *
 * The length word of an entry is its commit: the producer clears the length of the *next* entry, writes the entry and
 * stores its length with release; the consumer polls that one word. So a small message moves one cache line, not two.
 * Positions are free-running 64-bit numbers, masked on use. The consumer's position lives in the consumer's own segment
 * and is published once per quarter ring only; the producer caches it and looks again when the ring seems full. That is
 * enough, because an entry is at most a quarter (PROTOCOL.md, "Ring").
 *
 * An entry never wraps. One that would is preceded by a pad entry; pad and entry become visible by the same store.
 *
 * The peer is not trusted: each of its words is loaded once, checked, then used. A word that cannot be is BELFRY_EPROTO.
 *
 * Both structs are private mirrors, touched by one thread of one process. Nothing here blocks or makes a system call.
 */
#ifndef BF_SHM_RING_H
#define BF_SHM_RING_H

#include <errno.h>

#include <belfry/abi.h>

#include "base/check.h"
#include "base/order.h"

#define RING_BYTES_MIN 4096u
#define RING_BYTES_MAX (1u << 30)

struct ring_producer_local {
    uint8_t *data;
    const uint64_t *consumed_shared; /* in the peer's segment */
    uint64_t capacity;               /* bytes, a power of two */
    uint64_t colour;                 /* where position 0 lies */
    uint64_t position;               /* of the next entry */
    uint64_t consumed;               /* the peer's position as last read */
    uint32_t reserved;               /* payload bytes of the open reservation + 1; 0 = none */
    uint32_t pad;                    /* bytes of the pad entry before it */
};

struct ring_consumer_local {
    const uint8_t *data;
    uint64_t *consumed_shared; /* in our own segment */
    uint64_t capacity;
    uint64_t colour;
    uint64_t position;  /* of the next entry to read */
    uint64_t published; /* what the producer knows to be free */
    bool has_published; /* since the owner last cleared it: the producer may be waiting for that */
};

/* An entry as copied out of its header; `data` still points into the ring. */
struct ring_entry {
    const void *data;
    uint64_t id;
    uint32_t bytes; /* payload */
    uint8_t kind;
    uint8_t flags;
    uint64_t end; /* position after it */
};

static inline uint64_t ring_align(uint64_t bytes)
{
    return (bytes + (BELFRY_ENTRY_ALIGN - 1)) & ~(uint64_t)(BELFRY_ENTRY_ALIGN - 1);
}

/* The largest payload that a ring of this size takes. */
static inline uint32_t ring_payload_max(uint64_t capacity)
{
    return (uint32_t)(capacity / 4 - sizeof(struct belfry_abi_entry));
}

static inline void ring_producer_init(struct ring_producer_local *p, void *data, uint64_t capacity, uint64_t colour,
                                      const uint64_t *consumed_shared)
{
    INVARIANT(capacity >= RING_BYTES_MIN && (capacity & (capacity - 1)) == 0);
    *p = (struct ring_producer_local){.data = data,
                                      .capacity = capacity,
                                      .colour = colour & (capacity - 1),
                                      .consumed_shared = consumed_shared};
}

static inline void ring_consumer_init(struct ring_consumer_local *c, const void *data, uint64_t capacity,
                                      uint64_t colour, uint64_t *consumed_shared)
{
    INVARIANT(capacity >= RING_BYTES_MIN && (capacity & (capacity - 1)) == 0);
    *c = (struct ring_consumer_local){.data = data,
                                      .capacity = capacity,
                                      .colour = colour & (capacity - 1),
                                      .consumed_shared = consumed_shared};
}

static inline uint64_t ring_offset(uint64_t position, uint64_t colour, uint64_t capacity)
{
    return (position + colour) & (capacity - 1);
}

static inline struct belfry_abi_entry *ring_producer_entry(const struct ring_producer_local *p, uint64_t position)
{
    return (struct belfry_abi_entry *)(p->data + ring_offset(position, p->colour, p->capacity));
}

/* --- prefetching ------------------------------------------------------------------------------------------------ */

/*
 * Whoever goes through many rings asks for the lines of those further on, so that their misses overlap: one after the
 * other, they would be most of what a message costs. An entry of 64 bytes lies in two lines.
 */
static inline void ring_producer_prefetch(const struct ring_producer_local *p)
{
    const uint8_t *at = p->data + ring_offset(p->position, p->colour, p->capacity);
    __builtin_prefetch(at, 1);
    __builtin_prefetch(at + 64, 1);
}

static inline void ring_consumer_prefetch(const struct ring_consumer_local *c)
{
    const uint8_t *at = c->data + ring_offset(c->position, c->colour, c->capacity);
    __builtin_prefetch(at, 0);
    __builtin_prefetch(at + 64, 0);
}

/* --- producing: reserve, then commit or abort ------------------------------------------------------------------- */

/* Room for `bytes` from the present position on? The last 16 are the cleared header of the entry after. */
static inline bool ring_fits(const struct ring_producer_local *p, uint64_t bytes)
{
    return p->position - p->consumed + bytes + sizeof(struct belfry_abi_entry) <= p->capacity;
}

/* Read where the consumer is. Only a step forward to an entry boundary that we have reached ourselves is believed. */
static inline int ring_refresh(struct ring_producer_local *p)
{
    uint64_t consumed = load_acquire(p->consumed_shared); /* partner: ring_free */
    PEER_CHECK(consumed - p->consumed <= p->position - p->consumed && consumed % BELFRY_ENTRY_ALIGN == 0);
    p->consumed = consumed;
    return 0;
}

/*
 * Reserve room for one entry of up to `payload` bytes; *data is where to write them. 0; -EAGAIN when the ring is full;
 * BELFRY_ETOOBIG; BELFRY_ESTATE when a reservation is open; BELFRY_EPROTO when the consumer's position is impossible.
 */
static bf_inlined int ring_reserve(struct ring_producer_local *p, uint64_t payload, void **data)
{
    if (bf_unlikely(p->reserved != 0))
        return BELFRY_ESTATE;
    if (bf_unlikely(payload > ring_payload_max(p->capacity)))
        return BELFRY_ETOOBIG;
    uint64_t bytes = ring_align(sizeof(struct belfry_abi_entry) + payload);
    uint64_t offset = ring_offset(p->position, p->colour, p->capacity);
    uint64_t pad = offset + bytes > p->capacity ? p->capacity - offset : 0;
    if (bf_unlikely(!ring_fits(p, pad + bytes))) {
        int rc = ring_refresh(p);
        if (rc < 0)
            return rc;
        if (!ring_fits(p, pad + bytes))
            return -EAGAIN;
    }
    p->pad = (uint32_t)pad;
    p->reserved = (uint32_t)payload + 1;
    *data = ring_producer_entry(p, p->position + pad) + 1;
    return 0;
}

/* Make the reserved entry, with at most the reserved payload, visible to the consumer. */
static bf_inlined void ring_commit(struct ring_producer_local *p, uint8_t kind, uint8_t flags, uint64_t id,
                                   uint64_t payload)
{
    INVARIANT(p->reserved != 0 && payload < p->reserved);
    uint64_t start = p->position + p->pad;
    uint64_t bytes = sizeof(struct belfry_abi_entry) + payload;
    struct belfry_abi_entry *entry = ring_producer_entry(p, start);

    store_relaxed(&ring_producer_entry(p, start + ring_align(bytes))->length, 0);
    store_relaxed(&entry->kind, kind);
    store_relaxed(&entry->flags, flags);
    store_relaxed(&entry->reserved, 0);
    store_relaxed(&entry->id, id);
    if (bf_unlikely(p->pad != 0)) {
        struct belfry_abi_entry *pad = ring_producer_entry(p, p->position);
        store_relaxed(&entry->length, (uint32_t)bytes); /* unreachable until the pad is committed */
        store_relaxed(&pad->kind, BELFRY_PAD);
        store_relaxed(&pad->flags, 0);
        store_relaxed(&pad->reserved, 0);
        store_relaxed(&pad->id, 0);
        store_release(&pad->length, p->pad); /* partner: ring_peek */
    } else {
        store_release(&entry->length, (uint32_t)bytes); /* partner: ring_peek */
    }
    p->position = start + ring_align(bytes);
    p->reserved = 0;
}

static inline void ring_abort(struct ring_producer_local *p)
{
    p->reserved = 0;
}

/* Would an entry of `payload` bytes fit now? As ring_reserve, but reserves nothing. */
static inline bool ring_has_room(struct ring_producer_local *p, uint64_t payload)
{
    uint64_t bytes = ring_align(sizeof(struct belfry_abi_entry) + payload);
    uint64_t offset = ring_offset(p->position, p->colour, p->capacity);
    uint64_t pad = offset + bytes > p->capacity ? p->capacity - offset : 0;
    return ring_fits(p, pad + bytes) || ring_refresh(p) < 0 || ring_fits(p, pad + bytes);
}

/* --- consuming: peek, advance, free ----------------------------------------------------------------------------- */

/* Is there an entry? One load, for the look before sleeping. */
static inline bool ring_is_empty(const struct ring_consumer_local *c)
{
    const uint8_t *at = c->data + ring_offset(c->position, c->colour, c->capacity);
    return load_acquire(&((const struct belfry_abi_entry *)at)->length) == 0;
}

/* Everything before `position` may be overwritten: the producer's licence. Published once per quarter ring. */
static inline void ring_free(struct ring_consumer_local *c, uint64_t position)
{
    if (position - c->published < c->capacity / 4)
        return;
    store_release(c->consumed_shared, position); /* partner: ring_refresh */
    c->published = position;
    c->has_published = true;
}

/* Say exactly how far has been read: the last word about this ring. */
static inline void ring_publish(struct ring_consumer_local *c)
{
    store_release(c->consumed_shared, c->position); /* partner: ring_refresh; and client/reconnect.c, after the end */
    c->published = c->position;
}

/*
 * Copy the next entry's header to *e without consuming it. 1: there is one; 0: empty; BELFRY_EPROTO: its header is
 * impossible. Pads are stepped over; the room of a pad is freed with the entry before or after it.
 */
static inline int ring_peek(struct ring_consumer_local *c, struct ring_entry *e)
{
    for (;;) {
        uint64_t offset = ring_offset(c->position, c->colour, c->capacity);
        const struct belfry_abi_entry *entry = (const struct belfry_abi_entry *)(c->data + offset);
        uint32_t length = load_acquire(&entry->length); /* once; partner: ring_commit */
        if (length == 0)
            return 0;
        PEER_CHECK(length >= sizeof *entry && length <= c->capacity / 4);
        PEER_CHECK(offset + ring_align(length) <= c->capacity);
        uint8_t kind = load_relaxed(&entry->kind);
        if (bf_unlikely(kind == BELFRY_PAD)) {
            PEER_CHECK(offset + length == c->capacity);
            c->position += length;
            continue;
        }
        e->data = entry + 1;
        e->bytes = length - (uint32_t)sizeof *entry;
        e->kind = kind;
        e->flags = load_relaxed(&entry->flags);
        e->id = load_relaxed(&entry->id);
        e->end = c->position + ring_align(length);
        return 1;
    }
}

/* Step over the entry that was peeked. Its bytes stay until ring_free(). */
static inline void ring_advance(struct ring_consumer_local *c, const struct ring_entry *e)
{
    c->position = e->end;
}

#endif

/* SPDX-License-Identifier: MIT */
/*
 * parts.h: a message that is larger than a ring takes at once.
 *
 * It travels as PART entries of one id. The first says in its extension block what the whole is: how many bytes, of
 * which kind. Parts of two messages never mix in one direction, but what is small and urgent (a cancellation) may stand
 * between them. A part is an eighth of the ring at most (and 64 KiB), so that one is read while others
 * are written.
 *
 * The receiver asks for all the memory at the first part and copies each part to its place; without memory it lets the
 * parts pass.
 */
#ifndef BF_SHM_PARTS_H
#define BF_SHM_PARTS_H

#include "shm/extension.h"

#define PARTS_BYTES_MAX (1u << 30) /* of a whole message */
#define PARTS_ENTRY_MAX 65536u     /* of one part: in a large ring, too, others get their turn */

/* What is being sent. */
struct parts_out {
    const uint8_t *data;
    uint64_t bytes;
    uint64_t sent;
    uint64_t id;
    int64_t deadline_ns; /* 0: none */
    uint8_t kind;
    uint8_t flags;
};

/* What is being received. */
struct parts_in {
    bool open;
    uint8_t *data; /* NULL: let it pass */
    uint64_t bytes;
    uint64_t have;
    uint64_t id;
    int64_t deadline_ns;
    uint8_t kind;
    uint8_t flags;
};

/* The largest payload that goes into one entry: beyond, and beyond it only, a message travels in parts. */
static inline uint64_t parts_in_place_max(uint64_t capacity, uint32_t block)
{
    return ring_payload_max(capacity) - block;
}

/* A part's payload with its block. */
static inline uint64_t parts_payload_max(uint64_t capacity)
{
    return bf_min(capacity / 8, PARTS_ENTRY_MAX) - sizeof(struct belfry_abi_entry);
}

/* What the next part will take. */
static inline uint64_t parts_next_payload(const struct parts_out *p, uint64_t capacity)
{
    uint64_t rest = p->bytes - p->sent + (p->sent == 0 ? EXTENSION_BYTES_MAX : 0);
    return bf_min(rest, parts_payload_max(capacity));
}

/*
 * Put parts into the ring until it is full, all is sent, or `budget` bytes have gone. 1: all is sent; 0: not yet;
 * BELFRY_EPROTO. *moved: something has become visible.
 */
static inline int parts_send(struct ring_producer_local *ring, struct parts_out *p, uint64_t budget, bool *moved)
{
    for (uint64_t gone = 0; gone < budget;) {
        struct extension x = {0};
        void *room;
        if (p->sent == 0)
            x = (struct extension){.deadline_ns = p->deadline_ns,
                                   .whole_bytes = p->bytes,
                                   .whole_kind = p->kind,
                                   .whole_flags = p->flags};
        uint32_t block = extension_bytes(&x);
        uint64_t part = bf_min(p->bytes - p->sent, parts_payload_max(ring->capacity) - block);
        int rc = ring_reserve(ring, block + part, &room);
        if (rc < 0)
            return rc == -EAGAIN ? 0 : rc;
        if (block > 0)
            extension_write(room, &x);
        memcpy((uint8_t *)room + block, p->data + p->sent, part);
        ring_commit(ring, BELFRY_PART, block > 0 ? BELFRY_FLAG_EXTENDED : 0, p->id, block + part);
        *moved = true;
        p->sent += part;
        gone += part;
        if (p->sent == p->bytes)
            return 1;
    }
    return 0;
}

/* The first part of a message: *block is what its payload is behind. 0, BELFRY_EPROTO or BELFRY_EUNSUPPORTED. */
static inline int parts_open(struct parts_in *p, const struct ring_entry *e, uint32_t *block)
{
    struct extension x;
    int rc = extension_read(e, &x);
    if (rc < 0)
        return rc;
    PEER_CHECK(!p->open && x.whole_bytes > 0);
    *block = (uint32_t)rc;
    *p = (struct parts_in){.open = true,
                           .bytes = x.whole_bytes,
                           .id = e->id,
                           .deadline_ns = x.deadline_ns,
                           .kind = x.whole_kind,
                           .flags = x.whole_flags};
    return 0;
}

/* Copy a part to its place. 1: the message is whole; 0: more will come; BELFRY_EPROTO. */
static inline int parts_take(struct parts_in *p, const struct ring_entry *e, uint32_t block)
{
    uint64_t part = e->bytes - block;
    PEER_CHECK(p->open && e->id == p->id && part > 0 && part <= p->bytes - p->have);
    if (p->data != NULL)
        memcpy(p->data + p->have, (const uint8_t *)e->data + block, part);
    p->have += part;
    return p->have == p->bytes;
}

#endif

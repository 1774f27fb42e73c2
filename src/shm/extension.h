/* SPDX-License-Identifier: MIT */
/*
 * extension.h: what a message may carry between its header and its payload: a deadline, and whatever comes later.
 *
 * The block is copied out of shared memory word by word, once, and judged as a copy. An item that the reader does not
 * know makes the message unsupported, unless the writer marked it as one that may be ignored.
 */
#ifndef BF_SHM_EXTENSION_H
#define BF_SHM_EXTENSION_H

#include <string.h>

#include "shm/ring.h"

#define EXTENSION_BYTES_MAX 64u

struct extension {
    int64_t deadline_ns; /* 0: none */
};

/* What the block of `x` takes in the entry; 0: it needs none. */
static inline uint32_t extension_bytes(const struct extension *x)
{
    return x->deadline_ns != 0 ? 16 : 0;
}

/* Write the block to `at`, which is aligned to 8. */
static inline void extension_write(void *at, const struct extension *x)
{
    struct belfry_abi_extension *block = at;
    block->bytes = (uint16_t)extension_bytes(x);
    block->reserved = 0;
    block->item.type = BELFRY_ITEM_DEADLINE;
    block->item.bytes = sizeof x->deadline_ns;
    memcpy(block + 1, &x->deadline_ns, sizeof x->deadline_ns);
}

/* Read the block that `e` begins with. Its length in bytes; BELFRY_EPROTO; BELFRY_EUNSUPPORTED. */
static inline int extension_read(const struct ring_entry *e, struct extension *x)
{
    uint64_t copy[EXTENSION_BYTES_MAX / 8];
    struct belfry_abi_extension block;
    *x = (struct extension){0};
    PEER_CHECK(e->bytes >= sizeof block);
    copy[0] = load_relaxed((const uint64_t *)e->data);
    memcpy(&block, copy, sizeof block);
    PEER_CHECK(block.bytes >= sizeof block && block.bytes % 8 == 0 && block.bytes <= e->bytes);
    if (block.bytes > sizeof copy)
        return BELFRY_EUNSUPPORTED;
    for (uint32_t i = 1; i < block.bytes / 8u; i++)
        copy[i] = load_relaxed((const uint64_t *)e->data + i);

    /* Every item begins 4 bytes before a multiple of 8, so that its data is aligned. */
    for (uint32_t at = offsetof(struct belfry_abi_extension, item); at + sizeof block.item < block.bytes;) {
        struct belfry_abi_item item;
        const uint8_t *data = (const uint8_t *)copy + at + sizeof item;
        memcpy(&item, (const uint8_t *)copy + at, sizeof item);
        PEER_CHECK(item.bytes <= block.bytes - at - sizeof item);
        if (item.type == BELFRY_ITEM_DEADLINE) {
            PEER_CHECK(item.bytes == sizeof x->deadline_ns);
            memcpy(&x->deadline_ns, data, sizeof x->deadline_ns);
        } else if ((item.type & BELFRY_ITEM_OPTIONAL) == 0) {
            return BELFRY_EUNSUPPORTED;
        }
        at += 8 + ((item.bytes + 7u) & ~7u);
    }
    return block.bytes;
}

#endif

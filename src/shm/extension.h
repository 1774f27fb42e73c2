/* SPDX-License-Identifier: MIT */
/*
 * extension.h: what a message may carry between its header and its payload: a deadline, what its parts make, and
 * whatever comes later.
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
    int64_t deadline_ns;  /* 0: none */
    uint64_t whole_bytes; /* 0: it is no first part */
    uint8_t whole_kind;
    uint8_t whole_flags;
};

/* What an item takes: it begins 4 bytes before a multiple of 8, so that its data is aligned. */
static inline uint32_t extension_item_bytes(uint32_t data_bytes)
{
    return 8 + ((data_bytes + 7u) & ~7u);
}

/* What the block of `x` takes in the entry; 0: it needs none. */
static inline uint32_t extension_bytes(const struct extension *x)
{
    uint32_t items = (x->deadline_ns != 0 ? extension_item_bytes(sizeof x->deadline_ns) : 0) +
                     (x->whole_bytes != 0 ? extension_item_bytes(sizeof(struct belfry_abi_whole)) : 0);
    return items; /* 4 before the first item, and 4 less behind the last */
}

static inline uint8_t *extension_put(uint8_t *at, uint16_t type, const void *data, uint16_t bytes)
{
    struct belfry_abi_item item = {.type = type, .bytes = bytes};
    memcpy(at, &item, sizeof item);
    memcpy(at + sizeof item, data, bytes);
    return at + extension_item_bytes(bytes);
}

/* Write the block to `block`, which is aligned to 8. */
static inline void extension_write(void *block, const struct extension *x)
{
    struct belfry_abi_extension head = {.bytes = (uint16_t)extension_bytes(x)};
    struct belfry_abi_whole whole = {.bytes = x->whole_bytes, .kind = x->whole_kind, .flags = x->whole_flags};
    uint8_t *at = (uint8_t *)block + offsetof(struct belfry_abi_extension, item);
    memcpy(block, &head, sizeof head);
    if (x->deadline_ns != 0)
        at = extension_put(at, BELFRY_ITEM_DEADLINE, &x->deadline_ns, sizeof x->deadline_ns);
    if (x->whole_bytes != 0)
        extension_put(at, BELFRY_ITEM_WHOLE, &whole, sizeof whole);
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

    for (uint32_t at = offsetof(struct belfry_abi_extension, item); at + sizeof block.item < block.bytes;) {
        struct belfry_abi_item item;
        const uint8_t *data = (const uint8_t *)copy + at + sizeof item;
        memcpy(&item, (const uint8_t *)copy + at, sizeof item);
        PEER_CHECK(item.bytes <= block.bytes - at - sizeof item);
        if (item.type == BELFRY_ITEM_DEADLINE) {
            PEER_CHECK(item.bytes == sizeof x->deadline_ns);
            memcpy(&x->deadline_ns, data, sizeof x->deadline_ns);
        } else if (item.type == BELFRY_ITEM_WHOLE) {
            struct belfry_abi_whole whole;
            PEER_CHECK(item.bytes == sizeof whole);
            memcpy(&whole, data, sizeof whole);
            x->whole_bytes = whole.bytes;
            x->whole_kind = whole.kind;
            x->whole_flags = whole.flags;
        } else if ((item.type & BELFRY_ITEM_OPTIONAL) == 0) {
            return BELFRY_EUNSUPPORTED;
        }
        at += extension_item_bytes(item.bytes);
    }
    return block.bytes;
}

#endif

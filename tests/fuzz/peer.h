/* SPDX-License-Identifier: MIT */
/*
 * peer.h: the other side of a ring, as `drain` and `receive` have it: it speaks well, lies, and writes where it likes.
 */
#ifndef BF_TESTS_PEER_H
#define BF_TESTS_PEER_H

#include "feed.h"
#include "loads.h"
#include "shm/ring.h"
#include "shm/segment.h"

static inline void *peer_segment(size_t bytes)
{
    void *at;
    demand(posix_memalign(&at, 4096, bytes) == 0);
    memset(at, 0, bytes);
    return at;
}

/* An entry that is well-formed, but for what it says. */
static inline void peer_say(struct ring_producer_local *p, uint8_t kind, uint8_t flags, uint64_t id,
                            const void *payload, size_t bytes)
{
    void *room;
    loads_pause();
    if (ring_reserve(p, bytes, &room) == 0) {
        memcpy(room, payload, bytes);
        ring_commit(p, kind, flags, id, bytes);
    }
    loads_resume();
}

/* A header that lies, where the reader of this segment reads next. Ids are below `ids`. */
static inline void peer_lie(struct feed *f, void *segment, const struct ring_consumer_local *in, unsigned ids)
{
    uint8_t *ring = (uint8_t *)segment + SEGMENT_HEADER_BYTES;
    struct belfry_abi_entry entry = {.length = feed_16(f),
                                     .kind = feed_8(f),
                                     .flags = feed_8(f),
                                     .id = feed_8(f) % ids};
    if (entry.kind >= 128)
        entry.length *= 65537;
    memcpy(ring + ring_offset(in->position, in->colour, in->capacity), &entry, sizeof entry);
}

static inline void peer_write_anywhere(struct feed *f, void *segment, size_t segment_bytes)
{
    uint8_t bytes[16];
    size_t count = feed_8(f) % sizeof bytes + 1, at = feed_16(f) % (segment_bytes - sizeof bytes);
    feed_copy(f, bytes, count);
    memcpy((uint8_t *)segment + at, bytes, count);
}

#endif

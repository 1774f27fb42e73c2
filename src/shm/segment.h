/* SPDX-License-Identifier: MIT */
/*
 * segment.h: the two shared-memory files of a slot: their names, size, colour and header.
 *
 * Making, renaming and unlinking them is the pool's business (server/slot_pool.c); opening them the client's.
 */
#ifndef BF_SHM_SEGMENT_H
#define BF_SHM_SEGMENT_H

#include <belfry/abi.h>

#define SEGMENT_NAME_BYTES 96 /* "<service 63>_<N>_send" and a prefix */
#define SEGMENT_HEADER_BYTES BELFRY_ABI_PAGE

enum segment_side { SEGMENT_SEND = 0, SEGMENT_RECV = 1 };

struct segment_identity {
    uint64_t instance;
    uint32_t slot;
    uint32_t generation;
    uint32_t ring_bytes;
};

static inline uint64_t segment_bytes(uint32_t ring_bytes)
{
    return (uint64_t)SEGMENT_HEADER_BYTES + ring_bytes;
}

/*
 * Where position 0 of a slot's ring lies: another cache line per slot, within the first page, so that a thousand rings
 * in lock-step do not compete for the same cache sets; the two sides of a slot differ too.
 */
static inline uint32_t segment_colour(uint32_t slot, enum segment_side side)
{
    return ((slot * 5 + (side == SEGMENT_RECV ? 32 : 0)) % 64) * 64;
}

/* "<service>_<slot>_send", after `prefix`. */
void bf_segment_name(char name[SEGMENT_NAME_BYTES], const char *prefix, const char *service, uint32_t slot,
                     enum segment_side side);

/* "slot_<N>.lock" and back; parsing accepts the canonical spelling only, and slots below `max_slots`. */
void bf_lock_name(char name[SEGMENT_NAME_BYTES], uint32_t slot);
bool bf_lock_name_parse(const char *name, uint32_t max_slots, uint32_t *slot);

void bf_segment_header_init(struct belfry_abi_segment *header, const struct segment_identity *identity,
                            enum segment_side side);

/* 0; BELFRY_EVERSION; BELFRY_EPROTO: not a segment of that slot; -ESTALE: of another generation. */
int bf_segment_header_check(const struct belfry_abi_segment *header, const struct segment_identity *identity,
                            enum segment_side side);

#endif

/* SPDX-License-Identifier: MIT */
/* segment.c: see segment.h. */
#include "shm/segment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/order.h"

void bf_segment_name(char name[SEGMENT_NAME_BYTES], const char *prefix, const char *service, uint32_t slot,
                     enum segment_side side)
{
    snprintf(name, SEGMENT_NAME_BYTES, "%s%s_%u_%s", prefix, service, slot, side == SEGMENT_SEND ? "send" : "recv");
}

void bf_lock_name(char name[SEGMENT_NAME_BYTES], uint32_t slot)
{
    snprintf(name, SEGMENT_NAME_BYTES, "slot_%u.lock", slot);
}

bool bf_lock_name_parse(const char *name, uint32_t max_slots, uint32_t *slot)
{
    char canonical[SEGMENT_NAME_BYTES];
    unsigned long number;
    if (strncmp(name, "slot_", 5) != 0 || name[5] < '0' || name[5] > '9')
        return false;
    errno = 0;
    number = strtoul(name + 5, NULL, 10);
    if (errno != 0 || number >= max_slots)
        return false;
    /* Print it again and compare: "slot_07.lock" and "slot_4294967303.lock" are nobody's. */
    bf_lock_name(canonical, (uint32_t)number);
    if (strcmp(name, canonical) != 0)
        return false;
    *slot = (uint32_t)number;
    return true;
}

void bf_segment_header_init(struct belfry_abi_segment *header, const struct segment_identity *identity,
                            enum segment_side side)
{
    *header = (struct belfry_abi_segment){
        .magic = BELFRY_SEGMENT_MAGIC,
        .layout_hash = BELFRY_ABI_LAYOUT,
        .version = BELFRY_ABI_VERSION,
        .header_bytes = SEGMENT_HEADER_BYTES,
        .ring_bytes = identity->ring_bytes,
        .colour = segment_colour(identity->slot, side) & (identity->ring_bytes - 1),
        .slot = identity->slot,
        .generation = identity->generation,
        .instance = identity->instance,
    };
}

int bf_segment_header_check(const struct belfry_abi_segment *header, const struct segment_identity *identity,
                            enum segment_side side)
{
    const char *name = side == SEGMENT_SEND ? "send" : "recv";
    if (load_relaxed(&header->magic) != BELFRY_SEGMENT_MAGIC)
        return bf_error(BELFRY_EPROTO, "the %s segment of slot %u is not one of belfry's", name, identity->slot);
    if (load_relaxed(&header->version) != BELFRY_ABI_VERSION || load_relaxed(&header->layout_hash) != BELFRY_ABI_LAYOUT)
        return bf_error(BELFRY_EVERSION,
                        "the %s segment of slot %u has format version %u, this program speaks %u: upgrade the older",
                        name, identity->slot, load_relaxed(&header->version), BELFRY_ABI_VERSION);
    if (load_relaxed(&header->slot) != identity->slot || load_relaxed(&header->ring_bytes) != identity->ring_bytes ||
        load_relaxed(&header->instance) != identity->instance ||
        load_relaxed(&header->header_bytes) != SEGMENT_HEADER_BYTES ||
        load_relaxed(&header->colour) != (segment_colour(identity->slot, side) & (identity->ring_bytes - 1)))
        return bf_error(BELFRY_EPROTO, "the %s segment of slot %u belongs elsewhere", name, identity->slot);
    return load_relaxed(&header->generation) == identity->generation ? 0 : -ESTALE;
}

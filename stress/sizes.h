/* SPDX-License-Identifier: MIT */
/*
 * sizes.h: how large the messages are.
 *
 * "64" is one size, "16-4096" any size in between with equal chance, and "64:90,1024-8192:9,16000:1" picks one of
 * several such ranges by weight. No size is below SIZES_BYTES_MIN, because every message carries a header.
 */
#ifndef STRESS_SIZES_H
#define STRESS_SIZES_H

#include <stdint.h>

#define SIZES_BYTES_MIN 16u
#define SIZES_BYTES_MAX (256u << 20)
#define SIZES_RANGES_MAX 16

struct size_range {
    uint32_t low; /* bytes, inclusive like high */
    uint32_t high;
    uint32_t weight_sum; /* of this range and all before it */
};

struct sizes {
    uint32_t count;
    uint32_t bytes_max; /* the largest size that can come */
    struct size_range range[SIZES_RANGES_MAX];
};

/* Returns NULL and fills *out, or a sentence that says what is wrong with `text`. */
const char *sizes_parse(struct sizes *out, const char *text);

/* The next size, in bytes. `random` is the caller's generator state. */
uint32_t sizes_pick(const struct sizes *s, uint64_t *random);

/* A number of 64 random bits; `state` may start with any value. */
uint64_t random_next(uint64_t *state);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * feed.h: what a fuzz target makes of the bytes that the fuzzer chose, and how it says that something does not hold.
 *
 * Steps are taken from the front. What overwrites memory under a reader's eyes (loads.h) is taken from the back, as far as
 * the first byte of the input says; so a mutation of the one leaves the other as it is. An empty feed gives zeros.
 */
#ifndef BF_TESTS_FEED_H
#define BF_TESTS_FEED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct feed {
    const uint8_t *at;
    const uint8_t *end;
};

/* In any case, also when compiled without asserts. The fuzzer keeps the input that led here. */
#define demand(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "it does not hold that %s (%s:%d)\n", #condition, __FILE__, __LINE__); \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static inline bool feed_is_empty(const struct feed *f)
{
    return f->at == f->end;
}

static inline void feed_copy(struct feed *f, void *to, size_t bytes)
{
    size_t left = (size_t)(f->end - f->at), got = bytes < left ? bytes : left;
    memset(to, 0, bytes);
    if (got > 0)
        memcpy(to, f->at, got);
    f->at += got;
}

static inline uint8_t feed_8(struct feed *f)
{
    return feed_is_empty(f) ? 0 : *f->at++;
}

static inline uint16_t feed_16(struct feed *f)
{
    uint16_t value;
    feed_copy(f, &value, sizeof value);
    return value;
}

static inline uint32_t feed_32(struct feed *f)
{
    uint32_t value;
    feed_copy(f, &value, sizeof value);
    return value;
}

static inline uint64_t feed_64(struct feed *f)
{
    uint64_t value;
    feed_copy(f, &value, sizeof value);
    return value;
}

/* The input in two: steps, and what overwrites. Below 128 there is nothing of the latter. */
static inline struct feed feed_split(const uint8_t *data, size_t bytes, struct feed *spoils)
{
    struct feed all = {data, data + bytes};
    uint8_t share = feed_8(&all);
    size_t left = (size_t)(all.end - all.at), back = share < 128 ? 0 : left * (share - 127u) / 129;
    *spoils = (struct feed){all.end - back, all.end};
    return (struct feed){all.at, all.end - back};
}

#endif

/* SPDX-License-Identifier: MIT */
/* sizes.c: see sizes.h. */
#include "sizes.h"

#include <stdbool.h>
#include <stdlib.h>

/* Digits, and nothing that strtoul would forgive. Moves *text behind them. */
static bool parse_number(const char **text, uint32_t *out)
{
    uint64_t value = 0;
    const char *p = *text;
    for (; *p >= '0' && *p <= '9'; p++) {
        value = value * 10 + (uint64_t)(*p - '0');
        if (value > UINT32_MAX)
            return false;
    }
    if (p == *text)
        return false;
    *text = p;
    *out = (uint32_t)value;
    return true;
}

const char *sizes_parse(struct sizes *out, const char *text)
{
    uint64_t weight_sum = 0;
    *out = (struct sizes){0};
    for (const char *p = text;; p++) {
        if (out->count == SIZES_RANGES_MAX)
            return "takes at most 16 ranges";
        struct size_range *r = &out->range[out->count++];
        uint32_t weight = 1;
        if (!parse_number(&p, &r->low))
            return "wants sizes like 64, 16-4096 or 64:90,1024-8192:10";
        r->high = r->low;
        if (*p == '-' && (p++, !parse_number(&p, &r->high)))
            return "wants a number after '-'";
        if (*p == ':' && (p++, !parse_number(&p, &weight)))
            return "wants a weight after ':'";
        if (r->low < SIZES_BYTES_MIN)
            return "is too small: every message carries a header of 16 bytes";
        if (r->high > SIZES_BYTES_MAX)
            return "is too large: no ring takes a message of more than 256 MiB";
        if (r->high < r->low)
            return "has a range that ends before it begins";
        weight_sum += weight;
        if (weight == 0 || weight_sum > UINT32_MAX)
            return "wants weights of at least 1 and less than 4,294,967,296 in all";
        r->weight_sum = (uint32_t)weight_sum;
        if (r->high > out->bytes_max)
            out->bytes_max = r->high;
        if (*p == '\0')
            return NULL;
        if (*p != ',')
            return "wants sizes like 64, 16-4096 or 64:90,1024-8192:10";
    }
}

/* A number below `limit`; the bias of the multiplication is below one in 2^32 and does not matter here. */
static uint32_t random_below(uint64_t *random, uint32_t limit)
{
    return (uint32_t)((random_next(random) >> 32) * limit >> 32);
}

uint32_t sizes_pick(const struct sizes *s, uint64_t *random)
{
    const struct size_range *r = s->range;
    if (s->count > 1) {
        uint32_t lot = random_below(random, s->range[s->count - 1].weight_sum);
        while (lot >= r->weight_sum)
            r++;
    }
    return r->high == r->low ? r->low : r->low + random_below(random, r->high - r->low + 1);
}

/* A counter with an odd stride, scrambled: every state is good, which is all that is asked of it. */
uint64_t random_next(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 31) * 0xd6e8feb86659fd93ull;
    x = (x ^ x >> 29) * 0xd6e8feb86659fd93ull;
    return x ^ x >> 32;
}

/* SPDX-License-Identifier: MIT */
/* histogram.c: see histogram.h. */
#include "histogram.h"

uint32_t histogram_bucket(uint64_t value)
{
    if (value < HISTOGRAM_STEPS)
        return (uint32_t)value;
    uint32_t shift = 63u - (uint32_t)__builtin_clzll(value) - HISTOGRAM_BITS;
    return shift * HISTOGRAM_STEPS + (uint32_t)(value >> shift);
}

/* The values below HISTOGRAM_STEPS and those of the first power of two above have a bucket each: shift 0. */
static uint32_t bucket_shift(uint32_t bucket)
{
    uint32_t power = bucket / HISTOGRAM_STEPS;
    return power == 0 ? 0 : power - 1;
}

uint64_t histogram_bucket_low(uint32_t bucket)
{
    uint32_t shift = bucket_shift(bucket);
    return (uint64_t)(bucket - shift * HISTOGRAM_STEPS) << shift;
}

uint64_t histogram_bucket_high(uint32_t bucket)
{
    return histogram_bucket_low(bucket) + ((1ull << bucket_shift(bucket)) - 1);
}

void histogram_add(struct histogram *h, uint64_t value)
{
    if (h->count == 0 || value < h->min)
        h->min = value;
    if (value > h->max)
        h->max = value;
    h->count++;
    h->sum += value;
    h->bucket[histogram_bucket(value)]++;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    if (from->count == 0)
        return;
    if (into->count == 0 || from->min < into->min)
        into->min = from->min;
    if (from->max > into->max)
        into->max = from->max;
    into->count += from->count;
    into->sum += from->sum;
    for (uint32_t i = histogram_bucket(from->min), last = histogram_bucket(from->max); i <= last; i++)
        into->bucket[i] += from->bucket[i];
}

uint64_t histogram_percentile(const struct histogram *h, uint32_t per_mille)
{
    if (h->count == 0)
        return 0;
    /* ceil(count * per_mille / 1000), in two parts that cannot overflow */
    return histogram_at_rank(h, h->count / 1000 * per_mille + (h->count % 1000 * per_mille + 999) / 1000);
}

uint64_t histogram_at_rank(const struct histogram *h, uint64_t rank)
{
    if (rank == 0)
        return h->min;
    uint64_t seen = 0;
    for (uint32_t i = histogram_bucket(h->min), last = histogram_bucket(h->max); i < last; i++) {
        seen += h->bucket[i];
        if (seen >= rank)
            return histogram_bucket_high(i);
    }
    return h->max;
}

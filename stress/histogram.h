/* SPDX-License-Identifier: MIT */
/*
 * histogram.h: where latencies are counted.
 *
 * Log-linear: each power of two is cut into HISTOGRAM_STEPS equal buckets, so a value is known to better than one part
 * in HISTOGRAM_STEPS over the whole range of 64 bits, and nothing is ever out of range: no sample is thrown away.
 * Smallest, largest, count and sum are exact. A histogram is a flat struct without pointers: it may lie in memory that
 * processes share, and all zero bytes are an empty one. One writer; whoever reads waits until the writer is done.
 */
#ifndef STRESS_HISTOGRAM_H
#define STRESS_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_BITS 7
#define HISTOGRAM_STEPS (1u << HISTOGRAM_BITS)
#define HISTOGRAM_BUCKETS ((64u - HISTOGRAM_BITS + 1u) * HISTOGRAM_STEPS)

struct histogram {
    uint64_t count;
    uint64_t sum;
    uint64_t min; /* meaningless while count is 0 */
    uint64_t max;
    uint64_t bucket[HISTOGRAM_BUCKETS];
};

/* Which bucket a value falls into, and the smallest and largest value of a bucket. */
uint32_t histogram_bucket(uint64_t value);
uint64_t histogram_bucket_low(uint32_t bucket);
uint64_t histogram_bucket_high(uint32_t bucket);

void histogram_add(struct histogram *h, uint64_t value);

/* Add all of `from` to `into`. */
void histogram_merge(struct histogram *into, const struct histogram *from);

/*
 * The smallest value that at least `per_mille` thousandths of all samples do not exceed, rounded up to the end of its
 * bucket but never beyond the exact maximum: a percentile is at worst one bucket too pessimistic. 0 when empty.
 */
uint64_t histogram_percentile(const struct histogram *h, uint32_t per_mille);

/* The same for the `rank`-th smallest of all samples, 0 being the smallest: for percentiles that are finer. Not when empty. */
uint64_t histogram_at_rank(const struct histogram *h, uint64_t rank);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * ticks.h: the clock for single round trips: the processor's own counter where there is one, since reading
 * CLOCK_MONOTONIC costs 22 ns and a round trip 160.
 */
#ifndef BENCH_TICKS_H
#define BENCH_TICKS_H

#include <stdint.h>
#include <time.h>

static inline int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

#if defined(__x86_64__)
static inline uint64_t ticks_now(void)
{
    return __builtin_ia32_rdtsc();
}
#else
static inline uint64_t ticks_now(void)
{
    return (uint64_t)clock_ns();
}
#endif

/* Nanoseconds per tick, as the main process has measured it before its first fork. */
extern double ticks_ns;

void ticks_calibrate(void);

static inline uint64_t ticks_to_ns(uint64_t ticks)
{
    return (uint64_t)((double)ticks * ticks_ns);
}

static inline uint64_t ticks_from_seconds(double seconds)
{
    return (uint64_t)(seconds * 1e9 / ticks_ns);
}

#endif

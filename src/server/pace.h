/* SPDX-License-Identifier: MIT */
/*
 * pace.h: how long a shard's turns take. While one lasts, all other clients of the shard wait: a handler that blocks, or a
 * processor that was taken away, shows here and nowhere else.
 *
 * Each turn is timed, in ticks of the processor (decisions/0020). Only one of 64 us and more costs anything beyond that: it
 * is counted by its length. Sleeping is no turn, nor is what a program does between the turns of its own loop.
 */
#ifndef BF_SERVER_PACE_H
#define BF_SERVER_PACE_H

#include "base/check.h"
#include "base/cycles.h"

struct bf_shard;

struct bf_pace {
    uint64_t mark;        /* when this turn began, in ticks */
    uint64_t long_cycles; /* BELFRY_LONG_TURN_NS, as far as is known; 0: not at all */
    uint64_t first_mark;  /* one moment on both clocks */
    int64_t first_ns;
    int64_t warn_at_ns; /* the next line about a stall may come then */
};

void bf_pace_init(struct bf_pace *pace);

/* A turn took so many ticks, which are many. */
void bf_pace_long(struct bf_shard *shard, struct bf_pace *pace, uint64_t cycles) __attribute__((cold));

/* A turn begins. */
static inline void pace_start(struct bf_pace *pace)
{
    pace->mark = cpu_cycles();
}

/* It is over, and the next one begins. */
static inline void pace_turn(struct bf_shard *shard, struct bf_pace *pace)
{
    uint64_t now = cpu_cycles(), cycles = now - pace->mark;
    pace->mark = now;
    if (bf_unlikely(cycles >= pace->long_cycles))
        bf_pace_long(shard, pace, cycles);
}

#endif

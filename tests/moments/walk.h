/* SPDX-License-Identifier: MIT */
/*
 * walk.h: one death at each moment, and at each place.
 *
 * Every `every`-th moment, or $BELFRY_MOMENTS_EVERY-th (1: all), from one that the printed seed chooses. A run is not like the
 * one before: who finds the other asleep rings, who finds him awake does not. So the walk goes on until a few runs in a
 * row have come to their end alive; and then it goes to the places in the program that were reached and where nobody has
 * died, to each until somebody has.
 */
#ifndef BF_TESTS_MOMENTS_WALK_H
#define BF_TESTS_MOMENTS_WALK_H

#include <unistd.h>

#include "fixture.h"
#include "moments.h"

/* As eventually(), for what takes less than a millisecond and is done thousands of times. */
#define soon(condition)                                              \
    ({                                                               \
        int64_t until_ = fixture_now_ms() + FIXTURE_PATIENCE_MS;     \
        bool holds_;                                                 \
        while (!(holds_ = (condition)) && fixture_now_ms() < until_) \
            usleep(100);                                             \
        holds_;                                                      \
    })

struct walk {
    const char *name;
    uint64_t fatal; /* for moments_arm() */
    uint64_t every;
    uint64_t kills;
    uint64_t moments; /* of the longest run */
    unsigned survived;
    int64_t began_ms;
};

void walk_begin(struct walk *walk, const char *name, uint64_t every);
bool walk_on(struct walk *walk);
void walk_result(struct walk *walk, bool died);
void walk_end(struct walk *walk); /* prints what there was */

#endif

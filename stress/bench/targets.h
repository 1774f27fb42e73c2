/* SPDX-License-Identifier: MIT */
/*
 * targets.h: what belfry wants to reach, as ratios between rows of one run, and whether it does.
 *
 * A target whose rows were not run is not known: neither met nor missed. One whose baseline was in another state than
 * what is compared with it is known and unusable: it does not count as met, however good the quotient looks.
 */
#ifndef BENCH_TARGETS_H
#define BENCH_TARGETS_H

#include "rows.h"

struct target {
    const char *name;
    const char *sentence; /* what the value is */
    double value;
    double target;
    bool at_least; /* else: at most */
    bool known;    /* the rows are there */
    bool usable;   /* the quotient can be what it claims to be */
    bool met;      /* only if it is usable */
};

extern const uint32_t targets_count;

/* The target of that index, compared with the rows. */
struct target target_check(uint32_t index, const struct bench_rows *rows);

#endif

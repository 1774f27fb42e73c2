/* SPDX-License-Identifier: MIT */
/* limit.h: the limits of the machine as rows of the plan, measured in the same turns as the systems beside them. */
#ifndef BENCH_LIMIT_H
#define BENCH_LIMIT_H

#include "rows.h"

struct bench_limit {
    const char *name;
    const char *what; /* a line for the table's legend */
    /* Does it say something about that case? */
    bool (*applies)(const struct bench_case *c);
    void (*measure)(const struct bench_case *c, double seconds, double figure[FIGURES]);
};

extern const struct bench_limit bench_limits[];
extern const uint32_t bench_limit_count;

/* The one-line ping-pong between the two cores, for some milliseconds: its median in nanoseconds. */
double limits_line_ns(void);

/* Where the sides of a case run: LAB_ANY_CORE or a core. */
int placement_server_core(enum placement p);
int placement_client_core(enum placement p);

struct histogram;
void figures_of_times(const struct histogram *h, double figure[FIGURES]);

#endif

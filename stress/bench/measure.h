/* SPDX-License-Identifier: MIT */
/* measure.h: one measurement: one system in one case, once, in processes of its own. */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include "rows.h"
#include "system.h"

struct measurement {
    const struct bench_case *of;
    const struct bench_system *system;
    bool spin;
    bool corrupt_one; /* spoil one message: it must fail */
    enum beside beside;
    double seconds;
};

/* Can the system do that case at all? NULL: yes; else why not, for the legend. */
const char *measure_refusal(const struct bench_system *system, const struct bench_case *c);

/* Fill in the figures. False, after sentences that say why: it failed. */
bool measure(const struct measurement *m, double figure[FIGURES]);

#endif

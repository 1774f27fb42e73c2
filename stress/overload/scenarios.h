/* SPDX-License-Identifier: MIT */
/* scenarios.h: all plans there are, in the order in which they run, and how each runs. */
#ifndef OVERLOAD_SCENARIOS_H
#define OVERLOAD_SCENARIOS_H

#include "plan.h"

extern const struct plan plans[];
extern const size_t plan_count;

const struct scale *scale_of(const struct overload_options *o);

/* Run it, unless it is skipped; s->row has what came of it. */
void plan_run(struct stage *s, const struct plan *p);

#endif

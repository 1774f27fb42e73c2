/* SPDX-License-Identifier: MIT */
/* report.h: what was measured, as people read it and as programs do. */
#ifndef OVERLOAD_REPORT_H
#define OVERLOAD_REPORT_H

#include <stdio.h>

#include "plan.h"

void report_head(const struct overload_options *o);
void report_row(const struct plan *p, const struct row *row); /* as soon as it is there */
bool report_json(const struct overload_options *o, const struct row *rows, FILE *out);

/* What was promised of neighbours, against a situation: at least so much of their throughput, at most so much of their
   p99. */
#define PROMISED_RATE 0.9
#define PROMISED_P99 2.0

#endif

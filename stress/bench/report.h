/* SPDX-License-Identifier: MIT */
/* report.h: the results for people: a table per case, the legend, the targets; and all of it as JSON (report_json.c). */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include "options.h"
#include "rows.h"

/* On which machine, how often and how long. */
void report_heading(const struct options *o);

/* The rows of one case. */
void report_case(const struct bench_row *first, uint32_t count);

/* What the systems are, and which of them sat out which cases. */
void report_legend(const struct options *o);

/* Each target and whether it is met. True: none that is known is missed. */
bool report_targets(const struct bench_rows *rows);

/* The cases and the systems, for --list. */
void report_list(void);

/* False: it could not be written. */
bool report_json(const struct bench_rows *rows, const struct options *o, FILE *out);

#endif

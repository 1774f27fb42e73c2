/* SPDX-License-Identifier: MIT */
/* report.h: the results, for people (report.c) and for programs (report_json.c). */
#ifndef STRESS_REPORT_H
#define STRESS_REPORT_H

#include "run.h"

#include <stdio.h>

/* The table. */
void report_print(const struct results *r, const struct options *o, const struct service *s, FILE *out);

/* One JSON object. What could not be measured is null. False: it could not be written. */
bool report_json(const struct results *r, const struct options *o, FILE *out);

#endif

/* SPDX-License-Identifier: MIT */
/* plots.h: a plot per workload, as SVG, drawn by gnuplot. */
#ifndef BENCH_PLOTS_H
#define BENCH_PLOTS_H

#include "rows.h"

/* <directory>/<workload>.svg for each workload that has rows. False, after a sentence: gnuplot cannot or would not. */
bool plots_write(const struct bench_rows *rows, const char *directory);

#endif

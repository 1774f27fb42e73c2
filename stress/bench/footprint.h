/* SPDX-License-Identifier: MIT */
/*
 * footprint.h: the memory of a server at one moment, in whatever place the kernel counts it.
 *
 * What belongs to no process is counted for the whole machine, so two footprints are compared, and nothing else should
 * come or go in between.
 */
#ifndef BENCH_FOOTPRINT_H
#define BENCH_FOOTPRINT_H

#include "../proc.h"
#include "rows.h"

struct footprint {
    struct proc_size server;
    int64_t files_bytes; /* blocks of all files on the file system of the run, also of removed ones still mapped */
    int64_t files;       /* inodes there */
    int64_t slab_bytes;  /* the kernel's small objects, of all processes */
};

/* Of the server, and of the file system that `folder` is on. */
struct footprint footprint_take(pid_t server, const char *folder);

/* What one of `connections` costs, when they are all that came between the two. */
void footprint_per_connection(const struct footprint *before, const struct footprint *after, uint32_t connections,
                              double figure[FIGURES]);

#endif

/* SPDX-License-Identifier: MIT */
/* options.h: what the command line asked for, checked; nothing else looks at argv. */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define EXIT_USAGE 64       /* the command line made no sense */
#define EXIT_UNAVAILABLE 69 /* this machine cannot run the bench */

#define OPTIONS_SYSTEMS_MAX 16

struct options {
    bool list;                               /* only say what there is */
    bool quick;                              /* the short plan: one round, within three minutes */
    bool corrupt_one;                        /* spoil one message of each run: each must fail */
    bool require_targets;                    /* a target that is not met is a failure */
    double seconds;                          /* per measurement */
    uint32_t rounds;                         /* measurements per row */
    const char *system[OPTIONS_SYSTEMS_MAX]; /* only these and the limits */
    uint32_t systems;                        /* how many; 0: all there are */
    int workload;                            /* enum workload, only this one; -1: all */
    uint32_t connections;                    /* only cases with that many; 0: all */
    FILE *json;                              /* NULL: none; opened early, so that a wrong path does not cost a run */
    const char *plots;                       /* a directory for them, which there is; NULL: none */
};

/* Fill *o. Returns -1 to go on, or the status to exit with: 0 after --help, EXIT_USAGE after a sentence. */
int options_parse(struct options *o, int argc, char **argv);

#endif

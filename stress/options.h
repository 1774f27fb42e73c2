/* SPDX-License-Identifier: MIT */
/* options.h: what the command line asked for, checked and complete; nothing else looks at argv. */
#ifndef STRESS_OPTIONS_H
#define STRESS_OPTIONS_H

#include "sizes.h"

#include <belfry/types.h>
#include <stdbool.h>
#include <stdio.h>

#define EXIT_USAGE 64       /* the command line made no sense */
#define EXIT_UNAVAILABLE 69 /* this machine cannot run a server */

struct options {
    const char *service; /* NULL: start a server of our own */
    const char *root;    /* NULL: the library's default */
    const char *bytes;   /* as it was given, for the table */
    FILE *json;          /* NULL: none; opened early, so that a wrong path does not cost a run */

    uint32_t connections;
    uint32_t processes; /* at most `connections` */
    uint32_t threads;   /* per process */
    uint32_t workers;   /* processes * threads; worker w has connections w, w + workers, ... */
    uint32_t depth;     /* requests in flight per connection */
    double seconds;
    double rate;         /* messages per second in all; 0: closed loop */
    double churn;        /* connections closed and reopened per second in all */
    double idle_seconds; /* 0: do not measure */
    struct sizes sizes;
    uint64_t seed;
    bool corrupt_one;

    enum belfry_spin spin; /* of server and clients */
    uint32_t shards;       /* the rest is for a server of our own */
    uint32_t max_slots;
    uint32_t ring_bytes; /* 0: the library's default */
    int64_t warm_pool;   /* -1: the library's default */
};

/*
 * Fill *o from the command line. Returns -1 to go on, or the status to exit with: 0 after --help, EXIT_USAGE after a
 * sentence on standard error.
 */
int options_parse(struct options *o, int argc, char **argv);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * cases.h: what is measured: a table of cases, each one workload with one setting, and how to call them.
 *
 * It is data alone: plan.c decides which systems can do a case, and measure.c does it.
 */
#ifndef BENCH_CASES_H
#define BENCH_CASES_H

#include <stdbool.h>
#include <stdint.h>

enum workload {
    WORKLOAD_PINGPONG,  /* one connection, one request at a time */
    WORKLOAD_STREAM,    /* one way */
    WORKLOAD_MANY,      /* N connections in one process, one request in flight on each */
    WORKLOAD_PROCESSES, /* N processes with a connection each, closed loop or at a rate */
    WORKLOAD_IDLE,      /* N silent connections */
    WORKLOAD_CONNECT,   /* connect, one reply, leave */
    WORKLOAD_MEMORY,    /* what a connection costs */
    WORKLOAD_NEIGHBOUR, /* a ping-pong on one connection while another one is a nuisance */
    WORKLOADS,
};

/* Server on core 0 and clients on core 1; both on core 0; wherever the kernel puts them. */
enum placement { PLACE_SPLIT, PLACE_SHARED, PLACE_UNPINNED };

/* Who runs on the client's core besides the client that is measured. */
enum beside {
    BESIDE_NOBODY,
    BESIDE_BURNER,    /* a process that only burns CPU: what sharing the core costs, whatever the server does */
    BESIDE_FLOODER,   /* a connection that sends one way as hard as it can */
    BESIDE_CONNECTOR, /* a process that connects and leaves as fast as it can */
    BESIDES,
};

struct bench_case {
    enum workload workload;
    enum placement placement;
    uint32_t connections;
    uint32_t bytes;
    uint32_t ring_bytes; /* for belfry alone: rings of that size; 0: what the payload asks for */
    double rate;         /* messages (or connects) per second in all; 0: closed loop */
    double weight;       /* how many times --seconds a measurement takes; 0: once */
    uint32_t besides;    /* WORKLOAD_NEIGHBOUR: 1 << beside, for each that is to be measured */
    bool both_spins;     /* who can spin is measured spinning and not spinning, else spinning */
    bool once;           /* the last round alone: it is long, or it counts what does not drift */
    bool quick;          /* part of --quick */
};

extern const struct bench_case bench_cases[];
extern const uint32_t bench_case_count;

const char *workload_name(enum workload w); /* "pingpong" */
const char *workload_what(enum workload w); /* a line about it */
int workload_find(const char *name);        /* -1: none is called that */
const char *placement_name(enum placement p);
const char *beside_name(enum beside b);

/* "1,000 connections, 64 bytes, split, open loop at 10,000 per second"; at most CASE_CHARS. */
#define CASE_CHARS 160
const char *case_describe(char out[CASE_CHARS], const struct bench_case *c);

/* The same workload with the same setting? */
bool case_same(const struct bench_case *a, const struct bench_case *b);

#endif

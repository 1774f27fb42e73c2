/* SPDX-License-Identifier: MIT */
/* cases.c: see cases.h. */
#include "cases.h"

#include <stdio.h>
#include <string.h>

#include "../text.h"

/* 4 KiB rings hold the bench's 64 bytes; 64 KiB is what a server has by default. */
#define RING_SMALL 4096u
#define RING_USUAL 65536u

#define BIT(beside) (1u << (beside))

const struct bench_case bench_cases[] = {
#define PINGPONG .workload = WORKLOAD_PINGPONG, .connections = 1, .both_spins = true
    {PINGPONG, .placement = PLACE_SPLIT, .bytes = 64, .quick = true},
    {PINGPONG, .placement = PLACE_SPLIT, .bytes = 1024},
    {PINGPONG, .placement = PLACE_SPLIT, .bytes = 65536, .quick = true},
    {PINGPONG, .placement = PLACE_SHARED, .bytes = 64, .quick = true},
    {PINGPONG, .placement = PLACE_SHARED, .bytes = 1024},
    {PINGPONG, .placement = PLACE_SHARED, .bytes = 65536},
    {PINGPONG, .placement = PLACE_UNPINNED, .bytes = 64},
    {PINGPONG, .placement = PLACE_UNPINNED, .bytes = 1024},
    {PINGPONG, .placement = PLACE_UNPINNED, .bytes = 65536},

#define STREAM .workload = WORKLOAD_STREAM, .placement = PLACE_SPLIT, .connections = 1
    {STREAM, .bytes = 64, .quick = true},
    {STREAM, .bytes = 4096, .quick = true},

#define MANY .workload = WORKLOAD_MANY, .placement = PLACE_SPLIT, .bytes = 64
    {MANY, .connections = 1},
    {MANY, .connections = 64, .quick = true},
    {MANY, .connections = 256},
    {MANY, .connections = 1000, .quick = true},
    {MANY, .connections = 4000},

#define PROCESSES .workload = WORKLOAD_PROCESSES, .placement = PLACE_UNPINNED, .bytes = 64
    {PROCESSES, .connections = 100, .quick = true},
    {PROCESSES, .connections = 100, .rate = 10000, .quick = true},
    {PROCESSES, .connections = 1000, .weight = 2},
    {PROCESSES, .connections = 1000, .rate = 10000},
    {PROCESSES, .connections = 1000, .rate = 100000},

#define IDLE .workload = WORKLOAD_IDLE, .placement = PLACE_SPLIT, .bytes = 64, .weight = 5, .once = true
    {IDLE, .connections = 1000, .quick = true},
    {IDLE, .connections = 4000},

#define CONNECT .workload = WORKLOAD_CONNECT, .placement = PLACE_SPLIT, .connections = 1, .bytes = 64
    {CONNECT, .rate = 500, .quick = true},
    {CONNECT, .quick = true},
    {CONNECT, .ring_bytes = RING_SMALL, .quick = true},

#define MEMORY .workload = WORKLOAD_MEMORY, .placement = PLACE_SPLIT, .connections = 1000, .bytes = 64, .once = true
    {MEMORY, .quick = true},
    {MEMORY, .ring_bytes = RING_SMALL, .quick = true},

#define NEIGHBOUR .workload = WORKLOAD_NEIGHBOUR, .placement = PLACE_SPLIT, .connections = 2, .bytes = 64
    {NEIGHBOUR, .besides = BIT(BESIDE_NOBODY) | BIT(BESIDE_BURNER) | BIT(BESIDE_FLOODER), .quick = true},
    {NEIGHBOUR, .rate = 1000, .ring_bytes = RING_USUAL, .besides = BIT(BESIDE_BURNER) | BIT(BESIDE_CONNECTOR),
     .quick = true},
    {NEIGHBOUR, .rate = 1000, .ring_bytes = RING_SMALL, .besides = BIT(BESIDE_BURNER) | BIT(BESIDE_CONNECTOR)},
};
const uint32_t bench_case_count = sizeof bench_cases / sizeof bench_cases[0];

static const struct {
    const char *name, *what;
} workloads[WORKLOADS] = {
    [WORKLOAD_PINGPONG] = {"pingpong", "one connection, one request at a time"},
    [WORKLOAD_STREAM] = {"stream", "one way on one connection, as fast as it is taken; the server checks every byte"},
    [WORKLOAD_MANY] = {"many", "connections of one client thread, one request in flight on each"},
    [WORKLOAD_PROCESSES] = {"processes", "client processes with a connection each"},
    [WORKLOAD_IDLE] = {"idle", "the server's CPU while all connections are silent"},
    [WORKLOAD_CONNECT] = {"connect", "connect, one request, its reply, leave"},
    [WORKLOAD_MEMORY] = {"memory", "what a silent connection costs, in bytes"},
    [WORKLOAD_NEIGHBOUR] = {"neighbour", "a ping-pong while somebody else on the client's core is a nuisance"},
};

const char *workload_name(enum workload w)
{
    return workloads[w].name;
}

const char *workload_what(enum workload w)
{
    return workloads[w].what;
}

int workload_find(const char *name)
{
    for (int w = 0; w < WORKLOADS; w++)
        if (strcmp(workloads[w].name, name) == 0)
            return w;
    return -1;
}

const char *placement_name(enum placement p)
{
    static const char *const name[] = {"split", "shared", "unpinned"};
    return name[p];
}

const char *beside_name(enum beside b)
{
    static const char *const name[BESIDES] = {"alone", "beside a burner", "beside a flooder", "beside a connector"};
    return name[b];
}

const char *case_describe(char out[CASE_CHARS], const struct bench_case *c)
{
    char connections[TEXT_CHARS], bytes[TEXT_CHARS], rate[TEXT_CHARS], rings[TEXT_CHARS], open[64] = "", ring[64] = "";
    if (c->rate > 0)
        snprintf(open, sizeof open, c->workload == WORKLOAD_CONNECT ? ", at most %s a second" : ", open loop at %s/s",
                 text_grouped(rate, (int64_t)c->rate));
    if (c->ring_bytes > 0)
        snprintf(ring, sizeof ring, ", rings of %s bytes", text_grouped(rings, c->ring_bytes));
    snprintf(out, CASE_CHARS, "%s connection%s, %s bytes, %s%s%s", text_grouped(connections, c->connections),
             c->connections == 1 ? "" : "s", text_grouped(bytes, c->bytes), placement_name(c->placement), open, ring);
    return out;
}

bool case_same(const struct bench_case *a, const struct bench_case *b)
{
    return a->workload == b->workload && a->placement == b->placement && a->connections == b->connections &&
           a->bytes == b->bytes && a->ring_bytes == b->ring_bytes && a->rate == b->rate;
}

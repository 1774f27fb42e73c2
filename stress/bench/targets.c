/* SPDX-License-Identifier: MIT */
/*
 * targets.c: see targets.h. A target is a figure, or a figure divided by another one, and a bound.
 *
 * What needs other tools than a clock (system calls per message, instructions per message) is not here.
 */
#include "targets.h"

#include <string.h>

/* A figure of a row. */
struct operand {
    const char *system;
    enum figure figure;
    struct bench_case of;
    bool spin;
    enum beside beside;
};

struct rule {
    const char *name, *sentence;
    double target;
    bool at_least;
    struct operand value, by; /* by.system NULL: not divided */
    bool harm;                /* what a nuisance does beyond a busy loop */
};

#define AT_MOST(bound) .target = (bound), .at_least = false
#define AT_LEAST(bound) .target = (bound), .at_least = true

#define PINGPONG(place, size) \
    .of = {.workload = WORKLOAD_PINGPONG, .placement = PLACE_##place, .connections = 1, .bytes = (size)}
#define STREAM(size) .of = {.workload = WORKLOAD_STREAM, .placement = PLACE_SPLIT, .connections = 1, .bytes = (size)}
#define MANY(n) .of = {.workload = WORKLOAD_MANY, .placement = PLACE_SPLIT, .connections = (n), .bytes = 64}
#define PROCESSES(per_second)              \
    .of = {.workload = WORKLOAD_PROCESSES, \
           .placement = PLACE_UNPINNED,    \
           .connections = 1000,            \
           .bytes = 64,                    \
           .rate = (per_second)}
#define IDLE(n) .of = {.workload = WORKLOAD_IDLE, .placement = PLACE_SPLIT, .connections = (n), .bytes = 64}
#define MEMORY .of = {.workload = WORKLOAD_MEMORY, .placement = PLACE_SPLIT, .connections = 1000, .bytes = 64}
#define CONNECT(per_second, rings)       \
    .of = {.workload = WORKLOAD_CONNECT, \
           .placement = PLACE_SPLIT,     \
           .connections = 1,             \
           .bytes = 64,                  \
           .ring_bytes = (rings),        \
           .rate = (per_second)}
#define NEIGHBOUR(per_second, rings)       \
    .of = {.workload = WORKLOAD_NEIGHBOUR, \
           .placement = PLACE_SPLIT,       \
           .connections = 2,               \
           .bytes = 64,                    \
           .ring_bytes = (rings),          \
           .rate = (per_second)}

#define SPINNING(name) .system = "belfry", .figure = FIGURE_##name, .spin = true
#define SLEEPING(name) .system = "belfry", .figure = FIGURE_##name, .spin = false
#define EPOLL(name) .system = "unix-epoll", .figure = FIGURE_##name
#define LIMIT(which, name) .system = which, .figure = FIGURE_##name

/*
 * A nuisance that talks to the server cannot help its neighbour. Beside a busy loop a spinning client either goes on
 * spinning or gives up and sleeps, and which one differs from run to run by a factor of hundreds; a quotient that says
 * "better than beside the busy loop", by more than noise, compares a spinning client with a sleeping one.
 */
#define HARM_NOISE 1.5
#define HARM .harm = true, .value =

static const struct rule rules[] = {
    {"pingpong 64 p50",
     "p50, spinning, cores split, over the one-line ping-pong beside it",
     AT_MOST(1.3),
     {SPINNING(P50), PINGPONG(SPLIT, 64)},
     {SPINNING(LINE), PINGPONG(SPLIT, 64)}},
    {"pingpong 64 p99",
     "p99 over its own p50, spinning, cores split",
     AT_MOST(2),
     {SPINNING(P99), PINGPONG(SPLIT, 64)},
     {SPINNING(P50), PINGPONG(SPLIT, 64)}},
    {"pingpong 64 KiB",
     "p50 in place over the time to write, copy back and read 64 KiB in fixed buffers",
     AT_MOST(1.2),
     {SPINNING(P50), PINGPONG(SPLIT, 65536)},
     {LIMIT("memory", P50), PINGPONG(SPLIT, 65536)}},
    {"blocking shared, futex",
     "p50 without spinning, one core for both, over a futex ping-pong there",
     AT_MOST(1.2),
     {SLEEPING(P50), PINGPONG(SHARED, 64)},
     {LIMIT("futex", P50), PINGPONG(SHARED, 64)}},
    {"blocking shared, epoll",
     "p50 without spinning, one core for both, over AF_UNIX with epoll there",
     AT_MOST(0.55),
     {SLEEPING(P50), PINGPONG(SHARED, 64)},
     {EPOLL(P50), PINGPONG(SHARED, 64)}},
    {"blocking split",
     "p50 without spinning, cores split, over a futex ping-pong there",
     AT_MOST(1.1),
     {SLEEPING(P50), PINGPONG(SPLIT, 64)},
     {LIMIT("futex", P50), PINGPONG(SPLIT, 64)}},
    {"spinning shared",
     "p50 with spinning allowed, one core for both, over a futex ping-pong there",
     AT_MOST(1.5),
     {SPINNING(P50), PINGPONG(SHARED, 64)},
     {LIMIT("futex", P50), PINGPONG(SHARED, 64)}},

    {"many 64 rate",
     "requests per second over 64 connections, times AF_UNIX with epoll",
     AT_LEAST(30),
     {SPINNING(PER_SECOND), MANY(64)},
     {EPOLL(PER_SECOND), MANY(64)}},
    {"many 1000 rate",
     "requests per second over 1,000 connections, times AF_UNIX with epoll",
     AT_LEAST(40),
     {SPINNING(PER_SECOND), MANY(1000)},
     {EPOLL(PER_SECOND), MANY(1000)}},
    {"many 1000 CPU",
     "CPU per request of both sides, times AF_UNIX with epoll",
     AT_MOST(1.0 / 30),
     {SPINNING(CPU), MANY(1000)},
     {EPOLL(CPU), MANY(1000)}},
    {"many 4000 rate",
     "requests per second over 4,000 connections, over those over 1,000",
     AT_LEAST(0.7),
     {SPINNING(PER_SECOND), MANY(4000)},
     {SPINNING(PER_SECOND), MANY(1000)}},

    {"processes closed",
     "requests per second of 1,000 processes, times AF_UNIX with epoll",
     AT_LEAST(2),
     {SPINNING(PER_SECOND), PROCESSES(0)},
     {EPOLL(PER_SECOND), PROCESSES(0)}},
    {"processes 10k CPU",
     "CPU per message of both sides at 10,000 per second, times AF_UNIX with epoll",
     AT_MOST(0.5),
     {SPINNING(CPU), PROCESSES(10000)},
     {EPOLL(CPU), PROCESSES(10000)}},
    {"processes 10k p99.9",
     "p99.9 at 10,000 per second, times AF_UNIX with epoll",
     AT_MOST(1),
     {SPINNING(P99_9), PROCESSES(10000)},
     {EPOLL(P99_9), PROCESSES(10000)}},
    {"processes 100k CPU",
     "CPU per message of both sides at 100,000 per second, times AF_UNIX with epoll",
     AT_MOST(0.5),
     {SPINNING(CPU), PROCESSES(100000)},
     {EPOLL(CPU), PROCESSES(100000)}},
    {"processes 100k p99.9",
     "p99.9 at 100,000 per second, times AF_UNIX with epoll",
     AT_MOST(1),
     {SPINNING(P99_9), PROCESSES(100000)},
     {EPOLL(P99_9), PROCESSES(100000)}},

    {"stream 64", "messages per second one way", AT_LEAST(50e6), {SPINNING(PER_SECOND), STREAM(64)}, {0}},
    {"stream 4 KiB, memcpy",
     "bandwidth one way, over memcpy into a buffer that nobody reads",
     AT_LEAST(0.9),
     {SPINNING(PER_SECOND), STREAM(4096)},
     {LIMIT("memcpy", PER_SECOND), STREAM(4096)}},
    {"stream 4 KiB, handover",
     "bandwidth one way, over memcpy into a buffer that the other core reads",
     AT_LEAST(0.9),
     {SPINNING(PER_SECOND), STREAM(4096)},
     {LIMIT("handover", PER_SECOND), STREAM(4096)}},

    {"idle 1000 CPU",
     "percent of a core, 1,000 silent connections; 0.0 %",
     AT_MOST(0.05),
     {SPINNING(CPU_PERCENT), IDLE(1000)},
     {0}},
    {"idle 1000 wake-ups", "per second, 1,000 silent connections", AT_MOST(2), {SPINNING(WAKEUPS), IDLE(1000)}, {0}},
    {"idle 4000 CPU",
     "percent of a core, 4,000 silent connections; 0.0 %",
     AT_MOST(0.05),
     {SPINNING(CPU_PERCENT), IDLE(4000)},
     {0}},
    {"idle 4000 wake-ups", "per second, 4,000 silent connections", AT_MOST(2), {SPINNING(WAKEUPS), IDLE(4000)}, {0}},

    {"connect warm",
     "p50 from connecting to the first reply, warm slots, times AF_UNIX with epoll",
     AT_MOST(2),
     {SPINNING(P50), CONNECT(500, 0)},
     {EPOLL(P50), CONNECT(500, 0)}},
    {"connects 64 KiB",
     "connects with a reply per second, rings of 64 KiB",
     AT_LEAST(3000),
     {SPINNING(PER_SECOND), CONNECT(0, 0)},
     {0}},
    {"connects 4 KiB",
     "connects with a reply per second, rings of 4 KiB",
     AT_LEAST(8000),
     {SPINNING(PER_SECOND), CONNECT(0, 4096)},
     {0}},
    {"connects, neighbour 64 KiB",
     "p99 of a paced ping-pong beside connects, times beside a busy loop",
     AT_MOST(2),
     HARM{SPINNING(P99), NEIGHBOUR(1000, 65536), .beside = BESIDE_CONNECTOR},
     {SPINNING(P99), NEIGHBOUR(1000, 65536), .beside = BESIDE_BURNER}},
    {"connects, neighbour 4 KiB",
     "p99 of a paced ping-pong beside connects, times beside a busy loop",
     AT_MOST(2),
     HARM{SPINNING(P99), NEIGHBOUR(1000, 4096), .beside = BESIDE_CONNECTOR},
     {SPINNING(P99), NEIGHBOUR(1000, 4096), .beside = BESIDE_BURNER}},
    {"flood, throughput",
     "requests per second beside a flooding connection, over beside a busy loop",
     AT_LEAST(0.9),
     HARM{SPINNING(PER_SECOND), NEIGHBOUR(0, 0), .beside = BESIDE_FLOODER},
     {SPINNING(PER_SECOND), NEIGHBOUR(0, 0), .beside = BESIDE_BURNER}},
    {"flood, p99",
     "p99 beside a flooding connection, over beside a busy loop",
     AT_MOST(2),
     HARM{SPINNING(P99), NEIGHBOUR(0, 0), .beside = BESIDE_FLOODER},
     {SPINNING(P99), NEIGHBOUR(0, 0), .beside = BESIDE_BURNER}},

    {"memory",
     "bytes of the server's own per silent connection, besides the rings",
     AT_MOST(1024),
     {SPINNING(OWN_BYTES), MEMORY},
     {0}},
};
const uint32_t targets_count = sizeof rules / sizeof rules[0];

static double look_up(const struct operand *o, const struct bench_rows *rows)
{
    const struct bench_row *row = rows_find(rows, o->system, &o->of, o->spin, o->beside);
    return row != NULL ? row->figure[o->figure] : FIGURE_NONE;
}

struct target target_check(uint32_t index, const struct bench_rows *rows)
{
    const struct rule *rule = &rules[index];
    struct target t = {.name = rule->name,
                       .sentence = rule->sentence,
                       .value = FIGURE_NONE,
                       .target = rule->target,
                       .at_least = rule->at_least};
    double value = look_up(&rule->value, rows), by = 1;
    if (rule->by.system != NULL)
        by = look_up(&rule->by, rows);
    t.known = value != FIGURE_NONE && by > 0;
    if (t.known) {
        t.value = value / by;
        t.usable = !rule->harm || (t.at_least ? t.value <= HARM_NOISE : t.value >= 1 / HARM_NOISE);
        t.met = t.usable && (t.at_least ? t.value >= t.target : t.value <= t.target);
    }
    return t;
}

/* SPDX-License-Identifier: MIT */
/* limit.c: see limit.h; the measuring itself is machine.c's. */
#include "limit.h"

#include "lab.h"
#include "machine.h"

#define SERVER_CORE 0
#define CLIENT_CORE 1
#define LINE_SECONDS 0.02
#define SPAN_BYTES 65536u /* as large as a ring usually is */

int placement_server_core(enum placement p)
{
    return p == PLACE_UNPINNED ? LAB_ANY_CORE : SERVER_CORE;
}

int placement_client_core(enum placement p)
{
    return p == PLACE_SPLIT ? CLIENT_CORE : placement_server_core(p);
}

void figures_of_times(const struct histogram *h, double figure[FIGURES])
{
    if (h->count == 0)
        return;
    figure[FIGURE_P50] = (double)histogram_percentile(h, 500);
    figure[FIGURE_P99] = (double)histogram_percentile(h, 990);
    figure[FIGURE_P99_9] = (double)histogram_percentile(h, 999);
    figure[FIGURE_MAX] = (double)h->max;
}

double limits_line_ns(void)
{
    static struct histogram h;
    h = (struct histogram){0};
    limit_line(CLIENT_CORE, SERVER_CORE, LINE_SECONDS, &h);
    return (double)histogram_percentile(&h, 500);
}

/* --- round trips ------------------------------------------------------------------------------------------------- */

static bool pingpong_small(const struct bench_case *c)
{
    return c->workload == WORKLOAD_PINGPONG && c->bytes <= 64;
}

static bool pingpong_small_apart(const struct bench_case *c)
{
    return pingpong_small(c) && c->placement != PLACE_SHARED; /* nobody spins against himself */
}

static bool pingpong_apart(const struct bench_case *c)
{
    return c->workload == WORKLOAD_PINGPONG && c->placement != PLACE_SHARED;
}

static struct histogram times;

static void round_trips_report(double figure[FIGURES])
{
    figures_of_times(&times, figure);
    figure[FIGURE_PER_SECOND] = times.sum > 0 ? (double)times.count * 1e9 / (double)times.sum : 0;
    times = (struct histogram){0};
}

static void measure_line(const struct bench_case *c, double seconds, double figure[FIGURES])
{
    limit_line(placement_client_core(c->placement), placement_server_core(c->placement), seconds, &times);
    round_trips_report(figure);
}

static void measure_futex(const struct bench_case *c, double seconds, double figure[FIGURES])
{
    limit_futex(placement_client_core(c->placement), placement_server_core(c->placement), seconds, &times);
    round_trips_report(figure);
}

static void measure_memory(const struct bench_case *c, double seconds, double figure[FIGURES])
{
    limit_memory(placement_client_core(c->placement), placement_server_core(c->placement), c->bytes, seconds, &times);
    round_trips_report(figure);
}

/* --- coming and going -------------------------------------------------------------------------------------------- */

static bool connects(const struct bench_case *c)
{
    return c->workload == WORKLOAD_CONNECT && c->rate == 0;
}

static void measure_mapping(const struct bench_case *c, double seconds, double figure[FIGURES])
{
    limit_mapping(placement_client_core(c->placement), placement_server_core(c->placement), seconds, &times);
    round_trips_report(figure);
}

/* --- one way ----------------------------------------------------------------------------------------------------- */

static bool stream(const struct bench_case *c)
{
    return c->workload == WORKLOAD_STREAM;
}

static void measure_memcpy(const struct bench_case *c, double seconds, double figure[FIGURES])
{
    figure[FIGURE_PER_SECOND] = limit_memcpy(CLIENT_CORE, c->bytes, SPAN_BYTES, seconds);
}

static void measure_handover(const struct bench_case *c, double seconds, double figure[FIGURES])
{
    figure[FIGURE_PER_SECOND] = limit_handover(CLIENT_CORE, SERVER_CORE, c->bytes, SPAN_BYTES, seconds);
}

const struct bench_limit bench_limits[] = {
    {"line", "limit: one cache line to the other core and back, both sides spinning", pingpong_small_apart,
     measure_line},
    {"futex", "limit: a word and a futex on each side, sleeping every time", pingpong_small, measure_futex},
    {"memory", "limit: a fixed buffer, written, copied back by the other side, read; both sides spinning",
     pingpong_apart, measure_memory},
    {"mapping", "limit: both sides map two files at once, use two pages of each and unmap them", connects,
     measure_mapping},
    {"memcpy", "limit: copying into a buffer of 64 KiB, by one core, which nobody reads", stream, measure_memcpy},
    {"handover", "limit: the same, and the other core reads and compares it", stream, measure_handover},
};
const uint32_t bench_limit_count = sizeof bench_limits / sizeof bench_limits[0];

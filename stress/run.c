/* SPDX-License-Identifier: MIT */
/* run.c: see run.h. One function per phase, in order. */
#include "run.h"

#include "progress.h"

#include <belfry/client.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#define TICK_NS 100000000       /* between two looks while the load runs */
#define STAGE_TICK_NS 2000000   /* between two looks while a phase comes to its end */
#define START_AHEAD_NS 50000000 /* so that all workers are awake before the first message is due */
#define ATTACH_SECONDS 120
#define DRAIN_SECONDS 15 /* the workers themselves give up earlier */
#define LEAVE_SECONDS 15
#define AFTER_SECONDS 2
#define SETTLE_NS 1000000000 /* until the server has put its hot connections to sleep */

struct run {
    const struct options *options;
    struct board_shared *board;
    struct load *load;
    struct service *service;
    struct results *results;
    belfry_statistics before; /* the first client */
    belfry_statistics now;    /* the latest that could be read */
};

static volatile sig_atomic_t interrupted;

void run_interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

/* A signal may cut it short; every caller looks and sleeps again. */
static void sleep_towards(int64_t until_ns, int64_t at_most_ns)
{
    int64_t left_ns = until_ns - belfry_now_ns();
    int64_t ns = left_ns < at_most_ns ? left_ns : at_most_ns;
    if (ns > 0)
        nanosleep(&(struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000}, NULL);
}

static void look_at_stats(struct run *run)
{
    static belfry_statistics stats; /* 36 KiB: not for every stack frame */
    stats.size = sizeof stats;
    if (belfry_stats(run->service->name, run->options->root, &stats) < 0)
        return;
    run->now = stats;
    if (stats.total.allocated_bytes > run->results->allocated_peak)
        run->results->allocated_peak = stats.total.allocated_bytes;
}

/* Is there a point in going on? */
static bool goes_on(struct run *run)
{
    load_reap(run->load);
    if (interrupted)
        run->results->interrupted = true;
    if (service_gone(run->service))
        run->results->server_failed = true;
    return !interrupted && !run->results->server_failed && run->load->exited < run->load->started;
}

static bool stage_wait(struct run *run, enum stage stage, int seconds)
{
    int64_t until_ns = belfry_now_ns() + (int64_t)seconds * 1000000000;
    while (!load_reached(run->load, stage)) {
        if (!goes_on(run) || belfry_now_ns() > until_ns)
            return false;
        if (stage == STAGE_ATTACHED) {
            uint32_t attached = board_attached(run->board);
            progress_draw((double)attached / run->options->connections, "%u of %u connected", attached,
                          run->options->connections);
        }
        sleep_towards(until_ns, STAGE_TICK_NS);
    }
    return goes_on(run);
}

/* ---- connect --------------------------------------------------------------------------------------------------- */

static bool run_attach(struct run *run)
{
    bool reached = stage_wait(run, STAGE_ATTACHED, ATTACH_SECONDS);
    look_at_stats(run);
    return reached && run->load->crashed == 0 && !board_first_error(run->board);
}

/* ---- load ------------------------------------------------------------------------------------------------------ */

struct look {
    int64_t at_ns;
    uint64_t answered;
    struct proc_cpu cpu;
    belfry_counters counters;
};

static struct look look_around(struct run *run)
{
    look_at_stats(run);
    return (struct look){
        .at_ns = belfry_now_ns(),
        .answered = BOARD_SUM(run->board, answered),
        .cpu = proc_cpu(run->service->pid),
        .counters = run->now.total,
    };
}

static void run_exercise(struct run *run)
{
    struct results *r = run->results;
    int64_t start_ns = belfry_now_ns() + START_AHEAD_NS;
    run->board->start_ns = start_ns;
    board_begin(run->board, PHASE_RUN);
    while (belfry_now_ns() < start_ns && goes_on(run))
        sleep_towards(start_ns, TICK_NS);

    struct look first = look_around(run);
    int64_t end_ns = start_ns + (int64_t)(run->options->seconds * 1e9);
    for (int64_t now_ns; (now_ns = belfry_now_ns()) < end_ns && goes_on(run);) {
        double passed = (double)(now_ns - start_ns) / 1e9;
        uint64_t answered = BOARD_SUM(run->board, answered);
        look_at_stats(run);
        progress_draw(passed / run->options->seconds, "%.0f of %.0f s, %.0f messages per second", passed,
                      run->options->seconds, (double)answered / passed);
        sleep_towards(end_ns, TICK_NS);
    }
    struct look last = look_around(run);

    r->seconds = (double)(last.at_ns - first.at_ns) / 1e9;
    r->interval_messages = last.answered - first.answered;
    if (first.cpu.run_ns >= 0 && last.cpu.run_ns >= 0)
        r->server_cpu_ns = last.cpu.run_ns - first.cpu.run_ns;
    r->parks = last.counters.parks - first.counters.parks;
    r->wakes = last.counters.wakes - first.counters.wakes;
    r->rings = last.counters.rings - first.counters.rings;
}

/* ---- drain, and a look at the server while all are still attached ----------------------------------------------- */

static void run_drain(struct run *run)
{
    board_begin(run->board, PHASE_DRAIN);
    int64_t until_ns = belfry_now_ns() + (int64_t)DRAIN_SECONDS * 1000000000;
    /* Not stage_wait(): an interrupted run drains too, so that its figures hold. */
    while (!load_reached(run->load, STAGE_DRAINED) && belfry_now_ns() < until_ns && !run->results->server_failed) {
        goes_on(run);
        progress_draw(1, "collecting what is on its way");
        sleep_towards(until_ns, STAGE_TICK_NS);
    }
}

static void run_look(struct run *run)
{
    struct results *r = run->results;
    char path[768];
    look_at_stats(run);
    r->attached = run->now.total.connections_active;
    r->shards = run->now.shards < BELFRY_SHARDS_MAX ? run->now.shards : BELFRY_SHARDS_MAX;
    for (uint32_t i = 0; i < r->shards; i++)
        r->shard_connections[i] = run->now.shard[i].connections_active;
    r->server = proc_size(run->service->pid);
    service_segments_path(run->service, run->options, run->now.instance, path, sizeof path);
    r->segments_bytes = proc_directory_bytes(path);
}

/* ---- idle: everybody is attached, has spoken, and is silent ------------------------------------------------------ */

static void run_idle(struct run *run)
{
    struct results *r = run->results;
    int64_t idle_ns = (int64_t)(run->options->idle_seconds * 1e9);
    int64_t begin_ns = belfry_now_ns() + SETTLE_NS;
    while (belfry_now_ns() < begin_ns && goes_on(run))
        sleep_towards(begin_ns, TICK_NS);

    struct proc_cpu first = proc_cpu(run->service->pid);
    begin_ns = belfry_now_ns();
    for (int64_t now_ns; (now_ns = belfry_now_ns()) < begin_ns + idle_ns && goes_on(run);) {
        progress_draw((double)(now_ns - begin_ns) / (double)idle_ns, "measuring the idle server");
        sleep_towards(begin_ns + idle_ns, TICK_NS);
    }
    struct proc_cpu last = proc_cpu(run->service->pid);
    r->idle_seconds = (double)(belfry_now_ns() - begin_ns) / 1e9;
    r->idle_cpu_percent = r->idle_wakeups_per_second = PROC_UNKNOWN;
    if (first.run_ns >= 0 && last.run_ns >= first.run_ns) {
        r->idle_cpu_percent = (double)(last.run_ns - first.run_ns) / 1e9 / r->idle_seconds * 100;
        r->idle_wakeups_per_second = (double)(last.wakeups - first.wakeups) / r->idle_seconds;
    }
}

/* ---- leave ----------------------------------------------------------------------------------------------------- */

static void run_leave(struct run *run)
{
    struct results *r = run->results;
    progress_draw(1, "closing");
    board_begin(run->board, PHASE_CLOSE);
    load_stop(run->load, LEAVE_SECONDS);

    int64_t until_ns = belfry_now_ns() + (int64_t)AFTER_SECONDS * 1000000000;
    do {
        look_at_stats(run);
        if (run->now.total.connections_active <= run->before.total.connections_active &&
            run->now.total.allocated_bytes <= r->allocated_before)
            break;
        sleep_towards(until_ns, TICK_NS / 10);
    } while (belfry_now_ns() < until_ns && !service_gone(run->service));
    if (service_gone(run->service))
        r->server_failed = true;

    uint64_t active = run->now.total.connections_active, others = run->before.total.connections_active;
    r->allocated_after = run->now.total.allocated_bytes;
    r->left_behind = active > others && !r->server_failed ? active - others : 0; /* a dead server counts no more */
    r->rescued_wakes = run->now.total.rescued_wakes - run->before.total.rescued_wakes;
    r->processes_crashed = run->load->crashed;
}

static void run_sum(struct run *run)
{
    struct results *r = run->results;
    struct board_shared *b = run->board;
    for (uint32_t i = 0; i < b->worker_count; i++) {
        histogram_merge(&r->rtt_ns, &b->worker[i].rtt_ns);
        histogram_merge(&r->connect_ns, &b->worker[i].connect_ns);
    }
    r->sent = BOARD_SUM(b, sent);
    r->messages = BOARD_SUM(b, answered);
    r->lost = r->sent > r->messages ? r->sent - r->messages : 0;
    r->corrupt = BOARD_SUM(b, corrupt);
    r->failed = BOARD_SUM(b, failed);
    r->delays = BOARD_SUM(b, delays);
    r->unsent = BOARD_SUM(b, unsent);
    r->reconnects = BOARD_SUM(b, reconnects);
    r->rescued_wakes += BOARD_SUM(b, rescued); /* both directions count */
    const struct worker_shared *error = board_first_error(b);
    if (error) {
        r->error = error->error;
        memcpy(r->sentence, error->sentence, sizeof r->sentence);
    }
}

void run(struct results *r, const struct options *o, struct board_shared *b, struct load *l, struct service *s)
{
    static struct run state; /* two snapshots of the counters are too much for a stack */
    state = (struct run){.options = o, .board = b, .load = l, .service = s, .results = r};
    *r = (struct results){.server_cpu_ns = PROC_UNKNOWN, .segments_bytes = PROC_UNKNOWN};
    look_at_stats(&state);
    state.before = state.now;
    r->allocated_before = state.before.total.allocated_bytes;

    int rc = load_start(l, o, b, s->name);
    r->incomplete = rc < 0 || !run_attach(&state);
    if (!r->incomplete) {
        if (o->seconds > 0)
            run_exercise(&state);
        run_drain(&state);
        run_look(&state);
        if (o->idle_seconds > 0 && goes_on(&state))
            run_idle(&state);
    }
    run_leave(&state);
    run_sum(&state);
    progress_clear();
}

bool results_passed(const struct results *r, const struct options *o)
{
    bool something = r->messages > 0 || o->seconds <= 0 || r->interrupted;
    return something && !r->incomplete && r->lost == 0 && r->corrupt == 0 && r->rescued_wakes == 0 &&
           r->left_behind == 0 && r->processes_crashed == 0 && !r->server_failed && r->error == 0;
}

double results_cpu_per_message(const struct results *r)
{
    if (r->server_cpu_ns < 0 || r->interval_messages == 0)
        return PROC_UNKNOWN;
    return (double)r->server_cpu_ns / (double)r->interval_messages;
}

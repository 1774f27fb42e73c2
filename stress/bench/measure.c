/* SPDX-License-Identifier: MIT */
/* measure.c: see measure.h. */
#include "measure.h"

#include <stdio.h>
#include <unistd.h>

#include "folder.h"
#include "footprint.h"
#include "lab.h"
#include "limit.h"
#include "neighbour.h"
#include "ticks.h"
#include "workloads.h"

#define SETTLE_SECONDS 2.0 /* until a server that has just worked sleeps as deeply as it ever will */
#define ROOM 64            /* connections that may come and go at once */

/* What the look at the lab, at the end of the work, needs to know. */
struct look {
    const struct measurement *m;
    struct footprint empty;  /* before there was a server */
    struct footprint before; /* the server is there, and no client */
    double *figure;
};

const char *measure_refusal(const struct bench_system *system, const struct bench_case *c)
{
    static const char *const rings = "has no rings to choose the size of", *const few = "one connection only";
    bool come_and_go = c->workload == WORKLOAD_CONNECT || c->workload == WORKLOAD_NEIGHBOUR;
    if (c->ring_bytes != 0 && strcmp(system->name, "belfry") != 0)
        return rings;
    if (!system->can_many && (c->connections > 1 || come_and_go))
        return few;
    if (system->connections_max != 0 && c->connections > system->connections_max)
        return "not that many connections";
    if (system->bytes_max != 0 && c->bytes > system->bytes_max)
        return "no messages of that size";
    return NULL;
}

/* --- setting up -------------------------------------------------------------------------------------------------- */

typedef void body_function(struct lab *lab, uint32_t process, struct lab_client *out);

static body_function *body_of(const struct measurement *m)
{
    switch (m->of->workload) {
    case WORKLOAD_STREAM:
        return body_stream;
    case WORKLOAD_MANY:
        return body_many;
    case WORKLOAD_IDLE:
    case WORKLOAD_MEMORY:
        return body_silent;
    case WORKLOAD_CONNECT:
        return body_connect;
    case WORKLOAD_NEIGHBOUR:
        return neighbour_body(m->beside);
    default:
        return body_pingpong;
    }
}

static void lab_prepare(struct lab *lab, const struct measurement *m, const char *folder, const char *address)
{
    const struct bench_case *c = m->of;
    bool come_and_go = c->workload == WORKLOAD_CONNECT || c->workload == WORKLOAD_NEIGHBOUR;
    *lab = (struct lab){
        .system = m->system,
        .setup = {.address = address,
                  .folder = folder,
                  .connections = come_and_go ? ROOM : c->connections,
                  .bytes_max = c->bytes,
                  .ring_bytes = c->ring_bytes,
                  .warm = c->workload == WORKLOAD_MEMORY ? 1 : 0, /* a slot is made when its client comes */
                  .spin = m->spin,
                  .corrupt_one = m->corrupt_one},
        .bytes = c->bytes,
        .processes = c->workload == WORKLOAD_PROCESSES   ? c->connections
                     : c->workload == WORKLOAD_NEIGHBOUR ? 2
                                                         : 1,
        .seconds = m->seconds,
        .rate = c->rate,
        .server_core = placement_server_core(c->placement),
        .client_core = placement_client_core(c->placement),
    };
}

/* --- what is seen ------------------------------------------------------------------------------------------------ */

static void look_idle(struct lab *lab, struct look *look)
{
    usleep((useconds_t)(1e6 * SETTLE_SECONDS * (lab->seconds < 1 ? lab->seconds : 1)));
    struct proc_cpu before = proc_cpu(lab_server_pid(lab));
    int64_t began_ns = clock_ns();
    usleep((useconds_t)(1e6 * lab->seconds));
    struct proc_cpu after = proc_cpu(lab_server_pid(lab));
    double seconds = (double)(clock_ns() - began_ns) / 1e9;
    if (before.run_ns == PROC_UNKNOWN || after.run_ns == PROC_UNKNOWN)
        return;
    look->figure[FIGURE_CPU_PERCENT] = (double)(after.run_ns - before.run_ns) / 1e7 / seconds;
    look->figure[FIGURE_WAKEUPS] = (double)(after.wakeups - before.wakeups) / seconds;
}

/* All is done, all are still there. */
static void look_at(struct lab *lab)
{
    struct look *look = lab->user;
    const struct bench_case *c = look->m->of;
    struct footprint now = footprint_take(lab_server_pid(lab), lab->setup.folder);
    look->figure[FIGURE_SERVER_RSS] = (double)now.server.rss_bytes;
    look->figure[FIGURE_SHARED_MEMORY] = (double)(now.files_bytes - look->empty.files_bytes);
    if (c->workload == WORKLOAD_IDLE)
        look_idle(lab, look);
    if (c->workload == WORKLOAD_MEMORY)
        footprint_per_connection(&look->before, &now, c->connections, look->figure);
}

static void report_neighbour(const struct lab *lab, double figure[FIGURES])
{
    const struct lab_client *victim = &lab->board->client[NEIGHBOUR_VICTIM];
    const struct lab_client *nuisance = &lab->board->client[NEIGHBOUR_NUISANCE];
    figures_of_times(&victim->rtt_ns, figure);
    figure[FIGURE_PER_SECOND] = (double)victim->messages / victim->seconds;
    if (nuisance->messages > 0)
        figure[FIGURE_DISTURBER_PER_SECOND] = (double)nuisance->messages / nuisance->seconds;
}

static void report(const struct lab *lab, const struct bench_case *c, double figure[FIGURES])
{
    if (c->workload == WORKLOAD_IDLE || c->workload == WORKLOAD_MEMORY)
        return;
    if (c->workload == WORKLOAD_NEIGHBOUR) {
        report_neighbour(lab, figure);
        return;
    }
    figures_of_times(&lab->rtt_ns, figure);
    figure[FIGURE_PER_SECOND] = lab->per_second;
    figure[FIGURE_SERVER_CPU] = lab->server_cpu_ns;
    figure[FIGURE_CLIENT_CPU] = lab->client_cpu_ns;
    figure[FIGURE_CPU] = lab->server_cpu_ns + lab->client_cpu_ns;
}

bool measure(const struct measurement *m, double figure[FIGURES])
{
    static struct lab lab; /* a histogram */
    static unsigned count;
    char address[64];
    const char *folder = folder_open();
    struct look look = {.m = m, .empty = footprint_take(getpid(), folder), .figure = figure};
    snprintf(address, sizeof address, "belfry-bench-%d-%u", (int)getpid(), count++);
    figures_clear(figure);
    lab_prepare(&lab, m, folder, address);
    lab.look = look_at;
    lab.user = &look;
    bool ok = lab_open(&lab);
    if (ok) {
        look.before = footprint_take(lab_server_pid(&lab), folder);
        ok = lab_run(&lab, body_of(m));
        if (ok)
            report(&lab, m->of, figure);
    }
    ok &= lab_close(&lab);
    folder_close(folder);
    return ok;
}

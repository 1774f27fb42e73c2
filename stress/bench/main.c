/* SPDX-License-Identifier: MIT */
/*
 * belfry-bench: belfry and what people would use instead, side by side in one run.
 *
 * cases.c says what is measured, plan.c in which order, measure.c runs one system in one case. There lab.c forks the
 * processes, workloads.c is what the clients do, and system_<name>.c how one system does it. rows.c keeps the figures,
 * targets.c compares them, report.c, report_json.c and plots.c show them.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "../proc.h"
#include "folder.h"
#include "plan.h"
#include "plots.h"
#include "report.h"
#include "ticks.h"

static bool two_cores(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    return sched_getaffinity(0, sizeof set, &set) == 0 && CPU_ISSET(0, &set) && CPU_ISSET(1, &set);
}

/* A name that no system has would leave an empty table. */
static bool systems_known(const struct options *o)
{
    for (uint32_t i = 0; i < o->systems; i++)
        if (bench_system_find(o->system[i]) == NULL) {
            fprintf(stderr, "belfry-bench: --system: '%s' is none; --list names them\n", o->system[i]);
            return false;
        }
    return true;
}

/* The main process of the run, which a guard outlives. */
static int run(void *user)
{
    const struct options *o = user;
    struct bench_rows rows = {0};
    ticks_calibrate();
    payload_create();
    if (o->corrupt_one)
        return plan_corrupt(o) ? EXIT_SUCCESS : EXIT_FAILURE;
    report_heading(o);
    bool ok = plan_run(o, &rows, report_case);
    if (rows.count == 0) {
        fprintf(stderr, "belfry-bench: nothing was measured; --list lists the cases\n");
        ok = false;
    }
    report_legend(o);
    bool met = report_targets(&rows);
    if (o->json != NULL && !report_json(&rows, o, o->json)) {
        fprintf(stderr, "belfry-bench: cannot write the JSON file: %s\n", strerror(errno));
        ok = false;
    }
    if (o->plots != NULL && !plots_write(&rows, o->plots))
        ok = false;
    rows_free(&rows);
    return ok && (met || !o->require_targets) ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    static struct options options;
    int status = options_parse(&options, argc, argv);
    if (status >= 0)
        return status;
    if (!systems_known(&options))
        return EXIT_USAGE;
    if (options.list) {
        report_list();
        return EXIT_SUCCESS;
    }
    if (!two_cores()) {
        fprintf(stderr, "belfry-bench: this needs cores 0 and 1, and may not use both\n");
        return EXIT_UNAVAILABLE;
    }
    proc_raise_nofile();
    return folder_guard(run, &options);
}

/* SPDX-License-Identifier: MIT */
/*
 * belfry-stress: load for a belfry server, with every reply checked.
 *
 * Three kinds of processes, all forked from this one while it has a single thread: the main process (here and in
 * run.c), which only looks at the clock and at counters; the server (service.c); and the clients (load.c), whose
 * threads do the talking (worker.c, connection.c). They share one sheet of memory (board.c) and nothing else.
 */
#include "message.h"
#include "report.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* The first ^C ends the run early and prints its figures; the second one, as usual, the program. */
static void catch_interrupts(void)
{
    struct sigaction action = {.sa_handler = run_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static int status_of_start(int rc)
{
    switch (rc) {
    case BELFRY_EKERNEL:
    case BELFRY_EFORBIDDEN:
    case BELFRY_ENOSPACE:
    case BELFRY_EMEMLOCK:
        return EXIT_UNAVAILABLE;
    default:
        return EXIT_FAILURE;
    }
}

/* Does the service take messages as large as those that were asked for? Better said now than a million times later. */
static bool sizes_fit(const struct options *o, const struct service *s)
{
    static belfry_statistics stats;
    stats.size = sizeof stats;
    if (belfry_stats(s->name, o->root, &stats) < 0) {
        fprintf(stderr, "belfry-stress: %s\n", belfry_last_error());
        return false;
    }
    if (o->sizes.bytes_max <= stats.message_bytes_max)
        return true;
    fprintf(stderr, "belfry-stress: --bytes %s: the service takes at most %u bytes; choose smaller messages%s\n",
            o->bytes, stats.message_bytes_max, s->ours ? " or a larger --ring-bytes" : "");
    return false;
}

static int measure(const struct options *o, struct board_shared *b, struct service *s)
{
    static struct results results; /* two histograms */
    struct load load;
    run(&results, o, b, &load, s);
    if (!service_stop(s, o))
        results.server_failed = true;
    report_print(&results, o, s, stdout);
    bool passed = results_passed(&results, o);
    if (o->json && !report_json(&results, o, o->json)) {
        fprintf(stderr, "belfry-stress: cannot write the JSON file: %s\n", strerror(errno));
        passed = false;
    }
    return passed ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    static struct options options;
    struct service service;
    int status = options_parse(&options, argc, argv);
    if (status >= 0)
        return status;
    proc_raise_nofile();
    struct board_shared *board = board_create(options.workers);
    if (!board || !message_pattern_create(options.sizes.bytes_max, options.seed)) {
        fprintf(stderr, "belfry-stress: not enough memory\n");
        return EXIT_FAILURE;
    }
    int rc = service_start(&service, &options, board);
    if (rc < 0)
        return status_of_start(rc);
    if (!sizes_fit(&options, &service)) {
        service_stop(&service, &options);
        return EXIT_USAGE;
    }
    catch_interrupts();
    status = measure(&options, board, &service);
    board_destroy(board);
    if (options.json)
        fclose(options.json);
    return status;
}

/* SPDX-License-Identifier: MIT */
/*
 * corrupt.c: the proof that the bench verifies: with one message spoiled, every run must fail, and say why.
 *
 * A run that fails for another reason proves nothing, so what the processes say is read, and the sentence about the
 * bytes must be there.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "measure.h"
#include "plan.h"

#define SECONDS 0.3
#define CONNECTIONS 64

static const struct bench_case cases[] = {
    {.workload = WORKLOAD_PINGPONG, .placement = PLACE_SPLIT, .connections = 1, .bytes = 64},
    {.workload = WORKLOAD_MANY, .placement = PLACE_SPLIT, .connections = CONNECTIONS, .bytes = 64},
    {.workload = WORKLOAD_STREAM, .placement = PLACE_SPLIT, .connections = 1, .bytes = 64},
};

/* Run it with standard error in a file, and keep what it says. */
static bool measure_heard(const struct measurement *m, char *said, size_t room)
{
    double figure[FIGURES];
    FILE *file = tmpfile();
    int before = file != NULL ? fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3) : -1;
    if (before < 0)
        bench_die("a temporary file: %s", strerror(errno));
    fflush(stderr);
    dup2(fileno(file), STDERR_FILENO);
    bool ok = measure(m, figure);
    fflush(stderr);
    dup2(before, STDERR_FILENO);
    close(before);
    rewind(file);
    said[fread(said, 1, room - 1, file)] = '\0';
    fclose(file);
    return ok;
}

static bool noticed(const struct bench_system *system, const struct bench_case *c)
{
    char said[4096];
    struct measurement m = {
        .of = c, .system = system, .spin = system->can_spin, .corrupt_one = true, .seconds = SECONDS};
    bool passed = measure_heard(&m, said, sizeof said);
    const char *workload = workload_name(c->workload);
    if (passed)
        printf("  %-12s %-10s NOT NOTICED: a message was spoiled, and the run passed\n", system->name, workload);
    else if (strstr(said, "other bytes") == NULL && strstr(said, "wrong bytes") == NULL)
        printf("  %-12s %-10s FAILED for another reason:\n%s", system->name, workload, said);
    else {
        printf("  %-12s %-10s noticed\n", system->name, workload);
        return true;
    }
    return false;
}

bool plan_corrupt(const struct options *o)
{
    uint32_t runs = 0, good = 0;
    puts("One message of each run is spoiled:");
    for (uint32_t i = 0; i < bench_system_count; i++)
        for (uint32_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
            if (!plan_wants_system(o, bench_systems[i]->name) || measure_refusal(bench_systems[i], &cases[k]) != NULL ||
                (o->workload >= 0 && o->workload != (int)cases[k].workload))
                continue;
            runs++;
            good += noticed(bench_systems[i], &cases[k]);
            fflush(stdout);
        }
    printf("%u of %u runs noticed it\n", good, runs);
    return runs > 0 && good == runs;
}

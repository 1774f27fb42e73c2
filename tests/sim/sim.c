/* SPDX-License-Identifier: MIT */
/*
 * sim.c: test-sim: runs seeds, and says what the first of each family that fails has found.
 *
 *     test-sim                     the seeds of ./dev test
 *     test-sim --seeds N           so many, from 0 or from --from N
 *     test-sim --seconds S         for so long
 *     ... --first                  no further than the first that fails
 *     test-sim --seed N [--trace]  this one, step by step
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "world.h"

#define SEEDS 10000u
#define AGAIN 40u /* so many are run twice */

struct total {
    uint64_t seeds, failed, steps, deaths, dropped, failed_calls, overflows, messages, connections, switches,
        late_stores;
};

static struct total totals[16];

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    if (!sim.running)
        abort();
    sim_fail("process %s touches %p, which it may not", sim.current->process == NULL ? "-" : sim.current->process->name,
             info->si_addr);
}

static void catch_faults(void)
{
    static uint8_t stack[65536];
    stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaltstack(&other, NULL);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}

static void count(struct total *t)
{
    t->seeds++;
    t->steps += sim.steps;
    t->deaths += sim.deaths;
    t->dropped += sim.dropped;
    t->failed_calls += sim.failed_calls;
    t->overflows += sim.overflows;
    t->messages += world.messages;
    t->connections += world.connections;
    t->switches += sim.switches;
    t->late_stores += sim.late_stores;
}

/* The program's own words for it are enough to find it again. */
static void report(uint64_t seed)
{
    printf("failed: sim, %s: test-sim --seed %llu: %s (after %llu steps)\n", world_family_of(seed)->name,
           (unsigned long long)seed, sim.why, (unsigned long long)sim.steps);
    fflush(stdout);
}

static bool run_one(uint64_t seed, bool trace)
{
    struct total *t = &totals[seed % world_family_count];
    bool good = world_run(seed, trace);
    count(t);
    if (!good && t->failed++ == 0)
        report(seed);
    return good;
}

/* The same number is the same run, to the last step. */
static bool runs_again(void)
{
    for (uint64_t seed = 0; seed < AGAIN; seed++) {
        world_run(seed, false);
        uint64_t hash = sim.hash, steps = sim.steps;
        world_run(seed + 1, false);
        world_run(seed, false);
        if (sim.hash != hash || sim.steps != steps) {
            printf("failed: sim, again: seed %llu is another run when it is run again\n", (unsigned long long)seed);
            return false;
        }
    }
    return true;
}

static void tell(const char *name, const struct total *t)
{
    printf("%-18s %8llu seeds, %6llu messages, %5llu connections, %5llu deaths, %5llu wakes lost, %5llu calls failed, "
           "%4llu overflows, %5.1f million steps\n",
           name, (unsigned long long)t->seeds, (unsigned long long)t->messages, (unsigned long long)t->connections,
           (unsigned long long)t->deaths, (unsigned long long)t->dropped, (unsigned long long)t->failed_calls,
           (unsigned long long)t->overflows, (double)t->steps / 1e6);
}

static int run_many(uint64_t from, uint64_t seeds, double seconds_max, bool first)
{
    double began = seconds();
    unsigned passed = 0, failed = 0;
    uint64_t seed = from;
    for (; seed < from + seeds && seconds() - began < seconds_max; seed++)
        if (!run_one(seed, false) && first)
            break;
    for (unsigned i = 0; i < world_family_count; i++) {
        tell(world_families[i].name, &totals[i]);
        totals[i].failed == 0 ? passed++ : failed++;
    }
    runs_again() && seed > from ? passed++ : failed++;
    printf("%llu seeds in %.1f s\n%u passed, %u failed\n", (unsigned long long)(seed - from), seconds() - began, passed,
           failed);
    return failed > 0;
}

int main(int argc, char **argv)
{
    uint64_t seeds = SEEDS, from = 0, seed = 0;
    double seconds_max = 1e9;
    bool one = false, trace = false, first = false;
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--trace") == 0)
            trace = true;
        else if (strcmp(argv[i], "--first") == 0)
            first = true;
        else if (strcmp(argv[i], "--seed") == 0 && has_value)
            seed = strtoull(argv[++i], NULL, 10), one = true;
        else if (strcmp(argv[i], "--seeds") == 0 && has_value)
            seeds = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--from") == 0 && has_value)
            from = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--seconds") == 0 && has_value)
            seconds_max = strtod(argv[++i], NULL), seeds = 1ull << 40;
        else {
            fprintf(stderr, "usage: test-sim [--seeds N] [--from N] [--seconds S] [--first] | --seed N [--trace]\n");
            return 64;
        }
    }
    signal(SIGPIPE, SIG_IGN); /* of addr2line's, if it is not there */
    sim_open();
    catch_faults();
    if (!one)
        return run_many(from, seeds, seconds_max, first);
    bool good = run_one(seed, trace);
    tell(world_family_of(seed)->name, &totals[seed % world_family_count]);
    printf("seed %llu: %016llx\n%u passed, %u failed\n", (unsigned long long)seed, (unsigned long long)sim.hash, good,
           !good);
    return !good;
}

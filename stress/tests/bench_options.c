/* SPDX-License-Identifier: MIT */
/* The command line of the benchmark. */
#include "../bench/cases.h"
#include "../bench/options.h"

#include <criterion/criterion.h>

#define PARSE(o, ...) parse(o, (const char *[]){"belfry-bench", __VA_ARGS__, NULL})

static int parse(struct options *o, const char **argv)
{
    int argc = 0;
    while (argv[argc] != NULL)
        argc++;
    return options_parse(o, argc, (char **)argv); /* getopt reorders the pointers and leaves the words alone */
}

Test(options, measure_everything_unless_told_otherwise)
{
    struct options o;
    const char *argv[] = {"belfry-bench", NULL};
    cr_assert_eq(parse(&o, argv), -1);
    cr_assert_eq(o.workload, -1);
    cr_assert_eq(o.systems, 0);
    cr_assert_eq(o.connections, 0);
    cr_assert_eq(o.seconds, 1.0);
    cr_assert_eq(o.rounds, 3);
}

Test(options, quick_is_one_short_round_unless_told_otherwise)
{
    struct options o;
    cr_assert_eq(PARSE(&o, "--quick"), -1);
    cr_assert(o.quick && o.rounds == 1 && o.seconds < 1);
    cr_assert_eq(PARSE(&o, "--quick", "--rounds", "5", "--seconds", "2"), -1);
    cr_assert(o.rounds == 5 && o.seconds == 2);
}

Test(options, workload_and_systems_by_name)
{
    struct options o;
    cr_assert_eq(PARSE(&o, "--workload", "many", "--system", "belfry", "--system", "pipe", "--connections", "64"), -1);
    cr_assert_eq(o.workload, WORKLOAD_MANY);
    cr_assert_eq(o.systems, 2);
    cr_assert_str_eq(o.system[1], "pipe");
    cr_assert_eq(o.connections, 64);
    for (int w = 0; w < WORKLOADS; w++)
        cr_assert_eq(workload_find(workload_name(w)), w);
}

Test(options, nonsense_is_refused_with_a_status_of_its_own)
{
    struct options o;
    cr_assert_eq(PARSE(&o, "--workload", "dancing"), EXIT_USAGE);
    cr_assert_eq(PARSE(&o, "--connections", "0"), EXIT_USAGE);
    cr_assert_eq(PARSE(&o, "--connections", "-4"), EXIT_USAGE);
    cr_assert_eq(PARSE(&o, "--seconds", "nan"), EXIT_USAGE);
    cr_assert_eq(PARSE(&o, "--seconds"), EXIT_USAGE);
    cr_assert_eq(PARSE(&o, "--rounds", "many"), EXIT_USAGE);
    cr_assert_eq(PARSE(&o, "--json", "/nonexistent/file"), EXIT_USAGE);
    cr_assert_eq(PARSE(&o, "--plots", "/nonexistent/directory"), EXIT_USAGE);
    cr_assert_eq(PARSE(&o, "--fast"), EXIT_USAGE);
    cr_assert_eq(PARSE(&o, "quick"), EXIT_USAGE);
}

Test(options, help_is_no_error)
{
    struct options o;
    cr_assert_eq(PARSE(&o, "--help"), 0);
}

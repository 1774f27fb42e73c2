/* SPDX-License-Identifier: MIT */
/* The arithmetic of the benchmark: medians over rounds, which row is whose, and targets as ratios between rows. */
#include "../bench/rows.h"
#include "../bench/targets.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static const struct bench_case ping = {.workload = WORKLOAD_PINGPONG,
                                       .placement = PLACE_SHARED,
                                       .connections = 1,
                                       .bytes = 64};
static const struct bench_case many = {.workload = WORKLOAD_MANY,
                                       .placement = PLACE_SPLIT,
                                       .connections = 1000,
                                       .bytes = 64};

static void add(struct bench_rows *rows, const char *system, const struct bench_case *of, bool spin, enum figure f,
                double value)
{
    struct bench_row row = {.of = *of, .system = system, .spin = spin};
    figures_clear(row.figure);
    row.figure[f] = value;
    rows_add(rows, &row);
}

static struct target find_target(const char *name, const struct bench_rows *rows)
{
    for (uint32_t i = 0; i < targets_count; i++) {
        struct target t = target_check(i, rows);
        if (strcmp(t.name, name) == 0)
            return t;
    }
    cr_assert_fail("no target is called %s", name);
    abort();
}

Test(rows, a_figure_is_the_median_of_its_samples)
{
    struct bench_row row = {0};
    double sample[5][FIGURES];
    static const double p50[5] = {900, 100, 300, 200, 50000};
    for (int i = 0; i < 5; i++) {
        figures_clear(sample[i]);
        sample[i][FIGURE_P50] = p50[i];
    }
    row_finish(&row, sample, 5);
    cr_assert_eq(row.figure[FIGURE_P50], 300);
    cr_assert_eq(row.rounds, 5);
    row_finish(&row, sample, 4);
    cr_assert_eq(row.figure[FIGURE_P50], 250, "of an even number, the mean of the middle two");
}

Test(rows, a_figure_that_no_sample_has_stays_unknown)
{
    struct bench_row row = {0};
    double sample[3][FIGURES];
    for (int i = 0; i < 3; i++)
        figures_clear(sample[i]);
    sample[1][FIGURE_P99] = 7;
    row_finish(&row, sample, 3);
    cr_assert_eq(row.figure[FIGURE_P50], FIGURE_NONE);
    cr_assert_eq(row.figure[FIGURE_P99], 7, "what one round does not know, the others say");
}

Test(rows, are_found_by_system_setting_and_variant)
{
    struct bench_rows rows = {0};
    add(&rows, "belfry", &ping, true, FIGURE_P50, 1);
    add(&rows, "belfry", &ping, false, FIGURE_P50, 2);
    add(&rows, "unix-epoll", &ping, false, FIGURE_P50, 3);
    cr_assert_eq(rows_find(&rows, "belfry", &ping, true, BESIDE_NOBODY)->figure[FIGURE_P50], 1);
    cr_assert_eq(rows_find(&rows, "belfry", &ping, false, BESIDE_NOBODY)->figure[FIGURE_P50], 2);
    cr_assert_null(rows_find(&rows, "unix-epoll", &ping, true, BESIDE_NOBODY));
    cr_assert_null(rows_find(&rows, "belfry", &ping, true, BESIDE_FLOODER));
    struct bench_case other = ping;
    other.bytes = 1024;
    cr_assert_null(rows_find(&rows, "belfry", &other, true, BESIDE_NOBODY));
    rows_free(&rows);
}

Test(rows, a_variant_says_placement_spinning_and_shards)
{
    char out[VARIANT_CHARS];
    struct bench_row row = {.of = ping, .system = "belfry", .can_spin = true, .spin = true};
    cr_assert_str_eq(row_variant(out, &row), "shared, spinning, one shard");
    row.spin = false;
    cr_assert_str_eq(row_variant(out, &row), "shared, no spinning, one shard");
    row = (struct bench_row){.of = ping, .system = "pipe"};
    cr_assert_str_eq(row_variant(out, &row), "shared, blocking");
}

Test(targets, nothing_is_known_without_rows)
{
    struct bench_rows rows = {0};
    cr_assert_gt(targets_count, 20);
    for (uint32_t i = 0; i < targets_count; i++) {
        struct target t = target_check(i, &rows);
        cr_assert_not(t.known || t.met, "%s", t.name);
    }
}

Test(targets, of_one_side_alone_are_not_known)
{
    struct bench_rows rows = {0};
    add(&rows, "belfry", &many, true, FIGURE_PER_SECOND, 18e6);
    cr_assert_not(find_target("many 1000 rate", &rows).known);
    rows_free(&rows);
}

Test(targets, at_least_is_a_quotient_that_is_large_enough)
{
    struct bench_rows rows = {0};
    add(&rows, "belfry", &many, true, FIGURE_PER_SECOND, 18e6);
    add(&rows, "unix-epoll", &many, false, FIGURE_PER_SECOND, 0.36e6);
    struct target t = find_target("many 1000 rate", &rows);
    cr_assert(t.known && t.at_least && t.met);
    cr_assert_float_eq(t.value, 50, 1e-9);
    rows.row[0].figure[FIGURE_PER_SECOND] = 14e6;
    cr_assert_not(find_target("many 1000 rate", &rows).met);
    rows_free(&rows);
}

Test(targets, at_most_is_a_quotient_that_is_small_enough)
{
    struct bench_rows rows = {0};
    add(&rows, "belfry", &ping, false, FIGURE_P50, 4400);
    add(&rows, "belfry", &ping, true, FIGURE_P50, 8800);
    add(&rows, "futex", &ping, false, FIGURE_P50, 4000);
    struct target t = find_target("blocking shared, futex", &rows);
    cr_assert(t.known && !t.at_least && t.met);
    cr_assert_float_eq(t.value, 1.1, 1e-9);
    cr_assert_not(find_target("spinning shared", &rows).met, "each target has a variant of its own");
    rows_free(&rows);
}

static struct target flood(double beside_flooder, double beside_burner)
{
    static const struct bench_case neighbour = {.workload = WORKLOAD_NEIGHBOUR,
                                                .placement = PLACE_SPLIT,
                                                .connections = 2,
                                                .bytes = 64};
    struct bench_rows rows = {0};
    add(&rows, "belfry", &neighbour, true, FIGURE_PER_SECOND, beside_flooder);
    add(&rows, "belfry", &neighbour, true, FIGURE_PER_SECOND, beside_burner);
    rows.row[0].beside = BESIDE_FLOODER;
    rows.row[1].beside = BESIDE_BURNER;
    struct target t = find_target("flood, throughput", &rows);
    rows_free(&rows);
    return t;
}

Test(targets, a_nuisance_that_helps_is_a_broken_baseline_and_no_pass)
{
    struct target t = flood(1658973, 5817); /* measured: the client beside the burner had gone to sleep */
    cr_assert(t.known && !t.usable && !t.met);
    t = flood(950, 1000);
    cr_assert(t.known && t.usable && t.met);
    t = flood(520, 1000);
    cr_assert(t.known && t.usable && !t.met);
}

/* A rule that names a case which nobody runs would never be known: each must find its rows in the whole plan. */
Test(targets, all_are_known_after_the_whole_plan)
{
    static const char *const systems[] = {"belfry", "unix-epoll", "line", "futex", "memory", "memcpy", "handover"};
    struct bench_rows rows = {0};
    struct bench_row row = {0};
    for (int f = 0; f < FIGURES; f++)
        row.figure[f] = 1;
    for (uint32_t i = 0; i < bench_case_count; i++)
        for (size_t s = 0; s < sizeof systems / sizeof systems[0]; s++)
            for (int spin = 0; spin < 2; spin++)
                for (enum beside b = 0; b < BESIDES; b++) {
                    if (b != BESIDE_NOBODY && (bench_cases[i].besides & (1u << b)) == 0)
                        continue;
                    row.of = bench_cases[i];
                    row.system = systems[s];
                    row.spin = spin;
                    row.beside = b;
                    rows_add(&rows, &row);
                }
    for (uint32_t i = 0; i < targets_count; i++)
        cr_assert(target_check(i, &rows).known, "%s", target_check(i, &rows).name);
    rows_free(&rows);
}

/* SPDX-License-Identifier: MIT */
/*
 * report.c: see report.h. Each workload has the columns that say something about it, and one figure that is compared:
 * the last column is that figure over belfry's first row of the same case.
 */
#include "report.h"

#include <math.h>
#include <string.h>

#include "../text.h"
#include "about.h"
#include "limit.h"
#include "measure.h"
#include "plan.h"
#include "targets.h"

enum unit { UNIT_NS, UNIT_COUNT, UNIT_PERCENT, UNIT_TENTHS };

struct column {
    const char *heading;
    enum figure figure;
    enum unit unit;
};

#define TIMES {"p50", FIGURE_P50, UNIT_NS}, {"p99", FIGURE_P99, UNIT_NS}, {"p99.9", FIGURE_P99_9, UNIT_NS}, MAX
#define MAX                        \
    {                              \
        "max", FIGURE_MAX, UNIT_NS \
    }
#define RATE                                        \
    {                                               \
        "per second", FIGURE_PER_SECOND, UNIT_COUNT \
    }
#define CPU                                  \
    {"server", FIGURE_SERVER_CPU, UNIT_NS},  \
    {                                        \
        "client", FIGURE_CLIENT_CPU, UNIT_NS \
    }
#define LINE                         \
    {                                \
        "line", FIGURE_LINE, UNIT_NS \
    }
#define COLUMNS_MAX 9

static const struct layout {
    enum figure compared;
    const char *compared_name;
    struct column column[COLUMNS_MAX];
} layouts[WORKLOADS] = {
    [WORKLOAD_PINGPONG] = {FIGURE_P50, "p50", {TIMES, RATE, CPU, LINE}},
    [WORKLOAD_STREAM] = {FIGURE_PER_SECOND, "rate", {RATE, CPU, LINE}},
    [WORKLOAD_MANY] = {FIGURE_PER_SECOND, "rate", {TIMES, RATE, CPU, LINE}},
    [WORKLOAD_PROCESSES] = {FIGURE_CPU, "CPU", {TIMES, RATE, CPU, LINE}},
    [WORKLOAD_IDLE] = {FIGURE_WAKEUPS,
                       "wakes",
                       {{"CPU %", FIGURE_CPU_PERCENT, UNIT_PERCENT},
                        {"wakes/s", FIGURE_WAKEUPS, UNIT_TENTHS},
                        {"RSS", FIGURE_SERVER_RSS, UNIT_COUNT},
                        {"shared", FIGURE_SHARED_MEMORY, UNIT_COUNT}}},
    [WORKLOAD_CONNECT] = {FIGURE_P50, "p50", {TIMES, RATE, CPU, LINE}},
    [WORKLOAD_MEMORY] = {FIGURE_OWN_BYTES,
                         "own",
                         {{"own", FIGURE_OWN_BYTES, UNIT_COUNT},
                          {"RSS", FIGURE_RSS_BYTES, UNIT_COUNT},
                          {"shared", FIGURE_SHARED_BYTES, UNIT_COUNT},
                          {"slab", FIGURE_SLAB_BYTES, UNIT_COUNT},
                          {"tables", FIGURE_PAGE_TABLE_BYTES, UNIT_COUNT},
                          {"maps", FIGURE_MAPS, UNIT_TENTHS},
                          {"inodes", FIGURE_INODES, UNIT_TENTHS},
                          {"fds", FIGURE_DESCRIPTORS, UNIT_TENTHS}}},
    [WORKLOAD_NEIGHBOUR] = {FIGURE_P99,
                            "p99",
                            {TIMES, RATE, {"nuisance/s", FIGURE_DISTURBER_PER_SECOND, UNIT_COUNT}, LINE}},
};

/* How wide the figures of a unit are at most. */
static int width(enum unit unit)
{
    return unit == UNIT_COUNT ? 11 : 8;
}

static const char *figure_text(char out[TEXT_CHARS], double value, enum unit unit)
{
    static const char *const format[] = {[UNIT_PERCENT] = "%.3f", [UNIT_TENTHS] = "%.1f"};
    if (value == FIGURE_NONE)
        return strcpy(out, "-");
    if (unit == UNIT_NS)
        return text_duration(out, (uint64_t)llround(value));
    if (unit == UNIT_COUNT)
        return text_grouped(out, llround(value));
    snprintf(out, TEXT_CHARS, format[unit], value);
    return out;
}

void report_heading(const struct options *o)
{
    struct about a = about_now();
    printf("belfry-bench: %s, %u cores, %s, %s UTC\n", a.processor, a.cores, a.kernel, a.date);
    printf(
        "%g s per measurement, the systems in turns, %u round%s, medians. One server thread (of belfry: one shard).\n"
        "split: server on core 0, clients on core 1; shared: both on core 0; unpinned: anywhere.\n"
        "server, client: CPU per message; line: the one-line ping-pong just before, its median.\n",
        o->seconds, o->rounds, o->rounds == 1 ? "" : "s");
    fflush(stdout);
}

static void print_headings(const struct layout *layout, int variant_width)
{
    printf("  %-10s  %-*s", "system", variant_width, "variant");
    for (const struct column *c = layout->column; c < layout->column + COLUMNS_MAX && c->heading; c++)
        printf(" %*s", width(c->unit), c->heading);
    printf("  %s, times belfry's\n", layout->compared_name);
}

static void print_row(const struct layout *layout, int variant_width, const struct bench_row *row,
                      const struct bench_row *belfry)
{
    char variant[VARIANT_CHARS], text[TEXT_CHARS];
    printf("%c %-10s  %-*s", strcmp(row->system, "belfry") == 0 ? '*' : ' ', row->system, variant_width,
           row_variant_here(variant, row));
    for (const struct column *c = layout->column; c < layout->column + COLUMNS_MAX && c->heading; c++)
        printf(" %*s", width(c->unit), figure_text(text, row->figure[c->figure], c->unit));
    double mine = row->figure[layout->compared], base = belfry ? belfry->figure[layout->compared] : 0;
    if (mine != FIGURE_NONE && base > 0)
        printf("  %.*g", mine >= 1000 * base ? 6 : 3, mine < 1000 * base ? mine / base : (double)llround(mine / base));
    putchar('\n');
}

void report_case(const struct bench_row *first, uint32_t count)
{
    const struct layout *layout = &layouts[first->of.workload];
    char what[CASE_CHARS], variant[VARIANT_CHARS];
    const struct bench_row *belfry = NULL;
    int variant_width = (int)strlen("variant");
    for (uint32_t i = count; i-- > 0;) {
        int length = (int)strlen(row_variant_here(variant, &first[i]));
        variant_width = length > variant_width ? length : variant_width;
        if (strcmp(first[i].system, "belfry") == 0)
            belfry = &first[i];
    }
    printf("\n%s: %s (%s)\n", workload_name(first->of.workload), case_describe(what, &first->of),
           workload_what(first->of.workload));
    print_headings(layout, variant_width);
    for (uint32_t i = 0; i < count; i++)
        print_row(layout, variant_width, &first[i], belfry);
    fflush(stdout);
}

void report_legend(const struct options *o)
{
    char what[CASE_CHARS];
    puts("\nThe systems");
    for (uint32_t i = 0; i < bench_system_count; i++) {
        const struct bench_system *s = bench_systems[i];
        if (!plan_wants_system(o, s->name))
            continue;
        printf("  %-10s  %s\n", s->name, s->what);
        for (uint32_t k = 0; k < bench_case_count; k++) {
            const char *why = measure_refusal(s, &bench_cases[k]);
            if (plan_wants_case(o, &bench_cases[k]) && why != NULL && bench_cases[k].ring_bytes == 0)
                printf("  %-10s    not in %s: %s: %s\n", "", workload_name(bench_cases[k].workload),
                       case_describe(what, &bench_cases[k]), why);
        }
    }
    for (uint32_t i = 0; i < bench_limit_count; i++)
        printf("  %-10s  %s\n", bench_limits[i].name, bench_limits[i].what);
}

bool report_targets(const struct bench_rows *rows)
{
    uint32_t known = 0, met = 0;
    for (uint32_t i = 0; i < targets_count; i++) {
        struct target t = target_check(i, rows);
        if (!t.known)
            continue;
        if (known++ == 0)
            puts("\nTargets");
        met += t.met;
        printf("  %-8s %-27s %10.4g, at %s %.4g: %s\n",
               !t.usable ? "UNUSABLE"
               : t.met   ? "met"
                         : "NOT MET",
               t.name, t.value, t.at_least ? "least" : "most", t.target, t.sentence);
    }
    printf("\n%u of %u targets met", met, known);
    if (known < targets_count)
        printf("; %u were not measured", targets_count - known);
    puts("");
    return met == known;
}

void report_list(void)
{
    char what[CASE_CHARS];
    puts("Cases (q: part of --quick)");
    for (uint32_t i = 0; i < bench_case_count; i++)
        printf("  %c %-10s  %s\n", bench_cases[i].quick ? 'q' : ' ', workload_name(bench_cases[i].workload),
               case_describe(what, &bench_cases[i]));
    report_legend(&(struct options){.workload = -1});
}

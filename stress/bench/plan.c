/* SPDX-License-Identifier: MIT */
/* plan.c: see plan.h. */
#include "plan.h"

#include <stdio.h>
#include <stdlib.h>

#include "limit.h"
#include "measure.h"

#define ENTRIES_MAX 64
#define ROUNDS_OF_ONCE 1

/* One who takes turns in a case: a variant of a system, or a limit of the machine. */
struct entry {
    struct bench_row row;
    const struct bench_system *system; /* NULL: a limit */
    const struct bench_limit *limit;
    bool failed;
    double (*sample)[FIGURES];
};

struct turns {
    struct entry entry[ENTRIES_MAX];
    uint32_t count;
    uint32_t rounds;
    double seconds;
};

bool plan_wants_system(const struct options *o, const char *name)
{
    for (uint32_t i = 0; i < o->systems; i++)
        if (strcmp(o->system[i], name) == 0)
            return true;
    return o->systems == 0;
}

bool plan_wants_case(const struct options *o, const struct bench_case *c)
{
    return (o->workload < 0 || o->workload == (int)c->workload) &&
           (o->connections == 0 || o->connections == c->connections) && (!o->quick || c->quick);
}

/* --- who takes part ---------------------------------------------------------------------------------------------- */

static struct entry *add(struct turns *t, const struct bench_case *c, const char *name)
{
    if (t->count == ENTRIES_MAX)
        bench_die("more than %u systems in one case", ENTRIES_MAX);
    struct entry *e = &t->entry[t->count++];
    *e = (struct entry){.row = {.of = *c, .system = name}, .sample = calloc(t->rounds, sizeof *e->sample)};
    if (e->sample == NULL)
        bench_die("no memory for %u rounds", t->rounds);
    return e;
}

static void add_system(struct turns *t, const struct bench_case *c, const struct bench_system *system)
{
    uint32_t besides = c->besides != 0 ? c->besides : 1u << BESIDE_NOBODY;
    for (enum beside b = 0; b < BESIDES; b++)
        for (int spin = system->can_spin; spin >= 0 && (besides & (1u << b)) != 0; spin--) {
            if (system->can_spin && !spin && !c->both_spins)
                break;
            struct entry *e = add(t, c, system->name);
            e->system = system;
            e->row.can_spin = system->can_spin;
            e->row.spin = spin;
            e->row.beside = b;
        }
}

static void turns_begin(struct turns *t, const struct options *o, const struct bench_case *c)
{
    *t = (struct turns){.rounds = c->once ? ROUNDS_OF_ONCE : o->rounds,
                        .seconds = o->seconds * (c->weight > 0 ? c->weight : 1)};
    for (uint32_t i = 0; i < bench_system_count; i++)
        if (plan_wants_system(o, bench_systems[i]->name) && measure_refusal(bench_systems[i], c) == NULL)
            add_system(t, c, bench_systems[i]);
    for (uint32_t i = 0; i < bench_limit_count; i++)
        if (bench_limits[i].applies(c)) {
            struct entry *e = add(t, c, bench_limits[i].name);
            e->limit = &bench_limits[i];
            e->row.is_limit = true;
        }
}

/* --- the turns --------------------------------------------------------------------------------------------------- */

static void take_turn(struct turns *t, const struct bench_case *c, struct entry *e, uint32_t round)
{
    double *figure = e->sample[round], line_ns = limits_line_ns();
    if (e->limit != NULL) {
        figures_clear(figure);
        e->limit->measure(c, t->seconds, figure);
    } else {
        struct measurement m = {
            .of = c, .system = e->system, .spin = e->row.spin, .beside = e->row.beside, .seconds = t->seconds};
        e->failed = !measure(&m, figure);
    }
    figure[FIGURE_LINE] = line_ns;
}

static bool turns_run(struct turns *t, const struct bench_case *c)
{
    char what[CASE_CHARS];
    bool ok = true;
    for (uint32_t round = 0; round < t->rounds; round++)
        for (uint32_t i = 0; i < t->count; i++) {
            struct entry *e = &t->entry[i];
            if (e->failed)
                continue;
            take_turn(t, c, e, round);
            if (!e->failed)
                continue;
            fprintf(stderr, "belfry-bench: %s FAILED in %s: %s\n", e->row.system, workload_name(c->workload),
                    case_describe(what, c));
            ok = false;
        }
    return ok;
}

static uint32_t turns_end(struct turns *t, struct bench_rows *rows)
{
    uint32_t added = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        struct entry *e = &t->entry[i];
        if (!e->failed) {
            row_finish(&e->row, e->sample, t->rounds);
            rows_add(rows, &e->row);
            added++;
        }
        free(e->sample);
    }
    return added;
}

bool plan_run(const struct options *o, struct bench_rows *rows,
              void (*done)(const struct bench_row *first, uint32_t count))
{
    static struct turns turns;
    bool ok = true;
    for (uint32_t i = 0; i < bench_case_count; i++) {
        const struct bench_case *c = &bench_cases[i];
        if (!plan_wants_case(o, c))
            continue;
        turns_begin(&turns, o, c);
        ok &= turns_run(&turns, c);
        uint32_t added = turns_end(&turns, rows);
        if (added > 0)
            done(&rows->row[rows->count - added], added);
    }
    return ok;
}

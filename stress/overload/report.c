/* SPDX-License-Identifier: MIT */
/* report.c: see report.h. */
#include "report.h"

#include <sys/utsname.h>

#include "../json.h"
#include "../text.h"
#include "scenarios.h"

static const char *const situation_names[SITUATIONS] = {
    [REST] = "", [ALONE] = "before", [BESIDE] = "beside busy processes", [STIR] = "", [DURING] = "during", [OVER] = ""};
static const char *const situation_keys[SITUATIONS] = {[ALONE] = "alone", [BESIDE] = "beside", [DURING] = "during"};

static const char *const figure_keys[FIGURES] = {[PER_SECOND] = "calls_per_second",
                                                 [P50_NS] = "p50_ns",
                                                 [P99_NS] = "p99_ns",
                                                 [P999_NS] = "p99_9_ns",
                                                 [MAX_NS] = "max_ns",
                                                 [VISITS] = "visits",
                                                 [VISIT_P50_NS] = "visit_p50_ns",
                                                 [VISIT_P99_NS] = "visit_p99_ns",
                                                 [VISIT_MAX_NS] = "visit_max_ns",
                                                 [SERVER_CPU] = "server_cpu",
                                                 [SERVER_WAITS] = "server_waits",
                                                 [VICTIM_WAITS] = "victim_waits",
                                                 [LONG_TURNS] = "long_turns_per_second"};

void report_head(const struct overload_options *o)
{
    struct utsname name;
    char when[32] = "";
    uname(&name);
    FILE *load = fopen("/proc/loadavg", "re");
    if (load == NULL || fgets(when, sizeof when, load) == NULL)
        when[0] = '\0';
    if (load != NULL)
        fclose(load);
    printf("Linux %s, load %.14s; %u round(s) of %.2f s, %u shard(s)%s\n", name.release, when, o->rounds, o->seconds,
           o->shards, o->yield ? ", attackers yield" : "");
    printf("\n%-26s%12s%10s%10s%10s%10s%7s%7s%8s%8s%8s%8s\n", "the victim", "calls/s", "p50", "p99", "p99.9", "max",
           "rate", "p99", "server", "server", "victim", "turns");
    printf("%-26s%12s%10s%10s%10s%10s%7s%7s%8s%8s%8s%8s\n", "", "", "", "", "", "", "ratio", "ratio", "runs", "waits",
           "waits", ">=1ms/s");
}

static double ratio(const struct row *row, enum situation a, enum situation b, enum figure f)
{
    return row->has[a] && row->has[b] && row->median[b].value[f] > 0 ? row->median[a].value[f] / row->median[b].value[f]
                                                                     : -1;
}

static void print_ratio(double value, const char *end)
{
    if (value < 0)
        printf("%7s%s", "", end);
    else
        printf("%7.2f%s", value, end);
}

/* The ratios of `during` are to busy processes where there were some: what these cost is the scheduler's. */
static enum situation baseline(const struct row *row, enum situation situation)
{
    return situation == DURING && row->has[BESIDE] ? BESIDE : ALONE;
}

static void print_situation(const struct row *row, enum situation situation)
{
    const double *v = row->median[situation].value;
    char rate[TEXT_CHARS], p50[TEXT_CHARS], p99[TEXT_CHARS], p999[TEXT_CHARS], max[TEXT_CHARS];
    printf("  %-24s%12s%10s%10s%10s%10s", situation_names[situation], text_grouped(rate, (int64_t)v[PER_SECOND]),
           text_duration(p50, (uint64_t)v[P50_NS]), text_duration(p99, (uint64_t)v[P99_NS]),
           text_duration(p999, (uint64_t)v[P999_NS]), text_duration(max, (uint64_t)v[MAX_NS]));
    enum situation base = baseline(row, situation);
    print_ratio(situation == ALONE ? -1 : ratio(row, situation, base, PER_SECOND), "");
    print_ratio(situation == ALONE ? -1 : ratio(row, situation, base, P99_NS), "");
    printf("%7.0f%%%7.0f%%%7.0f%%%8.1f\n", 100 * v[SERVER_CPU], 100 * v[SERVER_WAITS], 100 * v[VICTIM_WAITS],
           v[LONG_TURNS]);
}

static void print_visits(const struct row *row)
{
    char p50[TEXT_CHARS], p99[TEXT_CHARS], max[TEXT_CHARS];
    for (int i = 0; i < SITUATIONS; i++) {
        const double *v = row->median[i].value;
        if (row->has[i] && v[VISITS] > 0)
            printf("    a guest, %-21s: %.0f connects, call and all: p50 %s, p99 %s, max %s\n", situation_names[i],
                   v[VISITS], text_duration(p50, (uint64_t)v[VISIT_P50_NS]),
                   text_duration(p99, (uint64_t)v[VISIT_P99_NS]), text_duration(max, (uint64_t)v[VISIT_MAX_NS]));
    }
}

static const char *note_text(char out[TEXT_CHARS], const struct note *n)
{
    switch (n->unit) {
    case UNIT_NS:
        return text_duration(out, (uint64_t)n->value);
    case UNIT_BYTES:
        return text_mebibytes(out, (int64_t)n->value);
    case UNIT_COUNT:
        break;
    }
    return text_grouped(out, (int64_t)n->value);
}

void report_row(const struct plan *p, const struct row *row)
{
    char text[TEXT_CHARS];
    printf("%s: %s\n", p->name, p->what);
    if (row->skipped != NULL)
        printf("  skipped: %s\n", row->skipped);
    for (int i = 0; i < SITUATIONS; i++)
        if (row->has[i])
            print_situation(row, (enum situation)i);
    print_visits(row);
    for (uint32_t i = 0; i < row->notes; i++)
        printf("%s%s %s%s", i == 0 ? "    " : "; ", row->note[i].what, note_text(text, &row->note[i]),
               i + 1 == row->notes ? "\n" : "");
    if (row->has[DURING] && (ratio(row, DURING, baseline(row, DURING), PER_SECOND) < PROMISED_RATE ||
                             ratio(row, DURING, baseline(row, DURING), P99_NS) > PROMISED_P99))
        printf("    more than was promised\n");
    for (uint32_t i = 0; i < row->wrongs && i < PLAN_WRONGS_MAX; i++)
        printf("    WRONG: %s\n", row->wrong[i]);
    fflush(stdout);
}

static void write_row(struct json *j, const struct plan *p, const struct row *row)
{
    json_open(j, p->name, '{');
    json_string(j, "skipped", row->skipped != NULL ? row->skipped : "");
    for (int i = 0; i < SITUATIONS; i++) {
        if (!row->has[i])
            continue;
        json_open(j, situation_keys[i], '{');
        for (int f = 0; f < FIGURES; f++)
            json_number(j, figure_keys[f], row->median[i].value[f]);
        json_close(j, '}');
    }
    json_open(j, "notes", '{');
    for (uint32_t i = 0; i < row->notes; i++)
        json_number(j, row->note[i].what, row->note[i].value);
    json_close(j, '}');
    json_number(j, "rate_ratio", ratio(row, DURING, baseline(row, DURING), PER_SECOND));
    json_number(j, "p99_ratio", ratio(row, DURING, baseline(row, DURING), P99_NS));
    json_open(j, "wrong", '[');
    for (uint32_t i = 0; i < row->wrongs && i < PLAN_WRONGS_MAX; i++)
        json_string(j, NULL, row->wrong[i]);
    json_close(j, ']');
    json_close(j, '}');
}

bool report_json(const struct overload_options *o, const struct row *rows, FILE *out)
{
    struct json j = {.out = out};
    json_open(&j, NULL, '{');
    json_count(&j, "rounds", o->rounds);
    json_number(&j, "seconds", o->seconds);
    json_count(&j, "shards", o->shards);
    json_open(&j, "scenarios", '{');
    for (size_t i = 0; i < plan_count; i++)
        if (rows[i].skipped != NULL || rows[i].has[ALONE] || rows[i].wrongs > 0)
            write_row(&j, &plans[i], &rows[i]);
    json_close(&j, '}');
    json_close(&j, '}');
    fputc('\n', out);
    return fflush(out) == 0 && !ferror(out);
}

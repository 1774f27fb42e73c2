/* SPDX-License-Identifier: MIT */
/* report_json.c: the results as one JSON object; the names of its keys are an interface. */
#include "report.h"

#include "../json.h"
#include "about.h"
#include "targets.h"

static void json_row(struct json *j, const struct bench_row *row)
{
    char variant[VARIANT_CHARS];
    json_open(j, NULL, '{');
    json_string(j, "workload", workload_name(row->of.workload));
    json_string(j, "system", row->system);
    json_string(j, "variant", row_variant(variant, row));
    json_string(j, "placement", placement_name(row->of.placement));
    json_bool(j, "limit", row->is_limit);
    json_bool(j, "spinning", row->spin);
    json_string(j, "beside", beside_name(row->beside));
    json_count(j, "connections", row->of.connections);
    json_count(j, "bytes", row->of.bytes);
    json_number(j, "rate", row->of.rate);
    json_count(j, "ring_bytes", row->of.ring_bytes);
    json_count(j, "rounds", row->rounds);
    for (int f = 0; f < FIGURES; f++)
        if (f <= FIGURE_LINE || row->figure[f] != FIGURE_NONE)
            json_number(j, figure_name((enum figure)f), row->figure[f]);
    json_close(j, '}');
}

static void json_target(struct json *j, const struct target *t)
{
    json_open(j, NULL, '{');
    json_string(j, "name", t->name);
    json_string(j, "sentence", t->sentence);
    json_number(j, "value", t->value);
    json_number(j, "target", t->target);
    json_string(j, "bound", t->at_least ? "at least" : "at most");
    json_bool(j, "usable", t->usable);
    json_bool(j, "met", t->met);
    json_close(j, '}');
}

bool report_json(const struct bench_rows *rows, const struct options *o, FILE *out)
{
    struct json json = {.out = out}, *j = &json;
    struct about a = about_now();
    json_open(j, NULL, '{');
    json_string(j, "processor", a.processor);
    json_count(j, "cores", a.cores);
    json_string(j, "kernel", a.kernel);
    json_string(j, "date", a.date);
    json_number(j, "seconds", o->seconds);
    json_count(j, "rounds", o->rounds);
    json_bool(j, "quick", o->quick);
    json_open(j, "rows", '[');
    for (uint32_t i = 0; i < rows->count; i++)
        json_row(j, &rows->row[i]);
    json_close(j, ']');
    json_open(j, "targets", '[');
    for (uint32_t i = 0; i < targets_count; i++) {
        struct target t = target_check(i, rows);
        if (t.known)
            json_target(j, &t);
    }
    json_close(j, ']');
    json_close(j, '}');
    fputc('\n', out);
    return fflush(out) == 0 && !ferror(out);
}

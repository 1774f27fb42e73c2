/* SPDX-License-Identifier: MIT */
/*
 * plots.c: see plots.h. A plot is one or more panels below each other; a panel is one figure of the rows of a workload:
 * either groups of bars, a group per case and a bar per variant of a system, or lines over the number of connections.
 *
 * gnuplot reads its script, with the data in it, from a pipe. belfry is red, the limits of the machine are black, and
 * the others are blue and grey, each always in the same shade.
 */
#include "plots.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "../text.h"

#define SERIES_MAX 64
#define GROUPS_MAX 16
#define WIDTH 1200
#define PANEL_HEIGHT 420

struct panel {
    enum workload workload;
    int placement; /* -1: any */
    enum figure figure;
    double scale; /* from the figure to the axis */
    const char *axis;
    const char *title;
    bool log;
    bool lines;
};

#define ANY (-1)

static const struct panel panels[] = {
    {WORKLOAD_PINGPONG, PLACE_SPLIT, FIGURE_P50, 1e-3, "p50, us", "Round trip, server and client on a core each", true},
    {WORKLOAD_PINGPONG, PLACE_SHARED, FIGURE_P50, 1e-3, "p50, us", "Round trip, both on one core", true},
    {WORKLOAD_PINGPONG, PLACE_UNPINNED, FIGURE_P50, 1e-3, "p50, us", "Round trip, not pinned", true},
    {WORKLOAD_STREAM, ANY, FIGURE_PER_SECOND, 1e-6, "million messages/s", "One way, one connection", true},
    {WORKLOAD_MANY, ANY, FIGURE_PER_SECOND, 1, "requests/s",
     "One client thread, a request in flight on each connection", true, true},
    {WORKLOAD_MANY, ANY, FIGURE_CPU, 1, "CPU of both sides, ns per request", "and what a request costs", true, true},
    {WORKLOAD_PROCESSES, ANY, FIGURE_CPU, 1e-3, "CPU of both sides, us per message", "A connection per process", true},
    {WORKLOAD_PROCESSES, ANY, FIGURE_P99_9, 1e-3, "p99.9, us", "and their tail", true},
    {WORKLOAD_IDLE, ANY, FIGURE_WAKEUPS, 1, "wake-ups/s", "A server whose connections are silent", false},
    {WORKLOAD_CONNECT, ANY, FIGURE_P50, 1e-3, "p50, us", "From connecting to the first reply", true},
    {WORKLOAD_MEMORY, ANY, FIGURE_OWN_BYTES, 1, "bytes", "The server's own memory per silent connection", true},
    {WORKLOAD_MEMORY, ANY, FIGURE_SHARED_BYTES, 1, "bytes", "and shared memory", true},
    {WORKLOAD_NEIGHBOUR, ANY, FIGURE_P99, 1e-3, "p99, us", "Beside a nuisance on the same core", true},
};
#define PANELS (sizeof panels / sizeof panels[0])

/* --- who is in a panel ------------------------------------------------------------------------------------------- */

static bool in_panel(const struct panel *p, const struct bench_row *row)
{
    return row->of.workload == p->workload && (p->placement == ANY || (int)row->of.placement == p->placement) &&
           row->figure[p->figure] >= 0 && !(p->log && row->figure[p->figure] == 0);
}

/* A series is a system, spinning or not; a group is a case, and what is beside it. */
static bool same_series(const struct bench_row *a, const struct bench_row *b)
{
    return strcmp(a->system, b->system) == 0 && a->spin == b->spin;
}

static bool same_group(const struct bench_row *a, const struct bench_row *b)
{
    return case_same(&a->of, &b->of) && a->beside == b->beside;
}

static uint32_t collect(const struct panel *p, const struct bench_rows *rows, const struct bench_row **out,
                        uint32_t room, bool (*same)(const struct bench_row *, const struct bench_row *))
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < rows->count && count < room; i++) {
        uint32_t k = 0;
        while (k < count && !same(out[k], &rows->row[i]))
            k++;
        if (k == count && in_panel(p, &rows->row[i]))
            out[count++] = &rows->row[i];
    }
    return count;
}

static const struct bench_row *find(const struct panel *p, const struct bench_rows *rows,
                                    const struct bench_row *series, const struct bench_row *group)
{
    for (uint32_t i = 0; i < rows->count; i++)
        if (in_panel(p, &rows->row[i]) && same_series(&rows->row[i], series) && same_group(&rows->row[i], group))
            return &rows->row[i];
    return NULL;
}

/* --- how it looks ------------------------------------------------------------------------------------------------ */

/* The colour of a peer or of a limit is its place among those that the whole run has seen, so it is the same in all. */
static uint32_t place_among(const struct bench_rows *rows, const struct bench_row *row)
{
    const char *seen[SERIES_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < rows->count && count < SERIES_MAX; i++) {
        const char *name = rows->row[i].system;
        uint32_t k = 0;
        if (rows->row[i].is_limit != row->is_limit || strcmp(name, "belfry") == 0)
            continue;
        while (k < count && strcmp(seen[k], name) != 0)
            k++;
        if (k == count)
            seen[count++] = name;
        if (strcmp(name, row->system) == 0)
            return k;
    }
    return 0;
}

static const char *colour(const struct bench_rows *rows, const struct bench_row *row)
{
    static const char *const peers[] = {"#1f4e79", "#2e75b6", "#9dc3e6", "#548235", "#a9d18e", "#bf9000", "#ffd966"};
    static const char *const limits[] = {"#000000", "#595959", "#a6a6a6"};
    if (strcmp(row->system, "belfry") == 0)
        return row->spin ? "#c00000" : "#ff7c80";
    uint32_t place = place_among(rows, row);
    return row->is_limit ? limits[place % (sizeof limits / sizeof limits[0])]
                         : peers[place % (sizeof peers / sizeof peers[0])];
}

static void series_title(FILE *out, const struct bench_row *row)
{
    fprintf(out, "title \"%s%s\" noenhanced", row->system, row->can_spin && !row->spin ? ", no spinning" : "");
}

/* What tells the cases of a workload apart, a line each. */
static void group_title(FILE *out, const struct bench_row *row)
{
    char text[TEXT_CHARS];
    const struct bench_case *c = &row->of;
    const char *line = "\"";
    if (c->workload == WORKLOAD_PINGPONG || c->workload == WORKLOAD_STREAM) {
        fprintf(out, "%s%s bytes", line, text_grouped(text, c->bytes));
        line = "\\n";
    }
    if (c->connections > 2) {
        fprintf(out, "%s%s connections", line, text_grouped(text, c->connections));
        line = "\\n";
    }
    if (c->workload == WORKLOAD_NEIGHBOUR || c->workload == WORKLOAD_CONNECT || c->workload == WORKLOAD_PROCESSES) {
        fprintf(out, "%s%s", line, c->rate > 0 ? text_grouped(text, (int64_t)c->rate) : "flat out");
        fputs(c->rate > 0 ? "/s" : "", out);
        line = "\\n";
    }
    if (c->ring_bytes > 0)
        fprintf(out, "%srings of %s", line, text_grouped(text, c->ring_bytes));
    if (c->workload == WORKLOAD_NEIGHBOUR)
        fprintf(out, "\\n%s", beside_name(row->beside));
    fputc('"', out);
}

static void draw_bars(FILE *out, const struct panel *p, const struct bench_rows *rows, const struct bench_row **series,
                      uint32_t series_count)
{
    const struct bench_row *group[GROUPS_MAX];
    uint32_t groups = collect(p, rows, group, GROUPS_MAX, same_group);
    fputs("$data << EOD\n", out);
    for (uint32_t g = 0; g < groups; g++) {
        group_title(out, group[g]);
        for (uint32_t s = 0; s < series_count; s++) {
            const struct bench_row *row = find(p, rows, series[s], group[g]);
            if (row != NULL)
                fprintf(out, " %g", row->figure[p->figure] * p->scale);
            else
                fputs(" NaN", out);
        }
        fputc('\n', out);
    }
    fputs("EOD\nset style data histogram\nset style histogram clustered gap 1\nset style fill solid\n"
          "unset logscale x\nset xtics norotate autofreq\nset xlabel ''\nset bmargin 4.5\n",
          out);
    fprintf(out, "set xrange [-0.6:%g]\nplot ", groups - 0.4);
    for (uint32_t s = 0; s < series_count; s++) {
        fprintf(out, "%s$data using %u:xtic(1) linecolor rgb '%s' ", s > 0 ? ", " : "", s + 2, colour(rows, series[s]));
        series_title(out, series[s]);
    }
    fputc('\n', out);
}

static void draw_lines(FILE *out, const struct panel *p, const struct bench_rows *rows, const struct bench_row **series,
                       uint32_t series_count)
{
    for (uint32_t s = 0; s < series_count; s++) {
        fprintf(out, "$line%u << EOD\n", s);
        for (uint32_t i = 0; i < rows->count; i++)
            if (in_panel(p, &rows->row[i]) && same_series(&rows->row[i], series[s]))
                fprintf(out, "%u %g\n", rows->row[i].of.connections, rows->row[i].figure[p->figure] * p->scale);
        fputs("EOD\n", out);
    }
    fputs(
        "set logscale x\nset xtics (1, 4, 16, 64, 256, 1000, 4000)\nset xlabel 'connections'\nset xrange [1:4000]\nset format y '%.0s%c'\nplot ",
        out);
    for (uint32_t s = 0; s < series_count; s++) {
        fprintf(out, "%s$line%u with linespoints pointtype 7 pointsize 0.6 linewidth %d linecolor rgb '%s' ",
                s > 0 ? ", " : "", s, strcmp(series[s]->system, "belfry") == 0 ? 4 : 2, colour(rows, series[s]));
        series_title(out, series[s]);
    }
    fputc('\n', out);
}

/* --- one file ---------------------------------------------------------------------------------------------------- */

static void draw_workload(FILE *out, enum workload w, const struct bench_rows *rows, const char *directory)
{
    const struct bench_row *series[PANELS][SERIES_MAX];
    uint32_t count[PANELS], filled = 0;
    for (uint32_t i = 0; i < PANELS; i++) {
        count[i] = panels[i].workload == w ? collect(&panels[i], rows, series[i], SERIES_MAX, same_series) : 0;
        filled += count[i] > 0;
    }
    if (filled == 0)
        return;
    fprintf(out, "reset\nset terminal svg size %d,%u font 'sans,13' background rgb 'white'\n", WIDTH,
            filled * PANEL_HEIGHT);
    fprintf(out, "set output \"%s/%s.svg\"\n", directory, workload_name(w));
    fprintf(out,
            "set multiplot layout %u,1\nset key outside right noenhanced\nset grid ytics\n"
            "set lmargin 12\nset rmargin 24\n",
            filled);
    for (uint32_t i = 0; i < PANELS; i++) {
        if (count[i] == 0)
            continue;
        fprintf(out, "set title \"%s\"\nset ylabel \"%s\"\n%s logscale y\n%s\n", panels[i].title, panels[i].axis,
                panels[i].log ? "set" : "unset", panels[i].log ? "set yrange [*:*]" : "set yrange [0:1<*]");
        if (panels[i].lines)
            draw_lines(out, &panels[i], rows, series[i], count[i]);
        else
            draw_bars(out, &panels[i], rows, series[i], count[i]);
    }
    fputs("unset multiplot\nunset output\n", out);
}

bool plots_write(const struct bench_rows *rows, const char *directory)
{
    if (strpbrk(directory, "\"\\\n") != NULL) {
        fprintf(stderr, "belfry-bench: --plots: gnuplot would not understand '%s'\n", directory);
        return false;
    }
    FILE *out = popen("gnuplot", "we");
    if (out == NULL) {
        fprintf(stderr, "belfry-bench: gnuplot: %s\n", strerror(errno));
        return false;
    }
    for (enum workload w = 0; w < WORKLOADS; w++)
        draw_workload(out, w, rows, directory);
    int status = pclose(out);
    if (status != 0)
        fprintf(stderr, "belfry-bench: gnuplot ended with status %d\n", status);
    return status == 0;
}

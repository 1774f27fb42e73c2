/* SPDX-License-Identifier: MIT */
/* rows.c: see rows.h. */
#include "rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *figure_name(enum figure f)
{
    static const char *const name[FIGURES] = {
        [FIGURE_P50] = "p50_ns",
        [FIGURE_P99] = "p99_ns",
        [FIGURE_P99_9] = "p99_9_ns",
        [FIGURE_MAX] = "max_ns",
        [FIGURE_PER_SECOND] = "per_second",
        [FIGURE_SERVER_CPU] = "server_cpu_ns",
        [FIGURE_CLIENT_CPU] = "client_cpu_ns",
        [FIGURE_CPU] = "cpu_ns",
        [FIGURE_LINE] = "line_ns",
        [FIGURE_SERVER_RSS] = "server_rss_bytes",
        [FIGURE_SHARED_MEMORY] = "shared_memory_bytes",
        [FIGURE_CPU_PERCENT] = "cpu_percent",
        [FIGURE_WAKEUPS] = "wakeups_per_second",
        [FIGURE_DISTURBER_PER_SECOND] = "disturber_per_second",
        [FIGURE_OWN_BYTES] = "own_bytes",
        [FIGURE_RSS_BYTES] = "rss_bytes",
        [FIGURE_SHARED_BYTES] = "shared_bytes",
        [FIGURE_SLAB_BYTES] = "slab_bytes",
        [FIGURE_PAGE_TABLE_BYTES] = "page_table_bytes",
        [FIGURE_MAPS] = "maps",
        [FIGURE_INODES] = "inodes",
        [FIGURE_DESCRIPTORS] = "descriptors",
    };
    return name[f];
}

void figures_clear(double figure[FIGURES])
{
    for (int f = 0; f < FIGURES; f++)
        figure[f] = FIGURE_NONE;
}

const char *row_variant_here(char out[VARIANT_CHARS], const struct bench_row *row)
{
    const char *spinning = row->is_limit    ? "limit"
                           : !row->can_spin ? "blocking"
                           : row->spin      ? "spinning"
                                            : "no spinning";
    bool has_neighbour = row->of.workload == WORKLOAD_NEIGHBOUR;
    snprintf(out, VARIANT_CHARS, "%s%s%s", spinning, has_neighbour ? ", " : "",
             has_neighbour ? beside_name(row->beside) : "");
    return out;
}

const char *row_variant(char out[VARIANT_CHARS], const struct bench_row *row)
{
    char here[VARIANT_CHARS];
    snprintf(out, VARIANT_CHARS, "%s, %.60s%s", placement_name(row->of.placement), row_variant_here(here, row),
             strcmp(row->system, "belfry") == 0 ? ", one shard" : "");
    return out;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of the samples that have it; of an even number, the mean of the middle two. */
static double median(double *values, uint32_t count)
{
    if (count == 0)
        return FIGURE_NONE;
    qsort(values, count, sizeof *values, compare);
    return count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

void row_finish(struct bench_row *row, double (*sample)[FIGURES], uint32_t rounds)
{
    double *values = calloc(rounds + 1, sizeof *values);
    if (values == NULL)
        abort();
    row->rounds = rounds;
    for (int f = 0; f < FIGURES; f++) {
        uint32_t count = 0;
        for (uint32_t i = 0; i < rounds; i++)
            if (sample[i][f] != FIGURE_NONE)
                values[count++] = sample[i][f];
        row->figure[f] = median(values, count);
    }
    free(values);
}

void rows_add(struct bench_rows *rows, const struct bench_row *row)
{
    if (rows->count == rows->capacity) {
        rows->capacity = rows->capacity ? 2 * rows->capacity : 64;
        rows->row = realloc(rows->row, rows->capacity * sizeof *rows->row);
        if (rows->row == NULL)
            abort();
    }
    rows->row[rows->count++] = *row;
}

void rows_free(struct bench_rows *rows)
{
    free(rows->row);
    *rows = (struct bench_rows){0};
}

const struct bench_row *rows_find(const struct bench_rows *rows, const char *system, const struct bench_case *of,
                                  bool spin, enum beside beside)
{
    for (uint32_t i = 0; i < rows->count; i++) {
        const struct bench_row *row = &rows->row[i];
        if (strcmp(row->system, system) == 0 && case_same(&row->of, of) && row->spin == spin && row->beside == beside)
            return row;
    }
    return NULL;
}

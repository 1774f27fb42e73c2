/* SPDX-License-Identifier: MIT */
/*
 * rows.h: the results: a row is one system in one case, and each of its figures the median over the rounds.
 *
 * The names of the figures are the keys of the JSON file.
 */
#ifndef BENCH_ROWS_H
#define BENCH_ROWS_H

#include "cases.h"

/* Times in nanoseconds, CPU in nanoseconds per message. */
enum figure {
    FIGURE_P50,
    FIGURE_P99,
    FIGURE_P99_9,
    FIGURE_MAX,
    FIGURE_PER_SECOND,
    FIGURE_SERVER_CPU,
    FIGURE_CLIENT_CPU,
    FIGURE_CPU,                  /* of both */
    FIGURE_LINE,                 /* the one-line ping-pong beside it, its median */
    FIGURE_SERVER_RSS,           /* bytes in all, when the work is done and the clients are still there */
    FIGURE_SHARED_MEMORY,        /* likewise: blocks of files on the run's tmpfs */
    FIGURE_CPU_PERCENT,          /* idle */
    FIGURE_WAKEUPS,              /* idle, per second */
    FIGURE_DISTURBER_PER_SECOND, /* neighbour: the nuisance's own messages or connects */
    FIGURE_OWN_BYTES,            /* from here on: memory, of the server, per connection */
    FIGURE_RSS_BYTES,
    FIGURE_SHARED_BYTES,
    FIGURE_SLAB_BYTES, /* of the whole system: both sides of the connection */
    FIGURE_PAGE_TABLE_BYTES,
    FIGURE_MAPS,
    FIGURE_INODES,
    FIGURE_DESCRIPTORS,
    FIGURES,
};

/* A figure that does not apply, or is not known. */
#define FIGURE_NONE (-1.0)

const char *figure_name(enum figure f);

struct bench_row {
    struct bench_case of;
    const char *system;
    bool is_limit; /* of the machine: not a system */
    bool can_spin; /* there is a variant of each kind */
    bool spin;
    enum beside beside;
    uint32_t rounds;
    double figure[FIGURES];
};

struct bench_rows {
    struct bench_row *row;
    uint32_t count;
    uint32_t capacity;
};

void figures_clear(double figure[FIGURES]);

/* "spinning", which says it among rows of one case; "split, spinning, one shard", which says it anywhere */
#define VARIANT_CHARS 96
const char *row_variant_here(char out[VARIANT_CHARS], const struct bench_row *row);
const char *row_variant(char out[VARIANT_CHARS], const struct bench_row *row);

/* The figures are the medians over `rounds` samples; what a sample does not have does not count. */
void row_finish(struct bench_row *row, double (*sample)[FIGURES], uint32_t rounds);

void rows_add(struct bench_rows *rows, const struct bench_row *row);
void rows_free(struct bench_rows *rows);

/* The row of a system in a case (the settings count, not the rest of the case). NULL: it was not run. */
const struct bench_row *rows_find(const struct bench_rows *rows, const char *system, const struct bench_case *of,
                                  bool spin, enum beside beside);

#endif

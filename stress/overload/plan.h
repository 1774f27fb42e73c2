/* SPDX-License-Identifier: MIT */
/*
 * plan.h: what is measured: who does what to a server, and the figures of its victim meanwhile.
 *
 * The victim calls without a pause, one call after the other. It is measured in three situations that take turns within a
 * round: alone; beside as many busy processes as attack later, which do not touch belfry (what they cost, the scheduler
 * costs); and during the attack. Of each figure the report has the median over the rounds.
 */
#ifndef OVERLOAD_PLAN_H
#define OVERLOAD_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <belfry/belfry.h>

#define PLAN_NOTES_MAX 12
#define PLAN_WRONGS_MAX 6
#define PLAN_TEXT_CHARS 240

/* STIR is what goes before DURING and is not measured. */
enum situation { REST, ALONE, BESIDE, STIR, DURING, OVER, SITUATIONS };

enum figure {
    PER_SECOND, /* the victim's calls, and their latencies */
    P50_NS,
    P99_NS,
    P999_NS,
    MAX_NS,
    VISITS, /* a guest, of a third user where there is one, connects, calls once and leaves */
    VISIT_P50_NS,
    VISIT_P99_NS,
    VISIT_MAX_NS,
    SERVER_CPU,   /* of one core */
    SERVER_WAITS, /* the share of the time in which it could run and had no core: only the scheduler knows why */
    VICTIM_WAITS,
    LONG_TURNS, /* of a shard, of 1 ms and more, per second */
    FIGURES,
};

struct figures {
    double value[FIGURES];
};

enum unit { UNIT_COUNT, UNIT_NS, UNIT_BYTES };

struct note {
    const char *what;
    enum unit unit;
    double value;
};

/* What came of a plan. */
struct row {
    const char *skipped; /* why, or NULL */
    bool has[SITUATIONS];
    struct figures median[SITUATIONS];
    struct note note[PLAN_NOTES_MAX]; /* medians, too */
    uint32_t notes;
    char wrong[PLAN_WRONGS_MAX][PLAN_TEXT_CHARS];
    uint32_t wrongs; /* more than there are texts, perhaps */
};

struct overload_options {
    uint32_t rounds;
    double seconds; /* of each situation */
    double stopped_seconds;
    uint32_t shards;
    bool quick;
    bool yield;       /* who attacks or is busy takes only what the others leave of the cores */
    bool corrupt_one; /* the server spoils an answer */
    bool list;
    const char *only;
    const char *json;
};

/* The sizes of all that comes in large numbers. */
struct scale {
    uint32_t crowd_processes;
    uint32_t crowd_conns; /* of each */
    uint32_t dying_processes;
    uint32_t dying_conns; /* of each */
    uint32_t half_open;
    uint32_t slow_readers;
};

struct stage;
struct plan;
struct attack;

struct plan {
    const char *name;
    const char *what;
    void (*run)(struct stage *s, const struct plan *p);
    const struct attack *attack;
    uint32_t processes;
    uint32_t conns;     /* of each process */
    bool other;         /* whoever attacks is of another user */
    bool guest;         /* somebody comes and goes meanwhile */
    bool large_visits;  /* with a message of 256 KiB */
    bool quick;         /* part of --quick */
    uint32_t ends;      /* the reasons for which conns may end, as bits; BELFRY_END_LEFT always is one */
    uint32_t max_slots; /* of the server; 0: 1,024 */
    uint32_t ring_bytes;
    enum belfry_overflow overflow;
};

#endif

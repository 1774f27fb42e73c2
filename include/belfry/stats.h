/* SPDX-License-Identifier: MIT */
/*
 * belfry/stats.h: the counters that a running server keeps in its lobby, for whoever may read it.
 *
 * The server is not asked and does not notice: the counters are read from shared memory. Each is exact on its own; a
 * snapshot of several is not taken at one instant.
 */
#ifndef BELFRY_STATS_H
#define BELFRY_STATS_H

#include <belfry/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BELFRY_SHARDS_MAX 64
#define BELFRY_LONG_TURNS 16
#define BELFRY_LONG_TURN_NS 64000ll

/* One shard's counters, or their sum. Part of the shared-memory format: only append, and raise the version. */
typedef struct belfry_counters {
    uint64_t connections_total;    /* conns accepted since start */
    uint64_t connections_active;   /* conns now */
    uint64_t messages_in;          /* requests and one-way messages handed to on_message */
    uint64_t messages_out;         /* replies, failures and pushes */
    uint64_t bytes_in;             /* payload */
    uint64_t bytes_out;            /* payload */
    uint64_t unanswered;           /* requests answered BELFRY_EUNANSWERED */
    uint64_t refusals[16];         /* claims that never became a conn, by enum belfry_end */
    uint64_t ends[16];             /* conns that ended, by enum belfry_end */
    uint64_t wakes;                /* clients woken */
    uint64_t parks;                /* times the shard went to sleep */
    uint64_t rings;                /* doorbells heard */
    uint64_t empty_rings;          /* doorbells heard with nothing behind them */
    uint64_t sweeps;               /* slow looks at all slots */
    uint64_t rescued_wakes;        /* messages that only the sweep found: must stay 0 */
    uint64_t rescans;              /* of the lock directory, after inotify's queue overflowed */
    uint64_t watch_events;         /* inotify events read */
    uint64_t junk_names;           /* files in the lock directory that are no slot's lock */
    uint64_t slots_made;           /* pairs of segments made */
    uint64_t slots_made_on_demand; /* of these, for a client that found its slot cold */
    uint64_t slots_warm;           /* warm slots now */
    uint64_t stalls;               /* times a conn's reply ring was full and its outbox began to fill */
    uint64_t outbox_bytes;         /* in all outboxes now */
    uint64_t allocated_bytes;      /* of the shard's arena, now */
    uint64_t turns;                /* of the shard's loop */
    uint64_t polls_won;            /* times polling found work before the shard went to sleep */
    uint64_t pushes_dropped;  /* belfry_push_to, _broadcast: conn over or outbox full; and by overflow = DROP_PUSH */
    uint64_t deferred;        /* requests whose handler took a ticket */
    uint64_t cancels;         /* cancellations that clients sent */
    uint64_t answers_dropped; /* what holders of tickets said when nobody waited any more */
    uint64_t expired;         /* requests not handed over, because their deadline had passed */
    uint64_t whole_refused;   /* large messages for which there was no memory, or whole_bytes_max was reached */
    uint64_t outbox_full;     /* replies and pushes that found a full outbox and were not taken */
    uint64_t bus_faults;      /* slots whose segments were truncated or had no memory when the server touched them */
    uint64_t stalled_turns;   /* of the shard's loop, that took stall_ms or more */
    uint64_t longest_turn_ns; /* in the total: of any shard */
    uint64_t long_turns[BELFRY_LONG_TURNS]; /* of 64 us << i and more, up to twice that; the last one: and more */
    uint64_t reserved[8];
} belfry_counters;

typedef struct belfry_statistics {
    size_t size; /* set by the caller to sizeof(belfry_statistics) */
    uint64_t instance;
    uint32_t pid; /* of the server */
    uint32_t shards;
    uint32_t max_slots;
    uint32_t warm_pool;
    uint32_t ring_bytes;
    uint32_t message_bytes_max;
    uint64_t started_ns; /* CLOCK_MONOTONIC */
    bool alive;          /* the server holds its lock */
    belfry_counters total;
    belfry_counters shard[BELFRY_SHARDS_MAX];
} belfry_statistics;

/*
 * Read the counters of the current instance of `service` ("name" or "uid:name"; root as in belfry_connect, NULL for
 * the default). Maps the lobby and unmaps it again; does not block. Returns 0, BELFRY_ENOSERVICE, BELFRY_EVERSION,
 * BELFRY_ENAME, BELFRY_EROOT, BELFRY_EOPTION (out->size), -EACCES.
 */
BELFRY_API int belfry_stats(const char *service, const char *root, belfry_statistics *out);

#ifdef __cplusplus
}
#endif
#endif

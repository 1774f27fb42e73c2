/* SPDX-License-Identifier: MIT */
/*
 * run.h: a run from the first connect to the last figure, as the main process sees it, and what came out of it.
 *
 * Messages per second and CPU per message are taken over the same interval, from the first message due until time was
 * up, with the same two looks at the counters. Lost, corrupt and latency cover everything, draining included.
 */
#ifndef STRESS_RUN_H
#define STRESS_RUN_H

#include "board.h"
#include "load.h"
#include "options.h"
#include "proc.h"
#include "service.h"

#include <belfry/stats.h>

struct results {
    double seconds; /* of the interval */
    uint64_t sent;
    uint64_t messages;          /* replies that came, in all */
    uint64_t interval_messages; /* of these, within the interval */
    uint64_t lost;              /* sent - messages */
    uint64_t corrupt;
    uint64_t failed;        /* answered with a failure; these are among the lost */
    uint64_t delays;        /* sends that met a full ring */
    uint64_t unsent;        /* open loop: the rate was too high for this many */
    uint64_t reconnects;    /* by churn */
    uint64_t rescued_wakes; /* during the run, by the server's sweep or a client's timeout */
    struct histogram rtt_ns;
    struct histogram connect_ns;

    int64_t server_cpu_ns; /* over the interval; PROC_UNKNOWN as in all that follows */
    uint64_t parks;        /* of the server's shards, over the interval; so are the next two */
    uint64_t wakes;        /* clients woken */
    uint64_t rings;        /* doorbells heard */

    struct proc_size server; /* with all connections attached, after the load */
    int64_t segments_bytes;
    uint64_t attached;
    uint32_t shards;
    uint64_t shard_connections[BELFRY_SHARDS_MAX];

    uint64_t allocated_before; /* by the server's shards: before the first client came, */
    uint64_t allocated_peak;   /* the most that was seen, */
    uint64_t allocated_after;  /* after the last has left */
    uint64_t left_behind;      /* connections that the server still counts two seconds after all have left */

    double idle_seconds; /* 0: not measured */
    double idle_cpu_percent;
    double idle_wakeups_per_second;

    uint32_t processes_crashed;
    bool interrupted;
    bool incomplete; /* it ended before it could measure */
    bool server_failed;
    int32_t error; /* the first failure of a client, 0: none */
    char sentence[256];
};

/* Drive the load through its phases and fill *r. All client processes have ended when it returns. */
void run(struct results *r, const struct options *o, struct board_shared *b, struct load *l, struct service *s);

/* End the run early, with its figures. Async-signal-safe. */
void run_interrupt(int signal);

/* Did everything that was sent come back as it should have, in time and without help? */
bool results_passed(const struct results *r, const struct options *o);

/* Nanoseconds of server CPU per message, or PROC_UNKNOWN. */
double results_cpu_per_message(const struct results *r);

#endif

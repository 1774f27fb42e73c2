/* SPDX-License-Identifier: MIT */
/*
 * board.h: the sheet of memory on which all processes of a run write how far they are.
 *
 * One anonymous shared mapping, made before the first fork, so nobody has to open or name it and it is gone with the
 * last process. The main process writes the phase, and everybody waits on that word; each worker thread writes its own
 * part, of which the main process needs nothing but loads. What a worker that was killed has counted up to then is
 * still there afterwards: a crash loses messages, but not the knowledge of how many.
 */
#ifndef STRESS_BOARD_H
#define STRESS_BOARD_H

#include "histogram.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What everybody should be doing. It only ever moves forward. */
enum phase {
    PHASE_CONNECT = 0,
    PHASE_RUN = 1,   /* send, from start_ns on */
    PHASE_DRAIN = 2, /* send nothing more, collect what is on its way */
    PHASE_CLOSE = 3, /* leave */
};

/* How far one worker is. */
enum stage {
    STAGE_STARTING = 0,
    STAGE_ATTACHED = 1, /* all its connections stand, or `error` says why not */
    STAGE_DRAINED = 2,  /* nothing of its own is on its way any more, or it has given up waiting */
    STAGE_LEFT = 3,
};

/* One worker thread's part; written by it alone, each counter read at any time. */
struct worker_shared {
    _Atomic uint32_t stage;
    _Atomic int32_t error;       /* the first failure, 0: none */
    char sentence[256];          /* about it; written before `error` */
    _Atomic uint32_t attached;   /* connections that stand now */
    _Atomic uint64_t sent;       /* requests that the library has taken */
    _Atomic uint64_t answered;   /* replies to them, right or wrong */
    _Atomic uint64_t corrupt;    /* of these, not what they should have been */
    _Atomic uint64_t failed;     /* requests that came back as a failure: not answered */
    _Atomic uint64_t delays;     /* sends that met a full ring and were tried again */
    _Atomic uint64_t unsent;     /* open loop: due but not sent when time was up */
    _Atomic uint64_t reconnects; /* by churn */
    _Atomic uint64_t rescued;    /* wakes that never came: the client found the news by its own timeout */
    struct histogram rtt_ns;     /* read it only when the worker has ended */
    struct histogram connect_ns; /* likewise */
} __attribute__((aligned(128)));

enum service_state { SERVICE_STARTING = 0, SERVICE_READY = 1, SERVICE_FAILED = 2 };

struct board_shared {
    _Atomic uint32_t phase; /* main process; a futex */
    int64_t start_ns;       /* main process, before PHASE_RUN: when to send the first message */

    _Atomic uint32_t service_state; /* server process, enum service_state */
    int32_t service_rc;             /* server process, before SERVICE_FAILED */
    char service_sentence[512];     /* server process, likewise */

    uint32_t worker_count;
    struct worker_shared worker[];
};

/* NULL and errno when there is no memory. */
struct board_shared *board_create(uint32_t worker_count);
void board_destroy(struct board_shared *b);

/* Main process: begin a phase and wake whoever waits for it. */
void board_begin(struct board_shared *b, enum phase phase);

/* Worker: block until `phase` has begun, or a later one. Returns the phase that it is. */
enum phase board_await(struct board_shared *b, enum phase phase);

/* Worker, in its loop: the phase that it is. */
static inline enum phase board_phase(struct board_shared *b)
{
    return (enum phase)atomic_load_explicit(&b->phase, memory_order_acquire);
}

/* A counter with one writer needs no locked instruction. */
static inline void count_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* The sum of one counter over all workers, as far as they are now: BOARD_SUM(board, answered). */
#define BOARD_SUM(board, counter) board_sum((board), offsetof(struct worker_shared, counter))
uint64_t board_sum(struct board_shared *b, size_t counter_offset);

/* Connections that stand now, over all workers. */
uint32_t board_attached(struct board_shared *b);

/* The first worker that failed, or NULL. */
const struct worker_shared *board_first_error(struct board_shared *b);

#endif

/* SPDX-License-Identifier: MIT */
/* worker.h: one thread of a client process, from the first connect to the last close. */
#ifndef STRESS_WORKER_H
#define STRESS_WORKER_H

#include "board.h"
#include "options.h"

struct worker_job {
    const struct options *options;
    struct board_shared *board;
    const char *service;
    uint32_t index; /* which part of the board is its own, and which connections */
};

/* Drive this worker's connections through all phases. Returns when it has left; failures stand on the board. */
void worker_run(const struct worker_job *job);

#endif

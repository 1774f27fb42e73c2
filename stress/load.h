/* SPDX-License-Identifier: MIT */
/* load.h: the client processes: forked, watched, reaped. What they do is in worker.c. */
#ifndef STRESS_LOAD_H
#define STRESS_LOAD_H

#include "board.h"
#include "options.h"

#include <sys/types.h>

struct load_process {
    pid_t pid;
    bool exited;
    int status; /* then: as from waitpid */
};

struct load {
    const struct options *options;
    struct board_shared *board;
    const char *service;
    uint32_t started;
    uint32_t exited;
    uint32_t crashed; /* of these, not with status 0 */
    struct load_process *process;
};

/* Fork them all. Returns 0, or -errno after a sentence; those that were started are then for load_stop(). */
int load_start(struct load *l, const struct options *o, struct board_shared *b, const char *service);

/* Notice processes that have ended; one that crashed is named on standard error. Does not block. */
void load_reap(struct load *l);

/* Have all workers reached `stage`, or ended? */
bool load_reached(const struct load *l, enum stage stage);

/* Wait until all have ended, those that take longer than `seconds` are killed; then free. */
void load_stop(struct load *l, int seconds);

#endif

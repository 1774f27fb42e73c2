/* SPDX-License-Identifier: MIT */
/*
 * lab.h: the processes of one run: a server, one or many clients, and this one, which only looks on.
 *
 * All are forked from the main process while it has a single thread, share one sheet of memory, and die with it. A
 * workload gives lab_run() a body for the clients; the body connects, says lab_ready(), does its work, says lab_done()
 * and then disconnects, so that the server's CPU is counted over the work alone.
 */
#ifndef BENCH_LAB_H
#define BENCH_LAB_H

#include "../histogram.h"
#include "../proc.h"
#include "system.h"

#define LAB_ANY_CORE (-1)

/* What one client process has measured. */
struct lab_client {
    _Atomic uint32_t stage;
    uint64_t messages;
    double seconds;
    int64_t cpu_ns;
    struct histogram rtt_ns;
} __attribute__((aligned(128)));

struct lab_board {
    struct bench_service service;
    _Atomic uint32_t go __attribute__((aligned(128))); /* a futex word */
    _Atomic uint32_t leave;                            /* likewise */
    struct lab_client client[];
};

struct lab {
    const struct bench_system *system;
    struct bench_setup setup;
    uint32_t bytes;
    uint32_t processes;
    double seconds;
    double rate; /* open loop: messages per second over all processes; 0: closed loop */
    int server_core;
    int client_core; /* with many processes: LAB_ANY_CORE */

    /* Called in the main process when all clients have done their work and are still connected. NULL: nothing. */
    void (*look)(struct lab *lab);
    void *user; /* for it */

    struct lab_board *board;
    size_t board_bytes;
    pid_t server;
    pid_t *client;

    /* results */
    struct histogram rtt_ns;
    uint64_t messages;
    double per_second;
    double server_cpu_ns; /* per message */
    double client_cpu_ns;
};

/* Pin the calling thread to a core, or let it run anywhere (LAB_ANY_CORE). */
void lab_pin(int core);

/* Start the server and wait until it is ready. False, after a sentence: it is not. */
bool lab_open(struct lab *lab);

/* Fork lab->processes clients, let them run `body`, and sum up. False, after a sentence: one of them failed. */
bool lab_run(struct lab *lab, void (*body)(struct lab *lab, uint32_t process, struct lab_client *out));

/* End the server. False, after a sentence: it had ended by itself, or badly. */
bool lab_close(struct lab *lab);

pid_t lab_server_pid(const struct lab *lab);

/* --- in a body --------------------------------------------------------------------------------------------------- */

/* All connections stand: wait until all others' do. */
void lab_ready(struct lab *lab, struct lab_client *out);

/* The work is done; `messages` over how many seconds. Waits until all others have done theirs. */
void lab_done(struct lab *lab, struct lab_client *out, uint64_t messages, double seconds);

#endif

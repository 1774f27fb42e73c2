/* SPDX-License-Identifier: MIT */
/*
 * system.h: what a system must be able to do to be compared: belfry, its peers, and the limits of the machine.
 *
 * Each lives in a file of its own, system_<name>.c, written as its documentation recommends: one server thread that
 * echoes what is marked PAYLOAD_ECHO and checks and counts what is marked PAYLOAD_SINK, and one client thread over
 * `connections` connections. The workloads (pingpong.c, many.c, ...) know systems through this table only, so all are
 * driven, timed and verified by the same code.
 *
 * Whoever cannot go on says why with bench_die(): the process ends, and the run with it.
 */
#ifndef BENCH_SYSTEM_H
#define BENCH_SYSTEM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "../histogram.h"
#include "payload.h"

/* What one run is about; the same on both sides. */
struct bench_setup {
    const char *address;  /* a name of [a-z0-9-] that no other run has */
    const char *folder;   /* an empty directory on tmpfs, for sockets and the like */
    uint32_t connections; /* that the server will have at once, over all client processes */
    uint32_t bytes_max;   /* largest payload */
    uint32_t ring_bytes;  /* belfry only; 0: what bytes_max asks for */
    uint32_t warm;        /* belfry only: warm slots; 0: one per connection */
    bool spin;            /* who can poll before sleeping, may */
    bool corrupt_one;     /* spoil one message: the run must fail */
};

/* The server's part of the board, in memory that all processes of the run share. */
struct bench_service {
    _Atomic uint32_t ready; /* 1: clients may connect */
    _Atomic int32_t pid;    /* whose CPU and memory count */
    _Atomic uint64_t echoed;
    _Atomic uint64_t sunk;     /* PAYLOAD_SINK messages counted */
    _Atomic uint64_t sunk_bad; /* of these, not what they should have been */
    uint32_t spoil_at;         /* spoil the echo of that number; 0: none */
};

struct bench_client; /* each system has its own */
struct bench_run;    /* likewise, if it has a script */

/* What a script is to do, and what came of it. It verifies every message itself. */
struct bench_task {
    enum { BENCH_ECHO, BENCH_STREAM } kind; /* one message in flight on each connection, or one way on a single one */
    uint32_t connections;
    uint32_t bytes;
    double seconds;
};

struct bench_result {
    uint64_t messages;
    double seconds;
    int64_t cpu_ns;
    struct histogram *rtt_ns; /* the caller's; a stream adds nothing */
};

struct bench_script {
    /* Start it; when this returns it is connected and warm. */
    struct bench_run *(*start)(const struct bench_setup *setup, const struct bench_task *task);
    /* Let it work, and wait for what it says. `first` is the sequence of a stream's first message. */
    void (*finish)(struct bench_run *run, uint64_t first, struct bench_result *result);
    void (*close)(struct bench_run *run);
};

struct bench_system {
    const char *name;
    const char *what;         /* a line for the table's legend */
    bool can_spin;            /* it has a variant that polls */
    bool can_many;            /* more than one connection */
    uint32_t connections_max; /* 0: no limit of its own */
    uint32_t bytes_max;       /* 0: no limit of its own */

    /* In the server's process, on the thread that counts: serve until the process is ended by SIGTERM. */
    void (*serve)(const struct bench_setup *setup, struct bench_service *service);

    /* Connect `count` connections, numbered `first` and up in this run. */
    struct bench_client *(*open)(const struct bench_setup *setup, uint32_t first, uint32_t count);

    /* Where to write the next message of connection `number` - first; then send it. Both sides of a 64 KiB message are
       handed out in place where the system can do that. */
    void *(*reserve)(struct bench_client *client, uint32_t index, uint32_t bytes);
    void (*commit)(struct bench_client *client, uint32_t index, uint32_t bytes);

    /* Send what commit() may have kept back. NULL: commit keeps nothing. */
    void (*flush)(struct bench_client *client);

    /* The next reply of any connection, waiting for it. Valid until release(). */
    const void *(*receive)(struct bench_client *client, uint32_t *index, uint32_t *bytes);
    void (*release)(struct bench_client *client, uint32_t index);

    void (*close)(struct bench_client *client);

    /* A client that is not C, for the workloads that it can do; the functions above do the others. NULL: none. */
    const struct bench_script *script;
};

extern const struct bench_system *const bench_systems[];
extern const uint32_t bench_system_count;
const struct bench_system *bench_system_find(const char *name);

void bench_die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2), cold));

/* --- for a system's server --------------------------------------------------------------------------------------- */

void service_is_ready(struct bench_service *s);

/* Out of line: a message that is no plain echo. */
void service_spoil(struct bench_service *s, void *reply, uint32_t bytes);

static inline void service_count(_Atomic uint64_t *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

/* A message has come. True: echo it. False: it was to be counted, and has been. One server thread. */
static inline bool service_take(struct bench_service *s, const void *data, uint32_t bytes)
{
    struct payload_header header;
    memcpy(&header, data, sizeof header);
    if (__builtin_expect(header.kind != PAYLOAD_SINK, 1))
        return true;
    uint64_t expected = atomic_load_explicit(&s->sunk, memory_order_relaxed);
    if (__builtin_expect(!payload_is(data, bytes, bytes, PAYLOAD_SINK, 0, expected), 0))
        service_count(&s->sunk_bad);
    service_count(&s->sunk);
    return false;
}

/* The reply is written and not yet sent. */
static inline void service_echo(struct bench_service *s, void *reply, uint32_t bytes)
{
    service_count(&s->echoed);
    if (__builtin_expect(s->spoil_at != 0, 0))
        service_spoil(s, reply, bytes);
}

#endif

/* SPDX-License-Identifier: MIT */
/*
 * connection.h: one connection of the load generator, and the bookkeeping that proves it lost nothing.
 *
 * Whatever is sent is remembered until its reply has come: id, content, and the time from which its latency counts. A
 * reply is looked up by id, so an echo server may answer in any order. All connections of one worker thread share a
 * `driver`. When to send is decided in worker.c, through `may_send`.
 */
#ifndef STRESS_CONNECTION_H
#define STRESS_CONNECTION_H

#include "board.h"
#include "message.h"
#include "options.h"

#include <belfry/client.h>

/* A request that is on its way. */
struct pending {
    uint64_t id;
    int64_t since_ns; /* latency counts from here */
    bool answered;
    struct message_mark mark;
};

struct connection {
    belfry_client *client; /* NULL: closed */
    uint32_t number;       /* unique in the run */
    uint32_t bytes_next;   /* size of the message that is to be sent next; 0: not chosen yet */
    bool stalled;          /* the ring was full: wait for `writable` */
    bool leaving;          /* send nothing, it is about to be closed */
    int64_t stalled_ns;    /* since when the next message has been waiting to be sent; 0: it has not */
    uint64_t sequence;     /* messages sent, over all reconnects */
    uint64_t due;          /* open loop: messages that should have been sent by now */

    /* The window: `depth` places, of which first .. next - 1 are taken. */
    struct pending *pending;
    uint64_t first;
    uint64_t next;
};

/* What the connections of one thread have in common. */
struct driver {
    const struct options *options;
    struct worker_shared *shared;
    const char *service;
    belfry_poller *poller;
    uint32_t open_count;
    uint64_t in_flight; /* over all connections */
    uint64_t random;
    void *buffer;      /* where messages are built; sizes.bytes_max long */
    bool corrupt_next; /* --corrupt-one against a foreign server: spoil the next reply before it is checked */
};

static inline uint64_t connection_in_flight(const struct connection *c)
{
    return c->next - c->first;
}

/*
 * Attach, and join the driver's poller. Blocks while the server makes the slot, at most 30 seconds. Returns 0, or
 * belfry_connect()'s code with its sentence in belfry_last_error(); the connection stays closed then.
 */
int connection_open(struct driver *d, struct connection *c);

/* Leave. What is still on its way is forgotten here and therefore counted as lost. */
void connection_close(struct driver *d, struct connection *c);

/*
 * Send one request whose latency counts from `since_ns`. Returns 0; -EAGAIN when the window or the ring is full, to be
 * tried again after the next event; or a failure after which the connection is useless.
 */
int connection_send(struct driver *d, struct connection *c, int64_t since_ns);

/*
 * Take and check one message without waiting. Returns 1 when one came, 0 when there is none, or a failure after which
 * the connection is useless.
 */
int connection_receive(struct driver *d, struct connection *c);

/* Write down the first failure of this worker: `rc` and belfry_last_error(). */
void driver_error(struct driver *d, int rc);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * system_belfry.c: belfry, with one shard: server and client have a core each. In place both ways.
 *
 * One connection is waited for by belfry_receive(), many by a poller. The server echoes into the reply ring.
 */
#include <belfry/client.h>
#include <belfry/server.h>
#include <errno.h>
#include <stdlib.h>

#include "system.h"

#define EVENTS_MAX 256
#define RING_BYTES 65536u     /* one connection: what a server has by default */
#define RING_BYTES_MANY 4096u /* many: docs/TUNING.md says why */

struct bench_client {
    uint32_t count;
    belfry_client **connection;
    belfry_message *held;                  /* per connection: what receive() has handed out */
    const struct payload_header *reserved; /* what is being written */
    belfry_poller *poller;
    bool streams; /* a single connection: the last message was one way */
    belfry_poll_event events[EVENTS_MAX];
    int event_count;
    int event_next;
};

/* --- server ------------------------------------------------------------------------------------------------------ */

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    struct bench_service *service = user;
    void *reply;
    if (!service_take(service, m->data, (uint32_t)m->size))
        return;
    if (belfry_reply_reserve(conn, m, m->size, &reply) < 0)
        bench_die("belfry's server: %s", belfry_last_error());
    memcpy(reply, m->data, m->size);
    service_echo(service, reply, (uint32_t)m->size);
    belfry_reply_commit(conn, m->size);
}

static uint32_t ring_bytes(const struct bench_setup *setup)
{
    uint32_t usual = setup->connections > 1 ? RING_BYTES_MANY : RING_BYTES;
    uint32_t bytes = setup->ring_bytes != 0 ? setup->ring_bytes : usual;
    while (bytes / 4 < setup->bytes_max + 16)
        bytes *= 2;
    return bytes;
}

static enum belfry_spin spin_of(const struct bench_setup *setup)
{
    return setup->spin ? BELFRY_SPIN_BALANCED : BELFRY_SPIN_POWER;
}

static void serve(const struct bench_setup *setup, struct bench_service *service)
{
    belfry_server_options o;
    belfry_server_options_init(&o, sizeof o);
    o.service = setup->address;
    o.root = setup->folder;
    o.on_message = on_message;
    o.user = service;
    o.shards = 1;
    o.pin = false; /* the bench has done that */
    o.max_slots = setup->connections + 16;
    o.warm_pool = setup->warm != 0 ? setup->warm : setup->connections;
    o.ring_bytes = ring_bytes(setup);
    o.spin = spin_of(setup);
    o.stop_signals = true;
    belfry_server *s;
    int rc = belfry_server_create(&s, &o);
    if (rc == 0)
        rc = belfry_server_start(s);
    if (rc < 0)
        bench_die("belfry's server: %s", belfry_last_error());
    service_is_ready(service);
    belfry_server_wait(s);
    belfry_server_destroy(s);
}

/* --- client ------------------------------------------------------------------------------------------------------ */

static struct bench_client *client_open(const struct bench_setup *setup, uint32_t first, uint32_t count)
{
    (void)first;
    struct bench_client *client = calloc(1, sizeof *client);
    belfry_client_options o;
    belfry_client_options_init(&o, sizeof o);
    o.root = setup->folder;
    o.spin = spin_of(setup);
    o.deadline_ns = belfry_in_ms(60000);
    client->count = count;
    client->connection = calloc(count, sizeof(*client->connection));
    client->held = calloc(count, sizeof *client->held);
    if (belfry_poller_create(&client->poller) < 0)
        bench_die("belfry: %s", belfry_last_error());
    belfry_poller_cork(client->poller, count > 1);
    for (uint32_t i = 0; i < count; i++) {
        int rc = belfry_connect(&client->connection[i], setup->address, &o);
        if (rc == 0)
            rc = belfry_poller_add(client->poller, client->connection[i], (void *)(uintptr_t)i);
        if (rc < 0)
            bench_die("belfry: connection %u: %s", i, belfry_last_error());
    }
    return client;
}

static void *client_reserve(struct bench_client *client, uint32_t index, uint32_t bytes)
{
    void *data;
    belfry_client *c = client->connection[index];
    int rc;
    while ((rc = belfry_send_reserve(c, bytes, &data)) == -EAGAIN) {
        belfry_message m; /* only a stream fills its ring, and it gets no replies: this waits for room */
        rc = belfry_receive(c, &m, BELFRY_FOREVER);
        if (rc != -EAGAIN)
            bench_die("belfry: waiting for room: %s", rc < 0 ? belfry_last_error() : "a message came");
    }
    if (rc < 0)
        bench_die("belfry: %s", belfry_last_error());
    client->reserved = data;
    return data;
}

static void client_commit(struct bench_client *client, uint32_t index, uint32_t bytes)
{
    bool sink = client->reserved->kind == PAYLOAD_SINK;
    enum belfry_kind kind = sink ? BELFRY_ONE_WAY : BELFRY_REQUEST;
    if (client->count == 1 && sink != client->streams) { /* a stream has more to say soon, a request has not */
        client->streams = sink;
        belfry_poller_cork(client->poller, sink);
    }
    if (belfry_send_commit(client->connection[index], kind, bytes, NULL) < 0)
        bench_die("belfry: %s", belfry_last_error());
}

static const void *client_receive(struct bench_client *client, uint32_t *index, uint32_t *bytes)
{
    uint32_t i = 0;
    int64_t deadline = BELFRY_FOREVER;
    if (client->count > 1) {
        if (client->event_next == client->event_count) {
            client->event_count = belfry_poller_wait(client->poller, client->events, EVENTS_MAX, BELFRY_FOREVER);
            if (client->event_count < 0)
                bench_die("belfry: %s", belfry_last_error());
            client->event_next = 0;
        }
        i = (uint32_t)(uintptr_t)client->events[client->event_next++].tag;
        deadline = 0;
    }
    belfry_message *m = &client->held[i];
    if (belfry_receive(client->connection[i], m, deadline) < 0)
        bench_die("belfry: %s", belfry_last_error());
    if (m->status < 0)
        bench_die("belfry: a request failed: %.*s", (int)m->size, (const char *)m->data);
    *index = i;
    *bytes = (uint32_t)m->size;
    return m->data;
}

static void client_release(struct bench_client *client, uint32_t index)
{
    belfry_release(client->connection[index], &client->held[index]);
}

static void client_close(struct bench_client *client)
{
    uint64_t rescued = 0;
    for (uint32_t i = 0; i < client->count; i++) {
        rescued += belfry_client_rescued_wakes(client->connection[i]);
        belfry_close(client->connection[i]);
    }
    if (rescued > 0)
        bench_die("belfry: %llu wakes were lost", (unsigned long long)rescued);
    belfry_poller_destroy(client->poller);
    free(client->connection);
    free(client->held);
    free(client);
}

const struct bench_system system_belfry = {
    .name = "belfry",
    .what = "one shard; in place both ways; many connections through a corked poller, on rings of 4 KiB",
    .can_spin = true,
    .can_many = true,
    .serve = serve,
    .open = client_open,
    .reserve = client_reserve,
    .commit = client_commit,
    .receive = client_receive,
    .release = client_release,
    .close = client_close,
};

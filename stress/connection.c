/* SPDX-License-Identifier: MIT */
/* connection.c: see connection.h. The functions stand in the order of a connection's life. */
#include "connection.h"

#include "service.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_MS 30000

int connection_open(struct driver *d, struct connection *c)
{
    belfry_client_options co;
    belfry_client_options_init(&co, sizeof co);
    co.root = d->options->root;
    co.spin = d->options->spin;
    co.deadline_ns = belfry_in_ms(CONNECT_MS);

    int64_t began_ns = belfry_now_ns();
    int rc = belfry_connect(&c->client, d->service, &co);
    if (rc < 0)
        return rc;
    histogram_add(&d->shared->connect_ns, (uint64_t)(belfry_now_ns() - began_ns));
    rc = belfry_poller_add(d->poller, c->client, c);
    if (rc < 0) {
        belfry_close(c->client);
        c->client = NULL;
        return rc;
    }
    c->stalled = c->leaving = false;
    d->open_count++;
    atomic_store_explicit(&d->shared->attached, d->open_count, memory_order_relaxed);
    return 0;
}

void connection_close(struct driver *d, struct connection *c)
{
    if (!c->client)
        return;
    for (uint64_t i = c->first; i < c->next; i++)
        if (!c->pending[i % d->options->depth].answered)
            d->in_flight--;
    c->first = c->next;
    count_add(&d->shared->rescued, belfry_client_rescued_wakes(c->client));
    belfry_poller_remove(d->poller, c->client);
    belfry_close(c->client);
    c->client = NULL;
    d->open_count--;
    atomic_store_explicit(&d->shared->attached, d->open_count, memory_order_relaxed);
}

int connection_send(struct driver *d, struct connection *c, int64_t since_ns)
{
    if (connection_in_flight(c) == d->options->depth)
        return -EAGAIN;
    struct pending *p = &c->pending[c->next % d->options->depth];
    if (c->bytes_next == 0)
        c->bytes_next = sizes_pick(&d->options->sizes, &d->random);
    uint32_t bytes = c->bytes_next; /* kept over a refusal: picking anew would favour what fits into a full ring */
    message_build(d->buffer, bytes, c->number, c->sequence, &p->mark);
    int rc = belfry_send(c->client, d->buffer, bytes, &p->id);
    if (rc < 0)
        return rc;
    c->bytes_next = 0;
    p->since_ns = since_ns;
    p->answered = false;
    c->next++;
    c->sequence++;
    d->in_flight++;
    count_add(&d->shared->sent, 1);
    return 0;
}

/* The request that a reply answers, or NULL. The oldest comes first, and it nearly always is the one. */
static struct pending *pending_find(const struct driver *d, const struct connection *c, uint64_t id)
{
    for (uint64_t i = c->first; i < c->next; i++) {
        struct pending *p = &c->pending[i % d->options->depth];
        if (p->id == id && !p->answered)
            return p;
    }
    return NULL;
}

static void pending_done(struct driver *d, struct connection *c, struct pending *p)
{
    p->answered = true;
    d->in_flight--;
    while (c->first < c->next && c->pending[c->first % d->options->depth].answered)
        c->first++;
}

/* --corrupt-one without a server of our own: check a copy of the reply in which one bit is wrong. */
static bool check_spoiled(struct driver *d, const struct pending *p, const belfry_message *m)
{
    unsigned char *copy = malloc(m->size + 1);
    if (!copy)
        return true; /* then nothing is reported as corrupt, and the run that asked for it notices */
    memcpy(copy, m->data, m->size);
    copy[m->size / 2] ^= 1;
    bool same = message_is_marked(copy, m->size, &p->mark);
    free(copy);
    d->corrupt_next = false;
    return same;
}

/* A request came back as a failure: the server proved it corrupt, or did not answer it. */
static void check_failure(struct driver *d, const belfry_message *m)
{
    if (m->status == SERVICE_ECORRUPT) {
        count_add(&d->shared->answered, 1);
        count_add(&d->shared->corrupt, 1);
        return;
    }
    count_add(&d->shared->failed, 1);
    if (atomic_load_explicit(&d->shared->error, memory_order_relaxed) != 0)
        return;
    snprintf(d->shared->sentence, sizeof d->shared->sentence, "a request failed: %.*s", (int)m->size,
             (const char *)m->data);
    atomic_store_explicit(&d->shared->error, m->status, memory_order_release);
}

static void check_reply(struct driver *d, const struct pending *p, const belfry_message *m, int64_t now_ns)
{
    histogram_add(&d->shared->rtt_ns, now_ns > p->since_ns ? (uint64_t)(now_ns - p->since_ns) : 0);
    count_add(&d->shared->answered, 1);
    bool right = d->corrupt_next ? check_spoiled(d, p, m) : message_is_marked(m->data, m->size, &p->mark);
    if (!right)
        count_add(&d->shared->corrupt, 1);
}

int connection_receive(struct driver *d, struct connection *c)
{
    belfry_message m;
    int rc = belfry_receive(c->client, &m, 0);
    if (rc == -ETIMEDOUT || rc == -EAGAIN) {
        c->stalled = c->stalled && rc == -ETIMEDOUT;
        return 0;
    }
    if (rc < 0)
        return rc;

    int64_t now_ns = belfry_now_ns();
    struct pending *p = m.kind == BELFRY_PUSH ? NULL : pending_find(d, c, m.id);
    if (!p) {
        count_add(&d->shared->corrupt, 1); /* it answers nothing that was asked */
    } else {
        if (m.status < 0)
            check_failure(d, &m);
        else
            check_reply(d, p, &m, now_ns);
        pending_done(d, c, p);
    }
    belfry_release(c->client, &m);
    return 1;
}

void driver_error(struct driver *d, int rc)
{
    if (atomic_load_explicit(&d->shared->error, memory_order_relaxed) != 0)
        return;
    const char *sentence = belfry_last_error();
    snprintf(d->shared->sentence, sizeof d->shared->sentence, "%s", *sentence ? sentence : belfry_error_text(rc));
    atomic_store_explicit(&d->shared->error, rc, memory_order_release); /* pairs with board_first_error() */
}

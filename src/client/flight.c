/* SPDX-License-Identifier: MIT */
/*
 * flight.c: the requests of a client that reconnects which have not had their last answer.
 *
 * A hash table by id. Ids count up, so as long as answers come roughly in order, every request has the place to itself
 * that its id says. Of a request that may be executed twice it also keeps the bytes: what the server has read may be
 * overwritten in the ring.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/block.h"
#include "base/error.h"
#include "client/again.h"

struct client_flight *bf_flight_find(const struct client_reconnect *r, uint64_t id)
{
    if (r->flight_capacity == 0 || id == 0)
        return NULL;
    for (uint64_t i = id;; i++) {
        struct client_flight *f = &r->flights[i & (r->flight_capacity - 1)];
        if (f->id == id)
            return f;
        if (f->id == 0)
            return NULL;
    }
}

static struct client_flight *free_place(const struct client_reconnect *r, uint64_t id)
{
    uint64_t i = id;
    while (r->flights[i & (r->flight_capacity - 1)].id != 0)
        i++;
    return &r->flights[i & (r->flight_capacity - 1)];
}

/* Half of the places stay free, so that a search is short. */
static int make_room(struct client_reconnect *r)
{
    if (2 * (r->flight_count + 1) <= r->flight_capacity)
        return 0;
    uint32_t capacity = r->flight_capacity == 0 ? 16 : r->flight_capacity * 2;
    struct client_reconnect grown = *r;
    grown.flights = calloc(capacity, sizeof *grown.flights);
    grown.flight_capacity = capacity;
    if (grown.flights == NULL)
        return bf_error(-ENOMEM, "no memory to remember %u requests", r->flight_count + 1);
    for (uint32_t i = 0; i < r->flight_capacity; i++)
        if (r->flights[i].id != 0)
            *free_place(&grown, r->flights[i].id) = r->flights[i];
    free(r->flights);
    *r = grown;
    return 0;
}

/* Its bytes are wanted no longer; but while they leave in parts, they are the parts'. */
static void drop_data(struct belfry_client *c, struct client_flight *f)
{
    if (f->block != NULL && client_is_leaving(c) && c->large->out.data == f->data)
        c->large->block = f->block;
    else
        bf_block_free(f->block);
    f->data = f->block = NULL;
}

void bf_flight_remove(struct belfry_client *c, struct client_flight *f)
{
    struct client_reconnect *r = c->reconnect;
    uint32_t mask = r->flight_capacity - 1, hole = (uint32_t)(f - r->flights);
    drop_data(c, f);
    r->flight_count--;
    /* Whatever a search would no longer find across the hole moves into it. */
    for (uint32_t i = (hole + 1) & mask; r->flights[i].id != 0; i = (i + 1) & mask)
        if (((i - (uint32_t)r->flights[i].id) & mask) >= ((i - hole) & mask)) {
            r->flights[hole] = r->flights[i];
            hole = i;
        }
    r->flights[hole] = (struct client_flight){0};
}

/* Keep the bytes: the caller's, if he waits; a block that holds them already; or a copy. */
static int keep_data(const struct client_reconnect *r, struct client_flight *f, const void *data, void **block)
{
    if (r->borrowed != NULL) {
        f->data = r->borrowed;
        return 0;
    }
    if (block != NULL && *block != NULL) {
        f->data = f->block = *block;
        *block = NULL;
        return 0;
    }
    f->data = f->block = bf_block_alloc(bf_max(f->size, 1));
    if (f->block == NULL)
        return bf_error(-ENOMEM, "no memory to keep a request of %llu bytes", (unsigned long long)f->size);
    if (f->size > 0)
        memcpy(f->block, data, f->size);
    return 0;
}

int bf_reconnect_sent(struct belfry_client *c, uint64_t id, const void *data, uint64_t size, int64_t deadline_ns,
                      void **block)
{
    struct client_reconnect *r = c->reconnect;
    struct client_flight f = {.id = id, .size = size, .deadline_ns = deadline_ns};
    if (id == 0)
        return 0;
    int rc = make_room(r);
    if (rc == 0 && (r->marked || r->policy.idempotent))
        rc = keep_data(r, &f, data, block);
    if (rc < 0)
        return rc;
    *free_place(r, id) = f;
    r->flight_count++;
    return 0;
}

void bf_reconnect_answered(struct belfry_client *c, const belfry_message *m)
{
    struct client_flight *f = m->kind == BELFRY_PUSH ? NULL : bf_flight_find(c->reconnect, m->id);
    if (f == NULL)
        return;
    if ((m->flags & BELFRY_MORE) != 0)
        drop_data(c, f); /* sent again it would begin anew, and the caller has a part already */
    else
        bf_flight_remove(c, f);
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

uint64_t *bf_flights_sorted(const struct client_reconnect *r)
{
    uint32_t count = 0;
    uint64_t *ids = malloc((r->flight_count + 1) * sizeof *ids);
    if (ids == NULL)
        return NULL;
    for (uint32_t i = 0; i < r->flight_capacity; i++)
        if (r->flights[i].id != 0)
            ids[count++] = r->flights[i].id;
    INVARIANT(count == r->flight_count);
    qsort(ids, count, sizeof *ids, compare);
    ids[count] = 0;
    return ids;
}

void bf_flights_free(struct belfry_client *c)
{
    struct client_reconnect *r = c->reconnect;
    for (uint32_t i = 0; i < r->flight_capacity; i++)
        drop_data(c, &r->flights[i]);
    free(r->flights);
    r->flights = NULL;
    r->flight_capacity = r->flight_count = 0;
}

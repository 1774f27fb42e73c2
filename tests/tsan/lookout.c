/* SPDX-License-Identifier: MIT */
/*
 * lookout.c: a client with a descriptor, its lookout, and a server, each a thread, for ThreadSanitizer to watch.
 *
 * The client is made by hand, with words and a ring in ordinary memory, so that what it reads of a message is a plain load of
 * what the server stored plainly. Every now and then its words move to another place and the old ones are freed, as
 * when a poller gets another leader. A message that is slept through shows as a poll that ends without one.
 */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "client/client.h"
#include "shm/doorbell.h"
#include "verdict.h"

#define MESSAGES 20000u
#define MESSAGES_PER_PLACE 500u
#define RING_BYTES 4096u
#define PATIENCE_MS 20000

struct place {
    struct belfry_abi_send send;
    struct belfry_abi_recv recv;
    struct ring_producer_local out; /* the server's */
    uint8_t ring[RING_BYTES] __attribute__((aligned(16)));
};

static struct belfry_abi_shard shard;
static struct client_lobby lobby;
static uint32_t heard; /* by the client */
static unsigned rings;

static struct place *place_new(struct belfry_client *c)
{
    struct place *p = calloc(1, sizeof *p);
    ring_producer_init(&p->out, p->ring, RING_BYTES, 0, &p->send.consumed);
    ring_consumer_init(&c->in, p->ring, RING_BYTES, 0, &p->send.consumed);
    c->send = &p->send;
    c->recv = &p->recv;
    store_relaxed(&p->send.parked, 0xffffffff); /* as nobody */
    return p;
}

static void *serve(void *context)
{
    struct place *p = context;
    for (uint32_t number = 0; number < MESSAGES_PER_PLACE; number++) {
        uint32_t *data;
        while (ring_reserve(&p->out, sizeof *data, (void **)&data) != 0)
            sched_yield();
        *data = number;
        ring_commit(&p->out, BELFRY_PUSH, 0, 0, sizeof *data);
        full_fence();
        if (doorbell_client_wants(&p->send, &p->recv)) {
            doorbell_bump_recv(&p->recv);
            bf_os_wake(&p->recv.bell);
            rings++;
        }
        if (number % 7 == 0)
            sched_yield();
    }
    return NULL;
}

/* All that is there. Gives whether it was in order. */
static bool take_all(struct belfry_client *c, uint32_t *next)
{
    struct ring_entry e;
    while (ring_peek(&c->in, &e) == 1) {
        if (*(const uint32_t *)e.data != (*next)++)
            return false;
        ring_advance(&c->in, &e);
        ring_free(&c->in, e.end);
    }
    return true;
}

/* One place's messages. False: one did not come, or came wrong. */
static bool stay(struct belfry_client *c)
{
    pthread_t server;
    struct place *p = place_new(c);
    struct pollfd at = {.fd = bf_lookout_fd(c->lookout), .events = POLLIN};
    uint32_t next = 0;
    bool good = true;
    bf_lookout_alert(c->lookout);
    pthread_create(&server, NULL, serve, p);
    while (good && next < MESSAGES_PER_PLACE) {
        good = poll(&at, 1, PATIENCE_MS) == 1 && take_all(c, &next);
        bf_lookout_arm(c->lookout, &c, 1, &c, 1, INT64_MAX);
    }
    if (!good) /* the server may wait for room for ever */
        return false;
    pthread_join(server, NULL);
    bf_lookout_watch(c->lookout, NULL, 0);
    free(p);
    heard += next;
    return true;
}

int main(void)
{
    struct verdict v = {0};
    struct belfry_client *c = calloc(1, sizeof *c);
    bool good = true;
    lobby.lobby.fd = -1;
    c->shard = &shard;
    c->shared = &lobby;
    shard.obituary = 0x80000001; /* somebody holds it */
    verdict_on(&v, bf_lookout_open(&c->lookout) == 0, "there is no descriptor");
    for (unsigned i = 0; good && i < MESSAGES / MESSAGES_PER_PLACE; i++)
        good = stay(c);
    verdict_on(&v, good, "a message was slept through, or is wrong");
    if (!good)
        return verdict_close(&v);
    printf("%u messages, %u rings\n", heard, rings);
    verdict_on(&v, heard == MESSAGES, "not all came");
    verdict_on(&v, rings > 0, "nobody was ever rung");
    bf_lookout_close(c->lookout);
    free(c);
    return verdict_close(&v);
}

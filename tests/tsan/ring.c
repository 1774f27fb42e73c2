/* SPDX-License-Identifier: MIT */
/*
 * ring.c: one thread produces, another consumes, over one ring in one place, for ThreadSanitizer to watch.
 *
 * Payloads are written and read by plain stores and loads, as users do. So each of them is a race unless the length word
 * and the consumer's position are stored with release and loaded with acquire: weaken one in shm/ring.h, and this program
 * is told off (docs/TESTING.md). Rings are small, so that nearly every message wraps, is padded, or waits for room.
 */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "shm/ring.h"
#include "verdict.h"

#define MESSAGES 60000u
#define PATTERN_BYTES 8192u
#define HELD_MAX 5u

struct trip {
    uint64_t capacity, colour;
    uint8_t *data;
    uint64_t consumed __attribute__((aligned(128))); /* the consumer's word */
    struct ring_producer_local out __attribute__((aligned(128)));
    struct ring_consumer_local in __attribute__((aligned(128)));
    unsigned fulls, pads, aborts; /* the producer's */
    unsigned empties, wrong;      /* the consumer's */
    uint64_t bytes;
};

static uint8_t pattern[PATTERN_BYTES + 256];

/* Every size there is, in no order, and the largest often. */
static uint32_t size_of(const struct trip *t, uint32_t number)
{
    uint32_t max = ring_payload_max(t->capacity);
    return number % 16 == 0 ? max : number * 7919u % (max + 1);
}

static void produce_one(struct trip *t, uint32_t number)
{
    uint32_t size = size_of(t, number);
    void *data;
    for (;;) {
        int rc = ring_reserve(&t->out, number % 8 == 0 ? ring_payload_max(t->capacity) : size, &data);
        if (rc == 0 && number % 5 == 0 && t->aborts < number) { /* thought better of, and said again */
            memset(data, 0xee, size);
            ring_abort(&t->out);
            t->aborts++;
            rc = ring_reserve(&t->out, size, &data);
        }
        if (rc == 0)
            break;
        t->fulls++;
        do
            sched_yield();
        while (!ring_has_room(&t->out, size));
    }
    t->pads += t->out.pad != 0;
    memcpy(data, pattern + number % 256, size);
    ring_commit(&t->out, (uint8_t)(BELFRY_REQUEST + number % 3), 0, number, size);
}

static void *produce(void *context)
{
    for (uint32_t number = 1; number <= MESSAGES; number++)
        produce_one(context, number);
    return NULL;
}

static bool is_right(const struct trip *t, const struct ring_entry *e, uint32_t number)
{
    return e->id == number && e->kind == BELFRY_REQUEST + number % 3 && e->flags == 0 &&
           e->bytes == size_of(t, number) && memcmp(e->data, pattern + number % 256, e->bytes) == 0;
}

/* Hold some messages before their room is given back, as a client may; then all that are held go at once. */
static void *consume(void *context)
{
    struct trip *t = context;
    struct ring_entry e = {0};
    for (uint32_t number = 1, held = 0; number <= MESSAGES && t->wrong == 0; number++) {
        int rc;
        while ((rc = ring_peek(&t->in, &e)) == 0) {
            t->empties++;
            ring_free(&t->in, t->in.position);
            held = 0;
            do
                sched_yield();
            while (ring_is_empty(&t->in));
        }
        t->wrong += rc < 0 || !is_right(t, &e, number);
        t->bytes += e.bytes;
        ring_advance(&t->in, &e);
        if (++held >= number % HELD_MAX) {
            ring_free(&t->in, e.end);
            held = 0;
        }
    }
    return NULL;
}

static void take_trip(struct verdict *v, uint64_t capacity, uint64_t colour)
{
    pthread_t producer, consumer;
    struct trip *t = aligned_alloc(128, sizeof *t);
    *t = (struct trip){.capacity = capacity, .colour = colour, .data = calloc(1, capacity)};
    ring_producer_init(&t->out, t->data, capacity, colour, &t->consumed);
    ring_consumer_init(&t->in, t->data, capacity, colour, &t->consumed);
    pthread_create(&producer, NULL, produce, t);
    pthread_create(&consumer, NULL, consume, t);
    pthread_join(consumer, NULL);
    if (t->wrong > 0) { /* the producer would wait for ever */
        printf("failed: a message of a ring of %llu bytes is wrong\n", (unsigned long long)capacity);
        printf("%u passed, %u failed\n", v->passed, v->failed + 1);
        exit(1);
    }
    pthread_join(producer, NULL);
    printf("%llu bytes, colour %llu: %u messages, %llu bytes, %u pads, %u times full, %u times empty\n",
           (unsigned long long)capacity, (unsigned long long)colour, MESSAGES, (unsigned long long)t->bytes, t->pads,
           t->fulls, t->empties);
    verdict_on(v, t->in.position == t->out.position, "consumer and producer do not end at one place");
    verdict_on(v, t->pads > 0 && t->fulls > 0 && t->empties > 0, "it was never padded, never full or never empty");
    free(t->data);
    free(t);
}

int main(void)
{
    struct verdict v = {0};
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (uint8_t)(i * 31 + (i >> 8) * 7);
    take_trip(&v, 4096, 0);
    take_trip(&v, 4096, 1984);
    take_trip(&v, 32768, 64);
    return verdict_close(&v);
}

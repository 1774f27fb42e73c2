/* SPDX-License-Identifier: MIT */
/* workloads.c: see workloads.h. */
#include "workloads.h"

#include <stdlib.h>

#include "ticks.h"

#define WARM_UP_SHARE 0.1   /* of the time, before the first sample */
#define STREAM_BATCH 64     /* messages between two looks at the clock */
#define SPOILED_MESSAGE 100 /* of a stream, with --corrupt-one */

static void wrong(const struct lab *lab, uint32_t number, uint64_t sequence)
{
    bench_die("%s: message %llu of connection %u came back with other bytes than it was sent with", lab->system->name,
              (unsigned long long)sequence, number);
}

/* One message out, its echo back, every byte compared. */
static void exchange(struct lab *lab, struct bench_client *c, uint32_t number, uint64_t sequence)
{
    const struct bench_system *system = lab->system;
    uint32_t index, got;
    payload_build(system->reserve(c, 0, lab->bytes), lab->bytes, PAYLOAD_ECHO, number, sequence);
    system->commit(c, 0, lab->bytes);
    const void *reply = system->receive(c, &index, &got);
    if (!payload_is(reply, got, lab->bytes, PAYLOAD_ECHO, number, sequence))
        wrong(lab, number, sequence);
    system->release(c, 0);
}

/* Of a stream `sequence - first` messages were sent: have they come? */
static void check_sunk(const struct lab *lab, uint64_t first, uint64_t sequence)
{
    const struct bench_service *service = &lab->board->service;
    if (atomic_load(&service->sunk) != sequence || atomic_load(&service->sunk_bad) != 0)
        bench_die("%s: of %llu messages %llu arrived, %llu of them with wrong bytes", lab->system->name,
                  (unsigned long long)(sequence - first), (unsigned long long)(atomic_load(&service->sunk) - first),
                  (unsigned long long)atomic_load(&service->sunk_bad));
}

/* --- by a client that is not C ----------------------------------------------------------------------------------- */

static bool has_script(const struct lab *lab)
{
    return lab->system->script != NULL && lab->processes == 1 && lab->rate <= 0;
}

static void body_script(struct lab *lab, struct bench_task task, struct lab_client *out)
{
    const struct bench_script *script = lab->system->script;
    struct bench_result result = {.rtt_ns = &out->rtt_ns};
    task.bytes = lab->bytes;
    task.seconds = lab->seconds;
    struct bench_run *run = script->start(&lab->setup, &task);
    uint64_t first = atomic_load(&lab->board->service.sunk);
    lab_ready(lab, out);
    script->finish(run, first, &result);
    if (task.kind == BENCH_STREAM)
        check_sunk(lab, first, first + result.messages);
    out->cpu_ns += result.cpu_ns; /* of this process, nearly nothing comes to it */
    lab_done(lab, out, result.messages, result.seconds);
    script->close(run);
}

/* --- one at a time ----------------------------------------------------------------------------------------------- */

static uint64_t closed_loop(struct lab *lab, struct bench_client *c, uint32_t number, struct lab_client *out)
{
    uint64_t sequence = 1, counted = 0;
    uint64_t began = ticks_now(), end = began + ticks_from_seconds(lab->seconds);
    uint64_t from = began + ticks_from_seconds(lab->seconds * WARM_UP_SHARE);
    while (began < end) {
        exchange(lab, c, number, sequence++);
        uint64_t now = ticks_now();
        if (began >= from) {
            histogram_add(&out->rtt_ns, ticks_to_ns(now - began));
            counted++;
        }
        began = now;
    }
    return counted;
}

static void sleep_until(int64_t at_ns)
{
    struct timespec at = {.tv_sec = at_ns / 1000000000, .tv_nsec = at_ns % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) != 0)
        ;
}

/* Message k of process p is due at (k * processes + p) / rate, whether or not anybody is ready. */
static uint64_t open_loop(struct lab *lab, struct bench_client *c, uint32_t number, struct lab_client *out)
{
    double interval_ns = 1e9 / lab->rate;
    int64_t began_ns = clock_ns(), due_ns;
    uint64_t sequence = 1;
    for (;; sequence++) {
        due_ns = began_ns + (int64_t)(((double)(sequence - 1) * lab->processes + number) * interval_ns);
        if (due_ns - began_ns > (int64_t)(lab->seconds * 1e9))
            return sequence - 1;
        if (due_ns > clock_ns())
            sleep_until(due_ns);
        exchange(lab, c, number, sequence);
        histogram_add(&out->rtt_ns, (uint64_t)(clock_ns() - due_ns));
    }
}

void body_pingpong(struct lab *lab, uint32_t process, struct lab_client *out)
{
    if (has_script(lab)) {
        body_script(lab, (struct bench_task){.kind = BENCH_ECHO, .connections = 1}, out);
        return;
    }
    struct bench_client *c = lab->system->open(&lab->setup, process, 1);
    exchange(lab, c, process, 0);
    lab_ready(lab, out);
    int64_t began_ns = clock_ns();
    uint64_t messages = lab->rate > 0 ? open_loop(lab, c, process, out) : closed_loop(lab, c, process, out);
    double seconds = (double)(clock_ns() - began_ns) / 1e9 * (lab->rate > 0 ? 1 : 1 - WARM_UP_SHARE);
    lab_done(lab, out, messages, seconds);
    lab->system->close(c);
}

/* --- many connections -------------------------------------------------------------------------------------------- */

struct flight {
    uint64_t sequence;
    uint64_t since;
};

static void many_send(struct lab *lab, struct bench_client *c, uint32_t index, struct flight *flight)
{
    void *data = lab->system->reserve(c, index, lab->bytes);
    payload_build(data, lab->bytes, PAYLOAD_ECHO, index, ++flight->sequence);
    flight->since = ticks_now();
    lab->system->commit(c, index, lab->bytes);
}

static uint32_t many_receive(struct lab *lab, struct bench_client *c, struct flight *flights)
{
    uint32_t index, got;
    const void *reply = lab->system->receive(c, &index, &got);
    if (!payload_is(reply, got, lab->bytes, PAYLOAD_ECHO, index, flights[index].sequence))
        wrong(lab, index, flights[index].sequence);
    lab->system->release(c, index);
    return index;
}

/* Receive and send again until `end`; with samples or without. */
static uint64_t many_turn(struct lab *lab, struct bench_client *c, struct flight *flights, uint64_t end,
                          struct histogram *h)
{
    uint64_t messages = 0, now;
    do {
        uint32_t index = many_receive(lab, c, flights);
        now = ticks_now();
        if (h != NULL)
            histogram_add(h, ticks_to_ns(now - flights[index].since));
        messages++;
        many_send(lab, c, index, &flights[index]);
    } while (now < end);
    return messages;
}

void body_many(struct lab *lab, uint32_t process, struct lab_client *out)
{
    (void)process;
    uint32_t count = lab->setup.connections;
    if (has_script(lab)) {
        body_script(lab, (struct bench_task){.kind = BENCH_ECHO, .connections = count}, out);
        return;
    }
    struct flight *flights = calloc(count, sizeof *flights);
    struct bench_client *c = lab->system->open(&lab->setup, 0, count);
    for (uint32_t i = 0; i < count; i++)
        many_send(lab, c, i, &flights[i]);
    many_turn(lab, c, flights, ticks_now() + ticks_from_seconds(lab->seconds * WARM_UP_SHARE), NULL);
    lab_ready(lab, out);
    uint64_t began = ticks_now();
    uint64_t messages = many_turn(lab, c, flights, began + ticks_from_seconds(lab->seconds), &out->rtt_ns);
    lab_done(lab, out, messages, (double)(ticks_now() - began) * ticks_ns / 1e9);
    for (uint32_t i = 0; i < count; i++)
        many_receive(lab, c, flights);
    lab->system->close(c);
    free(flights);
}

/* --- one way ----------------------------------------------------------------------------------------------------- */

void body_stream(struct lab *lab, uint32_t process, struct lab_client *out)
{
    const struct bench_system *system = lab->system;
    if (has_script(lab)) {
        body_script(lab, (struct bench_task){.kind = BENCH_STREAM, .connections = 1}, out);
        return;
    }
    struct bench_client *c = system->open(&lab->setup, process, 1);
    exchange(lab, c, 0, 0);
    uint64_t first = atomic_load(&lab->board->service.sunk), sequence = first;
    lab_ready(lab, out);
    uint64_t began = ticks_now(), end = began + ticks_from_seconds(lab->seconds);
    while (ticks_now() < end)
        for (int i = 0; i < STREAM_BATCH; i++, sequence++) {
            uint8_t *data = system->reserve(c, 0, lab->bytes);
            payload_build(data, lab->bytes, PAYLOAD_SINK, 0, sequence);
            if (__builtin_expect(lab->setup.corrupt_one && sequence == SPOILED_MESSAGE, 0))
                data[lab->bytes - 1] ^= 1;
            system->commit(c, 0, lab->bytes);
        }
    exchange(lab, c, 0, 1); /* comes back behind all others */
    double seconds = (double)(ticks_now() - began) * ticks_ns / 1e9;
    check_sunk(lab, first, sequence);
    lab_done(lab, out, sequence - first, seconds);
    system->close(c);
}

/* --- coming and going -------------------------------------------------------------------------------------------- */

void body_connect(struct lab *lab, uint32_t process, struct lab_client *out)
{
    uint64_t messages = 0;
    lab_ready(lab, out);
    uint64_t began = ticks_now(), end = began + ticks_from_seconds(lab->seconds), now;
    do {
        uint64_t since = ticks_now();
        struct bench_client *c = lab->system->open(&lab->setup, process, 1);
        exchange(lab, c, process, ++messages);
        now = ticks_now();
        histogram_add(&out->rtt_ns, ticks_to_ns(now - since));
        lab->system->close(c);
        if (lab->rate > 0)
            sleep_until(clock_ns() + (int64_t)(1e9 / lab->rate));
    } while (now < end);
    lab_done(lab, out, messages, (double)(ticks_now() - began) * ticks_ns / 1e9);
}

void body_silent(struct lab *lab, uint32_t process, struct lab_client *out)
{
    (void)process;
    uint32_t count = lab->setup.connections;
    struct flight *flights = calloc(count, sizeof *flights);
    struct bench_client *c = lab->system->open(&lab->setup, 0, count);
    for (uint32_t i = 0; i < count; i++)
        many_send(lab, c, i, &flights[i]);
    for (uint32_t i = 0; i < count; i++)
        many_receive(lab, c, flights);
    lab_ready(lab, out);
    lab_done(lab, out, count, 0); /* silent, until whoever looks on has seen enough */
    lab->system->close(c);
    free(flights);
}

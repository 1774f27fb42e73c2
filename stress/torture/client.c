/* SPDX-License-Identifier: MIT */
/* client.c: a client of belfry-torture: it connects, talks, leaves and comes back until it is killed. See torture.h. */
#include "torture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 60000 /* it may be stopped for some of it */
#define BURST_MAX 8u
#define AWAY_NS 20000000000ll /* for how long a killed server explains a failed connect */

struct life_local {
    belfry_client *client;
    uint64_t random;
    uint32_t talk;
    uint32_t said;
    bool over; /* the connection */
};

static uint64_t buffer[BYTES_LARGE / 8 + 1];

static uint32_t below(struct life_local *l, uint32_t limit)
{
    return (uint32_t)(random_next(&l->random) >> 32) % limit;
}

static void pause_us(long us)
{
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

/* --- coming and going ------------------------------------------------------------------------------------------------- */

/* The connection has ended: because its server is dead, or this is a violation. */
static void lost(struct life_local *l, int rc, const char *what)
{
    char why[200];
    l->over = true;
    if ((rc == BELFRY_EGONE || rc == BELFRY_EREFUSED) &&
        belfry_client_instance(l->client) <= __atomic_load_n(&board->dead_instance, __ATOMIC_ACQUIRE)) {
        int64_t late_ns = belfry_now_ns() - __atomic_load_n(&board->server_killed_ns, __ATOMIC_ACQUIRE);
        __atomic_fetch_add(&board->told, 1, __ATOMIC_RELAXED);
        if (late_ns > __atomic_load_n(&board->told_ns_max, __ATOMIC_RELAXED))
            __atomic_store_n(&board->told_ns_max, late_ns, __ATOMIC_RELAXED);
        return;
    }
    snprintf(why, sizeof why, "%s: %d: %s", what, rc, belfry_last_error());
    violation(rc == -ETIMEDOUT ? LATE_CALL : BAD_CODE, why);
}

/* Was there no server a moment ago? */
static bool server_was_away(void)
{
    int64_t killed_ns = __atomic_load_n(&board->server_killed_ns, __ATOMIC_ACQUIRE);
    return killed_ns != 0 && belfry_now_ns() - killed_ns < AWAY_NS;
}

static void join(struct life_local *l)
{
    belfry_client_options o;
    int rc;
    belfry_client_options_init(&o, sizeof o);
    o.root = board->options->root;
    while ((rc = belfry_connect(&l->client, SERVICE, &o)) < 0) {
        if (rc == BELFRY_EFULL)
            __atomic_fetch_add(&board->full, 1, __ATOMIC_RELAXED);
        else if (!server_was_away() || (rc != BELFRY_ENOSERVICE && rc != BELFRY_EREFUSED && rc != BELFRY_EGONE))
            violation(BAD_CODE, belfry_last_error());
        pause_us(1000);
    }
    __atomic_fetch_add(&board->connects, 1, __ATOMIC_RELAXED);
    do
        l->talk = __atomic_add_fetch(&board->talks, 1, __ATOMIC_RELAXED);
    while (l->talk == 0);
    board->talk[l->talk % TALKS] = (struct talk){.sent = 0};
    l->said = 0;
    l->over = false;
}

static void leave(struct life_local *l)
{
    if (belfry_client_rescued_wakes(l->client) > 0)
        violation(RESCUED, "a client was woken by its timeout alone");
    belfry_close(l->client);
    l->client = NULL;
}

/* --- talking ---------------------------------------------------------------------------------------------------------- */

static void check(const belfry_message *m)
{
    if (m->status < 0 || !message_is_sound(m->data, m->size))
        violation(TORN_REPLY, m->status < 0 ? belfry_error_text(m->status) : "a client got what is not whole");
}

/* Gives whether one came. */
static bool hear(struct life_local *l, int64_t deadline)
{
    belfry_message m;
    int rc = belfry_receive(l->client, &m, deadline);
    if (rc == 0) {
        check(&m);
        belfry_release(l->client, &m);
    } else if (rc != -EAGAIN && (rc != -ETIMEDOUT || deadline > 0)) {
        lost(l, rc, "receive");
    }
    return rc == 0;
}

static void build(struct life_local *l, uint32_t bytes, struct message_mark *mark)
{
    message_build(buffer, bytes, l->talk, ++l->said, mark);
}

/* It is visible: from here on it must be handled, whatever becomes of us. */
static void sent(struct life_local *l)
{
    if (belfry_client_unsent_bytes(l->client) == 0)
        __atomic_store_n(&board->talk[l->talk % TALKS].sent, l->said, __ATOMIC_RELEASE);
}

static uint32_t some_bytes(struct life_local *l)
{
    uint32_t limit = below(l, 4) == 0 ? BYTES_SMALL : 200;
    return SIZES_BYTES_MIN + below(l, limit - SIZES_BYTES_MIN);
}

static void call(struct life_local *l, uint32_t bytes)
{
    struct message_mark mark;
    belfry_message m;
    build(l, bytes, &mark);
    int rc = belfry_call(l->client, buffer, bytes, &m, belfry_in_ms(PATIENCE_MS));
    if (rc < 0) {
        lost(l, rc, "call");
        return;
    }
    sent(l);
    if (!message_is_marked(m.data, m.size, &mark))
        violation(TORN_REPLY, "a reply that is not what was sent");
    belfry_release(l->client, &m);
    while (!l->over && hear(l, 0)) /* pushes */
        ;
}

static void send(struct life_local *l, bool one_way)
{
    struct message_mark mark;
    uint32_t bytes = some_bytes(l);
    int rc;
    build(l, bytes, &mark);
    while ((rc = one_way ? belfry_send_one_way(l->client, buffer, bytes)
                         : belfry_send(l->client, buffer, bytes, NULL)) == -EAGAIN)
        if (!hear(l, belfry_in_ms(PATIENCE_MS)) && l->over)
            return;
    if (rc < 0)
        lost(l, rc, "send");
    else
        sent(l);
}

/* Requests, and not all of their answers: those come with the next call, or never. */
static void burst(struct life_local *l)
{
    uint32_t count = 1 + below(l, BURST_MAX);
    for (uint32_t i = 0; i < count && !l->over; i++)
        send(l, false);
    for (uint32_t i = below(l, count + 1); i > 0 && !l->over; i--)
        hear(l, belfry_in_ms(PATIENCE_MS));
}

static void act(struct life_local *l)
{
    uint32_t what = below(l, 100);
    if (what < 50)
        call(l, some_bytes(l));
    else if (what < 70)
        burst(l);
    else if (what < 88)
        send(l, true);
    else if (what < 92)
        call(l, BYTES_SMALL + below(l, BYTES_LARGE - BYTES_SMALL));
    else if (what < 96)
        pause_us(below(l, 2000));
    else
        l->over = true;
}

void client_live(uint32_t seat, uint32_t life)
{
    struct life_local l = {.random = board->options->seed ^ (uint64_t)life << 20 ^ seat};
    for (;;) {
        join(&l);
        while (!l.over)
            act(&l);
        leave(&l);
    }
}

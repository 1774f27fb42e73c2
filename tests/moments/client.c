/* SPDX-License-Identifier: MIT */
/*
 * client.c: clients that die at every moment of what a client does (moments.h), one process for each moment.
 *
 * The server lives on in the test's process. After each death it must be as it was: no slot, descriptor, map, file or wait
 * more than before; and it has heard whole messages, in their order, each once, and all that had been sent.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "expect.h"
#include "house.h"
#include "walk.h"

#define STATUS_FAILED 2
#define STATUS_AGAIN 3 /* so slow that the server had given it up: nothing was tried */

/* --- one life --------------------------------------------------------------------------------------------------------- */

#define CLIENTS_MAX 2u

struct speaker {
    uint64_t life;
    belfry_client *client;
    uint32_t said;
};

/* What a dead client leaves behind. */
struct will {
    uint32_t tried[CLIENTS_MAX]; /* messages that it began to send */
    uint32_t sent[CLIENTS_MAX];  /* of these, the last that was visible */
    char why[256];               /* what went wrong */
};

static struct will *will;
static struct speaker speaker[CLIENTS_MAX];
static uint64_t message[LIFE_BYTES_MAX / 8];

static void fail(const char *what, int rc)
{
    snprintf(will->why, sizeof will->why, "%s: %d: %s", what, rc, belfry_last_error());
    _exit(rc == BELFRY_EREFUSED ? STATUS_AGAIN : STATUS_FAILED);
}

static void must(const char *what, int rc)
{
    if (rc < 0)
        fail(what, rc);
}

static void join(unsigned who)
{
    belfry_client_options o;
    belfry_client_options_init(&o, sizeof o);
    o.spin = BELFRY_SPIN_POWER; /* parks whenever it waits: more of a client's moments */
    must("connect", belfry_connect(&speaker[who].client, FIXTURE_SERVICE, &o));
}

static void leave(unsigned who)
{
    belfry_close(speaker[who].client);
}

/* The next message of that life; then it is sent, and sent() tells the test. */
static void compose(unsigned who, enum life_wish wish, size_t bytes)
{
    life_write(message, speaker[who].life, ++speaker[who].said, wish, bytes);
    will->tried[who] = speaker[who].said;
}

static void sent(unsigned who)
{
    will->sent[who] = speaker[who].said;
}

static int64_t patience(void)
{
    return belfry_in_ms(FIXTURE_PATIENCE_MS);
}

static void say(unsigned who, size_t bytes)
{
    compose(who, LIFE_SAY, bytes);
    int rc;
    while ((rc = belfry_send_one_way(speaker[who].client, message, bytes)) == -EAGAIN) {
        belfry_message none;
        rc = belfry_receive(speaker[who].client, &none, patience());
        if (rc != -EAGAIN)
            fail("waiting for room", rc);
    }
    must("send", rc);
    if (belfry_client_unsent_bytes(speaker[who].client) == 0)
        sent(who);
}

static void ask(unsigned who, enum life_wish wish, size_t bytes)
{
    compose(who, wish, bytes);
    must("send", belfry_send(speaker[who].client, message, bytes, NULL));
    sent(who);
}

static void check(const belfry_message *m)
{
    struct life_word word;
    if (m->status < 0 || !life_read(m->data, m->size, &word))
        fail("what came is torn", m->status);
}

static void hear(unsigned who)
{
    belfry_message m;
    must("receive", belfry_receive(speaker[who].client, &m, patience()));
    check(&m);
    belfry_release(speaker[who].client, &m);
}

static void call(unsigned who, enum life_wish wish, size_t bytes)
{
    belfry_message m;
    compose(who, wish, bytes);
    must("call", belfry_call(speaker[who].client, message, bytes, &m, patience()));
    sent(who);
    check(&m);
    belfry_release(speaker[who].client, &m);
}

/* --- and its death ------------------------------------------------------------------------------------------------------ */

struct scenario {
    void (*body)(void);
    bool attached; /* moments are counted from when it is attached, not from its birth */
};

struct run {
    const struct scenario *scenario;
    uint64_t fatal;
};

static void live(void *context)
{
    const struct run *run = context;
    if (run->scenario->attached) {
        join(0);
        call(0, LIFE_ECHO, 64);
    }
    moments_arm(run->fatal);
    run->scenario->body();
    _exit(0);
}

/* A client like any other, right after: the service goes on. */
static void next_client(struct house *h)
{
    belfry_message m;
    uint64_t life = house_life(h);
    belfry_client *c = server_fixture_connect();
    life_write(message, life, 1, LIFE_ECHO, 100);
    expect_rc(belfry_call(c, message, 100, &m, server_fixture_patience()), 0);
    expect(m.size == 100 && memcmp(m.data, message, 100) == 0);
    belfry_release(c, &m);
    belfry_close(c);
    expect(soon(house_heard(h, life) == 1));
}

/* Die at moment `fatal`. Gives whether it died; it may have done all it had to before. */
static bool die_at(struct house *h, const struct scenario *scenario, uint64_t fatal)
{
    struct run run = {.scenario = scenario, .fatal = fatal};
    int status;
    do {
        memset(will, 0, sizeof *will);
        for (unsigned i = 0; i < CLIENTS_MAX; i++)
            speaker[i] = (struct speaker){.life = house_life(h)};
        status = fixture_reap(fixture_child(live, &run));
        if (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_FAILED)
            expect_failed("moment %llu: %s", (unsigned long long)fatal, will->why);
        next_client(h);
        house_expect_as_before(h, fatal);
        for (unsigned i = 0; i < CLIENTS_MAX; i++) {
            expect(house_heard(h, speaker[i].life) <= will->tried[i]);
            if (house_heard(h, speaker[i].life) < will->sent[i])
                expect_failed("moment %llu: of %u messages that were sent, %u were heard", (unsigned long long)fatal,
                              will->sent[i], house_heard(h, speaker[i].life));
        }
    } while (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_AGAIN);
    expect(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

static void die_at_all(struct house *h, const char *name, const struct scenario *scenario)
{
    struct walk walk;
    walk_begin(&walk, name);
    while (walk_on(&walk))
        walk_result(&walk, die_at(h, scenario, walk.fatal));
    walk_end(&walk);
}

static void client_dies(const char *name, void (*body)(void), bool attached, uint32_t warm_pool)
{
    struct house h;
    struct scenario scenario = {.body = body, .attached = attached};
    will = mmap(NULL, sizeof *will, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    house_open(&h, warm_pool);
    next_client(&h);
    house_remember(&h);
    die_at_all(&h, name, &scenario);
    house_close(&h);
}

/* --- what a client does ------------------------------------------------------------------------------------------------- */

#define FROM_BIRTH false
#define ATTACHED true

static void connects_and_leaves(void)
{
    join(0);
    leave(0);
}

Test(client_dies, while_it_connects_to_a_warm_slot_and_leaves)
{
    client_dies("connect, warm", connects_and_leaves, FROM_BIRTH, HOUSE_SLOTS);
}

Test(client_dies, while_it_connects_to_a_cold_slot_and_leaves)
{
    client_dies("connect, cold", connects_and_leaves, FROM_BIRTH, 0);
}

static void speaks_before_it_is_accepted(void)
{
    join(0);
    say(0, 64);
    ask(0, LIFE_ECHO, 700);
    hear(0);
    leave(0);
}

Test(client_dies, while_it_speaks_before_it_is_accepted)
{
    client_dies("first words", speaks_before_it_is_accepted, FROM_BIRTH, HOUSE_SLOTS);
}

/* Twice around the ring of 4 KiB, with a pad at its end. */
static void wraps(void)
{
    for (int i = 0; i < 12; i++) {
        say(0, 700);
        if (i % 3 == 2)
            call(0, LIFE_ECHO, 40);
    }
    leave(0);
}

Test(client_dies, while_it_sends_around_the_end_of_the_ring)
{
    client_dies("around the ring", wraps, ATTACHED, HOUSE_SLOTS);
}

static void sends_large(void)
{
    say(0, 10000);
    must("flush", belfry_flush(speaker[0].client, patience()));
    sent(0);
    call(0, LIFE_LARGE, 100);
    call(0, LIFE_ECHO, 6000);
    leave(0);
}

Test(client_dies, while_large_messages_go_both_ways)
{
    client_dies("large", sends_large, ATTACHED, HOUSE_SLOTS);
}

static void calls_and_receives(void)
{
    call(0, LIFE_ECHO, 64);
    call(0, LIFE_PUSH, 300);
    hear(0);
    ask(0, LIFE_MORE, 50);
    for (unsigned i = 0; i < LIFE_MORE_COUNT + 1; i++)
        hear(0);
    leave(0);
}

Test(client_dies, while_it_calls_receives_and_releases)
{
    client_dies("call, receive", calls_and_receives, ATTACHED, HOUSE_SLOTS);
}

/* It sends and does not receive: first the server's outbox fills, then it stops reading, then the ring is full. */
static void fills_both_rings(void)
{
    unsigned asked = 0;
    int rc = 0;
    while (rc == 0) {
        compose(0, LIFE_MORE, 500);
        rc = belfry_send(speaker[0].client, message, 500, NULL);
        if (rc == 0)
            sent(0), asked++;
    }
    if (rc != -EAGAIN)
        fail("send", rc);
    will->tried[0] = --speaker[0].said;
    for (unsigned i = 0; i < asked * (LIFE_MORE_COUNT + 1);) {
        belfry_message m;
        rc = belfry_receive(speaker[0].client, &m, patience());
        if (rc == -EAGAIN)
            continue;
        must("receive", rc);
        check(&m);
        belfry_release(speaker[0].client, &m);
        i++;
    }
    leave(0);
}

Test(client_dies, while_both_rings_are_full)
{
    client_dies("both rings full", fills_both_rings, ATTACHED, HOUSE_SLOTS);
}

static void writes_in_place(void)
{
    static const size_t bytes[] = {500, 900, 900, 900, 900};
    void *room;
    for (size_t i = 0; i < sizeof bytes / sizeof bytes[0]; i++) {
        if (i == 2) {
            must("reserve", belfry_send_reserve(speaker[0].client, 100, &room));
            memset(room, 0xee, 100);
            belfry_send_abort(speaker[0].client);
        }
        must("reserve", belfry_send_reserve(speaker[0].client, bytes[i], &room));
        will->tried[0] = ++speaker[0].said;
        life_write(room, speaker[0].life, speaker[0].said, LIFE_ECHO, bytes[i] - 40);
        must("commit", belfry_send_commit(speaker[0].client, BELFRY_REQUEST, bytes[i] - 40, NULL));
        sent(0);
        hear(0);
    }
    leave(0);
}

Test(client_dies, while_it_writes_into_the_ring_itself)
{
    client_dies("in place", writes_in_place, ATTACHED, HOUSE_SLOTS);
}

static void holds_what_it_received(void)
{
    belfry_message m[4];
    for (unsigned i = 0; i < 4; i++)
        ask(0, LIFE_ECHO, 600);
    for (unsigned i = 0; i < 4; i++)
        must("receive", belfry_receive(speaker[0].client, &m[i], patience()));
    for (unsigned i = 0; i < 4; i++)
        check(&m[i]);
    for (unsigned i = 4; i-- > 0;)
        belfry_release(speaker[0].client, &m[i]);
    call(0, LIFE_ECHO, 900);
    leave(0);
}

Test(client_dies, while_it_holds_messages)
{
    client_dies("held messages", holds_what_it_received, ATTACHED, HOUSE_SLOTS);
}

static void cancels(void)
{
    uint64_t id;
    belfry_message m;
    compose(0, LIFE_HOLD, 60);
    must("send", belfry_send(speaker[0].client, message, 60, &id));
    sent(0);
    must("cancel", belfry_cancel(speaker[0].client, id));
    compose(0, LIFE_HOLD, 60);
    int rc = belfry_call(speaker[0].client, message, 60, &m, belfry_in_ms(1));
    if (rc != -ETIMEDOUT)
        fail("a call that is never answered", rc);
    sent(0);
    call(0, LIFE_ECHO, 60);
    leave(0);
}

Test(client_dies, while_it_cancels)
{
    client_dies("cancel", cancels, ATTACHED, HOUSE_SLOTS);
}

static void polls(void)
{
    belfry_poller *p;
    belfry_poll_event event[CLIENTS_MAX];
    join(1);
    must("poller", belfry_poller_create(&p));
    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        must("add", belfry_poller_add(p, speaker[i].client, &speaker[i]));
    for (int corked = 0; corked < 2; corked++) {
        belfry_poller_cork(p, corked);
        for (unsigned i = 0; i < CLIENTS_MAX; i++)
            ask(i, LIFE_ECHO, 200);
        for (unsigned got = 0; got < CLIENTS_MAX;) {
            int count = belfry_poller_wait(p, event, CLIENTS_MAX, patience());
            must("wait", count);
            for (int i = 0; i < count; i++, got++)
                hear((unsigned)((struct speaker *)event[i].tag - speaker));
        }
    }
    leave(0);
    belfry_poller_destroy(p);
    leave(1);
}

Test(client_dies, while_its_poller_waits)
{
    client_dies("poller", polls, ATTACHED, HOUSE_SLOTS);
}

/* With a thread of the library's beside its own. */
static void waits_for_its_descriptor(void)
{
    struct pollfd fd = {.fd = belfry_client_fd(speaker[0].client), .events = POLLIN};
    belfry_message m;
    must("descriptor", fd.fd);
    for (int i = 0; i < 2; i++) {
        ask(0, LIFE_ECHO, 200);
        int rc;
        while ((rc = belfry_receive(speaker[0].client, &m, 0)) == -ETIMEDOUT)
            poll(&fd, 1, -1);
        must("receive", rc);
        check(&m);
        belfry_release(speaker[0].client, &m);
    }
    leave(0);
}

Test(client_dies, while_it_waits_for_its_descriptor)
{
    client_dies("descriptor", waits_for_its_descriptor, ATTACHED, HOUSE_SLOTS);
}

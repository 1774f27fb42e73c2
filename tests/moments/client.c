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
#include "speaker.h"
#include "walk.h"

/* --- and its death ------------------------------------------------------------------------------------------------------ */

struct scenario {
    void (*body)(void);
    bool attached;                      /* moments are counted from when it is attached, not from its birth */
    void (*meanwhile)(struct house *h); /* in the test's process, as soon as it is ready; optional */
};

struct run {
    const struct scenario *scenario;
    uint64_t fatal;
};

static void live(void *context)
{
    const struct run *run = context;
    if (run->scenario->attached) {
        join(0, run->scenario->meanwhile != NULL);
        call(0, LIFE_ECHO, 64);
    }
    moments_arm(run->fatal);
    run->scenario->body();
    _exit(0);
}

/* Die at moment `fatal`. Gives whether it died; it may have done all it had to before. */
static bool die_at(struct house *h, const struct scenario *scenario, uint64_t fatal)
{
    struct run run = {.scenario = scenario, .fatal = fatal};
    int status;
    do {
        memset(will, 0, sizeof *will);
        for (unsigned i = 0; i < SPEAKERS_MAX; i++)
            speaker[i] = (struct speaker){.life = house_life(h)};
        pid_t child = fixture_child(live, &run);
        if (scenario->meanwhile != NULL)
            scenario->meanwhile(h);
        status = fixture_reap(child);
        if (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_FAILED)
            expect_failed("moment %llu: %s", (unsigned long long)fatal, will->why);
        house_expect_service(h);
        house_expect_as_before(h, fatal);
        house_expect_heard(h, fatal);
    } while (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_AGAIN);
    expect(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

static void die_at_all(struct house *h, const char *name, const struct scenario *scenario)
{
    struct walk walk;
    walk_begin(&walk, name, 8);
    while (walk_on(&walk))
        walk_result(&walk, die_at(h, scenario, walk.fatal));
    walk_end(&walk);
}

static void play(const char *name, const struct scenario *scenario, uint32_t warm_pool)
{
    struct house h;
    will_open();
    house_open(&h, warm_pool, HOUSE_GRACE_MS);
    house_expect_service(&h);
    house_remember(&h);
    die_at_all(&h, name, scenario);
    house_close(&h);
}

static void client_dies(const char *name, void (*body)(void), bool attached, uint32_t warm_pool)
{
    const struct scenario scenario = {.body = body, .attached = attached};
    play(name, &scenario, warm_pool);
}

/* --- what a client does ------------------------------------------------------------------------------------------------- */

#define FROM_BIRTH false
#define ATTACHED true

static void connects_and_leaves(void)
{
    join(0, false);
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
    join(0, false);
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
    belfry_poll_event event[SPEAKERS_MAX];
    join(1, false);
    must("poller", belfry_poller_create(&p));
    for (unsigned i = 0; i < SPEAKERS_MAX; i++)
        must("add", belfry_poller_add(p, speaker[i].client, &speaker[i]));
    for (int corked = 0; corked < 2; corked++) {
        belfry_poller_cork(p, corked);
        for (unsigned i = 0; i < SPEAKERS_MAX; i++)
            ask(i, LIFE_ECHO, 200);
        for (unsigned got = 0; got < SPEAKERS_MAX;) {
            int count = belfry_poller_wait(p, event, SPEAKERS_MAX, patience());
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

/* --- from one server to the next ---------------------------------------------------------------------------------------- */

static int receive_checked(int64_t deadline)
{
    belfry_message m;
    int rc = belfry_receive(speaker[0].client, &m, deadline);
    if (rc < 0)
        return rc;
    check(&m);
    belfry_release(speaker[0].client, &m);
    return 1;
}

/* As say() and ask(), also while there is no connection. Gives how many messages came before it could be sent. */
static int send_to_whoever_serves(enum life_wish wish, size_t bytes)
{
    int heard = 0, rc;
    compose(0, wish, bytes);
    while ((rc = wish == LIFE_SAY ? belfry_send_one_way(speaker[0].client, message, bytes)
                                  : belfry_send(speaker[0].client, message, bytes, NULL)) == -EAGAIN) {
        rc = receive_checked(patience());
        if (rc < 0 && rc != -EAGAIN)
            fail("without a connection", rc);
        heard += rc > 0;
    }
    must("send", rc);
    return heard;
}

/* While requests of its are on the way, its server drains, and another is there. */
static void moves(void)
{
    int heard = 0, asked = 0;
    __atomic_store_n(&will->ready, true, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&will->go, __ATOMIC_ACQUIRE))
        usleep(100);
    for (; asked < 3; asked++) {
        heard += send_to_whoever_serves(LIFE_SAY, 100); /* nothing but the position says whether it was read */
        heard += send_to_whoever_serves(LIFE_ECHO, 600);
    }
    while (heard < asked || belfry_client_reconnects(speaker[0].client) == 0) {
        int rc = receive_checked(belfry_in_ms(5));
        if (rc < 0 && rc != -ETIMEDOUT && rc != -EAGAIN)
            fail("while it moves", rc);
        heard += rc > 0;
    }
    sent(0);
    call(0, LIFE_ECHO, 200);
    leave(0);
}

static void drain_when_ready(struct house *h)
{
    expect(soon(__atomic_load_n(&will->ready, __ATOMIC_ACQUIRE)));
    house_replace(h);
    __atomic_store_n(&will->go, true, __ATOMIC_RELEASE);
    house_drain_replaced(h);
}

Test(client_dies, while_it_moves_to_another_server)
{
    const struct scenario scenario = {.body = moves, .attached = true, .meanwhile = drain_when_ready};
    play("reconnect", &scenario, HOUSE_SLOTS);
}

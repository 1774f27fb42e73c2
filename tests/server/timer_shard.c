/* SPDX-License-Identifier: MIT */
/*
 * Tests of timers on a real shard: what the turn, the sleep and the stop make of them. timer.c tests the wheel.
 *
 * Handlers set the timers: a message says which `script` to run. What they find stands in variables that the test reads
 * when it has an answer.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/order.h"
#include "expect.h"
#include "server/timer.h"
#include "server_fixture.h"

#define MS 1000000ll

static struct server_fixture server;
static void (*script)(belfry_conn *conn);
static void (*at_end)(belfry_conn *conn);
static belfry_timer timers[2000];
static int64_t wanted_ns, fired_ns;
static unsigned fired, early, results_bad;
static int rc[4];
static uint32_t disconnected;

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    script(conn);
    belfry_reply(conn, m, m->data, m->size);
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    (void)why, (void)user;
    if (at_end != NULL)
        at_end(conn);
    add_release(&disconnected, 1);
}

static belfry_client *begin(void (*first)(belfry_conn *conn))
{
    script = first;
    server_fixture_init(&server);
    server.options.on_message = on_message;
    server.options.on_disconnect = on_disconnect;
    server_fixture_start(&server);
    return server_fixture_connect();
}

static void end(belfry_client *c)
{
    belfry_close(c);
    server_fixture_stop(&server);
}

static void call(belfry_client *c)
{
    belfry_message reply;
    expect_rc(belfry_call(c, "go", 2, &reply, server_fixture_patience()), 0);
    belfry_release(c, &reply);
}

static void note(belfry_timer *t, void *user)
{
    (void)user;
    fired_ns = belfry_now_ns();
    if (fired_ns < t->at_ns)
        early++;
    add_release(&fired, 1);
}

static void note_and_push(belfry_timer *t, void *user)
{
    note(t, user);
    if (belfry_push(user, "tick", 4) < 0)
        results_bad++;
}

TestSuite(timer_shard, .timeout = 120);

/* --- time --------------------------------------------------------------------------------------------------------------- */

static void set_in_30_ms(belfry_conn *conn)
{
    belfry_timer_init(&timers[0], note_and_push, conn);
    wanted_ns = belfry_now_ns() + 30 * MS;
    rc[0] = belfry_timer_set(&timers[0], wanted_ns);
}

/* The conn is quiet and its shard asleep by then: the push must wake the client, too. A shard that only its sweep woke
   would be a second late, every time. */
Test(timer_shard, fires_on_a_sleeping_shard_and_may_push)
{
    belfry_client *c = begin(set_in_30_ms);
    int64_t least_late_ns = INT64_MAX;
    for (int i = 0; i < 5; i++) {
        belfry_message push;
        call(c);
        expect_rc(rc[0], 0);
        expect_rc(belfry_receive(c, &push, server_fixture_patience()), 0);
        expect_eq(push.kind, BELFRY_PUSH);
        belfry_release(c, &push);
        expect(fired_ns >= wanted_ns);
        expect_eq(results_bad, 0);
        least_late_ns = least_late_ns < fired_ns - wanted_ns ? least_late_ns : fired_ns - wanted_ns;
    }
    expect(least_late_ns < 200 * MS);
    end(c);
}

static void set_many(belfry_conn *conn)
{
    (void)conn;
    int64_t now = belfry_now_ns();
    for (unsigned i = 0; i < 2000; i++) {
        belfry_timer_init(&timers[i], note, NULL);
        if (belfry_timer_set(&timers[i], now + (int64_t)(i % 500) * 100000) < 0)
            results_bad++;
    }
    for (unsigned i = 0; i < 2000; i += 2)
        if (belfry_timer_cancel(&timers[i]) != 1 || belfry_timer_cancel(&timers[i]) != 0)
            results_bad++;
}

static void nothing(belfry_conn *conn)
{
    (void)conn;
}

/* A client keeps the shard awake, so that it is the turn and not the end of a sleep that fires them. */
Test(timer_shard, fires_on_a_busy_shard_and_never_early)
{
    belfry_client *c = begin(set_many);
    call(c);
    expect_eq(results_bad, 0);
    script = nothing;
    int64_t until = fixture_now_ms() + FIXTURE_PATIENCE_MS;
    while (load_acquire(&fired) < 1000 && fixture_now_ms() < until)
        call(c);
    expect_eq(fired, 1000);
    expect_eq(early, 0);
    end(c);
}

static void set_far(belfry_conn *conn)
{
    (void)conn;
    belfry_timer_init(&timers[0], note, NULL);
    belfry_timer_init(&timers[1], note, NULL);
    rc[0] = belfry_timer_set(&timers[0], belfry_in_ms(3600 * 1000));
    rc[1] = belfry_timer_set(&timers[1], BELFRY_FOREVER);
}

/* Between two counts of its sleeps the shard sleeps for the sweep alone, which comes after 1 and 2 seconds. */
Test(timer_shard, far_away_costs_an_idle_shard_nothing)
{
    belfry_client *c = begin(set_far);
    call(c);
    expect_rc(rc[0], 0);
    expect_rc(rc[1], 0);
    expect(eventually(server_fixture_counters().parks > 0));
    uint64_t sweeps = server_fixture_counters().sweeps;
    expect(eventually(server_fixture_counters().sweeps > sweeps));
    belfry_counters before = server_fixture_counters();
    expect(eventually(server_fixture_counters().sweeps > before.sweeps));
    belfry_counters after = server_fixture_counters();
    expect_eq(after.turns, before.turns);
    expect(after.parks - before.parks <= 2 + TIMER_LEVELS);
    expect_eq(fired, 0);
    end(c);
}

/* --- the end -------------------------------------------------------------------------------------------------------------- */

static void set_when_over(belfry_conn *conn)
{
    (void)conn;
    rc[2] = belfry_timer_is_set(&timers[0]) || belfry_timer_is_set(&timers[1]);
    rc[3] = belfry_timer_set(&timers[0], 0);
}

Test(timer_shard, stop_drops_what_is_set_and_refuses_more)
{
    at_end = set_when_over;
    belfry_client *c = begin(set_far);
    call(c);
    belfry_server_stop(server.server);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(disconnected, 1);
    expect_eq(rc[2], 0);
    expect_eq(rc[3], BELFRY_ESTATE);
    expect(!belfry_timer_is_set(&timers[0]) && !belfry_timer_is_set(&timers[1]));
    expect_eq(belfry_timer_cancel(&timers[0]), 0);
    expect_eq(fired, 0);
    end(c);
}

static void cancel_on_the_other(belfry_conn *conn)
{
    (void)conn;
    rc[2] = belfry_timer_set(&timers[0], 0);
    rc[3] = belfry_timer_cancel(&timers[0]);
}

Test(timer_shard, is_its_own_shards_only)
{
    script = set_far;
    server_fixture_init(&server);
    server.options.on_message = on_message;
    server.options.shards = 2;
    server_fixture_start(&server);
    belfry_client *c[16];
    unsigned count = 0;
    c[count++] = server_fixture_connect();
    uint32_t first = belfry_client_shard(c[0]);
    do
        c[count] = server_fixture_connect();
    while (belfry_client_shard(c[count++]) == first && count < 8);
    expect(belfry_client_shard(c[count - 1]) != first);
    call(c[0]);
    script = cancel_on_the_other;
    call(c[count - 1]);
    expect_rc(rc[2], BELFRY_ETHREAD);
    expect_rc(rc[3], BELFRY_ETHREAD);
    call(c[0]);
    expect_rc(rc[2], 0);
    expect_rc(rc[3], 1);
    while (count > 0)
        belfry_close(c[--count]);
    server_fixture_stop(&server);
}

/* SPDX-License-Identifier: MIT */
/*
 * Tests of server/thrift.c: what a turn reads of conns that never stop. The test's own thread is all of them, clients and
 * shard, so that nothing depends on who runs when: between two turns every flooder fills its ring to the brim.
 */
#include <errno.h>

#include "expect.h"
#include "server_fixture.h"

#define FLOODERS 8u
#define TURNS_PER_STEP 4u /* of belfry_shard_turn(), while there is work */
#define TICK_TURNS 256u
#define WHOLE 16u

static struct server_fixture server;
static belfry_client *flooder[FLOODERS], *caller;
static unsigned heard, answered;

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    if (m->kind == BELFRY_REQUEST)
        belfry_reply(conn, m, m->data, m->size);
    else
        heard++;
}

static void begin(unsigned flooders)
{
    server_fixture_init(&server);
    server.options.on_message = on_message;
    server.options.own_loop = true;
    server.options.max_slots = server.options.warm_pool = 2 * FLOODERS;
    server.options.ring_bytes = 65536;
    server_fixture_start(&server);
    for (unsigned i = 0; i < flooders; i++)
        flooder[i] = server_fixture_connect();
    caller = server_fixture_connect();
    while (server_fixture_counters().connections_active < flooders + 1)
        expect_rc(belfry_shard_turn(server.server, 0), 1);
}

static void end(unsigned flooders)
{
    for (unsigned i = 0; i < flooders; i++)
        belfry_close(flooder[i]);
    belfry_close(caller);
    belfry_server_destroy(server.server);
    fixture_remove_tree(server.root);
}

static void flood(unsigned flooders, size_t bytes)
{
    static const char data[5000];
    for (unsigned i = 0; i < flooders; i++) {
        int rc;
        while ((rc = belfry_send_one_way(flooder[i], data, bytes)) == 0)
            ;
        expect_eq(rc, -EAGAIN);
    }
}

static void ask(void)
{
    belfry_message m;
    uint64_t id;
    int rc;
    expect_rc(belfry_send(caller, "call", 4, &id), 0);
    do /* the first time the shard may have left it to its doorbell */
        expect_rc(belfry_shard_turn(server.server, 0), 1);
    while ((rc = belfry_receive(caller, &m, 0)) == -ETIMEDOUT && answered == 0);
    expect_rc(rc, 0); /* its turn comes every time */
    belfry_release(caller, &m);
    answered++;
}

/* How many messages of flooders a turn reads once the shard has looked at them for a while. */
static unsigned heard_per_turn(unsigned flooders, size_t bytes, bool asks)
{
    for (unsigned i = 0; i < 3 * TICK_TURNS; i++) {
        flood(flooders, bytes);
        if (asks)
            ask();
        else
            expect_rc(belfry_shard_turn(server.server, 0), 1);
    }
    flood(flooders, bytes);
    heard = 0;
    if (asks)
        ask();
    else
        expect_rc(belfry_shard_turn(server.server, 0), 1);
    return heard / TURNS_PER_STEP;
}

TestSuite(thrift, .timeout = 120);

Test(thrift, lets_many_that_never_stop_have_little_of_a_turn_beside_one_that_asks)
{
    begin(FLOODERS);
    expect_eq(heard_per_turn(FLOODERS, 64, true), 2 * FLOODERS);
    end(FLOODERS);
}

Test(thrift, lets_one_that_never_stops_have_half_of_its_budget)
{
    begin(1);
    expect_eq(heard_per_turn(1, 64, true), WHOLE / 2);
    end(1);
}

Test(thrift, gives_them_all_their_budget_again_when_nobody_else_asks)
{
    begin(FLOODERS);
    expect_eq(heard_per_turn(FLOODERS, 64, false), WHOLE * FLOODERS);
    expect_eq(heard_per_turn(FLOODERS, 64, true), 2 * FLOODERS);
    expect_eq(heard_per_turn(FLOODERS, 64, false), WHOLE * FLOODERS);
    expect(answered > TICK_TURNS);
    end(FLOODERS);
}

/* Of an eighth of the budget one message of 5,000 leaves nothing, one of 1,000 does. */
Test(thrift, counts_bytes_too)
{
    begin(FLOODERS);
    expect_eq(heard_per_turn(FLOODERS, 1000, true), 2 * FLOODERS);
    expect_eq(heard_per_turn(FLOODERS, 5000, true), FLOODERS);
    end(FLOODERS);
}

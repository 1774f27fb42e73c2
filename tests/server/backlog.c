/* SPDX-License-Identifier: MIT */
/*
 * Tests of back-pressure: a client that does not read, through a real server, in rings of 4 KiB and outboxes of 8 KiB.
 *
 * A request says how many pushes of which size its handler shall make before it answers; each push begins with its
 * number. What the handler found is in `seen`.
 */
#include <errno.h>
#include <stdio.h>

#include "base/order.h"
#include "client/client.h"
#include "expect.h"
#include "server/conn.h"
#include "server/server.h"
#include "server_fixture.h"

#define OUTBOX 8192u

static struct server_fixture server;

static struct {
    uint32_t numbered; /* pushes so far */
    uint32_t taken, refused;
    int rc; /* the last refusal */
    int reply_rc;
    char error[200];
    struct belfry_backlog backlog; /* at the end of the handler */
    belfry_conn_id id;
    belfry_ticket ticket;
    unsigned highs, lows, in_handler, disconnected;
    uint64_t high_bytes, low_bytes;
    bool push_at_high;
    enum belfry_end why;
} seen;

struct order {
    uint32_t pushes, bytes;
    bool defer;
};

static void push_numbered(belfry_conn *conn, size_t bytes)
{
    static uint8_t data[65536];
    uint32_t number = seen.numbered++;
    memcpy(data, &number, sizeof number);
    int rc = belfry_push(conn, data, bytes);
    seen.taken += rc == 0;
    if (rc < 0) {
        seen.refused++;
        seen.rc = rc;
        snprintf(seen.error, sizeof seen.error, "%s", belfry_last_error());
    }
}

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    struct order order;
    (void)user;
    memcpy(&order, m->data, sizeof order);
    for (uint32_t i = 0; i < order.pushes; i++)
        push_numbered(conn, order.bytes);
    seen.reply_rc = order.defer ? belfry_defer(conn, m, &seen.ticket, NULL) : belfry_reply(conn, m, "reply", 5);
    seen.backlog = belfry_conn_backlog(conn);
    seen.id = belfry_conn_get_id(conn);
    add_release(&seen.in_handler, 1);
}

static void on_backlog(belfry_conn *conn, bool high, void *user)
{
    (void)user;
    if (high)
        seen.high_bytes = belfry_conn_backlog(conn).bytes;
    else
        seen.low_bytes = belfry_conn_backlog(conn).bytes;
    if (high && seen.push_at_high)
        push_numbered(conn, 100);
    add_release(high ? &seen.highs : &seen.lows, 1);
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    (void)conn, (void)user;
    seen.why = why;
    add_release(&seen.disconnected, 1);
}

static belfry_client *begin(enum belfry_overflow overflow)
{
    server_fixture_init(&server);
    server.options.message_bytes_max = 60000;
    server.options.outbox_bytes_max = OUTBOX;
    server.options.overflow = overflow;
    server.options.on_message = on_message;
    server.options.on_backlog = on_backlog;
    server.options.on_disconnect = on_disconnect;
    server_fixture_start(&server);
    return server_fixture_connect();
}

static void end(belfry_client *c)
{
    belfry_close(c);
    expect(eventually(server_fixture_counters().outbox_bytes == 0));
    server_fixture_stop(&server);
}

/* Have so many pushes made, and read none. Gives the request's id. */
static uint64_t order(belfry_client *c, uint32_t pushes, uint32_t bytes)
{
    struct order order = {.pushes = pushes, .bytes = bytes};
    unsigned before = load_acquire(&seen.in_handler);
    uint64_t id;
    expect_rc(belfry_send(c, &order, sizeof order, &id), 0);
    expect(eventually(load_acquire(&seen.in_handler) > before));
    return id;
}

static void expect_push(belfry_client *c, uint32_t number)
{
    belfry_message m;
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.kind, BELFRY_PUSH);
    expect_eq(*(const uint32_t *)m.data, number);
    belfry_release(c, &m);
}

static void expect_reply(belfry_client *c, uint64_t id)
{
    belfry_message m;
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.id, id);
    expect(m.size == 5 && memcmp(m.data, "reply", 5) == 0);
    belfry_release(c, &m);
}

TestSuite(backlog, .timeout = 60);

/* --- what a full outbox does --------------------------------------------------------------------------------------- */

Test(backlog, refuses_and_loses_nothing_that_was_taken)
{
    belfry_client *c = begin(BELFRY_OVERFLOW_REFUSE);
    order(c, 40, 400);
    expect_eq(seen.taken + seen.refused, 40);
    expect(seen.refused > 5 && seen.taken > 10);
    expect_eq(seen.rc, BELFRY_EBACKLOG);
    expect_in(seen.error, "does not read");
    expect_eq(seen.backlog.refused, seen.refused + (seen.reply_rc < 0));
    expect_eq(seen.backlog.dropped, 0);
    expect_eq(seen.backlog.stalls, 1);
    expect(seen.backlog.bytes_peak <= OUTBOX && seen.backlog.bytes_peak > OUTBOX - 448);
    expect_eq(server_fixture_counters().outbox_full, seen.backlog.refused);
    expect_eq(server_fixture_counters().pushes_dropped, 0);
    for (uint32_t i = 0; i < seen.taken; i++)
        expect_push(c, i);
    expect_eq(seen.disconnected, 0);
    belfry_message m; /* the reply did not fit either, or it did: in no case does the client wait for ever */
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect(m.kind == (seen.reply_rc < 0 ? BELFRY_FAILURE : BELFRY_REPLY));
    belfry_release(c, &m);
    end(c);
}

Test(backlog, drops_the_oldest_pushes_for_what_is_newer)
{
    belfry_client *c = begin(BELFRY_OVERFLOW_DROP_PUSH);
    uint64_t id = order(c, 100, 400);
    expect_eq(seen.taken, 100);
    expect_eq(seen.refused, 0);
    expect_eq(seen.reply_rc, 0);
    expect(seen.backlog.dropped > 60 && seen.backlog.dropped < 90);
    expect(seen.backlog.bytes <= OUTBOX && seen.backlog.bytes_peak <= OUTBOX);
    expect_eq(server_fixture_counters().pushes_dropped, seen.backlog.dropped);
    expect_eq(server_fixture_counters().outbox_full, 0);
    uint32_t in_ring = 0; /* these had left */
    belfry_message m;
    uint32_t count = 0, next = 0;
    while (belfry_receive(c, &m, server_fixture_patience()) == 0 && m.kind == BELFRY_PUSH) {
        uint32_t number = *(const uint32_t *)m.data;
        expect(number >= next); /* some are missing, none is out of order */
        in_ring += number == count;
        next = number + 1;
        count++;
        belfry_release(c, &m);
    }
    expect_eq(m.id, id);
    belfry_release(c, &m);
    expect_eq(next, 100); /* the newest is there */
    expect_eq(count + seen.backlog.dropped, 100);
    expect(in_ring >= 5 && in_ring < count);
    end(c);
}

Test(backlog, drops_no_push_that_has_left_in_part)
{
    belfry_client *c = begin(BELFRY_OVERFLOW_DROP_PUSH);
    static uint8_t large[50000], small[400];
    belfry_message m;
    expect_reply(c, order(c, 0, 0));
    expect_rc(belfry_push_to(server.server, seen.id, large, sizeof large), 0);
    expect(eventually(!ring_is_empty(&c->in))); /* it has begun to leave */
    for (int i = 0; i < 40; i++)
        expect_rc(belfry_push_to(server.server, seen.id, small, sizeof small), 0);
    expect(eventually(server_fixture_counters().pushes_dropped > 10));
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.size, sizeof large);
    belfry_release(c, &m);
    end(c);
}

Test(backlog, is_no_matter_of_a_large_message_to_a_client_that_reads)
{
    belfry_client *c = begin(BELFRY_OVERFLOW_DISCONNECT);
    static uint8_t large[50000]; /* six times what the outbox holds */
    belfry_message m;
    expect_reply(c, order(c, 0, 0));
    for (int round = 0; round < 20; round++) {
        expect_rc(belfry_push_to(server.server, seen.id, large, sizeof large), 0);
        expect_rc(belfry_push_to(server.server, seen.id, "news", 4), 0);
        expect_rc(belfry_broadcast(server.server, "news", 4), 0);
        for (int i = 0; i < 3; i++) {
            expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
            expect_eq(m.size, i == 0 ? sizeof large : 4);
            belfry_release(c, &m);
        }
    }
    expect_eq(load_acquire(&seen.disconnected), 0);
    expect_eq(load_acquire(&seen.highs), 0);
    expect_eq(server_fixture_counters().pushes_dropped, 0);
    expect_eq(server_fixture_counters().outbox_full, 0);
    end(c);
}

Test(backlog, drops_pushes_for_a_reply_and_never_replies)
{
    belfry_client *c = begin(BELFRY_OVERFLOW_DROP_PUSH);
    uint64_t first = order(c, 30, 400);
    expect_eq(seen.reply_rc, 0);
    for (uint32_t i = 0; i < 400; i++)
        expect_rc(belfry_push_to(server.server, seen.id, &i, sizeof i), 0);
    expect(
        eventually(server_fixture_counters().messages_out >= 31 + 400)); /* all of them were taken; not all are left */
    belfry_message m;
    bool replied = false;
    while (belfry_receive(c, &m, belfry_in_ms(200)) == 0) {
        replied |= m.id == first;
        belfry_release(c, &m);
    }
    expect(replied);
    end(c);
}

Test(backlog, disconnects)
{
    belfry_client *c = begin(BELFRY_OVERFLOW_DISCONNECT), *other = server_fixture_connect();
    order(c, 40, 400);
    expect_eq(seen.rc, BELFRY_EBACKLOG);
    expect(eventually(load_acquire(&seen.disconnected) == 1));
    expect_eq(seen.why, BELFRY_END_BACKLOG);
    belfry_message m;
    int rc;
    while ((rc = belfry_receive(c, &m, server_fixture_patience())) == 0)
        belfry_release(c, &m);
    expect_eq(rc, BELFRY_EGONE);
    expect_in(belfry_last_error(), "did not read");
    expect_eq(server_fixture_counters().ends[BELFRY_END_BACKLOG], 1);
    seen.numbered = 0;
    uint64_t id = order(other, 1, 10);
    expect_push(other, 0);
    expect_reply(other, id);
    belfry_close(c);
    end(other);
}

Test(backlog, disconnects_whom_a_broadcast_finds_asleep_and_nobody_else)
{
    belfry_client *c = begin(BELFRY_OVERFLOW_DISCONNECT), *other = server_fixture_connect();
    belfry_message m;
    uint32_t received = 0;
    uint8_t data[400] = {0};
    expect_reply(c, order(c, 0, 0));
    expect_reply(other, order(other, 0, 0));
    for (uint32_t i = 0; i < 60; i++) {
        memcpy(data, &i, sizeof i);
        expect_rc(belfry_broadcast(server.server, data, sizeof data), 0);
        expect_push(other, i);
        received++;
    }
    expect_eq(received, 60);
    expect(eventually(load_acquire(&seen.disconnected) == 1));
    expect_eq(seen.why, BELFRY_END_BACKLOG);
    while (belfry_receive(c, &m, server_fixture_patience()) == 0)
        belfry_release(c, &m);
    belfry_close(c);
    end(other);
}

Test(backlog, of_a_ticket_is_its_holders_affair)
{
    belfry_client *c = begin(BELFRY_OVERFLOW_DISCONNECT);
    struct order deferred = {.defer = true};
    static char data[1000];
    belfry_message m;
    uint64_t id;
    int rc;
    expect_rc(belfry_send(c, &deferred, sizeof deferred, &id), 0);
    expect(eventually(load_acquire(&seen.in_handler) == 1));
    uint32_t said = 0;
    while ((rc = belfry_complete_more(server.server, &seen.ticket, data, sizeof data)) == 0)
        said++;
    expect_eq(rc, BELFRY_EBACKLOG);
    expect_rc(belfry_complete(server.server, &seen.ticket, "reply", 5), 0); /* for this there is always room */
    for (uint32_t i = 0; i < said; i++) {
        expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
        expect_eq(m.flags, BELFRY_MORE);
        belfry_release(c, &m);
    }
    expect_reply(c, id);
    expect_eq(load_acquire(&seen.disconnected), 0);
    end(c);
}

/* --- the two marks ------------------------------------------------------------------------------------------------- */

Test(backlog, is_told_when_it_passes_the_marks_in_turns)
{
    belfry_client *c = begin(BELFRY_OVERFLOW_REFUSE);
    for (unsigned round = 1; round <= 3; round++) {
        seen.numbered = seen.taken = seen.refused = 0;
        uint64_t id = order(c, 15, 400); /* 7 kB, of which the ring takes a half: below the mark */
        for (uint32_t i = 0; i < 15; i++)
            expect_push(c, i);
        expect_reply(c, id);
        expect_eq(seen.refused, 0);
        expect_eq(load_acquire(&seen.highs), round - 1);
        seen.numbered = seen.taken = 0;
        id = order(c, 22, 400);
        expect(eventually(load_acquire(&seen.highs) == round));
        expect(seen.high_bytes > OUTBOX / 2);
        expect_eq(load_acquire(&seen.lows), round - 1);
        for (uint32_t i = 0; i < seen.taken; i++)
            expect_push(c, i);
        expect_reply(c, id);
        expect(eventually(load_acquire(&seen.lows) == round));
        expect_eq(seen.low_bytes, 0);
        expect_eq(load_acquire(&seen.highs), round);
    }
    end(c);
}

Test(backlog, may_be_pushed_to_when_it_is_told)
{
    belfry_client *c = begin(BELFRY_OVERFLOW_REFUSE);
    seen.push_at_high = true;
    order(c, 22, 400);
    expect(eventually(load_acquire(&seen.highs) == 1));
    uint32_t taken = seen.taken;
    expect_eq(taken, 23);
    belfry_message m;
    for (uint32_t pushes = 0; pushes < taken;) {
        expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
        pushes += m.kind == BELFRY_PUSH;
        belfry_release(c, &m);
    }
    end(c);
}

Test(backlog, is_not_told_of_a_conn_that_is_over)
{
    belfry_client *c = begin(BELFRY_OVERFLOW_REFUSE);
    order(c, 22, 400);
    expect(eventually(load_acquire(&seen.highs) == 1));
    belfry_close(c);
    expect(eventually(load_acquire(&seen.disconnected) == 1));
    expect_eq(load_acquire(&seen.lows), 0);
    end(NULL);
}

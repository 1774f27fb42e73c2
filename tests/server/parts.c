/* SPDX-License-Identifier: MIT */
/*
 * Tests of messages that travel in parts, through a real server and real clients, in rings of 4 KiB: server/conn.c and
 * client/large.c.
 *
 * Every byte that is compared depends on its place and on the message, so that a part out of place shows.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/order.h"
#include "client/client.h"
#include "expect.h"
#include "server/conn.h"
#include "server/server.h"
#include "server_fixture.h"

#define MESSAGE_MAX (4u << 20)
#define IN_PLACE 1008u /* what a ring of 4 KiB takes at once */

static struct server_fixture server;

static struct {
    unsigned handled, disconnected, bad, deferred, cancelled;
    enum belfry_end why;
    uint64_t size;
    uint16_t kind;
    belfry_ticket ticket;
    belfry_message copy;
    bool taken_over, hold, held;
    belfry_conn_id id, sender;
    uint64_t position, step; /* of the sender's ring, when another's turn came; the most between two of these */
} seen;

static void fill(void *data, size_t size, unsigned seed)
{
    uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 251 + seed);
}

static bool filled(const void *data, size_t size, unsigned seed)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != (uint8_t)(i * 7 + i / 251 + seed))
            return false;
    return true;
}

static int on_connect(belfry_conn *conn, void *user)
{
    (void)user;
    seen.id = belfry_conn_get_id(conn);
    return 0;
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    (void)conn, (void)user;
    seen.why = why;
    add_release(&seen.disconnected, 1);
}

static void on_cancel(belfry_conn *conn, const belfry_ticket *t, int why, void *user)
{
    (void)conn, (void)t, (void)why, (void)user;
    add_release(&seen.cancelled, 1);
}

/* First byte a: reserve and abort, then reply; l: reply with as many bytes as follow; d: defer; p: push it back, then reply nothing; r: reply in place; s: stay a while; else echo */
static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    char what = m->size > 0 ? *(const char *)m->data : 0;
    seen.size = m->size;
    seen.kind = m->kind;
    seen.id = belfry_conn_get_id(conn);
    if (what == 't') {
        uint64_t position = belfry_conn_find(server.server, seen.sender)->in.position;
        seen.step = bf_max(seen.step, position - seen.position);
        seen.position = position;
    }
    while (what == 's' && load_acquire(&seen.hold))
        store_release(&seen.held, true);
    if (m->kind == BELFRY_ONE_WAY) {
        seen.bad += !filled((const char *)m->data + 1, m->size - 1, 1);
    } else if (what == 'd') {
        seen.bad += belfry_defer(conn, m, &seen.ticket, &seen.copy) != 0;
        seen.taken_over = seen.copy.data == m->data;
        add_release(&seen.deferred, 1);
    } else if (what == 'a' || what == 'l') {
        uint32_t size;
        void *data;
        memcpy(&size, (const char *)m->data + 4, sizeof size);
        seen.bad += belfry_reply_reserve(conn, m, size, &data) != 0;
        if (what == 'a')
            belfry_reply_abort(conn);
        seen.bad += (what == 'a' ? belfry_reply(conn, m, "a", 1) : belfry_reply_commit(conn, size)) != 0;
    } else if (what == 'p') {
        seen.bad += belfry_push(conn, m->data, m->size) != 0;
        belfry_reply(conn, m, NULL, 0);
    } else if (what == 'r') {
        void *data = NULL;
        seen.bad += belfry_reply_reserve(conn, m, m->size + 100, &data) != 0 || (uintptr_t)data % 8 != 0;
        memcpy(data, m->data, m->size);
        seen.bad += belfry_reply_commit(conn, m->size) != 0;
    } else {
        belfry_reply(conn, m, m->data, m->size);
    }
    add_release(&seen.handled, 1);
}

static void prepare(void)
{
    server_fixture_init(&server);
    server.options.message_bytes_max = MESSAGE_MAX;
    server.options.on_connect = on_connect;
    server.options.on_message = on_message;
    server.options.on_disconnect = on_disconnect;
    server.options.on_cancel = on_cancel;
}

static belfry_client *begin(void)
{
    prepare();
    server_fixture_start(&server);
    return server_fixture_connect();
}

static uint64_t arriving_bytes(void)
{
    return load_acquire(&server.server->whole_bytes);
}

static void end(belfry_client *c)
{
    belfry_close(c);
    expect(eventually(arriving_bytes() == 0));
    expect_eq(seen.bad, 0);
    server_fixture_stop(&server);
}

static char *message(char what, size_t size, unsigned seed)
{
    char *data = malloc(size);
    fill(data + 1, size - 1, seed);
    data[0] = what;
    return data;
}

static void expect_filled(const belfry_message *m, uint16_t kind, char what, size_t size, unsigned seed)
{
    expect_eq(m->kind, kind);
    expect_eq(m->size, size);
    expect(*(const char *)m->data == what && filled((const char *)m->data + 1, size - 1, seed));
    expect((uintptr_t)m->data % 8 == 0);
}

static void expect_call(belfry_client *c, char what, size_t size, int64_t deadline)
{
    belfry_message m;
    char *data = message(what, size, (unsigned)size);
    expect_rc(belfry_call(c, data, size, &m, deadline), 0);
    expect_filled(&m, BELFRY_REPLY, what, size, (unsigned)size);
    belfry_release(c, &m);
    free(data);
}

static void expect_echo(belfry_client *c)
{
    expect_call(c, 'e', 10, server_fixture_patience());
}

static void send_part(belfry_client *c, uint64_t id, const struct extension *x, size_t size)
{
    uint8_t *data;
    uint32_t block = extension_bytes(x);
    expect_eq(ring_reserve(&c->out, block + size, (void **)&data), 0);
    if (block > 0)
        extension_write(data, x);
    memset(data + block, 'e', size);
    ring_commit(&c->out, BELFRY_PART, block > 0 ? BELFRY_FLAG_EXTENDED : 0, id, block + size);
}

TestSuite(parts, .timeout = 120);

/* --- there and back ------------------------------------------------------------------------------------------------ */

Test(parts, carry_messages_of_every_size_about_the_limits)
{
    static const size_t limits[] = {IN_PLACE, 512 - 16, 1024, 4096, 8192, 65536, 1u << 20};
    belfry_client *c = begin();
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
        for (size_t size = limits[i] - 40; size <= limits[i] + 40; size++) {
            if (limits[i] > 65536 && size % 16 != 0)
                continue;
            expect_call(c, size % 2 == 0 ? 'e' : 'r', size, size % 3 == 0 ? BELFRY_FOREVER : server_fixture_patience());
        }
    expect_call(c, 'e', MESSAGE_MAX, BELFRY_FOREVER);
    expect_eq(server_fixture_counters().whole_refused, 0);
    end(c);
}

Test(parts, refuse_what_is_larger_than_the_service_takes)
{
    static char large[MESSAGE_MAX + 1];
    belfry_client *c = begin();
    belfry_message m;
    void *data;
    expect_rc(belfry_call(c, large, sizeof large, &m, BELFRY_FOREVER), BELFRY_ETOOBIG);
    expect_rc(belfry_send(c, large, sizeof large, NULL), BELFRY_ETOOBIG);
    expect_rc(belfry_send_until(c, large, sizeof large, server_fixture_patience(), NULL), BELFRY_ETOOBIG);
    expect_rc(belfry_send_reserve(c, sizeof large, &data), BELFRY_ETOOBIG);
    expect_rc(belfry_push_to(server.server, seen.id, large, sizeof large), BELFRY_ETOOBIG);
    expect_echo(c);
    end(c);
}

Test(parts, leave_while_others_send_nothing)
{
    belfry_client *c = begin();
    size_t size = 100000;
    uint64_t id;
    belfry_message m;
    store_release(&seen.hold, true);
    expect_rc(belfry_send(c, "s", 1, NULL), 0); /* the server is busy: the ring stays full */
    expect(eventually(load_acquire(&seen.held)));
    char *data = message('e', size, 5);
    expect_rc(belfry_send(c, data, size, &id), 0);
    memset(data, 0, size); /* it is a copy */
    expect(belfry_client_unsent_bytes(c) > 90000);
    expect_rc(belfry_send(c, "small", 5, NULL), -EAGAIN);
    expect_in(belfry_last_error(), "on its way");
    expect_rc(belfry_send(c, NULL, 0, NULL), -EAGAIN);
    expect_rc(belfry_send_until(c, "small", 5, server_fixture_patience(), NULL), -EAGAIN);
    expect_rc(belfry_flush(c, belfry_in_ms(10)), -ETIMEDOUT);
    store_release(&seen.hold, false);
    expect_rc(belfry_flush(c, server_fixture_patience()), 0);
    expect_eq(belfry_client_unsent_bytes(c), 0);
    expect_rc(belfry_send(c, "small", 5, NULL), 0);
    for (int i = 0; i < 3; i++) {
        expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
        if (i == 1) {
            expect_eq(m.id, id);
            expect_filled(&m, BELFRY_REPLY, 'e', size, 5);
        } else {
            expect_eq(m.size, i == 0 ? 1 : 5); /* in the order in which they were sent */
        }
        belfry_release(c, &m);
    }
    free(data);
    end(c);
}

Test(parts, say_when_the_send_that_they_delayed_may_be_tried_again)
{
    belfry_client *c = begin();
    belfry_message m;
    char *data = message('e', 300000, 5);
    for (int round = 0; round < 20; round++) {
        expect_rc(belfry_send(c, data, 300000, NULL), 0);
        bool refused = belfry_send(c, "small", 5, NULL) == -EAGAIN;
        bool again = false, whole = false;
        while (!whole || refused != again) {
            int rc = belfry_receive(c, &m, server_fixture_patience());
            if (rc == -EAGAIN) {
                expect_rc(belfry_send(c, "small", 5, NULL), 0);
                again = true;
                continue;
            }
            expect_rc(rc, 0);
            whole |= m.size == 300000;
            belfry_release(c, &m);
        }
        while (belfry_receive(c, &m, belfry_in_ms(20)) == 0)
            belfry_release(c, &m);
    }
    free(data);
    end(c);
}

Test(parts, are_written_in_place)
{
    belfry_client *c = begin();
    belfry_message m;
    void *room, *other;
    uint64_t id;
    expect_rc(belfry_send_reserve(c, 50000, &room), 0);
    expect((uintptr_t)room % 8 == 0);
    expect_rc(belfry_send_reserve(c, 50000, &other), BELFRY_ESTATE); /* one at a time */
    expect_rc(belfry_send_reserve(c, 5, &other), BELFRY_ESTATE);
    expect_rc(belfry_send(c, "x", 1, NULL), BELFRY_ESTATE);
    belfry_send_abort(c);
    expect_rc(belfry_send_commit(c, BELFRY_REQUEST, 5, &id), BELFRY_ESTATE);
    expect_rc(belfry_send_reserve(c, 50000, &room), 0);
    expect_rc(belfry_send_commit(c, BELFRY_REQUEST, 50001, &id), BELFRY_ESTATE);
    expect_rc(belfry_send_commit(c, BELFRY_PUSH, 5, &id), BELFRY_EOPTION);
    fill((char *)room + 1, 39999, 3);
    *(char *)room = 'e';
    expect_rc(belfry_send_commit(c, BELFRY_REQUEST, 40000, &id), 0);
    expect_rc(belfry_await(c, id, &m, server_fixture_patience()), 0);
    expect_filled(&m, BELFRY_REPLY, 'e', 40000, 3);
    belfry_release(c, &m);
    expect_rc(belfry_send_reserve(c, 50000, &room), 0); /* it may become small enough for one entry */
    *(char *)room = 'e';
    expect_rc(belfry_send_commit(c, BELFRY_REQUEST, 1, &id), 0);
    expect_rc(belfry_await(c, id, &m, server_fixture_patience()), 0);
    expect_eq(m.size, 1);
    belfry_release(c, &m);
    expect_rc(belfry_send_reserve(c, 5, &room), 0);
    expect_rc(belfry_send_reserve(c, 50000, &other), BELFRY_ESTATE);
    belfry_send_abort(c);
    expect_echo(c);
    expect_rc(belfry_send_reserve(c, 50000, &room), 0); /* closing frees it */
    end(c);
}

Test(parts, want_no_answer_when_they_go_one_way)
{
    belfry_client *c = begin();
    char *data = message('o', 70000, 1);
    expect_rc(belfry_send_one_way(c, data, 70000), 0);
    expect_rc(belfry_flush(c, server_fixture_patience()), 0);
    expect(eventually(load_acquire(&seen.handled) == 1));
    expect_eq(seen.kind, BELFRY_ONE_WAY);
    expect_eq(seen.size, 70000);
    expect_echo(c);
    free(data);
    end(c);
}

/* --- both ways at once --------------------------------------------------------------------------------------------- */

Test(parts, resolve_when_both_rings_are_full)
{
    belfry_client *c = begin();
    belfry_message m;
    unsigned pushed = 0, answered = 0;
    for (unsigned sent = 0; answered < 50;) { /* each is pushed back while the next is on its way */
        char *data = message('p', 30000 + sent, sent);
        if (sent < 50 && belfry_send(c, data, 30000 + sent, NULL) == 0)
            sent++;
        free(data);
        int rc = belfry_receive(c, &m, server_fixture_patience());
        if (rc == -EAGAIN)
            continue;
        expect_rc(rc, 0);
        if (m.kind == BELFRY_PUSH) {
            expect_filled(&m, BELFRY_PUSH, 'p', 30000 + pushed, pushed);
            pushed++;
        } else {
            answered++;
        }
        belfry_release(c, &m);
    }
    expect_eq(pushed, 50);
    end(c);
}

Test(parts, resolve_in_calls_that_find_both_rings_full)
{
    belfry_client *c = begin();
    char *data = message('p', 200000, 9);
    belfry_message m;
    int sent = 0; /* what is pushed for these fills our ring, and the server reads no further */
    for (int full = 0; full < 20; fixture_pause()) {
        bool taken = belfry_send(c, data, 900, NULL) == 0;
        sent += taken;
        full = taken ? 0 : full + 1;
    }
    expect_rc(belfry_call(c, data, 200000, &m, server_fixture_patience()), 0);
    belfry_release(c, &m);
    for (int i = 0; i < sent * 2 + 1; i++) {
        expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
        if (i == sent * 2)
            expect_filled(&m, BELFRY_PUSH, 'p', 200000, 9);
        belfry_release(c, &m);
    }
    free(data);
    end(c);
}

Test(parts, do_not_keep_others_waiting)
{
    belfry_client *c = begin(), *other = server_fixture_connect();
    char *data = message('e', MESSAGE_MAX, 2);
    belfry_message m;
    unsigned echoes = 0;
    expect_rc(belfry_send(c, data, MESSAGE_MAX, NULL), 0);
    bool arrived = false;
    while (!arrived) {
        expect_echo(other);
        echoes++;
        int rc = belfry_receive(c, &m, 0);
        expect(rc == 0 || rc == -ETIMEDOUT);
        arrived = rc == 0;
    }
    expect_filled(&m, BELFRY_REPLY, 'e', MESSAGE_MAX, 2);
    expect(echoes > 100); /* 4 MiB there and back in steps of less than a ring */
    belfry_release(c, &m);
    free(data);
    belfry_close(other);
    end(c);
}

Test(parts, may_be_received_by_a_poller)
{
    belfry_client *c = begin();
    belfry_poller *p;
    belfry_poll_event event;
    belfry_message m;
    char *data = message('e', 500000, 4);
    expect_rc(belfry_poller_create(&p), 0);
    expect_rc(belfry_poller_add(p, c, NULL), 0);
    for (int corked = 0; corked < 2; corked++) {
        belfry_poller_cork(p, corked != 0);
        expect_rc(belfry_send(c, data, 500000, NULL), 0);
        expect_rc(belfry_send(c, "x", 1, NULL), -EAGAIN);
        bool writable = false, whole = false;
        while (!writable || !whole) {
            expect_rc(belfry_poller_wait(p, &event, 1, server_fixture_patience()), 1);
            if (event.writable && !writable) {
                expect_rc(belfry_send(c, "x", 1, NULL), 0);
                writable = true;
            }
            if (event.readable && belfry_receive(c, &m, 0) == 0) {
                whole |= m.size == 500000;
                belfry_release(c, &m);
            }
        }
        expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
        belfry_release(c, &m);
    }
    belfry_poller_destroy(p);
    free(data);
    end(c);
}

/* --- pushed, broadcast, deferred, streamed -------------------------------------------------------------------------- */

Test(parts, are_pushed_and_broadcast)
{
    belfry_client *c = begin(), *other = server_fixture_connect();
    belfry_message m;
    char *data = message('x', 60000, 6);
    expect_echo(c);
    expect_echo(other);
    expect_rc(belfry_broadcast(server.server, data, 60000), 0);
    expect_rc(belfry_push_to(server.server, seen.id, data, 5000), 0);
    for (int i = 0; i < 2; i++) {
        expect_rc(belfry_receive(i == 0 ? c : other, &m, server_fixture_patience()), 0);
        expect_filled(&m, BELFRY_PUSH, 'x', 60000, 6);
        belfry_release(i == 0 ? c : other, &m);
    }
    expect_rc(belfry_receive(other, &m, server_fixture_patience()), 0);
    expect_eq(m.size, 5000);
    belfry_release(other, &m);
    free(data);
    belfry_close(other);
    end(c);
}

Test(parts, are_handed_over_to_whoever_answers_later)
{
    belfry_client *c = begin();
    belfry_message m;
    char *data = message('d', 200000, 8);
    uint64_t id;
    expect_rc(belfry_send(c, data, 200000, &id), 0);
    expect_rc(belfry_flush(c, server_fixture_patience()), 0);
    expect(eventually(load_acquire(&seen.deferred) == 1));
    expect(seen.taken_over); /* no copy */
    expect_eq(arriving_bytes(), 0);
    expect_echo(c);
    expect(memcmp(seen.copy.data, data, 200000) == 0);
    expect_rc(belfry_complete_more(server.server, &seen.ticket, seen.copy.data, 200000), 0);
    expect_rc(belfry_complete(server.server, &seen.ticket, seen.copy.data, 100000), 0);
    belfry_message_free(&seen.copy);
    expect_rc(belfry_await(c, id, &m, server_fixture_patience()), 0);
    expect_filled(&m, BELFRY_REPLY, 'd', 200000, 8);
    expect_eq(m.flags, BELFRY_MORE);
    belfry_release(c, &m);
    expect_rc(belfry_await(c, id, &m, server_fixture_patience()), 0);
    expect_filled(&m, BELFRY_REPLY, 'd', 100000, 8);
    expect_eq(m.flags, 0);
    belfry_release(c, &m);
    free(data);
    end(c);
}

Test(parts, are_kept_while_another_call_waits)
{
    belfry_client *c = begin();
    belfry_message m;
    char *data = message('x', 60000, 6);
    expect_echo(c);
    expect_rc(belfry_push_to(server.server, seen.id, data, 60000), 0);
    expect(eventually(server_fixture_counters().messages_out == 2));
    expect_echo(c); /* finds the push first, and keeps it */
    expect_rc(belfry_receive(c, &m, 0), 0);
    expect_filled(&m, BELFRY_PUSH, 'x', 60000, 6);
    belfry_release(c, &m);
    expect_rc(belfry_push_to(server.server, seen.id, data, 60000), 0);
    expect(eventually(server_fixture_counters().messages_out == 4));
    expect_echo(c);
    free(data);
    end(c); /* closing frees it */
}

/* --- given up ------------------------------------------------------------------------------------------------------ */

Test(parts, are_given_up_half_way_at_a_calls_deadline)
{
    belfry_client *c = begin();
    belfry_message m;
    char *data = message('e', 500000, 4);
    for (int i = 0; i < 10; i++) {
        store_release(&seen.held, false);
        store_release(&seen.hold, true);
        expect_rc(belfry_send(c, "s", 1, NULL), 0);
        expect(eventually(load_acquire(&seen.held)));
        unsigned handled = load_acquire(&seen.handled);
        expect_rc(belfry_call(c, data, 500000, &m, belfry_in_ms(i)), -ETIMEDOUT);
        store_release(&seen.hold, false);
        expect_call(c, 'e', 100000, server_fixture_patience());
        expect_eq(load_acquire(&seen.handled), handled + 2); /* what was given up has not been executed */
        expect_rc(belfry_receive(c, &m, 0), 0);              /* the reply to "s" */
        belfry_release(c, &m);
        expect(eventually(arriving_bytes() == 0));
    }
    free(data);
    end(c);
}

Test(parts, are_given_up_before_the_first_has_left)
{
    belfry_client *c = begin();
    uint64_t id, last = 0;
    belfry_message m;
    store_release(&seen.hold, true);
    expect_rc(belfry_send(c, "s", 1, NULL), 0);
    expect(eventually(load_acquire(&seen.held)));
    while (belfry_send(c, "12345678901234567890123456789012", 32, NULL) == 0)
        last++;
    char *data = message('e', 50000, 4);
    expect_rc(belfry_send(c, data, 50000, &id), 0);
    expect_eq(belfry_client_unsent_bytes(c), 50000);
    expect_rc(belfry_cancel(c, id), 0);
    expect_eq(belfry_client_unsent_bytes(c), 0);
    store_release(&seen.hold, false);
    for (uint64_t i = 0; i <= last; i++) {
        int rc = belfry_receive(c, &m, server_fixture_patience());
        if (rc == -EAGAIN) {
            i--;
            continue;
        }
        expect_rc(rc, 0);
        belfry_release(c, &m);
    }
    expect_echo(c);
    expect_eq(server_fixture_counters().cancels, 0); /* the server has never heard of it */
    free(data);
    end(c);
}

Test(parts, of_a_reply_are_given_up_half_way)
{
    belfry_client *c = begin();
    char *data = message('d', 100000, 4);
    uint64_t id;
    belfry_message m;
    expect_rc(belfry_send(c, data, 10, &id), 0);
    expect(eventually(load_acquire(&seen.deferred) == 1));
    for (int i = 0; i < 3; i++)
        expect_rc(belfry_complete_more(server.server, &seen.ticket, data, 100000), 0);
    expect(eventually(server_fixture_counters().messages_out == 3));
    while (c->large == NULL || !c->large->in.open) /* some parts of the first have arrived */
        expect_rc(belfry_receive(c, &m, 0), -ETIMEDOUT);
    expect_rc(belfry_push_to(server.server, seen.id, data, 70000), 0); /* behind it, and to arrive whole */
    expect(eventually(server_fixture_counters().messages_out == 4));
    expect_rc(belfry_cancel(c, id), 0);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.kind, BELFRY_PUSH);
    expect(m.size == 70000 && memcmp(m.data, data, 70000) == 0);
    belfry_release(c, &m);
    expect(eventually(load_acquire(&seen.cancelled) == 1));
    expect_rc(belfry_complete(server.server, &seen.ticket, data, 100000), -ECANCELED);
    belfry_message_free(&seen.copy);
    expect_echo(c);
    expect_eq(c->late_count, 0);
    expect_eq(server_fixture_counters().outbox_bytes, 0);
    free(data);
    end(c);
}

Test(parts, of_a_client_that_left_are_dropped)
{
    belfry_client *c = begin(), *other = server_fixture_connect();
    char *data = message('e', 500000, 4);
    store_release(&seen.hold, true);
    expect_rc(belfry_send(other, "s", 1, NULL), 0);
    expect(eventually(load_acquire(&seen.held)));
    expect_rc(belfry_send(c, data, 500000, NULL), 0);
    belfry_close(c); /* does not wait */
    store_release(&seen.hold, false);
    expect(eventually(load_acquire(&seen.disconnected) == 1));
    expect_eq(seen.why, BELFRY_END_LEFT);
    expect_eq(load_acquire(&seen.handled), 1);
    expect_eq(arriving_bytes(), 0);
    free(data);
    end(other);
}

/* --- replies that nobody takes ---------------------------------------------------------------------------------------- */

struct ask {
    char what;
    uint32_t size;
};

static unsigned *asked; /* by the child: shared with it */

static void ask_and_stay(void *context)
{
    belfry_client *c;
    if (belfry_connect(&c, FIXTURE_SERVICE, NULL) != 0)
        _exit(1);
    for (int i = 0; i < 3; i++)
        belfry_send(c, context, sizeof(struct ask), NULL);
    add_release(asked, 1);
    for (;;)
        pause();
}

Test(parts, for_a_client_that_was_killed_are_freed_whatever_memory_they_are_in)
{
    static const uint32_t sizes[] = {5000, 100000, 2u << 20}; /* the arena's, malloc's, a map */
    prepare();
    server_fixture_start(&server);
    asked = mmap(NULL, sizeof *asked, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    expect(asked != MAP_FAILED);
    for (unsigned i = 0; i < 3; i++) {
        struct ask ask = {.what = 'l', .size = sizes[i]};
        unsigned before = load_acquire(&seen.handled);
        pid_t pid = fixture_child(ask_and_stay, &ask);
        expect(eventually(load_acquire(asked) == i + 1));
        expect(eventually(load_acquire(&seen.handled) > before)); /* the others wait until its outbox is empty */
        fixture_kill(pid);
        expect(eventually(load_acquire(&seen.disconnected) == i + 1));
        expect_eq(load_acquire(&seen.handled), before + 3);
        expect_eq(seen.why, BELFRY_END_DIED);
    }
    end(server_fixture_connect());
}

Test(parts, that_were_reserved_and_aborted_are_freed)
{
    static const uint32_t sizes[] = {5000, 100000, 2u << 20};
    belfry_client *c = begin();
    for (unsigned i = 0; i < 3; i++) {
        struct ask ask = {.what = 'a', .size = sizes[i]};
        belfry_message m;
        expect_rc(belfry_call(c, &ask, sizeof ask, &m, server_fixture_patience()), 0);
        expect_eq(m.size, 1);
        belfry_release(c, &m);
    }
    end(c);
}

Test(parts, of_a_reply_are_given_up_at_a_calls_deadline_and_the_next_is_not_taken_for_them)
{
    belfry_client *c = begin();
    unsigned timeouts = 0;
    for (unsigned ms = 1; ms <= 15; ms++) {
        struct ask ask = {.what = 'l', .size = MESSAGE_MAX};
        belfry_message m;
        int rc = belfry_call(c, &ask, sizeof ask, &m, belfry_in_ms(ms));
        expect(rc == 0 || rc == -ETIMEDOUT);
        belfry_release(c, &m);
        timeouts += rc == -ETIMEDOUT;
        expect_call(c, 'e', 50000, server_fixture_patience());
    }
    expect(timeouts > 0); /* 4 MiB in steps of a ring of 4 KiB take longer than a millisecond */
    end(c);
}

/* --- no memory for them --------------------------------------------------------------------------------------------- */

Test(parts, are_refused_when_too_much_is_arriving)
{
    prepare();
    server.options.whole_bytes_max = MESSAGE_MAX;
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect(), *other = server_fixture_connect();
    char *data = message('e', MESSAGE_MAX, 4);
    belfry_message m;
    expect_rc(belfry_send(c, data, MESSAGE_MAX, NULL), 0);
    while (arriving_bytes() < MESSAGE_MAX) /* what has arrived counts, not what is announced */
        expect_rc(belfry_receive(c, &m, 0), -ETIMEDOUT);
    expect_rc(belfry_call(other, data, 50000, &m, server_fixture_patience()), -ENOBUFS);
    expect_echo(other); /* its parts have been let pass */
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_filled(&m, BELFRY_REPLY, 'e', MESSAGE_MAX, 4);
    belfry_release(c, &m);
    expect_call(other, 'e', 50000, server_fixture_patience());
    expect_eq(server_fixture_counters().whole_refused, 1);
    free(data);
    belfry_close(other);
    end(c);
}

Test(parts, that_never_come_keep_no_memory_from_others)
{
    static const struct extension large = {.whole_bytes = MESSAGE_MAX, .whole_kind = BELFRY_REQUEST};
    belfry_client *idle[6];
    prepare();
    server.options.whole_bytes_max = 4 * MESSAGE_MAX;
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect();
    for (int i = 0; i < 6; i++) { /* they announce more than there may be, and send a byte of it */
        idle[i] = server_fixture_connect();
        send_part(idle[i], 1, &large, 1);
        bf_client_tell(idle[i], true);
    }
    expect(eventually(arriving_bytes() >= 6 << 20));
    for (int i = 0; i < 10; i++)
        expect_call(c, 'e', 1u << 20, server_fixture_patience());
    expect_eq(server_fixture_counters().whole_refused, 0);
    for (int i = 0; i < 6; i++)
        belfry_close(idle[i]);
    end(c);
}

Test(parts, take_turns_in_a_large_ring_too)
{
    prepare();
    server.options.ring_bytes = 8u << 20; /* all of them are there before the first is looked at */
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect(), *busy = server_fixture_connect(), *other = server_fixture_connect();
    belfry_message m;
    char *data = message('e', MESSAGE_MAX, 3);
    expect_echo(c);
    seen.sender = seen.id; /* whose handler ran last */
    store_release(&seen.hold, true);
    expect_rc(belfry_send(busy, "s", 1, NULL), 0);
    expect(eventually(load_acquire(&seen.held)));
    expect_rc(belfry_send(c, data, MESSAGE_MAX, NULL), 0);
    expect_eq(belfry_client_unsent_bytes(c), 0);
    for (int i = 0; i < 64; i++) /* more than are handled in a turn */
        expect_rc(belfry_send(other, "t", 1, NULL), 0);
    store_release(&seen.hold, false);
    for (int i = 0; i < 64; i++) {
        expect_rc(belfry_receive(other, &m, server_fixture_patience()), 0);
        belfry_release(other, &m);
    }
    expect(seen.step > 0 && seen.step <= 65536 + 2 * 65536); /* of the sender, between two turns of another */
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    belfry_release(c, &m);
    free(data);
    belfry_close(busy);
    belfry_close(other);
    end(c);
}

/* Small ones are held until less than a large message needs is left of the ring, but room for its first part, wherever. */
Test(parts, say_when_what_is_held_leaves_them_no_room)
{
    static belfry_message held[128];
    belfry_client *c = begin();
    belfry_message m;
    char *data = message('x', 60000, 6);
    unsigned count = 0;
    while (c->in.capacity - (c->in.position - c->in.published) >= c->in.capacity / 4 + 64) {
        expect_rc(belfry_call(c, "held", 4, &held[count], server_fixture_patience()), 0);
        count++;
    }
    expect_rc(belfry_push_to(server.server, seen.id, data, 60000), 0);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), BELFRY_ESTATE);
    expect_in(belfry_last_error(), "release");
    for (unsigned i = 0; i < count; i++) {
        expect(held[i].size == 4 && memcmp(held[i].data, "held", 4) == 0);
        belfry_release(c, &held[i]);
    }
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_filled(&m, BELFRY_PUSH, 'x', 60000, 6);
    belfry_release(c, &m);
    free(data);
    end(c);
}

/* --- a client that breaks the rules -------------------------------------------------------------------------------- */

static const struct extension none = {0};
static const struct extension whole = {.whole_bytes = 1000, .whole_kind = BELFRY_REQUEST};

static void no_first_part(belfry_client *c)
{
    send_part(c, 1, &none, 100);
}

static void another_id(belfry_client *c)
{
    send_part(c, 1, &whole, 100);
    send_part(c, 2, &none, 100);
}

static void more_than_it_said(belfry_client *c)
{
    send_part(c, 1, &whole, 600);
    send_part(c, 1, &none, 401);
}

static void two_first_parts(belfry_client *c)
{
    send_part(c, 1, &whole, 100);
    send_part(c, 2, &whole, 100);
}

static void an_empty_part(belfry_client *c)
{
    send_part(c, 1, &whole, 100);
    send_part(c, 1, &none, 0);
}

static void a_whole_of_nothing(belfry_client *c)
{
    send_part(c, 1, &(struct extension){.deadline_ns = 1}, 100);
}

static void a_kind_that_is_not_a_clients(belfry_client *c)
{
    send_part(c, 1, &(struct extension){.whole_bytes = 1000, .whole_kind = BELFRY_PUSH}, 100);
}

static void a_part_of_parts(belfry_client *c)
{
    send_part(c, 1, &(struct extension){.whole_bytes = 1000, .whole_kind = BELFRY_PART}, 100);
}

static void a_flag_that_there_is_not(belfry_client *c)
{
    void *data;
    send_part(c, 1, &whole, 100);
    expect_eq(ring_reserve(&c->out, 10, &data), 0);
    ring_commit(&c->out, BELFRY_PART, 0x80, 1, 10);
}

Test(parts, that_cannot_be_end_the_conn_and_nothing_else)
{
    static void (*const wrong[])(belfry_client * c) = {no_first_part,
                                                       another_id,
                                                       more_than_it_said,
                                                       two_first_parts,
                                                       an_empty_part,
                                                       a_whole_of_nothing,
                                                       a_kind_that_is_not_a_clients,
                                                       a_part_of_parts,
                                                       a_flag_that_there_is_not};
    belfry_client *neighbour = begin();
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        belfry_client *c = server_fixture_connect();
        belfry_message m;
        expect_echo(c);
        wrong[i](c);
        bf_client_tell(c, true);
        expect_rc(belfry_receive(c, &m, server_fixture_patience()), BELFRY_EPROTO);
        expect(eventually(load_acquire(&seen.disconnected) == i + 1));
        expect_eq(seen.why, BELFRY_END_PEER_FAULT);
        expect_eq(arriving_bytes(), 0);
        expect_echo(neighbour);
        belfry_close(c);
    }
    end(neighbour);
}

Test(parts, of_a_message_that_is_too_large_are_let_pass)
{
    belfry_client *c = begin();
    belfry_message m;
    static const struct extension too_large = {.whole_bytes = MESSAGE_MAX + 1, .whole_kind = BELFRY_REQUEST};
    static const struct extension absurd = {.whole_bytes = UINT64_MAX, .whole_kind = BELFRY_REQUEST};
    send_part(c, 1, &too_large, 100);
    bf_client_tell(c, true);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.status, BELFRY_ETOOBIG);
    belfry_release(c, &m);
    for (uint64_t sent = 100; sent < MESSAGE_MAX + 1;) {
        size_t part = bf_min(900, MESSAGE_MAX + 1 - sent);
        if (!ring_has_room(&c->out, part)) {
            bf_client_tell(c, true);
            fixture_pause();
            continue;
        }
        send_part(c, 1, &none, part);
        sent += part;
    }
    bf_client_tell(c, true);
    c->next_id = 10;
    expect_echo(c);
    send_part(c, 1, &absurd, 100);
    bf_client_tell(c, true);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.status, BELFRY_ETOOBIG);
    belfry_release(c, &m);
    expect_eq(arriving_bytes(), 0);
    end(c);
}

/* SPDX-License-Identifier: MIT */
/*
 * Tests of server/ticket.c: requests whose answer comes later, through a real server and real clients.
 *
 * The handler does what the first letter of a request says and remembers the ticket; the test is the ticket's holder.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/order.h"
#include "client/client.h"
#include "expect.h"
#include "server/conn.h"
#include "server_fixture.h"

#define TICKETS 256

static struct server_fixture server;

static struct {
    belfry_ticket ticket[TICKETS];
    belfry_message copy[TICKETS];
    unsigned deferred; /* tickets so far */
    unsigned cancelled, connected, disconnected, handled;
    int why; /* of the last on_cancel */
    uint64_t cancelled_request;
    int64_t deadline_ns;
    int rc[8];
} seen;

static int on_connect(belfry_conn *conn, void *user)
{
    (void)conn;
    (void)user;
    add_release(&seen.connected, 1);
    return 0;
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    (void)conn;
    (void)why;
    (void)user;
    add_release(&seen.disconnected, 1);
}

static void on_cancel(belfry_conn *conn, const belfry_ticket *t, int why, void *user)
{
    (void)user;
    expect(belfry_conn_get_id(conn) == t->conn);
    seen.why = why;
    seen.cancelled_request = t->request;
    add_release(&seen.cancelled, 1);
}

static void defer(belfry_conn *conn, const belfry_message *m)
{
    unsigned i = seen.deferred;
    seen.rc[0] = belfry_defer(conn, m, &seen.ticket[i], &seen.copy[i]);
    seen.rc[1] = belfry_defer(conn, m, &seen.ticket[i + 1], NULL);
    seen.rc[2] = belfry_reply(conn, m, "x", 1);
    add_release(&seen.deferred, 1);
}

/* d: defer; s: a stream of three; m: one reply, then defer; else: echo */
static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    char what = m->size > 0 ? *(const char *)m->data : 'e';
    seen.deadline_ns = belfry_message_deadline(m);
    if (m->kind != BELFRY_REQUEST) {
        seen.rc[0] = belfry_defer(conn, m, &seen.ticket[0], NULL);
    } else if (what == 'd') {
        defer(conn, m);
    } else if (what == 's') {
        belfry_reply_more(conn, m, "one", 3);
        belfry_reply_more(conn, m, "two", 3);
        belfry_reply(conn, m, "three", 5);
        seen.rc[0] = belfry_reply_more(conn, m, "four", 4);
    } else if (what == 'm') {
        belfry_reply_more(conn, m, "at once", 7);
        defer(conn, m);
    } else {
        belfry_reply(conn, m, m->data, m->size);
    }
    add_release(&seen.handled, 1);
}

static void prepare(void)
{
    server_fixture_init(&server);
    server.options.on_connect = on_connect;
    server.options.on_disconnect = on_disconnect;
    server.options.on_message = on_message;
    server.options.on_cancel = on_cancel;
}

static belfry_client *begin(void)
{
    prepare();
    server_fixture_start(&server);
    return server_fixture_connect();
}

static void end(belfry_client *c)
{
    belfry_close(c);
    server_fixture_stop(&server);
    for (unsigned i = 0; i < TICKETS; i++)
        belfry_message_free(&seen.copy[i]);
}

/* Send a request that the handler defers. Its ticket is there on return. */
static uint64_t ask(belfry_client *c, const char *text)
{
    uint64_t id;
    unsigned before = load_acquire(&seen.deferred);
    expect_rc(belfry_send(c, text, strlen(text), &id), 0);
    expect(eventually(load_acquire(&seen.deferred) == before + 1));
    return id;
}

static void expect_answer(belfry_client *c, uint64_t id, uint16_t flags, const char *wanted)
{
    belfry_message m;
    expect_rc(belfry_await(c, id, &m, server_fixture_patience()), 0);
    expect_eq(m.kind, BELFRY_REPLY);
    expect_eq(m.id, id);
    expect_eq(m.flags, flags);
    expect_eq(m.size, strlen(wanted));
    expect(memcmp(m.data, wanted, m.size) == 0);
    belfry_release(c, &m);
}

static void expect_echo(belfry_client *c)
{
    belfry_message m;
    expect_rc(belfry_call(c, "e", 1, &m, server_fixture_patience()), 0);
    belfry_release(c, &m);
}

/* The client does not get anything more: an echo is the next that comes. */
static void expect_silence(belfry_client *c)
{
    uint64_t id;
    belfry_message m;
    expect_rc(belfry_send(c, "e", 1, &id), 0);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.id, id);
    belfry_release(c, &m);
}

static int complete(unsigned i, const char *text)
{
    return belfry_complete(server.server, &seen.ticket[i], text, strlen(text));
}

TestSuite(ticket, .timeout = 120);

/* --- an answer that comes later ------------------------------------------------------------------------------------ */

Test(ticket, is_answered_from_another_thread)
{
    belfry_client *c = begin();
    uint64_t id = ask(c, "defer this");
    expect_eq(seen.rc[0], 0);
    expect_eq(seen.rc[1], BELFRY_EANSWERED); /* it is deferred already, and may not be answered beside that */
    expect_eq(seen.rc[2], BELFRY_EANSWERED);
    expect_eq(seen.ticket[0].request, id);
    expect_eq(seen.ticket[0].deadline_ns, BELFRY_FOREVER);
    expect_eq(seen.copy[0].size, 10);
    expect(memcmp(seen.copy[0].data, "defer this", 10) == 0);
    expect_echo(c); /* others are served meanwhile */
    expect_rc(belfry_ticket_status(server.server, &seen.ticket[0]), 0);
    expect_rc(complete(0, "later"), 0);
    expect_answer(c, id, 0, "later");
    expect_eq(server_fixture_counters().unanswered, 0);
    expect_eq(server_fixture_counters().deferred, 1);
    end(c);
}

Test(ticket, may_be_answered_in_any_order)
{
    belfry_client *c = begin();
    uint64_t first = ask(c, "d"), second = ask(c, "d"), third = ask(c, "d");
    expect_rc(complete(2, "third"), 0);
    expect_rc(complete(0, "first"), 0);
    expect_rc(belfry_complete_failed(server.server, &seen.ticket[1], -EIO, "second"), 0);
    expect_answer(c, first, 0, "first");
    belfry_message m;
    expect_rc(belfry_await(c, second, &m, server_fixture_patience()), -EIO);
    expect_in(belfry_last_error(), "second");
    expect_answer(c, third, 0, "third");
    end(c);
}

Test(ticket, is_worth_nothing_once_it_has_been_ended)
{
    belfry_client *c = begin();
    uint64_t id = ask(c, "d");
    expect_rc(complete(0, "once"), 0);
    for (int i = 0; i < 2; i++) {
        expect_rc(complete(0, "twice"), BELFRY_EANSWERED);
        expect_rc(belfry_complete_failed(server.server, &seen.ticket[0], -EIO, NULL), BELFRY_EANSWERED);
        expect_rc(belfry_complete_more(server.server, &seen.ticket[0], "x", 1), BELFRY_EANSWERED);
        expect_rc(belfry_ticket_status(server.server, &seen.ticket[0]), BELFRY_EANSWERED);
        expect_rc(belfry_ticket_wait(server.server, &seen.ticket[0], BELFRY_FOREVER), BELFRY_EANSWERED);
        if (i == 0)
            expect_answer(c, id, 0, "once");
    }
    for (int i = 0; i < 600; i++) { /* its record has other tenants now, more than once round the table */
        id = ask(c, "d");
        expect_rc(complete(0, "not mine"), BELFRY_EANSWERED);
        expect_rc(belfry_complete(server.server, &seen.ticket[seen.deferred - 1], "mine", 4), 0);
        expect_answer(c, id, 0, "mine");
        belfry_message_free(&seen.copy[seen.deferred - 1]);
        seen.deferred = 1;
    }
    end(c);
}

Test(ticket, says_what_is_wrong_with_an_answer_and_stays_open)
{
    static char large[2000];
    belfry_client *c = begin();
    uint64_t id = ask(c, "d");
    belfry_ticket strange = seen.ticket[0];
    expect_rc(belfry_complete(server.server, &seen.ticket[0], large, sizeof large), BELFRY_ETOOBIG);
    expect_rc(belfry_complete_more(server.server, &seen.ticket[0], large, sizeof large), BELFRY_ETOOBIG);
    expect_rc(belfry_complete_failed(server.server, &seen.ticket[0], 0, NULL), BELFRY_EOPTION);
    strange.place = 77777;
    expect_rc(belfry_complete(server.server, &strange, "x", 1), BELFRY_EOPTION);
    strange.place = TICKETS_PER_CHUNK * 3; /* a record that was never made */
    expect_rc(belfry_ticket_status(server.server, &strange), BELFRY_EOPTION);
    strange = seen.ticket[0];
    strange.conn = UINT64_MAX;
    expect_rc(belfry_complete(server.server, &strange, "x", 1), BELFRY_EOPTION);
    expect_rc(complete(0, "right"), 0);
    expect_answer(c, id, 0, "right");
    end(c);
}

Test(ticket, is_not_given_for_what_wants_no_answer)
{
    belfry_client *c = begin();
    expect_rc(belfry_send_one_way(c, "d", 1), 0);
    expect(eventually(load_acquire(&seen.handled) == 1));
    expect_eq(seen.rc[0], BELFRY_EANSWERED);
    end(c);
}

/* --- several replies ----------------------------------------------------------------------------------------------- */

Test(ticket, streams_replies_from_a_handler)
{
    belfry_client *c = begin();
    belfry_message m;
    expect_rc(belfry_call(c, "s", 1, &m, server_fixture_patience()), 0);
    expect_eq(m.flags, BELFRY_MORE);
    expect(m.size == 3 && memcmp(m.data, "one", 3) == 0);
    uint64_t id = m.id;
    belfry_release(c, &m);
    expect_answer(c, id, BELFRY_MORE, "two");
    expect_answer(c, id, 0, "three");
    expect(eventually(load_acquire(&seen.handled) ==
                      1)); /* it has seen the third before the handler is told of a fourth */
    expect_eq(seen.rc[0], BELFRY_EANSWERED);
    expect_silence(c);
    end(c);
}

Test(ticket, streams_replies_from_another_thread_after_the_first)
{
    belfry_client *c = begin();
    uint64_t id = ask(c, "more");
    for (int i = 0; i < 100; i++)
        expect_rc(belfry_complete_more(server.server, &seen.ticket[0], &i, sizeof i), 0);
    expect_rc(complete(0, "last"), 0);
    expect_echo(c); /* what comes meanwhile is kept apart */
    expect_answer(c, id, BELFRY_MORE, "at once");
    for (int i = 0; i < 100; i++) {
        belfry_message m;
        expect_rc(belfry_await(c, id, &m, server_fixture_patience()), 0);
        expect_eq(m.flags, BELFRY_MORE);
        expect(m.size == sizeof i && memcmp(m.data, &i, sizeof i) == 0);
        belfry_release(c, &m);
    }
    expect_answer(c, id, 0, "last");
    expect_silence(c);
    end(c);
}

#define STREAM 5000

static struct {
    unsigned said, backlogs;
    int rc;
} stream;

static void *say_many(void *context)
{
    char data[200];
    (void)context;
    for (unsigned i = 0; i < STREAM; i++) {
        memset(data, (int)i, sizeof data);
        int rc;
        while ((rc = belfry_complete_more(server.server, &seen.ticket[0], data, sizeof data)) == BELFRY_EBACKLOG) {
            add_release(&stream.backlogs, 1);
            rc = belfry_ticket_wait(server.server, &seen.ticket[0], server_fixture_patience());
            if (rc < 0)
                break;
        }
        stream.rc = rc;
        if (rc < 0)
            break;
        add_release(&stream.said, 1);
    }
    if (stream.rc == 0)
        stream.rc = belfry_complete(server.server, &seen.ticket[0], "end", 3);
    return NULL;
}

static pthread_t start_stream(void)
{
    pthread_t thread;
    expect_eq(pthread_create(&thread, NULL, say_many, NULL), 0);
    return thread;
}

Test(ticket, holds_a_stream_back_when_its_client_reads_slowly)
{
    prepare();
    server.options.outbox_bytes_max = 8192;
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect(), *neighbour = server_fixture_connect();
    uint64_t id = ask(c, "d");
    pthread_t thread = start_stream();
    /* its share of the outbox is full; how much the ring takes beside that, depends on where the slot's ring begins */
    expect(eventually(load_acquire(&stream.backlogs) > 0));
    unsigned said;
    do {
        said = load_acquire(&stream.said);
        expect_echo(neighbour);
        expect(server_fixture_counters().outbox_bytes <= 8192 + 4096);
    } while (load_acquire(&stream.said) != said || load_acquire(&stream.backlogs) == 0);
    expect(said < 100);
    for (unsigned i = 0; i < STREAM; i++) {
        belfry_message m;
        expect_rc(belfry_await(c, id, &m, server_fixture_patience()), 0);
        expect(m.size == 200 && *(const uint8_t *)m.data == (uint8_t)i && m.flags == BELFRY_MORE);
        belfry_release(c, &m);
    }
    expect_answer(c, id, 0, "end");
    pthread_join(thread, NULL);
    expect_eq(stream.rc, 0);
    expect(stream.backlogs > 10);
    expect_eq(server_fixture_counters().outbox_bytes, 0);
    belfry_close(neighbour);
    end(c);
}

Test(ticket, wakes_a_held_back_stream_when_its_client_cancels_or_dies)
{
    for (int round = 0; round < 2; round++) {
        memset(&seen, 0, sizeof seen);
        memset(&stream, 0, sizeof stream);
        belfry_client *c = begin();
        uint64_t id = ask(c, "d");
        pthread_t thread = start_stream();
        expect(eventually(load_acquire(&stream.backlogs) > 0));
        if (round == 0) {
            expect_rc(belfry_cancel(c, id), 0);
            while (load_acquire(&seen.cancelled) == 0) { /* the server stands before the full ring: we read on */
                belfry_message m;
                expect_rc(belfry_receive(c, &m, belfry_in_ms(1)), -ETIMEDOUT);
            }
        } else {
            belfry_close(c);
            c = NULL;
        }
        pthread_join(thread, NULL);
        expect_eq(stream.rc, round == 0 ? -ECANCELED : BELFRY_EGONE);
        expect_rc(complete(0, "end"), stream.rc); /* it still wants to be ended */
        if (c != NULL)
            expect_silence(c);
        end(c);
    }
}

/* --- nobody waits any more ----------------------------------------------------------------------------------------- */

Test(ticket, hears_that_its_client_has_cancelled)
{
    belfry_client *c = begin();
    uint64_t id = ask(c, "d"), other = ask(c, "d");
    expect_rc(belfry_cancel(c, id), 0);
    expect_rc(belfry_cancel(c, id), 0);
    expect(eventually(load_acquire(&seen.cancelled) == 1));
    expect_eq(seen.why, -ECANCELED);
    expect_eq(seen.cancelled_request, id);
    expect_rc(belfry_ticket_status(server.server, &seen.ticket[0]), -ECANCELED);
    expect_rc(belfry_complete_more(server.server, &seen.ticket[0], "x", 1), -ECANCELED);
    expect_rc(complete(0, "late"), -ECANCELED);
    expect_rc(complete(0, "late"), BELFRY_EANSWERED);
    expect_rc(complete(1, "other"), 0);
    expect_answer(c, other, 0, "other");
    expect_silence(c);
    expect_eq(load_acquire(&seen.cancelled), 1);
    expect_eq(c->late_count, 0); /* the echo has come */
    expect_eq(belfry_client_late_replies(c), 0);
    expect_eq(server_fixture_counters().cancels, 1);
    end(c);
}

Test(ticket, drops_an_answer_that_was_on_its_way_when_its_client_cancelled)
{
    for (int round = 0; round < 2000; round++) {
        memset(&seen, 0, sizeof seen);
        belfry_client *c = round == 0 ? begin() : server_fixture_connect();
        uint64_t id = ask(c, "d");
        expect_rc(belfry_cancel(c, id), 0);
        int rc = complete(0, "late");
        expect(rc == 0 || rc == -ECANCELED);
        expect_silence(c);
        belfry_message_free(&seen.copy[0]);
        if (round == 1999)
            end(c);
        else
            belfry_close(c);
    }
}

Test(ticket, may_be_cancelled_after_the_answer)
{
    belfry_client *c = begin();
    uint64_t id = ask(c, "d");
    expect_rc(complete(0, "in time"), 0);
    expect_answer(c, id, 0, "in time");
    expect_rc(belfry_cancel(c, id), 0);
    expect_silence(c);
    expect_eq(c->late_count, 0);
    expect_rc(belfry_cancel(c, 0), -ENOENT);
    expect_rc(belfry_cancel(c, id + 100), -ENOENT);
    expect_eq(load_acquire(&seen.cancelled), 0);
    end(c);
}

Test(ticket, drops_what_was_kept_of_a_cancelled_request)
{
    belfry_client *c = begin();
    uint64_t id = ask(c, "d");
    expect_rc(belfry_complete_more(server.server, &seen.ticket[0], "one", 3), 0);
    expect_rc(belfry_complete_more(server.server, &seen.ticket[0], "two", 3), 0);
    expect(eventually(server_fixture_counters().messages_out == 2));
    expect_echo(c); /* keeps both */
    expect_rc(belfry_cancel(c, id), 0);
    expect_silence(c);
    expect_eq(belfry_client_late_replies(c), 2);
    expect_rc(complete(0, "three"), -ECANCELED);
    end(c);
}

Test(ticket, hears_that_its_conn_is_over_and_never_answers_the_next_one)
{
    prepare();
    server.options.max_slots = server.options.warm_pool = 1;
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect();
    ask(c, "d");
    belfry_close(c);
    expect(eventually(load_acquire(&seen.disconnected) == 1));
    expect_eq(seen.cancelled, 1);
    expect_eq(seen.why, BELFRY_EGONE);
    c = server_fixture_connect();
    uint64_t id = ask(c, "d");
    expect_eq(id, seen.ticket[0].request); /* the same slot, the same number */
    expect_rc(belfry_ticket_status(server.server, &seen.ticket[0]), BELFRY_EGONE);
    expect_rc(complete(0, "not for you"), BELFRY_EGONE);
    expect_rc(complete(1, "for you"), 0);
    expect_answer(c, id, 0, "for you");
    expect_silence(c);
    end(c);
}

Test(ticket, drops_an_answer_that_was_on_its_way_when_the_conn_ended)
{
    for (int round = 0; round < 200; round++) {
        memset(&seen, 0, sizeof seen);
        belfry_client *c = round == 0 ? begin() : server_fixture_connect();
        ask(c, "d");
        belfry_close(c);
        int rc = complete(0, "late");
        expect(rc == 0 || rc == BELFRY_EGONE);
        expect(eventually(load_acquire(&seen.disconnected) == 1));
        belfry_message_free(&seen.copy[0]);
    }
    end(server_fixture_connect());
}

Test(ticket, survives_the_server_and_its_next_start)
{
    belfry_client *c = begin();
    ask(c, "d");
    ask(c, "d");
    belfry_server_stop(server.server);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(seen.cancelled, 2);
    expect_rc(belfry_ticket_status(server.server, &seen.ticket[0]), BELFRY_EGONE);
    expect_rc(complete(0, "late"), BELFRY_EGONE);
    belfry_close(c);
    expect_rc(belfry_server_start(server.server), 0);
    expect_rc(complete(0, "late"), BELFRY_EANSWERED);
    expect_rc(complete(1, "late"), BELFRY_EANSWERED);
    c = server_fixture_connect();
    uint64_t id = ask(c, "d");
    expect_rc(complete(0, "late"), BELFRY_EANSWERED);
    expect_rc(complete(2, "now"), 0);
    expect_answer(c, id, 0, "now");
    end(c);
}

/* --- deadlines ----------------------------------------------------------------------------------------------------- */

Test(ticket, shows_the_handler_until_when_the_client_waits)
{
    belfry_client *c = begin();
    belfry_message m;
    int64_t deadline = server_fixture_patience();
    expect_rc(belfry_call(c, "e and more", 10, &m, deadline), 0);
    expect(m.size == 10 && memcmp(m.data, "e and more", 10) == 0);
    belfry_release(c, &m);
    expect_eq(seen.deadline_ns, deadline);
    expect_rc(belfry_call(c, "", 0, &m, BELFRY_FOREVER), 0);
    expect_eq(m.size, 0);
    belfry_release(c, &m);
    expect_eq(seen.deadline_ns, BELFRY_FOREVER);
    uint64_t id;
    expect_rc(belfry_send_until(c, "d", 1, deadline, &id), 0);
    expect(eventually(load_acquire(&seen.deferred) == 1));
    expect_eq(seen.ticket[0].deadline_ns, deadline);
    expect_eq(belfry_message_deadline(&seen.copy[0]), deadline);
    expect_rc(complete(0, "x"), 0);
    expect_answer(c, id, 0, "x");
    end(c);
}

Test(ticket, hears_that_a_call_has_timed_out)
{
    belfry_client *c = begin();
    belfry_message m;
    expect_rc(belfry_call(c, "d", 1, &m, belfry_in_ms(50)), -ETIMEDOUT);
    expect(eventually(load_acquire(&seen.cancelled) == 1));
    expect(seen.ticket[0].deadline_ns <= belfry_now_ns());
    expect_rc(complete(0, "late"), -ECANCELED);
    expect_silence(c);
    end(c);
}

Test(ticket, leaves_a_request_whose_waiter_only_looked)
{
    belfry_client *c = begin();
    belfry_message m;
    uint64_t id = ask(c, "d");
    expect_rc(belfry_await(c, id, &m, belfry_in_ms(10)), -ETIMEDOUT);
    expect_rc(belfry_await(c, id + 1, &m, 0), -ENOENT);
    expect_rc(belfry_await(c, 0, &m, 0), -ENOENT);
    expect_rc(complete(0, "still wanted"), 0);
    expect_answer(c, id, 0, "still wanted");
    end(c);
}

Test(ticket, is_not_needed_for_a_request_that_came_too_late)
{
    belfry_client *c = begin();
    uint64_t id;
    belfry_message m;
    expect_rc(belfry_send_until(c, "e", 1, 1, &id), 0);
    expect_rc(belfry_await(c, id, &m, server_fixture_patience()), -ETIMEDOUT);
    expect_in(belfry_last_error(), "failed the request");
    expect_eq(load_acquire(&seen.handled), 0);
    expect_eq(server_fixture_counters().expired, 1);
    end(c);
}

Test(ticket, may_be_wanted_for_a_request_that_came_too_late)
{
    prepare();
    server.options.skip_expired = false;
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect();
    uint64_t id;
    expect_rc(belfry_send_until(c, "e", 1, 1, &id), 0);
    expect_answer(c, id, 0, "e");
    expect_eq(seen.deadline_ns, 1);
    end(c);
}

/* --- how many ------------------------------------------------------------------------------------------------------ */

Test(ticket, reads_no_further_request_of_a_conn_that_has_as_many_as_it_may)
{
    prepare();
    server.options.deferred_max = 3;
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect(), *neighbour = server_fixture_connect();
    uint64_t id[6];
    for (int i = 0; i < 6; i++)
        expect_rc(belfry_send(c, "d", 1, &id[i]), 0);
    expect(eventually(load_acquire(&seen.deferred) == 3));
    for (int i = 0; i < 100; i++)
        expect_echo(neighbour);
    expect_eq(load_acquire(&seen.deferred), 3);
    expect_rc(complete(1, "one"), 0);
    expect_answer(c, id[1], 0, "one");
    expect(eventually(load_acquire(&seen.deferred) == 4));
    for (int i = 0; i < 100; i++)
        expect_echo(neighbour);
    expect_eq(load_acquire(&seen.deferred), 4);
    expect_rc(complete(0, "zero"), 0);
    expect_rc(complete(2, "two"), 0);
    expect(eventually(load_acquire(&seen.deferred) == 6));
    belfry_close(neighbour);
    end(c);
}

Test(ticket, hears_of_a_cancellation_although_nothing_else_is_read)
{
    prepare();
    server.options.deferred_max = 1;
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect();
    uint64_t id = ask(c, "d");
    expect_rc(belfry_cancel(c, id), 0);
    expect(eventually(load_acquire(&seen.cancelled) == 1));
    expect_rc(belfry_send(c, "d", 1, &id), 0);
    belfry_message m;
    expect_rc(belfry_receive(c, &m, belfry_in_ms(20)), -ETIMEDOUT);
    expect_eq(load_acquire(&seen.deferred), 1); /* its holder still works on it, cancelled or not */
    expect_rc(complete(0, "x"), -ECANCELED);
    expect(eventually(load_acquire(&seen.deferred) == 2));
    expect_rc(complete(1, "y"), 0);
    expect_answer(c, id, 0, "y");
    end(c);
}

Test(ticket, handles_what_a_dead_client_left_although_it_had_as_many_as_it_may)
{
    prepare();
    server.options.deferred_max = 1;
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect();
    ask(c, "d");
    for (int i = 0; i < 5; i++)
        expect_rc(belfry_send(c, "e", 1, NULL), 0);
    belfry_close(c);
    expect(eventually(load_acquire(&seen.disconnected) == 1));
    expect_eq(load_acquire(&seen.handled), 6);
    expect_rc(complete(0, "x"), BELFRY_EGONE);
    end(NULL);
}

/* --- many threads -------------------------------------------------------------------------------------------------- */

#define ROUNDS 20000

static void *answer_all(void *context)
{
    unsigned step = (unsigned)(uintptr_t)context;
    for (unsigned i = step; i < ROUNDS; i += 2) {
        while (load_acquire(&seen.deferred) <= i)
            fixture_pause();
        expect(belfry_complete(server.server, &seen.ticket[i % TICKETS], &i, sizeof i) == 0);
        belfry_message_free(&seen.copy[i % TICKETS]);
    }
    return NULL;
}

static void defer_in_turn(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    unsigned i = seen.deferred % TICKETS;
    seen.rc[0] |= belfry_defer(conn, m, &seen.ticket[i], &seen.copy[i]);
    add_release(&seen.deferred, 1);
}

Test(ticket, is_answered_by_two_threads_while_others_are_given)
{
    pthread_t threads[2];
    prepare();
    server.options.on_message = defer_in_turn;
    server.options.deferred_max = 32;
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect();
    for (uintptr_t i = 0; i < 2; i++)
        expect_eq(pthread_create(&threads[i], NULL, answer_all, (void *)i), 0);
    for (unsigned sent = 0, got = 0; got < ROUNDS;) {
        belfry_message m;
        while (sent < ROUNDS && sent < got + 64 && belfry_send(c, &sent, sizeof sent, NULL) == 0)
            sent++;
        int rc = belfry_receive(c, &m, server_fixture_patience());
        if (rc == -EAGAIN)
            continue;
        expect_rc(rc, 0);
        unsigned answer;
        expect_eq(m.size, sizeof answer);
        memcpy(&answer, m.data, sizeof answer);
        expect_eq(answer + 1, m.id); /* each request its own answer */
        belfry_release(c, &m);
        got++;
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    expect_eq(seen.rc[0], 0);
    belfry_close(c);
    server_fixture_stop(&server);
}

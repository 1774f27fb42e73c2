/* SPDX-License-Identifier: MIT */
/*
 * Tests of server/drain.c: a server that is shut down while clients are connected, busy, idle, or do not read.
 *
 * The handler does what the first letter of a request says.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "base/order.h"
#include "client/client.h"
#include "expect.h"
#include "server_fixture.h"

#define LARGE 100000u

static struct server_fixture server;

static struct {
    belfry_ticket ticket;
    unsigned deferred, handled, cancelled, disconnected;
    unsigned ends[BELFRY_END_COUNT];
    bool held; /* the handler of "wait" waits for `go` */
    bool go;
} seen;

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    (void)conn;
    (void)user;
    add_release(&seen.ends[why], 1);
    add_release(&seen.disconnected, 1);
}

static void on_cancel(belfry_conn *conn, const belfry_ticket *t, int why, void *user)
{
    (void)conn;
    (void)t;
    (void)user;
    if (why == BELFRY_EGONE)
        add_release(&seen.cancelled, 1);
}

/* d: defer; w: wait until the test says go, then echo; p: push until it is refused; else: echo */
static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    char what = m->size > 0 ? *(const char *)m->data : 'e';
    char text[500] = "p";
    (void)user;
    if (what == 'd' && belfry_defer(conn, m, &seen.ticket, NULL) == 0) {
        add_release(&seen.deferred, 1);
    } else {
        if (what == 'w') {
            store_release(&seen.held, true);
            while (!load_acquire(&seen.go))
                fixture_pause();
        }
        while (what == 'p' && belfry_push(conn, text, sizeof text) == 0)
            ;
        if (m->kind == BELFRY_REQUEST)
            belfry_reply(conn, m, m->data, m->size);
    }
    add_release(&seen.handled, 1);
}

static void begin(uint32_t ring_bytes)
{
    server_fixture_init(&server);
    server.options.on_message = on_message;
    server.options.on_cancel = on_cancel;
    server.options.on_disconnect = on_disconnect;
    server.options.ring_bytes = ring_bytes;
    server.options.message_bytes_max = 1u << 20;
    server.options.outbox_bytes_max = 1u << 20;
    server_fixture_start(&server);
}

static void end(void)
{
    server_fixture_stop(&server);
}

static void drain(int64_t deadline)
{
    expect_rc(belfry_drain(server.server, deadline), 0);
}

static void expect_echo(belfry_client *c)
{
    belfry_message m;
    expect_rc(belfry_call(c, "e", 1, &m, server_fixture_patience()), 0);
    belfry_release(c, &m);
}

static void expect_answer(belfry_client *c, uint64_t id, size_t size)
{
    belfry_message m;
    expect_rc(belfry_await(c, id, &m, server_fixture_patience()), 0);
    expect_eq(m.size, size);
    belfry_release(c, &m);
}

static void expect_end(belfry_client *c, enum belfry_end why)
{
    belfry_message m;
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), BELFRY_EGONE);
    expect_in(belfry_last_error(), belfry_end_text(why));
}

static uint64_t send(belfry_client *c, const char *text)
{
    uint64_t id;
    expect_rc(belfry_send(c, text, strlen(text), &id), 0);
    return id;
}

TestSuite(drain, .timeout = 120);

Test(drain, ends_idle_conns_at_once_and_then_the_server)
{
    begin(4096);
    belfry_client *a = server_fixture_connect(), *b = server_fixture_connect();
    expect_echo(a);
    expect_echo(b);
    drain(BELFRY_FOREVER);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(seen.ends[BELFRY_END_DRAINED], 2);
    expect_end(a, BELFRY_END_DRAINED);
    expect_end(b, BELFRY_END_DRAINED);
    expect_rc(belfry_send(a, "x", 1, NULL), BELFRY_EGONE);
    belfry_close(a);
    belfry_close(b);
    end();
}

Test(drain, of_a_server_without_clients_ends_it)
{
    begin(4096);
    drain(BELFRY_FOREVER);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_rc(belfry_drain(server.server, 0), BELFRY_ESTATE);
    expect_rc(belfry_server_start(server.server), 0); /* and it may be started again */
    belfry_client *c = server_fixture_connect();
    expect_echo(c);
    belfry_close(c);
    end();
}

Test(drain, is_refused_before_the_start)
{
    server_fixture_init(&server);
    expect_rc(belfry_server_create(&server.server, &server.options), 0);
    expect_rc(belfry_drain(server.server, 0), BELFRY_ESTATE);
    server_fixture_stop(&server);
}

/* What has been sent by then is handled, although the shard is busy with the first of it. */
Test(drain, answers_all_that_is_in_the_ring)
{
    enum { REQUESTS = 40 };
    uint64_t id[REQUESTS];
    begin(4096);
    belfry_client *c = server_fixture_connect();
    expect_echo(c);
    id[0] = send(c, "wait");
    expect(eventually(load_acquire(&seen.held)));
    for (int i = 1; i < REQUESTS; i++)
        id[i] = send(c, "echo");
    drain(BELFRY_FOREVER);
    store_release(&seen.go, true);
    for (int i = 0; i < REQUESTS; i++)
        expect_answer(c, id[i], 4);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(seen.handled, REQUESTS + 1);
    expect_eq(seen.ends[BELFRY_END_DRAINED], 1);
    expect_end(c, BELFRY_END_DRAINED);
    belfry_close(c);
    end();
}

Test(drain, waits_for_what_is_deferred)
{
    begin(4096);
    belfry_client *c = server_fixture_connect(), *idle = server_fixture_connect();
    expect_echo(idle);
    uint64_t id = send(c, "d");
    expect(eventually(load_acquire(&seen.deferred) == 1));
    drain(BELFRY_FOREVER);
    expect_end(idle, BELFRY_END_DRAINED);
    uint64_t second = send(c, "e"); /* its conn is still read */
    expect_answer(c, second, 1);
    expect_rc(belfry_complete(server.server, &seen.ticket, "later", 5), 0);
    expect_answer(c, id, 5);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_end(c, BELFRY_END_DRAINED);
    expect_eq(seen.ends[BELFRY_END_DRAINED], 2);
    belfry_close(c);
    belfry_close(idle);
    end();
}

Test(drain, does_not_wait_for_what_its_client_has_cancelled)
{
    begin(4096);
    belfry_client *c = server_fixture_connect();
    uint64_t id = send(c, "d");
    expect(eventually(load_acquire(&seen.deferred) == 1));
    drain(BELFRY_FOREVER);
    expect_rc(belfry_cancel(c, id), 0);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(seen.ends[BELFRY_END_DRAINED], 1);
    expect(belfry_complete(server.server, &seen.ticket, "late", 4) < 0);
    belfry_close(c);
    end();
}

Test(drain, breaks_off_at_the_deadline_what_is_left)
{
    begin(4096);
    belfry_client *c = server_fixture_connect();
    uint64_t id = send(c, "d");
    expect(eventually(load_acquire(&seen.deferred) == 1));
    drain(belfry_in_ms(50));
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(seen.cancelled, 1);
    expect_eq(seen.ends[BELFRY_END_STOPPED], 1);
    expect_rc(belfry_complete(server.server, &seen.ticket, "late", 4), BELFRY_EGONE);
    belfry_message m;
    expect_rc(belfry_await(c, id, &m, server_fixture_patience()), BELFRY_EGONE);
    expect(!belfry_client_never_read(c, id));
    belfry_close(c);
    end();
}

Test(drain, takes_another_deadline_and_a_stop)
{
    begin(4096);
    belfry_client *c = server_fixture_connect();
    send(c, "d");
    expect(eventually(load_acquire(&seen.deferred) == 1));
    drain(BELFRY_FOREVER);
    drain(belfry_in_ms(600000));
    drain(0);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(seen.ends[BELFRY_END_STOPPED], 1);
    belfry_close(c);
    seen.deferred = 0;
    expect_rc(belfry_server_start(server.server), 0);
    c = server_fixture_connect();
    send(c, "d");
    expect(eventually(load_acquire(&seen.deferred) == 1));
    drain(BELFRY_FOREVER);
    belfry_server_stop(server.server);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(seen.ends[BELFRY_END_STOPPED], 2);
    belfry_close(c);
    end();
}

/* One that came before the door was shut is refused a little later. */
static bool no_newcomers(void)
{
    belfry_client *late;
    int rc = belfry_connect(&late, FIXTURE_SERVICE, NULL);
    belfry_close(late);
    return rc == BELFRY_ENOSERVICE;
}

Test(drain, waits_until_an_outbox_is_empty)
{
    begin(4096);
    belfry_client *c = server_fixture_connect();
    belfry_message m;
    uint64_t id = send(c, "p"), pushes = 0;
    int rc;
    expect(eventually(load_acquire(&seen.handled) == 1));
    drain(BELFRY_FOREVER);
    expect(eventually(no_newcomers()));
    while ((rc = belfry_receive(c, &m, server_fixture_patience())) == 0) {
        pushes += m.kind == BELFRY_PUSH;
        belfry_release(c, &m);
    }
    expect_rc(rc, BELFRY_EGONE);
    expect(pushes > 100 && id == 1);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(seen.ends[BELFRY_END_DRAINED], 1);
    belfry_close(c);
    end();
}

Test(drain, waits_for_a_large_message_that_is_arriving_and_sends_a_large_reply)
{
    static uint8_t large[LARGE] = "e";
    begin(4096);
    belfry_client *c = server_fixture_connect();
    uint64_t id;
    expect_echo(c);
    expect_rc(belfry_send(c, large, sizeof large, &id), 0); /* most of it has not left yet */
    drain(BELFRY_FOREVER);
    belfry_message m;
    int rc = belfry_await(c, id, &m, server_fixture_patience());
    if (rc == BELFRY_EUNREAD) /* the conn had ended before its first part came */
        expect_eq(seen.handled, 1);
    else
        expect_rc(rc, 0);
    if (rc == 0)
        expect_eq(m.size, sizeof large);
    belfry_release(c, &m);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(seen.ends[BELFRY_END_DRAINED], 1);
    belfry_close(c);
    end();
}

/* One that never pauses is read for a ring more; each of its requests is answered, or provably never read. */
static void *flood(void *argument)
{
    belfry_client *c = argument;
    uint64_t sent = 0, answered = 0;
    belfry_message m;
    int rc = 0;
    while (rc == 0) {
        while ((rc = belfry_send(c, "e", 1, NULL)) == 0)
            sent++;
        if (rc == -EAGAIN)
            rc = belfry_receive(c, &m, server_fixture_patience());
        if (rc == -EAGAIN)
            rc = 0;
        answered += m.kind == BELFRY_REPLY;
        belfry_release(c, &m);
    }
    while (belfry_receive(c, &m, 0) == 0) {
        answered += m.kind == BELFRY_REPLY;
        belfry_release(c, &m);
    }
    for (uint64_t id = answered + 1; id <= sent; id++)
        if (!belfry_client_never_read(c, id))
            return (void *)1;
    return belfry_client_never_read(c, answered) ? (void *)2 : NULL;
}

Test(drain, ends_a_conn_that_never_pauses_and_loses_none_of_its_requests)
{
    begin(4096);
    belfry_client *c = server_fixture_connect();
    pthread_t thread;
    void *wrong;
    expect_echo(c);
    belfry_client *other = server_fixture_connect();
    expect_eq(pthread_create(&thread, NULL, flood, other), 0);
    expect(eventually(load_acquire(&seen.handled) > 1000));
    drain(BELFRY_FOREVER);
    expect_rc(belfry_server_wait(server.server), 0);
    pthread_join(thread, &wrong);
    expect(wrong == NULL);
    expect_eq(seen.ends[BELFRY_END_DRAINED], 2);
    belfry_close(c);
    belfry_close(other);
    end();
}

Test(drain, a_call_that_was_not_read_says_so)
{
    begin(4096);
    belfry_client *c = server_fixture_connect();
    belfry_message m;
    expect_echo(c);
    void *room;
    expect_rc(belfry_send_reserve(c, 10, &room), 0);
    drain(BELFRY_FOREVER);
    expect_rc(belfry_server_wait(server.server), 0);
    uint64_t id;
    memset(room, 'e', 10);
    expect_rc(belfry_send_commit(c, BELFRY_REQUEST, 10, &id), 0); /* behind the end */
    expect_rc(belfry_await(c, id, &m, server_fixture_patience()), BELFRY_EUNREAD);
    expect(belfry_client_never_read(c, id));
    expect(!belfry_client_never_read(c, 1) && !belfry_client_never_read(c, id + 1));
    belfry_close(c);
    end();
}

static void on_signal(int number)
{
    (void)number;
    belfry_drain(server.server, BELFRY_FOREVER);
}

Test(drain, may_be_asked_for_in_a_signal_handler)
{
    begin(4096);
    belfry_client *c = server_fixture_connect();
    expect_echo(c);
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(seen.ends[BELFRY_END_DRAINED], 1);
    belfry_close(c);
    end();
}

Test(drain, takes_another_deadline_when_some_shards_have_ended_already)
{
    server_fixture_init(&server);
    server.options.on_message = on_message;
    server.options.on_cancel = on_cancel;
    server.options.on_disconnect = on_disconnect;
    server.options.shards = 2;
    for (unsigned shard = 0; shard < 2; shard++) { /* it may be either that ends first */
        server_fixture_start(&server);
        belfry_client *c = server_fixture_connect(), *other = NULL;
        if (belfry_client_shard(c) != shard) {
            other = c;
            while (belfry_client_shard(c = server_fixture_connect()) != shard)
                belfry_close(c);
        }
        uint64_t id;
        seen.deferred = seen.disconnected = 0;
        expect_rc(belfry_send(c, "d", 1, &id), 0);
        expect(eventually(load_acquire(&seen.deferred) == 1));
        belfry_close(other);
        drain(BELFRY_FOREVER);
        struct belfry_abi_shard *ended = lobby_shard(&c->shared->lobby, 1 - shard);
        expect(eventually(client_is_over(load_acquire(&ended->obituary))));
        drain(0);
        expect_end(c, BELFRY_END_STOPPED);
        expect_rc(belfry_server_wait(server.server), 0);
        expect_rc(belfry_complete(server.server, &seen.ticket, NULL, 0), BELFRY_EGONE);
        belfry_close(c);
        belfry_server_destroy(server.server);
        server.server = NULL;
    }
    fixture_remove_tree(server.root);
}

static int drain_at_once(belfry_server *s, uint32_t shard, void *user)
{
    (void)user;
    if (shard == 0)
        expect_rc(belfry_drain(s, BELFRY_FOREVER), 0);
    return 0;
}

Test(drain, may_be_asked_for_while_the_shards_are_started)
{
    server_fixture_init(&server);
    server.options.on_message = on_message;
    server.options.on_shard_start = drain_at_once;
    server.options.shards = 4;
    for (int i = 0; i < 10; i++) {
        server_fixture_start(&server);
        expect_rc(belfry_server_wait(server.server), 0); /* all of them, not only those that were there */
        belfry_server_destroy(server.server);
        server.server = NULL;
    }
    fixture_remove_tree(server.root);
}

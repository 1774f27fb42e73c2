/* SPDX-License-Identifier: MIT */
/*
 * Tests of server/conn.c, reply.c and listener.c through a real server in this process and real clients.
 *
 * What a handler sees and does stands in `script`: a test sets what on_message shall do, and reads what it found. For
 * clients that break the rules a test reaches into its own client (client/client.h), as an attacker would.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/order.h"
#include "base/os.h"
#include "client/client.h"
#include "expect.h"
#include "server/conn.h"
#include "server_fixture.h"
#include "shm/doorbell.h"
#include "shm/place.h"

static struct server_fixture server;

/* What on_message does to a request whose text begins with a word, and what it got from the library. */
static struct script {
    void (*on_message)(belfry_conn *conn, const belfry_message *m);
    int (*on_connect)(belfry_conn *conn);
    void (*on_disconnect)(belfry_conn *conn, enum belfry_end why);
    int rc[8]; /* results in the order of the calls */
    char error[512];
    unsigned connected, disconnected, messages;
    enum belfry_end why;
    belfry_conn *conn;
    belfry_conn_id id;
    uint32_t uid, pid, slot;
    void *pointer;
} script;

static int on_connect(belfry_conn *conn, void *user)
{
    (void)user;
    int rc = script.on_connect != NULL ? script.on_connect(conn) : 0;
    script.conn = conn;
    add_release(&script.connected, 1);
    return rc;
}

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    script.conn = conn;
    if (script.on_message != NULL)
        script.on_message(conn, m);
    else if (m->kind == BELFRY_REQUEST)
        belfry_reply(conn, m, m->data, m->size);
    add_release(&script.messages, 1);
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    (void)user;
    if (script.on_disconnect != NULL)
        script.on_disconnect(conn, why);
    script.why = why;
    add_release(&script.disconnected, 1);
}

static void prepare(void)
{
    server_fixture_init(&server);
    server.options.on_connect = on_connect;
    server.options.on_message = on_message;
    server.options.on_disconnect = on_disconnect;
}

static void start(void)
{
    server_fixture_start(&server);
}

static void finish(void)
{
    server_fixture_stop(&server);
}

/* prepare, start, set the handler, connect: how most tests begin */
static belfry_client *begin(void (*handler)(belfry_conn *conn, const belfry_message *m))
{
    script.on_message = handler;
    prepare();
    start();
    return server_fixture_connect();
}

static void end(belfry_client *c)
{
    belfry_close(c);
    finish();
}

static int call(belfry_client *c, const char *text, belfry_message *reply)
{
    return belfry_call(c, text, strlen(text), reply, server_fixture_patience());
}

static void expect_reply(belfry_client *c, const char *text, const char *wanted)
{
    belfry_message reply;
    expect_rc(call(c, text, &reply), 0);
    expect_eq(reply.size, strlen(wanted));
    expect(memcmp(reply.data, wanted, reply.size) == 0);
    belfry_release(c, &reply);
}

static void expect_echo(belfry_client *c)
{
    expect_reply(c, "still there", "still there");
}

static bool disconnected(unsigned count)
{
    return eventually(load_acquire(&script.disconnected) == count);
}

TestSuite(conn, .timeout = 120);

/* --- fairness -------------------------------------------------------------------------------------------------------- */

#define FLOOD 100

static struct {
    bool begun, may_go;
    uint32_t first_slot, handled, others_place; /* which message in order the other conn's was */
} flood;

static void take_turns(belfry_conn *conn, const belfry_message *m)
{
    if (flood.handled == 0) {
        flood.first_slot = belfry_conn_slot(conn);
        store_release(&flood.begun, true);
        while (!load_acquire(&flood.may_go))
            ;
    }
    if (belfry_conn_slot(conn) != flood.first_slot)
        flood.others_place = flood.handled;
    flood.handled++;
    if (m->kind == BELFRY_REQUEST)
        belfry_reply(conn, m, NULL, 0);
}

Test(conn, handles_one_message_between_the_hundred_of_another)
{
    belfry_client *flooder = begin(take_turns);
    belfry_client *other = server_fixture_connect();
    expect(eventually(load_acquire(&script.connected) == 2));
    for (int i = 0; i <= FLOOD; i++)
        expect_rc(belfry_send_one_way(flooder, "", 0), 0);
    expect(eventually(load_acquire(&flood.begun)));
    expect_rc(belfry_send(other, "", 0, NULL), 0);
    store_release(&flood.may_go, true);
    belfry_message m;
    expect_rc(belfry_receive(other, &m, server_fixture_patience()), 0);
    belfry_release(other, &m);
    expect(eventually(load_acquire(&script.messages) == FLOOD + 2));
    expect(flood.others_place > 0 && flood.others_place < FLOOD / 2); /* the flooder's two turns of 16 come first */
    belfry_close(other);
    end(flooder);
}

/* --- answers --------------------------------------------------------------------------------------------------------- */

Test(conn, echoes_messages_of_every_size)
{
    belfry_client *c = begin(NULL);
    char data[1008];
    for (size_t size = 0; size <= sizeof data; size++) {
        belfry_message reply;
        memset(data, (int)size, size);
        expect_rc(belfry_call(c, data, size, &reply, server_fixture_patience()), 0);
        expect_eq(reply.size, size);
        expect(memcmp(reply.data, data, size) == 0);
        expect_eq(reply.kind, BELFRY_REPLY);
        expect_eq(reply.status, 0);
        belfry_release(c, &reply);
    }
    end(c);
}

static void reply_reserved(belfry_conn *conn, const belfry_message *m)
{
    void *data;
    script.rc[0] = belfry_reply_reserve(conn, m, 100, &data);
    script.rc[1] = belfry_reply_reserve(conn, m, 100, &data); /* one at a time */
    script.rc[2] = belfry_reply(conn, m, "x", 1);             /* nor beside it */
    script.rc[3] = belfry_push(conn, "x", 1);
    memcpy(data, "in place", 8);
    script.rc[4] = belfry_reply_commit(conn, 101); /* more than was reserved */
    script.rc[5] = belfry_reply_commit(conn, 8);
    script.rc[6] = belfry_reply_commit(conn, 8); /* nothing is open now */
    script.rc[7] = (uintptr_t)data % 8 == 0;
}

Test(conn, replies_in_place_with_one_reservation_at_a_time)
{
    belfry_client *c = begin(reply_reserved);
    expect_reply(c, "?", "in place");
    expect_eq(script.rc[0], 0);
    expect_eq(script.rc[1], BELFRY_ESTATE);
    expect_eq(script.rc[2], BELFRY_ESTATE);
    expect_eq(script.rc[3], BELFRY_ESTATE);
    expect_eq(script.rc[4], BELFRY_ESTATE);
    expect_eq(script.rc[5], 0);
    expect_eq(script.rc[6], BELFRY_ESTATE);
    expect_eq(script.rc[7], 1);
    end(c);
}

static void reply_after_abort(belfry_conn *conn, const belfry_message *m)
{
    void *data;
    script.rc[0] = belfry_reply_reserve(conn, m, 1008, &data);
    memset(data, 0xff, 1008);
    belfry_reply_abort(conn);
    belfry_reply_abort(conn); /* of nothing */
    script.rc[1] = belfry_reply(conn, m, "second thought", 14);
}

Test(conn, may_answer_otherwise_after_an_abort)
{
    belfry_client *c = begin(reply_after_abort);
    for (int i = 0; i < 20; i++)
        expect_reply(c, "?", "second thought");
    expect_eq(script.rc[0], 0);
    expect_eq(script.rc[1], 0);
    end(c);
}

static void reserve_and_forget(belfry_conn *conn, const belfry_message *m)
{
    void *data;
    script.rc[0] = belfry_reply_reserve(conn, m, 64, &data);
}

Test(conn, answers_for_a_handler_that_forgot_its_reservation)
{
    belfry_message reply;
    belfry_client *c = begin(reserve_and_forget);
    for (int i = 0; i < 3; i++)
        expect_rc(call(c, "?", &reply), BELFRY_EUNANSWERED);
    script.on_message = NULL;
    expect_echo(c);
    expect(eventually(server_fixture_counters().unanswered == 3));
    end(c);
}

static void say_nothing(belfry_conn *conn, const belfry_message *m)
{
    (void)conn;
    (void)m;
}

Test(conn, answers_for_a_handler_that_said_nothing)
{
    belfry_message reply;
    belfry_client *c = begin(say_nothing);
    expect_rc(call(c, "?", &reply), BELFRY_EUNANSWERED);
    expect_in(belfry_last_error(), "without answering");
    end(c);
}

Test(conn, wants_no_answer_to_a_one_way_message)
{
    belfry_client *c = begin(say_nothing);
    belfry_message m;
    expect_rc(belfry_send_one_way(c, "x", 1), 0);
    expect(eventually(load_acquire(&script.messages) == 1));
    expect_rc(belfry_receive(c, &m, 0), -ETIMEDOUT);
    expect_eq(server_fixture_counters().unanswered, 0);
    end(c);
}

static void reply_to_anything(belfry_conn *conn, const belfry_message *m)
{
    script.rc[0] = belfry_reply(conn, m, "x", 1);
    script.rc[1] = belfry_fail(conn, m, -EIO, NULL);
}

Test(conn, refuses_an_answer_to_a_one_way_message)
{
    belfry_client *c = begin(reply_to_anything);
    expect_rc(belfry_send_one_way(c, "x", 1), 0);
    expect(eventually(load_acquire(&script.messages) == 1));
    expect_eq(script.rc[0], BELFRY_EANSWERED);
    expect_eq(script.rc[1], BELFRY_EANSWERED);
    end(c);
}

static void reply_twice(belfry_conn *conn, const belfry_message *m)
{
    void *data;
    belfry_message other = *m;
    other.id++;
    script.rc[0] = belfry_reply(conn, &other, "x", 1); /* not the one being handled */
    script.rc[1] = belfry_reply(conn, m, "first", 5);
    script.rc[2] = belfry_reply(conn, m, "second", 6);
    script.rc[3] = belfry_fail(conn, m, -EIO, "third");
    script.rc[4] = belfry_reply_reserve(conn, m, 5, &data);
}

Test(conn, takes_one_answer_for_each_request)
{
    belfry_client *c = begin(reply_twice);
    belfry_message m;
    expect_reply(c, "?", "first");
    expect_eq(script.rc[0], BELFRY_EANSWERED);
    expect_eq(script.rc[1], 0);
    expect_eq(script.rc[2], BELFRY_EANSWERED);
    expect_eq(script.rc[3], BELFRY_EANSWERED);
    expect_eq(script.rc[4], BELFRY_EANSWERED);
    expect_rc(belfry_receive(c, &m, 0), -ETIMEDOUT);
    end(c);
}

static void reply_too_much(belfry_conn *conn, const belfry_message *m)
{
    static char large[2000];
    void *data;
    script.rc[0] = belfry_reply(conn, m, large, 1009);
    script.rc[1] = belfry_reply_reserve(conn, m, 1009, &data);
    script.rc[2] = belfry_push(conn, large, SIZE_MAX);
    snprintf(script.error, sizeof script.error, "%s", belfry_last_error());
    script.rc[3] = belfry_reply(conn, m, "small", 5);
}

Test(conn, refuses_a_reply_that_is_too_big_and_takes_a_smaller_one)
{
    belfry_client *c = begin(reply_too_much);
    expect_reply(c, "?", "small");
    expect_eq(script.rc[0], BELFRY_ETOOBIG);
    expect_eq(script.rc[1], BELFRY_ETOOBIG);
    expect_eq(script.rc[2], BELFRY_ETOOBIG);
    expect_in(script.error, "message_bytes_max");
    expect_eq(script.rc[3], 0);
    end(c);
}

/* --- failures -------------------------------------------------------------------------------------------------------- */

static void fail_with_text(belfry_conn *conn, const belfry_message *m)
{
    script.rc[0] = belfry_fail(conn, m, 0, "no failure");
    script.rc[1] = belfry_fail(conn, m, 5, "no failure");
    script.rc[2] = belfry_fail(conn, m, BELFRY_EUSER - 3, "the oven is cold");
}

Test(conn, carries_a_failures_status_and_sentence)
{
    belfry_client *c = begin(fail_with_text);
    belfry_message reply;
    expect_rc(call(c, "?", &reply), BELFRY_EUSER - 3);
    expect_in(belfry_last_error(), "the oven is cold");
    expect(reply.data == NULL && reply.size == 0);
    expect_eq(script.rc[0], BELFRY_EOPTION);
    expect_eq(script.rc[1], BELFRY_EOPTION);
    expect_eq(script.rc[2], 0);
    script.on_message = NULL;
    expect_echo(c);
    end(c);
}

static void fail_without_text(belfry_conn *conn, const belfry_message *m)
{
    belfry_fail(conn, m, -ENOENT, NULL);
}

Test(conn, finds_words_for_a_failure_without_a_sentence)
{
    belfry_client *c = begin(fail_without_text);
    belfry_message reply, m;
    expect_rc(call(c, "?", &reply), -ENOENT);
    expect_in(belfry_last_error(), "No such file");
    expect_rc(belfry_send(c, "?", 1, NULL), 0);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.status, -ENOENT);
    expect_eq(m.kind, BELFRY_FAILURE);
    expect_eq(m.size, 0);
    belfry_release(c, &m);
    end(c);
}

static void fail_at_length(belfry_conn *conn, const belfry_message *m)
{
    static char text[1000];
    memset(text, 'x', sizeof text - 1);
    script.rc[0] = belfry_fail(conn, m, -EIO, text);
}

Test(conn, cuts_a_failures_sentence_at_255_bytes)
{
    belfry_client *c = begin(fail_at_length);
    belfry_message m;
    expect_rc(belfry_send(c, "?", 1, NULL), 0);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.status, -EIO);
    expect_eq(m.size, 255);
    belfry_release(c, &m);
    end(c);
}

Test(conn, cuts_a_failures_sentence_at_the_largest_message)
{
    belfry_message m;
    script.on_message = fail_at_length;
    prepare();
    server.options.message_bytes_max = 64;
    start();
    belfry_client *c = server_fixture_connect();
    expect_rc(belfry_send(c, "?", 1, NULL), 0);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.status, -EIO);
    expect_eq(m.size, 60);
    belfry_release(c, &m);
    end(c);
}

/* --- pushes, identity, the user's pointer ----------------------------------------------------------------------------- */

static void push_twice(belfry_conn *conn, const belfry_message *m)
{
    belfry_push(conn, "one", 3);
    belfry_reply(conn, m, "reply", 5);
    belfry_push(conn, "", 0);
}

Test(conn, pushes_what_answers_nothing)
{
    belfry_client *c = begin(push_twice);
    belfry_message m;
    expect_reply(c, "?", "reply");
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.kind, BELFRY_PUSH);
    expect_eq(m.id, 0);
    expect_eq(m.size, 3);
    belfry_release(c, &m);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.kind, BELFRY_PUSH);
    expect_eq(m.size, 0);
    belfry_release(c, &m);
    end(c);
}

static int greet(belfry_conn *conn)
{
    belfry_conn_set_user(conn, &script);
    return belfry_push(conn, "welcome", 7);
}

static void tell_identity(belfry_conn *conn, const belfry_message *m)
{
    script.id = belfry_conn_get_id(conn);
    script.uid = belfry_conn_uid(conn);
    script.pid = belfry_conn_pid(conn);
    script.slot = belfry_conn_slot(conn);
    script.pointer = belfry_conn_user(conn);
    script.rc[0] = belfry_conn_server(conn) == server.server;
    script.rc[1] = (int)belfry_conn_shard(conn);
    belfry_reply(conn, m, NULL, 0);
}

Test(conn, knows_its_client)
{
    belfry_message m;
    script.on_connect = greet;
    belfry_client *c = begin(tell_identity);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect(m.kind == BELFRY_PUSH && m.size == 7);
    belfry_release(c, &m);
    expect_reply(c, "?", "");
    expect_eq(script.uid, geteuid());
    expect_eq(script.pid, getpid());
    expect_eq(script.slot, belfry_client_slot(c));
    expect_eq(script.rc[1], belfry_client_shard(c));
    expect(script.pointer == &script);
    expect_eq(script.rc[0], 1);
    belfry_conn_id first = script.id;
    belfry_client *other = server_fixture_connect();
    expect_reply(other, "?", "");
    expect(script.id != first);
    belfry_close(other);
    end(c);
}

Test(conn, never_gives_two_clients_the_same_id)
{
    belfry_conn_id ids[20];
    script.on_message = tell_identity;
    prepare();
    server.options.max_slots = server.options.warm_pool = 1;
    start();
    for (int i = 0; i < 20; i++) {
        belfry_client *c = server_fixture_connect();
        expect_reply(c, "?", "");
        ids[i] = script.id;
        for (int j = 0; j < i; j++)
            expect(ids[j] != ids[i]);
        belfry_close(c);
    }
    finish();
}

static void allocate(belfry_conn *conn, const belfry_message *m)
{
    char *memory = belfry_alloc(10000);
    script.rc[0] = memory != NULL && (uintptr_t)memory % 16 == 0;
    if (memory != NULL)
        memset(memory, 1, 10000);
    script.rc[1] = belfry_alloc(SIZE_MAX) == NULL;
    script.rc[2] = belfry_alloc(SIZE_MAX - 8) == NULL;
    belfry_free(memory);
    belfry_free(NULL);
    belfry_reply(conn, m, NULL, 0);
}

Test(conn, lends_memory_to_handlers_and_to_nobody_else)
{
    belfry_client *c = begin(allocate);
    expect_reply(c, "?", "");
    expect_eq(script.rc[0], 1);
    expect_eq(script.rc[1], 1);
    expect_eq(script.rc[2], 1);
    expect(belfry_alloc(10) == NULL); /* this thread is no shard */
    belfry_free(NULL);
    end(c);
}

static void *use_conn_elsewhere(void *argument)
{
    const belfry_message *m = argument;
    belfry_ticket ticket;
    void *data;
    script.rc[0] = belfry_push(script.conn, "x", 1);
    script.rc[1] = belfry_reply(script.conn, m, "x", 1);
    script.rc[2] = belfry_reply_reserve(script.conn, m, 1, &data);
    script.rc[3] = belfry_fail(script.conn, m, -EIO, NULL);
    script.rc[4] = belfry_reply_more(script.conn, m, "x", 1);
    script.rc[5] = belfry_defer(script.conn, m, &ticket, NULL);
    script.rc[6] = belfry_reply_commit(script.conn, 4); /* there is a reservation, but not of this thread */
    belfry_reply_abort(script.conn);
    belfry_disconnect(script.conn);
    snprintf(script.error, sizeof script.error, "%s", belfry_last_error());
    return NULL;
}

static void use_from_another_thread(belfry_conn *conn, const belfry_message *m)
{
    pthread_t thread;
    belfry_message copy = *m;
    void *data;
    script.rc[7] = belfry_reply_reserve(conn, m, 4, &data);
    pthread_create(&thread, NULL, use_conn_elsewhere, &copy);
    pthread_join(thread, NULL);
    memcpy(data, "here", 4);
    belfry_reply_commit(conn, 4);
}

Test(conn, may_be_used_on_its_shards_thread_only)
{
    belfry_client *c = begin(use_from_another_thread);
    expect_reply(c, "?", "here");
    for (int i = 0; i < 7; i++)
        expect_eq(script.rc[i], BELFRY_ETHREAD);
    expect_eq(script.rc[7], 0);
    expect_in(script.error, "on its shard's thread only");
    script.on_message = NULL;
    expect_echo(c);
    expect_eq(server_fixture_counters().deferred, 0);
    end(c);
}

/* --- a client that does not read --------------------------------------------------------------------------------------- */

static void push_many(belfry_conn *conn, const belfry_message *m)
{
    static char data[500];
    int sent = 0, rc = 0;
    while (sent < 10000 && (rc = belfry_push(conn, data, sizeof data)) == 0)
        sent++;
    script.rc[0] = sent;
    script.rc[1] = rc;
    snprintf(script.error, sizeof script.error, "%s", belfry_last_error());
    script.rc[2] = belfry_reply(conn, m, "no room", 7);
    script.rc[3] = belfry_fail(conn, m, -ENOBUFS, "no room"); /* a failure always has */
}

Test(conn, keeps_replies_for_a_slow_client_up_to_a_limit)
{
    belfry_message m;
    script.on_message = push_many;
    prepare();
    server.options.outbox_bytes_max = 10000;
    start();
    belfry_client *c = server_fixture_connect();
    uint64_t id;
    expect_rc(belfry_send(c, "?", 1, &id), 0);
    expect(eventually(load_acquire(&script.messages) == 1));
    expect(script.rc[0] >= 7 + 10 && script.rc[0] <= 7 + 20); /* the ring's and the outbox's */
    expect_eq(script.rc[1], BELFRY_EBACKLOG);
    expect_in(script.error, "outbox");
    expect_eq(script.rc[2], script.rc[3] == 0 ? script.rc[2] : 0);
    expect(eventually(server_fixture_counters().stalls >= 1));
    expect(server_fixture_counters().outbox_bytes > 4000);
    expect(server_fixture_counters().outbox_bytes <= 10000 + 16 + 300);
    for (int i = 0; i < script.rc[0]; i++) { /* all of them arrive, in order, before the answer */
        expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
        expect_eq(m.kind, BELFRY_PUSH);
        expect_eq(m.size, 500);
        belfry_release(c, &m);
    }
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.id, id);
    belfry_release(c, &m);
    expect(eventually(server_fixture_counters().outbox_bytes == 0));
    script.on_message = NULL;
    expect_echo(c);
    end(c);
}

static void push_beyond_a_small_outbox(belfry_conn *conn, const belfry_message *m)
{
    static char data[1000];
    while (outbox_is_empty(&conn->outbox) && (script.rc[0] = belfry_push(conn, data, sizeof data)) == 0)
        ;
    script.rc[1] = belfry_push(conn, data, sizeof data);
    belfry_fail(conn, m, -EIO, NULL);
}

/* Else a service with a small limit could never send a large message to a client whose ring is full. */
Test(conn, takes_one_message_of_any_size_into_an_empty_outbox)
{
    script.on_message = push_beyond_a_small_outbox;
    prepare();
    server.options.outbox_bytes_max = 100;
    start();
    belfry_client *c = server_fixture_connect();
    expect_rc(belfry_send(c, "?", 1, NULL), 0);
    expect(eventually(load_acquire(&script.messages) == 1));
    expect_eq(script.rc[0], 0);
    expect_eq(script.rc[1], BELFRY_EBACKLOG);
    end(c);
}

static void push_empty(belfry_conn *conn, const belfry_message *m)
{
    int sent = 0, rc = 0;
    while (sent < 100000 && (rc = belfry_push(conn, NULL, 0)) == 0)
        sent++;
    script.rc[0] = sent;
    script.rc[1] = rc;
    belfry_fail(conn, m, -ENOBUFS, NULL);
}

/* An empty message takes memory, too. */
Test(conn, limits_the_outbox_for_empty_messages)
{
    script.on_message = push_empty;
    prepare();
    server.options.outbox_bytes_max = 10000;
    start();
    belfry_client *c = server_fixture_connect();
    expect_rc(belfry_send(c, "?", 1, NULL), 0);
    expect(eventually(load_acquire(&script.messages) == 1));
    expect_eq(script.rc[1], BELFRY_EBACKLOG);
    expect(script.rc[0] < 2000);
    end(c);
}

static void reply_large(belfry_conn *conn, const belfry_message *m)
{
    static char data[1000];
    memcpy(data, m->data, m->size);
    if (m->kind == BELFRY_REQUEST)
        belfry_reply(conn, m, data, sizeof data);
}

/* Sixteen for nothing, then a pause of 10 ms: so many rings can be heard in so long, however fast they come. */
Test(conn, is_muted_for_a_while_when_it_rings_for_nothing_and_heard_all_the_same)
{
    belfry_client *neighbour = begin(NULL), *c = server_fixture_connect();
    expect_echo(c);
    expect_echo(neighbour);
    int64_t began = bf_os_now_ns(), now;
    uint64_t rings = 0;
    while ((now = bf_os_now_ns()) < began + 500000000ll) {
        doorbell_bump_send(c->send);
        bf_os_wake(&c->send->bell);
        if (++rings % 1000 == 0)
            expect_echo(neighbour);
    }
    uint64_t heard = server_fixture_counters().empty_rings;
    uint64_t pauses = (uint64_t)(now - began) / 10000000 + 2;
    expect(rings > 10000);
    expect(heard > 0 && heard <= pauses * 16);
    expect_echo(c);
    expect_echo(c);
    belfry_close(c);
    end(neighbour);
}

/* Nobody reads, both rings fill up; then the client reads, and every request has its answer, in order. */
Test(conn, resolves_two_full_rings)
{
    belfry_client *c = begin(reply_large);
    char request[1000] = {0};
    uint64_t sent = 0, received = 0;
    int64_t until = fixture_now_ms() + 200; /* as much as goes in until nothing moves any more */
    while (fixture_now_ms() < until) {
        memcpy(request, &sent, sizeof sent);
        int rc = belfry_send(c, request, sizeof request, NULL);
        if (rc == 0)
            sent++;
        else
            expect_rc(rc, -EAGAIN);
    }
    expect(sent >= 6);
    expect(server_fixture_counters().stalls > 0);
    for (int more = 0; received < sent; more++) {
        belfry_message m;
        int rc = belfry_receive(c, &m, server_fixture_patience());
        if (rc == 0) {
            expect(memcmp(m.data, &received, sizeof received) == 0);
            received++;
            belfry_release(c, &m);
        } else {
            expect_rc(rc, -EAGAIN);
        }
        if (more < 500) { /* and go on sending meanwhile */
            memcpy(request, &sent, sizeof sent);
            sent += belfry_send(c, request, sizeof request, NULL) == 0;
        }
    }
    script.on_message = NULL;
    expect_echo(c);
    expect_eq(server_fixture_counters().rescued_wakes, 0);
    end(c);
}

Test(conn, ends_a_slow_client_that_dies_with_a_full_outbox)
{
    script.on_message = push_many;
    prepare();
    server.options.outbox_bytes_max = 10000;
    start();
    belfry_client *c = server_fixture_connect();
    expect_rc(belfry_send(c, "?", 1, NULL), 0);
    expect(eventually(load_acquire(&script.messages) == 1));
    belfry_close(c);
    expect(disconnected(1));
    expect_eq(script.why, BELFRY_END_LEFT);
    expect(eventually(server_fixture_counters().outbox_bytes == 0));
    expect(eventually(server_fixture_counters().allocated_bytes == 0));
    finish();
}

/* --- the end ------------------------------------------------------------------------------------------------------------ */

static void disconnect_after_reply(belfry_conn *conn, const belfry_message *m)
{
    belfry_disconnect(conn);
    belfry_reply(conn, m, "last words", 10);
}

Test(conn, sends_what_was_said_before_a_disconnect)
{
    belfry_client *c = begin(disconnect_after_reply);
    belfry_message m;
    expect_reply(c, "?", "last words");
    expect(disconnected(1));
    expect_eq(script.why, BELFRY_END_KICKED);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), BELFRY_EGONE);
    expect_rc(call(c, "?", &m), BELFRY_EGONE);
    expect_eq(load_acquire(&script.messages), 1);
    end(c);
    expect_eq(script.disconnected, 1);
}

static int disconnect_at_once(belfry_conn *conn)
{
    belfry_disconnect(conn);
    return 0;
}

Test(conn, hears_nothing_after_a_disconnect_in_on_connect)
{
    script.on_connect = disconnect_at_once;
    belfry_client *c = begin(NULL);
    belfry_message m;
    belfry_send(c, "?", 1, NULL); /* may or may not be told already */
    expect(disconnected(1));
    expect_eq(script.why, BELFRY_END_KICKED);
    expect_eq(load_acquire(&script.messages), 0);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), BELFRY_EGONE);
    end(c);
}

static void do_everything(belfry_conn *conn, enum belfry_end why)
{
    static char data[500];
    (void)why;
    belfry_disconnect(conn);
    for (int i = 0; i < 50; i++) /* more than the ring holds */
        belfry_push(conn, data, sizeof data);
    belfry_disconnect(conn);
}

/* on_disconnect may call what it likes: the conn ends once, and the shard goes on. */
Test(conn, survives_any_call_in_on_disconnect)
{
    script.on_disconnect = do_everything;
    belfry_client *neighbour = begin(NULL);
    for (int i = 0; i < 3; i++) {
        belfry_client *c = server_fixture_connect();
        expect_echo(c);
        belfry_close(c);
        expect(disconnected((unsigned)i + 1));
        expect_echo(neighbour);
    }
    expect(eventually(server_fixture_counters().outbox_bytes == 0));
    end(neighbour);
    expect_eq(script.disconnected, 4);
}

static int refuse(belfry_conn *conn)
{
    belfry_push(conn, "not read", 8);
    return BELFRY_EUSER - 1;
}

Test(conn, executes_nothing_of_a_client_that_on_connect_refused)
{
    script.on_connect = refuse;
    belfry_client *c = begin(NULL);
    belfry_message m;
    int rc = call(c, "?", &m);
    while (rc == 0) { /* what on_connect pushed */
        belfry_release(c, &m);
        rc = call(c, "?", &m);
    }
    expect_eq(rc, BELFRY_EREFUSED);
    expect_eq(load_acquire(&script.messages), 0);
    expect_eq(load_acquire(&script.disconnected), 0); /* it was never accepted */
    expect(eventually(server_fixture_counters().refusals[BELFRY_END_REFUSED] == 1));
    expect_eq(server_fixture_counters().connections_total, 0);
    end(c);
    expect_eq(script.disconnected, 0);
}

Test(conn, handles_what_a_client_sent_before_it_left)
{
    prepare();
    server.options.spin = BELFRY_SPIN_POWER;
    start();
    for (unsigned i = 1; i <= 50; i++) {
        belfry_client *c = server_fixture_connect();
        for (int n = 0; n < 10; n++)
            expect_rc(belfry_send_one_way(c, "x", 1), 0);
        belfry_close(c); /* perhaps before the server has noticed that it came */
        expect(disconnected(i));
        expect_eq(script.why, BELFRY_END_LEFT);
        expect_eq(load_acquire(&script.messages), 10 * i);
    }
    expect_eq(load_acquire(&script.connected), 50);
    expect_eq(server_fixture_counters().ends[BELFRY_END_LEFT], 50);
    finish();
}

Test(conn, tells_its_clients_that_the_server_stops)
{
    belfry_client *c = begin(NULL);
    belfry_message m;
    expect_echo(c);
    belfry_server_stop(server.server);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(script.disconnected, 1);
    expect_eq(script.why, BELFRY_END_STOPPED);
    expect_rc(call(c, "?", &m), BELFRY_EGONE);
    end(c);
}

Test(conn, ends_when_its_lock_file_is_removed)
{
    char path[2 * FIXTURE_PATH_BYTES], name[64];
    belfry_client *neighbour = begin(NULL), *c = server_fixture_connect();
    belfry_message m;
    expect_echo(c);
    expect_echo(neighbour);
    snprintf(name, sizeof name, "shard-0/slot_%u.lock", belfry_client_slot(c));
    server_fixture_path(&server, path, name);
    expect_eq(unlink(path), 0);
    expect(disconnected(1));
    expect_eq(script.why, BELFRY_END_LOCK_GONE);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), BELFRY_EGONE);
    expect_echo(neighbour);
    belfry_close(c);
    end(neighbour);
}

/* --- a client that breaks the rules -------------------------------------------------------------------------------------- */

/* Put an entry of any sort into the client's ring, and ring. */
static void send_raw(belfry_client *c, uint8_t kind, uint8_t flags, uint64_t id)
{
    void *data;
    expect_eq(ring_reserve(&c->out, 16, &data), 0);
    memset(data, 0, 16);
    ring_commit(&c->out, kind, flags, id, 16);
    bf_client_tell(c, true);
}

static void expect_unsupported(belfry_client *c, uint64_t id)
{
    belfry_message m;
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.status, BELFRY_EUNSUPPORTED);
    expect_eq(m.id, id);
    belfry_release(c, &m);
}

Test(conn, refuses_kinds_and_flags_it_does_not_know_and_goes_on)
{
    static const uint8_t kinds[] = {0, BELFRY_REPLY, BELFRY_FAILURE, BELFRY_PUSH, 10, 99, 255};
    belfry_client *c = begin(NULL);
    for (size_t i = 0; i < sizeof kinds; i++) {
        send_raw(c, kinds[i], 0, 1000 + i);
        expect_unsupported(c, 1000 + i);
    }
    send_raw(c, BELFRY_REQUEST, 0x80, 2001);
    expect_unsupported(c, 2001);
    send_raw(c, BELFRY_CANCEL, 0, 2002); /* nobody waits for an answer to these */
    send_raw(c, BELFRY_ONE_WAY, 0x80, 2003);
    expect_echo(c);
    expect_eq(load_acquire(&script.messages), 1);
    expect_eq(load_acquire(&script.disconnected), 0);
    end(c);
}

Test(conn, refuses_a_request_larger_than_the_service_takes)
{
    belfry_message m;
    void *data;
    prepare();
    server.options.message_bytes_max = 64;
    start();
    belfry_client *c = server_fixture_connect();
    expect_rc(belfry_send(c, "", 65, NULL), BELFRY_ETOOBIG); /* the library says so itself; this one does not: */
    expect_eq(ring_reserve(&c->out, 65, &data), 0);
    ring_commit(&c->out, BELFRY_REQUEST, 0, 77, 65);
    bf_client_tell(c, true);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.status, BELFRY_ETOOBIG);
    expect_eq(m.id, 77);
    belfry_release(c, &m);
    expect_eq(load_acquire(&script.messages), 0);
    expect_echo(c);
    end(c);
}

/* Break something in a conn that has been echoing, then see it end, and its neighbour live. */
static void expect_peer_fault(void (*break_it)(belfry_client *c))
{
    belfry_client *neighbour = begin(NULL), *c = server_fixture_connect();
    belfry_message m;
    expect_echo(c);
    expect_echo(neighbour);
    break_it(c);
    expect(disconnected(1));
    expect_eq(script.why, BELFRY_END_PEER_FAULT);
    int rc;
    do {
        rc = belfry_receive(c, &m, server_fixture_patience());
        belfry_release(c, &m);
    } while (rc == 0 || rc == -EAGAIN); /* what was answered before, and that a full ring has room again */
    expect_rc(rc, BELFRY_EPROTO);
    expect_eq(server_fixture_counters().ends[BELFRY_END_PEER_FAULT], 1);
    expect_echo(neighbour);
    belfry_close(c);
    c = server_fixture_connect(); /* and the slot comes back */
    expect_echo(c);
    belfry_close(c);
    end(neighbour);
}

static void forge_length(belfry_client *c, uint32_t length)
{
    struct belfry_abi_entry *entry = ring_producer_entry(&c->out, c->out.position);
    entry->kind = BELFRY_REQUEST;
    store_release(&entry->length, length);
    bf_client_tell(c, true);
}

static void forge_short_length(belfry_client *c)
{
    forge_length(c, 8);
}

static void forge_huge_length(belfry_client *c)
{
    forge_length(c, UINT32_MAX);
}

static void forge_pad(belfry_client *c)
{
    ring_producer_entry(&c->out, c->out.position)->kind = BELFRY_PAD;
    struct belfry_abi_entry *entry = ring_producer_entry(&c->out, c->out.position);
    store_release(&entry->length, 32);
    bf_client_tell(c, true);
}

static void forge_consumed(belfry_client *c)
{
    store_release(&c->send->consumed, 1ull << 40);
    int rc = 0;
    for (int i = 0; i < 5000 && (rc == 0 || rc == -EAGAIN); i++) { /* until the server needs to know where we are */
        rc = belfry_send(c, "0123456789012345678901234567890123456789", 40, NULL);
        if (rc == -EAGAIN)
            fixture_pause();
    }
}

Test(conn, ends_alone_after_an_entry_shorter_than_its_header)
{
    expect_peer_fault(forge_short_length);
}

Test(conn, ends_alone_after_an_entry_larger_than_the_ring)
{
    expect_peer_fault(forge_huge_length);
}

Test(conn, ends_alone_after_a_pad_in_mid_ring)
{
    expect_peer_fault(forge_pad);
}

Test(conn, ends_alone_after_an_impossible_position)
{
    expect_peer_fault(forge_consumed);
}

static belfry_conn *victim;

static int remember_first(belfry_conn *conn)
{
    if (victim == NULL)
        victim = conn;
    return 0;
}

static void push_to_victim(belfry_conn *conn, const belfry_message *m)
{
    static char data[900];
    int rc = 0;
    for (int i = 0; i < 8 && rc == 0; i++)
        rc = belfry_push(victim, data, sizeof data);
    script.rc[0] = rc;
    belfry_reply(conn, m, "pushed", 6);
}

/* The fault is found while somebody else's handler runs, and the conn is not even polled at that time. */
Test(conn, ends_when_another_conns_handler_finds_its_position_impossible)
{
    script.on_connect = remember_first;
    belfry_client *quiet = begin(NULL), *c;
    expect_echo(quiet);
    c = server_fixture_connect();
    expect_echo(c);
    while (load_relaxed(&quiet->lobby_slot->parked) != BELFRY_PARKED_DATA) { /* it stays quiet while the other is not */
        expect_echo(c);
        fixture_pause();
    }
    store_release(&quiet->send->consumed, 1ull << 40);
    script.on_message = push_to_victim;
    expect_reply(c, "?", "pushed");
    expect_eq(script.rc[0], BELFRY_EPROTO);
    script.on_message = NULL;
    expect(disconnected(1));
    expect_eq(script.why, BELFRY_END_PEER_FAULT);
    expect_echo(c);
    belfry_close(quiet);
    end(c);
}

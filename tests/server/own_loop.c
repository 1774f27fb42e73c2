/* SPDX-License-Identifier: MIT */
/*
 * Tests of server/own_loop.c: the test's own thread runs the shard's turns, as a program with a loop does. Clients are
 * threads, since a call would wait for a turn that nobody runs; what they find stands in variables.
 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <belfry/uring.h>

#include "base/order.h"
#include "expect.h"
#include "server_fixture.h"

#define MS 1000000ll

static struct server_fixture server;
static void (*script)(belfry_conn *conn); /* run by each message, unless NULL */
static belfry_timer timers[2];
static belfry_conn *conn_seen;
static int64_t wanted_ns, fired_ns;
static unsigned fired, posted, disconnected;
static int rc[4];

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    conn_seen = conn;
    if (script != NULL)
        script(conn);
    if (m->kind == BELFRY_REQUEST)
        belfry_reply(conn, m, m->data, m->size);
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    (void)conn, (void)why, (void)user;
    disconnected++;
}

static void begin(void)
{
    server_fixture_init(&server);
    server.options.on_message = on_message;
    server.options.on_disconnect = on_disconnect;
    server.options.own_loop = true;
    server.options.shards = 0;
    server_fixture_start(&server);
}

TestSuite(own_loop, .timeout = 120);

/* --- a loop ---------------------------------------------------------------------------------------------------------- */

static bool readable_within(int ms)
{
    struct pollfd at = {.fd = belfry_shard_fd(server.server, 0), .events = POLLIN};
    expect(at.fd >= 0);
    return poll(&at, 1, ms) == 1 && at.revents == POLLIN;
}

/* Turn whenever the descriptor says so, until the condition holds. */
#define loop_until(condition)                                      \
    do {                                                           \
        int64_t until_ = fixture_now_ms() + FIXTURE_PATIENCE_MS;   \
        while (!(condition)) {                                     \
            expect(fixture_now_ms() < until_);                     \
            if (readable_within(10))                               \
                expect_rc(belfry_shard_turn(server.server, 0), 1); \
        }                                                          \
    } while (0)

/* Turn until there is nothing to do, for the moment. */
static void settle(void)
{
    for (int i = 0; readable_within(0); i++) {
        expect(i < 100000);
        expect_rc(belfry_shard_turn(server.server, 0), 1);
    }
}

static void end(void)
{
    belfry_server_stop(server.server);
    int turned;
    do {
        expect(readable_within(FIXTURE_PATIENCE_MS));
        turned = belfry_shard_turn(server.server, 0);
    } while (turned == 1);
    expect_rc(turned, 0);
    expect_rc(belfry_shard_turn(server.server, 0), 0);
    expect_rc(belfry_server_wait(server.server), 0);
    server_fixture_stop(&server);
}

/* --- clients, each a thread ------------------------------------------------------------------------------------------ */

struct caller {
    pthread_t thread;
    unsigned calls;
    int rc;
    bool stays; /* until it is told of an end */
};

static uint32_t ready, done;

static void *call(void *argument)
{
    struct caller *me = argument;
    belfry_client *c;
    belfry_message m;
    me->rc = belfry_connect(&c, FIXTURE_SERVICE, NULL);
    for (unsigned i = 0; i < me->calls && me->rc == 0; i++) {
        me->rc = belfry_call(c, &i, sizeof i, &m, server_fixture_patience());
        if (me->rc == 0 && (m.size != sizeof i || memcmp(m.data, &i, sizeof i) != 0))
            me->rc = -EBADMSG;
        if (me->rc == 0)
            belfry_release(c, &m);
    }
    add_release(&ready, 1);
    if (me->rc == 0 && me->stays)
        me->rc = belfry_receive(c, &m, server_fixture_patience());
    belfry_close(c);
    add_release(&done, 1);
    return NULL;
}

static void start_caller(struct caller *me)
{
    expect_eq(pthread_create(&me->thread, NULL, call, me), 0);
}

/* --- tests ------------------------------------------------------------------------------------------------------------ */

Test(own_loop, serves_without_a_thread_and_leaves_nothing_behind)
{
    struct caller callers[3] = {{.calls = 3000}, {.calls = 3000}, {.calls = 3000}};
    int threads = fixture_count_files("/proc/self/task", ""), fds = fixture_count_fds();
    begin();
    expect_eq(fixture_count_files("/proc/self/task", ""), threads);
    for (int i = 0; i < 3; i++)
        start_caller(&callers[i]);
    loop_until(load_acquire(&done) == 3 && disconnected == 3);
    for (int i = 0; i < 3; i++) {
        pthread_join(callers[i].thread, NULL);
        expect_rc(callers[i].rc, 0);
    }
    expect_eq(server_fixture_counters().messages_in, 9000);
    expect_eq(server_fixture_counters().rescued_wakes, 0);
    end();
    expect_eq(fixture_count_fds(), fds);
}

Test(own_loop, is_readable_until_a_turn_found_nothing_more)
{
    begin();
    expect(readable_within(0));
    settle();
    expect(!readable_within(0));
    belfry_client *c = server_fixture_connect(); /* the pool is warm: no turn is needed for that */
    expect(readable_within(FIXTURE_PATIENCE_MS));
    settle();
    for (int round = 0; round < 100; round++) {
        belfry_message m;
        expect(!readable_within(0));
        expect_rc(belfry_send(c, "x", 1, NULL), 0);
        expect(readable_within(FIXTURE_PATIENCE_MS));
        expect(readable_within(0));
        expect_rc(belfry_shard_turn(server.server, 0), 1);
        expect_rc(belfry_receive(c, &m, 0), 0);
        belfry_release(c, &m);
        settle();
    }
    expect(server_fixture_counters().parks >= 100);
    belfry_close(c);
    end();
}

/* A turn that nobody asked for must not lose what comes next. */
Test(own_loop, may_turn_too_often)
{
    begin();
    belfry_client *c = server_fixture_connect();
    for (int round = 0; round < 100; round++) {
        belfry_message m;
        for (int i = 0; i < round % 5; i++)
            expect_rc(belfry_shard_turn(server.server, 0), 1);
        expect_rc(belfry_send(c, "x", 1, NULL), 0);
        expect(readable_within(FIXTURE_PATIENCE_MS));
        settle();
        expect_rc(belfry_receive(c, &m, 0), 0);
        belfry_release(c, &m);
    }
    belfry_close(c);
    end();
}

static void note(belfry_timer *t, void *user)
{
    (void)t, (void)user;
    fired_ns = belfry_now_ns();
    fired++;
}

static void set_far_then_near(belfry_conn *conn)
{
    (void)conn;
    rc[0] = belfry_timer_set(&timers[0], belfry_in_ms(3600 * 1000));
    wanted_ns = belfry_now_ns() + 30 * MS;
    rc[1] = belfry_timer_set(&timers[1], wanted_ns);
}

/* The descriptor alone wakes the loop; a shard that only its sweep woke would be a second late, every time. */
Test(own_loop, fires_timers_by_its_descriptor)
{
    int64_t least_late_ns = INT64_MAX;
    script = set_far_then_near;
    belfry_timer_init(&timers[0], note, NULL);
    belfry_timer_init(&timers[1], note, NULL);
    begin();
    settle();
    belfry_client *c = server_fixture_connect();
    expect(readable_within(FIXTURE_PATIENCE_MS));
    settle(); /* the sweep in a second is planned: a timer comes before it */
    for (unsigned round = 0; round < 5; round++) {
        belfry_message m;
        expect_rc(belfry_send(c, "x", 1, NULL), 0);
        while (fired == round) {
            expect(readable_within(FIXTURE_PATIENCE_MS));
            expect_rc(belfry_shard_turn(server.server, 0), 1);
        }
        expect_rc(rc[0], 0);
        expect_rc(rc[1], 0);
        expect(fired_ns >= wanted_ns);
        least_late_ns = least_late_ns < fired_ns - wanted_ns ? least_late_ns : fired_ns - wanted_ns;
        expect_rc(belfry_receive(c, &m, 0), 0);
        belfry_release(c, &m);
        script = NULL;
        expect_rc(belfry_send(c, "x", 1, NULL), 0);
        expect(readable_within(FIXTURE_PATIENCE_MS));
        settle();
        expect_rc(belfry_receive(c, &m, 0), 0);
        belfry_release(c, &m);
        script = set_far_then_near;
    }
    expect(least_late_ns < 200 * MS);
    belfry_close(c);
    end();
}

/* A silent client is looked at after 1 second, then after 2 more. */
Test(own_loop, sweeps_by_its_descriptor)
{
    begin();
    belfry_client *c = server_fixture_connect();
    int64_t start_ms = fixture_now_ms();
    while (server_fixture_counters().sweeps < 2) {
        expect(readable_within(FIXTURE_PATIENCE_MS));
        expect_rc(belfry_shard_turn(server.server, 0), 1);
    }
    expect(fixture_now_ms() - start_ms >= 2900);
    expect_eq(server_fixture_counters().rescued_wakes, 0);
    belfry_close(c);
    end();
}

static void work(void *user)
{
    (void)user;
    posted++;
}

static void *post(void *argument)
{
    for (int i = 0; i < 1000; i++)
        rc[0] |= belfry_post(argument, 0, work, NULL);
    return NULL;
}

Test(own_loop, is_woken_by_posts_of_any_thread)
{
    pthread_t thread;
    begin();
    settle();
    expect_rc(belfry_post(server.server, 0, work, NULL), 0); /* of this one, between turns */
    expect(readable_within(FIXTURE_PATIENCE_MS));
    settle();
    expect_eq(posted, 1);
    expect_eq(pthread_create(&thread, NULL, post, server.server), 0);
    loop_until(posted == 1001);
    pthread_join(thread, NULL);
    expect_rc(rc[0], 0);
    end();
}

static belfry_io io;
static char io_byte;
static int32_t io_result;

static void on_read(belfry_io *done_io, int32_t result, uint32_t flags, void *user)
{
    (void)done_io, (void)flags, (void)user;
    io_result = result;
}

static int io_pipe[2];

static void start_read(void *user)
{
    struct io_uring_sqe sqe;
    (void)user;
    io_uring_prep_read(&sqe, io_pipe[0], &io_byte, 1, 0);
    belfry_io_init(&io, on_read, NULL);
    rc[0] = belfry_io_start(&io, &sqe);
}

Test(own_loop, completes_the_users_own_operations)
{
    begin();
    expect_eq(pipe(io_pipe), 0);
    expect_rc(belfry_post(server.server, 0, start_read, NULL), 0);
    expect(readable_within(FIXTURE_PATIENCE_MS));
    settle();
    expect_rc(rc[0], 0);
    expect(!readable_within(0));
    expect_eq(write(io_pipe[1], "!", 1), 1);
    expect(readable_within(FIXTURE_PATIENCE_MS));
    settle();
    expect_eq(io_result, 1);
    expect_eq(io_byte, '!');
    end();
}

/* --- misuse ----------------------------------------------------------------------------------------------------------- */

static void turn_within(belfry_conn *conn)
{
    (void)conn;
    rc[0] = belfry_shard_turn(server.server, 0);
    rc[1] = belfry_server_wait(server.server);
}

static void *turn_elsewhere(void *argument)
{
    (void)argument;
    rc[2] = belfry_shard_turn(server.server, 0);
    rc[3] = belfry_server_wait(server.server);
    belfry_server_destroy(server.server); /* stops it and frees nothing */
    return NULL;
}

Test(own_loop, says_what_does_not_fit)
{
    belfry_server *s;
    pthread_t thread;
    server_fixture_init(&server);
    server.options.own_loop = true;
    server.options.shards = 2;
    expect_rc(belfry_server_create(&s, &server.options), BELFRY_EOPTION);
    expect_in(belfry_last_error(), "own_loop");
    server.options.shards = 1;
    expect_rc(belfry_server_create(&s, &server.options), 0);
    expect_rc(belfry_shard_turn(s, 0), BELFRY_ESTATE);
    expect_rc(belfry_shard_fd(s, 0), BELFRY_ESTATE);
    expect_rc(belfry_server_start(s), 0);
    expect_rc(belfry_shard_turn(s, 1), BELFRY_EOPTION);
    expect_rc(belfry_shard_fd(s, 1), BELFRY_EOPTION);
    belfry_server_destroy(s);

    server.options.own_loop = false;
    server_fixture_start(&server);
    expect_rc(belfry_shard_turn(server.server, 0), BELFRY_ESTATE);
    expect_rc(belfry_shard_fd(server.server, 0), BELFRY_ESTATE);
    server_fixture_stop(&server);

    script = turn_within;
    begin();
    settle();
    belfry_client *c = server_fixture_connect();
    expect_rc(belfry_send_one_way(c, "x", 1), 0);
    loop_until(conn_seen != NULL);
    expect_rc(rc[0], BELFRY_ESTATE);
    expect_rc(rc[1], BELFRY_ESTATE);

    /* Between turns this thread is not the shard's. */
    expect_rc(belfry_push(conn_seen, "x", 1), BELFRY_ETHREAD);
    belfry_timer_init(&timers[0], note, NULL);
    expect_rc(belfry_timer_set(&timers[0], 0), BELFRY_ETHREAD);
    expect(belfry_alloc(1) == NULL);

    expect_eq(pthread_create(&thread, NULL, turn_elsewhere, NULL), 0);
    pthread_join(thread, NULL);
    expect_rc(rc[2], BELFRY_ETHREAD);
    expect_rc(rc[3], BELFRY_ETHREAD);
    end(); /* though it was asked to stop already */
    belfry_close(c);
}

static belfry_ticket ticket;

static void on_message_defer(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    rc[0] = belfry_defer(conn, m, &ticket, NULL);
}

Test(own_loop, answers_deferred_requests_between_turns)
{
    belfry_message m;
    server_fixture_init(&server);
    server.options.on_message = on_message_defer;
    server.options.own_loop = true;
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect();
    expect_rc(belfry_send(c, "x", 1, NULL), 0);
    loop_until(ticket.request != 0);
    settle();
    expect_rc(rc[0], 0);
    expect_rc(belfry_ticket_wait(server.server, &ticket, BELFRY_FOREVER), BELFRY_ETHREAD);
    expect_rc(belfry_complete(server.server, &ticket, "y", 1), 0);
    expect(readable_within(FIXTURE_PATIENCE_MS));
    settle();
    expect_rc(belfry_receive(c, &m, 0), 0);
    expect_eq(m.size, 1);
    belfry_release(c, &m);
    belfry_close(c);
    end();
}

static void fork_child(void *argument)
{
    (void)argument;
    int turned = belfry_shard_turn(server.server, 0), fd = belfry_shard_fd(server.server, 0);
    belfry_server_destroy(server.server);
    _exit(turned == BELFRY_ESTATE && fd == BELFRY_ESTATE ? 0 : 1);
}

Test(own_loop, belongs_to_the_parent_after_a_fork)
{
    struct caller caller = {.calls = 100};
    begin();
    expect_eq(fixture_reap(fixture_child(fork_child, NULL)), 0);
    start_caller(&caller);
    loop_until(load_acquire(&done) == 1);
    pthread_join(caller.thread, NULL);
    expect_rc(caller.rc, 0);
    end();
}

/* --- the end ------------------------------------------------------------------------------------------------------------ */

Test(own_loop, tells_its_clients_when_it_stops)
{
    struct caller callers[2] = {{.calls = 1, .stays = true}, {.calls = 1, .stays = true}};
    begin();
    for (int i = 0; i < 2; i++)
        start_caller(&callers[i]);
    loop_until(load_acquire(&ready) == 2);
    end();
    for (int i = 0; i < 2; i++) {
        pthread_join(callers[i].thread, NULL);
        expect_rc(callers[i].rc, BELFRY_EGONE);
    }
    expect_eq(disconnected, 2);
}

static void *stop_when_done(void *argument)
{
    struct caller *callers = argument;
    for (int i = 0; i < 2; i++)
        pthread_join(callers[i].thread, NULL);
    belfry_server_stop(server.server);
    return NULL;
}

/* wait runs the turns itself: also after some were run by hand, and the shard dozes. */
Test(own_loop, can_be_waited_for)
{
    struct caller callers[2] = {{.calls = 2000}, {.calls = 2000}};
    pthread_t stopper;
    begin();
    settle();
    for (int i = 0; i < 2; i++)
        start_caller(&callers[i]);
    expect_eq(pthread_create(&stopper, NULL, stop_when_done, callers), 0);
    expect_rc(belfry_server_wait(server.server), 0);
    pthread_join(stopper, NULL);
    for (int i = 0; i < 2; i++)
        expect_rc(callers[i].rc, 0);
    expect_rc(belfry_shard_turn(server.server, 0), BELFRY_ESTATE);
    expect_rc(belfry_server_start(server.server), 0); /* and again */
    expect(readable_within(0));
    end();
}

Test(own_loop, ends_when_it_is_replaced_and_its_last_client_has_gone)
{
    belfry_server *successor;
    begin();
    settle();
    belfry_client *c = server_fixture_connect();
    settle();
    belfry_server_options o = server.options;
    o.own_loop = false;
    expect_rc(belfry_server_create(&successor, &o), 0);
    expect_rc(belfry_server_start(successor), 0);
    expect(readable_within(FIXTURE_PATIENCE_MS));
    settle();
    expect_rc(belfry_send(c, "x", 1, NULL), 0); /* it is still served */
    expect(readable_within(FIXTURE_PATIENCE_MS));
    settle();
    belfry_message m;
    expect_rc(belfry_receive(c, &m, 0), 0);
    belfry_release(c, &m);
    belfry_close(c);
    int turned = 1;
    while (turned == 1) {
        expect(readable_within(FIXTURE_PATIENCE_MS));
        turned = belfry_shard_turn(server.server, 0);
    }
    expect_rc(turned, 0);
    expect_rc(belfry_server_wait(server.server), 0);
    belfry_server_destroy(successor);
    server_fixture_stop(&server);
}

static void *start_and_leave(void *argument)
{
    (void)argument;
    rc[0] = belfry_server_create(&server.server, &server.options);
    rc[1] = belfry_server_start(server.server);
    while (rc[1] == 0 && load_acquire(&ready) == 0)
        rc[2] = belfry_shard_turn(server.server, 0);
    return NULL;
}

/* Its thread ends as a killed server's does; what it leaves behind is never freed. */
Test(own_loop, is_dead_for_its_clients_when_its_thread_ends)
{
    struct caller caller = {.calls = 1, .stays = true};
    pthread_t thread;
    server_fixture_init(&server);
    server.options.on_message = on_message;
    server.options.own_loop = true;
    expect_eq(pthread_create(&thread, NULL, start_and_leave, NULL), 0);
    expect(eventually(fixture_count_files(server.root, FIXTURE_SERVICE) == 1));
    belfry_client *c = NULL;
    expect(eventually(belfry_connect(&c, FIXTURE_SERVICE, NULL) == 0));
    belfry_close(c);
    start_caller(&caller);
    pthread_join(thread, NULL);
    pthread_join(caller.thread, NULL);
    expect_rc(rc[1], 0);
    expect_rc(rc[2], 1);
    expect_rc(caller.rc, BELFRY_EGONE);
    fixture_remove_tree(server.root);
}

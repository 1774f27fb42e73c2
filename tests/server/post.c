/* SPDX-License-Identifier: MIT */
/* Tests of server/post.c and mailbox.c: what other threads ask of a shard, through a real server. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/order.h"
#include "expect.h"
#include "server/conn.h"
#include "server_fixture.h"

static struct server_fixture server;

static struct {
    belfry_conn_id id[8]; /* by slot */
    unsigned connected, disconnected;
    unsigned shards_started, shards_stopped, disconnected_before_stop;
    int start_rc;
} seen;

static int on_connect(belfry_conn *conn, void *user)
{
    (void)user;
    seen.id[belfry_conn_slot(conn)] = belfry_conn_get_id(conn);
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

static void prepare(uint32_t shards)
{
    server_fixture_init(&server);
    server.options.shards = shards;
    server.options.on_connect = on_connect;
    server.options.on_disconnect = on_disconnect;
}

static void begin(uint32_t shards)
{
    prepare(shards);
    server_fixture_start(&server);
}

static belfry_client *connect_and_wait(void)
{
    unsigned before = load_acquire(&seen.connected);
    belfry_client *c = server_fixture_connect();
    expect(eventually(load_acquire(&seen.connected) == before + 1));
    return c;
}

static belfry_conn_id id_of(const belfry_client *c)
{
    return seen.id[belfry_client_slot(c)];
}

static void expect_push(belfry_client *c, const char *wanted)
{
    belfry_message m;
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.kind, BELFRY_PUSH);
    expect_eq(m.size, strlen(wanted));
    expect(memcmp(m.data, wanted, m.size) == 0);
    belfry_release(c, &m);
}

TestSuite(post, .timeout = 120);

/* --- work ---------------------------------------------------------------------------------------------------------- */

#define POSTERS 4
#define POSTS 20000

static struct {
    uint32_t next[POSTERS]; /* which post of each thread comes next */
    uint32_t run, out_of_order, elsewhere;
    uint32_t accepted, refused;
    pthread_t shard;
} work;

static void count(void *user)
{
    uint32_t poster = (uint32_t)((uintptr_t)user >> 24), number = (uintptr_t)user & 0xffffff;
    if (work.run == 0)
        work.shard = pthread_self();
    work.elsewhere += !pthread_equal(work.shard, pthread_self());
    work.out_of_order += work.next[poster] != number;
    work.next[poster] = number + 1;
    add_release(&work.run, 1);
}

static void *post_many(void *context)
{
    uintptr_t poster = (uintptr_t)context;
    for (uintptr_t i = 0; i < POSTS; i++) {
        if (belfry_post(server.server, 0, count, (void *)(poster << 24 | i)) != 0)
            break;
        add_release(&work.accepted, 1);
    }
    return NULL;
}

static void run_posters(pthread_t threads[POSTERS])
{
    for (uintptr_t i = 0; i < POSTERS; i++)
        expect_eq(pthread_create(&threads[i], NULL, post_many, (void *)i), 0);
}

static void join_posters(pthread_t threads[POSTERS])
{
    for (int i = 0; i < POSTERS; i++)
        pthread_join(threads[i], NULL);
}

Test(post, runs_every_post_once_on_the_shards_thread_in_the_order_of_each_poster)
{
    pthread_t threads[POSTERS];
    begin(1);
    run_posters(threads);
    join_posters(threads);
    expect(eventually(load_acquire(&work.run) == POSTERS * POSTS));
    expect_eq(work.accepted, POSTERS * POSTS);
    expect_eq(work.out_of_order, 0);
    expect_eq(work.elsewhere, 0);
    expect(!pthread_equal(work.shard, pthread_self()));
    server_fixture_stop(&server);
    expect_eq(work.run, POSTERS * POSTS);
}

Test(post, runs_exactly_what_it_accepted_when_the_server_stops_meanwhile)
{
    for (int round = 0; round < 20; round++) {
        pthread_t threads[POSTERS];
        memset(&work, 0, sizeof work);
        begin(1);
        run_posters(threads);
        expect(eventually(load_acquire(&work.run) > (uint32_t)round * 100));
        belfry_server_stop(server.server);
        expect_rc(belfry_server_wait(server.server), 0);
        join_posters(threads);
        expect_eq(work.run, work.accepted);
        expect_eq(work.out_of_order, 0);
        server_fixture_stop(&server);
    }
}

static void post_again(void *user)
{
    (void)user;
    add_release(&work.run, 1);
    if (belfry_post(server.server, 0, post_again, NULL) < 0)
        add_release(&work.refused, 1);
}

Test(post, ends_with_the_server_even_if_each_post_posts_another)
{
    begin(1);
    expect_rc(belfry_post(server.server, 0, post_again, NULL), 0);
    expect(eventually(load_acquire(&work.run) > 1000));
    server_fixture_stop(&server);
    expect_eq(work.refused, 1);
}

Test(post, is_refused_unless_the_server_runs)
{
    prepare(2);
    expect_rc(belfry_server_create(&server.server, &server.options), 0);
    expect_rc(belfry_post(server.server, 0, count, NULL), BELFRY_ESTATE);
    expect_rc(belfry_push_to(server.server, 0, "x", 1), BELFRY_ESTATE);
    expect_rc(belfry_broadcast(server.server, "x", 1), BELFRY_ESTATE);
    for (int round = 0; round < 2; round++) {
        expect_rc(belfry_server_start(server.server), 0);
        expect_rc(belfry_post(server.server, 0, count, NULL), 0);
        expect_rc(belfry_post(server.server, 1, count, (void *)(uintptr_t)(1 << 24)), 0);
        expect_rc(belfry_post(server.server, 2, count, NULL), BELFRY_EOPTION);
        expect_in(belfry_last_error(), "shard 2");
        belfry_server_stop(server.server);
        expect_rc(belfry_server_wait(server.server), 0);
        expect_rc(belfry_post(server.server, 0, count, NULL), BELFRY_ESTATE);
        expect_in(belfry_last_error(), "not running");
    }
    server_fixture_stop(&server);
}

/* --- push ---------------------------------------------------------------------------------------------------------- */

Test(post, pushes_to_one_conn_by_its_id)
{
    begin(2);
    belfry_client *a = connect_and_wait(), *b = connect_and_wait();
    expect_rc(belfry_push_to(server.server, id_of(b), "for b", 5), 0);
    expect_rc(belfry_push_to(server.server, id_of(a), "", 0), 0);
    expect_push(b, "for b");
    expect_push(a, "");
    belfry_message m;
    expect_rc(belfry_receive(a, &m, 0), -ETIMEDOUT);
    belfry_close(a);
    belfry_close(b);
    server_fixture_stop(&server);
}

Test(post, never_pushes_to_the_next_tenant_of_a_slot)
{
    prepare(1);
    server.options.max_slots = server.options.warm_pool = 1;
    server_fixture_start(&server);
    belfry_client *first = connect_and_wait();
    belfry_conn_id id = id_of(first);
    belfry_close(first);
    expect(eventually(load_acquire(&seen.disconnected) == 1));
    belfry_client *second = connect_and_wait();
    expect_eq(belfry_client_slot(second), 0);
    expect_rc(belfry_push_to(server.server, id, "late", 4), 0);
    expect_rc(belfry_push_to(server.server, id_of(second), "yours", 5), 0);
    expect_push(second, "yours");
    expect_eq(server_fixture_counters().pushes_dropped, 1);
    belfry_close(second);
    server_fixture_stop(&server);
}

Test(post, refuses_ids_that_no_conn_can_have_and_messages_that_are_too_large)
{
    static char large[2000];
    begin(1);
    belfry_client *c = connect_and_wait();
    expect_rc(belfry_push_to(server.server, 1ull << 50, "x", 1), BELFRY_EOPTION);
    expect_rc(belfry_push_to(server.server, UINT64_MAX, "x", 1), BELFRY_EOPTION);
    expect_rc(belfry_push_to(server.server, id_of(c), large, sizeof large), BELFRY_ETOOBIG);
    expect_rc(belfry_broadcast(server.server, large, sizeof large), BELFRY_ETOOBIG);
    expect_rc(belfry_push_to(server.server, 8ull << 29, "x", 1), 0); /* a slot that there is not: over, as any other */
    expect_rc(belfry_push_to(server.server, 0x1fffffull << 29, "x", 1), 0);
    expect(eventually(server_fixture_counters().pushes_dropped == 2));
    belfry_close(c);
    server_fixture_stop(&server);
}

Test(post, broadcasts_to_every_conn_of_every_shard)
{
    belfry_client *c[8];
    begin(2);
    for (int i = 0; i < 8; i++)
        c[i] = connect_and_wait();
    expect_rc(belfry_broadcast(server.server, "to all", 6), 0);
    expect_rc(belfry_broadcast(server.server, "again", 5), 0);
    for (int i = 0; i < 8; i++) {
        expect_push(c[i], "to all");
        expect_push(c[i], "again");
        belfry_close(c[i]);
    }
    expect_eq(server_fixture_counters().pushes_dropped, 0);
    server_fixture_stop(&server);
}

Test(post, drops_and_counts_what_a_slow_reader_has_no_room_for)
{
    prepare(1);
    server.options.outbox_bytes_max = 4096;
    server_fixture_start(&server);
    belfry_client *slow = connect_and_wait(), *quick = connect_and_wait();
    char data[500] = "news";
    for (int i = 0; i < 100; i++) {
        expect_rc(belfry_broadcast(server.server, data, sizeof data), 0);
        belfry_message m;
        expect_rc(belfry_receive(quick, &m, server_fixture_patience()), 0);
        belfry_release(quick, &m);
    }
    uint64_t dropped = server_fixture_counters().pushes_dropped;
    expect(dropped > 50 && dropped < 100);
    for (uint64_t i = 0; i < 100 - dropped; i++) {
        belfry_message m;
        expect_rc(belfry_receive(slow, &m, server_fixture_patience()), 0);
        belfry_release(slow, &m);
    }
    belfry_close(slow);
    belfry_close(quick);
    server_fixture_stop(&server);
}

static struct {
    belfry_conn_id id;
    bool found, done;
} look;

static void find(void *user)
{
    (void)user;
    belfry_conn *conn = belfry_conn_find(server.server, look.id);
    look.found = conn != NULL && belfry_conn_get_id(conn) == look.id;
    if (look.found)
        belfry_push(conn, "found", 5);
    store_release(&look.done, true);
}

Test(post, finds_a_conn_on_its_own_shard_only)
{
    begin(2);
    belfry_client *c = connect_and_wait();
    uint32_t shard = belfry_client_shard(c);
    look.id = id_of(c);
    expect_eq(belfry_conn_id_shard(look.id), shard);
    expect(belfry_conn_find(server.server, look.id) == NULL); /* this thread is no shard */
    expect_rc(belfry_post(server.server, 1 - shard, find, NULL), 0);
    expect(eventually(load_acquire(&look.done)));
    expect(!look.found);
    look.done = false;
    expect_rc(belfry_post(server.server, shard, find, NULL), 0);
    expect(eventually(load_acquire(&look.done)));
    expect(look.found);
    expect_push(c, "found");
    belfry_close(c);
    expect(eventually(load_acquire(&seen.disconnected) == 1));
    look.done = false;
    expect_rc(belfry_post(server.server, shard, find, NULL), 0);
    expect(eventually(load_acquire(&look.done)));
    expect(!look.found);
    server_fixture_stop(&server);
}

/* --- a shard's beginning and end ----------------------------------------------------------------------------------- */

static int on_shard_start(belfry_server *s, uint32_t shard, void *user)
{
    expect(user == &server);
    add_release(&seen.shards_started, 1u << 8 * shard);
    belfry_post(s, shard, count, NULL); /* may be used from here on */
    return shard == 1 ? seen.start_rc : 0;
}

static void on_shard_stop(belfry_server *s, uint32_t shard, void *user)
{
    expect(user == &server);
    expect_rc(belfry_post(s, shard, count, NULL), BELFRY_ESTATE);
    seen.disconnected_before_stop = load_acquire(&seen.disconnected);
    add_release(&seen.shards_stopped, 1u << 8 * shard);
}

static void prepare_hooks(void)
{
    prepare(2);
    server.options.on_shard_start = on_shard_start;
    server.options.on_shard_stop = on_shard_stop;
}

Test(post, tells_when_a_shard_starts_and_stops)
{
    prepare_hooks();
    server_fixture_start(&server);
    expect_eq(seen.shards_started, 0x0101);
    expect_eq(seen.shards_stopped, 0);
    belfry_client *c = connect_and_wait();
    expect(eventually(load_acquire(&work.run) == 2));
    belfry_server_stop(server.server);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(seen.shards_stopped, 0x0101);
    expect_eq(seen.disconnected_before_stop, 1);
    belfry_close(c);
    server_fixture_stop(&server);
}

Test(post, does_not_start_when_a_shard_says_no)
{
    prepare_hooks();
    seen.start_rc = -ENOTBLK;
    expect_rc(belfry_server_create(&server.server, &server.options), 0);
    expect_rc(belfry_server_start(server.server), -ENOTBLK);
    expect_in(belfry_last_error(), "shard 1");
    expect_eq(seen.shards_started, 0x0101);
    expect_eq(seen.shards_stopped, 0x0001);
    expect_eq(work.run, 2); /* what was posted before has run all the same */
    expect_rc(belfry_post(server.server, 0, count, NULL), BELFRY_ESTATE);
    seen.start_rc = 0;
    expect_rc(belfry_server_start(server.server), 0);
    server_fixture_stop(&server);
    expect_eq(seen.shards_started, 0x0202);
    expect_eq(seen.shards_stopped, 0x0102);
}

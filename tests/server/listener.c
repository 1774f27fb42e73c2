/* SPDX-License-Identifier: MIT */
/*
 * Tests of server/listener.c: who comes, who goes, and what only looks like it.
 *
 * A raw client does the steps of a claim one by one, in whatever order a test wants. What the shard asks of a lock or a name,
 * and the removal of a name, go through functions of ours, so that a test can let something happen just before, or between two.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/order.h"
#include "base/os.h"
#include "client/client.h"
#include "expect.h"
#include "server/listener.h"
#include "server/shard.h"
#include "server_fixture.h"
#include "shm/doorbell.h"
#include "shm/lobby.h"
#include "shm/place.h"
#include "shm/segment.h"

static struct server_fixture server;
static unsigned connected, disconnected, messages;
static enum belfry_end last_end;
static uint32_t handler_entered, handler_may_go;

/* --- the seam ---------------------------------------------------------------------------------------------------------- */

int __real_bf_os_locked(int fd);
int __wrap_bf_os_locked(int fd);

static void (*in_next_look)(void); /* runs once, on the shard's thread, after the kernel was asked */
static int pretend_held;           /* this many answers are "held" */
static uint32_t looks, looks_of_turn, looks_of_turn_max;

int __wrap_bf_os_locked(int fd)
{
    int rc = __real_bf_os_locked(fd);
    if (bf_shard_self() == NULL)
        return rc;
    add_release(&looks, 1);
    looks_of_turn++;
    void (*hook)(void) = __atomic_exchange_n(&in_next_look, NULL, __ATOMIC_ACQ_REL);
    if (hook != NULL)
        hook();
    if (load_acquire(&pretend_held) > 0) {
        __atomic_sub_fetch(&pretend_held, 1, __ATOMIC_ACQ_REL);
        return 1;
    }
    return rc;
}

int __real_bf_os_unlink(int dir, const char *name);
int __wrap_bf_os_unlink(int dir, const char *name);
int __real_bf_os_stat_at(int dir, const char *name, struct bf_os_file *file);
int __wrap_bf_os_stat_at(int dir, const char *name, struct bf_os_file *file);

static void (*before_unlink)(void); /* of slot 0's lock file, on the shard's thread; each once */
static void (*before_stat)(void);
static uint32_t stats_until; /* that one comes */

static void run_once(void (**hook)(void), const char *name)
{
    if (bf_shard_self() == NULL || strcmp(name, "slot_0.lock") != 0)
        return;
    void (*run)(void) = __atomic_exchange_n(hook, NULL, __ATOMIC_ACQ_REL);
    if (run != NULL)
        run();
}

int __wrap_bf_os_unlink(int dir, const char *name)
{
    run_once(&before_unlink, name);
    return __real_bf_os_unlink(dir, name);
}

int __wrap_bf_os_stat_at(int dir, const char *name, struct bf_os_file *file)
{
    if (load_acquire(&before_stat) != NULL && strcmp(name, "slot_0.lock") == 0 && stats_until-- == 0)
        run_once(&before_stat, name);
    return __real_bf_os_stat_at(dir, name, file);
}

/* --- the server -------------------------------------------------------------------------------------------------------- */

static int on_connect(belfry_conn *conn, void *user)
{
    (void)conn;
    (void)user;
    add_release(&connected, 1);
    return 0;
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    (void)conn;
    (void)user;
    last_end = why;
    add_release(&disconnected, 1);
}

/* "block" keeps the shard busy until the test lets it go; all else is echoed. */
static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    if (m->size == 5 && memcmp(m->data, "block", 5) == 0) {
        store_release(&handler_entered, 1);
        while (load_acquire(&handler_may_go) == 0)
            fixture_pause();
        store_release(&handler_may_go, 0);
        store_release(&handler_entered, 0);
    }
    add_release(&messages, 1);
    if (m->kind == BELFRY_REQUEST)
        belfry_reply(conn, m, m->data, m->size);
}

static void prepare(void)
{
    server_fixture_init(&server);
    server.options.on_connect = on_connect;
    server.options.on_disconnect = on_disconnect;
    server.options.on_message = on_message;
}

static void block(belfry_client *c)
{
    expect_rc(belfry_send(c, "block", 5, NULL), 0);
    expect(eventually(load_acquire(&handler_entered) == 1));
}

static void unblock(void)
{
    store_release(&handler_may_go, 1);
}

static void expect_echo(belfry_client *c)
{
    belfry_message m;
    do { /* the answer to "block" may come first */
        expect_rc(belfry_call(c, "echo", 4, &m, server_fixture_patience()), 0);
    } while (m.size != 4);
    belfry_release(c, &m);
}

/* --- the raw client ------------------------------------------------------------------------------------------------------ */

struct raw {
    struct bf_lobby lobby;
    uint32_t slot;
    uint32_t generation;
    char lock[2 * FIXTURE_PATH_BYTES];
    int fd;
    struct belfry_abi_send *send;
    const struct belfry_abi_recv *recv;
};

static void raw_open(struct raw *r, uint32_t slot)
{
    char path[2 * FIXTURE_PATH_BYTES], name[64];
    *r = (struct raw){.slot = slot, .fd = -1};
    server_fixture_path(&server, path, "");
    int dir = bf_os_open_dir(BF_OS_CWD, path);
    expect_rc(bf_lobby_attach(&r->lobby, dir), 0);
    bf_os_close(dir);
    r->generation = BELFRY_SLOT_GENERATION(load_acquire(&lobby_slot(&r->lobby, slot)->state));
    snprintf(name, sizeof name, "shard-0/slot_%u.lock", slot);
    server_fixture_path(&server, r->lock, name);
}

static void raw_map(struct raw *r)
{
    char path[2 * FIXTURE_PATH_BYTES], name[64];
    void *map;
    snprintf(name, sizeof name, "segments/" FIXTURE_SERVICE "_%u_send", r->slot);
    server_fixture_path(&server, path, name);
    int fd = bf_os_open(BF_OS_CWD, path, BF_OS_READ_WRITE, 0);
    expect_eq(bf_os_map(fd, segment_bytes(4096), true, NULL, &map), 0);
    bf_os_close(fd);
    r->send = map;
    snprintf(name, sizeof name, "segments/" FIXTURE_SERVICE "_%u_recv", r->slot);
    server_fixture_path(&server, path, name);
    fd = bf_os_open(BF_OS_CWD, path, BF_OS_READ, 0);
    expect_eq(bf_os_map(fd, segment_bytes(4096), false, NULL, &map), 0);
    bf_os_close(fd);
    r->recv = map;
}

static void raw_create(struct raw *r)
{
    int fd = bf_os_open(BF_OS_CWD, r->lock, BF_OS_WRITE | BF_OS_CREATE_NEW, 0600);
    expect(fd >= 0);
    store_release(&r->fd, fd); /* the shard's thread may be waiting for it: lock_and_say_hello */
}

static void raw_lock(struct raw *r)
{
    expect_eq(bf_os_lock(r->fd), 0);
}

static void raw_hello(struct raw *r)
{
    r->send->hello_version = BELFRY_ABI_VERSION;
    r->send->hello_generation = r->generation;
    store_release(&r->send->hello, BELFRY_HELLO);
}

static void raw_ring(struct raw *r)
{
    doorbell_bump_send(r->send);
    bf_os_wake(&r->send->bell);
}

/* All of it: the conn is there. */
static void raw_attach(struct raw *r, uint32_t slot)
{
    raw_open(r, slot);
    raw_map(r);
    raw_create(r);
    raw_lock(r);
    raw_hello(r);
    raw_ring(r);
    expect(eventually(load_acquire(&r->recv->accepted) == 1));
}

static void raw_close(struct raw *r)
{
    bf_os_close(r->fd);
    r->fd = -1;
}

static bool lock_is_there(const struct raw *r)
{
    return access(r->lock, F_OK) == 0;
}

static struct raw raw;

TestSuite(listener, .timeout = 120);

/* --- coming ----------------------------------------------------------------------------------------------------------------- */

Test(listener, accepts_whoever_locks_and_says_hello)
{
    prepare();
    server_fixture_start(&server);
    raw_attach(&raw, 0);
    expect_eq(BELFRY_SLOT_STATE_OF(load_acquire(&lobby_slot(&raw.lobby, 0)->state)), BELFRY_SLOT_OPEN);
    raw_close(&raw);
    expect(eventually(load_acquire(&disconnected) == 1));
    expect_eq(last_end, BELFRY_END_DIED);
    expect(eventually(!lock_is_there(&raw)));
    server_fixture_stop(&server);
}

static void lock_and_say_hello(void)
{
    while (load_acquire(&raw.fd) < 0) /* the event may be quicker than raw_create()'s return */
        cpu_relax();
    raw_lock(&raw);
    raw_hello(&raw);
}

/* The server asks the kernel (not locked), then the client locks and says hello, then the server reads hello: that
   client lives. */
/* A slot that was made on demand has been offered as warm once more. */
Test(listener, says_in_the_lobby_that_a_cold_slot_is_open)
{
    prepare();
    server.options.warm_pool = 0;
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect();
    expect_echo(c);
    raw_open(&raw, belfry_client_slot(c));
    expect_eq(BELFRY_SLOT_STATE_OF(load_acquire(&lobby_slot(&raw.lobby, raw.slot)->state)), BELFRY_SLOT_OPEN);
    belfry_close(c);
    bf_lobby_detach(&raw.lobby);
    server_fixture_stop(&server);
}

Test(listener, does_not_take_a_client_for_dead_that_came_between_two_looks)
{
    prepare();
    server_fixture_start(&server);
    raw_open(&raw, 0);
    raw_map(&raw);
    store_release(&in_next_look, lock_and_say_hello);
    raw_create(&raw);
    expect(eventually(load_acquire(&raw.recv->accepted) == 1 || load_acquire(&raw.recv->end) != 0));
    raw_ring(&raw);
    belfry_client *c = server_fixture_connect();
    expect_echo(c); /* the server has gone round its loop */
    expect_eq(load_acquire(&raw.recv->end), BELFRY_END_NONE);
    expect_eq(load_acquire(&disconnected), 0);
    raw_close(&raw);
    expect(eventually(load_acquire(&disconnected) == 1));
    belfry_close(c);
    server_fixture_stop(&server);
}

/* All of it happens while the shard is busy, so that one look is all that the events lead to, and at that moment the
   kernel has not dropped the lock yet. */
Test(listener, looks_again_after_accepting_a_client_whose_lock_was_about_to_go)
{
    prepare();
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect();
    expect_echo(c);
    block(c);
    raw_open(&raw, belfry_client_slot(c) == 0 ? 1 : 0);
    raw_map(&raw);
    raw_create(&raw);
    raw_lock(&raw);
    raw_hello(&raw);
    raw_close(&raw);
    store_release(&pretend_held, 1);
    unblock();
    expect(eventually(load_acquire(&connected) == 2));
    expect(eventually(load_acquire(&disconnected) == 1));
    expect_eq(last_end, BELFRY_END_DIED);
    expect(eventually(!lock_is_there(&raw)));
    belfry_close(c);
    server_fixture_stop(&server);
}

Test(listener, notices_a_death_whose_lock_was_dropped_late)
{
    prepare();
    server_fixture_start(&server);
    raw_attach(&raw, 0);
    store_release(&pretend_held, 3); /* now, after 1 and after 2 ms more */
    raw_close(&raw);
    expect(eventually(load_acquire(&disconnected) == 1));
    expect_eq(load_acquire(&pretend_held), 0);
    server_fixture_stop(&server);
}

/* Two things wait for the clock then: its ring, which is looked at no more for a while, and its lock. */
Test(listener, notices_the_late_death_of_a_client_that_rang_for_nothing)
{
    prepare();
    server_fixture_start(&server);
    raw_attach(&raw, 0);
    while (server_fixture_counters().empty_rings < EMPTY_RINGS_MAX) { /* several may be heard as one */
        raw_ring(&raw);
        fixture_pause();
    }
    store_release(&pretend_held, 1);
    raw_close(&raw);
    expect(eventually(load_acquire(&disconnected) == 1));
    expect_eq(load_acquire(&pretend_held), 0);
    server_fixture_stop(&server);
}

/* Its ring is full of messages all the way round: read to the end of it, one would be at its beginning. */
Test(listener, ends_a_dead_client_whose_ring_has_no_end)
{
    prepare();
    server_fixture_start(&server);
    raw_open(&raw, 0);
    raw_map(&raw);
    raw_create(&raw);
    raw_lock(&raw);
    raw_hello(&raw);
    uint8_t *ring = (uint8_t *)raw.send + SEGMENT_HEADER_BYTES;
    for (uint32_t at = 0; at < server.options.ring_bytes; at += 64)
        *(struct belfry_abi_entry *)(void *)&ring[at] =
            (struct belfry_abi_entry){.length = 64, .kind = BELFRY_ONE_WAY, .id = at};
    raw_ring(&raw);
    expect(eventually(load_acquire(&messages) > 1000)); /* a living one may do that */
    raw_close(&raw);
    expect(eventually(load_acquire(&disconnected) == 1));
    expect_eq(last_end, BELFRY_END_DIED);
    server_fixture_stop(&server);
}

Test(listener, lets_a_client_speak_before_it_was_noticed)
{
    prepare();
    server_fixture_start(&server);
    belfry_client *busy = server_fixture_connect();
    expect_echo(busy);
    block(busy);
    belfry_client *c = server_fixture_connect();
    expect_rc(belfry_send_one_way(c, "early", 5), 0);
    expect_eq(load_acquire(&connected), 1);
    unblock();
    expect(eventually(load_acquire(&messages) == 3));
    expect_eq(load_acquire(&connected), 2);
    belfry_close(c);
    belfry_close(busy);
    server_fixture_stop(&server);
}

/* --- claims that come to nothing ------------------------------------------------------------------------------------------- */

Test(listener, takes_back_a_name_that_nobody_locks)
{
    prepare();
    server.options.claim_grace_ms = 50;
    server_fixture_start(&server);
    for (uint32_t slot = 0; slot < 8; slot += 7) { /* a warm one, a cold one */
        raw_open(&raw, slot);
        raw_create(&raw);
        expect(eventually(!lock_is_there(&raw)));
        raw_close(&raw);
    }
    expect(eventually(server_fixture_counters().refusals[BELFRY_END_UNFINISHED] == 2));
    expect_eq(load_acquire(&connected), 0);
    server_fixture_stop(&server);
}

Test(listener, takes_back_a_slot_whose_owner_never_says_hello)
{
    prepare();
    server.options.claim_grace_ms = 20;
    server_fixture_start(&server);
    raw_open(&raw, 0);
    raw_map(&raw);
    raw_create(&raw);
    raw_lock(&raw);
    expect(eventually(load_acquire(&raw.recv->end) == BELFRY_END_UNFINISHED));
    expect(eventually(!lock_is_there(&raw)));
    expect_eq(load_acquire(&connected), 0);
    server_fixture_stop(&server);
}

Test(listener, takes_back_a_slot_at_once_when_its_owner_dies_before_hello)
{
    prepare();
    server.options.claim_grace_ms = 100000;
    server_fixture_start(&server);
    raw_open(&raw, 1);
    raw_create(&raw);
    raw_lock(&raw);
    expect(eventually(load_acquire(&lobby_shard(&raw.lobby, 0)->active) == 1));
    fixture_pause();
    raw_close(&raw);
    expect(eventually(!lock_is_there(&raw)));
    expect_eq(server_fixture_counters().refusals[BELFRY_END_UNFINISHED], 1);
    server_fixture_stop(&server);
}

/* Its owner has another file of the same name, locked as well, and there was no moment without one. */
Test(listener, ends_a_conn_whose_lock_file_is_another_by_the_same_name)
{
    char another[2 * FIXTURE_PATH_BYTES];
    prepare();
    server_fixture_start(&server);
    raw_attach(&raw, 0);
    server_fixture_path(&server, another, "shard-0/.another");
    int fd = bf_os_open(BF_OS_CWD, another, BF_OS_WRITE | BF_OS_CREATE_NEW, 0600);
    expect_eq(bf_os_lock(fd), 0);
    expect_eq(rename(another, raw.lock), 0);
    expect(eventually(load_acquire(&disconnected) == 1));
    expect_eq(last_end, BELFRY_END_LOCK_GONE);
    expect(eventually(!lock_is_there(&raw)));
    bf_os_close(fd);
    raw_close(&raw);
    server_fixture_stop(&server);
}

/* --- many at once ------------------------------------------------------------------------------------------------------- */

#define MANY 200u

static int many_fds[MANY];
static bool counts_turns;

/* Runs at the beginning of every turn, since it posts itself: so the shard is never idle, either. */
static void count_turn(void *user)
{
    (void)user;
    store_relaxed(&looks_of_turn_max, bf_max(looks_of_turn_max, looks_of_turn));
    looks_of_turn = 0;
    if (load_acquire(&counts_turns))
        belfry_post(server.server, 0, count_turn, NULL);
}

static void count_turns(bool on)
{
    store_release(&counts_turns, on);
    if (on)
        expect_rc(belfry_post(server.server, 0, count_turn, NULL), 0);
}

/* The lock files of slots 20 and on, of this uid, which only root can make another's than its own. */
static void make_many(uint32_t count, uint32_t uid)
{
    char path[2 * FIXTURE_PATH_BYTES], name[SEGMENT_NAME_BYTES];
    server_fixture_path(&server, path, "shard-0");
    int dir = bf_os_open_dir(BF_OS_CWD, path);
    setfsuid(uid); /* of this thread alone */
    for (uint32_t i = 0; i < count; i++) {
        bf_lock_name(name, 20 + i);
        many_fds[i] = bf_os_open(dir, name, BF_OS_WRITE | BF_OS_CREATE_NEW, 0600);
    }
    setfsuid(geteuid());
    bf_os_close(dir);
    for (uint32_t i = 0; i < count; i++)
        expect(many_fds[i] >= 0);
}

static void start_with_many_slots(void)
{
    server.options.max_slots = 20 + MANY;
    server.options.claim_grace_ms = 100000;
    server.options.stall_ms = 0;
    server_fixture_start(&server);
    count_turns(true);
}

static void stop_with_many_slots(uint32_t made)
{
    for (uint32_t i = 0; i < made; i++)
        bf_os_close(many_fds[i]);
    count_turns(false);
    server_fixture_stop(&server);
}

/* A handler that takes long makes looks of a tenth of a second due at once. */
Test(listener, looks_at_few_of_many_unfinished_claims_in_one_turn)
{
    prepare();
    start_with_many_slots();
    belfry_client *c = server_fixture_connect();
    make_many(40, geteuid());
    raw_open(&raw, 0);
    expect(eventually(load_acquire(&lobby_shard(&raw.lobby, 0)->active) == 41));
    expect(eventually(load_acquire(&looks) > 40 * 5)); /* by now each is looked at every 32 ms or more */
    block(c);
    int64_t until = belfry_in_ms(150);
    while (belfry_now_ns() < until)
        fixture_pause();
    uint32_t before = load_acquire(&looks);
    store_relaxed(&looks_of_turn_max, 0);
    unblock();
    expect(eventually(load_acquire(&looks) >= before + 40));
    uint32_t most = load_relaxed(&looks_of_turn_max);
    expect(most > 0 && most <= 10);
    belfry_close(c);
    stop_with_many_slots(40);
}

/* While somebody is to be served, one whose user has enough already waits for its refusal, and is not looked at meanwhile. */
Test(listener, looks_at_claims_beyond_a_users_share_once_and_once_more)
{
    if (geteuid() != 0)
        cr_skip_test("only root can make another user's files");
    prepare();
    server.options.access = BELFRY_ACCESS_EVERYONE;
    server.options.uid_slots_max = 1;
    server.options.uid_connects_max = 1;
    start_with_many_slots();
    belfry_client *c = server_fixture_connect();
    block(c);
    make_many(MANY, 61002);
    uint32_t before = load_acquire(&looks);
    int64_t began = belfry_now_ns();
    unblock();
    expect(eventually(server_fixture_counters().refusals[BELFRY_END_QUOTA] == MANY - 1));
    uint32_t taken = load_acquire(&looks) - before;
    expect(taken >= MANY && taken <= 2 * MANY + 60);
    expect(belfry_now_ns() - began >= 40000000); /* 20 us for each are a sixteenth of the time */
    belfry_close(c);
    stop_with_many_slots(MANY);
}

Test(listener, refuses_a_hello_of_another_version)
{
    prepare();
    server_fixture_start(&server);
    raw_open(&raw, 0);
    raw_map(&raw);
    raw_create(&raw);
    raw_lock(&raw);
    raw.send->hello_version = BELFRY_ABI_VERSION + 1;
    raw.send->hello_generation = raw.generation;
    store_release(&raw.send->hello, BELFRY_HELLO);
    raw_ring(&raw);
    expect(eventually(load_acquire(&raw.recv->end) == BELFRY_END_VERSION));
    expect_eq(load_acquire(&connected), 0);
    server_fixture_stop(&server);
}

Test(listener, refuses_a_hello_of_another_generation)
{
    prepare();
    server_fixture_start(&server);
    raw_open(&raw, 0);
    raw_map(&raw);
    raw_create(&raw);
    raw_lock(&raw);
    raw.generation++;
    raw_hello(&raw);
    raw_ring(&raw);
    expect(eventually(load_acquire(&raw.recv->end) != BELFRY_END_NONE));
    expect_eq(load_acquire(&connected), 0);
    server_fixture_stop(&server);
}

/* A claimant that is stopped, or never says hello on purpose, must not keep the server from stopping. */
static void expect_stop_beside_claim(uint32_t slot)
{
    prepare();
    server.options.claim_grace_ms = 5000;
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect();
    expect_echo(c);
    block(c);
    if (slot == belfry_client_slot(c))
        slot ^= 1;
    raw_open(&raw, slot);
    raw_create(&raw); /* seen only after the server has begun to stop */
    raw_lock(&raw);
    belfry_server_stop(server.server);
    unblock();
    int64_t start = fixture_now_ms();
    expect_rc(belfry_server_wait(server.server), 0);
    expect(fixture_now_ms() - start < 4000);
    belfry_close(c);
    server_fixture_stop(&server);
}

Test(listener, stops_beside_an_unfinished_claim_of_a_warm_slot)
{
    expect_stop_beside_claim(0);
}

Test(listener, stops_beside_an_unfinished_claim_of_a_cold_slot)
{
    expect_stop_beside_claim(5);
}

static void create_and_lock_during_stop(void)
{
    belfry_server_stop(server.server);
}

/* The demand is in the queue, or half made, when the stop is noticed. */
Test(listener, stops_while_a_slot_is_being_made)
{
    prepare();
    server.options.claim_grace_ms = 5000;
    server.options.ring_bytes = 1 << 20; /* many bites */
    server_fixture_start(&server);
    store_release(&in_next_look, create_and_lock_during_stop);
    raw_open(&raw, 5);
    raw_create(&raw);
    raw_lock(&raw);
    int64_t start = fixture_now_ms();
    expect_rc(belfry_server_wait(server.server), 0);
    expect(fixture_now_ms() - start < 4000);
    server_fixture_stop(&server);
}

/* --- names that change hands -------------------------------------------------------------------------------------------- */

static int32_t found; /* the slot's state when its name was removed; -1: it has not been */

/* Whoever made the name removes it, and a client comes that knows how to read. */
static void somebody_else_comes(void)
{
    uint32_t word = load_acquire(&lobby_slot(&raw.lobby, 0)->state);
    enum belfry_abi_state state = BELFRY_SLOT_STATE_OF(word);
    unlink(raw.lock);
    store_release(&found, (int32_t)state);
    if (state != BELFRY_SLOT_WARM && state != BELFRY_SLOT_COLD)
        return;
    raw.generation = BELFRY_SLOT_GENERATION(word);
    raw_create(&raw);
    raw_lock(&raw);
}

static void start_with_one_slot(uint32_t warm)
{
    prepare();
    server.options.max_slots = 1;
    server.options.warm_pool = warm;
    server.options.claim_grace_ms = 20;
    server.options.access = BELFRY_ACCESS_EVERYONE;
    server_fixture_start(&server);
    raw_open(&raw, 0);
    store_release(&found, -1);
    store_release(&before_unlink, somebody_else_comes);
}

static bool slot_is(enum belfry_abi_state state)
{
    return BELFRY_SLOT_STATE_OF(load_acquire(&lobby_slot(&raw.lobby, 0)->state)) == state;
}

/* The slot was not to be had when its name was removed, and is now. */
static void expect_that_nobody_was_robbed(uint32_t warm)
{
    expect(eventually(load_acquire(&found) >= 0));
    expect(load_acquire(&found) != BELFRY_SLOT_WARM && load_acquire(&found) != BELFRY_SLOT_COLD);
    expect(eventually(slot_is(warm > 0 ? BELFRY_SLOT_WARM : BELFRY_SLOT_COLD)));
    belfry_client *c = server_fixture_connect();
    expect_echo(c);
    belfry_close(c);
    server_fixture_stop(&server);
}

static void refuse_another_users_claim(uint32_t warm)
{
    if (geteuid() != 0)
        cr_skip_test("only root can make another user's files");
    start_with_one_slot(warm);
    char path[2 * FIXTURE_PATH_BYTES];
    server_fixture_path(&server, path, "shard-0");
    int dir = bf_os_open_dir(BF_OS_CWD, path);
    setfsuid(61002); /* of this thread alone */
    int fd = bf_os_open(dir, "slot_0.lock", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600);
    setfsuid(geteuid());
    bf_os_close(dir);
    expect(fd >= 0);
    bf_os_close(fd);
    expect_that_nobody_was_robbed(warm);
}

Test(listener, removes_the_name_of_another_users_refused_claim_before_it_offers_the_warm_slot)
{
    refuse_another_users_claim(1);
}

Test(listener, removes_the_name_of_another_users_refused_claim_before_it_offers_the_cold_slot)
{
    refuse_another_users_claim(0);
}

Test(listener, removes_the_name_of_a_tenant_before_it_offers_the_slot)
{
    start_with_one_slot(1);
    raw_attach(&raw, 0);
    raw_close(&raw);
    expect_that_nobody_was_robbed(1);
}

static void junk_at_a_slots_name(uint32_t warm)
{
    start_with_one_slot(warm);
    expect_eq(symlink("/nowhere", raw.lock), 0);
    expect_that_nobody_was_robbed(warm);
}

Test(listener, removes_junk_at_a_warm_slots_name_while_nobody_can_take_it)
{
    junk_at_a_slots_name(1);
}

Test(listener, removes_junk_at_a_cold_slots_name_while_nobody_can_take_it)
{
    junk_at_a_slots_name(0);
}

static void junk_goes_and_a_client_comes(void)
{
    expect_eq(unlink(raw.lock), 0);
    raw_create(&raw);
    raw_lock(&raw);
}

/* Between the look that has found junk and the one that follows when the slot cannot be taken any more. */
Test(listener, serves_a_client_that_came_in_place_of_junk)
{
    prepare();
    server.options.max_slots = server.options.warm_pool = 1;
    server_fixture_start(&server);
    raw_open(&raw, 0);
    raw_map(&raw);
    stats_until = 1;
    store_release(&before_stat, junk_goes_and_a_client_comes);
    expect_eq(symlink("/nowhere", raw.lock), 0);
    expect(eventually(load_acquire(&raw.fd) >= 0));
    raw_hello(&raw);
    raw_ring(&raw);
    expect(eventually(load_acquire(&raw.recv->accepted) == 1));
    expect(lock_is_there(&raw));
    raw_close(&raw);
    expect(eventually(load_acquire(&disconnected) == 1));
    server_fixture_stop(&server);
}

/* One that does not want the slot after all says so, and nobody waits for the end of its grace. */
Test(listener, frees_the_slot_of_a_claim_that_was_withdrawn)
{
    const struct belfry_abi_claim word = {.version = BELFRY_CLAIM_WITHDRAWN};
    prepare();
    server.options.max_slots = server.options.warm_pool = 1;
    server.options.claim_grace_ms = 100000;
    server_fixture_start(&server);
    for (int before = 1; before >= 0;
         before--) { /* when the server looks for the first time; or at a claim that it knows */
        raw_open(&raw, 0);
        raw_create(&raw);
        if (before)
            expect_rc(bf_os_write_at(raw.fd, &word, sizeof word, 0), 0);
        else
            expect(eventually(load_acquire(&lobby_shard(&raw.lobby, 0)->active) == 1));
        expect_rc(bf_os_write_at(raw.fd, &word, sizeof word, 0), 0);
        raw_close(&raw);
        expect(eventually(!lock_is_there(&raw) && slot_is(BELFRY_SLOT_WARM)));
    }
    belfry_client *c = server_fixture_connect();
    expect_echo(c);
    belfry_close(c);
    server_fixture_stop(&server);
}

/* --- junk ----------------------------------------------------------------------------------------------------------------- */

Test(listener, removes_names_that_are_no_slots_lock_and_counts_each_once)
{
    static const char *const names[] = {"slot_07.lock", "slot_+7.lock", "slot_4294967303.lock", "slot_8.lock",
                                        "slot_-1.lock", "slot_1.lock.", "slot_.lock",           "anything"};
    char locks[2 * FIXTURE_PATH_BYTES], path[2 * FIXTURE_PATH_BYTES];
    prepare();
    server_fixture_start(&server);
    server_fixture_path(&server, locks, "shard-0");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "shard-0/%s", names[i]);
        server_fixture_path(&server, path, name);
        close(open(path, O_CREAT | O_WRONLY, 0600));
        expect(eventually(access(path, F_OK) != 0));
    }
    belfry_client *c = server_fixture_connect();
    expect_echo(c);
    expect_eq(server_fixture_counters().junk_names, sizeof names / sizeof names[0]);
    expect(eventually(fixture_count_files(locks, "") == 1)); /* the pool holds a name while it warms a slot */
    belfry_close(c);
    server_fixture_stop(&server);
}

Test(listener, removes_what_is_no_file_under_a_slots_name)
{
    char locks[2 * FIXTURE_PATH_BYTES], path[2 * FIXTURE_PATH_BYTES], inner[2 * FIXTURE_PATH_BYTES + 16];
    prepare();
    server_fixture_start(&server);
    server_fixture_path(&server, locks, "shard-0");
    server_fixture_path(&server, path, "shard-0/slot_3.lock");
    expect_eq(mkfifo(path, 0600), 0);
    expect(eventually(access(path, F_OK) != 0));
    expect_eq(mkdir(path, 0700), 0);
    expect(eventually(access(path, F_OK) != 0));
    expect_eq(symlink("/etc/passwd", path), 0);
    expect(eventually(faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0));
    snprintf(inner, sizeof inner, "%s/victim", server.root);
    close(open(inner, O_CREAT | O_WRONLY, 0600));
    expect_eq(link(inner, path), 0);
    expect(eventually(access(path, F_OK) != 0));
    expect_eq(access(inner, F_OK), 0);
    /* One that cannot be removed is moved aside. */
    server_fixture_path(&server, inner, "full");
    expect_eq(mkdir(inner, 0700), 0);
    char file[sizeof inner + 16];
    snprintf(file, sizeof file, "%s/file", inner);
    close(open(file, O_CREAT | O_WRONLY, 0600));
    expect_eq(rename(inner, path), 0);
    expect(eventually(access(path, F_OK) != 0));
    expect(eventually(server_fixture_counters().junk_names == 5));
    expect_eq(fixture_count_files(locks, ""), 0);
    server_fixture_stop(&server);
}

Test(listener, survives_a_lock_file_that_it_may_not_open)
{
    if (geteuid() == 0)
        cr_skip_test("root may open every file");
    prepare();
    server.options.max_slots = server.options.warm_pool = 2;
    server_fixture_start(&server);
    raw_open(&raw, 0);
    raw.fd = bf_os_open(BF_OS_CWD, raw.lock, BF_OS_WRITE | BF_OS_CREATE_NEW, 0);
    expect(raw.fd >= 0);
    expect(eventually(!lock_is_there(&raw)));
    raw_close(&raw);
    server_fixture_stop(&server);
}

/* --- lost events ------------------------------------------------------------------------------------------------------------- */

Test(listener, finds_everything_after_its_queue_overflowed)
{
    int limit = 0;
    FILE *file = fopen("/proc/sys/fs/inotify/max_queued_events", "r");
    expect(file != NULL && fscanf(file, "%d", &limit) == 1);
    fclose(file);
    if (limit > 100000)
        cr_skip_test("fs.inotify.max_queued_events is %d: flooding it would take too long", limit);
    char path[2 * FIXTURE_PATH_BYTES];
    prepare();
    server_fixture_start(&server);
    belfry_client *leaver, *c = server_fixture_connect();
    expect_echo(c);
    leaver = server_fixture_connect();
    expect_echo(leaver);
    block(c);
    server_fixture_path(&server, path, "shard-0/.flood");
    for (int i = 0; i <= limit; i++) {
        close(open(path, O_CREAT | O_WRONLY, 0600));
        unlink(path);
    }
    /* Neither of these two is told: one dies without a goodbye, one comes. */
    bf_os_close(leaver->lock_fd);
    leaver->lock_fd = -1;
    raw_open(&raw, 5);
    raw_create(&raw);
    raw_lock(&raw);
    unblock();
    expect(eventually(load_acquire(&disconnected) == 1));
    expect_eq(last_end, BELFRY_END_DIED);
    expect(eventually(server_fixture_counters().slots_made_on_demand >= 1));
    raw_map(&raw);
    raw_hello(&raw);
    raw_ring(&raw);
    expect(eventually(load_acquire(&raw.recv->accepted) == 1));
    expect(server_fixture_counters().rescans >= 1);
    belfry_close(leaver);
    belfry_close(c);
    server_fixture_stop(&server);
}

/* --- bell groups --------------------------------------------------------------------------------------------------------------- */

/*
 * The leader of a bell group has claimed its slot but is no conn yet when its member's reply comes: the reply rings the
 * member's own bell, at which nobody listens. The leader's bell must be rung when it is accepted.
 */
Test(listener, rings_a_leader_that_is_accepted_after_its_members_reply)
{
    prepare();
    server_fixture_start(&server);
    belfry_client *member = server_fixture_connect();
    expect_echo(member);
    raw_open(&raw, belfry_client_slot(member) == 0 ? 1 : 0);
    raw_map(&raw);
    raw_create(&raw);
    raw_lock(&raw);
    expect(eventually(load_acquire(&lobby_shard(&raw.lobby, 0)->active) == 2));

    store_relaxed(&member->send->bell_at, BELFRY_BELL_AT(raw.slot, raw.generation));
    uint32_t value = doorbell_park_client(raw.send, raw.recv); /* the group sleeps */
    full_fence();
    expect_rc(belfry_send(member, "x", 1, NULL), 0);
    expect(eventually(!ring_is_empty(&member->in)));
    raw_hello(&raw);
    raw_ring(&raw);
    expect(eventually(load_acquire(&raw.recv->accepted) == 1));
    expect(eventually(load_acquire(&raw.recv->bell) != value));
    store_relaxed(&member->send->bell_at, 0);
    raw_close(&raw);
    belfry_close(member);
    server_fixture_stop(&server);
}

Test(listener, rings_the_leader_for_its_member_and_falls_back_when_there_is_none)
{
    prepare();
    server_fixture_start(&server);
    belfry_client *member = server_fixture_connect(), *leader = server_fixture_connect();
    expect_echo(member);
    expect_echo(leader);
    /* What it answered is read before its bells are rung: a ring that is still to come would count in the first case. */
    expect(eventually(load_acquire(&member->shard->asleep) != 0));
    const uint64_t good = BELFRY_BELL_AT(leader->slot, leader->generation);
    const struct {
        uint64_t at;
        bool leads;
    } cases[] = {{good, true},
                 {good + 1, false},                       /* another generation */
                 {BELFRY_BELL_AT(7, 0), false},           /* nobody there */
                 {BELFRY_BELL_AT(4000000000u, 0), false}, /* no such slot */
                 {BELFRY_BELL_AT(member->slot, member->generation), false /* itself: a chain */},
                 {1, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        belfry_message m;
        store_relaxed(&member->send->bell_at, cases[i].at);
        uint32_t of_leader = doorbell_park_client(leader->send, leader->recv);
        uint32_t of_member = doorbell_park_client(member->send, member->recv);
        full_fence();
        expect_rc(belfry_send(member, "x", 1, NULL), 0);
        const uint32_t *rung = cases[i].leads ? &leader->recv->bell : &member->recv->bell;
        const uint32_t *other = cases[i].leads ? &member->recv->bell : &leader->recv->bell;
        expect(eventually(load_acquire(rung) == (cases[i].leads ? of_leader : of_member) + 1));
        expect_eq(load_acquire(other), cases[i].leads ? of_member : of_leader);
        expect_rc(belfry_receive(member, &m, server_fixture_patience()), 0);
        belfry_release(member, &m);
    }
    store_relaxed(&member->send->bell_at, 0);
    belfry_close(leader);
    belfry_close(member);
    server_fixture_stop(&server);
}

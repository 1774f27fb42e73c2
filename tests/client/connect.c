/* SPDX-License-Identifier: MIT */
/* Tests of client/connect.c and claim.c: getting a slot, the many ways of not getting one, fork, leaving. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/order.h"
#include "base/os.h"
#include "client/client.h"
#include "expect.h"
#include "fake_server.h"

static struct fake_server fake;

TestSuite(connect, .timeout = 60);

static belfry_client *connected(void)
{
    belfry_client *c;
    expect_rc(belfry_connect(&c, FAKE_SERVICE, NULL), 0);
    return c;
}

static void expect_refused(const char *service, int wanted, const char *words)
{
    belfry_client *c = (belfry_client *)&fake;
    expect_rc(belfry_connect(&c, service, NULL), wanted);
    expect(c == NULL);
    expect_in(belfry_last_error(), words);
}

/* --- who is there -------------------------------------------------------------------------------------------------------- */

Test(connect, takes_a_warm_slot_and_says_hello_at_once)
{
    fake_open(&fake, 2);
    belfry_client *c = connected();
    uint32_t slot = belfry_client_slot(c);
    expect(slot < 2);
    expect_eq(belfry_client_instance(c), 7);
    expect_eq(belfry_client_shard(c), 0);
    expect_eq(belfry_message_bytes_max(c), 1008);
    const struct belfry_abi_send *send = fake.slots[slot].send;
    expect_eq(send->hello, BELFRY_HELLO);
    expect_eq(send->hello_pid, getpid());
    expect_eq(send->hello_generation, 0);
    expect_eq(send->hello_version, BELFRY_ABI_VERSION);
    expect_eq(send->bell, 1);                       /* parked = DATA: hello rings */
    expect_rc(belfry_send(c, "first", 5, NULL), 0); /* before anybody has accepted it */
    struct ring_entry e;
    expect_eq(fake_hear(&fake, slot, &e), 1);
    expect(e.kind == BELFRY_REQUEST && e.bytes == 5);
    belfry_close(c);
    fake_close(&fake);
}

Test(connect, holds_the_lock_of_its_slot_until_it_leaves)
{
    char path[2 * FIXTURE_PATH_BYTES], name[64];
    fake_open(&fake, 1);
    belfry_client *c = connected();
    snprintf(name, sizeof name, "shard-0/slot_%u.lock", belfry_client_slot(c));
    fake_path(&fake, path, name);
    int fd = bf_os_open(BF_OS_CWD, path, BF_OS_READ, 0);
    struct stat st;
    expect_eq(fstat(fd, &st), 0);
    expect_eq(st.st_mode, S_IFREG | 0600);
    expect_eq(bf_os_locked(fd), 1);
    belfry_close(c);
    expect_eq(bf_os_locked(fd), 0);
    close(fd);
    fake_close(&fake);
}

Test(connect, says_goodbye_twice)
{
    fake_open(&fake, 1);
    belfry_client *c = connected();
    expect_rc(belfry_send_one_way(c, "x", 1), 0);
    belfry_close(c);
    struct ring_entry e;
    expect_eq(fake_hear(&fake, 0, &e), 1);
    expect_eq(e.kind, BELFRY_ONE_WAY);
    expect_eq(fake_hear(&fake, 0, &e), 1); /* in its place behind the last message ... */
    expect_eq(e.kind, BELFRY_BYE);
    expect_eq(fake.slots[0].send->hello, BELFRY_GOODBYE); /* ... and where it needs no room */
    fake_close(&fake);
    belfry_close(NULL);
}

Test(connect, says_goodbye_even_with_a_full_ring_or_an_open_reservation)
{
    fake_open(&fake, 2);
    belfry_client *c = connected();
    while (belfry_send(c, "x", 1, NULL) == 0)
        ;
    uint32_t slot = belfry_client_slot(c);
    belfry_close(c);
    expect_eq(fake.slots[slot].send->hello, BELFRY_GOODBYE);
    c = connected();
    void *data;
    expect_rc(belfry_send_reserve(c, 100, &data), 0);
    memset(data, 0xff, 100);
    slot = belfry_client_slot(c);
    belfry_close(c);
    struct ring_entry e;
    expect_eq(fake_hear(&fake, slot, &e), 1);
    expect_eq(e.kind, BELFRY_BYE);
    fake_close(&fake);
}

Test(connect, says_that_nobody_serves_the_name)
{
    char root[FIXTURE_PATH_BYTES];
    fixture_root_make(root);
    expect_refused("nobody", BELFRY_ENOSERVICE, "nobody");
    rmdir(root);
    expect_refused("nobody", BELFRY_ENOSERVICE, root);
}

Test(connect, says_that_the_server_is_dead)
{
    fake_open(&fake, 2);
    bf_lobby_detach(&fake.lobby); /* as the kernel does when it dies */
    expect_refused(FAKE_SERVICE, BELFRY_ENOSERVICE, "dead");
    fake_close(&fake);
}

Test(connect, refuses_what_is_no_name)
{
    char longest[66] = {0};
    fake_open(&fake, 1);
    memset(longest, 'a', 64);
    expect_refused("", BELFRY_ENAME, "name");
    expect_refused(NULL, BELFRY_ENAME, "name");
    expect_refused("Upper", BELFRY_ENAME, "Upper");
    expect_refused("a/b", BELFRY_ENAME, "a/b");
    expect_refused("..", BELFRY_ENAME, "..");
    expect_refused(".hidden", BELFRY_ENAME, ".hidden");
    expect_refused(longest, BELFRY_ENAME, "63");
    expect_refused("root:fake", BELFRY_ENAME, "number");
    expect_refused(":fake", BELFRY_ENAME, ":fake");
    expect_refused("-1:fake", BELFRY_ENAME, "-1");
    expect_refused("4294967296:fake", BELFRY_ENAME, "4294967296");
    expect_refused("0:0:fake", BELFRY_ENAME, ":");
    longest[63] = '\0';
    expect_refused(longest, BELFRY_ENOSERVICE, "aaa");
    fake_close(&fake);
}

Test(connect, refuses_a_root_that_others_may_enter)
{
    fake_open(&fake, 1);
    expect_eq(chmod(fake.root, 0750), 0);
    expect_refused(FAKE_SERVICE, BELFRY_EROOT, "0750");
    chmod(fake.root, 0700);
    fake_close(&fake);
}

Test(connect, refuses_options_of_no_size)
{
    belfry_client *c = (belfry_client *)&fake;
    belfry_client_options o = {.size = 0};
    expect_rc(belfry_connect(&c, FAKE_SERVICE, &o), BELFRY_EOPTION);
    expect(c == NULL);
    belfry_client_options_init(&o, sizeof o);
    expect(o.atfork);
    o.spin = (enum belfry_spin)9;
    expect_rc(belfry_connect(&c, FAKE_SERVICE, &o), BELFRY_EOPTION);
    expect_in(belfry_last_error(), "spin");
}

Test(connect, takes_the_root_from_its_options)
{
    belfry_client *c;
    belfry_client_options o;
    fake_open(&fake, 1);
    setenv("BELFRY_ROOT", "/nowhere", 1);
    belfry_client_options_init(&o, sizeof o);
    o.root = fake.root;
    expect_rc(belfry_connect(&c, FAKE_SERVICE, &o), 0);
    belfry_close(c);
    fake_close(&fake);
}

Test(connect, says_what_to_raise_when_descriptors_run_out)
{
    struct rlimit limit, small;
    belfry_client *c;
    fake_open(&fake, 1);
    getrlimit(RLIMIT_NOFILE, &limit);
    small = limit;
    int last = open("/dev/null", O_RDONLY);
    int rc = 0;
    for (int spare = 0; spare < 6; spare++) { /* whichever step fails */
        small.rlim_cur = (rlim_t)(last + spare);
        setrlimit(RLIMIT_NOFILE, &small);
        rc = belfry_connect(&c, FAKE_SERVICE, NULL);
        if (rc == 0)
            belfry_close(c);
        else
            expect(rc == BELFRY_ENOFILES || rc == -EMFILE);
        if (rc == BELFRY_ENOFILES)
            break;
    }
    setrlimit(RLIMIT_NOFILE, &limit);
    expect_eq(rc, BELFRY_ENOFILES);
    expect_in(belfry_last_error(), "RLIMIT_NOFILE");
    close(last);
    fake_close(&fake);
}

/* --- versions ------------------------------------------------------------------------------------------------------------- */

Test(connect, refuses_a_server_of_another_version)
{
    fake_open(&fake, 1);
    fake.lobby.map->version = BELFRY_ABI_VERSION + 1;
    expect_refused(FAKE_SERVICE, BELFRY_EVERSION, "upgrade");
    fake.lobby.map->version = BELFRY_ABI_VERSION;
    fake.lobby.map->layout_hash ^= 1;
    expect_refused(FAKE_SERVICE, BELFRY_EVERSION, "upgrade");
    fake_close(&fake);
}

Test(connect, refuses_segments_of_another_version_or_place)
{
    fake_open(&fake, 1);
    fake.slots[0].recv->segment.version++;
    expect_refused(FAKE_SERVICE, BELFRY_EVERSION, "version");
    fake_close(&fake);
    fake_open(&fake, 1);
    fake.slots[0].send->segment.slot = 3;
    expect_refused(FAKE_SERVICE, BELFRY_EPROTO, "elsewhere");
    fake_close(&fake);
}

/* --- slots ---------------------------------------------------------------------------------------------------------------- */

Test(connect, says_that_all_slots_are_taken)
{
    fake_open(&fake, FAKE_SLOTS);
    belfry_client *c[FAKE_SLOTS];
    for (int i = 0; i < FAKE_SLOTS; i++) {
        c[i] = connected();
        for (int j = 0; j < i; j++)
            expect(belfry_client_slot(c[i]) != belfry_client_slot(c[j]));
    }
    for (uint32_t i = 0; i < FAKE_SLOTS; i++)
        lobby_slot(&fake.lobby, i)->state = BELFRY_SLOT_STATE(0, BELFRY_SLOT_OPEN);
    int fds = fixture_count_fds();
    expect_refused(FAKE_SERVICE, BELFRY_EFULL, "max_slots");
    expect_eq(fixture_count_fds(), fds);
    for (int i = 0; i < FAKE_SLOTS; i++)
        belfry_close(c[i]);
    fake_close(&fake);
}

Test(connect, does_not_take_a_slot_whose_segments_have_had_another_tenant)
{
    fake_open(&fake, 1);
    fake.slots[0].recv->segment.generation = 1; /* renamed between our look at the state and our open */
    for (uint32_t i = 1; i < FAKE_SLOTS; i++)
        lobby_slot(&fake.lobby, i)->state = BELFRY_SLOT_STATE(0, BELFRY_SLOT_OPEN);
    expect_refused(FAKE_SERVICE, BELFRY_EFULL, "taken");
    fake_close(&fake);
}

Test(connect, does_not_enter_by_a_closed_door)
{
    fake_open(&fake, 1);
    lobby_shard(&fake.lobby, 0)->door = BELFRY_DOOR_DRAINING;
    expect_refused(FAKE_SERVICE, BELFRY_ENOSERVICE, "no more clients");
    fake_close(&fake);
}

/* Until the lock file of a cold slot appears, of none but that one; its number, or -1. */
static int wait_for_lock_but(int other)
{
    char path[2 * FIXTURE_PATH_BYTES], name[64];
    int64_t until = fixture_now_ms() + FIXTURE_PATIENCE_MS;
    while (fixture_now_ms() < until)
        for (int slot = 0; slot < FAKE_SLOTS; slot++) {
            snprintf(name, sizeof name, "shard-0/slot_%d.lock", slot);
            fake_path(&fake, path, name);
            if (slot != other && access(path, F_OK) == 0)
                return slot;
        }
    return -1;
}

static int wait_for_lock(void)
{
    return wait_for_lock_but(-1);
}

static void *make_demanded(void *reason)
{
    int slot = wait_for_lock();
    if (slot < 0)
        return (void *)1;
    struct belfry_abi_slot *shared = lobby_slot(&fake.lobby, (uint32_t)slot);
    if (reason == NULL) {
        fake_make(&fake, (uint32_t)slot, 0, true);
    } else {
        shared->reason = (uint32_t)(uintptr_t)reason;
        store_relaxed(&shared->uid, geteuid()); /* it was our claim */
        store_release(&shared->state, BELFRY_SLOT_STATE(1, BELFRY_SLOT_COLD));
    }
    bf_os_wake(&shared->state);
    return NULL;
}

Test(connect, waits_until_a_cold_slot_is_made)
{
    pthread_t maker;
    fake_open(&fake, 0);
    pthread_create(&maker, NULL, make_demanded, NULL);
    belfry_client *c = connected();
    pthread_join(maker, NULL);
    expect_eq(fake.slots[belfry_client_slot(c)].send->hello, BELFRY_HELLO);
    belfry_close(c);
    fake_close(&fake);
}

static void expect_cold_refusal(enum belfry_end reason, int wanted, const char *words)
{
    pthread_t maker;
    fake_open(&fake, 0);
    pthread_create(&maker, NULL, make_demanded, (void *)(uintptr_t)reason);
    expect_refused(FAKE_SERVICE, wanted, words);
    pthread_join(maker, NULL);
    fake_close(&fake);
}

Test(connect, says_why_a_cold_slot_was_refused)
{
    expect_cold_refusal(BELFRY_END_NO_MEMORY, BELFRY_ENOSPACE, "shared memory");
    expect_cold_refusal(BELFRY_END_UNFINISHED, BELFRY_EREFUSED, "in time");
}

/* Its claim was refused, and before it looked somebody else had the slot, and left. The second slot is made. */
static void *refuse_and_forget_why(void *unused)
{
    int first = wait_for_lock();
    if (first < 0)
        return unused;
    struct belfry_abi_slot *shared = lobby_slot(&fake.lobby, (uint32_t)first);
    shared->reason = BELFRY_END_LEFT;
    store_release(&shared->state, BELFRY_SLOT_STATE(2, BELFRY_SLOT_COLD));
    bf_os_wake(&shared->state);
    int second = wait_for_lock_but(first);
    if (second < 0)
        return unused;
    fake_make(&fake, (uint32_t)second, 0, true);
    bf_os_wake(&lobby_slot(&fake.lobby, (uint32_t)second)->state);
    return NULL;
}

Test(connect, tries_another_slot_when_the_reason_that_it_finds_is_a_later_tenants)
{
    pthread_t maker;
    void *failed;
    fake_open(&fake, 0);
    pthread_create(&maker, NULL, refuse_and_forget_why, &fake);
    belfry_client *c = connected();
    pthread_join(maker, &failed);
    expect(failed == NULL);
    belfry_close(c);
    fake_close(&fake);
}

Test(connect, waits_for_a_cold_slot_no_longer_than_its_deadline)
{
    belfry_client *c;
    belfry_client_options o;
    fake_open(&fake, 0);
    belfry_client_options_init(&o, sizeof o);
    o.deadline_ns = belfry_in_ms(60);
    expect_rc(belfry_connect(&c, FAKE_SERVICE, &o), -ETIMEDOUT);
    expect(belfry_now_ns() >= o.deadline_ns);
    expect_in(belfry_last_error(), FAKE_SERVICE);
    fake_close(&fake);
}

Test(connect, stops_waiting_for_a_cold_slot_when_the_server_dies)
{
    belfry_client *c;
    fake_open(&fake, 0);
    lobby_shard(&fake.lobby, 0)->obituary |= BELFRY_OBITUARY_DIED;
    int64_t start = fixture_now_ms();
    expect_rc(belfry_connect(&c, FAKE_SERVICE, NULL), BELFRY_ENOSERVICE);
    expect(fixture_now_ms() - start < 4000);
    fake_close(&fake);
}

/* --- fork ------------------------------------------------------------------------------------------------------------------- */

static void use_in_child(void *handle)
{
    belfry_client *c = handle;
    belfry_message m;
    belfry_poller *p;
    belfry_poll_event event;
    void *data;
    int failed = 0;
    failed |= (belfry_send(c, "x", 1, NULL) != BELFRY_EFORKED) << 0;
    failed |= (belfry_call(c, "x", 1, &m, BELFRY_FOREVER) != BELFRY_EFORKED) << 1;
    failed |= (belfry_receive(c, &m, BELFRY_FOREVER) != BELFRY_EFORKED) << 2;
    failed |= (belfry_send_reserve(c, 1, &data) != BELFRY_EFORKED) << 3;
    failed |= (belfry_send_commit(c, BELFRY_REQUEST, 1, NULL) != BELFRY_EFORKED) << 4;
    failed |= (belfry_poller_create(&p) != 0 || belfry_poller_add(p, c, NULL) != BELFRY_EFORKED) << 5;
    failed |= (belfry_poller_wait(p, &event, 1, 0) >= 0) << 6;
    belfry_poller_destroy(p);
    belfry_close(c);
    _exit(failed);
}

Test(connect, makes_a_handle_unusable_in_a_forked_child_and_leaves_the_parents_alone)
{
    fake_open(&fake, 1);
    belfry_client *c = connected();
    expect_eq(fixture_reap(fixture_child(use_in_child, c)), 0);
    expect_eq(fake.slots[0].send->hello, BELFRY_HELLO); /* the child said no goodbye */
    expect_rc(belfry_send(c, "x", 1, NULL), 0);
    belfry_close(c);
    fake_close(&fake);
}

static bool holding;

/* As a connect of another thread does, for a moment. */
static void *hold_the_lobbies(void *unused)
{
    bf_client_lobby_before_fork();
    store_release(&holding, true);
    struct timespec moment = {.tv_nsec = 50000000};
    nanosleep(&moment, NULL);
    bf_client_lobby_after_fork(false);
    return unused;
}

static void connect_in_child(void *unused)
{
    (void)unused;
    alarm(10); /* else it waits for ever */
    belfry_client *c;
    _exit(belfry_connect(&c, FAKE_SERVICE, NULL) == 0 ? 0 : 1);
}

/* Nobody has asked to be told of forks; what the library locks must be free in the child all the same. */
Test(connect, can_connect_in_a_child_that_was_forked_while_another_thread_connected)
{
    belfry_client_options o;
    belfry_client *c;
    pthread_t thread;
    fake_open(&fake, 2);
    belfry_client_options_init(&o, sizeof o);
    o.atfork = false;
    expect_rc(belfry_connect(&c, FAKE_SERVICE, &o), 0);
    expect_eq(pthread_create(&thread, NULL, hold_the_lobbies, NULL), 0);
    while (!load_acquire(&holding))
        ;
    expect_eq(fixture_reap(fixture_child(connect_in_child, NULL)), 0);
    pthread_join(thread, NULL);
    belfry_close(c);
    fake_close(&fake);
}

static void outlive_parent(void *context)
{
    (void)context;
    for (;;)
        pause();
}

Test(connect, lets_go_of_its_lock_though_a_forked_child_lives_on)
{
    char path[2 * FIXTURE_PATH_BYTES];
    fake_open(&fake, 1);
    belfry_client *c = connected();
    pid_t child = fixture_child(outlive_parent, NULL);
    fake_path(&fake, path, "shard-0/slot_0.lock");
    int fd = bf_os_open(BF_OS_CWD, path, BF_OS_READ, 0);
    expect_eq(bf_os_locked(fd), 1);
    belfry_close(c);
    expect(eventually(bf_os_locked(fd) == 0));
    close(fd);
    fixture_kill(child);
    fake_close(&fake);
}

Test(connect, leaves_nothing_open_after_a_thousand_connections)
{
    char path[2 * FIXTURE_PATH_BYTES];
    fake_open(&fake, 1);
    fake_path(&fake, path, "shard-0/slot_0.lock");
    int fds = fixture_count_fds(), maps = fixture_count_files("/proc/self/map_files", "");
    for (int i = 0; i < 1000; i++) {
        belfry_client *c = connected();
        belfry_close(c);
        unlink(path);
    }
    expect_eq(fixture_count_fds(), fds);
    int now = fixture_count_files("/proc/self/map_files", "");
    expect(now <= maps + 8);
    fake_close(&fake);
}

/* --- one lobby per process --------------------------------------------------------------------------------------------- */

Test(connect, maps_the_lobby_once_for_all_connections_of_a_process)
{
    fake_open(&fake, 3);
    belfry_client *a = connected(), *b = connected();
    expect(a->shared == b->shared);
    expect_eq(a->shared->references, 2);
    struct bf_lobby *lobby = &b->shared->lobby;
    belfry_close(a);
    expect_eq(b->shared->references, 1);
    expect(lobby->map != NULL && bf_lobby_is_alive(lobby));
    expect_rc(belfry_send(b, "x", 1, NULL), 0);
    belfry_close(b);
    fake_close(&fake);
}

/* The map may go into the child or not: those who differ in that cannot share it. */
Test(connect, maps_the_lobby_again_for_a_connection_that_ignores_forks)
{
    belfry_client_options o;
    belfry_client *a, *b;
    fake_open(&fake, 3);
    a = connected();
    belfry_client_options_init(&o, sizeof o);
    o.root = fake.root;
    o.atfork = false;
    expect_rc(belfry_connect(&b, FAKE_SERVICE, &o), 0);
    expect(a->shared != b->shared);
    belfry_close(a);
    belfry_close(b);
    fake_close(&fake);
}

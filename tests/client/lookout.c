/* SPDX-License-Identifier: MIT */
/*
 * Tests of client/lookout.c: the descriptors of clients and pollers, against a server that says exactly what the test
 * wants. A loop does what these tests do: poll; when readable, receive until there is nothing.
 */
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/order.h"
#include "base/os.h"
#include "client/client.h"
#include "expect.h"
#include "fake_server.h"
#include "shm/doorbell.h"

#define LARGE_BYTES 100000u

static struct fake_server fake;
static belfry_client *clients[FAKE_SLOTS];
static belfry_poller *poller;
static int fds, threads; /* before there is a descriptor */

static int count_threads(void)
{
    return fixture_count_files("/proc/self/task", "");
}

static void open_all(void)
{
    fake_open_for(&fake, FAKE_SLOTS, LARGE_BYTES);
    expect_rc(belfry_poller_create(&poller), 0);
    for (int i = 0; i < FAKE_SLOTS; i++) {
        expect_rc(belfry_connect(&clients[i], FAKE_SERVICE, NULL), 0);
        fake.slots[clients[i]->slot].recv->accepted = 1;
    }
    fds = fixture_count_fds();
    threads = count_threads();
}

static void close_all(void)
{
    belfry_poller_destroy(poller);
    for (int i = 0; i < FAKE_SLOTS; i++)
        belfry_close(clients[i]);
    fake_close(&fake);
}

TestSuite(lookout, .init = open_all, .fini = close_all, .timeout = 120);

static bool polls(int fd, int ms)
{
    struct pollfd at = {.fd = fd, .events = POLLIN};
    int count = poll(&at, 1, ms);
    expect(count == 0 || at.revents == POLLIN);
    return count == 1;
}

static bool soon(int fd)
{
    return polls(fd, FIXTURE_PATIENCE_MS);
}

static int take(belfry_client *c)
{
    belfry_message m;
    int rc = belfry_receive(c, &m, 0);
    belfry_release(c, &m);
    return rc;
}

/* Ask for the descriptor and find nothing. */
static int armed(int i)
{
    int fd = belfry_client_fd(clients[i]);
    expect(fd >= 0);
    expect_rc(take(clients[i]), -ETIMEDOUT);
    expect(!polls(fd, 0));
    return fd;
}

static void push(int i)
{
    expect_eq(fake_say(&fake, clients[i]->slot, BELFRY_PUSH, 0, 0, "news", 4), 0);
}

static bool ring(int i)
{
    return fake_ring(&fake, clients[i]->slot);
}

/* What the server does at the moment when the event is cleared, once. */
static void (*at_clear)(void);
void __real_bf_os_event_clear(int fd);
void __wrap_bf_os_event_clear(int fd);

void __wrap_bf_os_event_clear(int fd)
{
    void (*hook)(void) = at_clear;
    at_clear = NULL;
    __real_bf_os_event_clear(fd);
    if (hook != NULL)
        hook();
}

static void push_unheard(void)
{
    push(0);
    if (ring(0))
        abort();
}

static int poller_armed(void)
{
    belfry_poll_event event;
    int fd = belfry_poller_fd(poller);
    expect(fd >= 0);
    expect_rc(belfry_poller_wait(poller, &event, 1, 0), 0);
    expect(!polls(fd, 0));
    return fd;
}

static void expect_event(int i)
{
    belfry_poll_event event;
    expect_rc(belfry_poller_wait(poller, &event, 1, 0), 1);
    expect(event.client == clients[i] && event.readable);
    expect_rc(take(clients[i]), 0);
}

/* --- one client ------------------------------------------------------------------------------------------------------- */

Test(lookout, is_readable_at_first_and_until_nothing_was_found)
{
    int fd = belfry_client_fd(clients[0]);
    expect(fd >= 0);
    expect_eq(belfry_client_fd(clients[0]), fd);
    expect(polls(fd, 0));
    expect(polls(fd, 0));
    expect_rc(take(clients[0]), -ETIMEDOUT);
    expect(!polls(fd, 0));
    push(0);
    push(0);
    expect(!polls(fd, 20)); /* the server has not rung yet */
    expect(ring(0));
    expect(soon(fd));
    expect_rc(take(clients[0]), 0);
    expect(polls(fd, 0));
    expect_rc(take(clients[0]), 0);
    expect(polls(fd, 0));
    expect_rc(take(clients[0]), -ETIMEDOUT);
    expect(!polls(fd, 0));
}

Test(lookout, is_readable_at_once_for_what_comes_while_it_is_armed)
{
    int fd = belfry_client_fd(clients[0]);
    push(0); /* nobody has parked yet, so nobody is rung for this one */
    expect(!ring(0));
    expect_rc(take(clients[0]), 0);
    push(0);
    expect_eq(take(clients[0]), 0);
    expect_rc(take(clients[0]), -ETIMEDOUT);
    expect(!polls(fd, 0));
}

Test(lookout, leaves_no_thread_and_no_descriptor)
{
    for (int i = 0; i < FAKE_SLOTS; i++)
        armed(i);
    expect_eq(count_threads(), threads + FAKE_SLOTS);
    expect_eq(fixture_count_fds(), fds + FAKE_SLOTS);
    belfry_close(clients[0]);
    clients[0] = NULL;
    expect_eq(fixture_count_fds(), fds + FAKE_SLOTS - 2); /* the lock's, too */
    expect(
        eventually(count_threads() == threads + FAKE_SLOTS - 1)); /* it has ended, and the kernel is about to say so */
    push(1);
    expect(ring(1));
    expect(soon(belfry_client_fd(clients[1])));
}

Test(lookout, tells_of_room_for_who_was_told_that_there_is_none)
{
    int fd = armed(0), sent = 0;
    struct ring_entry e;
    char data[600];
    memset(data, 'x', sizeof data);
    while (belfry_send(clients[0], data, sizeof data, NULL) == 0)
        sent++;
    expect(sent > 0);
    expect(polls(fd, 0)); /* so that what is wanted now gets armed */
    expect_rc(take(clients[0]), -ETIMEDOUT);
    expect(!polls(fd, 0));
    expect_eq(load_relaxed(&clients[0]->send->want_space), 1);
    for (int i = 0; i < sent; i++)
        expect_eq(fake_hear(&fake, clients[0]->slot, &e), 1);
    expect(ring(0));
    expect(soon(fd));
    expect_rc(take(clients[0]), -EAGAIN);
    expect_rc(belfry_send(clients[0], data, sizeof data, NULL), 0);
    expect_rc(take(clients[0]), -ETIMEDOUT);
    expect_eq(load_relaxed(&clients[0]->send->want_space), 0);
    expect(!polls(fd, 0));
}

/* A fake server that takes in all that comes, until it has heard `bytes` of payload. */
static uint64_t heard;

static void *hear_all(void *argument)
{
    int64_t until = fixture_now_ms() + FIXTURE_PATIENCE_MS;
    (void)argument;
    while (heard < LARGE_BYTES && fixture_now_ms() < until) {
        struct ring_entry e;
        struct fake_slot *s = &fake.slots[clients[0]->slot];
        int rc = fake_hear(&fake, clients[0]->slot, &e);
        if (rc == 1)
            heard += e.bytes;
        full_fence();
        if (load_relaxed(&s->send->want_space) != 0)
            ring(0);
        if (rc == 0)
            fixture_pause();
    }
    return NULL;
}

Test(lookout, brings_a_large_message_on_its_way)
{
    static char data[LARGE_BYTES];
    pthread_t thread;
    int fd = armed(0);
    expect_rc(belfry_send(clients[0], data, sizeof data, NULL), 0);
    expect(belfry_client_unsent_bytes(clients[0]) > 0);
    expect_eq(pthread_create(&thread, NULL, hear_all, NULL), 0);
    while (belfry_client_unsent_bytes(clients[0]) > 0) {
        expect(soon(fd));
        int rc = take(clients[0]);
        expect(rc == -ETIMEDOUT || rc == -EAGAIN);
    }
    pthread_join(thread, NULL);
    expect(heard >= LARGE_BYTES);
}

Test(lookout, tells_of_the_end_and_goes_on_telling)
{
    int fd = armed(0);
    push(0);
    fake_end(&fake, clients[0]->slot, BELFRY_END_KICKED);
    expect(soon(fd));
    expect_rc(take(clients[0]), 0);
    for (int i = 0; i < 3; i++) {
        expect_rc(take(clients[0]), BELFRY_EGONE);
        expect(polls(fd, 0));
    }
}

Test(lookout, tells_of_the_servers_death)
{
    int fd[2] = {armed(0), armed(1)};
    fake_die(&fake);
    for (int i = 0; i < 2; i++) {
        expect(soon(fd[i]));
        expect_rc(take(clients[i]), BELFRY_EGONE);
    }
}

/* The word says nothing, the lock is free: that is asked after the longest slice of a sleep. */
Test(lookout, learns_from_the_lock_what_no_word_says)
{
    int fd = armed(0);
    struct belfry_abi_shard *shard = clients[0]->shard;
    uint32_t held = load_relaxed(&shard->obituary);
    bf_lobby_detach(&fake.lobby);
    expect_eq(load_relaxed(&shard->obituary), held);
    expect(soon(fd));
    expect_rc(take(clients[0]), -ETIMEDOUT); /* here it is told of it */
    expect(polls(fd, 0));
    expect_rc(take(clients[0]), BELFRY_EGONE);
}

/* Another waiter has taken the wake with it: the next slice finds the word changed. */
Test(lookout, notices_a_ring_whose_wake_was_stolen)
{
    int fd = armed(0);
    push(0);
    doorbell_bump_recv(fake.slots[clients[0]->slot].recv);
    expect(soon(fd));
    expect_rc(take(clients[0]), 0);
}

/* The last moment before the client parks: nobody is rung for what is said then. */
Test(lookout, looks_again_after_it_has_parked)
{
    int fd = armed(0);
    push(0);
    expect(ring(0));
    expect(soon(fd));
    expect_rc(take(clients[0]), 0);
    at_clear = push_unheard;
    expect_rc(take(clients[0]), -ETIMEDOUT);
    expect(at_clear == NULL);
    expect(polls(fd, 0));
    expect_rc(take(clients[0]), 0);
}

Test(lookout, looks_at_every_member_again_after_it_has_parked)
{
    for (int i = 0; i < 3; i++)
        expect_rc(belfry_poller_add(poller, clients[i], NULL), 0);
    int fd = poller_armed();
    push(2);
    expect(ring(0));
    expect(soon(fd));
    expect_event(2);
    at_clear = push_unheard;
    belfry_poll_event event;
    expect_rc(belfry_poller_wait(poller, &event, 1, 0), 0);
    expect(polls(fd, 0));
    expect_event(0);
}

/* --- together with what blocks ---------------------------------------------------------------------------------------- */

static void *push_and_reply(void *argument)
{
    int i = *(int *)argument;
    struct ring_entry e;
    int64_t until = fixture_now_ms() + FIXTURE_PATIENCE_MS;
    while (fake_hear(&fake, clients[i]->slot, &e) != 1 && fixture_now_ms() < until)
        fixture_pause();
    push(i);
    fake_reply(&fake, clients[i]->slot, e.id, "yes");
    ring(i);
    return NULL;
}

Test(lookout, is_readable_for_what_a_call_has_kept_and_armed_again_after)
{
    belfry_message m;
    pthread_t thread;
    int fd = armed(0), first = 0;
    for (int round = 0; round < 20; round++) {
        expect_eq(pthread_create(&thread, NULL, push_and_reply, &first), 0);
        expect_rc(belfry_call(clients[0], "?", 1, &m, belfry_in_ms(FIXTURE_PATIENCE_MS)), 0);
        belfry_release(clients[0], &m);
        pthread_join(thread, NULL);
        expect(soon(fd));
        expect_rc(take(clients[0]), 0);
        expect_rc(take(clients[0]), -ETIMEDOUT);
        expect(!polls(fd, 0) || (take(clients[0]) == -ETIMEDOUT && !polls(fd, 0))); /* a late ring: for nothing, once */
        push(0);
        expect(ring(0));
        expect(soon(fd));
        expect_rc(take(clients[0]), 0);
        expect_rc(take(clients[0]), -ETIMEDOUT);
    }
}

Test(lookout, is_readable_after_a_receive_that_waited)
{
    belfry_message m;
    int fd = armed(0);
    expect_rc(belfry_receive(clients[0], &m, belfry_in_ms(20)), -ETIMEDOUT);
    push(0);
    ring(0); /* is not heard if nobody is parked any more */
    expect(soon(fd));
    expect_rc(take(clients[0]), 0);
}

/* --- many, and no message that is slept through ----------------------------------------------------------------------- */

#define MANY 30000u

static uint32_t said;

static void *say_many(void *argument)
{
    struct fixture_random random = {.state = *(uint64_t *)argument};
    while (said < MANY) {
        uint64_t burst = fixture_next(&random) % 4 + 1;
        int i = (int)(fixture_next(&random) % FAKE_SLOTS);
        for (uint64_t n = 0; n < burst && said < MANY; n++)
            if (fake_say(&fake, clients[i]->slot, BELFRY_PUSH, 0, 0, "news", 4) == 0)
                said++;
        full_fence();
        uint64_t at = load_relaxed(&clients[i]->send->bell_at);
        for (int leader = 0; leader < FAKE_SLOTS; leader++)
            if (at == BELFRY_BELL_AT(clients[leader]->slot, clients[leader]->generation))
                ring(leader);
        if (at == 0)
            ring(i);
        for (uint64_t pause = fixture_next(&random) % 400; pause > 0; pause--)
            cpu_relax();
    }
    return NULL;
}

Test(lookout, misses_no_message)
{
    struct fixture_random random;
    uint64_t seed = fixture_seed(&random, "lookout/misses_no_message");
    struct pollfd at[FAKE_SLOTS];
    pthread_t thread;
    unsigned taken = 0;
    for (int i = 0; i < FAKE_SLOTS; i++)
        at[i] = (struct pollfd){.fd = belfry_client_fd(clients[i]), .events = POLLIN};
    expect_eq(pthread_create(&thread, NULL, say_many, &seed), 0);
    while (taken < MANY) {
        expect(poll(at, FAKE_SLOTS, FIXTURE_PATIENCE_MS) > 0);
        for (int i = 0; i < FAKE_SLOTS; i++)
            while (at[i].revents != 0 && take(clients[i]) == 0)
                taken++;
    }
    pthread_join(thread, NULL);
    expect_eq(taken, MANY);
}

Test(lookout, misses_no_message_of_a_poller)
{
    struct fixture_random random;
    uint64_t seed = fixture_seed(&random, "lookout/misses_no_message_of_a_poller");
    belfry_poll_event events[FAKE_SLOTS];
    pthread_t thread;
    unsigned taken = 0;
    for (int i = 0; i < FAKE_SLOTS; i++)
        expect_rc(belfry_poller_add(poller, clients[i], NULL), 0);
    int fd = belfry_poller_fd(poller);
    expect_eq(count_threads(), threads + 1);
    expect_eq(pthread_create(&thread, NULL, say_many, &seed), 0);
    while (taken < MANY) {
        expect(soon(fd));
        int count = belfry_poller_wait(poller, events, FAKE_SLOTS, 0);
        expect(count >= 0);
        for (int i = 0; i < count; i++)
            while (take(events[i].client) == 0)
                taken++;
    }
    pthread_join(thread, NULL);
    expect_eq(taken, MANY);
}

static void *wait_for_a_death(void *argument)
{
    struct bf_os_wait wait = *(const struct bf_os_wait *)argument;
    return (void *)(intptr_t)bf_os_wait(&wait, 1, belfry_in_ms(FIXTURE_PATIENCE_MS));
}

/* The kernel wakes one, which is the thread behind the descriptor, and before that has looked it is told to stop. */
Test(lookout, passes_on_the_wake_of_a_death_though_it_is_being_closed)
{
    for (int i = 0; i < FAKE_SLOTS; i++) {
        uint32_t *obituary = &lobby_shard(&fake.lobby, 0)->obituary, alive = load_relaxed(obituary);
        struct bf_os_wait wait = {obituary, alive};
        pthread_t other;
        void *rc;
        armed(i);
        fixture_pause();
        pthread_create(&other, NULL, wait_for_a_death, &wait);
        fixture_pause();
        or_relaxed(obituary, BELFRY_OBITUARY_DIED);
        syscall(SYS_futex, obituary, FUTEX_WAKE, 1, NULL, NULL, 0);
        belfry_close(clients[i]);
        clients[i] = NULL;
        pthread_join(other, &rc);
        expect_eq((int)(intptr_t)rc, 0);
        store_relaxed(obituary, alive);
    }
}

/* --- pollers ---------------------------------------------------------------------------------------------------------- */

Test(lookout, has_one_descriptor_for_a_poller_whoever_joins_or_leaves)
{
    expect_rc(belfry_poller_add(poller, clients[0], NULL), 0);
    expect_rc(belfry_poller_add(poller, clients[1], NULL), 0);
    int fd = poller_armed();
    expect_rc(belfry_poller_add(poller, clients[2], NULL), 0);
    expect(polls(fd, 0)); /* it may have something already */
    expect_eq(poller_armed(), fd);
    push(2);
    expect(ring(0)); /* the leader's */
    expect(soon(fd));
    expect_event(2);
    expect_eq(poller_armed(), fd);

    struct belfry_abi_shard *shard = clients[0]->shard;
    belfry_close(clients[0]); /* the leader: its words are gone */
    clients[0] = NULL;
    for (int i = 0; i < 10; i++, fixture_pause())
        bf_os_wake(&shard->obituary); /* the thread looks at all that it knows of: the process is alive afterwards */
    expect(polls(fd, 0));
    expect_eq(poller_armed(), fd);
    int leads = load_relaxed(&clients[1]->send->bell_at) == 0 ? 1 : 2;
    push(3 - leads);
    expect(ring(leads));
    expect(soon(fd));
    expect_event(3 - leads);
    poller_armed();

    expect_rc(belfry_poller_remove(poller, clients[2]), 0);
    expect_rc(belfry_poller_remove(poller, clients[1]), 0);
    belfry_poll_event event;
    expect_rc(belfry_poller_wait(poller, &event, 1, 0), BELFRY_ESTATE);
    expect(!polls(fd, 0)); /* nobody is there to wait for: not again and again */
    int own = armed(1);    /* one that has left may have a descriptor of its own */
    push(1);
    expect(ring(1));
    expect(soon(own));
    expect(!polls(fd, 0));
}

Test(lookout, tells_a_poller_of_room_and_of_ends)
{
    belfry_poll_event event;
    struct ring_entry e;
    char data[600];
    int sent = 0;
    memset(data, 'x', sizeof data);
    for (int i = 0; i < 3; i++)
        expect_rc(belfry_poller_add(poller, clients[i], NULL), 0);
    int fd = poller_armed();
    while (belfry_send(clients[2], data, sizeof data, NULL) == 0)
        sent++;
    expect(polls(fd, 0));
    poller_armed();
    for (int i = 0; i < sent; i++)
        expect_eq(fake_hear(&fake, clients[2]->slot, &e), 1);
    expect_eq(load_relaxed(&clients[2]->send->want_space), 1);
    expect(ring(0));
    expect(soon(fd));
    expect_rc(belfry_poller_wait(poller, &event, 1, 0), 1);
    expect(event.client == clients[2] && event.writable && !event.readable);
    expect_rc(belfry_send(clients[2], data, sizeof data, NULL), 0);
    poller_armed();
    fake_end(&fake, clients[0]->slot, BELFRY_END_KICKED); /* the leader's bell is bumped with it */
    expect(soon(fd));
    expect_rc(belfry_poller_wait(poller, &event, 1, 0), 1);
    expect(event.client == clients[0] && event.readable);
    expect_rc(take(clients[0]), BELFRY_EGONE);
}

/* That sleep is on the member's own bell; the loop comes round and groups anew. */
Test(lookout, arms_a_poller_again_after_a_member_has_waited)
{
    belfry_message m;
    for (int i = 0; i < 3; i++)
        expect_rc(belfry_poller_add(poller, clients[i], NULL), 0);
    int fd = poller_armed();
    expect_rc(belfry_receive(clients[1], &m, belfry_in_ms(20)), -ETIMEDOUT);
    expect(polls(fd, 0));
    poller_armed();
    push(1);
    expect(ring(0));
    expect(soon(fd));
    expect_event(1);
}

Test(lookout, watches_a_client_once)
{
    armed(0);
    expect_rc(belfry_poller_add(poller, clients[0], NULL), BELFRY_ESTATE);
    expect_rc(belfry_poller_add(poller, clients[1], NULL), 0);
    expect_rc(belfry_client_fd(clients[1]), BELFRY_ESTATE);
    poller_armed();
    expect_rc(belfry_client_fd(clients[1]), BELFRY_ESTATE);
    expect_rc(belfry_poller_remove(poller, clients[1]), 0);
    expect(belfry_client_fd(clients[1]) >= 0);
}

/* --- fork ----------------------------------------------------------------------------------------------------------- */

static void use_in_child(void *context)
{
    (void)context;
    bool refused = belfry_client_fd(clients[0]) == BELFRY_EFORKED && take(clients[0]) == BELFRY_EFORKED &&
                   belfry_poller_fd(poller) == BELFRY_EFORKED;
    int open = fixture_count_fds();
    belfry_close(clients[0]);
    belfry_close(clients[1]);
    belfry_poller_destroy(poller);
    _exit(refused && fixture_count_fds() == open - 2 ? 0 : 1);
}

Test(lookout, belongs_to_the_parent_after_a_fork)
{
    expect_rc(belfry_poller_add(poller, clients[1], NULL), 0);
    int fd = armed(0), all = poller_armed();
    expect_eq(fixture_reap(fixture_child(use_in_child, NULL)), 0);
    expect(!polls(fd, 0) && !polls(all, 0));
    for (int i = 0; i < 2; i++) {
        push(i);
        expect(ring(i));
    }
    expect(soon(fd) && soon(all));
    expect_rc(take(clients[0]), 0);
    expect_event(1);
}

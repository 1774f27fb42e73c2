/* SPDX-License-Identifier: MIT */
/* Tests of client/poller.c: bell groups, and one thread that waits for many. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "base/order.h"
#include "base/os.h"
#include "client/client.h"
#include "expect.h"
#include "fake_server.h"

static struct fake_server fake;
static belfry_client *clients[FAKE_SLOTS];
static belfry_poller *poller;

static void open_all(void)
{
    fake_open(&fake, FAKE_SLOTS);
    expect_rc(belfry_poller_create(&poller), 0);
    for (int i = 0; i < FAKE_SLOTS; i++) {
        expect_rc(belfry_connect(&clients[i], FAKE_SERVICE, NULL), 0);
        fake.slots[clients[i]->slot].recv->accepted = 1;
    }
}

static void close_all(void)
{
    belfry_poller_destroy(poller);
    for (int i = 0; i < FAKE_SLOTS; i++)
        belfry_close(clients[i]);
    fake_close(&fake);
}

TestSuite(poller, .init = open_all, .fini = close_all, .timeout = 60);

static void add(int i)
{
    expect_rc(belfry_poller_add(poller, clients[i], &clients[i]), 0);
}

static void push(int i)
{
    expect_eq(fake_say(&fake, clients[i]->slot, BELFRY_PUSH, 0, 0, "news", 4), 0);
}

static uint64_t bell_at(int i)
{
    return load_acquire(&clients[i]->send->bell_at);
}

static uint64_t leader(int i)
{
    return BELFRY_BELL_AT(clients[i]->slot, clients[i]->generation);
}

/* --- membership ------------------------------------------------------------------------------------------------------- */

Test(poller, belongs_to_no_more_than_one)
{
    belfry_poller *other;
    add(0);
    expect_rc(belfry_poller_add(poller, clients[0], NULL), BELFRY_ESTATE);
    expect_rc(belfry_poller_create(&other), 0);
    expect_rc(belfry_poller_add(other, clients[0], NULL), BELFRY_ESTATE);
    expect_rc(belfry_poller_remove(other, clients[0]), BELFRY_ESTATE);
    expect_rc(belfry_poller_remove(poller, clients[0]), 0);
    expect_rc(belfry_poller_remove(poller, clients[0]), BELFRY_ESTATE);
    expect_rc(belfry_poller_add(other, clients[0], NULL), 0);
    belfry_poller_destroy(other);
    add(0);
    belfry_poller_destroy(NULL);
}

Test(poller, wants_clients_to_wait_for_and_room_for_events)
{
    belfry_poll_event event;
    expect_rc(belfry_poller_wait(poller, &event, 1, 0), BELFRY_ESTATE);
    add(0);
    expect_rc(belfry_poller_wait(poller, &event, 0, 0), BELFRY_EOPTION);
    expect_rc(belfry_poller_wait(poller, &event, -1, 0), BELFRY_EOPTION);
    expect_rc(belfry_poller_wait(poller, &event, 1, 0), 0);
}

/* --- groups ------------------------------------------------------------------------------------------------------------ */

Test(poller, names_the_first_of_a_shard_the_leader)
{
    for (int i = 0; i < FAKE_SLOTS; i++)
        add(i);
    expect(bell_at(0) == 0);
    for (int i = 1; i < FAKE_SLOTS; i++)
        expect(bell_at(i) == leader(0));
}

Test(poller, names_a_new_leader_when_the_old_one_is_removed)
{
    for (int i = 0; i < 3; i++)
        add(i);
    expect_rc(belfry_poller_remove(poller, clients[0]), 0);
    expect(bell_at(0) == 0);
    int leads = bell_at(1) == 0 ? 1 : 2;
    expect(bell_at(leads) == 0);
    expect(bell_at(3 - leads) == leader(leads));
    expect_rc(belfry_poller_remove(poller, clients[leads]), 0);
    expect(bell_at(3 - leads) == 0);
}

Test(poller, lets_go_of_a_client_that_is_closed)
{
    belfry_poll_event event;
    for (int i = 0; i < 3; i++)
        add(i);
    belfry_close(clients[0]); /* the leader */
    clients[0] = NULL;
    int leads = bell_at(1) == 0 ? 1 : 2;
    expect(bell_at(3 - leads) == leader(leads));
    push(1);
    expect_rc(belfry_poller_wait(poller, &event, 1, 0), 1);
    expect(event.client == clients[1]);
}

Test(poller, leaves_its_clients_open_when_it_is_destroyed)
{
    belfry_message m;
    for (int i = 0; i < FAKE_SLOTS; i++)
        add(i);
    belfry_poller_destroy(poller);
    poller = NULL;
    for (int i = 0; i < FAKE_SLOTS; i++) {
        expect(bell_at(i) == 0);
        push(i);
        expect_rc(belfry_receive(clients[i], &m, 0), 0);
        belfry_release(clients[i], &m);
    }
}

/* --- events -------------------------------------------------------------------------------------------------------------- */

Test(poller, tells_which_client_is_readable_until_it_has_been_read)
{
    belfry_poll_event event[FAKE_SLOTS];
    belfry_message m;
    for (int i = 0; i < FAKE_SLOTS; i++)
        add(i);
    push(2);
    for (int again = 0; again < 3; again++) {
        expect_rc(belfry_poller_wait(poller, event, FAKE_SLOTS, BELFRY_FOREVER), 1);
        expect(event[0].client == clients[2] && event[0].tag == &clients[2]);
        expect(event[0].readable && !event[0].writable);
    }
    expect_rc(belfry_receive(clients[2], &m, 0), 0);
    belfry_release(clients[2], &m);
    expect_rc(belfry_poller_wait(poller, event, FAKE_SLOTS, 0), 0);
}

Test(poller, tells_of_room_for_who_was_told_that_there_is_none)
{
    belfry_poll_event event;
    struct ring_entry e;
    add(0);
    add(1);
    while (belfry_send(clients[1], "0123456789", 10, NULL) == 0)
        ;
    expect_rc(belfry_poller_wait(poller, &event, 1, 0), 0);
    while (fake_hear(&fake, clients[1]->slot, &e) == 1)
        ;
    expect_rc(belfry_poller_wait(poller, &event, 1, BELFRY_FOREVER), 1);
    expect(event.client == clients[1] && event.writable && !event.readable);
    expect_rc(belfry_send(clients[1], "x", 1, NULL), 0);
    expect_rc(belfry_poller_wait(poller, &event, 1, 0), 0);
}

Test(poller, tells_of_messages_kept_during_a_call)
{
    belfry_poll_event event;
    belfry_message m;
    add(0);
    push(0);
    fake_reply(&fake, clients[0]->slot, 1, "reply");
    expect_rc(belfry_call(clients[0], "x", 1, &m, BELFRY_FOREVER), 0);
    belfry_release(clients[0], &m);
    expect_rc(belfry_poller_wait(poller, &event, 1, BELFRY_FOREVER), 1);
    expect(event.readable);
}

Test(poller, tells_of_the_end)
{
    belfry_poll_event event;
    belfry_message m;
    add(0);
    add(1);
    fake_end(&fake, clients[0]->slot, BELFRY_END_KICKED); /* the leader */
    expect_rc(belfry_poller_wait(poller, &event, 1, BELFRY_FOREVER), 1);
    expect(event.client == clients[0] && event.readable);
    expect_rc(belfry_receive(clients[0], &m, 0), BELFRY_EGONE);
    expect_rc(belfry_poller_remove(poller, clients[0]), 0);
    expect_rc(belfry_poller_wait(poller, &event, 1, 0), 0);
    fake_die(&fake);
    expect_rc(belfry_poller_wait(poller, &event, 1, BELFRY_FOREVER), 1);
    expect(event.client == clients[1] && event.readable);
}

Test(poller, is_fair_when_there_is_room_for_one_event_only)
{
    belfry_poll_event event;
    int seen[FAKE_SLOTS] = {0};
    for (int i = 0; i < FAKE_SLOTS; i++) {
        add(i);
        push(i);
    }
    for (int n = 0; n < 10 * FAKE_SLOTS; n++) {
        expect_rc(belfry_poller_wait(poller, &event, 1, 0), 1);
        seen[(belfry_client **)event.tag - clients]++;
    }
    for (int i = 0; i < FAKE_SLOTS; i++)
        expect_eq(seen[i], 10);
}

Test(poller, waits_until_its_deadline_and_not_longer)
{
    belfry_poll_event event;
    add(0);
    add(1);
    int64_t deadline = belfry_in_ms(50);
    expect_rc(belfry_poller_wait(poller, &event, 1, deadline), 0);
    expect(belfry_now_ns() >= deadline);
    expect(belfry_now_ns() < deadline + 10000000000ll);
    expect_rc(belfry_poller_wait(poller, &event, 1, 1), 0); /* long ago */
}

/* The server rings one bell for the whole group: the leader's. */
static void *push_to_member(void *argument)
{
    const struct belfry_client *member = argument;
    const struct fake_slot *lead = &fake.slots[clients[0]->slot];
    int64_t until = fixture_now_ms() + FIXTURE_PATIENCE_MS;
    while (load_acquire(&lead->send->parked) != load_acquire(&lead->recv->bell))
        if (fixture_now_ms() > until)
            return (void *)1;
    fake_say(&fake, member->slot, BELFRY_PUSH, 0, 0, "news", 4);
    fake_ring(&fake, clients[0]->slot);
    return NULL;
}

Test(poller, sleeps_on_its_leaders_bell)
{
    pthread_t server;
    void *found;
    belfry_poll_event event;
    for (int i = 0; i < FAKE_SLOTS; i++)
        add(i);
    pthread_create(&server, NULL, push_to_member, clients[3]);
    int64_t start = fixture_now_ms();
    expect_rc(belfry_poller_wait(poller, &event, 1, BELFRY_FOREVER), 1);
    pthread_join(server, &found);
    expect(found == NULL);
    expect(event.client == clients[3]);
    expect(fixture_now_ms() - start < FIXTURE_PATIENCE_MS);
    for (int i = 1; i < FAKE_SLOTS; i++)
        expect(clients[i]->send->parked != clients[i]->recv->bell); /* only the leader ever parked */
}

/* A member that waits on its own is rung at its own bell, and follows its leader again at the next common sleep. */
Test(poller, lets_a_member_call_on_its_own)
{
    belfry_poll_event event;
    belfry_message m;
    for (int i = 0; i < 3; i++)
        add(i);
    expect(bell_at(2) == leader(0));
    expect_rc(belfry_call(clients[2], "x", 1, &m, belfry_in_ms(5)), -ETIMEDOUT);
    expect(bell_at(2) == 0);
    expect_rc(belfry_poller_wait(poller, &event, 1, belfry_in_ms(5)), 0);
    expect(bell_at(2) == leader(0));
}

/* A member that lacks room says so, though it is not the one that parks. */
Test(poller, sleeps_with_every_members_wish_for_room_on_record)
{
    belfry_poll_event event;
    add(0);
    add(1);
    while (belfry_send(clients[1], "0123456789", 10, NULL) == 0)
        ;
    expect_rc(belfry_poller_wait(poller, &event, 1, belfry_in_ms(5)), 0);
    expect_eq(clients[1]->send->want_space, 0); /* taken back when it woke */
}

/* --- cork ------------------------------------------------------------------------------------------------------------- */

static uint32_t bell(int i)
{
    return load_acquire(&clients[i]->send->bell);
}

/* All of a corked poller, with the server asleep: whoever commits must ring. */
static void cork_asleep(void)
{
    for (int i = 0; i < 3; i++)
        add(i);
    belfry_poller_cork(poller, true);
    store_relaxed(&lobby_shard(&fake.lobby, 0)->asleep, 1);
}

Test(poller, rings_once_it_is_flushed_when_it_is_corked)
{
    uint32_t before[3];
    cork_asleep();
    for (int i = 0; i < 3; i++)
        before[i] = bell(i);
    for (int round = 0; round < 5; round++)
        for (int i = 0; i < 2; i++)
            expect_rc(belfry_send(clients[i], "x", 1, NULL), 0);
    struct ring_entry e;
    expect_eq(fake_hear(&fake, clients[0]->slot, &e), 1); /* visible at once ... */
    for (int i = 0; i < 3; i++)
        expect_eq(bell(i), before[i]); /* ... and rung for later, ... */
    belfry_poller_flush(poller);
    expect_eq(bell(0), before[0] + 1); /* ... once, ... */
    expect_eq(bell(1), before[1] + 1);
    expect_eq(bell(2), before[2]); /* ... by those who had something to say */
    belfry_poller_flush(poller);
    expect_eq(bell(0), before[0] + 1);
}

Test(poller, rings_before_it_waits_and_when_it_is_uncorked)
{
    belfry_poll_event event;
    belfry_message m;
    cork_asleep();
    uint32_t before = bell(0);
    expect_rc(belfry_send(clients[0], "x", 1, NULL), 0);
    expect_rc(belfry_poller_wait(poller, &event, 1, 0), 0);
    expect_eq(bell(0), before + 1);
    expect_rc(belfry_send(clients[0], "x", 1, NULL), 0);
    belfry_poller_cork(poller, false);
    expect_eq(bell(0), before + 2);
    expect_rc(belfry_send(clients[0], "x", 1, NULL), 0);
    expect_eq(bell(0), before + 3);
    belfry_poller_cork(poller, true);
    expect_rc(belfry_call(clients[0], "x", 1, &m, belfry_in_ms(5)), -ETIMEDOUT);
    expect_eq(bell(0), before + 4); /* who blocks rings first */
}

Test(poller, rings_for_a_member_that_leaves_or_joins_while_it_is_corked)
{
    cork_asleep();
    uint32_t before = bell(1);
    expect_rc(belfry_send(clients[1], "x", 1, NULL), 0);
    expect_rc(belfry_poller_remove(poller, clients[1]), 0);
    expect_eq(bell(1), before + 1);
    expect_rc(belfry_send(clients[1], "x", 1, NULL), 0);
    expect_eq(bell(1), before + 2); /* it is its own master again */
    add(1);
    expect_rc(belfry_send(clients[1], "x", 1, NULL), 0);
    expect_eq(bell(1), before + 2);
    belfry_poller_flush(poller);
    expect_eq(bell(1), before + 3);
}

/* What one member waits for may be the answer to what another has sent. */
Test(poller, rings_for_all_members_before_one_of_them_blocks)
{
    belfry_message m;
    cork_asleep();
    uint32_t before = bell(0);
    expect_rc(belfry_send(clients[0], "x", 1, NULL), 0);
    expect_eq(bell(0), before);
    expect_rc(belfry_receive(clients[1], &m, belfry_in_ms(5)), -ETIMEDOUT);
    expect_eq(bell(0), before + 1);
}

/* Room is news, too. */
Test(poller, rings_for_room_when_it_is_corked)
{
    static char data[1000];
    cork_asleep();
    store_relaxed(&fake.slots[clients[0]->slot].lobby->parked, BELFRY_PARKED_SPACE);
    uint32_t before = bell(0);
    for (int i = 0; i < 3; i++) {
        belfry_message m;
        expect_eq(fake_say(&fake, clients[0]->slot, BELFRY_PUSH, 0, 0, data, sizeof data), 0);
        expect_rc(belfry_receive(clients[0], &m, 0), 0);
        belfry_release(clients[0], &m);
    }
    expect_eq(bell(0), before);
    belfry_poller_flush(poller);
    expect_eq(bell(0), before + 1);
}

/* --- fork -------------------------------------------------------------------------------------------------------------- */

/* An inherited poller with the parent's client, and one of the child's own. */
static void leave_in_child(void *parents_leaves_first)
{
    belfry_client *own;
    belfry_poll_event event;
    if (belfry_connect(&own, FAKE_SERVICE, NULL) < 0)
        _exit(1);
    fake.slots[own->slot].recv->accepted = 1;
    if (belfry_poller_add(poller, own, NULL) < 0)
        _exit(2);
    belfry_close(parents_leaves_first != NULL ? clients[0] : own);
    if (parents_leaves_first != NULL && belfry_poller_wait(poller, &event, 1, belfry_in_ms(20)) != 0)
        _exit(3);
    if (parents_leaves_first == NULL && belfry_poller_wait(poller, &event, 1, belfry_in_ms(20)) != BELFRY_EFORKED)
        _exit(4);
    _exit(0);
}

Test(poller, survives_a_fork_whichever_side_of_its_members_leaves)
{
    char name[64], path[2 * FIXTURE_PATH_BYTES];
    snprintf(name, sizeof name, "shard-0/slot_%u.lock", clients[3]->slot);
    fake_path(&fake, path, name);
    belfry_close(clients[3]); /* room for the child's */
    clients[3] = NULL;
    add(0);
    for (int parents_first = 0; parents_first < 2; parents_first++) {
        unlink(path);
        expect_eq(fixture_reap(fixture_child(leave_in_child, parents_first != 0 ? poller : NULL)), 0);
    }
}

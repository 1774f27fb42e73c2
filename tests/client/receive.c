/* SPDX-License-Identifier: MIT */
/*
 * Tests of client/send.c, receive.c and wait.c against a server that says exactly what the test wants, when it wants.
 *
 * Ids count from 1, so the answer to the next request can lie in the ring before the request is made.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/order.h"
#include "base/os.h"
#include "client/client.h"
#include "expect.h"
#include "fake_server.h"
#include "shm/doorbell.h"

static struct fake_server fake;
static belfry_client *client;
static uint32_t slot;

static void open_client(void)
{
    fake_open(&fake, 1);
    expect_rc(belfry_connect(&client, FAKE_SERVICE, NULL), 0);
    slot = belfry_client_slot(client);
    fake.slots[slot].recv->accepted = 1;
}

static void close_client(void)
{
    belfry_close(client);
    fake_close(&fake);
}

TestSuite(receive, .init = open_client, .fini = close_client, .timeout = 60);

static int64_t patience(void)
{
    return belfry_in_ms(FIXTURE_PATIENCE_MS);
}

static void expect_message(uint16_t kind, uint64_t id, const char *text)
{
    belfry_message m;
    expect_rc(belfry_receive(client, &m, 0), 0);
    expect_eq(m.kind, kind);
    expect_eq(m.id, id);
    expect_eq(m.size, strlen(text));
    expect(memcmp(m.data, text, m.size) == 0);
    belfry_release(client, &m);
    expect(m.data == NULL && m.size == 0 && m.cookie == 0);
}

static void expect_nothing(void)
{
    belfry_message m;
    expect_rc(belfry_receive(client, &m, 0), -ETIMEDOUT);
    expect(m.data == NULL);
}

/* --- sending ---------------------------------------------------------------------------------------------------------------- */

Test(receive, numbers_requests_from_one_and_one_way_messages_with_zero)
{
    struct ring_entry e;
    uint64_t id = 99;
    expect_rc(belfry_send(client, "a", 1, &id), 0);
    expect_eq(id, 1);
    expect_rc(belfry_send_one_way(client, "b", 1), 0);
    expect_rc(belfry_send(client, "c", 1, &id), 0);
    expect_eq(id, 2);
    expect_eq(fake_hear(&fake, slot, &e), 1);
    expect(e.kind == BELFRY_REQUEST && e.id == 1);
    expect_eq(fake_hear(&fake, slot, &e), 1);
    expect(e.kind == BELFRY_ONE_WAY && e.id == 0);
    expect_eq(fake_hear(&fake, slot, &e), 1);
    expect(e.kind == BELFRY_REQUEST && e.id == 2);
}

Test(receive, sends_in_place)
{
    struct ring_entry e;
    void *data;
    uint64_t id;
    expect_rc(belfry_send_commit(client, BELFRY_REQUEST, 0, &id), BELFRY_ESTATE);
    expect_rc(belfry_send_reserve(client, 100, &data), 0);
    expect_rc(belfry_send_reserve(client, 100, &data), BELFRY_ESTATE);
    expect_rc(belfry_send(client, "x", 1, NULL), BELFRY_ESTATE);
    belfry_message m;
    expect_rc(belfry_call(client, "x", 1, &m, patience()), BELFRY_ESTATE);
    memcpy(data, "in place", 8);
    expect_rc(belfry_send_commit(client, BELFRY_REQUEST, 101, &id), BELFRY_ESTATE);
    expect_rc(belfry_send_commit(client, BELFRY_PUSH, 8, &id), BELFRY_EOPTION);
    expect_rc(belfry_send_commit(client, BELFRY_REQUEST, 8, &id), 0);
    expect_rc(belfry_send_reserve(client, 1008, &data), 0);
    belfry_send_abort(client);
    belfry_send_abort(client);
    expect_eq(fake_hear(&fake, slot, &e), 1);
    expect(e.bytes == 8 && memcmp(e.data, "in place", 8) == 0);
    expect_eq(fake_hear(&fake, slot, &e), 0);
}

Test(receive, refuses_to_send_what_is_too_big)
{
    static char large[2000];
    belfry_message m;
    void *data;
    expect_rc(belfry_send(client, large, 1009, NULL), BELFRY_ETOOBIG);
    expect_in(belfry_last_error(), "1008");
    expect_rc(belfry_send_one_way(client, large, SIZE_MAX), BELFRY_ETOOBIG);
    expect_rc(belfry_send_reserve(client, 1009, &data), BELFRY_ETOOBIG);
    expect_rc(belfry_call(client, large, 1009, &m, patience()), BELFRY_ETOOBIG);
    expect_rc(belfry_send(client, large, 1008, NULL), 0);
}

Test(receive, rings_only_when_the_server_asked_for_it)
{
    struct belfry_abi_slot *words = fake.slots[slot].lobby;
    const struct belfry_abi_send *send = fake.slots[slot].send;
    struct belfry_abi_shard *shard = lobby_shard(&fake.lobby, 0);
    uint32_t bell = send->bell;
    store_relaxed(&words->parked, 0);
    expect_rc(belfry_send(client, "x", 1, NULL), 0);
    expect_eq(send->bell, bell);
    store_relaxed(&shard->asleep, 1);
    expect_rc(belfry_send(client, "x", 1, NULL), 0);
    expect_eq(send->bell, ++bell);
    store_relaxed(&shard->asleep, 0);
    store_relaxed(&words->parked, BELFRY_PARKED_DATA);
    expect_rc(belfry_send(client, "x", 1, NULL), 0);
    expect_eq(send->bell, ++bell);
    store_relaxed(&words->parked, BELFRY_PARKED_SPACE);
    expect_rc(belfry_send(client, "x", 1, NULL), 0);
    expect_eq(send->bell, bell);
}

/* --- order ------------------------------------------------------------------------------------------------------------------- */

Test(receive, hands_out_messages_in_order_of_arrival)
{
    fake_reply(&fake, slot, 2, "second");
    fake_say(&fake, slot, BELFRY_PUSH, 0, 0, "push", 4);
    fake_reply(&fake, slot, 1, "first");
    expect_message(BELFRY_REPLY, 2, "second");
    expect_message(BELFRY_PUSH, 0, "push");
    expect_message(BELFRY_REPLY, 1, "first");
    expect_nothing();
}

Test(receive, keeps_in_order_what_arrives_during_a_call)
{
    belfry_message reply;
    expect_rc(belfry_send(client, "1", 1, NULL), 0);
    expect_rc(belfry_send(client, "2", 1, NULL), 0);
    fake_reply(&fake, slot, 2, "two");
    fake_say(&fake, slot, BELFRY_PUSH, 0, 0, "push", 4);
    fake_reply(&fake, slot, 3, "three"); /* the call's */
    fake_reply(&fake, slot, 1, "one");   /* behind it: stays in the ring */
    expect_rc(belfry_call(client, "3", 1, &reply, patience()), 0);
    expect_eq(reply.id, 3);
    expect_eq(reply.size, 5);
    expect_message(BELFRY_REPLY, 2, "two");
    expect_message(BELFRY_PUSH, 0, "push");
    expect_message(BELFRY_REPLY, 1, "one");
    expect_nothing();
    expect(memcmp(reply.data, "three", 5) == 0); /* still held */
    belfry_release(client, &reply);
}

Test(receive, keeps_failures_of_other_requests_for_receive)
{
    belfry_message m;
    struct {
        int32_t status;
        char text[4];
    } failure = {.status = -EIO, .text = {'b', 'a', 'd', '!'}};
    expect_rc(belfry_send(client, "1", 1, NULL), 0);
    fake_say(&fake, slot, BELFRY_FAILURE, 0, 1, &failure, sizeof failure);
    fake_reply(&fake, slot, 2, "fine");
    expect_rc(belfry_call(client, "2", 1, &m, patience()), 0);
    belfry_release(client, &m);
    expect_rc(belfry_receive(client, &m, 0), 0);
    expect_eq(m.status, -EIO);
    expect_eq(m.id, 1);
    expect(m.size == 4 && memcmp(m.data, "bad!", 4) == 0);
    belfry_release(client, &m);
}

Test(receive, returns_the_status_of_a_failed_call)
{
    belfry_message m;
    int32_t status = BELFRY_EUSER - 7;
    fake_say(&fake, slot, BELFRY_FAILURE, 0, 1, &status, sizeof status);
    expect_rc(belfry_call(client, "1", 1, &m, patience()), BELFRY_EUSER - 7);
    expect(m.data == NULL && m.cookie == 0);
    expect_in(belfry_last_error(), "own failure");
}

/* A push may carry any id; it is nobody's reply. */
Test(receive, does_not_take_a_push_for_the_reply)
{
    belfry_message m;
    fake_say(&fake, slot, BELFRY_PUSH, 0, 1, "push", 4);
    fake_reply(&fake, slot, 1, "reply");
    expect_rc(belfry_call(client, "1", 1, &m, patience()), 0);
    expect_eq(m.size, 5);
    belfry_release(client, &m);
    expect_message(BELFRY_PUSH, 1, "push");
}

/* --- holding ------------------------------------------------------------------------------------------------------------------ */

static uint64_t published(void)
{
    return load_acquire(&fake.slots[slot].send->consumed);
}

Test(receive, gives_room_back_oldest_first)
{
    static char data[400];
    belfry_message held[8];
    for (int i = 0; i < 8; i++) {
        expect_eq(fake_say(&fake, slot, BELFRY_PUSH, 0, 0, data, sizeof data), 0);
        expect_rc(belfry_receive(client, &held[i], 0), 0);
    }
    for (int i = 7; i > 0; i--) {
        belfry_release(client, &held[i]);
        expect_eq(published(), 0); /* the oldest is still out */
    }
    belfry_release(client, &held[0]);
    expect(published() >= 8 * 416); /* now all of it is free */
}

Test(receive, remembers_hundreds_of_held_messages)
{
    static belfry_message held[250];
    for (int i = 0; i < 250; i++) { /* the ring is full by then */
        expect_eq(fake_say(&fake, slot, BELFRY_PUSH, 0, (uint64_t)i, NULL, 0), 0);
        expect_rc(belfry_receive(client, &held[i], 0), 0);
        expect_eq(held[i].id, i);
    }
    struct fixture_random r;
    fixture_seed(&r, "remembers_hundreds_of_held_messages");
    for (int left = 250; left > 0; left--) {
        int at = (int)(fixture_next(&r) % (uint64_t)left);
        belfry_release(client, &held[at]);
        held[at] = held[left - 1];
    }
    expect(published() >= 3072);
    for (int i = 0; i < 1000; i++) { /* and round and round */
        expect_eq(fake_say(&fake, slot, BELFRY_PUSH, 0, 0, "again", 5), 0);
        expect_message(BELFRY_PUSH, 0, "again");
    }
}

Test(receive, may_release_an_empty_message)
{
    belfry_message m = {0};
    belfry_release(client, &m);
    belfry_release(client, &m);
    fake_reply(&fake, slot, 1, "x");
    expect_rc(belfry_receive(client, &m, 0), 0);
    belfry_message copy = m;
    belfry_release(client, &m);
    belfry_release(client, &copy); /* twice is a mistake that harms nobody */
    expect_nothing();
}

Test(receive, rings_for_freed_space_when_the_server_waits_for_it)
{
    static char data[1000];
    store_relaxed(&fake.slots[slot].lobby->parked, BELFRY_PARKED_SPACE);
    uint32_t bell = fake.slots[slot].send->bell;
    for (int i = 0; i < 3; i++) {
        belfry_message m;
        expect_eq(fake_say(&fake, slot, BELFRY_PUSH, 0, 0, data, sizeof data), 0);
        expect_rc(belfry_receive(client, &m, 0), 0);
        belfry_release(client, &m);
    }
    expect(fake.slots[slot].send->bell > bell);
}

Test(receive, takes_back_kept_messages_in_any_order)
{
    static const int orders[][3] = {{0, 1, 2}, {2, 1, 0}, {1, 0, 2}, {1, 2, 0}, {0, 2, 1}, {2, 0, 1}};
    for (uint64_t i = 0; i < 6; i++) {
        belfry_message m[3], reply;
        for (int n = 0; n < 3; n++)
            fake_say(&fake, slot, BELFRY_PUSH, 0, 0, "kept", 4);
        fake_reply(&fake, slot, i + 1, "reply");
        expect_rc(belfry_call(client, "x", 1, &reply, patience()), 0);
        belfry_release(client, &reply);
        for (int n = 0; n < 3; n++)
            expect_rc(belfry_receive(client, &m[n], 0), 0);
        for (int n = 0; n < 3; n++) {
            expect(memcmp(m[orders[i][n]].data, "kept", 4) == 0);
            belfry_release(client, &m[orders[i][n]]);
        }
        expect(client->stash_out == NULL);
    }
}

/* What is still out, or was never fetched, is freed with the handle; a leak is the sanitizer's to find. */
Test(receive, may_be_closed_with_messages_held_and_kept)
{
    belfry_message m;
    fake_say(&fake, slot, BELFRY_PUSH, 0, 0, "kept and fetched", 16);
    fake_say(&fake, slot, BELFRY_PUSH, 0, 0, "kept", 4);
    fake_reply(&fake, slot, 1, "reply");
    expect_rc(belfry_call(client, "x", 1, &m, patience()), 0); /* held in the ring */
    expect_rc(belfry_receive(client, &m, 0), 0);               /* held outside of it */
    expect_eq(m.size, 16);
}

/* --- a full ring ----------------------------------------------------------------------------------------------------------------- */

static void fill_ring(size_t size)
{
    static char data[1008];
    int rc;
    while ((rc = belfry_send(client, data, size, NULL)) == 0)
        ;
    expect_rc(rc, -EAGAIN);
}

Test(receive, says_when_there_is_room_to_send_again)
{
    belfry_message m;
    struct ring_entry e;
    fill_ring(100);
    expect_nothing();
    while (fake_hear(&fake, slot, &e) == 1)
        ;
    expect_rc(belfry_receive(client, &m, patience()), -EAGAIN);
    expect_nothing(); /* it is said once */
    expect_rc(belfry_send(client, "x", 1, NULL), 0);
}

/* Room that came after the send was refused, and before anybody had said that he waits for it, rings nobody. */
Test(receive, looks_for_room_before_it_sleeps)
{
    struct ring_entry e;
    fill_ring(100);
    expect(!bf_client_has_news(client));
    while (fake_hear(&fake, slot, &e) == 1)
        ;
    expect(bf_client_has_news(client));
    expect_rc(belfry_send(client, "x", 1, NULL), 0);
}

Test(receive, prefers_messages_to_room)
{
    belfry_message m;
    struct ring_entry e;
    fill_ring(100);
    while (fake_hear(&fake, slot, &e) == 1)
        ;
    fake_reply(&fake, slot, 1, "reply");
    expect_message(BELFRY_REPLY, 1, "reply");
    expect_rc(belfry_receive(client, &m, 0), -EAGAIN);
}

Test(receive, does_not_mention_room_that_was_found_by_sending)
{
    struct ring_entry e;
    fill_ring(100);
    while (fake_hear(&fake, slot, &e) == 1)
        ;
    expect_rc(belfry_send(client, "x", 1, NULL), 0);
    expect_nothing();
}

Test(receive, does_not_mention_room_after_a_call_that_gave_up_sending)
{
    belfry_message m;
    struct ring_entry e;
    fill_ring(100);
    while (fake_hear(&fake, slot, &e) == 1)
        ;
    expect_rc(belfry_receive(client, &m, 0), -EAGAIN);
    fill_ring(100);
    expect_rc(belfry_call(client, "x", 1, &m, 0), -ETIMEDOUT);
    while (fake_hear(&fake, slot, &e) == 1)
        ;
    expect_nothing();
}

static void *answer_all(void *argument)
{
    struct ring_entry e;
    uint64_t last = (uint64_t)(uintptr_t)argument;
    for (;;) {
        int rc = fake_hear(&fake, slot, &e);
        if (rc == 1) {
            while (fake_say(&fake, slot, BELFRY_REPLY, 0, e.id, "done", 4) == -EAGAIN)
                fixture_pause();
            full_fence();
            struct fake_slot *s = &fake.slots[slot];
            if (doorbell_client_wants(s->send, s->recv)) {
                doorbell_bump_recv(s->recv);
                bf_os_wake(&s->recv->bell);
            }
            if (e.id == last)
                return NULL;
        } else {
            fixture_pause();
        }
    }
}

/* A call that finds the ring full takes in what comes until there is room; the server never wakes it for space alone. */
Test(receive, calls_through_a_full_ring)
{
    pthread_t server;
    belfry_message m;
    uint64_t sent = 0, id;
    while (belfry_send(client, "0123456789", 10, &id) == 0)
        sent++;
    store_relaxed(&fake.slots[slot].lobby->parked, 0);
    pthread_create(&server, NULL, answer_all, (void *)(uintptr_t)(sent + 1));
    expect_rc(belfry_call(client, "call", 4, &m, patience()), 0);
    expect_eq(m.id, sent + 1);
    pthread_join(server, NULL);
    belfry_release(client, &m);
    for (uint64_t i = 1; i <= sent; i++)
        expect_message(BELFRY_REPLY, i, "done");
    expect_nothing();
}

/* --- waiting ---------------------------------------------------------------------------------------------------------------------- */

static void *reply_when_parked(void *argument)
{
    (void)argument;
    struct fake_slot *s = &fake.slots[slot];
    int64_t until = fixture_now_ms() + FIXTURE_PATIENCE_MS;
    while (load_acquire(&s->send->parked) != load_acquire(&s->recv->bell))
        if (fixture_now_ms() > until)
            return (void *)1;
    fake_reply(&fake, slot, 1, "wake up");
    return fake_ring(&fake, slot) ? NULL : (void *)2; /* it may have looked once more, in time */
}

Test(receive, sleeps_and_is_woken_by_its_bell)
{
    pthread_t server;
    void *found;
    belfry_message m;
    pthread_create(&server, NULL, reply_when_parked, NULL);
    expect_rc(belfry_call(client, "x", 1, &m, BELFRY_FOREVER), 0);
    pthread_join(server, &found);
    expect(found != (void *)1);
    expect_eq(m.size, 7);
    expect(fake.slots[slot].send->parked != fake.slots[slot].recv->bell); /* it is awake, and says so */
    belfry_release(client, &m);
}

Test(receive, waits_until_its_deadline_and_not_longer)
{
    belfry_message m;
    int64_t deadline = belfry_in_ms(50);
    expect_rc(belfry_receive(client, &m, deadline), -ETIMEDOUT);
    expect(belfry_now_ns() >= deadline);
    expect(belfry_now_ns() < deadline + 10000000000ll);
    expect_in(belfry_last_error(), FAKE_SERVICE);
    deadline = belfry_in_ms(50);
    expect_rc(belfry_call(client, "x", 1, &m, deadline), -ETIMEDOUT);
    expect(belfry_now_ns() >= deadline);
}

Test(receive, does_not_wait_when_the_deadline_has_passed)
{
    belfry_message m;
    static const int64_t deadlines[] = {0, -1, INT64_MIN, 1};
    for (int i = 0; i < 4; i++) {
        expect_rc(belfry_receive(client, &m, deadlines[i]), -ETIMEDOUT);
        expect_rc(belfry_call(client, "x", 1, &m, deadlines[i]), -ETIMEDOUT);
    }
    fake_say(&fake, slot, BELFRY_PUSH, 0, 0, "there", 5);
    expect_message(BELFRY_PUSH, 0, "there");
}

Test(receive, keeps_a_calls_deadline_though_other_messages_keep_coming)
{
    belfry_message m;
    while (fake_say(&fake, slot, BELFRY_PUSH, 0, 0, "noise", 5) == 0)
        ;
    expect_rc(belfry_call(client, "x", 1, &m, belfry_now_ns() + 1), -ETIMEDOUT);
}

static void expect_heard(uint8_t kind, uint64_t id)
{
    struct ring_entry e;
    expect_eq(fake_hear(&fake, slot, &e), 1);
    expect_eq(e.kind, kind);
    expect_eq(e.id, id);
}

/* The server has seen the cancellation: nothing with that id comes after this. */
static void fake_echo(uint64_t id)
{
    fake_say(&fake, slot, BELFRY_CANCEL, 0, id, "", 0);
}

Test(receive, says_a_cancellation_once_there_is_room_for_it)
{
    uint64_t last;
    belfry_message m;
    while (belfry_send(client, "", 0, &last) == 0)
        ;
    expect_rc(belfry_cancel(client, last), 0);
    expect_rc(belfry_cancel(client, 1), 0);
    expect_rc(belfry_cancel(client, 1), 0);
    expect_eq(client->unsaid_count, 2);
    fake_reply(&fake, slot, last, "late"); /* then the server need not be told any more */
    expect_nothing();
    expect_eq(client->late_count, 1);
    for (uint64_t id = 1; id <= last; id++)
        expect_heard(BELFRY_REQUEST, id);
    expect_rc(belfry_receive(client, &m, patience()), -EAGAIN); /* the room that a send was refused */
    expect_heard(BELFRY_CANCEL, 1);
    struct ring_entry e;
    expect_eq(fake_hear(&fake, slot, &e), 0);
    expect_nothing();
    fake_echo(1);
    expect_nothing();
    expect_eq(client->late_count, 0);
    expect_eq(client->unsaid_count, 0);
}

Test(receive, drops_the_reply_that_comes_after_its_caller_gave_up)
{
    belfry_message m;
    expect_rc(belfry_call(client, "1", 1, &m, 0), -ETIMEDOUT);
    expect_rc(belfry_call(client, "2", 1, &m, 0), -ETIMEDOUT);
    expect_heard(BELFRY_REQUEST, 1);
    expect_heard(BELFRY_CANCEL, 1);
    expect_heard(BELFRY_REQUEST, 2);
    expect_heard(BELFRY_CANCEL, 2);
    fake_reply(&fake, slot, 1, "late");
    fake_echo(1);
    fake_reply(&fake, slot, 3, "in time");
    fake_reply(&fake, slot, 2, "late too");
    fake_echo(2);
    expect_rc(belfry_call(client, "3", 1, &m, patience()), 0);
    expect_eq(m.id, 3);
    belfry_release(client, &m);
    expect_nothing();
    expect_eq(client->late_count, 0);
    expect_eq(belfry_client_late_replies(client), 2);
    for (int i = 0; i < 40; i++)
        expect_rc(belfry_call(client, "x", 1, &m, 0), -ETIMEDOUT);
    expect_eq(client->late_count, 40);
    for (uint64_t id = 43; id > 3; id--) {
        fake_reply(&fake, slot, id, "late");
        fake_echo(id);
    }
    expect_nothing();
    expect_eq(client->late_count, 0);
    expect_eq(belfry_client_late_replies(client), 42);
}

/* --- the end ------------------------------------------------------------------------------------------------------------------------ */

Test(receive, hands_out_everything_before_the_end)
{
    belfry_message m;
    fake_reply(&fake, slot, 1, "one");
    fake_reply(&fake, slot, 2, "two");
    fake_end(&fake, slot, BELFRY_END_STOPPED);
    expect_message(BELFRY_REPLY, 1, "one");
    expect_message(BELFRY_REPLY, 2, "two");
    for (int i = 0; i < 3; i++) {
        expect_rc(belfry_receive(client, &m, BELFRY_FOREVER), BELFRY_EGONE);
        expect_in(belfry_last_error(), "stopped");
        expect_rc(belfry_call(client, "x", 1, &m, BELFRY_FOREVER), BELFRY_EGONE);
        expect_rc(belfry_send(client, "x", 1, NULL), BELFRY_EGONE);
    }
}

static const struct {
    enum belfry_end end;
    int rc;
} ends[] = {
    {BELFRY_END_STOPPED, BELFRY_EGONE},       {BELFRY_END_KICKED, BELFRY_EGONE},
    {BELFRY_END_REFUSED, BELFRY_EREFUSED},    {BELFRY_END_DRAINING, BELFRY_EREFUSED},
    {BELFRY_END_VERSION, BELFRY_EVERSION},    {BELFRY_END_PEER_FAULT, BELFRY_EPROTO},
    {BELFRY_END_NO_MEMORY, BELFRY_ENOSPACE},  {BELFRY_END_LOCK_GONE, BELFRY_EGONE},
    {BELFRY_END_UNFINISHED, BELFRY_EREFUSED}, {(enum belfry_end)999, BELFRY_EGONE},
};

Test(receive, gives_each_end_its_code_and_a_sentence)
{
    belfry_message m;
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        store_release(&fake.slots[slot].recv->end, (uint32_t)ends[i].end);
        expect_rc(belfry_receive(client, &m, BELFRY_FOREVER), ends[i].rc);
        expect_in(belfry_last_error(), FAKE_SERVICE);
    }
}

Test(receive, says_refused_when_it_was_never_accepted)
{
    belfry_message m;
    fake.slots[slot].recv->accepted = 0;
    fake_end(&fake, slot, BELFRY_END_STOPPED);
    expect_rc(belfry_receive(client, &m, BELFRY_FOREVER), BELFRY_EREFUSED);
}

static void *die_when_parked(void *argument)
{
    (void)argument;
    struct fake_slot *s = &fake.slots[slot];
    int64_t until = fixture_now_ms() + FIXTURE_PATIENCE_MS;
    while (load_acquire(&s->send->parked) != load_acquire(&s->recv->bell))
        if (fixture_now_ms() > until)
            return (void *)1;
    fake_die(&fake);
    return NULL;
}

Test(receive, learns_of_the_servers_death_while_it_sleeps)
{
    pthread_t server;
    void *found;
    belfry_message m;
    pthread_create(&server, NULL, die_when_parked, NULL);
    int64_t start = fixture_now_ms();
    expect_rc(belfry_call(client, "x", 1, &m, BELFRY_FOREVER), BELFRY_EGONE);
    expect(fixture_now_ms() - start < FIXTURE_PATIENCE_MS);
    pthread_join(server, &found);
    expect(found == NULL);
    expect_in(belfry_last_error(), "gone");
    expect_rc(belfry_send(client, "x", 1, NULL), BELFRY_EGONE);
}

Test(receive, hands_out_what_a_dead_server_said_last)
{
    belfry_message m;
    fake_reply(&fake, slot, 1, "last words");
    fake_die(&fake);
    expect_message(BELFRY_REPLY, 1, "last words");
    expect_rc(belfry_receive(client, &m, BELFRY_FOREVER), BELFRY_EGONE);
}

Test(receive, learns_of_a_clean_stop_from_the_obituary)
{
    belfry_message m;
    store_release(&lobby_shard(&fake.lobby, 0)->obituary, BELFRY_OBITUARY_STOPPED);
    expect_rc(belfry_receive(client, &m, BELFRY_FOREVER), BELFRY_EGONE);
}

/* The server may be stopped between the two words in which it says so. */
Test(receive, ends_before_the_lobby_says_so)
{
    belfry_message m;
    uint64_t id;
    store_relaxed(&fake.slots[slot].lobby->state, client->open_state);
    expect_rc(belfry_receive(client, &m, 0), -ETIMEDOUT);
    expect_rc(belfry_send(client, "x", 1, &id), 0);
    fake_end(&fake, slot, BELFRY_END_KICKED);
    expect_rc(belfry_await(client, id, &m, patience()), BELFRY_EGONE);
    expect_rc(belfry_receive(client, &m, BELFRY_FOREVER), BELFRY_EGONE);
}

/* --- a server that breaks the rules --------------------------------------------------------------------------------------------------- */

Test(receive, ends_when_the_server_writes_an_impossible_length)
{
    belfry_message m;
    struct belfry_abi_entry *entry = ring_producer_entry(&fake.slots[slot].out, 0);
    fake_reply(&fake, slot, 1, "fine");
    expect_message(BELFRY_REPLY, 1, "fine");
    entry = ring_producer_entry(&fake.slots[slot].out, fake.slots[slot].out.position);
    store_release(&entry->length, 5000);
    expect_rc(belfry_receive(client, &m, BELFRY_FOREVER), BELFRY_EPROTO);
    expect_rc(belfry_call(client, "x", 1, &m, BELFRY_FOREVER), BELFRY_EPROTO);
    expect_rc(belfry_send(client, "x", 1, NULL), BELFRY_EPROTO);
    expect(strlen(belfry_last_error()) > 0);
}

Test(receive, ends_when_the_server_publishes_an_impossible_position)
{
    store_release(&fake.slots[slot].recv->consumed, 1ull << 50);
    int rc;
    while ((rc = belfry_send(client, "0123456789", 10, NULL)) == 0)
        ;
    expect_rc(rc, BELFRY_EPROTO);
}

Test(receive, ends_on_a_failure_without_a_status)
{
    static const int32_t wrong[] = {0, 5, INT32_MAX};
    belfry_message m;
    fake_say(&fake, slot, BELFRY_FAILURE, 0, 1, &wrong[1], sizeof wrong[1]);
    expect_rc(belfry_receive(client, &m, 0), BELFRY_EPROTO);
}

Test(receive, ends_on_a_failure_too_short_for_its_status)
{
    belfry_message m;
    fake_say(&fake, slot, BELFRY_FAILURE, 0, 1, "abc", 3);
    expect_rc(belfry_receive(client, &m, 0), BELFRY_EPROTO);
}

Test(receive, drops_kinds_it_does_not_know_and_reports_flags_it_does_not_know)
{
    belfry_message m;
    fake_say(&fake, slot, 99, 0, 1, "?", 1);
    fake_say(&fake, slot, BELFRY_REQUEST, 0, 1, "?", 1);
    fake_say(&fake, slot, BELFRY_REPLY, BELFRY_FLAG_EXTENDED, 1, "?", 1);
    expect_rc(belfry_receive(client, &m, 0), 0);
    expect_eq(m.status, BELFRY_EUNSUPPORTED);
    expect_eq(m.id, 1);
    expect(m.size > 0);
    belfry_release(client, &m);
    expect_nothing();
}

/* All of the server's ring is full of entries of one kind, so that there is no end to them. */
static void fill_all_round(uint8_t kind)
{
    struct ring_producer_local *out = &fake.slots[slot].out;
    const uint32_t length = 64;
    for (uint64_t at = 0; at < out->capacity; at += length) {
        struct belfry_abi_entry *entry = ring_producer_entry(out, at);
        store_relaxed(&entry->kind, kind);
        store_relaxed(&entry->id, 99);
        store_release(&entry->length, length);
    }
}

Test(receive, comes_to_an_end_of_what_it_drops_though_the_ring_is_full_of_it_all_round)
{
    belfry_message m;
    client->spin.budget_ns = 0; /* who polls, looks at the clock anyway */
    fill_all_round(BELFRY_CANCEL);
    expect_rc(belfry_receive(client, &m, 0), -ETIMEDOUT);
    expect_rc(belfry_receive(client, &m, belfry_in_ms(5)), -ETIMEDOUT);
    expect_rc(belfry_call(client, "x", 1, &m, belfry_in_ms(5)), -ETIMEDOUT);
}

/* After the end, a ring is all that can still be read. */
Test(receive, ends_though_the_ring_is_full_all_round_of_what_it_drops)
{
    belfry_message m;
    fill_all_round(BELFRY_CANCEL);
    fake_end(&fake, slot, BELFRY_END_KICKED);
    expect_rc(belfry_receive(client, &m, BELFRY_FOREVER), BELFRY_EGONE);
    expect_rc(belfry_receive(client, &m, 0), BELFRY_EGONE);
}

Test(receive, ends_a_call_though_the_ring_is_full_all_round_of_what_it_keeps, .timeout = 20)
{
    belfry_message m;
    uint64_t id, kept = 0;
    expect_rc(belfry_send(client, "x", 1, &id), 0);
    fill_all_round(BELFRY_PUSH);
    fake_end(&fake, slot, BELFRY_END_KICKED);
    expect_rc(belfry_await(client, id, &m, BELFRY_FOREVER), BELFRY_EGONE);
    for (const struct client_stashed *s = client->stash_first; s != NULL; s = s->next)
        kept++;
    expect(kept > 0 && kept <= client->in.capacity / 64 + 1);
}

Test(receive, awaits_a_reply_until_its_deadline_beside_room_for_a_send_that_was_refused)
{
    struct ring_entry e;
    belfry_message m;
    int64_t begin;
    bf_spin_init(&client->spin, BELFRY_SPIN_POWER); /* polling looks at the clock by itself */
    while (belfry_send(client, "x", 1, NULL) == 0)
        ;
    while (fake_hear(&fake, slot, &e) == 1) /* there is room again, and nobody has asked for it */
        ;
    begin = fixture_now_ms();
    expect_rc(belfry_await(client, 1, &m, belfry_in_ms(50)), -ETIMEDOUT);
    expect(fixture_now_ms() - begin < FIXTURE_PATIENCE_MS);
    expect_rc(belfry_call(client, "y", 1, &m, belfry_in_ms(50)), -ETIMEDOUT);
    while (belfry_send(client, "x", 1, NULL) == 0)
        ;
    while (fake_hear(&fake, slot, &e) == 1)
        ;
    fake_reply(&fake, slot, 1, "reply");
    expect_rc(belfry_await(client, 1, &m, patience()), 0);
    belfry_release(client, &m);
    expect_rc(belfry_receive(client, &m, patience()), -EAGAIN); /* this is still to be told */
    expect_rc(belfry_send(client, "x", 1, NULL), 0);
}

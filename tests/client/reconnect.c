/* SPDX-License-Identifier: MIT */
/*
 * Tests of client/reconnect.c, again.c and flight.c: a client whose server goes, and another that comes, both played by
 * the test.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/order.h"
#include "base/os.h"
#include "client/client.h"
#include "expect.h"
#include "fake_server.h"
#include "shm/extension.h"
#include "shm/parts.h"

#define LARGE 9000u
#define EVENTS 64

static struct fake_server first, second, third;
static belfry_client *client;
static belfry_client_options options;
static uint32_t slot;

static struct {
    enum belfry_reconnect_event event[EVENTS];
    int rc[EVENTS];
    unsigned count;
} told;

static void on_reconnect(belfry_client *c, enum belfry_reconnect_event event, int rc, void *user)
{
    expect(user == &told);
    expect(c != NULL);
    if (told.count < EVENTS) {
        told.event[told.count] = event;
        told.rc[told.count] = rc;
    }
    told.count++;
}

static void prepare(void)
{
    fake_open_for(&first, FAKE_SLOTS, 16384);
    belfry_client_options_init(&options, sizeof options);
    options.spin = BELFRY_SPIN_POWER;
    options.reconnect.enabled = true;
    options.reconnect.first_ms = 1;
    options.reconnect.max_ms = 4;
    options.reconnect.on_reconnect = on_reconnect;
    options.reconnect.user = &told;
}

static void open_connection(void)
{
    expect_rc(belfry_connect(&client, FAKE_SERVICE, &options), 0);
    slot = belfry_client_slot(client);
    first.slots[slot].recv->accepted = 1;
}

static void open_client(void)
{
    prepare();
    open_connection();
}

static void close_client(void)
{
    belfry_close(client);
    if (third.number != 0)
        fake_close(&third);
    if (second.number != 0)
        fake_close(&second);
    fake_close(&first);
}

TestSuite(reconnect, .init = open_client, .fini = close_client, .timeout = 60);

static int64_t patience(void)
{
    return belfry_in_ms(FIXTURE_PATIENCE_MS);
}

static void succeed(void)
{
    fake_succeed(&second, &first, FAKE_SLOTS, 16384);
}

/* Receive until the client sits at this server; nothing is handed out. */
static void expect_move(struct fake_server *to)
{
    belfry_message m;
    int64_t until = patience();
    while (belfry_client_instance(client) != to->number && belfry_now_ns() < until)
        expect_rc(belfry_receive(client, &m, belfry_in_ms(1)), -ETIMEDOUT);
    expect_eq(belfry_client_instance(client), to->number);
    slot = belfry_client_slot(client);
    to->slots[slot].recv->accepted = 1;
}

static uint64_t send(const char *text)
{
    uint64_t id;
    expect_rc(belfry_send(client, text, strlen(text), &id), 0);
    return id;
}

static uint64_t send_idempotent(const char *text)
{
    uint64_t id;
    expect_rc(belfry_send_idempotent(client, text, strlen(text), BELFRY_FOREVER, &id), 0);
    return id;
}

static void expect_heard(struct fake_server *f, uint8_t kind, uint64_t id, const char *text)
{
    struct ring_entry e;
    expect_eq(fake_hear(f, slot, &e), 1);
    expect_eq(e.kind, kind);
    expect_eq(e.id, id);
    expect_eq(e.bytes, strlen(text));
    expect(memcmp(e.data, text, e.bytes) == 0);
}

static void expect_silence(struct fake_server *f)
{
    struct ring_entry e;
    expect_eq(fake_hear(f, slot, &e), 0);
}

static void expect_failure(uint64_t id, int status)
{
    belfry_message m;
    expect_rc(belfry_receive(client, &m, patience()), 0);
    expect_eq(m.kind, BELFRY_FAILURE);
    expect_eq(m.id, id);
    expect_rc(m.status, status);
    expect(m.size > 0);
    belfry_release(client, &m);
}

static void expect_reply(uint64_t id, const char *text)
{
    belfry_message m;
    expect_rc(belfry_await(client, id, &m, patience()), 0);
    expect_eq(m.id, id);
    expect_eq(m.size, strlen(text));
    expect(memcmp(m.data, text, m.size) == 0);
    belfry_release(client, &m);
}

/* --- the policy ---------------------------------------------------------------------------------------------------- */

Test(reconnect, refuses_a_policy_that_cannot_work)
{
    belfry_client *c;
    belfry_client_options o = options;
    o.reconnect.first_ms = 5;
    expect_rc(belfry_connect(&c, FAKE_SERVICE, &o), BELFRY_EOPTION);
    expect_in(belfry_last_error(), "max_ms");
    o = options;
    o.reconnect.jitter_percent = 101;
    expect_rc(belfry_connect(&c, FAKE_SERVICE, &o), BELFRY_EOPTION);
    expect_in(belfry_last_error(), "jitter_percent");
    o.reconnect.enabled = false;
    expect_rc(belfry_connect(&c, FAKE_SERVICE, &o), 0);
    belfry_close(c);
}

Test(reconnect, is_off_unless_wanted)
{
    belfry_client *c;
    belfry_message m;
    expect_rc(belfry_connect(&c, FAKE_SERVICE, NULL), 0);
    uint32_t other = belfry_client_slot(c);
    first.slots[other].recv->accepted = 1;
    fake_drain(&first, other);
    succeed();
    expect_rc(belfry_receive(c, &m, patience()), BELFRY_EGONE);
    expect_rc(belfry_send_idempotent(c, "x", 1, BELFRY_FOREVER, NULL), BELFRY_EGONE);
    expect_eq(belfry_client_reconnects(c), 0);
    belfry_close(c);
}

Test(reconnect, moves_to_the_successor_and_says_so)
{
    fake_drain(&first, slot);
    succeed();
    expect_move(&second);
    expect_eq(belfry_client_reconnects(client), 1);
    expect_eq(told.count, 2);
    expect_eq(told.event[0], BELFRY_RECONNECT_LOST);
    expect_rc(told.rc[0], BELFRY_EGONE);
    expect_eq(told.event[1], BELFRY_RECONNECT_DONE);
    uint64_t id = send("hello");
    expect_heard(&second, BELFRY_REQUEST, id, "hello");
    fake_reply(&second, slot, id, "again");
    expect_reply(id, "again");
}

Test(reconnect, goes_on_trying_with_pauses_until_the_deadline)
{
    belfry_message m;
    fake_die(&first);
    int64_t deadline = belfry_in_ms(50);
    expect_rc(belfry_receive(client, &m, deadline), -ETIMEDOUT);
    expect(belfry_now_ns() >= deadline);
    expect(told.count >= 3);
    expect_eq(told.event[0], BELFRY_RECONNECT_LOST);
    for (unsigned i = 1; i < bf_min(told.count, EVENTS); i++) {
        expect_eq(told.event[i], BELFRY_RECONNECT_FAILED);
        expect_rc(told.rc[i], BELFRY_ENOSERVICE);
    }
    expect(told.count < 60); /* it pauses */
    deadline = belfry_in_ms(10);
    expect_rc(belfry_call(client, "x", 1, &m, deadline), -ETIMEDOUT);
    expect_rc(belfry_flush(client, belfry_in_ms(5)), -ETIMEDOUT);
    succeed();
    expect_move(&second);
    expect_silence(&second); /* the call that had timed out is not sent any more */
}

Test(reconnect, gives_up_after_its_time_and_fails_everything)
{
    belfry_message m;
    belfry_close(client);
    options.reconnect.give_up_ms = 20;
    open_connection();
    uint64_t read = send_idempotent("read"), plain = send("plain");
    expect_heard(&first, BELFRY_REQUEST, read, "read");
    fake_die(&first);
    expect_failure(plain, BELFRY_EGONE);
    expect_failure(read, BELFRY_EGONE);
    expect_rc(belfry_receive(client, &m, patience()), BELFRY_EGONE);
    expect_eq(told.event[bf_min(told.count, EVENTS) - 1], BELFRY_RECONNECT_GIVEN_UP);
    unsigned before = told.count;
    succeed();
    expect_rc(belfry_receive(client, &m, patience()), BELFRY_EGONE);
    expect_rc(belfry_send(client, "x", 1, NULL), BELFRY_EGONE);
    expect_rc(belfry_call(client, "x", 1, &m, patience()), BELFRY_EGONE);
    expect_rc(belfry_cancel(client, read), BELFRY_EGONE);
    expect_eq(told.count, before);
}

Test(reconnect, does_not_come_back_to_a_server_that_does_not_want_it)
{
    static const struct {
        enum belfry_end why;
        int rc;
    } ends[] = {{BELFRY_END_REFUSED, BELFRY_EREFUSED},
                {BELFRY_END_KICKED, BELFRY_EGONE},
                {BELFRY_END_BACKLOG, BELFRY_EGONE},
                {BELFRY_END_VERSION, BELFRY_EVERSION},
                {BELFRY_END_PEER_FAULT, BELFRY_EPROTO}};
    belfry_message m;
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        send("x");
        fake_end(&first, slot, ends[i].why);
        expect_rc(belfry_receive(client, &m, patience()), ends[i].rc);
        expect_rc(belfry_send(client, "x", 1, NULL), ends[i].rc);
        expect_eq(told.count, 0);
        belfry_close(client);
        fake_close(&first);
        fake_open_for(&first, FAKE_SLOTS, 16384);
        open_connection();
    }
}

/* --- what was in flight -------------------------------------------------------------------------------------------- */

Test(reconnect, sends_again_what_a_drained_server_had_not_read)
{
    uint64_t read = send("read"), unread = send("unread");
    expect_rc(belfry_send_one_way(client, "one way", 7), 0);
    uint64_t last;
    expect_rc(belfry_send_until(client, "last", 4, patience(), &last), 0);
    expect_heard(&first, BELFRY_REQUEST, read, "read");
    fake_drain(&first, slot);
    succeed();
    expect_failure(read, BELFRY_EGONE);
    expect_move(&second);
    expect_heard(&second, BELFRY_REQUEST, unread, "unread");
    expect_heard(&second, BELFRY_ONE_WAY, 0, "one way");
    struct ring_entry e;
    struct extension x;
    expect_eq(fake_hear(&second, slot, &e), 1);
    expect(e.id == last && e.flags == BELFRY_FLAG_EXTENDED && extension_read(&e, &x) > 0 && x.deadline_ns > 0);
    expect_silence(&second);
    fake_reply(&second, slot, last, "three");
    fake_reply(&second, slot, unread, "one");
    expect_reply(unread, "one");
    expect_reply(last, "three");
}

Test(reconnect, sends_again_what_may_be_executed_twice)
{
    uint64_t a = send_idempotent("a"), b = send("b"), c = send_idempotent("c"), d = send("d"), e = send_idempotent("");
    expect_heard(&first, BELFRY_REQUEST, a, "a");
    fake_reply(&first, slot, b, "before the end");
    fake_die(&first);
    succeed();
    belfry_message m;
    expect_rc(belfry_receive(client, &m, patience()), 0); /* it had come */
    expect_eq(m.id, b);
    belfry_release(client, &m);
    expect_failure(d, BELFRY_EGONE);
    expect_move(&second);
    expect_heard(&second, BELFRY_REQUEST, a, "a");
    expect_heard(&second, BELFRY_REQUEST, c, "c");
    expect_heard(&second, BELFRY_REQUEST, e, "");
    expect_silence(&second);
    fake_reply(&second, slot, a, "A");
    fake_reply(&second, slot, c, "C");
    fake_reply(&second, slot, e, "E");
    expect_reply(c, "C");
    expect_reply(a, "A");
    expect_reply(e, "E");
}

Test(reconnect, sends_again_all_that_a_server_never_accepted)
{
    first.slots[slot].recv->accepted = 0;
    uint64_t a = send("a");
    fake_end(&first, slot, BELFRY_END_DRAINING);
    succeed();
    expect_move(&second);
    second.slots[slot].recv->accepted = 0;
    fake_end(&second, slot, BELFRY_END_NO_MEMORY); /* nor did that one */
    fake_succeed(&third, &second, FAKE_SLOTS, 16384);
    expect_move(&third);
    expect_heard(&third, BELFRY_REQUEST, a, "a");
    expect_silence(&third);
    expect_eq(belfry_client_reconnects(client), 2);
}

Test(reconnect, does_not_send_again_for_ever)
{
    belfry_close(client);
    options.reconnect.replays_max = 1;
    open_connection();
    uint64_t id = send_idempotent("poison");
    expect_heard(&first, BELFRY_REQUEST, id, "poison");
    fake_die(&first);
    succeed();
    expect_move(&second);
    expect_heard(&second, BELFRY_REQUEST, id, "poison");
    fake_die(&second);
    expect_failure(id, BELFRY_EGONE);
    fake_succeed(&third, &second, FAKE_SLOTS, 16384);
    expect_move(&third);
    expect_silence(&third);
}

Test(reconnect, does_not_begin_a_stream_of_replies_anew)
{
    uint64_t id = send_idempotent("stream");
    expect_heard(&first, BELFRY_REQUEST, id, "stream");
    fake_say(&first, slot, BELFRY_REPLY, BELFRY_FLAG_MORE, id, "one", 3);
    fake_die(&first);
    succeed();
    expect_reply(id, "one");
    expect_failure(id, BELFRY_EGONE);
    expect_move(&second);
    expect_silence(&second);
}

Test(reconnect, forgets_what_was_cancelled_and_keeps_what_had_come)
{
    belfry_message m;
    uint64_t a = send("a"), b = send("b"), c = send_idempotent("c"), d = send("d");
    expect_rc(belfry_cancel(client, a), 0);
    expect_rc(belfry_cancel(client, c), 0);
    fake_say(&first, slot, BELFRY_PUSH, 0, 0, "push", 4);
    fake_reply(&first, slot, a, "late");
    fake_drain(&first, slot);
    expect_rc(belfry_call(client, "e", 1, &m, belfry_in_ms(20)), -ETIMEDOUT); /* keeps the push, notices the end */
    expect_rc(belfry_cancel(client, d), 0);
    succeed();
    expect_rc(belfry_receive(client, &m, patience()), 0);
    expect_eq(m.kind, BELFRY_PUSH);
    belfry_release(client, &m);
    expect_move(&second);
    expect_heard(&second, BELFRY_REQUEST, b, "b");
    expect_silence(&second);
    expect_eq(belfry_client_late_replies(client), 1);
    expect_rc(belfry_cancel(client, b), 0); /* now the successor is told */
    expect_heard(&second, BELFRY_CANCEL, b, "");
}

/* Random answers in random order, and then the table must hold exactly the others. */
Test(reconnect, remembers_exactly_what_was_not_answered)
{
    enum { REQUESTS = 600 };
    static bool answered[REQUESTS + 1];
    struct fixture_random random;
    struct ring_entry e;
    belfry_message m;
    fixture_seed(&random, "reconnect");
    for (uint64_t id = 1; id <= REQUESTS; id++) {
        expect_eq(send_idempotent("some"), id);
        expect_eq(fake_hear(&first, slot, &e), 1);
        for (int i = 0; i < 3; i++) {
            uint64_t which = fixture_next(&random) % id + 1;
            bool old = fixture_next(&random) % 4 == 0;
            if (answered[which] || (!old && which + 20 < id))
                continue;
            answered[which] = true;
            expect_rc(fake_reply(&first, slot, which, "r"), 0);
            expect_rc(belfry_receive(client, &m, 0), 0);
            expect_eq(m.id, which);
            belfry_release(client, &m);
        }
    }
    fake_die(&first);
    succeed();
    expect_move(&second);
    for (uint64_t id = 1; id <= REQUESTS; id++) {
        if (answered[id])
            continue;
        for (int tries = 0; tries < 2 && fake_hear(&second, slot, &e) == 0; tries++)
            expect_rc(belfry_receive(client, &m, 0), -ETIMEDOUT); /* the rest goes when there is room */
        expect_eq(e.id, id);
        expect(e.bytes == 4 && memcmp(e.data, "some", 4) == 0);
    }
    expect_silence(&second);
}

Test(reconnect, fails_what_is_too_large_for_the_successor)
{
    static char data[900];
    uint64_t id;
    expect_rc(belfry_send(client, data, sizeof data, &id), 0);
    uint64_t small = send("small");
    fake_drain(&first, slot);
    fake_succeed(&second, &first, FAKE_SLOTS, 500);
    expect_failure(id, BELFRY_ETOOBIG);
    expect_move(&second);
    expect_heard(&second, BELFRY_REQUEST, small, "small");
    expect_eq(belfry_message_bytes_max(client), 500);
}

/* --- calls, and threads that wait ---------------------------------------------------------------------------------- */

struct play {
    bool read;   /* the first server reads the request before it dies */
    bool answer; /* the second is asked, and answers */
};

static void *play(void *argument)
{
    const struct play *p = argument;
    struct ring_entry e;
    expect(eventually(!ring_is_empty(&first.slots[slot].in)));
    if (p->read)
        fake_hear(&first, slot, &e);
    if (p->read)
        fake_die(&first);
    else
        fake_drain(&first, slot);
    succeed();
    uint32_t now = UINT32_MAX; /* whichever slot it takes */
    while (p->answer && now == UINT32_MAX) {
        for (uint32_t i = 0; i < FAKE_SLOTS; i++)
            if (!ring_is_empty(&second.slots[i].in))
                now = i;
        fixture_pause();
    }
    if (p->answer && fake_hear(&second, now, &e) == 1) {
        second.slots[now].recv->accepted = 1;
        fake_reply(&second, now, e.id, "from the second");
        fake_ring(&second, now);
    }
    return NULL;
}

static int call_across(bool idempotent, struct play p)
{
    pthread_t thread;
    belfry_message m;
    expect_eq(pthread_create(&thread, NULL, play, &p), 0);
    int rc = idempotent ? belfry_call_idempotent(client, "question", 8, &m, patience())
                        : belfry_call(client, "question", 8, &m, patience());
    pthread_join(thread, NULL);
    if (rc == 0)
        expect(m.size == 15 && memcmp(m.data, "from the second", 15) == 0);
    belfry_release(client, &m);
    return rc;
}

Test(reconnect, a_call_that_was_not_read_goes_on_with_the_successor)
{
    expect_rc(call_across(false, (struct play){.read = false, .answer = true}), 0);
}

Test(reconnect, a_call_that_may_be_executed_twice_goes_on_with_the_successor)
{
    expect_rc(call_across(true, (struct play){.read = true, .answer = true}), 0);
}

Test(reconnect, any_other_call_ends)
{
    expect_rc(call_across(false, (struct play){.read = true, .answer = false}), BELFRY_EGONE);
    expect_in(belfry_last_error(), "may or may not");
    expect_move(&second);
    expect_silence(&second);
}

static void *begin_second(void *argument)
{
    (void)argument;
    succeed();
    for (bool heard = false; !heard; fixture_pause())
        for (uint32_t i = 0; i < FAKE_SLOTS && !heard; i++) {
            struct ring_entry e;
            heard = fake_hear(&second, i, &e) == 1;
            if (heard)
                fake_reply(&second, i, e.id, "here I am");
            if (heard)
                fake_ring(&second, i);
        }
    return NULL;
}

Test(reconnect, a_call_begun_without_a_connection_waits_for_one)
{
    belfry_message m;
    pthread_t thread;
    fake_die(&first);
    expect_rc(belfry_receive(client, &m, 0), -ETIMEDOUT);
    expect_eq(pthread_create(&thread, NULL, begin_second, NULL), 0);
    expect_rc(belfry_call(client, "question", 8, &m, patience()), 0);
    expect(m.size == 9 && memcmp(m.data, "here I am", 9) == 0);
    belfry_release(client, &m);
    pthread_join(thread, NULL);
}

Test(reconnect, tells_whoever_could_not_send_when_he_can)
{
    belfry_message m;
    fake_drain(&first, slot);
    expect_rc(belfry_send(client, "x", 1, NULL), -EAGAIN);
    expect_rc(belfry_send_one_way(client, "x", 1), -EAGAIN);
    void *room;
    expect_rc(belfry_send_reserve(client, 10, &room), -EAGAIN);
    expect_rc(belfry_receive(client, &m, belfry_in_ms(5)), -ETIMEDOUT);
    succeed();
    expect_rc(belfry_receive(client, &m, patience()), -EAGAIN);
    expect_eq(belfry_client_instance(client), second.number);
    slot = belfry_client_slot(client);
    uint64_t id = send("now");
    expect_heard(&second, BELFRY_REQUEST, id, "now");
    expect_rc(belfry_receive(client, &m, 0), -ETIMEDOUT); /* said once */
}

Test(reconnect, new_requests_do_not_overtake_those_that_wait)
{
    enum { REQUESTS = 20 };
    static char data[100];
    struct ring_entry e;
    belfry_message m;
    uint64_t next = 1;
    for (int round = 0; round < 2; round++) /* more than one ring takes: the first round is read */
        for (int i = 0; i < REQUESTS; i++) {
            expect_rc(belfry_send_idempotent(client, data, sizeof data, BELFRY_FOREVER, NULL), 0);
            if (round == 0)
                expect_eq(fake_hear(&first, slot, &e), 1);
        }
    fake_die(&first);
    succeed();
    expect_move(&second);
    expect_rc(belfry_send(client, "x", 1, NULL), -EAGAIN);
    while (next <= 2 * REQUESTS) {
        while (fake_hear(&second, slot, &e) == 1)
            expect_eq(e.id, next++);
        int rc = belfry_receive(client, &m, belfry_in_ms(1));
        expect(rc == -EAGAIN || rc == -ETIMEDOUT);
    }
    uint64_t id = send("last");
    expect_eq(id, 2 * REQUESTS + 1);
    expect_heard(&second, BELFRY_REQUEST, id, "last");
}

/* --- memory that stays --------------------------------------------------------------------------------------------- */

/* Segments of this instance that are mapped by the client: the fake server has its own maps of the same. */
static int maps_of(const struct fake_server *f)
{
    char line[1024], part[64];
    int count = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    snprintf(part, sizeof part, "/%u/segments/", f->number);
    while (fgets(line, sizeof line, maps) != NULL)
        count += strstr(line, part) != NULL;
    fclose(maps);
    return count - 2 * FAKE_SLOTS;
}

Test(reconnect, messages_that_are_held_stay_until_they_are_released)
{
    belfry_message a, b, c;
    uint64_t id = send("x");
    fake_reply(&first, slot, id, "first");
    fake_say(&first, slot, BELFRY_PUSH, 0, 0, "second", 6);
    fake_say(&first, slot, BELFRY_PUSH, 0, 0, "third", 5);
    expect_rc(belfry_receive(client, &a, 0), 0);
    expect_rc(belfry_receive(client, &b, 0), 0);
    expect_rc(belfry_receive(client, &c, 0), 0);
    belfry_release(client, &b);
    expect_eq(maps_of(&first), 2);
    fake_drain(&first, slot);
    succeed();
    expect_move(&second);
    expect_eq(maps_of(&first), 2);
    expect_eq(maps_of(&second), 2);
    expect(memcmp(a.data, "first", 5) == 0 && memcmp(c.data, "third", 5) == 0);
    belfry_message twice = a;
    belfry_release(client, &a);
    belfry_release(client, &twice);
    expect_eq(maps_of(&first), 2);
    expect(memcmp(c.data, "third", 5) == 0);
    id = send("y");
    fake_reply(&second, slot, id, "of the second");
    expect_rc(belfry_receive(client, &b, 0), 0);
    belfry_release(client, &c);
    expect_eq(maps_of(&first), 0);
    expect(memcmp(b.data, "of the second", 13) == 0);
    belfry_release(client, &b);
}

Test(reconnect, what_is_never_released_is_unmapped_at_the_end)
{
    belfry_message a;
    fake_say(&first, slot, BELFRY_PUSH, 0, 0, "a", 1);
    expect_rc(belfry_receive(client, &a, 0), 0);
    fake_drain(&first, slot);
    succeed();
    expect_move(&second);
    belfry_close(client);
    client = NULL;
    expect_eq(maps_of(&first), 0);
    expect_eq(maps_of(&second), 0);
}

Test(reconnect, costs_no_descriptor)
{
    int before = fixture_count_fds();
    fake_drain(&first, slot);
    succeed();
    int with_second = fixture_count_fds();
    expect_move(&second);
    expect_eq(fixture_count_fds(), with_second);
    expect(before <= with_second);
}

Test(reconnect, a_reservation_stays_where_it_is)
{
    void *room;
    uint64_t id;
    expect_rc(belfry_send_reserve(client, 100, &room), 0);
    fake_drain(&first, slot);
    succeed();
    expect_move(&second);
    expect_rc(belfry_send(client, "x", 1, NULL), BELFRY_ESTATE);
    expect_eq(maps_of(&first), 2);
    memcpy(room, "written late", 12);
    expect_rc(belfry_send_commit(client, BELFRY_REQUEST, 101, &id), BELFRY_ESTATE);
    expect_rc(belfry_send_commit(client, BELFRY_PUSH, 12, &id), BELFRY_EOPTION);
    expect_rc(belfry_send_commit(client, BELFRY_REQUEST, 12, &id), 0);
    expect_heard(&second, BELFRY_REQUEST, id, "written late");
    expect_eq(maps_of(&first), 0);
    id = send("next");
    expect_heard(&second, BELFRY_REQUEST, id, "next");
}

Test(reconnect, a_reservation_may_be_committed_or_aborted_without_a_connection)
{
    void *room;
    uint64_t id;
    belfry_message m;
    expect_rc(belfry_send_reserve(client, 100, &room), 0);
    fake_drain(&first, slot);
    expect_rc(belfry_receive(client, &m, 0), -ETIMEDOUT);
    expect(told.count > 0);
    memcpy(room, "late", 4);
    expect_rc(belfry_send_commit(client, BELFRY_REQUEST, 4, &id), 0);
    expect_rc(belfry_send_commit(client, BELFRY_REQUEST, 4, &id), BELFRY_ESTATE);
    succeed();
    expect_move(&second);
    expect_heard(&second, BELFRY_REQUEST, id, "late");
    expect_rc(belfry_send_reserve(client, 100, &room), 0);
    fake_drain(&second, slot);
    fake_succeed(&third, &second, FAKE_SLOTS, 16384);
    expect_failure(id, BELFRY_EGONE);
    expect_move(&third);
    belfry_send_abort(client);
    expect_eq(maps_of(&second), 0);
    id = send("next");
    expect_heard(&third, BELFRY_REQUEST, id, "next");
}

/* --- large messages ------------------------------------------------------------------------------------------------ */

static uint8_t pattern(size_t i)
{
    return (uint8_t)(i * 131 + i / 251);
}

static uint8_t large[LARGE];

static uint64_t send_large(bool idempotent)
{
    uint64_t id;
    for (size_t i = 0; i < LARGE; i++)
        large[i] = pattern(i);
    if (idempotent)
        expect_rc(belfry_send_idempotent(client, large, LARGE, BELFRY_FOREVER, &id), 0);
    else
        expect_rc(belfry_send(client, large, LARGE, &id), 0);
    return id;
}

/* Read all parts of a message while the client puts them in; its bytes must be right. */
static void expect_large(struct fake_server *f, uint64_t id)
{
    static uint8_t copy[LARGE];
    struct parts_in in = {.open = false};
    struct ring_entry e;
    belfry_message m;
    int whole = 0;
    memset(copy, 0, sizeof copy);
    for (int64_t until = patience(); whole == 0 && belfry_now_ns() < until;) {
        uint32_t block = 0;
        if (fake_hear(f, slot, &e) == 0) {
            belfry_receive(client, &m, 0);
            continue;
        }
        expect_eq(e.kind, BELFRY_PART);
        if (e.flags == BELFRY_FLAG_EXTENDED) {
            expect_rc(parts_open(&in, &e, &block), 0);
            in.data = copy;
        }
        whole = parts_take(&in, &e, block);
    }
    expect_eq(whole, 1);
    expect(in.id == id && in.bytes == LARGE);
    for (size_t i = 0; i < LARGE; i++)
        expect(copy[i] == pattern(i));
}

Test(reconnect, a_large_message_that_had_not_left_whole_is_begun_anew)
{
    struct ring_entry e;
    uint64_t id = send_large(false); /* larger than the ring */
    expect_eq(fake_hear(&first, slot, &e), 1);
    expect_eq(fake_hear(&first, slot, &e), 1);
    fake_die(&first);
    succeed();
    expect_move(&second);
    expect(belfry_client_unsent_bytes(client) > 0);
    expect_large(&second, id);
    expect_eq(belfry_client_unsent_bytes(client), 0);
    fake_reply(&second, slot, id, "got it");
    expect_reply(id, "got it");
}

Test(reconnect, a_large_message_that_had_not_left_whole_goes_behind_what_was_not_read)
{
    uint64_t small = send("small"), id = send_large(true);
    fake_drain(&first, slot);
    succeed();
    expect_move(&second);
    expect_heard(&second, BELFRY_REQUEST, small, "small");
    expect_large(&second, id);
    id = send("next");
    expect_heard(&second, BELFRY_REQUEST, id, "next");
}

Test(reconnect, a_large_message_that_had_left_is_sent_again_if_it_may_be)
{
    uint64_t id = send_large(true);
    expect_large(&first, id);
    fake_die(&first);
    succeed();
    expect_move(&second);
    expect_large(&second, id);
    fake_drain(&second, slot); /* and again */
    fake_succeed(&third, &second, FAKE_SLOTS, 16384);
    expect_move(&third);
    expect_large(&third, id);
    fake_reply(&third, slot, id, "got it");
    expect_reply(id, "got it");
}

Test(reconnect, a_large_message_that_lies_in_the_ring_unread_is_put_together_again)
{
    static char data[2000];
    uint64_t id;
    memset(data, 'x', sizeof data);
    expect_rc(belfry_send_one_way(client, data, sizeof data), 0); /* both fit into the ring */
    expect_rc(belfry_send(client, data, 1100, &id), 0);
    expect_eq(belfry_client_unsent_bytes(client), 0);
    fake_drain(&first, slot);
    succeed();
    expect_move(&second);
    struct ring_entry e;
    uint64_t bytes[2] = {0, 0};
    while (fake_hear(&second, slot, &e) == 1) {
        expect_eq(e.kind, BELFRY_PART);
        bytes[e.id == id] += e.bytes;
        expect(((const char *)e.data)[e.bytes - 1] == 'x');
    }
    expect(bytes[0] > sizeof data && bytes[0] < sizeof data + 100);
    expect(bytes[1] > 1100 && bytes[1] < 1200);
}

Test(reconnect, a_large_message_that_had_arrived_in_part_is_dropped)
{
    uint64_t id = send_idempotent("give me much");
    struct parts_out out = {.data = large, .bytes = LARGE, .id = id, .kind = BELFRY_REPLY};
    bool moved = false;
    belfry_message m;
    expect_eq(parts_send(&first.slots[slot].out, &out, 2000, &moved), 0);
    expect_rc(belfry_receive(client, &m, 0), -ETIMEDOUT);
    fake_die(&first);
    succeed();
    expect_move(&second);
    expect_heard(&second, BELFRY_REQUEST, id, "give me much");
    fake_reply(&second, slot, id, "little");
    expect_reply(id, "little");
}

Test(reconnect, a_large_message_can_be_written_and_cancelled_without_a_connection)
{
    void *room;
    uint64_t id, other;
    belfry_message m;
    expect_rc(belfry_send_reserve(client, LARGE, &room), 0);
    for (size_t i = 0; i < LARGE; i++)
        ((uint8_t *)room)[i] = pattern(i);
    fake_die(&first);
    expect_rc(belfry_receive(client, &m, 0), -ETIMEDOUT);
    expect_rc(belfry_send_commit(client, BELFRY_REQUEST, LARGE, &id), 0);
    succeed();
    expect_move(&second);
    expect_large(&second, id);
    other = send_large(false);
    fake_drain(&second, slot);
    expect_failure(id, BELFRY_EGONE);
    expect_rc(belfry_cancel(client, other), 0);
    fake_succeed(&third, &second, FAKE_SLOTS, 16384);
    expect_move(&third);
    expect_silence(&third);
    expect_eq(belfry_client_unsent_bytes(client), 0);
}

static void *die_in_the_middle(void *argument)
{
    struct ring_entry e;
    (void)argument;
    expect(eventually(fake_hear(&first, slot, &e) == 1));
    fake_die(&first);
    succeed();
    return NULL;
}

Test(reconnect, a_large_call_is_begun_anew_and_its_memory_is_the_callers_again_at_the_deadline)
{
    pthread_t thread;
    belfry_message m;
    uint8_t *data = malloc(LARGE);
    memset(data, 1, LARGE);
    expect_eq(pthread_create(&thread, NULL, die_in_the_middle, NULL), 0);
    expect_rc(belfry_call_idempotent(client, data, LARGE, &m, belfry_in_ms(300)), -ETIMEDOUT);
    pthread_join(thread, NULL);
    memset(data, 2, LARGE);
    free(data);
    expect_eq(belfry_client_instance(client), second.number);
    slot = belfry_client_slot(client);
    struct ring_entry e;
    bool cancelled = false;
    for (int i = 0; i < 200 && !cancelled; i++) {
        while (fake_hear(&second, slot, &e) == 1)
            cancelled |= e.kind == BELFRY_CANCEL;
        belfry_receive(client, &m, 0);
    }
    expect(cancelled);
    uint64_t id = send("next");
    expect_heard(&second, BELFRY_REQUEST, id, "next");
}

/* --- pollers ------------------------------------------------------------------------------------------------------- */

Test(reconnect, stays_a_member_of_its_poller)
{
    belfry_poller *p;
    belfry_poll_event event;
    belfry_client *other;
    belfry_message m;
    expect_rc(belfry_connect(&other, FAKE_SERVICE, &options), 0);
    first.slots[belfry_client_slot(other)].recv->accepted = 1;
    expect_rc(belfry_poller_create(&p), 0);
    expect_rc(belfry_poller_add(p, client, &client), 0);
    expect_rc(belfry_poller_add(p, other, &other), 0);
    uint64_t lost = send("x");
    struct ring_entry e;
    fake_hear(&first, slot, &e);
    fake_drain(&first, slot); /* the leader goes first */
    expect_eq(belfry_poller_wait(p, &event, 1, patience()), 1);
    expect(event.client == client && event.tag == &client && event.readable);
    expect_failure(lost, BELFRY_EGONE);
    expect_rc(belfry_send(client, "y", 1, NULL), -EAGAIN);
    expect_eq(belfry_poller_wait(p, &event, 1, belfry_in_ms(10)), 0); /* nowhere to go yet */
    succeed();
    expect_eq(belfry_poller_wait(p, &event, 1, patience()), 1);
    expect(event.client == client && event.writable && !event.readable);
    slot = belfry_client_slot(client);
    second.slots[slot].recv->accepted = 1;
    uint64_t id = send("y");
    expect_heard(&second, BELFRY_REQUEST, id, "y");
    expect_eq(belfry_poller_wait(p, &event, 1, belfry_in_ms(10)), 0);
    fake_drain(&first, belfry_client_slot(other));
    expect_eq(belfry_poller_wait(p, &event, 1, belfry_in_ms(50)), 0);
    expect_eq(belfry_client_instance(other), second.number);
    second.slots[belfry_client_slot(other)].recv->accepted = 1;
    expect_eq(belfry_poller_wait(p, &event, 1, belfry_in_ms(10)), 0);
    uint64_t one = client->send->bell_at, two = other->send->bell_at;
    expect((one == 0) != (two == 0)); /* one follows the other, at the new server */
    fake_reply(&second, slot, id, "Y");
    expect_eq(belfry_poller_wait(p, &event, 1, patience()), 1);
    expect_rc(belfry_receive(client, &m, 0), 0);
    belfry_release(client, &m);
    belfry_close(client);
    client = NULL;
    belfry_close(other);
    belfry_poller_destroy(p);
}

Test(reconnect, a_poller_of_lost_clients_alone_waits_and_brings_them_back)
{
    belfry_poller *p;
    belfry_poll_event event;
    expect_rc(belfry_poller_create(&p), 0);
    expect_rc(belfry_poller_add(p, client, NULL), 0);
    belfry_poller_cork(p, true);
    uint64_t id = send_idempotent("x");
    fake_die(&first);
    int64_t deadline = belfry_in_ms(30);
    expect_eq(belfry_poller_wait(p, &event, 1, deadline), 0);
    expect(belfry_now_ns() >= deadline);
    succeed();
    expect_eq(belfry_poller_wait(p, &event, 1, belfry_in_ms(50)), 0);
    expect_eq(belfry_client_instance(client), second.number);
    slot = belfry_client_slot(client);
    expect_heard(&second, BELFRY_REQUEST, id, "x");
    belfry_poller_destroy(p);
}

/* A poller waits for 64 shards. When members move, there may be more for a while; it must go on with all of them. */
Test(reconnect, a_poller_of_more_shards_than_it_can_wait_for_looks_often)
{
    enum { SERVERS = 64 };
    static struct fake_server all[SERVERS + 1];
    static belfry_client *clients[SERVERS + 1];
    belfry_poller *p;
    belfry_poll_event event;
    belfry_message m;
    expect_rc(belfry_poller_create(&p), 0);
    for (unsigned i = 0; i < SERVERS; i++) {
        fake_succeed(&all[i], i == 0 ? &first : &all[i - 1], FAKE_SLOTS, 1008);
        expect_rc(belfry_connect(&clients[i], FAKE_SERVICE, &options), 0);
        expect_rc(belfry_poller_add(p, clients[i], NULL), 0);
    }
    expect_rc(belfry_connect(&clients[SERVERS], FAKE_SERVICE, &options), 0); /* of the last server, too */
    expect_rc(belfry_poller_add(p, clients[SERVERS], NULL), 0);
    for (unsigned i = 0; i <= SERVERS; i++)
        all[bf_min(i, SERVERS - 1)].slots[belfry_client_slot(clients[i])].recv->accepted = 1;
    fake_drain(&all[SERVERS - 1], belfry_client_slot(clients[SERVERS]));
    fake_succeed(&all[SERVERS], &all[SERVERS - 1], FAKE_SLOTS, 1008);
    expect_eq(belfry_poller_wait(p, &event, 1, belfry_in_ms(50)), 0);
    expect_eq(belfry_client_instance(clients[SERVERS]), all[SERVERS].number);
    for (unsigned i = 0; i <= SERVERS; i++) {
        uint32_t at = belfry_client_slot(clients[i]);
        all[i].slots[at].recv->accepted = 1;
        fake_say(&all[i], at, BELFRY_PUSH, 0, 0, "x", 1);
        expect_eq(belfry_poller_wait(p, &event, 1, patience()), 1);
        expect(event.client == clients[i]);
        expect_rc(belfry_receive(clients[i], &m, 0), 0);
        belfry_release(clients[i], &m);
        expect_eq(belfry_poller_wait(p, &event, 1, belfry_in_ms(3)), 0);
    }
    for (unsigned i = 0; i <= SERVERS; i++) {
        belfry_close(clients[i]);
        fake_close(&all[i]);
    }
    belfry_poller_destroy(p);
}

/* --- with a descriptor ---------------------------------------------------------------------------------------------- */

static bool is_readable(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, ms) == 1;
}

/* As a foreign loop does it: nobody waits but in poll(). */
static void expect_move_by_descriptor(int fd, int (*look)(void *context), void *context)
{
    int64_t until = patience();
    unsigned looks = 0;
    while (belfry_client_instance(client) != second.number && belfry_now_ns() < until) {
        expect(is_readable(fd, FIXTURE_PATIENCE_MS)); /* the next attempt is due: nothing else would say so */
        expect(look(context) <= 0);
        looks++;
    }
    expect_eq(belfry_client_instance(client), second.number);
    expect(looks < 1000); /* it is not readable all the time meanwhile */
    slot = belfry_client_slot(client);
    second.slots[slot].recv->accepted = 1;
    while (is_readable(fd, 0))
        expect(look(context) <= 0);
    fake_say(&second, slot, BELFRY_PUSH, 0, 0, "news", 4); /* the bell is the new connection's */
    expect(fake_ring(&second, slot));
    expect(is_readable(fd, FIXTURE_PATIENCE_MS));
}

static int look_by_receiving(void *unused)
{
    belfry_message m;
    (void)unused;
    return belfry_receive(client, &m, 0);
}

static int look_by_polling(void *poller)
{
    belfry_poll_event event;
    return belfry_poller_wait(poller, &event, 1, 0);
}

static void *succeed_later(void *unused)
{
    (void)unused;
    for (int i = 0; i < 100; i++)
        fixture_pause();
    succeed();
    return NULL;
}

Test(reconnect, is_heard_of_through_the_descriptor)
{
    pthread_t thread;
    belfry_message m;
    int fd = belfry_client_fd(client);
    expect(fd >= 0);
    while (is_readable(fd, 0))
        expect_rc(belfry_receive(client, &m, 0), -ETIMEDOUT);
    fake_die(&first);
    expect_eq(pthread_create(&thread, NULL, succeed_later, NULL), 0);
    expect_move_by_descriptor(fd, look_by_receiving, NULL);
    expect_rc(belfry_receive(client, &m, 0), 0);
    expect(m.size == 4 && memcmp(m.data, "news", 4) == 0);
    belfry_release(client, &m);
    expect_eq(pthread_join(thread, NULL), 0);
}

Test(reconnect, is_heard_of_through_a_pollers_descriptor)
{
    pthread_t thread;
    belfry_poller *p;
    expect_rc(belfry_poller_create(&p), 0);
    expect_rc(belfry_poller_add(p, client, NULL), 0);
    int fd = belfry_poller_fd(p);
    expect(fd >= 0);
    while (is_readable(fd, 0))
        expect_eq(look_by_polling(p), 0);
    fake_die(&first);
    expect_eq(pthread_create(&thread, NULL, succeed_later, NULL), 0);
    expect_move_by_descriptor(fd, look_by_polling, p);
    expect_eq(look_by_polling(p), 1);
    expect_eq(pthread_join(thread, NULL), 0);
    belfry_poller_destroy(p);
}

Test(reconnect, tells_a_descriptor_that_a_refused_send_may_be_tried_again)
{
    belfry_message m;
    int rc, fd = belfry_client_fd(client);
    while (is_readable(fd, 0))
        expect_rc(belfry_receive(client, &m, 0), -ETIMEDOUT);
    fake_die(&first);
    expect_rc(belfry_send(client, "x", 1, NULL), -EAGAIN); /* the first to notice */
    succeed();
    for (int i = 0; (rc = belfry_receive(client, &m, 0)) == -ETIMEDOUT && i < 1000; i++)
        expect(is_readable(fd, FIXTURE_PATIENCE_MS));
    expect_rc(rc, -EAGAIN);
    slot = belfry_client_slot(client);
    expect_rc(belfry_send(client, "x", 1, NULL), 0);
}

/* --- what would go round and round ------------------------------------------------------------------------------------ */

Test(reconnect, waits_for_room_for_requests_of_every_size_and_no_longer_than_to_its_deadline)
{
    static const size_t sizes[] = {940, 944, 950, 976, 980, 991, 992, 993, 1000, 1008};
    static const char data[1008];
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        belfry_message m;
        uint64_t id;
        if (i > 0)
            open_client();
        for (int sent = 0; sent < 12; sent++) { /* more than a ring of them: the successor reads none */
            struct ring_entry e;
            expect_rc(belfry_send_idempotent(client, data, sizes[i], belfry_in_ms(60000), &id), 0);
            while (fake_hear(&first, slot, &e) == 1)
                ;
        }
        fake_die(&first);
        succeed();
        expect_move(&second);
        expect_rc(belfry_receive(client, &m, belfry_in_ms(30)), -ETIMEDOUT);
        unsigned heard = 0;
        for (int64_t until = patience(); heard < 12 && belfry_now_ns() < until;) {
            struct ring_entry e;
            while (fake_hear(&second, slot, &e) == 1)
                heard += e.kind == BELFRY_REQUEST || e.flags == BELFRY_FLAG_EXTENDED;
            expect_rc(belfry_receive(client, &m, 0), -ETIMEDOUT);
        }
        expect_eq(heard, 12);
        if (i + 1 < sizeof sizes / sizeof sizes[0]) {
            close_client();
            memset(&second, 0, sizeof second);
        }
    }
}

/* Each is over before it was accepted, and there is always another slot. Gives how many it got before it gave up. */
static unsigned connections_in_vain(uint32_t give_up_ms)
{
    belfry_message m;
    unsigned made = 0;
    int rc;
    belfry_close(client);
    options.reconnect.give_up_ms = give_up_ms;
    open_connection();
    fake_die(&first);
    succeed();
    int64_t until = patience();
    while ((rc = belfry_receive(client, &m, belfry_in_ms(1))) == -ETIMEDOUT && belfry_now_ns() < until)
        if (belfry_client_reconnects(client) > made) {
            made++;
            slot = belfry_client_slot(client);
            char name[64], path[2 * FIXTURE_PATH_BYTES];
            fake_end(&second, slot, BELFRY_END_NO_MEMORY); /* attached to, and not taken */
            snprintf(name, sizeof name, "shard-0/slot_%u.lock", slot);
            fake_path(&second, path, name);
            expect_eq(unlink(path), 0);
            for (int kind = 0; kind < 2; kind++) {
                snprintf(name, sizeof name, "segments/" FAKE_SERVICE "_%u_%s", slot, kind == 0 ? "send" : "recv");
                fake_path(&second, path, name);
                expect_eq(unlink(path), 0);
            }
            fake_make(&second, slot, (uint32_t)told.count, true);
        }
    expect(rc < 0 && rc != -ETIMEDOUT);
    expect_eq(told.event[bf_min(told.count, EVENTS) - 1], BELFRY_RECONNECT_GIVEN_UP);
    return made;
}

/* More of them than there are slots, in however many milliseconds this machine does that. */
Test(reconnect, gives_up_in_time_although_connections_are_made_that_are_never_accepted)
{
    for (uint32_t give_up_ms = 30; connections_in_vain(give_up_ms) <= FAKE_SLOTS; give_up_ms *= 2) {
        expect(give_up_ms < 10000);
        close_client();
        memset(&second, 0, sizeof second);
        memset(&told, 0, sizeof told);
        open_client();
    }
}

/* What a server that is gone has left is a ring at most, however often it comes round. */
Test(reconnect, loses_a_server_whose_ring_is_full_all_round, .timeout = 20)
{
    struct ring_producer_local *out = &first.slots[slot].out;
    const uint32_t length = 64;
    belfry_message m;
    for (uint64_t at = 0; at < out->capacity; at += length) {
        struct belfry_abi_entry *entry = ring_producer_entry(out, at);
        store_relaxed(&entry->kind, BELFRY_PUSH);
        store_release(&entry->length, length);
    }
    fake_drain(&first, slot);
    expect_rc(belfry_send(client, "x", 1, NULL), -EAGAIN); /* it is lost from here on */
    expect_rc(belfry_receive(client, &m, 0), 0);
    expect_eq(m.kind, BELFRY_PUSH);
    belfry_release(client, &m);
}

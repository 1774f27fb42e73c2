/* SPDX-License-Identifier: MIT */
/*
 * Tests of client/large.c against a server that says exactly what the test wants, when it wants: messages that travel in
 * parts, and parts that no message can have. With a real server: tests/server/parts.c.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/order.h"
#include "client/client.h"
#include "expect.h"
#include "fake_server.h"

#define MESSAGE_MAX 100000u

static struct fake_server fake;
static belfry_client *client;
static uint32_t slot;
static uint8_t bytes[MESSAGE_MAX + 1], heard[MESSAGE_MAX];

static void open_client(void)
{
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 251);
    fake_open_for(&fake, 1, MESSAGE_MAX);
    expect_rc(belfry_connect(&client, FAKE_SERVICE, NULL), 0);
    slot = belfry_client_slot(client);
    fake.slots[slot].recv->accepted = 1;
}

static void close_client(void)
{
    belfry_close(client);
    fake_close(&fake);
}

TestSuite(large, .init = open_client, .fini = close_client, .timeout = 60);

/* What the server hears next is a part. 1: the message is whole, in `heard`; 0: not yet; -EAGAIN: nothing is there. */
static int hear_part(struct parts_in *in)
{
    struct ring_entry e;
    uint32_t block = 0;
    if (fake_hear(&fake, slot, &e) != 1)
        return -EAGAIN;
    expect_eq(e.kind, BELFRY_PART);
    if (e.flags == BELFRY_FLAG_EXTENDED) {
        expect_eq(parts_open(in, &e, &block), 0);
        in->data = heard;
    }
    int rc = parts_take(in, &e, block);
    expect(rc >= 0);
    return rc;
}

/* One part from the server. */
static void say_part(uint64_t id, const struct extension *x, const void *data, size_t size)
{
    uint8_t *room;
    uint32_t block = extension_bytes(x);
    struct ring_producer_local *out = &fake.slots[slot].out;
    expect_eq(ring_reserve(out, block + size, (void **)&room), 0);
    if (block > 0)
        extension_write(room, x);
    memcpy(room + block, data, size);
    ring_commit(out, BELFRY_PART, block > 0 ? BELFRY_FLAG_EXTENDED : 0, id, block + size);
}

static const struct extension none = {0};

static void say_first(uint64_t id, uint8_t kind, size_t whole, size_t size)
{
    say_part(id, &(struct extension){.whole_bytes = whole, .whole_kind = kind}, bytes, size);
}

static void expect_nothing(void)
{
    belfry_message m;
    expect_rc(belfry_receive(client, &m, 0), -ETIMEDOUT);
}

static void expect_whole(uint16_t kind, uint64_t id, size_t size)
{
    belfry_message m;
    expect_rc(belfry_receive(client, &m, 0), 0);
    expect_eq(m.kind, kind);
    expect_eq(m.id, id);
    expect_eq(m.size, size);
    expect(memcmp(m.data, bytes, size) == 0);
    belfry_release(client, &m);
}

/* --- what leaves --------------------------------------------------------------------------------------------------- */

Test(large, messages_leave_in_parts_as_there_is_room)
{
    struct parts_in in = {0};
    uint64_t id, unsent = MESSAGE_MAX;
    int64_t deadline = belfry_in_ms(100000);
    expect_rc(belfry_send_until(client, bytes, MESSAGE_MAX, deadline, &id), 0);
    expect_eq(id, 1);
    for (int rc = 0; rc != 1;) {
        uint64_t now = belfry_client_unsent_bytes(client);
        expect(now < unsent || now == 0);
        unsent = now;
        expect_rc(belfry_send(client, "x", 1, NULL), now > 0 ? -EAGAIN : 0);
        while ((rc = hear_part(&in)) == 0)
            ;
        if (rc == -EAGAIN && now > 0)
            belfry_flush(client, 0); /* as a receive does, on the way */
    }
    expect(in.bytes == MESSAGE_MAX && in.have == MESSAGE_MAX && in.kind == BELFRY_REQUEST && in.id == 1);
    expect_eq(in.deadline_ns, deadline);
    expect(memcmp(heard, bytes, MESSAGE_MAX) == 0);
}

Test(large, sends_that_were_in_the_way_are_announced)
{
    struct parts_in in = {0};
    belfry_message m;
    expect_rc(belfry_send(client, bytes, 20000, NULL), 0);
    expect_rc(belfry_send(client, bytes, 900, NULL), -EAGAIN);
    expect_in(belfry_last_error(), "on its way");
    for (int rc = -ETIMEDOUT; rc != -EAGAIN;) { /* not before the large one has left */
        expect_rc(rc, -ETIMEDOUT);
        while (hear_part(&in) == 0)
            ;
        rc = belfry_receive(client, &m, 0);
        expect_eq(rc == -EAGAIN, belfry_client_unsent_bytes(client) == 0);
    }
    expect_rc(belfry_send(client, bytes, 900, NULL), 0);
}

/* Some parts have left, and what room they found too small is filled, too. */
static uint64_t begin_in_a_full_ring(void)
{
    uint64_t id;
    void *room;
    expect_rc(belfry_send(client, bytes, 50000, &id), 0);
    while (ring_reserve(&client->out, 0, &room) == 0)
        ring_commit(&client->out, BELFRY_ONE_WAY, 0, 0, 0);
    return id;
}

Test(large, messages_that_are_given_up_are_cancelled_before_anything_else_is_said)
{
    struct ring_entry e;
    uint64_t id = begin_in_a_full_ring();
    expect_rc(belfry_cancel(client, id), 0);
    expect(belfry_client_unsent_bytes(client) > 0); /* it could not be said yet */
    expect_rc(belfry_send(client, "x", 1, NULL), -EAGAIN);
    while (fake_hear(&fake, slot, &e) == 1)
        expect(e.kind == BELFRY_ONE_WAY || (e.kind == BELFRY_PART && e.id == id));
    expect_rc(belfry_send(client, "x", 1, NULL), 0);
    expect_eq(belfry_client_unsent_bytes(client), 0);
    expect_eq(fake_hear(&fake, slot, &e), 1);
    expect(e.kind == BELFRY_CANCEL && e.id == id);
    expect_eq(fake_hear(&fake, slot, &e), 1);
    expect(e.kind == BELFRY_REQUEST && e.id == id + 1);
    expect_eq(fake_hear(&fake, slot, &e), 0);
}

Test(large, calls_give_up_half_way_at_their_deadline_and_read_the_callers_memory_no_more)
{
    struct ring_entry e;
    belfry_message m;
    unsigned parts = 0;
    uint8_t *own = malloc(50000);
    memcpy(own, bytes, 50000);
    expect_rc(belfry_call(client, own, 50000, &m, belfry_in_ms(5)), -ETIMEDOUT);
    free(own); /* a sanitizer sees who reads it after this */
    for (; fake_hear(&fake, slot, &e) == 1 && e.kind == BELFRY_PART; parts++)
        expect_eq(e.id, 1);
    expect(parts > 0);
    expect(e.kind == BELFRY_CANCEL && e.id == 1);
    expect_nothing();
    expect_eq(fake_hear(&fake, slot, &e), 0);
    expect_rc(belfry_send(client, "x", 1, NULL), 0);
}

Test(large, messages_end_with_the_server)
{
    belfry_message m;
    expect_rc(belfry_send(client, bytes, 50000, NULL), 0);
    fake_die(&fake);
    expect_rc(belfry_flush(client, belfry_in_ms(20000)), BELFRY_EGONE);
    expect_rc(belfry_send(client, bytes, 50000, NULL), BELFRY_EGONE);
    expect_rc(belfry_call(client, bytes, 50000, &m, belfry_in_ms(20000)), BELFRY_EGONE);
}

Test(large, messages_end_with_a_position_that_cannot_be)
{
    belfry_message m;
    expect_rc(belfry_send(client, bytes, 50000, NULL), 0);
    store_relaxed(&fake.slots[slot].recv->consumed, UINT64_MAX / 2);
    expect_rc(belfry_receive(client, &m, belfry_in_ms(20000)), BELFRY_EPROTO);
    expect_rc(belfry_flush(client, belfry_in_ms(20000)), BELFRY_EPROTO);
}

Test(large, reservations_become_parts)
{
    struct parts_in in = {0};
    void *room;
    int rc;
    expect_rc(belfry_send_reserve(client, 3000, &room), 0);
    memcpy(room, bytes, 2000);
    expect_rc(belfry_send_commit(client, BELFRY_ONE_WAY, 0, NULL), BELFRY_ESTATE); /* nothing: no part would say so */
    expect_rc(belfry_send_commit(client, BELFRY_ONE_WAY, 2000, NULL), 0);
    while ((rc = hear_part(&in)) == 0)
        ;
    expect_eq(rc, 1);
    expect(in.bytes == 2000 && in.kind == BELFRY_ONE_WAY && in.id == 0 && memcmp(heard, bytes, 2000) == 0);
}

Test(large, messages_of_more_than_the_service_takes_are_refused)
{
    struct ring_entry e;
    expect_rc(belfry_send(client, bytes, MESSAGE_MAX + 1, NULL), BELFRY_ETOOBIG);
    expect_in(belfry_last_error(), "100000");
    expect_eq(fake_hear(&fake, slot, &e), 0);
}

Test(large, calls_say_so_when_a_large_reservation_is_open)
{
    belfry_message m;
    void *room;
    expect_rc(belfry_send_reserve(client, 3000, &room), 0);
    expect_rc(belfry_call(client, bytes, 50000, &m, belfry_in_ms(20000)), BELFRY_ESTATE);
    expect_rc(belfry_call(client, bytes, 5, &m, belfry_in_ms(20000)), BELFRY_ESTATE);
    memcpy(room, bytes, 3000); /* it is still ours */
    expect_rc(belfry_send_commit(client, BELFRY_REQUEST, 3000, NULL), 0);
}

Test(large, sizes_that_would_wrap_are_too_large)
{
    belfry_message m;
    void *room;
    for (size_t less = 0; less < 100; less++) {
        expect_rc(belfry_call(client, bytes, SIZE_MAX - less, &m, belfry_in_ms(20000)), BELFRY_ETOOBIG);
        expect_rc(belfry_send_until(client, bytes, SIZE_MAX - less, belfry_in_ms(20000), NULL), BELFRY_ETOOBIG);
        expect_rc(belfry_send_reserve(client, SIZE_MAX - less, &room), BELFRY_ETOOBIG);
    }
    struct ring_entry e;
    expect_eq(fake_hear(&fake, slot, &e), 0);
}

Test(large, messages_leave_while_others_are_received)
{
    struct parts_in in = {0};
    belfry_message m;
    expect_rc(belfry_send(client, bytes, 50000, NULL), 0);
    for (int i = 0; i < 200 && belfry_client_unsent_bytes(client) > 0; i++) { /* there is always something to receive */
        fake_say(&fake, slot, BELFRY_PUSH, 0, 0, "news", 4);
        while (hear_part(&in) == 0)
            ;
        expect_rc(belfry_receive(client, &m, 0), 0);
        belfry_release(client, &m);
    }
    expect_eq(belfry_client_unsent_bytes(client), 0);
}

/* --- what arrives -------------------------------------------------------------------------------------------------- */

Test(large, messages_arrive_in_parts_with_others_between)
{
    expect_rc(belfry_send(client, "x", 1, NULL), 0);
    expect_rc(belfry_send(client, "x", 1, NULL), 0);
    say_first(2, BELFRY_REPLY, 1500, 400);
    expect_nothing();
    fake_reply(&fake, slot, 1, "small");
    say_part(2, &none, bytes + 400, 400);
    say_part(2, &none, bytes + 800, 400);
    belfry_message m;
    expect_rc(belfry_receive(client, &m, 0), 0);
    expect(m.id == 1 && m.size == 5);
    belfry_release(client, &m);
    expect_nothing();
    say_part(2, &none, bytes + 1200, 300);
    say_first(0, BELFRY_PUSH, 10, 10);
    expect_whole(BELFRY_REPLY, 2, 1500);
    expect_whole(BELFRY_PUSH, 0, 10);
    expect_nothing();
}

Test(large, messages_that_nobody_waits_for_are_let_pass_and_counted_once)
{
    uint64_t id;
    expect_rc(belfry_send(client, "x", 1, &id), 0);
    say_first(id, BELFRY_REPLY, 1000, 400);
    expect_nothing();
    expect_rc(belfry_cancel(client, id), 0); /* in the middle of its arrival */
    say_part(id, &none, bytes + 400, 400);
    fake_say(&fake, slot, BELFRY_CANCEL, 0, id, NULL, 0); /* no further part will come */
    expect_nothing();
    expect_rc(belfry_send(client, "x", 1, &id), 0);
    expect_rc(belfry_cancel(client, id), 0);
    uint64_t before = belfry_client_late_replies(client);
    say_first(id, BELFRY_REPLY, 800, 400);
    say_part(id, &none, bytes + 400, 400);
    expect_nothing();
    expect_eq(belfry_client_late_replies(client), before + 1);
    fake_say(&fake, slot, BELFRY_CANCEL, 0, id, NULL, 0);
    expect_nothing();
    expect_eq(client->late_count, 0);
    say_first(0, BELFRY_PUSH, 10, 10);
    expect_whole(BELFRY_PUSH, 0, 10);
}

static void no_first_part(void)
{
    say_part(1, &none, bytes, 100);
}

static void another_id(void)
{
    say_first(1, BELFRY_REPLY, 500, 100);
    say_part(2, &none, bytes, 100);
}

static void two_first_parts(void)
{
    say_first(1, BELFRY_REPLY, 500, 100);
    say_first(1, BELFRY_REPLY, 500, 100);
}

static void more_than_it_said(void)
{
    say_first(1, BELFRY_REPLY, 500, 100);
    say_part(1, &none, bytes, 401);
}

static void an_empty_part(void)
{
    say_first(1, BELFRY_REPLY, 500, 100);
    say_part(1, &none, bytes, 0);
}

static void more_than_the_service_takes(void)
{
    say_first(1, BELFRY_REPLY, MESSAGE_MAX + 1, 100);
}

static void all_there_can_be(void)
{
    say_first(1, BELFRY_REPLY, SIZE_MAX, 100);
}

static void a_kind_that_is_not_a_servers(void)
{
    say_first(1, BELFRY_REQUEST, 500, 100);
}

static void a_part_of_parts(void)
{
    say_first(1, BELFRY_PART, 500, 100);
}

static void nothing_of_a_whole(void)
{
    say_part(1, &(struct extension){.deadline_ns = 1}, bytes, 100);
}

static void an_item_that_is_unknown(void)
{
    struct belfry_abi_extension *block;
    struct ring_producer_local *out = &fake.slots[slot].out;
    expect_eq(ring_reserve(out, 16 + 100, (void **)&block), 0);
    *block = (struct belfry_abi_extension){.bytes = 16, .item = {.type = 77, .bytes = 8}};
    ring_commit(out, BELFRY_PART, BELFRY_FLAG_EXTENDED, 1, 16 + 100);
}

static void a_flag_that_there_is_not(void)
{
    fake_say(&fake, slot, BELFRY_PART, 0x80, 1, bytes, 100);
}

Test(large, parts_that_cannot_be_end_the_conn)
{
    static void (*const wrong[])(void) = {no_first_part,           another_id,
                                          two_first_parts,         more_than_it_said,
                                          an_empty_part,           more_than_the_service_takes,
                                          all_there_can_be,        a_kind_that_is_not_a_servers,
                                          a_part_of_parts,         nothing_of_a_whole,
                                          an_item_that_is_unknown, a_flag_that_there_is_not};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        belfry_message m;
        if (i > 0)
            open_client();
        expect_rc(belfry_send(client, "x", 1, NULL), 0);
        wrong[i]();
        int rc = belfry_receive(client, &m, 0);
        if (rc != BELFRY_EPROTO)
            expect_failed("the %zuth was taken: %d", i, rc);
        expect_in(belfry_last_error(), "format");
        expect_rc(belfry_receive(client, &m, 0), BELFRY_EPROTO);
        expect_rc(belfry_send(client, "x", 1, NULL), BELFRY_EPROTO);
        if (i + 1 < sizeof wrong / sizeof wrong[0])
            close_client();
    }
}

Test(large, parts_of_what_was_refused_have_no_place_to_go_to)
{
    struct belfry_abi_entry *entry = ring_producer_entry(&fake.slots[slot].out, 0);
    belfry_message m;
    a_kind_that_is_not_a_servers();
    expect_rc(belfry_receive(client, &m, 0), BELFRY_EPROTO);
    entry->flags = 0; /* now it says that it goes on with what was refused, and then comes all the rest */
    say_part(1, &none, bytes, 500 - (entry->length - sizeof *entry));
    expect_rc(belfry_receive(client, &m, 0), BELFRY_EPROTO);
    expect(!client->large->in.open);
}

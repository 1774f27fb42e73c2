/* SPDX-License-Identifier: MIT */
/* Tests of shm/parts.h: what goes in at one end comes out at the other, and nothing else is taken for it. */
#include "shm/parts.h"

#include <errno.h>
#include <stdlib.h>

#include "expect.h"
#include "fixture.h"

#define CAPACITY 4096u
#define MESSAGE_MAX 20000u

static struct {
    uint64_t words[CAPACITY / 8];
    uint64_t shared;
    struct ring_producer_local out;
    struct ring_consumer_local in;
} ring;

static uint8_t sent[MESSAGE_MAX], got[MESSAGE_MAX];

static void open_at(uint64_t position)
{
    memset(&ring, 0, sizeof ring);
    ring.shared = position;
    ring_producer_init(&ring.out, (uint8_t *)ring.words, CAPACITY, 0, &ring.shared);
    ring_consumer_init(&ring.in, (uint8_t *)ring.words, CAPACITY, 0, &ring.shared);
    ring.out.position = ring.out.consumed = ring.in.position = ring.in.published = position;
}

static bool take(struct ring_entry *e)
{
    if (ring_peek(&ring.in, e) != 1)
        return false;
    ring_advance(&ring.in, e);
    ring_free(&ring.in, ring.in.position);
    return true;
}

/* As each side's code does it: 1 when the message is whole. */
static int take_part(struct parts_in *in)
{
    struct ring_entry e;
    uint32_t block = 0;
    if (!take(&e))
        return 0;
    expect_eq(e.kind, BELFRY_PART);
    if (e.flags == BELFRY_FLAG_EXTENDED) {
        expect_eq(parts_open(in, &e, &block), 0);
        in->data = got;
    }
    return parts_take(in, &e, block);
}

Test(parts, arrive_whole_wherever_the_ring_wraps)
{
    for (uint64_t i = 0; i < MESSAGE_MAX; i++)
        sent[i] = (uint8_t)(i * 7 + i / 251);
    for (uint64_t bytes = 1; bytes <= MESSAGE_MAX; bytes += 97) {
        open_at(bytes * 16);
        struct parts_out out = {.data = sent, .bytes = bytes, .id = bytes, .kind = BELFRY_REPLY, .flags = 2};
        struct parts_in in = {0};
        bool all = false, moved = false;
        out.deadline_ns = bytes % 2 == 0 ? 42 : 0;
        memset(got, 0, sizeof got);
        for (int whole = 0; whole == 0;) {
            if (!all)
                all = parts_send(&ring.out, &out, UINT64_MAX, &moved) == 1;
            expect(moved);
            whole = take_part(&in);
            expect(whole >= 0);
        }
        expect(all);
        expect(in.bytes == bytes && in.id == bytes && in.kind == BELFRY_REPLY && in.flags == 2);
        expect_eq(in.deadline_ns, out.deadline_ns);
        expect(memcmp(sent, got, bytes) == 0);
    }
}

Test(parts, leave_room_for_the_reader_to_begin)
{
    struct ring_entry e;
    struct parts_out out = {.data = sent, .bytes = MESSAGE_MAX, .id = 1, .kind = BELFRY_REQUEST};
    bool moved = false;
    open_at(0);
    expect_eq(parts_send(&ring.out, &out, UINT64_MAX, &moved), 0);
    unsigned count = 0;
    for (; take(&e); count++)
        expect(e.bytes <= CAPACITY / 8 - 16);
    expect(count >= 7);
    expect_eq(parts_send(&ring.out, &out, UINT64_MAX, &moved), 0);
}

Test(parts, go_no_further_than_a_budget)
{
    struct parts_out out = {.data = sent, .bytes = MESSAGE_MAX, .id = 1, .kind = BELFRY_REQUEST};
    bool moved = false;
    open_at(0);
    expect_eq(parts_send(&ring.out, &out, 1, &moved), 0);
    expect(out.sent > 0 && out.sent < CAPACITY / 8);
    expect(moved);
    uint64_t first = out.sent;
    expect_eq(parts_send(&ring.out, &out, 1000, &moved), 0);
    expect(out.sent >= first + 1000 && out.sent < first + 1000 + CAPACITY / 8);
    while (parts_send(&ring.out, &out, UINT64_MAX, &moved) == 0 && moved)
        moved = false;
    uint64_t full = out.sent;
    expect_eq(parts_send(&ring.out, &out, UINT64_MAX, &moved), 0); /* the ring is full */
    expect(!moved && out.sent == full);
    ring.shared = UINT64_MAX / 2; /* a position that cannot be */
    expect_eq(parts_send(&ring.out, &out, UINT64_MAX, &moved), BELFRY_EPROTO);
}

Test(parts, say_how_much_room_the_next_one_takes)
{
    bool moved = false;
    for (uint64_t bytes = 1; bytes < 3000; bytes += 13) {
        struct parts_out out = {.data = sent, .bytes = bytes, .id = 1, .kind = BELFRY_REQUEST};
        open_at(bytes * 16);
        while (out.sent < bytes) { /* what waits until there is so much room must not wait for less than it takes */
            uint64_t next = parts_next_payload(&out, CAPACITY), before = ring.out.position;
            expect(ring_has_room(&ring.out, next));
            expect(parts_send(&ring.out, &out, 1, &moved) >= 0);
            struct ring_entry e;
            while (take(&e))
                if (e.kind == BELFRY_PART)
                    expect(e.bytes <= next);
            expect(ring.out.position > before);
        }
    }
}

Test(parts, that_contradict_each_other_are_refused)
{
    static const struct {
        const char *what;
        uint64_t open_id, id, bytes, have, part;
        bool open;
    } wrong[] = {{"nothing has begun", 1, 1, 100, 0, 10, false},
                 {"of another message", 1, 2, 100, 0, 10, true},
                 {"an empty one", 1, 1, 100, 0, 0, true},
                 {"more than the whole", 1, 1, 100, 0, 101, true},
                 {"more than the rest", 1, 1, 100, 60, 41, true}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct parts_in in = {
            .open = wrong[i].open, .id = wrong[i].open_id, .bytes = wrong[i].bytes, .have = wrong[i].have, .data = got};
        struct ring_entry e = {.data = sent, .id = wrong[i].id, .bytes = (uint32_t)wrong[i].part};
        if (parts_take(&in, &e, 0) != BELFRY_EPROTO)
            expect_failed("it was taken: %s", wrong[i].what);
        expect_eq(in.have, wrong[i].have);
    }
    struct parts_in in = {.open = true, .id = 1, .bytes = 100, .have = 60};
    struct ring_entry e = {.data = sent, .id = 1, .bytes = 40};
    expect_eq(parts_take(&in, &e, 0), 1); /* without a place to put it */
}

Test(parts, begin_with_one_that_says_what_they_make)
{
    static uint64_t words[16];
    struct extension x = {.whole_bytes = 500, .whole_kind = BELFRY_REQUEST};
    struct parts_in in = {0};
    uint32_t block = 0;
    extension_write(words, &x);
    struct ring_entry e = {.data = words, .id = 7, .bytes = extension_bytes(&x) + 10};
    expect_eq(parts_open(&in, &e, &block), 0);
    expect(in.open && in.bytes == 500 && in.have == 0 && in.id == 7);
    expect_eq(block, extension_bytes(&x));
    expect_eq(parts_open(&in, &e, &block), BELFRY_EPROTO); /* while another is open */
    in.open = false;
    extension_write(words, &(struct extension){.deadline_ns = 5}); /* and nothing of a whole */
    expect_eq(parts_open(&in, &e, &block), BELFRY_EPROTO);
    e.bytes = 3;
    expect_eq(parts_open(&in, &e, &block), BELFRY_EPROTO);
    expect(!in.open);
}

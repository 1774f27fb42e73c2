/* SPDX-License-Identifier: MIT */
/*
 * Tests of shm/ring.h: one process plays both sides, and where it says so, a liar.
 *
 * A ring under test is the memory, the shared word, and the two private mirrors; `at` presets all three positions, so
 * that wraps of 32 and of 64 bits are reached without producing for years.
 */
#include "shm/ring.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "expect.h"
#include "fixture.h"

struct pair {
    uint64_t capacity;
    uint64_t shared; /* the consumer's position, as the producer may read it */
    struct ring_producer_local out;
    struct ring_consumer_local in;
    uint8_t *data;
    struct ring_entry last; /* as the last `take` saw it */
};

static void pair_open_at(struct pair *p, uint64_t capacity, uint64_t colour, uint64_t position)
{
    *p = (struct pair){.capacity = capacity, .shared = position};
    p->data = aligned_alloc(64, capacity);
    memset(p->data, 0, capacity);
    ring_producer_init(&p->out, p->data, capacity, colour, &p->shared);
    ring_consumer_init(&p->in, p->data, capacity, colour, &p->shared);
    p->out.position = p->out.consumed = position;
    p->in.position = p->in.published = position;
}

static void pair_open(struct pair *p, uint64_t capacity)
{
    pair_open_at(p, capacity, 0, 0);
}

static void pair_close(struct pair *p)
{
    free(p->data);
}

static uint8_t pattern(uint64_t id, uint64_t at)
{
    return (uint8_t)(id * 131 + at * 7 + 1);
}

/* Produce one message whose bytes follow from its id. */
static int put(struct pair *p, uint64_t id, uint64_t bytes)
{
    void *data;
    int rc = ring_reserve(&p->out, bytes, &data);
    if (rc < 0)
        return rc;
    for (uint64_t i = 0; i < bytes; i++)
        ((uint8_t *)data)[i] = pattern(id, i);
    ring_commit(&p->out, BELFRY_REQUEST, 0, id, bytes);
    return 0;
}

static bool is_whole(const struct ring_entry *e)
{
    for (uint64_t i = 0; i < e->bytes; i++)
        if (((const uint8_t *)e->data)[i] != pattern(e->id, i))
            return false;
    return true;
}

/* Consume one message and free its room. As ring_peek. */
static int take(struct pair *p)
{
    int rc = ring_peek(&p->in, &p->last);
    if (rc == 1) {
        ring_advance(&p->in, &p->last);
        ring_free(&p->in, p->in.position);
    }
    return rc;
}

static void expect_take(struct pair *p, uint64_t id, uint64_t bytes)
{
    expect_eq(take(p), 1);
    expect_eq(p->last.id, id);
    expect_eq(p->last.bytes, bytes);
    expect_eq(p->last.kind, BELFRY_REQUEST);
    expect_eq(p->last.flags, 0);
    expect(is_whole(&p->last));
}

TestSuite(ring, .timeout = 30);

/* --- an honest pair ---------------------------------------------------------------------------------------------- */

Test(ring, is_empty_at_first)
{
    struct pair p;
    pair_open(&p, 4096);
    expect(ring_is_empty(&p.in));
    expect_eq(take(&p), 0);
    pair_close(&p);
}

Test(ring, hands_over_a_message_whole)
{
    struct pair p;
    pair_open(&p, 4096);
    expect_eq(put(&p, 77, 100), 0);
    expect(!ring_is_empty(&p.in));
    expect_take(&p, 77, 100);
    expect(ring_is_empty(&p.in));
    expect_eq(take(&p), 0);
    pair_close(&p);
}

Test(ring, carries_kind_flags_and_a_64_bit_id)
{
    struct pair p;
    void *data;
    pair_open(&p, 4096);
    expect_eq(ring_reserve(&p.out, 0, &data), 0);
    ring_commit(&p.out, BELFRY_PUSH, 0xa5, UINT64_MAX, 0);
    expect_eq(take(&p), 1);
    expect_eq(p.last.kind, BELFRY_PUSH);
    expect_eq(p.last.flags, 0xa5);
    expect(p.last.id == UINT64_MAX);
    pair_close(&p);
}

Test(ring, shows_nothing_before_the_commit)
{
    struct pair p;
    void *data;
    pair_open(&p, 4096);
    expect_eq(ring_reserve(&p.out, 64, &data), 0);
    memset(data, 0xff, 64);
    expect(ring_is_empty(&p.in));
    expect_eq(take(&p), 0);
    ring_commit(&p.out, BELFRY_REQUEST, 0, 1, 64);
    expect_eq(take(&p), 1);
    pair_close(&p);
}

Test(ring, shows_nothing_of_an_aborted_reservation)
{
    struct pair p;
    void *first, *second;
    pair_open(&p, 4096);
    expect_eq(ring_reserve(&p.out, 500, &first), 0);
    memset(first, 0xff, 500);
    ring_abort(&p.out);
    expect_eq(take(&p), 0);
    expect_eq(ring_reserve(&p.out, 500, &second), 0);
    expect(first == second);
    ring_abort(&p.out);
    expect_eq(put(&p, 5, 20), 0);
    expect_take(&p, 5, 20);
    expect_eq(take(&p), 0); /* the 0xff behind it were never an entry */
    pair_close(&p);
}

Test(ring, allows_one_reservation_at_a_time)
{
    struct pair p;
    void *data;
    pair_open(&p, 4096);
    expect_eq(ring_reserve(&p.out, 16, &data), 0);
    expect_eq(ring_reserve(&p.out, 16, &data), BELFRY_ESTATE);
    ring_commit(&p.out, BELFRY_REQUEST, 0, 1, 16);
    expect_eq(ring_reserve(&p.out, 16, &data), 0);
    ring_abort(&p.out);
    expect_eq(ring_reserve(&p.out, 0, &data), 0); /* an empty one counts too */
    expect_eq(ring_reserve(&p.out, 0, &data), BELFRY_ESTATE);
    pair_close(&p);
}

Test(ring, keeps_only_what_a_commit_used)
{
    struct pair p;
    void *data;
    pair_open(&p, 4096);
    for (uint64_t used = 0; used <= 300; used++) {
        expect_eq(ring_reserve(&p.out, 300, &data), 0);
        for (uint64_t i = 0; i < used; i++)
            ((uint8_t *)data)[i] = pattern(used, i);
        memset((uint8_t *)data + used, 0xff, 300 - used); /* what was not used must not look like an entry */
        ring_commit(&p.out, BELFRY_REQUEST, 0, used, used);
        expect_take(&p, used, used);
        expect_eq(take(&p), 0);
    }
    pair_close(&p);
}

Test(ring, refuses_a_payload_larger_than_a_quarter)
{
    static const uint64_t capacities[] = {4096, 65536};
    for (int i = 0; i < 2; i++) {
        struct pair p;
        uint64_t most = capacities[i] / 4 - 16;
        pair_open(&p, capacities[i]);
        expect_eq(ring_payload_max(capacities[i]), most);
        expect_eq(put(&p, 1, most + 1), BELFRY_ETOOBIG);
        expect_eq(put(&p, 1, UINT32_MAX), BELFRY_ETOOBIG);
        expect_eq(put(&p, 1, UINT64_MAX), BELFRY_ETOOBIG);
        expect_eq(put(&p, 1, UINT64_MAX - 15), BELFRY_ETOOBIG);
        expect_eq(put(&p, 2, most), 0);
        expect_take(&p, 2, most);
        pair_close(&p);
    }
}

Test(ring, hands_out_payloads_aligned_to_eight_bytes)
{
    struct pair p;
    pair_open_at(&p, 4096, 192, 0);
    for (uint64_t bytes = 0; bytes < 200; bytes++) {
        void *data;
        expect_eq(ring_reserve(&p.out, bytes, &data), 0);
        expect_eq((uintptr_t)data % 8, 0);
        ring_commit(&p.out, BELFRY_REQUEST, 0, bytes, bytes);
        expect_eq(take(&p), 1);
        expect_eq((uintptr_t)p.last.data % 8, 0);
    }
    pair_close(&p);
}

/* Every size, from every start: the pad, the exact end of the ring, the first entry after the wrap. */
Test(ring, takes_every_size_from_every_offset)
{
    for (uint64_t start = 0; start < 4096; start += 16)
        for (uint64_t bytes = 0; bytes <= 1008; bytes += bytes < 40 || bytes > 970 ? 1 : 31) {
            static uint8_t data[4096];
            struct pair p = {.capacity = 4096, .shared = start};
            memset(data, 0, sizeof data);
            ring_producer_init(&p.out, data, 4096, 0, &p.shared);
            ring_consumer_init(&p.in, data, 4096, 0, &p.shared);
            p.out.position = p.out.consumed = p.in.position = p.in.published = start;
            expect_eq(put(&p, start + bytes, bytes), 0);
            expect_eq(put(&p, 1, 3), 0);
            expect_take(&p, start + bytes, bytes);
            expect_take(&p, 1, 3);
            expect_eq(take(&p), 0);
            expect_eq(p.out.position, p.in.position);
        }
}

Test(ring, never_wraps_an_entry)
{
    struct pair p;
    pair_open_at(&p, 65536, 1984, 0);
    for (uint64_t id = 0; id < 2000; id++) {
        uint64_t bytes = id * 37 % 16369;
        expect_eq(put(&p, id, bytes), 0);
        expect_take(&p, id, bytes);
        const uint8_t *end = (const uint8_t *)p.last.data + bytes;
        expect(p.last.data >= (void *)(p.data + 16) && end <= p.data + 65536);
    }
    pair_close(&p);
}

Test(ring, is_full_when_the_next_header_has_no_room)
{
    struct pair p;
    pair_open(&p, 4096);
    /* 255 entries of 16 bytes leave 16: the cleared header of the one after. */
    for (uint64_t id = 0; id < 255; id++)
        expect_eq(put(&p, id, 0), 0);
    expect_eq(put(&p, 255, 0), -EAGAIN);
    expect(!ring_has_room(&p.out, 0));
    for (uint64_t id = 0; id < 255; id++)
        expect_take(&p, id, 0);
    expect_eq(take(&p), 0);
    expect(ring_has_room(&p.out, 0));
    expect_eq(put(&p, 255, 0), 0);
    pair_close(&p);
}

Test(ring, can_be_tried_again_after_being_full)
{
    struct pair p;
    uint64_t made = 0, taken = 0;
    pair_open(&p, 4096);
    for (int round = 0; round < 1000; round++) {
        while (put(&p, made, 700) == 0)
            made++;
        expect_eq(put(&p, made, 700), -EAGAIN); /* asking changes nothing */
        expect(made > taken);
        while (taken < made)
            expect_take(&p, taken++, 700);
    }
    pair_close(&p);
}

Test(ring, agrees_with_itself_about_room)
{
    struct pair p;
    struct fixture_random r;
    fixture_seed(&r, "agrees_with_itself_about_room");
    pair_open(&p, 4096);
    for (int step = 0; step < 200000; step++) {
        uint64_t bytes = fixture_next(&r) % 1009;
        void *data;
        bool room = ring_has_room(&p.out, bytes);
        int rc = ring_reserve(&p.out, bytes, &data);
        expect_eq(rc, room ? 0 : -EAGAIN);
        if (rc == 0)
            ring_commit(&p.out, BELFRY_REQUEST, 0, 0, bytes);
        if (fixture_next(&r) % 2 == 0)
            take(&p);
    }
    pair_close(&p);
}

/* --- positions ---------------------------------------------------------------------------------------------------- */

static void run_through(uint64_t capacity, uint64_t colour, uint64_t position)
{
    struct pair p;
    uint64_t made = 0, taken = 0, largest = ring_payload_max(capacity);
    pair_open_at(&p, capacity, colour, position);
    while (made < 3000) {
        for (uint64_t burst = made % 7; burst > 0; burst--)
            if (put(&p, made, made * 53 % (largest + 1)) == 0)
                made++;
        made += put(&p, made, made * 53 % (largest + 1)) == 0;
        for (uint64_t burst = made % 5 + 1; burst > 0 && taken < made; burst--, taken++)
            expect_take(&p, taken, taken * 53 % (largest + 1));
    }
    while (taken < made) {
        expect_take(&p, taken, taken * 53 % (largest + 1));
        taken++;
    }
    expect_eq(take(&p), 0);
    pair_close(&p);
}

Test(ring, survives_positions_that_pass_32_bits)
{
    for (uint64_t before = 0; before <= 8192; before += 1008)
        run_through(4096, 0, (1ull << 32) - before);
    run_through(65536, 64, (1ull << 32) - 65536);
}

Test(ring, survives_positions_that_pass_64_bits)
{
    for (uint64_t before = 16; before <= 8192; before += 1008)
        run_through(4096, 0, 0 - before);
    run_through(65536, 1984, 0 - 65536ull);
}

Test(ring, survives_positions_that_pass_63_bits)
{
    run_through(4096, 448, (1ull << 63) - 2048);
}

Test(ring, works_at_every_colour)
{
    for (uint64_t colour = 0; colour < 4096; colour += 64)
        run_through(4096, colour, 0);
}

Test(ring, publishes_once_per_quarter)
{
    struct pair p;
    uint64_t stores = 0, last = 0;
    pair_open(&p, 4096);
    for (uint64_t id = 0; id < 10000; id++) {
        expect_eq(put(&p, id, 48), 0);
        expect_take(&p, id, 48);
        if (p.shared != last) {
            expect(p.shared - last >= 1024);
            expect(p.in.has_published);
            p.in.has_published = false;
            last = p.shared;
            stores++;
        } else {
            expect(!p.in.has_published);
        }
    }
    expect_eq(stores, 10000 * 64 / 1024);
    pair_close(&p);
}

/* An empty ring takes the largest message, however little has been published: else both sides would wait for ever. */
Test(ring, has_room_for_the_largest_when_empty_though_a_quarter_is_unpublished)
{
    for (uint64_t unpublished = 0; unpublished < 1024; unpublished += 16)
        for (uint64_t start = 0; start < 4096; start += 16) {
            struct pair p;
            pair_open_at(&p, 4096, 0, start);
            p.out.position = p.in.position = start + unpublished;
            expect(ring_has_room(&p.out, 1008));
            expect_eq(put(&p, 1, 1008), 0);
            expect_take(&p, 1, 1008);
            pair_close(&p);
        }
}

/* --- a consumer that lies ----------------------------------------------------------------------------------------- */

/* Fill the ring, then publish `consumed` as the consumer's position; what does the next reserve say? */
static int after_lie(uint64_t start, uint64_t lie)
{
    struct pair p;
    void *data;
    pair_open_at(&p, 4096, 0, start);
    for (uint64_t id = 0; put(&p, id, 112) == 0; id++)
        ;
    p.shared = start + lie;
    bool room = ring_has_room(&p.out, 112);
    int rc = ring_reserve(&p.out, 112, &data);
    expect(room == (rc != -EAGAIN)); /* a lie is something to look at, not something to sleep on */
    pair_close(&p);
    return rc;
}

static void expect_lies_found(uint64_t start)
{
    expect_eq(after_lie(start, 0), -EAGAIN);
    expect_eq(after_lie(start, 1024), 0);
    expect_eq(after_lie(start, 31 * 128), 0);                  /* all of it */
    expect_eq(after_lie(start, 31 * 128 + 16), BELFRY_EPROTO); /* ahead of the producer */
    expect_eq(after_lie(start, 8192), BELFRY_EPROTO);
    expect_eq(after_lie(start, 1ull << 32), BELFRY_EPROTO);
    expect_eq(after_lie(start, 1ull << 63), BELFRY_EPROTO);
    expect_eq(after_lie(start, -16ull), BELFRY_EPROTO); /* back */
    expect_eq(after_lie(start, -4096ull), BELFRY_EPROTO);
    expect_eq(after_lie(start, 1), BELFRY_EPROTO); /* unaligned */
    expect_eq(after_lie(start, 1024 + 8), BELFRY_EPROTO);
    expect_eq(after_lie(start, 1024 + 15), BELFRY_EPROTO);
}

Test(ring, believes_only_possible_positions_of_the_consumer)
{
    expect_lies_found(0);
    expect_lies_found((1ull << 32) - 2048);
    expect_lies_found(0 - 2048ull);
}

Test(ring, does_not_let_the_consumer_take_a_step_back)
{
    struct pair p;
    void *data;
    pair_open(&p, 4096);
    for (uint64_t id = 0; put(&p, id, 112) == 0; id++)
        ;
    p.shared = 2048;
    expect_eq(put(&p, 99, 112), 0);
    while (put(&p, 100, 112) == 0)
        ;
    p.shared = 1024;
    expect_eq(ring_reserve(&p.out, 112, &data), BELFRY_EPROTO);
    pair_close(&p);
}

/* --- a producer that lies ----------------------------------------------------------------------------------------- */

static struct belfry_abi_entry *forge(struct pair *p, uint64_t offset, uint32_t length, uint8_t kind)
{
    struct belfry_abi_entry *entry = (struct belfry_abi_entry *)(void *)(p->data + offset);
    *entry = (struct belfry_abi_entry){.length = length, .kind = kind, .id = 7};
    return entry;
}

static int peek_forged(uint64_t offset, uint32_t length, uint8_t kind)
{
    struct pair p;
    struct ring_entry e;
    pair_open_at(&p, 4096, 0, offset);
    forge(&p, offset, length, kind);
    int rc = ring_peek(&p.in, &e);
    pair_close(&p);
    return rc;
}

Test(ring, refuses_a_length_shorter_than_a_header)
{
    for (uint32_t length = 1; length < 16; length++)
        expect_eq(peek_forged(0, length, BELFRY_REQUEST), BELFRY_EPROTO);
    expect_eq(peek_forged(0, 0, BELFRY_REQUEST), 0);
    expect_eq(peek_forged(0, 16, BELFRY_REQUEST), 1);
}

Test(ring, refuses_a_length_longer_than_a_quarter)
{
    expect_eq(peek_forged(0, 1024, BELFRY_REQUEST), 1);
    expect_eq(peek_forged(0, 1025, BELFRY_REQUEST), BELFRY_EPROTO);
    expect_eq(peek_forged(0, 4096, BELFRY_REQUEST), BELFRY_EPROTO);
    expect_eq(peek_forged(0, 1u << 31, BELFRY_REQUEST), BELFRY_EPROTO);
    expect_eq(peek_forged(0, UINT32_MAX, BELFRY_REQUEST), BELFRY_EPROTO);
    expect_eq(peek_forged(0, UINT32_MAX - 15, BELFRY_REQUEST), BELFRY_EPROTO);
}

Test(ring, refuses_an_entry_that_runs_past_the_end)
{
    for (uint32_t room = 16; room <= 1008; room += 16) {
        expect_eq(peek_forged(4096 - room, room, BELFRY_REQUEST), 1);
        expect_eq(peek_forged(4096 - room, room + 1, BELFRY_REQUEST), BELFRY_EPROTO);
        expect_eq(peek_forged(4096 - room, room + 16, BELFRY_REQUEST), BELFRY_EPROTO);
    }
}

Test(ring, refuses_a_pad_that_does_not_end_with_the_ring)
{
    expect_eq(peek_forged(0, 16, BELFRY_PAD), BELFRY_EPROTO);
    expect_eq(peek_forged(0, 1024, BELFRY_PAD), BELFRY_EPROTO);
    expect_eq(peek_forged(2048, 64, BELFRY_PAD), BELFRY_EPROTO);
    expect_eq(peek_forged(4096 - 64, 48, BELFRY_PAD), BELFRY_EPROTO);
    expect_eq(peek_forged(4096 - 64, 63, BELFRY_PAD), BELFRY_EPROTO); /* unaligned: its successor would be, too */
    expect_eq(peek_forged(4096 - 64, 64, BELFRY_PAD), 0);
    expect_eq(peek_forged(4096 - 1024, 1024, BELFRY_PAD), 0);
}

Test(ring, refuses_a_pad_after_a_pad)
{
    struct pair p;
    struct ring_entry e;
    pair_open_at(&p, 4096, 0, 4096 - 64);
    forge(&p, 4096 - 64, 64, BELFRY_PAD);
    forge(&p, 0, 64, BELFRY_PAD);
    expect_eq(ring_peek(&p.in, &e), BELFRY_EPROTO);
    pair_close(&p);
}

/* Whatever bytes are there: no endless loop, nothing read outside, nothing handed out that is not inside the ring. */
Test(ring, ends_on_any_bytes, .timeout = 60)
{
    struct fixture_random r;
    struct pair p;
    fixture_seed(&r, "ends_on_any_bytes");
    pair_open(&p, 4096);
    for (int round = 0; round < 20000; round++) {
        for (int i = 0; i < 4096; i += 16) {
            struct belfry_abi_entry *entry = (struct belfry_abi_entry *)(void *)(p.data + i);
            uint64_t x = fixture_next(&r);
            entry->length = x % 3 == 0 ? (uint32_t)(x >> 8) : (uint32_t)(x >> 8) % 1100;
            entry->kind = (uint8_t)((x >> 40) % 11);
            if (x % 5 == 0) {
                entry->kind = BELFRY_PAD;
                entry->length = (uint32_t)(4096 - i);
            }
        }
        p.in.position = p.in.published = round * 16ull;
        int rc = 1;
        for (int entries = 0; entries < 1000 && rc == 1; entries++) {
            rc = take(&p);
            if (rc != 1)
                break;
            const uint8_t *data = p.last.data;
            expect(data >= p.data + 16 && data + p.last.bytes <= p.data + 4096 && p.last.bytes <= 1008);
        }
        expect(rc == 0 || rc == 1 || rc == BELFRY_EPROTO);
    }
    pair_close(&p);
}

/* --- a producer that changes what is being read ------------------------------------------------------------------- */

#if defined(__x86_64__)
#define TRAP_FLAG 0x100 /* the processor stops after each instruction */

static uint32_t *changed_word, changed_to;
static long changed_at, steps;

static void on_step(int number)
{
    (void)number;
    if (steps++ == changed_at)
        __atomic_store_n(changed_word, changed_to, __ATOMIC_RELAXED);
}

static void set_trap_flag(bool on)
{
    unsigned long flags = __builtin_ia32_readeflags_u64();
    __builtin_ia32_writeeflags_u64(on ? flags | TRAP_FLAG : flags & ~(unsigned long)TRAP_FLAG);
}

/* Peek at an entry of `length`, which becomes `other` after the instruction with this number. -1: it does not take that many. */
static int peek_changing(long at, uint32_t length, uint32_t other, struct ring_entry *e)
{
    struct pair p;
    pair_open(&p, 4096);
    changed_word = &forge(&p, 0, length, BELFRY_REQUEST)->length;
    changed_to = other;
    changed_at = at;
    steps = 0;
    *e = (struct ring_entry){0};
    set_trap_flag(true);
    int rc = ring_peek(&p.in, e);
    set_trap_flag(false);
    pair_close(&p);
    return steps > at ? rc : -1;
}

/* Before each of its instructions once: one of the two lengths, for everything that follows from it; never a bit of both. */
static void expect_one_length(uint32_t length, uint32_t other)
{
    struct ring_entry e;
    int rc;
    for (long at = 0; (rc = peek_changing(at, length, other, &e)) != -1; at++) {
        if (rc != 1)
            continue; /* it saw one that cannot be, and said so */
        expect(e.bytes <= 1008 && (e.bytes + 16 == length || e.bytes + 16 == other));
        expect_eq(e.end, ring_align(e.bytes + 16));
    }
}

Test(ring, takes_a_length_as_it_was_when_it_looked)
{
    struct sigaction on_trap = {.sa_handler = on_step};
    struct ring_entry e;
    expect_eq(sigaction(SIGTRAP, &on_trap, NULL), 0);
    expect_eq(peek_changing(0, 24, 48, &e), 1);
    expect(steps > 10); /* it does stop after each */
    expect_one_length(24, 1000);
    expect_one_length(1000, 24);
    expect_one_length(24, UINT32_MAX);
    expect_one_length(24, 2048);
    expect_one_length(24, 0);
}
#endif

/* --- against a model ---------------------------------------------------------------------------------------------- */

#define WALK_STEPS 1000000
#define WALK_QUEUE 8192u

/*
 * A random walk over reserve, commit, abort, peek, advance and late freeing, beside a plain queue that must agree. The
 * ring may say "full" only when the model says that a message of that size has no room.
 */
static void walk(uint64_t capacity, uint64_t position)
{
    struct fixture_random r;
    struct pair p;
    static struct {
        uint64_t id, end;
        uint32_t bytes;
    } queue[WALK_QUEUE];
    uint64_t first = 0, read = 0, next = 0; /* freed up to, read up to, made up to */
    uint64_t largest = ring_payload_max(capacity), refusals = 0;
    fixture_seed(&r, "random walk");
    pair_open_at(&p, capacity, fixture_next(&r) % 64 * 64, position);
    for (int step = 0; step < WALK_STEPS; step++) {
        uint64_t dice = fixture_next(&r);
        uint64_t bytes = dice >> 32;
        bytes = dice % 4 == 0 ? bytes % (largest + 1) : bytes % 64;
        /* The walk leans one way for a while, then the other, so that it visits both ends. */
        bool produce = dice % 128 < (step >> 12 & 1 ? 80u : 48u) && next - first < WALK_QUEUE;
        if (produce) {
            void *data;
            int rc = ring_reserve(&p.out, bytes, &data);
            if (rc == -EAGAIN) {
                uint64_t freed = p.out.consumed;
                uint64_t offset = (p.out.position + p.out.colour) & (capacity - 1);
                uint64_t size = (16 + bytes + 15) / 16 * 16;
                uint64_t pad = offset + size > capacity ? capacity - offset : 0;
                expect(p.out.position - freed + pad + size + 16 > capacity);
                expect(freed == p.shared);
                refusals++;
                continue;
            }
            expect_eq(rc, 0);
            if (dice % 16 == 5) {
                memset(data, 0xee, bytes);
                ring_abort(&p.out);
                continue;
            }
            uint64_t used = dice % 16 == 6 ? bytes / 2 : bytes;
            for (uint64_t i = 0; i < used; i += 5)
                ((uint8_t *)data)[i] = pattern(next, i);
            ring_commit(&p.out, BELFRY_REQUEST, 0, next, used);
            queue[next % WALK_QUEUE].id = next;
            queue[next % WALK_QUEUE].bytes = (uint32_t)used;
            next++;
        } else if (dice % 3 == 0 && first < read) {
            ring_free(&p.in, queue[first % WALK_QUEUE].end);
            first++;
        } else {
            struct ring_entry e;
            int rc = ring_peek(&p.in, &e);
            expect_eq(rc, read < next);
            if (rc == 0)
                continue;
            expect_eq(e.id, queue[read % WALK_QUEUE].id);
            expect_eq(e.bytes, queue[read % WALK_QUEUE].bytes);
            for (uint64_t i = 0; i < e.bytes; i += 5)
                expect(((const uint8_t *)e.data)[i] == pattern(e.id, i));
            ring_advance(&p.in, &e);
            queue[read % WALK_QUEUE].end = e.end;
            read++;
            if (dice % 2 == 0)
                for (; first < read; first++)
                    ring_free(&p.in, queue[first % WALK_QUEUE].end);
        }
        expect(ring_is_empty(&p.in) == (read == next));
    }
    printf("%llu messages, %llu times full\n", (unsigned long long)next, (unsigned long long)refusals);
    expect(next > WALK_STEPS / 8);
    expect(refusals > 100);
    pair_close(&p);
}

Test(ring, agrees_with_a_queue_over_a_million_random_steps)
{
    walk(4096, 0);
}

Test(ring, agrees_with_a_queue_in_a_large_ring_near_the_wrap)
{
    walk(65536, 0 - (8ull << 20));
}

/* --- two threads -------------------------------------------------------------------------------------------------- */

#define THREAD_MESSAGES 1000000u

struct race {
    struct pair pair;
    uint64_t wrong;
};

static uint64_t race_bytes(uint64_t id)
{
    return id % 1000 == 999 ? 1008 : id % 61;
}

/* `take` frees the room before its caller has looked at the payload; here that would be a race. */
static void *race_consumer(void *argument)
{
    struct race *race = argument;
    struct ring_entry e;
    for (uint64_t id = 0; id < THREAD_MESSAGES;) {
        int rc = ring_peek(&race->pair.in, &e);
        if (rc == 0) {
            sched_yield();
            continue;
        }
        if (rc < 0 || e.id != id || e.bytes != race_bytes(id) || !is_whole(&e)) {
            race->wrong = id + 1;
            return NULL;
        }
        ring_advance(&race->pair.in, &e);
        ring_free(&race->pair.in, race->pair.in.position);
        id++;
    }
    return NULL;
}

Test(ring, carries_a_million_messages_between_two_threads, .timeout = 120)
{
    static struct race race;
    pthread_t consumer;
    pair_open_at(&race.pair, 4096, 64, (1ull << 32) - 100000);
    expect_eq(pthread_create(&consumer, NULL, race_consumer, &race), 0);
    for (uint64_t id = 0; id < THREAD_MESSAGES && __atomic_load_n(&race.wrong, __ATOMIC_RELAXED) == 0;) {
        int rc = put(&race.pair, id, race_bytes(id));
        if (rc == -EAGAIN) {
            sched_yield();
            continue;
        }
        expect_eq(rc, 0);
        id++;
    }
    pthread_join(consumer, NULL);
    expect_eq(race.wrong, 0);
    pair_close(&race.pair);
}

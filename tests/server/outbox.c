/* SPDX-License-Identifier: MIT */
/* Tests of server/outbox.h: a queue of messages that counts what it holds. */
#include "server/outbox.h"

#include <string.h>

#include <belfry/types.h>

#include "expect.h"
#include "fixture.h"

Test(outbox, hands_out_messages_oldest_first_and_counts_them)
{
    struct bf_arena arena;
    struct bf_outbox box = {0};
    uint64_t bytes = 0;
    expect_rc(bf_arena_open(&arena), 0);
    expect(outbox_is_empty(&box));
    for (uint32_t i = 0; i < 100; i++) {
        struct outbox_message *m = outbox_message_new(&arena, i);
        expect(m != NULL && (uintptr_t)m->payload % 8 == 0);
        m->bytes = i;
        m->id = i;
        memset(m->payload, (int)i, i);
        outbox_put(&box, m);
        bytes += outbox_cost(i);
        expect_eq(box.bytes, bytes);
        expect(outbox_cost(i) > i); /* an empty message costs something, too */
    }
    for (uint32_t i = 0; i < 50; i++) {
        expect_eq(box.first->id, i);
        outbox_drop_first(&box, &arena);
    }
    struct outbox_message *m = outbox_message_new(&arena, 1);
    m->bytes = 0;
    m->id = 100;
    outbox_put(&box, m);
    for (uint32_t i = 50; i <= 100; i++) {
        expect(!outbox_is_empty(&box));
        expect_eq(box.first->id, i);
        outbox_drop_first(&box, &arena);
    }
    expect(outbox_is_empty(&box));
    expect_eq(box.bytes, 0);
    expect(box.last == NULL);
    expect_eq(arena.allocated_bytes, 0);
    bf_arena_close(&arena);
}

Test(outbox, drops_the_replies_to_one_request_wherever_they_are)
{
    static const struct {
        uint64_t id;
        uint8_t kind;
    } messages[] = {{7, BELFRY_REPLY}, {7, BELFRY_REPLY},   {1, BELFRY_REPLY},  {0, BELFRY_PUSH},
                    {7, BELFRY_REPLY}, {7, BELFRY_FAILURE}, {7, BELFRY_CANCEL}, {7, BELFRY_REPLY}};
    struct bf_arena arena;
    expect_rc(bf_arena_open(&arena), 0);
    for (unsigned set = 0; set < 1u << 8; set++) { /* any of them */
        struct bf_outbox box = {0};
        unsigned kept = 0;
        for (unsigned i = 0; i < 8; i++) {
            if ((set >> i & 1) == 0)
                continue;
            struct outbox_message *m = outbox_message_new(&arena, i);
            m->id = messages[i].id;
            m->kind = messages[i].kind;
            outbox_put(&box, m);
            if (m->id != 7 || m->kind == BELFRY_CANCEL)
                kept |= 1u << i;
        }
        uint64_t before = box.bytes;
        expect_eq(before - outbox_drop_request(&box, 7, &arena), box.bytes);
        expect_eq(box.echoes, kept >> 6 & 1);
        struct outbox_message *late = outbox_message_new(&arena, 8); /* the end of the list is still its end */
        outbox_put(&box, late);
        for (unsigned i = 0; i < 8; i++)
            if ((kept >> i & 1) != 0) {
                expect_eq(box.first->bytes, i);
                outbox_drop_first(&box, &arena);
            }
        expect(box.first == late);
        outbox_drop_first(&box, &arena);
        expect_eq(box.bytes, 0);
        expect(box.last == NULL && box.echoes == 0);
    }
    expect_eq(arena.allocated_bytes, 0);
    bf_arena_close(&arena);
}

Test(outbox, can_be_cleared)
{
    struct bf_arena arena;
    struct bf_outbox box = {0};
    expect_rc(bf_arena_open(&arena), 0);
    for (int round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < 10; i++) {
            struct outbox_message *m = outbox_message_new(&arena, 1000);
            m->bytes = 10 * i;
            outbox_put(&box, m);
        }
        outbox_clear(&box, &arena);
        outbox_clear(&box, &arena);
        expect(outbox_is_empty(&box));
        expect_eq(box.bytes, 0);
        expect_eq(arena.allocated_bytes, 0);
    }
    bf_arena_close(&arena);
}

/* Against a plain array that does the same. */
Test(outbox, drops_the_oldest_push_whatever_happened_before)
{
    struct model {
        uint64_t id;
        uint8_t kind;
        bool begun;
    } model[64];
    struct bf_arena arena;
    struct bf_outbox box = {0};
    struct fixture_random random;
    unsigned count = 0;
    fixture_seed(&random, "drops_the_oldest_push_whatever_happened_before");
    expect_rc(bf_arena_open(&arena), 0);
    for (int step = 0; step < 200000; step++) {
        uint64_t what = fixture_next(&random) % 8;
        if (what < 4 && count < 64) { /* a new one */
            static const uint8_t kinds[] = {BELFRY_PUSH, BELFRY_REPLY, BELFRY_PUSH, BELFRY_CANCEL};
            struct outbox_message *m = outbox_message_new(&arena, 8);
            m->kind = kinds[fixture_next(&random) % 4];
            m->id = m->kind == BELFRY_PUSH ? 0 : 1 + fixture_next(&random) % 3;
            outbox_put(&box, m);
            model[count++] = (struct model){m->id, m->kind, false};
        } else if (what == 4 && count > 0) { /* the first has left in part */
            box.first->sent = 1;
            model[0].begun = true;
        } else if (what == 5 && count > 0) {
            outbox_drop_first(&box, &arena);
            memmove(model, model + 1, --count * sizeof model[0]);
        } else if (what == 6) {
            uint64_t id = 1 + fixture_next(&random) % 3;
            unsigned kept = 0;
            outbox_drop_request(&box, id, &arena);
            for (unsigned i = 0; i < count; i++)
                if (model[i].id != id || model[i].kind != BELFRY_REPLY)
                    model[kept++] = model[i];
            count = kept;
        } else if (what == 7) {
            unsigned at = 0;
            while (at < count && (model[at].kind != BELFRY_PUSH || model[at].begun))
                at++;
            expect_eq(outbox_drop_push(&box, &arena), at < count);
            if (at < count)
                memmove(model + at, model + at + 1, (--count - at) * sizeof model[0]);
        }
        const struct outbox_message *m = box.first;
        uint64_t push_bytes = 0;
        for (unsigned i = 0; i < count; i++, m = m->next) {
            expect(m != NULL && m->id == model[i].id && m->kind == model[i].kind);
            push_bytes += m->kind == BELFRY_PUSH ? outbox_cost(m->bytes) : 0;
        }
        expect(m == NULL);
        expect_eq(box.push_bytes, push_bytes);
    }
    outbox_clear(&box, &arena);
    expect_eq(arena.allocated_bytes, 0);
    bf_arena_close(&arena);
}

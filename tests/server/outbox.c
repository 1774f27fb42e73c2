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

/* SPDX-License-Identifier: MIT */
/* Tests of server/arena.c: what the shard counts is what the allocator says, as far as the allocator can say it. */
#include "server/arena.h"

#include <stdlib.h>
#include <string.h>

#include <belfry/types.h>

#include "base/build.h"
#include "expect.h"
#include "fixture.h"

#define BLOCKS 2000

/* The allocator counts whole size classes: an eighth more at most, or up to a class of 128 bytes for small blocks. */
static void expect_agreement(const struct bf_arena *arena, uint64_t found, uint64_t blocks)
{
#if BF_ALLOCATOR_IS_JEMALLOC
    expect(found >= arena->allocated_bytes);
    expect(found <= arena->allocated_bytes + arena->allocated_bytes / 4 + 128 * blocks);
#else
    (void)arena;
    (void)blocks;
    expect_eq(found, 0); /* malloc cannot tell */
#endif
}

Test(arena, counts_as_the_allocator_does)
{
    struct bf_arena arena;
    struct fixture_random r;
    static void *blocks[BLOCKS];
    static size_t sizes[BLOCKS];
    uint64_t held = 0, count = 0;
    fixture_seed(&r, "counts_as_the_allocator_does");
    expect_rc(bf_arena_open(&arena), 0);
    expect_agreement(&arena, bf_arena_purge(&arena), 0);
    for (int step = 0; step < 20000; step++) {
        size_t at = fixture_next(&r) % BLOCKS;
        if (blocks[at] != NULL) {
            expect_eq(((uint8_t *)blocks[at])[sizes[at] / 2], (uint8_t)at);
            bf_arena_free(&arena, blocks[at]);
            held -= sizes[at];
            count--;
            blocks[at] = NULL;
        } else {
            sizes[at] = 1 + fixture_next(&r) % (fixture_next(&r) % 16 == 0 ? 200000 : 2000);
            blocks[at] = bf_arena_alloc(&arena, sizes[at]);
            expect(blocks[at] != NULL && (uintptr_t)blocks[at] % 16 == 0);
            memset(blocks[at], (int)at, sizes[at]);
            held += sizes[at];
            count++;
        }
        if (step % 1000 == 999) {
            expect(arena.allocated_bytes >= held && arena.allocated_bytes <= held + 16 * count);
            expect_agreement(&arena, bf_arena_purge(&arena), count);
        }
    }
    for (int at = 0; at < BLOCKS; at++)
        bf_arena_free(&arena, blocks[at]);
    expect_eq(arena.allocated_bytes, 0);
    expect_eq(bf_arena_purge(&arena), 0);
    bf_arena_close(&arena);
    expect(!arena.open);
    bf_arena_close(&arena);
}

Test(arena, keeps_shards_apart)
{
    struct bf_arena one, other;
    expect_rc(bf_arena_open(&one), 0);
    expect_rc(bf_arena_open(&other), 0);
    void *block = bf_arena_alloc(&one, 100000);
    expect(one.allocated_bytes >= 100000);
    expect_eq(other.allocated_bytes, 0);
    expect_eq(bf_arena_purge(&other), 0);
    expect_agreement(&one, bf_arena_purge(&one), 1);
    bf_arena_free(&one, block);
    bf_arena_close(&one);
    bf_arena_close(&other);
}

Test(arena, gives_nothing_for_a_size_that_cannot_be)
{
    struct bf_arena arena;
    expect_rc(bf_arena_open(&arena), 0);
    expect(bf_arena_alloc(&arena, SIZE_MAX) == NULL);
    expect(bf_arena_alloc(&arena, SIZE_MAX - 15) == NULL);
    expect(bf_arena_alloc(&arena, PTRDIFF_MAX) == NULL);
    expect_eq(arena.allocated_bytes, 0);
    void *empty = bf_arena_alloc(&arena, 0);
    expect(empty != NULL);
    bf_arena_free(&arena, empty);
    bf_arena_free(&arena, NULL);
    expect_eq(arena.allocated_bytes, 0);
    bf_arena_close(&arena);
}

Test(arena, can_be_opened_again_and_again)
{
    for (int i = 0; i < 300; i++) {
        struct bf_arena arena;
        expect_rc(bf_arena_open(&arena), 0);
        void *block = bf_arena_alloc(&arena, 5000);
        expect(block != NULL);
        bf_arena_free(&arena, block);
        bf_arena_close(&arena);
    }
}

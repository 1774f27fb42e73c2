/* SPDX-License-Identifier: MIT */
/* Tests of shm/extension.h: what a block says, and what no block may make its reader do. */
#include "shm/extension.h"

#include "expect.h"
#include "fixture.h"

static uint64_t words[16];

/* An entry whose block has `bytes` in all, and one item. */
static struct ring_entry entry(uint16_t bytes, uint16_t type, uint16_t item_bytes, uint32_t payload)
{
    struct belfry_abi_extension block = {.bytes = bytes, .item = {.type = type, .bytes = item_bytes}};
    memcpy(words, &block, sizeof block);
    return (struct ring_entry){.data = words, .bytes = payload};
}

Test(extension, carries_a_deadline)
{
    struct extension in = {.deadline_ns = 0x123456789abcdef0}, out;
    expect_eq(extension_bytes(&in), 16);
    expect_eq(extension_bytes(&(struct extension){0}), 0);
    extension_write(words, &in);
    for (uint32_t payload = 0; payload < 100; payload += 33) {
        struct ring_entry e = {.data = words, .bytes = 16 + payload};
        expect_eq(extension_read(&e, &out), 16);
        expect_eq(out.deadline_ns, in.deadline_ns);
    }
}

Test(extension, refuses_a_block_that_cannot_be)
{
    struct extension x;
    static const struct {
        uint16_t bytes, item_bytes;
        uint32_t payload;
    } wrong[] = {{16, 8, 15}, {16, 8, 7},   {16, 8, 0},        {0, 8, 100},  {7, 8, 100},  {12, 8, 100},
                 {24, 8, 23}, {16, 9, 100}, {16, 0xffff, 100}, {16, 7, 100}, {16, 0, 100}, {65528, 8, 100}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct ring_entry e = entry(wrong[i].bytes, BELFRY_ITEM_DEADLINE, wrong[i].item_bytes, wrong[i].payload);
        if (extension_read(&e, &x) != BELFRY_EPROTO)
            expect_failed("block %zu was taken", i);
    }
}

Test(extension, does_not_know_every_item_and_ignores_those_that_it_may)
{
    struct extension x;
    struct ring_entry e = entry(16, 77, 8, 100);
    expect_eq(extension_read(&e, &x), BELFRY_EUNSUPPORTED);
    e = entry(16, 77 | BELFRY_ITEM_OPTIONAL, 8, 100);
    expect_eq(extension_read(&e, &x), 16);
    expect_eq(x.deadline_ns, 0);
    e = entry(8, 77, 8, 100); /* a block without items: what looks like one is not in it */
    expect_eq(extension_read(&e, &x), 8);
    e = entry(72, BELFRY_ITEM_DEADLINE, 8, 100); /* larger than we ever write */
    expect_eq(extension_read(&e, &x), BELFRY_EUNSUPPORTED);
}

Test(extension, reads_a_second_item_where_its_data_is_aligned)
{
    struct extension x;
    struct belfry_abi_item second = {.type = BELFRY_ITEM_DEADLINE, .bytes = 8};
    struct ring_entry e = entry(32, 77 | BELFRY_ITEM_OPTIONAL, 3, 40); /* 3 bytes, and padding */
    int64_t deadline = 42;
    memcpy((uint8_t *)words + 20, &second, sizeof second);
    memcpy((uint8_t *)words + 24, &deadline, sizeof deadline);
    expect_eq(extension_read(&e, &x), 32);
    expect_eq(x.deadline_ns, 42);
}

Test(extension, survives_any_bytes)
{
    struct fixture_random random;
    fixture_seed(&random, "survives_any_bytes");
    for (int i = 0; i < 1000000; i++) {
        struct extension x;
        for (size_t w = 0; w < 8; w++)
            words[w] = fixture_next(&random);
        ((uint16_t *)words)[0] &= 0x7f;
        ((uint16_t *)words)[2] &= 0x8003;
        ((uint16_t *)words)[3] &= 0x1f;
        struct ring_entry e = {.data = words, .bytes = (uint32_t)(fixture_next(&random) % 80)};
        int rc = extension_read(&e, &x);
        expect(rc == BELFRY_EPROTO || rc == BELFRY_EUNSUPPORTED || (rc >= 8 && (uint32_t)rc <= e.bytes));
    }
}

/* SPDX-License-Identifier: MIT */
/* Tests of shm/segment.c: names there and back, and the header that both sides must agree on. */
#include "shm/segment.h"

#include <errno.h>

#include "expect.h"

Test(segment, names_files_by_service_slot_and_side)
{
    char name[SEGMENT_NAME_BYTES], service[64] = {0};
    bf_segment_name(name, "", "echo", 7, SEGMENT_SEND);
    expect_text(name, "echo_7_send");
    bf_segment_name(name, "", "echo", 1048575, SEGMENT_RECV);
    expect_text(name, "echo_1048575_recv");
    memset(service, 's', 63);
    bf_segment_name(name, ".making-", service, UINT32_MAX, SEGMENT_SEND);
    expect_eq(strlen(name), 8 + 63 + 1 + 10 + 5); /* the longest fits */
}

Test(segment, reads_back_every_lock_name_it_writes)
{
    char name[SEGMENT_NAME_BYTES];
    for (uint32_t slot = 0; slot < 100000; slot += slot < 1100 ? 1 : 977) {
        uint32_t parsed = UINT32_MAX;
        bf_lock_name(name, slot);
        expect(bf_lock_name_parse(name, 1048576, &parsed));
        expect_eq(parsed, slot);
    }
    bf_lock_name(name, 12);
    expect_text(name, "slot_12.lock");
}

Test(segment, accepts_one_spelling_of_a_lock_name)
{
    static const char *const wrong[] = {
        "",
        "slot_",
        "slot_.lock",
        "slot_7",
        "slot_7.loc",
        "slot_7.lock ",
        "slot_7.lock.lock",
        "slot_07.lock",
        "slot_00.lock",
        "slot_+7.lock",
        "slot_-7.lock",
        "slot_ 7.lock",
        "slot_0x7.lock",
        "slot_7e0.lock",
        "Slot_7.lock",
        "slot-7.lock",
        " slot_7.lock",
        "slot_4294967303.lock",           /* 2^32 + 7 */
        "slot_18446744073709551623.lock", /* 2^64 + 7 */
        "slot_99999999999999999999999999999999999999999999999999999999999999999999999999999999999.lock",
        "slot_8.lock", /* not below max_slots */
        "slot_4294967295.lock",
    };
    uint32_t slot = 77;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        expect(!bf_lock_name_parse(wrong[i], 8, &slot));
    expect_eq(slot, 77);
    expect(bf_lock_name_parse("slot_7.lock", 8, &slot));
    expect(bf_lock_name_parse("slot_0.lock", 8, &slot));
}

Test(segment, gives_neighbours_and_sides_other_colours)
{
    for (uint32_t slot = 0; slot < 200; slot++) {
        expect(segment_colour(slot, SEGMENT_SEND) != segment_colour(slot, SEGMENT_RECV));
        for (int side = SEGMENT_SEND; side <= SEGMENT_RECV; side++) {
            uint32_t colour = segment_colour(slot, (enum segment_side)side);
            expect(colour < 4096 && colour % 64 == 0);
            expect(colour != segment_colour(slot + 1, (enum segment_side)side));
        }
    }
}

Test(segment, refuses_a_header_that_is_not_its_own)
{
    const struct segment_identity identity = {.instance = 5, .slot = 3, .generation = 9, .ring_bytes = 4096};
    struct belfry_abi_segment good, h;
    bf_segment_header_init(&good, &identity, SEGMENT_RECV);
    expect_rc(bf_segment_header_check(&good, &identity, SEGMENT_RECV), 0);
    expect_rc(bf_segment_header_check(&good, &identity, SEGMENT_SEND), BELFRY_EPROTO); /* the sides differ */

#define expect_with(field, value, wanted)                                        \
    do {                                                                         \
        h = good;                                                                \
        h.field = (value);                                                       \
        expect_rc(bf_segment_header_check(&h, &identity, SEGMENT_RECV), wanted); \
    } while (0)
    expect_with(magic, 0, BELFRY_EPROTO);
    expect_with(magic, BELFRY_LOBBY_MAGIC, BELFRY_EPROTO);
    expect_with(version, BELFRY_ABI_VERSION + 1, BELFRY_EVERSION);
    expect_with(version, 0, BELFRY_EVERSION);
    expect_with(layout_hash, BELFRY_ABI_LAYOUT + 1, BELFRY_EVERSION);
    expect_with(slot, 4, BELFRY_EPROTO);
    expect_with(instance, 6, BELFRY_EPROTO);
    expect_with(ring_bytes, 8192, BELFRY_EPROTO);
    expect_with(header_bytes, 512, BELFRY_EPROTO);
    expect_with(colour, good.colour + 64, BELFRY_EPROTO);
    expect_with(generation, 8, -ESTALE);
    expect_with(generation, 10, -ESTALE);
#undef expect_with
}

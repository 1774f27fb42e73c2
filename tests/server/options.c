/* SPDX-License-Identifier: MIT */
/* Tests of server/options.c: the defaults of this build, and each value that cannot work. */
#include <string.h>
#include <sys/mman.h>

#include "base/build.h"
#include "base/os.h"
#include "expect.h"
#include "server/server.h"

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)conn;
    (void)m;
    (void)user;
}

static belfry_server_options good(void)
{
    belfry_server_options o;
    belfry_server_options_init(&o, sizeof o);
    o.service = "unit";
    o.on_message = on_message;
    return o;
}

static belfry_server_options resolved(const belfry_server_options *o)
{
    belfry_server_options out;
    expect_rc(bf_options_resolve(&out, o), 0);
    return out;
}

static void expect_bad(const belfry_server_options *o, int wanted, const char *name)
{
    belfry_server_options out;
    belfry_server *server = (belfry_server *)&out;
    expect_rc(bf_options_resolve(&out, o), wanted);
    expect_in(belfry_last_error(), name);
    expect_rc(belfry_server_create(&server, o), wanted);
    expect(server == NULL);
}

Test(options, are_those_that_the_library_was_built_with)
{
    belfry_server_options o = good();
    expect_eq(o.size, sizeof o);
    expect_eq(o.shards, BF_DEFAULT_SHARDS);
    expect_eq(o.max_slots, BF_DEFAULT_MAX_SLOTS);
    expect_eq(o.warm_pool, BF_DEFAULT_WARM_POOL);
    expect_eq(o.ring_bytes, BF_DEFAULT_RING_BYTES);
    expect_eq(o.message_bytes_max, BF_DEFAULT_MESSAGE_BYTES_MAX);
    expect_eq(o.pin, BF_DEFAULT_PIN);
    expect(o.atfork && o.sigbus_guard && !o.stop_signals);
    expect(o.on_connect == NULL && o.on_disconnect == NULL && o.on_log == NULL && o.user == NULL);
}

Test(options, are_resolved_to_what_will_be)
{
    belfry_server_options o = good();
    o.shards = 0;
    o.max_slots = 1000;
    o.message_bytes_max = 0;
    o.ring_bytes = 8192;
    o.spin = BELFRY_SPIN_DEFAULT;
    o = resolved(&o);
    expect(o.shards >= 1 && o.shards <= BELFRY_SHARDS_MAX);
    expect_eq(o.message_bytes_max, 8192 / 4 - 16);
    expect_eq(o.whole_bytes_max, 256 << 20);
    expect_eq(o.outbox_high_bytes, o.outbox_bytes_max / 2);
    expect_eq(o.spin, BF_DEFAULT_SPIN);
}

Test(options, give_every_shard_as_many_slots)
{
    for (uint32_t shards = 1; shards <= 64; shards++)
        for (uint32_t slots = 1; slots < 200; slots += 7) {
            belfry_server_options o = good();
            o.shards = shards;
            o.max_slots = slots;
            o.warm_pool = 0;
            o = resolved(&o);
            expect(o.shards <= shards && o.shards >= 1);
            expect(o.max_slots >= slots && o.max_slots < slots + shards);
            expect_eq(o.max_slots % o.shards, 0);
        }
}

Test(options, want_no_more_warm_slots_than_there_are)
{
    belfry_server_options o = good();
    o.shards = 1;
    o.max_slots = 10;
    o.warm_pool = 64;
    expect_eq(resolved(&o).warm_pool, 10);
}

Test(options, are_refused_when_a_value_cannot_work_and_are_named)
{
#define expect_bad_value(field, value, wanted) \
    do {                                       \
        belfry_server_options o_ = good();     \
        o_.field = (value);                    \
        expect_bad(&o_, wanted, #field);       \
    } while (0)
    expect_bad_value(on_message, NULL, BELFRY_EOPTION);
    expect_bad_value(shards, 65, BELFRY_EOPTION);
    expect_bad_value(shards, UINT32_MAX, BELFRY_EOPTION);
    expect_bad_value(max_slots, 0, BELFRY_EOPTION);
    expect_bad_value(max_slots, 1048577, BELFRY_EOPTION);
    expect_bad_value(max_slots, UINT32_MAX, BELFRY_EOPTION);
    expect_bad_value(ring_bytes, 0, BELFRY_EOPTION);
    expect_bad_value(ring_bytes, 2048, BELFRY_EOPTION);
    expect_bad_value(ring_bytes, 65535, BELFRY_EOPTION);
    expect_bad_value(ring_bytes, 65537, BELFRY_EOPTION);
    expect_bad_value(ring_bytes, 1u << 31, BELFRY_EOPTION);
    expect_bad_value(message_bytes_max, 63, BELFRY_EOPTION);
    expect_bad_value(message_bytes_max, 1, BELFRY_EOPTION);
    expect_bad_value(message_bytes_max, (1u << 30) + 1, BELFRY_EOPTION);
    expect_bad_value(whole_bytes_max, BF_DEFAULT_MESSAGE_BYTES_MAX - 1, BELFRY_EOPTION);
    expect_bad_value(deferred_max, 0, BELFRY_EOPTION);
    expect_bad_value(overflow, 3, BELFRY_EOPTION);
    expect_bad_value(outbox_high_bytes, (1u << 20) + 1, BELFRY_EOPTION);
    expect_bad_value(outbox_low_bytes, 1u << 19, BELFRY_EOPTION);
    expect_bad_value(message_bytes_max, UINT32_MAX, BELFRY_EOPTION);
    expect_bad_value(claim_grace_ms, 0, BELFRY_EOPTION);
    expect_bad_value(spin, (enum belfry_spin)4, BELFRY_EOPTION);
    expect_bad_value(spin, (enum belfry_spin) - 1, BELFRY_EOPTION);
    expect_bad_value(size, 0, BELFRY_EOPTION);
    expect_bad_value(size, 8, BELFRY_EOPTION);
#undef expect_bad_value
}

Test(options, are_refused_without_a_name_that_clients_can_say)
{
    belfry_server_options o = good();
    belfry_server *server;
    static const char *const names[] = {NULL, "", "Echo", "a/b", "..", "1000:echo"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        o.service = names[i];
        expect_rc(belfry_server_create(&server, &o), BELFRY_ENAME);
        expect(server == NULL);
    }
}

Test(options, are_refused_when_the_kernel_has_too_few_maps)
{
    belfry_server_options o = good();
    if (bf_os_map_count_max() > 2 * 1048576)
        cr_skip_test("vm.max_map_count is large enough for every max_slots");
    o.max_slots = 1048576;
    o.warm_pool = 0;
    expect_bad(&o, BELFRY_EMAPS, "vm.max_map_count");
}

/* A program that was built with an older, shorter struct. */
Test(options, may_come_from_an_older_program)
{
    belfry_server_options o = good(), out;
    o.size = offsetof(belfry_server_options, max_slots);
    o.shards = 3;
    o.max_slots = 0; /* what lies behind its end is not looked at */
    o.ring_bytes = 1;
    expect_rc(bf_options_resolve(&out, &o), 0);
    expect_eq(out.shards, 3);
    expect_eq(out.ring_bytes, BF_DEFAULT_RING_BYTES);
    expect_eq(out.size, sizeof out);
}

/* And one that was built with a newer, longer one. */
Test(options, may_come_from_a_newer_program)
{
    struct {
        belfry_server_options o;
        char more[64];
    } newer;
    memset(&newer, 0xff, sizeof newer);
    belfry_server_options_init(&newer.o, sizeof newer);
    for (size_t i = 0; i < sizeof newer.more; i++)
        expect_eq(newer.more[i], 0);
    newer.o.service = "unit";
    newer.o.on_message = on_message;
    resolved(&newer.o);
}

Test(options, let_in_other_users_within_bounds)
{
    belfry_server_options o = good();
    belfry_server_options out = resolved(&o);
    expect_eq(out.access, BELFRY_ACCESS_OWNER);
    expect_eq(out.access_gid, bf_os_gid());
    expect_eq(out.uid_slots_max, out.max_slots / 4);
    expect_eq(out.uid_bytes_max, out.whole_bytes_max / 2);
    expect(out.uid_connects_max > 0);

    o.max_slots = 2;
    o.message_bytes_max = 1u << 30;
    out = resolved(&o);
    expect_eq(out.uid_slots_max, 1);
    expect_eq(out.uid_bytes_max, 1u << 30);

    o = good();
    o.access = (enum belfry_access)3;
    expect_bad(&o, BELFRY_EOPTION, "access");
    o = good();
    o.uid_connects_max = 0;
    expect_bad(&o, BELFRY_EOPTION, "uid_connects_max");
    o = good();
    o.uid_bytes_max = o.message_bytes_max - 1;
    expect_bad(&o, BELFRY_EOPTION, "uid_bytes_max");
}

/* SPDX-License-Identifier: MIT */
/* Tests of client/stats.c: counters read from a lobby by somebody who is no client. */
#include <unistd.h>

#include <belfry/stats.h>

#include "base/os.h"
#include "expect.h"
#include "fake_server.h"

static struct fake_server fake;

Test(stats, reads_geometry_and_counters)
{
    belfry_statistics s = {.size = sizeof s};
    fake_open(&fake, 2);
    belfry_counters *counters = lobby_counters(&fake.lobby, 0);
    counters->messages_in = 12345;
    counters->ends[BELFRY_END_LEFT] = 3;
    counters->refusals[BELFRY_END_NO_MEMORY] = 4;
    int fds = fixture_count_fds();
    expect_rc(belfry_stats(FAKE_SERVICE, NULL, &s), 0);
    expect_eq(fixture_count_fds(), fds);
    expect_eq(s.instance, 7);
    expect_eq(s.pid, getpid());
    expect_eq(s.shards, 1);
    expect_eq(s.max_slots, FAKE_SLOTS);
    expect_eq(s.warm_pool, 2);
    expect_eq(s.ring_bytes, 4096);
    expect_eq(s.message_bytes_max, 1008);
    expect_eq(s.started_ns, 1);
    expect(s.alive);
    expect_eq(s.total.messages_in, 12345);
    expect_eq(s.total.ends[BELFRY_END_LEFT], 3);
    expect_eq(s.total.refusals[BELFRY_END_NO_MEMORY], 4);
    expect(memcmp(&s.total, &s.shard[0], sizeof s.total) == 0);
    expect_eq(s.shard[1].messages_in, 0);
    fake_close(&fake);
}

Test(stats, can_be_read_after_the_servers_death)
{
    belfry_statistics s = {.size = sizeof s};
    fake_open(&fake, 1);
    lobby_counters(&fake.lobby, 0)->messages_out = 9;
    fake_die(&fake);
    expect_rc(belfry_stats(FAKE_SERVICE, fake.root, &s), 0);
    expect(!s.alive);
    expect_eq(s.total.messages_out, 9);
    fake_close(&fake);
}

Test(stats, refuses_a_struct_of_another_size)
{
    belfry_statistics s = {.size = sizeof s - 8};
    expect_rc(belfry_stats("fake", NULL, &s), BELFRY_EOPTION);
    s.size = 0;
    expect_rc(belfry_stats("fake", NULL, &s), BELFRY_EOPTION);
}

Test(stats, says_that_nobody_serves_the_name)
{
    belfry_statistics s = {.size = sizeof s};
    fake_open(&fake, 1);
    expect_rc(belfry_stats("nobody", NULL, &s), BELFRY_ENOSERVICE);
    expect_in(belfry_last_error(), "nobody");
    expect_rc(belfry_stats("No Name", NULL, &s), BELFRY_ENAME);
    fake.lobby.map->version++;
    expect_rc(belfry_stats(FAKE_SERVICE, NULL, &s), BELFRY_EVERSION);
    fake_close(&fake);
}

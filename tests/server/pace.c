/* SPDX-License-Identifier: MIT */
/*
 * Tests of server/pace.c: a handler that keeps its shard busy is counted there, by how long it took, and the other shard
 * serves on. What the clock of the test says is a bound in each direction; nothing is assumed about how fast anything is.
 */
#include <poll.h>
#include <stdio.h>
#include <time.h>

#include "base/order.h"
#include "client/client.h"
#include "expect.h"
#include "server/server.h"
#include "server_fixture.h"

#define MS 1000000ll
#define BUSY_NS (1000 * MS)
#define STALL_MS 900

TestSuite(pace, .timeout = 120);

static struct server_fixture server;
static uint32_t busy, may_go, lines;
static int64_t took_ns;
static char line_seen[512];

/* A message that begins with 'b' keeps the handler for its own number of ms, and until it may go. */
static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    const char *text = m->data;
    (void)user;
    if (m->size > 1 && text[0] == 'b') {
        int64_t from = belfry_now_ns();
        store_release(&busy, 1);
        while (belfry_now_ns() - from < atoi(text + 1) * MS || load_acquire(&may_go) == 0)
            fixture_pause();
        took_ns = belfry_now_ns() - from;
    }
    belfry_reply(conn, m, m->data, m->size);
}

static void on_log(enum belfry_log_level level, const char *line, void *user)
{
    (void)user;
    if (level != BELFRY_LOG_WARNING || strstr(line, "a turn of shard") == NULL)
        return;
    snprintf(line_seen, sizeof line_seen, "%s", line);
    add_release(&lines, 1);
}

static void prepare(uint32_t stall_ms)
{
    server_fixture_init(&server);
    server.options.on_message = on_message;
    server.options.on_log = on_log;
    server.options.stall_ms = stall_ms;
}

static void expect_echo(belfry_client *c, const char *text)
{
    belfry_message m;
    expect_rc(belfry_call(c, text, strlen(text) + 1, &m, server_fixture_patience()), 0);
    expect(m.size == strlen(text) + 1 && memcmp(m.data, text, m.size) == 0);
    belfry_release(c, &m);
}

static belfry_counters of_shard(uint32_t shard)
{
    belfry_statistics s = {.size = sizeof s};
    expect_rc(belfry_stats(FIXTURE_SERVICE, NULL, &s), 0);
    uint64_t longest_ns = 0;
    for (uint32_t i = 0; i < s.shards; i++)
        longest_ns = longest_ns > s.shard[i].longest_turn_ns ? longest_ns : s.shard[i].longest_turn_ns;
    expect_eq(s.total.longest_turn_ns, longest_ns);
    return s.shard[shard];
}

/* One client on each of two shards. */
static void connect_to_both(belfry_client *c[2])
{
    c[0] = server_fixture_connect();
    do
        c[1] = server_fixture_connect();
    while (belfry_client_shard(c[1]) == belfry_client_shard(c[0]));
}

Test(pace, counts_a_handler_that_is_busy_for_a_second_in_its_own_shard)
{
    belfry_client *c[2];
    prepare(STALL_MS);
    server.options.shards = 2;
    server.options.max_slots = 64;
    server_fixture_start(&server);
    connect_to_both(c);
    uint32_t shard = belfry_client_shard(c[0]);
    expect_echo(c[0], "a");
    expect_echo(c[1], "a");

    int64_t from = belfry_now_ns();
    expect_rc(belfry_send(c[0], "b1000", 6, NULL), 0);
    expect(eventually(load_acquire(&busy) == 1));
    uint64_t stalls_before = of_shard(1 - shard).stalled_turns, excuses = 0;
    for (int i = 0; i < 100; i++) { /* the first shard's handler has not returned */
        int64_t at = belfry_now_ns();
        expect_echo(c[1], "meanwhile");
        excuses += belfry_now_ns() - at >= STALL_MS * MS; /* a machine that stood still, as virtual ones may */
    }
    expect_eq(of_shard(shard).stalled_turns, 0);
    store_release(&may_go, 1);
    expect(eventually(of_shard(shard).stalled_turns == 1));
    uint64_t most_ns = (uint64_t)(belfry_now_ns() - from);

    belfry_counters counters = of_shard(shard), others = of_shard(1 - shard);
    expect(counters.longest_turn_ns >= (uint64_t)took_ns - took_ns / 1000); /* two clocks */
    expect(counters.longest_turn_ns <= most_ns + most_ns / 1000);
    expect(took_ns >= BUSY_NS);
    for (int i = 0; i < BELFRY_LONG_TURNS; i++) {
        uint64_t least = (uint64_t)BELFRY_LONG_TURN_NS << i;
        bool in =
            counters.longest_turn_ns >= least && (counters.longest_turn_ns < 2 * least || i == BELFRY_LONG_TURNS - 1);
        if (least >= STALL_MS * MS)
            expect_eq(counters.long_turns[i], in);
        else
            expect(!in || counters.long_turns[i] >= 1);
    }
    expect(others.stalled_turns - stalls_before <= excuses);
    expect_echo(c[1], "b20");
    expect(eventually(of_shard(1 - shard).longest_turn_ns >= 19 * MS)); /* the total is still that of one of them */
    server_fixture_stop(&server);
}

Test(pace, counts_nothing_while_a_shard_sleeps)
{
    prepare(STALL_MS);
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect();
    expect_echo(c, "a");
    uint64_t sweeps = of_shard(0).sweeps;
    expect(eventually(of_shard(0).sweeps > sweeps)); /* it has slept for a second */
    expect_echo(c, "a");
    expect_eq(of_shard(0).stalled_turns, 0);
    expect(of_shard(0).longest_turn_ns < STALL_MS * MS);
    belfry_close(c);
    server_fixture_stop(&server);
}

Test(pace, says_so_once_in_ten_seconds)
{
    prepare(20);
    store_release(&may_go, 1);
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect();
    int64_t from = belfry_now_ns();
    for (int i = 0; i < 3; i++)
        expect_echo(c, "b25");
    expect(eventually(of_shard(0).stalled_turns >= 3));
    int64_t passed_ns = belfry_now_ns() - from;
    expect(load_acquire(&lines) >= 1 && load_acquire(&lines) <= 1 + passed_ns / (10000 * MS));
    expect_in(line_seen, "a turn of shard 0 took ");
    expect_in(line_seen, " ms");
    belfry_close(c);
    server_fixture_stop(&server);
}

Test(pace, counts_no_stalls_when_that_is_not_wanted)
{
    prepare(0);
    store_release(&may_go, 1);
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect();
    expect_echo(c, "b30");
    expect(eventually(of_shard(0).longest_turn_ns >= 29 * MS));
    expect_eq(of_shard(0).stalled_turns, 0);
    expect_eq(load_acquire(&lines), 0);
    belfry_close(c);
    server_fixture_stop(&server);
}

Test(pace, does_not_count_what_a_program_does_between_its_turns)
{
    prepare(STALL_MS);
    server.options.own_loop = true;
    server_fixture_start(&server);
    for (int i = 0; i < 10; i++)
        expect_rc(belfry_shard_turn(server.server, 0), 1);
    nanosleep(&(struct timespec){.tv_sec = 1}, NULL); /* the program's own work */
    for (int i = 0; i < 10; i++)
        expect_rc(belfry_shard_turn(server.server, 0), 1);
    expect_eq(of_shard(0).stalled_turns, 0);
    expect(of_shard(0).longest_turn_ns < STALL_MS * MS);
    server_fixture_stop(&server);
}

/* The processor's clock is not asked whether it makes sense. */
Test(pace, ignores_a_clock_that_goes_back)
{
    struct belfry_server owner = {.options = {.stall_ms = 1}};
    belfry_counters counters = {0};
    struct bf_shard shard = {.server = &owner, .options = &owner.options, .log = &owner.log, .counters = &counters};
    bf_pace_init(&shard.pace);
    while (belfry_now_ns() - shard.pace.first_ns < MS)
        ;
    shard.pace.mark = cpu_cycles() + (1ull << 40);
    pace_turn(&shard, &shard.pace);
    expect_eq(counters.longest_turn_ns, 0);
    shard.pace.mark = shard.pace.first_mark - 1;
    bf_pace_long(&shard, &shard.pace, 1ull << 40);
    expect_eq(counters.longest_turn_ns, 0);
}

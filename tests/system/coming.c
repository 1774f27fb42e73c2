/* SPDX-License-Identifier: MIT */
/* coming.c: clients that come: first message, many clients, pool, limits. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "house.h"

TestSuite(coming, .timeout = 120);

Test(coming, a_client_connects_calls_and_leaves)
{
    struct house house;
    house_init(&house);
    house_start(&house);
    belfry_client *c = house_connect(&house);
    cr_assert_eq(house_echo(c, 1, 64), 0);
    cr_assert_eq(house_echo(c, 2, 0), 0, "an empty message travels, too");
    cr_assert(house_wait(&house, house_active_is, 1, 5));
    belfry_close(c);
    cr_assert(house_wait(&house, house_active_is, 0, 5));
    belfry_statistics stats = house_stats(&house);
    cr_assert_eq(stats.total.connections_total, 1);
    cr_assert_eq(stats.total.ends[BELFRY_END_LEFT], 1);
    cr_assert_eq(stats.total.messages_in, 2);
    cr_assert_eq(stats.total.messages_out, 2);
    cr_assert_eq(stats.shards, house_shards());
    cr_assert_eq(house_stop(&house), 0);
    cr_assert_eq(house_files(&house, ".lock") + house_files(&house, "_send") + house_files(&house, "lobby"), 0,
                 "a clean stop leaves nothing behind");
    house_clear(&house);
}

Test(coming, the_first_message_may_be_sent_before_the_server_has_noticed)
{
    struct house house;
    belfry_message reply;
    uint64_t id;
    house_init(&house);
    pid_t server = house_start(&house);
    cr_assert_eq(kill(server, SIGSTOP), 0);
    int status;
    cr_assert_eq(waitpid(server, &status, WUNTRACED), server);
    belfry_client *c = house_connect(&house); /* a warm slot: nothing to wait for */
    cr_assert_eq(belfry_send(c, "early", 5, &id), 0);
    cr_assert_eq(belfry_receive(c, &reply, 0), -ETIMEDOUT, "the server is stopped: there can be no reply");
    cr_assert_eq(kill(server, SIGCONT), 0);
    cr_assert_eq(belfry_receive(c, &reply, SECONDS(10)), 0);
    cr_assert_eq(reply.id, id);
    cr_assert_arr_eq(reply.data, "early", 5);
    belfry_close(c);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

Test(coming, a_client_that_sent_and_left_before_the_server_noticed_is_heard)
{
    struct house house;
    int status;
    house_init(&house);
    pid_t server = house_start(&house);
    kill(server, SIGSTOP);
    cr_assert_eq(waitpid(server, &status, WUNTRACED), server);
    belfry_client *c = house_connect(&house);
    for (int i = 0; i < 10; i++)
        cr_assert_eq(belfry_send_one_way(c, "gone", 4), 0);
    belfry_close(c);
    kill(server, SIGCONT);
    cr_assert(house_wait(&house, house_active_is, 0, 5));
    for (int64_t deadline = SECONDS(5); house_stats(&house).total.messages_in < 10 && belfry_now_ns() < deadline;)
        usleep(1000);
    belfry_statistics stats = house_stats(&house);
    cr_assert_eq(stats.total.messages_in, 10);
    cr_assert_eq(stats.total.connections_total, 1);
    cr_assert_eq(stats.total.ends[BELFRY_END_LEFT], 1);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

Test(coming, a_million_messages_come_back_whole_and_in_order)
{
    enum { COUNT = 1000000, DEPTH = 64 };
    struct house house;
    house_init(&house);
    house_start(&house);
    belfry_client *c = house_connect(&house);
    uint64_t sent = 0, received = 0;
    while (received < COUNT) {
        belfry_message m;
        while (sent < COUNT && sent - received < DEPTH) {
            uint64_t words[16];
            size_t size = 8 + sent % 120;
            for (int i = 0; i < 16; i++)
                words[i] = sent * 31 + (uint64_t)i;
            int rc = belfry_send(c, words, size, NULL);
            if (rc == -EAGAIN)
                break;
            cr_assert_eq(rc, 0, "%s", belfry_last_error());
            sent++;
        }
        int rc = belfry_receive(c, &m, SECONDS(30));
        if (rc == -EAGAIN)
            continue;
        cr_assert_eq(rc, 0, "after %lu of %lu: %s", received, sent, belfry_last_error());
        const uint64_t *words = m.data;
        cr_assert_eq(m.id, received + 1);
        cr_assert_eq(m.size, 8 + received % 120);
        for (size_t i = 0; i < m.size / 8; i++)
            cr_assert_eq(words[i], received * 31 + i);
        belfry_release(c, &m);
        received++;
    }
    belfry_close(c);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

/* Where they share a core polling is learned to be a waste, and a woken client is often put where it was woken from. */
static void leave_core_of(const belfry_client *c)
{
    cpu_set_t cpus;
    uint32_t shard = belfry_client_shard(c), seen = 0;
    cr_assert_eq(sched_getaffinity(0, sizeof cpus, &cpus), 0);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &cpus) && seen++ == shard) { /* shard i runs on the i-th core that we may use */
            CPU_CLR(cpu, &cpus);
            break;
        }
    cr_assert_eq(sched_setaffinity(0, sizeof cpus, &cpus), 0);
}

Test(coming, a_busy_server_polls)
{
    struct house house;
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) != 0 || CPU_COUNT(&cpus) < 2)
        cr_skip_test("needs two processors: with one, polling is off");
    house_init(&house);
    house_start(&house);
    belfry_client *c = house_connect(&house);
    uint64_t calls = 0;
    leave_core_of(c);
    int64_t deadline = SECONDS(20);
    while (house_stats(&house).total.polls_won < 1000 && belfry_now_ns() < deadline)
        for (int i = 0; i < 1000; i++)
            cr_assert_eq(house_echo(c, calls++, 64), 0);
    cr_assert_geq(house_stats(&house).total.polls_won, 1000, "in %lu calls polling never paid", calls);
    belfry_close(c);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

/*
 * While the server is busy in a handler, a poller gets two clients, `late` and `early`, whose claims the server finds so
 * far apart that it answers `early` before it has accepted `late`, the leader of their group. The poller must be told by
 * then: its own timeout, a second later, would be a rescue.
 */
Test(coming, a_reply_wakes_a_poller_whose_leader_is_not_yet_accepted)
{
    enum { FILLERS = 20 };
    struct house house;
    belfry_poller *poller;
    belfry_poll_event event;
    belfry_client *fillers[FILLERS];
    house_init(&house);
    house.options.shards = 1;
    house.options.warm_pool = 64;
    house.options.spin = BELFRY_SPIN_POWER;
    house_start(&house);
    for (int round = 0; round < 5; round++) {
        belfry_client *napper = house_connect(&house);
        cr_assert_eq(house_echo(napper, 1, 64), 0);
        cr_assert_eq(belfry_send(napper, WORD_NAP, 3, NULL), 0);
        belfry_client *early = house_connect(&house);
        cr_assert_eq(belfry_send(early, "early", 5, NULL), 0);
        for (int i = 0; i < FILLERS; i++)
            fillers[i] = house_connect(&house);
        belfry_client *late = house_connect(&house);
        cr_assert_eq(belfry_poller_create(&poller), 0);
        cr_assert_eq(belfry_poller_add(poller, late, NULL), 0);
        cr_assert_eq(belfry_poller_add(poller, early, NULL), 0);
        house_sleep_long(late);
        house_sleep_long(early);
        cr_assert_eq(belfry_poller_wait(poller, &event, 1, SECONDS(20)), 1);
        cr_assert_eq(event.client, early);
        cr_assert_eq(belfry_client_rescued_wakes(late) + belfry_client_rescued_wakes(early), 0,
                     "nobody woke the poller: it found the reply by itself");
        belfry_poller_destroy(poller);
        belfry_close(late);
        for (int i = 0; i < FILLERS; i++)
            belfry_close(fillers[i]);
        belfry_close(early);
        belfry_close(napper);
        cr_assert(house_wait(&house, house_active_is, 0, 5));
    }
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

Test(coming, clients_that_came_and_went_while_inotify_lost_events_are_found)
{
    struct house house;
    belfry_client *before[4], *during[8];
    int status;
    house_init(&house);
    pid_t server = house_start(&house);
    for (int i = 0; i < 4; i++) {
        before[i] = house_connect(&house);
        cr_assert_eq(house_echo(before[i], 1, 64), 0);
    }
    kill(server, SIGSTOP);
    cr_assert_eq(waitpid(server, &status, WUNTRACED), server);
    for (uint32_t shard = 0; shard < house_shards(); shard++)
        house_overflow(&house, shard);
    for (int i = 0; i < 8; i++)
        during[i] = house_connect(&house);
    for (int i = 0; i < 4; i++)
        belfry_close(before[i]);
    kill(server, SIGCONT);
    for (int i = 0; i < 8; i++)
        cr_assert_eq(house_echo(during[i], 2, 64), 0);
    cr_assert(house_wait(&house, house_active_is, 8, 10));
    belfry_statistics stats = house_stats(&house);
    cr_assert_geq(stats.total.rescans, 1);
    cr_assert_eq(stats.total.connections_total, 12);
    for (int i = 0; i < 8; i++)
        belfry_close(during[i]);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

static bool junk_is(const struct house *house, uint64_t value)
{
    return house_stats(house).total.junk_names >= value;
}

static void name_of_slot_0(const struct house *house, char path[256])
{
    snprintf(path, 256, "%s/%s/1/shard-0/slot_0.lock", house->root, SERVICE);
}

static bool slot_0_has_no_lock(const struct house *house, uint64_t value)
{
    char path[256];
    (void)value;
    name_of_slot_0(house, path);
    return access(path, F_OK) < 0;
}

Test(coming, names_that_are_no_slots_are_removed_and_counted)
{
    static const char *const names[] = {"slot_07.lock", "slot_+7.lock", "slot_4294967303.lock", "slot_1.lock.bak",
                                        "README"};
    struct house house;
    char path[256];
    house_init(&house);
    house_start(&house);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s/1/shard-0/%s", house.root, SERVICE, names[i]);
        close(open(path, O_CREAT | O_WRONLY, 0600));
    }
    name_of_slot_0(&house, path);
    cr_assert_eq(mkdir(path, 0700), 0); /* a directory where a lock should be */
    cr_assert(house_wait(&house, junk_is, sizeof names / sizeof names[0] + 1, 5));
    cr_assert(house_wait(&house, slot_0_has_no_lock, 0, 5)); /* at a slot's name it is counted first */
    belfry_client *c = house_connect(&house);
    cr_assert_eq(house_echo(c, 1, 64), 0);
    belfry_close(c);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

/* --- many ----------------------------------------------------------------------------------------------------------- */

enum { CROWD = 1000, CROWD_PROCESSES = 50 };

/* Connect, say so, wait for the word, call each once, leave. */
static int crowd_member(struct house *house, void *argument)
{
    int *go = argument;
    belfry_client *c[CROWD / CROWD_PROCESSES];
    char word = 'c';
    for (int i = 0; i < CROWD / CROWD_PROCESSES; i++)
        if (house_connect_rc(house, &c[i]) < 0 || house_echo(c[i], (uint64_t)i, 200) < 0)
            return 1;
    if (write(go[3], &word, 1) != 1 || read(go[0], &word, 1) != 1)
        return 2;
    for (int i = 0; i < CROWD / CROWD_PROCESSES; i++) {
        if (house_echo(c[i], (uint64_t)i, 64) < 0)
            return 3;
        belfry_close(c[i]);
    }
    return 0;
}

/* CROWD clients at once; what is seen while all of them are there is returned. */
static belfry_statistics crowd(struct house *house)
{
    int go[4];
    pid_t pids[CROWD_PROCESSES];
    char word[CROWD_PROCESSES] = {0};
    cr_assert(pipe(go) == 0 && pipe(go + 2) == 0);
    for (int i = 0; i < CROWD_PROCESSES; i++)
        pids[i] = house_process(crowd_member, house, go);
    close(go[3]);
    for (int i = 0; i < CROWD_PROCESSES; i++)
        cr_assert_eq(read(go[2], word, 1), 1, "a client process died while connecting");
    belfry_statistics stats = house_stats(house);
    cr_assert_eq(write(go[1], word, sizeof word), (ssize_t)sizeof word);
    for (int i = 0; i < CROWD_PROCESSES; i++)
        cr_assert_eq(house_reap(pids[i], 60), 0);
    close(go[0]), close(go[1]), close(go[2]);
    return stats;
}

Test(coming, a_thousand_clients_are_served_at_once)
{
    struct house house;
    house_init(&house);
    house_start(&house);
    belfry_statistics stats = crowd(&house);
    cr_assert_eq(stats.total.connections_active, CROWD);
    for (uint32_t i = 0; i < stats.shards; i++)
        cr_assert_geq(stats.shard[i].connections_active * 10, CROWD * 4 / stats.shards, "shard %u has too few", i);
    cr_assert_gt(stats.total.slots_made_on_demand + stats.total.slots_made, 16);
    cr_assert(house_wait(&house, house_active_is, 0, 5));
    cr_assert_eq(house_stats(&house).total.rescued_wakes, 0);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

Test(coming, without_a_warm_pool_a_thousand_clients_are_served_all_the_same)
{
    struct house house;
    house_init(&house);
    house.options.warm_pool = 0;
    house_start(&house);
    cr_assert_eq(house_files(&house, "_send"), 0);
    belfry_statistics stats = crowd(&house);
    cr_assert_eq(stats.total.connections_active, CROWD);
    cr_assert_eq(stats.total.slots_made_on_demand, CROWD);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

Test(coming, sixty_four_warm_slots_are_sixty_four_pairs_of_files)
{
    struct house house;
    house_init(&house);
    house.options.warm_pool = 64;
    house_start(&house);
    cr_assert_eq(house_files(&house, "_send"), 64);
    cr_assert_eq(house_files(&house, "_recv"), 64);
    cr_assert_eq(house_files(&house, ".lock"), 0);
    cr_assert_eq(house_stats(&house).total.slots_warm, 64);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

static bool warm_is(const struct house *house, uint64_t value)
{
    return house_stats(house).total.slots_warm == value;
}

static bool recv_files_are(const struct house *house, uint64_t value)
{
    return house_files(house, "_recv") == value;
}

/* Published once per turn: a moment after the conn is gone. */
static bool allocated_is(const struct house *house, uint64_t value)
{
    return house_stats(house).total.allocated_bytes == value;
}

Test(coming, the_warm_pool_is_refilled_while_serving)
{
    struct house house;
    belfry_client *c[12];
    house_init(&house);
    house.options.warm_pool = 8;
    house_start(&house);
    for (int i = 0; i < 12; i++)
        c[i] = house_connect(&house);
    cr_assert(house_wait(&house, warm_is, 8, 5), "warm: %lu", house_stats(&house).total.slots_warm);
    for (int i = 0; i < 12; i++) {
        cr_assert_eq(house_echo(c[i], 1, 64), 0);
        belfry_close(c[i]);
    }
    cr_assert(house_wait(&house, house_active_is, 0, 5));
    cr_assert(house_wait(&house, warm_is, 8, 5), "gone clients' slots go cold beyond the pool");
    cr_assert(house_wait(&house, recv_files_are, 8, 5));
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

Test(coming, a_full_service_refuses_with_a_reason_and_takes_the_next_when_one_leaves)
{
    struct house house;
    belfry_client *c[4], *fifth;
    house_init(&house);
    house.options.max_slots = 4;
    house.options.warm_pool = 1;
    house_start(&house);
    for (int i = 0; i < 4; i++)
        c[i] = house_connect(&house);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(house_echo(c[i], 1, 64), 0);
    cr_assert_eq(house_connect_rc(&house, &fifth), BELFRY_EFULL);
    cr_assert_null(fifth);
    cr_assert_not_null(strstr(belfry_last_error(), "max_slots"), "the sentence names the remedy: %s",
                       belfry_last_error());
    belfry_close(c[2]);
    cr_assert_eq(house_connect_when_free(&house, &fifth), 0, "%s", belfry_last_error());
    cr_assert_eq(house_echo(fifth, 5, 64), 0);
    for (int i = 0; i < 4; i++)
        if (i != 2)
            cr_assert_eq(house_echo(c[i], 9, 64), 0, "the others notice nothing");
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

#ifdef __SANITIZE_ADDRESS__
#define RSS_SLACK (256u << 20) /* its quarantine keeps what was freed */
#else
#define RSS_SLACK (1u << 20)
#endif

static int churn(struct house *house, void *argument)
{
    int rounds = *(int *)argument;
    for (int i = 0; i < rounds; i++) {
        belfry_client *c;
        if (house_connect_rc(house, &c) < 0)
            return 1;
        if (house_echo(c, (uint64_t)i, 64) < 0)
            return 2;
        if (i % 16 == 15 && i == rounds - 1)
            _Exit(0); /* without goodbye */
        belfry_close(c);
    }
    return 0;
}

Test(coming, memory_is_flat_after_ten_thousand_comings_and_goings)
{
    struct house house;
    int warm_up = 512;
    house_init(&house);
    pid_t server = house_start(&house);
    for (int i = 0; i < 2; i++) /* page tables, caches and the allocator's first pages */
        cr_assert_eq(house_reap(house_process(churn, &house, &warm_up), 100), 0);
    cr_assert(house_wait(&house, house_active_is, 0, 5));
    cr_assert(house_wait(&house, warm_is, 16, 5));
    cr_assert(house_wait(&house, allocated_is, 0, 5));
    belfry_statistics before = house_stats(&house);
    unsigned fds = house_proc_entries(server, "fd"), maps = house_proc_lines(server, "maps");
    cr_assert(house_wait(&house, recv_files_are, 16, 5));
    cr_assert(house_wait(&house, house_locks_are, 0, 5));
    unsigned files = house_files(&house, "");
    uint64_t rss = house_proc_status(server, "VmRSS:");

    for (int total = 0; total < 10000; total += 16) {
        int sixteen = 16; /* fifteen goodbyes and a death */
        cr_assert_eq(house_reap(house_process(churn, &house, &sixteen), 60), 0);
    }
    cr_assert(house_wait(&house, house_active_is, 0, 5));
    cr_assert(house_wait(&house, warm_is, 16, 5));
    cr_assert(house_wait(&house, recv_files_are, 16, 5));
    cr_assert(house_wait(&house, house_locks_are, 0, 5));
    cr_assert(house_wait(&house, allocated_is, 0, 5));
    belfry_statistics after = house_stats(&house);
    cr_assert_geq(after.total.connections_total - before.total.connections_total, 10000);
    cr_assert_eq(house_proc_entries(server, "fd"), fds);
    cr_assert_leq(house_proc_lines(server, "maps"), maps + 16);
    cr_assert_eq(house_files(&house, ""), files);
    cr_assert_leq(house_proc_status(server, "VmRSS:"), rss + RSS_SLACK, "resident memory grew");
    cr_assert_eq(after.total.rescued_wakes, 0);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

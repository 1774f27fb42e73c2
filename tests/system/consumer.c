/* SPDX-License-Identifier: MIT */
/*
 * consumer.c: a program as a user would build it, against the installed headers and library. For tests/system/installed:
 * it prints what the defaults of the library do, one "name value" a line.
 */
#include <belfry/belfry.h>

#include <sched.h>
#include <stdio.h>
#include <string.h>

enum { CALLS = 200 };

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    cpu_set_t *cpus = user;
    sched_getaffinity(0, sizeof *cpus, cpus);
    belfry_reply(conn, m, m->data, m->size);
}

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, belfry_last_error());
    return 1;
}

int main(void)
{
    static char big[1 << 20];
    belfry_statistics stats = {.size = sizeof stats};
    belfry_server_options o;
    belfry_server *server;
    belfry_client *c;
    belfry_message m;
    cpu_set_t cpus, ours;

    belfry_server_options_init(&o, sizeof o);
    o.service = "consumer";
    o.on_message = on_message;
    o.user = &cpus;
    if (belfry_server_create(&server, &o) < 0 || belfry_server_start(server) < 0)
        return fail("server");
    if (belfry_stats("consumer", NULL, &stats) < 0)
        return fail("stats");
    printf("shards %u\nmax_slots %u\nwarm_pool %u\nring_bytes %u\nmessage_bytes_max %u\nslots_warm %llu\n",
           stats.shards, stats.max_slots, stats.warm_pool, stats.ring_bytes, stats.message_bytes_max,
           (unsigned long long)stats.total.slots_warm);
    if (belfry_connect(&c, "consumer", NULL) < 0)
        return fail("connect");
    for (int i = 0; i < CALLS; i++) {
        if (belfry_call(c, &i, sizeof i, &m, belfry_in_ms(10000)) < 0)
            return fail("call");
        if (m.size != sizeof i || memcmp(m.data, &i, sizeof i) != 0)
            return fail("the echo differs");
        belfry_release(c, &m);
    }
    printf("too_big %d\n", belfry_call(c, big, stats.message_bytes_max + 1, &m, belfry_in_ms(1000)) == BELFRY_ETOOBIG);
    sched_getaffinity(0, sizeof ours, &ours);
    printf("pinned %d\n", CPU_COUNT(&cpus) == 1 && CPU_COUNT(&ours) > 1);
    belfry_stats("consumer", NULL, &stats);
    printf("polls %d\n", stats.total.polls_won > 0);
    belfry_close(c);
    belfry_server_destroy(server);
    return 0;
}

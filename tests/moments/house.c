/* SPDX-License-Identifier: MIT */
/* house.c: see house.h. */
#include "house.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "expect.h"
#include "server/server.h"
#include "speaker.h"
#include "start.h"
#include "walk.h"

/* --- the server ------------------------------------------------------------------------------------------------------- */

void house_open(struct house *h, uint32_t warm_pool, uint32_t claim_grace_ms)
{
    *h = (struct house){.witness = life_witness_new()};
    moments_open();
    server_fixture_init(&h->server);
    life_serve(&h->server.options, h->witness);
    h->server.options.max_slots = HOUSE_SLOTS;
    h->server.options.warm_pool = warm_pool;
    h->server.options.message_bytes_max = LIFE_BYTES_MAX;
    h->server.options.claim_grace_ms = claim_grace_ms;
    h->server.options.spin = BELFRY_SPIN_POWER;
    start_patiently(&h->server);
}

void house_close(struct house *h)
{
    server_fixture_stop(&h->server);
}

void house_replace(struct house *h)
{
    h->replaced = h->server.server;
    start_patiently(&h->server);
}

void house_drain_replaced(struct house *h)
{
    int rc = belfry_drain(h->replaced, BELFRY_FOREVER);
    if (rc != BELFRY_ESTATE) /* it has ended already: its only client had died */
        expect_rc(rc, 0);
    expect_rc(belfry_server_wait(h->replaced), 0);
    belfry_server_destroy(h->replaced);
    h->replaced = NULL;
}

uint64_t house_life(struct house *h)
{
    expect(h->lives + 1 < LIVES_MAX);
    return ++h->lives;
}

uint32_t house_heard(const struct house *h, uint64_t life)
{
    return __atomic_load_n(&h->witness->heard[life], __ATOMIC_ACQUIRE);
}

/* --- what is left over -------------------------------------------------------------------------------------------------- */

/* Names in a directory, hidden ones too, and how many of them begin with `prefix`. */
static unsigned count_names(const char *path, const char *prefix, unsigned *with_prefix)
{
    DIR *dir = opendir(path);
    unsigned count = 0;
    *with_prefix = 0;
    if (dir == NULL)
        return UINT32_MAX;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        count++;
        *with_prefix += strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    }
    closedir(dir);
    return count;
}

bool house_has_files(const char *root, uint64_t instance, unsigned segments, char why[256])
{
    char path[FIXTURE_PATH_BYTES + 64];
    unsigned ours;
    snprintf(path, sizeof path, "%s/" FIXTURE_SERVICE "/%llu/shard-0", root, (unsigned long long)instance);
    unsigned locks = count_names(path, "slot_", &ours);
    snprintf(path, sizeof path, "%s/" FIXTURE_SERVICE "/%llu/segments", root, (unsigned long long)instance);
    unsigned files = count_names(path, FIXTURE_SERVICE "_", &ours);
    snprintf(why, 256, "%u names among the locks, %u among the segments (%u of them segments), 0 and %u wanted", locks,
             files, ours, segments);
    return locks == 0 && files == segments && ours == segments;
}

/* Maps of the service's files, also of those that were removed. */
static unsigned count_maps(const char *root)
{
    char line[1024];
    unsigned count = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    if (maps == NULL)
        abort();
    while (fgets(line, sizeof line, maps) != NULL)
        count += strstr(line, root) != NULL;
    fclose(maps);
    return count;
}

struct look {
    struct house *house;
    char why[256];
    bool settled;
    bool done;
};

static unsigned count_waits(const struct bf_slot_pool *pool)
{
    unsigned count = 0;
    for (uint32_t i = 0; i < pool->count; i++)
        count += pool->slots[i].wait_armed;
    return count;
}

/* On the shard's thread. */
static void look(void *argument)
{
    struct look *l = argument;
    const struct bf_shard *s = &l->house->server.server->shards[0];
    const struct bf_slot_pool *p = &s->pool;
    unsigned waits = count_waits(p);
    snprintf(l->why, sizeof l->why,
             "%u conns, %u claims, %u warm slots of %u, %u cold of %u, %u waits, %s being made, %llu rescued wakes",
             s->conn_count, p->active, p->warm, p->warm_target, p->cold, p->count - p->warm_target, waits,
             p->maker.slot != NULL ? "one" : "none", (unsigned long long)s->counters->rescued_wakes);
    l->settled = s->conn_count == 0 && p->active == 0 && p->warm == p->warm_target &&
                 p->cold == p->count - p->warm_target && p->maker.slot == NULL && p->ended.first == NULL &&
                 waits == 0 && s->waits_armed == 0 && s->hot_count == 0 && s->counters->outbox_bytes == 0 &&
                 s->counters->connections_active == 0 && s->counters->rescued_wakes == 0;
    __atomic_store_n(&l->done, true, __ATOMIC_RELEASE);
}

static bool is_settled(struct house *h, char why[256])
{
    struct look l = {.house = h};
    expect_rc(belfry_post(h->server.server, 0, look, &l), 0);
    expect(soon(__atomic_load_n(&l.done, __ATOMIC_ACQUIRE)));
    memcpy(why, l.why, sizeof l.why);
    return l.settled && house_has_files(h->server.root, belfry_server_instance(h->server.server),
                                        2 * h->server.server->shards[0].pool.warm_target, why);
}

void house_remember(struct house *h)
{
    char why[256];
    if (!soon(is_settled(h, why)))
        expect_failed("at first: %s", why);
    h->fds = fixture_count_fds();
    h->maps = count_maps(h->server.root);
}

void house_expect_as_before(struct house *h, uint64_t fatal)
{
    char why[256];
    if (!soon(is_settled(h, why)))
        expect_failed("moment %llu: %s", (unsigned long long)fatal, why);
    expect_eq(fixture_count_fds(), h->fds);
    expect_eq(count_maps(h->server.root), h->maps);
    expect(soon(h->witness->opened == h->witness->closed));
    if (life_violation(h->witness) != NULL)
        expect_failed("moment %llu: %s", (unsigned long long)fatal, life_violation(h->witness));
}

void house_expect_service(struct house *h)
{
    uint64_t life = house_life(h), words[100 / 8 + 1];
    belfry_message m;
    belfry_client *c = server_fixture_connect();
    life_write(words, life, 1, LIFE_ECHO, 100);
    expect_rc(belfry_call(c, words, 100, &m, server_fixture_patience()), 0);
    expect(m.size == 100 && memcmp(m.data, words, 100) == 0);
    belfry_release(c, &m);
    belfry_close(c);
    expect(soon(house_heard(h, life) == 1));
}

void house_expect_heard(const struct house *h, uint64_t fatal)
{
    for (unsigned i = 0; i < SPEAKERS_MAX; i++) {
        uint32_t heard = house_heard(h, speaker[i].life);
        if (heard < will->sent[i] || heard > will->tried[i])
            expect_failed("moment %llu: %u messages were sent, one more begun at the most (%u), and %u heard",
                          (unsigned long long)fatal, will->sent[i], will->tried[i], heard);
    }
}

/* SPDX-License-Identifier: MIT */
/* stats.c: read a server's counters from its lobby. The server does not notice. */
#include <belfry/stats.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/order.h"
#include "base/os.h"
#include "shm/lobby.h"
#include "shm/place.h"

#define COUNTERS (sizeof(belfry_counters) / sizeof(uint64_t))

static void add_up(belfry_statistics *out, uint32_t shard, const belfry_counters *shared)
{
    const uint64_t *from = (const uint64_t *)shared;
    uint64_t *to = (uint64_t *)&out->shard[shard];
    uint64_t *total = (uint64_t *)&out->total;
    for (size_t i = 0; i < COUNTERS; i++) {
        to[i] = load_relaxed(&from[i]);
        total[i] += to[i];
    }
    uint64_t longest_ns = out->shard[shard].longest_turn_ns;
    out->total.longest_turn_ns -= longest_ns; /* the one counter that is no sum */
    out->total.longest_turn_ns = bf_max(out->total.longest_turn_ns, longest_ns);
}

static int open_current(const struct bf_place *place, struct bf_lobby *lobby)
{
    char name[32];
    int service_dir = bf_place_enter(place);
    if (service_dir < 0)
        return service_dir;
    uint64_t current = bf_place_current(service_dir);
    snprintf(name, sizeof name, "%" PRIu64, current);
    int dir = current == 0 ? -ENOENT : bf_os_enter_dir(service_dir, name);
    bf_os_close(service_dir);
    if (dir == -ENOENT)
        return bf_error(BELFRY_ENOSERVICE, "nobody serves \"%s\" in %s: start the server", place->service, place->root);
    if (dir < 0)
        return bf_error_errno(dir, "cannot open instance %s of \"%s\"", name, place->service);
    int rc = bf_lobby_attach(lobby, dir);
    bf_os_close(dir);
    return rc;
}

int belfry_stats(const char *service, const char *root, belfry_statistics *out)
{
    struct bf_place place;
    struct bf_lobby lobby;
    if (out->size != sizeof *out)
        return bf_error(BELFRY_EOPTION, "statistics.size is not sizeof(belfry_statistics)");
    int rc = bf_place_init(&place, service, root);
    if (rc == 0)
        rc = open_current(&place, &lobby);
    if (rc < 0)
        return rc;
    const struct bf_geometry *g = &lobby.geometry;
    *out = (belfry_statistics){
        .size = sizeof *out,
        .instance = g->instance,
        .pid = g->pid,
        .shards = g->shards,
        .max_slots = g->max_slots,
        .warm_pool = g->warm_pool,
        .ring_bytes = g->ring_bytes,
        .message_bytes_max = g->message_bytes_max,
        .started_ns = g->started_ns,
        .alive = bf_lobby_is_alive(&lobby),
    };
    for (uint32_t shard = 0; shard < g->shards; shard++)
        add_up(out, shard, lobby_counters(&lobby, shard));
    bf_lobby_detach(&lobby);
    return 0;
}

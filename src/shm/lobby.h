/* SPDX-License-Identifier: MIT */
/*
 * lobby.h: the read-only file in which a server tells everybody its geometry, its slots' states and its counters.
 *
 * The lobby is a directory of sections, so that later versions can add some. The server maps it writable, each shard
 * writes its own lines only; clients map it read-only and believe nothing before bf_lobby_attach() has checked it.
 */
#ifndef BF_SHM_LOBBY_H
#define BF_SHM_LOBBY_H

#include <belfry/abi.h>

/* What a server decides before it makes the lobby, and what a client reads from it: a checked private copy. */
struct bf_geometry {
    char service[64];
    uint64_t instance;
    uint64_t started_ns;
    uint32_t pid;
    uint32_t uid;
    uint32_t shards;
    uint32_t max_slots;       /* a multiple of shards */
    uint32_t slots_per_shard; /* max_slots / shards */
    uint32_t warm_pool;
    uint32_t ring_bytes;
    uint32_t message_bytes_max;
};

struct bf_lobby {
    struct belfry_abi_lobby *map; /* NULL = not attached */
    uint64_t bytes;
    int fd; /* the server: holds the lock that says "alive"; a client: asks for it */
    struct bf_geometry geometry;
    uint8_t *shards;
    uint8_t *slots;
    uint8_t *counters;
    uint64_t shards_stride;
    uint64_t slots_stride; /* between the parts of two shards */
    uint64_t counters_stride;
};

#define BF_LOBBY_NULL ((struct bf_lobby){.fd = -1})

/* Server: make the file in `instance_dir`, lock it, map it. Clients find no magic until bf_lobby_publish(). */
int bf_lobby_create(struct bf_lobby *lobby, int instance_dir, const struct bf_geometry *geometry);
void bf_lobby_publish(struct bf_lobby *lobby);
int bf_lobby_share(struct bf_lobby *lobby); /* all users may read it */

/* Client: map and check it. BELFRY_EVERSION, BELFRY_EPROTO, BELFRY_ENOSERVICE when it is not there. */
int bf_lobby_attach(struct bf_lobby *lobby, int instance_dir);

/* Does somebody hold its lock? */
bool bf_lobby_is_alive(const struct bf_lobby *lobby);

void bf_lobby_detach(struct bf_lobby *lobby); /* both sides; also a half-made one */

static inline struct belfry_abi_shard *lobby_shard(const struct bf_lobby *lobby, uint32_t shard)
{
    return (struct belfry_abi_shard *)(lobby->shards + shard * lobby->shards_stride);
}

static inline struct belfry_abi_slot *lobby_slot(const struct bf_lobby *lobby, uint32_t slot)
{
    uint32_t shard = slot % lobby->geometry.shards;
    struct belfry_abi_slot *part = (struct belfry_abi_slot *)(lobby->slots + shard * lobby->slots_stride);
    return &part[slot / lobby->geometry.shards];
}

static inline belfry_counters *lobby_counters(const struct bf_lobby *lobby, uint32_t shard)
{
    return (belfry_counters *)(lobby->counters + shard * lobby->counters_stride);
}

#endif

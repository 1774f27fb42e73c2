/* SPDX-License-Identifier: MIT */
/* lobby.c: lay the sections out, and check them on the other side. */
#include "shm/lobby.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/order.h"
#include "base/os.h"
#include "shm/parts.h"
#include "shm/place.h"
#include "shm/segment.h"

#define LOBBY_MODE 0400u
#define SHARED_MODE 0444u
#define LOBBY_BYTES_MAX (1ull << 30)

static uint64_t round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

/* --- server ------------------------------------------------------------------------------------------------------ */

static uint64_t add_section(struct belfry_abi_lobby *map, uint32_t kind, uint64_t offset, uint64_t stride)
{
    struct belfry_abi_section *section = &map->section[map->section_count++];
    *section =
        (struct belfry_abi_section){.kind = kind, .offset = offset, .size = stride * map->shards, .stride = stride};
    return round_up(offset + section->size, BELFRY_ABI_PAGE);
}

/* Everything in the first page but the magic. */
static struct belfry_abi_lobby lay_out(const struct bf_geometry *g)
{
    struct belfry_abi_lobby map = {
        .layout_hash = BELFRY_ABI_LAYOUT,
        .version = BELFRY_ABI_VERSION,
        .pid = g->pid,
        .instance = g->instance,
        .started_ns = g->started_ns,
        .shards = g->shards,
        .max_slots = g->max_slots,
        .slots_per_shard = g->slots_per_shard,
        .warm_pool = g->warm_pool,
        .ring_bytes = g->ring_bytes,
        .message_bytes_max = g->message_bytes_max,
        .header_bytes = SEGMENT_HEADER_BYTES,
        .uid = g->uid,
    };
    memcpy(map.service, g->service, sizeof map.service);
    uint64_t slots = round_up((uint64_t)g->slots_per_shard * sizeof(struct belfry_abi_slot), BELFRY_ABI_LINE);
    map.slots_stride = (uint32_t)slots;
    uint64_t offset = BELFRY_ABI_PAGE;
    offset = add_section(&map, BELFRY_SECTION_SHARDS, offset, sizeof(struct belfry_abi_shard));
    offset = add_section(&map, BELFRY_SECTION_SLOTS, offset, slots);
    offset = add_section(&map, BELFRY_SECTION_COUNTERS, offset, round_up(sizeof(belfry_counters), BELFRY_ABI_LINE));
    map.lobby_bytes = offset;
    return map;
}

static void find_sections(struct bf_lobby *lobby, const struct belfry_abi_lobby *map)
{
    for (uint32_t i = 0; i < map->section_count; i++) {
        const struct belfry_abi_section *section = &map->section[i];
        uint8_t *at = (uint8_t *)lobby->map + section->offset;
        if (section->kind == BELFRY_SECTION_SHARDS)
            lobby->shards = at, lobby->shards_stride = section->stride;
        else if (section->kind == BELFRY_SECTION_SLOTS)
            lobby->slots = at, lobby->slots_stride = section->stride;
        else if (section->kind == BELFRY_SECTION_COUNTERS)
            lobby->counters = at, lobby->counters_stride = section->stride;
    }
}

int bf_lobby_create(struct bf_lobby *lobby, int instance_dir, const struct bf_geometry *geometry)
{
    *lobby = BF_LOBBY_NULL;
    struct belfry_abi_lobby first = lay_out(geometry);

    lobby->fd = bf_os_open(instance_dir, PLACE_LOBBY, BF_OS_READ_WRITE | BF_OS_CREATE_NEW, LOBBY_MODE);
    if (lobby->fd < 0)
        return bf_error_errno(lobby->fd, "cannot make the lobby of \"%s\"", geometry->service);
    int rc = bf_os_lock(lobby->fd);
    if (rc == 0)
        rc = bf_os_allocate(lobby->fd, 0, first.lobby_bytes);
    void *map = NULL;
    if (rc == 0)
        rc = bf_os_map(lobby->fd, first.lobby_bytes, true, NULL, &map);
    if (rc < 0) {
        if (rc == -ENOSPC)
            rc = bf_error(BELFRY_ENOSPACE,
                          "no room for the lobby of \"%s\": it takes %" PRIu64
                          " bytes; make the file system larger or lower max_slots",
                          geometry->service, first.lobby_bytes);
        else
            rc = bf_error_errno(rc, "cannot make the lobby of \"%s\"", geometry->service);
        bf_lobby_detach(lobby);
        return rc;
    }
    lobby->map = map;
    lobby->bytes = first.lobby_bytes;
    lobby->geometry = *geometry;
    memcpy(lobby->map, &first, sizeof first);
    find_sections(lobby, &first);
    return 0;
}

int bf_lobby_share(struct bf_lobby *lobby)
{
    int rc = bf_os_mode(lobby->fd, SHARED_MODE); /* after the lock, so that nobody can have a read lock before it */
    return rc < 0 ? bf_error_errno(rc, "cannot show the lobby to other users") : 0;
}

void bf_lobby_publish(struct bf_lobby *lobby)
{
    store_release(&lobby->map->magic, BELFRY_LOBBY_MAGIC); /* partner: lobby_check */
}

/* --- client ------------------------------------------------------------------------------------------------------ */

/* Each section once, inside the file, with elements large enough. */
static int check_sections(const struct belfry_abi_lobby *map, uint64_t bytes, const struct bf_geometry *g)
{
    const uint64_t element[] = {
        [BELFRY_SECTION_SHARDS] = sizeof(struct belfry_abi_shard),
        [BELFRY_SECTION_SLOTS] = (uint64_t)g->slots_per_shard * sizeof(struct belfry_abi_slot),
        [BELFRY_SECTION_COUNTERS] = sizeof(belfry_counters),
    };
    uint32_t seen = 0;
    PEER_CHECK(map->section_count <= sizeof map->section / sizeof map->section[0]);
    for (uint32_t i = 0; i < map->section_count; i++) {
        const struct belfry_abi_section *section = &map->section[i];
        if (section->kind < BELFRY_SECTION_SHARDS || section->kind > BELFRY_SECTION_COUNTERS) {
            if ((section->flags & BELFRY_SECTION_OPTIONAL) != 0)
                continue;
            return BELFRY_EUNSUPPORTED;
        }
        PEER_CHECK((seen & 1u << section->kind) == 0);
        PEER_CHECK(section->offset % 8 == 0 && section->stride % 8 == 0 && section->stride >= element[section->kind]);
        PEER_CHECK(section->offset <= bytes && section->stride <= (bytes - section->offset) / g->shards);
        seen |= 1u << section->kind;
    }
    PEER_CHECK(seen == (1u << BELFRY_SECTION_SHARDS | 1u << BELFRY_SECTION_SLOTS | 1u << BELFRY_SECTION_COUNTERS));
    return 0;
}

/* Copy the first page to *map, then believe only the copy. */
static int lobby_check(const struct belfry_abi_lobby *shared, uint64_t bytes, struct belfry_abi_lobby *map,
                       struct bf_geometry *g)
{
    uint64_t magic = load_acquire(&shared->magic); /* partner: bf_lobby_publish */
    memcpy(map, shared, sizeof *map);
    if (magic != BELFRY_LOBBY_MAGIC)
        return bf_error(BELFRY_EPROTO,
                        "the lobby has no magic number: the server is still starting, or it is no lobby");
    if (map->version != BELFRY_ABI_VERSION || map->layout_hash != BELFRY_ABI_LAYOUT)
        return bf_error(BELFRY_EVERSION,
                        "the server speaks format version %u and this program version %u: upgrade the "
                        "older one",
                        map->version, BELFRY_ABI_VERSION);
    *g = (struct bf_geometry){
        .instance = map->instance,
        .started_ns = map->started_ns,
        .pid = map->pid,
        .uid = map->uid,
        .shards = map->shards,
        .max_slots = map->max_slots,
        .slots_per_shard = map->slots_per_shard,
        .warm_pool = map->warm_pool,
        .ring_bytes = map->ring_bytes,
        .message_bytes_max = map->message_bytes_max,
    };
    memcpy(g->service, map->service, sizeof g->service);
    g->service[sizeof g->service - 1] = '\0';

    bool sound = map->lobby_bytes <= bytes && g->shards >= 1 && g->shards <= BELFRY_SHARDS_MAX &&
                 g->slots_per_shard >= 1 && (uint64_t)g->slots_per_shard * g->shards == g->max_slots &&
                 g->ring_bytes >= RING_BYTES_MIN && g->ring_bytes <= RING_BYTES_MAX &&
                 (g->ring_bytes & (g->ring_bytes - 1)) == 0 && map->header_bytes == SEGMENT_HEADER_BYTES &&
                 g->message_bytes_max <= PARTS_BYTES_MAX && bf_place_is_name(g->service);
    int rc = sound ? check_sections(map, bytes, g) : BELFRY_EPROTO;
    if (rc < 0)
        return bf_error(rc, "the lobby of \"%s\" does not make sense: %s", g->service, belfry_error_text(rc));
    return 0;
}

int bf_lobby_attach(struct bf_lobby *lobby, int instance_dir)
{
    *lobby = BF_LOBBY_NULL;
    struct belfry_abi_lobby first;
    struct bf_os_file file;
    void *map = NULL;

    lobby->fd = bf_os_open(instance_dir, PLACE_LOBBY, BF_OS_READ, 0);
    if (lobby->fd == -ENOENT)
        return bf_error(BELFRY_ENOSERVICE, "the instance has no lobby: the server is gone or still starting");
    if (lobby->fd < 0)
        return bf_error_errno(lobby->fd, "cannot open the lobby");
    int rc = bf_os_stat(lobby->fd, &file);
    if (rc == 0 && (!file.regular || file.bytes < sizeof *lobby->map || file.bytes > LOBBY_BYTES_MAX))
        rc = bf_error(BELFRY_EPROTO, "the lobby is not a regular file of a sensible size");
    else if (rc == 0)
        rc = bf_os_map(lobby->fd, file.bytes, false, NULL, &map);
    if (rc == 0) {
        lobby->map = map;
        lobby->bytes = file.bytes;
        rc = lobby_check(lobby->map, lobby->bytes, &first, &lobby->geometry);
    }
    if (rc < 0) {
        bf_lobby_detach(lobby);
        return rc;
    }
    find_sections(lobby, &first);
    return 0;
}

/* --- both -------------------------------------------------------------------------------------------------------- */

bool bf_lobby_is_alive(const struct bf_lobby *lobby)
{
    return bf_os_locked(lobby->fd) == 1;
}

void bf_lobby_detach(struct bf_lobby *lobby)
{
    if (lobby->map != NULL)
        bf_os_unmap(lobby->map, lobby->bytes);
    bf_os_close(lobby->fd);
    *lobby = BF_LOBBY_NULL;
}

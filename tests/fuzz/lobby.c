/* SPDX-License-Identifier: MIT */
/*
 * lobby.c: a client is shown a lobby of which any byte may be anything, also while it looks; and the list in which a process
 * shares the lobbies that it has mapped.
 *
 * A lobby is made as a server makes it, then bytes of it are changed. If the client takes it, all that it will ever
 * ask for must lie inside the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/client.h"
#include "loads.h"
#include "root.h"
#include "shm/place.h"

#define HANDLES 4
#define STEPS_MAX 64

static const struct feed nothing;

static struct handle {
    struct client_lobby *lobby;
    uint64_t inode;
    bool atfork;
} handles[HANDLES];

/* --- the client's map: a private one, so that it can be written to under its eyes --------------------------------------- */

int __real_bf_os_map(int fd, size_t bytes, bool writable, void *at, void **out);
int __wrap_bf_os_map(int fd, size_t bytes, bool writable, void *at, void **out);

int __wrap_bf_os_map(int fd, size_t bytes, bool writable, void *at, void **out)
{
    if (writable)
        return __real_bf_os_map(fd, bytes, writable, at, out);
    *out = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    demand(*out != MAP_FAILED);
    loads_open(*out, bytes);
    return 0;
}

/* --- the server -------------------------------------------------------------------------------------------------------- */

static void change(struct feed *f, uint8_t *map, size_t bytes)
{
    uint8_t new_bytes[16];
    size_t at = feed_16(f), count = feed_8(f) % sizeof new_bytes + 1;
    feed_copy(f, new_bytes, count);
    at = at < 32768 ? at % sizeof(struct belfry_abi_lobby) : at % bytes;
    if (at + count <= bytes)
        memcpy(map + at, new_bytes, count);
}

/* Another file in place of the one that is there. */
static void replace(struct feed *f)
{
    uint32_t shards = feed_8(f) % 4 + 1, per_shard = feed_8(f) % 16 + 1;
    struct bf_geometry g = {.service = "fuzz",
                            .instance = 7,
                            .uid = bf_os_uid(),
                            .shards = shards,
                            .max_slots = shards * per_shard,
                            .slots_per_shard = per_shard,
                            .ring_bytes = 4096u << feed_8(f) % 4,
                            .message_bytes_max = 1008};
    struct bf_lobby lobby;
    bf_os_unlink(dir, PLACE_LOBBY);
    demand(bf_lobby_create(&lobby, dir, &g) == 0);
    bf_lobby_publish(&lobby);
    for (unsigned changes = feed_8(f) % 8; changes > 0; changes--)
        change(f, (uint8_t *)lobby.map, lobby.bytes);
    uint8_t cut = feed_8(f);
    if (cut >= 192)
        demand(bf_os_size(lobby.fd, feed_16(f)) == 0);
    bf_lobby_detach(&lobby);
}

/* --- the client -------------------------------------------------------------------------------------------------------- */

static void demand_inside(const struct bf_lobby *lobby, const void *at, size_t bytes)
{
    size_t offset = (size_t)((const uint8_t *)at - (const uint8_t *)lobby->map);
    demand(offset <= lobby->bytes && bytes <= lobby->bytes - offset && offset % 8 == 0);
    (void)*(const volatile uint8_t *)at;
    (void)*((const volatile uint8_t *)at + bytes - 1);
}

static void judge(const struct bf_lobby *lobby)
{
    const struct bf_geometry *g = &lobby->geometry;
    demand(g->shards >= 1 && g->shards <= BELFRY_SHARDS_MAX && g->slots_per_shard >= 1);
    demand((uint64_t)g->shards * g->slots_per_shard == g->max_slots && bf_place_is_name(g->service));
    demand(g->ring_bytes >= RING_BYTES_MIN && (g->ring_bytes & (g->ring_bytes - 1)) == 0);
    demand(g->message_bytes_max <= PARTS_BYTES_MAX);
    for (uint32_t i = 0; i < g->shards; i++) {
        demand_inside(lobby, lobby_shard(lobby, i), sizeof(struct belfry_abi_shard));
        demand_inside(lobby, lobby_counters(lobby, i), sizeof(belfry_counters));
        demand_inside(lobby, lobby_slot(lobby, i), sizeof(struct belfry_abi_slot));
        demand_inside(lobby, lobby_slot(lobby, g->max_slots - 1 - i), sizeof(struct belfry_abi_slot));
    }
}

/* Whose lobby is already mapped gets that one, and nobody else. */
static void attach(struct handle *h, bool atfork, const struct feed *spoils)
{
    struct bf_os_file file;
    bool there = bf_os_stat_at(dir, PLACE_LOBBY, &file) == 0;
    struct client_lobby *known = NULL;
    uint32_t references = 0;
    for (int i = 0; i < HANDLES && there; i++)
        if (handles[i].lobby != NULL && handles[i].inode == file.inode && handles[i].atfork == atfork)
            known = handles[i].lobby, references++;
    loads_begin(spoils);
    int rc = bf_client_lobby_attach(&h->lobby, dir, atfork);
    loads_begin(&nothing);
    if (rc < 0) {
        demand(known == NULL && (rc == BELFRY_EPROTO || rc == BELFRY_EVERSION || rc == BELFRY_EUNSUPPORTED ||
                                 (rc == BELFRY_ENOSERVICE && !there)));
        h->lobby = NULL;
        return;
    }
    h->inode = file.inode;
    h->atfork = atfork;
    demand(known == NULL || known == h->lobby);
    demand(h->lobby->references == references + 1);
    judge(&h->lobby->lobby);
}

static void detach(struct handle *h)
{
    if (h->lobby != NULL)
        bf_client_lobby_detach(h->lobby);
    h->lobby = NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct feed spoils, f = feed_split(data, bytes, &spoils);
    make_root();
    int fds = fixture_count_fds();
    replace(&f);
    attach(&handles[0], true, &spoils);
    for (int i = 0; i < STEPS_MAX && !feed_is_empty(&f); i++) {
        uint8_t step = feed_8(&f);
        struct handle *h = &handles[step >> 2 & 3];
        if ((step & 3) == 0)
            replace(&f);
        else if ((step & 3) == 1)
            bf_os_unlink(dir, PLACE_LOBBY);
        else if (h->lobby == NULL)
            attach(h, step >> 4 & 1, &spoils);
        else
            detach(h);
    }
    for (int i = 0; i < HANDLES; i++)
        detach(&handles[i]);
    demand(fixture_count_fds() == fds);
    return 0;
}

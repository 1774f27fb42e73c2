/* SPDX-License-Identifier: MIT */
/* Tests of shm/lobby.c: made by one side, checked by the other, and each way in which a lobby can be wrong. */
#include "shm/lobby.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/os.h"
#include "expect.h"
#include "fixture.h"
#include "shm/place.h"
#include "shm/ring.h"

static char root[FIXTURE_PATH_BYTES];
static int dir;
static struct bf_lobby server, client;

static struct bf_geometry geometry(void)
{
    return (struct bf_geometry){.service = "unit",
                                .instance = 7,
                                .started_ns = 123,
                                .pid = 42,
                                .uid = 43,
                                .shards = 3,
                                .max_slots = 33,
                                .slots_per_shard = 11,
                                .warm_pool = 5,
                                .ring_bytes = 65536,
                                .message_bytes_max = 1000};
}

static void open_lobby(void)
{
    struct bf_geometry g = geometry();
    fixture_root_make(root);
    dir = bf_os_open_dir(BF_OS_CWD, root);
    client = BF_LOBBY_NULL;
    expect_rc(bf_lobby_create(&server, dir, &g), 0);
    bf_lobby_publish(&server);
}

static void close_lobby(void)
{
    bf_lobby_detach(&client);
    bf_lobby_detach(&server);
    bf_os_close(dir);
    fixture_remove_tree(root);
}

TestSuite(lobby, .init = open_lobby, .fini = close_lobby, .timeout = 30);

static void expect_attach(int wanted)
{
    int fds = fixture_count_fds();
    expect_rc(bf_lobby_attach(&client, dir), wanted);
    if (wanted == 0) {
        bf_lobby_detach(&client);
        expect(client.map == NULL && client.fd == -1);
    } else {
        expect(client.map == NULL);
    }
    expect_eq(fixture_count_fds(), fds);
}

Test(lobby, tells_clients_its_geometry)
{
    struct bf_geometry g = geometry();
    expect_rc(bf_lobby_attach(&client, dir), 0);
    expect_text(client.geometry.service, g.service);
    expect_eq(client.geometry.instance, g.instance);
    expect_eq(client.geometry.started_ns, g.started_ns);
    expect_eq(client.geometry.pid, g.pid);
    expect_eq(client.geometry.uid, g.uid);
    expect_eq(client.geometry.shards, g.shards);
    expect_eq(client.geometry.max_slots, g.max_slots);
    expect_eq(client.geometry.slots_per_shard, g.slots_per_shard);
    expect_eq(client.geometry.warm_pool, g.warm_pool);
    expect_eq(client.geometry.ring_bytes, g.ring_bytes);
    expect_eq(client.geometry.message_bytes_max, g.message_bytes_max);
}

Test(lobby, shows_each_side_the_same_words_and_no_word_twice)
{
    expect_rc(bf_lobby_attach(&client, dir), 0);
    for (uint32_t slot = 0; slot < 33; slot++) {
        lobby_slot(&server, slot)->state = slot + 1;
        lobby_slot(&server, slot)->uid = 1000 + slot;
    }
    for (uint32_t shard = 0; shard < 3; shard++) {
        lobby_shard(&server, shard)->door = 50 + shard;
        lobby_shard(&server, shard)->obituary = 60 + shard;
        lobby_counters(&server, shard)->messages_in = 70 + shard;
        lobby_counters(&server, shard)->turns = 80 + shard;
    }
    for (uint32_t slot = 0; slot < 33; slot++) {
        expect_eq(lobby_slot(&client, slot)->state, slot + 1);
        expect_eq(lobby_slot(&client, slot)->uid, 1000 + slot);
    }
    for (uint32_t shard = 0; shard < 3; shard++) {
        expect_eq(lobby_shard(&client, shard)->door, 50 + shard);
        expect_eq(lobby_shard(&client, shard)->obituary, 60 + shard);
        expect_eq(lobby_counters(&client, shard)->messages_in, 70 + shard);
        expect_eq(lobby_counters(&client, shard)->turns, 80 + shard);
    }
}

Test(lobby, gives_each_shard_cache_lines_of_its_own)
{
    for (uint32_t a = 0; a < 33; a++)
        for (uint32_t b = 0; b < a; b++)
            if (a % 3 != b % 3)
                expect((uintptr_t)lobby_slot(&server, a) / 64 != (uintptr_t)lobby_slot(&server, b) / 64);
    for (uint32_t shard = 1; shard < 3; shard++) {
        uintptr_t end = (uintptr_t)(lobby_counters(&server, shard - 1) + 1) - 1;
        expect((uintptr_t)lobby_counters(&server, shard) / 64 != end / 64);
        expect((uintptr_t)lobby_shard(&server, shard) % 64 == 0);
    }
}

Test(lobby, can_be_read_but_not_written_by_others)
{
    struct stat st;
    expect_eq(fstatat(dir, PLACE_LOBBY, &st, 0), 0);
    expect_eq(st.st_mode, S_IFREG | 0400);
    expect_eq((uint64_t)st.st_size, server.bytes);
    expect_eq((uint64_t)st.st_blocks * 512, server.bytes); /* a full file system cannot kill the server later */
}

Test(lobby, says_whether_its_server_lives)
{
    expect_rc(bf_lobby_attach(&client, dir), 0);
    expect(bf_lobby_is_alive(&client));
    bf_lobby_detach(&server);
    expect(!bf_lobby_is_alive(&client));
}

Test(lobby, is_made_once)
{
    struct bf_lobby second;
    struct bf_geometry g = geometry();
    expect_eq(bf_lobby_create(&second, dir, &g), -EEXIST);
    expect(second.map == NULL);
    expect_attach(0);
}

Test(lobby, is_not_believed_before_it_is_published)
{
    server.map->magic = 0;
    expect_attach(BELFRY_EPROTO);
    bf_lobby_publish(&server);
    expect_attach(0);
}

Test(lobby, is_missed_when_it_is_not_there)
{
    unlinkat(dir, PLACE_LOBBY, 0);
    expect_attach(BELFRY_ENOSERVICE);
}

Test(lobby, is_refused_when_it_speaks_another_version)
{
    server.map->version++;
    expect_attach(BELFRY_EVERSION);
    server.map->version--;
    server.map->layout_hash++;
    expect_attach(BELFRY_EVERSION);
}

#define expect_wrong(field, value)          \
    do {                                    \
        __typeof__(field) right_ = (field); \
        (field) = (value);                  \
        expect_attach(BELFRY_EPROTO);       \
        (field) = right_;                   \
        expect_attach(0);                   \
    } while (0)

Test(lobby, is_refused_when_its_numbers_make_no_sense)
{
    struct belfry_abi_lobby *map = server.map;
    expect_wrong(map->magic, 0);
    expect_wrong(map->magic, BELFRY_SEGMENT_MAGIC);
    expect_wrong(map->lobby_bytes, server.bytes + 1);
    expect_wrong(map->shards, 0);
    expect_wrong(map->shards, 65);
    expect_wrong(map->shards, UINT32_MAX);
    expect_wrong(map->max_slots, 34);
    expect_wrong(map->max_slots, 0);
    expect_wrong(map->slots_per_shard, 0);
    expect_wrong(map->slots_per_shard, 1431655776); /* 3 * this = 33 in 32 bits */
    expect_wrong(map->ring_bytes, 0);
    expect_wrong(map->ring_bytes, 2048);
    expect_wrong(map->ring_bytes, 65535);
    expect_wrong(map->ring_bytes, 1u << 31);
    expect_wrong(map->header_bytes, 0);
    expect_wrong(map->message_bytes_max, (1u << 30) + 1);
    expect_wrong(map->section_count, 9);
    expect_wrong(map->section_count, UINT32_MAX);
    expect_wrong(map->section_count, 2); /* one is missing */
    expect_wrong(map->section_count, 0);
    map->shards = map->max_slots = 0; /* that agrees, but nobody could be served */
    expect_attach(BELFRY_EPROTO);
}

#define expect_right(field, value)          \
    do {                                    \
        __typeof__(field) right_ = (field); \
        (field) = (value);                  \
        expect_attach(0);                   \
        (field) = right_;                   \
    } while (0)

Test(lobby, may_have_the_smallest_and_the_largest_numbers_that_there_are)
{
    struct belfry_abi_lobby *map = server.map;
    expect_right(map->ring_bytes, RING_BYTES_MIN);
    expect_right(map->ring_bytes, RING_BYTES_MAX);
    expect_right(map->message_bytes_max, 0);
    expect_right(map->message_bytes_max, 1u << 30);
    expect_right(map->lobby_bytes, server.bytes);
    map->slots_per_shard = 1;
    map->max_slots = 3;
    expect_attach(0);
    map->shards = 1;
    map->max_slots = 1;
    expect_attach(0);
}

Test(lobby, is_refused_when_a_section_lies_outside_of_it)
{
    struct belfry_abi_lobby *map = server.map;
    for (int i = 0; i < 3; i++) {
        struct belfry_abi_section *section = &map->section[i];
        expect_wrong(section->offset, server.bytes + 8);
        expect_wrong(section->offset, server.bytes);
        expect_wrong(section->offset, (server.bytes - section->stride) / 8 * 8); /* room for one shard, not for three */
        expect_wrong(section->offset, UINT64_MAX - 7);
        expect_wrong(section->offset, section->offset + 4);
        expect_wrong(section->stride, 0);
        expect_wrong(section->stride, 8);
        expect_wrong(section->stride, server.bytes);
        expect_wrong(section->stride, UINT64_MAX - 7);
        expect_wrong(section->stride, 1ull << 62);         /* times four is nothing, in 64 bits */
        expect_wrong(section->stride, 0x5555555555555558); /* times three is 8 */
        expect_wrong(section->stride, section->stride + 4);
    }
    expect_wrong(map->section[1].kind, BELFRY_SECTION_SHARDS); /* one is missing */
    map->section[3] = map->section[0];                         /* one is there twice */
    expect_wrong(map->section_count, 4);
}

Test(lobby, may_have_sections_that_a_client_does_not_know_if_it_says_so)
{
    server.map->section[3] = (struct belfry_abi_section){.kind = 77, .flags = BELFRY_SECTION_OPTIONAL, .offset = 1};
    server.map->section_count = 4;
    expect_attach(0);
    server.map->section[3].flags = 0;
    expect_attach(BELFRY_EUNSUPPORTED);
    server.map->section[3].kind = 0;
    expect_attach(BELFRY_EUNSUPPORTED);
}

static void replace_lobby(uint64_t bytes)
{
    unlinkat(dir, PLACE_LOBBY, 0);
    int fd = bf_os_open(dir, PLACE_LOBBY, BF_OS_READ_WRITE | BF_OS_CREATE_NEW, 0600);
    expect_eq(bf_os_size(fd, bytes), 0);
    bf_os_close(fd);
}

Test(lobby, is_refused_when_the_file_has_a_silly_size)
{
    static const uint64_t sizes[] = {0, 1, sizeof(struct belfry_abi_lobby) - 1, sizeof(struct belfry_abi_lobby),
                                     1ull << 40};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        replace_lobby(sizes[i]);
        expect_attach(BELFRY_EPROTO);
    }
}

Test(lobby, is_refused_when_it_was_cut_short)
{
    expect_eq(bf_os_size(server.fd, 4096), 0);
    expect_attach(BELFRY_EPROTO);
}

Test(lobby, is_refused_when_it_is_no_file)
{
    unlinkat(dir, PLACE_LOBBY, 0);
    expect_eq(mkdirat(dir, PLACE_LOBBY, 0700), 0);
    expect_attach(BELFRY_EPROTO);
    unlinkat(dir, PLACE_LOBBY, AT_REMOVEDIR);
    expect_eq(symlinkat("elsewhere", dir, PLACE_LOBBY), 0);
    expect_attach(-ELOOP);
    unlinkat(dir, PLACE_LOBBY, 0);
    expect_eq(mkfifoat(dir, PLACE_LOBBY, 0600), 0);
    expect_attach(BELFRY_EPROTO);
}

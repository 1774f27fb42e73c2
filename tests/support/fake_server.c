/* SPDX-License-Identifier: MIT */
/* fake_server.c: see fake_server.h. */
#include "fake_server.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/os.h"
#include "expect.h"
#include "shm/doorbell.h"

#define RING_BYTES 4096u
#define FIRST_INSTANCE 7

void fake_path(const struct fake_server *f, char path[2 * FIXTURE_PATH_BYTES], const char *rest)
{
    snprintf(path, 2 * FIXTURE_PATH_BYTES, "%s/%s", f->instance, rest);
}

static void make_dir(const struct fake_server *f, const char *rest)
{
    char path[2 * FIXTURE_PATH_BYTES];
    fake_path(f, path, rest);
    expect_eq(mkdir(path, 0700), 0);
}

static void *map_file(const struct fake_server *f, uint32_t slot, enum segment_side side)
{
    char path[2 * FIXTURE_PATH_BYTES], name[SEGMENT_NAME_BYTES];
    void *map;
    bf_segment_name(name, "segments/", FAKE_SERVICE, slot, side);
    fake_path(f, path, name);
    unlink(path);
    int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    expect(fd >= 0);
    expect_eq(ftruncate(fd, (off_t)segment_bytes(RING_BYTES)), 0);
    expect_eq(bf_os_map(fd, segment_bytes(RING_BYTES), true, NULL, &map), 0);
    close(fd);
    return map;
}

void fake_make(struct fake_server *f, uint32_t number, uint32_t generation, bool publish)
{
    struct fake_slot *slot = &f->slots[number];
    struct segment_identity identity = {.instance = f->number,
                                        .slot = number,
                                        .generation = generation,
                                        .ring_bytes = RING_BYTES};
    slot->send = map_file(f, number, SEGMENT_SEND);
    slot->recv = map_file(f, number, SEGMENT_RECV);
    bf_segment_header_init(&slot->send->segment, &identity, SEGMENT_SEND);
    bf_segment_header_init(&slot->recv->segment, &identity, SEGMENT_RECV);
    slot->recv->bell = 1;
    slot->lobby = lobby_slot(&f->lobby, number);
    slot->lobby->parked = BELFRY_PARKED_DATA;
    ring_consumer_init(&slot->in, (uint8_t *)slot->send + SEGMENT_HEADER_BYTES, RING_BYTES,
                       segment_colour(number, SEGMENT_SEND), &slot->recv->consumed);
    ring_producer_init(&slot->out, (uint8_t *)slot->recv + SEGMENT_HEADER_BYTES, RING_BYTES,
                       segment_colour(number, SEGMENT_RECV), &slot->send->consumed);
    if (publish)
        store_release(&lobby_slot(&f->lobby, number)->state, BELFRY_SLOT_STATE(generation, BELFRY_SLOT_WARM));
}

/* The instance's directory with everything in it; then it is current. */
static void make_instance(struct fake_server *f, uint32_t warm, uint32_t message_bytes_max)
{
    char path[2 * FIXTURE_PATH_BYTES], fresh[2 * FIXTURE_PATH_BYTES], number[32];
    struct bf_geometry g = {.service = FAKE_SERVICE,
                            .instance = f->number,
                            .started_ns = 1,
                            .pid = (uint32_t)getpid(),
                            .uid = bf_os_uid(),
                            .shards = 1,
                            .max_slots = FAKE_SLOTS,
                            .slots_per_shard = FAKE_SLOTS,
                            .warm_pool = warm,
                            .ring_bytes = RING_BYTES,
                            .message_bytes_max = message_bytes_max};
    snprintf(f->instance, sizeof f->instance, "%s/" FAKE_SERVICE "/%u", f->root, f->number);
    expect_eq(mkdir(f->instance, 0700), 0);
    make_dir(f, "shard-0");
    make_dir(f, "segments");

    int dir = bf_os_open_dir(BF_OS_CWD, f->instance);
    expect_rc(bf_lobby_create(&f->lobby, dir, &g), 0);
    bf_os_close(dir);
    lobby_shard(&f->lobby, 0)->obituary = 0x80000001; /* somebody holds it */
    lobby_shard(&f->lobby, 0)->door = BELFRY_DOOR_OPEN;
    for (uint32_t slot = 0; slot < warm; slot++)
        fake_make(f, slot, 0, true);
    bf_lobby_publish(&f->lobby);
    snprintf(number, sizeof number, "%u", f->number);
    fake_path(f, fresh, "../fresh");
    fake_path(f, path, "../current");
    expect_eq(symlink(number, fresh), 0);
    expect_eq(rename(fresh, path), 0);
}

void fake_open_for(struct fake_server *f, uint32_t warm, uint32_t message_bytes_max)
{
    *f = (struct fake_server){.lobby = BF_LOBBY_NULL, .number = FIRST_INSTANCE};
    fixture_root_make(f->root);
    snprintf(f->instance, sizeof f->instance, "%s/" FAKE_SERVICE, f->root);
    expect_eq(mkdir(f->instance, 0700), 0);
    make_instance(f, warm, message_bytes_max);
}

void fake_succeed(struct fake_server *f, const struct fake_server *before, uint32_t warm, uint32_t message_bytes_max)
{
    *f = (struct fake_server){.lobby = BF_LOBBY_NULL, .number = before->number + 1};
    memcpy(f->root, before->root, sizeof f->root);
    make_instance(f, warm, message_bytes_max);
}

void fake_open(struct fake_server *f, uint32_t warm)
{
    fake_open_for(f, warm, RING_BYTES / 4 - 16);
}

void fake_close(struct fake_server *f)
{
    for (uint32_t slot = 0; slot < FAKE_SLOTS; slot++)
        if (f->slots[slot].send != NULL) {
            munmap(f->slots[slot].send, segment_bytes(RING_BYTES));
            munmap(f->slots[slot].recv, segment_bytes(RING_BYTES));
        }
    bf_lobby_detach(&f->lobby);
    fixture_remove_tree(f->root);
}

int fake_say(struct fake_server *f, uint32_t slot, uint8_t kind, uint8_t flags, uint64_t id, const void *data,
             size_t size)
{
    void *room;
    int rc = ring_reserve(&f->slots[slot].out, size, &room);
    if (rc < 0)
        return rc;
    if (size > 0)
        memcpy(room, data, size);
    ring_commit(&f->slots[slot].out, kind, flags, id, size);
    return 0;
}

int fake_reply(struct fake_server *f, uint32_t slot, uint64_t id, const char *text)
{
    return fake_say(f, slot, BELFRY_REPLY, 0, id, text, strlen(text));
}

int fake_hear(struct fake_server *f, uint32_t slot, struct ring_entry *e)
{
    struct ring_consumer_local *in = &f->slots[slot].in;
    int rc = ring_peek(in, e);
    if (rc == 1) {
        ring_advance(in, e);
        ring_free(in, in->position);
    }
    return rc;
}

bool fake_ring(struct fake_server *f, uint32_t slot)
{
    struct fake_slot *s = &f->slots[slot];
    full_fence();
    if (!doorbell_client_wants(s->send, s->recv))
        return false;
    doorbell_bump_recv(s->recv);
    bf_os_wake(&s->recv->bell);
    return true;
}

void fake_end(struct fake_server *f, uint32_t slot, enum belfry_end why)
{
    struct belfry_abi_recv *recv = f->slots[slot].recv;
    store_release(&recv->end, (uint32_t)why);
    doorbell_bump_recv(recv);
    bf_os_wake(&recv->bell);
}

void fake_drain(struct fake_server *f, uint32_t slot)
{
    store_release(&lobby_shard(&f->lobby, 0)->door, BELFRY_DOOR_DRAINING); /* first, else it may come back to us */
    ring_publish(&f->slots[slot].in);
    fake_end(f, slot, BELFRY_END_DRAINED);
    store_release(&lobby_slot(&f->lobby, slot)->state, BELFRY_SLOT_STATE(0, BELFRY_SLOT_CLOSED));
}

void fake_die(struct fake_server *f)
{
    struct belfry_abi_shard *shard = lobby_shard(&f->lobby, 0);
    or_relaxed(&shard->obituary, BELFRY_OBITUARY_DIED);
    bf_os_wake(&shard->obituary);
    bf_lobby_detach(&f->lobby); /* a map keeps the open file, and with it the lock */
}

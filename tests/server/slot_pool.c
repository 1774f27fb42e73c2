/* SPDX-License-Identifier: MIT */
/*
 * Tests of server/slot_pool.c: a pool, its lobby, a reactor for its wakes, and real files; no shard, no conn.
 */
#include "server/slot_pool.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/os.h"
#include "expect.h"
#include "fixture.h"
#include "server/claim.h"

struct scene {
    char root[FIXTURE_PATH_BYTES];
    char locks[FIXTURE_PATH_BYTES + 16];
    char segments[FIXTURE_PATH_BYTES + 16];
    struct bf_lobby lobby;
    struct bf_reactor reactor;
    struct bf_log log;
    struct bf_slot_pool pool;
    struct bf_slot_pool_config config;
};

static struct scene scene;

static void open_scene(uint32_t slots, uint32_t warm)
{
    struct bf_geometry g = {.service = "unit",
                            .instance = 7,
                            .shards = 1,
                            .max_slots = slots,
                            .slots_per_shard = slots,
                            .warm_pool = warm,
                            .ring_bytes = 65536,
                            .message_bytes_max = 16368};
    if (scene.root[0] == '\0')
        fixture_root_make(scene.root);
    snprintf(scene.locks, sizeof scene.locks, "%s/shard-0", scene.root);
    snprintf(scene.segments, sizeof scene.segments, "%s/segments", scene.root);
    expect_eq(mkdir(scene.locks, 0700), 0);
    expect_eq(mkdir(scene.segments, 0700), 0);
    int dir = bf_os_open_dir(BF_OS_CWD, scene.root);
    expect_rc(bf_lobby_create(&scene.lobby, dir, &g), 0);
    bf_os_close(dir);
    expect_rc(bf_reactor_open(&scene.reactor, slots, scene.locks, scene.root), 0);
    scene.config = (struct bf_slot_pool_config){.lobby = &scene.lobby,
                                                .log = &scene.log,
                                                .reactor = &scene.reactor,
                                                .warm_target = warm,
                                                .lock_dir = bf_os_open_dir(BF_OS_CWD, scene.locks),
                                                .segment_dir = bf_os_open_dir(BF_OS_CWD, scene.segments),
                                                .no_fork = true};
    expect_rc(bf_slot_pool_open(&scene.pool, &scene.config), 0);
}

static void close_scene(void)
{
    bf_slot_pool_close(&scene.pool);
    bf_reactor_close(&scene.reactor);
    bf_lobby_detach(&scene.lobby);
    fixture_remove_tree(scene.root);
}

static void open_filled(uint32_t slots, uint32_t warm)
{
    open_scene(slots, warm);
    expect_rc(bf_slot_pool_fill(&scene.pool), 0);
}

static void path_of(char path[2 * FIXTURE_PATH_BYTES], uint32_t slot, enum segment_side side)
{
    char name[SEGMENT_NAME_BYTES];
    bf_segment_name(name, "", "unit", slot, side);
    snprintf(path, 2 * FIXTURE_PATH_BYTES, "%s/%s", scene.segments, name);
}

static struct stat stat_of(uint32_t slot, enum segment_side side)
{
    char path[2 * FIXTURE_PATH_BYTES];
    struct stat st = {.st_ino = 0};
    path_of(path, slot, side);
    if (stat(path, &st) != 0)
        st.st_ino = 0;
    return st;
}

static bool lock_is_there(uint32_t slot)
{
    struct bf_claim claim;
    expect_eq(bf_claim_look(scene.pool.lock_dir, slot, 0, &claim), 0);
    return claim.kind != CLAIM_NONE;
}

static uint32_t state_of(uint32_t slot)
{
    return load_acquire(&lobby_slot(&scene.lobby, slot)->state);
}

static void expect_state(uint32_t slot, uint32_t generation, enum belfry_abi_state state)
{
    expect_eq(BELFRY_SLOT_GENERATION(state_of(slot)), generation);
    expect_eq(BELFRY_SLOT_STATE_OF(state_of(slot)), state);
}

/* Bite until there is nothing to do; returns the demanded slot that became ready, if one did. */
static struct bf_slot *bite_all(void)
{
    struct bf_slot *ready = NULL;
    for (int bites = 0; bf_slot_pool_is_busy(&scene.pool); bites++) {
        struct bf_slot *slot = bf_slot_pool_bite(&scene.pool);
        if (slot != NULL)
            ready = slot;
        expect(bites < 10000);
    }
    return ready;
}

/* As the listener does it: a client's lock file, then the pool is told. */
static struct bf_slot *demand(uint32_t slot)
{
    expect_eq(bf_claim_take(scene.pool.lock_dir, slot), 0);
    bf_slot_pool_demand(&scene.pool, &scene.pool.slots[slot]);
    return &scene.pool.slots[slot];
}

static struct bf_slot *claim_warm(uint32_t slot)
{
    expect_eq(bf_claim_take(scene.pool.lock_dir, slot), 0);
    bf_slot_pool_claimed(&scene.pool, &scene.pool.slots[slot]);
    return &scene.pool.slots[slot];
}

static void recycle(struct bf_slot *slot)
{
    slot->phase = SLOT_ENDING;
    bf_slot_publish(slot, BELFRY_SLOT_CLOSED);
    bf_slot_pool_recycle(&scene.pool, slot);
}

/* --- filling -------------------------------------------------------------------------------------------------------- */

Test(slot_pool, makes_64_warm_slots_visible_as_64_pairs_of_files)
{
    open_filled(1024, 64);
    expect_eq(fixture_count_files(scene.segments, "_send"), 64);
    expect_eq(fixture_count_files(scene.segments, "_recv"), 64);
    expect_eq(fixture_count_files(scene.segments, ""), 128); /* and nothing half-made */
    expect_eq(fixture_count_files(scene.segments, ".making"), 0);
    expect_eq(fixture_count_files(scene.locks, ""), 0);
    expect_eq(scene.pool.warm, 64);
    expect_eq(scene.pool.cold, 1024 - 64);
    expect_eq(lobby_shard(&scene.lobby, 0)->warm, 64);
    expect_eq(lobby_counters(&scene.lobby, 0)->slots_made, 64);
    expect_eq(lobby_counters(&scene.lobby, 0)->slots_warm, 64);
    for (uint32_t slot = 0; slot < 1024; slot++)
        expect_state(slot, 0, slot < 64 ? BELFRY_SLOT_WARM : BELFRY_SLOT_COLD);
    expect(!bf_slot_pool_is_busy(&scene.pool));
    close_scene();
}

Test(slot_pool, makes_files_that_only_their_owner_may_use)
{
    umask(0);
    open_filled(4, 2);
    expect_eq(stat_of(0, SEGMENT_SEND).st_mode, S_IFREG | 0600);
    expect_eq(stat_of(0, SEGMENT_RECV).st_mode, S_IFREG | 0400);
    close_scene();
}

Test(slot_pool, is_not_fooled_by_the_umask)
{
    open_scene(4, 2);
    umask(0777);
    expect_rc(bf_slot_pool_fill(&scene.pool), 0);
    expect_eq(stat_of(1, SEGMENT_SEND).st_mode, S_IFREG | 0600);
    expect_eq(stat_of(1, SEGMENT_RECV).st_mode, S_IFREG | 0400);
    close_scene();
}

Test(slot_pool, reserves_all_memory_of_a_segment)
{
    open_filled(4, 2);
    for (int side = SEGMENT_SEND; side <= SEGMENT_RECV; side++) {
        struct stat st = stat_of(1, (enum segment_side)side);
        expect_eq(st.st_size, segment_bytes(65536));
        expect_eq(st.st_blocks * 512, segment_bytes(65536));
    }
    close_scene();
}

Test(slot_pool, writes_headers_that_a_client_accepts)
{
    open_filled(4, 4);
    for (uint32_t i = 0; i < 4; i++) {
        const struct bf_slot *slot = &scene.pool.slots[i];
        struct segment_identity identity = {.instance = 7, .slot = i, .generation = 0, .ring_bytes = 65536};
        expect_rc(bf_segment_header_check(&slot->send->segment, &identity, SEGMENT_SEND), 0);
        expect_rc(bf_segment_header_check(&slot->recv->segment, &identity, SEGMENT_RECV), 0);
        expect_eq(slot->lobby->parked, BELFRY_PARKED_DATA); /* hello rings */
        expect(slot->send->parked != slot->recv->bell);     /* nobody sleeps */
        expect_eq(slot->recv->end, BELFRY_END_NONE);
        expect_eq(slot->recv->accepted, 0);
        expect_eq(slot->send->hello, 0);
    }
    close_scene();
}

Test(slot_pool, may_be_told_to_keep_none_warm)
{
    open_filled(4, 0);
    expect_eq(fixture_count_files(scene.segments, ""), 0);
    expect(!bf_slot_pool_is_busy(&scene.pool));
    expect(bite_all() == NULL);
    close_scene();
}

Test(slot_pool, numbers_slots_by_shard)
{
    struct bf_geometry g = {.service = "unit",
                            .instance = 7,
                            .shards = 3,
                            .max_slots = 12,
                            .slots_per_shard = 4,
                            .ring_bytes = 4096,
                            .message_bytes_max = 1008};
    struct bf_lobby lobby;
    struct bf_slot_pool pools[3];
    uint32_t seen = 0;
    fixture_root_make(scene.root);
    int dir = bf_os_open_dir(BF_OS_CWD, scene.root);
    expect_rc(bf_lobby_create(&lobby, dir, &g), 0);
    for (uint32_t shard = 0; shard < 3; shard++) {
        struct bf_slot_pool_config config = {.lobby = &lobby, .shard = shard};
        expect_rc(bf_slot_pool_open(&pools[shard], &config), 0);
        for (uint32_t i = 0; i < 4; i++) {
            expect_eq(pools[shard].slots[i].number % 3, shard);
            expect(pools[shard].slots[i].lobby == lobby_slot(&lobby, pools[shard].slots[i].number));
            seen |= 1u << pools[shard].slots[i].number;
        }
        bf_slot_pool_close(&pools[shard]);
    }
    expect_eq(seen, 0xfff);
    fixture_remove_tree(scene.root);
}

/* --- refilling ------------------------------------------------------------------------------------------------------ */

Test(slot_pool, replaces_a_claimed_warm_slot)
{
    open_filled(8, 4);
    claim_warm(1);
    expect_eq(scene.pool.warm, 3);
    expect_eq(scene.pool.active, 1);
    expect_eq(lobby_shard(&scene.lobby, 0)->active, 1);
    expect_state(1, 0, BELFRY_SLOT_OPEN);
    expect(bf_slot_pool_is_busy(&scene.pool));
    expect(bite_all() == NULL);
    expect_eq(scene.pool.warm, 4);
    expect_eq(scene.pool.cold, 3);
    expect_eq(fixture_count_files(scene.segments, ""), 10);
    expect_eq(fixture_count_files(scene.locks, ""), 1); /* the client's alone */
    close_scene();
}

Test(slot_pool, holds_the_lock_name_of_a_slot_while_it_is_being_warmed)
{
    open_filled(8, 4);
    claim_warm(0);
    bool seen = false;
    while (bf_slot_pool_is_busy(&scene.pool)) {
        bf_slot_pool_bite(&scene.pool);
        const struct bf_slot *slot = scene.pool.maker.slot;
        if (slot == NULL)
            continue;
        seen = true;
        expect(lock_is_there(slot->number));
        expect_eq(bf_claim_take(scene.pool.lock_dir, slot->number), -EEXIST);
        expect_eq(BELFRY_SLOT_STATE_OF(state_of(slot->number)), BELFRY_SLOT_COLD);
    }
    expect(seen);
    expect(!lock_is_there(4));
    expect_state(4, 0, BELFRY_SLOT_WARM);
    close_scene();
}

Test(slot_pool, leaves_alone_a_cold_slot_whose_name_a_client_has_taken)
{
    open_filled(8, 4);
    expect_eq(bf_claim_take(scene.pool.lock_dir, 4), 0); /* a client; its event is on the way */
    claim_warm(0);
    bite_all();
    expect_eq(scene.pool.slots[4].phase, SLOT_COLD);
    expect(lock_is_there(4));
    expect_eq(scene.pool.warm, 4);
    expect_eq(scene.pool.slots[5].phase, SLOT_WARM);
    close_scene();
}

/* If every cold slot's name is taken, trying without a pause would keep the shard from ever sleeping. */
Test(slot_pool, pauses_when_every_cold_name_is_taken)
{
    open_filled(6, 4);
    expect_eq(bf_claim_take(scene.pool.lock_dir, 4), 0);
    expect_eq(bf_claim_take(scene.pool.lock_dir, 5), 0);
    claim_warm(0);
    for (int i = 0; i < 100 && bf_slot_pool_is_busy(&scene.pool); i++)
        bf_slot_pool_bite(&scene.pool);
    expect(!bf_slot_pool_is_busy(&scene.pool));
    expect(scene.pool.refill_after_ns > bf_os_now_ns()); /* and will be tried again */
    close_scene();
}

Test(slot_pool, warms_nothing_more_once_it_is_closing)
{
    open_filled(8, 4);
    scene.pool.closing = true;
    claim_warm(0);
    expect(!bf_slot_pool_is_busy(&scene.pool));
    close_scene();
}

/* --- on demand ------------------------------------------------------------------------------------------------------ */

Test(slot_pool, makes_a_cold_slot_on_demand)
{
    open_filled(8, 2);
    struct bf_slot *slot = demand(5);
    expect_eq(scene.pool.active, 1);
    expect(bite_all() == slot);
    expect_eq(slot->phase, SLOT_CLAIMED);
    expect_state(5, 0, BELFRY_SLOT_WARM);
    expect(stat_of(5, SEGMENT_SEND).st_ino != 0);
    expect(lock_is_there(5)); /* it is the client's */
    expect_eq(lobby_counters(&scene.lobby, 0)->slots_made_on_demand, 1);
    expect_eq(scene.pool.warm, 2);
    expect_eq(scene.pool.cold, 5);
    close_scene();
}

Test(slot_pool, makes_demanded_slots_in_order_and_before_others)
{
    open_filled(8, 2);
    claim_warm(0); /* a refill is due, too */
    demand(7);
    demand(3);
    demand(5);
    uint32_t ready[3], count = 0;
    while (bf_slot_pool_is_busy(&scene.pool)) {
        struct bf_slot *slot = bf_slot_pool_bite(&scene.pool);
        if (slot != NULL && count < 3)
            ready[count++] = slot->number;
        expect(scene.pool.warm == 1 || count == 3);
    }
    expect_eq(count, 3);
    expect_eq(ready[0], 7);
    expect_eq(ready[1], 3);
    expect_eq(ready[2], 5);
    expect_eq(scene.pool.warm, 2);
    close_scene();
}

static void *wait_for_state(void *argument)
{
    const uint32_t *word = argument;
    const uint32_t cold = BELFRY_SLOT_STATE(0, BELFRY_SLOT_COLD); /* as it was before anybody could change it */
    const struct bf_os_wait wait = {word, cold};
    while (load_acquire(word) == cold)
        if (bf_os_wait(&wait, 1, bf_os_now_ns() + FIXTURE_PATIENCE_MS * 1000000ll) == -ETIMEDOUT)
            return (void *)1;
    return NULL;
}

Test(slot_pool, wakes_who_waits_for_a_demanded_slot)
{
    pthread_t waiter;
    void *late;
    open_filled(8, 0);
    pthread_create(&waiter, NULL, wait_for_state, &lobby_slot(&scene.lobby, 2)->state);
    fixture_pause();
    demand(2);
    bite_all();
    bf_reactor_submit(&scene.reactor);
    pthread_join(waiter, &late);
    expect(late == NULL);
    close_scene();
}

Test(slot_pool, gives_up_a_claim_with_its_reason_and_a_new_generation)
{
    open_filled(8, 0);
    struct bf_slot *slot = demand(2);
    bf_slot_pool_give_up(&scene.pool, slot, BELFRY_END_DRAINING);
    expect_state(2, 1, BELFRY_SLOT_COLD);
    expect_eq(slot->lobby->reason, BELFRY_END_DRAINING);
    expect(!lock_is_there(2));
    expect_eq(scene.pool.active, 0);
    expect_eq(scene.pool.cold, 8);
    expect_eq(lobby_counters(&scene.lobby, 0)->refusals[BELFRY_END_DRAINING], 1);
    expect(bite_all() == NULL); /* it still stood in the queue, but is not made any more */
    expect_eq(fixture_count_files(scene.segments, ""), 0);

    expect(demand(2) == slot); /* and can be had again */
    expect(bite_all() == slot);
    expect_state(2, 1, BELFRY_SLOT_WARM);
    close_scene();
}

/* --- recycling ------------------------------------------------------------------------------------------------------ */

Test(slot_pool, gives_the_next_tenant_new_files_and_the_next_generation)
{
    char path[2 * FIXTURE_PATH_BYTES];
    open_filled(4, 4); /* no cold slot: the recycled one is needed warm */
    struct bf_slot *slot = claim_warm(2);
    struct stat send = stat_of(2, SEGMENT_SEND), recv = stat_of(2, SEGMENT_RECV);
    path_of(path, 2, SEGMENT_SEND);
    int fd = open(path, O_RDWR);
    uint8_t *old = mmap(NULL, segment_bytes(65536), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    memset(old + SEGMENT_HEADER_BYTES, 0x5a, 65536); /* what the first tenant wrote ... */

    recycle(slot);
    expect_eq(scene.pool.active, 0);
    expect(bite_all() == NULL);
    expect(stat_of(2, SEGMENT_SEND).st_ino != send.st_ino);
    expect(stat_of(2, SEGMENT_RECV).st_ino != recv.st_ino);
    expect_state(2, 1, BELFRY_SLOT_WARM);
    expect_eq(slot->generation, 1);
    expect_eq(slot->send->segment.generation, 1);
    expect_eq(slot->recv->segment.generation, 1);
    expect(!lock_is_there(2));
    expect_eq(scene.pool.warm, 4);
    const uint8_t *ring = (const uint8_t *)slot->send + SEGMENT_HEADER_BYTES;
    for (int i = 0; i < 65536; i++)
        expect_eq(ring[i], 0);                       /* ... the second does not see */
    memset(old, 0xff, SEGMENT_HEADER_BYTES + 65536); /* and what the first still writes reaches nobody */
    expect_eq(slot->send->hello, 0);
    expect_eq(ring[0], 0);
    close_scene();
}

Test(slot_pool, keeps_the_name_taken_until_the_new_files_are_there)
{
    open_filled(4, 4);
    struct bf_slot *slot = claim_warm(2);
    recycle(slot);
    while (bf_slot_pool_is_busy(&scene.pool)) {
        expect(lock_is_there(2));
        bf_slot_pool_bite(&scene.pool);
    }
    expect(!lock_is_there(2));
    close_scene();
}

/* Its owner has removed the name, and a client that comes too late has made it anew, and will give up. */
Test(slot_pool, removes_whatever_lies_at_the_name_of_a_recycled_slot)
{
    open_filled(4, 4);
    struct bf_slot *slot = claim_warm(2);
    bf_claim_drop(scene.pool.lock_dir, 2);
    recycle(slot);
    bf_slot_pool_bite(&scene.pool);
    expect(scene.pool.maker.slot == slot);
    expect_eq(bf_claim_take(scene.pool.lock_dir, 2), 0);
    bite_all();
    expect(!lock_is_there(2));
    expect_state(2, 1, BELFRY_SLOT_WARM);
    close_scene();
}

Test(slot_pool, cools_a_slot_that_is_not_needed_warm)
{
    open_filled(8, 2);
    struct bf_slot *slot = demand(6);
    bite_all();
    recycle(slot);
    bite_all();
    expect_eq(slot->phase, SLOT_COLD);
    expect_state(6, 1, BELFRY_SLOT_COLD);
    expect(slot->send == NULL && slot->recv == NULL);
    expect_eq(stat_of(6, SEGMENT_SEND).st_ino, 0);
    expect_eq(stat_of(6, SEGMENT_RECV).st_ino, 0);
    expect(!lock_is_there(6));
    expect_eq(scene.pool.cold, 6);
    expect_eq(fixture_count_files(scene.segments, ""), 4);
    close_scene();
}

Test(slot_pool, starts_over_after_the_last_generation)
{
    open_filled(1, 0);
    struct bf_slot *slot = &scene.pool.slots[0];
    slot->generation = BELFRY_GENERATION_MASK;
    bf_slot_publish(slot, BELFRY_SLOT_COLD);
    demand(0);
    bite_all();
    expect_state(0, BELFRY_GENERATION_MASK, BELFRY_SLOT_WARM);
    recycle(slot);
    bite_all();
    expect_state(0, 0, BELFRY_SLOT_COLD);
    close_scene();
}

Test(slot_pool, is_as_large_after_a_thousand_tenants_as_before)
{
    open_filled(4, 2);
    int fds = fixture_count_fds();
    for (int i = 0; i < 1000; i++) {
        struct bf_slot *warm = NULL;
        for (uint32_t s = 0; s < 4; s++)
            if (scene.pool.slots[s].phase == SLOT_WARM)
                warm = &scene.pool.slots[s];
        expect(warm != NULL);
        claim_warm(warm->number);
        bite_all();
        recycle(warm);
        bite_all();
        expect_eq(scene.pool.warm, 2);
        expect_eq(scene.pool.cold, 2);
        expect_eq(scene.pool.active, 0);
    }
    expect_eq(fixture_count_files(scene.segments, ""), 4);
    expect_eq(fixture_count_files(scene.locks, ""), 0);
    expect_eq(fixture_count_fds(), fds);
    close_scene();
}

/* --- no memory ------------------------------------------------------------------------------------------------------ */

/* A tmpfs of our own, in a mount name space that ends with the test. */
static void mount_tiny(const char *size)
{
    char options[64];
    if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        cr_skip_test("only root can mount a small tmpfs, and not in a chroot");
    fixture_root_make(scene.root);
    snprintf(options, sizeof options, "mode=0700,size=%s", size);
    expect_eq(mount("tmpfs", scene.root, "tmpfs", 0, options), 0);
}

static int log_lines;

static void count_lines(enum belfry_log_level level, const char *line, void *user)
{
    (void)user;
    log_lines += level == BELFRY_LOG_WARNING && strstr(line, "shared-memory file system is full") != NULL;
}

Test(slot_pool, refuses_to_fill_a_file_system_that_is_too_small)
{
    mount_tiny("512k");
    open_scene(16, 8);
    expect_eq(bf_slot_pool_fill(&scene.pool), BELFRY_ENOSPACE);
    expect_in(belfry_last_error(), "a shard's warm slots take");
    close_scene();
    umount(scene.root);
}

Test(slot_pool, tells_a_client_that_there_is_no_memory_for_its_slot)
{
    mount_tiny("512k");
    scene.log.callback = count_lines;
    open_filled(16, 2);
    int fds = fixture_count_fds(), refused = 0;
    for (uint32_t i = 2; i < 12; i++) {
        struct bf_slot *slot = demand(i);
        while (bf_slot_pool_is_busy(&scene.pool))
            bf_slot_pool_bite(&scene.pool);
        if (slot->phase == SLOT_CLAIMED)
            continue;
        refused++;
        expect_eq(slot->phase, SLOT_COLD);
        expect_eq(slot->lobby->reason, BELFRY_END_NO_MEMORY);
        expect_state(i, 1, BELFRY_SLOT_COLD);
        expect(!lock_is_there(i));
    }
    expect(refused > 0 && refused < 10);
    expect_eq(lobby_counters(&scene.lobby, 0)->refusals[BELFRY_END_NO_MEMORY], refused);
    expect_eq(fixture_count_files(scene.segments, "_send"), 2 + 10 - refused);
    expect_eq(fixture_count_files(scene.segments, "_recv"), 2 + 10 - refused);
    expect_eq(fixture_count_fds(), fds);
    expect_eq(fixture_count_files(scene.segments, ".making"), 0);
    expect_eq(log_lines, 1); /* once per pause, not once per client */
    expect_eq(scene.pool.active, 10 - refused);

    /* Memory that comes back is used again. */
    for (uint32_t i = 2; i < 12; i++)
        if (scene.pool.slots[i].phase == SLOT_CLAIMED) {
            recycle(&scene.pool.slots[i]);
            break;
        }
    while (scene.pool.ended.first != NULL || scene.pool.maker.slot != NULL)
        bf_slot_pool_bite(&scene.pool);
    struct bf_slot *slot = demand(15);
    while (slot->phase == SLOT_MAKING)
        bf_slot_pool_bite(&scene.pool);
    expect_eq(slot->phase, SLOT_CLAIMED);
    close_scene();
    umount(scene.root);
}

Test(slot_pool, pauses_after_a_refill_that_found_no_memory)
{
    mount_tiny("512k");
    scene.log.callback = count_lines;
    open_filled(16, 3); /* fits: 3 of 136 KiB */
    claim_warm(0);      /* a fourth does not */
    for (int i = 0; i < 1000 && bf_slot_pool_is_busy(&scene.pool); i++)
        bf_slot_pool_bite(&scene.pool);
    expect(!bf_slot_pool_is_busy(&scene.pool));
    expect(scene.pool.refill_after_ns > bf_os_now_ns());
    expect_eq(scene.pool.cold, 13);
    expect_eq(scene.pool.warm, 2);
    expect_eq(fixture_count_files(scene.locks, ""), 1);
    expect_eq(fixture_count_files(scene.segments, ""), 6);
    scene.pool.refill_after_ns = 1; /* the pause is over */
    expect(bf_slot_pool_is_busy(&scene.pool));
    close_scene();
    umount(scene.root);
}

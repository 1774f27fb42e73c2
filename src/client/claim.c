/* SPDX-License-Identifier: MIT */
/*
 * claim.c: get a slot: docs/PROTOCOL.md, "Claim", step by step.
 *
 * Owning slot N means to have made slot_N.lock and to hold the lock on it; the kernel lets go of it when this process
 * dies, however it dies. A warm slot has its segments ready; a cold one gets them from the server, which has seen the
 * lock file; and of another user's server we get any slot only after its on_connect has said yes. The slot's generation is read before the lock file is made and must be that of both segments, else the
 * slot had a tenant in between.
 */
#include <errno.h>
#include <stdio.h>

#include "base/check.h"
#include "base/error.h"
#include "base/os.h"
#include "client/client.h"
#include "shm/doorbell.h"
#include "shm/place.h"

#define LOCK_MODE 0600u
#define STATE_SLICE_NS 50000000ll    /* somebody may rob a lobby word of its waiters: look again */
#define FULL_PATIENCE_NS 250000000ll /* whoever has just left may still look attached: worth waiting for */
#define FULL_PAUSE_NS 1000000ll      /* doubles each time */
#define RACED_PAUSE_NS 100000ll

enum try_result { TRY_GOT = 0, TRY_NEXT = 1, TRY_TAKEN = 2 };

/* --- segments ----------------------------------------------------------------------------------------------------- */

static int map_segment(struct belfry_client *c, int segment_dir, enum segment_side side, void **map)
{
    const struct bf_geometry *g = &c->shared->lobby.geometry;
    char name[SEGMENT_NAME_BYTES];
    struct bf_os_file file;
    uint64_t bytes = segment_bytes(g->ring_bytes);

    bf_segment_name(name, "", g->service, c->slot, side);
    int fd = bf_os_open(segment_dir, name, side == SEGMENT_SEND ? BF_OS_READ_WRITE : BF_OS_READ, 0);
    if (fd == -ENOENT || (fd == -EACCES && g->uid != bf_os_uid())) /* somebody else was let at it */
        return -ESTALE;
    if (fd < 0)
        return bf_error_errno(fd, "cannot open segment %s", name);
    int rc = bf_os_stat(fd, &file);
    if (rc == 0 && (!file.regular || file.bytes < bytes))
        rc = bf_error(BELFRY_EPROTO, "segment %s is not a file of %llu bytes", name, (unsigned long long)bytes);
    else if (rc == 0)
        rc = bf_os_map(fd, bytes, side == SEGMENT_SEND, NULL, map);
    bf_os_close(fd);
    if (rc == -ENOMEM)
        return bf_error(rc, "no memory map left for segment %s: raise vm.max_map_count, or open fewer connections",
                        name);
    if (rc == 0 && c->atfork)
        bf_os_no_fork(*map, bytes);
    return rc < 0 && rc > -4096 ? bf_error_errno(rc, "cannot map segment %s", name) : rc;
}

static void unmap_segments(struct belfry_client *c)
{
    uint64_t bytes = segment_bytes(c->shared->lobby.geometry.ring_bytes);
    if (c->send != NULL)
        bf_os_unmap(c->send, bytes);
    if (c->recv != NULL)
        bf_os_unmap((void *)c->recv, bytes);
    c->send = NULL;
    c->recv = NULL;
}

static int map_segments(struct belfry_client *c, int instance_dir)
{
    const struct bf_geometry *g = &c->shared->lobby.geometry;
    struct segment_identity identity = {.instance = g->instance,
                                        .slot = c->slot,
                                        .generation = c->generation,
                                        .ring_bytes = g->ring_bytes};
    void *send = NULL, *recv = NULL;
    int dir = bf_os_enter_dir(instance_dir, PLACE_SEGMENTS);
    if (dir < 0)
        return dir == -ENOENT ? -ESTALE : bf_error_errno(dir, "cannot open the segments' directory");
    int rc = map_segment(c, dir, SEGMENT_SEND, &send);
    if (rc == 0)
        rc = map_segment(c, dir, SEGMENT_RECV, &recv);
    bf_os_close(dir);
    c->send = send;
    c->recv = recv;
    if (rc == 0)
        rc = bf_segment_header_check(&c->send->segment, &identity, SEGMENT_SEND);
    if (rc == 0)
        rc = bf_segment_header_check(&c->recv->segment, &identity, SEGMENT_RECV);
    if (rc < 0)
        unmap_segments(c);
    return rc;
}

/* --- cold slots ---------------------------------------------------------------------------------------------------- */

/* It may be the reason for which somebody else was refused, or a later tenant of the slot has ended, if we were slow to
   look: then we shall not know why we were refused, and another slot is worth a try. */
static bool is_ours(const struct belfry_client *c, enum belfry_end reason)
{
    return load_relaxed(&lobby_slot(&c->shared->lobby, c->slot)->uid) == bf_os_uid() && reason != BELFRY_END_LEFT &&
           reason != BELFRY_END_DIED;
}

static int refused_cold(const struct belfry_client *c, enum belfry_end reason)
{
    const char *service = c->shared->lobby.geometry.service;
    if (!is_ours(c, reason))
        return -EAGAIN;
    if (reason == BELFRY_END_DRAINING || reason == BELFRY_END_STOPPED)
        return -ESTALE;
    if (reason == BELFRY_END_QUOTA)
        return bf_error(
            BELFRY_EQUOTA,
            "the server \"%s\" has as many connections of uid %u as one user may have, or they come too often: "
            "close some or wait, or raise its uid_slots_max or uid_connects_max",
            service, bf_os_uid());
    if (reason == BELFRY_END_NO_MEMORY)
        return bf_error(BELFRY_ENOSPACE,
                        "the server \"%s\" cannot make slot %u: it lacks shared memory, descriptors or maps, and its "
                        "log says which",
                        service, c->slot);
    return bf_error(BELFRY_EREFUSED, "the server \"%s\" refused slot %u: %s", service, c->slot,
                    belfry_end_text(reason));
}

/* Our lock file is there. Can it be ours that the server has seen? It tells whether its own user's client claimed a slot or
   another's, and who finds the one where the other should be has come too late. */
static bool may_be_ours(enum belfry_abi_state state, bool foreign)
{
    if (state == BELFRY_SLOT_COLD || state == BELFRY_SLOT_WARM)
        return true;
    return foreign ? state == BELFRY_SLOT_ASKED || state == BELFRY_SLOT_SHARED : state == BELFRY_SLOT_OPEN;
}

/* The lock file is there; wait until the server has made the segments and, if they are another user's, let us in. */
static int wait_until_ready(struct belfry_client *c, bool foreign, int64_t deadline_ns)
{
    const struct belfry_abi_slot *slot = lobby_slot(&c->shared->lobby, c->slot);
    for (;;) {
        uint32_t word = load_acquire(&slot->state); /* partner: bf_slot_publish */
        enum belfry_abi_state state = BELFRY_SLOT_STATE_OF(word);
        if (BELFRY_SLOT_GENERATION(word) != c->generation || state == BELFRY_SLOT_CLOSED)
            return refused_cold(c, (enum belfry_end)load_relaxed(&slot->reason));
        if (!may_be_ours(state, foreign))
            return -EAGAIN;
        if (foreign ? state == BELFRY_SLOT_SHARED : state != BELFRY_SLOT_COLD)
            return 0;
        if (client_is_over(load_acquire(&c->shard->obituary)))
            return -ESTALE;
        int64_t now = bf_os_now_ns();
        if (now >= deadline_ns)
            return bf_error(-ETIMEDOUT, "the server \"%s\" did not give us slot %u in time: it is busy or stopped",
                            c->shared->lobby.geometry.service, c->slot);
        struct bf_os_wait wait = {&slot->state, word};
        bf_os_wait(&wait, 1, bf_min(deadline_ns, now + STATE_SLICE_NS));
    }
}

/* --- one slot ------------------------------------------------------------------------------------------------------ */

static void say_hello(struct belfry_client *c)
{
    store_relaxed(&c->send->hello_version, BELFRY_ABI_VERSION);
    store_relaxed(&c->send->hello_pid, bf_os_pid());
    store_relaxed(&c->send->hello_generation, c->generation);
    store_release(&c->send->hello, BELFRY_HELLO); /* partner: listener.c, hello_is_there */
}

/* Another user's server cannot read our file, nor we write to its segments yet: say hello in the file, and share that. */
static int say_claim(const struct belfry_client *c)
{
    const struct belfry_abi_claim word = {.version = BELFRY_ABI_VERSION, .pid = bf_os_pid()};
    int rc = bf_os_write_at(c->lock_fd, &word, sizeof word, 0);
    return rc < 0 ? rc : bf_os_share(c->lock_fd, LOCK_MODE >> 6, c->shared->lobby.geometry.uid, 4);
}

/* Then nobody has to wait for the end of our grace. What fails here is only slower. */
static void withdraw(const struct belfry_client *c, bool foreign)
{
    const struct belfry_abi_claim word = {.version = BELFRY_CLAIM_WITHDRAWN};
    bf_os_write_at(c->lock_fd, &word, sizeof word, 0);
    if (foreign)
        bf_os_share(c->lock_fd, LOCK_MODE >> 6, c->shared->lobby.geometry.uid, 4);
}

/* The slot had a tenant between our look and our file; from here on only we can have it. Or that was us: then our file is
   gone, and we are told why. */
static int next_generation(const struct belfry_client *c)
{
    struct bf_os_file file;
    if (bf_os_stat(c->lock_fd, &file) < 0 || file.links > 0)
        return -EAGAIN;
    return refused_cold(c, (enum belfry_end)load_relaxed(&lobby_slot(&c->shared->lobby, c->slot)->reason));
}

/* TRY_GOT; TRY_NEXT: not this one; TRY_TAKEN: it is free, but somebody else has just made its lock file; -ESTALE: not this
   instance; or a code. */
static int try_slot(struct belfry_client *c, int instance_dir, int lock_dir, enum belfry_abi_state wanted,
                    int64_t deadline_ns)
{
    char name[SEGMENT_NAME_BYTES];
    uint32_t word =
        load_acquire(&lobby_slot(&c->shared->lobby, c->slot)->state); /* the generation BEFORE the file is made */
    if (BELFRY_SLOT_STATE_OF(word) != wanted)
        return TRY_NEXT;
    c->generation = BELFRY_SLOT_GENERATION(word);

    bf_lock_name(name, c->slot);
    c->lock_fd = bf_os_open(lock_dir, name, BF_OS_WRITE | BF_OS_CREATE_NEW, LOCK_MODE);
    if (c->lock_fd == -EEXIST)
        return TRY_TAKEN;
    if (c->lock_fd == -ENOENT)
        return -ESTALE;
    if (c->lock_fd < 0)
        return bf_error_errno(c->lock_fd, "cannot make lock file %s", name);

    bool foreign = c->shared->lobby.geometry.uid != bf_os_uid();
    int rc = foreign ? say_claim(c) : 0;
    if (rc == 0)
        rc = bf_os_lock(c->lock_fd);
    if (rc < 0 && rc != -EAGAIN)
        rc = bf_error_errno(rc, "cannot lock %s", name);
    full_fence(); /* the file is there before we look; no system call promises that. Partners: continue_stopping, claim_stands */
    if (rc == 0 && load_acquire(&c->shard->door) != BELFRY_DOOR_OPEN) /* AFTER the file is made; partner: shard.c */
        rc = -ESTALE;
    word = load_acquire(&lobby_slot(&c->shared->lobby, c->slot)->state);
    if (rc == 0 && BELFRY_SLOT_GENERATION(word) != c->generation)
        rc = next_generation(c);
    else if (rc == 0 && !may_be_ours(BELFRY_SLOT_STATE_OF(word), foreign)) /* partner: listener.c, claim_stands */
        rc = -EAGAIN;
    if (rc == 0 && (wanted == BELFRY_SLOT_COLD || foreign))
        rc = wait_until_ready(c, foreign, deadline_ns);
    bool stale_instance = rc == -ESTALE;
    if (rc == 0)
        rc = map_segments(c, instance_dir);
    if (rc == 0) {
        c->lobby_slot = lobby_slot(&c->shared->lobby, c->slot);
        c->open_state = BELFRY_SLOT_STATE(c->generation, foreign ? BELFRY_SLOT_SHARED : BELFRY_SLOT_OPEN);
        say_hello(c);
        return TRY_GOT;
    }
    withdraw(c, foreign);
    bf_os_close(c->lock_fd); /* the server sees that, and takes the slot back */
    c->lock_fd = -1;
    if (rc == -EAGAIN || (rc == -ESTALE && !stale_instance))
        return TRY_NEXT;
    return rc;
}

/* --- which slot ---------------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* Different for every connect, so that clients start their search at different slots. */
static uint64_t some_number(const struct belfry_client *c)
{
    return mix((uint64_t)bf_os_now_ns() ^ (uint64_t)bf_os_pid() << 32 ^ (uintptr_t)c);
}

/*
 * Each process takes the shards in turn, beginning anywhere. If one shard is busier than another, some of the clients
 * that would have come to it go to the least busy one instead: the more, the larger the difference. Not all of them,
 * since the counts lag and everybody would run to the same one.
 */
static uint32_t choose_shard(const struct belfry_client *c, uint64_t random)
{
    static uint32_t turn;
    uint32_t shards = c->shared->lobby.geometry.shards;
    uint32_t mine = ((uint32_t)mix(bf_os_pid()) + __atomic_fetch_add(&turn, 1, __ATOMIC_RELAXED)) % shards,
             least = mine;
    for (uint32_t i = 0; i < shards; i++)
        if (load_relaxed(&lobby_shard(&c->shared->lobby, i)->active) <
            load_relaxed(&lobby_shard(&c->shared->lobby, least)->active))
            least = i;
    uint32_t low = load_relaxed(&lobby_shard(&c->shared->lobby, least)->active);
    uint32_t high = load_relaxed(&lobby_shard(&c->shared->lobby, mine)->active);
    return high > low && random % (high + low) < high - low ? least : mine;
}

static int open_locks(int instance_dir, uint32_t shard)
{
    char name[32];
    snprintf(name, sizeof name, "shard-%u", shard);
    int dir = bf_os_enter_dir(instance_dir, name);
    if (dir == -ENOENT)
        return -ESTALE;
    return dir < 0 ? bf_error_errno(dir, "cannot open %s", name) : dir;
}

struct search {
    int instance_dir;
    uint32_t mine; /* the shard that was chosen */
    uint64_t random;
    int64_t deadline_ns;
    bool raced; /* a slot was free, and somebody else had just made its lock file */
};

/* All slots of one shard that are in state `wanted`. As try_slot(). */
static int try_shard(struct belfry_client *c, struct search *s, uint32_t shard, enum belfry_abi_state wanted)
{
    const struct bf_geometry *g = &c->shared->lobby.geometry;
    c->shard = lobby_shard(&c->shared->lobby, shard);
    if (load_acquire(&c->shard->door) != BELFRY_DOOR_OPEN || client_is_over(load_acquire(&c->shard->obituary)))
        return -ESTALE;
    int lock_dir = open_locks(s->instance_dir, shard);
    if (lock_dir < 0)
        return lock_dir;
    int rc = TRY_NEXT;
    for (uint32_t i = 0; i < g->slots_per_shard && rc > 0; i++) {
        uint32_t index = (uint32_t)((s->random + i) % g->slots_per_shard);
        c->slot = index * g->shards + shard;
        rc = try_slot(c, s->instance_dir, lock_dir, wanted, s->deadline_ns);
        s->raced |= rc == TRY_TAKEN;
    }
    bf_os_close(lock_dir);
    return rc;
}

/* The shards other than the chosen one; with `not_busier`, only those that have not more clients. */
static int try_others(struct belfry_client *c, struct search *s, enum belfry_abi_state wanted, bool not_busier)
{
    uint32_t shards = c->shared->lobby.geometry.shards;
    uint32_t active = load_relaxed(&lobby_shard(&c->shared->lobby, s->mine)->active);
    int rc = TRY_NEXT;
    for (uint32_t i = 1; i < shards && rc > 0; i++) {
        uint32_t shard = (s->mine + i) % shards;
        if (not_busier && load_relaxed(&lobby_shard(&c->shared->lobby, shard)->active) > active)
            continue;
        rc = try_shard(c, s, shard, wanted);
    }
    return rc;
}

/* A warm slot is quicker, but not at the price of a lopsided server: a busier shard's come last. */
static int try_all(struct belfry_client *c, struct search *s)
{
    int rc = try_shard(c, s, s->mine, BELFRY_SLOT_WARM);
    if (rc > 0)
        rc = try_others(c, s, BELFRY_SLOT_WARM, true);
    if (rc > 0)
        rc = try_shard(c, s, s->mine, BELFRY_SLOT_COLD);
    if (rc > 0)
        rc = try_others(c, s, BELFRY_SLOT_WARM, false);
    if (rc > 0)
        rc = try_others(c, s, BELFRY_SLOT_COLD, false);
    return rc;
}

/* When all slots have a tenant, waiting helps for as long only as one that has just left looks attached. Where some are free
   and others are quicker, it is a race that can be won. */
int bf_client_claim(struct belfry_client *c, int instance_dir, int64_t deadline_ns)
{
    const struct bf_geometry *g = &c->shared->lobby.geometry;
    int64_t patience_ns = bf_min(deadline_ns, bf_os_now_ns() + FULL_PATIENCE_NS), pause_ns = FULL_PAUSE_NS;
    for (;;) {
        uint64_t random = some_number(c);
        struct search search = {.instance_dir = instance_dir,
                                .mine = choose_shard(c, random),
                                .random = random >> 16,
                                .deadline_ns = deadline_ns};
        int rc = try_all(c, &search);
        if (rc <= 0)
            return rc;
        int64_t now = bf_os_now_ns(), until_ns = search.raced ? deadline_ns : patience_ns;
        if (now >= until_ns)
            break;
        pause_ns = search.raced ? RACED_PAUSE_NS : pause_ns;
        uint32_t never = 0;
        struct bf_os_wait pause = {&never, 0};
        bf_os_wait(&pause, 1, bf_min(now + pause_ns, until_ns));
        pause_ns *= 2;
    }
    return bf_error(BELFRY_EFULL, "all %u slots of \"%s\" are taken: try later, or raise max_slots", g->max_slots,
                    g->service);
}

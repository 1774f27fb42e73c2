/* SPDX-License-Identifier: MIT */
/* slot_pool.c: see slot_pool.h. Below: open and close, the maker step by step, then what the pool decides to make. */
#include "server/slot_pool.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/order.h"
#include "base/os.h"
#include "server/claim.h"

#define ALLOCATE_BYTES 32768u  /* per bite: eight pages, some 10 us */
#define POPULATE_BYTES 262144u /* per bite: page tables only, the memory is there */
#define REFILL_PAUSE_NS 1000000000ll
#define SEND_MODE 0600u
#define RECV_MODE 0400u /* for clients; the maker's own descriptor is writable all the same */
#define MAKING_PREFIX ".making-"

/* --- open and close ---------------------------------------------------------------------------------------------- */

int bf_slot_pool_open(struct bf_slot_pool *pool, const struct bf_slot_pool_config *config)
{
    const struct bf_geometry *g = &config->lobby->geometry;
    *pool = (struct bf_slot_pool){
        .lobby = config->lobby,
        .log = config->log,
        .reactor = config->reactor,
        .quota = config->quota,
        .counters = lobby_counters(config->lobby, config->shard),
        .shard = lobby_shard(config->lobby, config->shard),
        .lock_dir = config->lock_dir,
        .segment_dir = config->segment_dir,
        .no_fork = config->no_fork,
        .may_protect = true, /* until we are told otherwise */
        .count = g->slots_per_shard,
        .cold = g->slots_per_shard,
        .warm_target = bf_min(config->warm_target, g->slots_per_shard),
        .stride = 2 * segment_bytes(g->ring_bytes),
        .maker = {.fd = -1},
        .demand = {.kind = SLOT_QUEUE_DEMAND},
        .ended = {.kind = SLOT_QUEUE_ENDED},
    };
    pool->range = bf_os_reserve(pool->count * pool->stride);
    pool->slots = calloc(pool->count, sizeof *pool->slots);
    if (pool->range == NULL || pool->slots == NULL) {
        bf_slot_pool_close(pool);
        return bf_error(-ENOMEM, "no addresses for %" PRIu32 " slots: lower max_slots or ring_bytes",
                        g->slots_per_shard);
    }
    for (uint32_t i = 0; i < pool->count; i++) {
        struct bf_slot *slot = &pool->slots[i];
        slot->index = i;
        slot->number = i * g->shards + config->shard;
        slot->hot_index = SLOT_NOT_HOT;
        slot->lobby = lobby_slot(pool->lobby, slot->number);
        bf_slot_publish(slot, BELFRY_SLOT_COLD);
    }
    return 0;
}

void bf_slot_pool_close(struct bf_slot_pool *pool)
{
    if (pool->range != NULL)
        bf_os_unmap(pool->range, pool->count * pool->stride);
    if (pool->maker.slot != NULL)
        bf_os_close(pool->maker.fd);
    free(pool->slots);
    pool->range = NULL;
    pool->slots = NULL;
}

void bf_slot_publish(struct bf_slot *slot, enum belfry_abi_state state)
{
    store_release(&slot->lobby->state, BELFRY_SLOT_STATE(slot->generation, state)); /* partner: client/claim.c */
}

/* Whoever waits on the slot's state. Anybody who may read the lobby could wait there a million times; who is left out looks
   again by himself (client/claim.c). */
static void wake_state(struct bf_slot_pool *pool, const struct bf_slot *slot)
{
    bf_reactor_wake_some(pool->reactor, &slot->lobby->state);
}

static void count_warm(struct bf_slot_pool *pool, int change)
{
    pool->warm += (uint32_t)change;
    store_relaxed(&pool->shard->warm, pool->warm);
    store_relaxed(&pool->counters->slots_warm, pool->warm);
}

static void count_active(struct bf_slot_pool *pool, int change)
{
    pool->active += (uint32_t)change;
    store_relaxed(&pool->shard->active, pool->active);
}

static uint8_t *slot_address(const struct bf_slot_pool *pool, const struct bf_slot *slot, enum segment_side side)
{
    return pool->range + slot->index * pool->stride + (side == SEGMENT_RECV ? pool->stride / 2 : 0);
}

/* --- names ------------------------------------------------------------------------------------------------------- */

static void name_of(const struct bf_slot_pool *pool, char name[SEGMENT_NAME_BYTES], const char *prefix,
                    const struct bf_slot *slot, enum segment_side side)
{
    bf_segment_name(name, prefix, pool->lobby->geometry.service, slot->number, side);
}

/* One of its files, once more: the maker's descriptor is closed. */
static int open_segment(const struct bf_slot_pool *pool, const struct bf_slot *slot, enum segment_side side, int how)
{
    char name[SEGMENT_NAME_BYTES];
    name_of(pool, name, "", slot, side);
    return bf_os_open(pool->segment_dir, name, how, 0);
}

static int set_append_only(const struct bf_slot_pool *pool, const struct bf_slot *slot, bool on)
{
    int fd = open_segment(pool, slot, SEGMENT_SEND, BF_OS_READ);
    int rc = fd < 0 ? fd : bf_os_append_only(fd, on);
    bf_os_close(fd);
    return rc;
}

/* Before its files can get other names, or none. */
static void unprotect(const struct bf_slot_pool *pool, struct bf_slot *slot)
{
    int rc = slot->protected ? set_append_only(pool, slot, false) : 0;
    if (rc == 0 || rc == -ENOENT)
        slot->protected = false;
}

static void unlink_segments(struct bf_slot_pool *pool, struct bf_slot *slot, const char *prefix)
{
    char name[SEGMENT_NAME_BYTES];
    unprotect(pool, slot);
    for (int side = SEGMENT_SEND; side <= SEGMENT_RECV; side++) {
        name_of(pool, name, prefix, slot, (enum segment_side)side);
        bf_os_unlink(pool->segment_dir, name);
    }
}

static void unmap_segments(struct bf_slot_pool *pool, struct bf_slot *slot)
{
    /* It can fail when the host is at vm.max_map_count; then the old files stay mapped until the slot is made again. */
    bf_os_map_none(slot_address(pool, slot, SEGMENT_SEND), pool->stride);
    slot->send = NULL;
    slot->recv = NULL;
    if (bf_unlikely(load_relaxed(&slot->faulted) != 0)) {
        counter_add(&pool->counters->bus_faults, 1);
        store_relaxed(&slot->faulted, 0);
    }
}

/* --- making one slot, a bite at a time --------------------------------------------------------------------------- */

static void maker_start(struct bf_slot_pool *pool, struct bf_slot *slot, enum maker_purpose purpose)
{
    if (slot->phase == SLOT_COLD)
        pool->cold--;
    slot->phase = SLOT_MAKING;
    pool->maker = (struct bf_slot_maker){.slot = slot, .purpose = purpose, .step = MAKER_OPEN, .fd = -1};
}

static int maker_open(struct bf_slot_pool *pool, struct bf_slot_maker *m)
{
    char name[SEGMENT_NAME_BYTES];
    uint32_t mode = m->side == SEGMENT_SEND ? SEND_MODE : RECV_MODE;
    name_of(pool, name, MAKING_PREFIX, m->slot, m->side);
    m->fd = bf_os_open(pool->segment_dir, name, BF_OS_READ_WRITE | BF_OS_CREATE_NEW, mode);
    m->offset = 0;
    m->step = MAKER_ALLOCATE;
    return bf_min(m->fd, 0);
}

/* What both sides find in a new file; all else is zero. */
static int maker_write_header(struct bf_slot_pool *pool, struct bf_slot_maker *m)
{
    const struct bf_geometry *g = &pool->lobby->geometry;
    struct segment_identity identity = {.instance = g->instance,
                                        .slot = m->slot->number,
                                        .generation = m->slot->generation,
                                        .ring_bytes = g->ring_bytes};
    if (m->side == SEGMENT_SEND) {
        struct belfry_abi_send send = {0}; /* parked = 0 differs from recv.bell = 1: nobody sleeps */
        bf_segment_header_init(&send.segment, &identity, m->side);
        return bf_os_write_at(m->fd, &send, sizeof send, 0);
    }
    struct belfry_abi_recv recv = {.bell = 1};
    bf_segment_header_init(&recv.segment, &identity, m->side);
    return bf_os_write_at(m->fd, &recv, sizeof recv, 0);
}

static int maker_allocate(struct bf_slot_pool *pool, struct bf_slot_maker *m)
{
    uint64_t bytes = pool->stride / 2;
    uint64_t step = bf_min(ALLOCATE_BYTES, bytes - m->offset);
    int rc = bf_os_allocate(m->fd, m->offset, step);
    m->offset += step;
    if (rc == 0 && m->offset == bytes) {
        rc = maker_write_header(pool, m);
        m->step = MAKER_MAP;
    }
    return rc;
}

static int maker_map(struct bf_slot_pool *pool, struct bf_slot_maker *m)
{
    uint8_t *at = slot_address(pool, m->slot, m->side);
    void *map;
    int rc = bf_os_map(m->fd, pool->stride / 2, m->side == SEGMENT_RECV, at, &map);
    bf_os_close(m->fd);
    m->fd = -1;
    if (rc == 0 && pool->no_fork)
        bf_os_no_fork(at, pool->stride / 2);
    m->offset = 0;
    m->step = MAKER_POPULATE;
    return rc;
}

static int maker_populate(struct bf_slot_pool *pool, struct bf_slot_maker *m)
{
    uint64_t bytes = pool->stride / 2;
    uint64_t step = bf_min(POPULATE_BYTES, bytes - m->offset);
    int rc = bf_os_populate(slot_address(pool, m->slot, m->side) + m->offset, step, m->side == SEGMENT_RECV);
    m->offset += step;
    if (m->offset == bytes) {
        m->step = m->side == SEGMENT_SEND ? MAKER_OPEN : MAKER_PUBLISH;
        m->side = SEGMENT_RECV;
    }
    return rc;
}

static int maker_rename(struct bf_slot_pool *pool, struct bf_slot_maker *m)
{
    int rc = 0;
    unprotect(pool, m->slot);
    for (int side = SEGMENT_SEND; side <= SEGMENT_RECV && rc == 0; side++) {
        char from[SEGMENT_NAME_BYTES], to[SEGMENT_NAME_BYTES];
        name_of(pool, from, MAKING_PREFIX, m->slot, (enum segment_side)side);
        name_of(pool, to, "", m->slot, (enum segment_side)side);
        rc = bf_os_rename(pool->segment_dir, from, to);
    }
    return rc;
}

/* No event tells that it could not be removed: then all names are looked at, and it counts as a claim that is never
   finished. */
static void drop_name(struct bf_slot_pool *pool, const struct bf_slot *slot)
{
    pool->name_left |= !bf_claim_drop(pool->lock_dir, slot->number);
}

/*
 * The slot is free, and of another generation than when it was last. Whatever lies at its name goes BEFORE anybody can read
 * that: its owner may have removed it, and then it is whose client came next. Who has made his file by now has read an older
 * word, and gives up when he reads it again; who makes his later has nothing to fear from us.
 */
static void offer(struct bf_slot_pool *pool, struct bf_slot *slot, enum belfry_abi_state state)
{
    drop_name(pool, slot);
    bf_slot_publish(slot, state);
    wake_state(pool, slot);
}

/* Both files are ready, and have their names. Returns the slot if it was demanded. */
static struct bf_slot *maker_publish(struct bf_slot_pool *pool)
{
    struct bf_slot_maker *m = &pool->maker;
    struct bf_slot *slot = m->slot;
    slot->send = (const struct belfry_abi_send *)(const void *)slot_address(pool, slot, SEGMENT_SEND);
    slot->recv = (struct belfry_abi_recv *)(void *)slot_address(pool, slot, SEGMENT_RECV);
    store_relaxed(&slot->lobby->parked, BELFRY_PARKED_DATA); /* so that hello rings; before the state that offers it */
    counter_add(&pool->counters->slots_made, 1);
    m->slot = NULL;
    if (m->purpose == MAKE_DEMANDED) {
        counter_add(&pool->counters->slots_made_on_demand, 1);
        slot->phase = SLOT_CLAIMED;
        if (!slot->foreign) { /* else it stays ASKED, and waits for SHARED */
            bf_slot_publish(slot, BELFRY_SLOT_WARM);
            wake_state(pool, slot);
        }
        return slot;
    }
    slot->phase = SLOT_WARM;
    slot->hinted = false; /* whatever was heard was about our own lock file, or an earlier tenant's */
    count_warm(pool, 1);
    if (m->purpose == MAKE_RECYCLED) {
        offer(pool, slot, BELFRY_SLOT_WARM);
        return NULL;
    }
    bf_slot_publish(slot, BELFRY_SLOT_WARM);
    if (m->purpose == MAKE_WARM) { /* the name is our own file's */
        drop_name(pool, slot);
        wake_state(pool, slot);
    }
    return NULL;
}

/* A slot whose state is not a free one, or whose name is our own file's: no segments, and free again. */
static void make_cold(struct bf_slot_pool *pool, struct bf_slot *slot, bool next_generation)
{
    if (slot->phase != SLOT_COLD)
        pool->cold++;
    slot->phase = SLOT_COLD;
    slot->hinted = false;
    if (next_generation)
        slot->generation = (slot->generation + 1) & BELFRY_GENERATION_MASK;
    offer(pool, slot, BELFRY_SLOT_COLD);
}

/* The maker could not: leave no trace, and say so once per pause. */
static void maker_fail(struct bf_slot_pool *pool, int rc)
{
    struct bf_slot_maker *m = &pool->maker;
    struct bf_slot *slot = m->slot;
    bf_os_close(m->fd);
    unlink_segments(pool, slot, MAKING_PREFIX);
    unlink_segments(pool, slot, "");
    unmap_segments(pool, slot);
    m->slot = NULL;
    m->fd = -1;

    int64_t now = bf_os_now_ns();
    if (now >= pool->refill_after_ns)
        bf_log(pool->log, BELFRY_LOG_WARNING, "cannot make the segments of slot %" PRIu32 ": %s", slot->number,
               belfry_error_text(rc == -ENOMEM && m->step == MAKER_MAP ? BELFRY_EMAPS : bf_error_code(rc)));
    pool->refill_after_ns = now + REFILL_PAUSE_NS;

    if (m->purpose == MAKE_DEMANDED)
        bf_slot_pool_give_up(pool, slot, BELFRY_END_NO_MEMORY);
    else
        make_cold(pool, slot, false);
}

static int maker_bite(struct bf_slot_pool *pool)
{
    struct bf_slot_maker *m = &pool->maker;
    switch (m->step) {
    case MAKER_OPEN:
        return maker_open(pool, m);
    case MAKER_ALLOCATE:
        return maker_allocate(pool, m);
    case MAKER_MAP:
        return maker_map(pool, m);
    case MAKER_POPULATE:
        return maker_populate(pool, m);
    case MAKER_PUBLISH:
        return maker_rename(pool, m);
    }
    return 0;
}

/* --- what to make ------------------------------------------------------------------------------------------------ */

static bool wants_refill(const struct bf_slot_pool *pool)
{
    return pool->warm < pool->warm_target && pool->cold > 0 && !pool->closing;
}

bool bf_slot_pool_is_busy(const struct bf_slot_pool *pool)
{
    if (pool->maker.slot != NULL || pool->demand.first != NULL || pool->ended.first != NULL)
        return true;
    return wants_refill(pool) && (pool->refill_after_ns == 0 || bf_os_now_ns() >= pool->refill_after_ns);
}

static struct bf_slot *next_cold(struct bf_slot_pool *pool)
{
    for (uint32_t n = 0; n < pool->count; n++) {
        struct bf_slot *slot = &pool->slots[pool->cursor];
        pool->cursor = (pool->cursor + 1) % pool->count;
        if (slot->phase == SLOT_COLD)
            return slot;
    }
    return NULL;
}

/* Claim a cold slot's name ourselves, so that no client can, and start warming it. */
static void refill(struct bf_slot_pool *pool)
{
    struct bf_slot *slot = next_cold(pool);
    if (slot == NULL)
        return;
    int rc = bf_claim_take(pool->lock_dir, slot->number);
    if (rc == 0) {
        pool->names_taken = 0;
        maker_start(pool, slot, MAKE_WARM);
    } else if (rc != -EEXIST || ++pool->names_taken >= pool->cold) {
        /* -EEXIST: a client was quicker; its event is on the way. But when every name is taken, trying on without a
           pause would keep the shard awake. */
        pool->names_taken = 0;
        pool->refill_after_ns = bf_os_now_ns() + REFILL_PAUSE_NS;
    }
}

/* The wait is over and the wakes are out: the old files go, the next generation begins. */
static void recycle(struct bf_slot_pool *pool, struct bf_slot *slot)
{
    bf_reactor_submit(pool->reactor); /* a wake that is submitted after the unmapping would reach nobody */
    unmap_segments(pool, slot);
    if (pool->warm < pool->warm_target && !pool->closing) {
        slot->generation = (slot->generation + 1) & BELFRY_GENERATION_MASK;
        maker_start(pool, slot, MAKE_RECYCLED);
        return;
    }
    unlink_segments(pool, slot, "");
    make_cold(pool, slot, true);
}

struct bf_slot *bf_slot_pool_bite(struct bf_slot_pool *pool)
{
    struct bf_slot *slot;
    if (pool->maker.slot != NULL) {
        bool last = pool->maker.step == MAKER_PUBLISH;
        int rc = maker_bite(pool);
        if (rc < 0)
            maker_fail(pool, rc);
        else if (last)
            return maker_publish(pool);
    } else if ((slot = slot_queue_take(&pool->demand)) != NULL) {
        if (slot->phase == SLOT_MAKING) /* not given up meanwhile */
            maker_start(pool, slot, MAKE_DEMANDED);
    } else if ((slot = slot_queue_take(&pool->ended)) != NULL) {
        recycle(pool, slot);
    } else if (wants_refill(pool)) {
        refill(pool);
    }
    return NULL;
}

int bf_slot_pool_fill(struct bf_slot_pool *pool)
{
    uint64_t bytes = (uint64_t)pool->warm_target * pool->stride;
    for (uint32_t i = 0; i < pool->warm_target; i++) {
        maker_start(pool, &pool->slots[i], MAKE_FIRST);
        while (pool->maker.slot != NULL) {
            bool last = pool->maker.step == MAKER_PUBLISH;
            int rc = maker_bite(pool);
            if (rc == -ENOSPC)
                return bf_error(BELFRY_ENOSPACE,
                                "no shared memory for warm slot %" PRIu32 " of %" PRIu32
                                ": a shard's warm slots take %" PRIu64 " bytes; make the file system larger, or lower "
                                "warm_pool or ring_bytes",
                                i + 1, pool->warm_target, bytes);
            if (rc < 0)
                return bf_error_errno(rc, "cannot make the segments of slot %" PRIu32, pool->slots[i].number);
            if (last)
                maker_publish(pool);
        }
    }
    return 0;
}

/* --- what the listener asks for ---------------------------------------------------------------------------------- */

void bf_slot_pool_demand(struct bf_slot_pool *pool, struct bf_slot *slot)
{
    if (slot->phase == SLOT_COLD)
        pool->cold--;
    slot->phase = SLOT_MAKING;
    count_active(pool, 1);
    slot_queue_put(&pool->demand, slot);
}

void bf_slot_pool_claimed(struct bf_slot_pool *pool, struct bf_slot *slot)
{
    INVARIANT(slot->phase == SLOT_WARM);
    slot->phase = SLOT_CLAIMED;
    count_warm(pool, -1);
    count_active(pool, 1);
    if (!slot->foreign) /* else it is ASKED already */
        bf_slot_publish(slot, BELFRY_SLOT_OPEN);
}

/* `own` and `theirs` as bf_os_share() has them. */
static int share_segment(const struct bf_slot_pool *pool, const struct bf_slot *slot, enum segment_side side,
                         uint32_t own, uint32_t theirs)
{
    int fd = open_segment(pool, slot, side, BF_OS_READ);
    int rc = fd < 0 ? fd : bf_os_share(fd, own, slot->uid, theirs);
    bf_os_close(fd);
    return rc;
}

int bf_slot_pool_share(struct bf_slot_pool *pool, struct bf_slot *slot)
{
    int rc = share_segment(pool, slot, SEGMENT_RECV, RECV_MODE >> 6, 4);
    if (rc == 0)
        rc = share_segment(pool, slot, SEGMENT_SEND, SEND_MODE >> 6, 6);
    if (rc < 0)
        return rc;
    bf_slot_publish(slot, BELFRY_SLOT_SHARED);
    wake_state(pool, slot);
    return 0;
}

void bf_slot_pool_protect(struct bf_slot_pool *pool, struct bf_slot *slot)
{
    if (!pool->may_protect || slot->protected)
        return;
    int rc = set_append_only(pool, slot, true);
    slot->protected = rc == 0;
    pool->may_protect = rc != -EPERM && rc != -ENOTTY && rc != -EOPNOTSUPP;
}

/* The tenancy is over, also in its user's quota. */
static void vacate(struct bf_slot_pool *pool, struct bf_slot *slot)
{
    count_active(pool, -1);
    if (slot->counted)
        bf_quota_leave(pool->quota, slot->uid);
    slot->counted = false;
}

void bf_slot_pool_remake(struct bf_slot_pool *pool, struct bf_slot *slot)
{
    INVARIANT(slot->phase == SLOT_WARM);
    if (bf_claim_take(pool->lock_dir, slot->number) < 0)
        return; /* the listener will see whose name it is, and that the slot is marked */
    count_warm(pool, -1);
    count_active(pool, 1);
    bf_slot_publish(slot, BELFRY_SLOT_CLOSED);
    slot->phase = SLOT_ENDING;
    bf_slot_pool_recycle(pool, slot);
}

void bf_slot_pool_recycle(struct bf_slot_pool *pool, struct bf_slot *slot)
{
    vacate(pool, slot);
    slot_queue_put(&pool->ended, slot);
}

void bf_slot_pool_give_up(struct bf_slot_pool *pool, struct bf_slot *slot, enum belfry_end reason)
{
    vacate(pool, slot);
    counter_add(&pool->counters->refusals[reason], 1);
    store_relaxed(&slot->lobby->reason, (uint32_t)reason);
    bf_slot_publish(slot, BELFRY_SLOT_CLOSED);
    make_cold(pool, slot, true);
}

/* Both segments are of the next generation. */
static int next_generation(struct bf_slot_pool *pool, struct bf_slot *slot)
{
    slot->generation = (slot->generation + 1) & BELFRY_GENERATION_MASK;
    store_relaxed(&slot->recv->segment.generation, slot->generation);
    int fd = open_segment(pool, slot, SEGMENT_SEND, BF_OS_WRITE); /* our own map of it is read-only */
    int rc = fd < 0 ? fd
                    : bf_os_write_at(fd, &slot->generation, sizeof slot->generation,
                                     offsetof(struct belfry_abi_segment, generation));
    bf_os_close(fd);
    return rc;
}

/* Nobody has been let at its segments: they serve the next one. */
static void offer_again(struct bf_slot_pool *pool, struct bf_slot *slot)
{
    slot->hinted = false;
    if (next_generation(pool, slot) == 0 && pool->warm < pool->warm_target && load_relaxed(&slot->faulted) == 0) {
        slot->phase = SLOT_WARM;
        count_warm(pool, 1);
        offer(pool, slot, BELFRY_SLOT_WARM);
        return;
    }
    unlink_segments(pool, slot, "");
    unmap_segments(pool, slot);
    make_cold(pool, slot, false);
}

void bf_slot_pool_give_back(struct bf_slot_pool *pool, struct bf_slot *slot, enum belfry_end reason)
{
    INVARIANT(slot->phase == SLOT_CLAIMED && slot->foreign && !slot->wait_armed);
    vacate(pool, slot);
    counter_add(&pool->counters->refusals[reason], 1);
    store_relaxed(&slot->lobby->reason, (uint32_t)reason);
    offer_again(pool, slot);
}

void bf_slot_pool_clear(struct bf_slot_pool *pool, struct bf_slot *slot)
{
    INVARIANT(slot->phase == SLOT_COLD || slot->phase == SLOT_WARM);
    if (slot->phase == SLOT_COLD) {
        make_cold(pool, slot, true);
        return;
    }
    count_warm(pool, -1);
    slot->phase = SLOT_ENDING;
    offer_again(pool, slot);
}

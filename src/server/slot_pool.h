/* SPDX-License-Identifier: MIT */
/*
 * slot_pool.h: a shard's slots, and the making of their segments.
 *
 * The pool keeps `warm_target` free slots warm, makes cold ones on demand, and gives every tenant new files: an earlier
 * client may still have the old ones mapped. Making a slot takes 100 us and more, so it is done in bites of some 20 us:
 * the shard calls bf_slot_pool_bite() once per turn and serves its conns in between.
 *
 * The names of a slot's files change only while no client can take it: its state is not a free one, or the pool, which
 * warms it, has made its lock file itself.
 *
 * One thread: the shard's. The pool knows nothing of conns.
 */
#ifndef BF_SERVER_SLOT_POOL_H
#define BF_SERVER_SLOT_POOL_H

#include "base/log.h"
#include "base/order.h"
#include "io/reactor.h"
#include "server/quota.h"
#include "server/slot.h"
#include "shm/lobby.h"
#include "shm/segment.h"

enum maker_purpose { MAKE_FIRST, MAKE_WARM, MAKE_DEMANDED, MAKE_RECYCLED };
enum maker_step { MAKER_OPEN, MAKER_ALLOCATE, MAKER_MAP, MAKER_POPULATE, MAKER_PUBLISH };

/* The slot being made; one at a time. */
struct bf_slot_maker {
    struct bf_slot *slot; /* NULL: idle */
    enum maker_purpose purpose;
    enum maker_step step;
    enum segment_side side;
    uint64_t offset;
    int fd;
};

struct bf_slot_pool {
    const struct bf_lobby *lobby;
    const struct bf_log *log;
    struct bf_reactor *reactor; /* for telling who waits on a slot's state */
    struct bf_quota *quota;
    belfry_counters *counters;
    struct belfry_abi_shard *shard;
    int lock_dir;
    int segment_dir;
    bool no_fork;
    bool may_protect;

    struct bf_slot *slots;
    uint32_t count;
    uint32_t cold;
    uint32_t warm;
    uint32_t warm_target;
    uint32_t active;      /* slots with a tenant, accepted or not */
    uint32_t cursor;      /* where to look for the next cold slot */
    uint32_t names_taken; /* cold slots in a row whose name somebody else had */
    bool closing;         /* no slot is warmed any more */
    int64_t refill_after_ns;

    uint8_t *range; /* slot i: send at range + i * stride, recv right after it */
    uint64_t stride;

    bool name_left; /* a lock file could not be removed; the listener looks */

    uint32_t faults; /* 1: a slot is marked as faulted, and the shard has not looked yet; set by guard.c */

    struct bf_slot_maker maker;
    struct bf_slot_queue demand;
    struct bf_slot_queue ended;
};

struct bf_slot_pool_config {
    const struct bf_lobby *lobby;
    const struct bf_log *log;
    struct bf_reactor *reactor;
    struct bf_quota *quota;
    uint32_t shard;
    uint32_t warm_target;
    int lock_dir;
    int segment_dir;
    bool no_fork;
};

/* Reserve the range and make all slots cold. 0, -ENOMEM. */
int bf_slot_pool_open(struct bf_slot_pool *pool, const struct bf_slot_pool_config *config);
void bf_slot_pool_close(struct bf_slot_pool *pool);

/* Make the first warm slots, before any client can know of them. 0, BELFRY_ENOSPACE, -errno. */
int bf_slot_pool_fill(struct bf_slot_pool *pool);

/* Is there something for bf_slot_pool_bite() to do? After a failed refill it pauses. */
bool bf_slot_pool_is_busy(const struct bf_slot_pool *pool);

/* One bite. Returns a slot whose demanded segments have just become ready, else NULL. */
struct bf_slot *bf_slot_pool_bite(struct bf_slot_pool *pool);

/* A client has locked a cold slot: make its segments. */
void bf_slot_pool_demand(struct bf_slot_pool *pool, struct bf_slot *slot);

/* Let another user's client at the slot's segments, and tell it that it has the slot. 0, -errno. */
int bf_slot_pool_share(struct bf_slot_pool *pool, struct bf_slot *slot);

/* That client has mapped them: from here on it cannot take the memory away, where we may forbid it. */
void bf_slot_pool_protect(struct bf_slot_pool *pool, struct bf_slot *slot);

/* A warm slot has got a tenant. */
void bf_slot_pool_claimed(struct bf_slot_pool *pool, struct bf_slot *slot);

/* A slot's tenant is gone, its wait is over: give it new files or make it cold. */
void bf_slot_pool_recycle(struct bf_slot_pool *pool, struct bf_slot *slot);

/* The claim of another user's client, who has not been let at the segments, is refused because of `reason`: they serve
   the next one. */
void bf_slot_pool_give_back(struct bf_slot_pool *pool, struct bf_slot *slot, enum belfry_end reason);

/* Nobody has this free slot, but something lies at its name. The caller has published that it is closed, and then seen that
   the thing is still there. */
void bf_slot_pool_clear(struct bf_slot_pool *pool, struct bf_slot *slot);

/* Nobody has this warm slot, and its segments are no good: new ones, unless a client is just coming. */
void bf_slot_pool_remake(struct bf_slot_pool *pool, struct bf_slot *slot);

/* A claimed slot without segments is given up, because of `reason`. */
void bf_slot_pool_give_up(struct bf_slot_pool *pool, struct bf_slot *slot, enum belfry_end reason);

/* Publish a slot's state word in the lobby. */
void bf_slot_publish(struct bf_slot *slot, enum belfry_abi_state state);

static inline void counter_add(uint64_t *counter, int64_t n)
{
    store_relaxed(counter, load_relaxed(counter) + (uint64_t)n); /* the shard is the only writer */
}

#endif

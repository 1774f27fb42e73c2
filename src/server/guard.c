/* SPDX-License-Identifier: MIT */
/*
 * guard.c: see guard.h. From the address to the slot, in a signal handler.
 *
 * The handler may run on any thread at any time, so it takes no lock, and the ranges that it walks through are never freed:
 * one that is taken out is used again. It may be changing while it is looked at; then its version tells, and it is not the
 * one that is looked for. For whoever touches a slot does so between add and remove (docs/ORDERING.md, "The guard").
 */
#include "server/guard.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/order.h"
#include "base/os.h"
#include "server/listener.h"

struct guard_range {
    struct guard_range *next; /* never changes */
    uint32_t taken;
    uint32_t version; /* odd: what follows says nothing */
    uintptr_t start;
    uintptr_t bytes;
    struct bf_slot_pool *pool;
};

static struct guard_range *ranges; /* the newest */

/* --- in the signal handler ----------------------------------------------------------------------------------------- */

/* Zeros in place of one segment. The slot is marked before the pool: who sees that one looks for the other. */
static bool cover(struct bf_slot_pool *pool, uintptr_t offset)
{
    uintptr_t half = pool->stride / 2, number = offset / half;
    if (bf_os_map_zeros(pool->range + number * half, half, number % 2 != 0) < 0)
        return false;
    store_relaxed(&pool->slots[number / 2].faulted, 1);
    store_release(&pool->faults, 1); /* partner: bf_guard_take */
    return true;
}

static bool repair(void *address)
{
    for (struct guard_range *r = load_acquire(&ranges); r != NULL; r = r->next) {
        uint32_t version = load_acquire(&r->version);
        uintptr_t offset = (uintptr_t)address - load_acquire(&r->start);
        uintptr_t bytes = load_acquire(&r->bytes);
        struct bf_slot_pool *pool = load_acquire(&r->pool);
        if (version % 2 == 0 && offset < bytes && load_relaxed(&r->version) == version)
            return cover(pool, offset);
    }
    return false;
}

/* --- on the shard's thread ----------------------------------------------------------------------------------------- */

static struct guard_range *take_free(void)
{
    for (struct guard_range *r = load_acquire(&ranges); r != NULL; r = r->next) {
        uint32_t taken = 0;
        if (replace_acq_rel(&r->taken, &taken, 1))
            return r;
    }
    return NULL;
}

static struct guard_range *make(void)
{
    struct guard_range *r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    *r = (struct guard_range){.taken = 1, .version = 1, .next = load_relaxed(&ranges)};
    while (!replace_release(&ranges, &r->next, r)) /* partner: repair */
        ;
    return r;
}

struct guard_range *bf_guard_add(struct bf_slot_pool *pool)
{
    struct guard_range *r = take_free();
    if (r == NULL)
        r = make();
    if (r == NULL)
        return NULL;
    store_release(&r->start, (uintptr_t)pool->range); /* partner of all four: repair */
    store_release(&r->bytes, pool->count * pool->stride);
    store_release(&r->pool, pool);
    store_release(&r->version, load_relaxed(&r->version) + 1);
    return r;
}

void bf_guard_remove(struct guard_range *r)
{
    if (r == NULL)
        return;
    INVARIANT(load_relaxed(&r->version) % 2 == 0);
    store_relaxed(&r->version, load_relaxed(&r->version) + 1);
    store_release(&r->taken, 0); /* partner: take_free */
}

void bf_guard_take(struct bf_shard *s)
{
    exchange_acquire(&s->pool.faults, 0); /* partner: cover */
    for (uint32_t i = 0; i < s->pool.count; i++) {
        struct bf_slot *slot = &s->pool.slots[i];
        if (slot->phase == SLOT_OPEN && load_relaxed(&slot->faulted) != 0)
            bf_listener_end(s, slot, BELFRY_END_PEER_FAULT);
    }
}

int bf_guard_start(const struct bf_log *log)
{
    int front = bf_fault_catch(repair);
    if (front < 0)
        return bf_error_errno(front, "cannot take SIGBUS");
    if (front == BF_FAULT_ANOTHERS)
        bf_log(
            log, BELFRY_LOG_INFO,
            "a handler for SIGBUS that was installed after belfry's is asked first: it must call the one that it found");
    if (front == BF_FAULT_NOBODYS)
        bf_log(log, BELFRY_LOG_WARNING,
               "SIGBUS was set back to its default after belfry had taken it: a client that truncates its segment now "
               "kills this process; restore the handler that was there");
    return 0;
}

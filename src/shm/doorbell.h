/* SPDX-License-Identifier: MIT */
/*
 * doorbell.h: how nobody sleeps through a message and nobody pays for a wake that is not needed.
 *
 * Each direction is the same dance. The one who is about to sleep: reads the bell, says so (parked), full fence, looks
 * once more, sleeps on the value read. The one who has news: makes them visible, full fence, reads whether the other
 * said so, and only then bumps the bell and wakes. Whatever the timing, either the sleeper's last look finds the news
 * or the other's look finds the sleeper; without either fence both can miss (docs/ORDERING.md has the rows).
 *
 * News are three: an entry committed, a position published (room), an end.
 */
#ifndef BF_SHM_DOORBELL_H
#define BF_SHM_DOORBELL_H

#include <belfry/abi.h>

#include "base/order.h"

/* --- client to server --- */

/*
 * After a burst and a full fence: must the server be rung? `asleep` covers every slot of the shard; the slot's own
 * `parked` covers a slot that an awake shard no longer polls, and one whose full reply ring is waited on.
 */
static inline bool doorbell_server_wants(const struct belfry_abi_slot *slot, const struct belfry_abi_shard *shard,
                                         bool committed, bool published)
{
    uint32_t parked = load_relaxed(&slot->parked);
    if (committed && ((parked & BELFRY_PARKED_DATA) != 0 || load_relaxed(&shard->asleep) != 0))
        return true;
    return published && (parked & BELFRY_PARKED_SPACE) != 0;
}

/* Bump the client's own bell; the wake itself is the caller's. Only the client writes the word. */
static inline void doorbell_bump_send(struct belfry_abi_send *send)
{
    store_release(&send->bell, load_relaxed(&send->bell) + 1); /* partner: the kernel's compare, doorbell_send_value */
}

/* What the server will wait on. Read before `parked` is set and before the last look. */
static inline uint32_t doorbell_send_value(const struct belfry_abi_send *send)
{
    return load_acquire(&send->bell);
}

/* --- server to client --- */

/* After a full fence: does the sleeper behind these words want a wake? Equal means it is about to wait on that value. */
static inline bool doorbell_client_wants(const struct belfry_abi_send *send, const struct belfry_abi_recv *recv)
{
    return load_relaxed(&send->parked) == load_relaxed(&recv->bell);
}

/* Bump first, then queue the wake: in this order. */
static inline void doorbell_bump_recv(struct belfry_abi_recv *recv)
{
    store_release(&recv->bell, load_relaxed(&recv->bell) + 1); /* partner: the kernel's compare, doorbell_park_client */
}

/* The client says that it is about to sleep. Returns the value to wait on; a full fence and a last look must follow. */
static inline uint32_t doorbell_park_client(struct belfry_abi_send *send, const struct belfry_abi_recv *recv)
{
    uint32_t value = load_acquire(&recv->bell);
    store_relaxed(&send->parked, value);
    return value;
}

/* It does not sleep after all, or no longer. */
static inline void doorbell_unpark_client(struct belfry_abi_send *send)
{
    store_relaxed(&send->parked, load_relaxed(&send->parked) - 1);
}

#endif

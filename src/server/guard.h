/* SPDX-License-Identifier: MIT */
/*
 * guard.h: a client that takes the memory away from under the server loses its conn, and the server nothing.
 *
 * Whoever may open a segment may cut it short (ftruncate), or leave it without pages on a full file system. The next access to
 * what is gone is a SIGBUS, on whatever thread: the shard's, or one that a handler has lent its message to. The guard puts
 * zeros in place of that segment, so that the access succeeds, and marks the slot. The shard looks once per turn whether
 * there is one, and ends its conn. Zeros are an empty ring: until then nothing is read of it.
 *
 * What tells that an address is ours is the pool's reserved range. Everything else goes to the handler that was there before.
 */
#ifndef BF_SERVER_GUARD_H
#define BF_SERVER_GUARD_H

#include "base/log.h"
#include "server/slot_pool.h"

struct bf_shard;
struct guard_range; /* as long as the process lives */

/* Catch SIGBUS in this process, if that has not been done. Says so when somebody else is in front. 0 or -errno. */
int bf_guard_start(const struct bf_log *log);

/* Before the pool's first segment is mapped. NULL: no memory. */
struct guard_range *bf_guard_add(struct bf_slot_pool *pool);

/* Before the pool's addresses are given back. NULL is accepted. */
void bf_guard_remove(struct guard_range *range);

/*
 * The shard's step: some of its slots are marked, and their conns end. A claim is refused when it is looked at next (listener.c),
 * a warm slot made anew by the sweep that finds it (sleep.c).
 */
void bf_guard_take(struct bf_shard *shard) __attribute__((cold));

#endif

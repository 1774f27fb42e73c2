/* SPDX-License-Identifier: MIT */
/*
 * lost.h: a shard's thread that ends before its shard does.
 *
 * A handler may call pthread_exit(), be cancelled, or end its thread by the bare system call. The clients of the shard are
 * told by its obituary, but the lobby, the lock and the other shards go on as if the service were whole. So the process
 * ends, loudly: whoever starts it again gets all of it back, and its clients find that one. Only a thread with a loop of
 * its own (own_loop.c) may end: it was the whole server, and the program's. That is said, no more.
 *
 * The thread itself notices when it runs its destructors. What comes without them leaves OWNER_DIED in the shard's
 * own obituary, which belfry_server_wait() waits for, and other shards look at in their sweep.
 */
#ifndef BF_SERVER_LOST_H
#define BF_SERVER_LOST_H

#include "server/shard.h"

/* The calling thread is the shard's, until it forgets it again. 0 or -errno. */
int bf_lost_watch(struct bf_shard *shard);
void bf_lost_forget(struct bf_shard *shard);

/* Has another shard's thread died? */
void bf_lost_look(const struct belfry_server *server);

/* Wait until every shard that has started has told its clients of its end. The threads end soon after. */
void bf_lost_wait(const struct belfry_server *server);

#endif

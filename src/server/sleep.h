/* SPDX-License-Identifier: MIT */
/* sleep.h: the shard's way to sleep, and what it does by the clock. See sleep.c. */
#ifndef BF_SERVER_SLEEP_H
#define BF_SERVER_SLEEP_H

#include "server/shard.h"

#define SWEEP_NS_MIN 1000000000ll
#define SWEEP_NS_MAX 60000000000ll

/* Say that we are about to sleep, look once more at everything, and sleep if there was nothing. */
void bf_shard_sleep(struct bf_shard *shard);

/*
 * The same for a shard whose thread sleeps elsewhere: true, there was nothing, and from now on the shard's event is set
 * by the kernel when there is; false, there is work, and the event may have been cleared. bf_shard_rouse() ends it, at the
 * next turn; it is also right for a shard that does not doze.
 */
bool bf_shard_doze(struct bf_shard *shard);
void bf_shard_rouse(struct bf_shard *shard);

/* What a shard that does not sleep must do by the clock now and then. */
void bf_shard_tick(struct bf_shard *shard);

#endif

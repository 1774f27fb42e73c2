/* SPDX-License-Identifier: MIT */
/*
 * instance.h: the numbered directory of one running server, and the `current` link that makes it the one.
 *
 * Starting is serialised by a lock on <service>/.start. Whoever holds it also sweeps the directories of instances whose
 * lobby nobody holds: they are dead, and the kernel says so.
 */
#ifndef BF_SERVER_INSTANCE_H
#define BF_SERVER_INSTANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "shm/place.h"

struct bf_instance {
    uint64_t number; /* 0: not made */
    int service_dir;
    int dir;
    int segment_dir;
    int start_lock; /* held while >= 0 */
    uint64_t tmpfs_free_bytes;
};

#define BF_INSTANCE_NULL ((struct bf_instance){.service_dir = -1, .dir = -1, .segment_dir = -1, .start_lock = -1})

/* Open the service, take the start lock, make the directory of the next instance. On failure nothing is left. */
int bf_instance_make(struct bf_instance *instance, const struct bf_place *place, enum place_door door, uint32_t gid,
                     uint32_t shards);

/* Make it current, sweep the dead, let go of the start lock. */
int bf_instance_publish(struct bf_instance *instance, const struct bf_log *log);

/* Remove `current` if it is still us, our files, our descriptors. Also for a half-made one. */
void bf_instance_remove(struct bf_instance *instance);

/* Open the lock directory of a shard. */
int bf_instance_open_locks(const struct bf_instance *instance, uint32_t shard);

#endif

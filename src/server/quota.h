/* SPDX-License-Identifier: MIT */
/*
 * quota.h: what one other user has of a server, and how much of it one user may have.
 *
 * A user is counted while he has something, and until the second is over in which he connected. Only claims, ends and
 * large messages are counted, so a mutex that all shards share is cheap enough. The server's own user has no limits.
 *
 * Any shard's thread. Nothing here makes a system call unless two shards meet.
 */
#ifndef BF_SERVER_QUOTA_H
#define BF_SERVER_QUOTA_H

#include <pthread.h>

#include <belfry/server.h>

#define QUOTA_LISTS 64 /* a power of two */

struct bf_quota {
    uint32_t own_uid;
    uint32_t slots_max;
    uint32_t connects_max; /* per second */
    uint64_t bytes_max;
    pthread_mutex_t mutex;
    struct quota_user *users[QUOTA_LISTS];
};

void bf_quota_init(struct bf_quota *quota, const belfry_server_options *options);
void bf_quota_deinit(struct bf_quota *quota);

/* One more slot for this user. BELFRY_END_NONE: count it until bf_quota_leave(); else BELFRY_END_QUOTA, _NO_MEMORY. */
enum belfry_end bf_quota_enter(struct bf_quota *quota, uint32_t uid, int64_t now_ns);
void bf_quota_leave(struct bf_quota *quota, uint32_t uid);

/* So many bytes more of large messages. False: too many; nothing is counted. Only for a user who has a slot. */
bool bf_quota_charge(struct bf_quota *quota, uint32_t uid, uint64_t bytes);
void bf_quota_discharge(struct bf_quota *quota, uint32_t uid, uint64_t bytes);

#endif

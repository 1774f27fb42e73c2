/* SPDX-License-Identifier: MIT */
/*
 * obituary.h: how clients learn of a shard's death without polling.
 *
 * Each shard's thread holds a robust, process-shared mutex that lies in the lobby. When the thread dies, however it
 * dies, the kernel walks the thread's list of robust mutexes, sets OWNER_DIED in the word and wakes a waiter. Clients
 * wait on that word through their read-only map beside their doorbell; the one that is woken wakes the others. A clean
 * stop writes STOPPED instead.
 */
#ifndef BF_SERVER_OBITUARY_H
#define BF_SERVER_OBITUARY_H

#include <belfry/abi.h>

int bf_obituary_open(struct belfry_abi_shard *shard);   /* the shard's thread, at its start */
void bf_obituary_close(struct belfry_abi_shard *shard); /* the shard's thread, at its clean end */

#endif

/* SPDX-License-Identifier: MIT */
/*
 * obituary.h: how clients learn of a shard's death without polling.
 *
 * Each shard's thread holds a robust, process-shared mutex that lies in the lobby. When the thread dies, however it
 * dies, the kernel walks the thread's list of robust mutexes, sets OWNER_DIED in the word and wakes a waiter. Clients
 * wait on that word through their read-only map beside their doorbell; the one that is woken wakes the others. A clean
 * stop writes STOPPED instead.
 *
 * The kernel wakes one. Whoever is killed with the thread takes that wake with him, and the clients learn of the death by
 * their time-outs. So nobody of the server's own process may wait on that word: a shard has a second, for them.
 */
#ifndef BF_SERVER_OBITUARY_H
#define BF_SERVER_OBITUARY_H

#include <stdint.h>

/* `word`: the first of a line that has nothing else in it, which must be zero. By the shard's thread, at its start. */
int bf_obituary_open(uint32_t *word);
void bf_obituary_close(uint32_t *word); /* the same thread, at its clean end */

#endif

/* SPDX-License-Identifier: MIT */
/*
 * block.h: memory for one message, made on one thread and freed on another.
 *
 * Small ones are malloc's. Large ones are mapped, in huge pages where the kernel has them: a message of 1 GiB is then
 * 512 faults and not 262,144, and as many pages less to give back. Nothing is touched before it is written to.
 */
#ifndef BF_BASE_BLOCK_H
#define BF_BASE_BLOCK_H

#include <stdbool.h>
#include <stddef.h>

/* Aligned to 16. NULL: no memory. Any thread. */
void *bf_block_alloc(size_t bytes);
void bf_block_free(void *block); /* NULL is accepted */

/* Is it a map of its own, which the kernel clears as it is written to? */
bool bf_block_is_mapped(const void *block);

#endif

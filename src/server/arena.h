/* SPDX-License-Identifier: MIT */
/*
 * arena.h: one shard's heap: conn objects, outboxes, what handlers ask for with belfry_alloc().
 *
 * With jemalloc each shard has an arena of its own, so its memory is touched by its own core only and can be counted
 * and purged apart; with -Dallocator=libc it is malloc. Either way the shard counts its own bytes. Of jemalloc only
 * mallocx, dallocx and mallctl are called. One thread: the shard's.
 */
#ifndef BF_SERVER_ARENA_H
#define BF_SERVER_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bf_arena {
    unsigned index; /* jemalloc's number */
    bool open;
    uint64_t allocated_bytes; /* asked for and not yet freed */
};

int bf_arena_open(struct bf_arena *arena); /* 0 or -ENOMEM */
void bf_arena_close(struct bf_arena *arena);
void *bf_arena_alloc(struct bf_arena *arena, size_t bytes); /* aligned to 16; NULL: none */
void bf_arena_free(struct bf_arena *arena, void *pointer);  /* NULL is accepted */

/* Give unused memory back to the system. Returns what the allocator says is in use in this arena, for comparison with
   allocated_bytes; 0 when the allocator cannot tell. */
uint64_t bf_arena_purge(struct bf_arena *arena);

#endif

/* SPDX-License-Identifier: MIT */
/* arena.c: see arena.h. Each block begins with its size, because only its owner knows it and nobody else asks. */
#include "server/arena.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/build.h"
#include "base/check.h"
#include "base/error.h"

/* 16 bytes, so that what follows is aligned as malloc's is. */
struct block {
    size_t bytes;
    size_t reserved;
};

#if BF_ALLOCATOR_IS_JEMALLOC

#include <jemalloc/jemalloc.h>

/* No thread cache: what is freed is back in the arena at once, and its statistics are exact. */
#define ARENA_FLAGS(arena) (MALLOCX_ARENA((arena)->index) | MALLOCX_TCACHE_NONE | MALLOCX_ALIGN(16))

int bf_arena_open(struct bf_arena *arena)
{
    *arena = (struct bf_arena){0};
    size_t bytes = sizeof arena->index;
    if (mallctl("arenas.create", &arena->index, &bytes, NULL, 0) != 0)
        return bf_error(-ENOMEM, "jemalloc has no arena left for a shard");
    arena->open = true;
    return 0;
}

static void arena_control(const struct bf_arena *arena, const char *command)
{
    char name[48];
    snprintf(name, sizeof name, "arena.%u.%s", arena->index, command);
    mallctl(name, NULL, NULL, NULL, 0);
}

void bf_arena_close(struct bf_arena *arena)
{
    if (arena->open)
        arena_control(arena, "destroy");
    arena->open = false;
}

static void *heap_alloc(struct bf_arena *arena, size_t bytes)
{
    return mallocx(bytes, ARENA_FLAGS(arena));
}

static void heap_free(struct bf_arena *arena, void *pointer)
{
    dallocx(pointer, ARENA_FLAGS(arena));
}

static uint64_t arena_statistic(const struct bf_arena *arena, const char *what)
{
    char name[64];
    size_t value = 0, bytes = sizeof value;
    snprintf(name, sizeof name, "stats.arenas.%u.%s", arena->index, what);
    return mallctl(name, &value, &bytes, NULL, 0) == 0 ? value : 0;
}

uint64_t bf_arena_purge(struct bf_arena *arena)
{
    uint64_t epoch = 1;
    size_t bytes = sizeof epoch;
    arena_control(arena, "purge");
    mallctl("epoch", &epoch, &bytes, &epoch, sizeof epoch);
    return arena_statistic(arena, "small.allocated") + arena_statistic(arena, "large.allocated");
}

#else

int bf_arena_open(struct bf_arena *arena)
{
    *arena = (struct bf_arena){.open = true};
    return 0;
}

void bf_arena_close(struct bf_arena *arena)
{
    arena->open = false;
}

static void *heap_alloc(struct bf_arena *arena, size_t bytes)
{
    (void)arena;
    return malloc(bytes);
}

static void heap_free(struct bf_arena *arena, void *pointer)
{
    (void)arena;
    free(pointer);
}

uint64_t bf_arena_purge(struct bf_arena *arena)
{
    (void)arena;
    return 0;
}

#endif

void *bf_arena_alloc(struct bf_arena *arena, size_t bytes)
{
    if (bytes > PTRDIFF_MAX - sizeof(struct block))
        return NULL;
    struct block *block = heap_alloc(arena, sizeof *block + bytes);
    if (block == NULL)
        return NULL;
    block->bytes = sizeof *block + bytes;
    arena->allocated_bytes += block->bytes;
    return block + 1;
}

void bf_arena_free(struct bf_arena *arena, void *pointer)
{
    if (pointer == NULL)
        return;
    struct block *block = (struct block *)pointer - 1;
    INVARIANT(arena->allocated_bytes >= block->bytes);
    arena->allocated_bytes -= block->bytes;
    heap_free(arena, block);
}

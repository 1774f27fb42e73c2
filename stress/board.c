/* SPDX-License-Identifier: MIT */
/* board.c: see board.h. */
#include "board.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static size_t board_bytes(uint32_t worker_count)
{
    return sizeof(struct board_shared) + worker_count * sizeof(struct worker_shared);
}

struct board_shared *board_create(uint32_t worker_count)
{
    /* Much of it is histograms, of which a worker touches a few pages only: NORESERVE keeps the rest free of charge. */
    struct board_shared *b = mmap(NULL, board_bytes(worker_count), PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b == MAP_FAILED)
        return NULL;
    b->worker_count = worker_count;
    return b;
}

void board_destroy(struct board_shared *b)
{
    if (b)
        munmap(b, board_bytes(b->worker_count));
}

/* Not a private futex: those who wait are other processes. */
void board_begin(struct board_shared *b, enum phase phase)
{
    atomic_store_explicit(&b->phase, (uint32_t)phase, memory_order_release); /* pairs with board_phase() */
    syscall(SYS_futex, &b->phase, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

enum phase board_await(struct board_shared *b, enum phase phase)
{
    for (;;) {
        enum phase now = board_phase(b);
        if (now >= phase)
            return now;
        syscall(SYS_futex, &b->phase, FUTEX_WAIT, (uint32_t)now, NULL, NULL, 0);
    }
}

uint64_t board_sum(struct board_shared *b, size_t counter_offset)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < b->worker_count; i++) {
        const char *worker = (const char *)&b->worker[i];
        sum += atomic_load_explicit((const _Atomic uint64_t *)(worker + counter_offset), memory_order_relaxed);
    }
    return sum;
}

uint32_t board_attached(struct board_shared *b)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < b->worker_count; i++)
        sum += atomic_load_explicit(&b->worker[i].attached, memory_order_relaxed);
    return sum;
}

const struct worker_shared *board_first_error(struct board_shared *b)
{
    for (uint32_t i = 0; i < b->worker_count; i++)
        if (atomic_load_explicit(&b->worker[i].error, memory_order_acquire) != 0)
            return &b->worker[i];
    return NULL;
}

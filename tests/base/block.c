/* SPDX-License-Identifier: MIT */
/* Tests of base/block.c: memory for one message. */
#include "base/block.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>

#include "expect.h"
#include "fixture.h"

/* kB of this process in memory. */
static unsigned long resident_kb(void)
{
    char line[256];
    unsigned long kb = 0;
    FILE *status = fopen("/proc/self/status", "r");
    expect(status != NULL);
    while (fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "VmRSS: %lu", &kb) == 1)
            break;
    fclose(status);
    expect(kb > 0);
    return kb;
}

static void *free_it(void *block)
{
    bf_block_free(block);
    return NULL;
}

Test(block, is_aligned_and_writable_at_every_size_and_freed_by_any_thread)
{
    static const size_t sizes[] = {0, 1, 15, 4096, (1u << 20) - 17, (1u << 20) - 16, 1u << 20, (5u << 20) + 3};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        pthread_t thread;
        uint8_t *block = bf_block_alloc(sizes[i]);
        expect(block != NULL && (uintptr_t)block % 16 == 0);
        memset(block, 0xa5, sizes[i]);
        expect_eq(pthread_create(&thread, NULL, free_it, block), 0);
        expect_eq(pthread_join(thread, NULL), 0);
    }
    bf_block_free(NULL);
}

Test(block, takes_memory_only_where_it_is_written_and_gives_it_back)
{
    size_t bytes = 256u << 20;
    unsigned long before = resident_kb(), spare_kb = bytes / 8192; /* for what a sanitizer notes beside it */
    uint8_t *block = bf_block_alloc(bytes);
    expect(block != NULL);
    expect(resident_kb() < before + spare_kb);
    memset(block, 1, bytes / 4);
    expect(resident_kb() >= before + bytes / 4096);
    bf_block_free(block);
    expect(resident_kb() < before + spare_kb);
}

Test(block, that_is_large_begins_with_a_huge_page_and_leaves_no_addresses_behind)
{
    static const size_t sizes[] = {2u << 20, (2u << 20) - 16, (2u << 20) + 4096, 5u << 20, (8u << 20) - 17};
    uint8_t *some = bf_block_alloc(100);
    expect(!bf_block_is_mapped(some));
    bf_block_free(some);
    uint64_t before = fixture_mapped_bytes();
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof sizes[0]; i++) {
        size_t bytes = sizes[i / 2];
        void *odd = i % 2 == 0 ? NULL : bf_block_alloc(1u << 20); /* so that the next begins elsewhere */
        uint8_t *block = bf_block_alloc(bytes);
        expect(block != NULL && bf_block_is_mapped(block));
        expect_eq((uintptr_t)block % (2u << 20), 0);
        unsigned char there;
        expect_eq(mincore(block, 4096, &there), 0);
        expect_eq(there & 1, 0); /* nothing of it is written to */
        block[0] = block[bytes - 1] = 1;
        bf_block_free(block);
        bf_block_free(odd);
        expect_eq(fixture_mapped_bytes(), before);
    }
}

Test(block, of_more_than_there_can_be_is_none)
{
    expect(bf_block_alloc(SIZE_MAX) == NULL);
    expect(bf_block_alloc(SIZE_MAX - 16) == NULL);
    expect(bf_block_alloc(SIZE_MAX / 2 - 64) == NULL);
}

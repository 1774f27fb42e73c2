/* SPDX-License-Identifier: MIT */
/* block.c: see block.h. */
#include "base/block.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/os.h"

#define MAPPED_BYTES_MIN (1u << 20)

/* What stands before each block: 16 bytes, so that what follows is aligned as malloc's is. */
struct head {
    size_t mapped_bytes; /* 0: malloc's */
    size_t reserved;
};

/* The head of a map is in the small page before it: writing it touches no page of the block's own. */
static struct head *map_block(size_t bytes)
{
    struct head *at = bf_os_map_memory(bytes);
    return at == NULL ? NULL : at - 1;
}

void *bf_block_alloc(size_t bytes)
{
    if (bytes > PTRDIFF_MAX - sizeof(struct head))
        return NULL;
    bool mapped = bytes >= MAPPED_BYTES_MIN;
    struct head *head = mapped ? map_block(bytes) : malloc(sizeof *head + bytes);
    if (head == NULL)
        return NULL;
    *head = (struct head){.mapped_bytes = mapped ? bytes : 0};
    return head + 1;
}

void bf_block_free(void *block)
{
    if (block == NULL)
        return;
    struct head *head = (struct head *)block - 1;
    if (head->mapped_bytes > 0)
        bf_os_unmap_memory(block, head->mapped_bytes);
    else
        free(head);
}

bool bf_block_is_mapped(const void *block)
{
    return ((const struct head *)block - 1)->mapped_bytes > 0;
}

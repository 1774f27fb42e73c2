/* SPDX-License-Identifier: MIT */
/*
 * parts.c: extension blocks and parts, read from an entry whose bytes are the fuzzer's and change under the reader's eyes.
 *
 * The block is read once, so what comes out is what one state of the memory says; and what was written is read back.
 */
#include "shm/parts.h"
#include "loads.h"

#define ENTRY_BYTES 1024u
#define WHOLE_BYTES_MAX 65536u
#define STEPS_MAX 64

static uint64_t *memory; /* of the entry's exact size */

/* An entry of so many bytes of the input. */
static struct ring_entry entry_of(struct feed *f, size_t bytes)
{
    free(memory);
    memory = malloc(bytes > 0 ? bytes : 1);
    demand(memory != NULL);
    feed_copy(f, memory, bytes);
    return (struct ring_entry){.data = memory, .bytes = (uint32_t)bytes, .kind = BELFRY_PART, .id = feed_8(f) & 3};
}

static void try_read(struct feed *f, const struct feed *spoils)
{
    struct ring_entry e = entry_of(f, feed_16(f) % ENTRY_BYTES);
    struct extension x;
    loads_begin(spoils);
    loads_open(memory, e.bytes);
    int block = extension_read(&e, &x);
    struct loads_counts counts = loads_counts();
    loads_begin(&(struct feed){NULL, NULL});
    if (block < 0) {
        demand(block == BELFRY_EPROTO || block == BELFRY_EUNSUPPORTED);
        return;
    }
    demand(block >= (int)sizeof(struct belfry_abi_extension) && block % 8 == 0);
    demand((uint32_t)block <= e.bytes && block <= (int)EXTENSION_BYTES_MAX);
    demand(counts.loads == (uint64_t)block / 8); /* each word once */
}

static void try_write(struct feed *f)
{
    uint64_t block[EXTENSION_BYTES_MAX / 8];
    struct extension x = {.deadline_ns = (int64_t)feed_64(f),
                          .whole_bytes = feed_64(f),
                          .whole_kind = feed_8(f),
                          .whole_flags = feed_8(f)};
    struct extension back;
    uint32_t bytes = extension_bytes(&x);
    if (x.whole_bytes == 0)
        x.whole_kind = x.whole_flags = 0;
    if (bytes == 0)
        return;
    demand(bytes <= sizeof block);
    extension_write(block, &x);
    struct ring_entry e = {.data = block, .bytes = bytes};
    demand(extension_read(&e, &back) == (int)bytes);
    demand(back.deadline_ns == x.deadline_ns && back.whole_bytes == x.whole_bytes && back.whole_kind == x.whole_kind &&
           back.whole_flags == x.whole_flags);
}

/* What a receiver does with parts, as conn.c and large.c do: memory for the whole at the first of them. */
static void try_parts(struct feed *f, const struct feed *spoils)
{
    struct parts_in in = {0};
    uint64_t arrived = 0;
    for (int i = 0; i < STEPS_MAX && !feed_is_empty(f); i++) {
        bool first = feed_8(f) & 1;
        uint32_t block = 0;
        struct ring_entry e = entry_of(f, feed_8(f) * (size_t)(feed_8(f) % 4 + 1));
        loads_begin(spoils);
        loads_open(memory, e.bytes);
        if (first) {
            if (parts_open(&in, &e, &block) < 0)
                break;
            demand(block <= e.bytes && in.have == 0 && in.bytes > 0);
            if (in.bytes <= WHOLE_BYTES_MAX)
                in.data = malloc(in.bytes);
            arrived = 0;
        }
        int rc = parts_take(&in, &e, block);
        if (rc < 0)
            break;
        arrived += e.bytes - block;
        demand(in.have == arrived && in.have <= in.bytes && rc == (in.have == in.bytes));
        if (rc > 0) {
            free(in.data);
            in = (struct parts_in){0};
        }
    }
    loads_begin(&(struct feed){NULL, NULL});
    free(in.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct feed spoils, f = feed_split(data, bytes, &spoils);
    switch (feed_8(&f) % 3) {
    case 0:
        try_read(&f, &spoils);
        break;
    case 1:
        try_write(&f);
        break;
    default:
        try_parts(&f, &spoils);
    }
    free(memory);
    memory = NULL;
    return 0;
}

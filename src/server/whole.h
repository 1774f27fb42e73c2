/* SPDX-License-Identifier: MIT */
/*
 * whole.h: a message that arrives in parts, while it is put together.
 *
 * A shard that writes to memory for the first time waits for the kernel to clear it: half a millisecond for a huge page,
 * in which nobody else is served. So the kernel is asked for the pages ahead of the parts, on a thread of its own
 * (IORING_OP_MADVISE), and a part is read when its place is there (decisions/0018). Where the kernel will not, the parts
 * are written all the same.
 *
 * What the pages take counts as arriving, as long as they are there: of a message of which only the first part came that is
 * some 2 MiB.
 */
#ifndef BF_SERVER_WHOLE_H
#define BF_SERVER_WHOLE_H

#include <belfry/types.h>

#include "shm/parts.h"

struct belfry_conn;
struct whole_pages;

struct bf_whole {
    struct parts_in parts;     /* its data is a block */
    uint64_t charged;          /* of its bytes, counted in the server's whole_bytes */
    uint64_t ready;            /* from its first on, so many bytes are written to without a wait */
    struct whole_pages *pages; /* those that the kernel was asked for; NULL: none */
    bool starved;              /* it has none for us */
    bool first_waits;          /* the first part is known, but stays in the ring until there are some */
};

/*
 * A part. 1: that was the last one, and *m is the whole, until bf_whole_drop(); 0: not yet, or it was refused and the
 * client told; -WHOLE_LATER: it stays in the ring, and the conn is halted until its place is there; or -enum belfry_end.
 */
#define WHOLE_LATER 1000
int bf_whole_take(struct belfry_conn *conn, const struct ring_entry *e, belfry_message *m);

/* All of it is gone, and its memory. */
void bf_whole_drop(struct belfry_conn *conn);

/* Is `data` its memory? Then it is the caller's from now on, to be freed with bf_block_free(). */
bool bf_whole_give(struct belfry_conn *conn, const void *data);

#endif

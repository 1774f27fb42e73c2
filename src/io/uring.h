/* SPDX-License-Identifier: MIT */
/*
 * uring.h: one io_uring, set up the way a shard needs it, and its provided buffers.
 *
 * It belongs to the thread that made it (SINGLE_ISSUER): completions are produced only when that thread enters the
 * kernel (DEFER_TASKRUN), and a flag in shared memory tells when there is something to enter for (TASKRUN_FLAG), so an
 * awake shard looks for events without a system call.
 */
#ifndef BF_IO_URING_H
#define BF_IO_URING_H

#include <liburing.h>

#include <stdbool.h>
#include <stdint.h>

#define URING_BUFFERS 16u /* a power of two; for inotify events */
#define URING_BUFFER_BYTES 4096u
#define URING_BUFFER_GROUP 65535u /* the last there is: users of the uring begin with the first */

struct bf_uring {
    struct io_uring ring;
    struct io_uring_buf_ring *buffer_ring;
    uint8_t *buffers;
    bool open;
};

/* `completions`: how many may be outstanding at once. 0; BELFRY_EKERNEL, BELFRY_EFORBIDDEN, BELFRY_EMEMLOCK,
   BELFRY_ENOFILES, -ENOMEM. */
int bf_uring_open(struct bf_uring *u, unsigned submissions, unsigned completions);
void bf_uring_close(struct bf_uring *u);

/* A free submission entry; when there is none, what is prepared is submitted first. Never NULL. */
struct io_uring_sqe *bf_uring_entry(struct bf_uring *u);

/* Make room: the next `count` entries go out in one submission. At most as many as the uring has. */
void bf_uring_reserve(struct bf_uring *u, unsigned count);

void bf_uring_submit(struct bf_uring *u);

/* Is there a completion, or something that becomes one as soon as this thread enters the kernel? No system call. */
static inline bool uring_has_completions(const struct bf_uring *u)
{
    unsigned flags = IO_URING_READ_ONCE(*u->ring.sq.kflags);
    return io_uring_cq_ready(&u->ring) > 0 || (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

static inline uint8_t *uring_buffer(const struct bf_uring *u, uint16_t id)
{
    return u->buffers + (size_t)id * URING_BUFFER_BYTES;
}

void bf_uring_return_buffer(struct bf_uring *u, uint16_t id);

#endif

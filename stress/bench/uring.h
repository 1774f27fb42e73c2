/* SPDX-License-Identifier: MIT */
/*
 * uring.h: what both sides of system_unix_uring.c have: an io_uring of one thread, and the memory that its receives
 * are put into.
 *
 * A multishot recv takes a buffer from a ring of provided ones for whatever has come. A message that lies in it as a
 * whole is read there; one that is cut in two is put together in the connection's socket_input, and only then has that
 * connection any memory of its own.
 */
#ifndef BENCH_URING_H
#define BENCH_URING_H

#include <liburing.h>

#include "socket.h"

struct uring {
    struct io_uring ring;
    struct io_uring_buf_ring *group;
    uint8_t *memory; /* of the provided buffers */
    uint32_t buffers;
    uint32_t buffer_bytes;
    uint32_t bytes_max;
    struct socket_input view; /* of a provided buffer, as long as it is being read in place */
    uint16_t view_id;
};

void uring_open(struct uring *u, uint32_t connections, uint32_t bytes_max);
void uring_close(struct uring *u);

/* The next free entry. If there is none, what is queued is submitted. */
struct io_uring_sqe *uring_entry(struct uring *u);

/* Receive on `fd` until the completion that lacks IORING_CQE_F_MORE. */
void uring_receive(struct uring *u, int fd, uint64_t user_data);

/* A recv has brought bytes: where are the messages now? `rest` is what the connection had received before. */
struct socket_input *uring_arrived(struct uring *u, struct socket_input *rest, const struct io_uring_cqe *cqe);

/* No whole message is left in what uring_arrived() returned: keep the beginning of the next, and free the buffer. */
void uring_exhausted(struct uring *u, struct socket_input *rest, const struct socket_input *from);

#endif

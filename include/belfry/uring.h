/* SPDX-License-Identifier: MIT */
/*
 * belfry/uring.h: your own input and output on a shard's io_uring: files, sockets, pipes, other processes.
 *
 * A handler must not block. What it has to wait for it gives to the kernel here, and goes on when the kernel is done:
 * on the same thread, between two messages. Fill an io_uring_sqe with liburing's io_uring_prep_... functions (include
 * <liburing.h>; they are inline), and start it. This is the only header of belfry that has to do with liburing, and
 * belfry.h does not include it.
 *
 * What cannot be used here:
 * - The flags IOSQE_IO_DRAIN and IOSQE_CQE_SKIP_SUCCESS (refused): the one would wait for operations of the library's
 *   that never end, the other would leave you without on_done. `user_data` is the library's; what you set is ignored.
 * - Cancelling by descriptor or "any" (IORING_ASYNC_CANCEL_ANY): it would hit the library's own. Use
 *   belfry_io_cancel().
 * - Provided buffers of group 65535, which is the library's (refused). Registered files and buffers: the uring is not
 *   handed out.
 */
#ifndef BELFRY_URING_H
#define BELFRY_URING_H

#include <belfry/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct io_uring_sqe; /* <liburing.h> */

/* One operation: memory of yours, alone or within a larger object. While it is in flight it must stay where it is. */
typedef struct belfry_io belfry_io;

struct belfry_io_link { /* the library's own */
    struct belfry_io_link *next, *previous;
};

struct belfry_io { /* written by the functions below only */
    struct belfry_io_link link;
    void *shard;
    void (*on_done)(belfry_io *io, int32_t result, uint32_t cqe_flags, void *user);
    void *user;
};

#define BELFRY_IO_CHAIN_MAX 64

/*
 * Make an operation that is not in flight. `on_done` is required and is called on the shard's thread, with the
 * kernel's result (a count, a descriptor, or -errno) and flags of the completion. It is called once; but of an
 * operation that completes many times (multishot, a zero-copy send) as long as cqe_flags has IORING_CQE_F_MORE: until
 * a call without it the operation is in flight. In that last call it is not any more: on_done may start it again, or
 * free it. It may do all that a handler may, belfry_push() among it, and must not block. Any thread; cannot fail.
 */
BELFRY_API void belfry_io_init(belfry_io *io,
                               void (*on_done)(belfry_io *io, int32_t result, uint32_t cqe_flags, void *user),
                               void *user);

/*
 * Start what `sqe` says. It is copied; what it points to (buffers, paths, addresses) must stay until on_done, unless
 * io_uring's own pages say otherwise. It goes to the kernel at the end of the shard's turn, with everything else of
 * that turn in one system call, so this makes none itself (but if more than 256 entries are waiting, which are then
 * submitted). on_done is never called from within. When the shard stops, all that is in flight is cancelled and waited
 * for, before on_shard_stop: on_done tells -ECANCELED, or the result if it came first. What cannot be cancelled (a
 * read that a disk has begun) holds up the stop until it is done. An operation in flight does not keep a replaced
 * server running. Does not block or allocate. Shard's thread.
 * Returns 0; BELFRY_ETHREAD on any other thread; BELFRY_ESTATE when `io` is in flight or the shard is stopping;
 * BELFRY_EOPTION for a flag that is not allowed (IOSQE_IO_LINK and IOSQE_IO_HARDLINK belong into a chain). After a
 * failure nothing was started and on_done will not be called.
 */
BELFRY_API int belfry_io_start(belfry_io *io, const struct io_uring_sqe *sqe);

/*
 * Start `count` operations (1 to BELFRY_IO_CHAIN_MAX), each one after the one before has succeeded: ios[i] does
 * sqes[i]. All but the last carry IOSQE_IO_LINK or IOSQE_IO_HARDLINK, or BELFRY_EOPTION comes back. They stand side by
 * side in one submission, as links must. The last may be an IORING_OP_LINK_TIMEOUT. Each has its on_done; those after
 * one that failed get -ECANCELED. The array of pointers is not kept. Else as belfry_io_start(): all are started, or
 * none.
 */
BELFRY_API int belfry_io_start_chain(belfry_io *const *ios, const struct io_uring_sqe *sqes, unsigned count);

/*
 * Ask the kernel to end it. on_done still comes, in a later turn: with -ECANCELED or with a result that was quicker.
 * Of a chain cancel the one that is running; those behind it end with it, but for those behind a hard link. Returns 1
 * when it was in flight, 0 when it was not (any thread, nothing is done); BELFRY_ETHREAD when it is in flight on
 * another shard than this thread's.
 */
BELFRY_API int belfry_io_cancel(belfry_io *io);

/* Is on_done still to come? Thread of the shard that started it; or any, once that has stopped. */
BELFRY_API bool belfry_io_in_flight(const belfry_io *io);

#ifdef __cplusplus
}
#endif
#endif

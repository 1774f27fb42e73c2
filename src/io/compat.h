/* SPDX-License-Identifier: MIT */
/*
 * compat.h: the io_uring operations that liburing 2.3 (Debian 12) has no helper for.
 *
 * The build asks the header which helpers there are (BF_HAVE_...); where it has them, this file steps aside. The
 * numbers are the kernel's and never change: read multishot since Linux 6.7, futex wait and wake since 6.7.
 */
#ifndef BF_IO_COMPAT_H
#define BF_IO_COMPAT_H

#include <liburing.h>

#include "base/build.h"

#define BF_OP_READ_MULTISHOT 49
#define BF_OP_FUTEX_WAIT 51
#define BF_OP_FUTEX_WAKE 52

#define BF_FUTEX_SIZE_U32 2u /* FUTEX2_SIZE_U32; never FUTEX2_PRIVATE: the waiter is another process */
#define BF_FUTEX_ANY 0xffffffffull

static inline void compat_prep_futex_wait(struct io_uring_sqe *sqe, const uint32_t *word, uint32_t value)
{
#if BF_HAVE_PREP_FUTEX
    io_uring_prep_futex_wait(sqe, (uint32_t *)word, value, BF_FUTEX_ANY, BF_FUTEX_SIZE_U32, 0);
#else
    io_uring_prep_rw(BF_OP_FUTEX_WAIT, sqe, (int)BF_FUTEX_SIZE_U32, word, 0, value);
    sqe->addr3 = BF_FUTEX_ANY;
#endif
}

static inline void compat_prep_futex_wake(struct io_uring_sqe *sqe, const uint32_t *word, int32_t count)
{
#if BF_HAVE_PREP_FUTEX
    io_uring_prep_futex_wake(sqe, (uint32_t *)word, (uint64_t)count, BF_FUTEX_ANY, BF_FUTEX_SIZE_U32, 0);
#else
    io_uring_prep_rw(BF_OP_FUTEX_WAKE, sqe, (int)BF_FUTEX_SIZE_U32, word, 0, (uint64_t)count);
    sqe->addr3 = BF_FUTEX_ANY;
#endif
}

static inline void compat_prep_read_multishot(struct io_uring_sqe *sqe, int fd, uint16_t buffer_group)
{
#if BF_HAVE_PREP_READ_MULTISHOT
    io_uring_prep_read_multishot(sqe, fd, 0, 0, buffer_group);
#else
    io_uring_prep_rw(BF_OP_READ_MULTISHOT, sqe, fd, NULL, 0, 0);
    sqe->buf_group = buffer_group;
    sqe->flags = IOSQE_BUFFER_SELECT;
#endif
}

#endif

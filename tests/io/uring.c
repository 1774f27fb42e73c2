/* SPDX-License-Identifier: MIT */
/* Tests of io/uring.c: opening, refusing, and the submission queue that is never full. */
#include "io/uring.h"

#include <errno.h>
#include <sys/resource.h>
#include <unistd.h>

#include <belfry/types.h>

#include "expect.h"
#include "fixture.h"

Test(uring, opens_and_closes_without_leaving_a_descriptor)
{
    int before = fixture_count_fds();
    for (int i = 0; i < 20; i++) {
        struct bf_uring u;
        expect_rc(bf_uring_open(&u, 8, 64), 0);
        expect(u.open);
        bf_uring_close(&u);
        expect(!u.open);
        bf_uring_close(&u); /* a closed one may be closed again */
    }
    expect_eq(fixture_count_fds(), before);
}

Test(uring, takes_more_entries_than_the_submission_queue_holds)
{
    struct bf_uring u;
    struct io_uring_cqe *cqe;
    expect_rc(bf_uring_open(&u, 8, 1024), 0);
    for (unsigned i = 0; i < 1000; i++) {
        struct io_uring_sqe *sqe = bf_uring_entry(&u);
        expect(sqe != NULL);
        io_uring_prep_nop(sqe);
        sqe->user_data = i;
    }
    bf_uring_submit(&u);
    expect_eq(io_uring_sq_ready(&u.ring), 0);
    for (unsigned i = 0; i < 1000; i++) {
        expect_eq(io_uring_peek_cqe(&u.ring, &cqe), 0);
        expect_eq(cqe->user_data, i);
        expect_eq(cqe->res, 0);
        io_uring_cqe_seen(&u.ring, cqe);
    }
    expect(io_uring_peek_cqe(&u.ring, &cqe) != 0);
    bf_uring_close(&u);
}

/* More completions than the queue has room for: the kernel keeps them, and none is lost. */
Test(uring, loses_no_completion_when_their_queue_overflows)
{
    struct bf_uring u;
    struct io_uring_cqe *cqe;
    expect_rc(bf_uring_open(&u, 8, 16), 0);
    for (unsigned i = 0; i < 500; i++) {
        struct io_uring_sqe *sqe = bf_uring_entry(&u);
        io_uring_prep_nop(sqe);
        sqe->user_data = i;
    }
    bf_uring_submit(&u);
    for (unsigned i = 0; i < 500; i++) {
        expect_eq(io_uring_peek_cqe(&u.ring, &cqe), 0);
        expect_eq(cqe->user_data, i);
        io_uring_cqe_seen(&u.ring, cqe);
    }
    bf_uring_close(&u);
}

Test(uring, gives_each_buffer_back_for_use)
{
    struct bf_uring u;
    struct io_uring_cqe *cqe;
    int pipes[2];
    expect_rc(bf_uring_open(&u, 8, 64), 0);
    expect_eq(pipe(pipes), 0);
    for (unsigned i = 0; i < 5 * URING_BUFFERS; i++) {
        struct io_uring_sqe *sqe = bf_uring_entry(&u);
        io_uring_prep_read(sqe, pipes[0], NULL, URING_BUFFER_BYTES, 0);
        sqe->flags |= IOSQE_BUFFER_SELECT;
        sqe->buf_group = URING_BUFFER_GROUP;
        expect_eq(write(pipes[1], &i, sizeof i), sizeof i);
        bf_uring_submit(&u);
        expect_eq(io_uring_wait_cqe(&u.ring, &cqe), 0);
        expect_eq(cqe->res, sizeof i);
        expect(cqe->flags & IORING_CQE_F_BUFFER);
        uint16_t id = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
        expect(id < URING_BUFFERS);
        expect(memcmp(uring_buffer(&u, id), &i, sizeof i) == 0);
        io_uring_cqe_seen(&u.ring, cqe);
        bf_uring_return_buffer(&u, id);
    }
    bf_uring_close(&u);
}

Test(uring, says_what_to_raise_when_descriptors_run_out)
{
    struct rlimit limit, small;
    struct bf_uring u;
    expect_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    small = limit;
    small.rlim_cur = 3;
    expect_eq(setrlimit(RLIMIT_NOFILE, &small), 0);
    int rc = bf_uring_open(&u, 8, 64);
    setrlimit(RLIMIT_NOFILE, &limit);
    expect_eq(rc, BELFRY_ENOFILES);
    expect_in(belfry_last_error(), "RLIMIT_NOFILE");
    expect(!u.open);
}

/* SPDX-License-Identifier: MIT */
/* uring.c: set-up, the questions to the kernel that decide whether a server can run here, and submission. */
#include "io/uring.h"

#include <errno.h>
#include <stdlib.h>

#include <belfry/types.h>

#include "base/check.h"
#include "base/error.h"
#include "base/os.h"
#include "io/compat.h"

#define SETUP_FLAGS                                                                                              \
    (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CQSIZE | \
     IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL)

/* `kernel_bytes`: about what the ring takes. */
static int explain_setup(int rc, uint64_t kernel_bytes)
{
    switch (rc) {
    case -ENOSYS:
    case -EINVAL:
        return bf_error(BELFRY_EKERNEL, "io_uring is missing or too old here: a server needs Linux 6.7 or newer");
    case -EPERM:
    case -EACCES:
        return bf_error(BELFRY_EFORBIDDEN,
                        "io_uring is forbidden here: set kernel.io_uring_disabled to 0, or allow the "
                        "io_uring system calls in the container's seccomp profile");
    case -ENOMEM:
        return bf_error(
            BELFRY_EMEMLOCK,
            "no memory for an io_uring: each shard takes some %llu KiB of the user's RLIMIT_MEMLOCK, which is "
            "%llu KiB: raise it (ulimit -l), or lower shards or max_slots",
            (unsigned long long)kernel_bytes >> 10, (unsigned long long)bf_os_locked_bytes_max() >> 10);
    case -EMFILE:
    case -ENFILE:
        return bf_error(BELFRY_ENOFILES,
                        "no descriptor left for an io_uring: raise RLIMIT_NOFILE (ulimit -n), it is %llu",
                        (unsigned long long)bf_os_file_count_max());
    default:
        return bf_error_errno(rc, "cannot set up an io_uring");
    }
}

/* The ring exists; can it do what we need? */
static int check_operations(struct io_uring *ring)
{
    static const struct {
        int number;
        const char *name;
    } needed[] = {
        {BF_OP_READ_MULTISHOT, "READ_MULTISHOT"},
        {BF_OP_FUTEX_WAIT, "FUTEX_WAIT"},
        {BF_OP_FUTEX_WAKE, "FUTEX_WAKE"},
    };
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    if (probe == NULL)
        return bf_error(-ENOMEM, "no memory to ask which io_uring operations there are");
    int rc = 0;
    for (size_t i = 0; i < sizeof needed / sizeof needed[0] && rc == 0; i++)
        if (!io_uring_opcode_supported(probe, needed[i].number))
            rc = bf_error(BELFRY_EKERNEL, "this kernel's io_uring has no %s: a server needs Linux 6.7 or newer",
                          needed[i].name);
    io_uring_free_probe(probe);
    return rc;
}

static int provide_buffers(struct bf_uring *u)
{
    size_t ring_bytes = URING_BUFFERS * sizeof(struct io_uring_buf);
    u->buffer_ring = aligned_alloc(4096, (ring_bytes + 4095) & ~(size_t)4095);
    u->buffers = malloc((size_t)URING_BUFFERS * URING_BUFFER_BYTES);
    if (u->buffer_ring == NULL || u->buffers == NULL)
        return bf_error(-ENOMEM, "no memory for the watch's buffers");
    struct io_uring_buf_reg reg = {.ring_addr = (uintptr_t)u->buffer_ring,
                                   .ring_entries = URING_BUFFERS,
                                   .bgid = URING_BUFFER_GROUP};
    io_uring_buf_ring_init(u->buffer_ring);
    int rc = io_uring_register_buf_ring(&u->ring, &reg, 0);
    if (rc < 0)
        return explain_setup(rc, sizeof(struct io_uring_buf) * URING_BUFFERS);
    for (uint16_t id = 0; id < URING_BUFFERS; id++)
        bf_uring_return_buffer(u, id);
    return 0;
}

int bf_uring_open(struct bf_uring *u, unsigned submissions, unsigned completions)
{
    *u = (struct bf_uring){0};
    struct io_uring_params params = {.flags = SETUP_FLAGS, .cq_entries = completions};
    int rc = io_uring_queue_init_params(submissions, &u->ring, &params);
    uint64_t kernel_bytes = submissions * (sizeof(struct io_uring_sqe) + sizeof(uint32_t)) +
                            2ull * completions * sizeof(struct io_uring_cqe) + 3 * 4096;
    if (rc < 0)
        return explain_setup(rc, kernel_bytes);
    u->open = true;
    rc = check_operations(&u->ring);
    if (rc == 0)
        rc = provide_buffers(u);
    if (rc < 0) {
        bf_uring_close(u);
        return rc;
    }
    io_uring_register_ring_fd(&u->ring); /* saves a descriptor look-up per enter; it may say no */
    return 0;
}

void bf_uring_close(struct bf_uring *u)
{
    if (u->open)
        io_uring_queue_exit(&u->ring);
    free(u->buffer_ring);
    free(u->buffers);
    *u = (struct bf_uring){0};
}

struct io_uring_sqe *bf_uring_entry(struct bf_uring *u)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (sqe == NULL) {
        bf_uring_submit(u);
        sqe = io_uring_get_sqe(&u->ring);
    }
    INVARIANT(sqe != NULL);
    return sqe;
}

void bf_uring_reserve(struct bf_uring *u, unsigned count)
{
    if (io_uring_sq_space_left(&u->ring) < count)
        bf_uring_submit(u);
    INVARIANT(io_uring_sq_space_left(&u->ring) >= count);
}

void bf_uring_submit(struct bf_uring *u)
{
    while (io_uring_sq_ready(&u->ring) > 0) {
        int rc = io_uring_submit(&u->ring);
        /* -EBUSY and -EAGAIN: out of memory for requests or too many completions pending; taking those in helps. */
        if (rc == -EBUSY || rc == -EAGAIN)
            io_uring_get_events(&u->ring);
        else
            INVARIANT(rc >= 0 || rc == -EINTR);
    }
}

void bf_uring_return_buffer(struct bf_uring *u, uint16_t id)
{
    io_uring_buf_ring_add(u->buffer_ring, uring_buffer(u, id), URING_BUFFER_BYTES, id,
                          io_uring_buf_ring_mask(URING_BUFFERS), 0);
    io_uring_buf_ring_advance(u->buffer_ring, 1);
}

/* SPDX-License-Identifier: MIT */
/* uring.c: see uring.h. */
#include "uring.h"

#include <stdlib.h>

#define GROUP 0
#define BUFFERS_MIN 8u
#define BUFFERS_MAX 256u
#define ENTRIES_MIN 64u
#define ENTRIES_MAX 1024u

static uint32_t power_of_two(uint32_t wanted, uint32_t min, uint32_t max)
{
    uint32_t n = min;
    while (n < wanted && n < max)
        n *= 2;
    return n;
}

static void give_buffer(struct uring *u, uint16_t id)
{
    io_uring_buf_ring_add(u->group, u->memory + (size_t)id * u->buffer_bytes, u->buffer_bytes, id,
                          io_uring_buf_ring_mask(u->buffers), 0);
    io_uring_buf_ring_advance(u->group, 1);
}

void uring_open(struct uring *u, uint32_t connections, uint32_t bytes_max)
{
    uint32_t entries = power_of_two(connections, ENTRIES_MIN, ENTRIES_MAX);
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
        .cq_entries = 4 * entries + 4 * connections,
    };
    int rc = io_uring_queue_init_params(entries, &u->ring, &params);
    if (rc < 0)
        bench_die("io_uring_queue_init: %s", strerror(-rc));
    u->bytes_max = bytes_max;
    u->buffers = power_of_two(connections, BUFFERS_MIN, BUFFERS_MAX);
    u->buffer_bytes = 4 + bytes_max + 2048; /* what socket_input_room() always has */
    u->memory = malloc((size_t)u->buffers * u->buffer_bytes);
    void *group;
    if (u->memory == NULL || posix_memalign(&group, 4096, u->buffers * sizeof(struct io_uring_buf)) != 0)
        bench_die("no memory for provided buffers");
    u->group = group;
    io_uring_buf_ring_init(u->group);
    struct io_uring_buf_reg reg = {.ring_addr = (uintptr_t)group, .ring_entries = u->buffers, .bgid = GROUP};
    rc = io_uring_register_buf_ring(&u->ring, &reg, 0);
    if (rc < 0)
        bench_die("io_uring_register_buf_ring: %s", strerror(-rc));
    for (uint32_t i = 0; i < u->buffers; i++)
        give_buffer(u, (uint16_t)i);
}

void uring_close(struct uring *u)
{
    io_uring_queue_exit(&u->ring);
    free(u->group);
    free(u->memory);
}

struct io_uring_sqe *uring_entry(struct uring *u)
{
    struct io_uring_sqe *sqe;
    while ((sqe = io_uring_get_sqe(&u->ring)) == NULL)
        io_uring_submit(&u->ring);
    return sqe;
}

void uring_receive(struct uring *u, int fd, uint64_t user_data)
{
    struct io_uring_sqe *sqe = uring_entry(u);
    io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = GROUP;
    io_uring_sqe_set_data64(sqe, user_data);
}

struct socket_input *uring_arrived(struct uring *u, struct socket_input *rest, const struct io_uring_cqe *cqe)
{
    uint16_t id = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
    uint8_t *data = u->memory + (size_t)id * u->buffer_bytes;
    if (rest->first == rest->last) {
        u->view = (struct socket_input){.buffer = data, .last = (uint32_t)cqe->res};
        u->view_id = id;
        return &u->view;
    }
    uint32_t room;
    memcpy(socket_input_room(rest, &room), data, (size_t)cqe->res);
    rest->last += (uint32_t)cqe->res;
    give_buffer(u, id);
    return rest;
}

void uring_exhausted(struct uring *u, struct socket_input *rest, const struct socket_input *from)
{
    if (from != &u->view)
        return;
    if (from->first != from->last) {
        uint32_t room;
        if (rest->buffer == NULL)
            socket_input_init(rest, u->bytes_max);
        memcpy(socket_input_room(rest, &room), from->buffer + from->first, from->last - from->first);
        rest->last += from->last - from->first;
    }
    give_buffer(u, u->view_id);
}

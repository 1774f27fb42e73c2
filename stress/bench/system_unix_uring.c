/* SPDX-License-Identifier: MIT */
/*
 * system_unix_uring.c: an AF_UNIX stream socket and io_uring, as liburing's documentation recommends it for networking.
 *
 * One ring per thread (SINGLE_ISSUER, DEFER_TASKRUN), a multishot accept, a multishot recv per connection that takes its
 * memory from a ring of provided buffers (uring.h), and whatever is to be sent goes to the kernel with the system call
 * that waits.
 *
 * The server keeps one send in flight per connection and gathers what comes meanwhile, so that the order of a stream
 * cannot be broken. The client knows more: a reply proves that its request was sent, so its sends complete silently.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "uring.h"

#define BATCH 32u      /* messages of one client that a single system call may carry */
#define TAG_SEND 1ull  /* in user_data, beside a pointer or a number */
#define TAG_FENCE 3ull /* a send that tells of its end */

/* --- server ------------------------------------------------------------------------------------------------------ */

struct outbox {
    uint8_t *data;
    uint32_t used;
    uint32_t capacity;
};

struct server_connection {
    int fd;
    bool receiving;
    bool sending; /* the kernel has out[1 - filling] */
    uint8_t filling;
    struct outbox out[2];
    struct socket_input rest;
};

/* The client has left, and the kernel has none of its replies any more. */
static void end_if_unused(struct server_connection *c)
{
    if (c->receiving || c->sending)
        return;
    close(c->fd);
    free(c->out[0].data);
    free(c->out[1].data);
    free(c->rest.buffer);
    free(c);
}

static void reply(struct server_connection *c, struct bench_service *service, const void *message, uint32_t bytes)
{
    struct outbox *out = &c->out[c->filling];
    if (out->capacity - out->used < 4 + bytes) {
        out->capacity = 2 * (out->used + 4 + bytes);
        out->data = realloc(out->data, out->capacity);
        if (out->data == NULL)
            bench_die("no memory for a reply");
    }
    memcpy(out->data + out->used, &bytes, 4);
    memcpy(out->data + out->used + 4, message, bytes);
    service_echo(service, out->data + out->used + 4, bytes);
    out->used += 4 + bytes;
}

static void start_sending(struct uring *u, struct server_connection *c)
{
    struct outbox *out = &c->out[c->filling];
    if (c->sending || !c->receiving || out->used == 0)
        return;
    struct io_uring_sqe *sqe = uring_entry(u);
    io_uring_prep_send(sqe, c->fd, out->data, out->used, MSG_WAITALL | MSG_NOSIGNAL);
    io_uring_sqe_set_data64(sqe, (uintptr_t)c | TAG_SEND);
    c->sending = true;
    c->filling ^= 1;
}

/* Sent, or the client has left: its recv will say so. */
static void sent(struct uring *u, struct server_connection *c)
{
    c->out[1 - c->filling].used = 0;
    c->sending = false;
    start_sending(u, c);
    end_if_unused(c);
}

static void received(struct uring *u, struct server_connection *c, const struct io_uring_cqe *cqe,
                     struct bench_service *service)
{
    if (cqe->res > 0) {
        struct socket_input *from = uring_arrived(u, &c->rest, cqe);
        const void *message;
        uint32_t bytes;
        while ((message = socket_input_next(from, &bytes)) != NULL)
            if (service_take(service, message, bytes))
                reply(c, service, message, bytes);
        uring_exhausted(u, &c->rest, from);
        start_sending(u, c);
    }
    if ((cqe->flags & IORING_CQE_F_MORE) != 0)
        return;
    if (cqe->res > 0 || cqe->res == -ENOBUFS) { /* the buffers were used up; they are back */
        uring_receive(u, c->fd, (uintptr_t)c);
        return;
    }
    c->receiving = false;
    end_if_unused(c);
}

static void accept_more(struct uring *u, int listener)
{
    struct io_uring_sqe *sqe = uring_entry(u);
    io_uring_prep_multishot_accept(sqe, listener, NULL, NULL, SOCK_CLOEXEC);
    io_uring_sqe_set_data64(sqe, 0);
}

static void accepted(struct uring *u, const struct io_uring_cqe *cqe, int listener)
{
    if (cqe->res < 0)
        bench_die("accept: %s", strerror(-cqe->res));
    struct server_connection *c = calloc(1, sizeof *c);
    c->fd = cqe->res;
    c->receiving = true;
    uring_receive(u, c->fd, (uintptr_t)c);
    if ((cqe->flags & IORING_CQE_F_MORE) == 0)
        accept_more(u, listener);
}

static void serve(const struct bench_setup *setup, struct bench_service *service)
{
    struct uring *u = calloc(1, sizeof *u);
    int listener = socket_listen(setup);
    uring_open(u, setup->connections, setup->bytes_max);
    accept_more(u, listener);
    io_uring_submit(&u->ring);
    service_is_ready(service);
    for (;;) {
        io_uring_submit_and_wait(&u->ring, 1);
        struct io_uring_cqe *cqe;
        while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
            struct io_uring_cqe done = *cqe;
            io_uring_cqe_seen(&u->ring, cqe);
            struct server_connection *c = (void *)(uintptr_t)(done.user_data & ~TAG_SEND);
            if (c == NULL)
                accepted(u, &done, listener);
            else if ((done.user_data & TAG_SEND) == 0)
                received(u, c, &done, service);
            else
                sent(u, c);
        }
    }
}

/* --- client ------------------------------------------------------------------------------------------------------ */

struct bench_client {
    struct uring uring;
    uint32_t count;
    int *fd;
    struct socket_input *rest;
    uint8_t *slots; /* one message each: 4 bytes free, length, payload; one per connection, or BATCH for a single one */
    uint32_t slot_bytes;
    uint32_t slot; /* of a single connection: the next */
    uint64_t fences;
    struct io_uring_sqe *chain; /* the last send of a single connection that the kernel has not seen */
    struct socket_input *from;  /* what is being read, and whose it is */
    uint32_t from_index;
};

static struct bench_client *client_open(const struct bench_setup *setup, uint32_t first, uint32_t count)
{
    (void)first;
    struct bench_client *client = calloc(1, sizeof *client);
    client->count = count;
    client->fd = calloc(count, sizeof *client->fd);
    client->rest = calloc(count, sizeof *client->rest);
    client->slot_bytes = 8 + (setup->bytes_max + 7) / 8 * 8;
    client->slots = malloc((size_t)(count > 1 ? count : BATCH) * client->slot_bytes);
    uring_open(&client->uring, count, setup->bytes_max);
    for (uint32_t i = 0; i < count; i++) {
        client->fd[i] = socket_connect(setup);
        uring_receive(&client->uring, client->fd[i], (uint64_t)i << 2);
    }
    return client;
}

static uint8_t *slot_of(struct bench_client *client, uint32_t index)
{
    return client->slots + (size_t)(client->count > 1 ? index : client->slot) * client->slot_bytes;
}

static void *client_reserve(struct bench_client *client, uint32_t index, uint32_t bytes)
{
    (void)bytes;
    return slot_of(client, index) + 8;
}

static void client_submit(struct bench_client *client, uint32_t completions)
{
    if (client->chain != NULL)
        client->chain->flags &= (uint8_t)~IOSQE_IO_LINK;
    client->chain = NULL;
    io_uring_submit_and_wait(&client->uring.ring, completions);
}

/* All slots are in use: they are free when the last send of the chain is done. Its completion is only looked at here;
   receive() takes it, in its turn, unless it is the first one. */
static void client_await_fence(struct bench_client *client, uint64_t fence)
{
    struct io_uring *ring = &client->uring.ring;
    struct io_uring_cqe *cqe;
    bool passed = false;
    while (!passed) {
        uint32_t head;
        client_submit(client, io_uring_cq_ready(ring) + 1);
        io_uring_for_each_cqe(ring, head, cqe) passed |= cqe->user_data == fence;
    }
    while (io_uring_peek_cqe(ring, &cqe) == 0 && cqe->user_data == fence && cqe->res > 0)
        io_uring_cqe_seen(ring, cqe);
}

/* The sends of a single connection are linked, so that none overtakes one that has to wait for room. */
static void client_commit(struct bench_client *client, uint32_t index, uint32_t bytes)
{
    uint8_t *slot = slot_of(client, index);
    memcpy(slot + 4, &bytes, 4);
    struct io_uring_sqe *sqe = uring_entry(&client->uring);
    io_uring_prep_send(sqe, client->fd[index], slot + 4, 4 + bytes, MSG_WAITALL | MSG_NOSIGNAL);
    io_uring_sqe_set_data64(sqe, TAG_SEND);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    if (client->count > 1)
        return;
    if (++client->slot < BATCH) {
        sqe->flags |= IOSQE_IO_LINK;
        client->chain = sqe;
        return;
    }
    uint64_t fence = ++client->fences << 2 | TAG_FENCE;
    sqe->flags &= (uint8_t)~IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data64(sqe, fence);
    client->slot = 0;
    client->chain = NULL;
    client_await_fence(client, fence);
}

static void client_flush(struct bench_client *client)
{
    client_submit(client, 0);
}

/* One completion; if it is a recv's, client->from is set. */
static void client_complete(struct bench_client *client)
{
    struct io_uring *ring = &client->uring.ring;
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(ring, &cqe) != 0)
        client_submit(client, 1);
    struct io_uring_cqe done = *cqe;
    io_uring_cqe_seen(ring, cqe);
    if ((done.user_data & TAG_SEND) != 0) {
        if (done.res <= 0)
            bench_die("send: %s", strerror(-done.res));
        return;
    }
    if (done.res <= 0 && done.res != -ENOBUFS)
        bench_die("recv: %s", done.res == 0 ? "the server has closed the connection" : strerror(-done.res));
    uint32_t i = (uint32_t)(done.user_data >> 2);
    if (done.res > 0)
        client->from = uring_arrived(&client->uring, &client->rest[i], &done);
    client->from_index = i;
    if ((done.flags & IORING_CQE_F_MORE) == 0)
        uring_receive(&client->uring, client->fd[i], done.user_data);
}

static const void *client_receive(struct bench_client *client, uint32_t *index, uint32_t *bytes)
{
    for (;;) {
        while (client->from == NULL)
            client_complete(client);
        *index = client->from_index;
        const void *message = socket_input_next(client->from, bytes);
        if (message != NULL)
            return message;
        uring_exhausted(&client->uring, &client->rest[client->from_index], client->from);
        client->from = NULL;
    }
}

static void client_release(struct bench_client *client, uint32_t index)
{
    (void)client, (void)index;
}

static void client_close(struct bench_client *client)
{
    uring_close(&client->uring);
    for (uint32_t i = 0; i < client->count; i++) {
        close(client->fd[i]);
        free(client->rest[i].buffer);
    }
    free(client->slots);
    free(client->rest);
    free(client->fd);
    free(client);
}

const struct bench_system system_unix_uring = {
    .name = "unix-uring",
    .what = "AF_UNIX stream with io_uring on both sides: multishot accept and recv, provided buffers, batched sends",
    .can_many = true,
    .serve = serve,
    .open = client_open,
    .reserve = client_reserve,
    .commit = client_commit,
    .flush = client_flush,
    .receive = client_receive,
    .release = client_release,
    .close = client_close,
};

/* SPDX-License-Identifier: MIT */
/*
 * system_unix_epoll.c: what most people would write: an AF_UNIX stream socket and epoll.
 *
 * Level-triggered, non-blocking, as large a read as fits, a write per message. One connection of a client is read with
 * a blocking recv(), since there is nothing to multiplex.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "socket.h"
#include "system_unix_epoll.h"

#define EVENTS_MAX 256

struct bench_client {
    uint32_t count;
    int epoll;
    int *fd;
    struct socket_input *in;
    uint8_t *out; /* length and payload of the message being built; 4 bytes in, so that the payload is aligned */
    struct epoll_event events[EVENTS_MAX];
    int event_count;
    int event_next;
};

/* --- server ------------------------------------------------------------------------------------------------------ */

struct server_connection {
    int fd;
    struct socket_input in;
};

static void watch(int epoll, int fd, void *data)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        bench_die("epoll_ctl: %s", strerror(errno));
}

static void accept_all(const struct bench_setup *setup, int epoll, int listener)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct server_connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        socket_input_init(&c->in, setup->bytes_max);
        watch(epoll, fd, c);
    }
    if (errno != EAGAIN)
        bench_die("accept: %s", strerror(errno));
}

static void serve_connection(struct server_connection *c, struct bench_service *service, uint8_t *out)
{
    uint32_t room, bytes;
    uint8_t *to = socket_input_room(&c->in, &room);
    ssize_t got = recv(c->fd, to, room, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) { /* it has left */
        close(c->fd);
        free(c->in.buffer);
        free(c);
        return;
    }
    c->in.last += (uint32_t)got;
    const void *message;
    while ((message = socket_input_next(&c->in, &bytes)) != NULL) {
        if (!service_take(service, message, bytes))
            continue;
        memcpy(out, &bytes, 4);
        memcpy(out + 4, message, bytes);
        service_echo(service, out + 4, bytes);
        socket_write(c->fd, out, 4 + bytes);
    }
}

static void serve(const struct bench_setup *setup, struct bench_service *service)
{
    struct epoll_event events[EVENTS_MAX];
    uint8_t *out = malloc(SOCKET_INPUT_BYTES);
    int listener = socket_listen(setup);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    socket_non_blocking(listener);
    watch(epoll, listener, NULL);
    service_is_ready(service);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS_MAX, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == NULL)
                accept_all(setup, epoll, listener);
            else
                serve_connection(events[i].data.ptr, service, out);
        }
    }
}

/* --- client ------------------------------------------------------------------------------------------------------ */

struct bench_client *unix_epoll_open(const struct bench_setup *setup, uint32_t first, uint32_t count)
{
    (void)first;
    struct bench_client *client = calloc(1, sizeof *client);
    client->count = count;
    client->fd = calloc(count, sizeof *client->fd);
    client->in = calloc(count, sizeof *client->in);
    client->out = (uint8_t *)malloc(8 + PAYLOAD_BYTES_MAX) + 4;
    client->epoll = count > 1 ? epoll_create1(EPOLL_CLOEXEC) : -1;
    for (uint32_t i = 0; i < count; i++) {
        client->fd[i] = socket_connect(setup);
        socket_input_init(&client->in[i], setup->bytes_max);
        if (count > 1) {
            socket_non_blocking(client->fd[i]);
            watch(client->epoll, client->fd[i], (void *)(uintptr_t)i);
        }
    }
    return client;
}

void *unix_epoll_reserve(struct bench_client *client, uint32_t index, uint32_t bytes)
{
    (void)index, (void)bytes;
    return client->out + 4;
}

void unix_epoll_commit(struct bench_client *client, uint32_t index, uint32_t bytes)
{
    memcpy(client->out, &bytes, 4);
    socket_write(client->fd[index], client->out, 4 + bytes);
}

/* Which connection can be read now? */
static uint32_t next_readable(struct bench_client *client)
{
    while (client->event_next == client->event_count) {
        client->event_next = 0;
        client->event_count = epoll_wait(client->epoll, client->events, EVENTS_MAX, -1);
        if (client->event_count < 0)
            client->event_count = 0;
    }
    return (uint32_t)(uintptr_t)client->events[client->event_next++].data.ptr;
}

const void *unix_epoll_receive(struct bench_client *client, uint32_t *index, uint32_t *bytes)
{
    uint32_t i = 0, room;
    const void *message = client->count == 1 ? socket_input_next(&client->in[0], bytes) : NULL;
    while (message == NULL) {
        if (client->count > 1)
            i = next_readable(client);
        uint8_t *to = socket_input_room(&client->in[i], &room);
        ssize_t got = recv(client->fd[i], to, room, 0);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            bench_die("recv: %s", got == 0 ? "the server has closed the connection" : strerror(errno));
        if (got > 0)
            client->in[i].last += (uint32_t)got;
        message = socket_input_next(&client->in[i], bytes);
    }
    *index = i;
    return message;
}

void unix_epoll_release(struct bench_client *client, uint32_t index)
{
    (void)client, (void)index;
}

void unix_epoll_close(struct bench_client *client)
{
    for (uint32_t i = 0; i < client->count; i++) {
        close(client->fd[i]);
        free(client->in[i].buffer);
    }
    if (client->epoll >= 0)
        close(client->epoll);
    free(client->out - 4);
    free(client->in);
    free(client->fd);
    free(client);
}

const struct bench_system system_unix_epoll = {
    .name = "unix-epoll",
    .what = "AF_UNIX stream with epoll on both sides; a single connection is read blocking",
    .can_many = true,
    .serve = serve,
    .open = unix_epoll_open,
    .reserve = unix_epoll_reserve,
    .commit = unix_epoll_commit,
    .receive = unix_epoll_receive,
    .release = unix_epoll_release,
    .close = unix_epoll_close,
};

/* SPDX-License-Identifier: MIT */
/* socket.c: see socket.h. */
#include "socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 4096

static struct sockaddr_un address_of(const struct bench_setup *setup)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", setup->folder, setup->address);
    if (length >= (int)sizeof address.sun_path)
        bench_die("the socket's path is too long: %s/%s", setup->folder, setup->address);
    return address;
}

int socket_listen(const struct bench_setup *setup)
{
    struct sockaddr_un address = address_of(setup);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(address.sun_path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, BACKLOG) < 0)
        bench_die("cannot listen on %s: %s", address.sun_path, strerror(errno));
    return fd;
}

int socket_connect(const struct bench_setup *setup)
{
    struct sockaddr_un address = address_of(setup);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        bench_die("cannot connect to %s: %s", address.sun_path, strerror(errno));
    return fd;
}

void socket_non_blocking(int fd)
{
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
        bench_die("fcntl: %s", strerror(errno));
}

/* Room for a whole message and for what comes with it: one system call then brings several small ones. */
void socket_input_init(struct socket_input *in, uint32_t bytes_max)
{
    *in = (struct socket_input){.capacity = 2 * (4 + bytes_max) + 4096};
    in->buffer = malloc(in->capacity);
    if (in->buffer == NULL)
        bench_die("no memory for a connection");
}

uint8_t *socket_input_room(struct socket_input *in, uint32_t *bytes)
{
    if (in->first == in->last)
        in->first = in->last = 0;
    if (in->capacity - in->last < in->capacity / 2) { /* keep half of it free for the next read */
        memmove(in->buffer, in->buffer + in->first, in->last - in->first);
        in->last -= in->first;
        in->first = 0;
    }
    *bytes = in->capacity - in->last;
    return in->buffer + in->last;
}

const void *socket_input_next(struct socket_input *in, uint32_t *bytes)
{
    uint32_t length;
    if (in->last - in->first < sizeof length)
        return NULL;
    memcpy(&length, in->buffer + in->first, sizeof length);
    if (length > PAYLOAD_BYTES_MAX)
        bench_die("a message of %u bytes: the stream is out of step", length);
    if (in->last - in->first < sizeof length + length)
        return NULL;
    const void *message = in->buffer + in->first + sizeof length;
    in->first += (uint32_t)sizeof length + length;
    *bytes = length;
    return message;
}

void socket_write(int fd, const void *data, uint32_t bytes)
{
    const uint8_t *p = data;
    while (bytes > 0) {
        ssize_t written = send(fd, p, bytes, MSG_NOSIGNAL);
        if (written < 0 && errno == EAGAIN) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            poll(&wait, 1, -1);
        } else if (written < 0 && errno != EINTR) {
            bench_die("send: %s", strerror(errno));
        } else if (written > 0) {
            p += written;
            bytes -= (uint32_t)written;
        }
    }
}

/* SPDX-License-Identifier: MIT */
/*
 * system_pipe.c: two pipes per connection and epoll: the oldest way, for what a socket costs beyond it.
 *
 * A pipe cannot be connected to, so there are names in the run's folder. The client makes two fifos and writes their
 * number into a third one, which the server reads; when the server has opened both, the client takes their names away.
 *
 *     client                                   server
 *     mkfifo NUMBER.request, NUMBER.reply
 *     open reply for reading (does not wait)
 *     write NUMBER to the server's fifo   -->  open reply for writing: there is a reader
 *     open request for writing, waiting   <--  open request for reading: the reply has a writer by now
 *     unlink both
 *
 * The rest is as with a socket: the framing, level-triggered epoll, a write per message, and blocking reads of a single
 * connection.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "socket.h"

#define EVENTS_MAX 256
#define CALLS_MAX 256     /* NUMBERs that one read may bring */
#define PIPE_BYTES 65536u /* what a pipe has */
#define PIPE_BYTES_MORE 131072

struct bench_client {
    uint32_t count;
    int epoll;
    int *request;
    int *reply;
    struct socket_input *in;
    uint8_t *out; /* as in system_unix_epoll.c */
    struct epoll_event events[EVENTS_MAX];
    int event_count;
    int event_next;
};

/* --- both sides -------------------------------------------------------------------------------------------------- */

struct names {
    char request[256];
    char reply[256];
};

static void name_them(const struct bench_setup *setup, uint64_t number, struct names *names)
{
    snprintf(names->request, sizeof names->request, "%s/%llx.request", setup->folder, (unsigned long long)number);
    snprintf(names->reply, sizeof names->reply, "%s/%llx.reply", setup->folder, (unsigned long long)number);
}

static int open_fifo(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0)
        bench_die("cannot open %s: %s", path, strerror(errno));
    return fd;
}

static void watch(int epoll, int fd, void *data)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        bench_die("epoll_ctl: %s", strerror(errno));
}

/* Write all of it, waiting for room. False: nobody reads any more. */
static bool pipe_write(int fd, const uint8_t *data, uint32_t bytes)
{
    while (bytes > 0) {
        ssize_t written = write(fd, data, bytes);
        if (written < 0 && errno == EPIPE)
            return false;
        if (written < 0 && errno == EAGAIN) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            poll(&wait, 1, -1);
        } else if (written < 0 && errno != EINTR) {
            bench_die("write: %s", strerror(errno));
        } else if (written > 0) {
            data += written;
            bytes -= (uint32_t)written;
        }
    }
    return true;
}

/* --- server ------------------------------------------------------------------------------------------------------ */

struct server_connection {
    int request;
    int reply;
    struct socket_input in;
};

static void accept_all(const struct bench_setup *setup, int epoll, int listener)
{
    uint64_t numbers[CALLS_MAX]; /* each was written at once, so none is read in parts */
    ssize_t got = read(listener, numbers, sizeof numbers);
    for (ssize_t i = 0; i < got / (ssize_t)sizeof numbers[0]; i++) {
        struct names names;
        name_them(setup, numbers[i], &names);
        struct server_connection *c = calloc(1, sizeof *c);
        c->reply = open_fifo(names.reply, O_WRONLY | O_NONBLOCK);
        c->request = open_fifo(names.request, O_RDONLY | O_NONBLOCK);
        socket_input_init(&c->in, setup->bytes_max);
        watch(epoll, c->request, c);
    }
}

static void serve_connection(struct server_connection *c, struct bench_service *service, uint8_t *out)
{
    uint32_t room, bytes;
    uint8_t *to = socket_input_room(&c->in, &room);
    ssize_t got = read(c->request, to, room);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) { /* it has left */
        close(c->request);
        close(c->reply);
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
        (void)pipe_write(c->reply, out, 4 + bytes); /* if it has left, the next read says so */
    }
}

static void serve(const struct bench_setup *setup, struct bench_service *service)
{
    struct epoll_event events[EVENTS_MAX];
    char path[256];
    uint8_t *out = malloc(SOCKET_INPUT_BYTES);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    snprintf(path, sizeof path, "%s/%s", setup->folder, setup->address);
    unlink(path);
    if (mkfifo(path, 0600) < 0)
        bench_die("cannot make %s: %s", path, strerror(errno));
    int listener = open_fifo(path, O_RDWR | O_NONBLOCK); /* a writer itself, it never sees an end */
    signal(SIGPIPE, SIG_IGN);
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

/* A message must fit: if both sides had to wait for room, each in another pipe, they would wait forever. */
static void make_room(int fd, uint32_t bytes_max)
{
    if (bytes_max + 4 > PIPE_BYTES && fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES_MORE) < 0)
        bench_die("cannot have a pipe of %d bytes: %s", PIPE_BYTES_MORE, strerror(errno));
}

static void connect_one(const struct bench_setup *setup, int server, int *request, int *reply)
{
    static uint32_t made;
    uint64_t number = (uint64_t)getpid() << 32 | made++;
    struct names names;
    name_them(setup, number, &names);
    if (mkfifo(names.request, 0600) < 0 || mkfifo(names.reply, 0600) < 0)
        bench_die("cannot make %s: %s", names.reply, strerror(errno));
    *reply = open_fifo(names.reply, O_RDONLY | O_NONBLOCK);
    if (!pipe_write(server, (const uint8_t *)&number, sizeof number))
        bench_die("the server has gone");
    *request = open_fifo(names.request, O_WRONLY);
    unlink(names.request);
    unlink(names.reply);
    make_room(*request, setup->bytes_max);
    make_room(*reply, setup->bytes_max);
}

static struct bench_client *client_open(const struct bench_setup *setup, uint32_t first, uint32_t count)
{
    (void)first;
    char path[256];
    struct bench_client *client = calloc(1, sizeof *client);
    client->count = count;
    client->request = calloc(count, sizeof *client->request);
    client->reply = calloc(count, sizeof *client->reply);
    client->in = calloc(count, sizeof *client->in);
    client->out = (uint8_t *)malloc(8 + PAYLOAD_BYTES_MAX) + 4;
    client->epoll = count > 1 ? epoll_create1(EPOLL_CLOEXEC) : -1;
    snprintf(path, sizeof path, "%s/%s", setup->folder, setup->address);
    int server = open_fifo(path, O_WRONLY);
    for (uint32_t i = 0; i < count; i++) {
        connect_one(setup, server, &client->request[i], &client->reply[i]);
        socket_input_init(&client->in[i], setup->bytes_max);
        if (count > 1)
            watch(client->epoll, client->reply[i], (void *)(uintptr_t)i);
        else
            fcntl(client->reply[i], F_SETFL, 0); /* blocking from here on */
    }
    close(server);
    return client;
}

static void *client_reserve(struct bench_client *client, uint32_t index, uint32_t bytes)
{
    (void)index, (void)bytes;
    return client->out + 4;
}

static void client_commit(struct bench_client *client, uint32_t index, uint32_t bytes)
{
    memcpy(client->out, &bytes, 4);
    if (!pipe_write(client->request[index], client->out, 4 + bytes))
        bench_die("write: the server has closed the connection");
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

static const void *client_receive(struct bench_client *client, uint32_t *index, uint32_t *bytes)
{
    uint32_t i = 0, room;
    const void *message = client->count == 1 ? socket_input_next(&client->in[0], bytes) : NULL;
    while (message == NULL) {
        if (client->count > 1)
            i = next_readable(client);
        uint8_t *to = socket_input_room(&client->in[i], &room);
        ssize_t got = read(client->reply[i], to, room);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
            bench_die("read: %s", got == 0 ? "the server has closed the connection" : strerror(errno));
        if (got > 0)
            client->in[i].last += (uint32_t)got;
        message = socket_input_next(&client->in[i], bytes);
    }
    *index = i;
    return message;
}

static void client_release(struct bench_client *client, uint32_t index)
{
    (void)client, (void)index;
}

static void client_close(struct bench_client *client)
{
    for (uint32_t i = 0; i < client->count; i++) {
        close(client->request[i]);
        close(client->reply[i]);
        free(client->in[i].buffer);
    }
    if (client->epoll >= 0)
        close(client->epoll);
    free(client->out - 4);
    free(client->in);
    free(client->reply);
    free(client->request);
    free(client);
}

const struct bench_system system_pipe = {
    .name = "pipe",
    .what = "two fifos per connection with epoll on both sides; a single connection is read blocking",
    .can_many = true,
    .serve = serve,
    .open = client_open,
    .reserve = client_reserve,
    .commit = client_commit,
    .receive = client_receive,
    .release = client_release,
    .close = client_close,
};

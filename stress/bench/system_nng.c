/* SPDX-License-Identifier: MIT */
/*
 * system_nng.c: nng over ipc://, a REP socket and raw REQ sockets.
 *
 * The server is the loop that its documentation shows for one thread: receive, send. A REP socket that receives again
 * has dropped the request before, so a message one way is a request without an answer. The client's sockets are raw: a
 * plain REQ gives up its request when it is handed the next, and it would send again what is not answered in a minute.
 * A raw one only wants a number in each request's header.
 *
 * A connection is a socket of its own. Many are waited for with epoll, through the descriptor that each has for that.
 * Behind both sides the library works with threads of its own, which share the core with the thread that is ours.
 */
#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "system.h"

#define EVENTS_MAX 256
#define REQUEST_ID 0x80000000u /* the topmost bit ends the way back that a header describes */

struct bench_client {
    uint32_t count;
    nng_socket *socket;
    nng_msg **held; /* per connection: what receive() has handed out */
    nng_msg *out;   /* what is being written */
    uint32_t requests;
    int epoll;
    struct epoll_event events[EVENTS_MAX];
    int event_count;
    int event_next;
};

static void must(int rc, const char *what)
{
    if (rc != 0)
        bench_die("%s: %s", what, nng_strerror(rc));
}

static void address_of(const struct bench_setup *setup, char *address, size_t bytes)
{
    snprintf(address, bytes, "ipc://%s/%s", setup->folder, setup->address);
}

/* --- server ------------------------------------------------------------------------------------------------------ */

static void serve(const struct bench_setup *setup, struct bench_service *service)
{
    char address[256];
    nng_socket socket;
    address_of(setup, address, sizeof address);
    must(nng_rep0_open(&socket), "nng_rep0_open");
    must(nng_listen(socket, address, NULL, 0), "nng_listen");
    service_is_ready(service);
    for (;;) {
        nng_msg *message;
        must(nng_recvmsg(socket, &message, 0), "nng_recvmsg");
        uint32_t bytes = (uint32_t)nng_msg_len(message);
        if (!service_take(service, nng_msg_body(message), bytes)) {
            nng_msg_free(message);
            continue;
        }
        service_echo(service, nng_msg_body(message), bytes);
        must(nng_sendmsg(socket, message, 0), "nng_sendmsg"); /* the message is the library's now */
    }
}

/* --- client ------------------------------------------------------------------------------------------------------ */

/* Its backlog is 128: a thousand processes at once find the server's door full. */
static void dial(nng_socket socket, const char *address)
{
    int rc;
    while ((rc = nng_dial(socket, address, NULL, 0)) == NNG_EAGAIN)
        sched_yield();
    must(rc, "nng_dial");
}

static void watch(struct bench_client *client, uint32_t i)
{
    int fd;
    must(nng_socket_get_int(client->socket[i], NNG_OPT_RECVFD, &fd), "NNG_OPT_RECVFD");
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
    if (epoll_ctl(client->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        bench_die("epoll_ctl: %s", strerror(errno));
}

static struct bench_client *client_open(const struct bench_setup *setup, uint32_t first, uint32_t count)
{
    (void)first;
    char address[256];
    address_of(setup, address, sizeof address);
    struct bench_client *client = calloc(1, sizeof *client);
    client->count = count;
    client->socket = calloc(count, sizeof *client->socket);
    client->held = calloc(count, sizeof(*client->held));
    client->epoll = count > 1 ? epoll_create1(EPOLL_CLOEXEC) : -1;
    for (uint32_t i = 0; i < count; i++) {
        must(nng_req0_open_raw(&client->socket[i]), "nng_req0_open_raw");
        dial(client->socket[i], address);
        if (count > 1)
            watch(client, i);
    }
    return client;
}

static void *client_reserve(struct bench_client *client, uint32_t index, uint32_t bytes)
{
    (void)index;
    must(nng_msg_alloc(&client->out, bytes), "nng_msg_alloc");
    return nng_msg_body(client->out);
}

static void client_commit(struct bench_client *client, uint32_t index, uint32_t bytes)
{
    (void)bytes;
    must(nng_msg_header_append_u32(client->out, REQUEST_ID | ++client->requests), "nng_msg_header_append_u32");
    must(nng_sendmsg(client->socket[index], client->out, 0), "nng_sendmsg");
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
    return client->events[client->event_next++].data.u32;
}

static const void *client_receive(struct bench_client *client, uint32_t *index, uint32_t *bytes)
{
    uint32_t i = 0;
    nng_msg *message;
    if (client->count == 1) {
        must(nng_recvmsg(client->socket[0], &message, 0), "nng_recvmsg");
    } else {
        int rc;
        do {
            i = next_readable(client);
            rc = nng_recvmsg(client->socket[i], &message, NNG_FLAG_NONBLOCK);
        } while (rc == NNG_EAGAIN);
        must(rc, "nng_recvmsg");
    }
    client->held[i] = message;
    *index = i;
    *bytes = (uint32_t)nng_msg_len(message);
    return nng_msg_body(message);
}

static void client_release(struct bench_client *client, uint32_t index)
{
    nng_msg_free(client->held[index]);
}

static void client_close(struct bench_client *client)
{
    for (uint32_t i = 0; i < client->count; i++)
        nng_close(client->socket[i]);
    if (client->epoll >= 0)
        close(client->epoll);
    free(client->held);
    free(client->socket);
    free(client);
}

const struct bench_system system_nng = {
    .name = "nng",
    .what =
        "a REP socket and raw REQ sockets over ipc://, with the library's own threads; many connections through epoll",
    .can_many = true,
    .serve = serve,
    .open = client_open,
    .reserve = client_reserve,
    .commit = client_commit,
    .receive = client_receive,
    .release = client_release,
    .close = client_close,
};

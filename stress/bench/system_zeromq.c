/* SPDX-License-Identifier: MIT */
/*
 * system_zeromq.c: ZeroMQ over ipc://, as its guide builds an asynchronous server: a ROUTER that answers whoever has
 * asked, and a DEALER for each connection.
 *
 * A process has one context with one I/O thread, which shares the core with the thread that works: that is the default,
 * and what one core per side allows. Many connections are waited for with zmq_poll(); zmq_poller is still a draft and
 * is not in a distribution's library. Messages are handed out where the library has put them, and the server sends back
 * the message that it has received.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <zmq.h>

#include "system.h"

#define BACKLOG 4096
#define SOCKETS_SPARE 1024 /* a closed socket counts until a thread of the library has taken it down */

struct bench_client {
    uint32_t count;
    zmq_pollitem_t *item; /* one per connection, with its socket */
    zmq_msg_t *held;      /* likewise: what receive() has handed out */
    zmq_msg_t out;        /* what is being written */
    int ready;            /* of the last zmq_poll(), not yet received from */
    uint32_t next;        /* where to look for them */
};

static void address_of(const struct bench_setup *setup, char *address, size_t bytes)
{
    snprintf(address, bytes, "ipc://%s/%s", setup->folder, setup->address);
}

static void set(void *socket, int option, int value)
{
    if (zmq_setsockopt(socket, option, &value, sizeof value) < 0)
        bench_die("zmq_setsockopt: %s", zmq_strerror(errno));
}

static void receive_part(zmq_msg_t *message, void *socket)
{
    zmq_msg_init(message);
    while (zmq_msg_recv(message, socket, 0) < 0)
        if (errno != EINTR)
            bench_die("zmq_msg_recv: %s", zmq_strerror(errno));
}

/* --- server ------------------------------------------------------------------------------------------------------ */

/* To whom, and what. Without ROUTER_MANDATORY a reply that finds its queue full would be lost in silence. */
static void reply(void *socket, zmq_msg_t *to, zmq_msg_t *message)
{
    while (zmq_msg_send(to, socket, ZMQ_SNDMORE) < 0) {
        if (errno == EHOSTUNREACH) /* it has left */
            return;
        if (errno != EINTR)
            bench_die("zmq_msg_send: %s", zmq_strerror(errno));
    }
    if (zmq_msg_send(message, socket, 0) < 0 && errno != EHOSTUNREACH)
        bench_die("zmq_msg_send: %s", zmq_strerror(errno));
}

static void serve(const struct bench_setup *setup, struct bench_service *service)
{
    char address[256];
    address_of(setup, address, sizeof address);
    void *socket = zmq_socket(zmq_ctx_new(), ZMQ_ROUTER);
    set(socket, ZMQ_BACKLOG, BACKLOG);
    set(socket, ZMQ_ROUTER_MANDATORY, 1);
    if (zmq_bind(socket, address) < 0)
        bench_die("zmq_bind: %s", zmq_strerror(errno));
    service_is_ready(service);
    for (;;) {
        zmq_msg_t from, message;
        receive_part(&from, socket);
        receive_part(&message, socket);
        uint32_t bytes = (uint32_t)zmq_msg_size(&message);
        if (service_take(service, zmq_msg_data(&message), bytes)) {
            service_echo(service, zmq_msg_data(&message), bytes);
            reply(socket, &from, &message);
        }
        zmq_msg_close(&message); /* of what was sent, nothing is left to close */
        zmq_msg_close(&from);
    }
}

/* --- client ------------------------------------------------------------------------------------------------------ */

/* One per process, until it ends, as the guide asks: opening a connection does not start a thread. */
static void *context(uint32_t count)
{
    static void *of_process;
    if (of_process == NULL) {
        of_process = zmq_ctx_new();
        if (zmq_ctx_set(of_process, ZMQ_MAX_SOCKETS, (int)count + SOCKETS_SPARE) < 0)
            bench_die("zeromq cannot have %u sockets: %s", count, zmq_strerror(errno));
    }
    return of_process;
}

static struct bench_client *client_open(const struct bench_setup *setup, uint32_t first, uint32_t count)
{
    (void)first;
    char address[256];
    address_of(setup, address, sizeof address);
    struct bench_client *client = calloc(1, sizeof *client);
    client->count = count;
    client->item = calloc(count, sizeof *client->item);
    client->held = calloc(count, sizeof *client->held);
    for (uint32_t i = 0; i < count; i++) {
        void *socket = zmq_socket(context(count), ZMQ_DEALER);
        if (socket == NULL)
            bench_die("zmq_socket: connection %u: %s", i, zmq_strerror(errno));
        set(socket, ZMQ_LINGER, 0);
        if (zmq_connect(socket, address) < 0)
            bench_die("zmq_connect: connection %u: %s", i, zmq_strerror(errno));
        client->item[i] = (zmq_pollitem_t){.socket = socket, .events = ZMQ_POLLIN};
    }
    return client;
}

static void *client_reserve(struct bench_client *client, uint32_t index, uint32_t bytes)
{
    (void)index;
    if (zmq_msg_init_size(&client->out, bytes) < 0)
        bench_die("zmq_msg_init_size: %s", zmq_strerror(errno));
    return zmq_msg_data(&client->out);
}

static void client_commit(struct bench_client *client, uint32_t index, uint32_t bytes)
{
    (void)bytes;
    while (zmq_msg_send(&client->out, client->item[index].socket, 0) < 0)
        if (errno != EINTR)
            bench_die("zmq_msg_send: %s", zmq_strerror(errno));
}

/* Which connection can be read now? */
static uint32_t next_readable(struct bench_client *client)
{
    while (client->ready == 0) {
        client->next = 0;
        client->ready = zmq_poll(client->item, (int)client->count, -1);
        if (client->ready < 0 && errno != EINTR)
            bench_die("zmq_poll: %s", zmq_strerror(errno));
        if (client->ready < 0)
            client->ready = 0;
    }
    while ((client->item[client->next].revents & ZMQ_POLLIN) == 0)
        client->next++;
    client->ready--;
    return client->next++;
}

static const void *client_receive(struct bench_client *client, uint32_t *index, uint32_t *bytes)
{
    uint32_t i = client->count > 1 ? next_readable(client) : 0;
    zmq_msg_t *message = &client->held[i];
    receive_part(message, client->item[i].socket);
    *index = i;
    *bytes = (uint32_t)zmq_msg_size(message);
    return zmq_msg_data(message);
}

static void client_release(struct bench_client *client, uint32_t index)
{
    zmq_msg_close(&client->held[index]);
}

static void client_close(struct bench_client *client)
{
    for (uint32_t i = 0; i < client->count; i++)
        zmq_close(client->item[i].socket);
    free(client->held);
    free(client->item);
    free(client);
}

const struct bench_system system_zeromq = {
    .name = "zeromq",
    .what = "ROUTER and DEALERs over ipc://, an I/O thread per process; many connections through zmq_poll",
    .can_many = true,
    .serve = serve,
    .open = client_open,
    .reserve = client_reserve,
    .commit = client_commit,
    .receive = client_receive,
    .release = client_release,
    .close = client_close,
};

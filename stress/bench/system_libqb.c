/* SPDX-License-Identifier: MIT */
/*
 * system_libqb.c: libqb, the IPC of Corosync and Pacemaker, over shared memory: rings in /dev/shm, and a byte over a
 * socket for whoever sleeps in a loop.
 *
 * The server is qb_ipcs on a qb_loop, as in libqb's ipcserver.c. A reply to the single connection is a response, which
 * its client awaits on a semaphore. A client of many connections can only wait for events, since these alone have a
 * descriptor: it asks for one in the request's id, and waits with epoll.
 *
 * libqb's files in /dev/shm outlive a server that is killed, or a client that dies in the middle of things. A janitor,
 * forked by the server, waits for its end and removes what is left.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <qb/qbipcc.h>
#include <qb/qbipcs.h>
#include <qb/qbloop.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "system.h"

#define EVENTS_MAX 256
#define RING_BYTES 65536u /* of a single connection, for a stream: what system_belfry.c has at least */
#define RING_SPARE 4096u  /* beyond a message: its headers, in a ring that is never quite full */

/* libqb maps 9 stretches of memory per connection, and Linux allows a process 65,530 (vm.max_map_count). */
#define CONNECTIONS_MAX 7000u

enum request_id { ANSWER_BY_RESPONSE = QB_IPC_MSG_USER_START + 1, ANSWER_BY_EVENT };

struct request {
    struct qb_ipc_request_header header;
    uint8_t payload[PAYLOAD_BYTES_MAX];
};

struct response {
    struct qb_ipc_response_header header;
    uint8_t payload[PAYLOAD_BYTES_MAX];
};

struct bench_client {
    uint32_t count;
    qb_ipcc_connection_t **connection;
    int epoll;
    struct request *out;
    struct response *in;
    struct epoll_event events[EVENTS_MAX];
    int event_count;
    int event_next;
};

/* Servers of all programs share one space of names, so it is the path of the run's folder. */
static void name_it(const struct bench_setup *setup, char *name, size_t bytes)
{
    snprintf(name, bytes, "%s-%s", setup->folder, setup->address);
    for (char *p = name; *p != '\0'; p++)
        if (*p == '/')
            *p = '-';
}

/* --- server ------------------------------------------------------------------------------------------------------ */

static qb_loop_t *loop;
static struct bench_service *board;
static struct response *answer;

static int32_t job_add(enum qb_loop_priority p, void *data, qb_loop_job_dispatch_fn f)
{
    return qb_loop_job_add(loop, p, data, f);
}

static int32_t dispatch_add(enum qb_loop_priority p, int32_t fd, int32_t events, void *data, qb_ipcs_dispatch_fn_t f)
{
    return qb_loop_poll_add(loop, p, fd, events, data, f);
}

static int32_t dispatch_mod(enum qb_loop_priority p, int32_t fd, int32_t events, void *data, qb_ipcs_dispatch_fn_t f)
{
    return qb_loop_poll_mod(loop, p, fd, events, data, f);
}

static int32_t dispatch_del(int32_t fd)
{
    return qb_loop_poll_del(loop, fd);
}

static int32_t on_accept(qb_ipcs_connection_t *c, uid_t uid, gid_t gid)
{
    (void)c, (void)uid, (void)gid;
    return 0;
}

static int32_t on_closed(qb_ipcs_connection_t *c)
{
    (void)c;
    return 0;
}

static int32_t on_message(qb_ipcs_connection_t *c, void *data, size_t size)
{
    const struct request *request = data;
    uint32_t bytes = (uint32_t)size - (uint32_t)sizeof request->header;
    if (!service_take(board, request->payload, bytes))
        return 0;
    size_t total = sizeof answer->header + bytes;
    answer->header = (struct qb_ipc_response_header){.id = request->header.id, .size = (int32_t)total};
    memcpy(answer->payload, request->payload, bytes);
    service_echo(board, answer->payload, bytes);
    ssize_t sent = request->header.id == ANSWER_BY_EVENT ? qb_ipcs_event_send(c, answer, total)
                                                         : qb_ipcs_response_send(c, answer, total);
    if (sent == -EAGAIN || sent == -EMSGSIZE) /* anything else: it has left */
        bench_die("libqb: no room for a reply: %s", strerror((int)-sent));
    return 0;
}

static int32_t on_sigterm(int32_t signal, void *data)
{
    (void)signal, (void)data;
    qb_loop_stop(loop);
    return 0;
}

/* libqb names its directories qb-SERVER-CLIENT-... */
static void remove_leftovers(pid_t server)
{
    char pattern[64];
    glob_t found;
    snprintf(pattern, sizeof pattern, "/dev/shm/qb-%d-*", (int)server);
    if (glob(pattern, GLOB_NOSORT, NULL, &found) != 0)
        return;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        glob_t files = {0};
        char inside[300];
        snprintf(inside, sizeof inside, "%s/*", found.gl_pathv[i]);
        if (glob(inside, GLOB_NOSORT, NULL, &files) == 0)
            for (size_t k = 0; k < files.gl_pathc; k++)
                unlink(files.gl_pathv[k]);
        globfree(&files);
        rmdir(found.gl_pathv[i]);
    }
    globfree(&found);
}

/* The write end of its pipe is the server's, and nobody else's: however the server ends, the pipe does. */
static void start_janitor(void)
{
    int pipe_of[2];
    char nothing;
    pid_t server = getpid();
    if (pipe2(pipe_of, O_CLOEXEC) < 0)
        bench_die("pipe: %s", strerror(errno));
    pid_t janitor = fork();
    if (janitor < 0)
        bench_die("fork: %s", strerror(errno));
    if (janitor > 0) {
        close(pipe_of[0]);
        return;
    }
    signal(SIGINT, SIG_IGN); /* these are for the server */
    signal(SIGTERM, SIG_IGN);
    close(pipe_of[1]);
    while (read(pipe_of[0], &nothing, 1) < 0)
        ;
    remove_leftovers(server);
    _exit(EXIT_SUCCESS);
}

static void serve(const struct bench_setup *setup, struct bench_service *service)
{
    static struct qb_ipcs_service_handlers handlers = {
        .connection_accept = on_accept,
        .connection_closed = on_closed,
        .msg_process = on_message,
    };
    static struct qb_ipcs_poll_handlers poll_handlers = {
        .job_add = job_add,
        .dispatch_add = dispatch_add,
        .dispatch_mod = dispatch_mod,
        .dispatch_del = dispatch_del,
    };
    char name[256];
    name_it(setup, name, sizeof name);
    board = service;
    answer = malloc(sizeof *answer);
    start_janitor();
    loop = qb_loop_create();
    qb_loop_signal_add(loop, QB_LOOP_HIGH, SIGTERM, NULL, on_sigterm, NULL);
    qb_ipcs_service_t *s = qb_ipcs_create(name, 0, QB_IPC_SHM, &handlers);
    if (s == NULL)
        bench_die("qb_ipcs_create: %s", strerror(errno));
    qb_ipcs_poll_handlers_set(s, &poll_handlers);
    qb_ipcs_request_rate_limit(s, QB_IPCS_RATE_FAST);
    int32_t rc = qb_ipcs_run(s);
    if (rc < 0)
        bench_die("qb_ipcs_run: %s", strerror(-rc));
    service_is_ready(service);
    qb_loop_run(loop);
    qb_ipcs_destroy(s);
}

/* --- client ------------------------------------------------------------------------------------------------------ */

/* libqb calls it the largest message, and allocates three rings of that size per connection. */
static size_t ring_bytes(const struct bench_setup *setup)
{
    size_t bytes = setup->bytes_max + RING_SPARE;
    return setup->connections > 1 || bytes > RING_BYTES ? bytes : RING_BYTES;
}

/* Its backlog is 128: a thousand processes at once find the server's door full. */
static qb_ipcc_connection_t *connect_one(const struct bench_setup *setup, const char *name)
{
    qb_ipcc_connection_t *c;
    while ((c = qb_ipcc_connect(name, ring_bytes(setup))) == NULL && errno == EAGAIN)
        sched_yield();
    return c;
}

static struct bench_client *client_open(const struct bench_setup *setup, uint32_t first, uint32_t count)
{
    (void)first;
    char name[256];
    name_it(setup, name, sizeof name);
    struct bench_client *client = calloc(1, sizeof *client);
    client->count = count;
    client->connection = calloc(count, sizeof(*client->connection));
    client->out = malloc(sizeof *client->out);
    client->in = malloc(sizeof *client->in);
    client->epoll = count > 1 ? epoll_create1(EPOLL_CLOEXEC) : -1;
    for (uint32_t i = 0; i < count; i++) {
        client->connection[i] = connect_one(setup, name);
        if (client->connection[i] == NULL)
            bench_die("qb_ipcc_connect: connection %u: %s", i, strerror(errno));
        if (count == 1)
            break;
        int32_t fd = -1;
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        if (qb_ipcc_fd_get(client->connection[i], &fd) < 0 || epoll_ctl(client->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
            bench_die("libqb: cannot wait for connection %u: %s", i, strerror(errno));
    }
    return client;
}

static void *client_reserve(struct bench_client *client, uint32_t index, uint32_t bytes)
{
    (void)index, (void)bytes;
    return client->out->payload;
}

static void client_commit(struct bench_client *client, uint32_t index, uint32_t bytes)
{
    int32_t total = (int32_t)(sizeof client->out->header + bytes);
    int32_t id = client->count > 1 ? ANSWER_BY_EVENT : ANSWER_BY_RESPONSE;
    client->out->header = (struct qb_ipc_request_header){.id = id, .size = total};
    ssize_t sent;
    while ((sent = qb_ipcc_send(client->connection[index], client->out, (size_t)total)) == -EAGAIN)
        sched_yield(); /* the ring is full, and libqb has nothing that waits for room */
    if (sent < 0)
        bench_die("qb_ipcc_send: %s", strerror((int)-sent));
}

/* Which connection has an event now? */
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
    ssize_t got;
    if (client->count == 1)
        got = qb_ipcc_recv(client->connection[0], client->in, sizeof *client->in, -1);
    else
        do {
            i = next_readable(client);
            got = qb_ipcc_event_recv(client->connection[i], client->in, sizeof *client->in, 0);
        } while (got == -EAGAIN || got == -ETIMEDOUT);
    if (got < (ssize_t)sizeof client->in->header)
        bench_die("libqb: nothing received: %s", got < 0 ? strerror((int)-got) : "a short message");
    *index = i;
    *bytes = (uint32_t)got - (uint32_t)sizeof client->in->header;
    return client->in->payload;
}

static void client_release(struct bench_client *client, uint32_t index)
{
    (void)client, (void)index;
}

static void client_close(struct bench_client *client)
{
    for (uint32_t i = 0; i < client->count; i++)
        qb_ipcc_disconnect(client->connection[i]);
    if (client->epoll >= 0)
        close(client->epoll);
    free(client->in);
    free(client->out);
    free(client->connection);
    free(client);
}

const struct bench_system system_libqb = {
    .name = "libqb",
    .what = "shared memory and qb_loop; a single connection gets responses, many get events and wait with epoll",
    .can_many = true,
    .connections_max = CONNECTIONS_MAX,
    .serve = serve,
    .open = client_open,
    .reserve = client_reserve,
    .commit = client_commit,
    .receive = client_receive,
    .release = client_release,
    .close = client_close,
};

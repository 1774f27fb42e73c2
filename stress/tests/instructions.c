/* SPDX-License-Identifier: MIT */
/*
 * instructions CONNECTIONS [MESSAGES]: messages for callgrind to count, see the script `instructions`.
 *
 * A clock cannot tell a message of 200 instructions from one of 220 on a noisy machine; counting can, if the same
 * instructions run every time. So nothing waits here, and nobody polls in vain: the handler itself plays the clients. It
 * answers a request, receives that answer as its client, and sends the next request of the client whose turn it was
 * before. With one client the shard finds that one at once; with many, it has passed the other already and finds exactly
 * one message on each per turn, in whatever order it looks at them.
 *
 * What is collected begins with one message and ends with another MESSAGES later. The first line of the output says how
 * this was compiled, the second how many messages there were and in how many turns.
 */
#include <belfry/belfry.h>

#include <gnu/libc-version.h>
#include <inttypes.h>
#include <liburing.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

#define CONNECTIONS_MAX 64
#define WARM_UP 10000
#define BYTES 64

#if defined(__clang__)
#define COMPILER "clang-%d", __clang_major__
#else
#define COMPILER "gcc-%d", __GNUC__
#endif

struct request {
    uint32_t client;
    uint32_t number;
    uint8_t rest[BYTES - 8];
};

static struct {
    belfry_client *client[CONNECTIONS_MAX];
    uint32_t clients;
    uint64_t handled, from, to;
    uint32_t in_flight;
    uint32_t before; /* the client handled before */
    uint64_t turns_from, turns_to;
    sem_t begun, done;
} play;

/*
 * Debian 12's valgrind lets no other thread run while one waits in io_uring_enter(). So the shard does not wait there
 * but returns after a moment, as it does when its time is up; none of this is within what is collected.
 */
int __real_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned wait_nr,
                                            struct __kernel_timespec *limit, sigset_t *mask);
int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned wait_nr,
                                            struct __kernel_timespec *limit, sigset_t *mask);

int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned wait_nr,
                                            struct __kernel_timespec *limit, sigset_t *mask)
{
    struct __kernel_timespec at_once = {0};
    (void)limit;
    usleep(1000);
    return __real_io_uring_submit_and_wait_timeout(ring, cqe, wait_nr, &at_once, mask);
}

/* Under callgrind each turn takes so long that it would be looked at more closely; anywhere else hardly one does. It is called
   all the same, once. */
struct bf_shard;
struct bf_pace {
    uint64_t mark;
    uint64_t long_cycles;
};
void __wrap_bf_pace_long(struct bf_shard *shard, struct bf_pace *pace, uint64_t cycles);

void __wrap_bf_pace_long(struct bf_shard *shard, struct bf_pace *pace, uint64_t cycles)
{
    (void)shard, (void)cycles;
    pace->long_cycles = UINT64_MAX;
}

static void must(int rc, const char *what)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "%s: %s\n", what, belfry_last_error());
    exit(1);
}

static uint64_t turns(void)
{
    belfry_statistics s = {.size = sizeof s};
    must(belfry_stats("instructions", NULL, &s), "statistics");
    return s.total.turns;
}

static void send_next(uint32_t client)
{
    struct request r = {.client = client, .number = (uint32_t)play.handled};
    play.in_flight++;
    must(belfry_send(play.client[client], &r, sizeof r, NULL), "send");
}

static void take_reply(uint32_t client, const struct request *wanted)
{
    belfry_message m;
    must(belfry_receive(play.client[client], &m, 0), "receive");
    if (m.size != sizeof *wanted || memcmp(m.data, wanted, sizeof *wanted) != 0) {
        fputs("a reply is not its request\n", stderr);
        exit(1);
    }
    belfry_release(play.client[client], &m);
    play.in_flight--;
}

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    struct request r;
    (void)user;
    if (play.handled == 0)
        sem_wait(&play.begun);
    memcpy(&r, m->data, sizeof r);
    must(belfry_reply(conn, m, m->data, m->size), "reply");
    take_reply(r.client, &r);
    if (play.handled == 0)
        for (uint32_t i = 1; i < play.clients; i++)
            send_next(i);
    if (play.handled == play.from) {
        play.turns_from = turns();
        CALLGRIND_TOGGLE_COLLECT;
    }
    if (play.handled == play.to) {
        CALLGRIND_TOGGLE_COLLECT;
        play.turns_to = turns();
    }
    if (play.handled < play.to && (play.handled > 0 || play.clients == 1))
        send_next(play.clients == 1 ? r.client : play.before);
    play.before = r.client;
    play.handled++;
    if (play.in_flight == 0)
        sem_post(&play.done);
}

int main(int argc, char **argv)
{
    play.clients = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0;
    if (play.clients == 0 || play.clients > CONNECTIONS_MAX) {
        fprintf(stderr, "usage: instructions CONNECTIONS(1 to %d) [MESSAGES]\n", CONNECTIONS_MAX);
        return 64;
    }
    play.from = WARM_UP;
    play.to = play.from + (argc > 2 ? strtoul(argv[2], NULL, 10) : 10000);
    sem_init(&play.begun, 0, 0);
    sem_init(&play.done, 0, 0);

    belfry_server *server;
    belfry_server_options o;
    belfry_server_options_init(&o, sizeof o);
    o.service = "instructions";
    o.on_message = on_message;
    o.shards = 1;
    o.pin = false;
    o.max_slots = CONNECTIONS_MAX;
    o.warm_pool = play.clients;
    o.ring_bytes = 65536;
    must(belfry_server_create(&server, &o), "create");
    must(belfry_server_start(server), "start");
    for (uint32_t i = 0; i < play.clients; i++)
        must(belfry_connect(&play.client[i], "instructions", NULL), "connect");

    send_next(0);
    sem_post(&play.begun); /* from here on the clients are the handler's */
    sem_wait(&play.done);
    printf(COMPILER);
    printf("/" BUILD "/glibc-%s\n", gnu_get_libc_version());
    printf("%" PRIu64 " messages, %" PRIu64 " turns\n", play.to - play.from, play.turns_to - play.turns_from);
    for (uint32_t i = 0; i < play.clients; i++)
        belfry_close(play.client[i]);
    belfry_server_destroy(server);
    return 0;
}

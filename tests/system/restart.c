/* SPDX-License-Identifier: MIT */
/*
 * restart.c: servers that follow one another under load, and clients that go on with the next.
 *
 * A thousand connections in ten processes, each with a poller, send numbered requests without pause. Every second one
 * may be executed twice; some are larger than the ring, and some are answered later. The servers count in shared memory how often they executed each, the clients how often each
 * was answered; at the end that is compared, request by request.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "house.h"

enum {
    PROCESSES = 10,
    CONNECTIONS = 100, /* of each */
    ALL = PROCESSES * CONNECTIONS,
    REQUESTS_MAX = 16384, /* of a connection */
    IN_FLIGHT = 3,
    LARGE_BYTES = 6000, /* more than a ring */
    PACE_NS = 4000000,  /* between two rounds of a process, so that it does not run out of requests */
};

struct request {
    uint32_t connection;
    uint32_t number;
};

/* One connection's, written by its process; the gap is begun anew by the test. */
struct row {
    uint64_t replies;
    uint64_t gone;
    uint64_t sent;
    int64_t last_ns; /* when it had a reply */
    int64_t gap_ns;  /* the longest time without one */
    uint64_t reconnects;
    uint64_t attempts; /* that failed */
};

static struct board {
    uint32_t stop;
    uint32_t process; /* the next one's number */
    struct row rows[ALL];
    uint8_t executed[ALL][REQUESTS_MAX];
    uint8_t answered[ALL][REQUESTS_MAX];
    uint8_t failed[ALL][REQUESTS_MAX];
} * board;

#define LOAD(word) __atomic_load_n(&(word), __ATOMIC_ACQUIRE)
#define STORE(word, value) __atomic_store_n(&(word), (value), __ATOMIC_RELEASE)

TestSuite(restart, .timeout = 360);

/* --- the servers ---------------------------------------------------------------------------------------------------- */

static bool is_large(uint32_t number)
{
    return number % 41 < 2;
}

static bool is_answered_later(uint32_t number)
{
    return number % 7 < 2;
}

/* Behind a large one's head stand its number's bytes, again and again. */
static bool is_whole(const struct request *r, const belfry_message *m)
{
    const uint8_t *data = m->data;
    if (m->size != (is_large(r->number) ? LARGE_BYTES : sizeof *r))
        return false;
    for (size_t i = sizeof *r; i < m->size; i++)
        if (data[i] != (uint8_t)(r->number >> i % 4 * 8))
            return false;
    return true;
}

static void on_request(belfry_conn *conn, const belfry_message *m, void *user)
{
    struct request r;
    belfry_ticket ticket;
    (void)user;
    if (m->size < sizeof r)
        return;
    memcpy(&r, m->data, sizeof r);
    if (r.connection >= ALL || r.number >= REQUESTS_MAX || !is_whole(&r, m)) {
        belfry_fail(conn, m, BELFRY_EUSER, "mangled");
        return;
    }
    __atomic_fetch_add(&board->executed[r.connection][r.number], 1, __ATOMIC_RELAXED);
    if (!is_answered_later(r.number))
        belfry_reply(conn, m, &r, sizeof r);
    else if (belfry_defer(conn, m, &ticket, NULL) == 0) /* the answer comes through the mailbox */
        belfry_complete(belfry_conn_server(conn), &ticket, &r, sizeof r);
}

/* --- the clients ---------------------------------------------------------------------------------------------------- */

struct member {
    belfry_client *c;
    uint32_t index; /* its row */
    uint32_t open;  /* requests in flight */
};

static bool may_be_executed_twice(uint32_t number)
{
    return number % 2 == 1;
}

/* 0, or the number of the mistake. Ids count from 1, so they say which request it was. */
static int take(struct member *member, const belfry_message *m)
{
    struct row *row = &board->rows[member->index];
    uint64_t number = m->id - 1;
    int64_t now = belfry_now_ns();
    if (m->id == 0 || number >= row->sent)
        return 20;
    member->open--;
    if (m->status == BELFRY_EGONE) {
        board->failed[member->index][number]++;
        STORE(row->gone, row->gone + 1);
        return 0;
    }
    const struct request *r = m->data;
    if (m->status != 0 || m->size != sizeof *r || r->connection != member->index || r->number != number)
        return 21;
    board->answered[member->index][number]++;
    if (row->last_ns != 0 && now - row->last_ns > LOAD(row->gap_ns))
        STORE(row->gap_ns, now - row->last_ns);
    row->last_ns = now;
    STORE(row->replies, row->replies + 1);
    return 0;
}

static int receive_all(struct member *member)
{
    belfry_message m;
    int rc;
    while ((rc = belfry_receive(member->c, &m, 0)) == 0) {
        int wrong = take(member, &m);
        belfry_release(member->c, &m);
        if (wrong != 0)
            return wrong;
    }
    return rc == -ETIMEDOUT || rc == -EAGAIN ? 0 : 22;
}

static int send_more(struct member *member)
{
    struct row *row = &board->rows[member->index];
    while (member->open < IN_FLIGHT && row->sent < REQUESTS_MAX && LOAD(board->stop) == 0) {
        struct request r = {.connection = member->index, .number = (uint32_t)row->sent};
        uint8_t data[LARGE_BYTES];
        size_t size = is_large(r.number) ? sizeof data : sizeof r;
        memcpy(data, &r, sizeof r);
        for (size_t i = sizeof r; i < size; i++)
            data[i] = (uint8_t)(r.number >> i % 4 * 8);
        int rc = may_be_executed_twice(r.number) ? belfry_send_idempotent(member->c, data, size, BELFRY_FOREVER, NULL)
                                                 : belfry_send(member->c, data, size, NULL);
        if (rc == -EAGAIN)
            return 0;
        if (rc < 0)
            return 23;
        row->sent++;
        member->open++;
    }
    return 0;
}

static int work(belfry_poller *poller, struct member *members)
{
    belfry_poll_event events[CONNECTIONS];
    for (;;) {
        bool open = false;
        for (int i = 0; i < CONNECTIONS; i++) {
            int wrong = send_more(&members[i]);
            if (wrong != 0)
                return wrong;
            open |= members[i].open > 0;
            STORE(board->rows[members[i].index].reconnects, belfry_client_reconnects(members[i].c));
        }
        if (!open && LOAD(board->stop) != 0)
            return 0;
        int count = belfry_poller_wait(poller, events, CONNECTIONS, belfry_in_ms(100));
        if (count < 0)
            return 24;
        for (int i = 0; i < count; i++) {
            int wrong = receive_all(events[i].tag);
            if (wrong != 0)
                return wrong;
        }
        nanosleep(&(struct timespec){.tv_nsec = PACE_NS}, NULL);
    }
}

static void on_reconnect(belfry_client *c, enum belfry_reconnect_event event, int rc, void *user)
{
    uint64_t *attempts = user;
    (void)c;
    (void)rc;
    *attempts += event == BELFRY_RECONNECT_FAILED;
}

static int load(struct house *house, void *argument)
{
    static struct member members[CONNECTIONS];
    belfry_client_options o;
    belfry_poller *poller;
    uint32_t first = __atomic_fetch_add(&board->process, 1, __ATOMIC_RELAXED) * CONNECTIONS;
    (void)argument;
    belfry_client_options_init(&o, sizeof o);
    o.root = house->root;
    o.deadline_ns = SECONDS(60);
    o.reconnect.enabled = true;
    o.reconnect.first_ms = 1;
    o.reconnect.max_ms = 50;
    o.reconnect.replays_max = 10;
    if (belfry_poller_create(&poller) < 0)
        return 10;
    for (uint32_t i = 0; i < CONNECTIONS; i++) {
        members[i].index = first + i;
        o.reconnect.on_reconnect = on_reconnect;
        o.reconnect.user = &board->rows[first + i].attempts;
        if (belfry_connect(&members[i].c, SERVICE, &o) < 0)
            return 11;
        if (belfry_poller_add(poller, members[i].c, &members[i]) < 0)
            return 12;
    }
    int wrong = work(poller, members);
    if (wrong != 0)
        fprintf(stderr, "restart: a client process failed: %d: %s\n", wrong, belfry_last_error());
    uint64_t rescued = 0;
    for (uint32_t i = 0; i < CONNECTIONS; i++) {
        rescued += belfry_client_rescued_wakes(members[i].c);
        belfry_close(members[i].c);
    }
    belfry_poller_destroy(poller);
    return wrong != 0 ? wrong : rescued != 0 ? 13 : 0;
}

/* --- the test ------------------------------------------------------------------------------------------------------- */

static uint64_t before[ALL];

/* From here on, replies count for wait_for_all(). */
static void mark(void)
{
    for (uint32_t i = 0; i < ALL; i++)
        before[i] = LOAD(board->rows[i].replies);
}

/* ... and gaps for report(). */
static void begin_phase(void)
{
    mark();
    for (uint32_t i = 0; i < ALL; i++)
        STORE(board->rows[i].gap_ns, 0);
}

/* Every connection has had some more replies. */
static void wait_for_all(uint64_t more, pid_t *pids)
{
    int64_t deadline = SECONDS(120);
    for (uint32_t i = 0; i < ALL; i++)
        while (LOAD(board->rows[i].replies) < before[i] + more && LOAD(board->rows[i].sent) < REQUESTS_MAX) {
            cr_assert(belfry_now_ns() < deadline, "connection %u has had no reply for two minutes", i);
            for (int p = 0; p < PROCESSES; p++)
                cr_assert_eq(waitpid(pids[p], NULL, WNOHANG), 0, "client process %d has ended", p);
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* Printed, not judged: it says more about the machine than about right and wrong. */
static void report(const char *what)
{
    static int64_t gaps[ALL];
    for (uint32_t i = 0; i < ALL; i++)
        gaps[i] = LOAD(board->rows[i].gap_ns);
    qsort(gaps, ALL, sizeof gaps[0], compare);
    uint64_t attempts = 0;
    for (uint32_t i = 0; i < ALL; i++)
        attempts += LOAD(board->rows[i].attempts);
    printf(
        "restart: %s: longest time without a reply, of %d connections: median %.1f ms, 99 %% %.1f ms, worst %.1f ms; "
        "%llu attempts have failed so far\n",
        what, ALL, (double)gaps[ALL / 2] / 1e6, (double)gaps[ALL * 99 / 100] / 1e6, (double)gaps[ALL - 1] / 1e6,
        (unsigned long long)attempts);
    fflush(stdout);
}

static uint64_t gone(void)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < ALL; i++)
        sum += LOAD(board->rows[i].gone);
    return sum;
}

/* Each request: answered once, or ended once with the code that is allowed; executed as often as that permits. */
static void check_all(void)
{
    uint64_t sent = 0, twice = 0;
    for (uint32_t i = 0; i < ALL; i++)
        for (uint32_t n = 0; n < board->rows[i].sent; n++) {
            unsigned answered = board->answered[i][n], failed = board->failed[i][n], executed = board->executed[i][n];
            cr_assert(answered + failed == 1, "request %u of connection %u: answered %u times, failed %u times", n, i,
                      answered, failed);
            if (may_be_executed_twice(n))
                cr_assert(answered == 1 && executed >= 1, "request %u of connection %u may not fail", n, i);
            else
                cr_assert(executed <= 1 && executed >= answered, "request %u of connection %u: executed %u times", n, i,
                          executed);
            sent++;
            twice += executed > 1;
        }
    printf("restart: %llu requests; %llu ended with BELFRY_EGONE, %llu were executed twice\n", (unsigned long long)sent,
           (unsigned long long)gone(), (unsigned long long)twice);
    fflush(stdout);
}

static struct house next_of(const struct house *house)
{
    struct house next = *house;
    next.server = 0;
    return next;
}

Test(restart, a_thousand_connections_under_load_move_from_server_to_server)
{
    struct house house;
    pid_t pids[PROCESSES];
    house_init(&house);
    house.options.on_message = on_request;
    house.options.ring_bytes = 4096;
    house.options.max_slots = 1200;
    house.options.message_bytes_max = 8192;
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(board, MAP_FAILED);
    house_start(&house);
    for (int p = 0; p < PROCESSES; p++)
        pids[p] = house_process(load, &house, NULL);
    wait_for_all(5, pids);

    begin_phase();
    wait_for_all(20, pids);
    report("nothing happens");

    for (int round = 0; round < 2; round++) { /* the successor comes, then its predecessor is told to drain */
        begin_phase();
        struct house next = next_of(&house);
        house_start(&next);
        cr_assert_eq(house_drain(&house), 0);
        house = next;
        mark();
        wait_for_all(5, pids);
        report("drained");
        cr_assert_eq(gone(), 0, "a server that drains breaks nothing off");
    }

    begin_phase();
    kill(house.server, SIGKILL);
    cr_assert_eq(house_reap(house.server, 20), 128 + SIGKILL);
    house_start(&house);
    mark();
    wait_for_all(5, pids);
    report("killed and started again");

    STORE(board->stop, 1);
    for (int p = 0; p < PROCESSES; p++)
        cr_assert_eq(house_reap(pids[p], 60), 0);
    check_all();
    for (uint32_t i = 0; i < ALL; i++)
        cr_assert_geq(board->rows[i].reconnects, 3);
    cr_assert_eq(house_stop(&house), 0);
    munmap(board, sizeof *board);
    house_clear(&house);
}

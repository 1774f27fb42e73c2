/* SPDX-License-Identifier: MIT */
/*
 * worker.c: the loop that drives some of the connections, on one thread with one poller.
 *
 * It decides when something is sent, and what is honest is decided here:
 *
 * - Closed loop: a request goes out as soon as the window has room; its latency counts from the moment when it was
 *   first tried. A full ring is a delay of that request, not an error and not a restart of its clock.
 * - Open loop: message k of connection c is due at start + (k * connections + c) / rate, whether or not anybody is
 *   ready. Its latency counts from then, so a server that stalls is charged for everything that waited behind it.
 *   What is due but unsent at the end has no latency; it is counted as `unsent`, and the report says so.
 *
 * The clock of a reply is read as soon as it has been taken, and what queued up in front of this thread is part of its
 * latency too: a client that serves many connections is a client like any other.
 */
#include "worker.h"

#include "connection.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#define EVENTS_MAX 256
#define LOOK_NS 5000000000  /* a silent worker looks at the phase; more often would hide wakes that were lost */
#define DRAIN_NS 5000000000 /* what has not come back by then is lost */
#define RETRY_NS 1000000    /* until a reconnect that met a full service is tried again */

/* One connection at a time leaves and comes back. */
enum churn_state { CHURN_NONE, CHURN_LEAVING, CHURN_CLOSED };

struct worker {
    struct driver driver;
    struct board_shared *board;
    struct connection *connections;
    struct pending *pending; /* of all connections */
    uint32_t count;
    uint32_t index;
    bool sending;

    double interval_ns; /* open loop: between two messages of the whole run; 0: closed loop */
    uint32_t cursor;    /* whose message is due next */
    uint64_t round;     /* and which of its messages */

    enum churn_state churn;
    uint32_t churn_next;
    double churn_interval_ns; /* between two reconnects of this worker; 0: none */
    double churn_at_ns;
};

static void sleep_until(int64_t at_ns)
{
    struct timespec at = {.tv_sec = at_ns / 1000000000, .tv_nsec = at_ns % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
        continue;
}

/* ---- connect --------------------------------------------------------------------------------------------------- */

static bool worker_init(struct worker *w, const struct worker_job *job)
{
    const struct options *o = job->options;
    *w = (struct worker){
        .board = job->board,
        .index = job->index,
        .count = o->connections / o->workers + (job->index < o->connections % o->workers),
        .interval_ns = o->rate > 0 ? 1e9 / o->rate : 0,
        .driver = {.options = o,
                   .service = job->service,
                   .shared = &job->board->worker[job->index],
                   .random = o->seed + job->index * 0x9e3779b97f4a7c15ull,
                   .corrupt_next = o->corrupt_one && o->service && job->index == 0},
    };
    if (o->churn > 0)
        w->churn_interval_ns = 1e9 / o->churn * o->connections / w->count;
    w->connections = calloc(w->count, sizeof *w->connections);
    w->pending = calloc((size_t)w->count * o->depth, sizeof *w->pending);
    w->driver.buffer = malloc(o->sizes.bytes_max + 8u);
    int rc = belfry_poller_create(&w->driver.poller);
    if (!w->connections || !w->pending || !w->driver.buffer)
        rc = -ENOMEM;
    for (uint32_t i = 0; rc == 0 && i < w->count; i++) {
        struct connection *c = &w->connections[i];
        c->number = w->index + i * o->workers;
        c->pending = w->pending + (size_t)i * o->depth;
        rc = connection_open(&w->driver, c);
    }
    if (rc < 0)
        driver_error(&w->driver, rc);
    return rc == 0;
}

static void worker_deinit(struct worker *w)
{
    for (uint32_t i = 0; w->connections && i < w->count; i++)
        connection_close(&w->driver, &w->connections[i]);
    belfry_poller_destroy(w->driver.poller);
    free(w->driver.buffer);
    free(w->pending);
    free(w->connections);
}

/* ---- one connection has something to do ------------------------------------------------------------------------ */

/* A connection that failed is closed: its requests are lost, the others go on, the first failure is written down. */
static void drop(struct worker *w, struct connection *c, int rc)
{
    driver_error(&w->driver, rc);
    connection_close(&w->driver, c);
}

/* When the message that would go out next should have been sent, or 0: nothing is to be sent. */
static int64_t send_since(const struct worker *w, const struct connection *c)
{
    if (!w->sending || !c->client || c->stalled || c->leaving || connection_in_flight(c) == w->driver.options->depth)
        return 0;
    if (w->interval_ns > 0) {
        double turn = (double)c->sequence * w->driver.options->connections + c->number;
        return c->sequence < c->due ? w->board->start_ns + (int64_t)(turn * w->interval_ns) : 0;
    }
    return c->stalled_ns ? c->stalled_ns : belfry_now_ns();
}

/* Send as much as this connection may. */
static void fill(struct worker *w, struct connection *c)
{
    for (int64_t since_ns; (since_ns = send_since(w, c)) != 0;) {
        int rc = connection_send(&w->driver, c, since_ns);
        c->stalled = rc == -EAGAIN;
        c->stalled_ns = rc == -EAGAIN ? since_ns : 0;
        if (rc == -EAGAIN)
            count_add(&w->driver.shared->delays, 1);
        else if (rc < 0)
            drop(w, c, rc);
    }
}

/* Take what has come, but at most a window: a connection answered faster than we read must not starve the rest. */
static void serve(struct worker *w, const belfry_poll_event *event)
{
    struct connection *c = event->tag;
    if (event->writable)
        c->stalled = false;
    for (uint32_t i = 0; event->readable && c->client && i < w->driver.options->depth; i++) {
        int rc = connection_receive(&w->driver, c);
        if (rc < 0)
            drop(w, c, rc);
        if (rc <= 0)
            break;
        fill(w, c);
    }
    fill(w, c);
}

/* ---- open loop ------------------------------------------------------------------------------------------------- */

static int64_t schedule_next_ns(const struct worker *w)
{
    double turn = (double)w->round * w->driver.options->connections + w->connections[w->cursor].number;
    return w->board->start_ns + (int64_t)(turn * w->interval_ns);
}

/* Note what has become due, and send it where there is room. */
static void schedule(struct worker *w, int64_t now_ns)
{
    while (schedule_next_ns(w) <= now_ns) {
        struct connection *c = &w->connections[w->cursor];
        c->due = w->round + 1;
        if (++w->cursor == w->count) {
            w->cursor = 0;
            w->round++;
        }
        fill(w, c);
    }
}

/* ---- churn ----------------------------------------------------------------------------------------------------- */

static void churn(struct worker *w, int64_t now_ns)
{
    struct connection *c = &w->connections[w->churn_next];
    if (w->churn == CHURN_NONE && (double)now_ns >= w->churn_at_ns) {
        w->churn = CHURN_LEAVING;
        c->leaving = true;
    }
    if (w->churn == CHURN_LEAVING && connection_in_flight(c) == 0) {
        connection_close(&w->driver, c);
        w->churn = CHURN_CLOSED;
    }
    if (w->churn != CHURN_CLOSED || (double)now_ns < w->churn_at_ns)
        return;

    int rc = connection_open(&w->driver, c);
    if (rc == BELFRY_EFULL) { /* our old slot is not free yet, nor is any other */
        w->churn_at_ns = (double)now_ns + RETRY_NS;
        return;
    }
    if (rc < 0) {
        driver_error(&w->driver, rc);
    } else {
        count_add(&w->driver.shared->reconnects, 1);
        fill(w, c);
    }
    w->churn = CHURN_NONE;
    w->churn_next = (w->churn_next + 1) % w->count;
    w->churn_at_ns += w->churn_interval_ns;
}

/* ---- the phases ------------------------------------------------------------------------------------------------ */

/* Until when this worker has nothing to do, if no message comes. */
static int64_t worker_rest_ns(const struct worker *w, int64_t now_ns)
{
    int64_t until_ns = now_ns + LOOK_NS;
    if (w->interval_ns > 0 && schedule_next_ns(w) < until_ns)
        until_ns = schedule_next_ns(w);
    if (w->churn_interval_ns > 0 && w->churn != CHURN_LEAVING && w->churn_at_ns < (double)until_ns)
        until_ns = (int64_t)w->churn_at_ns;
    return until_ns;
}

/* Wait for events, at most until then, and serve them. False: waiting is impossible. */
static bool worker_turn(struct worker *w, int64_t until_ns)
{
    belfry_poll_event events[EVENTS_MAX];
    if (w->driver.open_count == 0) {
        sleep_until(until_ns);
        return true;
    }
    int count = belfry_poller_wait(w->driver.poller, events, EVENTS_MAX, until_ns);
    if (count < 0)
        driver_error(&w->driver, count);
    for (int i = 0; i < count; i++)
        serve(w, &events[i]);
    return count >= 0;
}

static void worker_exercise(struct worker *w)
{
    sleep_until(w->board->start_ns);
    w->sending = true;
    if (w->interval_ns <= 0)
        for (uint32_t i = 0; i < w->count; i++)
            fill(w, &w->connections[i]);
    w->churn_at_ns = (double)w->board->start_ns + w->churn_interval_ns * (w->index + 1) / w->driver.options->workers;

    while (board_phase(w->board) == PHASE_RUN) {
        int64_t now_ns = belfry_now_ns();
        if (w->interval_ns > 0)
            schedule(w, now_ns);
        if (w->churn_interval_ns > 0)
            churn(w, now_ns);
        if (!worker_turn(w, worker_rest_ns(w, now_ns)))
            return;
    }
}

static void worker_drain(struct worker *w)
{
    w->sending = false;
    for (uint32_t i = 0; i < w->count; i++)
        if (w->connections[i].due > w->connections[i].sequence)
            count_add(&w->driver.shared->unsent, w->connections[i].due - w->connections[i].sequence);
    int64_t until_ns = belfry_now_ns() + DRAIN_NS;
    while (w->driver.in_flight > 0 && belfry_now_ns() < until_ns && board_phase(w->board) < PHASE_CLOSE)
        if (!worker_turn(w, until_ns))
            return;
}

static void worker_stage(struct worker *w, enum stage stage)
{
    atomic_store_explicit(&w->driver.shared->stage, (uint32_t)stage, memory_order_release);
}

void worker_run(const struct worker_job *job)
{
    struct worker w;
    prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul); /* an open loop that sleeps 50 us too long would charge the server */
    bool attached = worker_init(&w, job);
    worker_stage(&w, STAGE_ATTACHED);
    if (attached && board_await(w.board, PHASE_RUN) == PHASE_RUN)
        worker_exercise(&w);
    board_await(w.board, PHASE_DRAIN);
    if (attached)
        worker_drain(&w);
    worker_stage(&w, STAGE_DRAINED);
    board_await(w.board, PHASE_CLOSE);
    worker_deinit(&w);
    worker_stage(&w, STAGE_LEFT);
}

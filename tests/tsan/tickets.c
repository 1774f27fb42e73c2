/* SPDX-License-Identifier: MIT */
/*
 * tickets.c: a running server whose requests are answered by threads of their own, while clients cancel, run out and leave,
 * and other threads post and push; for ThreadSanitizer to watch.
 *
 * Of what lies in shared memory it sees little here: client and server map a segment at two addresses, which are two
 * things to it. It sees what the server's threads share: tickets, letters, copies of messages, start and stop. The
 * ring itself is watched by ring.c.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <belfry/belfry.h>

#include "base/order.h"
#include "verdict.h"

#define SERVICE "tickets"
#define SHARDS 2u
#define CLIENTS 4u
#define WORKERS 3u
#define ROUNDS 5000u /* of each client */
#define PARTS 3u
#define POSTS 50000u

static belfry_server *server;

/* --- the server: everything but 'e' is deferred ---------------------------------------------------------------------- */

struct job {
    struct job *next;
    belfry_ticket ticket;
    belfry_message copy;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct job *first;
    bool closed;
} jobs = {.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};

static uint32_t defer_errors, deferred, answered, unwanted, work_errors;
static bool stopping;

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    if (*(const char *)m->data == 'e') {
        belfry_reply(conn, m, m->data, m->size);
        return;
    }
    struct job *job = calloc(1, sizeof *job);
    if (belfry_defer(conn, m, &job->ticket, &job->copy) < 0) {
        add_release(&defer_errors, 1);
        free(job);
        return;
    }
    add_release(&deferred, 1);
    pthread_mutex_lock(&jobs.lock);
    job->next = jobs.first; /* the last first: answers come in another order than requests */
    jobs.first = job;
    pthread_cond_signal(&jobs.more);
    pthread_mutex_unlock(&jobs.lock);
}

static void on_cancel(belfry_conn *conn, const belfry_ticket *t, int why, void *user)
{
    (void)user, (void)why;
    if (belfry_conn_get_id(conn) != t->conn)
        add_release(&work_errors, 1);
}

static struct job *next_job(void)
{
    pthread_mutex_lock(&jobs.lock);
    while (jobs.first == NULL && !jobs.closed)
        pthread_cond_wait(&jobs.more, &jobs.lock);
    struct job *job = jobs.first;
    if (job != NULL)
        jobs.first = job->next;
    pthread_mutex_unlock(&jobs.lock);
    return job;
}

static int say_part(const struct job *job)
{
    int rc;
    while ((rc = belfry_complete_more(server, &job->ticket, job->copy.data, job->copy.size)) == BELFRY_EBACKLOG)
        if ((rc = belfry_ticket_wait(server, &job->ticket, BELFRY_FOREVER)) < 0)
            break;
    return rc;
}

static void *work(void *context)
{
    (void)context;
    for (struct job *job; (job = next_job()) != NULL;) {
        char what = *(const char *)job->copy.data;
        int rc = 0;
        for (unsigned i = 0; what == 's' && i < PARTS && rc == 0; i++)
            rc = say_part(job);
        rc = what == 'f' ? belfry_complete_failed(server, &job->ticket, BELFRY_EUSER, "as wished")
                         : belfry_complete(server, &job->ticket, job->copy.data, job->copy.size);
        add_release(rc == 0 ? &answered : rc == -ECANCELED || rc == BELFRY_EGONE ? &unwanted : &work_errors, 1);
        int again = belfry_complete(server, &job->ticket, "twice", 5);
        bool gone = again == BELFRY_EGONE && load_acquire(&stopping); /* then nobody is there to note the first */
        if (again != BELFRY_EANSWERED && !gone)
            add_release(&work_errors, 1);
        belfry_message_free(&job->copy);
        free(job);
    }
    return NULL;
}

/* --- the clients ----------------------------------------------------------------------------------------------------- */

static uint32_t call_errors, late;

static void expect_reply(belfry_message *m, int rc, const uint8_t *sent, size_t size, belfry_client *c)
{
    if (rc < 0 || m->size != size || memcmp(m->data, sent, size) != 0)
        add_release(&call_errors, 1);
    if (rc == 0)
        belfry_release(c, m);
}

static void stream(belfry_client *c, const uint8_t *request, size_t size)
{
    belfry_message m;
    uint64_t id;
    if (belfry_send(c, request, size, &id) < 0) {
        add_release(&call_errors, 1);
        return;
    }
    for (unsigned i = 0; i <= PARTS; i++)
        expect_reply(&m, belfry_await(c, id, &m, BELFRY_FOREVER), request, size, c);
}

/* Sent, and given up at once or soon: whether an answer was on its way is for chance to say. */
static void give_up(belfry_client *c, const uint8_t *request, size_t size, uint32_t round)
{
    belfry_message m;
    uint64_t id;
    if (round % 2 == 0) {
        int rc = belfry_send(c, request, size, &id);
        if (rc < 0 || belfry_cancel(c, id) < 0)
            add_release(&call_errors, 1);
        return;
    }
    int rc = belfry_call(c, request, size, &m, belfry_now_ns() + 50000);
    if (rc == 0)
        expect_reply(&m, rc, request, size, c);
    else if (rc != -ETIMEDOUT)
        add_release(&call_errors, 1);
}

static void one_round(belfry_client *c, uint32_t round)
{
    static const char kinds[] = "edscf";
    uint8_t request[200];
    belfry_message m;
    size_t size = 1 + round * 37 % sizeof request;
    memset(request, (int)round, sizeof request);
    request[0] = (uint8_t)kinds[round % 5];
    switch (request[0]) {
    case 's':
        stream(c, request, size);
        break;
    case 'c':
        give_up(c, request, size, round / 5);
        break;
    case 'f':
        if (belfry_call(c, request, size, &m, BELFRY_FOREVER) != BELFRY_EUSER)
            add_release(&call_errors, 1);
        break;
    default:
        expect_reply(&m, belfry_call(c, request, size, &m, BELFRY_FOREVER), request, size, c);
    }
    while (belfry_receive(c, &m, 0) == 0) /* what was pushed */
        belfry_release(c, &m);
}

static void *be_client(void *context)
{
    uint32_t round = (uint32_t)(uintptr_t)context;
    belfry_client *c = NULL;
    for (uint32_t i = 0; i < ROUNDS; i++, round++) {
        if (c == NULL && belfry_connect(&c, SERVICE, NULL) < 0) {
            add_release(&call_errors, 1);
            break;
        }
        one_round(c, round);
        if (i % 100 == 99) { /* leave beside a request that is deferred, and come back as another */
            belfry_send(c, "d", 1, NULL);
            add_release(&late, (uint32_t)belfry_client_late_replies(c));
            belfry_close(c);
            c = NULL;
        }
    }
    belfry_close(c);
    return NULL;
}

/* --- posts and pushes ------------------------------------------------------------------------------------------------ */

static struct {
    uint32_t runs; /* plain: of its shard's thread alone */
} posted[SHARDS];
static uint32_t posts_accepted;

static void run_post(void *user)
{
    (*(uint32_t *)user)++;
}

static void *post(void *context)
{
    (void)context;
    for (uint32_t i = 0; i < POSTS; i++) {
        posts_accepted += belfry_post(server, i % SHARDS, run_post, &posted[i % SHARDS].runs) == 0;
        if (i % 400 == 0)
            belfry_broadcast(server, "hear", 4);
        if (i % 400 == 200)
            belfry_push_to(server, (uint64_t)(i % SHARDS) << 50, "nobody", 6);
    }
    return NULL;
}

/* --- all together ---------------------------------------------------------------------------------------------------- */

static void run(struct verdict *v)
{
    pthread_t clients[CLIENTS], workers[WORKERS], poster;
    for (uintptr_t i = 0; i < WORKERS; i++)
        pthread_create(&workers[i], NULL, work, NULL);
    for (uintptr_t i = 0; i < CLIENTS; i++)
        pthread_create(&clients[i], NULL, be_client, (void *)i);
    pthread_create(&poster, NULL, post, NULL);
    for (int i = 0; i < (int)CLIENTS; i++)
        pthread_join(clients[i], NULL);
    pthread_join(poster, NULL);
    store_release(&stopping, true);
    belfry_server_stop(server);
    int rc = belfry_server_wait(server);
    verdict_on(v, rc == 0, "the server ended with %d", rc);
    pthread_mutex_lock(&jobs.lock);
    jobs.closed = true;
    pthread_cond_broadcast(&jobs.more);
    pthread_mutex_unlock(&jobs.lock);
    for (int i = 0; i < (int)WORKERS; i++)
        pthread_join(workers[i], NULL);
}

int main(void)
{
    struct verdict v = {0};
    belfry_server_options o;
    belfry_server_options_init(&o, sizeof o);
    o.service = SERVICE;
    o.on_message = on_message;
    o.on_cancel = on_cancel;
    o.shards = SHARDS;
    o.max_slots = 16;
    o.warm_pool = 8;
    o.ring_bytes = 4096;
    o.pin = false;
    int rc = belfry_server_create(&server, &o);
    if (rc == 0)
        rc = belfry_server_start(server);
    verdict_on(&v, rc == 0, "no server: %s", belfry_last_error());
    if (rc < 0)
        return verdict_close(&v);
    run(&v);
    belfry_server_destroy(server);
    printf("%u deferred, %u answered, %u not wanted any more, %u late\n", deferred, answered, unwanted, late);
    verdict_on(&v, call_errors == 0, "%u calls went wrong", call_errors);
    verdict_on(&v, work_errors == 0 && defer_errors == 0, "%u tickets went wrong", work_errors + defer_errors);
    verdict_on(&v, deferred == answered + unwanted && unwanted > 0, "%u tickets ended, of %u", answered + unwanted,
               deferred);
    verdict_on(&v, posts_accepted == POSTS && posted[0].runs + posted[1].runs == POSTS, "%u posts accepted, %u run",
               posts_accepted, posted[0].runs + posted[1].runs);
    return verdict_close(&v);
}

/* SPDX-License-Identifier: MIT */
/* workers.c: a pool of threads with a bounded queue; see workers.h. */
#include "workers.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

struct worker {
    pthread_t thread;
    struct workers *pool;
    void *own;
};

struct workers {
    pthread_mutex_t mutex; /* over what follows; held for a few instructions, or a walk along the queue */
    pthread_cond_t news;
    struct work *first, **end;
    unsigned queued, queue_max;
    bool stopping;

    workers_run *run;
    unsigned thread_count;
    struct worker threads[];
};

/* --- the queue ---------------------------------------------------------------------------------------------------- */

int workers_give(struct workers *pool, struct work *work)
{
    pthread_mutex_lock(&pool->mutex);
    bool fits = pool->queued < pool->queue_max;
    if (fits) {
        work->next = NULL;
        *pool->end = work;
        pool->end = &work->next;
        pool->queued++;
        pthread_cond_signal(&pool->news);
    }
    pthread_mutex_unlock(&pool->mutex);
    return fits ? 0 : -EAGAIN;
}

/* Take out what *at points to. Under the mutex. */
static struct work *unlink_work(struct workers *pool, struct work **at)
{
    struct work *work = *at;
    *at = work->next;
    if (*at == NULL)
        pool->end = at;
    pool->queued--;
    return work;
}

/* The next piece of work; NULL: there will be none. Sleeps until then. */
static struct work *take(struct workers *pool)
{
    struct work *work = NULL;
    pthread_mutex_lock(&pool->mutex);
    while (pool->first == NULL && !pool->stopping)
        pthread_cond_wait(&pool->news, &pool->mutex);
    if (!pool->stopping)
        work = unlink_work(pool, &pool->first);
    pthread_mutex_unlock(&pool->mutex);
    return work;
}

static bool is_same(const belfry_ticket *a, const belfry_ticket *b)
{
    return a->conn == b->conn && a->request == b->request && a->serial == b->serial;
}

bool workers_forget(struct workers *pool, const belfry_ticket *ticket)
{
    struct work *found = NULL;
    pthread_mutex_lock(&pool->mutex);
    for (struct work **at = &pool->first; *at != NULL && found == NULL; at = &(*at)->next)
        if (is_same(&(*at)->ticket, ticket)) {
            found = unlink_work(pool, at);
            break;
        }
    pthread_mutex_unlock(&pool->mutex);
    if (found != NULL)
        work_fail(found, -ECANCELED, NULL);
    return found != NULL;
}

/* --- the threads -------------------------------------------------------------------------------------------------- */

static void *thread_main(void *argument)
{
    struct worker *self = argument;
    struct work *work;
    while ((work = take(self->pool)) != NULL)
        self->pool->run(work, self->own);
    return NULL;
}

int workers_create(struct workers **out, unsigned thread_count, unsigned queue_max, workers_run *run, void *const *owns)
{
    struct workers *pool = calloc(1, sizeof *pool + thread_count * sizeof pool->threads[0]);
    *out = NULL;
    if (pool == NULL)
        return -ENOMEM;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->news, NULL);
    pool->end = &pool->first;
    pool->queue_max = queue_max;
    pool->run = run;

    /* Signals are for the main thread. */
    sigset_t all, before;
    int rc = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (rc == 0 && pool->thread_count < thread_count) {
        struct worker *self = &pool->threads[pool->thread_count];
        *self = (struct worker){.pool = pool, .own = owns[pool->thread_count]};
        rc = -pthread_create(&self->thread, NULL, thread_main, self);
        if (rc == 0)
            pool->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc < 0)
        workers_destroy(pool);
    else
        *out = pool;
    return rc;
}

void workers_destroy(struct workers *pool)
{
    if (pool == NULL)
        return;
    pthread_mutex_lock(&pool->mutex);
    pool->stopping = true;
    pthread_cond_broadcast(&pool->news);
    pthread_mutex_unlock(&pool->mutex);
    for (unsigned i = 0; i < pool->thread_count; i++)
        pthread_join(pool->threads[i].thread, NULL);
    while (pool->first != NULL)
        work_fail(unlink_work(pool, &pool->first), BELFRY_EGONE, NULL);
    pthread_cond_destroy(&pool->news);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

/* --- a piece of work ---------------------------------------------------------------------------------------------- */

int work_defer(struct work **out, belfry_conn *conn, const belfry_message *m)
{
    struct work *work = calloc(1, sizeof *work);
    *out = NULL;
    if (work == NULL)
        return -ENOMEM;
    int rc = belfry_defer(conn, m, &work->ticket, &work->request);
    if (rc < 0) {
        free(work);
        return rc;
    }
    work->server = belfry_conn_server(conn);
    *out = work;
    return 0;
}

int work_status(const struct work *work)
{
    int rc = belfry_ticket_status(work->server, &work->ticket);
    if (rc == 0 && belfry_now_ns() >= work->ticket.deadline_ns)
        rc = -ETIMEDOUT;
    return rc;
}

int work_say(struct work *work, const void *data, size_t size, int64_t stall_ms)
{
    for (;;) {
        int rc = belfry_complete_more(work->server, &work->ticket, data, size);
        if (rc != BELFRY_EBACKLOG)
            return rc;
        int64_t stall = belfry_in_ms(stall_ms), deadline = work->ticket.deadline_ns;
        rc = belfry_ticket_wait(work->server, &work->ticket, stall < deadline ? stall : deadline);
        if (rc == -ETIMEDOUT && stall < deadline)
            return -ENOBUFS;
        if (rc < 0)
            return rc;
    }
}

/* `rc` is what ending the ticket returned. Codes that leave it open may not pass, or the client would wait for ever. */
static void end(struct work *work, int rc)
{
    if (rc == BELFRY_ETOOBIG || rc == -ENOMEM)
        rc = belfry_complete_failed(work->server, &work->ticket, rc, belfry_error_text(rc));
    if (rc == -ENOMEM)
        fprintf(stderr, "workers: no memory to answer request %llu\n", (unsigned long long)work->ticket.request);
    belfry_message_free(&work->request);
    free(work);
}

void work_answer(struct work *work, const void *data, size_t size)
{
    end(work, belfry_complete(work->server, &work->ticket, data, size));
}

void work_fail(struct work *work, int status, const char *text)
{
    end(work, belfry_complete_failed(work->server, &work->ticket, status, text));
}

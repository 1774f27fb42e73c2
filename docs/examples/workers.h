/* SPDX-License-Identifier: MIT */
/*
 * workers.h: threads for what a handler must not do itself because it blocks. An example to copy, not part of belfry.
 *
 * A handler turns its request into a piece of work (work_defer) and gives it to a pool (workers_give). A pool is some
 * threads and one queue between them, with a limit: what does not fit is refused at once, since a request that waits
 * longer than its client only costs memory. A thread takes a piece of work and has `run` called, which answers it:
 * work_say as often as it likes, then work_answer or work_fail exactly once. Between its steps it asks work_status
 * whether anybody still waits. Instead of answering, `run` may give the work to another pool.
 *
 * Who owns a piece of work: work_defer's caller; then, once workers_give has returned 0, the pool; then `run`. Ending it
 * frees it.
 */
#ifndef WORKERS_H
#define WORKERS_H

#include <belfry/server.h>

struct work {
    belfry_server *server;
    belfry_ticket ticket;
    belfry_message request; /* a copy: the client cannot change it */
    struct work *next;
    bool moved; /* yours; false at first */
};

struct workers;

/* One thread's own things, `own`, are those that workers_create() was given for it. Called on that thread. */
typedef void workers_run(struct work *work, void *own);

/*
 * Start `thread_count` threads with room for `queue_max` pieces of work that none of them has taken yet. `owns` has one
 * pointer per thread and is not kept. Returns 0, or -errno and nothing is started; *out is for workers_destroy().
 */
int workers_create(struct workers **out, unsigned thread_count, unsigned queue_max, workers_run *run,
                   void *const *owns);

/*
 * End the threads and free the pool. Only when the server has stopped: then every ticket says so, work that is running
 * ends at its next look, and what is still queued is ended here. Blocks until then. NULL is accepted.
 */
void workers_destroy(struct workers *pool);

/*
 * Queue it. Does not block but for a mutex that is never held for long; any thread. Returns 0, or -EAGAIN: the
 * queue is full, and it is still yours.
 */
int workers_give(struct workers *pool, struct work *work);

/*
 * Nobody waits for this ticket any more (call it from on_cancel): if its work is still queued, take it out and end it,
 * so that it takes no room. Returns whether it was. Any thread.
 */
bool workers_forget(struct workers *pool, const belfry_ticket *ticket);

/* Defer a request. Returns 0 and *out, or a code of belfry_defer() or -ENOMEM: then it is still to be answered. */
int work_defer(struct work **out, belfry_conn *conn, const belfry_message *m);

/* Does anybody wait? 0; -ETIMEDOUT when the request's deadline has passed; or what belfry_ticket_status() says. */
int work_status(const struct work *work);

/*
 * One of several replies. When the client reads slowly this sleeps until it has caught up or is gone. Returns 0;
 * -ENOBUFS after `stall_ms` in which it did not; -ETIMEDOUT at its deadline; or the code of belfry_complete_more().
 * The work is still to be ended. Let no message be larger than half of outbox_bytes_max: there is "room" for more from
 * there on, so the wait for room would be none.
 */
int work_say(struct work *work, const void *data, size_t size, int64_t stall_ms);

/* The last reply, or a failure with its sentence. Frees the work. When nobody waits any more nothing else happens. */
void work_answer(struct work *work, const void *data, size_t size);
void work_fail(struct work *work, int status, const char *text);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * io.c: the user's own operations: who has one in flight, and how all of them end when the shard does.
 *
 * What an operation is only the user and the kernel know; here it is a link in the shard's list and a pointer in
 * user_data. The shard's thread.
 */
#include "server/io.h"

#include "base/check.h"
#include "base/error.h"
#include "base/os.h"

/* A cancel finds nothing while the operation is a link of a chain that is not its turn yet; so it is said again. */
#define CANCEL_AGAIN_NS 10000000ll

/* --- the list: a circle without a head ---------------------------------------------------------------------------- */

static void list_put(struct bf_shard *s, belfry_io *io)
{
    struct belfry_io_link *link = &io->link, *first = s->ios;
    if (first == NULL) {
        s->ios = link->next = link->previous = link;
    } else {
        link->next = first;
        link->previous = first->previous;
        first->previous->next = link;
        first->previous = link;
    }
    io->shard = s;
}

static void list_remove(struct bf_shard *s, belfry_io *io)
{
    struct belfry_io_link *link = &io->link;
    link->previous->next = link->next;
    link->next->previous = link->previous;
    if (s->ios == link)
        s->ios = link->next == link ? NULL : link->next;
    link->next = link->previous = NULL;
    io->shard = NULL;
}

/* The link is an operation's first member. */
static belfry_io *io_of(struct belfry_io_link *link)
{
    _Static_assert(offsetof(belfry_io, link) == 0, "a link is its operation");
    return (belfry_io *)link;
}

/* --- the shard's side --------------------------------------------------------------------------------------------- */

void bf_io_done(struct bf_shard *s, const struct bf_event *event)
{
    belfry_io *io = event->owner;
    INVARIANT(io->shard == s);
    if (!event->more)
        list_remove(s, io);
    io->on_done(io, event->result, event->flags, io->user); /* from here on *io may be gone */
}

void bf_io_populate(struct bf_shard *s, belfry_io *io, void *at, size_t bytes)
{
    list_put(s, io);
    bf_reactor_populate(&s->reactor, io, at, bytes);
}

void bf_io_stop(struct bf_shard *s)
{
    int64_t now = bf_os_now_ns();
    if (now < s->io_cancel_at_ns)
        return;
    s->io_cancel_at_ns = now + CANCEL_AGAIN_NS;
    struct belfry_io_link *link = s->ios;
    do
        bf_reactor_cancel_owned(&s->reactor, io_of(link));
    while ((link = link->next) != s->ios);
}

/* --- public ------------------------------------------------------------------------------------------------------- */

void belfry_io_init(belfry_io *io, void (*on_done)(belfry_io *io, int32_t result, uint32_t cqe_flags, void *user),
                    void *user)
{
    *io = (belfry_io){.on_done = on_done, .user = user};
}

int belfry_io_start(belfry_io *io, const struct io_uring_sqe *sqe)
{
    return belfry_io_start_chain(&io, sqe, 1);
}

int belfry_io_start_chain(belfry_io *const *ios, const struct io_uring_sqe *sqes, unsigned count)
{
    struct bf_shard *s = bf_shard_self();
    unsigned listed = 0;
    int rc = 0;
    if (s == NULL)
        return bf_error(BELFRY_ETHREAD, "an operation is started on a shard's thread: in a handler");
    if (s->stopping)
        return bf_error(BELFRY_ESTATE, "shard %u is stopping: nothing is started any more", s->index);
    if (count == 0 || count > BELFRY_IO_CHAIN_MAX)
        return bf_error(BELFRY_EOPTION, "a chain has 1 to %d operations, not %u", BELFRY_IO_CHAIN_MAX, count);
    for (; listed < count && rc == 0; listed++) { /* listing each as we go finds one that is there twice */
        if (ios[listed]->shard != NULL) {
            rc = bf_error(BELFRY_ESTATE, "operation %u is in flight: wait for its last on_done", listed);
            break;
        }
        list_put(s, ios[listed]);
    }
    if (rc == 0)
        rc = bf_reactor_start(&s->reactor, (void *const *)ios, sqes, count);
    while (rc < 0 && listed > 0)
        list_remove(s, ios[--listed]);
    return rc;
}

int belfry_io_cancel(belfry_io *io)
{
    struct bf_shard *s = bf_shard_self();
    if (io->shard == NULL)
        return 0;
    if (io->shard != s)
        return bf_error(BELFRY_ETHREAD, "an operation is cancelled on the shard's thread that started it");
    bf_reactor_cancel_owned(&s->reactor, io);
    return 1;
}

bool belfry_io_in_flight(const belfry_io *io)
{
    return io->shard != NULL;
}

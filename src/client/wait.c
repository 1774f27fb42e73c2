/* SPDX-License-Identifier: MIT */
/*
 * wait.c: ringing the server, noticing its end, and sleeping.
 *
 * A sleeper waits on two words per shard: the doorbell in the server's segment, and the shard's obituary, which the
 * kernel writes when the shard's thread dies. Behind both stands a timeout that doubles from 1 to 8 seconds, because
 * another waiter of the same word, killed at the wrong moment, can take a wake with it; it costs nothing to look again.
 */
#include <errno.h>

#include "base/check.h"
#include "base/error.h"
#include "base/os.h"
#include "client/reconnect.h"
#include "shm/doorbell.h"

#define SLICE_NS 1000000000ll
#define SLICES 4            /* 1, 2, 4, 8 s */
#define LATE_NS 100000000ll /* by then a wake is lost and not late */

/* --- ringing ------------------------------------------------------------------------------------------------------ */

void bf_client_tell(struct belfry_client *c, bool committed)
{
    full_fence(); /* the entry or position is visible before we read who sleeps; partner: sleep.c, bf_shard_sleep */
    bf_client_ring(c, committed);
}

void bf_client_ring(struct belfry_client *c, bool committed)
{
    bool published = c->in.has_published;
    c->in.has_published = false;
    if (!doorbell_server_wants(c->lobby_slot, c->shard, committed, published))
        return;
    doorbell_bump_send(c->send);
    bf_os_wake(&c->send->bell);
}

/* --- the end ------------------------------------------------------------------------------------------------------ */

/* The conn was ended by the server, which said why. */
static int told_end(const struct belfry_client *c, enum belfry_end why)
{
    const char *service = c->shared->lobby.geometry.service;
    switch (why) {
    case BELFRY_END_REFUSED:
        return bf_error(BELFRY_EREFUSED, "the server \"%s\" refused the connection: %s", service,
                        belfry_error_text(load_relaxed(&c->recv->end_status)));
    case BELFRY_END_NO_MEMORY:
        return bf_error(BELFRY_ENOSPACE, "the server \"%s\" has no memory for another connection", service);
    case BELFRY_END_VERSION:
        return bf_error(BELFRY_EVERSION,
                        "the server \"%s\" speaks another version of the format: upgrade the older one", service);
    case BELFRY_END_DRAINING:
    case BELFRY_END_UNFINISHED:
        return bf_error(BELFRY_EREFUSED, "the server \"%s\" did not accept the connection: %s; connect again", service,
                        belfry_end_text(why));
    case BELFRY_END_PEER_FAULT:
        return bf_error(BELFRY_EPROTO, "the server \"%s\" ended the connection of slot %u: %s", service, c->slot,
                        belfry_end_text(why));
    default:
        break;
    }
    if (load_relaxed(&c->recv->accepted) == 0)
        return bf_error(BELFRY_EREFUSED, "the server \"%s\" never accepted the connection: %s; connect again", service,
                        belfry_end_text(why));
    return bf_error(BELFRY_EGONE, "the server \"%s\" ended the connection of slot %u: %s; connect again", service,
                    c->slot, belfry_end_text(why));
}

static bool server_is_gone(struct belfry_client *c)
{
    uint32_t word = load_acquire(&c->shard->obituary); /* partner: bf_obituary_close, and the kernel */
    if (!client_is_over(word))
        return c->server_dead;
    if (!c->server_dead)
        bf_os_wake(&c->shard->obituary); /* the kernel woke one of us: pass it on */
    c->server_dead = true;
    return true;
}

int bf_client_end(struct belfry_client *c)
{
    uint32_t why = load_acquire(&c->recv->end); /* partner: listener.c, tell_end */
    if (bf_unlikely(why != BELFRY_END_NONE))
        return c->end_rc = told_end(c, (enum belfry_end)why);
    if (bf_unlikely(server_is_gone(c)))
        return c->end_rc = bf_error(BELFRY_EGONE,
                                    "the server \"%s\" (pid %u) is gone: connect again; calls in flight may "
                                    "or may not have been executed",
                                    c->shared->lobby.geometry.service, c->shared->lobby.geometry.pid);
    return c->end_rc;
}

struct ring_consumer_local bf_client_unread(const struct belfry_client *c)
{
    uint64_t from = load_acquire(&c->recv->consumed); /* partner: ring_publish */
    bool possible = c->out.position - from <= c->out.capacity && from % BELFRY_ENTRY_ALIGN == 0;
    return (struct ring_consumer_local){.data = c->out.data,
                                        .capacity = c->out.capacity,
                                        .colour = c->out.colour,
                                        .position = possible ? from : c->out.position};
}

static bool is_behind(const struct belfry_client *c, uint64_t id)
{
    struct ring_consumer_local unread = bf_client_unread(c);
    struct ring_entry e;
    while (unread.position < c->out.position && ring_peek(&unread, &e) > 0) {
        if (e.id == id && (e.kind == BELFRY_REQUEST || (e.kind == BELFRY_PART && e.flags == BELFRY_FLAG_EXTENDED)))
            return true;
        ring_advance(&unread, &e);
    }
    return false;
}

bool bf_client_never_read(struct belfry_client *c, uint64_t id)
{
    uint32_t why = load_acquire(&c->recv->end); /* partner: listener.c, tell_end, which comes after the position */
    if (why == BELFRY_END_NONE)
        return false;
    return (client_is_leaving(c) && c->large->out.id == id) || is_behind(c, id);
}

bool belfry_client_never_read(belfry_client *c, uint64_t id)
{
    return client_check(c) == 0 && id != 0 && bf_client_never_read(c, id);
}

/* --- sleeping ------------------------------------------------------------------------------------------------------ */

bool bf_client_has_news(struct belfry_client *c)
{
    if (bf_unlikely(client_is_lost(c))) /* it is the clock that has news for it */
        return false;
    if (!ring_is_empty(&c->in))
        return true;
    if (c->wanted != 0 && ring_has_room(&c->out, c->wanted - 1))
        return true;
    return bf_client_end(c) < 0; /* from now on client_end() says so, too, though the lobby may not do so yet */
}

/*
 * A slice is over and there is news: was the wake lost? If it is only late (the server was pre-empted between its
 * commit and its ring) it comes now. A wake that is never needed costs nothing; one that was lost is counted.
 */
static void count_rescue(struct belfry_client **members, unsigned count, struct belfry_client *leader,
                         const struct bf_os_wait *waits, unsigned wait_count)
{
    bool news = false;
    for (unsigned i = 0; i < count && !news; i++)
        news = !client_is_lost(members[i]) &&
               (!ring_is_empty(&members[i]->in) || load_relaxed(&members[i]->recv->end) != BELFRY_END_NONE);
    if (news && bf_os_wait(waits, wait_count, bf_os_now_ns() + LATE_NS) == -ETIMEDOUT)
        leader->rescues++;
}

/* The longest slice has passed and nothing came: is the server's lock still held? */
static void ask_kernel(struct belfry_client *c)
{
    if (!bf_lobby_is_alive(&c->shared->lobby))
        c->server_dead = true;
}

/* Somebody woke us. If that was the kernel's one wake for a death, it is owed to the others, also when there are messages that
   we read first, and close then without ever having asked. */
static void pass_on(struct belfry_client **leaders, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        server_is_gone(leaders[i]);
}

int bf_client_sleep(struct belfry_client **members, unsigned count, struct belfry_client **leaders,
                    unsigned leader_count, int64_t deadline_ns)
{
    struct bf_os_wait waits[BF_OS_WAITS_MAX];
    unsigned wait_count = 0;
    bool news = false;
    INVARIANT(leader_count > 0 && leader_count * 2 <= BF_OS_WAITS_MAX);

    for (unsigned i = 0; i < leader_count; i++) {
        struct belfry_client *c = leaders[i];
        waits[wait_count++] = (struct bf_os_wait){&c->recv->bell, doorbell_park_client(c->send, c->recv)};
        waits[wait_count++] = (struct bf_os_wait){&c->shard->obituary, load_acquire(&c->shard->obituary)};
    }
    for (unsigned i = 0; i < count; i++)
        if (members[i]->wanted != 0)
            store_relaxed(&members[i]->send->want_space, 1);
    full_fence(); /* parked and want_space are visible before the last look; partner: shard.c, flush */
    for (unsigned i = 0; i < count && !news; i++)
        news = bf_client_has_news(members[i]);

    int rc = 0;
    if (!news) {
        uint32_t slice = leaders[0]->slice;
        int64_t slice_end = bf_os_now_ns() + (SLICE_NS << slice);
        rc = bf_os_wait(waits, wait_count, bf_min(slice_end, deadline_ns));
        if (rc == 0)
            pass_on(leaders, leader_count);
        leaders[0]->slice = rc == -ETIMEDOUT ? bf_min(slice + 1, SLICES - 1) : 0;
        if (rc == -ETIMEDOUT && slice_end < deadline_ns) {
            rc = 0; /* only the slice is over */
            count_rescue(members, count, leaders[0], waits, wait_count);
            for (unsigned i = 0; i < leader_count && slice == SLICES - 1; i++)
                ask_kernel(leaders[i]);
        }
    }
    if (rc < 0 && rc != -ETIMEDOUT && rc != -ENOSYS)
        rc = bf_error_errno(rc, "cannot wait for \"%s\"", leaders[0]->shared->lobby.geometry.service);
    if (rc == -ENOSYS)
        rc = bf_error(BELFRY_EKERNEL, "this kernel has no futex_waitv: a client needs Linux 5.16 or newer");
    for (unsigned i = 0; i < leader_count; i++)
        doorbell_unpark_client(leaders[i]->send);
    for (unsigned i = 0; i < count; i++)
        if (members[i]->wanted != 0)
            store_relaxed(&members[i]->send->want_space, 0);
    client_alert(leaders[0]); /* nobody is parked any more; a poller's members have all the same lookout */
    return rc;
}

/* SPDX-License-Identifier: MIT */
/*
 * receive.c: a message's last stop: belfry_receive, belfry_call. What becomes of it then is in kept.h.
 */
#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/os.h"
#include "client/kept.h"
#include "client/reconnect.h"

/* --- one entry ----------------------------------------------------------------------------------------------------- */

/* What the entry says. 0, or BELFRY_EPROTO. */
static int decode(const struct ring_entry *e, belfry_message *m)
{
    *m = (belfry_message){.data = e->data, .size = e->bytes, .id = e->id, .kind = e->kind};
    if (bf_unlikely(e->flags != 0)) {
        m->flags = BELFRY_MORE;
        if (e->flags == BELFRY_FLAG_MORE && e->kind == BELFRY_REPLY)
            return 0;
        const char *text = belfry_error_text(BELFRY_EUNSUPPORTED);
        m->status = BELFRY_EUNSUPPORTED;
        m->kind = BELFRY_FAILURE;
        m->flags = 0;
        m->data = text;
        m->size = strlen(text);
        return 0;
    }
    if (bf_unlikely(e->kind == BELFRY_FAILURE)) {
        const struct belfry_abi_failure *failure = e->data;
        PEER_CHECK(e->bytes >= sizeof *failure);
        m->status = load_relaxed(&failure->status);
        PEER_CHECK(m->status < 0);
        m->data = failure->text;
        m->size = e->bytes - sizeof *failure;
    }
    return 0;
}

/* A part of a message. 1: that one is whole, and in *m; 0: not yet; or a code. */
static int take_part(struct belfry_client *c, const struct ring_entry *e, belfry_message *m)
{
    bool late = c->late_count != 0 && bf_client_is_late(c, e->kind, e->flags, e->id);
    int64_t number = held_push(c, e->end);
    int rc = number < 0 ? (int)number : 0;
    if (rc == 0 && !late)
        rc = bf_large_take(c, e, m);
    if (rc < 0 && number >= 0)
        c->held_next--; /* as if it had not been read */
    if (rc == BELFRY_EPROTO || rc == BELFRY_EUNSUPPORTED)
        c->end_rc = rc = bf_error(BELFRY_EPROTO, "the server \"%s\" broke the format of its parts",
                                  c->shared->lobby.geometry.service);
    if (rc < 0)
        return rc;
    ring_advance(&c->in, e);
    held_release(c, (uint64_t)number);
    if (rc > 0 && c->reconnect != NULL)
        bf_reconnect_answered(c, m);
    return rc;
}

/*
 * The next message that the ring has for somebody: 1 and a message whose cookie is set, 0: none, or a code. Late replies
 * and kinds that a client does not know are dropped. Of these, and of parts, no more than a ring is taken at once: the
 * server may be as fast as we are, or the ring full of them all round, and others of this thread want their turn, too.
 */
static int take_from_ring(struct belfry_client *c, belfry_message *m)
{
    struct ring_entry e;
    const uint64_t enough = c->in.position + c->in.capacity;
    for (;;) {
        c->taken_at = c->in.position;
        int rc = ring_peek(&c->in, &e);
        if (rc == 0)
            return 0;
        if (rc > 0 && bf_unlikely(e.kind == BELFRY_PART)) {
            struct ring_entry part = e; /* so that `e` can stay in registers */
            rc = take_part(c, &part, m);
            if (rc != 0 || c->in.position >= enough)
                return rc;
            continue;
        }
        if (rc > 0)
            rc = decode(&e, m);
        if (bf_unlikely(rc < 0)) {
            *m = (belfry_message){0};
            return c->end_rc = bf_error(rc, "the server \"%s\" broke the format of its ring",
                                        c->shared->lobby.geometry.service);
        }
        int64_t number = held_push(c, e.end);
        if (bf_unlikely(number < 0))
            return (int)number;
        ring_advance(&c->in, &e);
        bool known = e.kind == BELFRY_REPLY || e.kind == BELFRY_FAILURE || e.kind == BELFRY_PUSH;
        bool late = bf_unlikely(c->late_count != 0) && bf_client_is_late(c, e.kind, e.flags, e.id);
        if (bf_likely(known && !late)) {
            if (bf_unlikely(c->reconnect != NULL))
                bf_reconnect_answered(c, m);
            m->cookie = (uint64_t)number << 1 | 1;
            return 1;
        }
        held_release(c, (uint64_t)number);
        *m = (belfry_message){0};
        if (bf_unlikely(c->in.position >= enough))
            return 0;
    }
}

int bf_client_keep_all(struct belfry_client *c)
{
    belfry_message m;
    const uint64_t enough = c->in.position + c->in.capacity;
    int rc = 0;
    while (rc == 0 && c->in.position < enough && !ring_is_empty(&c->in)) {
        rc = take_from_ring(c, &m);
        if (rc > 0)
            rc = bf_client_stash(c, &m);
    }
    return rc;
}

/* --- waiting ------------------------------------------------------------------------------------------------------- */

/*
 * What waits to leave, leaves as far as there is room. 1: all of it has, or it never will, and that is to be told; 0: not
 * yet; or a code.
 */
static __attribute__((noinline)) int let_leave(struct belfry_client *c)
{
    uint64_t epoch = c->reconnect != NULL ? c->reconnect->epoch : 0;
    int rc = client_push(c);
    if (rc < 0 && rc != -ENOMEM)
        c->end_rc =
            bf_error(rc, "the server \"%s\" broke the format of its segment", c->shared->lobby.geometry.service);
    return rc == 0 && c->reconnect != NULL && epoch != c->reconnect->epoch ? 1 : rc;
}

/* Nothing was found: from here on the descriptor says when there is something. A poller's is armed by the poller. */
static void arm_descriptor(struct belfry_client *c)
{
    if (bf_likely(c->lookout == NULL) || c->poller != NULL)
        return;
    bf_lookout_arm(c->lookout, &c, 1, &c, client_is_lost(c) ? 0 : 1, bf_reconnect_next_ns(c));
}

/* It has ended: is nothing left of what came before? That is a ring at most; beyond it, old entries come round again. */
static bool has_read_all(struct belfry_client *c)
{
    if (c->read_all_at == 0)
        c->read_all_at = c->in.position + c->in.capacity;
    return ring_is_empty(&c->in) || c->in.position >= c->read_all_at;
}

/* Nothing is in the ring: poll, or sleep, or give up. 0: look again; -ETIMEDOUT; or how it ended. */
static int wait_for_news(struct belfry_client *c, bool *polling, int64_t deadline_ns)
{
    int rc = client_end(c);
    if (bf_unlikely(rc < 0)) /* the end is stored after the last entry */
        return has_read_all(c) ? bf_reconnect_wait(c, rc, deadline_ns) : 0;
    if (bf_unlikely(c->unsaid_count > 0))
        bf_client_say_cancels(c);
    if (bf_unlikely(client_is_busy(c)) && (rc = let_leave(c)) != 0)
        return bf_min(rc, 0); /* whoever waited for that need not sleep */
    if (bf_unlikely(bf_large_is_blocked(c)))
        return bf_error(BELFRY_ESTATE,
                        "a large message is arriving, and those that are held leave it no room: release them");
    if (deadline_ns <= 0)
        return -ETIMEDOUT;
    bool busy = (c->large != NULL && c->large->in.open) || !ring_is_empty(&c->in);
    if (bf_unlikely(busy) && deadline_ns != BELFRY_FOREVER && bf_os_now_ns() >= deadline_ns)
        return -ETIMEDOUT;      /* parts, and what is dropped, may come as fast as we look */
    if (bf_unlikely(c->corked)) /* what we wait for may be the answer to what the poller has kept back, of any member */
        belfry_poller_flush(c->poller);
    if (!*polling)
        bf_spin_begin(&c->spin);
    *polling = true;
    if (bf_spin_again(&c->spin))
        return c->spin.look_ns >= deadline_ns && c->spin.since_ns != 0 ? -ETIMEDOUT : 0;
    *polling = false;
    if (c->poller != NULL) { /* this sleep is on our own bell, whomever we follow otherwise */
        store_relaxed(&c->send->bell_at, 0);
        bf_poller_regroup(c->poller);
    }
    rc = bf_client_sleep(&c, 1, &c, 1, deadline_ns);
    bool late = deadline_ns != BELFRY_FOREVER && bf_os_now_ns() >= deadline_ns;
    return rc == 0 && c->wanted != 0 && ring_is_empty(&c->in) && late ? -ETIMEDOUT : rc; /* not for room alone */
}

static void polling_paid(struct belfry_client *c, bool polling)
{
    if (polling)
        bf_spin_won(&c->spin);
}

/* A message for somebody else came: keep it. That may go on for ever, so the deadline and the end are looked at here, too. */
static int keep(struct belfry_client *c, belfry_message *m, int64_t deadline_ns)
{
    int rc = bf_client_stash(c, m);
    if (rc < 0)
        return rc;
    rc = client_end(c);
    if (bf_unlikely(rc < 0) && has_read_all(c))
        return bf_reconnect_wait(c, rc, deadline_ns);
    return deadline_ns != BELFRY_FOREVER && bf_os_now_ns() >= deadline_ns ? -ETIMEDOUT : 0;
}

static int timed_out(const struct belfry_client *c)
{
    return bf_error(-ETIMEDOUT, "nothing came from \"%s\" before the deadline", c->shared->lobby.geometry.service);
}

int belfry_receive(belfry_client *c, belfry_message *m, int64_t deadline)
{
    bool polling = false;
    *m = (belfry_message){0};
    int rc = client_check(c);
    if (bf_unlikely(rc < 0))
        return rc;
    for (;;) {
        if (bf_unlikely(c->stash_first != NULL) && bf_client_take_stashed(c, 0, m))
            return 0;
        if (bf_unlikely(c->wanted != 0) && client_is_busy(c) && (rc = let_leave(c)) < 0)
            return rc; /* here, too: something may arrive all the time */
        rc = take_from_ring(c, m);
        if (rc != 0)
            break;
        if (bf_unlikely(c->unsaid_count > 0))
            bf_client_say_cancels(c);
        bool asks = c->poller == NULL || deadline > 0; /* else the poller says so, until a send succeeds */
        if (bf_unlikely(c->wanted != 0) && asks && !client_is_busy(c) && ring_has_room(&c->out, c->wanted - 1)) {
            c->wanted = 0;
            return bf_error(-EAGAIN, "the ring to \"%s\" has room again", c->shared->lobby.geometry.service);
        }
        rc = wait_for_news(c, &polling, deadline);
        if (rc == -ETIMEDOUT) {
            arm_descriptor(c);
            return timed_out(c);
        }
        if (rc < 0)
            return rc;
    }
    if (rc > 0)
        polling_paid(c, polling);
    return bf_min(rc, 0);
}

/* A step of whoever waits for room: take in what comes, or sleep. 0: try again; or a code. */
static int wait_for_room(struct belfry_client *c, bool *polling, int64_t deadline)
{
    belfry_message other;
    int rc = client_is_busy(c) ? let_leave(c) : 0;
    if (rc != 0)
        return bf_min(rc, 0);
    rc = take_from_ring(c, &other);
    return rc > 0 ? keep(c, &other, deadline) : rc == 0 ? wait_for_news(c, polling, deadline) : rc;
}

/* Send the request of a call that travels in parts: they are read from the caller's memory. */
static int call_send_large(belfry_client *c, const void *data, size_t size, uint64_t *id, int64_t deadline)
{
    bool polling = false, begun = false;
    if (c->large != NULL && c->large->state == LARGE_RESERVED)
        return bf_error(BELFRY_ESTATE, "a reservation is open: commit or abort it first");
    for (;;) {
        int rc = client_end(c);
        if (rc < 0 && c->reconnect != NULL)
            rc = 0; /* whoever waits for room sees to that */
        if (rc == 0 && !client_is_busy(c)) {
            if (begun)
                return 0;
            rc = bf_min(bf_large_begin(c, data, size, deadline, id), 0);
            begun = true;
        } else if (rc == 0) {
            rc = wait_for_room(c, &polling, deadline); /* of ours, or of what is in the way */
        }
        if (rc < 0) {
            if (begun && client_is_leaving(c))
                bf_large_stop(c);
            return rc == -ETIMEDOUT ? timed_out(c) : rc;
        }
    }
}

/* Send the request of a call, taking messages in while the ring is full. */
static int call_send(belfry_client *c, const void *data, size_t size, uint64_t *id, int64_t deadline)
{
    bool polling = false;
    for (;;) {
        int rc = belfry_send_until(c, data, size, deadline, id);
        if (bf_likely(rc != -EAGAIN))
            return rc;
        rc = wait_for_room(c, &polling, deadline);
        if (rc < 0) {
            if (c->reconnect != NULL)
                c->reconnect->refused = 0;
            if (!client_is_busy(c))
                c->wanted = 0; /* nobody asks for that room any more */
            return rc == -ETIMEDOUT ? timed_out(c) : rc;
        }
    }
}

int belfry_flush(belfry_client *c, int64_t deadline)
{
    bool polling = false;
    int rc = client_check(c);
    while (rc == 0 && client_is_busy(c)) {
        bool reserved = c->large != NULL && c->large->state == LARGE_RESERVED;
        if (reserved && !client_is_lost(c) && c->wanted == 0) /* what is to go first, goes in parts, too */
            return bf_error(BELFRY_ESTATE, "a large reservation is open, and is in the way: commit or abort it first");
        rc = wait_for_room(c, &polling, deadline);
    }
    if (rc == -ETIMEDOUT)
        arm_descriptor(c);
    return rc == -ETIMEDOUT ? timed_out(c) : rc;
}

/* The status of a failed request, with its sentence; gives the message back. */
static int failed(struct belfry_client *c, belfry_message *m)
{
    int status = m->status;
    const char *text = m->size > 0 ? m->data : belfry_error_text(status);
    int length = m->size > 0 ? (int)m->size : (int)strlen(text);
    if (c->reconnect != NULL && (status == BELFRY_EGONE || status == BELFRY_EUNREAD))
        bf_error(status, "\"%s\": %.*s", c->shared->lobby.geometry.service, length, text);
    else
        bf_error(status, "\"%s\" failed the request: %.*s", c->shared->lobby.geometry.service, length, text);
    belfry_release(c, m);
    return status;
}

/* The connection has ended under this request. If the server was drained, was it read before? */
static int ended(struct belfry_client *c, uint64_t id, int rc)
{
    if (rc != BELFRY_EGONE || load_acquire(&c->recv->end) != BELFRY_END_DRAINED || !bf_client_never_read(c, id))
        return rc;
    return bf_error(BELFRY_EUNREAD,
                    "the server \"%s\" was shut down before it read this request: it has not been executed",
                    c->shared->lobby.geometry.service);
}

static int await_reply(struct belfry_client *c, uint64_t id, belfry_message *reply, int64_t deadline)
{
    bool polling = false;
    uint64_t epoch = 0;
    for (;;) {
        if (bf_unlikely(c->reconnect != NULL) && epoch != c->reconnect->epoch) {
            epoch = c->reconnect->epoch;
            if (bf_client_take_stashed(c, id, reply)) /* what the last connection left behind */
                break;
        }
        int rc = take_from_ring(c, reply);
        if (rc > 0 && bf_likely(answers(reply, id)))
            break;
        if (rc > 0)
            rc = keep(c, reply, deadline);
        else if (rc == 0)
            rc = wait_for_news(c, &polling, deadline);
        if (bf_unlikely(rc < 0)) {
            *reply = (belfry_message){0};
            return rc == -ETIMEDOUT ? timed_out(c) : ended(c, id, rc);
        }
    }
    polling_paid(c, polling);
    return bf_unlikely(reply->status < 0) ? failed(c, reply) : 0;
}

/* Room that an earlier send wants is no news to one who waits for a reply. */
static __attribute__((cold, noinline)) int await_beside_a_refused_send(struct belfry_client *c, uint64_t id,
                                                                       belfry_message *reply, int64_t deadline)
{
    uint64_t wanted = c->wanted;
    c->wanted = 0;
    int rc = await_reply(c, id, reply, deadline);
    if (c->wanted == 0 && !client_is_busy(c))
        c->wanted = wanted;
    client_alert(c);
    return rc;
}

/* The next reply to request `id`. 0; -ETIMEDOUT; the status of a failure; or another code. */
static int await(struct belfry_client *c, uint64_t id, belfry_message *reply, int64_t deadline)
{
    if (bf_unlikely(c->wanted != 0) && !client_is_busy(c))
        return await_beside_a_refused_send(c, id, reply, deadline);
    return await_reply(c, id, reply, deadline);
}

/* A call has failed: nothing of it may be in flight any more, and its memory is the caller's again. */
static __attribute__((cold, noinline)) int call_failed(struct belfry_client *c, uint64_t id, int rc)
{
    bool late = (rc == -ETIMEDOUT || rc == BELFRY_ESTATE) && id != 0 && (c->reconnect != NULL || client_end(c) == 0);
    if (late && !(client_is_leaving(c) && c->large->out.id == id))
        bf_client_give_up(c, id); /* without memory for that, belfry_receive() will hand out the reply */
    if (c->reconnect != NULL && id != 0) {
        bf_reconnect_forget(c, id);
        if (client_is_leaving(c) && c->large->out.id == id)
            bf_large_stop(c);
    }
    return rc == -ETIMEDOUT ? timed_out(c) : rc;
}

static int call(belfry_client *c, const void *data, size_t size, belfry_message *reply, int64_t deadline)
{
    uint64_t id = 0;
    uint32_t block = deadline == BELFRY_FOREVER ? 0 : extension_item_bytes(sizeof deadline);
    bool large = block + size > ring_payload_max(c->out.capacity) && size <= belfry_message_bytes_max(c);
    int rc =
        bf_unlikely(large) ? call_send_large(c, data, size, &id, deadline) : call_send(c, data, size, &id, deadline);
    if (bf_unlikely(rc < 0))
        return c->reconnect != NULL ? call_failed(c, id, rc) : rc;
    if (bf_unlikely(large) && bf_client_take_stashed(c, id, reply)) /* refused before all of it had left */
        return reply->status < 0 ? failed(c, reply) : 0;
    rc = await(c, id, reply, deadline);
    return bf_unlikely(rc < 0) ? call_failed(c, id, rc) : 0;
}

/* The caller's memory stays until he is answered, so nothing is copied for sending it again. */
static __attribute__((noinline)) int call_again(belfry_client *c, const void *data, size_t size, belfry_message *reply,
                                                int64_t deadline, bool idempotent)
{
    struct client_reconnect *r = c->reconnect;
    r->marked = idempotent;
    r->borrowed = data != NULL ? data : "";
    int rc = call(c, data, size, reply, deadline);
    r->marked = false;
    r->borrowed = NULL;
    return rc;
}

int belfry_call(belfry_client *c, const void *data, size_t size, belfry_message *reply, int64_t deadline)
{
    *reply = (belfry_message){0};
    int rc = client_check(c);
    if (bf_unlikely(rc < 0))
        return rc;
    return bf_likely(c->reconnect == NULL) ? call(c, data, size, reply, deadline)
                                           : call_again(c, data, size, reply, deadline, false);
}

int belfry_call_idempotent(belfry_client *c, const void *data, size_t size, belfry_message *reply, int64_t deadline)
{
    *reply = (belfry_message){0};
    int rc = client_check(c);
    if (rc < 0)
        return rc;
    return c->reconnect == NULL ? call(c, data, size, reply, deadline)
                                : call_again(c, data, size, reply, deadline, true);
}

int belfry_await(belfry_client *c, uint64_t id, belfry_message *reply, int64_t deadline)
{
    *reply = (belfry_message){0};
    int rc = client_check(c);
    if (rc < 0)
        return rc;
    if (id == 0 || id >= c->next_id)
        return bf_error(-ENOENT, "this connection has sent no request %llu", (unsigned long long)id);
    if (bf_client_take_stashed(c, id, reply))
        return reply->status < 0 ? failed(c, reply) : 0;
    return await(c, id, reply, deadline);
}

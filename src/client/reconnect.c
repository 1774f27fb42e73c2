/* SPDX-License-Identifier: MIT */
/*
 * reconnect.c: a client that goes on when its connection has ended: noticing, trying again, moving in.
 *
 * Nobody works in the background. Whoever notices the end looks after what was in flight (again.c); whoever waits
 * makes an attempt when one is due. An attempt makes a whole new client, as belfry_connect() does, and when that has
 * succeeded its connection becomes ours. Until then the old maps stay in place, and some may have to stay
 * longer: those in which messages lie that the user has not released.
 */
#include "client/reconnect.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/block.h"
#include "base/error.h"
#include "base/os.h"
#include "client/again.h"

#define NS_PER_MS 1000000ll
#define ATTEMPT_NS_MIN 100000000ll  /* also for one who does not want to wait: the server may have to make a slot */
#define ATTEMPT_NS_MAX 2000000000ll /* then the next, perhaps with another server */
#define ATTEMPT_TRIES 3             /* looks at `current` in one */

/* --- the policy ---------------------------------------------------------------------------------------------------- */

int bf_reconnect_check(const belfry_reconnect *p)
{
    if (!p->enabled)
        return 0;
    if (p->max_ms < p->first_ms)
        return bf_error(BELFRY_EOPTION, "reconnect: max_ms is %u and less than first_ms, %u", p->max_ms, p->first_ms);
    if (p->jitter_percent > 100)
        return bf_error(BELFRY_EOPTION, "reconnect: jitter_percent is %u and more than 100", p->jitter_percent);
    return 0;
}

int bf_reconnect_init(struct belfry_client *c, const struct bf_place *place, const belfry_client_options *o)
{
    if (!o->reconnect.enabled)
        return 0;
    struct client_reconnect *r = calloc(1, sizeof *r);
    if (r == NULL)
        return bf_error(-ENOMEM, "no memory for a connection");
    r->policy = o->reconnect;
    r->place = *place;
    r->options = *o;
    r->options.reconnect.enabled = false; /* of the clients that attempts make */
    r->epoch = 1;
    c->reconnect = r;
    return 0;
}

static void tell(struct belfry_client *c, enum belfry_reconnect_event event, int rc)
{
    const belfry_reconnect *p = &c->reconnect->policy;
    if (p->on_reconnect != NULL)
        p->on_reconnect(c, event, rc, p->user);
}

/* The first attempt after a connection that was accepted is made at once; then pauses that double. */
static int64_t pause_ns(const struct client_reconnect *r, const struct belfry_client *c)
{
    const belfry_reconnect *p = &r->policy;
    if (r->attempts == 0)
        return 0;
    uint64_t first = bf_max(p->first_ms, 1u), doublings = bf_min(r->attempts - 1, 20u);
    uint64_t ms = bf_min(first << doublings, bf_max(p->max_ms, 1u));
    uint64_t random = (uint64_t)bf_os_now_ns() * 0x9e3779b97f4a7c15ull ^ (uintptr_t)c;
    uint64_t spread_ns = ms * (uint64_t)NS_PER_MS / 100 * p->jitter_percent;
    uint64_t less_ns = spread_ns == 0 ? 0 : (random * 0xbf58476d1ce4e5b9ull >> 11) % spread_ns;
    return (int64_t)(ms * (uint64_t)NS_PER_MS - less_ns);
}

/* --- the loss ------------------------------------------------------------------------------------------------------ */

/* Was it an end that another connection can mend? */
static bool may_come_back(const struct belfry_client *c)
{
    switch (load_acquire(&c->recv->end)) { /* partner: listener.c, tell_end */
    case BELFRY_END_NONE:
        return c->server_dead;
    case BELFRY_END_DRAINED:
    case BELFRY_END_DRAINING:
    case BELFRY_END_STOPPED:
    case BELFRY_END_DIED: /* the server has lost sight of our lock */
    case BELFRY_END_LOCK_GONE:
    case BELFRY_END_UNFINISHED:
    case BELFRY_END_NO_MEMORY:
        return true;
    default: /* it does not want us, or we cannot speak with it */
        return false;
    }
}

/* What the user is writing stays where it is until he commits or aborts. */
static void move_reservation(struct belfry_client *c)
{
    struct client_reconnect *r = c->reconnect;
    if (c->out.reserved == 0)
        return;
    r->reserved = (const uint8_t *)(ring_producer_entry(&c->out, c->out.position + c->out.pad) + 1);
    r->reserved_bytes = c->out.reserved - 1;
    r->reserved_in = NULL;
    ring_abort(&c->out);
}

static bool has_lasted_too_long(const struct client_reconnect *r, int64_t now)
{
    return r->policy.give_up_ms != 0 && now - r->lost_ns >= (int64_t)r->policy.give_up_ms * NS_PER_MS;
}

/* It will not come back. Without memory to say so to everybody, it is tried once more. */
static void give_up(struct belfry_client *c, int rc)
{
    struct client_reconnect *r = c->reconnect;
    if (bf_again_fail_all(c) < 0)
        return;
    r->lost = false;
    r->over = true;
    r->over_rc = rc;
    r->epoch++;
    bf_reconnect_settle(c);
    tell(c, BELFRY_RECONNECT_GIVEN_UP, rc);
}

/* 0: it is lost, or over; -ENOMEM: neither yet. */
static int lose(struct belfry_client *c, int rc)
{
    struct client_reconnect *r = c->reconnect;
    if (!may_come_back(c)) {
        r->over = true;
        r->over_rc = rc;
        return 0;
    }
    uint64_t refused = client_is_busy(c) ? 0 : c->wanted;
    int kept = bf_client_keep_all(c); /* what came before the end has been said */
    if (kept < 0 && c->end_rc == kept) {
        r->over = true;
        r->over_rc = kept;
        return 0;
    }
    if (kept == 0)
        kept = bf_again_sort(c);
    if (kept < 0)
        return kept;
    bf_client_forget_late(c);
    bf_large_lost(c);
    r->refused = bf_max(r->refused, refused);
    move_reservation(c);
    bf_client_close_lock(c);
    if (load_relaxed(&c->recv->accepted) != 0)
        r->attempts = 0;
    r->lost = true;
    r->epoch++;
    int64_t now = bf_os_now_ns();
    if (load_relaxed(&c->recv->accepted) != 0 || r->lost_ns == 0) /* else it has been without all the time */
        r->lost_ns = now;
    r->attempt_at_ns = now + pause_ns(r, c);
    bf_reconnect_settle(c);
    if (c->poller != NULL)
        bf_poller_regroup(c->poller);
    tell(c, BELFRY_RECONNECT_LOST, rc);
    if (has_lasted_too_long(r, now))
        give_up(c, BELFRY_EGONE);
    return 0;
}

int bf_reconnect_over(struct belfry_client *c, int rc)
{
    struct client_reconnect *r = c->reconnect;
    if (r == NULL)
        return rc;
    if (!r->lost && !r->over) {
        int kept = lose(c, rc);
        if (kept < 0)
            return kept;
    }
    if (r->over)
        return rc == r->over_rc ? rc : bf_error(r->over_rc, "%s", belfry_error_text(r->over_rc));
    return bf_error(-EAGAIN, "the connection to \"%s\" is lost, and will be made again: receive, then send again",
                    c->shared->lobby.geometry.service);
}

/* --- maps that must stay ------------------------------------------------------------------------------------------- */

/* *out is NULL: nothing of the present connection is in use. */
static int past_new(struct belfry_client *c, struct client_past **out)
{
    struct client_reconnect *r = c->reconnect;
    uint64_t count = c->held_next - c->held_first;
    bool reserved = r->reserved != NULL && r->reserved_in == NULL;
    *out = NULL;
    if (count == 0 && !reserved)
        return 0;
    struct client_past *past = calloc(1, sizeof *past + count * sizeof past->released[0]);
    if (past == NULL)
        return bf_error(-ENOMEM, "no memory to remember %llu held messages", (unsigned long long)count);
    past->send = c->send;
    past->recv = (void *)c->recv;
    past->bytes = segment_bytes(c->shared->lobby.geometry.ring_bytes);
    past->first = c->held_first;
    past->count = count;
    past->open = reserved;
    for (uint64_t i = 0; i < count; i++) {
        past->released[i] = c->held[(c->held_first + i) & (c->held_capacity - 1)].released;
        past->open += !past->released[i];
    }
    if (reserved)
        r->reserved_in = past;
    past->next = r->pasts;
    r->pasts = past;
    *out = past;
    return 0;
}

static void past_release(struct client_reconnect *r, struct client_past *past)
{
    if (--past->open > 0)
        return;
    struct client_past **at = &r->pasts;
    while (*at != past)
        at = &(*at)->next;
    *at = past->next;
    bf_os_unmap(past->send, past->bytes);
    bf_os_unmap(past->recv, past->bytes);
    free(past);
}

void bf_reconnect_release(struct belfry_client *c, uint64_t number)
{
    struct client_reconnect *r = c->reconnect;
    for (struct client_past *past = r->pasts; past != NULL; past = past->next)
        if (number - past->first < past->count && !past->released[number - past->first]) {
            past->released[number - past->first] = true;
            past_release(r, past);
            return;
        }
}

/* --- attempts ------------------------------------------------------------------------------------------------------- */

/* The connection of `fresh` becomes ours. 0 or -ENOMEM: nothing has happened. */
static int move_in(struct belfry_client *c, struct belfry_client *fresh)
{
    struct client_reconnect *r = c->reconnect;
    struct client_past *past;
    int rc = past_new(c, &past);
    if (rc < 0)
        return rc;
    if (c->lookout != NULL)
        bf_lookout_watch(c->lookout, NULL, 0); /* what it reads is about to be unmapped */
    bf_client_adopt(c, fresh, past == NULL);
    client_alert(c);              /* it is armed anew, with the new bell */
    c->held_first = c->held_next; /* numbers go on; those before are the past's */
    r->lost = false;
    r->count++;
    r->epoch++;
    r->attempts++; /* until this one has been accepted, too */
    bf_reconnect_settle(c);
    if (c->poller != NULL)
        bf_poller_regroup(c->poller);
    client_push(c); /* what is wrong with the new one shows when it is used */
    tell(c, BELFRY_RECONNECT_DONE, 0);
    return 0;
}

static void attempt_failed(struct belfry_client *c, int rc)
{
    struct client_reconnect *r = c->reconnect;
    int64_t now = bf_os_now_ns();
    r->attempts++;
    r->attempt_at_ns = now + pause_ns(r, c);
    bool hopeless = rc == BELFRY_EVERSION || rc == BELFRY_EROOT || rc == BELFRY_EPROTO || rc == -EACCES;
    if (hopeless || has_lasted_too_long(r, now))
        give_up(c, hopeless ? rc : BELFRY_EGONE);
    else
        tell(c, BELFRY_RECONNECT_FAILED, rc);
}

static void attempt(struct belfry_client *c, int64_t deadline_ns)
{
    struct client_reconnect *r = c->reconnect;
    struct belfry_client *fresh;
    int64_t now = bf_os_now_ns();
    int64_t until = bf_min(bf_max(deadline_ns, now + ATTEMPT_NS_MIN), now + ATTEMPT_NS_MAX);
    int rc = bf_client_attach(&fresh, &r->place, &r->options, until, ATTEMPT_TRIES);
    if (rc == 0 && (rc = move_in(c, fresh)) < 0)
        belfry_close(fresh);
    if (rc < 0)
        attempt_failed(c, rc);
}

int bf_reconnect_wait(struct belfry_client *c, int rc, int64_t deadline_ns)
{
    struct client_reconnect *r = c->reconnect;
    bool was_lost = r != NULL && r->lost;
    rc = bf_reconnect_over(c, rc);
    if (r == NULL || rc != -EAGAIN)
        return rc;
    if (!was_lost) /* there may be failures to be handed out */
        return 0;
    if (c->corked) /* as every one that may block */
        belfry_poller_flush(c->poller);
    int64_t now = bf_os_now_ns();
    if (now >= r->attempt_at_ns) {
        attempt(c, deadline_ns);
        return 0;
    }
    if (deadline_ns <= now)
        return -ETIMEDOUT;
    uint32_t never = 0;
    struct bf_os_wait pause = {&never, 0};
    bf_os_wait(&pause, 1, bf_min(deadline_ns, r->attempt_at_ns));
    return 0;
}

bool bf_reconnect_look(struct belfry_client *c, int rc, int *attempts)
{
    struct client_reconnect *r = c->reconnect;
    if (r == NULL || r->over)
        return true;
    if (!r->lost && lose(c, rc) < 0)
        return false;
    if (r->lost && *attempts > 0 && bf_os_now_ns() >= r->attempt_at_ns) {
        (*attempts)--;
        attempt(c, 0);
    }
    return c->stash_first != NULL || r->over;
}

int64_t bf_reconnect_next_ns(const struct belfry_client *c)
{
    return client_is_lost(c) ? c->reconnect->attempt_at_ns : INT64_MAX;
}

/* --- what a send meets ---------------------------------------------------------------------------------------------- */

void bf_reconnect_settle(struct belfry_client *c)
{
    struct client_reconnect *r = c->reconnect;
    uint64_t payload_max = ring_payload_max(c->out.capacity);
    enum large_state large = c->large != NULL ? c->large->state : LARGE_NOTHING;
    c->in_place_end = 0;
    if (r->lost) {
        c->wanted = 0;
    } else if (large >= LARGE_LEAVING) {
        ; /* large.c says what it wants */
    } else if (r->again_first != NULL) {
        const struct client_again *a = r->again_first;
        uint64_t bytes =
            a->size + extension_bytes(&(struct extension){.deadline_ns = a->deadline_ns}); /* as send_one() */
        bool in_parts = bytes > payload_max;
        c->wanted = in_parts ? parts_payload_max(c->out.capacity) + 1 : bytes + 1;
        if (in_parts && large == LARGE_RESERVED) /* it waits for the user, not for room */
            c->wanted = 0;
    } else {
        if (r->refused != 0)
            c->wanted = bf_min(r->refused, payload_max + 1);
        r->refused = 0;
        if (large == LARGE_NOTHING && r->reserved == NULL)
            c->in_place_end = (uint32_t)bf_min(payload_max, belfry_message_bytes_max(c)) + 1;
    }
    client_alert(c); /* what it wants may be something else now */
}

int bf_reconnect_refuse(struct belfry_client *c, int rc, uint64_t bytes)
{
    rc = bf_reconnect_over(c, rc);
    if (rc == -EAGAIN)
        c->reconnect->refused = bytes + 1;
    return rc;
}

int bf_reconnect_admit(struct belfry_client *c, uint64_t bytes)
{
    struct client_reconnect *r = c->reconnect;
    int rc = 0;
    if (r->reserved != NULL || (c->large != NULL && c->large->state == LARGE_RESERVED))
        return bf_error(BELFRY_ESTATE, "a reservation is open: commit or abort it first");
    if (r->again_first != NULL) {
        rc = client_push(c);
        rc = rc > 0 ? 0 : rc < 0 ? rc : -EAGAIN;
        if (rc == -EAGAIN)
            bf_error(rc, "requests of an earlier connection to \"%s\" go first: receive something, then send again",
                     c->shared->lobby.geometry.service);
    }
    if (rc == -EAGAIN)
        r->refused = bytes + 1;
    return rc;
}

int bf_reconnect_later(struct belfry_client *c, enum belfry_kind kind, uint64_t id, const void *data, void **block,
                       uint64_t size, int64_t deadline_ns)
{
    int rc = bf_again_add(c, kind, id, data, block, size, deadline_ns);
    bf_reconnect_settle(c);
    return rc;
}

void bf_reconnect_abort(struct belfry_client *c)
{
    struct client_reconnect *r = c->reconnect;
    if (r->reserved == NULL)
        return;
    r->reserved = NULL;
    if (r->reserved_in != NULL)
        past_release(r, r->reserved_in);
    r->reserved_in = NULL;
    bf_reconnect_settle(c);
}

int bf_reconnect_commit(struct belfry_client *c, enum belfry_kind kind, uint64_t size, uint64_t *id)
{
    struct client_reconnect *r = c->reconnect;
    if (size > r->reserved_bytes)
        return bf_error(BELFRY_ESTATE, "commit without a reservation, or of more than was reserved");
    if (kind != BELFRY_REQUEST && kind != BELFRY_ONE_WAY)
        return bf_error(BELFRY_EOPTION, "a client sends requests and one-way messages, not kind %d", (int)kind);
    uint64_t number = kind == BELFRY_REQUEST ? c->next_id : 0;
    int rc = bf_reconnect_later(c, kind, number, r->reserved, NULL, size, 0);
    bf_reconnect_abort(c); /* also without memory: then it is over with this one */
    if (rc < 0)
        return rc;
    c->next_id += kind == BELFRY_REQUEST;
    if (id != NULL)
        *id = number;
    return bf_min(client_push(c), 0);
}

bool bf_reconnect_forget(struct belfry_client *c, uint64_t id)
{
    struct client_reconnect *r = c->reconnect;
    struct client_flight *f = bf_flight_find(r, id);
    if (f != NULL)
        bf_flight_remove(c, f);
    bool waited = bf_again_remove(c, id);
    if (waited) {
        c->wanted = 0;
        bf_reconnect_settle(c);
    }
    return waited || r->lost;
}

/* --- the end -------------------------------------------------------------------------------------------------------- */

void bf_reconnect_free(struct belfry_client *c, bool usable)
{
    struct client_reconnect *r = c->reconnect;
    if (r == NULL)
        return;
    bf_again_free(c);
    bf_flights_free(c);
    while (r->pasts != NULL) {
        struct client_past *next = r->pasts->next;
        if (usable) { /* in a forked child they are not mapped */
            bf_os_unmap(r->pasts->send, r->pasts->bytes);
            bf_os_unmap(r->pasts->recv, r->pasts->bytes);
        }
        free(r->pasts);
        r->pasts = next;
    }
    free(r);
    c->reconnect = NULL;
}

uint64_t belfry_client_reconnects(const belfry_client *c)
{
    return c->reconnect != NULL ? c->reconnect->count : 0;
}

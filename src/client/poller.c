/* SPDX-License-Identifier: MIT */
/*
 * poller.c: one thread, many clients.
 *
 * The clients of one shard form a bell group: each names the group's leader in its segment, and the server rings the
 * leader's bell for any of them. So the thread parks with one store per shard, and sleeps on two words per shard.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/build.h"
#include "base/check.h"
#include "base/error.h"
#include "base/os.h"
#include "client/reconnect.h"

#define GROUPS_MAX (BF_OS_WAITS_MAX / 2)
#define ATTEMPTS_PER_LOOK 16 /* of clients that reconnect: others want their turn */
#define CROWDED_NS 2000000ll
#define PREFETCH_AHEAD 8 /* members; decisions/0009 */

struct belfry_poller {
    struct belfry_client **members;
    unsigned count;
    unsigned capacity;
    unsigned next; /* where the next look begins, so that nobody is always last */
    struct belfry_client *leaders[GROUPS_MAX];
    unsigned leader_count;
    bool regroup; /* a member names no leader at present */
    bool
        crowded; /* members of more shards than can be waited for: while servers of 33 shards and more replace each other */
    bool corked;
    struct belfry_client **untold; /* members with news that nobody has been rung for yet; as many places as members */
    unsigned untold_count;
    struct bf_spin spin;
    struct client_lookout *lookout; /* behind the descriptor; every member's, too */
};

/* --- groups -------------------------------------------------------------------------------------------------------- */

static bool same_group(const struct belfry_client *a, const struct belfry_client *b)
{
    return a->shared->inode == b->shared->inode && a->shared->device == b->shared->device &&
           belfry_client_shard(a) == belfry_client_shard(b);
}

/* An ended leader rings no more, and one that is not yet accepted rings once it is: the better leader has more. */
static int fitness(const struct belfry_client *c)
{
    if (load_relaxed(&c->recv->end) != BELFRY_END_NONE || client_is_lost(c))
        return 0;
    return load_relaxed(&c->recv->accepted) == 0 ? 1 : 2;
}

static void follow(struct belfry_client *member, const struct belfry_client *leader)
{
    uint64_t at = member == leader ? 0 : BELFRY_BELL_AT(leader->slot, leader->generation);
    store_relaxed(&member->send->bell_at, at); /* ordered by the fence before the sleep */
}

static unsigned groups_max(const struct belfry_poller *p)
{
    return p->lookout == NULL ? GROUPS_MAX : LOOKOUT_GROUPS_MAX;
}

/* Which group is it of? leader_count: of none yet. */
static unsigned group_of(const struct belfry_poller *p, const struct belfry_client *c)
{
    unsigned group = 0;
    while (group < p->leader_count && !same_group(p->leaders[group], c))
        group++;
    return group;
}

/* One of before a fork has no maps here; one whose connection is lost has no bell. */
static bool may_be_rung(const struct belfry_client *c)
{
    return client_check(c) == 0 && !client_is_lost(c);
}

/* Name the leader of every group anew. */
static void choose_leaders(struct belfry_poller *p)
{
    p->leader_count = 0;
    p->regroup = p->crowded = false;
    for (unsigned i = 0; i < p->count; i++) {
        struct belfry_client *c = p->members[i];
        if (!may_be_rung(c))
            continue;
        unsigned group = group_of(p, c);
        if (group == groups_max(p))
            p->crowded = true;
        else if (group == p->leader_count)
            p->leaders[p->leader_count++] = c;
        else if (fitness(c) > fitness(p->leaders[group]))
            p->leaders[group] = c;
    }
    for (unsigned i = 0; i < p->count; i++) {
        struct belfry_client *c = p->members[i];
        unsigned group = may_be_rung(c) ? group_of(p, c) : p->leader_count;
        if (may_be_rung(c))
            follow(c, group < p->leader_count ? p->leaders[group] : c);
    }
}

void bf_poller_regroup(belfry_poller *p)
{
    p->regroup = true;
}

/* --- create, add, remove ------------------------------------------------------------------------------------------- */

int belfry_poller_create(belfry_poller **out)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        return bf_error(-ENOMEM, "no memory for a poller");
    bf_spin_init(&(*out)->spin, BF_DEFAULT_SPIN);
    return 0;
}

void belfry_poller_destroy(belfry_poller *p)
{
    if (p == NULL)
        return;
    while (p->count > 0)
        belfry_poller_remove(p, p->members[p->count - 1]);
    bf_lookout_close(p->lookout);
    free(p->members);
    free(p->untold);
    free(p);
}

int belfry_poller_add(belfry_poller *p, belfry_client *c, void *tag)
{
    int rc = client_check(c);
    if (rc < 0)
        return rc;
    if (c->poller != NULL)
        return bf_error(BELFRY_ESTATE, "the client of slot %u belongs to a poller already", c->slot);
    if (c->lookout != NULL)
        return bf_error(BELFRY_ESTATE, "the client of slot %u has a descriptor: it is watched already", c->slot);
    if (p->count == p->capacity) {
        unsigned capacity = p->capacity == 0 ? 16 : p->capacity * 2;
        struct belfry_client **members = realloc(p->members, capacity * sizeof(*members));
        p->members = members != NULL ? members : p->members;
        struct belfry_client **untold = realloc(p->untold, capacity * sizeof(*untold));
        p->untold = untold != NULL ? untold : p->untold;
        if (members == NULL || untold == NULL)
            return bf_error(-ENOMEM, "no memory for %u clients of a poller", capacity);
        p->capacity = capacity;
    }
    unsigned group = group_of(p, c);
    if (group == groups_max(p))
        return bf_error(BELFRY_ESTATE, "%s waits for at most %u shards: use a second one",
                        p->lookout == NULL ? "a poller" : "a poller with a descriptor", groups_max(p));
    if (group == p->leader_count)
        p->leaders[p->leader_count++] = c;
    follow(c, p->leaders[group]); /* whether another would lead better is asked before each sleep */
    p->members[p->count++] = c;
    if (p->count == 1)
        p->spin = c->spin;
    c->poller = p;
    c->poller_tag = tag;
    c->corked = p->corked;
    c->lookout = p->lookout;
    client_alert(c);
    return 0;
}

int belfry_poller_remove(belfry_poller *p, belfry_client *c)
{
    unsigned at = 0;
    while (at < p->count && p->members[at] != c)
        at++;
    if (at == p->count)
        return bf_error(BELFRY_ESTATE, "the client of slot %u does not belong to this poller", c->slot);
    if (c->untold)
        belfry_poller_flush(p);
    p->members[at] = p->members[--p->count];
    c->poller = NULL;
    c->corked = false;
    if (c->lookout != NULL) {
        bf_lookout_watch(p->lookout, NULL, 0); /* its segment may go now; the alert has the others armed again */
        client_alert(c);
        c->lookout = NULL;
    }
    if (client_check(c) < 0) { /* after a fork its maps are gone; nothing to tell anybody */
        choose_leaders(p);
        return 0;
    }
    follow(c, c);
    bool leads = p->regroup; /* then who leads is not known */
    for (unsigned i = 0; i < p->leader_count && !leads; i++)
        leads = p->leaders[i] == c;
    if (leads) /* else nobody followed it */
        choose_leaders(p);
    return 0;
}

/* --- cork ---------------------------------------------------------------------------------------------------------- */

void bf_poller_defer(belfry_poller *p, struct belfry_client *c)
{
    c->untold = true;
    p->untold[p->untold_count++] = c;
}

void belfry_poller_flush(belfry_poller *p)
{
    if (p->untold_count == 0)
        return;
    full_fence(); /* all entries and positions are visible before we read who sleeps; partner: sleep.c, bf_shard_sleep */
    for (unsigned i = 0; i < p->untold_count; i++) {
        struct belfry_client *c = p->untold[i];
        bool committed = c->has_commit;
        c->untold = c->has_commit = false;
        if (client_check(c) == 0)
            bf_client_ring(c, committed);
    }
    p->untold_count = 0;
}

void belfry_poller_cork(belfry_poller *p, bool corked)
{
    if (!corked)
        belfry_poller_flush(p);
    p->corked = corked;
    for (unsigned i = 0; i < p->count; i++)
        p->members[i]->corked = corked;
}

/* --- wait ---------------------------------------------------------------------------------------------------------- */

/* *attempts are those that clients which reconnect may still make. */
static bool look_at(struct belfry_client *c, belfry_poll_event *event, int *attempts)
{
    bool readable = c->stash_first != NULL || !ring_is_empty(&c->in);
    if (!readable) {
        int rc = bf_unlikely(client_is_lost(c)) ? c->end_rc : client_end(c);
        readable = bf_unlikely(rc < 0) && bf_reconnect_look(c, rc, attempts);
    }
    if (bf_unlikely(client_is_busy(c)))
        readable |= client_push(c) < 0 || c->stash_first != NULL; /* the next receive says what is wrong */
    bool writable = c->wanted != 0 && !client_is_busy(c) && ring_has_room(&c->out, c->wanted - 1);
    if (!readable && !writable)
        return false;
    *event = (belfry_poll_event){.client = c, .tag = c->poller_tag, .readable = readable, .writable = writable};
    return true;
}

/* `at` may be one round ahead. */
static void prefetch(const struct belfry_poller *p, unsigned at)
{
    const struct belfry_client *c = p->members[at < p->count ? at : at - p->count];
    ring_consumer_prefetch(&c->in);
    ring_producer_prefetch(&c->out); /* whoever gets a reply mostly sends the next request */
}

static int look_at_all(struct belfry_poller *p, belfry_poll_event *events, int count)
{
    int found = 0, attempts = ATTEMPTS_PER_LOOK;
    unsigned first = p->next < p->count ? p->next : 0;
    for (unsigned i = 0; i < p->count && found < count; i++) {
        unsigned at = first + i < p->count ? first + i : first + i - p->count;
        if (i + PREFETCH_AHEAD < p->count)
            prefetch(p, at + PREFETCH_AHEAD);
        if (look_at(p->members[at], &events[found], &attempts)) {
            found++;
            p->next = at + 1;
        }
    }
    return found;
}

static bool needs_leader(const struct belfry_poller *p)
{
    if (p->regroup)
        return true;
    for (unsigned i = 0; i < p->leader_count; i++)
        if (fitness(p->leaders[i]) < 2)
            return true;
    return false;
}

/* When somebody has to be looked at although nobody rings. */
static int64_t next_look_ns(const struct belfry_poller *p)
{
    int64_t next = p->crowded ? bf_os_now_ns() + CROWDED_NS : INT64_MAX;
    for (unsigned i = 0; i < p->count; i++)
        next = bf_min(next, bf_reconnect_next_ns(p->members[i]));
    return next;
}

static int sleep_until(struct belfry_poller *p, int64_t until_ns)
{
    if (p->leader_count > 0)
        return bf_client_sleep(p->members, p->count, p->leaders, p->leader_count, until_ns);
    uint32_t never = 0;
    struct bf_os_wait pause = {&never, 0}; /* all of them are lost */
    return bf_os_wait(&pause, 1, until_ns);
}

/* What the look has missed sets the descriptor at once. */
static void arm_descriptor(struct belfry_poller *p)
{
    if (p->lookout == NULL)
        return;
    if (needs_leader(p))
        choose_leaders(p);
    bf_lookout_arm(p->lookout, p->members, p->count, p->leaders, p->leader_count, next_look_ns(p));
}

int belfry_poller_fd(belfry_poller *p)
{
    if (p->lookout != NULL)
        return bf_lookout_fd(p->lookout);
    if (p->leader_count > LOOKOUT_GROUPS_MAX)
        return bf_error(BELFRY_ESTATE, "a poller with a descriptor waits for at most %u shards: use a second one",
                        LOOKOUT_GROUPS_MAX);
    int rc = bf_lookout_open(&p->lookout);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < p->count; i++)
        p->members[i]->lookout = p->lookout;
    return bf_lookout_fd(p->lookout);
}

int belfry_poller_wait(belfry_poller *p, belfry_poll_event *events, int count, int64_t deadline)
{
    bool polling = false;
    if (count <= 0)
        return bf_error(BELFRY_EOPTION, "a poller needs room for at least one event");
    if (p->count == 0) {
        if (p->lookout != NULL)
            bf_lookout_arm(p->lookout, NULL, 0, NULL, 0, INT64_MAX);
        return bf_error(BELFRY_ESTATE, "the poller has no client to wait for");
    }
    for (unsigned i = 0; i < p->count; i++) {
        int rc = client_check(p->members[i]);
        if (rc < 0)
            return rc;
    }
    belfry_poller_flush(p);
    for (;;) {
        int found = look_at_all(p, events, count);
        if (found > 0) {
            if (polling)
                bf_spin_won(&p->spin);
            return found;
        }
        belfry_poller_flush(p); /* a look may have moved parts of a large message */
        if (deadline <= 0) {
            arm_descriptor(p);
            return 0;
        }
        if (!polling)
            bf_spin_begin(&p->spin);
        polling = true;
        if (bf_spin_again(&p->spin)) {
            if (p->spin.since_ns != 0 && p->spin.look_ns >= deadline) {
                arm_descriptor(p);
                return 0;
            }
            continue;
        }
        polling = false;
        if (needs_leader(p))
            choose_leaders(p);
        int rc = sleep_until(p, bf_min(deadline, next_look_ns(p)));
        if (rc < 0 && rc != -ETIMEDOUT)
            return rc;
        if (rc == -ETIMEDOUT && (deadline != BELFRY_FOREVER && bf_os_now_ns() >= deadline)) {
            found = look_at_all(p, events, count);
            if (found == 0)
                arm_descriptor(p);
            return found;
        }
    }
}

/* SPDX-License-Identifier: MIT */
/* timer.c: see timer.h. The wheel first, then what users call. The shard's thread. */
#include "server/timer.h"

#include "base/check.h"
#include "base/error.h"
#include "base/os.h"
#include "server/shard.h"

/* --- lists -------------------------------------------------------------------------------------------------------- */

/* A list is a circle through its head. */
static void list_init(struct belfry_timer_link *head)
{
    head->next = head->previous = head;
}

static bool list_is_empty(const struct belfry_timer_link *head)
{
    return head->next == head;
}

static void list_put(struct belfry_timer_link *head, struct belfry_timer_link *link)
{
    link->next = head;
    link->previous = head->previous;
    head->previous->next = link;
    head->previous = link;
}

static void list_remove(struct belfry_timer_link *link)
{
    link->previous->next = link->next;
    link->next->previous = link->previous;
}

/* All of `from`, behind what is in `to`. */
static void list_append(struct belfry_timer_link *to, struct belfry_timer_link *from)
{
    if (list_is_empty(from))
        return;
    from->next->previous = to->previous;
    to->previous->next = from->next;
    from->previous->next = to;
    to->previous = from->previous;
    list_init(from);
}

/* The link is a timer's first member. */
static belfry_timer *timer_of(struct belfry_timer_link *link)
{
    _Static_assert(offsetof(belfry_timer, link) == 0, "a link is its timer");
    return (belfry_timer *)link;
}

/* --- the wheel ---------------------------------------------------------------------------------------------------- */

/* The first tick that begins at or after this time: so nothing fires early. */
static uint64_t tick_of(int64_t at_ns)
{
    if (at_ns <= 0)
        return 0;
    uint64_t ns = (uint64_t)at_ns;
    return (ns >> TIMER_TICK_SHIFT) + ((ns & ((1u << TIMER_TICK_SHIFT) - 1)) != 0);
}

static void place(struct bf_timers *w, belfry_timer *t)
{
    uint64_t tick = tick_of(t->at_ns);
    if (tick <= w->tick) {
        list_put(&w->due, &t->link);
        return;
    }
    unsigned level = (63u - (unsigned)__builtin_clzll(tick ^ w->tick)) / TIMER_DIGIT_BITS;
    unsigned slot = (tick >> (level * TIMER_DIGIT_BITS)) & (TIMER_SLOTS - 1);
    list_put(&w->slots[level][slot], &t->link);
    w->occupied[level] |= 1ull << slot;
    w->levels |= 1ull << level;
}

static void mark_empty(struct bf_timers *w, unsigned level, unsigned slot)
{
    w->occupied[level] &= ~(1ull << slot);
    if (w->occupied[level] == 0)
        w->levels &= ~(1ull << level);
}

static void take(struct bf_timers *w, belfry_timer *t)
{
    struct belfry_timer_link *next = t->link.next;
    list_remove(&t->link);
    if (!list_is_empty(next))
        return;
    /* It was the last one, and `next` is the head: of a slot, if it lies among them. */
    uintptr_t first = (uintptr_t)&w->slots[0][0], at = (uintptr_t)next;
    if (at - first < sizeof w->slots) {
        unsigned index = (unsigned)((at - first) / sizeof *next);
        mark_empty(w, index / TIMER_SLOTS, index % TIMER_SLOTS);
    }
}

static void forget(struct bf_timers *w, belfry_timer *t)
{
    t->link.next = t->link.previous = NULL;
    t->wheel = NULL;
    w->count--;
}

void bf_timers_init(struct bf_timers *w)
{
    *w = (struct bf_timers){0};
    list_init(&w->due);
    list_init(&w->moving);
    for (unsigned level = 0; level < TIMER_LEVELS; level++)
        for (unsigned slot = 0; slot < TIMER_SLOTS; slot++)
            list_init(&w->slots[level][slot]);
}

void bf_timers_set(struct bf_timers *w, belfry_timer *t, int64_t at_ns, int64_t clock_ns)
{
    if (t->wheel != NULL) {
        take(w, t);
        w->count--;
    }
    if (w->count == 0) /* nothing is in a slot: the hand may be put anywhere */
        w->tick = bf_max(w->tick, (uint64_t)clock_ns >> TIMER_TICK_SHIFT);
    t->at_ns = at_ns;
    t->wheel = w;
    w->count++;
    place(w, t);
}

void bf_timers_cancel(struct bf_timers *w, belfry_timer *t)
{
    take(w, t);
    forget(w, t);
}

/* When the next slot opens. Some level must be occupied. */
static uint64_t next_slot(const struct bf_timers *w, unsigned *level, unsigned *slot)
{
    *level = (unsigned)__builtin_ctzll(w->levels);
    *slot = (unsigned)__builtin_ctzll(w->occupied[*level]);
    unsigned shift = *level * TIMER_DIGIT_BITS;
    uint64_t above = w->tick >> (shift + TIMER_DIGIT_BITS) << (shift + TIMER_DIGIT_BITS);
    return above | (uint64_t)*slot << shift;
}

int64_t bf_timers_next_ns(const struct bf_timers *w)
{
    unsigned level, slot;
    if (timers_are_due(w))
        return 0;
    if (w->levels == 0)
        return INT64_MAX;
    uint64_t tick = next_slot(w, &level, &slot);
    return tick > INT64_MAX >> TIMER_TICK_SHIFT ? INT64_MAX : (int64_t)(tick << TIMER_TICK_SHIFT);
}

/* Open all slots up to `now`. A slot of level 0 holds one tick and is due as a whole; those of others are dealt out
   anew, and until that is done no further slot opens, which keeps the order of time. */
static void advance(struct bf_timers *w, uint64_t now)
{
    unsigned moves = 0, level, slot;
    for (;;) {
        while (!list_is_empty(&w->moving)) {
            if (moves++ == TIMER_MOVES_MAX)
                return;
            belfry_timer *t = timer_of(w->moving.next);
            list_remove(&t->link);
            place(w, t);
        }
        if (w->levels == 0)
            break;
        uint64_t opens = next_slot(w, &level, &slot);
        if (opens > now)
            break;
        w->tick = opens;
        list_append(level == 0 ? &w->due : &w->moving, &w->slots[level][slot]);
        mark_empty(w, level, slot);
    }
    w->tick = bf_max(w->tick, now);
}

unsigned bf_timers_run(struct bf_timers *w, int64_t now_ns)
{
    struct belfry_timer_link firing; /* apart from `due`, where on_fire may put more */
    unsigned fired = 0;
    advance(w, (uint64_t)now_ns >> TIMER_TICK_SHIFT);
    list_init(&firing);
    list_append(&firing, &w->due);
    while (!list_is_empty(&firing) && fired < TIMER_FIRES_MAX) {
        belfry_timer *t = timer_of(firing.next);
        list_remove(&t->link);
        forget(w, t);
        fired++;
        t->on_fire(t, t->user); /* from here on *t may be gone */
    }
    list_append(&firing, &w->due); /* the rest goes first */
    list_append(&w->due, &firing);
    return fired;
}

static void drop_list(struct bf_timers *w, struct belfry_timer_link *head)
{
    while (!list_is_empty(head)) {
        belfry_timer *t = timer_of(head->next);
        list_remove(&t->link);
        forget(w, t);
    }
}

void bf_timers_drop(struct bf_timers *w)
{
    if (w->count == 0)
        return;
    drop_list(w, &w->due);
    drop_list(w, &w->moving);
    for (unsigned level = 0; level < TIMER_LEVELS; level++)
        for (unsigned slot = 0; slot < TIMER_SLOTS; slot++)
            drop_list(w, &w->slots[level][slot]);
    for (unsigned level = 0; level < TIMER_LEVELS; level++)
        w->occupied[level] = 0;
    w->levels = 0;
    INVARIANT(w->count == 0);
}

/* --- public ------------------------------------------------------------------------------------------------------- */

void belfry_timer_init(belfry_timer *t, void (*on_fire)(belfry_timer *t, void *user), void *user)
{
    *t = (belfry_timer){.on_fire = on_fire, .user = user};
}

int belfry_timer_set(belfry_timer *t, int64_t at_ns)
{
    struct bf_shard *s = bf_shard_self();
    if (bf_unlikely(s == NULL))
        return bf_error(BELFRY_ETHREAD, "a timer is set on a shard's thread: in a handler");
    if (bf_unlikely(t->wheel != NULL && t->wheel != &s->timers))
        return bf_error(BELFRY_ETHREAD, "the timer is set on another shard: cancel it there first");
    if (bf_unlikely(s->stopping))
        return bf_error(BELFRY_ESTATE, "shard %u is stopping: no timer will fire any more", s->index);
    bf_timers_set(&s->timers, t, at_ns, s->timers.count == 0 ? bf_os_coarse_ns() : 0);
    return 0;
}

int belfry_timer_cancel(belfry_timer *t)
{
    struct bf_shard *s = bf_shard_self();
    if (t->wheel == NULL)
        return 0;
    if (bf_unlikely(s == NULL || t->wheel != &s->timers))
        return bf_error(BELFRY_ETHREAD, "a timer is cancelled on the shard's thread that set it");
    bf_timers_cancel(&s->timers, t);
    return 1;
}

bool belfry_timer_is_set(const belfry_timer *t)
{
    return t->wheel != NULL;
}

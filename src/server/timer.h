/* SPDX-License-Identifier: MIT */
/*
 * timer.h: a shard's timers: a hierarchical timing wheel, private to the shard's thread.
 *
 * Time is cut into ticks of 2^20 ns. Eight levels of 64 slots cover every tick that an int64_t of nanoseconds has, so
 * nothing is too far away. A timer stands in the level of the highest digit (of six bits) in which its tick differs
 * from the wheel's own, in the slot of that digit. So everything in a level is due before anything in a higher one, and
 * the next slot to open is found with two looks at bitmaps. Setting and cancelling touch the timer, a list and a bit:
 * no allocation, no system call, and but for the first timer no look at the clock (decisions/0014).
 *
 * The wheel is told the time by its caller, so a test can make it up.
 */
#ifndef BF_SERVER_TIMER_H
#define BF_SERVER_TIMER_H

#include <belfry/server.h>

#define TIMER_TICK_SHIFT 20u /* 1.05 ms */
#define TIMER_LEVELS 8u
#define TIMER_DIGIT_BITS 6u
#define TIMER_SLOTS (1u << TIMER_DIGIT_BITS)
#define TIMER_FIRES_MAX 256u  /* in one turn; the rest in the next */
#define TIMER_MOVES_MAX 1024u /* from a level to a lower one, in one turn */

struct bf_timers {
    uint64_t count;  /* timers that are set */
    uint64_t levels; /* bit i: level i holds one */
    uint64_t tick;   /* every slot that opens at or before this one has been opened; never ahead of the clock */
    struct belfry_timer_link due;    /* to be fired, in this order */
    struct belfry_timer_link moving; /* out of a slot of a higher level, on the way down; the wheel waits for them */
    uint64_t occupied[TIMER_LEVELS]; /* bit i: slot i of that level holds one */
    struct belfry_timer_link slots[TIMER_LEVELS][TIMER_SLOTS];
};

void bf_timers_init(struct bf_timers *w);

/* Set, or set anew. `clock_ns`: a time that is not in the future; only looked at when no timer is set. */
void bf_timers_set(struct bf_timers *w, belfry_timer *t, int64_t at_ns, int64_t clock_ns);
void bf_timers_cancel(struct bf_timers *w, belfry_timer *t);

/*
 * One turn's share: fire what is due at `now_ns`, at most TIMER_FIRES_MAX. Returns how many fired. What on_fire sets is
 * not fired by this call, however long ago its time was.
 */
unsigned bf_timers_run(struct bf_timers *w, int64_t now_ns);

/* Nothing need be done before this time: 0, something is due now; INT64_MAX, never. It may be too early for the next
   timer (at most once per level), never too late. */
int64_t bf_timers_next_ns(const struct bf_timers *w);

/* The shard stops: no timer is set any more, and none was fired. */
void bf_timers_drop(struct bf_timers *w);

static inline bool timers_are_due(const struct bf_timers *w)
{
    return w->due.next != &w->due || w->moving.next != &w->moving;
}

#endif

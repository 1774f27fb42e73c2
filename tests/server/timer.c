/* SPDX-License-Identifier: MIT */
/*
 * Tests of the wheel in server/timer.c, with a clock that is made up. timer_shard.c has a real shard around it.
 *
 * `now` moves only when a test says so. A timer of these tests writes its number into `log` when it fires.
 */
#include "server/timer.h"

#include <stdlib.h>

#include "base/check.h"
#include "expect.h"
#include "fixture.h"

#define TICK (1ll << TIMER_TICK_SHIFT)
#define START (1000000 * TICK + 12345) /* not at the start of a tick, nor of a slot */
#define LOG_MAX 4096u

struct numbered {
    belfry_timer timer;
    unsigned number;
    int64_t fired_at;
    unsigned fired;
};

static struct bf_timers wheel;
static int64_t now;
static unsigned fired_count, fired_log[LOG_MAX];

static void note(belfry_timer *t, void *user)
{
    struct numbered *n = user;
    expect(&n->timer == t);
    expect(!belfry_timer_is_set(t));
    if (t->at_ns > now)
        expect_failed("timer %u fired %lld ns early", n->number, (long long)(t->at_ns - now));
    n->fired_at = now;
    n->fired++;
    if (fired_count < LOG_MAX)
        fired_log[fired_count] = n->number;
    fired_count++;
}

static void begin(void)
{
    now = START;
    fired_count = 0;
    bf_timers_init(&wheel);
}

static struct numbered *make(unsigned count)
{
    struct numbered *n = calloc(count, sizeof *n);
    expect(n != NULL);
    for (unsigned i = 0; i < count; i++) {
        n[i].number = i;
        belfry_timer_init(&n[i].timer, note, &n[i]);
    }
    return n;
}

static void set(struct numbered *n, int64_t at_ns)
{
    bf_timers_set(&wheel, &n->timer, at_ns, now);
}

/* Everything that is due at `at_ns`, in as many turns as it takes. */
static unsigned run_to(int64_t at_ns)
{
    unsigned fired = 0;
    now = at_ns;
    do
        fired += bf_timers_run(&wheel, now);
    while (timers_are_due(&wheel));
    return fired;
}

static uint64_t tick_after(int64_t at_ns)
{
    return at_ns <= 0 ? 0 : ((uint64_t)at_ns + TICK - 1) >> TIMER_TICK_SHIFT;
}

/* --- one timer ------------------------------------------------------------------------------------------------------- */

Test(timer, is_not_set_until_it_is)
{
    begin();
    struct numbered *n = make(1);
    expect(!belfry_timer_is_set(&n->timer));
    expect_eq(belfry_timer_cancel(&n->timer), 0);
    expect_eq(bf_timers_next_ns(&wheel), INT64_MAX);
    set(n, now + TICK);
    expect(belfry_timer_is_set(&n->timer));
    expect_eq(wheel.count, 1);
    bf_timers_cancel(&wheel, &n->timer);
    expect(!belfry_timer_is_set(&n->timer));
    expect_eq(bf_timers_next_ns(&wheel), INT64_MAX);
    expect_eq(run_to(now + 10 * TICK), 0);
    free(n);
}

Test(timer, belongs_to_a_shards_thread)
{
    begin();
    struct numbered *n = make(1);
    expect_rc(belfry_timer_set(&n->timer, now), BELFRY_ETHREAD);
    expect_in(belfry_last_error(), "in a handler");
    expect(!belfry_timer_is_set(&n->timer));
    set(n, now + TICK);
    expect_rc(belfry_timer_cancel(&n->timer), BELFRY_ETHREAD);
    expect(belfry_timer_is_set(&n->timer));
    free(n);
}

Test(timer, fires_at_the_first_tick_that_is_not_early)
{
    static const int64_t after[] = {0, 1, TICK - 1, TICK, TICK + 1, 63 * TICK, 64 * TICK, 65 * TICK};
    begin();
    struct numbered *n = make(1);
    for (size_t i = 0; i < sizeof after / sizeof after[0]; i++) {
        int64_t at = START + (int64_t)(i + 1) * 1000 * TICK + after[i];
        int64_t wanted = (int64_t)tick_after(at) << TIMER_TICK_SHIFT;
        n->fired = 0;
        set(n, at);
        expect_eq(run_to(wanted - 1), 0);
        expect(bf_timers_next_ns(&wheel) <= wanted);
        expect_eq(run_to(wanted), 1);
        expect_eq(n->fired, 1);
        expect_eq(wheel.count, 0);
    }
    free(n);
}

Test(timer, in_the_past_fires_in_the_next_turn)
{
    static const int64_t past[] = {INT64_MIN, -1, 0, 1, START - 1, START};
    begin();
    struct numbered *n = make(1);
    for (size_t i = 0; i < sizeof past / sizeof past[0]; i++) {
        now = START + TICK;
        set(n, past[i]);
        expect_eq(bf_timers_next_ns(&wheel) <= now, 1);
        expect_eq(bf_timers_run(&wheel, now), 1);
    }
    free(n);
}

/* Each level, each place of the boundary: a tick that differs in one digit only, and the ticks beside it. */
Test(timer, fires_from_every_level_at_its_tick)
{
    begin();
    struct numbered *n = make(1);
    for (unsigned level = 0; level < TIMER_LEVELS; level++)
        for (int64_t digit = 1; digit <= 63; digit += 31)
            for (int64_t beside = -1; beside <= 1; beside++) {
                unsigned shift = level * TIMER_DIGIT_BITS;
                if (shift + TIMER_TICK_SHIFT >= 63 || digit > INT64_MAX >> (shift + TIMER_TICK_SHIFT))
                    continue;
                int64_t at = (digit << (shift + TIMER_TICK_SHIFT)) + beside * TICK;
                if (at <= TICK)
                    continue;
                bf_timers_init(&wheel);
                now = 1;
                n->fired = 0;
                set(n, at);
                unsigned looks = 0;
                while (n->fired == 0) { /* as a shard that sleeps does */
                    int64_t next = bf_timers_next_ns(&wheel);
                    expect(next > now && next <= at);
                    bf_timers_run(&wheel, now = next);
                    expect(++looks <= TIMER_LEVELS);
                }
                expect_eq(n->fired_at, at);
            }
    free(n);
}

Test(timer, at_the_end_of_time_never_fires)
{
    begin();
    struct numbered *n = make(2);
    set(&n[0], INT64_MAX);
    set(&n[1], INT64_MAX - 1);
    expect(bf_timers_next_ns(&wheel) > now);
    expect_eq(run_to(INT64_MAX - TICK), 0);
    expect_eq(run_to(INT64_MAX), 0);
    expect_eq(bf_timers_next_ns(&wheel), INT64_MAX);
    expect_eq(wheel.count, 2);
    bf_timers_cancel(&wheel, &n[0].timer);
    bf_timers_cancel(&wheel, &n[1].timer);
    expect_eq(wheel.levels, 0);
    free(n);
}

Test(timer, set_again_is_moved)
{
    begin();
    struct numbered *n = make(2);
    set(&n[0], now + 5 * TICK);
    set(&n[1], now + 5 * TICK);
    set(&n[0], now + 500 * TICK);
    expect_eq(wheel.count, 2);
    expect_eq(run_to(START + 499 * TICK), 1);
    expect_eq(n[1].fired, 1);
    set(&n[0], now + 1);
    expect_eq(run_to(now + 2 * TICK), 1);
    expect_eq(run_to(START + 1000 * TICK), 0);
    free(n);
}

Test(timer, set_after_a_long_quiet_time_is_not_late)
{
    begin();
    struct numbered *n = make(1);
    now += 1000000000 * TICK; /* nobody ran the wheel: there was nothing */
    set(n, now + 3 * TICK);
    expect(bf_timers_next_ns(&wheel) > now + 2 * TICK);
    expect_eq(run_to(now + 2 * TICK), 0);
    expect_eq(run_to(now + 2 * TICK), 1);
    free(n);
}

/* --- many ------------------------------------------------------------------------------------------------------------ */

Test(timer, fires_in_order_of_time)
{
    enum { COUNT = 1000 };
    begin();
    struct numbered *n = make(COUNT);
    for (unsigned i = 0; i < COUNT; i++) {
        unsigned place = i * 7919 % COUNT; /* a permutation: 7919 is a prime */
        set(&n[place], now + (int64_t)(place + 1) * 37 * TICK);
    }
    expect_eq(run_to(now + (COUNT + 1) * 37 * TICK), COUNT); /* one jump over everything */
    for (unsigned i = 0; i < COUNT; i++)
        expect_eq(fired_log[i], i);
    free(n);
}

Test(timer, many_due_at_once_fire_in_shares)
{
    enum { COUNT = 4 * TIMER_FIRES_MAX };
    begin();
    struct numbered *n = make(COUNT);
    for (unsigned i = 0; i < COUNT; i++)
        set(&n[i], now + TICK);
    now += 2 * TICK;
    for (unsigned i = 0; i < 4; i++) {
        expect(timers_are_due(&wheel) || i == 0);
        expect_eq(bf_timers_run(&wheel, now), TIMER_FIRES_MAX);
    }
    expect(!timers_are_due(&wheel));
    expect_eq(fired_count, COUNT);
    free(n);
}

Test(timer, many_from_a_higher_level_go_down_in_shares)
{
    enum { COUNT = 5 * TIMER_MOVES_MAX };
    begin();
    now = 64 * 64 * TICK;
    bf_timers_init(&wheel);
    struct numbered *n = make(COUNT + 2);
    set(&n[COUNT + 1], now + 1); /* puts the wheel's hand here */
    run_to(now + TICK);
    set(&n[COUNT], (64 * 64 + 63) * TICK); /* the last tick before the slot opens */
    for (unsigned i = 0; i < COUNT; i++)
        set(&n[i], (64 * 64 + 64 + 10) * TICK);
    set(&n[COUNT + 1], (64 * 64 + 64 + 5) * TICK);
    fired_count = 0;
    now = (64 * 64 + 64 + 20) * TICK;
    expect_eq(bf_timers_run(&wheel, now), 1);
    expect_eq(fired_log[0], COUNT);
    unsigned turns = 1;
    while (timers_are_due(&wheel)) {
        unsigned fired = bf_timers_run(&wheel, now);
        expect(fired <= TIMER_FIRES_MAX);
        expect(++turns < 100);
    }
    expect_eq(fired_log[1], COUNT + 1); /* still in order, though it was set last */
    expect_eq(fired_count, COUNT + 2);
    expect(turns >= 5 + COUNT / TIMER_FIRES_MAX);
    free(n);
}

Test(timer, dropped_ones_are_not_set_and_do_not_fire)
{
    enum { COUNT = 300 };
    begin();
    struct numbered *n = make(COUNT);
    for (unsigned i = 0; i < COUNT; i++)
        set(&n[i], i < 10 ? 0 : now + (1ll << (i % 62)));
    bf_timers_drop(&wheel);
    expect_eq(wheel.count, 0);
    expect_eq(bf_timers_next_ns(&wheel), INT64_MAX);
    for (unsigned i = 0; i < COUNT; i++)
        expect(!belfry_timer_is_set(&n[i].timer));
    free(n);
    expect_eq(run_to(INT64_MAX), 0);
}

/* --- from inside on_fire ------------------------------------------------------------------------------------------------ */

static struct numbered *others;
static int64_t again_at;

static void set_again(belfry_timer *t, void *user)
{
    note(t, user);
    bf_timers_set(&wheel, t, again_at, now);
}

Test(timer, may_be_set_again_from_its_own_on_fire)
{
    begin();
    struct numbered *n = make(1);
    belfry_timer_init(&n->timer, set_again, n);
    again_at = 0;
    set(n, now);
    now += TICK;
    for (unsigned i = 1; i <= 10; i++) { /* its time is past, and yet it fires once per turn */
        expect_eq(bf_timers_run(&wheel, now), 1);
        expect_eq(n->fired, i);
        expect(timers_are_due(&wheel));
    }
    again_at = now + 100 * TICK;
    expect_eq(bf_timers_run(&wheel, now), 1);
    expect(!timers_are_due(&wheel));
    expect_eq(run_to(now + 99 * TICK), 0);
    now += 2 * TICK;
    expect_eq(bf_timers_run(&wheel, now), 1);
    free(n);
}

static void free_itself(belfry_timer *t, void *user)
{
    note(t, user);
    memset(user, 0xee, sizeof(struct numbered));
    free(user);
}

Test(timer, may_free_itself_in_on_fire)
{
    begin();
    for (unsigned i = 0; i < 3; i++) {
        struct numbered *n = make(1);
        belfry_timer_init(&n->timer, free_itself, n);
        set(n, now + TICK);
    }
    expect_eq(run_to(now + 2 * TICK), 3);
    expect_eq(wheel.count, 0);
}

static void cancel_others(belfry_timer *t, void *user)
{
    note(t, user);
    for (unsigned i = 0; i < 4; i++)
        if (belfry_timer_is_set(&others[i].timer))
            bf_timers_cancel(&wheel, &others[i].timer);
}

Test(timer, may_cancel_its_neighbours_in_on_fire)
{
    for (unsigned which = 0; which < 4; which++) {
        begin();
        others = make(5);
        belfry_timer_init(&others[which].timer, cancel_others, &others[which]);
        for (unsigned i = 0; i < 5; i++)
            set(&others[i], now + TICK);
        expect_eq(run_to(now + 2 * TICK), which + 2); /* those before it, itself, and the fifth */
        expect_eq(fired_log[which], which);
        expect_eq(fired_log[which + 1], 4);
        expect_eq(wheel.count, 0);
        free(others);
    }
}

static void move_other(belfry_timer *t, void *user)
{
    note(t, user);
    set(&others[1], now + 50 * TICK);
}

Test(timer, may_move_a_neighbour_that_is_due)
{
    begin();
    others = make(2);
    belfry_timer_init(&others[0].timer, move_other, &others[0]);
    set(&others[0], now + TICK);
    set(&others[1], now + TICK);
    expect_eq(run_to(now + 2 * TICK), 1);
    expect_eq(run_to(now + 49 * TICK), 0);
    expect_eq(run_to(now + 2 * TICK), 1);
    free(others);
}

/* --- against a model ---------------------------------------------------------------------------------------------------- */

/*
 * What is set, in a plain table. At each step a random timer is set or cancelled, or time goes on, and then exactly
 * those fire whose tick has come, in its order.
 */
Test(timer, does_what_a_table_would_do)
{
    enum { COUNT = 200, STEPS = 100000 };
    struct fixture_random random;
    fixture_seed(&random, "timer");
    begin();
    now = (int64_t)(fixture_next(&random) >> 16); /* any digit may be about to change */
    struct numbered *n = make(COUNT);
    uint64_t ticks[COUNT] = {0}; /* 0: not set */
    for (unsigned step = 0; step < STEPS; step++) {
        struct numbered *one = &n[fixture_next(&random) % COUNT];
        uint64_t what = fixture_next(&random) % 8;
        if (what < 4) {
            int64_t far = (int64_t)(fixture_next(&random) >> (20 + fixture_next(&random) % 40));
            int64_t at = what == 0 ? now - far : now + far;
            set(one, at);
            ticks[one->number] = tick_after(bf_max(at, 1));
        } else if (what < 6) {
            if (belfry_timer_is_set(&one->timer))
                bf_timers_cancel(&wheel, &one->timer);
            ticks[one->number] = 0;
        } else {
            now += (int64_t)(fixture_next(&random) >> (28 + fixture_next(&random) % 36));
            uint64_t reached = (uint64_t)now >> TIMER_TICK_SHIFT, first = UINT64_MAX;
            unsigned due = 0;
            for (unsigned i = 0; i < COUNT; i++) {
                due += ticks[i] != 0 && ticks[i] <= reached;
                first = ticks[i] != 0 && ticks[i] < first ? ticks[i] : first;
            }
            if (first != UINT64_MAX)
                expect(bf_timers_next_ns(&wheel) <= (int64_t)(first << TIMER_TICK_SHIFT));
            fired_count = 0;
            expect_eq(run_to(now), due);
            for (unsigned i = 0; i < due; i++)
                ticks[fired_log[i]] = 0;
            for (unsigned i = 0; i < COUNT; i++)
                expect(ticks[i] == 0 || ticks[i] > reached);
            expect(bf_timers_next_ns(&wheel) > now);
        }
        unsigned is_set = 0;
        for (unsigned i = 0; i < COUNT; i++) {
            expect_eq(belfry_timer_is_set(&n[i].timer), ticks[i] != 0);
            is_set += ticks[i] != 0;
        }
        expect_eq(wheel.count, is_set);
    }
    free(n);
}

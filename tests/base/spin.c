/* SPDX-License-Identifier: MIT */
/*
 * Tests of base/spin.c: when it polls, and when it rests. Whole waits are counted, not nanoseconds: how long a wait polls depends
 * on who else uses the machine.
 */
#include "base/spin.h"

#include "base/os.h"
#include "expect.h"

/* Poll until told to park; gives the number of polls. */
static uint64_t lose(struct bf_spin *s)
{
    uint64_t polls = 0;
    bf_spin_begin(s);
    while (bf_spin_again(s))
        polls++;
    return polls;
}

/* Something comes at the first poll. */
static void win(struct bf_spin *s)
{
    bf_spin_begin(s);
    bf_spin_again(s);
    bf_spin_won(s);
}

static void open_spin(struct bf_spin *s, enum belfry_spin preset)
{
    if (!bf_os_spinning_is_free())
        cr_skip_test("one processor, or a tight quota: polling is off here");
    bf_spin_init(s, preset);
    expect(s->budget_ns > 0);
}

Test(spin, never_polls_when_told_to_save_power)
{
    struct bf_spin s;
    bf_spin_init(&s, BELFRY_SPIN_POWER);
    for (int i = 0; i < 100; i++) {
        expect_eq(lose(&s), 0);
        bf_spin_won(&s);
    }
}

Test(spin, polls_for_a_while_and_then_parks)
{
    struct bf_spin s;
    open_spin(&s, BELFRY_SPIN_BALANCED);
    expect(lose(&s) > 0);
}

/* A budget that shrank with each loss could end below the time between two messages, and would never win again. */
Test(spin, polls_for_its_whole_budget_however_often_it_has_lost)
{
    struct bf_spin s;
    open_spin(&s, BELFRY_SPIN_BALANCED);
    for (int i = 0; i < 1000; i++)
        lose(&s);
    while (s.rest > 0)
        lose(&s);
    int64_t began_ns = bf_os_now_ns();
    expect(lose(&s) > 0);
    expect(bf_os_now_ns() - began_ns >= 50000); /* nothing ends a wait sooner, and nothing here is too late */
}

Test(spin, rests_after_losses_in_a_row_and_longer_each_time)
{
    struct bf_spin s;
    open_spin(&s, BELFRY_SPIN_BALANCED);
    for (int i = 0; i < SPIN_LOSSES_MAX; i++)
        expect(lose(&s) > 0);
    uint32_t rest = SPIN_REST_PARKS_MIN;
    while (rest < SPIN_REST_PARKS_MAX) {
        for (uint32_t i = 0; i < rest; i++)
            expect_eq(lose(&s), 0);
        expect(lose(&s) > 0); /* one more try, lost, too */
        rest *= 2;
    }
    for (int round = 0; round < 3; round++) { /* but never longer than this */
        for (uint32_t i = 0; i < SPIN_REST_PARKS_MAX; i++)
            expect_eq(lose(&s), 0);
        expect(lose(&s) > 0);
    }
}

Test(spin, recovers_when_polling_pays_again)
{
    struct bf_spin s;
    open_spin(&s, BELFRY_SPIN_LATENCY);
    for (int i = 0; i < 1000; i++)
        lose(&s);
    while (s.rest > 0)
        lose(&s);
    win(&s);
    expect_eq(s.losses, 0);
    expect_eq(s.rest_next, SPIN_REST_PARKS_MIN);
    expect(lose(&s) > 0);
    expect(lose(&s) > 0); /* one loss does not end it any more */
}

Test(spin, takes_its_budget_from_the_preset)
{
    struct bf_spin balanced, latency;
    open_spin(&balanced, BELFRY_SPIN_BALANCED);
    open_spin(&latency, BELFRY_SPIN_LATENCY);
    for (int i = 0; i < 100; i++) {
        win(&balanced);
        win(&latency);
    }
    expect_eq(balanced.budget_ns, 50000);
    expect_eq(latency.budget_ns, 1000000);
}

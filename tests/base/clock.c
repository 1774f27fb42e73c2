/* SPDX-License-Identifier: MIT */
/* Tests of base/clock.c: deadlines, and numbers that do not fit. */
#include <belfry/types.h>

#include "expect.h"

Test(clock, does_not_run_backwards)
{
    int64_t last = belfry_now_ns();
    for (int i = 0; i < 100000; i++) {
        int64_t now = belfry_now_ns();
        expect(now >= last);
        last = now;
    }
}

Test(clock, counts_milliseconds_from_now)
{
    int64_t before = belfry_now_ns();
    int64_t deadline = belfry_in_ms(1500);
    int64_t after = belfry_now_ns();
    expect(deadline >= before + 1500000000ll && deadline <= after + 1500000000ll);
    expect(belfry_in_ms(0) >= after);
}

Test(clock, makes_too_far_a_deadline_endless)
{
    expect(belfry_in_ms(INT64_MAX) == BELFRY_FOREVER);
    expect(belfry_in_ms(INT64_MAX / 1000000) == BELFRY_FOREVER);
    expect(belfry_in_ms(INT64_MAX / 1000000 + 1) == BELFRY_FOREVER);
    expect(belfry_in_ms(INT64_MAX / 2000000) < BELFRY_FOREVER);
}

Test(clock, makes_a_deadline_before_all_time_the_past)
{
    expect_eq(belfry_in_ms(INT64_MIN), 0);
    expect_eq(belfry_in_ms(INT64_MIN / 1000000), 0);
    expect(belfry_in_ms(-1) < belfry_now_ns());
    expect(belfry_in_ms(-1) >= 0);
}

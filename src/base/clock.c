/* SPDX-License-Identifier: MIT */
/* clock.c: deadlines for users. Inside belfry the clock is bf_os_now_ns(). */
#include <belfry/types.h>

#include "base/os.h"

#define NS_PER_MS 1000000

int64_t belfry_now_ns(void)
{
    return bf_os_now_ns();
}

int64_t belfry_in_ms(int64_t milliseconds)
{
    int64_t deadline;
    if (__builtin_mul_overflow(milliseconds, NS_PER_MS, &deadline) ||
        __builtin_add_overflow(deadline, bf_os_now_ns(), &deadline))
        return milliseconds < 0 ? 0 : BELFRY_FOREVER;
    return deadline < 0 ? 0 : deadline;
}

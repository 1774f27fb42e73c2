/* SPDX-License-Identifier: MIT */
/*
 * cycles.h: the processor's own clock, for what is measured all the time. It costs a third of bf_os_now_ns() and says
 * nothing about how long one of its ticks is; server/pace.c finds out by comparing.
 */
#ifndef BF_BASE_CYCLES_H
#define BF_BASE_CYCLES_H

#include <stdint.h>

#include "base/os.h"

static inline uint64_t cpu_cycles(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t count;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(count));
    return count;
#else
    return (uint64_t)bf_os_now_ns();
#endif
}

#endif

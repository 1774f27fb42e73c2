/* SPDX-License-Identifier: MIT */
/* cycles.h: the simulated processor's own clock is the simulated clock. */
#ifndef BF_BASE_CYCLES_H
#define BF_BASE_CYCLES_H

#include <stdint.h>

#include "base/os.h"

static inline uint64_t cpu_cycles(void)
{
    return (uint64_t)bf_os_now_ns() * 3;
}

#endif

/* SPDX-License-Identifier: MIT */
/* ticks.c: see ticks.h. */
#include "ticks.h"

#define CALIBRATE_NS 20000000

double ticks_ns = 1;

void ticks_calibrate(void)
{
    int64_t began_ns = clock_ns(), now_ns;
    uint64_t began = ticks_now();
    do
        now_ns = clock_ns();
    while (now_ns - began_ns < CALIBRATE_NS);
    ticks_ns = (double)(now_ns - began_ns) / (double)(ticks_now() - began);
}

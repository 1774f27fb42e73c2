/* SPDX-License-Identifier: MIT */
/* about.h: where and when a run took place, in words, since figures without that mean nothing. */
#ifndef BENCH_ABOUT_H
#define BENCH_ABOUT_H

#include <stdint.h>

struct about {
    char processor[128];
    char kernel[192];
    char date[32]; /* UTC */
    uint32_t cores;
};

struct about about_now(void);

#endif

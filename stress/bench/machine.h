/* SPDX-License-Identifier: MIT */
/*
 * machine.h: what the machine itself can do, measured in the same run: nothing can be faster.
 *
 * Each runs between this process and a child of its own, pinned to the given cores (-1: not pinned), and adds one sample
 * in nanoseconds per round trip.
 */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include <stdbool.h>

#include "../histogram.h"

/* One cache line, spinning: a word goes to the other core and comes back in the same line. */
void limit_line(int core, int other, double seconds, struct histogram *h);

/* One word and a futex on each side, sleeping every time. */
void limit_futex(int core, int other, double seconds, struct histogram *h);

/* Two fixed buffers and a flag each, spinning: write `bytes`, the other side copies them back, compare them. */
void limit_memory(int core, int other, uint32_t bytes, double seconds, struct histogram *h);

/*
 * What no new connection over fresh shared memory can be without: each side maps two files of two pages, uses every page
 * and unmaps them, both at the same time. Where a hypervisor shadows the page tables this is most of a connect.
 */
void limit_mapping(int core, int other, double seconds, struct histogram *h);

/* Blocks of `bytes` into a buffer of `span` bytes, over and over, by one core: blocks per second. */
double limit_memcpy(int core, uint32_t bytes, uint32_t span, double seconds);

/* The same into a buffer that the other core reads and compares, as far ahead as the span allows: blocks per second. */
double limit_handover(int core, int other, uint32_t bytes, uint32_t span, double seconds);

#endif

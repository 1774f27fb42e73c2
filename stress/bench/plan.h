/* SPDX-License-Identifier: MIT */
/*
 * plan.h: runs the cases that were asked for, each with every system that can do it, and makes rows of it.
 *
 * The systems of a case are measured in turns: A B C, A B C, ...; a row is the median over the rounds of one system in
 * one case. Beside each measurement the one-line ping-pong is measured for some milliseconds, since a virtual machine
 * may change from one second to the next.
 */
#ifndef BENCH_PLAN_H
#define BENCH_PLAN_H

#include "options.h"
#include "rows.h"
#include "system.h"

/* Was that asked for? */
bool plan_wants_case(const struct options *o, const struct bench_case *c);
bool plan_wants_system(const struct options *o, const char *name);

/* Run it all. `done` is called with the rows of each case as soon as there are any. False: a system failed, after
   sentences that say which and why; the rows of all others are there. */
bool plan_run(const struct options *o, struct bench_rows *rows,
              void (*done)(const struct bench_row *first, uint32_t count));

/* Run each system once per workload that moves payloads, with one message spoiled. True: each of them noticed. */
bool plan_corrupt(const struct options *o);

#endif

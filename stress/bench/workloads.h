/* SPDX-License-Identifier: MIT */
/*
 * workloads.h: what the clients of a run do. Each is a body for lab_run().
 */
#ifndef BENCH_WORKLOADS_H
#define BENCH_WORKLOADS_H

#include "lab.h"

/* One request at a time on one connection per process; with lab->rate at fixed times, and latency counts from them. */
void body_pingpong(struct lab *lab, uint32_t process, struct lab_client *out);

/* setup.connections connections in one process, one request in flight on each. */
void body_many(struct lab *lab, uint32_t process, struct lab_client *out);

/* One way, as fast as they are taken; ends when the server has checked the last. */
void body_stream(struct lab *lab, uint32_t process, struct lab_client *out);

/* Connect, get one reply, leave, again and again; rtt_ns is the time until the first reply. */
void body_connect(struct lab *lab, uint32_t process, struct lab_client *out);

/* Connect all, have each say one thing, then be silent for as long as lab->look looks. */
void body_silent(struct lab *lab, uint32_t process, struct lab_client *out);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * neighbour.h: a connection that is measured while another process is a nuisance: bodies for lab_run() with two client
 * processes.
 *
 * Client process 0 is the one that is measured, by body_pingpong(); client process 1 is the nuisance, and lasts as long.
 * Both share a core, since the server needs one for itself on a machine with two. What sharing costs shows with the
 * burner, who never talks to the server; what the others cost beyond that is the server's doing.
 */
#ifndef BENCH_NEIGHBOUR_H
#define BENCH_NEIGHBOUR_H

#include "cases.h"
#include "lab.h"

#define NEIGHBOUR_VICTIM 0
#define NEIGHBOUR_NUISANCE 1

/* The body for each kind of nuisance; with lab->rate the victim's requests come at that rate. */
void (*neighbour_body(enum beside beside))(struct lab *lab, uint32_t process, struct lab_client *out);

#endif

/* SPDX-License-Identifier: MIT */
/* people.h: clients that mean well: the victim, a guest who comes and goes, and many who say something now and then. */
#ifndef OVERLOAD_PEOPLE_H
#define OVERLOAD_PEOPLE_H

#include "stage.h"

#define PEOPLE_CALL_BYTES 64u
#define PEOPLE_CROWD_PACE_MS 20

/* Calls without a pause. Any failure is wrong. */
int people_victim(struct stage *s, const struct plan *p, uint32_t unused);

/* Connects, calls once, leaves; some hundred times a second at most. */
int people_guest(struct stage *s, const struct plan *p, uint32_t unused);

/*
 * One process of the crowd, with several conns: asks on all of them, then reads all answers, every PEOPLE_CROWD_PACE_MS. The
 * first half of the processes does so when the victim is alone, too, and the other half from STIR on.
 */
int people_crowd(struct stage *s, const struct plan *p, uint32_t index);

/* Conns that are silent until they are killed. */
int people_silent(struct stage *s, const struct plan *p, uint32_t index);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * attack.h: what clients do that mean no good, or are written badly.
 *
 * Each goes as fast as it can; none stops by itself. In the situation BESIDE the same processes are as busy with nothing.
 */
#ifndef OVERLOAD_ATTACK_H
#define OVERLOAD_ATTACK_H

#include "stage.h"

extern const struct attack attack_one_way;   /* one-way messages without end */
extern const struct attack attack_unread;    /* requests, and no reply is read */
extern const struct attack attack_large;     /* one-way messages of a mebibyte */
extern const struct attack attack_rings;     /* the doorbell, and nothing behind it */
extern const struct attack attack_slow;      /* asks to be pushed to, and never reads */
extern const struct attack attack_half_open; /* lock files, made and locked; then nothing */
extern const struct attack attack_slots;     /* lock files for every slot there is, again and again */
extern const struct attack attack_connects;  /* connects and leaves */
extern const struct attack attack_junk;      /* names that are no slot's */
extern const struct attack attack_touches;   /* opens and closes its own lock file */
extern const struct attack attack_bytes;     /* large messages that never become whole, and more of them */

/* One process of them: with `p->conns` conns, if the attack wants some. */
int attack_actor(struct stage *s, const struct plan *p, uint32_t index);

#endif

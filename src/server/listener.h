/* SPDX-License-Identifier: MIT */
/*
 * listener.h: who came, who went. A shard's accept().
 *
 * An event marks a slot dirty; a dirty slot is looked at (claim.h), and what is found there decides: a claim begins, a
 * conn is accepted, a conn ends. A conn whose client has died first handles what it left in its ring.
 */
#ifndef BF_SERVER_LISTENER_H
#define BF_SERVER_LISTENER_H

#include "server/shard.h"

#define EMPTY_RINGS_MAX 16 /* in a row; then the slot is looked at by the clock */

/* Something happened to this name in the lock directory; `closed`: perhaps its owner is gone. */
void bf_listener_event(struct bf_shard *shard, const char *name, bool closed);

/* Look at a few dirty slots. True: there was something to do. */
bool bf_listener_work(struct bf_shard *shard);

/* Put the slots that are due for another look among the dirty; returns when the next one is due, INT64_MAX: never. */
int64_t bf_listener_tick(struct bf_shard *shard, int64_t now_ns);

/* When junk in the lock directory is to be removed; INT64_MAX: there is none that we know of. */
int64_t bf_listener_weeds_at(const struct bf_shard *shard);

/* Look at the slot again after so long. */
void bf_listener_look_after(struct bf_shard *shard, struct bf_slot *slot, int64_t after_ns);

/* A claimed slot's doorbell was rung: is hello there? Not at once when it has rung for nothing too often. */
void bf_listener_rung(struct bf_shard *shard, struct bf_slot *slot);

/* Look at the slot's lock file now, and do what the facts ask for. */
void bf_listener_look(struct bf_shard *shard, struct bf_slot *slot);

/* End a conn now: on_disconnect, tell the client, recycle. */
void bf_listener_end(struct bf_shard *shard, struct bf_slot *slot, enum belfry_end why);

/* Give up a claim that is no conn yet. `status`: what on_connect said. */
void bf_listener_refuse(struct bf_shard *shard, struct bf_slot *slot, enum belfry_end why, int status);

/* The wait of an ENDING slot is over. */
void bf_listener_ended(struct bf_shard *shard, struct bf_slot *slot);

/* End every conn and refuse every claim. */
void bf_listener_end_all(struct bf_shard *shard, enum belfry_end why);

#endif

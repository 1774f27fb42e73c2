/* SPDX-License-Identifier: MIT */
/* io.h: the user's own operations on a shard's uring (belfry/uring.h), as the turn sees them. See io.c. */
#ifndef BF_SERVER_IO_H
#define BF_SERVER_IO_H

#include "server/shard.h"

/* A completion of one: call its on_done. */
void bf_io_done(struct bf_shard *shard, const struct bf_event *event);

/* The shard is stopping and some are in flight: cancel them, again now and then until none is. */
void bf_io_stop(struct bf_shard *shard);

#endif

/* SPDX-License-Identifier: MIT */
/* io.h: the user's own operations on a shard's uring (belfry/uring.h), as the turn sees them. See io.c. */
#ifndef BF_SERVER_IO_H
#define BF_SERVER_IO_H

#include <belfry/uring.h>

#include "server/shard.h"

/* A completion of one: call its on_done. */
void bf_io_done(struct bf_shard *shard, const struct bf_event *event);

/* An operation of our own, that was initialised: as bf_reactor_populate(). It is cancelled by a stop as others are. */
void bf_io_populate(struct bf_shard *shard, belfry_io *io, void *at, size_t bytes);

/* The shard is stopping and some are in flight: cancel them, again now and then until none is. */
void bf_io_stop(struct bf_shard *shard);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * host.h: the server's process. It answers requests with what they say, and does what one-way messages ask: nothing, or to
 * push to their sender, more than any client could read, until its conn is over.
 */
#ifndef OVERLOAD_HOST_H
#define OVERLOAD_HOST_H

#include "stage.h"

enum { HOST_IGNORE = 'i', HOST_FEED = 'f' };

#define HOST_OUTBOX_BYTES (256u << 10)
#define HOST_MESSAGE_BYTES (16u << 20)
#define HOST_WHOLE_BYTES (256ull << 20)
#define HOST_UID_BYTES (128ull << 20)

int host_serve(struct stage *s, const struct plan *p, uint32_t unused);

#endif

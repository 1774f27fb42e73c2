/* SPDX-License-Identifier: MIT */
/*
 * message.h: what a message of the load generator looks like.
 *
 *     offset  bytes
 *     0       4      checksum of everything that follows and of the length
 *     4       4      number of the connection
 *     8       8      sequence number on that connection
 *     16      ...    a stretch of a random pattern that starts elsewhere for each sequence number
 *
 * The server proves the checksum of what it got before it echoes it; the client knows in addition which number,
 * sequence, length and checksum it must see again, which also finds an old, torn, swapped or foreign reply.
 */
#ifndef STRESS_MESSAGE_H
#define STRESS_MESSAGE_H

#include "sizes.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct message_header {
    uint32_t checksum;
    uint32_t number;
    uint64_t sequence;
};

_Static_assert(sizeof(struct message_header) == SIZES_BYTES_MIN, "the smallest message is a header");

/* What the sender remembers of a message on its way. */
struct message_mark {
    uint64_t sequence;
    uint32_t number;
    uint32_t bytes;
    uint32_t checksum;
};

/* The pattern that payloads are cut from. Made once, before the forks; read-only afterwards. False: no memory. */
bool message_pattern_create(uint32_t bytes_max, uint64_t seed);

/* Write a message of `bytes` into `buffer` (aligned to 8) and note in *mark what its reply must be. */
void message_build(void *buffer, uint32_t bytes, uint32_t number, uint64_t sequence, struct message_mark *mark);

/* Is this a whole message? What a server can say of a request. */
bool message_is_sound(const void *data, size_t bytes);

/* Is this exactly the message that was marked? */
bool message_is_marked(const void *data, size_t bytes, const struct message_mark *mark);

#endif

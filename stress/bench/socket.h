/* SPDX-License-Identifier: MIT */
/*
 * socket.h: AF_UNIX stream sockets, as every system that sits on them uses them: addresses, listening, and the framing
 * of messages, which is a 4-byte length in front of each.
 */
#ifndef BENCH_SOCKET_H
#define BENCH_SOCKET_H

#include "system.h"

#define SOCKET_INPUT_BYTES (4u + PAYLOAD_BYTES_MAX)

/* One connection's input: bytes as they come, messages as they went. */
struct socket_input {
    uint8_t *buffer; /* SOCKET_INPUT_BYTES + what a read may bring beyond */
    uint32_t capacity;
    uint32_t first; /* of what is not yet handed out */
    uint32_t last;
};

int socket_listen(const struct bench_setup *setup);
int socket_connect(const struct bench_setup *setup);
void socket_non_blocking(int fd);

void socket_input_init(struct socket_input *in, uint32_t bytes_max);

/* Where the next bytes may be put, and how many. */
uint8_t *socket_input_room(struct socket_input *in, uint32_t *bytes);

/* A whole message, or NULL: read more. Valid until more is read. */
const void *socket_input_next(struct socket_input *in, uint32_t *bytes);

/* Write all of it; a non-blocking socket is waited for. */
void socket_write(int fd, const void *data, uint32_t bytes);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * system_unix_epoll.h: the client of system_unix_epoll.c, for every server that speaks the frames of socket.h. What a
 * client in another language cannot do, a thousand processes for one, is done to its server by this one.
 */
#ifndef BENCH_SYSTEM_UNIX_EPOLL_H
#define BENCH_SYSTEM_UNIX_EPOLL_H

#include "system.h"

struct bench_client *unix_epoll_open(const struct bench_setup *setup, uint32_t first, uint32_t count);
void *unix_epoll_reserve(struct bench_client *client, uint32_t index, uint32_t bytes);
void unix_epoll_commit(struct bench_client *client, uint32_t index, uint32_t bytes);
const void *unix_epoll_receive(struct bench_client *client, uint32_t *index, uint32_t *bytes);
void unix_epoll_release(struct bench_client *client, uint32_t index);
void unix_epoll_close(struct bench_client *client);

#endif

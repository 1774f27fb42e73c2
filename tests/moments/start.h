/* SPDX-License-Identifier: MIT */
/*
 * start.h: starting servers, where they die by the hundred.
 *
 * A dead server's inotify instance is free when the kernel has taken its uring apart, some milliseconds after its death; and a
 * user has 128 of them. So a start waits until there are some, for us and for others.
 */
#ifndef BF_TESTS_START_H
#define BF_TESTS_START_H

#include "server_fixture.h"

#define START_TRIES 1000

bool start_has_room(void);

/* As server_fixture_start(). */
void start_patiently(struct server_fixture *f);

#endif

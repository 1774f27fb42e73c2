/* SPDX-License-Identifier: MIT */
/*
 * hostile.h: a server of one user and clients of others, some of which mean no good. Only root can play them all: the
 * tests are skipped elsewhere.
 */
#ifndef BF_TESTS_HOSTILE_H
#define BF_TESTS_HOSTILE_H

#include <stdint.h>
#include <sys/types.h>

#include "house.h"

/* Nobody's numbers. Each has a group of its own. */
enum { SERVER = 61001, ALICE = 61002, BOB = 61003, MALLORY = 61004, GUESTS = 61100 };

/* The house of SERVER, open to everyone; its options may be changed before house_start(). Skips the test if not root. */
void hostile_init(struct house *house);
void hostile_start(struct house *house); /* with the options as they are */

/* The server stops with exit status 0 (no sanitizer had anything to say), and has left nothing behind. */
void hostile_end(struct house *house);

void hostile_kill(pid_t pid); /* by SIGKILL, and wait */

/* A number, once, from one process to another. */
struct hostile_word {
    uint32_t value; /* 0: not yet */
};
struct hostile_word *hostile_word(void);
void hostile_say(struct hostile_word *word, uint32_t value);
uint32_t hostile_hear(struct hostile_word *word); /* asserts that it comes */

#endif

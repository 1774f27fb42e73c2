/* SPDX-License-Identifier: MIT */
/*
 * hostile.h: a server of one user and clients of others, some of which mean no good. Only root can play them all: the
 * tests are skipped elsewhere.
 */
#ifndef BF_TESTS_HOSTILE_H
#define BF_TESTS_HOSTILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "house.h"

/* Nobody's numbers. Each has a group of its own. */
enum { SERVER = 61001, ALICE = 61002, BOB = 61003, MALLORY = 61004, GUESTS = 61100 };

/* The house of SERVER, open to everyone; its options may be changed before house_start(). Skips the test if not root. */
void hostile_init(struct house *house);
void hostile_start(struct house *house); /* with the options as they are */

/* A tmpfs of its own for the house's root, with these options ("size=3m"), before house_start(). This process and its children
   alone see it, so that nothing is left when they end. Skips the test where that may not be. */
void hostile_mount(struct house *house, const char *options);

/* A server, for house_process_as(): runs until SIGTERM, or until it has been replaced; exits with 0 then. */
int hostile_serve(struct house *house, void *argument);

/* The server stops with exit status 0 (no sanitizer had anything to say), and has left nothing behind. No wake had to be
   rescued; or perhaps one had: of a client that was stopped between its commit and its ring. */
void hostile_end(struct house *house);
void hostile_end_all_the_same(struct house *house);

void hostile_pause(const struct house *house); /* until SIGCONT the server does nothing */

void hostile_kill(pid_t pid); /* by SIGKILL, and wait */

/* The same call, again and again, from a client that means well, as that user; its pid. hostile_calls() says how many there
   were; hostile_served() asserts that so many more come, each within 20 s, and hostile_leave() that none failed. */
struct hostile_guest {
    pid_t pid;
    struct hostile_word *calls; /* + 1 */
};
struct hostile_guest hostile_guest(struct house *house, uint32_t uid);
void hostile_served(const struct hostile_guest *guest, uint32_t calls);
void hostile_leave(struct hostile_guest *guest);

/* Connect and call as that user; asserts that all goes well. */
void hostile_visit(struct house *house, uint32_t uid);

/* For house_process_as(): exits with 0 when connecting fails with the code that `argument` points to. */
int hostile_is_told(struct house *house, void *argument);

/* "<root>/house/current/" and the rest; of a slot its lock file. */
#define HOSTILE_PATH_BYTES 256
void hostile_path(const struct house *house, char path[HOSTILE_PATH_BYTES], const char *rest);
void hostile_lock_path(const struct house *house, char path[HOSTILE_PATH_BYTES], uint32_t slot);

/* What a client does step by step, without the library: make the lock file, say hello in it, lock it. The descriptor, or
   -errno. */
int hostile_make_lock(const struct house *house, uint32_t slot);
int hostile_claim(const struct house *house, uint32_t slot, uint32_t version, uint32_t pid);

/* In a client's process: attached and answered once, or it exits with 90. */
belfry_client *hostile_attach(struct house *house);

/* Rings for whatever has been written to `_send` by hand. */
void hostile_ring(belfry_client *c);

/* Look until it is true, for at most 20 s. */
#define hostile_wait(condition)                                      \
    ({                                                               \
        bool holds_;                                                 \
        int64_t until_ = SECONDS(20);                                \
        while (!(holds_ = (condition)) && belfry_now_ns() < until_)  \
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); \
        holds_;                                                      \
    })

/* Sets a limit of the kernel's, and gives the old value; "" when it may not. */
void hostile_set_limit(const char *path, const char *value, char before[32]);

/* A number, once, from one process to another. */
struct hostile_word {
    uint32_t value; /* 0: not yet */
};
struct hostile_word *hostile_word(void);
void hostile_say(struct hostile_word *word, uint32_t value);
uint32_t hostile_hear(struct hostile_word *word); /* asserts that it comes */

#endif

/* SPDX-License-Identifier: MIT */
/*
 * moments.h: a process that dies at a given moment.
 *
 * What a process does becomes visible to others by two things only: a store into memory that it shares, and a system call.
 * Just before each of them is a moment. Who dies at the first, the second, ... and the last of them, and after the
 * last, has died at every instruction, as far as anybody else can tell: after one store is before the next.
 *
 * Nothing in src/ knows of this. Its sources are compiled once more as for ThreadSanitizer, which puts a call before each
 * store and in place of each atomic operation, so none can be forgotten; the functions that are called are ours (stores.c).
 * Calls out of the library are wrapped by the linker (calls.c), and tests/moments/complete looks that all are.
 */
#ifndef BF_TESTS_MOMENTS_H
#define BF_TESTS_MOMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MOMENTS_PLACES 1024u
#define MOMENTS_WHY_BYTES 256

struct moments_place {
    uintptr_t at; /* where in the program; 0: none */
    uint32_t reached;
    uint32_t killed;
    uint32_t tries; /* to die there */
};

/* In memory that a dead child leaves to its parent. */
struct moments_report {
    uint64_t passed; /* moments since the arming */
    uint64_t fatal;  /* the one to die at; 0: none */
    uintptr_t place; /* or where; 0: nowhere */
    int64_t died_ns; /* when; 0: it did not */
    struct moments_place places[MOMENTS_PLACES];
};

extern struct moments_report *moments;

/* Once, before any child is forked. */
void moments_open(void);

/* From here on this process counts, and dies at moment `fatal`, counted from 1 (0: at none), or at moments->place. Not any
   more. */
void moments_arm(uint64_t fatal);
void moments_disarm(void);

/* Places in the program that were reached, and at which somebody has died, since moments_open(). */
void moments_places(unsigned *reached, unsigned *killed);

/* One that was reached and where nobody has died, although this says so for the n-th time with n <= `tries`. 0: none. */
uintptr_t moments_place_without_death(unsigned tries);

/*
 * The other way round: what if a word changes just before one of the loads of it? `act` is called then, on the thread that
 * is about to load that word for the n-th time from now on, counted from 1. Once; one word at a time.
 */
void moments_before_load(const volatile void *word, unsigned nth, void (*act)(void *argument), void *argument);

/* --- for stores.c and calls.c --- */

void moments_loading(const volatile void *word);

/* A moment, at that place in the program. */
void moment(const void *place);

/* Is that address in a file that is mapped writable and shared? Also asks whether anybody counts. */
bool moments_see(const volatile void *address);

/* A map was made, or taken back. */
void moments_mapped(const void *at, size_t bytes);
void moments_unmapped(const void *at, size_t bytes);

#define MOMENT() moment(__builtin_return_address(0))

#endif

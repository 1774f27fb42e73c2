/* SPDX-License-Identifier: MIT */
/*
 * loads.h: every load that the library makes of a peer's memory, seen just before it happens.
 *
 * The library is compiled with -fsanitize-coverage=edge,trace-loads, which puts a call before each load that is left after
 * the optimiser; copies are calls of memcpy, which the linker hands to us. So between any two loads the bytes can become
 * others, as they can under a real peer, and nothing else that a peer does can be seen by the reader.
 *
 * Of an entry in a ring no byte may be loaded twice: the first load was checked, and the second is used unchecked. What
 * the library does all the same, on purpose, stands in a table in loads.c, and in docs/FUZZING.md.
 */
#ifndef BF_TESTS_LOADS_H
#define BF_TESTS_LOADS_H

#include "feed.h"
#include "shm/ring.h"

/* The peer's memory: any of it may change. At most LOADS_AREAS at a time. */
#define LOADS_AREAS 4
void loads_open(void *at, size_t bytes);

/* A ring in it, and how far it has been read: its entries are looked at. */
void loads_watch(const struct ring_consumer_local *in);

/* From where the new bytes come. Also forgets all areas and rings. */
void loads_begin(const struct feed *spoils);

/* A call into the library begins: what it had loaded for an earlier one, it may look at again. It is over. */
void loads_turn(void);
void loads_rest(void);

/* Between these two the test itself reads. */
void loads_pause(void);
void loads_resume(void);

/* How many loads of the areas there were since loads_begin(), and how many of them found other bytes. */
struct loads_counts {
    uint64_t loads;
    uint64_t spoiled;
};
struct loads_counts loads_counts(void);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * life.h: what clients say in the tests of moments, and a server that notices when it is not what they said.
 *
 * A life is all that one client says; its messages are numbered from 1. Each carries its life, its number, its length and a
 * sum over all of it. Whoever gets one can tell that it is whole; the server also that it is the next, and no other.
 */
#ifndef BF_TESTS_LIFE_H
#define BF_TESTS_LIFE_H

#include <belfry/belfry.h>

#define LIVES_MAX 65536u
#define LIFE_SLOTS_MAX 64u
#define LIFE_BYTES_MAX 16384u

/* What the client wants of the server. */
enum life_wish {
    LIFE_SAY,   /* nothing: a one-way message */
    LIFE_ECHO,  /* the same back */
    LIFE_PUSH,  /* a push, and then an echo */
    LIFE_MORE,  /* LIFE_MORE_COUNT replies, more than the ring takes, and then an echo */
    LIFE_LARGE, /* a reply of LIFE_LARGE_BYTES, in parts */
    LIFE_HOLD,  /* no answer until it is cancelled, or the client is gone */
    LIFE_ARM,   /* an echo; the server's process dies at moment `bytes` from here */
};

#define LIFE_MORE_COUNT 6u
#define LIFE_MORE_BYTES 900u
#define LIFE_LARGE_BYTES 12000u

/* Write a message of `bytes` to `at`, which is aligned to 8. */
#define LIFE_BYTES_MIN 32u
void life_write(void *at, uint64_t life, uint32_t number, enum life_wish wish, size_t bytes);

struct life_word {
    uint64_t life;
    uint32_t number;
    uint32_t wish;
    uint64_t bytes;
    uint64_t sum;
};

/* Is it one, and whole? Copies its head to *word. */
bool life_read(const void *data, size_t bytes, struct life_word *word);

struct life_slot {
    belfry_conn_id last; /* of its last conn, + 1 */
    bool open;
};

/* What the server heard; in memory that processes share. */
struct life_witness {
    uint32_t torn;
    uint32_t disordered; /* not the next of its life */
    uint32_t alternated; /* on_connect or on_disconnect twice in a row for one slot */
    uint32_t reused;     /* an id that an earlier conn had */
    uint32_t opened;
    uint32_t closed;
    uint32_t heard[LIVES_MAX]; /* messages of that life */
    struct life_slot slot[2][LIFE_SLOTS_MAX];
};

struct life_witness *life_witness_new(void);

/* Violations so far, and a sentence about the first kind of them; NULL: there are none. */
const char *life_violation(const struct life_witness *w);

/* The callbacks of a server whose `user` is a witness. */
void life_serve(belfry_server_options *o, struct life_witness *w);

#endif

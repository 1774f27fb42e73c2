/* SPDX-License-Identifier: MIT */
/*
 * faults.h: the n-th call that can fail does.
 *
 * Whatever the library asks of libc, liburing or its allocator is wrapped by the linker (calls.c), with the errors that are
 * documented for it; tests/faults/complete looks that none is forgotten. A process does something (an act) and one call of
 * it fails: the first, the second, ..., the last, each with each of its errors; once, or that function from then on. What
 * must hold afterwards is the act's to say (scene.h).
 *
 * Only calls of threads that are marked count, and of the threads that these make: those of the server, or of the client.
 */
#ifndef BF_TESTS_FAULTS_H
#define BF_TESTS_FAULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fixture.h"

#define FAULTS_CALLS_MAX 8192u
#define FAULTS_ERRORS_MAX 6u
#define FAULTS_WHY_BYTES 512

enum faults_mode {
    FAULTS_ONCE,
    FAULTS_LASTING, /* until the act is over */
    FAULTS_TO_END,  /* until the server has stopped */
    FAULTS_MODES
};

/* What one process is to do, and what it did; in memory that it leaves to its parent. */
struct faults_report {
    uint32_t fatal; /* the call that is to fail, counted from 1; 0: none */
    uint32_t error; /* which of its errors */
    enum faults_mode mode;

    uint32_t passed;                  /* calls that can fail, since the arming */
    uint8_t errors[FAULTS_CALLS_MAX]; /* how many each of them has */
    const char *name;                 /* of the one that failed; NULL: none did */
    int error_number;
    uint32_t times;
    char stage[64];
    char why[FAULTS_WHY_BYTES]; /* what does not hold; "": all does */
    char root[FIXTURE_PATH_BYTES];
};

/*
 * Let processes run `act`, one for each failure, and assert that each ended with 0 and in time; before that, some in which
 * none fails, which say what calls there are. A process that comes to its end before it has met its failure is followed by
 * another, a few times; and of the failures of calls that all of those made, half must be met (80 to 100 % are). With
 * BELFRY_FAULTS_EVERY=1 all failures there are, else every eighth of them from a printed seed.
 */
void faults_each(const char *name, void (*act)(void *context), void *context);

/* --- in such a process --- */

extern struct faults_report *faults;

void faults_arm(void);
void faults_disarm(void);

/* The calling thread counts, while it does this. */
#define faulty(call)                     \
    ({                                   \
        faults_mark(true);               \
        __typeof__(call) result_ = call; \
        faults_mark(false);              \
        result_;                         \
    })
#define faulty_void(call)   \
    do {                    \
        faults_mark(true);  \
        call;               \
        faults_mark(false); \
    } while (0)
void faults_mark(bool counts);

/* What it is doing, for whoever finds it hanging; and what must hold, or it ends. */
void faults_stage(const char *stage);
void faults_wrong(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* What the library has and has not given back: blocks of memory, bytes of addresses. */
int64_t faults_blocks(void);
int64_t faults_mapped_bytes(void);

/* --- for calls.c --- */

/* The error that this call has now, of those it can have (the last is 0). 0: none. */
int faults_next(const char *name, const int *errors);
void faults_block(int change);
void faults_map(int64_t bytes);
bool faults_marked(void);

#endif

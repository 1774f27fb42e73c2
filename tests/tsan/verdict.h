/* SPDX-License-Identifier: MIT */
/*
 * verdict.h: how the stress programs of this directory say what they found: a line for each failure, then the sum.
 *
 * They are made for ThreadSanitizer, under which Criterion aborts, so they are programs of their own. What the sanitizer
 * finds is counted by tests/support/run-test, from its log.
 */
#ifndef BF_TESTS_VERDICT_H
#define BF_TESTS_VERDICT_H

#include <stdio.h>

struct verdict {
    unsigned passed, failed;
};

/* On one thread. */
#define verdict_on(v, condition, ...)       \
    do {                                    \
        if (condition) {                    \
            (v)->passed++;                  \
        } else {                            \
            (v)->failed++;                  \
            printf("failed: " __VA_ARGS__); \
            printf("\n");                   \
        }                                   \
    } while (0)

/* The closing line; gives the exit status. */
static inline int verdict_close(const struct verdict *v)
{
    printf("%u passed, %u failed\n", v->passed, v->failed);
    return v->failed > 0;
}

#endif

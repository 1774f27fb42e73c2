/* SPDX-License-Identifier: MIT */
/*
 * expect.h: what a test demands. Each says what was found and what was wanted; none costs anything while it holds, so
 * they may stand in loops of a million steps. On the test's own thread only.
 */
#ifndef BF_TESTS_EXPECT_H
#define BF_TESTS_EXPECT_H

#include <criterion/criterion.h>

#include <inttypes.h>
#include <string.h>

/* The trap is never reached; it tells the compiler that nothing follows. */
#define expect_failed(...)           \
    do {                             \
        cr_assert_fail(__VA_ARGS__); \
        __builtin_trap();            \
    } while (0)

#define expect(condition)                                          \
    do {                                                           \
        if (!(condition))                                          \
            expect_failed("it does not hold that %s", #condition); \
    } while (0)

/* Two integers, whatever their types. */
#define expect_eq(actual, wanted)                                                              \
    do {                                                                                       \
        long long actual_ = (long long)(actual), wanted_ = (long long)(wanted);                \
        if (actual_ != wanted_)                                                                \
            expect_failed("%s is %lld and not %s (%lld)", #actual, actual_, #wanted, wanted_); \
    } while (0)

#define expect_text(actual, wanted)                                                          \
    do {                                                                                     \
        const char *actual_text = (actual), *wanted_text = (wanted);                         \
        if (strcmp(actual_text, wanted_text) != 0)                                           \
            expect_failed("%s is \"%s\" and not \"%s\"", #actual, actual_text, wanted_text); \
    } while (0)

/* The text contains a part. */
#define expect_in(text, part)                                                       \
    do {                                                                            \
        const char *whole_text = (text), *part_text = (part);                       \
        if (strstr(whole_text, part_text) == NULL)                                  \
            expect_failed("\"%s\" does not contain \"%s\"", whole_text, part_text); \
    } while (0)

/* The code of a library call; on failure also what the library said about it. */
#define expect_rc(call, wanted)                                                                                   \
    do {                                                                                                          \
        int rc_ = (call), wanted_rc = (wanted);                                                                   \
        if (rc_ != wanted_rc)                                                                                     \
            expect_failed("%s gave %d and not %s (%d): %s", #call, rc_, #wanted, wanted_rc, belfry_last_error()); \
    } while (0)

#endif

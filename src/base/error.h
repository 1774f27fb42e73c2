/* SPDX-License-Identifier: MIT */
/*
 * error.h: one sentence per thread about what failed last, to whom, and what to do.
 *
 * The function that knows the names and numbers calls bf_error() and returns its result; callers above pass the code
 * on and add nothing.
 */
#ifndef BF_BASE_ERROR_H
#define BF_BASE_ERROR_H

#include <belfry/types.h>

/* Set this thread's sentence and return `rc`. */
int bf_error(int rc, const char *format, ...) __attribute__((format(printf, 2, 3), cold));

/*
 * The same for a negative errno, with its words appended: "...: Permission denied". Where belfry has a code of its own
 * that names the remedy (descriptors, space), that code is returned in its place.
 */
int bf_error_errno(int rc, const char *format, ...) __attribute__((format(printf, 2, 3), cold));

/* The system's code, or ours where it says more. */
int bf_error_code(int rc);

/* Append to this thread's sentence, for a caller that knows the remedy. */
void bf_error_append(const char *format, ...) __attribute__((format(printf, 1, 2), cold));

#endif

/* SPDX-License-Identifier: MIT */
/*
 * check.h: the two macros that keep our mistakes and the peer's apart.
 *
 * INVARIANT is about our own state: when it does not hold, nothing that follows can be trusted, so the process ends
 * loudly. PEER_CHECK is about what came out of shared memory: when it does not hold, that one conn ends with a code.
 * A client must never be able to reach an INVARIANT.
 */
#ifndef BF_BASE_CHECK_H
#define BF_BASE_CHECK_H

#include <belfry/types.h>

#define bf_likely(x) __builtin_expect(!!(x), 1)
#define bf_unlikely(x) __builtin_expect(!!(x), 0)

/* On a message's path, also when a file calls it twice: a call more is 10 % of what a send costs. */
#define bf_inlined inline __attribute__((always_inline))

void bf_invariant_failed(const char *what, const char *file, int line) __attribute__((noreturn, cold));

#define INVARIANT(condition) (bf_likely(condition) ? (void)0 : bf_invariant_failed(#condition, __FILE__, __LINE__))

#define PEER_CHECK(condition)          \
    do {                               \
        if (bf_unlikely(!(condition))) \
            return BELFRY_EPROTO;      \
    } while (0)

#define bf_min(a, b) ((a) < (b) ? (a) : (b))
#define bf_max(a, b) ((a) > (b) ? (a) : (b))

#endif

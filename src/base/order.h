/* SPDX-License-Identifier: MIT */
/*
 * order.h: the only spelling of atomics in belfry, and all of it.
 *
 * Every use that is stronger than relaxed has a partner, named in docs/ORDERING.md. A load through this header happens
 * exactly once: what a peer publishes is loaded into a local, checked there, and used from there.
 */
#ifndef BF_BASE_ORDER_H
#define BF_BASE_ORDER_H

#include <stdint.h>

#define load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

/* Read-modify-write, for words with several writers inside one process. */
#define add_release(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELEASE)
#define or_relaxed(p, v) __atomic_fetch_or((p), (v), __ATOMIC_RELAXED)
#define sub_acq_rel(p, v) __atomic_fetch_sub((p), (v), __ATOMIC_ACQ_REL)
#define exchange_acquire(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQUIRE)

/* If the word is *expected make it v; else read it into *expected. May fail for nothing: for loops. */
#define replace_release(p, expected, v) \
    __atomic_compare_exchange_n((p), (expected), (v), true, __ATOMIC_RELEASE, __ATOMIC_RELAXED)

/* The same, once, and never failing for nothing. */
#define replace_acq_rel(p, expected, v) \
    __atomic_compare_exchange_n((p), (expected), (v), false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)

/* Are we watched by ThreadSanitizer? gcc and clang say so differently. */
#if defined(__SANITIZE_THREAD__)
#define BF_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define BF_THREAD_SANITIZER 1
#endif
#endif

/* The store, fence, load of the doorbell: neither side may read the other's wish before its own store is visible. */
#if defined(BF_THREAD_SANITIZER)
/* It knows no fences. A read-modify-write of a word of our own keeps the processor in order as a fence does, and orders
   nothing in the sanitizer's eyes: an acquire or release that is missing elsewhere is still reported. */
#define full_fence()                                    \
    do {                                                \
        uint32_t own_ = 0;                              \
        __atomic_fetch_add(&own_, 1, __ATOMIC_SEQ_CST); \
        __asm__ volatile("" ::"r"(&own_) : "memory");   \
    } while (0)
#elif defined(__x86_64__)
/* A locked add to our own stack orders as mfence does and is measurably cheaper. */
#define full_fence() __asm__ volatile("lock; addl $0, -4(%%rsp)" ::: "memory", "cc")
#else
#define full_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif

#if defined(__x86_64__) || defined(__i386__)
#define cpu_relax() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define cpu_relax() __asm__ volatile("yield" ::: "memory")
#else
#define cpu_relax() __asm__ volatile("" ::: "memory")
#endif

#endif

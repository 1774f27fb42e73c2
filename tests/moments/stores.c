/* SPDX-License-Identifier: MIT */
/*
 * stores.c: what the compiler calls before each store, and in place of each atomic operation, of code that is compiled
 * with -fsanitize=thread: in place of ThreadSanitizer's own. A store into shared memory is a moment; loads and all else
 * go on. The names and types are the compilers' (gcc's sanitizer.def, LLVM's ThreadSanitizer.cpp).
 */
#include <stddef.h>
#include <stdint.h>

#include "moments.h"

#pragma GCC diagnostic ignored "-Wmissing-prototypes" /* nobody but the compiler calls them */

void __tsan_init(void)
{
}

void __tsan_func_entry(void *caller)
{
    (void)caller;
}

void __tsan_func_exit(void)
{
}

/* --- plain stores, and loads ---------------------------------------------------------------------------------------- */

static inline void store(const void *at, const void *site)
{
    if (moments_see(at))
        moment(site);
}

#define PLAIN(bytes)                                  \
    void __tsan_write##bytes(void *at)                \
    {                                                 \
        store(at, __builtin_return_address(0));       \
    }                                                 \
    void __tsan_unaligned_write##bytes(void *at)      \
    {                                                 \
        store(at, __builtin_return_address(0));       \
    }                                                 \
    void __tsan_read_write##bytes(void *at)           \
    {                                                 \
        store(at, __builtin_return_address(0));       \
    }                                                 \
    void __tsan_unaligned_read_write##bytes(void *at) \
    {                                                 \
        store(at, __builtin_return_address(0));       \
    }                                                 \
    void __tsan_read##bytes(void *at)                 \
    {                                                 \
        (void)at;                                     \
    }                                                 \
    void __tsan_unaligned_read##bytes(void *at)       \
    {                                                 \
        (void)at;                                     \
    }

PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

void __tsan_write_range(void *at, size_t bytes)
{
    (void)bytes;
    store(at, __builtin_return_address(0));
}

void __tsan_read_range(void *at, size_t bytes)
{
    (void)at, (void)bytes;
}

/* --- atomic operations: as strong as there are, whatever was asked for ----------------------------------------------- */

#define CHANGE(bits, type, name)                                                    \
    type __tsan_atomic##bits##_##name(volatile void *at, type value, int order)     \
    {                                                                               \
        (void)order;                                                                \
        store((const void *)at, __builtin_return_address(0));                       \
        return (type)__atomic_##name((volatile type *)at, value, __ATOMIC_SEQ_CST); \
    }

#define REPLACE(bits, type, name)                                                                                 \
    bool __tsan_atomic##bits##_compare_exchange_##name(volatile void *at, void *expected, type value, int order,  \
                                                       int order_else)                                            \
    {                                                                                                             \
        (void)order, (void)order_else;                                                                            \
        store((const void *)at, __builtin_return_address(0));                                                     \
        return __atomic_compare_exchange_n((volatile type *)at, (type *)expected, value, false, __ATOMIC_SEQ_CST, \
                                           __ATOMIC_SEQ_CST);                                                     \
    }

#define ATOMIC(bits, type)                                                                                             \
    type __tsan_atomic##bits##_load(const volatile void *at, int order)                                                \
    {                                                                                                                  \
        (void)order;                                                                                                   \
        moments_loading(at);                                                                                           \
        return __atomic_load_n((const volatile type *)at, __ATOMIC_SEQ_CST);                                           \
    }                                                                                                                  \
    void __tsan_atomic##bits##_store(volatile void *at, type value, int order)                                         \
    {                                                                                                                  \
        (void)order;                                                                                                   \
        store((const void *)at, __builtin_return_address(0));                                                          \
        __atomic_store_n((volatile type *)at, value, __ATOMIC_SEQ_CST);                                                \
    }                                                                                                                  \
    type __tsan_atomic##bits##_exchange(volatile void *at, type value, int order)                                      \
    {                                                                                                                  \
        (void)order;                                                                                                   \
        store((const void *)at, __builtin_return_address(0));                                                          \
        return __atomic_exchange_n((volatile type *)at, value, __ATOMIC_SEQ_CST);                                      \
    }                                                                                                                  \
    CHANGE(bits, type, fetch_add)                                                                                      \
    CHANGE(bits, type, fetch_sub)                                                                                      \
    CHANGE(bits, type, fetch_or)                                                                                       \
    CHANGE(bits, type, fetch_and)                                                                                      \
    REPLACE(bits, type, strong)                                                                                        \
    REPLACE(bits, type, weak)                                                                                          \
    type __tsan_atomic##bits##_compare_exchange_val(volatile void *at, type expected, type value, int order,           \
                                                    int order_else)                                                    \
    {                                                                                                                  \
        (void)order, (void)order_else;                                                                                 \
        store((const void *)at, __builtin_return_address(0));                                                          \
        __atomic_compare_exchange_n((volatile type *)at, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
        return expected;                                                                                               \
    }

ATOMIC(8, uint8_t)
ATOMIC(16, uint16_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)

void __tsan_atomic_thread_fence(int order)
{
    (void)order;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void __tsan_atomic_signal_fence(int order)
{
    (void)order;
}

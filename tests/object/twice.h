/* SPDX-License-Identifier: MIT */
/*
 * twice.h: order.h as it must not be: each load is made twice, as a compiler may do that has not been told otherwise. What is
 * compiled with this before everything else must not pass tests/object/look.
 */
#include "base/order.h"

#undef load_relaxed
#undef load_acquire
#define twice(p)                                                                                       \
    __extension__({                                                                                    \
        __typeof__(__atomic_load_n((p), __ATOMIC_RELAXED)) first_ = *(volatile __typeof__(*(p)) *)(p); \
        (void)first_;                                                                                  \
        *(volatile __typeof__(*(p)) *)(p);                                                             \
    })
#define load_relaxed(p) twice(p)
#define load_acquire(p) twice(p)

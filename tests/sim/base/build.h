/* SPDX-License-Identifier: MIT */
/* build.h: what the build decided, but for the heap: it is the simulated process's. */
#include_next "base/build.h"

#undef BF_ALLOCATOR_IS_JEMALLOC
#define BF_ALLOCATOR_IS_JEMALLOC 0

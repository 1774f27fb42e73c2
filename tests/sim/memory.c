/* SPDX-License-Identifier: MIT */
/*
 * memory.c: what the compiler calls before each access, and in place of each atomic operation, of code that is compiled with
 * -fsanitize=thread: in place of ThreadSanitizer's own. The names and types are the compilers' (gcc's sanitizer.def, LLVM's
 * ThreadSanitizer.cpp).
 *
 * An access to memory that others see is a step. An atomic store stays in the thread's own buffer for a while, where its own
 * loads find it; it leaves when the seed says so, at a full fence, a read-modify-write or a system call. A plain store comes
 * after all of the thread's own in SIM_LATE. In SIM_LOOSE stores to different words leave in any order, but a release never
 * before what comes before it. Loads are never early: what a missing acquire does is not to be seen here.
 */
#include "sim.h"

#include <string.h>

#pragma GCC diagnostic ignored "-Wmissing-prototypes" /* nobody but the compiler calls them */

/* Does anybody else see it? Maps; and the heap, for atomic operations only: a server's threads share it. */
static inline bool is_heap(const volatile void *at)
{
    return (uintptr_t)at - SIM_HEAP_AT < SIM_PROCESSES * SIM_HEAP_EACH;
}

/* --- stores that nobody else sees yet -------------------------------------------------------------------------------- */

static void write_value(void *at, uint64_t value, unsigned bytes)
{
    memcpy(at, &value, bytes); /* little endian */
}

static bool overlap(const struct sim_store *s, const volatile void *at, size_t bytes)
{
    return (uintptr_t)s->at < (uintptr_t)at + bytes && (uintptr_t)at < (uintptr_t)s->at + s->bytes;
}

static void see(struct sim_thread *t, unsigned index)
{
    struct sim_store *s = &t->stores[index];
    write_value(s->at, s->value, s->bytes);
    t->store_count--;
    memmove(s, s + 1, (t->store_count - index) * sizeof *s);
}

void sim_stores_seen(struct sim_thread *t)
{
    while (t->store_count > 0)
        see(t, 0);
}

/* May it leave before those that came before it? */
static bool may_pass(const struct sim_thread *t, unsigned index)
{
    const struct sim_store *s = &t->stores[index];
    for (unsigned i = 0; i < index; i++)
        if (s->release || overlap(&t->stores[i], s->at, s->bytes))
            return false;
    return true;
}

void sim_store_seen(struct sim_thread *t)
{
    if (t->store_count == 0)
        return;
    unsigned index = sim.machine.order == SIM_LOOSE ? sim_below(t->store_count) : 0;
    if (!may_pass(t, index))
        index = 0;
    sim.late_stores++;
    see(t, index);
}

static inline bool meets_own(struct sim_thread *t, const volatile void *at, size_t bytes)
{
    for (unsigned i = 0; i < t->store_count; i++)
        if (overlap(&t->stores[i], at, bytes))
            return true;
    return false;
}

/* --- plain accesses -------------------------------------------------------------------------------------------------- */

static inline void plain(const void *at, size_t bytes, bool writes, const void *site)
{
    struct sim_thread *t = sim.current;
    if (t->store_count > 0 &&
        ((writes && sim.machine.order == SIM_LATE && sim_is_shared(at)) || meets_own(t, at, bytes)))
        sim_stores_seen(t);
    if (!sim_is_shared(at) || !sim.running)
        return;
    sim_step();
    if (writes)
        sim_note(site, "write", (uintptr_t)at, bytes);
}

#define PLAIN(bytes)                                          \
    void __tsan_write##bytes(void *at)                        \
    {                                                         \
        plain(at, bytes, true, __builtin_return_address(0));  \
    }                                                         \
    void __tsan_unaligned_write##bytes(void *at)              \
    {                                                         \
        plain(at, bytes, true, __builtin_return_address(0));  \
    }                                                         \
    void __tsan_read_write##bytes(void *at)                   \
    {                                                         \
        plain(at, bytes, true, __builtin_return_address(0));  \
    }                                                         \
    void __tsan_unaligned_read_write##bytes(void *at)         \
    {                                                         \
        plain(at, bytes, true, __builtin_return_address(0));  \
    }                                                         \
    void __tsan_read##bytes(void *at)                         \
    {                                                         \
        plain(at, bytes, false, __builtin_return_address(0)); \
    }                                                         \
    void __tsan_unaligned_read##bytes(void *at)               \
    {                                                         \
        plain(at, bytes, false, __builtin_return_address(0)); \
    }

PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

void __tsan_write_range(void *at, size_t bytes)
{
    plain(at, bytes, true, __builtin_return_address(0));
}

void __tsan_read_range(void *at, size_t bytes)
{
    plain(at, bytes, false, __builtin_return_address(0));
}

/* Half of it, and then the rest: whoever looks meanwhile finds it torn. */
static void *copy(void *to, const void *from, size_t bytes, const void *site)
{
    size_t half = bytes / 2;
    if (!sim_is_shared(to) && !sim_is_shared(from))
        return memcpy(to, from, bytes);
    plain(from, bytes, false, site);
    plain(to, half, true, site);
    memcpy(to, from, half);
    plain((uint8_t *)to + half, bytes - half, true, site);
    memcpy((uint8_t *)to + half, (const uint8_t *)from + half, bytes - half);
    return to;
}

void *sim_memcpy(void *to, const void *from, size_t bytes)
{
    return copy(to, from, bytes, __builtin_return_address(0));
}

void *sim_memset(void *at, int value, size_t bytes)
{
    plain(at, bytes, true, __builtin_return_address(0));
    return memset(at, value, bytes);
}

void *__tsan_memcpy(void *to, const void *from, size_t bytes)
{
    return copy(to, from, bytes, __builtin_return_address(0));
}

void *__tsan_memset(void *at, int value, size_t bytes)
{
    return sim_memset(at, value, bytes);
}

/* --- atomic operations ----------------------------------------------------------------------------------------------- */

static inline bool others_see(const volatile void *at)
{
    return sim.running && (sim_is_shared(at) || is_heap(at));
}

static uint64_t load(const volatile void *at, unsigned bytes, const void *site)
{
    struct sim_thread *t = sim.current;
    uint64_t value = 0;
    if (others_see(at))
        sim_step();
    for (unsigned i = t->store_count; i-- > 0;)
        if (overlap(&t->stores[i], at, bytes)) {
            if (t->stores[i].at == at && t->stores[i].bytes == bytes)
                return t->stores[i].value;
            sim_stores_seen(t);
        }
    memcpy(&value, (const void *)at, bytes);
    if (others_see(at))
        sim_note(site, "load", (uintptr_t)at, value);
    return value;
}

static void store(volatile void *at, uint64_t value, unsigned bytes, int order, const void *site)
{
    struct sim_thread *t = sim.current;
    if (!others_see(at)) {
        sim_stores_seen(t);
        write_value((void *)at, value, bytes);
        return;
    }
    sim_step();
    sim_note(site, "store", (uintptr_t)at, value);
    if (sim.machine.order == SIM_STRONG || order == __ATOMIC_SEQ_CST) {
        sim_stores_seen(t);
        write_value((void *)at, value, bytes);
        return;
    }
    if (t->store_count == SIM_STORES)
        sim_store_seen(t);
    t->stores[t->store_count++] = (struct sim_store){.at = (void *)at,
                                                     .value = value,
                                                     .bytes = (uint8_t)bytes,
                                                     .release = order == __ATOMIC_RELEASE};
}

/* Before a read-modify-write. */
static void lock_bus(volatile void *at, const void *site)
{
    if (others_see(at))
        sim_step();
    sim_stores_seen(sim.current);
    if (others_see(at))
        sim_note(site, "change", (uintptr_t)at, 0);
}

#define CHANGE(bits, type, name)                                                    \
    type __tsan_atomic##bits##_##name(volatile void *at, type value, int order)     \
    {                                                                               \
        (void)order;                                                                \
        lock_bus(at, __builtin_return_address(0));                                  \
        return (type)__atomic_##name((volatile type *)at, value, __ATOMIC_SEQ_CST); \
    }

#define REPLACE(bits, type, name)                                                                                 \
    bool __tsan_atomic##bits##_compare_exchange_##name(volatile void *at, void *expected, type value, int order,  \
                                                       int order_else)                                            \
    {                                                                                                             \
        (void)order, (void)order_else;                                                                            \
        lock_bus(at, __builtin_return_address(0));                                                                \
        return __atomic_compare_exchange_n((volatile type *)at, (type *)expected, value, false, __ATOMIC_SEQ_CST, \
                                           __ATOMIC_SEQ_CST);                                                     \
    }

#define ATOMIC(bits, type)                                                                                             \
    type __tsan_atomic##bits##_load(const volatile void *at, int order)                                                \
    {                                                                                                                  \
        (void)order;                                                                                                   \
        return (type)load(at, sizeof(type), __builtin_return_address(0));                                              \
    }                                                                                                                  \
    void __tsan_atomic##bits##_store(volatile void *at, type value, int order)                                         \
    {                                                                                                                  \
        store(at, value, sizeof(type), order, __builtin_return_address(0));                                            \
    }                                                                                                                  \
    type __tsan_atomic##bits##_exchange(volatile void *at, type value, int order)                                      \
    {                                                                                                                  \
        (void)order;                                                                                                   \
        lock_bus(at, __builtin_return_address(0));                                                                     \
        return (type)__atomic_exchange_n((volatile type *)at, value, __ATOMIC_SEQ_CST);                                \
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
        lock_bus(at, __builtin_return_address(0));                                                                     \
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
    sim_stores_seen(sim.current);
}

void __tsan_atomic_signal_fence(int order)
{
    (void)order;
}

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

/* SPDX-License-Identifier: MIT */
/* moments.c: see moments.h. Compiled as it stands: what it stores is no moment. */
#include "moments.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MAPS_MAX 256u
#define CLAIMED 1u /* an entry that is being filled: no map is so small */

struct moments_report *moments;

static bool armed;

static struct {
    uintptr_t at;
    size_t bytes; /* 0: free */
} maps[MAPS_MAX];

static unsigned maps_used; /* entries at and beyond are free */

void moments_open(void)
{
    moments = mmap(NULL, sizeof *moments, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (moments == MAP_FAILED)
        abort();
}

void moments_arm(uint64_t fatal)
{
    moments->passed = 0;
    moments->died_ns = 0;
    moments->fatal = fatal;
    __atomic_store_n(&armed, true, __ATOMIC_RELEASE);
}

void moments_disarm(void)
{
    __atomic_store_n(&armed, false, __ATOMIC_RELEASE);
}

/* --- where ---------------------------------------------------------------------------------------------------------- */

/* Two threads may look for an entry at once. */
static struct moments_place *place_of(uintptr_t at)
{
    for (unsigned i = 0; i < MOMENTS_PLACES; i++) {
        struct moments_place *place = &moments->places[(at + i) % MOMENTS_PLACES];
        uintptr_t there = 0;
        if (__atomic_compare_exchange_n(&place->at, &there, at, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED) ||
            there == at)
            return place;
    }
    abort();
}

void moments_places(unsigned *reached, unsigned *killed)
{
    *reached = *killed = 0;
    for (unsigned i = 0; i < MOMENTS_PLACES; i++) {
        *reached += moments->places[i].reached > 0;
        *killed += moments->places[i].killed > 0;
    }
}

uintptr_t moments_place_without_death(unsigned tries)
{
    for (unsigned i = 0; i < MOMENTS_PLACES; i++) {
        struct moments_place *place = &moments->places[i];
        if (place->reached > 0 && place->killed == 0 && place->tries++ < tries)
            return place->at;
    }
    return 0;
}

/* --- when ----------------------------------------------------------------------------------------------------------- */

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static _Noreturn void die(struct moments_place *place)
{
    __atomic_fetch_add(&place->killed, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&moments->died_ns, now_ns(), __ATOMIC_RELEASE);
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

void moment(const void *at)
{
    if (__builtin_expect(!__atomic_load_n(&armed, __ATOMIC_ACQUIRE), 1))
        return;
    struct moments_place *place = place_of((uintptr_t)at);
    __atomic_fetch_add(&place->reached, 1, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&moments->passed, 1, __ATOMIC_RELAXED) == moments->fatal || place->at == moments->place)
        die(place);
}

/* --- loads ---------------------------------------------------------------------------------------------------------- */

static struct {
    const volatile void *word; /* NULL: none */
    unsigned left;
    void (*act)(void *argument);
    void *argument;
} awaited;

void moments_before_load(const volatile void *word, unsigned nth, void (*act)(void *argument), void *argument)
{
    __atomic_store_n(&awaited.word, NULL, __ATOMIC_SEQ_CST);
    awaited.left = nth;
    awaited.act = act;
    awaited.argument = argument;
    __atomic_store_n(&awaited.word, word, __ATOMIC_SEQ_CST);
}

void moments_loading(const volatile void *word)
{
    if (__builtin_expect(__atomic_load_n(&awaited.word, __ATOMIC_ACQUIRE) != word, 1) || --awaited.left > 0)
        return;
    __atomic_store_n(&awaited.word, NULL, __ATOMIC_RELEASE);
    awaited.act(awaited.argument);
}

/* --- what is shared ------------------------------------------------------------------------------------------------- */

bool moments_see(const volatile void *address)
{
    if (__builtin_expect(!__atomic_load_n(&armed, __ATOMIC_ACQUIRE), 1))
        return false;
    unsigned used = __atomic_load_n(&maps_used, __ATOMIC_ACQUIRE);
    for (unsigned i = 0; i < used; i++) {
        size_t bytes = __atomic_load_n(&maps[i].bytes, __ATOMIC_ACQUIRE);
        if (bytes > CLAIMED && (uintptr_t)address - maps[i].at < bytes)
            return true;
    }
    return false;
}

/* No lock: a child may be forked while a server's thread is in here. */
void moments_mapped(const void *at, size_t bytes)
{
    for (unsigned i = 0; i < MAPS_MAX; i++) {
        size_t none = 0;
        if (!__atomic_compare_exchange_n(&maps[i].bytes, &none, CLAIMED, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            continue;
        maps[i].at = (uintptr_t)at;
        __atomic_store_n(&maps[i].bytes, bytes, __ATOMIC_RELEASE);
        unsigned used = __atomic_load_n(&maps_used, __ATOMIC_RELAXED);
        while (used < i + 1 &&
               !__atomic_compare_exchange_n(&maps_used, &used, i + 1, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
            ;
        return;
    }
    fputs("moments: too many maps\n", stderr);
    abort();
}

void moments_unmapped(const void *at, size_t bytes)
{
    for (unsigned i = 0; i < MAPS_MAX; i++)
        if (__atomic_load_n(&maps[i].bytes, __ATOMIC_ACQUIRE) > CLAIMED && maps[i].at - (uintptr_t)at < bytes)
            __atomic_store_n(&maps[i].bytes, 0, __ATOMIC_RELEASE);
}

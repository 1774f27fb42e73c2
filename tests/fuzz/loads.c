/* SPDX-License-Identifier: MIT */
/* loads.c: see loads.h. */
#include "loads.h"

#include <sanitizer/common_interface_defs.h>

#define RING_BYTES_SEEN 65536u /* larger rings are not watched */
#define NAME_BYTES 256

/*
 * Loads that may be repeated within one call, by the function in which they stand. What such a load found is not used but
 * for the question that is asked, and whoever goes on from there looks again, once, and checks that.
 */
static const struct {
    const char *function;
    const char *why;
} exceptions[] = {
    {"ring_is_empty", "asks whether there is something; what there is, ring_peek() reads anew"},
};

struct area {
    uint8_t *at;
    size_t bytes;
};

static struct {
    struct area areas[LOADS_AREAS];
    unsigned area_count;
    const struct ring_consumer_local *in;
    struct feed spoils;
    unsigned skip; /* loads until the next that is spoiled */
    unsigned paused;
    uint64_t turn; /* never 0 */
    struct loads_counts counts;
} loads;

/* Who loaded a byte of the ring last: in which call, with the reader at which position, from where in the program. */
static struct seen {
    uint64_t turn;
    uint64_t position;
    uintptr_t at;
} seen[RING_BYTES_SEEN];

/* --- the same byte twice ------------------------------------------------------------------------------------------- */

static void name_of(uintptr_t at, const char *format, char name[NAME_BYTES])
{
    __sanitizer_symbolize_pc((void *)(at - 1), format, name, NAME_BYTES); /* a return address is one too far */
}

static bool is_excepted(uintptr_t at)
{
    static struct {
        uintptr_t at;
        bool excepted;
    } known[256]; /* a name takes milliseconds to find */
    unsigned place = (unsigned)(at * 0x9e3779b97f4a7c15ull >> 56);
    char name[NAME_BYTES];
    if (known[place].at == at)
        return known[place].excepted;
    name_of(at, "%f", name);
    known[place].at = at;
    known[place].excepted = false;
    for (size_t i = 0; i < sizeof exceptions / sizeof exceptions[0]; i++)
        known[place].excepted |= strcmp(name, exceptions[i].function) == 0;
    return known[place].excepted;
}

static void fail(size_t offset, uint64_t from, uintptr_t first, uintptr_t second)
{
    char names[2][NAME_BYTES];
    name_of(first, "%f %s:%l", names[0]);
    name_of(second, "%f %s:%l", names[1]);
    fprintf(stderr, "byte %zu of an entry is loaded twice:\n    first in %s\n    again in %s\n", offset - (size_t)from,
            names[0], names[1]);
    abort();
}

/* Was there anything? Until then an entry is polled for. */
static bool finds_nothing(size_t offset, size_t bytes, uint64_t from)
{
    uint32_t length;
    if (offset != from || bytes != sizeof length)
        return false;
    memcpy(&length, loads.in->data + offset, sizeof length);
    return length == 0;
}

static void look(size_t offset, size_t bytes, uintptr_t at)
{
    const struct ring_consumer_local *in = loads.in;
    uint64_t from = ring_offset(in->position, in->colour, in->capacity);
    if (finds_nothing(offset, bytes, from))
        return;
    for (size_t i = offset; i < offset + bytes && i < in->capacity; i++) {
        bool again = seen[i].turn == loads.turn && seen[i].position == in->position;
        if (again && !is_excepted(at) && !is_excepted(seen[i].at))
            fail(i, from, seen[i].at, at);
        seen[i] = (struct seen){.turn = loads.turn, .position = in->position, .at = at};
    }
}

/* --- other bytes --------------------------------------------------------------------------------------------------- */

/* A control byte from the back of the input: below 160 so many loads stay as they are, else this one does not. */
static void spoil(uint8_t *bytes, size_t count)
{
    if (loads.skip > 0) {
        loads.skip--;
        return;
    }
    if (feed_is_empty(&loads.spoils))
        return;
    uint8_t control = *--loads.spoils.end;
    if (control < 160) {
        loads.skip = control;
        return;
    }
    loads.counts.spoiled++;
    if (control < 176) { /* what is likely to pass one check and not the next */
        bytes[0] ^= (uint8_t)(1u << (control & 7));
        return;
    }
    for (size_t i = 0; i < count && i < sizeof(uint64_t) && !feed_is_empty(&loads.spoils); i++)
        bytes[i] = *--loads.spoils.end;
}

static void before_load(const void *address, size_t bytes, uintptr_t at)
{
    if (loads.paused > 0)
        return;
    for (unsigned i = 0; i < loads.area_count; i++) {
        size_t offset = (size_t)((const uint8_t *)address - loads.areas[i].at);
        if (offset >= loads.areas[i].bytes)
            continue;
        loads.counts.loads++;
        spoil(loads.areas[i].at + offset, bytes);
        if (loads.in == NULL)
            return;
        size_t in_ring = (size_t)((const uint8_t *)address - loads.in->data);
        if (in_ring < loads.in->capacity)
            look(in_ring, bytes, at);
        return;
    }
}

/* --- for the test -------------------------------------------------------------------------------------------------- */

void loads_begin(const struct feed *spoils)
{
    loads.spoils = *spoils;
    loads.skip = loads.area_count = loads.paused = 0;
    loads.in = NULL;
    loads.counts = (struct loads_counts){0};
    loads.turn++;
}

void loads_open(void *at, size_t bytes)
{
    demand(loads.area_count < LOADS_AREAS);
    loads.areas[loads.area_count++] = (struct area){at, bytes};
}

void loads_watch(const struct ring_consumer_local *in)
{
    loads.in = in != NULL && in->capacity <= RING_BYTES_SEEN ? in : NULL;
}

void loads_turn(void)
{
    loads.turn++;
}

void loads_rest(void)
{
}

void loads_pause(void)
{
    loads.paused++;
}

void loads_resume(void)
{
    loads.paused--;
}

struct loads_counts loads_counts(void)
{
    return loads.counts;
}

/* --- for the compiler and the linker --------------------------------------------------------------------------------- */

void __sanitizer_cov_load1(uint8_t *at);
void __sanitizer_cov_load2(uint16_t *at);
void __sanitizer_cov_load4(uint32_t *at);
void __sanitizer_cov_load8(uint64_t *at);
void __sanitizer_cov_load16(__int128 *at);
void *__real___asan_memcpy(void *to, const void *from, size_t bytes);
void *__wrap___asan_memcpy(void *to, const void *from, size_t bytes);

void __sanitizer_cov_load1(uint8_t *at)
{
    before_load(at, sizeof *at, (uintptr_t)__builtin_return_address(0));
}

void __sanitizer_cov_load2(uint16_t *at)
{
    before_load(at, sizeof *at, (uintptr_t)__builtin_return_address(0));
}

void __sanitizer_cov_load4(uint32_t *at)
{
    before_load(at, sizeof *at, (uintptr_t)__builtin_return_address(0));
}

void __sanitizer_cov_load8(uint64_t *at)
{
    before_load(at, sizeof *at, (uintptr_t)__builtin_return_address(0));
}

void __sanitizer_cov_load16(__int128 *at)
{
    before_load(at, sizeof *at, (uintptr_t)__builtin_return_address(0));
}

void *__wrap___asan_memcpy(void *to, const void *from, size_t bytes)
{
    if (bytes > 0)
        before_load(from, bytes, (uintptr_t)__builtin_return_address(0));
    return __real___asan_memcpy(to, from, bytes);
}

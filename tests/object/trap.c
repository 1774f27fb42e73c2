/* SPDX-License-Identifier: MIT */
/*
 * trap.c: what tests/fuzz/loads.h says, of the object code as it is released: no compiler helps.
 *
 * While the library runs, nobody may read the peer's memory. Each load traps, is noted, allowed, and done by a single step;
 * then nobody may again. So what is counted are loads of the processor's, whatever the compiler has made of the source: one
 * that it repeated, split or moved is there as it is.
 *
 * Which of them should not be is for tests/object/look to judge, which knows the lines; here they are written down:
 * "load PC COUNT", and "again BYTE PC PC" for a byte of an entry that was loaded twice in one call with the reader at the same
 * position. A PC is an offset in the program, or 0 in a library of the system's.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

#include "../fuzz/loads.h"

#define PLACES 4096u
#define PAIRS 256u
#define RING_BYTES_SEEN 65536u
#define TRAP_FLAG 0x100
#define LOADS_MAX 400u /* of one input: each takes two signals, and a flood says the same again and again */
#define ERROR_IS_WRITE 2

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

extern const char __executable_start, etext;

static struct {
    struct {
        uint8_t *at;
        size_t bytes;
    } areas[LOADS_AREAS];
    unsigned area_count;
    const struct ring_consumer_local *in;
    struct feed spoils;
    unsigned skip;
    bool in_library;
    unsigned paused;
    uint64_t turn;
    struct loads_counts counts;
} trap;

static struct {
    uintptr_t at;
    uint64_t count;
} places[PLACES];

static struct {
    uintptr_t first;
    uintptr_t second;
    size_t byte;
} pairs[PAIRS];
static unsigned pair_count;

static struct {
    uint64_t turn;
    uint64_t position;
    uintptr_t at;
} seen[RING_BYTES_SEEN];

/* --- what the processor was about to do --------------------------------------------------------------------------------- */

/* How many bytes it loads: 1, 2, 4 or 8 by the common forms of the instruction, else 16. */
static size_t width(const uint8_t *code)
{
    bool is_64 = false, is_16 = false;
    for (; *code == 0x66 || *code == 0xf2 || *code == 0xf3 || (*code & 0xf0) == 0x40; code++) {
        is_16 |= *code == 0x66;
        is_64 |= (*code & 0xf8) == 0x48;
    }
    size_t full = is_64 ? 8 : is_16 ? 2 : 4;
    if (*code == 0x0f) /* movzx and movsx; what else begins so works on vectors */
        return (code[1] & 0xf6) != 0xb6 ? 16 : (code[1] & 1) != 0 ? 2 : 1;
    if (*code == 0xc4 || *code == 0xc5 || *code == 0x62)
        return 16;
    if (*code == 0x63) /* movsxd */
        return 4;
    return (*code & 1) != 0 ? full : 1;
}

static uintptr_t place_of(uintptr_t pc)
{
    uintptr_t start = (uintptr_t)&__executable_start;
    return pc >= start && pc < (uintptr_t)&etext ? pc - start : 0;
}

static void note(uintptr_t at)
{
    unsigned i = (unsigned)(at * 0x9e3779b97f4a7c15ull >> 52);
    while (places[i].count > 0 && places[i].at != at)
        i = (i + 1) % PLACES;
    places[i].at = at;
    places[i].count++;
}

static void note_pair(size_t byte, uintptr_t first, uintptr_t second)
{
    for (unsigned i = 0; i < pair_count; i++)
        if (pairs[i].first == first && pairs[i].second == second)
            return;
    demand(pair_count < PAIRS);
    pairs[pair_count].first = first;
    pairs[pair_count].second = second;
    pairs[pair_count++].byte = byte;
}

static void look(size_t offset, size_t bytes, uintptr_t at)
{
    const struct ring_consumer_local *in = trap.in;
    uint64_t from = ring_offset(in->position, in->colour, in->capacity);
    uint32_t length = 1;
    if (offset == from)
        memcpy(&length, in->data + offset, sizeof length);
    if (length == 0) /* nothing is there yet: it is polled for */
        return;
    for (size_t i = offset; i < offset + bytes && i < in->capacity; i++) {
        if (seen[i].turn == trap.turn && seen[i].position == in->position)
            note_pair(i - (size_t)from, seen[i].at, at);
        seen[i].turn = trap.turn;
        seen[i].position = in->position;
        seen[i].at = at;
    }
}

/* As loads.c does, from the same bytes. */
static void spoil(uint8_t *bytes, size_t count)
{
    if (trap.skip > 0) {
        trap.skip--;
        return;
    }
    if (feed_is_empty(&trap.spoils))
        return;
    uint8_t control = *--trap.spoils.end;
    if (control < 160) {
        trap.skip = control;
        return;
    }
    trap.counts.spoiled++;
    if (control < 176)
        bytes[0] ^= (uint8_t)(1u << (control & 7));
    else
        for (size_t i = 0; i < count && i < sizeof(uint64_t) && !feed_is_empty(&trap.spoils); i++)
            bytes[i] = *--trap.spoils.end;
}

static void protect(bool on)
{
    for (unsigned i = 0; i < trap.area_count; i++)
        demand(mprotect(trap.areas[i].at, trap.areas[i].bytes, on ? PROT_NONE : PROT_READ | PROT_WRITE) == 0);
}

static bool is_on(void)
{
    return trap.in_library && trap.paused == 0 && trap.counts.loads < LOADS_MAX;
}

static void on_load(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint8_t *address = info->si_addr;
    uintptr_t pc = (uintptr_t)registers[REG_RIP];
    unsigned i = 0;
    while (i < trap.area_count && (size_t)(address - trap.areas[i].at) >= trap.areas[i].bytes)
        i++;
    if (!is_on() || i == trap.area_count) {
        signal(number, SIG_DFL);
        return;
    }
    protect(false);
    registers[REG_EFL] |= TRAP_FLAG;
    if ((registers[REG_ERR] & ERROR_IS_WRITE) != 0)
        return;
    size_t bytes = width((const uint8_t *)pc);
    trap.counts.loads++;
    note(place_of(pc));
    spoil(address, bytes);
    if (trap.in != NULL && (size_t)(address - trap.in->data) < trap.in->capacity)
        look((size_t)(address - trap.in->data), bytes, place_of(pc));
}

static void on_step(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
    protect(is_on());
}

/* --- loads.h ------------------------------------------------------------------------------------------------------------ */

void loads_begin(const struct feed *spoils)
{
    protect(false);
    trap.spoils = *spoils;
    trap.skip = trap.area_count = trap.paused = 0;
    trap.in_library = false;
    trap.in = NULL;
    trap.counts = (struct loads_counts){0};
    trap.turn++;
}

void loads_open(void *at, size_t bytes)
{
    demand(trap.area_count < LOADS_AREAS && (uintptr_t)at % 4096 == 0 && bytes % 4096 == 0);
    trap.areas[trap.area_count].at = at;
    trap.areas[trap.area_count++].bytes = bytes;
}

void loads_watch(const struct ring_consumer_local *in)
{
    trap.in = in != NULL && in->capacity <= RING_BYTES_SEEN ? in : NULL;
}

void loads_turn(void)
{
    trap.turn++;
    trap.in_library = true;
    protect(is_on());
}

void loads_rest(void)
{
    trap.in_library = false;
    protect(false);
}

void loads_pause(void)
{
    trap.paused++;
    protect(false);
}

void loads_resume(void)
{
    trap.paused--;
    protect(is_on());
}

struct loads_counts loads_counts(void)
{
    return trap.counts;
}

/* --- the program: each argument is the file of an input --------------------------------------------------------------- */

static void run(const char *path)
{
    struct stat st;
    FILE *file = fopen(path, "re");
    demand(file != NULL && fstat(fileno(file), &st) == 0);
    size_t bytes = (size_t)st.st_size;
    uint8_t *data = malloc(bytes + 1);
    demand(data != NULL && fread(data, 1, bytes, file) == bytes);
    fclose(file);
    LLVMFuzzerTestOneInput(data, bytes);
    free(data);
}

int main(int argc, char **argv)
{
    struct sigaction load = {.sa_sigaction = on_load, .sa_flags = SA_SIGINFO};
    struct sigaction step = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &load, NULL);
    sigaction(SIGTRAP, &step, NULL);
    for (int i = 1; i < argc; i++)
        run(argv[i]);
    for (unsigned i = 0; i < PLACES; i++)
        if (places[i].count > 0)
            printf("load %#zx %llu\n", (size_t)places[i].at, (unsigned long long)places[i].count);
    for (unsigned i = 0; i < pair_count; i++)
        printf("again %zu %#zx %#zx\n", pairs[i].byte, (size_t)pairs[i].first, (size_t)pairs[i].second);
    return 0;
}

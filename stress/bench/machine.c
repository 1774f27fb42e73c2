/* SPDX-License-Identifier: MIT */
/* machine.c: see machine.h. */
#include "machine.h"

#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lab.h"
#include "system.h"
#include "ticks.h"

#define WARM_UP 1000 /* round trips before the first sample */
#define MAPPED_FILES 2
#define MAPPED_PAGES 2
#define PAGE_BYTES 4096

/* What both sides share. */
struct limit_shared {
    _Atomic uint64_t word; /* one line: odd = asked, even = answered */
    uint8_t pad_word[128 - 8];
    _Atomic uint32_t there; /* futex words of the other side and of ours */
    uint8_t pad_there[128 - 4];
    _Atomic uint32_t back;
    uint8_t pad_back[128 - 4];
    _Atomic uint64_t produced;
    uint8_t pad_produced[128 - 8];
    _Atomic uint64_t consumed;
    uint8_t pad_consumed[128 - 8];
    uint8_t request[2 * PAYLOAD_BYTES_MAX] __attribute__((aligned(4096)));
    uint8_t reply[2 * PAYLOAD_BYTES_MAX] __attribute__((aligned(4096)));
};

struct limit {
    struct limit_shared *shared;
    uint32_t bytes;
    uint32_t span;
    int file[MAPPED_FILES];
    pid_t child;
};

static void limit_begin(struct limit *l, int core, int other, void (*echo)(struct limit *))
{
    l->shared = mmap(NULL, sizeof *l->shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (l->shared == MAP_FAILED)
        bench_die("no memory for a limit");
    l->child = fork();
    if (l->child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        lab_pin(other);
        echo(l);
    }
    lab_pin(core);
}

static void limit_end(struct limit *l)
{
    kill(l->child, SIGKILL);
    waitpid(l->child, NULL, 0);
    munmap(l->shared, sizeof *l->shared);
    lab_pin(-1);
}

/* `round_trip` again and again, each ended by a look at the clock. */
static void limit_time(struct limit *l, void (*round_trip)(struct limit *, uint64_t), double seconds,
                       struct histogram *h)
{
    uint64_t number = 0;
    while (number < WARM_UP)
        round_trip(l, number++);
    uint64_t began = ticks_now(), end = began + ticks_from_seconds(seconds);
    while (began < end) {
        round_trip(l, number++);
        uint64_t now = ticks_now();
        histogram_add(h, ticks_to_ns(now - began));
        began = now;
    }
}

/* --- one line ---------------------------------------------------------------------------------------------------- */

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void line_echo(struct limit *l)
{
    for (uint64_t asked = 1;; asked += 2) {
        while (atomic_load_explicit(&l->shared->word, memory_order_acquire) != asked)
            relax();
        atomic_store_explicit(&l->shared->word, asked + 1, memory_order_release);
    }
}

static void line_round_trip(struct limit *l, uint64_t number)
{
    atomic_store_explicit(&l->shared->word, 2 * number + 1, memory_order_release);
    while (atomic_load_explicit(&l->shared->word, memory_order_acquire) != 2 * number + 2)
        relax();
}

void limit_line(int core, int other, double seconds, struct histogram *h)
{
    struct limit l;
    limit_begin(&l, core, other, line_echo);
    limit_time(&l, line_round_trip, seconds, h);
    limit_end(&l);
}

/* --- futex ------------------------------------------------------------------------------------------------------- */

static void futex_ring(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store(word, value);
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void futex_await(_Atomic uint32_t *word, uint32_t value)
{
    uint32_t seen;
    while ((seen = atomic_load(word)) != value)
        syscall(SYS_futex, word, FUTEX_WAIT, seen, NULL, NULL, 0);
}

static void futex_echo(struct limit *l)
{
    for (uint32_t number = 1;; number++) {
        futex_await(&l->shared->there, number);
        futex_ring(&l->shared->back, number);
    }
}

static void futex_round_trip(struct limit *l, uint64_t number)
{
    futex_ring(&l->shared->there, (uint32_t)number + 1);
    futex_await(&l->shared->back, (uint32_t)number + 1);
}

void limit_futex(int core, int other, double seconds, struct histogram *h)
{
    struct limit l;
    limit_begin(&l, core, other, futex_echo);
    limit_time(&l, futex_round_trip, seconds, h);
    limit_end(&l);
}

/* --- memory ------------------------------------------------------------------------------------------------------ */

static void memory_echo(struct limit *l)
{
    for (uint64_t number = 1;; number++) {
        while (atomic_load_explicit(&l->shared->produced, memory_order_acquire) != number)
            relax();
        memcpy(l->shared->reply, l->shared->request, l->bytes);
        atomic_store_explicit(&l->shared->consumed, number, memory_order_release);
    }
}

static void memory_round_trip(struct limit *l, uint64_t number)
{
    payload_build(l->shared->request, l->bytes, PAYLOAD_ECHO, 0, number);
    atomic_store_explicit(&l->shared->produced, number + 1, memory_order_release);
    while (atomic_load_explicit(&l->shared->consumed, memory_order_acquire) != number + 1)
        relax();
    if (!payload_is(l->shared->reply, l->bytes, l->bytes, PAYLOAD_ECHO, 0, number))
        bench_die("the limit of memory: what came back is not what was written");
}

void limit_memory(int core, int other, uint32_t bytes, double seconds, struct histogram *h)
{
    struct limit l = {.bytes = bytes};
    limit_begin(&l, core, other, memory_echo);
    limit_time(&l, memory_round_trip, seconds, h);
    limit_end(&l);
}

/* --- maps -------------------------------------------------------------------------------------------------------- */

/* What a side of a new connection cannot do without: two files mapped, their first two pages used, both unmapped. */
static void mapping_once(const struct limit *l)
{
    for (int i = 0; i < MAPPED_FILES; i++) {
        volatile uint8_t *at =
            mmap(NULL, MAPPED_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, l->file[i], 0);
        if (at == MAP_FAILED)
            bench_die("the limit of mapping: no map");
        for (int page = 0; page < MAPPED_PAGES; page++)
            at[page * PAGE_BYTES] = (uint8_t)(at[page * PAGE_BYTES] + 1);
        munmap((void *)at, MAPPED_PAGES * PAGE_BYTES);
    }
}

static void mapping_echo(struct limit *l)
{
    for (uint64_t asked = 1;; asked += 2) {
        while (atomic_load_explicit(&l->shared->word, memory_order_acquire) != asked)
            relax();
        mapping_once(l);
        atomic_store_explicit(&l->shared->word, asked + 1, memory_order_release);
    }
}

/* Both sides at the same time. */
static void mapping_round_trip(struct limit *l, uint64_t number)
{
    atomic_store_explicit(&l->shared->word, 2 * number + 1, memory_order_release);
    mapping_once(l);
    while (atomic_load_explicit(&l->shared->word, memory_order_acquire) != 2 * number + 2)
        relax();
}

void limit_mapping(int core, int other, double seconds, struct histogram *h)
{
    struct limit l = {0};
    for (int i = 0; i < MAPPED_FILES; i++) {
        l.file[i] = memfd_create("belfry-bench", MFD_CLOEXEC);
        if (l.file[i] < 0 || ftruncate(l.file[i], MAPPED_PAGES * PAGE_BYTES) < 0)
            bench_die("the limit of mapping: no file");
    }
    limit_begin(&l, core, other, mapping_echo);
    limit_time(&l, mapping_round_trip, seconds, h);
    limit_end(&l);
    for (int i = 0; i < MAPPED_FILES; i++)
        close(l.file[i]);
}

/* --- bandwidth --------------------------------------------------------------------------------------------------- */

double limit_memcpy(int core, uint32_t bytes, uint32_t span, double seconds)
{
    unsigned char *buffer = aligned_alloc(4096, span);
    lab_pin(core);
    memset(buffer, 0, span);
    uint64_t blocks = 0;
    int64_t began_ns = clock_ns(), now_ns;
    do {
        for (int i = 0; i < 64; i++, blocks++)
            payload_build(buffer + blocks * bytes % span, bytes, PAYLOAD_SINK, 0, blocks);
        now_ns = clock_ns();
    } while (now_ns - began_ns < (int64_t)(seconds * 1e9));
    free(buffer);
    lab_pin(-1);
    return (double)blocks * 1e9 / (double)(now_ns - began_ns);
}

static void handover_echo(struct limit *l)
{
    for (uint64_t number = 0;;) {
        uint64_t produced;
        while ((produced = atomic_load_explicit(&l->shared->produced, memory_order_acquire)) == number)
            relax();
        for (; number < produced; number++)
            if (!payload_is(l->shared->request + number * l->bytes % l->span, l->bytes, l->bytes, PAYLOAD_SINK, 0,
                            number))
                bench_die("the limit of handing over: a block is not what was written");
        atomic_store_explicit(&l->shared->consumed, number, memory_order_release);
    }
}

double limit_handover(int core, int other, uint32_t bytes, uint32_t span, double seconds)
{
    struct limit l = {.bytes = bytes, .span = span};
    uint64_t blocks = 0, consumed = 0, ahead = span / bytes;
    limit_begin(&l, core, other, handover_echo);
    int64_t began_ns = clock_ns(), now_ns;
    do {
        for (int i = 0; i < 64; i++) {
            while (blocks - consumed >= ahead) {
                relax();
                consumed = atomic_load_explicit(&l.shared->consumed, memory_order_acquire);
            }
            payload_build(l.shared->request + blocks * bytes % span, bytes, PAYLOAD_SINK, 0, blocks);
            atomic_store_explicit(&l.shared->produced, ++blocks, memory_order_release);
        }
        now_ns = clock_ns();
    } while (now_ns - began_ns < (int64_t)(seconds * 1e9));
    limit_end(&l);
    return (double)blocks * 1e9 / (double)(now_ns - began_ns);
}

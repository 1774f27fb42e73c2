/* SPDX-License-Identifier: MIT */
/*
 * sim.h: a machine that one number decides: processes, threads, memory, time, in one thread of one process.
 *
 * The library runs as it is. Its sources are compiled once more as for ThreadSanitizer, and the functions that the compiler
 * then calls before each plain access and in place of each atomic operation are ours (memory.c). Its system calls stand in
 * base/os.c and io/, and ours stand in their place (os.c, files.c, futex.c, reactor.c). What it asks of libc's heap and
 * threads is renamed (names.h, libc.c). So the library does nothing that we do not see, and wherever it does something,
 * somebody else may go on: that is a step. Who does is for the seed to say, and also what fails, is late, or dies.
 *
 * Threads are coroutines, processes have their own heap, maps, descriptors and static variables. Time passes with steps, and
 * when everybody sleeps it is the next deadline. Nothing depends on the machine around: a seed is the same run again, step
 * by step, and sim.hash says so.
 */
#ifndef BF_TESTS_SIM_H
#define BF_TESTS_SIM_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_PROCESSES 12u
#define SIM_THREADS 32u
#define SIM_DESCRIPTORS 48u
#define SIM_MAPS 32u
#define SIM_THREAD_BYTES 1024u  /* of thread-local variables */
#define SIM_PROCESS_BYTES 2048u /* of static ones */
#define SIM_STORES 12u          /* that one processor keeps to itself for a while */
#define SIM_ROBUST 4u
#define SIM_KEYS 2u
#define SIM_WAITERS 192u

/* Where everything is, in every run. */
#define SIM_SHARED_AT 0x200000000000ull /* maps */
#define SIM_SHARED_BYTES (SIM_PROCESSES * SIM_SHARED_EACH)
#define SIM_SHARED_EACH (64ull << 20)
#define SIM_HEAP_AT 0x210000000000ull
#define SIM_HEAP_EACH (2ull << 20)
#define SIM_STACKS_AT 0x220000000000ull
#define SIM_STACK_EACH (192ull << 10)
#define SIM_FILES_AT 0x230000000000ull /* what is in them */

enum sim_strategy {
    SIM_WALK,     /* at each step, anybody may be the next */
    SIM_RUNS,     /* somebody for a while, then somebody else */
    SIM_PRIORITY, /* the most important that can; who that is changes a few times */
    SIM_STRATEGIES,
};

enum sim_order {
    SIM_STRONG, /* each store is seen at once */
    SIM_LATE,   /* stores are seen late, but in their order: as on x86 */
    SIM_LOOSE,  /* and a relaxed one after a later one */
    SIM_ORDERS,
};

/* A store that nobody else sees yet. */
struct sim_store {
    void *at;
    uint64_t value;
    uint8_t bytes;
    bool release;
};

struct sim_thread {
    unsigned number; /* counted from 1 in the order of their starts; 0: the world's own */
    struct sim_process *process;
    void (*body)(void *argument);
    void *argument;
    jmp_buf at;
    bool begun;
    bool ended;
    bool dying; /* ended, and the kernel has not finished with it */
    bool can_run;
    bool rested; /* its sleep has lasted until its deadline */
    int64_t deadline_ns;
    const void *blocked_on; /* a mutex or condition of its process */
    uint32_t priority;
    struct sim_store stores[SIM_STORES];
    unsigned store_count;
    uint32_t *robust[SIM_ROBUST]; /* words of mutexes that say when their owner dies */
    unsigned robust_count;
    void *specific[SIM_KEYS];
    const char *waits_for; /* for reports */
    uint8_t local[SIM_THREAD_BYTES];
};

struct sim_map {
    uint8_t *at;
    size_t bytes;
    struct sim_node *node; /* NULL: none, or addresses without memory */
    bool writable;
};

struct sim_heap {
    size_t used;
    unsigned live; /* blocks */
    void *free[16];
};

struct sim_process {
    const char *name;
    uint32_t pid;       /* 0: there is none here */
    uint32_t speaks_as; /* another number that it gives as its own; 0: it does not */
    bool killed;
    bool gone; /* also for the kernel */
    uint64_t steps;
    uint64_t dies_after; /* so many steps of its own; 0: it lives */
    unsigned main;       /* its first thread's number */
    bool ended;          /* that has returned */
    struct sim_file *files[SIM_DESCRIPTORS];
    struct sim_map maps[SIM_MAPS];
    size_t mapped_to; /* addresses are given away once */
    struct sim_heap heap;
    void (*key_ends[SIM_KEYS])(void *value);
    unsigned keys;
    uint8_t statics[SIM_PROCESS_BYTES];
};

/* What one run is about. The seed has drawn all of it. */
struct sim_machine {
    enum sim_strategy strategy;
    enum sim_order order;
    uint32_t switch_one_in; /* walk: steps; runs: the mean length */
    uint32_t changes;       /* priority: so many */
    uint32_t changes_within;
    uint32_t step_ns_max;
    uint32_t drain_one_in; /* steps until a store is seen */
    uint32_t drop_one_in;  /* wakes; 0: none */
    uint32_t interrupt_one_in;
    uint32_t records_max; /* of an inotify queue, then it overflows */
    uint32_t submissions_max;
    uint64_t pages_max;
    bool spins;                /* polling is worth it */
    uint32_t fail_one_in;      /* calls that can fail, of the process `failing`; 0: none */
    const char *failing;       /* its name; NULL: anybody's */
    uint64_t fail_until_steps; /* so that it comes to an end */
    uint64_t fail_from_steps;
};

struct sim {
    struct sim_machine machine;
    uint64_t seed;
    uint64_t random;
    uint64_t steps;
    uint64_t steps_max;
    int64_t now_ns;
    int64_t next_deadline_ns;
    uint64_t hash; /* of all that has happened */
    bool trace;
    bool running;
    struct sim_thread threads[SIM_THREADS];
    unsigned thread_count;
    unsigned threads_started;
    struct sim_thread *current;
    struct sim_process processes[SIM_PROCESSES];
    uint32_t pids;
    uint64_t run_left; /* SIM_RUNS */
    uint64_t change_at[8];
    uint32_t lowest;
    uint64_t alone; /* steps of the current thread in a row */

    /* what has happened */
    uint64_t deaths;
    uint64_t dropped;
    uint64_t failed_calls;
    uint64_t overflows;
    uint64_t switches;
    uint64_t late_stores;

    void (*at_rest)(void); /* nobody can go on before the clock does */
    jmp_buf over;
    char why[512]; /* "" : nothing is wrong */
};

extern struct sim sim;

/* --- the machine (machine.c) --- */

void sim_open(void); /* once */

/* Run `world` on a machine that is new. False: sim.why says what is wrong. */
bool sim_run(uint64_t seed, const struct sim_machine *machine, bool trace, void (*world)(void));

void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
#define sim_expect(condition, ...) ((condition) ? (void)0 : sim_fail(__VA_ARGS__))

uint64_t sim_random(void);
uint32_t sim_below(uint32_t limit);
static inline bool sim_one_in(uint32_t count) /* 0: never */
{
    return count != 0 && sim_below(count) == 0;
}

/* Anything may happen here. */
void sim_step(void);
#define SIM_SITE() __builtin_return_address(0)

/* For the hash and the trace: what happens, where in the program, to what, and with which value. */
void sim_note(const void *site, const char *what, uint64_t to, uint64_t value);

const char *sim_symbol(uint64_t site); /* symbols.c */

/* Sleep until roused. False: until the deadline. */
bool sim_sleep(int64_t deadline_ns, const char *for_what);
void sim_rouse(struct sim_thread *thread);

struct sim_thread *sim_thread_start(struct sim_process *process, void (*body)(void *), void *argument);
void sim_thread_join(struct sim_thread *thread);
struct sim_process *sim_process_start(const char *name, void (*body)(void *), void *argument);
void sim_process_wait(struct sim_process *process); /* until it is gone */
void sim_kill(struct sim_process *process);
static inline struct sim_process *sim_self(void)
{
    return sim.current->process;
}

/* A call of this process that may fail, fails now? */
bool sim_fails(const char *call);

/* --- memory (memory.c) --- */

static inline bool sim_is_shared(const volatile void *at)
{
    return (uintptr_t)at - SIM_SHARED_AT < SIM_SHARED_BYTES;
}
void sim_stores_seen(struct sim_thread *thread); /* all of them */
void sim_store_seen(struct sim_thread *thread);  /* one of them, which may be */

/* --- libc (libc.c) --- */

void sim_heap_reset(struct sim_process *process);
void sim_thread_ends(void); /* runs what it has asked for */

/* --- files (files.c) --- */

struct sim_record {
    int32_t watch;
    uint32_t mask;
    char name[40];
};

struct sim_inotify {
    struct sim_record records[64];
    unsigned first, count;
    int32_t watches;
    bool overflowed;
    struct sim_reactor *reader;
};

void sim_files_open(void);
void sim_files_reset(void);
void sim_process_close_files(struct sim_process *process);
void sim_process_unmap(struct sim_process *process);
unsigned sim_process_files(const struct sim_process *process);
unsigned sim_process_maps(const struct sim_process *process);
struct sim_inotify *sim_inotify_of(int fd);
bool sim_inotify_take(struct sim_inotify *inotify, struct sim_record *record);
/* The word's own name, whoever maps it where; 0: it is not mapped here. */
uint64_t sim_word_key(struct sim_process *process, const void *word);
/* For traces: "send_0+128". */
void sim_word_name(char *name, size_t bytes, uint64_t key);
/* The names in a directory, in one line; "": none, or no such directory. */
const char *sim_list(const char *path);
uint64_t sim_pages_used(void);

/* --- waiting for words (futex.c) --- */

void sim_futex_reset(void);
struct sim_reactor;
/* Is the word still the value? Then its change of hands is told to the thread, or to the reactor with this tag. */
bool sim_futex_wait(const uint32_t *word, uint32_t value, struct sim_reactor *reactor, uint64_t tag);
bool sim_futex_forget(struct sim_reactor *reactor, uint64_t tag);
void sim_futex_forget_all(struct sim_reactor *reactor);
void sim_futex_forget_thread(struct sim_thread *thread);
void sim_futex_wake(uint64_t key, unsigned count, bool may_drop);
unsigned sim_futex_waiters(void);
/* A thread that sleeps until then or longer, although its word has changed; NULL: nobody does. */
const struct sim_thread *sim_futex_overslept(int64_t at_least_ns, uint64_t *key);

/* --- reactors (reactor.c) --- */

void sim_reactors_reset(void);
void sim_reactor_complete(struct sim_reactor *reactor, uint64_t tag, int32_t result);
void sim_reactor_records(struct sim_reactor *reactor); /* there are some to be read */
void sim_process_drop_reactors(struct sim_process *process);
bool sim_reactor_rests(const void *reactor); /* it has been told all there is */

#endif

/* SPDX-License-Identifier: MIT */
/*
 * machine.c: see sim.h. Who goes on, what time it is, and who dies.
 *
 * There is no scheduler that is returned to: whoever takes a step decides who takes the next, and jumps there. When nobody
 * can, the clock is set to the next deadline.
 */
#include "sim.h"

#include <linux/futex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define NEVER INT64_MAX
#define ALONE_MAX 20000u /* steps in a row; then even the most important lets others go on */
#define STEPS_MAX 3000000u
#define LONGEST_NS 3600000000000ll
#define NOW_NS 1000000000000ll /* when each run begins */

struct sim sim;

/* The library's variables: process.ld, names.h. */
extern char sim_statics_start[], sim_statics_end[], __start_sim_thread[], __stop_sim_thread[];
static uint8_t process_new[SIM_PROCESS_BYTES], thread_new[SIM_THREAD_BYTES]; /* before main() */
static struct sim_process *statics_of;                                       /* whose variables stand there now */
static struct sim_thread *locals_of;

/* --- random ---------------------------------------------------------------------------------------------------------- */

uint64_t sim_random(void)
{
    uint64_t x = sim.random += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

uint32_t sim_below(uint32_t limit)
{
    return limit == 0 ? 0 : (uint32_t)((sim_random() >> 32) * limit >> 32);
}

/* --- what is told ---------------------------------------------------------------------------------------------------- */

extern const char __executable_start[];

static uint64_t site_of(const void *site)
{
    return site == NULL ? 0 : (uint64_t)((const char *)site - __executable_start);
}

void sim_note(const void *site, const char *what, uint64_t to, uint64_t value)
{
    uint64_t number = sim.current->number;
    uint64_t parts[] = {sim.steps << 8 | number, (uint64_t)sim.now_ns, site_of(site), to, value};
    for (unsigned i = 0; i < sizeof parts / sizeof *parts; i++)
        sim.hash = (sim.hash ^ parts[i]) * 0x9e3779b97f4a7c15ull, sim.hash ^= sim.hash >> 29;
    if (!sim.trace)
        return;
    char name[96];
    sim_word_name(name, sizeof name, to);
    printf("%8llu %12lld  %-8s %2llu  %-46s %-10s %-24s %llx\n", (unsigned long long)sim.steps,
           (long long)(sim.now_ns - NOW_NS), sim.current->process == NULL ? "-" : sim.current->process->name,
           (unsigned long long)number, sim_symbol(site_of(site)), what, name, (unsigned long long)value);
}

void sim_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sim.why, sizeof sim.why, format, arguments);
    va_end(arguments);
    sim.running = false;
    _longjmp(sim.over, 1);
}

/* --- switching ------------------------------------------------------------------------------------------------------- */

static size_t process_bytes(void)
{
    return (size_t)(sim_statics_end - sim_statics_start);
}

static size_t thread_bytes(void)
{
    return (size_t)(__stop_sim_thread - __start_sim_thread);
}

/* Its variables take their places. */
static void load_variables(struct sim_thread *t)
{
    if (t->process != NULL && t->process != statics_of) {
        if (statics_of != NULL)
            memcpy(statics_of->statics, sim_statics_start, process_bytes());
        memcpy(sim_statics_start, t->process->statics, process_bytes());
        statics_of = t->process;
    }
    if (t->process != NULL && t != locals_of) {
        if (locals_of != NULL)
            memcpy(locals_of->local, __start_sim_thread, thread_bytes());
        memcpy(__start_sim_thread, t->local, thread_bytes());
        locals_of = t;
    }
}

static void choose(void) __attribute__((noreturn));

/* Its threads wait for others' ends. */
static void rouse_world(void)
{
    for (unsigned i = 0; i < sim.thread_count; i++)
        if (sim.threads[i].process == NULL)
            sim_rouse(&sim.threads[i]);
}

static void begin(void)
{
    struct sim_thread *t = sim.current;
    t->body(t->argument);
    sim_thread_ends();
    sim_stores_seen(t);
    t->ended = true;
    t->can_run = false;
    if (t->process != NULL && t->number == t->process->main)
        t->process->ended = true;
    rouse_world();
    choose();
}

static void go_on_with(struct sim_thread *t) __attribute__((noreturn));
static void go_on_with(struct sim_thread *t)
{
    sim.switches++;
    sim.current = t;
    sim.alone = 0;
    load_variables(t);
    if (t->begun)
        _longjmp(t->at, 1);
    t->begun = true;
    static ucontext_t context; /* only to get onto the new stack */
    getcontext(&context);
    context.uc_stack.ss_sp = (void *)(uintptr_t)(SIM_STACKS_AT + (uint64_t)(t - sim.threads) * SIM_STACK_EACH);
    context.uc_stack.ss_size = SIM_STACK_EACH;
    context.uc_link = NULL;
    makecontext(&context, begin, 0);
    setcontext(&context);
    abort();
}

static void switch_to(struct sim_thread *t)
{
    if (_setjmp(sim.current->at) == 0)
        go_on_with(t);
}

/* --- who is next ----------------------------------------------------------------------------------------------------- */

static struct sim_thread *most_important(void)
{
    struct sim_thread *best = NULL;
    for (unsigned i = 0; i < sim.thread_count; i++) {
        struct sim_thread *t = &sim.threads[i];
        if (t->can_run && (best == NULL || t->priority > best->priority))
            best = t;
    }
    return best;
}

static struct sim_thread *anybody(void)
{
    struct sim_thread *able[SIM_THREADS];
    unsigned count = 0;
    for (unsigned i = 0; i < sim.thread_count; i++)
        if (sim.threads[i].can_run)
            able[count++] = &sim.threads[i];
    return count == 0 ? NULL : able[sim_below(count)];
}

static struct sim_thread *next_thread(void)
{
    if (sim.machine.strategy == SIM_PRIORITY)
        return most_important();
    sim.run_left = sim.machine.strategy == SIM_RUNS ? sim_below(2 * sim.machine.switch_one_in) : 0;
    return anybody();
}

/* Their deadlines have come. */
static void end_rests(void)
{
    int64_t next_ns = NEVER;
    for (unsigned i = 0; i < sim.thread_count; i++) {
        struct sim_thread *t = &sim.threads[i];
        if (t->can_run || t->ended)
            continue;
        if (t->deadline_ns <= sim.now_ns)
            t->can_run = t->rested = true;
        else if (t->deadline_ns < next_ns)
            next_ns = t->deadline_ns;
    }
    sim.next_deadline_ns = next_ns;
}

/* Somebody who can go on; when nobody can, it gets later. */
static struct sim_thread *somebody(void)
{
    struct sim_thread *t = next_thread();
    while (t == NULL) {
        if (sim.at_rest != NULL)
            sim.at_rest();
        end_rests();
        if (sim.next_deadline_ns == NEVER && next_thread() == NULL) {
            const char *last = "";
            for (unsigned i = 0; i < sim.thread_count; i++)
                if (!sim.threads[i].ended && sim.threads[i].waits_for != NULL)
                    last = sim.threads[i].waits_for;
            sim_fail("everybody sleeps for ever, the last for %s", last);
        }
        if (sim.next_deadline_ns != NEVER && sim.next_deadline_ns > sim.now_ns)
            sim.now_ns = sim.next_deadline_ns;
        if (sim.now_ns - NOW_NS > LONGEST_NS)
            sim_fail("it has lasted for an hour");
        end_rests();
        t = next_thread();
    }
    return t;
}

static void choose(void)
{
    go_on_with(somebody());
}

/* Does somebody else go on here? */
static bool is_over(void)
{
    if (++sim.alone > ALONE_MAX) {
        sim.current->priority = --sim.lowest;
        sim.alone = 0;
        return true;
    }
    switch (sim.machine.strategy) {
    case SIM_WALK:
        return sim_below(sim.machine.switch_one_in) == 0;
    case SIM_RUNS:
        return sim.run_left-- == 0;
    default:
        break;
    }
    for (unsigned i = 0; i < sim.machine.changes; i++)
        if (sim.change_at[i] == sim.steps)
            sim.current->priority = --sim.lowest;
    return true;
}

void sim_step(void)
{
    struct sim_thread *t = sim.current;
    if (!sim.running)
        return;
    sim.now_ns += 1 + sim_below(sim.machine.step_ns_max);
    if (++sim.steps > sim.steps_max)
        sim_fail("it does not come to an end");
    struct sim_process *p = t->process;
    if (p != NULL && !p->killed && ++p->steps == p->dies_after)
        sim_kill(p);
    if (t->ended)
        choose();
    if (sim.now_ns >= sim.next_deadline_ns)
        end_rests();
    if (sim.machine.order != SIM_STRONG && sim_one_in(sim.machine.drain_one_in))
        sim_store_seen(&sim.threads[sim_below(sim.thread_count)]);
    if (!is_over())
        return;
    struct sim_thread *next = somebody();
    if (next != t)
        switch_to(next);
}

bool sim_sleep(int64_t deadline_ns, const char *for_what)
{
    struct sim_thread *t = sim.current;
    if (!sim.running)
        return false;
    t->can_run = t->rested = false;
    t->deadline_ns = deadline_ns;
    t->waits_for = for_what;
    if (deadline_ns < sim.next_deadline_ns)
        sim.next_deadline_ns = deadline_ns;
    struct sim_thread *next = somebody();
    if (next != t)
        switch_to(next);
    t->waits_for = NULL;
    return !t->rested;
}

void sim_rouse(struct sim_thread *t)
{
    if (!t->ended)
        t->can_run = true;
}

/* --- threads and processes ------------------------------------------------------------------------------------------- */

static struct sim_thread *free_thread(void)
{
    for (unsigned i = 0; i < SIM_THREADS; i++)
        if (i >= sim.thread_count || (sim.threads[i].ended && !sim.threads[i].dying)) {
            if (&sim.threads[i] == sim.current || &sim.threads[i] == locals_of)
                continue;
            sim.thread_count = i >= sim.thread_count ? i + 1 : sim.thread_count;
            return &sim.threads[i];
        }
    sim_fail("there are too many threads");
}

struct sim_thread *sim_thread_start(struct sim_process *process, void (*body)(void *), void *argument)
{
    struct sim_thread *t = free_thread();
    *t = (struct sim_thread){.number = ++sim.threads_started,
                             .process = process,
                             .body = body,
                             .argument = argument,
                             .can_run = true,
                             .priority = 1000 + sim_below(1000)};
    memcpy(t->local, thread_new, thread_bytes());
    return t;
}

void sim_thread_join(struct sim_thread *thread)
{
    unsigned number = thread->number;
    while (!thread->ended && thread->number == number)
        sim_sleep(NEVER, "a thread's end");
}

struct sim_process *sim_process_start(const char *name, void (*body)(void *), void *argument)
{
    struct sim_process *p = NULL;
    for (unsigned i = 0; i < SIM_PROCESSES && p == NULL; i++)
        if (sim.processes[i].pid == 0)
            p = &sim.processes[i];
    if (p == NULL)
        sim_fail("there are too many processes");
    if (statics_of == p)
        statics_of = NULL;
    memset(p, 0, offsetof(struct sim_process, statics));
    p->name = name;
    p->pid = 1000 + sim.pids++;
    memcpy(p->statics, process_new, process_bytes());
    sim_heap_reset(p);
    p->main = sim_thread_start(p, body, argument)->number;
    return p;
}

/* A killed thread goes nowhere any more; what it has stored is seen in the end. */
static void stop_threads(struct sim_process *p)
{
    for (unsigned i = 0; i < sim.thread_count; i++) {
        struct sim_thread *t = &sim.threads[i];
        if (t->process != p || t->ended)
            continue;
        sim_stores_seen(t);
        t->ended = t->dying = true;
        t->can_run = false;
    }
}

/* Until then it still stands among those who wait, and may be given a wake. */
static void end_thread(struct sim_thread *t)
{
    sim_step();
    sim_futex_forget_thread(t);
    for (unsigned i = 0; i < t->robust_count; i++) {
        sim_step();
        uint32_t *at = t->robust[i], word = *at;
        uint64_t key = sim_word_key(t->process, at);
        *at = (word & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
        sim_note(NULL, "died", key, *at);
        if ((word & FUTEX_WAITERS) != 0)
            sim_futex_wake(key, 1, false);
    }
    t->dying = false;
}

/* As the kernel does at a process's end, whatever it is: the threads first, in any order, then the files, one by one. */
static void kernel_ends(void *argument)
{
    struct sim_process *p = argument;
    unsigned first = sim_below(SIM_THREADS);
    for (unsigned i = 0; i < SIM_THREADS; i++) {
        struct sim_thread *t = &sim.threads[(first + i) % SIM_THREADS];
        if (t->process == p && t->dying)
            end_thread(t);
    }
    sim_process_drop_reactors(p);
    sim_process_close_files(p);
    sim_process_unmap(p);
    p->gone = true;
}

void sim_kill(struct sim_process *p)
{
    if (p->killed || p->gone)
        return;
    p->killed = true;
    sim.deaths++;
    sim_note(NULL, "kill", p->pid, p->steps);
    stop_threads(p);
    sim_thread_start(NULL, kernel_ends, p);
}

void sim_process_wait(struct sim_process *p)
{
    while (!p->gone) {
        if (!p->killed && p->ended) {
            sim_expect(sim_process_files(p) == 0, "process %s leaves %u descriptors behind", p->name,
                       sim_process_files(p));
            sim_expect(sim_process_maps(p) == 0, "process %s leaves %u maps behind", p->name, sim_process_maps(p));
            sim_expect(p->heap.live == 0, "process %s leaves %u blocks of memory behind", p->name, p->heap.live);
            for (unsigned i = 0; i < sim.thread_count; i++)
                sim_expect(sim.threads[i].process != p || sim.threads[i].ended, "process %s leaves a thread behind",
                           p->name);
            kernel_ends(p);
            break;
        }
        sim_sleep(NEVER, "a process's end");
    }
    p->pid = 0;
}

bool sim_fails(const char *call)
{
    const struct sim_machine *m = &sim.machine;
    const struct sim_process *p = sim_self();
    if (m->fail_one_in == 0 || p == NULL || p->steps < m->fail_from_steps || p->steps > m->fail_until_steps)
        return false;
    if ((m->failing != NULL && strcmp(m->failing, p->name) != 0) || sim_below(m->fail_one_in) != 0)
        return false;
    sim.failed_calls++;
    sim_note(NULL, call, 0, 0);
    return true;
}

/* --- a run ----------------------------------------------------------------------------------------------------------- */

static void reserve(uint64_t at, uint64_t bytes, int protection)
{
    void *map = mmap((void *)(uintptr_t)at, bytes, protection,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (map != (void *)(uintptr_t)at) {
        perror("sim: the addresses it needs are taken");
        exit(1);
    }
}

void sim_open(void)
{
    reserve(SIM_SHARED_AT, SIM_SHARED_BYTES, PROT_NONE);
    reserve(SIM_HEAP_AT, SIM_PROCESSES * SIM_HEAP_EACH, PROT_READ | PROT_WRITE);
    reserve(SIM_STACKS_AT, SIM_THREADS * SIM_STACK_EACH, PROT_READ | PROT_WRITE);
    if (process_bytes() > SIM_PROCESS_BYTES || thread_bytes() > SIM_THREAD_BYTES) {
        fprintf(stderr, "sim: no room for the library's variables, %zu and %zu bytes\n", process_bytes(),
                thread_bytes());
        exit(1);
    }
    memcpy(process_new, sim_statics_start, process_bytes());
    memcpy(thread_new, __start_sim_thread, thread_bytes());
    sim_files_open();
}

static void reset(uint64_t seed, const struct sim_machine *machine, bool trace)
{
    for (unsigned i = 0; i < SIM_PROCESSES; i++)
        sim_process_unmap(&sim.processes[i]);
    statics_of = NULL;
    locals_of = NULL;
    memset(&sim, 0, sizeof sim);
    sim.machine = *machine;
    sim.seed = seed;
    sim.random = seed * 0xd1342543de82ef95ull + 1;
    sim.now_ns = NOW_NS;
    sim.next_deadline_ns = NEVER;
    sim.steps_max = STEPS_MAX;
    sim.trace = trace;
    sim.lowest = 1000;
    sim.thread_count = 1;
    sim.threads[0] = (struct sim_thread){.can_run = true, .begun = true, .priority = 500};
    sim.current = &sim.threads[0];
    for (unsigned i = 0; i < machine->changes && i < 8; i++)
        sim.change_at[i] = 1 + sim_below(machine->changes_within);
    sim_files_reset();
    sim_futex_reset();
    sim_reactors_reset();
}

bool sim_run(uint64_t seed, const struct sim_machine *machine, bool trace, void (*world)(void))
{
    reset(seed, machine, trace);
    if (_setjmp(sim.over) != 0)
        return false;
    sim.running = true;
    world();
    sim.running = false;
    return true;
}

/* SPDX-License-Identifier: MIT */
/* libc.c: the heap and the threads of a simulated process: names.h. What is allocated is filled, so that it is the same in
   every run; what is freed too, so that whoever still reads it finds nonsense. */
#include "names.h"

#include <errno.h>

#include "sim.h"

#define NEW_BYTE 0xa5
#define FREED_BYTE 0xdd
#define CLASSES 16u
#define CLASS_BYTES_MIN 32u

/* --- the heap -------------------------------------------------------------------------------------------------------- */

struct head {
    uint32_t class;
    uint32_t bytes;
    uint32_t magic;
    uint32_t reserved[13]; /* what follows is at the start of a cache line */
};
#define LIVE 0x6576696cu

static uint8_t *heap_at(const struct sim_process *p)
{
    return (uint8_t *)(uintptr_t)(SIM_HEAP_AT + (uint64_t)(p - sim.processes) * SIM_HEAP_EACH);
}

void sim_heap_reset(struct sim_process *p)
{
    p->heap = (struct sim_heap){0};
}

static struct head *new_block(struct sim_heap *heap, uint32_t class, size_t bytes)
{
    struct head *head = heap->free[class];
    if (head != NULL) {
        heap->free[class] = *(void **)(head + 1);
        return head;
    }
    size_t all = sizeof *head + ((size_t)CLASS_BYTES_MIN << class);
    all = (all + 63) & ~(size_t)63;
    if (heap->used + all > SIM_HEAP_EACH)
        sim_fail("process %s uses too much memory: %zu bytes more", sim_self()->name, bytes);
    head = (struct head *)(void *)(heap_at(sim_self()) + heap->used);
    heap->used += all;
    return head;
}

void *sim_malloc(size_t bytes)
{
    uint32_t class = 0;
    if (sim_fails("malloc"))
        return NULL;
    while (((size_t)CLASS_BYTES_MIN << class) < bytes)
        class ++;
    sim_expect(class < CLASSES, "process %s asks for %zu bytes", sim_self()->name, bytes);
    struct head *head = new_block(&sim_self()->heap, class, bytes);
    *head = (struct head){.class = class, .bytes = (uint32_t)bytes, .magic = LIVE};
    sim_self()->heap.live++;
    memset(head + 1, NEW_BYTE, bytes);
    return head + 1;
}

void sim_free(void *block)
{
    struct sim_heap *heap = &sim_self()->heap;
    if (block == NULL)
        return;
    struct head *head = (struct head *)block - 1;
    sim_expect((uint8_t *)block - heap_at(sim_self()) < (int64_t)SIM_HEAP_EACH && head->magic == LIVE,
               "process %s frees what is not allocated", sim_self()->name);
    sim_stores_seen(sim.current);
    memset(block, FREED_BYTE, head->bytes);
    head->magic = 0;
    *(void **)block = heap->free[head->class];
    heap->free[head->class] = head;
    heap->live--;
}

void *sim_calloc(size_t count, size_t bytes)
{
    void *block = sim_malloc(count * bytes);
    return block == NULL ? NULL : memset(block, 0, count * bytes);
}

void *sim_realloc(void *block, size_t bytes)
{
    void *fresh = sim_malloc(bytes);
    if (fresh == NULL || block == NULL)
        return fresh;
    size_t before = ((struct head *)block - 1)->bytes;
    memcpy(fresh, block, before < bytes ? before : bytes);
    sim_free(block);
    return fresh;
}

void *sim_aligned_alloc(size_t alignment, size_t bytes)
{
    sim_expect(alignment <= sizeof(struct head), "an alignment of %zu", alignment);
    return sim_malloc(bytes);
}

int sim_posix_memalign(void **out, size_t alignment, size_t bytes)
{
    *out = sim_aligned_alloc(alignment, bytes);
    return *out == NULL ? ENOMEM : 0;
}

void sim_abort(void)
{
    sim_fail("process %s has aborted: an INVARIANT does not hold, or it has lost a thread", sim_self()->name);
}

/* --- threads --------------------------------------------------------------------------------------------------------- */

struct start {
    void *(*body)(void *);
    void *argument;
};

static void run(void *argument)
{
    struct start start = *(struct start *)argument;
    sim_free(argument);
    start.body(start.argument);
}

int sim_pthread_create(pthread_t *out, const pthread_attr_t *attributes, void *(*body)(void *), void *argument)
{
    (void)attributes;
    struct start *start = sim_malloc(sizeof *start);
    if (start == NULL)
        return EAGAIN;
    *start = (struct start){body, argument};
    struct sim_thread *t = sim_thread_start(sim_self(), run, start);
    *out = t->number;
    sim_step();
    return 0;
}

static struct sim_thread *find(pthread_t number)
{
    for (unsigned i = 0; i < sim.thread_count; i++)
        if (sim.threads[i].number == number && !sim.threads[i].ended)
            return &sim.threads[i];
    return NULL;
}

int sim_pthread_join(pthread_t thread, void **result)
{
    struct sim_thread *t;
    (void)result;
    sim_stores_seen(sim.current);
    while ((t = find(thread)) != NULL) {
        sim.current->blocked_on = t;
        sim_sleep(INT64_MAX, "a thread's end");
    }
    sim.current->blocked_on = NULL;
    return 0;
}

pthread_t sim_pthread_self(void)
{
    return sim.current->number;
}

static void rouse_blocked(const void *on)
{
    for (unsigned i = 0; i < sim.thread_count; i++)
        if (sim.threads[i].process == sim_self() && sim.threads[i].blocked_on == on)
            sim_rouse(&sim.threads[i]);
}

void sim_thread_ends(void)
{
    struct sim_thread *t = sim.current;
    for (unsigned i = 0; t->process != NULL && i < t->process->keys; i++)
        if (t->specific[i] != NULL)
            t->process->key_ends[i](t->specific[i]);
    rouse_blocked(t);
}

int sim_pthread_once(pthread_once_t *once, void (*body)(void))
{
    if (*once == 0) { /* nobody in between: body() is short */
        *once = 1;
        body();
    }
    return 0;
}

int sim_pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
    (void)prepare, (void)parent, (void)child;
    return 0;
}

/* --- mutexes: the first word is the owner, as the kernel wants it of a robust one ------------------------------------- */

#define WAITERS 0x80000000u
#define OWNER 0x3fffffffu

static uint32_t *word_of(pthread_mutex_t *mutex)
{
    return (uint32_t *)(void *)mutex;
}

int sim_pthread_mutexattr_init(pthread_mutexattr_t *attributes)
{
    memset(attributes, 0, sizeof *attributes);
    return 0;
}

int sim_pthread_mutexattr_destroy(pthread_mutexattr_t *attributes)
{
    (void)attributes;
    return 0;
}

int sim_pthread_mutexattr_setpshared(pthread_mutexattr_t *attributes, int shared)
{
    (void)attributes, (void)shared;
    return 0;
}

int sim_pthread_mutexattr_setrobust(pthread_mutexattr_t *attributes, int robust)
{
    *(int *)(void *)attributes = robust == PTHREAD_MUTEX_ROBUST;
    return 0;
}

int sim_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes)
{
    sim_stores_seen(sim.current);
    sim_step();
    memset(mutex, 0, sizeof *mutex);
    word_of(mutex)[1] = attributes != NULL && *(const int *)(const void *)attributes != 0;
    return 0;
}

int sim_pthread_mutex_destroy(pthread_mutex_t *mutex)
{
    sim_expect(*word_of(mutex) == 0, "process %s destroys a mutex that is held", sim_self()->name);
    return 0;
}

int sim_pthread_mutex_lock(pthread_mutex_t *mutex)
{
    struct sim_thread *t = sim.current;
    uint32_t *word = word_of(mutex);
    sim_stores_seen(t);
    sim_step();
    while (*word != 0) {
        sim_expect((*word & OWNER) != t->number, "process %s takes a mutex twice", t->process->name);
        t->blocked_on = mutex;
        sim_sleep(INT64_MAX, "a mutex");
        t->blocked_on = NULL;
    }
    *word = t->number;
    if (word[1] != 0) {
        sim_expect(t->robust_count < SIM_ROBUST, "too many robust mutexes");
        t->robust[t->robust_count++] = word;
    }
    return 0;
}

int sim_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    struct sim_thread *t = sim.current;
    uint32_t *word = word_of(mutex), before = *word;
    sim_stores_seen(t);
    sim_expect((before & OWNER) == t->number, "process %s unlocks a mutex that it does not hold", t->process->name);
    for (unsigned i = 0; i < t->robust_count; i++)
        if (t->robust[i] == word)
            t->robust[i--] = t->robust[--t->robust_count];
    *word = 0;
    rouse_blocked(mutex);
    sim_step();
    if ((before & WAITERS) != 0)
        sim_futex_wake(sim_word_key(t->process, word), 1, true);
    return 0;
}

int sim_pthread_cond_init(pthread_cond_t *condition, const pthread_condattr_t *attributes)
{
    (void)condition, (void)attributes;
    return 0;
}

int sim_pthread_cond_destroy(pthread_cond_t *condition)
{
    (void)condition;
    return 0;
}

int sim_pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    struct sim_thread *t = sim.current;
    sim_stores_seen(t);
    *word_of(mutex) = 0;
    rouse_blocked(mutex);
    t->blocked_on = condition;
    sim_sleep(INT64_MAX, "a condition");
    t->blocked_on = NULL;
    return sim_pthread_mutex_lock(mutex);
}

int sim_pthread_cond_broadcast(pthread_cond_t *condition)
{
    sim_stores_seen(sim.current);
    rouse_blocked(condition);
    sim_step();
    return 0;
}

int sim_pthread_key_create(pthread_key_t *key, void (*ends)(void *))
{
    struct sim_process *p = sim_self();
    if (p->keys == SIM_KEYS)
        return EAGAIN;
    *key = p->keys;
    p->key_ends[p->keys++] = ends;
    return 0;
}

int sim_pthread_setspecific(pthread_key_t key, const void *value)
{
    sim.current->specific[key] = (void *)(uintptr_t)value;
    return 0;
}

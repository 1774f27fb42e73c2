/* SPDX-License-Identifier: MIT */
/* Tests of server/obituary.c: what clients read of a shard's life, its clean end, and its death. */
#include "server/obituary.h"

#include <belfry/abi.h>
#include <belfry/belfry.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/order.h"
#include "base/os.h"
#include "expect.h"
#include "fixture.h"

static uint32_t *obituary;

static void make_word(void)
{
    obituary = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    expect(obituary != MAP_FAILED);
}

TestSuite(obituary, .init = make_word, .timeout = 60);

static bool is_alive(uint32_t word)
{
    return word != BELFRY_OBITUARY_STOPPED && (word & BELFRY_OBITUARY_DIED) == 0;
}

Test(obituary, reads_as_alive_from_open_to_close)
{
    expect_rc(bf_obituary_open(obituary), 0);
    uint32_t word = load_acquire(obituary);
    expect(is_alive(word));
    expect((word & FUTEX_WAITERS) != 0); /* else the kernel would wake nobody */
    expect_eq(word & FUTEX_TID_MASK, gettid());
    bf_obituary_close(obituary);
    expect(load_acquire(obituary) == BELFRY_OBITUARY_STOPPED);
}

static uint32_t ready;

static void *wait_for_end(void *argument)
{
    (void)argument;
    __atomic_add_fetch(&ready, 1, __ATOMIC_ACQ_REL);
    for (;;) { /* as client/wait.c: look, and wait for a change of what was seen */
        uint32_t word = load_acquire(obituary);
        if (!is_alive(word)) {
            bf_os_wake(obituary);
            return NULL;
        }
        struct bf_os_wait wait = {obituary, word};
        if (bf_os_wait(&wait, 1, bf_os_now_ns() + FIXTURE_PATIENCE_MS * 1000000ll) != 0)
            return (void *)1;
    }
}

static void expect_all_told(void (*end)(void))
{
    pthread_t threads[8];
    void *late;
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, wait_for_end, NULL);
    expect(eventually(load_acquire(&ready) == 8));
    fixture_pause();
    end();
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], &late);
        expect(late == NULL);
    }
}

static void close_it(void)
{
    bf_obituary_close(obituary);
}

Test(obituary, wakes_all_at_a_clean_end)
{
    expect_rc(bf_obituary_open(obituary), 0);
    expect_all_told(close_it);
}

static uint32_t may_die;

static void *open_and_die(void *argument)
{
    (void)argument;
    bf_obituary_open(obituary);
    while (load_acquire(&may_die) == 0)
        fixture_pause();
    return NULL;
}

static pthread_t mortal;

static void let_die(void)
{
    store_release(&may_die, 1);
    pthread_join(mortal, NULL);
}

Test(obituary, tells_all_of_a_thread_that_ended_without_closing_it)
{
    pthread_create(&mortal, NULL, open_and_die, NULL);
    expect(eventually((load_acquire(obituary) & FUTEX_WAITERS) != 0));
    expect_all_told(let_die);
    expect((load_acquire(obituary) & BELFRY_OBITUARY_DIED) != 0);
}

static void open_and_wait(void *context)
{
    (void)context;
    bf_obituary_open(obituary);
    for (;;)
        pause();
}

static pid_t victim;

static void kill_it(void)
{
    fixture_kill(victim);
}

Test(obituary, tells_all_of_a_process_that_was_killed)
{
    victim = fixture_child(open_and_wait, NULL);
    expect(eventually((load_acquire(obituary) & FUTEX_WAITERS) != 0));
    expect_all_told(kill_it);
    expect((load_acquire(obituary) & BELFRY_OBITUARY_DIED) != 0);
}

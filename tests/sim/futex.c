/* SPDX-License-Identifier: MIT */
/*
 * futex.c: who waits for which word. A word is known by the file that it stands in, whoever maps it where.
 *
 * A wake can be lost on purpose (drop_one_in): then only clocks help, and the library must count it. Without that nobody
 * may sleep beside a word that has changed, once nobody else can go on: sim_futex_overslept().
 */
#include <errno.h>
#include <string.h>

#include "base/os.h"
#include "sim.h"

struct waiter {
    uint64_t key; /* 0: free */
    const uint32_t *word;
    uint32_t value;
    struct sim_thread *thread; /* or */
    struct sim_reactor *reactor;
    uint64_t tag;
};

static struct waiter waiters[SIM_WAITERS]; /* oldest first */
static unsigned waiter_count;

void sim_futex_reset(void)
{
    waiter_count = 0;
}

static void remove_waiter(unsigned index)
{
    waiter_count--;
    memmove(&waiters[index], &waiters[index + 1], (waiter_count - index) * sizeof *waiters);
}

bool sim_futex_wait(const uint32_t *word, uint32_t value, struct sim_reactor *reactor, uint64_t tag)
{
    if (*word != value)
        return false;
    if (waiter_count == SIM_WAITERS)
        sim_fail("too many wait for words");
    waiters[waiter_count++] = (struct waiter){.key = sim_word_key(sim_self(), word),
                                              .word = word,
                                              .value = value,
                                              .thread = reactor == NULL ? sim.current : NULL,
                                              .reactor = reactor,
                                              .tag = tag};
    return true;
}

bool sim_futex_forget(struct sim_reactor *reactor, uint64_t tag)
{
    for (unsigned i = 0; i < waiter_count; i++)
        if (waiters[i].reactor == reactor && waiters[i].tag == tag) {
            remove_waiter(i);
            return true;
        }
    return false;
}

void sim_futex_forget_all(struct sim_reactor *reactor)
{
    for (unsigned i = waiter_count; i-- > 0;)
        if (waiters[i].reactor == reactor)
            remove_waiter(i);
}

void sim_futex_forget_thread(struct sim_thread *thread)
{
    for (unsigned i = waiter_count; i-- > 0;)
        if (waiters[i].thread == thread)
            remove_waiter(i);
}

void sim_futex_wake(uint64_t key, unsigned count, bool may_drop)
{
    if (may_drop && key >= SIM_FILES_AT && sim_one_in(sim.machine.drop_one_in)) { /* others can get at that word */
        sim.dropped++;
        sim_note(NULL, "dropped", key, 0);
        return;
    }
    for (unsigned i = 0; i < waiter_count && count > 0;) {
        if (waiters[i].key != key) {
            i++;
            continue;
        }
        struct waiter w = waiters[i];
        remove_waiter(i);
        count--;
        if (w.thread != NULL)
            sim_rouse(w.thread);
        else
            sim_reactor_complete(w.reactor, w.tag, 0);
    }
}

unsigned sim_futex_waiters(void)
{
    return waiter_count;
}

const struct sim_thread *sim_futex_overslept(int64_t at_least_ns, uint64_t *key)
{
    for (unsigned i = 0; i < waiter_count; i++) {
        const struct waiter *w = &waiters[i];
        if (w->thread == NULL || w->thread->can_run || w->thread->deadline_ns < at_least_ns)
            continue;
        if (*w->word != w->value) {
            *key = w->key;
            return w->thread;
        }
    }
    return NULL;
}

/* --- os.h ------------------------------------------------------------------------------------------------------------ */

void bf_os_wake(const uint32_t *word)
{
    sim_stores_seen(sim.current);
    sim_step();
    uint64_t key = sim_word_key(sim_self(), word);
    sim_note(SIM_SITE(), "wake", key, 0);
    sim_futex_wake(key, UINT32_MAX, true);
}

int bf_os_wait(const struct bf_os_wait *waits, unsigned count, int64_t deadline_ns)
{
    struct sim_thread *t = sim.current;
    sim_stores_seen(t);
    sim_step();
    if (count == 0 || count > BF_OS_WAITS_MAX)
        return -EINVAL;
    if (sim_one_in(sim.machine.interrupt_one_in))
        return 0;
    for (unsigned i = 0; i < count; i++)
        if (!sim_futex_wait(waits[i].word, waits[i].value, NULL, 0)) {
            sim_futex_forget_thread(t);
            return 0;
        }
    sim_note(SIM_SITE(), "wait", sim_word_key(sim_self(), waits[0].word), waits[0].value);
    bool woken = sim_sleep(deadline_ns, "a word");
    sim_futex_forget_thread(t);
    sim_note(SIM_SITE(), woken ? "woken" : "too late", sim_word_key(sim_self(), waits[0].word), 0);
    return woken ? 0 : -ETIMEDOUT;
}

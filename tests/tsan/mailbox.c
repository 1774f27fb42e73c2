/* SPDX-License-Identifier: MIT */
/*
 * mailbox.c: many threads post, one takes and sleeps, as other threads of a server and its shard do; for ThreadSanitizer
 * to watch.
 *
 * Letters are written by plain stores and freed by their reader. The sleeper goes by the shard's rule (server/sleep.c):
 * say it, read the bell, fence, look once more, wait; but with a futex of its own instead of a uring's. A wake that was lost
 * shows as a sleep that runs out beside a letter.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "server/mailbox.h"
#include "verdict.h"

#define POSTERS 4u
#define LETTERS 30000u /* of each */
#define LOST_NS 2000000000ll

struct note {
    struct mailbox_letter letter;
    uint32_t poster, number;
    uint64_t words[6];
};

static struct bf_mailbox box;
static uint32_t posters_left;
static uint32_t accepted, refused;

/* The reader's own. */
static struct {
    uint32_t next[POSTERS], out_of_order, torn, delivered;
    unsigned sleeps, lost;
} seen;

static uint64_t word_of(uint32_t poster, uint32_t number, uint32_t i)
{
    return (uint64_t)poster << 48 ^ (uint64_t)number * 0x9e3779b97f4a7c15ull ^ i;
}

static void deliver(struct bf_shard *shard, struct mailbox_letter *letter)
{
    struct note *note = (struct note *)letter;
    (void)shard;
    seen.out_of_order += note->number < seen.next[note->poster];
    seen.next[note->poster] = note->number + 1;
    for (uint32_t i = 0; i < 6; i++)
        seen.torn += note->words[i] != word_of(note->poster, note->number, i);
    seen.delivered++;
    free(note);
}

static void *post(void *context)
{
    uint32_t poster = (uint32_t)(uintptr_t)context;
    for (uint32_t number = 0; number < LETTERS; number++) {
        struct note *note = malloc(sizeof *note);
        *note = (struct note){.letter.deliver = deliver, .poster = poster, .number = number};
        for (uint32_t i = 0; i < 6; i++)
            note->words[i] = word_of(poster, number, i);
        if (bf_mailbox_put(&box, &note->letter)) {
            add_release(&accepted, 1);
        } else {
            add_release(&refused, 1);
            free(note);
        }
        for (int i = 0; number % 64 == 0 && i < 100 && load_relaxed(&box.asleep) == 0; i++)
            sched_yield(); /* let the reader fall asleep now and then */
    }
    sub_acq_rel(&posters_left, 1);
    bf_mailbox_ring(&box);
    return NULL;
}

static unsigned deliver_all(struct mailbox_letter *letter)
{
    unsigned count = 0;
    for (; letter != NULL; count++) {
        struct mailbox_letter *next = letter->next;
        letter->deliver(NULL, letter);
        letter = next;
    }
    return count;
}

static void sleep_once(void)
{
    store_relaxed(&box.asleep, 1);
    struct bf_os_wait wait = {&box.bell, load_acquire(&box.bell)};
    full_fence(); /* partner: bf_mailbox_put */
    if (mailbox_is_empty(&box) && load_acquire(&posters_left) > 0) {
        seen.sleeps++;
        int rc = bf_os_wait(&wait, 1, bf_os_now_ns() + LOST_NS);
        seen.lost += rc == -ETIMEDOUT && !mailbox_is_empty(&box);
    }
    store_relaxed(&box.asleep, 0);
}

/* Take until all posters are done, or `close_after` letters have come: then the rest is refused. */
static void read_all(uint32_t close_after)
{
    while (seen.delivered < close_after) {
        if (deliver_all(bf_mailbox_take(&box)) > 0)
            continue;
        if (load_acquire(&posters_left) == 0 && mailbox_is_empty(&box))
            break;
        sleep_once();
    }
    deliver_all(bf_mailbox_close(&box));
}

static void run(struct verdict *v, uint32_t close_after)
{
    pthread_t threads[POSTERS];
    memset(&seen, 0, sizeof seen);
    accepted = refused = 0;
    posters_left = POSTERS;
    bf_mailbox_open(&box);
    for (uintptr_t i = 0; i < POSTERS; i++)
        pthread_create(&threads[i], NULL, post, (void *)i);
    read_all(close_after);
    for (int i = 0; i < (int)POSTERS; i++)
        pthread_join(threads[i], NULL);
    printf("%u letters accepted, %u refused, %u sleeps\n", accepted, refused, seen.sleeps);
    verdict_on(v, seen.delivered == accepted, "%u letters delivered, %u accepted", seen.delivered, accepted);
    verdict_on(v, accepted + refused == POSTERS * LETTERS, "%u posts answered", accepted + refused);
    verdict_on(v, seen.out_of_order == 0 && seen.torn == 0, "%u out of order, %u torn", seen.out_of_order, seen.torn);
    verdict_on(v, seen.sleeps > 0 && seen.lost == 0, "%u sleeps, %u wakes lost", seen.sleeps, seen.lost);
}

int main(void)
{
    struct verdict v = {0};
    run(&v, UINT32_MAX);
    run(&v, POSTERS * LETTERS / 2);
    verdict_on(&v, refused > 0, "a closed mailbox refused nothing");
    return verdict_close(&v);
}

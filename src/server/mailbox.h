/* SPDX-License-Identifier: MIT */
/*
 * mailbox.h: how other threads of the server's process reach a shard: work to run, answers to deferred requests.
 *
 * A stack of letters: any thread pushes one with a compare-and-swap, the shard takes all with one exchange and turns
 * them round. Nothing is ever popped singly, so there is no ABA. Letters of one thread arrive in its order.
 *
 * Its bell follows the rule of every doorbell: put, full fence, then ask whether the shard sleeps. `asleep` is the
 * shard's word in the lobby once more, because the lobby may be unmapped while somebody still holds the server.
 *
 * A closed mailbox refuses letters. What it took before is delivered, each letter exactly once.
 */
#ifndef BF_SERVER_MAILBOX_H
#define BF_SERVER_MAILBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/order.h"

struct bf_shard;

/* What is sent begins with this. */
struct mailbox_letter {
    struct mailbox_letter *next;
    /* On the shard's thread. The letter is its own to free. */
    void (*deliver)(struct bf_shard *shard, struct mailbox_letter *letter);
};

struct bf_mailbox {
    struct mailbox_letter *newest; /* any thread: the stack; or MAILBOX_CLOSED */
    uint32_t bell;                 /* any thread: a futex word, counts rings */
    uint32_t asleep;               /* the shard: 1 = about to sleep or asleep */
};

#define MAILBOX_CLOSED ((struct mailbox_letter *)1)

/* Before the shard's thread starts. */
void bf_mailbox_open(struct bf_mailbox *box);

/* No more letters. Returns those that are there, oldest first. The shard. */
struct mailbox_letter *bf_mailbox_close(struct bf_mailbox *box);

/* Any thread. False: it is closed, and the letter still the caller's. */
bool bf_mailbox_put(struct bf_mailbox *box, struct mailbox_letter *letter);

/* Ring although nothing was put. Any thread, any signal handler. */
void bf_mailbox_ring(struct bf_mailbox *box);

/* All letters, oldest first; NULL: none. The shard. */
struct mailbox_letter *bf_mailbox_take(struct bf_mailbox *box);

/* The shard's last look, and every turn's first. */
static inline bool mailbox_is_empty(const struct bf_mailbox *box)
{
    const struct mailbox_letter *newest = load_relaxed(&box->newest);
    return newest == NULL || newest == MAILBOX_CLOSED;
}

#endif

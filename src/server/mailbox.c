/* SPDX-License-Identifier: MIT */
/* mailbox.c: see mailbox.h. */
#include "server/mailbox.h"

#include "base/os.h"

void bf_mailbox_open(struct bf_mailbox *box)
{
    store_relaxed(&box->asleep, 0);
    store_release(&box->newest, NULL);
}

static struct mailbox_letter *oldest_first(struct mailbox_letter *newest)
{
    struct mailbox_letter *oldest = NULL;
    while (newest != NULL && newest != MAILBOX_CLOSED) {
        struct mailbox_letter *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

struct mailbox_letter *bf_mailbox_close(struct bf_mailbox *box)
{
    return oldest_first(exchange_acquire(&box->newest, MAILBOX_CLOSED));
}

struct mailbox_letter *bf_mailbox_take(struct bf_mailbox *box)
{
    if (mailbox_is_empty(box))
        return NULL;
    return oldest_first(exchange_acquire(&box->newest, NULL)); /* partner: bf_mailbox_put. Only the shard closes it */
}

void bf_mailbox_ring(struct bf_mailbox *box)
{
    add_release(&box->bell, 1); /* then the wake, so that a wait armed in between returns at once */
    bf_os_wake(&box->bell);
}

bool bf_mailbox_put(struct bf_mailbox *box, struct mailbox_letter *letter)
{
    struct mailbox_letter *newest = load_relaxed(&box->newest);
    do {
        if (newest == MAILBOX_CLOSED)
            return false;
        letter->next = newest;
    } while (!replace_release(&box->newest, &newest, letter)); /* partner: bf_mailbox_take */
    full_fence(); /* the letter is visible before we ask who sleeps; partner: sleep.c, bf_shard_sleep */
    if (load_relaxed(&box->asleep) != 0)
        bf_mailbox_ring(box);
    return true;
}

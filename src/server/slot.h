/* SPDX-License-Identifier: MIT */
/*
 * slot.h: a numbered place for one client, as the shard that owns it sees it.
 *
 *            pool: warm it                    a lock file appears             lock held and hello there
 *     COLD ---------------> MAKING -> WARM ---------------------> CLAIMED -----------------------------> OPEN
 *       |                     ^  ^                                  |                                     |
 *       | a lock file appears |  | new files, generation + 1        | refused, given up                   | left, died,
 *       +---------------------+  |                                  v                                     v stopped
 *                                +------------------------------ ENDING <----------------------------------+
 *
 * ENDING lasts until the wait on the slot's doorbell is over; only then are its segments unmapped.
 */
#ifndef BF_SERVER_SLOT_H
#define BF_SERVER_SLOT_H

#include <belfry/abi.h>
#include <belfry/server.h>

#define SLOT_NOT_HOT UINT32_MAX

enum slot_phase {
    SLOT_COLD,    /* no segments */
    SLOT_MAKING,  /* segments are being made; events about it can wait */
    SLOT_WARM,    /* segments are there, nobody has it */
    SLOT_CLAIMED, /* somebody's lock file is there; not yet a conn */
    SLOT_OPEN,    /* a conn */
    SLOT_ENDING,  /* its end has been told */
};

/* What a slot can be waiting for; a slot can be in several queues, in each once. */
enum slot_queue_kind {
    SLOT_QUEUE_DIRTY,  /* something happened to its lock file */
    SLOT_QUEUE_LATER,  /* look again at look_at_ns */
    SLOT_QUEUE_DEMAND, /* a client waits for its segments */
    SLOT_QUEUE_ENDED,  /* to be recycled */
    SLOT_QUEUES,
};

/* Of a claim beyond its user's share. */
enum slot_refusal {
    REFUSAL_NONE,
    REFUSAL_DUE,  /* it is to be refused, once there is time for that */
    REFUSAL_PAID, /* there is: at the next look */
};

struct bf_slot {
    uint32_t number;     /* in the instance */
    uint32_t index;      /* in the shard */
    uint32_t generation; /* of the present or next tenant */
    enum slot_phase phase;

    const struct belfry_abi_send *send; /* NULL: not mapped */
    struct belfry_abi_recv *recv;
    struct belfry_abi_slot *lobby;
    struct belfry_conn *conn; /* OPEN only */

    /* the claim: bound to an inode, not to a name */
    uint64_t device;
    uint64_t inode;
    uint32_t uid;
    uint32_t gid;
    bool counted;   /* in its user's quota */
    bool foreign;   /* of another user than ours */
    bool protected; /* foreign, and its _send may only be appended to */
    bool seen_locked;
    enum slot_refusal refusal;
    int64_t claimed_ns;
    int64_t look_at_ns;
    uint32_t looks;
    int64_t looked_ns; /* and found as before, though an event said that it is over: */
    uint32_t vain;     /* so many times in a row */

    /* the doorbell */
    bool wait_armed; /* prepared or in the kernel */
    uint32_t wait_value;
    uint32_t hot_index;
    uint32_t quiet; /* times it was found without a message when the shard asked */
    bool active;    /* had a message since */
    bool touched;   /* something of this turn must be told */
    bool heard;     /* rung, and nothing found behind it yet */
    bool muted;     /* rang for nothing too often: looked at by the clock for a while */
    uint32_t empty; /* rings in a row with nothing behind them */
    bool hinted;    /* an event said "closed" and the lock was still held */
    bool suspected; /* the sweep found an unrung entry at suspected_at */
    uint64_t suspected_at;

    uint32_t faulted; /* zeros stand for one of its segments: guard.c, perhaps on another thread */

    bool queued[SLOT_QUEUES];
    struct bf_slot *next[SLOT_QUEUES];
};

struct bf_slot_queue {
    enum slot_queue_kind kind;
    struct bf_slot *first;
    struct bf_slot *last;
};

static inline void slot_queue_put(struct bf_slot_queue *q, struct bf_slot *slot)
{
    if (slot->queued[q->kind])
        return;
    slot->queued[q->kind] = true;
    slot->next[q->kind] = NULL;
    if (q->last != NULL)
        q->last->next[q->kind] = slot;
    else
        q->first = slot;
    q->last = slot;
}

static inline struct bf_slot *slot_queue_take(struct bf_slot_queue *q)
{
    struct bf_slot *slot = q->first;
    if (slot == NULL)
        return NULL;
    q->first = slot->next[q->kind];
    if (q->first == NULL)
        q->last = NULL;
    slot->queued[q->kind] = false;
    return slot;
}

#endif

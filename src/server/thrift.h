/* SPDX-License-Identifier: MIT */
/*
 * thrift.h: how much of a turn conns may have that never stop, while others ask for little.
 *
 * A turn reads up to a budget of each conn: sixteen messages, which pay for what looking at a conn costs. But whoever
 * asks once and waits, waits for everybody else's sixteen. So a busy shard looks back at each tick: which conns were cut
 * off by their budget with more behind it, and did others speak that never were? Then the former's budget is halved, as
 * often as it takes until they have some eight messages of each turn together, but three times at most. Where all go on
 * without end, or nobody does, the budget is whole: then nobody would gain.
 *
 * One thread: the shard's.
 */
#ifndef BF_SERVER_THRIFT_H
#define BF_SERVER_THRIFT_H

#include <stdint.h>

struct bf_shard;

#define THRIFT_MESSAGE 4096                 /* what a message costs of a budget, and its bytes besides */
#define THRIFT_BUDGET (16 * THRIFT_MESSAGE) /* of a conn in a turn; as bytes some 50 us of copying */

/* A conn's. */
struct bf_thrift {
    int32_t budget;
    uint32_t cut_offs;    /* since the last look */
    uint64_t looked_from; /* where its ring had been read to by then */
};

/* At a tick, which comes every `turns` turns: set the budgets of the hot conns. */
void bf_thrift_look(struct bf_shard *shard, uint32_t turns);

#endif

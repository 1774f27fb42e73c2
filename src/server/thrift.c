/* SPDX-License-Identifier: MIT */
/* thrift.c: see thrift.h. */
#include "server/thrift.h"

#include "base/check.h"
#include "server/conn.h"

#define SHIFT_MAX 3u

/* By how much the budget of those who were cut off is divided: as many of them at a time as `conns`. */
static uint32_t shift_for(uint64_t conns)
{
    return conns <= 1 ? 1 : conns == 2 ? 2 : SHIFT_MAX;
}

void bf_thrift_look(struct bf_shard *shard, uint32_t turns)
{
    uint64_t cut_offs = 0;
    bool others = false;
    for (uint32_t i = 0; i < shard->hot_count; i++) {
        struct belfry_conn *conn = shard->hot[i]->conn;
        cut_offs += conn->thrift.cut_offs;
        others |= conn->thrift.cut_offs == 0 && conn->in.position != conn->thrift.looked_from;
        conn->thrift.looked_from = conn->in.position;
    }
    int32_t less = THRIFT_BUDGET >> shift_for((cut_offs + turns / 2) / turns);
    for (uint32_t i = 0; i < shard->hot_count; i++) {
        struct bf_thrift *thrift = &shard->hot[i]->conn->thrift;
        thrift->budget = others && thrift->cut_offs > 0 ? less : THRIFT_BUDGET;
        thrift->cut_offs = 0;
    }
}

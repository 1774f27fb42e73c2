/* SPDX-License-Identifier: MIT */
/*
 * spin.h: whether to poll before sleeping, learned from whether polling paid (decisions/0011).
 *
 * A poll costs 0.1 us, waking a sleeper 20 us and more. So whoever waits polls for a budget first. Polling pays when
 * the message comes within the budget; it is a waste when it does not, and a harm when the peer needs this very core.
 * We do not ask why a budget ran out: a run of them in a row switches polling off for a number of parks, and that
 * number doubles each time the next try fails too. So a pair that shares a core stops polling within a few messages,
 * and an idle server does not poll at all.
 *
 * One object per waiting thread; not shared.
 */
#ifndef BF_BASE_SPIN_H
#define BF_BASE_SPIN_H

#include <stdbool.h>
#include <stdint.h>

#include <belfry/types.h>

#define SPIN_LOSSES_MAX 3     /* budgets that run out in a row before polling is switched off */
#define SPIN_REST_PARKS_MIN 8 /* parks without polling after that; doubles up to ... */
#define SPIN_REST_PARKS_MAX 512
#define SPIN_PREEMPTED_NS 50000 /* a gap between two polls that only a pre-emption explains */
#define SPIN_POLLS_PER_LOOK 64u /* polls between two looks at the clock */

struct bf_spin {
    int64_t budget_ns; /* by preset; 0 = never poll */
    int64_t since_ns;  /* when this wait began */
    int64_t look_ns;   /* last look at the clock */
    uint32_t polls;    /* since the last look */
    uint32_t losses;   /* budgets run out in a row */
    uint32_t rest;     /* parks left without polling */
    uint32_t rest_next;
};

/* `spin` must not be BELFRY_SPIN_DEFAULT. With a single core, or a tight cgroup quota, polling is off. */
void bf_spin_init(struct bf_spin *s, enum belfry_spin spin);

/* A wait begins: nothing was there. */
void bf_spin_begin(struct bf_spin *s);

/* Nothing was there again. True: poll once more. False: the budget is used up, park. */
bool bf_spin_again(struct bf_spin *s);

/* Polling found something. */
void bf_spin_won(struct bf_spin *s);

#endif

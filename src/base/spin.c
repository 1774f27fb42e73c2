/* SPDX-License-Identifier: MIT */
/* spin.c: see spin.h. The clock is read once per SPIN_POLLS_PER_LOOK polls. */
#include "base/spin.h"

#include "base/check.h"
#include "base/order.h"
#include "base/os.h"

#define SPIN_BALANCED_NS 50000
#define SPIN_LATENCY_NS 1000000

void bf_spin_init(struct bf_spin *s, enum belfry_spin spin)
{
    INVARIANT(spin != BELFRY_SPIN_DEFAULT);
    *s = (struct bf_spin){.rest_next = SPIN_REST_PARKS_MIN};
    if (spin == BELFRY_SPIN_POWER || !bf_os_spinning_is_free())
        return;
    s->budget_ns = spin == BELFRY_SPIN_LATENCY ? SPIN_LATENCY_NS : SPIN_BALANCED_NS;
}

void bf_spin_begin(struct bf_spin *s)
{
    s->polls = 0;
    s->since_ns = 0;
}

/* The budget ran out or the core was taken from us. */
static bool spin_lost(struct bf_spin *s)
{
    if (++s->losses >= SPIN_LOSSES_MAX) {
        s->losses = SPIN_LOSSES_MAX - 1; /* after the rest a single loss is enough */
        s->rest = s->rest_next;
        s->rest_next = bf_min(s->rest_next * 2, SPIN_REST_PARKS_MAX);
    }
    return false;
}

bool bf_spin_again(struct bf_spin *s)
{
    if (s->budget_ns == 0)
        return false;
    if (s->polls == 0 && s->rest > 0) {
        s->rest--;
        return false;
    }
    cpu_relax();
    if (s->polls++ % SPIN_POLLS_PER_LOOK != 0)
        return true;

    int64_t now = bf_os_now_ns();
    if (s->since_ns == 0) {
        s->since_ns = s->look_ns = now;
        return true;
    }
    if (now - s->look_ns > SPIN_PREEMPTED_NS)
        return spin_lost(s);
    s->look_ns = now;
    if (now - s->since_ns > s->budget_ns)
        return spin_lost(s);
    return true;
}

void bf_spin_won(struct bf_spin *s)
{
    s->losses = 0;
    s->rest_next = SPIN_REST_PARKS_MIN;
}

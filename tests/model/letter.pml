/* SPDX-License-Identifier: MIT */
/*
 * letter.pml: a shard's mailbox (pair G), and a ticket's holder who waits for room (pair H).
 *
 * Two threads put a letter each. The shard takes all that are there, sleeps, and is rung. For each letter it gives the first
 * thread credit, which that one may wait for. A letter is what its writer stored before he put it.
 *
 * All letters are taken, each is whole, and the holder does not sleep beside his credit.
 *
 * prove small: TSO; WEAK LETTERS=1 MESSAGES=8
 * prove full: TSO; WEAK LETTERS=1 MESSAGES=8
 */
#ifndef LETTERS
#define LETTERS 2
#endif

#define AGENTS 3
#define WORDS 8
#define NEWEST 0       /* the stack: a set of letters, 1 and 2 */
#define LETTER(who) (who) /* 1 and 2: what the letter says */
#define ASLEEP 3
#define BELL 4         /* the mailbox's */
#define CREDIT 5       /* of the holder, agent 1 */
#define WAITED_FOR 6
#define HOLDERS_BELL 7
#define READS(word, agent) \
    ((word) == NEWEST || ((agent) == 0 && ((word) <= 2 || (word) == BELL || (word) == WAITED_FOR)) || \
     ((agent) != 0 && ((word) == ASLEEP || (word) == BELL)) || ((agent) == 1 && ((word) == CREDIT || (word) == HOLDERS_BELL)))
#include "memory.h"

bool shard_sleeps, holder_sleeps;
byte taken, got;

/* --- the shard ---------------------------------------------------------------------------------------------------- */

inline reads(who)
{
    if
    :: (x & who) != 0 ->
        load_relaxed(LETTER(who), y); /* deliver() */
        assert(y == 1);
        taken++
    :: else
    fi
}

inline wakes_holder()
{
#ifndef OMIT_credit_fence
    full_fence(); /* wake_holder() */
#endif
    load_relaxed(WAITED_FOR, y); /* wake_holder() */
    if
    :: y != 0 ->
        bell++;
        store_relaxed(HOLDERS_BELL, bell); /* wake_holder() */
        atomic {
            full_fence(); /* bf_os_wake(): the kernel's */
            holder_sleeps = false
        }
    :: else
    fi
}

inline sleeps()
{
    load_relaxed(BELL, value); /* arm_mailbox() */
    store_relaxed(ASLEEP, 1); /* lie_down() */
#ifndef OMIT_lie_down_fence
    full_fence(); /* lie_down() */
#endif
    x = 0;
#ifndef OMIT_look_at_mailbox
    load_relaxed(NEWEST, x); /* mailbox_is_empty() */
#endif
    if
    :: x != 0
    :: else ->
#ifdef OMIT_value_first
        load_relaxed(BELL, value); /* arm_mailbox() */
#endif
        atomic {
            full_fence(); /* bf_reactor_sleep(): the kernel's */
            load_relaxed(BELL, y); /* bf_reactor_sleep(): the kernel's */
            shard_sleeps = (y == value)
        }
        !shard_sleeps
    fi;
    store_relaxed(ASLEEP, 0) /* get_up() */
}

active proctype shard()
{
    byte x, y, value, bell;
    do
    :: true ->
        load_relaxed(NEWEST, x); /* bf_mailbox_take(), mailbox_is_empty() */
        if
        :: x != 0 ->
            exchange_acquire(NEWEST, 0, x); /* bf_mailbox_take() */
            reads(1);
            reads(2);
            store_relaxed(CREDIT, taken); /* bf_ticket_credit() */
            wakes_holder()
        :: else -> sleeps()
        fi
    od
}

/* --- the writers -------------------------------------------------------------------------------------------------- */

inline puts(who)
{
    store_relaxed(LETTER(who), 1); /* letter_new() */
    load_relaxed(NEWEST, x); /* bf_mailbox_put() */
    do
    :: true ->
        old = x;
        replace_release(NEWEST, old, old + who, x); /* bf_mailbox_put() */
        if
        :: x == old -> break
        :: else
        fi
    od;
    skip;
#ifndef OMIT_put_fence
    full_fence(); /* bf_mailbox_put() */
#endif
    x = 1;
    load_relaxed(ASLEEP, x); /* bf_mailbox_put() */
    if
    :: x != 0 ->
        do
        :: true ->
            old = x;
            replace_release(BELL, old, old + 1, x); /* bf_mailbox_ring(); relaxed would do: the value alone counts */
            if
            :: x == old -> break
            :: else
            fi
        od;
        atomic {
            full_fence(); /* bf_os_wake(): the kernel's */
            shard_sleeps = false
        }
    :: else
    fi
}

inline waits_for_credit()
{
    load_relaxed(HOLDERS_BELL, value); /* belfry_ticket_wait() */
    store_relaxed(WAITED_FOR, 1); /* belfry_ticket_wait() */
#ifndef OMIT_wait_fence
    full_fence(); /* belfry_ticket_wait() */
#endif
#ifndef OMIT_look_at_credit
    load_relaxed(CREDIT, x); /* belfry_ticket_wait(), has_room() */
    got = x;
#endif
    if
    :: got == LETTERS
    :: else ->
        atomic {
            full_fence(); /* bf_os_wait(): the kernel's */
            load_relaxed(HOLDERS_BELL, x); /* bf_os_wait(): the kernel's */
            holder_sleeps = (x == value)
        }
        !holder_sleeps
    fi;
    store_relaxed(WAITED_FOR, 0); /* belfry_ticket_wait() */
    load_relaxed(CREDIT, x); /* has_room() */
    got = x
}

active proctype holder()
{
    byte x, old, value;
    puts(1);
    do
    :: got < LETTERS -> waits_for_credit()
    :: else -> break
    od
}

active proctype writer()
{
    byte x, old;
    if
    :: LETTERS == 2 -> puts(2)
    :: else
    fi
}

MEMORY

active proctype monitor()
{
    timeout -> assert(cut || (taken == LETTERS && got == LETTERS && !holder_sleeps))
}

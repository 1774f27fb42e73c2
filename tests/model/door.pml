/* SPDX-License-Identifier: MIT */
/*
 * door.pml: a claim beside a door that closes (pair F), and beside another user's claim that is asked for (claim_stands).
 *
 * Another user's client holds the slot's name and lets go of it at any time. One of the server's own user has seen the slot
 * free, and takes the name. Meanwhile the server closes its door, looks at the names once more and goes; or it tells everybody
 * that the slot is asked for, looks whether the name is still the other's, and lets him at the segments.
 *
 * Making a name is a read-modify-write of the directory, as the kernel's locks make it; looking at one takes no lock.
 *
 * Nobody has the slot of a server that went without having seen him, nor one that another is let at.
 *
 * prove small: TSO; WEAK
 * prove full: TSO; WEAK
 */
#define AGENTS 3
#define WORDS 3
#define NAME 0  /* whose the lock file is */
#define DOOR 1  /* CLOSED or 0 */
#define STATE 2 /* of the slot: ASKED or 0, which is warm */
#define READS(word, agent) ((word) == NAME || (agent) == 1)
#include "memory.h"

#define OTHERS 0
#define NOBODYS 1
#define OURS 2
#define CLOSED 1
#define ASKED 1

bool has, shared, went, seen;

active proctype server()
{
    byte x;
    if
    :: true ->
        store_relaxed(DOOR, CLOSED); /* continue_stopping() */
#ifndef OMIT_door_fence
        full_fence(); /* continue_stopping(), bf_shard_refuse_claims() */
#endif
        load_relaxed(NAME, x); /* rescan(), bf_listener_look(), bf_claim_look() */
        seen = (x == OURS);
        went = true
    :: true ->
        store_relaxed(STATE, ASKED); /* claim_stands(), bf_slot_publish() */
#ifndef OMIT_asked_fence
        full_fence(); /* claim_stands() */
#endif
#ifndef OMIT_look_at_name
        load_relaxed(NAME, x); /* claim_stands(), bf_claim_is_there() */
#endif
        shared = (x == OTHERS) /* bf_slot_pool_share() */
    fi
}

active proctype claimer()
{
    byte x;
    do
    :: true ->
        replace(NAME, NOBODYS, OURS, x); /* try_slot(), bf_os_open() */
        if
        :: x == NOBODYS -> break
        :: else -> is_newer(NAME, x)
        fi
    od;
    skip;
#ifndef OMIT_claim_fence
    full_fence(); /* try_slot() */
#endif
    x = 0;
#ifndef OMIT_look_at_door
    load_relaxed(DOOR, x); /* try_slot() */
#endif
    if
    :: x == CLOSED
    :: else ->
        x = 0;
#ifndef OMIT_look_at_state
        load_relaxed(STATE, x); /* try_slot(), may_be_ours() */
#endif
        has = (x != ASKED)
    fi
}

active proctype other()
{
    byte x;
    replace(NAME, OTHERS, NOBODYS, x) /* bf_os_unlink(): his own, of his own file */
}

MEMORY

active proctype monitor()
{
    timeout -> assert(!(has && shared) && !(has && went && !seen))
}

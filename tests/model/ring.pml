/* SPDX-License-Identifier: MIT */
/*
 * ring.pml: one producer, one consumer, a ring of four units.
 *
 * An entry takes one unit or two, as the producer likes. A unit's HEAD is where a length stands if an entry begins there,
 * and else bytes of a payload, which look like a length. An entry that would wrap comes behind a pad. The consumer may still
 * be reading a payload when it goes on: a load can be that late (memory.h).
 *
 * The consumer gets ENTRIES entries, whole and in order, and neither side waits for ever.
 *
 * prove small: TSO; WEAK MESSAGES=4
 * prove full: TSO ENTRIES=8; WEAK ENTRIES=6 MESSAGES=4
 */
#ifndef ENTRIES
#define ENTRIES 5
#endif

#define AGENTS 2
#define UNITS 4
#define WORDS 9
#define HEAD(position) ((position) % UNITS)
#define BODY(position) (UNITS + (position) % UNITS)
#define CONSUMED 8
#define READS(word, agent) (((word) != CONSUMED) == (agent))
#define DEPTH 6
#define LATE_LOADS
#include "memory.h"

#define PAD 100
#define LENGTH_MAX 2

byte taken;

/* --- the producer ------------------------------------------------------------------------------------------------- */

#ifndef OMIT_room_for_cleared_head
#define CLEARED 1
#else
#define CLEARED 0
#endif
#define FITS (position - consumed + pad + length + CLEARED <= UNITS) /* ring_fits() */

inline finds_room()
{
    pad = (HEAD(position) + length > UNITS -> UNITS - HEAD(position) : 0); /* ring_reserve() */
    do
    :: FITS -> break
    :: else ->
        load_acquire(CONSUMED, consumed); /* ring_refresh(); relaxed would do: no machine stores before it has taken the branch */
        if
        :: !FITS -> is_newer(CONSUMED, consumed)
        :: else
        fi
    od;
    skip /* Spin lets no loop end at a d_step */
}

inline commits()
{
    start = position + pad;
#ifndef OMIT_clear_next
    store_relaxed(HEAD(start + length), 0); /* ring_commit() */
#endif
    if
    :: pad == 0 -> store_release(HEAD(start), length) /* ring_commit() */
    :: pad > 0 ->
#ifndef OMIT_length_before_pad
        store_relaxed(HEAD(start), length); /* ring_commit() */
#endif
        store_release(HEAD(position), PAD); /* ring_commit() */
#ifdef OMIT_length_before_pad
        store_relaxed(HEAD(start), length) /* ring_commit() */
#endif
    fi;
    position = start + length
}

active proctype producer()
{
    byte position, consumed, number, length, pad, start;
    do
    :: number < ENTRIES ->
        number++;
        if
        :: length = 1
        :: length = 2
        fi;
        finds_room();
        store_relaxed(BODY(position + pad), number); /* belfry_send_reserve(): whoever reserved, writes */
        if
        :: length == 2 -> store_relaxed(HEAD(position + pad + 1), number) /* the same: belfry_send_reserve() */
        :: else
        fi;
        commits()
    :: else -> break
    od
}

/* --- the consumer ------------------------------------------------------------------------------------------------- */

active proctype consumer()
{
    byte position, length, second;
    do
    :: taken < ENTRIES ->
        load_acquire(HEAD(position), length); /* ring_peek() */
        if
        :: length == 0 -> is_newer(HEAD(position), length)
        :: length == PAD -> position = position + UNITS - HEAD(position)
        :: else ->
            assert(length <= LENGTH_MAX);
            taken++;
            if
            :: length == 2 ->
                load_relaxed(HEAD(position + 1), second); /* read_ring(), dispatch() */
                assert(second == taken)
            :: else
            fi;
            load_late(BODY(position)); /* read_ring(), dispatch() */
            position = position + length; /* ring_advance() */
            store_release(CONSUMED, position); /* ring_free() */
            loads_what_is_late();
            assert(late_value[_pid] == taken)
        fi
    :: else -> break
    od
}

MEMORY

active proctype monitor()
{
    timeout -> assert(cut || taken == ENTRIES)
}

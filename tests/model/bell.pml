/* SPDX-License-Identifier: MIT */
/*
 * bell.pml: a client and a shard that send to each other, go to sleep and wake each other (pairs A, B and C).
 *
 * The client sends REQUESTS requests and then waits for the replies or does not. The shard answers each, leaves the
 * slot to its doorbell when it likes, sleeps when it likes, and is woken by something else OTHERS times. A ring is
 * the number of its entries; ring.pml has the rest of it.
 *
 * Only the fences count here: every load and store is relaxed, though some in the code are not. What needs those is in
 * ring.pml and claim.pml.
 *
 * Nobody sleeps through an entry: when nothing can happen any more, all requests have been taken, and the client does not sleep.
 *
 * prove small: TSO; WEAK REQUESTS=1 MESSAGES=8
 * prove full: TSO REQUESTS=3; WEAK MESSAGES=10
 */
#ifndef REQUESTS
#define REQUESTS 2
#endif
#ifndef OTHERS
#define OTHERS 1
#endif

#define AGENTS 2
#define WORDS 7
#define REQUEST 0     /* length of the client's entries */
#define SEND_BELL 1   /* send.bell */
#define SEND_PARKED 2 /* send.parked, + 1: 0 is no value of a bell */
#define REPLY 3       /* length of the shard's entries */
#define RECV_BELL 4   /* recv.bell */
#define PARKED 5      /* the slot's parked; DATA or 0 */
#define ASLEEP 6      /* shard.asleep */
#define READS(word, agent) (((word) <= SEND_PARKED) == (agent))
#include "memory.h"
#include "kernel.h"

#define DATA 1

byte sent, taken;

/* --- the client --------------------------------------------------------------------------------------------------- */

inline client_tells()
{
#ifndef OMIT_tell_fence
    full_fence(); /* bf_client_tell() */
#endif
    load_relaxed(PARKED, x); /* doorbell_server_wants() */
#ifndef OMIT_tell_asleep
    if
    :: x == 0 -> load_relaxed(ASLEEP, x) /* doorbell_server_wants() */
    :: else
    fi;
#endif
    if
    :: x != 0 -> client_rings() /* bf_client_ring() */
    :: else
    fi
}

inline client_waits()
{
    load_relaxed(RECV_BELL, value); /* doorbell_park_client() */
    store_relaxed(SEND_PARKED, value + 1); /* doorbell_park_client() */
#ifndef OMIT_sleep_fence
    full_fence(); /* bf_client_sleep() */
#endif
#ifndef OMIT_sleep_look
    load_relaxed(REPLY, x); /* bf_client_has_news() */
#endif
    if
    :: x > got
    :: else ->
#ifdef OMIT_value_first
        load_relaxed(RECV_BELL, value); /* doorbell_park_client() */
#endif
        client_waits_for(value)
    fi;
    store_relaxed(SEND_PARKED, value) /* doorbell_unpark_client() */
}

active proctype client()
{
    byte x, value, bell, got;
    do
    :: sent < REQUESTS ->
        sent++;
        store_relaxed(REQUEST, sent); /* ring_commit() */
        client_tells()
    :: got < sent ->
        load_relaxed(REPLY, x); /* ring_peek() */
        if
        :: x > got -> got = x
        :: else -> client_waits()
        fi
    :: sent == REQUESTS -> break
    od
}

/* --- the shard ---------------------------------------------------------------------------------------------------- */

inline shard_parks()
{
#ifndef OMIT_arm_before_look
#ifndef OMIT_arm_before_parked /* the other way round would do: what counts is that the value is read before the last look */
    shard_arms();
#endif
#endif
    store_relaxed(PARKED, DATA); /* park_quiet() */
#ifdef OMIT_arm_before_parked
    shard_arms();
#endif
    hot = false;
    parking = true
}

inline shard_looks_at_parked()
{
    if
    :: parking ->
#ifndef OMIT_look_at_parked
        load_relaxed(REQUEST, x); /* look_at_parked(), bf_conn_has_work(), ring_is_empty() */
#else
        x = taken;
#endif
        if
        :: x > taken ->
            store_relaxed(PARKED, 0); /* look_at_parked() */
            hot = true;
            work = true
        :: else
        fi;
        parking = false
    :: else
    fi
}

inline shard_collects()
{
    if
    :: wait == COMPLETED ->
        wait = IDLE; /* take_bell() */
        if
        :: !hot -> store_relaxed(PARKED, 0) /* take_bell() */
        :: else
        fi;
        hot = true
    :: else
    fi
}

inline shard_drains()
{
    work = false;
    if
    :: hot ->
        load_relaxed(REQUEST, x); /* read_ring(), ring_peek() */
        if
        :: x > taken ->
            taken = x;
            store_relaxed(REPLY, x); /* ring_commit() */
            work = true
        :: else
        fi
    :: else
    fi
}

inline shard_flushes()
{
    if
    :: work ->
#ifndef OMIT_flush_fence
        full_fence(); /* flush() */
#endif
        load_relaxed(SEND_PARKED, x); /* bf_shard_ring(), doorbell_client_wants() */
        if
        :: x == bell + 1 ->
            wake_prepared = true; /* bf_shard_wake() */
#ifdef OMIT_bump_first
            shard_submits();
#endif
            bell++;
            store_relaxed(RECV_BELL, bell) /* doorbell_bump_recv() */
        :: else
        fi
    :: else
    fi;
    shard_submits()
}

inline shard_lies_down()
{
    store_relaxed(ASLEEP, 1); /* lie_down() */
    if
    :: hot -> shard_parks()
#ifndef OMIT_arm_before_look
    :: hot -> shard_arms()
#else
    :: hot
#endif
    :: else
    fi;
#ifndef OMIT_lie_down_fence
    full_fence(); /* lie_down() */
#endif
    shard_looks_at_parked();
#ifndef OMIT_look_at_hot
    if
    :: hot && !work ->
        load_relaxed(REQUEST, x); /* bf_conn_has_work() */
        work = (x > taken)
    :: else
    fi;
#endif
#ifdef OMIT_arm_before_look
    shard_arms()
#endif
}

active proctype shard()
{
    byte x, bell, others;
    bool hot = true, parking, work;
    do
    :: shard_collects();
        shard_drains();
        shard_flushes();
        if
        :: work
        :: !work && hot -> /* bf_shard_tick(): so many others are hot that it parks this one and stays awake */
            shard_parks();
#ifndef OMIT_tick_fence
            full_fence(); /* bf_shard_tick() */
#endif
            shard_looks_at_parked();
#ifdef OMIT_arm_before_look
            shard_arms()
#endif
        :: !work -> /* bf_shard_sleep() */
            shard_lies_down();
            if
            :: work
            :: else ->
                shard_submits(); /* bf_reactor_sleep() */
                if
                :: wait == COMPLETED
                :: others < OTHERS -> others++
                fi
            fi;
            store_relaxed(ASLEEP, 0) /* get_up() */
        fi
    od
}

MEMORY

active proctype monitor()
{
    timeout -> assert(cut || (taken == REQUESTS && !client_sleeps))
}

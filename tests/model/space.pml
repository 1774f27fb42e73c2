/* SPDX-License-Identifier: MIT */
/*
 * space.pml: rings that are full (pairs D and E), beside entries (A to C).
 *
 * The client sends requests as long as there is room, and takes replies in between. The first ONE_WAY want none. Whoever consumes says so only every
 * LAZY entries. A reply that finds no room goes into the shard's outbox, and then the shard reads no further. Loads and
 * stores are relaxed, as in bell.pml: only the fences count here.
 *
 * All requests are sent and answered: neither entries nor room are slept through, and two full rings do not lock.
 *
 * prove small: TSO REQUESTS=2; TSO REQUESTS=2 ONE_WAY=2
 * prove full: TSO; WEAK REQUESTS=2 MESSAGES=8
 * prove broken: TSO REQUESTS=2 ONE_WAY=2; TSO REQUESTS=4
 */
#ifndef REQUESTS
#define REQUESTS 3
#endif
#ifndef ONE_WAY
#define ONE_WAY 0
#endif
#ifndef ROOM
#define ROOM 1
#endif
#ifndef LAZY
#define LAZY 1
#endif

#define AGENTS 2
#define WORDS 10
#define REQUEST 0     /* entries that the client committed */
#define REPLY_FREED 1 /* consumed of _send: replies that it is done with */
#define SEND_BELL 2
#define SEND_PARKED 3 /* + 1 */
#define WANT_SPACE 4
#define REPLY 5         /* entries that the shard committed */
#define REQUEST_FREED 6 /* consumed of _recv */
#define RECV_BELL 7
#define PARKED 8
#define ASLEEP 9
#define READS(word, agent) (((word) <= WANT_SPACE) == (agent))
#define DEPTH 6
#include "memory.h"
#include "kernel.h"

#define DATA 1
#define SPACE 2

byte got, taken;

/* --- the client --------------------------------------------------------------------------------------------------- */

inline client_tells(committed, published)
{
#ifndef OMIT_tell_fence
    full_fence(); /* bf_client_tell() */
#endif
    load_relaxed(PARKED, x); /* doorbell_server_wants() */
    rings = (committed && x == DATA) || (published && x == SPACE);
    if
    :: committed && !rings ->
        load_relaxed(ASLEEP, x); /* doorbell_server_wants() */
        rings = (x != 0)
    :: else
    fi;
    if
    :: rings -> client_rings() /* bf_client_ring() */
    :: else
    fi
}

inline client_takes()
{
    got++;
    if
    :: got % LAZY == 0 ->
        store_relaxed(REPLY_FREED, got); /* ring_free() */
#ifndef OMIT_tell_of_room
        client_tells(false, true)
#endif
    :: else
    fi
}

inline client_waits()
{
    load_relaxed(RECV_BELL, value); /* doorbell_park_client() */
    store_relaxed(SEND_PARKED, value + 1); /* doorbell_park_client() */
#ifndef OMIT_want_space
    if
    :: wanted -> store_relaxed(WANT_SPACE, 1) /* bf_client_sleep() */
    :: else
    fi;
#endif
#ifndef OMIT_sleep_fence
    full_fence(); /* bf_client_sleep() */
#endif
    load_relaxed(REPLY, x); /* bf_client_has_news() */
#ifndef OMIT_entries_while_full
    news = (x > got);
#else
    news = (x > got && !wanted);
#endif
#ifndef OMIT_look_for_room
    if
    :: wanted && !news ->
        load_relaxed(REQUEST_FREED, freed); /* bf_client_has_news(), ring_has_room(), ring_refresh() */
        news = (sent - freed < ROOM)
    :: else
    fi;
#endif
    if
    :: news
    :: else -> client_waits_for(value)
    fi;
    store_relaxed(SEND_PARKED, value); /* doorbell_unpark_client() */
    if
    :: wanted -> store_relaxed(WANT_SPACE, 0) /* bf_client_sleep() */
    :: else
    fi
}

active proctype client()
{
    byte x, value, bell, sent, freed;
    bool wanted, rings, news;
    do
    :: sent < REQUESTS ->
        if
        :: sent - freed >= ROOM -> load_relaxed(REQUEST_FREED, freed) /* ring_reserve(), ring_refresh() */
        :: else
        fi;
        wanted = (sent - freed >= ROOM);
        if
        :: !wanted ->
            sent++;
            store_relaxed(REQUEST, sent); /* ring_commit() */
            client_tells(true, false)
        :: else ->
#ifndef OMIT_entries_while_full
            load_relaxed(REPLY, x); /* wait_for_room() */
#else
            x = got;
#endif
            if
            :: x > got -> client_takes()
            :: else -> client_waits()
            fi
        fi
    :: got + ONE_WAY < sent ->
        wanted = false;
        load_relaxed(REPLY, x); /* ring_peek() */
        if
        :: x > got -> client_takes()
        :: else -> client_waits()
        fi
    :: got + ONE_WAY >= sent && sent == REQUESTS -> break
    od
}

/* --- the shard ---------------------------------------------------------------------------------------------------- */

inline shard_has_room()
{
    if
    :: replied - freed >= ROOM -> load_relaxed(REPLY_FREED, freed) /* ring_reserve(), ring_has_room(), ring_refresh() */
    :: else
    fi
}

inline shard_empties_outbox()
{
    shard_has_room();
    if
    :: replied - freed < ROOM ->
        replied++;
        store_relaxed(REPLY, replied); /* flush_outbox(), ring_commit() */
        outbox = false;
        store_relaxed(PARKED, 0); /* bf_conn_resume() */
        committed = true;
        work = true
    :: else
    fi
}

inline shard_answers()
{
    shard_has_room();
    if
    :: replied - freed < ROOM ->
        replied++;
        store_relaxed(REPLY, replied) /* ring_commit() */
    :: else -> outbox = true
    fi;
    committed = true
}

inline shard_reads()
{
    load_relaxed(REQUEST, x); /* read_ring(), ring_peek() */
    if
    :: x > taken ->
        taken++;
        work = true;
        if
        :: taken % LAZY == 0 ->
            store_relaxed(REQUEST_FREED, taken); /* ring_free() */
            published = true
        :: else
        fi;
        if
        :: taken > ONE_WAY -> shard_answers()
        :: else
        fi
    :: else
    fi
}

inline shard_flushes()
{
    if
    :: committed || published ->
#ifndef OMIT_flush_fence
        full_fence(); /* flush() */
#endif
        if
        :: !committed ->
            load_relaxed(WANT_SPACE, x); /* flush() */
            committed = (x != 0)
        :: else
        fi;
        if
        :: committed ->
            load_relaxed(SEND_PARKED, x); /* bf_shard_ring(), doorbell_client_wants() */
            if
            :: x == bell + 1 ->
                bell++;
                store_relaxed(RECV_BELL, bell); /* doorbell_bump_recv() */
                wake_prepared = true
            :: else
            fi
        :: else
        fi
    :: else
    fi;
    committed = false;
    published = false;
    shard_submits()
}

inline shard_looks()
{
    if
    :: outbox ->
#ifndef OMIT_look_at_outbox
        shard_has_room(); /* bf_conn_has_work(), outbox_has_room() */
#endif
        work = (replied - freed < ROOM)
    :: else ->
        load_relaxed(REQUEST, x); /* bf_conn_has_work(), ring_is_empty() */
        work = (x > taken)
    fi
}

inline shard_lies_down()
{
    store_relaxed(ASLEEP, 1); /* lie_down() */
    if
    :: hot && !outbox -> /* park_quiet() */
        shard_arms();
        store_relaxed(PARKED, DATA); /* park_quiet() */
        hot = false;
        parking = true
    :: hot -> shard_arms()
    :: else
    fi;
#ifndef OMIT_parked_for_space
    if
    :: outbox -> store_relaxed(PARKED, SPACE) /* lie_down() */
    :: else
    fi;
#endif
#ifndef OMIT_lie_down_fence
    full_fence(); /* lie_down() */
#endif
    if
    :: hot || parking -> shard_looks()
    :: else
    fi;
    if
    :: parking && work ->
        store_relaxed(PARKED, 0); /* look_at_parked() */
        hot = true
    :: else
    fi;
    parking = false
}

active proctype shard()
{
    byte x, bell, replied, freed;
    bool hot = true, parking, outbox, committed, published, work;
    do
    :: if
        :: wait == COMPLETED ->
            wait = IDLE; /* take_bell() */
            if
            :: !outbox -> store_relaxed(PARKED, 0) /* take_bell() */
            :: else
            fi;
            hot = true
        :: else
        fi;
        work = false;
        if
        :: hot && outbox -> shard_empties_outbox() /* bf_conn_turn() */
        :: else
        fi;
        if
        :: hot && !outbox -> shard_reads() /* may_read() */
        :: else
        fi;
        shard_flushes();
        if
        :: work
        :: else -> /* bf_shard_sleep() */
            shard_lies_down();
            if
            :: work
            :: else ->
                shard_submits(); /* bf_reactor_sleep() */
                wait == COMPLETED
            fi;
            store_relaxed(ASLEEP, 0) /* get_up() */
        fi
    od
}

MEMORY

active proctype monitor()
{
    timeout -> assert(cut || (taken == REQUESTS && got + ONE_WAY == REQUESTS))
}

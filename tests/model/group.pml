/* SPDX-License-Identifier: MIT */
/*
 * group.pml: a poller with two conns on one shard, which share a bell (pair C, with bell_at).
 *
 * The shard sends entries to both, one or both in a turn, and may end the first. The poller names a leader, parks on his bell
 * and sleeps until there is something for either. Now and then it waits for one conn alone, on that one's own bell, as a call
 * does. A leader that has ended leads no more, and the other takes his place.
 *
 * Loads and stores are relaxed, as in bell.pml. When nothing can happen any more, everything has been seen.
 *
 * prove small: TSO SECOND=1
 * prove full: TSO SECOND=1
 * prove broken: TSO SECOND=1
 */
#ifndef SECOND
#define SECOND 2 /* entries for the second conn; the first gets one */
#endif

#define AGENTS 2
#define WORDS 9
#define REPLY(conn) (conn)           /* length of its entries */
#define RECV_BELL(conn) (2 + (conn)) /* recv.bell */
#define END 4                        /* of the first conn */
#define SEND_PARKED(conn) (5 + (conn)) /* send.parked, + 1 */
#define BELL_AT(conn) (7 + (conn))   /* the leader + 1; 0: the conn itself */
#define READS(word, agent) (((word) >= 5) == (agent))
#define DEPTH 6
#include "memory.h"

#define EXPECTED(conn) (conn == 0 -> 1 : SECOND)
#define NOWHERE 2

byte sleeps_on = NOWHERE;
byte sent[2], seen[2];
bool ended, end_seen;

/* --- the poller --------------------------------------------------------------------------------------------------- */

inline follow(conn, leader)
{
    store_relaxed(BELL_AT(conn), (conn == leader -> 0 : leader + 1)) /* follow() */
}

inline choose_leader(whom)
{
    leader = whom;
    follow(0, leader); /* choose_leaders() */
    follow(1, leader) /* choose_leaders() */
}

inline look_at(conn)
{
    load_relaxed(REPLY(conn), x); /* bf_client_has_news() */
    if
    :: x > seen[conn] ->
        seen[conn] = x;
        news = true
    :: else
    fi
}

inline look_at_end()
{
    load_relaxed(END, x); /* bf_client_has_news(), fitness() */
    if
    :: x != 0 && !end_seen ->
        end_seen = true;
        news = true
    :: else
    fi
}

inline sleep_on(conn, first, second)
{
    load_relaxed(RECV_BELL(conn), value); /* doorbell_park_client() */
    store_relaxed(SEND_PARKED(conn), value + 1); /* doorbell_park_client() */
#ifndef OMIT_sleep_fence
    full_fence(); /* bf_client_sleep() */
#endif
#ifndef OMIT_look_at_all
    if
    :: first -> look_at(0); look_at_end() /* bf_client_sleep() */
    :: else
    fi;
    if
    :: second -> look_at(1) /* bf_client_sleep() */
    :: else
    fi;
#else
    if
    :: conn == 0 -> look_at(0); look_at_end()
    :: else -> look_at(1)
    fi;
#endif
    if
    :: news
    :: else ->
        atomic {
            full_fence(); /* bf_os_wait(): the kernel's */
            load_relaxed(RECV_BELL(conn), x); /* bf_os_wait(): the kernel's */
            sleeps_on = (x == value -> conn : NOWHERE)
        }
        sleeps_on == NOWHERE
    fi;
    store_relaxed(SEND_PARKED(conn), value) /* doorbell_unpark_client() */
}

inline sleep_alone_on(conn)
{
#ifndef OMIT_own_bell
    store_relaxed(BELL_AT(conn), 0); /* wait_for_news() */
#endif
    sleep_on(conn, conn == 0, conn == 1);
    regroup = true /* bf_poller_regroup() */
}

active proctype poller()
{
    byte x, value, leader;
    bool news, regroup;
    if
    :: choose_leader(0)
    :: choose_leader(1)
    fi;
    do
    :: true ->
        news = false;
        look_at(0); /* belfry_poller_wait() */
        look_at_end();
        look_at(1);
        if
        :: news
        :: !news && seen[1] < EXPECTED(1) -> sleep_alone_on(1)
        :: !news && seen[0] < EXPECTED(0) && !end_seen -> sleep_alone_on(0)
        :: !news ->
            if /* needs_leader() */
#ifndef OMIT_next_leader
            :: leader == 0 && end_seen -> choose_leader(1)
#endif
            :: regroup && !(leader == 0 && end_seen) -> choose_leader(leader)
            :: else
            fi;
            regroup = false;
            sleep_on(leader, true, true)
        fi
    od
}

/* --- the shard ---------------------------------------------------------------------------------------------------- */

inline wake(conn)
{
    bell[conn]++;
    store_relaxed(RECV_BELL(conn), bell[conn]); /* bf_shard_wake(), doorbell_bump_recv() */
    wakes[conn] = true
}

inline ring(conn)
{
    load_relaxed(SEND_PARKED(conn), x); /* bf_shard_ring(), doorbell_client_wants() */
    if
    :: x == bell[conn] + 1 -> wake(conn)
    :: else
    fi
}

/* Whose bell is rung: in `at`. */
inline bell_of(conn)
{
    load_relaxed(BELL_AT(conn), at); /* bf_shard_bell_of() */
    if
    :: at != 0 && !(at == 1 && ended) ->
        at--;
#ifndef OMIT_no_chain /* a chain would do: one poller names no leader who follows another, but somebody else might */
        load_relaxed(BELL_AT(at), x); /* bf_shard_bell_of() */
        at = (x == 0 -> at : conn)
#endif
    :: else -> at = conn
    fi
}

inline submit()
{
    atomic {
        full_fence(); /* bf_reactor_submit(): the kernel's */
        if
        :: sleeps_on != NOWHERE && wakes[sleeps_on] -> sleeps_on = NOWHERE
        :: else
        fi;
        wakes[0] = false;
        wakes[1] = false
    }
}

inline send(conn)
{
    if
    :: sent[conn] < EXPECTED(conn) && !(conn == 0 && ended) ->
        sent[conn]++;
        store_relaxed(REPLY(conn), sent[conn]); /* ring_commit() */
        touched[conn] = true /* bf_shard_touch() */
    :: true
    fi
}

inline flush()
{
    if
    :: touched[0] || touched[1] ->
#ifdef OMIT_bell_at_behind_fence
        load_relaxed(BELL_AT(1), early); /* bf_shard_bell_of() */
#endif
#ifndef OMIT_flush_fence
        full_fence(); /* flush() */
#endif
        if
        :: touched[0] && !ended -> bell_of(0); if :: at == 0 -> ring(0) :: else -> ring(1) fi
        :: else
        fi;
        if
        :: touched[1] ->
            bell_of(1);
#ifdef OMIT_bell_at_behind_fence
            at = (early == 1 && !ended -> 0 : 1);
#endif
            if :: at == 0 -> ring(0) :: else -> ring(1) fi
        :: else
        fi;
        touched[0] = false;
        touched[1] = false
    :: else
    fi;
    submit()
}

/* tell_end() */
inline end_first()
{
    store_relaxed(END, 1); /* tell_end() */
#ifndef OMIT_end_fence
    full_fence(); /* tell_end() */
#endif
    bell_of(0);
#ifndef OMIT_ring_leader
    if
    :: at == 1 -> ring(1)
    :: else
    fi;
#endif
#ifndef OMIT_own_bell_at_end
    wake(0);
#endif
    ended = true
}

active proctype shard()
{
    byte x, at, early;
    byte bell[2];
    bool touched[2], wakes[2];
    do
    :: sent[1] < SECOND || (sent[0] == 0 && !ended) ->
        send(0);
        send(1);
        flush()
    :: !ended ->
        end_first();
        submit()
    :: sent[1] == SECOND && (sent[0] == 1 || ended) -> break
    od
}

MEMORY

active proctype monitor()
{
    timeout -> assert(cut || (seen[0] == sent[0] && seen[1] == sent[1] && end_seen == ended))
}

/* SPDX-License-Identifier: MIT */
/*
 * claim.pml: two clients that want one warm slot, and die at any step; the server that takes it back.
 *
 * The kernel's part: a name, a lock that goes with its holder, and an event that says no more than "something happened to
 * the name": several become one, and that of a close comes before the lock is dropped. A clock lets the server look again, or
 * give up a claim that was never locked, at any time.
 *
 * Each claim leaves a slot of the next generation behind. Asserted: two clients never have the same segments, an accepted
 * client's hello is whole and of this generation, nobody is told dead who lives, and in the end the slot is free again.
 *
 * prove small: TSO DEATHS=0
 * prove full: TSO DEATHS=1; WEAK DEATHS=0 MESSAGES=10
 * prove broken: TSO DEATHS=0
 */
#ifndef DEATHS
#define DEATHS 2 /* in the middle of a claim */
#endif

#define AGENTS 3
#define WORDS 7
#define STATE 0                  /* generation * 4 + state */
#define HELLO(generation) (1 + (generation))
#define HELLO_GENERATION(generation) (4 + (generation)) /* + 1 */
#define READS(word, agent) ((word) == STATE || (agent) == 0)
#include "memory.h"

#define WARM 0
#define OPEN 1
#define CLOSED 2
#define CLAIMED 3 /* the server's own */

#define NOBODY 0

byte owner;         /* of the name: the agent */
bool locked;
bool dirty, closed; /* what the event says that has not been read */
byte files;         /* generation of the segments that have their names */
bool dead[AGENTS], has[AGENTS];
byte mapped[AGENTS];
byte phase = WARM;
byte deaths;

/* --- the server --------------------------------------------------------------------------------------------------- */

inline releases()
{
    store_release(STATE, generation * 4 + CLOSED); /* tell_end(), bf_slot_publish(); relaxed would do: system calls are behind it */
#ifdef OMIT_files_before_name /* the name first would do: who claims it then, finds another generation */
    drops_name();
#endif
    atomic {
        full_fence(); /* maker_rename(): a system call */
        files = generation + 1
    }
    generation++;
#ifndef OMIT_name_before_state /* the state first would do: no owner removes his own file here */
#ifndef OMIT_files_before_name
    drops_name();
#endif
#endif
    store_release(STATE, generation * 4 + WARM); /* offer(), bf_slot_publish(); relaxed would do: system calls are before it */
#ifdef OMIT_name_before_state
    drops_name();
#endif
    phase = WARM;
    hinted = false
}

inline drops_name()
{
    atomic {
        full_fence(); /* offer(), drop_name(), bf_claim_drop(): a system call */
        owner = NOBODY;
        locked = false
    }
}

inline refuses()
{
    releases() /* bf_listener_refuse() */
}

inline looks_later()
{
    later = true /* look_later() */
}

inline looks_at_open()
{
    if
    :: !held ->
        assert(dead[bound]);
        releases() /* conn_dies(), bf_listener_end() */
    :: else ->
        if
#ifndef OMIT_hint
        :: hinted -> looks_later() /* look_at_open() */
#endif
        :: else
        fi
    fi
}

inline looks_at_claimed()
{
    was_locked = seen_locked;
    seen_locked = seen_locked || held;
    load_acquire(HELLO(generation), spoken); /* look_at_claimed(), hello_is_there() */
    if
#ifndef OMIT_look_once_more
    :: spoken && !held && !spoke -> dirty = true /* look_at_claimed() */
    :: spoken && (held || spoke) ->
#else
    :: spoken ->
#endif
        load_relaxed(HELLO_GENERATION(generation), x); /* judge_hello() */
        if
        :: x == generation + 1 ->
            phase = OPEN; /* accept_conn() */
            looks_at_open()
        :: else ->
            assert(x != 0);
            refuses()
        fi
    :: !spoken && held -> looks_later() /* look_at_claimed() */
#ifndef OMIT_seen_locked
    :: !spoken && !held && was_locked ->
        assert(dead[bound]);
        refuses()
#endif
    :: !spoken && !held && !was_locked ->
        if
        :: looks_later()
        :: refuses() /* look_at_claimed(): the grace is over */
        fi
    fi
}

inline looks()
{
#ifndef OMIT_spoke_before_lock
    load_acquire(HELLO(generation), spoke); /* bf_listener_look(), hello_is_there(); relaxed would do: the later look acquires */
#endif
    atomic {
        full_fence(); /* bf_claim_look(): a system call */
        there = owner;
        held = locked
    }
#ifdef OMIT_spoke_before_lock
    load_acquire(HELLO(generation), spoke); /* bf_listener_look(); relaxed would do: the later look acquires */
#endif
    if
    :: phase == WARM && there == NOBODY -> hinted = false /* bf_listener_look() */
    :: phase == WARM && there != NOBODY ->
        bound = there; /* claim_begin() */
        seen_locked = held;
        phase = CLAIMED;
        store_release(STATE, generation * 4 + OPEN); /* bf_slot_pool_claimed(), bf_slot_publish(); relaxed would do: nothing else is told by it */
        looks_at_claimed()
    :: phase == CLAIMED -> looks_at_claimed()
    :: phase == OPEN -> looks_at_open()
    fi
}

active proctype server()
{
    byte x, generation, bound, there;
    bool held, hinted, later, spoke, spoken, seen_locked, was_locked;
    do
    :: atomic {
            dirty -> /* bf_listener_event() */
            dirty = false;
            hinted = hinted || closed;
            closed = false
        }
        looks()
    :: later -> /* bf_listener_tick() */
        later = false;
        looks()
    od
}

/* --- a client ----------------------------------------------------------------------------------------------------- */

#define MAY_DIE                                 \
    if                                          \
    :: deaths < DEATHS -> deaths++; goto closes \
    :: true                                     \
    fi

active [2] proctype client()
{
    byte x, generation, files_generation;
#ifndef OMIT_generation_before_name
    load_acquire(STATE, x); /* try_slot(); relaxed would do: the generation is compared again */
    if
    :: x % 4 != WARM -> goto done
    :: else
    fi;
    generation = x / 4;
#endif
    atomic {
        full_fence(); /* try_slot(), bf_os_open(): a system call */
        if
        :: owner == NOBODY ->
            owner = _pid;
            dirty = true
        :: else -> goto done
        fi
    }
    MAY_DIE;
#ifdef OMIT_generation_before_name
    load_acquire(STATE, x); /* try_slot(); relaxed would do: the generation is compared again */
    generation = x / 4;
#endif
    atomic {
        full_fence(); /* bf_os_lock(): a system call */
        locked = locked || owner == _pid
    }
    MAY_DIE;
#ifndef OMIT_generation_again /* the header alone would do; who is too late is spared the opening */
    full_fence(); /* try_slot() */
    load_acquire(STATE, x); /* try_slot(), may_be_ours(); relaxed would do: the segments are opened behind it */
    if
    :: x / 4 != generation || x % 4 == CLOSED -> goto closes
    :: else
    fi;
#endif
    atomic {
        full_fence(); /* map_segments(): a system call */
        files_generation = files;
        mapped[_pid] = files
    }
#ifndef OMIT_generation_in_header
    if
    :: files_generation != generation -> goto closes /* bf_segment_header_check() */
    :: else
    fi;
#endif
    MAY_DIE;
    store_relaxed(HELLO_GENERATION(files_generation), generation + 1); /* say_hello() */
    MAY_DIE;
    store_release(HELLO(files_generation), 1); /* say_hello() */
    has[_pid] = true;
    assert(!(has[3 - _pid] && mapped[3 - _pid] == mapped[_pid]));
    atomic {
        full_fence(); /* bf_client_tell(), bf_os_wake(): the server is rung, and looks at its claim */
        dirty = true
    }
closes:
    atomic {
        dead[_pid] = true;
        has[_pid] = false;
        if
        :: owner == _pid ->
            dirty = true;
            closed = true
        :: else
        fi
    }
    atomic {
        if
        :: owner == _pid -> locked = false
        :: else
        fi
    }
done:
    skip
}

MEMORY

active proctype monitor()
{
    timeout -> assert(cut || (phase == WARM && owner == NOBODY))
}

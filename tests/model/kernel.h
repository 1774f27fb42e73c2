/* SPDX-License-Identifier: MIT */
/*
 * kernel.h: one client and one shard, and what the kernel does for them: a futex of each that the other wakes.
 *
 * Comparing and queueing are one step, a wake takes out whoever is queued, and both begin with a full fence. The shard's wait
 * is prepared, goes in with its next submit, and stays until it is woken. A model defines SEND_BELL and RECV_BELL.
 */
mtype = { IDLE, PREPARED, QUEUED, COMPLETED };
mtype wait = IDLE;   /* the shard's, on SEND_BELL: its way into the kernel and back */
byte wait_value;
bool client_sleeps;  /* in the kernel */
bool wake_prepared;

inline client_rings()
{
    bell++;
    store_relaxed(SEND_BELL, bell); /* doorbell_bump_send() */
    atomic {
        full_fence(); /* bf_os_wake(): the kernel's */
        if
        :: wait == QUEUED -> wait = COMPLETED
        :: else
        fi
    }
}

inline client_waits_for(value)
{
    atomic {
        full_fence(); /* bf_os_wait(): the kernel's */
        load_relaxed(RECV_BELL, x); /* bf_os_wait(): the kernel's */
        client_sleeps = (x == value)
    }
    !client_sleeps
}

inline shard_arms()
{
    if
    :: wait == IDLE ->
        load_relaxed(SEND_BELL, wait_value); /* bf_shard_arm(), doorbell_send_value() */
        wait = PREPARED
    :: else
    fi
}

inline shard_submits()
{
    atomic {
        full_fence(); /* bf_reactor_submit(): the kernel's */
        if
        :: wait == PREPARED ->
            load_relaxed(SEND_BELL, x); /* bf_reactor_submit(): the kernel's */
            wait = (x == wait_value -> QUEUED : COMPLETED)
        :: else
        fi;
        if
        :: wake_prepared -> client_sleeps = false
        :: else
        fi;
        wake_prepared = false
    }
}

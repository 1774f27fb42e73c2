/* SPDX-License-Identifier: MIT */
/*
 * shard.h: one thread, its uring, its slots, its conns. Nothing in here is shared with another shard.
 *
 * The turn is the only place where control flows (shard.c; thread.c starts it, sleep.c ends a quiet one); listener.c knows who comes and goes, conn.c what they say,
 * reply.c what is answered.
 */
#ifndef BF_SERVER_SHARD_H
#define BF_SERVER_SHARD_H

#include <pthread.h>

#include "base/spin.h"
#include "io/reactor.h"
#include "server/arena.h"
#include "server/mailbox.h"
#include "server/outbox.h"
#include "server/pace.h"
#include "server/slot_pool.h"
#include "server/timer.h"
#include "shm/ring.h"

#define BF_TICK_TURNS 256u /* of a shard that never sleeps, between two looks at the clock */

struct bf_shard {
    /* What other threads may touch. It is there as long as the server is, whether or not the thread runs. */
    struct bf_mailbox mailbox;
    struct bf_ticket_table tickets;
    bool stop_requested;
    int64_t drain_ns; /* asked to drain, until then; 0: not asked */

    /* All else is the thread's own, and new with each start. */
    struct belfry_server *server;
    const belfry_server_options *options; /* the server's copy */
    const struct bf_log *log;
    uint32_t index;
    uint32_t cpu; /* to pin to; UINT32_MAX: do not pin */

    struct bf_reactor reactor;
    struct bf_slot_pool pool;
    struct guard_range *guard; /* its range, for the handler of SIGBUS; NULL: not guarded */
    struct bf_arena arena;
    struct bf_spin spin;
    struct bf_pace pace;
    struct belfry_abi_shard *lobby;
    _Alignas(pthread_mutex_t) uint32_t own_obituary[BELFRY_ABI_LINE / 4]; /* for this process (obituary.h) */
    belfry_counters *counters;
    int lock_dir;
    int service_dir;

    /* conns */
    struct bf_slot **hot; /* polled by the turn */
    uint32_t hot_count;
    struct bf_slot **parking; /* about to be left to their doorbells; for the last look */
    uint32_t parking_count;
    struct bf_slot **touched; /* something must be told after this turn's fence */
    uint32_t touched_count;
    uint8_t *copy; /* of the message being handled, if another user sent it; NULL: there are no others */
    uint32_t conn_count;
    uint32_t waits_armed;

    /* comings and goings */
    struct bf_slot_queue dirty;
    struct bf_slot_queue later;
    bool rescan;     /* every slot is to be looked at */
    bool junk_left;  /* in the lock directory, and not seen by the pass that goes on */
    bool weeding;    /* a pass goes on */
    int64_t vain_ns; /* what is done for nothing has been paid for until then (listener.c) */
    bool was_current;
    bool told_gone;         /* that its directory is not there any more */
    bool draining;          /* another instance is current, or we were told to: refuse claims */
    int64_t drain_until_ns; /* drain.c: what of drain_ns has been seen; 0: nothing */

    /* the slow sweep */
    int64_t sweep_at_ns; /* 0: not planned */
    int64_t sweep_interval_ns;
    int64_t swept_ns;
    uint32_t turns_since_clock;

    bool mailbox_armed;
    struct mailbox_letter *inbox; /* taken and not yet delivered, oldest first */

    bool stopping;
    bool finished;
    bool told_start; /* on_shard_start said yes */

    /* option own_loop: the turns are run by a thread of the program's (own_loop.c) */
    bool in_turn;
    bool dozes; /* the last turn left it asleep */
    bool event_is_set;
    int event_fd; /* set when a turn is wanted; -1: the shard has a thread of its own */
    pthread_t owner;
    struct bf_shard *next_here; /* of the same thread; lost.c */

    /* the user's own operations in flight */
    struct belfry_io_link *ios;
    int64_t io_cancel_at_ns; /* when stopping */

    struct bf_timers timers; /* begins with what an idle turn looks at */

    /* start-up handshake, under the server's mutex */
    pthread_t thread;
    bool thread_started;
    bool reported;
    int start_rc;
    char start_error[512];
};

/* Run one shard: pthread_create's entry. The argument is a struct bf_shard with its first group filled in. */
void *bf_shard_main(void *argument);

/* Make a shard new, with a thread of its own, except for what other threads may be touching. Before its thread starts. */
void bf_shard_init(struct bf_shard *shard, struct belfry_server *server, uint32_t index, uint32_t cpu);

/* The loop: turn after turn, until the shard has stopped. */
void bf_shard_run(struct bf_shard *shard);

/* A few turns, until there is nothing to do; then doze. Never sleeps. For a thread that has a loop of its own. */
void bf_shard_step(struct bf_shard *shard);

/* thread.c: what stands around the loop, on the thread that runs it: 0 and reported, or a code and closed again. */
int bf_shard_open(struct bf_shard *shard);
void bf_shard_close(struct bf_shard *shard);

/* thread.c: this thread now runs that shard (NULL: none). Returns the one before. */
struct bf_shard *bf_shard_become(struct bf_shard *shard);

/* Ask the shard to stop. Any thread, any signal handler. */
void bf_shard_stop(struct bf_shard *shard);

/* drain.c: ask the shard to drain. Any thread, any signal handler. */
void bf_shard_drain(struct bf_shard *shard, int64_t deadline_ns);

/* drain.c: from here on claims are refused; those that have been made are looked for. */
void bf_shard_refuse_claims(struct bf_shard *shard);

/* drain.c: a turn's step of draining, if the shard has been asked to. */
void bf_shard_continue_draining(struct bf_shard *shard);

/* Is the directory of its lock files still there? Says so once if not. */
void bf_shard_look_at_directory(struct bf_shard *shard);

/* The shard whose thread is running, or NULL. */
struct bf_shard *bf_shard_self(void);

/* Put a slot with a conn among those that the turn polls; take it out. */
void bf_shard_heat(struct bf_shard *shard, struct bf_slot *slot);
void bf_shard_cool(struct bf_shard *shard, struct bf_slot *slot);

/* This slot's client must be looked at after the turn's fence. */
void bf_shard_touch(struct bf_shard *shard, struct bf_slot *slot);

/* After a full fence: whose bell is rung for this slot's client: its group's leader's, if that is one; else its own. */
struct bf_slot *bf_shard_bell_of(const struct bf_shard *shard, struct bf_slot *slot);

/* Bump this slot's own bell and queue the wake of whoever waits on it. */
void bf_shard_wake(struct bf_shard *shard, struct bf_slot *slot);

/* The same, if somebody is about to sleep on it. */
void bf_shard_ring(struct bf_shard *shard, struct bf_slot *bell);

/* Make sure the wait on the slot's doorbell is armed: value first, then the entry. */
void bf_shard_arm(struct bf_shard *shard, struct bf_slot *slot);

#endif

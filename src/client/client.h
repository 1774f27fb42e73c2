/* SPDX-License-Identifier: MIT */
/*
 * client.h (internal): the object behind belfry_client.
 *
 * claim.c gets a slot, connect.c makes and ends the handle, send.c and receive.c move messages, wait.c sleeps, poller.c
 * waits on many. One thread at a time; no io_uring anywhere.
 */
#ifndef BF_CLIENT_CLIENT_H
#define BF_CLIENT_CLIENT_H

#include <belfry/client.h>

#include "base/spin.h"
#include "shm/lobby.h"
#include "shm/ring.h"
#include "shm/segment.h"

/* A message that arrived during somebody else's call: copied out of the ring, waiting for belfry_receive(). */
struct client_stashed {
    struct client_stashed *next;
    struct client_stashed **at; /* where the pointer to it stands, once it is handed out */
    belfry_message message;
    uint64_t data[];
};

/* An entry that has been read but whose room is not yet free, oldest first. */
struct client_held {
    uint64_t end; /* ring position */
    bool released;
};

struct belfry_client {
    struct bf_lobby lobby;
    uint64_t lobby_device; /* which instance this is, for grouping in a poller */
    uint64_t lobby_inode;
    struct belfry_abi_shard *shard;
    uint32_t slot;
    uint32_t generation;
    int lock_fd;
    bool atfork;

    struct belfry_abi_send *send;
    const struct belfry_abi_recv *recv;
    struct ring_producer_local out;
    struct ring_consumer_local in;
    struct bf_spin spin;

    uint64_t taken_at; /* where the last message was read */
    uint64_t next_id;
    uint64_t wanted;  /* payload + 1 of the send that was told -EAGAIN; 0: none */
    int end_rc;       /* 0, or how it ended; the sentence is made again each time */
    bool server_dead; /* the lobby's lock is free */
    uint64_t rescues; /* news that only that timeout found */
    uint32_t slice;   /* of the doubling timeout behind every wait */

    struct client_stashed *stash_first;
    struct client_stashed *stash_last;
    struct client_stashed *stash_out; /* handed out and not yet released */

    struct client_held *held; /* a circular buffer */
    uint32_t held_capacity;   /* a power of two */
    uint64_t held_first;      /* free-running */
    uint64_t held_next;

    uint64_t *late; /* ids whose caller has stopped waiting */
    uint32_t late_count;
    uint32_t late_capacity;

    belfry_poller *poller;
    void *poller_tag;

    uint32_t fork_generation;
    struct belfry_client *next_forked;
};

/* claim.c: get a slot of the instance that c->lobby describes; fills slot, generation, lock_fd, send, recv. 0,
   -ESTALE: this instance takes no more clients, follow `current`; or a code with its sentence. */
int bf_client_claim(struct belfry_client *c, int instance_dir, int64_t deadline_ns);

/* connect.c: may this handle be used here? 0 or BELFRY_EFORKED. */
int bf_client_check(const struct belfry_client *c);

/* wait.c: has it ended? 0, or the code, with its sentence. Entries that came before the end may still be in the ring. */
int bf_client_end(struct belfry_client *c);

/* wait.c: after a commit, or after ring_free has published: one fence, then ring if the server wants it. */
void bf_client_tell(struct belfry_client *c, bool committed);

/* poller.c: a member has waited on its own: name the leaders again before the next common sleep. */
void bf_poller_regroup(belfry_poller *poller);

/* wait.c: does one of these have an entry, room that it wanted, or an end? */
bool bf_client_has_news(struct belfry_client *c);

/*
 * wait.c: sleep until one of `members` has news or until the deadline. `leaders` are those whose bells are rung: one
 * per shard. Returns 0 (look again) or -ETIMEDOUT (the deadline has passed and there was nothing).
 */
int bf_client_sleep(struct belfry_client **members, unsigned count, struct belfry_client **leaders,
                    unsigned leader_count, int64_t deadline_ns);

#endif

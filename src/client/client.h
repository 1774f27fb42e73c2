/* SPDX-License-Identifier: MIT */
/*
 * client.h (internal): the object behind belfry_client.
 *
 * claim.c gets a slot, connect.c makes and ends the handle, send.c and receive.c move messages, kept.c has those that
 * were received, wait.c sleeps, poller.c waits on many, lookout.c has them waited for by a foreign loop. One thread at a
 * time; no io_uring anywhere.
 */
#ifndef BF_CLIENT_CLIENT_H
#define BF_CLIENT_CLIENT_H

#include <belfry/client.h>

#include "base/check.h"
#include "base/order.h"
#include "base/spin.h"
#include "shm/lobby.h"
#include "shm/parts.h"
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

/*
 * large.c: messages that are larger than the ring takes at once.
 *
 *              belfry_send_reserve              commit                all parts are in the ring
 *     NOTHING ---------------------> RESERVED ----------> LEAVING ------------------------------> NOTHING
 *                                                            | given up half-way     cancelled       ^
 *                                                            +-----------> STOPPING -----------------+
 */
enum large_state { LARGE_NOTHING, LARGE_RESERVED, LARGE_LEAVING, LARGE_STOPPING };

struct client_large {
    enum large_state state;
    bool refused_one; /* a send was told -EAGAIN because this is leaving */
    uint64_t refused; /* its payload + 1 */
    uint64_t reserved_bytes;
    void *block; /* what the parts are read from, when it is ours */
    struct parts_out out;
    struct parts_in in;
    struct client_stashed *arriving; /* where its parts are put */
};

/* A request whose caller has stopped waiting. */
struct client_late {
    uint64_t id;
    bool said; /* the server has been told; its echo will be the last of this id */
};

#define CLIENT_HELD_FEW 2u /* a power of two; who releases before he receives again needs no more */

/* shared_lobby.c: an instance's lobby, mapped once per process. */
struct client_lobby {
    struct bf_lobby lobby;
    uint64_t device; /* which instance this is */
    uint64_t inode;
    uint32_t references;
    bool atfork;
    struct client_lobby *next;
};

struct client_reconnect; /* reconnect.h */

struct belfry_client {
    /* What every message touches comes first, in as few cache lines as it takes: a poller has thousands of these. */
    struct belfry_abi_send *send;
    const struct belfry_abi_recv *recv;
    const struct belfry_abi_slot *lobby_slot;
    struct belfry_abi_shard *shard;
    uint32_t open_state;   /* the slot's state word from its claim to its end */
    uint32_t in_place_end; /* a shorter payload goes straight into the ring; 0: something is in its way */
    uint32_t fork_generation;
    int end_rc;       /* 0, or how it ended; the sentence is made again each time */
    bool server_dead; /* the lobby's lock is free */
    bool atfork;
    bool corked;     /* the poller rings for this one, later */
    bool untold;     /* ... and has not yet */
    bool has_commit; /* ... for an entry, not only for a position */
    uint32_t late_count;
    uint32_t unsaid_count;              /* of these, cancellations that found no room yet */
    struct client_reconnect *reconnect; /* NULL: when it ends, it ends */
    struct ring_producer_local out;
    struct ring_consumer_local in;
    uint64_t taken_at; /* where the last message was read */
    uint64_t next_id;
    uint64_t wanted; /* payload + 1 of the send that was told -EAGAIN; 0: none */
    struct client_stashed *stash_first;
    struct client_held *held; /* a circular buffer */
    uint32_t held_capacity;   /* a power of two */
    uint64_t held_first;      /* free-running */
    uint64_t held_next;
    struct client_held held_few[CLIENT_HELD_FEW];
    belfry_poller *poller;
    void *poller_tag;
    struct client_large *large; /* what goes out, or comes in, in parts; NULL: nothing ever did */

    struct client_lookout *lookout; /* behind this client's descriptor, or its poller's; NULL: there is none */

    struct bf_spin spin;
    struct client_lobby *shared; /* the lobby */
    uint32_t slot;
    uint32_t generation;
    int lock_fd;
    uint64_t rescues;     /* news that only the timeout found */
    uint64_t read_all_at; /* it has ended: where what was in the ring by then is over; 0: it has not */
    uint32_t slice;       /* of the doubling timeout behind every wait */

    struct client_stashed *stash_last;
    struct client_stashed *stash_out; /* handed out and not yet released */
    struct client_late *late;
    uint32_t late_capacity;
    uint64_t late_replies; /* dropped, because nobody waited any more */
    struct belfry_client *next_forked;
};

/* shared_lobby.c: as bf_lobby_attach(); one reference is the caller's. The lock is the truth of life: ask the kernel. */
int bf_client_lobby_attach(struct client_lobby **out, int instance_dir, bool atfork);
void bf_client_lobby_detach(struct client_lobby *lobby);
void bf_client_lobby_before_fork(void);
void bf_client_lobby_after_fork(bool child);

/* claim.c: get a slot of the instance that c->shared describes; fills slot, generation, lock_fd, send, recv. 0,
   -ESTALE: this instance takes no more clients, follow `current`; or a code with its sentence. */
int bf_client_claim(struct belfry_client *c, int instance_dir, int64_t deadline_ns);

/* connect.c: forks that this process is away from the first one; and the sentence for a handle from before. */
extern uint32_t bf_client_fork_generation;
int bf_client_forked(void);

/* connect.c: a new client, attached to the instance that is current; `tries` looks at which one that is. */
struct bf_place;
int bf_client_attach(struct belfry_client **out, const struct bf_place *place, const belfry_client_options *o,
                     int64_t deadline_ns, int tries);

/* connect.c: the connection of `fresh`, which is freed, becomes that of `c`; its own maps are unmapped, or another's. */
void bf_client_adopt(struct belfry_client *c, struct belfry_client *fresh, bool unmap);
void bf_client_close_lock(struct belfry_client *c);

/* May this handle be used here? 0 or BELFRY_EFORKED. */
static inline int client_check(const struct belfry_client *c)
{
    if (bf_unlikely(c->atfork && c->fork_generation != bf_client_fork_generation))
        return bf_client_forked();
    return 0;
}

/* wait.c: has it ended? 0, or the code, with its sentence. Entries that came before the end may still be in the ring. */
int bf_client_end(struct belfry_client *c);

/* wait.c: for reading what the server has not. Once the end is there, those entries stay as we wrote them. */
struct ring_consumer_local bf_client_unread(const struct belfry_client *c);

/* wait.c: the connection has ended, and this request was certainly not executed. */
bool bf_client_never_read(struct belfry_client *c, uint64_t id);

/* The shard has stopped or died; its lobby's lock may be free only some milliseconds later. */
static inline bool client_is_over(uint32_t obituary)
{
    return obituary == BELFRY_OBITUARY_STOPPED || (obituary & BELFRY_OBITUARY_DIED) != 0;
}

/*
 * The same for whoever asks often: as long as the lobby calls the slot open under our generation, nobody has ended it.
 * The segment says so a little earlier (listener.c, tell_end), but its words lie in a page of their own for each conn.
 */
static inline int client_end(struct belfry_client *c)
{
    bool stands = load_relaxed(&c->lobby_slot->state) == c->open_state &&
                  !client_is_over(load_relaxed(&c->shard->obituary)) && c->end_rc == 0 && !c->server_dead;
    return bf_likely(stands) ? 0 : bf_client_end(c);
}

/* wait.c: after a commit, or after ring_free has published: one fence, then ring if the server wants it. */
void bf_client_tell(struct belfry_client *c, bool committed);

/* wait.c: the second half of that, after a fence. */
void bf_client_ring(struct belfry_client *c, bool committed);

/*
 * large.c: as ring_reserve(), for a payload that does not go straight into the ring: it is larger than that, or something
 * larger is still leaving, or a large reservation is open. `in_place`: it would fit into one entry.
 */
int bf_large_reserve(struct belfry_client *c, size_t size, bool in_place, void **data);

/* large.c: commit or abort a large reservation. */
int bf_large_commit(struct belfry_client *c, enum belfry_kind kind, size_t size, int64_t deadline, uint64_t *id);
void bf_large_abort(struct belfry_client *c);

/* large.c: send the caller's own bytes in parts, which must stay until bf_large_push() has said 1 or bf_large_stop(). */
int bf_large_begin(struct belfry_client *c, const void *data, size_t size, int64_t deadline, uint64_t *id);

/* large.c: put what fits of the message that leaves into the ring. 1: nothing is left of it; 0: not yet; BELFRY_EPROTO. */
int bf_large_push(struct belfry_client *c);

/* large.c: the message that leaves is given up: it has not been executed, and its request will get no reply. */
void bf_large_stop(struct belfry_client *c);

/* large.c: a PART entry. 1: the message is whole, and in *m; 0: not yet; BELFRY_EPROTO, -ENOMEM. */
int bf_large_take(struct belfry_client *c, const struct ring_entry *e, belfry_message *m);

/* large.c: no further part can arrive, because messages that are held fill the ring. */
bool bf_large_is_blocked(const struct belfry_client *c);

/* large.c: the message that arrives is wanted no longer; what still comes of it is late. */
void bf_large_forget(struct belfry_client *c, uint64_t id);

/* large.c: the connection is lost: what leaves and what arrives is dropped; what is being written stays. */
void bf_large_lost(struct belfry_client *c);

/* large.c: send this; a block that holds its data is taken over. 1: it is leaving; 0: not yet; or a code. */
int bf_large_again(struct belfry_client *c, const struct parts_out *out, void **block);

/* large.c: nothing of either is left. */
void bf_large_free(struct belfry_client *c);

static inline bool client_is_leaving(const struct belfry_client *c)
{
    return c->large != NULL && c->large->state >= LARGE_LEAVING;
}

/* kept.c: keep a message of its own memory for belfry_release(). */
void bf_client_hand_out(struct belfry_client *c, struct client_stashed *stashed, belfry_message *m);

/* cancel.c: stop waiting for a request: tell the server, and drop what still comes. 0 or -ENOMEM. */
int bf_client_give_up(struct belfry_client *c, uint64_t id);

/* cancel.c: tell the server of what it could not be told before. */
void bf_client_say_cancels(struct belfry_client *c);

/* cancel.c: has the server been told that this request, which was given up, is? */
bool bf_client_has_said_cancel(const struct belfry_client *c, uint64_t id);

/* cancel.c: is this entry the answer to something given up, or the echo of it? Then it is to be dropped. */
bool bf_client_is_late(struct belfry_client *c, uint8_t kind, uint8_t flags, uint64_t id);

/* cancel.c: the connection is lost, and with it all that might still come. */
void bf_client_forget_late(struct belfry_client *c);

/* kept.c: keep a message of its own memory for belfry_receive(). */
void bf_client_keep(struct belfry_client *c, struct client_stashed *stashed);

/* receive.c: keep all that is in the ring. 0 or a code. */
int bf_client_keep_all(struct belfry_client *c);

/* kept.c: drop what is kept of the replies to a request. */
void bf_client_drop_stashed(struct belfry_client *c, uint64_t id);

/* poller.c: remember that this member has news, for the next flush. */
void bf_poller_defer(belfry_poller *poller, struct belfry_client *c);

/* The news of a corked poller's client wait for the others'. */
static inline void client_tell(struct belfry_client *c, bool committed)
{
    if (!c->corked) {
        bf_client_tell(c, committed);
        return;
    }
    c->has_commit |= committed;
    if (!c->untold)
        bf_poller_defer(c->poller, c);
}

/* poller.c: a member has waited on its own: name the leaders again before the next common sleep. */
void bf_poller_regroup(belfry_poller *poller);

/* lookout.c: a descriptor and the thread behind it. 0, BELFRY_EKERNEL, BELFRY_ENOFILES, -ENOMEM, or -errno. */
#define LOOKOUT_GROUPS_MAX 63u /* two words each, and one of its own: futex_waitv takes 128 */
int bf_lookout_open(struct client_lookout **out);
void bf_lookout_close(
    struct client_lookout *lookout); /* waits for the thread, which is awake and ending; NULL: nothing */
int bf_lookout_fd(const struct client_lookout *lookout);

/* lookout.c: from now on, look out for the bells of these leaders and no others; what it read before may be unmapped. */
void bf_lookout_watch(struct client_lookout *lookout, struct belfry_client *const *leaders, unsigned count);

/* lookout.c: nothing was found: clear the descriptor until there is news for one of `members`, or it is alarm_ns. */
void bf_lookout_arm(struct client_lookout *lookout, struct belfry_client **members, unsigned count,
                    struct belfry_client **leaders, unsigned leader_count, int64_t alarm_ns);

/* lookout.c: let the program's loop come round and look. */
void bf_lookout_alert(struct client_lookout *lookout);

/* What the last arming was for has changed: something new is wanted, or somebody else has waited. */
static inline void client_alert(const struct belfry_client *c)
{
    if (bf_unlikely(c->lookout != NULL))
        bf_lookout_alert(c->lookout);
}

/* wait.c: does one of these have an entry, room that it wanted, or an end? */
bool bf_client_has_news(struct belfry_client *c);

/*
 * wait.c: sleep until one of `members` has news or until the deadline. `leaders` are those whose bells are rung: one
 * per shard. Returns 0 (look again) or -ETIMEDOUT (the deadline has passed and there was nothing).
 */
int bf_client_sleep(struct belfry_client **members, unsigned count, struct belfry_client **leaders,
                    unsigned leader_count, int64_t deadline_ns);

#endif

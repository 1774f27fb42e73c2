/* SPDX-License-Identifier: MIT */
/*
 * belfry/server.h: turn this process into an IPC server.
 *
 * Caveats, before anything else:
 * - Handlers run on the shard's thread. A handler that blocks stops all clients of that shard; from `stall_ms` on that is
 *   counted and logged. One that ends its thread (pthread_exit, pthread_cancel) ends the process by SIGABRT.
 * - The server's threads are pinned to a core each (`pin`), and a handler for fork (`atfork`) closes in the child what
 *   would otherwise keep a dead server alive. Both can be switched off.
 * - The process gets a handler for SIGBUS (`sigbus_guard`; can be switched off): whoever may write to a client's segment can
 *   cut it short while the server uses it. The handler takes care of the addresses of segments and passes all else on to the one
 *   that was there before, or to the default. A handler that you install later must call the one that it finds. It stays until
 *   the process ends. A thread that blocks SIGBUS is not guarded.
 * - libbelfry built with jemalloc: only mallocx, dallocx and mallctl are called, but a program that links the static
 *   library gets jemalloc as its malloc, and the shared library cannot be loaded with dlopen ("static TLS block").
 *   -Dallocator=libc is the remedy for both.
 * - Do not call exec from a thread other than the main one while a server runs: clients would not be told.
 * - Link either libbelfry (server and client) or libbelfry-client (client alone), never both.
 */
#ifndef BELFRY_SERVER_H
#define BELFRY_SERVER_H

#include <belfry/types.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct belfry_server belfry_server;

/* One attached client, as its shard's thread sees it, from on_connect until on_disconnect has returned. */
typedef struct belfry_conn belfry_conn;

/* The same conn for everybody else: shard, slot and generation in 64 bits; another client gets it only after 2^29 others
   have had the slot. */
typedef uint64_t belfry_conn_id;

/*
 * A request whose answer comes later. A value: copy it as you like, use it on any thread. It never answers anybody but
 * the client that asked.
 */
typedef struct belfry_ticket {
    belfry_conn_id conn;
    uint64_t request;    /* its id */
    int64_t deadline_ns; /* as belfry_message_deadline() said */
    uint32_t place;      /* the library's own */
    uint32_t serial;     /* the library's own */
} belfry_ticket;

enum belfry_log_level { BELFRY_LOG_ERROR = 0, BELFRY_LOG_WARNING = 1, BELFRY_LOG_INFO = 2 };

/* Who may connect. What the server's own user may do, it may do with all of these. */
enum belfry_access {
    BELFRY_ACCESS_OWNER = 0,    /* the server's own user */
    BELFRY_ACCESS_GROUP = 1,    /* and the members of access_gid */
    BELFRY_ACCESS_EVERYONE = 2, /* and every user of the machine */
};

/* What happens to a reply or push that finds its client's outbox full, because the client does not read. */
enum belfry_overflow {
    BELFRY_OVERFLOW_REFUSE = 0,     /* whoever says it is told BELFRY_EBACKLOG */
    BELFRY_OVERFLOW_DROP_PUSH = 1,  /* pushes that wait make room, the oldest first; if that is not enough: as above */
    BELFRY_OVERFLOW_DISCONNECT = 2, /* as above, and the conn ends with BELFRY_END_BACKLOG */
};

typedef struct belfry_server_options {
    size_t size; /* set by belfry_server_options_init() */

    /* The name clients connect to: [a-z0-9._-]{1,63}. Copied by create. Required. */
    const char *service;

    /* Directory on tmpfs that holds all services; NULL: $BELFRY_ROOT, else /dev/shm/belfry-<uid>. Copied by create. */
    const char *root;

    /*
     * A client attached. Return 0 to accept or a negative code to refuse: the client then gets BELFRY_EREFUSED, and
     * nothing that it sent is executed. Optional. Shard's thread. `conn` lives until on_disconnect returns. A client of
     * another user gets at the conn's memory only once this has returned 0.
     */
    int (*on_connect)(belfry_conn *conn, void *user);

    /*
     * A request (answer it with belfry_reply, belfry_fail or reserve/commit before returning, or belfry_defer it, else
     * the client gets BELFRY_EUNANSWERED) or a one-way message (m->kind tells). Required. Shard's thread. `m` and its data die on
     * return. The data of the server's own user's clients lies in memory that these can write: read each byte once if
     * that matters to you. If they take that memory away meanwhile, what you have not read yet becomes zeros, and the conn
     * ends when you return. What another user sent is a copy.
     */
    void (*on_message)(belfry_conn *conn, const belfry_message *m, void *user);

    /*
     * Nobody waits for a deferred request any more: -ECANCELED, its client said so; BELFRY_EGONE, its conn is over
     * (then on_disconnect follows). The place to interrupt whoever works on it; he still has to end the ticket, and gets the
     * same code. Called at most once per ticket. Optional. Shard's thread; `t` lives until it returns.
     */
    void (*on_cancel)(belfry_conn *conn, const belfry_ticket *t, int why, void *user);

    /*
     * The conn is over, and why. Called exactly once for each conn that on_connect accepted; `conn` is invalid after.
     * Nothing can be sent to it any more. Optional. Shard's thread.
     */
    void (*on_disconnect)(belfry_conn *conn, enum belfry_end why, void *user);

    /*
     * The conn's outbox has grown beyond outbox_high_bytes (high is true), or has since fallen to outbox_low_bytes
     * (false): the place to stop and resume whatever is pushed to it. Called in turns, high first, once the handler that
     * filled it has returned; not at the end of the conn. Pushing from here is allowed, answering is not. Optional. Shard's
     * thread.
     */
    void (*on_backlog)(belfry_conn *conn, bool high, void *user);

    /*
     * A shard's thread has started and will serve, or has served its last conn and ends: open and close here what
     * handlers of one shard share. A negative code from on_shard_start makes belfry_server_start() fail with it.
     * on_shard_stop is called once for each on_shard_start that returned 0, after the last on_disconnect and the last
     * posted work. Optional. Shard's thread.
     */
    int (*on_shard_start)(belfry_server *s, uint32_t shard, void *user);
    void (*on_shard_stop)(belfry_server *s, uint32_t shard, void *user);

    /* One line for the operator, without a newline. NULL: errors and warnings go to standard error. Any thread. */
    void (*on_log)(enum belfry_log_level level, const char *line, void *user);

    void *user; /* handed to every callback */

    uint32_t shards;            /* threads, 1 to 64; 0: one per core that this process may use */
    uint32_t max_slots;         /* clients at most, split evenly over the shards; 1 to 1,048,576 */
    uint32_t warm_pool;         /* free slots kept ready, at most max_slots, split evenly; 0: make each on demand */
    uint32_t ring_bytes;        /* of each of the two rings of a slot; a power of two, 4,096 to 1 GiB */
    uint32_t message_bytes_max; /* largest payload, up to 1 GiB; 0: what the ring takes at once, ring_bytes / 4 - 16 */
    uint64_t whole_bytes_max;   /* of messages that arrive in parts, of all conns; 0: 256 MiB, or one message */
    uint32_t outbox_bytes_max;  /* kept for a client whose ring is full, 48 more per message; beyond: BELFRY_EBACKLOG */
    uint32_t outbox_high_bytes; /* on_backlog, of what the outbox holds; 0: half of outbox_bytes_max */
    uint32_t outbox_low_bytes;  /* below outbox_high_bytes */
    enum belfry_overflow overflow; /* a full outbox; tickets are not concerned: see belfry_complete_more() */
    uint32_t deferred_max;   /* deferred requests of one conn at most; no further one is read until some are answered */
    uint32_t claim_grace_ms; /* how long a lock file may stand unlocked or without a hello */
    enum belfry_spin spin;   /* how hard to poll before sleeping */

    /*
     * Other users (docs/guide.md, "Other users"). They find the service as "uid:name", with the server's number. The limits
     * are for one user other than the server's, over all shards; whoever reaches one is refused with BELFRY_EQUOTA, or
     * his message with -ENOBUFS.
     */
    enum belfry_access access;
    uint32_t access_gid;       /* for BELFRY_ACCESS_GROUP: one of the server's groups; UINT32_MAX: its primary one */
    uint32_t uid_slots_max;    /* connections at a time; 0: a quarter of max_slots */
    uint32_t uid_connects_max; /* connects per second, and so many at once after a pause */
    uint64_t uid_bytes_max;    /* of messages that arrive in parts; 0: half of whole_bytes_max, or one message */

    uint32_t stall_ms; /* a turn that takes so long is counted as a stall, and logged every 10 s at most; 0: never */
    bool skip_expired; /* answer -ETIMEDOUT for the handler when a request's deadline has passed before its turn */
    bool pin;          /* pin shard i to the i-th allowed core */
    bool atfork;       /* close the server's lock in forked children */
    bool stop_signals; /* SIGINT and SIGTERM stop the server; one server per process may say so */
    bool own_loop;     /* no thread is made: yours runs the one shard, with belfry_shard_turn() */
    bool sigbus_guard; /* catch SIGBUS: a client that truncates its segments loses its conn, not you your process */
} belfry_server_options;

/*
 * Fill `o` with the defaults this library was built with (Meson options). `size` is sizeof *o as the caller knows it,
 * so that a program and a library of different ages can meet. Any thread; does not block or fail.
 */
BELFRY_API void belfry_server_options_init(belfry_server_options *o, size_t size);

/*
 * Check the options and make a server that does nothing yet. On success *out is the caller's, to be given to
 * belfry_server_destroy(); on failure *out is NULL. The strings in `o` are copied. Allocates; no system resource is
 * taken. Returns 0, BELFRY_ENAME, BELFRY_EOPTION (each names the option), BELFRY_EMAPS, BELFRY_EROOT or -ENOMEM.
 */
BELFRY_API int belfry_server_create(belfry_server **out, const belfry_server_options *o);

/*
 * Start serving: make the instance's directory, start the shards, fill the warm pool, then become the current instance
 * of the service. Blocks until clients can connect. If another instance serves this name, it is replaced: it takes no
 * more clients, serves those it has until they leave, and ends; its belfry_server_wait() then returns 0.
 * On failure nothing is left behind and start may be tried again. Returns 0; BELFRY_EKERNEL, BELFRY_EFORBIDDEN,
 * BELFRY_EMEMLOCK, BELFRY_ENOFILES, BELFRY_ENOSPACE, BELFRY_EROOT; BELFRY_ESTATE when started already;
 * or -errno. One thread at a time.
 */
BELFRY_API int belfry_server_start(belfry_server *s);

/*
 * Block until the server has stopped (belfry_server_stop, a stop signal, or replaced and its last client gone) and
 * remove its files. With own_loop it runs the turns itself until then. Returns 0; BELFRY_ESTATE when it was never started;
 * with own_loop BELFRY_ETHREAD on a thread other than the shard's, and BELFRY_ESTATE from a handler. One thread.
 */
BELFRY_API int belfry_server_wait(belfry_server *s);

/* start, then wait. */
BELFRY_API int belfry_server_run(belfry_server *s);

/*
 * Ask the server to stop (one that has not started yet: as soon as it has): running handlers finish, every client is told (BELFRY_EGONE on its side), on_disconnect is
 * called for each conn, then wait returns. Does not block. Any thread, any handler, any signal handler.
 */
BELFRY_API void belfry_server_stop(belfry_server *s);

/*
 * Shut down without breaking anything off. No new client is taken: newcomers find the successor, or BELFRY_ENOSERVICE.
 * Requests that have been sent are handled; each conn ends with BELFRY_END_DRAINED as soon as none of its requests is
 * unread, deferred or arriving in parts and its outbox is empty, which for one that is idle is at once. One that goes on
 * sending is read for one ring more. At `deadline` (BELFRY_FOREVER: never) those that are left end with
 * BELFRY_END_STOPPED, and their tickets are worth nothing any more; until then a client that does not read, or whose large
 * message never becomes whole, may hold it up. When the last conn is over the server ends, and
 * belfry_server_wait() returns 0. What a client sends after its conn has ended, it can tell from what may have been
 * executed: belfry_client_never_read(), and belfry_reconnect sends it again. A later call sets another deadline;
 * belfry_server_stop() ends it all at once.
 * Does not block. Any thread, any handler, any signal handler. Returns 0, or BELFRY_ESTATE when the server does not run
 * (and leaves belfry_last_error() as it was).
 */
BELFRY_API int belfry_drain(belfry_server *s, int64_t deadline);

/* Stop and wait if need be, then free. NULL is accepted. Not from a handler. In a forked child it only frees. With
   own_loop, a server that runs is destroyed on its shard's thread; elsewhere this stops it and frees nothing. */
BELFRY_API void belfry_server_destroy(belfry_server *s);

/* The number of this running instance within its service (0 before start). Any thread. */
BELFRY_API uint64_t belfry_server_instance(const belfry_server *s);

/* --- a loop of your own (option own_loop) ------------------------------------------------------------------------ */

/*
 * With own_loop, belfry_server_start() makes no thread. The thread that calls it is the shard's from then on, and runs its
 * turns: when belfry_shard_fd() is readable. It must be the one that stays, since its end looks like the server's death to
 * clients. `shards` must be 1 or 0, which then means 1; `pin` is ignored, and so is `spin`, but by belfry_server_wait().
 *
 * Run one turn: hand what has come to the handlers, each conn a bounded share, fire timers, send what they said, and do a
 * bite of house-keeping; at most four times over while there is more. Then, if nothing is left to do, arrange for the
 * descriptor. Never waits; how long it takes is up to your handlers. Handlers run within, and only there is this thread
 * the shard's: between turns it uses belfry_post() and belfry_push_to() like any other, and functions of a handler say
 * BELFRY_ETHREAD. Calling it more often than the descriptor says is right and costs about a microsecond.
 * Returns 1; 0 when the shard has ended (stopped, drained, or replaced and its last client gone): take the descriptor
 * out of your loop, then call belfry_server_wait(). BELFRY_ETHREAD on another thread; BELFRY_ESTATE from a handler, without
 * own_loop, when the server does not run, and in a forked child; BELFRY_EOPTION for a shard other than 0.
 */
BELFRY_API int belfry_shard_turn(belfry_server *s, uint32_t shard);

/*
 * The descriptor that is readable as long as a turn is due: something came, a timer is due, work was left, somebody
 * posted or asked to stop. Level-triggered: only a turn makes it unreadable. It is readable after start, and the same until
 * belfry_server_wait(), which closes it. For poll, epoll and every loop on top of them; do not read, write or close it, and
 * do not wait edge-triggered. Any thread, while the server runs. Results else as belfry_shard_turn().
 */
BELFRY_API int belfry_shard_fd(belfry_server *s, uint32_t shard);

/* --- from any thread of the server's process, while the server runs -------------------------------------------- */

/*
 * Run `work` on the thread of shard `shard` (0 to shards - 1) in one of its next turns. Posts of one thread run in
 * their order. Every accepted post runs exactly once, at the latest when the shard stops. `user` is the caller's.
 * Allocates, does not block; a system call only if the shard sleeps. Not for signal handlers. Returns 0;
 * BELFRY_EOPTION for no such shard; BELFRY_ESTATE when the server does not run (nothing will be called); -ENOMEM.
 */
BELFRY_API int belfry_post(belfry_server *s, uint32_t shard, void (*work)(void *user), void *user);

/*
 * Push a copy of `size` bytes to one conn, named by its id. If it is over by the time its shard looks, or its outbox is
 * full, the message is dropped and counted (belfry_counters.pushes_dropped). Blocks, threads and results as
 * belfry_post(); BELFRY_ETOOBIG; BELFRY_EOPTION when no shard can have given that id.
 */
BELFRY_API int belfry_push_to(belfry_server *s, belfry_conn_id id, const void *data, size_t size);

/*
 * The same to every conn that is there when its shard looks. One copy travels to all shards; what does not fit into a
 * client's ring at once, as a large message never does, is copied once more for that client.
 */
BELFRY_API int belfry_broadcast(belfry_server *s, const void *data, size_t size);

/*
 * Answer a deferred request, for the last time: with a copy of `size` bytes, or with a failure (as belfry_fail()). Room
 * for it is kept: it is never refused because the client reads slowly. Allocates, does not block. Returns 0: the answer
 * is on its way. Else the ticket is worth nothing, and this says why: -ECANCELED, BELFRY_EGONE (conn or server),
 * BELFRY_EANSWERED (ended before: twice, or long ago). On BELFRY_ETOOBIG, BELFRY_EOPTION (no ticket of this server) and
 * -ENOMEM nothing has happened. Any thread, as long as the server is not destroyed.
 */
BELFRY_API int belfry_complete(belfry_server *s, const belfry_ticket *t, const void *data, size_t size);
BELFRY_API int belfry_complete_failed(belfry_server *s, const belfry_ticket *t, int status, const char *text);

/*
 * One of several replies: the ticket stays open, and the client sees BELFRY_MORE. At most outbox_bytes_max of one ticket
 * wait for a client that reads slowly; beyond, BELFRY_EBACKLOG: then belfry_ticket_wait(). Replies said by one thread
 * arrive in its order. Else as belfry_complete(), but the codes do not end the ticket.
 */
BELFRY_API int belfry_complete_more(belfry_server *s, const belfry_ticket *t, const void *data, size_t size);

/* Is the answer still wanted? 0, or the code that belfry_complete() would give. One look; any thread. */
BELFRY_API int belfry_ticket_status(belfry_server *s, const belfry_ticket *t);

/*
 * Block until this ticket may say more (0), is worth nothing (its code) or `deadline` passes (-ETIMEDOUT). Not on a
 * shard's thread (BELFRY_ETHREAD), and on one thread per ticket at a time.
 */
BELFRY_API int belfry_ticket_wait(belfry_server *s, const belfry_ticket *t, int64_t deadline);

/*
 * The conn of that id, for use until the handler or posted work returns; NULL when it is over. On the thread of its
 * shard (NULL elsewhere).
 */
BELFRY_API belfry_conn *belfry_conn_find(belfry_server *s, belfry_conn_id id);
BELFRY_API uint32_t belfry_conn_id_shard(belfry_conn_id id); /* where to post to */

/* --- in a handler, on the shard's thread. None of these blocks or makes a system call. ------------------------- */

/*
 * Answer the request `m` with a copy of `size` bytes. If the client's ring is full the reply is kept in the outbox and
 * no further request of that client is read until it has caught up. Returns 0; BELFRY_ETOOBIG; BELFRY_EANSWERED;
 * BELFRY_EBACKLOG when outbox_bytes_max is reached (the request is still unanswered; see enum belfry_overflow);
 * BELFRY_ETHREAD; -ENOMEM.
 */
BELFRY_API int belfry_reply(belfry_conn *conn, const belfry_message *m, const void *data, size_t size);

/*
 * Answer with one of several replies; the request stays open until belfry_reply(), belfry_fail() or the last of a
 * ticket. The client sees BELFRY_MORE in the flags of each but the last. Results as belfry_reply().
 */
BELFRY_API int belfry_reply_more(belfry_conn *conn, const belfry_message *m, const void *data, size_t size);

/*
 * The same in place: reserve room for up to `size` bytes, write them, commit what was used (or abort). *data is
 * 8-byte aligned, write-only, the caller's until commit or abort, which must happen before the handler returns. One
 * reservation per conn at a time; a second one, a commit without one or of more than was reserved is BELFRY_ESTATE. On
 * another thread abort does nothing. Other results as belfry_reply().
 */
BELFRY_API int belfry_reply_reserve(belfry_conn *conn, const belfry_message *m, size_t size, void **data);
BELFRY_API int belfry_reply_commit(belfry_conn *conn, size_t size);
BELFRY_API void belfry_reply_abort(belfry_conn *conn);

/*
 * Answer the request with a failure: belfry_call() on the client returns `status` and belfry_last_error() says `text`.
 * `status` is negative: -errno, a BELFRY_E... code, or one of yours at or below BELFRY_EUSER. `text` may be NULL; at
 * most 255 bytes travel. Returns 0; BELFRY_EOPTION for a status that is not negative; else as belfry_reply().
 */
BELFRY_API int belfry_fail(belfry_conn *conn, const belfry_message *m, int status, const char *text);

/*
 * Answer later, from any thread: *ticket names the request then. `copy` (may be NULL: not wanted) becomes a copy of the
 * message that is the caller's until belfry_message_free(), on any thread; of a large one it is no copy but the message
 * itself, so do not use m->data after that. Whoever holds the ticket ends it exactly
 * once, with belfry_complete() or belfry_complete_failed(), also when nobody waits any more. A conn with deferred_max
 * such requests is not read further, but for cancellations. Allocates. Returns 0; BELFRY_EANSWERED; BELFRY_ETHREAD; BELFRY_EBACKLOG when the shard has
 * 65,536 of them; -ENOMEM. On failure the request is still open.
 */
BELFRY_API int belfry_defer(belfry_conn *conn, const belfry_message *m, belfry_ticket *ticket, belfry_message *copy);
BELFRY_API void belfry_message_free(belfry_message *copy); /* any thread; an empty one does nothing */

/* Until when the client waits for the answer (CLOCK_MONOTONIC, ns); BELFRY_FOREVER when it did not say. */
BELFRY_API int64_t belfry_message_deadline(const belfry_message *m);

/* Send a message that answers nothing; the client gets it from belfry_receive(). Results as belfry_reply(). */
BELFRY_API int belfry_push(belfry_conn *conn, const void *data, size_t size);

/*
 * How well this client keeps up. A large message that is leaving counts nowhere here: it would be in the outbox however
 * fast the client read. A push of belfry_push_to() or belfry_broadcast() that found no room counts twice, as refused and
 * as dropped.
 */
typedef struct belfry_backlog {
    uint64_t bytes;      /* waiting in its outbox now: payloads, and 48 for each message */
    uint64_t bytes_peak; /* the most there ever was */
    uint64_t stalls;     /* times its ring was full and the outbox began to fill */
    uint64_t refused;    /* replies and pushes that found the outbox full and were not taken */
    uint64_t dropped;    /* pushes that are lost: that was not taken for it, or made room for what is newer */
} belfry_backlog;
BELFRY_API belfry_backlog belfry_conn_backlog(const belfry_conn *conn);

/* End this conn once the handler has returned. The client gets BELFRY_EGONE after it has read what is in its ring; what
   still waits in its outbox is dropped. On another thread it does nothing but say so in belfry_last_error(). */
BELFRY_API void belfry_disconnect(belfry_conn *conn);

/* A pointer of yours per conn; NULL at first. */
BELFRY_API void belfry_conn_set_user(belfry_conn *conn, void *pointer);
BELFRY_API void *belfry_conn_user(const belfry_conn *conn);

BELFRY_API belfry_conn_id belfry_conn_get_id(const belfry_conn *conn);
BELFRY_API uint32_t belfry_conn_shard(const belfry_conn *conn);
BELFRY_API uint32_t belfry_conn_slot(const belfry_conn *conn);

/* The user, and one of his groups: owner of the lock file, attested by the kernel. */
BELFRY_API uint32_t belfry_conn_uid(const belfry_conn *conn);
BELFRY_API uint32_t belfry_conn_gid(const belfry_conn *conn);
BELFRY_API uint32_t belfry_conn_pid(const belfry_conn *conn); /* as the client said it: never decide by it */
BELFRY_API belfry_server *belfry_conn_server(const belfry_conn *conn);

/* The largest payload of a message in either direction, in bytes. */
BELFRY_API size_t belfry_conn_message_bytes_max(const belfry_conn *conn);

/*
 * Memory from the arena of the shard whose handler is running: fast, NUMA-local, counted in belfry_stats(). Aligned to
 * 16 bytes. Free it on the same shard, before on_disconnect of the last conn returns at stop. NULL when there is none,
 * or when the calling thread is not a shard. belfry_free(NULL) does nothing.
 */
BELFRY_API void *belfry_alloc(size_t size);
BELFRY_API void belfry_free(void *pointer);

/* --- timers, on a shard's thread -------------------------------------------------------------------------------- */

/*
 * Call me back at that time. The timer is memory of yours, alone or within a larger object, and may be anywhere; while
 * it is set it must stay where it is. A timer belongs to no shard until it is set.
 */
typedef struct belfry_timer belfry_timer;

struct belfry_timer_link { /* the library's own */
    struct belfry_timer_link *next, *previous;
};

struct belfry_timer { /* written by the functions below only */
    struct belfry_timer_link link;
    int64_t at_ns;
    void *wheel;
    void (*on_fire)(belfry_timer *t, void *user);
    void *user;
};

/*
 * Make a timer that is not set. Not for one that is set: cancel it first. `on_fire` is required, and is called on the
 * thread of the shard that set it, between two messages, once for each setting. The timer is not set any more by then:
 * on_fire may set it again, set and cancel others, or free the memory it lies in. It may push to conns of its shard; like
 * a handler it must not block. Any thread; cannot fail.
 */
BELFRY_API void belfry_timer_init(belfry_timer *t, void (*on_fire)(belfry_timer *t, void *user), void *user);

/*
 * Set the timer for a point on CLOCK_MONOTONIC in nanoseconds (belfry_now_ns(), belfry_in_ms()). One that is set is
 * moved. It never fires early, and fires at most 1.05 ms (a tick of 2^20 ns) and a turn of the shard late; later only
 * if more than 256 are due at once, as a turn fires no more. Timers fire in the order of their ticks; in which order
 * those of one tick fire is not said. A time in the past fires in the next turn; BELFRY_FOREVER never. When the shard
 * stops, timers that are set are dropped without being fired, before on_disconnect is called for its last conns; then
 * belfry_timer_is_set() is false and their memory may go. A timer does not keep a replaced server running. Does not
 * block, allocate or make a system call. Shard's thread.
 * Returns 0; BELFRY_ETHREAD on any other thread, or when it is set on another shard; BELFRY_ESTATE when the shard is
 * stopping.
 */
BELFRY_API int belfry_timer_set(belfry_timer *t, int64_t at_ns);

/*
 * It shall not fire. Returns 1 when it was set, 0 when it was not (any thread, nothing is done); BELFRY_ETHREAD when it
 * is set and this is not the thread of the shard that set it.
 */
BELFRY_API int belfry_timer_cancel(belfry_timer *t);

/* Will it fire? Thread of the shard that set it; or any, once that has stopped. */
BELFRY_API bool belfry_timer_is_set(const belfry_timer *t);

#ifdef __cplusplus
}
#endif
#endif

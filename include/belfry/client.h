/* SPDX-License-Identifier: MIT */
/*
 * belfry/client.h: talk to a belfry server on this machine.
 *
 * - A handle serves one thread at a time and is unusable after fork (BELFRY_EFORKED); connect again in the child.
 * - Only connect, call, await, receive, flush and poller_wait block. Sending never does: a full ring is -EAGAIN.
 * - A client needs no io_uring and nothing but libc (link libbelfry-client), on Linux 5.16 or newer.
 * - A message is valid until released, and holding one holds its room in the ring: release soon, the oldest first.
 */
#ifndef BELFRY_CLIENT_H
#define BELFRY_CLIENT_H

#include <belfry/types.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct belfry_client belfry_client;

/* What on_reconnect is told. */
enum belfry_reconnect_event {
    BELFRY_RECONNECT_LOST = 1,     /* the connection has ended, with this code, and will be made again */
    BELFRY_RECONNECT_FAILED = 2,   /* an attempt has failed with this code; the next will be made */
    BELFRY_RECONNECT_DONE = 3,     /* attached again; the code is 0 */
    BELFRY_RECONNECT_GIVEN_UP = 4, /* it will not be made again: the client ends with this code */
};

/*
 * Go on with another connection when the server was drained, replaced, stopped or killed, or did not accept us. Not when
 * on_connect refused us, the service disconnected us, or the formats differ: then it ends, as without this.
 *
 * No thread works at that: whoever calls, receives or waits (in a poller, too) makes the attempts, and each may take up to
 * 100 ms beyond his deadline while the server makes a slot. Sends never wait: until the connection is there again, and
 * what was in flight has gone out, they are told -EAGAIN; receive, or the poller, says when to try again.
 *
 * What becomes of a message that was sent and not answered:
 * - The server said how far it had read (drained, stopped), and had not read this one; or it had not left whole: it is sent
 *   again, under its id. So nothing is lost when a server is drained.
 * - It may have been executed, and may be executed twice (belfry_send_idempotent, belfry_call_idempotent, or `idempotent`
 *   below), and none of its replies has come: it is sent again, under its id. Its bytes are kept for that until it is
 *   answered; a copy is made of them, except by calls.
 * - Else it ends with BELFRY_EGONE: a call returns that, belfry_await() too, and belfry_receive() hands out a failure of that
 *   status. One-way messages that may have been read are gone.
 * Messages that came before the end, and those that are held, stay. Cancelled requests stay cancelled.
 */
typedef struct belfry_reconnect {
    bool enabled;      /* default: false */
    bool idempotent;   /* every request of this client may be executed twice */
    uint32_t first_ms; /* the pause after the first failed attempt; doubles with each. The first is made at once */
    uint32_t max_ms;   /* ... up to this */
    uint32_t
        jitter_percent;   /* each pause is shorter by up to so much, so that not all clients come at once; 0 to 100 */
    uint32_t give_up_ms;  /* 0: never. Else the client ends with BELFRY_EGONE when it has been without so long */
    uint32_t replays_max; /* of one request that may have been executed: perhaps it is what kills the server */

    /*
     * What has happened. Called by whoever notices, in any function of the client or of its poller. It may ask the client
     * where it sits, and do nothing else with it. Optional.
     */
    void (*on_reconnect)(belfry_client *c, enum belfry_reconnect_event event, int rc, void *user);
    void *user;
} belfry_reconnect;

typedef struct belfry_client_options {
    size_t size;         /* set by belfry_client_options_init() */
    const char *root;    /* NULL: $BELFRY_ROOT, else /dev/shm/belfry-<uid> */
    int64_t deadline_ns; /* for connect, on CLOCK_MONOTONIC; 0: five seconds from the call */
    enum belfry_spin spin;
    bool atfork; /* close this client's lock in forked children, so that its death is noticed */
    belfry_reconnect reconnect;
} belfry_client_options;

/* Fill `o` with the defaults; `size` is sizeof *o as the caller knows it. */
BELFRY_API void belfry_client_options_init(belfry_client_options *o, size_t size);

/*
 * Attach to `service` ("name", or "uid:name" for the service of another user). `o` may be NULL. On a warm slot it takes
 * no round trip: the connection may be used before the server has noticed it. Otherwise it blocks until the server
 * has made the slot or, of another user, has let us in, at most until the deadline. When all slots are taken it looks again for a quarter of a second,
 * since whoever has just left may still look attached. On success *out is the caller's, for belfry_close(); on failure it is
 * NULL. Returns 0, BELFRY_ENOSERVICE, BELFRY_EFULL, BELFRY_EQUOTA, BELFRY_EREFUSED, BELFRY_EVERSION, BELFRY_ENOSPACE, BELFRY_EROOT,
 * BELFRY_ENAME, BELFRY_ENOFILES, BELFRY_EGONE, -EACCES, -ETIMEDOUT, -ENOMEM.
 */
BELFRY_API int belfry_connect(belfry_client **out, const char *service, const belfry_client_options *o);

/*
 * Leave: say goodbye, let go of the slot, free the handle. Messages already sent are still executed. Messages received
 * from this handle become invalid. NULL is accepted. Does not block; a client with a descriptor waits for its thread to end.
 */
BELFRY_API void belfry_close(belfry_client *c);

/*
 * Send a request and wait for its reply, at most until `deadline`. On success (0) *reply holds it until
 * belfry_release(). Replies to other requests and pushed messages that arrive meanwhile are kept, in order, for
 * belfry_receive(). On failure *reply is empty and need not be released.
 * The server sees the deadline (belfry_message_deadline), and is told when it has passed, as by belfry_cancel(). If the
 * reply is one of several (BELFRY_MORE), belfry_await() with reply->id gives the others.
 * Returns 0; -ETIMEDOUT (a late reply is dropped); BELFRY_EGONE; BELFRY_EREFUSED, BELFRY_ENOSPACE or BELFRY_EVERSION (the
 * connection was never accepted, nothing was executed); BELFRY_EUNREAD (the server drained, and ended the connection before
 * it read this request: it was not executed); BELFRY_EPROTO; BELFRY_ETOOBIG; BELFRY_EFORKED; BELFRY_ESTATE while
 * a reservation is open; -ENOMEM for a message that had to be kept; or the status that the handler gave to
 * belfry_fail(), with its text in belfry_last_error().
 */
BELFRY_API int belfry_call(belfry_client *c, const void *data, size_t size, belfry_message *reply, int64_t deadline);

/*
 * Send a request without waiting; *id (may be NULL) is what its reply will carry. The data is copied. Returns 0,
 * -EAGAIN when the ring is full (receive something, or wait with belfry_receive), BELFRY_EGONE, BELFRY_EREFUSED,
 * BELFRY_ETOOBIG, BELFRY_ESTATE, BELFRY_EFORKED.
 */
BELFRY_API int belfry_send(belfry_client *c, const void *data, size_t size, uint64_t *id);

/* The same, and tell the server until when the reply is wanted (as belfry_call() does). It does not cancel by itself. */
BELFRY_API int belfry_send_until(belfry_client *c, const void *data, size_t size, int64_t deadline, uint64_t *id);

/*
 * As belfry_send_until(), belfry_call(), for a request that may be executed twice: should the connection be lost before it
 * is answered, it is sent again (belfry_reconnect). Without that policy there is no difference. Also -ENOMEM, for its copy.
 */
BELFRY_API int belfry_send_idempotent(belfry_client *c, const void *data, size_t size, int64_t deadline, uint64_t *id);
BELFRY_API int belfry_call_idempotent(belfry_client *c, const void *data, size_t size, belfry_message *reply,
                                      int64_t deadline);

/* The same for a message that wants no reply. */
BELFRY_API int belfry_send_one_way(belfry_client *c, const void *data, size_t size);

/*
 * Send in place: reserve room for up to `size` bytes, write them, then commit as BELFRY_REQUEST or BELFRY_ONE_WAY with
 * the size that was used, or abort. *data is 8-byte aligned and the caller's until then. One reservation at a time.
 */
BELFRY_API int belfry_send_reserve(belfry_client *c, size_t size, void **data);
BELFRY_API int belfry_send_commit(belfry_client *c, enum belfry_kind kind, size_t size, uint64_t *id);
BELFRY_API void belfry_send_abort(belfry_client *c);

/*
 * The next message in order of arrival, waiting at most until `deadline` (0: do not wait): a reply, a failure
 * (m->status < 0, m->data is the sentence) or a push; m->id tells which request it answers. While it waits, space for
 * sending counts too: after an -EAGAIN from a send, receive returns -EAGAIN as soon as there is room again, even if no
 * message came. Returns 0 and a message to be released; -ETIMEDOUT; -EAGAIN (room to send again); BELFRY_EGONE once
 * everything that arrived has been handed out; BELFRY_EREFUSED; BELFRY_EPROTO; BELFRY_EFORKED.
 */
BELFRY_API int belfry_receive(belfry_client *c, belfry_message *m, int64_t deadline);

/*
 * The next reply to request `id` alone, waiting at most until `deadline`. What else arrives meanwhile is kept, in order,
 * for belfry_receive(). As long as reply->flags has BELFRY_MORE, another will follow. Results as belfry_call(), but
 * -ETIMEDOUT leaves the request as it is; -ENOENT when no such request was sent. Waiting for one that has been answered ends at the deadline.
 */
BELFRY_API int belfry_await(belfry_client *c, uint64_t id, belfry_message *reply, int64_t deadline);

/*
 * Stop waiting for request `id`: the server is told, so that it can stop working on it, and nothing with that id is
 * handed out any more. A reply that comes all the same is dropped and counted. Cancelling twice, or what has been
 * answered, does nothing. If the ring is full, the server is told when `c` receives next. Does not block. Returns 0; -ENOENT when no
 * such request was sent; BELFRY_EGONE and other ends; BELFRY_EFORKED; -ENOMEM.
 */
BELFRY_API int belfry_cancel(belfry_client *c, uint64_t id);
BELFRY_API uint64_t belfry_client_late_replies(const belfry_client *c); /* dropped so far */

/*
 * The connection has ended: is it certain that request `id` has not been executed, and never will be? True when the server
 * said how far it had read (it was drained, stopped, or ended this conn; not when it was killed) and that request was
 * behind, or had not left whole. False: it may have been; or the connection stands. Does not block.
 */
BELFRY_API bool belfry_client_never_read(belfry_client *c, uint64_t id);

/* Give a message back. `m` is emptied; releasing an empty message does nothing. */
BELFRY_API void belfry_release(belfry_client *c, belfry_message *m);

/*
 * A message larger than the ring takes at once (a quarter of it, less 16) travels in parts, and sends as any other. What
 * of it does not fit yet waits in a copy, and leaves while you call, receive, wait in a poller or flush; until it has
 * left, other sends are told -EAGAIN. belfry_flush() blocks until it has, or until `deadline`; what arrives meanwhile is
 * kept for belfry_receive(). Closing does not wait. Returns 0 (also when nothing is leaving), -ETIMEDOUT, or how the
 * connection ended. While a large message arrives, messages that you hold leave it less room: when that is none,
 * receiving gives BELFRY_ESTATE until you release some (and belfry_call() gives its request up, as at its deadline).
 */
BELFRY_API int belfry_flush(belfry_client *c, int64_t deadline);
BELFRY_API uint64_t belfry_client_unsent_bytes(const belfry_client *c); /* of the message that is leaving */

/* The largest payload that this service takes, in bytes. */
BELFRY_API size_t belfry_message_bytes_max(const belfry_client *c);

/*
 * A descriptor for poll, epoll and every loop on top of them: readable when belfry_receive(c, &m, 0) has something to say: a
 * message, room after an -EAGAIN, or the end. Level-triggered: it stays readable until receive has said -ETIMEDOUT, which
 * arms it for what comes next; so receive until then. It may be readable for nothing. What leaves in parts (below) goes on
 * whenever you receive. It is the client's, stays the same, and is closed by belfry_close(): take it out of your loop first;
 * do not read, write or close it. No io_uring is needed. The first call makes a thread for it, which sleeps until the server
 * rings, so a wake-up goes through two threads: about 11 us more than one of belfry_receive(). For many clients use
 * belfry_poller_fd(): one thread for all. Returns the descriptor; BELFRY_ESTATE for a client of a poller; BELFRY_ENOFILES,
 * BELFRY_EKERNEL, BELFRY_EFORKED, -ENOMEM, or -EAGAIN when there may be no more threads.
 */
BELFRY_API int belfry_client_fd(belfry_client *c);

/* Where this client sits; for logs and tests. */
BELFRY_API uint32_t belfry_client_slot(const belfry_client *c);
BELFRY_API uint32_t belfry_client_shard(const belfry_client *c);
BELFRY_API uint64_t belfry_client_instance(const belfry_client *c);

/* Times that it has gone on with another connection. The three above speak of the present one, or the last. */
BELFRY_API uint64_t belfry_client_reconnects(const belfry_client *c);

/* Times this client, or a poller that it led, found news only because its own timeout ran out: must stay 0. */
BELFRY_API uint64_t belfry_client_rescued_wakes(const belfry_client *c);

/*
 * Poller: one thread waits on many clients. Its conns on one shard form a bell group, so that waiting costs one system
 * call over at most as many words as there are shards, and the server wakes the thread once for all of them.
 * It polls as hard before it sleeps as the first client that it got (belfry_client_options.spin).
 * A client belongs to one poller at most and must be removed before it is closed (belfry_close does it). One that has a
 * descriptor of its own (belfry_client_fd) is refused.
 */
typedef struct belfry_poller belfry_poller;

BELFRY_API int belfry_poller_create(belfry_poller **out);
BELFRY_API void belfry_poller_destroy(belfry_poller *p); /* its clients stay open; NULL is accepted */

/* `tag` is handed back by wait. Returns 0, BELFRY_ESTATE when it already belongs to a poller, -ENOMEM. */
BELFRY_API int belfry_poller_add(belfry_poller *p, belfry_client *c, void *tag);
BELFRY_API int belfry_poller_remove(belfry_poller *p, belfry_client *c);

/*
 * Corked (a poller is not, at first): what its clients send is visible at once to a server that is awake, but whether it
 * has to be woken is asked only by the next belfry_poller_wait() or belfry_poller_flush(), once for everything sent
 * until then. With a thousand busy connections that gave 1.7 times the throughput. Only for a loop that comes back to wait
 * soon after it has sent; a client of it that blocks (call, receive) flushes first, for all. Uncorking flushes. Neither blocks.
 */
BELFRY_API void belfry_poller_cork(belfry_poller *p, bool corked);
BELFRY_API void belfry_poller_flush(belfry_poller *p);

typedef struct belfry_poll_event {
    belfry_client *client;
    void *tag;
    bool readable; /* belfry_receive(c, &m, 0) has something to say: a message or the end */
    bool writable; /* a send that was told -EAGAIN may be tried again */
} belfry_poll_event;

/*
 * Wait until at least one client has something, at most until `deadline` (0: just look). Level-triggered. Returns the
 * number of events written to `events` (at most `count`, which must be > 0), 0 at the deadline, or a negative code.
 */
BELFRY_API int belfry_poller_wait(belfry_poller *p, belfry_poll_event *events, int count, int64_t deadline);

/*
 * One descriptor for all of them, as belfry_client_fd(): readable when belfry_poller_wait(p, events, count, 0) has an event,
 * until that has returned 0. It stays the same whoever joins or leaves, and is closed by belfry_poller_destroy(). From then on
 * the poller takes clients of 63 shards at most. Returns the descriptor; BELFRY_ESTATE when it has clients of more; else as
 * belfry_client_fd().
 */
BELFRY_API int belfry_poller_fd(belfry_poller *p);

#ifdef __cplusplus
}
#endif
#endif

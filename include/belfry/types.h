/* SPDX-License-Identifier: MIT */
/*
 * belfry/types.h: what server and client have in common: messages, return codes, time.
 *
 * Every function returns 0 or a count on success and a negative number on failure: -errno when the system said no,
 * or one of the BELFRY_E... codes below. `if (rc < 0)` is always enough. belfry_error_text() is the sentence for a
 * code; belfry_last_error() is the last failure of this thread with names, numbers and the remedy.
 */
#ifndef BELFRY_TYPES_H
#define BELFRY_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BELFRY_VERSION_MAJOR 0
#define BELFRY_VERSION_MINOR 1
#define BELFRY_VERSION_PATCH 0

#if defined(__GNUC__)
#define BELFRY_API __attribute__((visibility("default")))
#else
#define BELFRY_API
#endif

/*
 * A message, as a handler sees it or as a client receives it. `data` points into shared memory, is aligned to 8 bytes
 * (the sentence of a failure to 1) and read-only. How long it lives: in a handler, until the handler returns; on a client, until belfry_release().
 */
typedef struct belfry_message {
    const void *data;
    size_t size;     /* bytes */
    uint64_t id;     /* of the request; a reply carries the id of its request; 0 for one-way and push */
    int32_t status;  /* 0; or, when the request failed, the negative code, and data is the sentence (no NUL) */
    uint16_t kind;   /* enum belfry_kind */
    uint16_t flags;  /* BELFRY_MORE or 0 */
    uint64_t cookie; /* the library's own */
} belfry_message;

#define BELFRY_MORE 0x1 /* a reply that is not the last one to its request */

/* What an entry in a ring is. The numbers are part of the format. */
enum belfry_kind {
    BELFRY_PAD = 1,     /* fills the end of a ring; never seen by a user */
    BELFRY_REQUEST = 2, /* client to server, wants one reply */
    BELFRY_REPLY = 3,   /* server to client, answers the request of the same id; several may, the last is marked */
    BELFRY_FAILURE = 4, /* server to client: the request of that id failed, with a status and a sentence */
    BELFRY_ONE_WAY = 5, /* client to server, wants no reply */
    BELFRY_PUSH = 6,    /* server to client, answers nothing */
    BELFRY_PART = 7,    /* part of a message larger than a quarter of the ring; never seen by a user */
    BELFRY_CANCEL = 8,  /* client to server: I no longer wait for that id; and back: nothing with that id will come */
    BELFRY_BYE = 9,     /* client to server: I leave on purpose */
};

/* Why a conn ended. The numbers are part of the format. */
enum belfry_end {
    BELFRY_END_NONE = 0,        /* it has not ended */
    BELFRY_END_LEFT = 1,        /* the client said goodbye */
    BELFRY_END_DIED = 2,        /* the client's lock was released without a goodbye: it was killed or it crashed */
    BELFRY_END_LOCK_GONE = 3,   /* somebody removed or replaced the slot's lock file */
    BELFRY_END_PEER_FAULT = 4,  /* the client broke the format of its ring */
    BELFRY_END_REFUSED = 5,     /* on_connect said no */
    BELFRY_END_KICKED = 6,      /* the handler called belfry_disconnect() */
    BELFRY_END_STOPPED = 7,     /* the server stopped */
    BELFRY_END_DRAINING = 8,    /* the claim came when this instance had already been replaced */
    BELFRY_END_NO_MEMORY = 9,   /* no shared memory (tmpfs full) or no heap for the slot */
    BELFRY_END_UNFINISHED = 10, /* a lock file was made, but nobody locked it and said hello in time */
    BELFRY_END_VERSION = 11,    /* the client speaks another version of the format */
    BELFRY_END_BACKLOG = 12,    /* the client did not read, its outbox was full, and the service disconnects then */
    BELFRY_END_DRAINED = 13,    /* the server was shut down with belfry_drain(): all that it had read was answered */
    BELFRY_END_QUOTA = 14,      /* its user has as much of the server as one user may have: see uid_slots_max */
    BELFRY_END_COUNT = 15,
};

/* Codes of belfry's own. All others are -errno. */
enum belfry_error {
    BELFRY_ENOSERVICE = -4097,   /* nobody serves that name */
    BELFRY_EGONE = -4098,        /* the server died or stopped; calls in flight may or may not have been executed */
    BELFRY_EREFUSED = -4099,     /* the server refused the connection; nothing that was sent has been executed */
    BELFRY_EFULL = -4100,        /* all slots of the service are taken */
    BELFRY_EVERSION = -4101,     /* server and client speak different versions of the format */
    BELFRY_EPROTO = -4102,       /* the peer broke the format; the connection is over */
    BELFRY_EKERNEL = -4103,      /* the kernel is too old or lacks an io_uring operation that a server needs */
    BELFRY_EFORBIDDEN = -4104,   /* io_uring is forbidden here (seccomp or kernel.io_uring_disabled) */
    BELFRY_EMEMLOCK = -4105,     /* RLIMIT_MEMLOCK is too low for io_uring */
    BELFRY_ENOFILES = -4106,     /* too few descriptors, inotify instances or watches */
    BELFRY_EMAPS = -4107,        /* vm.max_map_count is too low for max_slots */
    BELFRY_ENOSPACE = -4108,     /* the shared-memory file system is full or too small */
    BELFRY_ETOOBIG = -4109,      /* the message is larger than message_bytes_max */
    BELFRY_EUNANSWERED = -4110,  /* the handler returned without answering the request */
    BELFRY_EUNSUPPORTED = -4111, /* a kind, flag or section that this version does not know */
    BELFRY_EROOT = -4112,        /* the root directory has the wrong owner, mode or file system */
    BELFRY_ENAME = -4113,        /* not a service name */
    BELFRY_EFORKED = -4114,      /* the handle was made before a fork and cannot be used in the child */
    BELFRY_EBACKLOG = -4115,     /* the client does not read its replies and the outbox is full */
    BELFRY_EANSWERED = -4116,    /* that request has its answer already, or is not the one being handled */
    BELFRY_ESTATE = -4117,       /* the call does not fit the state of the object: started twice, message not held */
    BELFRY_ETHREAD = -4118,      /* called on a thread that does not own the conn or timer */
    BELFRY_EOPTION = -4119,      /* an option has a value that cannot work */
    BELFRY_EUNREAD = -4120,      /* the connection ended before the request was read: it has not been executed */
    BELFRY_EQUOTA = -4121,       /* this user has as many connections as one may have, or connects too often */
    BELFRY_EUSER = -65536,       /* codes at or below this one are yours, for belfry_fail() */
};

/* The sentence for a code of either sort. Never NULL; valid for ever. Any thread; async-signal-safe for our codes. */
BELFRY_API const char *belfry_error_text(int rc);

/*
 * The last failure of the calling thread: what happened, to whom, what to do. Never NULL; "" when nothing failed yet.
 * Valid until the thread's next belfry call.
 */
BELFRY_API const char *belfry_last_error(void);

/* The words for an end reason and for a message kind, e.g. "the client said goodbye". Never NULL. */
BELFRY_API const char *belfry_end_text(enum belfry_end end);

/*
 * Deadlines are points on CLOCK_MONOTONIC in nanoseconds; a deadline in the past means "do not wait". BELFRY_FOREVER
 * waits until it happens or the peer is gone.
 */
#define BELFRY_FOREVER INT64_MAX
BELFRY_API int64_t belfry_now_ns(void);
BELFRY_API int64_t belfry_in_ms(int64_t milliseconds);

/* How long to poll before sleeping; while that does not pay, whoever waits sleeps at once (docs/guide.md, "Spinning"). */
enum belfry_spin {
    BELFRY_SPIN_DEFAULT = 0,  /* what the library was built with */
    BELFRY_SPIN_POWER = 1,    /* sleep at once: the least CPU, a wake-up per message */
    BELFRY_SPIN_BALANCED = 2, /* poll up to 50 us, as long as polling pays */
    BELFRY_SPIN_LATENCY = 3,  /* poll up to 1 ms, as long as polling pays */
};

#ifdef __cplusplus
}
#endif
#endif

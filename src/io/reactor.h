/* SPDX-License-Identifier: MIT */
/*
 * reactor.h: what a shard asks of the kernel, and what the kernel tells it. It returns events and calls nobody.
 *
 * Asking never fails and never blocks: an entry is prepared, and goes out with bf_reactor_submit() or before the
 * thread sleeps. A shard's thread owns its reactor; nobody else touches it.
 */
#ifndef BF_IO_REACTOR_H
#define BF_IO_REACTOR_H

#include "io/uring.h"
#include "io/watch.h"

enum bf_event_kind {
    BF_EVENT_FILE,    /* something happened to `name` in the lock directory */
    BF_EVENT_SERVICE, /* something happened in the service's directory: look at `current` */
    BF_EVENT_RESCAN,  /* inotify lost events: look at everything */
    BF_EVENT_GONE,    /* the lock directory itself is gone */
    BF_EVENT_BELL,    /* the wait on slot `slot` of generation `generation` is over, with `result` */
    BF_EVENT_MAILBOX, /* the wait on the shard's own word is over */
    BF_EVENT_OWNED,   /* a completion of the operation that was started for `owner` */
};

struct bf_event {
    enum bf_event_kind kind;
    uint32_t slot;
    uint32_t generation;
    int32_t result; /* 0 woken, -EAGAIN the word had changed, -ECANCELED, -EFAULT the segment is gone */
    bool closed;    /* FILE: somebody who could write to it closed it */
    bool more;      /* OWNED: not the last completion */
    uint32_t flags; /* OWNED: the completion's */
    void *owner;
    const char *name; /* valid until the next bf_reactor_next() */
};

struct bf_reactor {
    struct bf_uring uring;
    int watch_fd;
    int32_t watch_locks;
    int32_t watch_service;
    bool watch_armed;

    /* for a thread that sleeps elsewhere */
    int64_t alarm_at_ns;            /* when the kernel completes the alarm; 0: none is set */
    struct __kernel_timespec alarm; /* stays until it is submitted */

    /* the buffer of inotify records being handed out */
    bool records_open;
    uint16_t records_id;
    size_t records_bytes;
    size_t records_offset;
};

/* Open a uring and the watches of one shard. `waits`: futex waits that may be armed at once. Results as
   bf_uring_open() and bf_watch_open(). On failure nothing is left open. */
int bf_reactor_open(struct bf_reactor *r, unsigned waits, const char *lock_path, const char *service_path);

/* Every wait must have been cancelled and its completion taken: a wait left behind could swallow somebody's wake. */
void bf_reactor_close(struct bf_reactor *r);

/* Arm a wait on a slot's doorbell: completes when the word is woken, or at once when it is not `value`. */
void bf_reactor_wait_bell(struct bf_reactor *r, const uint32_t *word, uint32_t value, uint32_t slot,
                          uint32_t generation);
void bf_reactor_cancel_bell(struct bf_reactor *r, uint32_t slot, uint32_t generation);
void bf_reactor_wait_mailbox(struct bf_reactor *r, const uint32_t *word, uint32_t value);
void bf_reactor_cancel_mailbox(struct bf_reactor *r);

/*
 * Start operations that others filled in, side by side in one submission; each completion comes as an event with its
 * owner. `user_data` is overwritten. BELFRY_EOPTION, and nothing was prepared, for flags with which no completion would
 * come, or with which the operation would wait for ours or ours for it. At most REACTOR_CHAIN_MAX.
 */
#define REACTOR_CHAIN_MAX 64u
int bf_reactor_start(struct bf_reactor *r, void *const *owners, const struct io_uring_sqe *sqes, unsigned count);
void bf_reactor_cancel_owned(struct bf_reactor *r, const void *owner);

/*
 * Have the kernel give pages to memory of ours, on a thread of its own, so that writing to it does not wait; at most
 * REACTOR_POPULATE_MAX bytes. Comes as an event with its owner, with 0 or -errno.
 */
#define REACTOR_POPULATE_MAX (64u << 20)
void bf_reactor_populate(struct bf_reactor *r, const void *owner, void *at, size_t bytes);

/* Wake everybody who waits on a word. */
void bf_reactor_wake(struct bf_reactor *r, const uint32_t *word);

/* The same for a word on which people may wait whom we do not trust: 64 of them, since each costs us 2 us. */
void bf_reactor_wake_some(struct bf_reactor *r, const uint32_t *word);

void bf_reactor_submit(struct bf_reactor *r);

/* Submit, then sleep until there is an event or for `timeout_ns` (negative: no limit). */
void bf_reactor_sleep(struct bf_reactor *r, int64_t timeout_ns);

/* From now on the kernel sets this event (os.h) when there is something to be taken. 0 or a code. */
int bf_reactor_tell(struct bf_reactor *r, int event_fd);

/*
 * Submit, clear the event, and look: true, there is nothing, and the event will be set when there is, or `timeout_ns`
 * (negative: no limit) from now at the latest; false, there is something already.
 */
bool bf_reactor_doze(struct bf_reactor *r, int event_fd, int64_t timeout_ns);

/* The next event, without sleeping. False: none. */
bool bf_reactor_next(struct bf_reactor *r, struct bf_event *event);

#endif

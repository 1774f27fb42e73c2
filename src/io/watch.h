/* SPDX-License-Identifier: MIT */
/*
 * watch.h: inotify: which directories, which events, and how its records are laid out.
 *
 * The descriptor is read by the uring, never by read(2). It must be non-blocking: a blocking one makes the kernel start
 * a worker thread, and the read can end in -ECANCELED.
 */
#ifndef BF_IO_WATCH_H
#define BF_IO_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a record says. */
struct watch_change {
    const char *name; /* within the directory; "" = the directory itself */
    int32_t watch;    /* what bf_watch_add returned; -1 for an overflow */
    bool overflow;    /* events were lost: look at everything */
    bool gone;        /* the directory itself was moved, removed or unmounted */
    bool closed;      /* somebody closed a file that was open for writing */
};

int bf_watch_open(void); /* a descriptor, BELFRY_ENOFILES, or -errno */

/* Watch a directory of slot locks: made, gone, renamed, closed. A watch number, BELFRY_ENOFILES, or -errno. */
int bf_watch_add_locks(int fd, const char *path);

/* Watch a service's directory for a new `current`. */
int bf_watch_add_service(int fd, const char *path);

/* Decode the record at *offset of a buffer that the kernel filled with `bytes`, and step over it. False: no more. */
bool bf_watch_next(const void *buffer, size_t bytes, size_t *offset, struct watch_change *change);

#endif

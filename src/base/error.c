/* SPDX-License-Identifier: MIT */
/* error.c: codes to sentences, and the thread's last sentence. No locks, no allocation. */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#define ERROR_BYTES 512

static _Thread_local char last_error[ERROR_BYTES];

static void error_append_va(const char *format, va_list arguments)
{
    size_t used = strlen(last_error);
    vsnprintf(last_error + used, sizeof last_error - used, format, arguments);
}

int bf_error(int rc, const char *format, ...)
{
    va_list arguments;
    last_error[0] = '\0';
    va_start(arguments, format);
    error_append_va(format, arguments);
    va_end(arguments);
    return rc;
}

int bf_error_code(int rc)
{
    switch (rc) {
    case -EMFILE:
    case -ENFILE:
        return BELFRY_ENOFILES;
    case -ENOSPC:
    case -EDQUOT:
        return BELFRY_ENOSPACE;
    default:
        return rc;
    }
}

int bf_error_errno(int rc, const char *format, ...)
{
    va_list arguments;
    last_error[0] = '\0';
    va_start(arguments, format);
    error_append_va(format, arguments);
    va_end(arguments);
    rc = bf_error_code(rc);
    bf_error_append(": %s", belfry_error_text(rc));
    return rc;
}

void bf_error_append(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    error_append_va(format, arguments);
    va_end(arguments);
}

const char *belfry_last_error(void)
{
    return last_error;
}

static const char *own_error_text(int rc)
{
    switch ((enum belfry_error)rc) {
    case BELFRY_ENOSERVICE:
        return "nobody serves that name: start the server, or check the name and BELFRY_ROOT";
    case BELFRY_EGONE:
        return "the server is gone: connect again; calls in flight may or may not have been executed";
    case BELFRY_EREFUSED:
        return "the server refused the connection: nothing that was sent has been executed";
    case BELFRY_EFULL:
        return "all slots of the service are taken: try later, or raise max_slots";
    case BELFRY_EVERSION:
        return "server and client speak different versions of the format: upgrade the older one";
    case BELFRY_EPROTO:
        return "the peer broke the format: the connection is over; connect again";
    case BELFRY_EKERNEL:
        return "the kernel lacks an io_uring operation that a server needs: run Linux 6.7 or newer";
    case BELFRY_EFORBIDDEN:
        return "io_uring is forbidden here: allow it in the container's seccomp profile, or set "
               "kernel.io_uring_disabled to 0";
    case BELFRY_EMEMLOCK:
        return "RLIMIT_MEMLOCK is too low for io_uring: raise it (ulimit -l, LimitMEMLOCK=)";
    case BELFRY_ENOFILES:
        return "too few descriptors, inotify instances or watches: raise RLIMIT_NOFILE (ulimit -n) or "
               "fs.inotify.max_user_instances";
    case BELFRY_EMAPS:
        return "vm.max_map_count is too low for max_slots: raise it with sysctl, or lower max_slots";
    case BELFRY_ENOSPACE:
        return "the shared-memory file system is full: make it larger, or lower ring_bytes, warm_pool or max_slots";
    case BELFRY_ETOOBIG:
        return "the message is larger than message_bytes_max: send it in pieces, or raise ring_bytes";
    case BELFRY_EUNANSWERED:
        return "the server's handler returned without answering the request";
    case BELFRY_EUNSUPPORTED:
        return "the peer does not know that kind of message or flag: upgrade it";
    case BELFRY_EROOT:
        return "the root directory has the wrong owner, mode or file system: it must be the user's own, 0700, on tmpfs";
    case BELFRY_ENAME:
        return "not a service name: use 1 to 63 of a-z 0-9 . _ - (and uid: before it for another user's)";
    case BELFRY_EFORKED:
        return "the handle was made before a fork: connect again in the child";
    case BELFRY_EBACKLOG:
        return "the client does not read its replies and its outbox is full: slow down, or raise outbox_bytes_max";
    case BELFRY_EANSWERED:
        return "that request has been answered already, or is not the one being handled";
    case BELFRY_ESTATE:
        return "the call does not fit the state of the object";
    case BELFRY_ETHREAD:
        return "called on a thread that does not own the conn or timer";
    case BELFRY_EOPTION:
        return "an option has a value that cannot work";
    case BELFRY_EUNREAD:
        return "the connection ended before the request was read: it has not been executed; connect and send it again";
    case BELFRY_EQUOTA:
        return "this user has as many connections as one user may have, or connects too often: close some or wait, or "
               "raise uid_slots_max or uid_connects_max";
    case BELFRY_EUSER:
        break;
    }
    return rc <= BELFRY_EUSER ? "the handler's own failure" : "no such code";
}

const char *belfry_error_text(int rc)
{
    if (rc >= 0)
        return "success";
    if (rc < -4096)
        return own_error_text(rc);
    if (rc == -ETIMEDOUT)
        return "the deadline has passed"; /* the system's words speak of a network's connection */
    const char *text = strerrordesc_np(-rc);
    return text != NULL ? text : "unknown system error";
}

const char *belfry_end_text(enum belfry_end end)
{
    switch (end) {
    case BELFRY_END_NONE:
        return "it has not ended";
    case BELFRY_END_LEFT:
        return "the client said goodbye";
    case BELFRY_END_DIED:
        return "the client died";
    case BELFRY_END_LOCK_GONE:
        return "the slot's lock file was removed";
    case BELFRY_END_PEER_FAULT:
        return "the client broke the format";
    case BELFRY_END_REFUSED:
        return "on_connect refused";
    case BELFRY_END_KICKED:
        return "the server disconnected the client";
    case BELFRY_END_STOPPED:
        return "the server stopped";
    case BELFRY_END_DRAINING:
        return "the instance had been replaced";
    case BELFRY_END_NO_MEMORY:
        return "no memory for the slot: the shared-memory file system is full";
    case BELFRY_END_UNFINISHED:
        return "the claim was not finished in time";
    case BELFRY_END_VERSION:
        return "the client speaks another version of the format";
    case BELFRY_END_BACKLOG:
        return "the client did not read what it was sent";
    case BELFRY_END_DRAINED:
        return "the server is being shut down, and has answered all that it had read";
    case BELFRY_END_QUOTA:
        return "its user has as much of the server as one user may have";
    case BELFRY_END_COUNT:
        break;
    }
    return "no such reason";
}

void bf_invariant_failed(const char *what, const char *file, int line)
{
    fprintf(stderr, "belfry: invariant broken: %s (%s:%d)\n", what, file, line);
    abort();
}

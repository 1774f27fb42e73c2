/* SPDX-License-Identifier: MIT */
/* watch.c: see watch.h. */
#include "io/watch.h"

#include <errno.h>
#include <string.h>
#include <sys/inotify.h>

#include <belfry/types.h>

#include "base/error.h"
#include "base/os.h"

#define LOCK_EVENTS                                                                                         \
    (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_CLOSE_WRITE | IN_DELETE_SELF | IN_MOVE_SELF | \
     IN_ONLYDIR | IN_DONT_FOLLOW | IN_EXCL_UNLINK) /* the last: a lock file that was removed is nobody's any more */
#define SERVICE_EVENTS (IN_CREATE | IN_MOVED_TO | IN_DELETE | IN_ONLYDIR | IN_DONT_FOLLOW)

int bf_watch_open(void)
{
    int fd = bf_os_inotify();
    if (fd == -EMFILE || fd == -ENFILE)
        return bf_error(BELFRY_ENOFILES,
                        "no inotify instance left: raise fs.inotify.max_user_instances or RLIMIT_NOFILE "
                        "(it is %llu); a server takes one instance and three descriptors per shard",
                        (unsigned long long)bf_os_file_count_max());
    if (fd < 0)
        return bf_error_errno(fd, "cannot open inotify");
    return fd;
}

static int add(int fd, const char *path, uint32_t events)
{
    int rc = bf_os_inotify_add(fd, path, events);
    if (rc == -ENOSPC)
        return bf_error(BELFRY_ENOFILES, "no inotify watch left: raise fs.inotify.max_user_watches");
    if (rc < 0)
        return bf_error_errno(rc, "cannot watch %s", path);
    return rc;
}

int bf_watch_add_locks(int fd, const char *path)
{
    return add(fd, path, LOCK_EVENTS);
}

int bf_watch_add_service(int fd, const char *path)
{
    return add(fd, path, SERVICE_EVENTS);
}

bool bf_watch_next(const void *buffer, size_t bytes, size_t *offset, struct watch_change *change)
{
    struct inotify_event record;
    size_t left = bytes - *offset;
    if (left < sizeof record)
        return false;
    const char *at = (const char *)buffer + *offset;
    memcpy(&record, at, sizeof record);
    if (left - sizeof record < record.len)
        return false;
    *offset += sizeof record + record.len;
    *change = (struct watch_change){
        .name = record.len > 0 ? at + sizeof record : "",
        .watch = record.wd,
        .overflow = (record.mask & IN_Q_OVERFLOW) != 0,
        .gone = (record.mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT | IN_IGNORED)) != 0,
        .closed = (record.mask & IN_CLOSE_WRITE) != 0,
    };
    return true;
}

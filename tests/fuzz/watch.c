/* SPDX-License-Identifier: MIT */
/*
 * watch.c: buffers of inotify records. The kernel fills them, so they are not hostile; they may be cut off, and what is
 * decoded of them may never lie outside.
 */
#include <sys/inotify.h>

#include "feed.h"
#include "io/watch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    size_t offset = 0, before = 0;
    struct watch_change change;
    char *buffer = malloc(bytes);
    demand(buffer != NULL || bytes == 0);
    if (bytes > 0)
        memcpy(buffer, data, bytes);
    while (bf_watch_next(buffer, bytes, &offset, &change)) {
        struct inotify_event record;
        demand(offset <= bytes && offset - before >= sizeof record);
        memcpy(&record, buffer + before, sizeof record);
        demand(offset - before == sizeof record + record.len);
        demand(record.len == 0 ? change.name[0] == '\0' : change.name == buffer + before + sizeof record);
        demand(change.watch == record.wd && change.overflow == ((record.mask & IN_Q_OVERFLOW) != 0));
        before = offset;
    }
    demand(offset == before && bytes - offset < sizeof(struct inotify_event) + UINT32_MAX);
    free(buffer);
    return 0;
}

/* SPDX-License-Identifier: MIT */
/* Tests of io/watch.c: inotify's records, made by hand, and the real descriptor read with read(2). */
#include "io/watch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <belfry/types.h>

#include "expect.h"
#include "fixture.h"

struct buffer {
    _Alignas(8) char bytes[4096];
    size_t used;
};

/* A record as the kernel lays it out: the name is padded with NULs to a multiple of 16. */
static void add_record(struct buffer *b, int watch, uint32_t mask, const char *name)
{
    size_t length = name == NULL ? 0 : (strlen(name) + 16) / 16 * 16;
    struct inotify_event record = {.wd = watch, .mask = mask, .len = (uint32_t)length};
    memcpy(b->bytes + b->used, &record, sizeof record);
    memset(b->bytes + b->used + sizeof record, 0, length);
    if (name != NULL)
        memcpy(b->bytes + b->used + sizeof record, name, strlen(name));
    b->used += sizeof record + length;
}

Test(watch, decodes_each_record_of_a_buffer)
{
    struct buffer b = {.used = 0};
    struct watch_change change;
    size_t offset = 0;
    add_record(&b, 3, IN_CREATE, "slot_1.lock");
    add_record(&b, 3, IN_CLOSE_WRITE, "a-name-that-takes-more-than-sixteen-bytes");
    add_record(&b, 4, IN_MOVED_TO, "current");
    expect(bf_watch_next(b.bytes, b.used, &offset, &change));
    expect_text(change.name, "slot_1.lock");
    expect_eq(change.watch, 3);
    expect(!change.overflow && !change.gone);
    expect(bf_watch_next(b.bytes, b.used, &offset, &change));
    expect_text(change.name, "a-name-that-takes-more-than-sixteen-bytes");
    expect(bf_watch_next(b.bytes, b.used, &offset, &change));
    expect_text(change.name, "current");
    expect_eq(change.watch, 4);
    expect(!bf_watch_next(b.bytes, b.used, &offset, &change));
    expect_eq(offset, b.used);
}

Test(watch, tells_overflow_and_the_directorys_own_end)
{
    static const uint32_t ends[] = {IN_DELETE_SELF, IN_MOVE_SELF, IN_UNMOUNT, IN_IGNORED};
    struct buffer b = {.used = 0};
    struct watch_change change;
    size_t offset = 0;
    add_record(&b, -1, IN_Q_OVERFLOW, NULL);
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        add_record(&b, 1, ends[i], NULL);
    expect(bf_watch_next(b.bytes, b.used, &offset, &change));
    expect(change.overflow && !change.gone);
    expect_eq(change.watch, -1);
    expect_text(change.name, "");
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        expect(bf_watch_next(b.bytes, b.used, &offset, &change));
        expect(change.gone && !change.overflow);
    }
    expect(!bf_watch_next(b.bytes, b.used, &offset, &change));
}

Test(watch, stops_at_a_truncated_record_and_stays_there)
{
    struct buffer b = {.used = 0};
    struct watch_change change;
    add_record(&b, 3, IN_CREATE, "slot_1.lock");
    size_t whole = b.used;
    add_record(&b, 3, IN_CREATE, "slot_2.lock");
    for (size_t bytes = whole; bytes < b.used; bytes++) {
        size_t offset = 0;
        char *exact = malloc(bytes); /* so that a read past the end is seen */
        memcpy(exact, b.bytes, bytes);
        expect(bf_watch_next(exact, bytes, &offset, &change));
        expect(!bf_watch_next(exact, bytes, &offset, &change));
        expect(!bf_watch_next(exact, bytes, &offset, &change));
        free(exact);
    }
}

Test(watch, refuses_a_record_whose_name_is_said_to_be_huge)
{
    struct buffer b = {.used = 0};
    struct watch_change change;
    size_t offset = 0;
    add_record(&b, 3, IN_CREATE, "slot_1.lock");
    ((struct inotify_event *)(void *)b.bytes)->len = UINT32_MAX;
    expect(!bf_watch_next(b.bytes, b.used, &offset, &change));
    expect(!bf_watch_next(b.bytes, b.used, &offset, &change));
    offset = 0;
    expect(!bf_watch_next(b.bytes, 0, &offset, &change));
}

/* --- the real thing ------------------------------------------------------------------------------------------------ */

static void expect_change(int fd, struct buffer *b, size_t *offset, const char *name)
{
    struct watch_change change;
    if (*offset == b->used) {
        ssize_t got = read(fd, b->bytes, sizeof b->bytes);
        expect(got > 0);
        b->used = (size_t)got;
        *offset = 0;
    }
    expect(bf_watch_next(b->bytes, b->used, offset, &change));
    expect_text(change.name, name);
}

Test(watch, sees_locks_come_close_move_and_go)
{
    char root[FIXTURE_PATH_BYTES], path[FIXTURE_PATH_BYTES + 32], other[FIXTURE_PATH_BYTES + 32];
    struct buffer b = {.used = 0};
    size_t offset = 0;
    fixture_root_make(root);
    int fd = bf_watch_open();
    expect(fd >= 0);
    expect(bf_watch_add_locks(fd, root) >= 0);
    expect(read(fd, b.bytes, sizeof b.bytes) < 0 && errno == EAGAIN); /* non-blocking */

    snprintf(path, sizeof path, "%s/slot_0.lock", root);
    snprintf(other, sizeof other, "%s/slot_1.lock", root);
    int file = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
    expect_change(fd, &b, &offset, "slot_0.lock");
    close(file);
    expect_change(fd, &b, &offset, "slot_0.lock");
    rename(path, other);
    expect_change(fd, &b, &offset, "slot_0.lock");
    expect_change(fd, &b, &offset, "slot_1.lock");
    unlink(other);
    expect_change(fd, &b, &offset, "slot_1.lock");

    file = open(root, O_RDONLY | O_DIRECTORY);
    close(file); /* looking is no event */
    expect(read(fd, b.bytes, sizeof b.bytes) < 0 && errno == EAGAIN);
    close(fd);
    fixture_remove_tree(root);
}

Test(watch, sees_a_new_current_in_the_services_directory)
{
    char root[FIXTURE_PATH_BYTES], path[FIXTURE_PATH_BYTES + 32], other[FIXTURE_PATH_BYTES + 32];
    struct buffer b = {.used = 0};
    size_t offset = 0;
    fixture_root_make(root);
    int fd = bf_watch_open();
    expect(bf_watch_add_service(fd, root) >= 0);
    snprintf(path, sizeof path, "%s/.current-7", root);
    snprintf(other, sizeof other, "%s/current", root);
    expect_eq(symlink("7", path), 0);
    expect_change(fd, &b, &offset, ".current-7");
    expect_eq(rename(path, other), 0);
    expect_change(fd, &b, &offset, "current");
    close(fd);
    fixture_remove_tree(root);
}

Test(watch, refuses_what_is_no_directory)
{
    char root[FIXTURE_PATH_BYTES], path[FIXTURE_PATH_BYTES + 32];
    fixture_root_make(root);
    int fd = bf_watch_open();
    snprintf(path, sizeof path, "%s/file", root);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    expect_eq(bf_watch_add_locks(fd, path), -ENOTDIR);
    expect_in(belfry_last_error(), path);
    snprintf(path, sizeof path, "%s/missing", root);
    expect_eq(bf_watch_add_locks(fd, path), -ENOENT);
    snprintf(path, sizeof path, "%s/link", root);
    expect_eq(symlink(root, path), 0);
    expect(bf_watch_add_locks(fd, path) < 0);
    expect(bf_watch_add_service(fd, path) < 0);
    close(fd);
    fixture_remove_tree(root);
}

Test(watch, says_what_to_raise_when_descriptors_run_out)
{
    struct rlimit limit = {.rlim_cur = 0, .rlim_max = 0};
    expect_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = 3;
    expect_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    int fd;
    while ((fd = bf_watch_open()) >= 0)
        ;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    expect_eq(fd, BELFRY_ENOFILES);
    expect_in(belfry_last_error(), "RLIMIT_NOFILE");
}

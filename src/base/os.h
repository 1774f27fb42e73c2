/* SPDX-License-Identifier: MIT */
/*
 * os.h: every system call that belfry makes, except those of io_uring.
 *
 * All calls return 0 or a result on success and -errno on failure, restart after EINTR, and open with O_CLOEXEC. They
 * know nothing of belfry. This file is the seam for fault injection and simulation: a test links another os.c.
 */
#ifndef BF_BASE_OS_H
#define BF_BASE_OS_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- time, identity, limits --- */

int64_t bf_os_now_ns(void);    /* CLOCK_MONOTONIC */
int64_t bf_os_coarse_ns(void); /* the same as of the last tick of the kernel: up to 10 ms behind, a ninth of the cost */
uint32_t bf_os_uid(void);      /* effective */
uint32_t bf_os_gid(void);      /* effective */
uint32_t bf_os_pid(void);
uint64_t bf_os_random(void);           /* that nobody can guess */
int64_t bf_os_map_count_max(void);     /* vm.max_map_count, or a default when it cannot be read */
uint64_t bf_os_file_count_max(void);   /* RLIMIT_NOFILE, soft */
uint64_t bf_os_locked_bytes_max(void); /* RLIMIT_MEMLOCK, soft */

/* --- processors --- */

/* The processors this process may use, in ascending order. Returns how many there are (at most `max` are written). */
int bf_os_cpus(uint32_t *cpus, int max);
int bf_os_pin(uint32_t cpu); /* the calling thread */

/* False when polling can only take the processor from the peer: one core in all, or a cgroup quota below one core. That
   the calling thread is pinned says nothing: the peer may be elsewhere. */
bool bf_os_spinning_is_free(void);

/* --- files and directories; `dir` is a descriptor or BF_OS_CWD --- */

#define BF_OS_CWD (-100)

enum bf_os_open_flags {
    BF_OS_READ = 0,
    BF_OS_WRITE = 1,
    BF_OS_READ_WRITE = 2,
    BF_OS_CREATE_NEW = 4, /* fail with -EEXIST if the name is there */
    BF_OS_CREATE = 8,
};

struct bf_os_file {
    uint64_t device;
    uint64_t inode;
    uint64_t bytes;
    uint32_t uid;
    uint32_t gid;
    uint32_t mode; /* permission bits */
    uint32_t links;
    bool regular;
    bool directory;
};

int bf_os_open(int dir, const char *name, int flags, uint32_t mode); /* never follows a final symlink, never blocks */
int bf_os_open_dir(int dir, const char *name);                       /* fails with -ENOTDIR on anything else */
int bf_os_enter_dir(int dir, const char *name); /* the same with no right but to pass; for `dir` and stat only */
void bf_os_close(int fd);                       /* -1 is accepted */
int bf_os_make_dir(int dir, const char *name, uint32_t mode);
int bf_os_stat(int fd, struct bf_os_file *file);
int bf_os_stat_at(int dir, const char *name, struct bf_os_file *file); /* of the name itself, not where it points */
int bf_os_space(int fd, bool *tmpfs, uint64_t *free_bytes);
int bf_os_mode(int fd, uint32_t mode);
int bf_os_group(int fd, uint32_t gid);
int bf_os_size(int fd, uint64_t bytes);                      /* ftruncate */
int bf_os_allocate(int fd, uint64_t offset, uint64_t bytes); /* fallocate */
int bf_os_write_at(int fd, const void *data, size_t bytes, uint64_t offset);
int bf_os_read_at(int fd, void *data, size_t bytes, uint64_t offset); /* how many bytes there were */
int bf_os_rename(int dir, const char *from, const char *to);
int bf_os_unlink(int dir, const char *name);
int bf_os_remove_dir(int dir, const char *name);
int bf_os_symlink(int dir, const char *target, const char *name);
int bf_os_read_link(int dir, const char *name, char *target, size_t bytes); /* NUL-terminated; the length */

/*
 * The owner keeps the permissions `own` (4 to read, 2 to write), one other user gets `theirs`, nobody else has any: a
 * POSIX access list. For the owner of the file; needs no privilege.
 */
int bf_os_share(int fd, uint32_t own, uint32_t uid, uint32_t theirs);

/* While it is on, nobody may shorten the file, punch holes into it, remove or rename it, or open it to write anew. Needs
   CAP_LINUX_IMMUTABLE: else -EPERM. */
int bf_os_append_only(int fd, bool on);

/* Call `each` for every name except "." and "..", until it returns non-zero; returns that, 0, or -errno. */
int bf_os_list(int dir, int (*each)(void *context, const char *name), void *context);

/* The same for some names, from where the last call on this descriptor ended, and without another one. 1: there may be
   more; 0: that was the end, and the next call begins anew; -errno. */
int bf_os_list_some(int dir, void (*each)(void *context, const char *name), void *context);

/* --- open-file-description locks, over the whole file --- */

int bf_os_lock(int fd);   /* -EAGAIN when somebody else has it */
int bf_os_locked(int fd); /* 1: somebody holds a write lock; 0: nobody does. Works on a read-only descriptor. */

/* --- memory --- */

/* Zeros, in huge pages where they are to be had, the first of which begins where it points; and a small page before that.
   NULL: none. */
#define BF_OS_PAGE_BYTES ((size_t)4096)
void *bf_os_map_memory(size_t bytes);
void bf_os_unmap_memory(void *at, size_t bytes);
void *bf_os_reserve(size_t bytes); /* addresses without memory; NULL when there are none */
int bf_os_map(int fd, size_t bytes, bool writable, void *at, void **out); /* `at` NULL: anywhere; else replaces */
int bf_os_map_none(void *at, size_t bytes);                               /* back to addresses without memory */
int bf_os_map_zeros(void *at, size_t bytes, bool writable);               /* replaces; async-signal-safe */
int bf_os_unmap(void *at, size_t bytes);
int bf_os_populate(void *at, size_t bytes, bool writable);
int bf_os_no_fork(void *at, size_t bytes); /* a forked child does not get it */

/* --- futexes, always shared between processes --- */

struct bf_os_wait {
    const uint32_t *word;
    uint32_t value;
};

#define BF_OS_WAITS_MAX 128

void bf_os_wake(const uint32_t *word); /* all waiters; works through a read-only map; async-signal-safe */

/*
 * Sleep until one of the words is woken or differs from its value, or until `deadline_ns` (INT64_MAX: none).
 * 0: woken or changed; -ETIMEDOUT; -EINTR is reported as 0, since the caller looks again anyway.
 */
int bf_os_wait(const struct bf_os_wait *waits, unsigned count, int64_t deadline_ns);

/* --- a descriptor to be polled: readable from a set until the next clear. None of these blocks. --- */

int bf_os_event(void); /* not set */
void bf_os_event_set(int fd);
void bf_os_event_clear(int fd);

/* --- inotify --- */

int bf_os_inotify(void); /* a non-blocking descriptor */
int bf_os_inotify_add(int fd, const char *path, uint32_t mask);

/* --- signals --- */

void bf_os_block_signals(void); /* all that are not faults, in the calling thread */
int bf_os_on_signal(int signal, void (*handler)(int), void (**before)(int)); /* `before` may be NULL */

/* The whole of an action; both may be NULL. Async-signal-safe, as are those below. */
int bf_os_action(int signal, const struct sigaction *action, struct sigaction *before);
void bf_os_mask_more(const sigset_t *set); /* in the calling thread */
void bf_os_unmask(int signal);
void bf_os_raise(int signal); /* for the calling thread */

#endif

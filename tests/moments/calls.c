/* SPDX-License-Identifier: MIT */
/*
 * calls.c: what the library calls in libc and liburing that others can see, wrapped by the linker (--wrap, meson.build).
 * Just before each call is a moment; in a copy, another half-way.
 */
#include <dirent.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "moments.h"

/* WRAP(int, close, (int fd), (fd)): the type, the name, how it is declared, how it is called. */
#define WRAP(type, name, declared, called) \
    type __real_##name declared;           \
    type __wrap_##name declared;           \
    type __wrap_##name declared            \
    {                                      \
        MOMENT();                          \
        return __real_##name called;       \
    }

/* The same for what is seen only if that address is shared. */
#define WRAP_AT(at, type, name, declared, called) \
    type __real_##name declared;                  \
    type __wrap_##name declared;                  \
    type __wrap_##name declared                   \
    {                                             \
        if (moments_see(at))                      \
            MOMENT();                             \
        return __real_##name called;              \
    }

/* --- files ---------------------------------------------------------------------------------------------------------- */

/* Those with a variable number of arguments get as many as are ever given. */
WRAP(int, open64, (const char *path, int how, unsigned mode), (path, how, mode))
WRAP(int, openat64, (int dir, const char *name, int how, unsigned mode), (dir, name, how, mode))
WRAP(int, fcntl64, (int fd, int command, void *argument), (fd, command, argument))
WRAP(int, close, (int fd), (fd))
WRAP(ssize_t, read, (int fd, void *data, size_t bytes), (fd, data, bytes))
WRAP(ssize_t, pwrite64, (int fd, const void *data, size_t bytes, int64_t at), (fd, data, bytes, at))
WRAP(int, ftruncate64, (int fd, int64_t bytes), (fd, bytes))
WRAP(int, fallocate64, (int fd, int mode, int64_t at, int64_t bytes), (fd, mode, at, bytes))
WRAP(int, fchmod, (int fd, mode_t mode), (fd, mode))
WRAP(int, fchmodat, (int dir, const char *name, mode_t mode, int flags), (dir, name, mode, flags))
WRAP(int, fchown, (int fd, uid_t uid, gid_t gid), (fd, uid, gid))
WRAP(int, fsetxattr, (int fd, const char *name, const void *value, size_t bytes, int flags),
     (fd, name, value, bytes, flags))
WRAP(int, ioctl, (int fd, unsigned long what, void *argument), (fd, what, argument))
WRAP(ssize_t, pread64, (int fd, void *data, size_t bytes, int64_t at), (fd, data, bytes, at))
WRAP(int64_t, lseek64, (int fd, int64_t at, int whence), (fd, at, whence))
WRAP(int, fstat64, (int fd, void *st), (fd, st))
WRAP(int, fstatat64, (int dir, const char *name, void *st, int flags), (dir, name, st, flags))
WRAP(int, fstatfs64, (int fd, void *fs), (fd, fs))
WRAP(int, mkdirat, (int dir, const char *name, mode_t mode), (dir, name, mode))
WRAP(int, renameat, (int dir, const char *from, int to_dir, const char *to), (dir, from, to_dir, to))
WRAP(int, unlinkat, (int dir, const char *name, int flags), (dir, name, flags))
WRAP(int, symlinkat, (const char *target, int dir, const char *name), (target, dir, name))
WRAP(ssize_t, readlinkat, (int dir, const char *name, char *target, size_t bytes), (dir, name, target, bytes))
WRAP(DIR *, fdopendir, (int fd), (fd))
WRAP(void *, readdir64, (DIR * dir), (dir))
WRAP(int, closedir, (DIR * dir), (dir))

/* --- the rest of the kernel ------------------------------------------------------------------------------------------- */

WRAP(long, syscall, (long number, long a, long b, long c, long d, long e, long f), (number, a, b, c, d, e, f))
WRAP(int, madvise, (void *at, size_t bytes, int what), (at, bytes, what))
WRAP(int, eventfd, (unsigned count, int flags), (count, flags))
WRAP(int, eventfd_read, (int fd, eventfd_t *value), (fd, value))
WRAP(int, eventfd_write, (int fd, eventfd_t value), (fd, value))
WRAP(int, inotify_init1, (int flags), (flags))
WRAP(int, inotify_add_watch, (int fd, const char *path, uint32_t mask), (fd, path, mask))
WRAP(int, sched_setaffinity, (pid_t pid, size_t bytes, const void *set), (pid, bytes, set))
WRAP(int, sigaction, (int number, const struct sigaction *now, struct sigaction *before), (number, now, before))
WRAP(int, pthread_sigmask, (int how, const sigset_t *now, sigset_t *before), (how, now, before))
WRAP(int, pthread_create, (pthread_t * thread, const pthread_attr_t *a, void *(*body)(void *), void *argument),
     (thread, a, body, argument))

/* The obituary; other mutexes are nobody else's. */
WRAP_AT(m, int, pthread_mutex_init, (pthread_mutex_t * m, const pthread_mutexattr_t *a), (m, a))
WRAP_AT(m, int, pthread_mutex_lock, (pthread_mutex_t * m), (m))
WRAP_AT(m, int, pthread_mutex_unlock, (pthread_mutex_t * m), (m))

/* --- liburing --------------------------------------------------------------------------------------------------------- */

WRAP(int, io_uring_queue_init_params, (unsigned entries, struct io_uring *ring, struct io_uring_params *p),
     (entries, ring, p))
WRAP(void, io_uring_queue_exit, (struct io_uring * ring), (ring))
WRAP(struct io_uring_probe *, io_uring_get_probe_ring, (struct io_uring * ring), (ring))
WRAP(int, io_uring_register_buf_ring, (struct io_uring * ring, struct io_uring_buf_reg *reg, unsigned flags),
     (ring, reg, flags))
WRAP(int, io_uring_register_eventfd, (struct io_uring * ring, int fd), (ring, fd))
WRAP(int, io_uring_register_ring_fd, (struct io_uring * ring), (ring))
WRAP(int, io_uring_submit, (struct io_uring * ring), (ring))
WRAP(int, io_uring_get_events, (struct io_uring * ring), (ring))
WRAP(int, io_uring_submit_and_wait_timeout,
     (struct io_uring * ring, struct io_uring_cqe **cqe, unsigned wait, struct __kernel_timespec *timeout,
      sigset_t *mask),
     (ring, cqe, wait, timeout, mask))

/* --- memory --------------------------------------------------------------------------------------------------------- */

void *__real_mmap64(void *at, size_t bytes, int access, int flags, int fd, int64_t offset);
void *__wrap_mmap64(void *at, size_t bytes, int access, int flags, int fd, int64_t offset);
int __real_munmap(void *at, size_t bytes);
int __wrap_munmap(void *at, size_t bytes);

void *__wrap_mmap64(void *at, size_t bytes, int access, int flags, int fd, int64_t offset)
{
    MOMENT();
    void *map = __real_mmap64(at, bytes, access, flags, fd, offset);
    if (map == MAP_FAILED)
        return map;
    moments_unmapped(map, bytes); /* what was there before */
    if ((flags & MAP_SHARED) != 0 && (access & PROT_WRITE) != 0)
        moments_mapped(map, bytes);
    return map;
}

int __wrap_munmap(void *at, size_t bytes)
{
    MOMENT();
    moments_unmapped(at, bytes);
    return __real_munmap(at, bytes);
}

void *__real_memcpy(void *to, const void *from, size_t bytes);
void *__wrap_memcpy(void *to, const void *from, size_t bytes);
void *__real_memset(void *to, int value, size_t bytes);
void *__wrap_memset(void *to, int value, size_t bytes);

void *__wrap_memcpy(void *to, const void *from, size_t bytes)
{
    if (!moments_see(to))
        return __real_memcpy(to, from, bytes);
    size_t half = bytes / 2;
    MOMENT();
    __real_memcpy(to, from, half);
    MOMENT();
    __real_memcpy((uint8_t *)to + half, (const uint8_t *)from + half, bytes - half);
    return to;
}

void *__wrap_memset(void *to, int value, size_t bytes)
{
    if (moments_see(to))
        MOMENT();
    return __real_memset(to, value, bytes);
}

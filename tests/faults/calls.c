/* SPDX-License-Identifier: MIT */
/*
 * calls.c: what the library calls in libc, liburing and jemalloc and can be refused, wrapped by the linker (--wrap,
 * meson.build), each with the errors that its manual page or the kernel's source has for our use of it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/build.h"
#include "faults.h"

/* Fails by returning `failed` and setting errno: WRAP(int, -1, close, (int fd), (fd), EIO). */
#define WRAP(type, failed, name, declared, called, ...) \
    type __real_##name declared;                        \
    type __wrap_##name declared;                        \
    type __wrap_##name declared                         \
    {                                                   \
        static const int errors[] = {__VA_ARGS__, 0};   \
        int error = faults_next(#name, errors);         \
        if (error == 0)                                 \
            return __real_##name called;                \
        errno = error;                                  \
        return failed;                                  \
    }

/* Fails by returning the error, with that sign. */
#define WRAP_CODE(sign, name, declared, called, ...)            \
    int __real_##name declared;                                 \
    int __wrap_##name declared;                                 \
    int __wrap_##name declared                                  \
    {                                                           \
        static const int errors[] = {__VA_ARGS__, 0};           \
        int error = faults_next(#name, errors);                 \
        return error == 0 ? __real_##name called : sign(error); \
    }

/* --- files ---------------------------------------------------------------------------------------------------------- */

/* Those with a variable number of arguments get as many as are ever given. */
WRAP(int, -1, open64, (const char *path, int how, unsigned mode), (path, how, mode), EMFILE, EACCES)
WRAP(ssize_t, -1, getrandom, (void *data, size_t bytes, unsigned how), (data, bytes, how), ENOSYS, EPERM, EINTR)
WRAP(ssize_t, -1, read, (int fd, void *data, size_t bytes), (fd, data, bytes), EIO)
WRAP(ssize_t, -1, pread64, (int fd, void *data, size_t bytes, int64_t at), (fd, data, bytes, at), EIO, EINTR)
WRAP(ssize_t, -1, pwrite64, (int fd, const void *data, size_t bytes, int64_t at), (fd, data, bytes, at), ENOSPC, ENOMEM,
     EINTR)
WRAP(int, -1, ftruncate64, (int fd, int64_t bytes), (fd, bytes), EIO, EINTR)
WRAP(int, -1, fallocate64, (int fd, int mode, int64_t at, int64_t bytes), (fd, mode, at, bytes), ENOSPC, ENOMEM, EINTR)
WRAP(int, -1, fchmod, (int fd, mode_t mode), (fd, mode), ENOMEM, EIO)
WRAP(int, -1, fchmodat, (int dir, const char *name, mode_t mode, int flags), (dir, name, mode, flags), ENOMEM, EIO)
WRAP(int, -1, fchown, (int fd, uid_t uid, gid_t gid), (fd, uid, gid), EPERM, EIO)
WRAP(int, -1, fsetxattr, (int fd, const char *name, const void *value, size_t bytes, int flags),
     (fd, name, value, bytes, flags), ENOSPC, ENOMEM, ENOTSUP)
WRAP(int, -1, ioctl, (int fd, unsigned long what, void *argument), (fd, what, argument), EPERM, ENOTTY)
WRAP(int64_t, -1, lseek64, (int fd, int64_t at, int whence), (fd, at, whence), EINVAL)
WRAP(int, -1, fstat64, (int fd, void *st), (fd, st), ENOMEM)
WRAP(int, -1, fstatat64, (int dir, const char *name, void *st, int flags), (dir, name, st, flags), ENOMEM)
WRAP(int, -1, fstatfs64, (int fd, void *fs), (fd, fs), ENOMEM, EINTR)
WRAP(int, -1, mkdirat, (int dir, const char *name, mode_t mode), (dir, name, mode), ENOSPC, ENOMEM, EACCES)
WRAP(int, -1, renameat, (int dir, const char *from, int to_dir, const char *to), (dir, from, to_dir, to), ENOSPC,
     ENOMEM)
WRAP(int, -1, unlinkat, (int dir, const char *name, int flags), (dir, name, flags), ENOMEM, EACCES)
WRAP(int, -1, symlinkat, (const char *target, int dir, const char *name), (target, dir, name), ENOSPC, ENOMEM)
WRAP(ssize_t, -1, readlinkat, (int dir, const char *name, char *target, size_t bytes), (dir, name, target, bytes),
     ENOMEM)
WRAP(DIR *, NULL, fdopendir, (int fd), (fd), ENOMEM)
WRAP(void *, NULL, readdir64, (DIR * dir), (dir), EIO)

int __real_openat64(int dir, const char *name, int how, unsigned mode);
int __wrap_openat64(int dir, const char *name, int how, unsigned mode);

int __wrap_openat64(int dir, const char *name, int how, unsigned mode)
{
    static const int opens[] = {EMFILE, ENFILE, ENOMEM, EINTR, 0}; /* EACCES: a mode, which stays */
    static const int creates[] = {ENOSPC, EMFILE, ENFILE, ENOMEM, EINTR, 0};
    bool is_new = (how & O_CREAT) != 0;
    int error = is_new ? faults_next("openat64 O_CREAT", creates) : faults_next("openat64", opens);
    if (error == 0)
        return __real_openat64(dir, name, how, mode);
    errno = error;
    return -1;
}

int __real_fcntl64(int fd, int command, void *argument);
int __wrap_fcntl64(int fd, int command, void *argument);

int __wrap_fcntl64(int fd, int command, void *argument)
{
    static const int sets[] = {ENOLCK, EINTR, 0}, gets[] = {ENOMEM, EINTR, 0};
    int error = command == F_OFD_GETLK ? faults_next("fcntl64 GETLK", gets) : faults_next("fcntl64", sets);
    if (error == 0)
        return __real_fcntl64(fd, command, argument);
    errno = error;
    return -1;
}

/* --- the rest of the kernel ------------------------------------------------------------------------------------------- */

WRAP(int, -1, eventfd, (unsigned count, int flags), (count, flags), EMFILE, ENFILE, ENOMEM)
WRAP(int, -1, inotify_init1, (int flags), (flags), EMFILE, ENFILE, ENOMEM)
WRAP(int, -1, inotify_add_watch, (int fd, const char *path, uint32_t mask), (fd, path, mask), ENOSPC, ENOMEM, EACCES)
WRAP(int, -1, sched_setaffinity, (pid_t pid, size_t bytes, const void *set), (pid, bytes, set), EINVAL)
WRAP(int, -1, sched_getaffinity, (pid_t pid, size_t bytes, void *set), (pid, bytes, set), EINVAL)

long __real_syscall(long number, long a, long b, long c, long d, long e, long f);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);

/* A wake fails only for an address that is none. */
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    static const int lists[] = {EIO, EINTR, 0}, waits[] = {ENOMEM, EINTR, 0};
    int error = number == SYS_getdents64    ? faults_next("getdents64", lists)
                : number == SYS_futex_waitv ? faults_next("futex_waitv", waits)
                                            : 0;
    if (error == 0)
        return __real_syscall(number, a, b, c, d, e, f);
    errno = error;
    return -1;
}

int __real_madvise(void *at, size_t bytes, int what);
int __wrap_madvise(void *at, size_t bytes, int what);

int __wrap_madvise(void *at, size_t bytes, int what)
{
    static const int populates[] = {ENOMEM, EFAULT, EAGAIN, EINTR, 0}, others[] = {ENOMEM, EAGAIN, 0};
    bool populate = what == MADV_POPULATE_READ || what == MADV_POPULATE_WRITE;
    int error = populate ? faults_next("madvise POPULATE", populates) : faults_next("madvise", others);
    if (error == 0)
        return __real_madvise(at, bytes, what);
    errno = error;
    return -1;
}

/* --- liburing --------------------------------------------------------------------------------------------------------- */

WRAP_CODE(-, io_uring_queue_init_params, (unsigned entries, struct io_uring *ring, struct io_uring_params *p),
          (entries, ring, p), ENOMEM, EMFILE, ENFILE, EPERM, ENOSYS)
WRAP(struct io_uring_probe *, NULL, io_uring_get_probe_ring, (struct io_uring * ring), (ring), ENOMEM)
WRAP_CODE(-, io_uring_register_buf_ring, (struct io_uring * ring, struct io_uring_buf_reg *reg, unsigned flags),
          (ring, reg, flags), ENOMEM)
WRAP_CODE(-, io_uring_register_eventfd, (struct io_uring * ring, int fd), (ring, fd), ENOMEM, EBUSY)
WRAP_CODE(-, io_uring_register_ring_fd, (struct io_uring * ring), (ring), ENOMEM, EINVAL)
WRAP_CODE(-, io_uring_submit, (struct io_uring * ring), (ring), EAGAIN, EBUSY, EINTR)
WRAP_CODE(-, io_uring_get_events, (struct io_uring * ring), (ring), EAGAIN, EINTR)
WRAP_CODE(-, io_uring_submit_and_wait_timeout,
          (struct io_uring * ring, struct io_uring_cqe **cqe, unsigned wait, struct __kernel_timespec *timeout,
           sigset_t *mask),
          (ring, cqe, wait, timeout, mask), EAGAIN, EBUSY, EINTR)

/* --- threads ---------------------------------------------------------------------------------------------------------- */

WRAP_CODE(, pthread_attr_init, (pthread_attr_t * a), (a), ENOMEM)
WRAP_CODE(, pthread_mutex_init, (pthread_mutex_t * m, const pthread_mutexattr_t *a), (m, a), ENOMEM, EAGAIN)
WRAP_CODE(, pthread_atfork, (void (*before)(void), void (*parent)(void), void (*child)(void)), (before, parent, child),
          ENOMEM)
WRAP_CODE(, pthread_key_create, (pthread_key_t * key, void (*ends)(void *)), (key, ends), ENOMEM, EAGAIN)
WRAP_CODE(, pthread_setspecific, (pthread_key_t key, const void *value), (key, value), ENOMEM)

struct beginning {
    void *(*body)(void *argument);
    void *argument;
};

void *__real_malloc(size_t bytes);
void __real_free(void *block);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *a, void *(*body)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *a, void *(*body)(void *), void *argument);

static void *begin(void *context)
{
    struct beginning b = *(struct beginning *)context;
    __real_free(context);
    faults_mark(true);
    return b.body(b.argument);
}

/* What a marked thread makes is marked, too. */
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *a, void *(*body)(void *), void *argument)
{
    static const int errors[] = {EAGAIN, EPERM, 0};
    if (!faults_marked())
        return __real_pthread_create(thread, a, body, argument);
    int error = faults_next("pthread_create", errors);
    if (error != 0)
        return error;
    struct beginning *b = __real_malloc(sizeof *b);
    *b = (struct beginning){body, argument};
    error = __real_pthread_create(thread, a, begin, b);
    if (error != 0)
        __real_free(b);
    return error;
}

/* --- memory --------------------------------------------------------------------------------------------------------- */

void *__real_mmap64(void *at, size_t bytes, int access, int flags, int fd, int64_t offset);
void *__wrap_mmap64(void *at, size_t bytes, int access, int flags, int fd, int64_t offset);
int __real_munmap(void *at, size_t bytes);
int __wrap_munmap(void *at, size_t bytes);

void *__wrap_mmap64(void *at, size_t bytes, int access, int flags, int fd, int64_t offset)
{
    static const int errors[] = {ENOMEM, 0};
    int error = faults_next("mmap64", errors);
    if (error != 0) {
        errno = error;
        return MAP_FAILED;
    }
    void *map = __real_mmap64(at, bytes, access, flags, fd, offset);
    if (map != MAP_FAILED && (flags & MAP_FIXED) == 0)
        faults_map((int64_t)bytes);
    return map;
}

int __wrap_munmap(void *at, size_t bytes)
{
    faults_map(-(int64_t)bytes);
    return __real_munmap(at, bytes);
}

static const int no_memory[] = {ENOMEM, 0};

static void *counted(void *block)
{
    faults_block(block != NULL);
    return block;
}

#define WRAP_BLOCK(name, declared, called)                                                \
    void *__real_##name declared;                                                         \
    void *__wrap_##name declared;                                                         \
    void *__wrap_##name declared                                                          \
    {                                                                                     \
        return faults_next(#name, no_memory) != 0 ? NULL : counted(__real_##name called); \
    }

WRAP_BLOCK(malloc, (size_t bytes), (bytes))
WRAP_BLOCK(calloc, (size_t count, size_t bytes), (count, bytes))
WRAP_BLOCK(aligned_alloc, (size_t alignment, size_t bytes), (alignment, bytes))

void *__real_realloc(void *block, size_t bytes);
void *__wrap_realloc(void *block, size_t bytes);
int __real_posix_memalign(void **block, size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **block, size_t alignment, size_t bytes);
void __wrap_free(void *block);

void *__wrap_realloc(void *block, size_t bytes)
{
    if (faults_next("realloc", no_memory) != 0)
        return NULL;
    return block == NULL ? counted(__real_realloc(block, bytes)) : __real_realloc(block, bytes);
}

int __wrap_posix_memalign(void **block, size_t alignment, size_t bytes)
{
    if (faults_next("posix_memalign", no_memory) != 0)
        return ENOMEM;
    int rc = __real_posix_memalign(block, alignment, bytes);
    faults_block(rc == 0);
    return rc;
}

void __wrap_free(void *block)
{
    faults_block(-(block != NULL));
    __real_free(block);
}

#if BF_ALLOCATOR_IS_JEMALLOC

WRAP_BLOCK(mallocx, (size_t bytes, int flags), (bytes, flags))

void __real_dallocx(void *block, int flags);
void __wrap_dallocx(void *block, int flags);

void __wrap_dallocx(void *block, int flags)
{
    faults_block(-1);
    __real_dallocx(block, flags);
}

int __real_mallctl(const char *name, void *old, size_t *old_bytes, void *now, size_t now_bytes);
int __wrap_mallctl(const char *name, void *old, size_t *old_bytes, void *now, size_t now_bytes);

int __wrap_mallctl(const char *name, void *old, size_t *old_bytes, void *now, size_t now_bytes)
{
    static const int errors[] = {EAGAIN, 0};
    int error = strcmp(name, "arenas.create") == 0 ? faults_next("mallctl", errors) : 0;
    return error != 0 ? error : __real_mallctl(name, old, old_bytes, now, now_bytes);
}

#endif

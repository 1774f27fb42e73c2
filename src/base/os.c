/* SPDX-License-Identifier: MIT */
/* os.c: see os.h. Each function is one system call, its EINTR loop, and -errno. */
#include "base/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define TMPFS_MAGIC_NUMBER 0x01021994
#define MAP_COUNT_MAX_DEFAULT 65530
#define NS_PER_S 1000000000ll

_Static_assert(BF_OS_CWD == AT_FDCWD, "os.h spells AT_FDCWD without fcntl.h");
_Static_assert(BF_OS_WAITS_MAX == FUTEX_WAITV_MAX, "os.h spells FUTEX_WAITV_MAX without linux/futex.h");

/* The result of an expression that sets errno, restarted while a signal interrupts it. */
#define NO_EINTR(expression)                     \
    ({                                           \
        __typeof__(expression) result_;          \
        do                                       \
            result_ = (expression);              \
        while (result_ == -1 && errno == EINTR); \
        result_ == -1 ? -errno : result_;        \
    })

/* --- time, identity, limits --- */

int64_t bf_os_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

int64_t bf_os_coarse_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

uint32_t bf_os_uid(void)
{
    return geteuid();
}

uint32_t bf_os_gid(void)
{
    return getegid();
}

uint32_t bf_os_pid(void)
{
    return (uint32_t)getpid();
}

uint64_t bf_os_random(void)
{
    static uint64_t calls;
    uint64_t number = 0;
    if (NO_EINTR(getrandom(&number, sizeof number, 0)) !=
        (int)sizeof number) /* a filter of system calls may forbid it */
        number = (uint64_t)bf_os_now_ns() ^ __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED) << 48;
    return number;
}

/* The start of a small text file; "" when it cannot be read. */
static void read_text(const char *path, char *text, size_t bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0 : read(fd, text, bytes - 1);
    text[got < 0 ? 0 : got] = '\0';
    if (fd >= 0)
        close(fd);
}

int64_t bf_os_map_count_max(void)
{
    char text[32];
    read_text("/proc/sys/vm/max_map_count", text, sizeof text);
    int64_t count = strtoll(text, NULL, 10);
    return count > 0 ? count : MAP_COUNT_MAX_DEFAULT;
}

uint64_t bf_os_file_count_max(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : 0;
}

uint64_t bf_os_locked_bytes_max(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_MEMLOCK, &limit) == 0 ? limit.rlim_cur : 0;
}

/* --- processors --- */

int bf_os_cpus(uint32_t *cpus, int max)
{
    cpu_set_t set;
    int count = 0;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return -errno;
    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &set)) {
            if (count < max)
                cpus[count] = cpu;
            count++;
        }
    return count;
}

int bf_os_pin(uint32_t cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0 ? 0 : -errno;
}

/* True when the cgroup (version 2) grants less than one whole processor. */
static bool quota_is_tight(void)
{
    char groups[1024], path[1200], quota[64];
    read_text("/proc/self/cgroup", groups, sizeof groups);
    char *own = strstr(groups, "0::");
    if (own == NULL)
        return false;
    own += 3;
    own[strcspn(own, "\n")] = '\0';
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", own);
    read_text(path, quota, sizeof quota);
    long long microseconds, period;
    return sscanf(quota, "%lld %lld", &microseconds, &period) == 2 && microseconds < period;
}

bool bf_os_spinning_is_free(void)
{
    static int answer; /* 0: not yet known; benign race, both answers are the same */
    int known = __atomic_load_n(&answer, __ATOMIC_RELAXED);
    if (known == 0) {
        known = sysconf(_SC_NPROCESSORS_ONLN) > 1 && !quota_is_tight() ? 1 : 2;
        __atomic_store_n(&answer, known, __ATOMIC_RELAXED);
    }
    return known == 1;
}

/* --- files and directories --- */

int bf_os_open(int dir, const char *name, int flags, uint32_t mode)
{
    int how = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (flags & (O_WRONLY | O_RDWR));
    if (flags & BF_OS_CREATE_NEW)
        how |= O_CREAT | O_EXCL;
    if (flags & BF_OS_CREATE)
        how |= O_CREAT;
    int fd = NO_EINTR(openat(dir, name, how, mode));
    /* What we create has the mode that was asked for, whatever the umask. */
    if (fd >= 0 && (flags & (BF_OS_CREATE_NEW | BF_OS_CREATE)) && fchmod(fd, mode) != 0) {
        int error = -errno;
        close(fd);
        return error;
    }
    return fd;
}
_Static_assert(BF_OS_WRITE == O_WRONLY && BF_OS_READ_WRITE == O_RDWR, "os.h spells these without fcntl.h");

int bf_os_open_dir(int dir, const char *name)
{
    return NO_EINTR(openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

int bf_os_enter_dir(int dir, const char *name)
{
    return NO_EINTR(openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

void bf_os_close(int fd)
{
    if (fd >= 0)
        close(fd);
}

int bf_os_make_dir(int dir, const char *name, uint32_t mode)
{
    if (mkdirat(dir, name, mode) != 0)
        return -errno;
    return fchmodat(dir, name, mode, 0) == 0 ? 0 : -errno;
}

static void file_from_stat(struct bf_os_file *file, const struct stat *st)
{
    *file = (struct bf_os_file){
        .device = st->st_dev,
        .inode = st->st_ino,
        .bytes = (uint64_t)st->st_size,
        .uid = st->st_uid,
        .gid = st->st_gid,
        .mode = st->st_mode & 07777,
        .links = (uint32_t)st->st_nlink,
        .regular = S_ISREG(st->st_mode),
        .directory = S_ISDIR(st->st_mode),
    };
}

int bf_os_stat(int fd, struct bf_os_file *file)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return -errno;
    file_from_stat(file, &st);
    return 0;
}

int bf_os_stat_at(int dir, const char *name, struct bf_os_file *file)
{
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return -errno;
    file_from_stat(file, &st);
    return 0;
}

int bf_os_space(int fd, bool *tmpfs, uint64_t *free_bytes)
{
    struct statfs fs;
    if (NO_EINTR(fstatfs(fd, &fs)) < 0)
        return -errno;
    *tmpfs = fs.f_type == TMPFS_MAGIC_NUMBER;
    /* A tmpfs mounted without a limit says 0 blocks. */
    *free_bytes = fs.f_blocks == 0 ? UINT64_MAX : (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
    return 0;
}

int bf_os_mode(int fd, uint32_t mode)
{
    return fchmod(fd, mode) == 0 ? 0 : -errno;
}

int bf_os_group(int fd, uint32_t gid)
{
    return fchown(fd, (uid_t)-1, gid) == 0 ? 0 : -errno;
}

int bf_os_size(int fd, uint64_t bytes)
{
    return NO_EINTR(ftruncate(fd, (off_t)bytes));
}

int bf_os_allocate(int fd, uint64_t offset, uint64_t bytes)
{
    return NO_EINTR(fallocate(fd, 0, (off_t)offset, (off_t)bytes));
}

int bf_os_write_at(int fd, const void *data, size_t bytes, uint64_t offset)
{
    ssize_t written = NO_EINTR(pwrite(fd, data, bytes, (off_t)offset));
    if (written < 0)
        return (int)written;
    return (size_t)written == bytes ? 0 : -EIO;
}

int bf_os_read_at(int fd, void *data, size_t bytes, uint64_t offset)
{
    return (int)NO_EINTR(pread(fd, data, bytes, (off_t)offset));
}

int bf_os_rename(int dir, const char *from, const char *to)
{
    return renameat(dir, from, dir, to) == 0 ? 0 : -errno;
}

int bf_os_unlink(int dir, const char *name)
{
    return unlinkat(dir, name, 0) == 0 ? 0 : -errno;
}

int bf_os_remove_dir(int dir, const char *name)
{
    return unlinkat(dir, name, AT_REMOVEDIR) == 0 ? 0 : -errno;
}

int bf_os_symlink(int dir, const char *target, const char *name)
{
    return symlinkat(target, dir, name) == 0 ? 0 : -errno;
}

int bf_os_read_link(int dir, const char *name, char *target, size_t bytes)
{
    ssize_t length = readlinkat(dir, name, target, bytes);
    if (length < 0)
        return -errno;
    if ((size_t)length >= bytes)
        return -ENAMETOOLONG;
    target[length] = '\0';
    return (int)length;
}

int bf_os_share(int fd, uint32_t own, uint32_t uid, uint32_t theirs)
{
    struct {
        struct posix_acl_xattr_header header;
        struct posix_acl_xattr_entry entry[5]; /* in this order */
    } list = {
        .header = {POSIX_ACL_XATTR_VERSION},
        .entry = {{ACL_USER_OBJ, (uint16_t)own, ACL_UNDEFINED_ID},
                  {ACL_USER, (uint16_t)theirs, uid},
                  {ACL_GROUP_OBJ, 0, ACL_UNDEFINED_ID},
                  {ACL_MASK, (uint16_t)theirs, ACL_UNDEFINED_ID},
                  {ACL_OTHER, 0, ACL_UNDEFINED_ID}},
    };
    return NO_EINTR(fsetxattr(fd, "system.posix_acl_access", &list, sizeof list, 0));
}

int bf_os_append_only(int fd, bool on)
{
    unsigned flags = 0;
    int rc = NO_EINTR(ioctl(fd, FS_IOC_GETFLAGS, &flags));
    if (rc < 0)
        return rc;
    flags = on ? flags | FS_APPEND_FL : flags & ~(unsigned)FS_APPEND_FL;
    return NO_EINTR(ioctl(fd, FS_IOC_SETFLAGS, &flags));
}

int bf_os_list(int dir, int (*each)(void *context, const char *name), void *context)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* a position of its own */
    if (fd < 0)
        return -errno;
    DIR *stream = fdopendir(fd);
    if (stream == NULL) {
        int error = -errno;
        close(fd);
        return error;
    }
    int rc = 0;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(stream);
        if (entry == NULL) {
            rc = -errno;
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        rc = each(context, entry->d_name);
        if (rc != 0)
            break;
    }
    closedir(stream);
    return rc;
}

int bf_os_list_some(int dir, void (*each)(void *context, const char *name), void *context)
{
    char buffer[1024] __attribute__((aligned(8))); /* some thirty names */
    long bytes = NO_EINTR(syscall(SYS_getdents64, dir, buffer, sizeof buffer));
    for (long at = 0; at < bytes;) {
        const struct dirent64 *entry = (const struct dirent64 *)(const void *)&buffer[at];
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            each(context, entry->d_name);
        at += entry->d_reclen;
    }
    if (bytes == 0 && lseek(dir, 0, SEEK_SET) < 0)
        return -errno;
    return bytes < 0 ? (int)bytes : bytes > 0;
}

/* --- open-file-description locks --- */

int bf_os_lock(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int rc = NO_EINTR(fcntl(fd, F_OFD_SETLK, &lock));
    return rc == -EACCES ? -EAGAIN : rc;
}

int bf_os_locked(int fd)
{
    /* Asking for a read lock, so that somebody's read lock does not look like a holder. */
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    int rc = NO_EINTR(fcntl(fd, F_OFD_GETLK, &lock));
    return rc < 0 ? rc : lock.l_type != F_UNLCK;
}

/* --- memory --- */

#define HUGE_BYTES ((size_t)2 << 20)

static size_t whole_pages(size_t bytes)
{
    return (bytes + BF_OS_PAGE_BYTES - 1) / BF_OS_PAGE_BYTES * BF_OS_PAGE_BYTES;
}

void *bf_os_map_memory(size_t bytes)
{
    size_t wanted = BF_OS_PAGE_BYTES + whole_pages(bytes), all = wanted + HUGE_BYTES;
    uint8_t *map = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    uint8_t *at = map + HUGE_BYTES - (uintptr_t)map % HUGE_BYTES;
    size_t before = (size_t)(at - BF_OS_PAGE_BYTES - map), behind = all - before - wanted;
    if (before > 0)
        munmap(map, before);
    if (behind > 0)
        munmap(map + before + wanted, behind);
    madvise(at, bytes, MADV_HUGEPAGE); /* a wish */
    return at;
}

void bf_os_unmap_memory(void *at, size_t bytes)
{
    bf_os_unmap((uint8_t *)at - BF_OS_PAGE_BYTES, BF_OS_PAGE_BYTES + whole_pages(bytes));
}

void *bf_os_reserve(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

int bf_os_map(int fd, size_t bytes, bool writable, void *at, void **out)
{
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *map = mmap(at, bytes, protection, MAP_SHARED | (at != NULL ? MAP_FIXED : 0), fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    *out = map;
    return 0;
}

int bf_os_map_none(void *at, size_t bytes)
{
    void *map = mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return map == MAP_FAILED ? -errno : 0;
}

int bf_os_map_zeros(void *at, size_t bytes, bool writable)
{
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *map = mmap(at, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return map == MAP_FAILED ? -errno : 0;
}

int bf_os_unmap(void *at, size_t bytes)
{
    return munmap(at, bytes) == 0 ? 0 : -errno;
}

int bf_os_populate(void *at, size_t bytes, bool writable)
{
    return NO_EINTR(madvise(at, bytes, writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ));
}

int bf_os_no_fork(void *at, size_t bytes)
{
    return madvise(at, bytes, MADV_DONTFORK) == 0 ? 0 : -errno;
}

/* --- futexes --- */

void bf_os_wake(const uint32_t *word)
{
    int saved = errno;
    syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
    errno = saved;
}

int bf_os_wait(const struct bf_os_wait *waits, unsigned count, int64_t deadline_ns)
{
    struct futex_waitv vector[BF_OS_WAITS_MAX];
    if (count == 0 || count > BF_OS_WAITS_MAX)
        return -EINVAL;
    for (unsigned i = 0; i < count; i++)
        vector[i] = (struct futex_waitv){.val = waits[i].value, .uaddr = (uintptr_t)waits[i].word, .flags = FUTEX_32};

    struct timespec deadline = {.tv_sec = deadline_ns / NS_PER_S, .tv_nsec = deadline_ns % NS_PER_S};
    long rc = syscall(SYS_futex_waitv, vector, count, 0, deadline_ns == INT64_MAX ? NULL : &deadline, CLOCK_MONOTONIC);
    if (rc >= 0 || errno == EAGAIN || errno == EINTR)
        return 0;
    return -errno;
}

/* --- events --- */

int bf_os_event(void)
{
    return NO_EINTR(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
}

void bf_os_event_set(int fd)
{
    int saved = errno;
    eventfd_write(fd, 1); /* fails when the counter is full, and then it is readable */
    errno = saved;
}

void bf_os_event_clear(int fd)
{
    eventfd_t count;
    int saved = errno;
    eventfd_read(fd, &count);
    errno = saved;
}

/* --- inotify --- */

int bf_os_inotify(void)
{
    return NO_EINTR(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
}

int bf_os_inotify_add(int fd, const char *path, uint32_t mask)
{
    return NO_EINTR(inotify_add_watch(fd, path, mask));
}

/* --- signals --- */

void bf_os_block_signals(void)
{
    sigset_t set;
    sigfillset(&set);
    sigdelset(&set, SIGSEGV);
    sigdelset(&set, SIGBUS);
    sigdelset(&set, SIGFPE);
    sigdelset(&set, SIGILL);
    sigdelset(&set, SIGABRT);
    sigdelset(&set, SIGTRAP);
    sigdelset(&set, SIGSYS);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

int bf_os_on_signal(int number, void (*handler)(int), void (**before)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART}, old;
    sigemptyset(&action.sa_mask);
    if (sigaction(number, &action, &old) != 0)
        return -errno;
    if (before != NULL)
        *before = (old.sa_flags & SA_SIGINFO) == 0 ? old.sa_handler : SIG_DFL;
    return 0;
}

int bf_os_action(int number, const struct sigaction *action, struct sigaction *before)
{
    return sigaction(number, action, before) == 0 ? 0 : -errno;
}

void bf_os_mask_more(const sigset_t *set)
{
    pthread_sigmask(SIG_BLOCK, set, NULL);
}

void bf_os_unmask(int number)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void bf_os_raise(int number)
{
    raise(number);
}

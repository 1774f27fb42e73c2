/* SPDX-License-Identifier: MIT */
/*
 * Facts about the kernel that belfry relies on, without io_uring: locks, futexes through read-only maps, inotify, and
 * what happens when a process is killed. One test each; DESIGN says what is built on it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <belfry/types.h>

#include "base/order.h"
#include "base/os.h"
#include "expect.h"
#include "fixture.h"

static char root[FIXTURE_PATH_BYTES];
static int dir;
static uint32_t *words;             /* of a file on tmpfs */
static const uint32_t *words_again; /* the same, read-only */
static int words_fd;

static void open_all(void)
{
    fixture_root_make(root);
    dir = bf_os_open_dir(BF_OS_CWD, root);
    words_fd = bf_os_open(dir, "words", BF_OS_READ_WRITE | BF_OS_CREATE_NEW, 0600);
    expect_eq(bf_os_size(words_fd, 8192), 0);
    int reader = bf_os_open(dir, "words", BF_OS_READ, 0);
    words = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, words_fd, 0);
    words_again = mmap(NULL, 8192, PROT_READ, MAP_SHARED, reader, 0);
    expect(words != MAP_FAILED && words_again != MAP_FAILED);
    bf_os_close(reader);
}

static void close_all(void)
{
    bf_os_close(words_fd);
    bf_os_close(dir);
    fixture_remove_tree(root);
}

TestSuite(kernel, .init = open_all, .fini = close_all, .timeout = 60);

/* --- futexes ---------------------------------------------------------------------------------------------------------------- */

static void wait_read_only(void *context)
{
    (void)context;
    store_release(&words[1], 1);
    while (load_acquire(&words_again[0]) == 0) {
        long rc = syscall(SYS_futex, &words_again[0], FUTEX_WAIT, 0, &(struct timespec){.tv_sec = 20}, NULL, 0);
        if (rc != 0 && errno != EAGAIN && errno != EINTR)
            _exit(1);
    }
}

Test(kernel, waits_and_wakes_through_read_only_maps)
{
    pid_t pid = fixture_child(wait_read_only, NULL);
    expect(eventually(load_acquire(&words[1]) == 1));
    /* It sleeps at this very word sooner or later; a wake through our own read-only map ends that. */
    int64_t until = fixture_now_ms() + FIXTURE_PATIENCE_MS;
    while (syscall(SYS_futex, &words_again[0], FUTEX_WAKE, INT32_MAX, NULL, NULL, 0) == 0)
        expect(fixture_now_ms() < until);
    store_release(&words[0], 1);
    syscall(SYS_futex, &words_again[0], FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
    expect_eq(fixture_reap(pid), 0);
}

Test(kernel, refuses_a_read_only_file_to_be_made_writable)
{
    int reader = bf_os_open(dir, "words", BF_OS_READ, 0);
    uint32_t *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, reader, 0);
    expect(mprotect(map, 4096, PROT_READ | PROT_WRITE) != 0 && errno == EACCES);
    bf_os_close(reader);
}

/* --- robust mutexes: the obituary ---------------------------------------------------------------------------------------------- */

static void hold_obituary(void *context)
{
    pthread_mutexattr_t attributes;
    pthread_mutex_t *mutex = context;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(mutex, &attributes);
    pthread_mutex_lock(mutex);
    or_relaxed(words, FUTEX_WAITERS);
    store_release(&words[100], 1);
    for (;;)
        pause();
}

static uint32_t mourners_ready;

static void *mourn(void *argument)
{
    struct bf_os_wait waits[] = {{&words_again[200], 0}, {&words_again[0], load_acquire(words_again)}};
    (void)argument;
    __atomic_add_fetch(&mourners_ready, 1, __ATOMIC_ACQ_REL);
    int rc = bf_os_wait(waits, 2, bf_os_now_ns() + FIXTURE_PATIENCE_MS * 1000000ll);
    if (rc == 0)
        bf_os_wake(&words_again[0]); /* the kernel wakes one: pass it on */
    return (load_acquire(words_again) & FUTEX_OWNER_DIED) != 0 ? NULL : (void *)1;
}

/* futex_waitv through a read-only map hears that the owner of a robust mutex was killed. */
Test(kernel, marks_the_robust_mutex_of_a_killed_process_and_wakes_who_waits)
{
    pthread_t threads[8];
    void *found;
    pid_t pid = fixture_child(hold_obituary, words);
    expect(eventually(load_acquire(&words[100]) == 1));
    expect((load_acquire(words_again) & FUTEX_OWNER_DIED) == 0);
    expect((load_acquire(words_again) & FUTEX_TID_MASK) == (uint32_t)pid);
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, mourn, NULL);
    expect(eventually(load_acquire(&mourners_ready) == 8));
    for (int i = 0; i < 5; i++)
        fixture_pause(); /* most of them sleep; who does not sees the word changed */
    int64_t start = fixture_now_ms();
    fixture_kill(pid);
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], &found);
        expect(found == NULL);
    }
    expect(fixture_now_ms() - start < FIXTURE_PATIENCE_MS / 2); /* woken, not timed out */
}

/* --- locks ------------------------------------------------------------------------------------------------------------------------ */

Test(kernel, tells_of_a_held_lock_on_a_read_only_descriptor_and_names_nobody)
{
    int fd = bf_os_open(dir, "lock", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600);
    int reader = bf_os_open(dir, "lock", BF_OS_READ, 0);
    expect_eq(bf_os_lock(fd), 0);
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    expect_eq(fcntl(reader, F_OFD_GETLK, &lock), 0);
    expect_eq(lock.l_type, F_WRLCK);
    expect_eq(lock.l_pid, -1);
    bf_os_close(fd);
    lock = (struct flock){.l_type = F_RDLCK, .l_whence = SEEK_SET};
    expect_eq(fcntl(reader, F_OFD_GETLK, &lock), 0);
    expect_eq(lock.l_type, F_UNLCK);
}

Test(kernel, does_not_tell_of_locks_on_a_path_descriptor)
{
    bf_os_close(bf_os_open(dir, "lock", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600));
    int fd = openat(dir, "lock", O_PATH | O_CLOEXEC);
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    expect(fcntl(fd, F_OFD_GETLK, &lock) != 0 && errno == EBADF);
    close(fd);
}

Test(kernel, keeps_a_lock_as_long_as_a_map_keeps_its_file)
{
    int fd = bf_os_open(dir, "lock", BF_OS_READ_WRITE | BF_OS_CREATE_NEW, 0600);
    int reader = bf_os_open(dir, "lock", BF_OS_READ, 0);
    expect_eq(bf_os_size(fd, 4096), 0);
    expect_eq(bf_os_lock(fd), 0);
    void *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    bf_os_close(fd);
    expect_eq(bf_os_locked(reader), 1); /* so a server's lobby must not be mapped in its children */
    munmap(map, 4096);
    expect_eq(bf_os_locked(reader), 0);
}

/* --- inotify ------------------------------------------------------------------------------------------------------------------------ */

static void hold_file(void *context)
{
    int fd = bf_os_open(dir, "lock", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600);
    (void)context;
    if (bf_os_lock(fd) != 0)
        _exit(1);
    store_release(&words[0], 1);
    for (;;)
        pause();
}

Test(kernel, reports_the_close_of_a_killed_process)
{
    char buffer[4096];
    int fd = bf_os_inotify();
    expect(bf_os_inotify_add(fd, root, IN_CLOSE_WRITE) >= 0);
    pid_t pid = fixture_child(hold_file, NULL);
    expect(eventually(load_acquire(words) == 1));
    expect(read(fd, buffer, sizeof buffer) < 0);
    kill(pid, SIGKILL);
    expect(eventually(read(fd, buffer, sizeof buffer) > 0));
    const struct inotify_event *event = (const struct inotify_event *)(const void *)buffer;
    expect(event->mask & IN_CLOSE_WRITE);
    expect_text(event->name, "lock");
    fixture_reap(pid);
    close(fd);
}

Test(kernel, merges_identical_neighbours_in_the_event_queue)
{
    char buffer[4096];
    int fd = bf_os_inotify();
    bf_os_close(bf_os_open(dir, "lock", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600));
    expect(bf_os_inotify_add(fd, root, IN_CLOSE_WRITE) >= 0);
    for (int i = 0; i < 5; i++)
        bf_os_close(bf_os_open(dir, "lock", BF_OS_WRITE, 0));
    ssize_t got = read(fd, buffer, sizeof buffer);
    expect_eq(got, sizeof(struct inotify_event) + 16);
    close(fd);
}

Test(kernel, says_so_when_the_event_queue_overflows)
{
    int limit = 0;
    FILE *file = fopen("/proc/sys/fs/inotify/max_queued_events", "r");
    expect(file != NULL && fscanf(file, "%d", &limit) == 1);
    fclose(file);
    if (limit > 200000)
        cr_skip_test("fs.inotify.max_queued_events is %d: flooding it would take too long", limit);
    _Alignas(8) char buffer[65536];
    int fd = bf_os_inotify(), count = 0;
    expect(bf_os_inotify_add(fd, root, IN_CREATE | IN_DELETE) >= 0);
    for (int i = 0; i <= limit; i++) {
        bf_os_close(bf_os_open(dir, "flood", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600));
        bf_os_unlink(dir, "flood");
    }
    bool overflow = false;
    for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;)
        for (ssize_t at = 0; at < got;) {
            const struct inotify_event *event = (const struct inotify_event *)(const void *)(buffer + at);
            expect(!overflow); /* it is the last one */
            overflow = (event->mask & IN_Q_OVERFLOW) != 0;
            count++;
            at += (ssize_t)(sizeof *event + event->len);
        }
    expect(overflow);
    expect_eq(count, limit + 1);
    close(fd);
}

/* --- memory ------------------------------------------------------------------------------------------------------------------------- */

Test(kernel, writes_a_read_only_file_through_its_makers_descriptor)
{
    int fd = bf_os_open(dir, "recv", BF_OS_READ_WRITE | BF_OS_CREATE_NEW, 0400);
    expect(fd >= 0);
    expect_eq(bf_os_allocate(fd, 0, 4096), 0);
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    expect(map != MAP_FAILED);
    map[0] = 1;
    bf_os_close(fd);
    if (geteuid() != 0)
        expect_eq(bf_os_open(dir, "recv", BF_OS_READ_WRITE, 0), -EACCES);
}

/* SPDX-License-Identifier: MIT */
/* Tests of base/os.c: what belfry relies on beyond the plain system call. */
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/order.h"
#include "expect.h"
#include "fixture.h"

static char root[FIXTURE_PATH_BYTES];
static int dir;

static void open_root(void)
{
    fixture_root_make(root);
    dir = bf_os_open_dir(BF_OS_CWD, root);
    expect(dir >= 0);
}

static void close_root(void)
{
    bf_os_close(dir);
    fixture_remove_tree(root);
}

TestSuite(os, .init = open_root, .fini = close_root, .timeout = 60);

/* --- files --------------------------------------------------------------------------------------------------------------- */

Test(os, opens_nothing_through_a_symlink)
{
    bf_os_close(bf_os_open(dir, "file", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600));
    expect_eq(bf_os_symlink(dir, "file", "link"), 0);
    expect_eq(bf_os_open(dir, "link", BF_OS_READ, 0), -ELOOP);
    expect_eq(bf_os_open(dir, "link", BF_OS_WRITE | BF_OS_CREATE, 0600), -ELOOP);
    expect_eq(bf_os_open(dir, "link", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600), -EEXIST);
    expect_eq(bf_os_symlink(dir, root, "directory"), 0);
    expect(bf_os_open_dir(dir, "directory") < 0);
    expect_eq(bf_os_open_dir(dir, "file"), -ENOTDIR);
}

Test(os, creates_with_the_mode_that_was_asked_for)
{
    struct bf_os_file file;
    umask(0777);
    int fd = bf_os_open(dir, "file", BF_OS_READ_WRITE | BF_OS_CREATE_NEW, 0640);
    expect(fd >= 0);
    expect_eq(bf_os_stat(fd, &file), 0);
    expect_eq(file.mode, 0640);
    expect_eq(file.links, 1);
    expect(file.regular && !file.directory);
    expect_eq(file.uid, bf_os_uid());
    bf_os_close(fd);
    expect_eq(bf_os_make_dir(dir, "inner", 0711), 0);
    expect_eq(bf_os_stat_at(dir, "inner", &file), 0);
    expect_eq(file.mode, 0711);
    expect(file.directory);
}

/* Exits with what opening the file as another user gives: 0 or errno. */
static int open_as(uid_t uid, const char *path, int flags)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0 ? 255 : open(path, flags) >= 0 ? 0 : errno);
    return WEXITSTATUS(fixture_reap(pid));
}

Test(os, shares_a_file_with_one_user_alone)
{
    enum { GUEST = 61002, STRANGER = 61003 };
    char path[FIXTURE_PATH_BYTES + 16], parent[FIXTURE_PATH_BYTES + 16];
    if (bf_os_uid() != 0)
        cr_skip_test("only root can be several users");
    snprintf(path, sizeof path, "%s/file", root);
    snprintf(parent, sizeof parent, "%s/..", root);
    expect(chmod(root, 0711) == 0 && chmod(parent, 0711) == 0);
    int fd = bf_os_open(dir, "file", BF_OS_READ_WRITE | BF_OS_CREATE_NEW, 0600);
    expect_eq(open_as(GUEST, path, O_RDONLY), EACCES);
    expect_eq(bf_os_share(fd, 6, GUEST, 4), 0);
    expect_eq(open_as(GUEST, path, O_RDONLY), 0);
    expect_eq(open_as(GUEST, path, O_RDWR), EACCES);
    expect_eq(open_as(STRANGER, path, O_RDONLY), EACCES);
    expect_eq(bf_os_share(fd, 6, GUEST, 6), 0);
    expect_eq(open_as(GUEST, path, O_RDWR), 0);
    expect_eq(open_as(STRANGER, path, O_RDONLY), EACCES);
    bf_os_close(fd);
}

Test(os, keeps_a_file_from_being_shortened)
{
    int fd = bf_os_open(dir, "file", BF_OS_READ_WRITE | BF_OS_CREATE_NEW, 0600);
    expect_eq(bf_os_size(fd, 8192), 0);
    int rc = bf_os_append_only(fd, true);
    if (rc == -EPERM)
        cr_skip_test("may not: no CAP_LINUX_IMMUTABLE");
    expect_eq(rc, 0);
    expect_eq(bf_os_size(fd, 0), -EPERM);
    expect_eq(bf_os_unlink(dir, "file"), -EPERM);
    expect_eq(bf_os_open(dir, "file", BF_OS_WRITE, 0), -EPERM);
    expect_eq(bf_os_append_only(fd, false), 0);
    expect_eq(bf_os_unlink(dir, "file"), 0);
    bf_os_close(fd);
}

static void note_name(void *context, const char *name)
{
    bool *seen = context;
    seen[atoi(name)] = true;
}

Test(os, lists_a_directory_some_names_at_a_time)
{
    enum { NAMES = 500 };
    bool seen[NAMES] = {false};
    char name[16];
    for (int i = 0; i < NAMES; i++) {
        snprintf(name, sizeof name, "%d", i);
        bf_os_close(bf_os_open(dir, name, BF_OS_WRITE | BF_OS_CREATE_NEW, 0600));
    }
    for (int round = 0; round < 2; round++) { /* the second begins anew */
        int calls = 1, rc;
        while ((rc = bf_os_list_some(dir, note_name, seen)) == 1)
            calls++;
        expect_eq(rc, 0);
        expect(calls > 5 && calls < NAMES);
        for (int i = 0; i < NAMES; i++) {
            expect(seen[i]);
            seen[i] = false;
        }
    }
}

Test(os, enters_a_directory_that_it_may_not_list)
{
    struct bf_os_file file;
    expect_eq(bf_os_make_dir(dir, "inner", 0711), 0);
    expect_eq(bf_os_enter_dir(dir, "nothing"), -ENOENT);
    bf_os_close(bf_os_open(dir, "file", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600));
    expect_eq(bf_os_enter_dir(dir, "file"), -ENOTDIR);
    expect_eq(bf_os_symlink(dir, "inner", "link"), 0);
    expect_eq(bf_os_enter_dir(dir, "link"), -ENOTDIR);
    int inner = bf_os_enter_dir(dir, "inner");
    expect(inner >= 0);
    expect_eq(bf_os_stat(inner, &file), 0);
    expect(file.directory);
    int fd = bf_os_open(inner, "file", BF_OS_READ_WRITE | BF_OS_CREATE_NEW, 0600);
    char text[8] = "";
    expect_eq(bf_os_write_at(fd, "word", 4, 2), 0);
    expect_eq(bf_os_read_at(fd, text, sizeof text, 2), 4);
    expect_text(text, "word");
    bf_os_close(fd);
    bf_os_close(inner);
}

Test(os, creates_a_name_once)
{
    int fd = bf_os_open(dir, "file", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600);
    expect(fd >= 0);
    expect_eq(bf_os_open(dir, "file", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600), -EEXIST);
    expect_eq(bf_os_open(dir, "missing", BF_OS_READ, 0), -ENOENT);
    bf_os_close(fd);
    bf_os_close(-1);
}

Test(os, does_not_block_on_a_fifo)
{
    char path[FIXTURE_PATH_BYTES + 16];
    snprintf(path, sizeof path, "%s/fifo", root);
    expect_eq(mkfifo(path, 0600), 0);
    int fd = bf_os_open(dir, "fifo", BF_OS_READ, 0);
    expect(fd >= 0);
    struct bf_os_file file;
    expect_eq(bf_os_stat(fd, &file), 0);
    expect(!file.regular);
    bf_os_close(fd);
    expect_eq(bf_os_open(dir, "fifo", BF_OS_WRITE, 0), -ENXIO);
}

Test(os, closes_its_descriptors_on_exec)
{
    int fds[] = {bf_os_open(dir, "file", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600), bf_os_open_dir(dir, "."),
                 bf_os_inotify()};
    for (int i = 0; i < 3; i++)
        expect(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
}

Test(os, allocates_memory_for_a_file_before_it_is_used)
{
    struct stat st;
    int fd = bf_os_open(dir, "file", BF_OS_READ_WRITE | BF_OS_CREATE_NEW, 0600);
    expect_eq(bf_os_allocate(fd, 0, 65536), 0);
    expect_eq(bf_os_allocate(fd, 65536, 65536), 0);
    expect_eq(fstat(fd, &st), 0);
    expect_eq(st.st_size, 131072);
    expect_eq(st.st_blocks * 512, 131072);
    expect_eq(bf_os_write_at(fd, "x", 1, 131071), 0);
    expect_eq(bf_os_size(fd, 4096), 0);
    expect_eq(fstat(fd, &st), 0);
    expect_eq(st.st_size, 4096);
    bf_os_close(fd);
}

struct names {
    int count;
    int stop_at;
    char seen[8];
};

static int see_name(void *context, const char *name)
{
    struct names *names = context;
    expect(strcmp(name, ".") != 0 && strcmp(name, "..") != 0);
    if (strlen(name) == 1)
        names->seen[names->count % 8] = name[0];
    names->count++;
    return names->count == names->stop_at ? 42 : 0;
}

Test(os, lists_a_directory_each_time_from_its_start)
{
    static const char *const made[] = {"a", "b", "c"};
    for (int i = 0; i < 3; i++)
        bf_os_close(bf_os_open(dir, made[i], BF_OS_WRITE | BF_OS_CREATE_NEW, 0600));
    int fds = fixture_count_fds();
    for (int round = 0; round < 3; round++) {
        struct names names = {0};
        expect_eq(bf_os_list(dir, see_name, &names), 0);
        expect_eq(names.count, 3);
    }
    struct names names = {.stop_at = 2};
    expect_eq(bf_os_list(dir, see_name, &names), 42);
    expect_eq(names.count, 2);
    expect_eq(fixture_count_fds(), fds);
    expect(bf_os_list(-1, see_name, &names) < 0);
}

Test(os, reads_links_that_fit)
{
    char target[8];
    expect_eq(bf_os_symlink(dir, "1234567", "fits"), 0);
    expect_eq(bf_os_symlink(dir, "12345678", "does-not"), 0);
    expect_eq(bf_os_read_link(dir, "fits", target, sizeof target), 7);
    expect_text(target, "1234567");
    expect_eq(bf_os_read_link(dir, "does-not", target, sizeof target), -ENAMETOOLONG);
    expect_eq(bf_os_read_link(dir, "missing", target, sizeof target), -ENOENT);
}

Test(os, knows_tmpfs_and_its_space)
{
    bool tmpfs;
    uint64_t bytes;
    expect_eq(bf_os_space(dir, &tmpfs, &bytes), 0);
    expect(tmpfs && bytes > 0);
    int proc = bf_os_open_dir(BF_OS_CWD, "/proc");
    expect_eq(bf_os_space(proc, &tmpfs, &bytes), 0);
    expect(!tmpfs);
    bf_os_close(proc);
}

/* --- locks ---------------------------------------------------------------------------------------------------------------- */

Test(os, gives_a_lock_to_one_open_file)
{
    int first = bf_os_open(dir, "lock", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600);
    int second = bf_os_open(dir, "lock", BF_OS_WRITE, 0);
    int reader = bf_os_open(dir, "lock", BF_OS_READ, 0);
    expect_eq(bf_os_locked(reader), 0);
    expect_eq(bf_os_lock(first), 0);
    expect_eq(bf_os_lock(first), 0);
    expect_eq(bf_os_lock(second), -EAGAIN);
    expect_eq(bf_os_locked(reader), 1);
    expect_eq(bf_os_locked(second), 1);
    expect_eq(bf_os_locked(first), 0); /* one's own lock is in nobody's way */
    bf_os_close(first);
    expect_eq(bf_os_locked(reader), 0);
    expect_eq(bf_os_lock(second), 0);
    expect_eq(bf_os_locked(reader), 1);
}

Test(os, does_not_take_a_readers_lock_for_an_owners)
{
    int fd = bf_os_open(dir, "lock", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600);
    int reader = bf_os_open(dir, "lock", BF_OS_READ, 0);
    int other = bf_os_open(dir, "lock", BF_OS_READ, 0);
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    expect_eq(fcntl(reader, F_OFD_SETLK, &lock), 0);
    expect_eq(bf_os_locked(other), 0);
    expect_eq(bf_os_lock(fd), -EAGAIN);
}

static void hold_lock(void *context)
{
    int fd = bf_os_open(dir, "lock", BF_OS_WRITE, 0);
    if (bf_os_lock(fd) != 0)
        _exit(1);
    store_release((uint32_t *)context, 1);
    for (;;)
        pause();
}

Test(os, sees_the_lock_of_a_killed_process_go)
{
    uint32_t *held = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int fd = bf_os_open(dir, "lock", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600);
    pid_t pid = fixture_child(hold_lock, held);
    expect(eventually(load_acquire(held) == 1));
    expect_eq(bf_os_locked(fd), 1);
    kill(pid, SIGKILL);
    expect(eventually(bf_os_locked(fd) == 0));
    fixture_reap(pid);
    expect_eq(bf_os_lock(fd), 0);
}

/* --- futexes ---------------------------------------------------------------------------------------------------------------- */

Test(os, does_not_sleep_on_a_word_that_has_changed)
{
    uint32_t words[2] = {5, 6};
    struct bf_os_wait waits[] = {{&words[0], 5}, {&words[1], 7}};
    expect_eq(bf_os_wait(waits, 2, INT64_MAX), 0);
}

Test(os, sleeps_until_its_deadline)
{
    uint32_t word = 5;
    struct bf_os_wait wait = {&word, 5};
    int64_t deadline = bf_os_now_ns() + 20000000;
    expect_eq(bf_os_wait(&wait, 1, deadline), -ETIMEDOUT);
    expect(bf_os_now_ns() >= deadline);
    expect_eq(bf_os_wait(&wait, 1, 1), -ETIMEDOUT); /* long ago */
    expect_eq(bf_os_wait(&wait, 1, 0), -ETIMEDOUT);
}

Test(os, waits_on_one_word_at_least_and_128_at_most)
{
    static uint32_t words[BF_OS_WAITS_MAX + 1];
    static struct bf_os_wait waits[BF_OS_WAITS_MAX + 1];
    for (int i = 0; i <= BF_OS_WAITS_MAX; i++)
        waits[i].word = &words[i];
    expect_eq(bf_os_wait(waits, 0, 1), -EINVAL);
    expect_eq(bf_os_wait(waits, BF_OS_WAITS_MAX + 1, 1), -EINVAL);
    expect_eq(bf_os_wait(waits, BF_OS_WAITS_MAX, 1), -ETIMEDOUT);
    words[BF_OS_WAITS_MAX - 1] = 1;
    expect_eq(bf_os_wait(waits, BF_OS_WAITS_MAX, INT64_MAX), 0);
}

static uint32_t shared_words[BF_OS_WAITS_MAX];
static uint32_t woken;

static void *wait_for_last_word(void *argument)
{
    struct bf_os_wait waits[BF_OS_WAITS_MAX];
    (void)argument;
    for (int i = 0; i < BF_OS_WAITS_MAX; i++)
        waits[i] = (struct bf_os_wait){&shared_words[i], 0};
    while (load_acquire(&shared_words[BF_OS_WAITS_MAX - 1]) == 0)
        if (bf_os_wait(waits, BF_OS_WAITS_MAX, bf_os_now_ns() + FIXTURE_PATIENCE_MS * 1000000ll) != 0)
            return (void *)1;
    __atomic_add_fetch(&woken, 1, __ATOMIC_ACQ_REL);
    return NULL;
}

Test(os, wakes_all_who_wait_for_any_of_many_words)
{
    pthread_t threads[4];
    void *found;
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, wait_for_last_word, NULL);
    fixture_pause();
    store_release(&shared_words[BF_OS_WAITS_MAX - 1], 1);
    errno = 77;
    bf_os_wake(&shared_words[BF_OS_WAITS_MAX - 1]);
    expect_eq(errno, 77); /* may be called in a signal handler */
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], &found);
        expect(found == NULL);
    }
    expect_eq(woken, 4);
    bf_os_wake(NULL); /* a bad address harms nobody */
}

static void on_alarm(int number)
{
    (void)number;
}

Test(os, looks_again_when_a_signal_interrupts_a_wait)
{
    uint32_t word = 0;
    struct bf_os_wait wait = {&word, 0};
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval soon = {.it_value.tv_usec = 20000, .it_interval.tv_usec = 20000};
    setitimer(ITIMER_REAL, &soon, NULL);
    expect_eq(bf_os_wait(&wait, 1, bf_os_now_ns() + FIXTURE_PATIENCE_MS * 1000000ll), 0);
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
}

/* --- memory, processors, signals --------------------------------------------------------------------------------------------- */

Test(os, maps_into_a_reserved_range_and_back)
{
    int fd = bf_os_open(dir, "file", BF_OS_READ_WRITE | BF_OS_CREATE_NEW, 0600);
    expect_eq(bf_os_allocate(fd, 0, 8192), 0);
    uint8_t *range = bf_os_reserve(4 * 8192);
    void *map;
    expect(range != NULL);
    expect_eq(bf_os_map(fd, 8192, true, range + 8192, &map), 0);
    expect(map == range + 8192);
    expect_eq(bf_os_populate(map, 8192, true), 0);
    range[8192] = 7;
    void *again;
    expect_eq(bf_os_map(fd, 8192, false, NULL, &again), 0);
    expect_eq(*(uint8_t *)again, 7);
    expect_eq(bf_os_map_none(range + 8192, 8192), 0);
    expect_eq(bf_os_unmap(range, 4 * 8192), 0);
    expect_eq(bf_os_unmap(again, 8192), 0);
    expect(bf_os_reserve(SIZE_MAX / 2) == NULL);
}

static void touch(void *context)
{
    *(volatile char *)context = 1;
}

Test(os, keeps_memory_from_a_forked_child)
{
    void *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    expect_eq(fixture_reap(fixture_child(touch, map)), 0);
    expect_eq(bf_os_no_fork(map, 4096), 0);
    signal(SIGSEGV, SIG_DFL); /* whoever handles it here, the child shall just die */
    int status = fixture_reap(fixture_child(touch, map));
    expect(status != 0);
}

Test(os, counts_the_processors_it_may_use)
{
    uint32_t cpus[1024];
    int count = bf_os_cpus(cpus, 1024);
    expect(count >= 1);
    for (int i = 1; i < count && i < 1024; i++)
        expect(cpus[i] > cpus[i - 1]);
    expect_eq(bf_os_cpus(NULL, 0), count);
    expect_eq(bf_os_pin(cpus[0]), 0);
    expect_eq(bf_os_cpus(cpus, 1024), 1);
    expect(bf_os_pin(1000) < 0);
}

Test(os, blocks_all_signals_but_faults)
{
    sigset_t set;
    bf_os_block_signals();
    sigprocmask(SIG_BLOCK, NULL, &set);
    expect(sigismember(&set, SIGTERM) == 1 && sigismember(&set, SIGINT) == 1 && sigismember(&set, SIGALRM) == 1);
    expect(sigismember(&set, SIGBUS) == 0 && sigismember(&set, SIGSEGV) == 0 && sigismember(&set, SIGABRT) == 0);
}

Test(os, knows_the_limits_that_a_server_needs)
{
    expect(bf_os_map_count_max() > 1000);
    expect(bf_os_file_count_max() > 10);
}

Test(os, polls_an_event_as_readable_until_it_is_cleared)
{
    int fd = bf_os_event();
    struct pollfd at = {.fd = fd, .events = POLLIN};
    expect(fd >= 0);
    expect_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
    expect_eq(poll(&at, 1, 0), 0);
    bf_os_event_clear(fd); /* does not wait */
    for (int i = 0; i < 3; i++)
        bf_os_event_set(fd);
    expect_eq(poll(&at, 1, 0), 1);
    bf_os_event_clear(fd);
    expect_eq(poll(&at, 1, 0), 0);
    eventfd_write(fd, UINT64_MAX - 1); /* full: setting it once more neither waits nor fails */
    bf_os_event_set(fd);
    expect_eq(poll(&at, 1, 0), 1);
    bf_os_close(fd);
}

static bool forbidden;

ssize_t __real_getrandom(void *data, size_t bytes, unsigned how);
ssize_t __wrap_getrandom(void *data, size_t bytes, unsigned how);

ssize_t __wrap_getrandom(void *data, size_t bytes, unsigned how)
{
    if (!forbidden)
        return __real_getrandom(data, bytes, how);
    errno = EPERM;
    return -1;
}

/* A number that nobody has yet is enough. */
Test(os, finds_another_random_number_where_the_kernel_may_not_be_asked)
{
    for (int i = 0; i < 2; i++, forbidden = true) {
        uint64_t number = bf_os_random();
        expect(number != bf_os_random() && number != 0);
    }
}

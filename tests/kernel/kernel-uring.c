/* SPDX-License-Identifier: MIT */
/* Facts about io_uring's futex and multishot operations that a server relies on. One test each. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <unistd.h>

#include <belfry/types.h>

#include "base/order.h"
#include "base/os.h"
#include "expect.h"
#include "fixture.h"
#include "io/compat.h"
#include "io/uring.h"

#define MANY 20000u

static char root[FIXTURE_PATH_BYTES];
static int dir, words_fd;
static uint32_t *words;
static struct bf_uring uring;

static void open_all(void)
{
    fixture_root_make(root);
    dir = bf_os_open_dir(BF_OS_CWD, root);
    words_fd = bf_os_open(dir, "words", BF_OS_READ_WRITE | BF_OS_CREATE_NEW, 0600);
    expect_eq(bf_os_size(words_fd, MANY * 64), 0);
    words = mmap(NULL, MANY * 64, PROT_READ | PROT_WRITE, MAP_SHARED, words_fd, 0);
    expect(words != MAP_FAILED);
    expect_rc(bf_uring_open(&uring, 256, 32768), 0);
}

static void close_all(void)
{
    bf_uring_close(&uring);
    bf_os_close(words_fd);
    bf_os_close(dir);
    fixture_remove_tree(root);
}

TestSuite(kernel_uring, .init = open_all, .fini = close_all, .timeout = 60);

static uint32_t *word(uint32_t i)
{
    return &words[i * 16];
}

static void wait_for(uint32_t i, uint32_t value, uint64_t tag)
{
    struct io_uring_sqe *sqe = bf_uring_entry(&uring);
    compat_prep_futex_wait(sqe, word(i), value);
    sqe->user_data = tag;
}

/* The next completion within `ms`; its result, or 1 when there is none. */
static int next(int ms, uint64_t *tag)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec timeout = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000ll};
    bf_uring_submit(&uring);
    if (io_uring_wait_cqe_timeout(&uring.ring, &cqe, &timeout) != 0)
        return 1;
    int result = cqe->res;
    if (tag != NULL)
        *tag = cqe->user_data;
    io_uring_cqe_seen(&uring.ring, cqe);
    return result;
}

Test(kernel_uring, completes_a_wait_at_once_when_the_word_has_changed)
{
    wait_for(0, 1, 7);
    expect_eq(next(FIXTURE_PATIENCE_MS, NULL), -EAGAIN);
}

Test(kernel_uring, completes_a_wait_when_the_word_is_woken_though_it_has_not_changed)
{
    wait_for(0, 0, 7);
    expect_eq(next(10, NULL), 1);
    bf_os_wake(word(0));
    expect_eq(next(FIXTURE_PATIENCE_MS, NULL), 0);
}

Test(kernel_uring, wakes_waiters_of_one_uring_from_another)
{
    struct bf_uring other;
    expect_rc(bf_uring_open(&other, 8, 64), 0);
    wait_for(0, 0, 7);
    expect_eq(next(10, NULL), 1);
    struct io_uring_sqe *sqe = bf_uring_entry(&other);
    compat_prep_futex_wake(sqe, word(0), INT32_MAX);
    bf_uring_submit(&other);
    expect_eq(next(FIXTURE_PATIENCE_MS, NULL), 0);
    bf_uring_close(&other);
}

Test(kernel_uring, says_nothing_when_the_file_under_a_wait_is_truncated_and_refuses_the_next)
{
    wait_for(0, 0, 7);
    expect_eq(next(10, NULL), 1);
    expect_eq(ftruncate(words_fd, 0), 0);
    expect_eq(next(50, NULL), 1);
    uint64_t tag;
    wait_for(0, 0, 8);
    expect_eq(next(FIXTURE_PATIENCE_MS, &tag), -EFAULT);
    expect_eq(tag, 8);
}

Test(kernel_uring, cancels_a_wait_by_its_tag)
{
    uint64_t tag;
    wait_for(0, 0, 7);
    wait_for(0, 0, 8);
    struct io_uring_sqe *sqe = bf_uring_entry(&uring);
    io_uring_prep_cancel64(sqe, 8, 0);
    sqe->user_data = 9;
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    expect_eq(next(FIXTURE_PATIENCE_MS, &tag), -ECANCELED);
    expect_eq(tag, 8);
    expect_eq(next(10, NULL), 1); /* the cancellation was skipped, the other still waits */
}

Test(kernel_uring, keeps_twenty_thousand_waits)
{
    static uint8_t seen[MANY];
    for (uint32_t i = 0; i < MANY; i++)
        wait_for(i, 0, i);
    expect_eq(next(10, NULL), 1);
    for (uint32_t i = 0; i < MANY; i++) {
        store_release(word(i), 1);
        bf_os_wake(word(i));
    }
    for (uint32_t i = 0; i < MANY; i++) {
        uint64_t tag;
        expect_eq(next(FIXTURE_PATIENCE_MS, &tag), 0);
        expect(tag < MANY && seen[tag]++ == 0);
    }
    expect_eq(next(10, NULL), 1);
}

static void read_events(int fd)
{
    struct io_uring_sqe *sqe = bf_uring_entry(&uring);
    compat_prep_read_multishot(sqe, fd, URING_BUFFER_GROUP);
    sqe->user_data = 5;
    bf_uring_submit(&uring);
}

Test(kernel_uring, reads_a_non_blocking_inotify_descriptor_again_and_again)
{
    int fd = bf_os_inotify();
    expect(bf_os_inotify_add(fd, root, IN_CREATE) >= 0);
    read_events(fd);
    for (int i = 0; i < 3; i++) {
        struct io_uring_cqe *cqe;
        struct __kernel_timespec timeout = {.tv_sec = FIXTURE_PATIENCE_MS / 1000};
        char name[2] = {(char)('a' + i), '\0'};
        bf_os_close(bf_os_open(dir, name, BF_OS_WRITE | BF_OS_CREATE_NEW, 0600));
        expect_eq(io_uring_wait_cqe_timeout(&uring.ring, &cqe, &timeout), 0);
        expect_eq(cqe->res, sizeof(struct inotify_event) + 16);
        expect((cqe->flags & IORING_CQE_F_MORE) && (cqe->flags & IORING_CQE_F_BUFFER));
        uint16_t id = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
        const struct inotify_event *event = (const struct inotify_event *)(const void *)uring_buffer(&uring, id);
        expect_text(event->name, name);
        io_uring_cqe_seen(&uring.ring, cqe);
        bf_uring_return_buffer(&uring, id);
    }
    close(fd);
}

Test(kernel_uring, does_not_need_a_thread_for_it)
{
    int fd = bf_os_inotify();
    expect(bf_os_inotify_add(fd, root, IN_CREATE) >= 0);
    int threads = fixture_count_files("/proc/self/task", "");
    read_events(fd);
    expect_eq(next(10, NULL), 1);
    expect_eq(fixture_count_files("/proc/self/task", ""), threads);
    close(fd);
}

/* --- polled by another loop --------------------------------------------------------------------------------------------- */

static void *wake_first_word(void *argument)
{
    (void)argument;
    fixture_pause();
    bf_os_wake(word(0));
    return NULL;
}

/* Poll a descriptor that somebody sleeps on while a wait completes. */
static int polled(int fd, int ms)
{
    pthread_t thread;
    struct epoll_event event = {.events = EPOLLIN};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    expect_eq(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
    expect_eq(epoll_wait(epoll, &event, 1, 0), 0);
    wait_for(0, 0, 7);
    bf_uring_submit(&uring);
    expect_eq(pthread_create(&thread, NULL, wake_first_word, NULL), 0);
    int count = epoll_wait(epoll, &event, 1, ms);
    pthread_join(thread, NULL);
    bf_os_close(epoll);
    return count;
}

/* Why a shard has an event for a foreign loop: the uring's own descriptor may not wake who sleeps on it (as of 6.18 it does
   not), because work that is deferred to its thread is no completion yet. */
Test(kernel_uring, sets_a_registered_event_when_there_is_work_for_its_thread)
{
    int event = bf_os_event();
    struct pollfd at = {.fd = event, .events = POLLIN};
    expect_eq(io_uring_register_eventfd(&uring.ring, event), 0);
    expect_eq(polled(event, FIXTURE_PATIENCE_MS), 1);
    bf_os_event_clear(event);
    expect_eq(poll(&at, 1, 0), 0);
    expect(uring_has_completions(&uring)); /* the event is cleared, and this still tells */
    expect_eq(io_uring_cq_ready(&uring.ring), 0);
    expect_eq(next(0, NULL), 0);
    expect_eq(poll(&at, 1, 0), 1); /* taking it in sets the event once more */
    bf_os_event_clear(event);
    expect(!uring_has_completions(&uring));
    bf_os_close(event);
}

Test(kernel_uring, says_that_it_is_readable_when_it_is_asked_but_may_not_wake_who_sleeps_on_it)
{
    struct pollfd at = {.fd = uring.ring.ring_fd, .events = POLLIN};
    int woken = polled(uring.ring.ring_fd, 300);
    expect(woken == 0 || woken == 1);
    cr_log_info("the uring's own descriptor: %s", woken == 1 ? "wakes" : "does not wake");
    expect(eventually(poll(&at, 1, 0) == 1));
    expect_eq(next(0, NULL), 0);
    expect_eq(poll(&at, 1, 0), 0);
}

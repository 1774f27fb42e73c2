/* SPDX-License-Identifier: MIT */
/*
 * Tests of io/reactor.c against the real kernel: what is asked, and which event comes back.
 *
 * The words that are waited on lie in a file on tmpfs, as they do in a server: futexes that two maps share.
 */
#include "io/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <belfry/types.h>

#include "base/order.h"
#include "base/os.h"
#include "expect.h"
#include "fixture.h"

#define MANY 2000u
#define SECOND_NS 1000000000ll

struct scene {
    char root[FIXTURE_PATH_BYTES];
    char locks[FIXTURE_PATH_BYTES + 16];
    char service[FIXTURE_PATH_BYTES + 16];
    struct bf_reactor reactor;
    uint32_t *words;             /* writable */
    const uint32_t *words_again; /* the same file, read-only */
    int words_fd;
};

static struct scene scene;

static void open_scene(void)
{
    char path[FIXTURE_PATH_BYTES + 32];
    fixture_root_make(scene.root);
    snprintf(scene.locks, sizeof scene.locks, "%s/locks", scene.root);
    snprintf(scene.service, sizeof scene.service, "%s/service", scene.root);
    expect_eq(mkdir(scene.locks, 0700), 0);
    expect_eq(mkdir(scene.service, 0700), 0);
    expect_rc(bf_reactor_open(&scene.reactor, MANY, scene.locks, scene.service), 0);

    snprintf(path, sizeof path, "%s/words", scene.root);
    scene.words_fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    expect_eq(ftruncate(scene.words_fd, MANY * 64), 0);
    scene.words = mmap(NULL, MANY * 64, PROT_READ | PROT_WRITE, MAP_SHARED, scene.words_fd, 0);
    scene.words_again = mmap(NULL, MANY * 64, PROT_READ, MAP_SHARED, scene.words_fd, 0);
    expect(scene.words != MAP_FAILED && scene.words_again != MAP_FAILED);
}

static void close_scene(void)
{
    bf_reactor_close(&scene.reactor);
    close(scene.words_fd);
    fixture_remove_tree(scene.root);
}

static uint32_t *word(unsigned i)
{
    return &scene.words[i * 16];
}

/* The next event, sleeping for it until patience is over. */
static struct bf_event next_event(void)
{
    struct bf_event event = {0};
    int64_t until = fixture_now_ms() + FIXTURE_PATIENCE_MS;
    bf_reactor_submit(&scene.reactor);
    while (!bf_reactor_next(&scene.reactor, &event)) {
        if (fixture_now_ms() > until)
            expect_failed("no event came");
        bf_reactor_sleep(&scene.reactor, SECOND_NS);
    }
    return event;
}

static void expect_no_event(void)
{
    struct bf_event event;
    bf_reactor_submit(&scene.reactor);
    bf_reactor_sleep(&scene.reactor, 20000000);
    expect(!bf_reactor_next(&scene.reactor, &event));
}

static void expect_file(const char *name)
{
    struct bf_event event = next_event();
    expect_eq(event.kind, BF_EVENT_FILE);
    expect_text(event.name, name);
}

static void make_file(const char *directory, const char *name)
{
    char path[2 * FIXTURE_PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    expect(fd >= 0);
    close(fd);
}

TestSuite(reactor, .init = open_scene, .fini = close_scene, .timeout = 120);

/* --- bells --------------------------------------------------------------------------------------------------------- */

Test(reactor, tells_which_slot_was_rung)
{
    bf_reactor_wait_bell(&scene.reactor, word(0), 0, 0xabcdef, 0x1fffffff);
    expect_no_event();
    store_release(word(0), 1);
    bf_os_wake(word(0));
    struct bf_event event = next_event();
    expect_eq(event.kind, BF_EVENT_BELL);
    expect_eq(event.slot, 0xabcdef);
    expect_eq(event.generation, 0x1fffffff);
    expect_eq(event.result, 0);
    expect_no_event();
}

Test(reactor, hears_a_ring_through_a_read_only_map)
{
    bf_reactor_wait_bell(&scene.reactor, scene.words_again, 0, 1, 2);
    bf_reactor_submit(&scene.reactor);
    store_release(word(0), 1);
    bf_os_wake(word(0));
    expect_eq(next_event().result, 0);
}

Test(reactor, completes_at_once_when_the_word_has_changed_already)
{
    store_release(word(3), 7);
    bf_reactor_wait_bell(&scene.reactor, word(3), 6, 3, 1);
    struct bf_event event = next_event();
    expect_eq(event.kind, BF_EVENT_BELL);
    expect_eq(event.slot, 3);
    expect_eq(event.result, -EAGAIN);
}

Test(reactor, completes_a_cancelled_wait_once_and_as_cancelled)
{
    bf_reactor_wait_bell(&scene.reactor, word(0), 0, 5, 9);
    bf_reactor_wait_bell(&scene.reactor, word(1), 0, 5, 10);
    expect_no_event();
    bf_reactor_cancel_bell(&scene.reactor, 5, 9);
    struct bf_event event = next_event();
    expect_eq(event.kind, BF_EVENT_BELL);
    expect_eq(event.slot, 5);
    expect_eq(event.generation, 9);
    expect_eq(event.result, -ECANCELED);
    expect_no_event(); /* neither the cancellation itself nor the other generation's wait */
    bf_reactor_cancel_bell(&scene.reactor, 5, 10);
    expect_eq(next_event().generation, 10);
}

Test(reactor, drops_the_cancellation_of_what_is_over)
{
    bf_reactor_cancel_bell(&scene.reactor, 5, 9);
    bf_reactor_cancel_mailbox(&scene.reactor);
    expect_no_event();
    bf_reactor_wait_bell(&scene.reactor, word(0), 1, 5, 9); /* over at once: the word is 0 */
    bf_reactor_cancel_bell(&scene.reactor, 5, 9);
    expect_eq(next_event().result, -EAGAIN);
    expect_no_event();
}

Test(reactor, can_cancel_a_wait_that_was_not_yet_submitted)
{
    bf_reactor_wait_bell(&scene.reactor, word(0), 0, 5, 9);
    bf_reactor_cancel_bell(&scene.reactor, 5, 9);
    expect_eq(next_event().result, -ECANCELED);
}

Test(reactor, tells_that_the_segment_under_a_wait_is_gone)
{
    expect_eq(ftruncate(scene.words_fd, 0), 0);
    bf_reactor_wait_bell(&scene.reactor, word(0), 0, 4, 4);
    struct bf_event event = next_event();
    expect_eq(event.kind, BF_EVENT_BELL);
    expect_eq(event.result, -EFAULT);
}

Test(reactor, hears_its_mailbox)
{
    bf_reactor_wait_mailbox(&scene.reactor, word(0), 0);
    expect_no_event();
    store_release(word(0), 1);
    bf_os_wake(word(0));
    expect_eq(next_event().kind, BF_EVENT_MAILBOX);
    bf_reactor_wait_mailbox(&scene.reactor, word(0), 1);
    expect_no_event();
    bf_reactor_cancel_mailbox(&scene.reactor);
    struct bf_event event = next_event();
    expect_eq(event.kind, BF_EVENT_MAILBOX);
    expect_eq(event.result, -ECANCELED);
}

/* --- wakes --------------------------------------------------------------------------------------------------------- */

#define SLEEPERS 8

static uint32_t sleepers_ready;

static void *sleep_on_word(void *argument)
{
    const struct bf_os_wait wait = {.word = argument, .value = 0};
    __atomic_add_fetch(&sleepers_ready, 1, __ATOMIC_ACQ_REL);
    while (load_acquire((const uint32_t *)argument) == 0)
        bf_os_wait(&wait, 1, bf_os_now_ns() + FIXTURE_PATIENCE_MS * 1000000ll);
    return NULL;
}

/* The word is changed before the sleepers have slept: they are woken or turned away, and all come back long before the
   deadline of their wait, which is what a lost wake would look like. */
Test(reactor, wakes_all_who_sleep_through_a_read_only_map)
{
    pthread_t sleepers[SLEEPERS];
    for (int i = 0; i < SLEEPERS; i++)
        expect_eq(pthread_create(&sleepers[i], NULL, sleep_on_word, (void *)scene.words_again), 0);
    expect(eventually(load_acquire(&sleepers_ready) == SLEEPERS));
    fixture_pause(); /* most of them sleep by now */
    int64_t start = fixture_now_ms();
    store_release(word(0), 1);
    bf_reactor_wake(&scene.reactor, word(0));
    bf_reactor_submit(&scene.reactor);
    for (int i = 0; i < SLEEPERS; i++)
        pthread_join(sleepers[i], NULL);
    expect(fixture_now_ms() - start < FIXTURE_PATIENCE_MS / 2);
    expect_no_event(); /* a wake is not an event */
}

static void sleep_in_child(void *context)
{
    sleep_on_word(context);
}

Test(reactor, wakes_a_sleeper_of_another_process)
{
    pid_t pid = fixture_child(sleep_in_child, (void *)scene.words_again);
    fixture_pause();
    store_release(word(0), 1);
    bf_reactor_wake(&scene.reactor, word(0));
    bf_reactor_submit(&scene.reactor);
    int64_t start = fixture_now_ms();
    expect_eq(fixture_reap(pid), 0);
    expect(fixture_now_ms() - start < FIXTURE_PATIENCE_MS / 2);
}

Test(reactor, drops_the_wake_of_a_word_that_is_gone)
{
    void *gone = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(gone, 4096);
    bf_reactor_wake(&scene.reactor, gone);
    expect_no_event();
}

/* --- files --------------------------------------------------------------------------------------------------------- */

Test(reactor, tells_what_happens_to_lock_files)
{
    char path[FIXTURE_PATH_BYTES + 64];
    snprintf(path, sizeof path, "%s/slot_12.lock", scene.locks);
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
    expect_file("slot_12.lock"); /* created */
    expect_no_event();
    close(fd);
    expect_file("slot_12.lock"); /* closed */
    unlink(path);
    expect_file("slot_12.lock"); /* deleted */
    expect_no_event();
}

Test(reactor, keeps_the_order_of_files)
{
    char name[32];
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "slot_%d.lock", i);
        make_file(scene.locks, name);
        if (i % 100 == 99)
            bf_reactor_submit(&scene.reactor);
    }
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "slot_%d.lock", i);
        expect_file(name);
        expect_file(name);
    }
    expect_no_event();
}

Test(reactor, tells_the_service_directory_from_the_locks)
{
    make_file(scene.service, "current");
    expect_eq(next_event().kind, BF_EVENT_SERVICE);
    make_file(scene.locks, "slot_0.lock");
    expect_eq(next_event().kind, BF_EVENT_FILE);
}

Test(reactor, tells_that_the_lock_directory_is_gone)
{
    expect_eq(rmdir(scene.locks), 0);
    expect_eq(next_event().kind, BF_EVENT_GONE);
}

/* Many more events than all of the buffers hold, in one go: the read runs out of buffers and is armed again. */
Test(reactor, reads_on_when_the_buffers_ran_out)
{
    char name[48];
    int seen = 0;
    for (int i = 0; i < 6000; i++) {
        snprintf(name, sizeof name, "slot_%d-with-a-name-of-some-length", i);
        make_file(scene.locks, name);
    }
    while (seen < 12000) {
        struct bf_event event = next_event();
        expect_eq(event.kind, BF_EVENT_FILE);
        seen++;
    }
    make_file(scene.locks, "last");
    expect_file("last");
}

static int queue_limit(void)
{
    int limit = 0;
    FILE *file = fopen("/proc/sys/fs/inotify/max_queued_events", "r");
    expect(file != NULL && fscanf(file, "%d", &limit) == 1);
    fclose(file);
    return limit;
}

Test(reactor, asks_for_a_rescan_when_the_queue_has_overflowed)
{
    int limit = queue_limit();
    if (limit > 200000)
        cr_skip_test("fs.inotify.max_queued_events is %d: flooding it would take too long", limit);
    char path[FIXTURE_PATH_BYTES + 64];
    snprintf(path, sizeof path, "%s/slot_0.lock", scene.locks);
    /* Identical neighbours are merged, so two names take turns; nothing is read meanwhile. */
    for (int i = 0; i <= limit; i++) {
        make_file(scene.locks, "slot_0.lock");
        unlink(path);
    }
    bool rescan = false;
    int files = 0;
    for (int i = 0; i < 4 * limit && !rescan; i++) {
        struct bf_event event = next_event();
        rescan = event.kind == BF_EVENT_RESCAN;
        files += event.kind == BF_EVENT_FILE;
    }
    expect(rescan);
    expect(files > 0);
    make_file(scene.locks, "slot_9.lock"); /* and it goes on */
    struct bf_event event;
    do
        event = next_event();
    while (event.kind == BF_EVENT_FILE && strcmp(event.name, "slot_9.lock") != 0);
    expect_eq(event.kind, BF_EVENT_FILE);
}

/* --- many ---------------------------------------------------------------------------------------------------------- */

Test(reactor, keeps_two_thousand_waits_and_completes_each_once)
{
    static uint8_t seen[MANY];
    for (uint32_t i = 0; i < MANY; i++)
        bf_reactor_wait_bell(&scene.reactor, word(i), 0, i, i + 1);
    expect_no_event();
    for (uint32_t i = 0; i < MANY; i++) {
        store_release(word(i), 1);
        bf_os_wake(word(i));
    }
    for (uint32_t i = 0; i < MANY; i++) {
        struct bf_event event = next_event();
        expect_eq(event.kind, BF_EVENT_BELL);
        expect(event.slot < MANY);
        expect_eq(event.generation, event.slot + 1);
        expect_eq(event.result, 0);
        expect_eq(seen[event.slot]++, 0);
    }
    expect_no_event();
}

Test(reactor, cancels_two_thousand_waits)
{
    for (uint32_t i = 0; i < MANY; i++)
        bf_reactor_wait_bell(&scene.reactor, word(i), 0, i, 1);
    bf_reactor_submit(&scene.reactor);
    for (uint32_t i = 0; i < MANY; i++)
        bf_reactor_cancel_bell(&scene.reactor, i, 1);
    for (uint32_t i = 0; i < MANY; i++)
        expect_eq(next_event().result, -ECANCELED);
    expect_no_event();
}

/* --- sleep ------------------------------------------------------------------------------------------------- */

Test(reactor, sleeps_no_longer_than_it_was_told)
{
    int64_t start = bf_os_now_ns();
    bf_reactor_sleep(&scene.reactor, 30000000);
    int64_t slept = bf_os_now_ns() - start;
    expect(slept >= 29000000);
    expect(slept < 10 * SECOND_NS);
    bf_reactor_sleep(&scene.reactor, 0); /* does not sleep */
}

Test(reactor, sleeps_not_at_all_when_something_is_there)
{
    store_release(word(0), 1);
    bf_reactor_wait_bell(&scene.reactor, word(0), 0, 1, 1);
    int64_t start = fixture_now_ms();
    bf_reactor_sleep(&scene.reactor, -1); /* submits, too; without a limit */
    expect(fixture_now_ms() - start < FIXTURE_PATIENCE_MS);
    struct bf_event event;
    expect(bf_reactor_next(&scene.reactor, &event));
}

/* --- sleep elsewhere ------------------------------------------------------------------------------------------------ */

static bool event_is_set(int event, int ms)
{
    struct pollfd at = {.fd = event, .events = POLLIN};
    return poll(&at, 1, ms) == 1;
}

Test(reactor, sets_its_event_when_something_comes_and_not_before)
{
    struct bf_event event;
    int fd = bf_os_event();
    expect_rc(bf_reactor_tell(&scene.reactor, fd), 0);
    bf_os_event_set(fd);
    expect(bf_reactor_doze(&scene.reactor, fd, -1)); /* and submits the watch */
    expect(!event_is_set(fd, 0));
    bf_reactor_wait_bell(&scene.reactor, word(0), 0, 1, 1);
    expect(bf_reactor_doze(&scene.reactor, fd, -1));
    for (int round = 0; round < 100; round++) {
        expect(!event_is_set(fd, 0));
        bf_os_wake(word(0));
        expect(event_is_set(fd, FIXTURE_PATIENCE_MS));
        expect(!bf_reactor_doze(&scene.reactor, fd, -1)); /* it has cleared the event, and says so */
        expect(bf_reactor_next(&scene.reactor, &event));
        expect_eq(event.kind, BF_EVENT_BELL);
        bf_reactor_wait_bell(&scene.reactor, word(0), 0, 1, 1);
        expect(bf_reactor_doze(&scene.reactor, fd, -1));
    }
    make_file(scene.locks, "slot_1.lock");
    expect(event_is_set(fd, FIXTURE_PATIENCE_MS));
    expect_file("slot_1.lock"); /* made; that it was closed is another event */
    bf_reactor_cancel_bell(&scene.reactor, 1, 1);
    do
        event = next_event();
    while (event.kind == BF_EVENT_FILE);
    expect_eq(event.kind, BF_EVENT_BELL);
    expect_eq(event.result, -ECANCELED);
    bf_os_close(fd);
}

/* In whatever order they are asked for, the earliest counts; none of them is an event. */
Test(reactor, sets_its_event_when_its_time_is_up)
{
    static const int64_t limits_ms[][2] = {{30, -1}, {3600000, 30}, {30, 3600000}};
    int fd = bf_os_event();
    expect_rc(bf_reactor_tell(&scene.reactor, fd), 0);
    for (int i = 0; i < 3; i++) {
        int64_t start = bf_os_now_ns();
        for (int each = 0; each < 2; each++) {
            int64_t ms = limits_ms[i][each];
            expect(bf_reactor_doze(&scene.reactor, fd, ms < 0 ? -1 : ms * 1000000));
        }
        expect(event_is_set(fd, FIXTURE_PATIENCE_MS));
        expect(bf_os_now_ns() - start >= 29000000);
        struct bf_event event;
        expect(!bf_reactor_next(&scene.reactor, &event));
    }
    bf_os_close(fd);
}

/* --- opening --------------------------------------------------------------------------------------------------------- */

Test(reactor, leaves_nothing_open_when_it_cannot_watch)
{
    struct bf_reactor other;
    char missing[FIXTURE_PATH_BYTES + 16];
    snprintf(missing, sizeof missing, "%s/missing", scene.root);
    int before = fixture_count_fds();
    expect_eq(bf_reactor_open(&other, 8, missing, scene.service), -ENOENT);
    expect_eq(bf_reactor_open(&other, 8, scene.locks, missing), -ENOENT);
    expect_eq(fixture_count_fds(), before);
}

/* --- operations of others ---------------------------------------------------------------------------------------------- */

Test(reactor, tells_an_owner_of_each_completion)
{
    struct io_uring_sqe sqes[2];
    int mine, yours;
    void *owners[2] = {&mine, &yours};
    io_uring_prep_nop(&sqes[0]);
    io_uring_prep_read(&sqes[1], -1, &mine, sizeof mine, 0);
    sqes[0].flags |= IOSQE_IO_LINK;
    sqes[0].user_data = sqes[1].user_data = UINT64_MAX;
    expect_rc(bf_reactor_start(&scene.reactor, owners, sqes, 2), 0);
    struct bf_event event = next_event();
    expect_eq(event.kind, BF_EVENT_OWNED);
    expect(event.owner == &mine && event.result == 0 && !event.more);
    event = next_event();
    expect_eq(event.kind, BF_EVENT_OWNED);
    expect(event.owner == &yours && event.result == -EBADF);
}

Test(reactor, starts_all_of_a_chain_or_nothing)
{
    struct io_uring_sqe sqes[2];
    int mine, yours;
    void *owners[2] = {&mine, &yours};
    struct bf_event event;
    io_uring_prep_nop(&sqes[0]);
    io_uring_prep_nop(&sqes[1]);
    sqes[0].flags |= IOSQE_IO_LINK;
    sqes[1].flags |= IOSQE_IO_DRAIN;
    expect_rc(bf_reactor_start(&scene.reactor, owners, sqes, 2), BELFRY_EOPTION);
    bf_reactor_submit(&scene.reactor);
    expect(!bf_reactor_next(&scene.reactor, &event));
    sqes[1].flags = IOSQE_BUFFER_SELECT;
    sqes[1].buf_group = URING_BUFFER_GROUP;
    expect_rc(bf_reactor_start(&scene.reactor, owners, sqes, 2), BELFRY_EOPTION);
    expect_in(belfry_last_error(), "buffer group");
}

Test(reactor, cancels_for_an_owner)
{
    struct io_uring_sqe sqe;
    int mine, pipes[2];
    void *owners[1] = {&mine};
    expect_eq(pipe2(pipes, O_CLOEXEC), 0);
    io_uring_prep_poll_multishot(&sqe, pipes[0], POLLIN);
    expect_rc(bf_reactor_start(&scene.reactor, owners, &sqe, 1), 0);
    expect_eq(write(pipes[1], "x", 1), 1);
    struct bf_event event = next_event();
    expect(event.owner == &mine && event.more && (event.result & POLLIN) != 0);
    bf_reactor_cancel_owned(&scene.reactor, &mine);
    event = next_event();
    expect(event.owner == &mine && !event.more);
    expect_eq(event.result, -ECANCELED);
    close(pipes[0]);
    close(pipes[1]);
}

/* The part of a page at either end, too. */
Test(reactor, has_the_kernel_give_pages_to_memory)
{
    enum { PAGES = 16, PAGE = 4096 };
    unsigned char there[PAGES];
    uint8_t *map = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int mine;
    madvise(map, PAGES * PAGE, MADV_NOHUGEPAGE); /* no more than was asked for */
    bf_reactor_populate(&scene.reactor, &mine, map + 2 * PAGE - 1, (PAGES - 4) * PAGE + 2);
    struct bf_event event = next_event();
    expect_eq(event.kind, BF_EVENT_OWNED);
    expect(event.owner == &mine && event.result == 0 && !event.more);
    expect_eq(mincore(map, PAGES * PAGE, there), 0);
    for (int i = 0; i < PAGES; i++)
        expect_eq(there[i] & 1, i > 0 && i < PAGES - 1);
    munmap(map, PAGES * PAGE);
    bf_reactor_populate(&scene.reactor, &mine, map, PAGE);
    event = next_event();
    expect(event.owner == &mine && event.result == -ENOMEM);
}

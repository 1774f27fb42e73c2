/* SPDX-License-Identifier: MIT */
/*
 * Tests of base/fault.c: each in a process of its own, which installs handlers for SIGBUS in some order, faults, and says by
 * its exit status or its death what became of it. "Ours" are faults in the first of two truncated files.
 */
#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/os.h"
#include "expect.h"
#include "fixture.h"

#define PAGE 4096
#define CHECK(condition)                                            \
    do {                                                            \
        if (!(condition)) {                                         \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
            _exit(1);                                               \
        }                                                           \
    } while (0)

TestSuite(fault, .timeout = 60);

/* --- in the child ---------------------------------------------------------------------------------------------------- */

static uint8_t *ours, *theirs; /* a page each, of a file without one */
static volatile unsigned asked, called;
static sigjmp_buf back;
static struct sigaction found;

static uint8_t *page_without_a_file(void)
{
    char path[FIXTURE_PATH_BYTES];
    snprintf(path, sizeof path, "%s/cut-XXXXXX", getenv("BELFRY_ROOT"));
    int fd = mkstemp(path);
    CHECK(fd >= 0 && unlink(path) == 0);
    uint8_t *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED);
    close(fd);
    return at;
}

static bool repair(void *address)
{
    asked++;
    errno = EXDEV;
    return (uint8_t *)address == ours + 5 && bf_os_map_zeros(ours, PAGE, true) == 0;
}

static bool repair_nothing(void *address)
{
    (void)address;
    return false;
}

static void touch(uint8_t *at)
{
    *(volatile uint8_t *)at = 7;
}

static void handler_with_info(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (number == SIGBUS && info->si_addr == theirs)
        called++;
    siglongjmp(back, 1);
}

static void plain_handler(int number)
{
    called += number == SIGBUS;
    siglongjmp(back, 1);
}

static void handler_that_chains(int number, siginfo_t *info, void *context)
{
    if (info->si_addr != theirs) {
        found.sa_sigaction(number, info, context);
        return;
    }
    called++;
    siglongjmp(back, 1);
}

static void set_action(struct sigaction action)
{
    sigemptyset(&action.sa_mask);
    CHECK(sigaction(SIGBUS, &action, &found) == 0);
}

static void set_plain(void (*handler)(int), int flags)
{
    set_action((struct sigaction){.sa_handler = handler, .sa_flags = flags});
}

/* The host's handler hears of the host's fault, and of nothing else; what is ours is repaired and goes on. */
static void check_both(void)
{
    errno = ENOTTY;
    touch(ours + 5);
    CHECK(ours[5] == 7 && called == 0 && errno == ENOTTY);
    if (sigsetjmp(back, 1) == 0) {
        touch(theirs);
        CHECK(!"the access succeeded");
    }
    CHECK(called == 1);
}

static void begin_child(void)
{
    prctl(PR_SET_DUMPABLE, 0);
    signal(SIGBUS, SIG_DFL); /* a sanitizer has a handler */
    ours = page_without_a_file();
    theirs = page_without_a_file();
}

/* --- what becomes of it ---------------------------------------------------------------------------------------------- */

static int status_of(void (*body)(void *context))
{
    char root[FIXTURE_PATH_BYTES];
    fixture_root_make(root);
    int status = fixture_reap(fixture_child(body, NULL));
    fixture_remove_tree(root);
    return status;
}

static void expect_good_end(void (*body)(void *context))
{
    expect_eq(status_of(body), 0);
}

static void expect_death_by_sigbus(void (*body)(void *context))
{
    int status = status_of(body);
    expect(WIFSIGNALED(status));
    expect_eq(WTERMSIG(status), SIGBUS);
}

/* --- a host with a handler ------------------------------------------------------------------------------------------- */

static void host_before(void *context)
{
    (void)context;
    begin_child();
    set_action((struct sigaction){.sa_sigaction = handler_with_info, .sa_flags = SA_SIGINFO});
    CHECK(bf_fault_catch(repair) == BF_FAULT_OURS);
    check_both();
    CHECK(asked == 2);
}

Test(fault, passes_on_to_the_handler_that_was_there_before)
{
    expect_good_end(host_before);
}

static void plain_host_before(void *context)
{
    (void)context;
    begin_child();
    set_plain(plain_handler, 0);
    CHECK(bf_fault_catch(repair) == BF_FAULT_OURS);
    check_both();
}

Test(fault, passes_on_to_a_handler_without_information)
{
    expect_good_end(plain_host_before);
}

static void host_after(void *context)
{
    (void)context;
    begin_child();
    CHECK(bf_fault_catch(repair) == BF_FAULT_OURS);
    set_action((struct sigaction){.sa_sigaction = handler_that_chains, .sa_flags = SA_SIGINFO});
    check_both();
    CHECK(asked == 1);
}

Test(fault, is_reached_through_a_handler_that_came_later)
{
    expect_good_end(host_after);
}

static void asked_again(void *context)
{
    (void)context;
    begin_child();
    CHECK(bf_fault_catch(repair) == BF_FAULT_OURS);
    CHECK(bf_fault_catch(repair) == BF_FAULT_OURS);
    set_action((struct sigaction){.sa_sigaction = handler_that_chains, .sa_flags = SA_SIGINFO});
    CHECK(bf_fault_catch(repair) == BF_FAULT_ANOTHERS);
    struct sigaction front;
    CHECK(sigaction(SIGBUS, NULL, &front) == 0 && front.sa_sigaction == handler_that_chains);
    check_both();
    signal(SIGBUS, SIG_DFL);
    CHECK(bf_fault_catch(repair) == BF_FAULT_NOBODYS);
}

Test(fault, is_caught_once_and_says_who_is_in_front)
{
    expect_good_end(asked_again);
}

static void masked_host(void *context)
{
    (void)context;
    begin_child();
    struct sigaction action = {.sa_sigaction = handler_with_info, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGUSR1);
    CHECK(sigaction(SIGBUS, &action, NULL) == 0);
    CHECK(bf_fault_catch(repair) == BF_FAULT_OURS);
    if (sigsetjmp(back, 0) == 0) /* what the handler had blocked stays blocked */
        touch(theirs);
    sigset_t set;
    pthread_sigmask(SIG_BLOCK, NULL, &set);
    CHECK(called == 1 && sigismember(&set, SIGUSR1) == 1 && sigismember(&set, SIGBUS) == 0);
    if (sigsetjmp(back, 0) == 0)
        touch(theirs);
    CHECK(called == 2);
}

Test(fault, gives_the_handler_before_the_mask_that_it_asked_for)
{
    expect_good_end(masked_host);
}

static void host_once(void *context)
{
    (void)context;
    begin_child();
    set_plain(plain_handler, SA_RESETHAND);
    CHECK(bf_fault_catch(repair) == BF_FAULT_OURS);
    check_both();
    touch(theirs);
    _exit(2);
}

Test(fault, calls_a_handler_once_that_wanted_to_be_called_once)
{
    expect_death_by_sigbus(host_once);
}

/* --- a host without one ---------------------------------------------------------------------------------------------- */

static void nobody(void *context)
{
    (void)context;
    begin_child();
    CHECK(bf_fault_catch(repair) == BF_FAULT_OURS);
    touch(ours + 5);
    touch(theirs);
    _exit(2);
}

Test(fault, of_nobody_ends_the_process)
{
    expect_death_by_sigbus(nobody);
}

static void sent(void *context)
{
    (void)context;
    begin_child();
    CHECK(bf_fault_catch(repair) == BF_FAULT_OURS);
    kill(getpid(), SIGBUS);
    _exit(2);
}

Test(fault, that_was_sent_ends_the_process)
{
    expect_death_by_sigbus(sent);
}

static void ignored(void *context)
{
    (void)context;
    begin_child();
    signal(SIGBUS, SIG_IGN);
    CHECK(bf_fault_catch(repair) == BF_FAULT_OURS);
    kill(getpid(), SIGBUS);
    CHECK(asked == 0);
    touch(ours + 5);
}

Test(fault, that_was_sent_is_ignored_as_before)
{
    expect_good_end(ignored);
}

static void not_ignored(void *context)
{
    (void)context;
    begin_child();
    signal(SIGBUS, SIG_IGN);
    CHECK(bf_fault_catch(repair_nothing) == BF_FAULT_OURS);
    touch(theirs);
    _exit(2);
}

Test(fault, of_nobody_ends_a_process_that_ignores_signals)
{
    expect_death_by_sigbus(not_ignored);
}

/* --- threads --------------------------------------------------------------------------------------------------------- */

static void *touch_ours(void *argument)
{
    touch(ours + 5);
    return argument;
}

static void on_a_thread(void *context)
{
    (void)context;
    pthread_t thread;
    begin_child();
    CHECK(bf_fault_catch(repair) == BF_FAULT_OURS);
    CHECK(pthread_create(&thread, NULL, touch_ours, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(asked == 1 && ours[5] == 7);
}

Test(fault, is_repaired_on_any_thread)
{
    expect_good_end(on_a_thread);
}

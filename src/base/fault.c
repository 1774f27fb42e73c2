/* SPDX-License-Identifier: MIT */
/* fault.c: see fault.h. All but bf_fault_catch() runs in a signal handler. */
#include "base/fault.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>

#include "base/order.h"
#include "base/os.h"

static bool (*repair_ours)(void *address);
static struct sigaction before_ours;
static uint32_t before_is_spent; /* SA_RESETHAND: it was called, as often as it wants to be */
static pthread_once_t caught_once = PTHREAD_ONCE_INIT;
static int caught_rc;

/* As if there were no handler. Of a fault it is enough to return: it happens again, and the core shows where. */
static void end_by(int number, const siginfo_t *info)
{
    struct sigaction nobody = {.sa_handler = SIG_DFL};
    bf_os_action(number, &nobody, NULL);
    if (info->si_code != BUS_ADRERR && info->si_code != BUS_ADRALN && info->si_code != BUS_OBJERR)
        bf_os_raise(number); /* it was sent, and does not come back by itself; held up until we return */
}

/* The handler that we found runs as it would have run without us: with its mask, once if it said so. */
static void pass_on(int number, siginfo_t *info, void *context)
{
    const struct sigaction *before = &before_ours;
    bool is_function =
        (before->sa_flags & SA_SIGINFO) != 0 || (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN);
    if ((before->sa_flags & SA_RESETHAND) != 0 && or_relaxed(&before_is_spent, 1) != 0)
        is_function = false;
    if (!is_function) {
        /* The kernel, too, lets nobody ignore a fault. */
        if (before->sa_handler != SIG_IGN || info->si_code > 0)
            end_by(number, info);
        return;
    }
    bf_os_mask_more(&before->sa_mask);
    if ((before->sa_flags & SA_NODEFER) != 0)
        bf_os_unmask(number);
    if ((before->sa_flags & SA_SIGINFO) != 0)
        before->sa_sigaction(number, info, context);
    else
        before->sa_handler(number);
}

/* BUS_ADRERR alone: nobody can send that, and broken memory (BUS_MCEERR_AR) is not to be hidden. */
static void on_bus_error(int number, siginfo_t *info, void *context)
{
    int saved = errno;
    bool ours = info->si_code == BUS_ADRERR && repair_ours(info->si_addr);
    errno = saved;
    if (ours)
        return;
    pass_on(number, info, context);
    errno = saved;
}

/* What was there is read before ours is there, so that ours never runs without. */
static void catch_now(void)
{
    struct sigaction ours = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    sigemptyset(&ours.sa_mask);
    caught_rc = bf_os_action(SIGBUS, NULL, &before_ours);
    if (caught_rc == 0)
        caught_rc = bf_os_action(SIGBUS, &ours, &before_ours);
}

int bf_fault_catch(bool (*repair)(void *address))
{
    struct sigaction front;
    store_release(&repair_ours, repair); /* the same each time; partner: the system call that makes ours the handler */
    pthread_once(&caught_once, catch_now);
    if (caught_rc < 0)
        return caught_rc;
    int rc = bf_os_action(SIGBUS, NULL, &front);
    if (rc < 0)
        return rc;
    if ((front.sa_flags & SA_SIGINFO) != 0 && front.sa_sigaction == on_bus_error)
        return BF_FAULT_OURS;
    return front.sa_handler == SIG_DFL || front.sa_handler == SIG_IGN ? BF_FAULT_NOBODYS : BF_FAULT_ANOTHERS;
}

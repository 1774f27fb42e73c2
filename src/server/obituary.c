/* SPDX-License-Identifier: MIT */
/* obituary.c: glibc's mutex gives us a place on the thread's robust list beside those of the host program. */
#include "server/obituary.h"

#include <belfry/abi.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>

#include "base/check.h"
#include "base/error.h"
#include "base/order.h"
#include "base/os.h"

_Static_assert(sizeof(pthread_mutex_t) <= BELFRY_ABI_LINE, "a line has no room for this libc's mutex");
_Static_assert(BELFRY_OBITUARY_DIED == FUTEX_OWNER_DIED, "the kernel's bit is part of the format");

/* The futex word is the mutex's first. */
static pthread_mutex_t *mutex_of(uint32_t *word)
{
    return (pthread_mutex_t *)(void *)word;
}

int bf_obituary_open(uint32_t *word)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    int rc = pthread_mutex_init(mutex_of(word), &attributes);
    pthread_mutexattr_destroy(&attributes);
    if (rc == 0)
        rc = pthread_mutex_lock(mutex_of(word));
    if (rc != 0)
        return bf_error_errno(-rc, "cannot lock the shard's obituary");
    INVARIANT((load_relaxed(word) & FUTEX_TID_MASK) != 0);
    or_relaxed(word, FUTEX_WAITERS); /* with this bit the kernel wakes a waiter at the owner's death */
    return 0;
}

void bf_obituary_close(uint32_t *word)
{
    pthread_mutex_unlock(mutex_of(word));
    store_release(word, BELFRY_OBITUARY_STOPPED); /* partners: server_is_gone in client/wait.c, those_that_live */
    bf_os_wake(word);
}

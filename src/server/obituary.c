/* SPDX-License-Identifier: MIT */
/* obituary.c: glibc's mutex gives us a place on the thread's robust list beside those of the host program. */
#include "server/obituary.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>

#include "base/check.h"
#include "base/error.h"
#include "base/order.h"
#include "base/os.h"

_Static_assert(sizeof(pthread_mutex_t) <= BELFRY_ABI_LINE, "the lobby has no room for this libc's mutex");
_Static_assert(BELFRY_OBITUARY_DIED == FUTEX_OWNER_DIED, "the kernel's bit is part of the format");

static pthread_mutex_t *mutex_of(struct belfry_abi_shard *shard)
{
    return (pthread_mutex_t *)(void *)&shard->obituary;
}

int bf_obituary_open(struct belfry_abi_shard *shard)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    int rc = pthread_mutex_init(mutex_of(shard), &attributes);
    pthread_mutexattr_destroy(&attributes);
    if (rc == 0)
        rc = pthread_mutex_lock(mutex_of(shard));
    if (rc != 0)
        return bf_error_errno(-rc, "cannot lock the shard's obituary");
    /* The futex word is the mutex's first. With this bit the kernel wakes a waiter at the owner's death. */
    INVARIANT((load_relaxed(&shard->obituary) & FUTEX_TID_MASK) != 0);
    or_relaxed(&shard->obituary, FUTEX_WAITERS);
    return 0;
}

void bf_obituary_close(struct belfry_abi_shard *shard)
{
    pthread_mutex_unlock(mutex_of(shard));
    store_release(&shard->obituary, BELFRY_OBITUARY_STOPPED); /* partner: server_is_gone in client/wait.c */
    bf_os_wake(&shard->obituary);
}

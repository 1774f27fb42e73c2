/* SPDX-License-Identifier: MIT */
/*
 * quota.c: see quota.h. Connects are limited by a token bucket: it holds a second's worth, and a token comes back every
 * 1 / connects_max seconds. It is kept as the time at which it was full last, or will be.
 */
#include "server/quota.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/os.h"

#define NS_PER_S 1000000000ll

struct quota_user {
    struct quota_user *next;
    uint32_t uid;
    uint32_t slots;
    uint64_t bytes;
    int64_t
        full_at_ns; /* the bucket: a token for each 1 / connects_max of a second that this is ahead of now is missing */
};

void bf_quota_init(struct bf_quota *quota, const belfry_server_options *options)
{
    *quota = (struct bf_quota){.own_uid = bf_os_uid(),
                               .slots_max = options->uid_slots_max,
                               .connects_max = options->uid_connects_max,
                               .bytes_max = options->uid_bytes_max};
    pthread_mutex_init(&quota->mutex, NULL);
}

void bf_quota_deinit(struct bf_quota *quota)
{
    for (unsigned i = 0; i < QUOTA_LISTS; i++)
        while (quota->users[i] != NULL) {
            struct quota_user *user = quota->users[i];
            quota->users[i] = user->next;
            free(user);
        }
    pthread_mutex_destroy(&quota->mutex);
}

static struct quota_user **list_of(struct bf_quota *quota, uint32_t uid)
{
    return &quota->users[uid & (QUOTA_LISTS - 1)];
}

static struct quota_user *find(struct bf_quota *quota, uint32_t uid)
{
    struct quota_user *user = *list_of(quota, uid);
    while (user != NULL && user->uid != uid)
        user = user->next;
    return user;
}

/* This user, or a new entry for him; those of the same list that have nothing and may do everything are forgotten. */
static struct quota_user *find_or_add(struct bf_quota *quota, uint32_t uid, int64_t now_ns)
{
    struct quota_user **at = list_of(quota, uid);
    while (*at != NULL && (*at)->uid != uid) {
        struct quota_user *other = *at;
        if (other->slots == 0 && other->bytes == 0 && other->full_at_ns <= now_ns) {
            *at = other->next;
            free(other);
        } else {
            at = &other->next;
        }
    }
    if (*at == NULL && (*at = calloc(1, sizeof **at)) != NULL)
        (*at)->uid = uid;
    return *at;
}

static bool take_token(const struct bf_quota *quota, struct quota_user *user, int64_t now_ns)
{
    int64_t full_at_ns = bf_max(user->full_at_ns, now_ns) + NS_PER_S / quota->connects_max;
    if (full_at_ns > now_ns + NS_PER_S)
        return false;
    user->full_at_ns = full_at_ns;
    return true;
}

enum belfry_end bf_quota_enter(struct bf_quota *quota, uint32_t uid, int64_t now_ns)
{
    if (uid == quota->own_uid)
        return BELFRY_END_NONE;
    enum belfry_end rc = BELFRY_END_NONE;
    pthread_mutex_lock(&quota->mutex);
    struct quota_user *user = find_or_add(quota, uid, now_ns);
    if (user == NULL)
        rc = BELFRY_END_NO_MEMORY;
    else if (user->slots >= quota->slots_max || !take_token(quota, user, now_ns))
        rc = BELFRY_END_QUOTA;
    else
        user->slots++;
    pthread_mutex_unlock(&quota->mutex);
    return rc;
}

void bf_quota_leave(struct bf_quota *quota, uint32_t uid)
{
    if (uid == quota->own_uid)
        return;
    pthread_mutex_lock(&quota->mutex);
    struct quota_user *user = find(quota, uid);
    INVARIANT(user != NULL && user->slots > 0);
    user->slots--;
    pthread_mutex_unlock(&quota->mutex);
}

bool bf_quota_charge(struct bf_quota *quota, uint32_t uid, uint64_t bytes)
{
    if (uid == quota->own_uid)
        return true;
    pthread_mutex_lock(&quota->mutex);
    struct quota_user *user = find(quota, uid);
    INVARIANT(user != NULL);
    bool fits = bytes <= quota->bytes_max - user->bytes;
    if (fits)
        user->bytes += bytes;
    pthread_mutex_unlock(&quota->mutex);
    return fits;
}

void bf_quota_discharge(struct bf_quota *quota, uint32_t uid, uint64_t bytes)
{
    if (uid == quota->own_uid || bytes == 0)
        return;
    pthread_mutex_lock(&quota->mutex);
    struct quota_user *user = find(quota, uid);
    INVARIANT(user != NULL && user->bytes >= bytes);
    user->bytes -= bytes;
    pthread_mutex_unlock(&quota->mutex);
}

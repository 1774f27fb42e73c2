/* SPDX-License-Identifier: MIT */
/* Tests of server/quota.c: what one other user may have. Time is what the test says it is. */
#include "server/quota.h"

#include <pthread.h>

#include "base/os.h"
#include "expect.h"

#define SECOND 1000000000ll

enum { ALICE = 61002, BOB = 61003, SAME_LIST = ALICE + QUOTA_LISTS };

static struct bf_quota quota;

static void open_quota(void)
{
    const belfry_server_options o = {.uid_slots_max = 3, .uid_connects_max = 10, .uid_bytes_max = 1000};
    bf_quota_init(&quota, &o);
}

static void close_quota(void)
{
    bf_quota_deinit(&quota);
}

TestSuite(quota, .init = open_quota, .fini = close_quota, .timeout = 60);

Test(quota, gives_so_many_slots_and_gives_them_again)
{
    for (int i = 0; i < 3; i++)
        expect_eq(bf_quota_enter(&quota, ALICE, 0), BELFRY_END_NONE);
    expect_eq(bf_quota_enter(&quota, ALICE, 0), BELFRY_END_QUOTA);
    expect_eq(bf_quota_enter(&quota, BOB, 0), BELFRY_END_NONE);
    expect_eq(bf_quota_enter(&quota, SAME_LIST, 0), BELFRY_END_NONE);
    bf_quota_leave(&quota, ALICE);
    expect_eq(bf_quota_enter(&quota, ALICE, 0), BELFRY_END_NONE);
    expect_eq(bf_quota_enter(&quota, ALICE, 0), BELFRY_END_QUOTA);
}

Test(quota, does_not_limit_the_servers_own_user)
{
    for (int i = 0; i < 1000; i++)
        expect_eq(bf_quota_enter(&quota, bf_os_uid(), 0), BELFRY_END_NONE);
    expect(bf_quota_charge(&quota, bf_os_uid(), UINT64_MAX));
    bf_quota_discharge(&quota, bf_os_uid(), UINT64_MAX);
    bf_quota_leave(&quota, bf_os_uid());
}

static int come_and_go(uint32_t uid, int64_t now_ns)
{
    int had = 0;
    while (bf_quota_enter(&quota, uid, now_ns) == BELFRY_END_NONE) {
        bf_quota_leave(&quota, uid);
        had++;
    }
    return had;
}

Test(quota, gives_a_seconds_worth_of_connects_at_once_and_then_one_by_one)
{
    expect_eq(come_and_go(ALICE, 5 * SECOND), 10);
    expect_eq(come_and_go(ALICE, 5 * SECOND), 0);
    expect_eq(come_and_go(ALICE, 5 * SECOND + SECOND / 10 - 1), 0);
    expect_eq(come_and_go(ALICE, 5 * SECOND + SECOND / 10), 1);
    expect_eq(come_and_go(ALICE, 5 * SECOND + SECOND / 2), 4);
    expect_eq(come_and_go(ALICE, 7 * SECOND), 10);
    expect_eq(come_and_go(BOB, 7 * SECOND), 10);
}

Test(quota, takes_no_token_for_what_it_refuses)
{
    for (int i = 0; i < 3; i++)
        expect_eq(bf_quota_enter(&quota, ALICE, 0), BELFRY_END_NONE);
    for (int i = 0; i < 100; i++)
        expect_eq(bf_quota_enter(&quota, ALICE, 0), BELFRY_END_QUOTA);
    for (int i = 0; i < 3; i++)
        bf_quota_leave(&quota, ALICE);
    expect_eq(come_and_go(ALICE, 0), 7);
}

Test(quota, counts_bytes_that_outlive_their_conn)
{
    expect_eq(bf_quota_enter(&quota, ALICE, 0), BELFRY_END_NONE);
    expect(bf_quota_charge(&quota, ALICE, 600));
    expect(!bf_quota_charge(&quota, ALICE, 401));
    expect(!bf_quota_charge(&quota, ALICE, UINT64_MAX));
    expect(bf_quota_charge(&quota, ALICE, 400));
    bf_quota_leave(&quota, ALICE);
    expect_eq(bf_quota_enter(&quota, SAME_LIST, 100 * SECOND), BELFRY_END_NONE); /* she has something: not forgotten */
    expect(!bf_quota_charge(&quota, ALICE, 1));
    bf_quota_discharge(&quota, ALICE, 1000);
    expect_eq(bf_quota_enter(&quota, ALICE, 100 * SECOND), BELFRY_END_NONE);
    expect(bf_quota_charge(&quota, ALICE, 1000));
}

/* An entry begins with a pointer to the next. */
static unsigned list_length(unsigned list)
{
    unsigned length = 0;
    for (void *user = quota.users[list]; user != NULL; user = *(void **)user)
        length++;
    return length;
}

Test(quota, forgets_who_has_nothing)
{
    for (uint32_t uid = 100000; uid < 200000; uid++) {
        expect_eq(bf_quota_enter(&quota, uid, uid * SECOND), BELFRY_END_NONE);
        bf_quota_leave(&quota, uid);
    }
    unsigned kept = 0;
    for (unsigned i = 0; i < QUOTA_LISTS; i++)
        kept += list_length(i);
    expect(kept <= QUOTA_LISTS); /* one of each list: the last, which nobody has come after */
    expect_eq(come_and_go(100000, 200000 * SECOND), 10);
}

static void *enter_and_leave(void *argument)
{
    uint32_t *had = argument;
    for (int i = 0; i < 200000; i++)
        if (bf_quota_enter(&quota, ALICE, i * SECOND) == BELFRY_END_NONE) {
            uint32_t now = __atomic_add_fetch(had, 1, __ATOMIC_SEQ_CST);
            if (now > 3)
                return had;
            __atomic_sub_fetch(had, 1, __ATOMIC_SEQ_CST);
            bf_quota_leave(&quota, ALICE);
        }
    return NULL;
}

Test(quota, holds_for_all_shards_together)
{
    pthread_t threads[4];
    void *broken;
    uint32_t had = 0;
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, enter_and_leave, &had);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], &broken);
        expect(broken == NULL);
    }
}

/* SPDX-License-Identifier: MIT */
/* Tests of shm/doorbell.h: who wants to be rung when, and that nobody sleeps through it. */
#include "shm/doorbell.h"

#include <errno.h>
#include <pthread.h>

#include <belfry/types.h>

#include "base/os.h"
#include "expect.h"
#include "fixture.h"

Test(doorbell, rings_the_server_by_the_table)
{
    for (uint32_t parked = 0; parked < 4; parked++)
        for (uint32_t asleep = 0; asleep < 2; asleep++)
            for (int committed = 0; committed < 2; committed++)
                for (int published = 0; published < 2; published++) {
                    struct belfry_abi_slot slot = {.parked = parked};
                    struct belfry_abi_shard shard = {.asleep = asleep};
                    bool data = (parked & BELFRY_PARKED_DATA) != 0, space = (parked & BELFRY_PARKED_SPACE) != 0;
                    bool wanted = (committed && (data || asleep)) || (published && space);
                    expect_eq(doorbell_server_wants(&slot, &shard, committed, published), wanted);
                }
}

Test(doorbell, is_heard_by_a_client_that_parked_on_this_very_value)
{
    struct belfry_abi_send send = {.parked = 0};
    struct belfry_abi_recv recv = {.bell = 1};
    expect(!doorbell_client_wants(&send, &recv)); /* as the files are made: nobody sleeps */
    expect_eq(doorbell_park_client(&send, &recv), 1);
    expect(doorbell_client_wants(&send, &recv));
    doorbell_bump_recv(&recv);
    expect_eq(recv.bell, 2);
    expect(!doorbell_client_wants(&send, &recv)); /* rung once, for one sleep */
    expect_eq(doorbell_park_client(&send, &recv), 2);
    doorbell_unpark_client(&send);
    expect(!doorbell_client_wants(&send, &recv));
    expect_eq(doorbell_park_client(&send, &recv), 2);
    expect(doorbell_client_wants(&send, &recv));
}

Test(doorbell, works_while_the_count_wraps)
{
    struct belfry_abi_send send = {.bell = UINT32_MAX - 2};
    struct belfry_abi_recv recv = {.bell = UINT32_MAX - 2};
    for (uint32_t i = 0; i < 6; i++) {
        expect_eq(doorbell_park_client(&send, &recv), (uint32_t)(UINT32_MAX - 2 + i));
        expect(doorbell_client_wants(&send, &recv));
        doorbell_bump_recv(&recv);
        expect(!doorbell_client_wants(&send, &recv));
        doorbell_park_client(&send, &recv);
        doorbell_unpark_client(&send);
        expect(!doorbell_client_wants(&send, &recv));
        uint32_t value = doorbell_send_value(&send);
        doorbell_bump_send(&send);
        expect(doorbell_send_value(&send) == value + 1u);
    }
    expect_eq(send.bell, 3);
    expect_eq(recv.bell, 3);
}

/*
 * The whole dance between two threads, each sleeping whenever there is nothing: if a fence or an order were wrong, one
 * of them would sleep through the other's news, and the deadline of its sleep would say so.
 */
#define TURNS 200000u

static struct belfry_abi_send dance_send;
static struct belfry_abi_recv dance_recv = {.bell = 1};
static struct belfry_abi_slot dance_slot;
static uint32_t news, answer;

static void *dance_server(void *argument)
{
    for (uint32_t turn = 1; turn <= TURNS; turn++) {
        while (load_acquire(&news) != turn) {
            uint32_t value = doorbell_send_value(&dance_send);
            store_relaxed(&dance_slot.parked, BELFRY_PARKED_DATA);
            full_fence();
            if (load_acquire(&news) == turn)
                break;
            struct bf_os_wait wait = {&dance_send.bell, value};
            if (bf_os_wait(&wait, 1, bf_os_now_ns() + FIXTURE_PATIENCE_MS * 1000000ll) == -ETIMEDOUT)
                return (void *)(uintptr_t)turn;
        }
        store_relaxed(&dance_slot.parked, 0);
        store_release(&answer, turn);
        full_fence();
        if (doorbell_client_wants(&dance_send, &dance_recv)) {
            doorbell_bump_recv(&dance_recv);
            bf_os_wake(&dance_recv.bell);
        }
    }
    return argument;
}

Test(doorbell, is_never_slept_through, .timeout = 120)
{
    static struct belfry_abi_shard shard;
    pthread_t server;
    void *stuck;
    pthread_create(&server, NULL, dance_server, NULL);
    for (uint32_t turn = 1; turn <= TURNS; turn++) {
        store_release(&news, turn);
        full_fence();
        if (doorbell_server_wants(&dance_slot, &shard, true, false)) {
            doorbell_bump_send(&dance_send);
            bf_os_wake(&dance_send.bell);
        }
        while (load_acquire(&answer) != turn) {
            struct bf_os_wait wait = {&dance_recv.bell, doorbell_park_client(&dance_send, &dance_recv)};
            full_fence();
            if (load_acquire(&answer) != turn)
                expect(bf_os_wait(&wait, 1, bf_os_now_ns() + FIXTURE_PATIENCE_MS * 1000000ll) == 0);
            doorbell_unpark_client(&dance_send);
        }
    }
    pthread_join(server, &stuck);
    expect(stuck == NULL);
}

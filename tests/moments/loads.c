/* SPDX-License-Identifier: MIT */
/*
 * loads.c: clients whose word changes just before one of the server's loads of it: races that cannot be had on demand.
 *
 * The client is played by hand, in the test's process; it does its next step on the shard's thread, when that is about to
 * look for the n-th time.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include <belfry/abi.h>

#include "base/order.h"
#include "expect.h"
#include "house.h"
#include "server/server.h"
#include "walk.h"

#define LOOKS 8u /* of which the last is some 100 ms after the first */

struct claimant {
    struct belfry_abi_send *send;
    int lock;
    bool spoke;
};

static void *map_segment(const struct house *h, const char *side, int access)
{
    char path[2 * FIXTURE_PATH_BYTES], rest[64];
    snprintf(rest, sizeof rest, "segments/" FIXTURE_SERVICE "_0_%s", side);
    server_fixture_path(&h->server, path, rest);
    int fd = open(path, (access & PROT_WRITE) != 0 ? O_RDWR : O_RDONLY);
    void *map = mmap(NULL, BELFRY_ABI_PAGE, access, MAP_SHARED, fd, 0);
    expect(fd >= 0 && map != MAP_FAILED);
    close(fd);
    return map;
}

/* As a client does that was held up between making its lock file and locking it. */
static void lock_and_speak(void *argument)
{
    struct claimant *c = argument;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd;
    while ((fd = load_acquire(&c->lock)) < 0) /* its name is seen before open() has returned */
        ;
    c->spoke = fcntl(fd, F_OFD_SETLK, &lock) == 0;
    store_relaxed(&c->send->hello_version, BELFRY_ABI_VERSION);
    store_relaxed(&c->send->hello_pid, (uint32_t)getpid());
    store_relaxed(&c->send->hello_generation, c->send->segment.generation);
    store_release(&c->send->hello, BELFRY_HELLO);
}

static void nothing(void *argument)
{
    __atomic_store_n((bool *)argument, true, __ATOMIC_RELEASE);
}

/* Let the shard make some turns. */
static void let_turn(const struct house *h)
{
    for (int i = 0; i < 3; i++) {
        bool done = false;
        expect_rc(belfry_post(h->server.server, 0, nothing, &done), 0);
        expect(soon(__atomic_load_n(&done, __ATOMIC_ACQUIRE)));
    }
}

/* Slot 0, just before the server's n-th look at its hello. */
static void come_before_look(struct house *h, unsigned nth)
{
    char path[2 * FIXTURE_PATH_BYTES];
    struct claimant c = {.send = map_segment(h, "send", PROT_READ | PROT_WRITE), .lock = -1};
    const struct belfry_abi_recv *recv = map_segment(h, "recv", PROT_READ);
    moments_before_load(&h->server.server->shards[0].pool.slots[0].send->hello, nth, lock_and_speak, &c);
    server_fixture_path(&h->server, path, "shard-0/slot_0.lock");
    int lock = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
    expect(lock >= 0);
    store_release(&c.lock, lock);
    if (!soon(load_acquire(&recv->accepted) == 1))
        expect_failed("before look %u: it %s and was not accepted", nth, c.spoke ? "spoke" : "was never looked at");
    let_turn(h);
    if (load_acquire(&recv->end) != BELFRY_END_NONE)
        expect_failed("before look %u: it lives, and the server says: %s", nth,
                      belfry_end_text((enum belfry_end)recv->end));
    munmap(c.send, BELFRY_ABI_PAGE);
    munmap((void *)(uintptr_t)recv, BELFRY_ABI_PAGE);
    close(lock);
    house_expect_as_before(h, nth);
}

Test(client_lives, whenever_the_server_looks_while_it_comes)
{
    struct house h;
    house_open(&h, HOUSE_SLOTS, 60000);
    house_expect_service(&h);
    house_remember(&h);
    for (unsigned nth = 1; nth <= LOOKS; nth++)
        come_before_look(&h, nth);
    house_close(&h);
}

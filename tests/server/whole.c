/* SPDX-License-Identifier: MIT */
/*
 * Tests of server/whole.c: the pages of a message that arrives in parts. The kernel can be made to refuse them here, or
 * to keep the shard waiting for them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "base/order.h"
#include "client/client.h"
#include "expect.h"
#include "server/conn.h"
#include "server/server.h"
#include "server_fixture.h"

#define MESSAGE_MAX (64u << 20)
#define HUGE_BYTES (2u << 20)

static struct server_fixture server;

static struct {
    unsigned handled, disconnected, bad;
    long faults; /* of the shard's thread, when the handler ran last */
    bool taken_over;
    belfry_ticket ticket;
    belfry_message copy;
} seen;

/* --- the kernel ------------------------------------------------------------------------------------------------------ */

static struct {
    int refusal;    /* 0, ENOMEM, or another */
    unsigned asked; /* how often */
    unsigned holds; /* from this one on, nothing is given until let_go(); 0: never */
    unsigned held;  /* what was asked for meanwhile: one at a time */
    struct bf_reactor *reactor;
    const void *owner;
    void *at;
    size_t bytes;
} kernel;

void __real_bf_reactor_populate(struct bf_reactor *r, const void *owner, void *at, size_t bytes);
void __wrap_bf_reactor_populate(struct bf_reactor *r, const void *owner, void *at, size_t bytes);

void __wrap_bf_reactor_populate(struct bf_reactor *r, const void *owner, void *at, size_t bytes)
{
    static const char constant[4096] __attribute__((aligned(4096))) = "this cannot be written to";
    unsigned holds = load_acquire(&kernel.holds);
    if (++kernel.asked >= holds && holds > 0) {
        kernel.reactor = r;
        kernel.owner = owner;
        kernel.at = at;
        kernel.bytes = bytes;
        add_release(&kernel.held, 1);
    } else if (load_acquire(&kernel.refusal) == 0) {
        __real_bf_reactor_populate(r, owner, at, bytes);
    } else { /* nothing is mapped at 0, which the kernel calls a want of memory */
        void *wrong = load_acquire(&kernel.refusal) == ENOMEM ? NULL : (void *)(uintptr_t)constant;
        __real_bf_reactor_populate(r, owner, wrong, sizeof constant);
    }
}

static void give(void *unused)
{
    (void)unused;
    store_release(&kernel.holds, 0);
    __real_bf_reactor_populate(kernel.reactor, kernel.owner, kernel.at, kernel.bytes);
}

static void let_go(void)
{
    expect(eventually(load_acquire(&kernel.held) == 1));
    expect_rc(belfry_post(server.server, 0, give, NULL), 0);
}

/* --- a server and its clients ---------------------------------------------------------------------------------------- */

static void fill(void *data, size_t size, unsigned seed)
{
    uint32_t *words = data;
    for (size_t i = 0; i < size / 4; i++)
        words[i] = (uint32_t)i * 2654435761u + seed;
}

static bool filled(const void *data, size_t size, unsigned seed)
{
    const uint32_t *words = data;
    for (size_t i = 0; i < size / 4; i++)
        if (words[i] != (uint32_t)i * 2654435761u + seed)
            return false;
    return true;
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    (void)conn, (void)why, (void)user;
    add_release(&seen.disconnected, 1);
}

/* One that is larger than a ring is looked at, and answered with its size; with a seed of 2 it is deferred. */
static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    uint64_t size = m->size;
    struct rusage usage;
    (void)user;
    getrusage(RUSAGE_THREAD, &usage);
    seen.faults = usage.ru_minflt;
    if (size > HUGE_BYTES / 2 && *(const uint32_t *)m->data == 2) {
        seen.bad += belfry_defer(conn, m, &seen.ticket, &seen.copy) != 0;
        seen.taken_over = seen.copy.data == m->data;
    } else {
        seen.bad += size > HUGE_BYTES / 2 && !filled(m->data, size, 1);
        belfry_reply(conn, m, &size, sizeof size);
    }
    add_release(&seen.handled, 1);
}

static belfry_client *begin(uint32_t ring_bytes)
{
    server_fixture_init(&server);
    server.options.message_bytes_max = MESSAGE_MAX;
    server.options.ring_bytes = ring_bytes;
    server.options.on_message = on_message;
    server.options.on_disconnect = on_disconnect;
    server_fixture_start(&server);
    return server_fixture_connect();
}

static void end(belfry_client *c)
{
    belfry_close(c);
    expect(eventually(load_acquire(&server.server->whole_bytes) == 0));
    server_fixture_stop(&server);
    expect_eq(seen.bad, 0);
}

static char *message(size_t size, unsigned seed)
{
    char *data = malloc(size);
    fill(data, size, seed);
    return data;
}

static void expect_size(belfry_client *c, const belfry_message *m, size_t size)
{
    uint64_t answer;
    belfry_message copy = *m;
    expect_eq(m->size, sizeof answer);
    memcpy(&answer, m->data, sizeof answer);
    expect_eq(answer, size);
    belfry_release(c, &copy);
}

static void expect_call(belfry_client *c, size_t size)
{
    belfry_message m;
    char *data = message(size, 1);
    expect_rc(belfry_call(c, data, size, &m, server_fixture_patience()), 0);
    expect_size(c, &m, size);
    free(data);
}

TestSuite(whole, .timeout = 120);

/* --- tests ----------------------------------------------------------------------------------------------------------- */

/* How often a shard has to wait for a page while a large message arrives. */
static long faults_of(belfry_client *c, size_t size)
{
    expect_call(c, 4);
    long before = seen.faults;
    expect_call(c, size);
    return seen.faults - before;
}

Test(whole, is_put_together_without_a_page_fault)
{
#ifdef __SANITIZE_ADDRESS__
    cr_skip_test("AddressSanitizer's own memory has faults, too");
#endif
    belfry_client *c = begin(256 << 10);
    expect_call(c, MESSAGE_MAX);           /* whatever else happens the first time */
    expect(faults_of(c, MESSAGE_MAX) < 4); /* the page before the block is one */
    expect(faults_of(c, HUGE_BYTES) < 4);
    store_release(&kernel.refusal, EFAULT);
    expect(faults_of(c, MESSAGE_MAX) >= MESSAGE_MAX / HUGE_BYTES); /* else this would show nothing */
    end(c);
}

Test(whole, of_every_size_comes_in_steps_that_fit)
{
    belfry_client *c = begin(64 << 10);
    for (size_t size = HUGE_BYTES / 2; size <= 5 * HUGE_BYTES; size += HUGE_BYTES / 2)
        for (size_t i = 0; i <= 64; i += 16)
            expect_call(c, size - 32 + i);
    expect_call(c, MESSAGE_MAX);
    end(c);
}

static void send_part(belfry_client *c, const struct extension *x, const void *data, size_t size)
{
    uint8_t *room;
    uint32_t block = extension_bytes(x);
    expect_eq(ring_reserve(&c->out, block + size, (void **)&room), 0);
    if (block > 0)
        extension_write(room, x);
    memcpy(room + block, data, size);
    ring_commit(&c->out, BELFRY_PART, block > 0 ? BELFRY_FLAG_EXTENDED : 0, 1, block + size);
    bf_client_tell(c, true);
}

/* The library sends none as large as these. */
Test(whole, may_come_in_parts_that_need_more_than_a_step)
{
    const size_t size = HUGE_BYTES + 300000, first = 1000000;
    const struct extension opens = {.whole_bytes = size, .whole_kind = BELFRY_REQUEST}, none = {0};
    belfry_client *c = begin(8 << 20);
    belfry_message m;
    char *data = message(size, 1);
    send_part(c, &opens, data, first);
    send_part(c, &none, data + first, size - first);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_size(c, &m, size);
    free(data);
    end(c);
}

Test(whole, for_which_there_is_no_memory_is_refused_and_the_next_is_not)
{
    belfry_client *c = begin(64 << 10);
    belfry_message m;
    char *data = message(MESSAGE_MAX, 1);
    store_release(&kernel.refusal, ENOMEM);
    expect_rc(belfry_call(c, data, MESSAGE_MAX, &m, server_fixture_patience()), -ENOMEM);
    store_release(&kernel.refusal, 0);
    expect_eq(load_acquire(&server.server->whole_bytes), 0);
    expect_eq(server_fixture_counters().whole_refused, 1);
    expect_call(c, MESSAGE_MAX);
    free(data);
    end(c);
}

Test(whole, comes_all_the_same_when_the_kernel_will_not_look_ahead)
{
    belfry_client *c = begin(64 << 10);
    store_release(&kernel.refusal, EFAULT);
    expect_call(c, MESSAGE_MAX);
    expect_eq(server_fixture_counters().whole_refused, 0);
    end(c);
}

Test(whole, whose_place_is_not_there_yet_keeps_nobody_waiting)
{
    belfry_client *c = begin(64 << 10), *other = server_fixture_connect();
    belfry_message m;
    char *data = message(MESSAGE_MAX, 1);
    store_release(&kernel.holds, 1);
    expect_rc(belfry_send(c, data, MESSAGE_MAX, NULL), 0);
    expect(eventually(load_acquire(&kernel.held) == 1));
    for (int i = 0; i < 100; i++)
        expect_call(other, 4);
    expect_rc(belfry_receive(c, &m, belfry_in_ms(20)), -ETIMEDOUT);
    expect_eq(load_acquire(&c->recv->consumed), 0);                   /* not even its first part is read */
    expect_eq(load_acquire(&server.server->whole_bytes), HUGE_BYTES); /* what was asked for */
    expect_eq(kernel.held, 1);
    let_go();
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_size(c, &m, MESSAGE_MAX);
    free(data);
    belfry_close(other);
    end(c);
}

Test(whole, of_a_client_that_left_is_freed_when_the_kernel_is_done_with_it)
{
    belfry_client *c = begin(64 << 10), *other = server_fixture_connect();
    char *data = message(MESSAGE_MAX, 1);
    expect_call(other, 4);
    store_release(&kernel.holds, 1);
    expect_rc(belfry_send(c, data, MESSAGE_MAX, NULL), 0);
    expect(eventually(load_acquire(&kernel.held) == 1));
    free(data);
    belfry_close(c);
    expect(eventually(load_acquire(&seen.disconnected) == 1));
    expect_call(other, 4);
    expect_eq(load_acquire(&server.server->whole_bytes), HUGE_BYTES); /* it is still there */
    uint64_t before = fixture_mapped_bytes();
    let_go();
    expect(eventually(fixture_mapped_bytes() + MESSAGE_MAX / 2 <= before)); /* others map something meanwhile */
    expect_eq(seen.handled, 2);
    end(other);
}

Test(whole, that_was_sent_before_its_client_left_is_handled)
{
    belfry_client *c = begin(8 << 20), *other = server_fixture_connect();
    char *data = message(HUGE_BYTES, 2);
    store_release(&kernel.holds, 1);
    expect_rc(belfry_send(c, data, HUGE_BYTES, NULL), 0);
    expect_eq(belfry_client_unsent_bytes(c), 0);
    expect(eventually(load_acquire(&kernel.held) == 1));
    belfry_close(c);
    expect(eventually(load_acquire(&seen.handled) == 1));
    expect(!seen.taken_over); /* the kernel still has it */
    expect_eq(seen.copy.size, HUGE_BYTES);
    expect(filled(seen.copy.data, HUGE_BYTES, 2));
    let_go();
    expect(eventually(load_acquire(&seen.disconnected) == 1));
    belfry_message_free(&seen.copy);
    belfry_complete(server.server, &seen.ticket, NULL, 0);
    expect_call(other, 4);
    free(data);
    end(other);
}

Test(whole, is_given_up_while_its_place_is_awaited)
{
    belfry_client *c = begin(64 << 10);
    belfry_message m;
    char *data = message(MESSAGE_MAX, 1);
    store_release(&kernel.holds, 1);
    expect_rc(belfry_call(c, data, MESSAGE_MAX, &m, belfry_in_ms(20)), -ETIMEDOUT);
    let_go();
    expect_call(c, MESSAGE_MAX);
    expect_eq(seen.handled, 1);
    free(data);
    end(c);
}

/* No part waits then: the cancellation is read, and the kernel has the block. */
Test(whole, is_given_up_while_the_kernel_looks_ahead)
{
    const size_t size = 4 * HUGE_BYTES, first = HUGE_BYTES / 2 + 100000;
    const struct extension opens = {.whole_bytes = size, .whole_kind = BELFRY_REQUEST}, none = {0};
    belfry_client *c = begin(8 << 20);
    char *data = message(size, 1);
    void *room;
    store_release(&kernel.holds, 2);
    send_part(c, &opens, data, first);
    send_part(c, &none, data + first, 8);
    expect(eventually(load_acquire(&kernel.held) == 1));
    expect_eq(ring_reserve(&c->out, 0, &room), 0);
    ring_commit(&c->out, BELFRY_CANCEL, 0, 1, 0);
    bf_client_tell(c, true);
    c->next_id = 2;
    expect_call(c, 4); /* the server has read it */
    expect_eq(load_acquire(&server.server->whole_bytes), 2 * HUGE_BYTES);
    let_go();
    expect(eventually(load_acquire(&server.server->whole_bytes) == 0));
    expect_call(c, size);
    expect_eq(seen.handled, 2);
    free(data);
    end(c);
}

/* A client that changes what it has said already: its first part becomes a cancellation while it waits for its place. */
Test(whole, whose_first_part_becomes_another_entry_halts_nothing)
{
    const struct extension opens = {.whole_bytes = MESSAGE_MAX, .whole_kind = BELFRY_REQUEST};
    belfry_client *c = begin(64 << 10);
    const uint64_t offset = ring_offset(0, c->out.colour, c->out.capacity);
    struct belfry_abi_entry *entry = (struct belfry_abi_entry *)(c->out.data + offset);
    char *data = message(4096, 1);
    store_release(&kernel.holds, 1);
    send_part(c, &opens, data, 1000);
    expect(eventually(load_acquire(&kernel.held) == 1));
    entry->flags = 0;
    store_release(&entry->kind, BELFRY_CANCEL);
    bf_client_tell(c, true);
    c->next_id = 2;
    expect_call(c, 4); /* it has been read */
    let_go();
    expect_call(c, MESSAGE_MAX);
    free(data);
    end(c);
}

/* Its look ahead would be too much, but what has come fits, and what follows does when another has gone. */
Test(whole, is_not_refused_for_what_is_only_looked_ahead_at)
{
    const size_t size = 2 * HUGE_BYTES, first = HUGE_BYTES / 2 + 100000;
    const struct extension opens = {.whole_bytes = size, .whole_kind = BELFRY_REQUEST}, none = {0};
    belfry_message m;
    server_fixture_init(&server);
    server.options.message_bytes_max = size;
    server.options.whole_bytes_max = size + HUGE_BYTES / 2;
    server.options.ring_bytes = 8 << 20;
    server.options.on_message = on_message;
    server_fixture_start(&server);
    belfry_client *c = server_fixture_connect(), *other = server_fixture_connect();
    char *data = message(size, 1);
    send_part(other, &opens, data, 8); /* takes a step, and stops */
    expect(eventually(load_acquire(&server.server->whole_bytes) == HUGE_BYTES));
    send_part(c, &opens, data, first);
    send_part(c, &none, data + first, 8);
    c->next_id = 2;
    expect_call(c, 4); /* all that has been read */
    expect_eq(load_acquire(&server.server->whole_bytes), 2 * HUGE_BYTES);
    belfry_close(other);
    expect(eventually(load_acquire(&server.server->whole_bytes) == HUGE_BYTES));
    for (size_t sent = first + 8; sent < size; sent += HUGE_BYTES / 2)
        send_part(c, &none, data + sent, bf_min(size - sent, HUGE_BYTES / 2));
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_size(c, &m, size);
    expect_eq(server_fixture_counters().whole_refused, 0);
    free(data);
    end(c);
}

Test(whole, is_refused_for_want_of_memory_when_it_is_needed_and_not_before)
{
    const size_t size = 2 * HUGE_BYTES, half = HUGE_BYTES / 2;
    const struct extension opens = {.whole_bytes = size, .whole_kind = BELFRY_REQUEST}, none = {0};
    belfry_client *c = begin(8 << 20);
    belfry_message m;
    char *data = message(size, 1);
    send_part(c, &opens, data, 8);
    c->next_id = 2;
    expect_call(c, 4);
    store_release(&kernel.refusal, ENOMEM);
    send_part(c, &none, data + 8, half); /* the next step is asked for behind it */
    send_part(c, &none, data + 8 + half, half / 2);
    expect_call(c, 4);
    expect_eq(kernel.asked, 2);
    expect_eq(server_fixture_counters().whole_refused, 0);
    send_part(c, &none, data + 8 + half + half / 2, half);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_eq(m.status, -ENOMEM);
    expect_eq(m.id, 1);
    belfry_release(c, &m);
    expect_eq(server_fixture_counters().whole_refused, 1);
    free(data);
    end(c);
}

/* All of it is in the ring when the server is drained, but its first part waits for its place. */
Test(whole, is_finished_when_the_server_is_drained)
{
    belfry_client *c = begin(8 << 20);
    belfry_message m;
    char *data = message(2 * HUGE_BYTES, 1);
    store_release(&kernel.holds, 1);
    expect_rc(belfry_send(c, data, 2 * HUGE_BYTES, NULL), 0);
    expect_eq(belfry_client_unsent_bytes(c), 0);
    expect(eventually(load_acquire(&kernel.held) == 1));
    expect_rc(belfry_drain(server.server, server_fixture_patience()), 0);
    expect_rc(belfry_receive(c, &m, belfry_in_ms(20)), -ETIMEDOUT);
    let_go();
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), 0);
    expect_size(c, &m, 2 * HUGE_BYTES);
    expect_rc(belfry_receive(c, &m, server_fixture_patience()), BELFRY_EGONE);
    free(data);
    end(c);
}

Test(whole, is_broken_off_when_the_server_stops_and_leaves_nothing_mapped)
{
    char *data = message(MESSAGE_MAX, 1);
    uint64_t before = fixture_mapped_bytes();
    for (unsigned i = 0; i < 20; i++) {
        belfry_client *c = begin(64 << 10);
        expect_rc(belfry_send(c, data, MESSAGE_MAX, NULL), 0);
        for (unsigned k = 0; k < i * 4; k++)
            belfry_flush(c, 0);
        server_fixture_stop(&server);
        belfry_close(c);
    }
    expect(fixture_mapped_bytes() < before + 10ull * MESSAGE_MAX); /* half of what it would be */
    free(data);
}

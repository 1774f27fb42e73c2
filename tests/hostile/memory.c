/* SPDX-License-Identifier: MIT */
/*
 * memory.c: what a client does to the bytes that it shares with the server: rows 17 to 25 of docs/THREATS.md.
 *
 * MALLORY is attached through the library and then writes to her `_send` by hand; ALICE and BOB are served meanwhile.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/os.h"
#include "client/client.h"
#include "hostile.h"

TestSuite(memory, .timeout = 180);

static uint64_t ended(const struct house *house, enum belfry_end why)
{
    return house_stats(house).total.ends[why];
}

static struct belfry_abi_entry *next_entry(const belfry_client *c)
{
    return ring_producer_entry(&c->out, c->out.position);
}

/* --- 17: changed while it is read --------------------------------------------------------------------------------------- */

enum { FLIPPED_BYTES_A = 64, FLIPPED_BYTES_B = 960 };

/* The payload says which size it has; whoever read the length twice would find another. */
static struct hostile_word *torn;

static void check_size(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    if (belfry_conn_uid(conn) == MALLORY && m->size != FLIPPED_BYTES_A && m->size != FLIPPED_BYTES_B)
        hostile_say(torn, (uint32_t)m->size);
    if (m->kind == BELFRY_REQUEST)
        belfry_reply(conn, m, m->data, m->size);
}

static void *flip(void *argument)
{
    belfry_client *c = argument;
    const uint32_t header = sizeof(struct belfry_abi_entry);
    for (;;) {
        struct belfry_abi_entry *entry = next_entry(c);
        __atomic_store_n(&entry->kind, BELFRY_ONE_WAY, __ATOMIC_RELAXED);
        __atomic_store_n(&entry->length, FLIPPED_BYTES_A + header, __ATOMIC_RELEASE);
        __atomic_store_n(&entry->length, FLIPPED_BYTES_B + header, __ATOMIC_RELEASE);
        __atomic_store_n(&entry->kind, BELFRY_REQUEST, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* Rewrites the header of the next entry without end while the server reads it, until the conn is over. */
static int rewrite(struct house *house, void *argument)
{
    pthread_t thread;
    belfry_client *c = hostile_attach(house);
    pthread_create(&thread, NULL, flip, c);
    hostile_say(argument, 1);
    while (load_acquire(&c->recv->end) == 0) {
        hostile_ring(c);
        struct belfry_abi_entry *entry = next_entry(c);
        c->out.position +=
            ring_align(load_relaxed(&entry->length)); /* either: the server may have gone on by the other */
        c->out.consumed = c->out.position;
    }
    pause();
    return 0;
}

/* That it is loaded once cannot be told from outside: whoever loads it twice gets one of the two, too. */
Test(memory, row_17_a_header_that_changes_makes_no_third_message)
{
    struct house house;
    torn = hostile_word();
    hostile_init(&house);
    house.options.on_message = check_size;
    house_start(&house);
    struct hostile_guest bob = hostile_guest(&house, BOB);
    for (int i = 0; i < 20; i++) {
        struct hostile_word *began = hostile_word();
        pid_t mallory = house_process_as(MALLORY, MALLORY, rewrite, &house, began);
        hostile_hear(began);
        hostile_served(&bob, 100);
        hostile_kill(mallory);
    }
    hostile_leave(&bob);
    cr_assert(house_wait(&house, house_active_is, 0, 20));
    cr_assert_eq(torn->value, 0, "a message of %u bytes, which nobody sent", torn->value);
    hostile_end(&house);
}

/* --- 18: what cannot be --------------------------------------------------------------------------------------------------- */

struct damage {
    const char *what;
    void (*inflict)(belfry_client *c);
    enum belfry_end end;
};

static void commit_length(belfry_client *c, uint32_t length)
{
    struct belfry_abi_entry *entry = next_entry(c);
    entry->kind = BELFRY_ONE_WAY;
    store_release(&entry->length, length);
}

static void length_of_one(belfry_client *c)
{
    commit_length(c, 1);
}

static void length_without_header(belfry_client *c)
{
    commit_length(c, sizeof(struct belfry_abi_entry) - 1);
}

static void length_of_everything(belfry_client *c)
{
    commit_length(c, UINT32_MAX);
}

static void length_beyond_a_quarter(belfry_client *c)
{
    commit_length(c, (uint32_t)c->out.capacity / 4 + 1);
}

static void length_across_the_wrap(belfry_client *c)
{
    while (c->out.capacity - ring_offset(c->out.position, c->out.colour, c->out.capacity) > 512)
        if (house_echo(c, 1, 100) < 0)
            _exit(91);
    commit_length(c, 1024);
}

static void negative_length(belfry_client *c)
{
    commit_length(c, 0x80000000u);
}

static void position_ahead(belfry_client *c)
{
    store_release(&c->send->consumed, c->in.position + (1u << 20));
}

static void position_back(belfry_client *c)
{
    for (int i = 0; i < 200; i++)
        if (house_echo(c, 1, 1000) < 0)
            _exit(92);
    store_release(&c->send->consumed, 16);
}

static void position_unaligned(belfry_client *c)
{
    store_release(&c->send->consumed, c->in.position - 1);
}

static void whole_of_no_bytes(belfry_client *c)
{
    struct belfry_abi_entry *entry = next_entry(c);
    entry->kind = BELFRY_PART;
    entry->flags = BELFRY_FLAG_EXTENDED;
    memset(entry + 1, 0xff, 64); /* an extension block longer than its entry */
    store_release(&entry->length, 80);
}

static void part_of_nothing(belfry_client *c)
{
    struct belfry_abi_entry *entry = next_entry(c);
    entry->kind = BELFRY_PART;
    entry->flags = 0;
    store_release(&entry->length, 64);
}

static const struct damage damages[] = {
    {"a length of 1", length_of_one, BELFRY_END_PEER_FAULT},
    {"a length that ends within the header", length_without_header, BELFRY_END_PEER_FAULT},
    {"a length of 4 GiB", length_of_everything, BELFRY_END_PEER_FAULT},
    {"a length of 2 GiB", negative_length, BELFRY_END_PEER_FAULT},
    {"a length above a quarter of the ring", length_beyond_a_quarter, BELFRY_END_PEER_FAULT},
    {"a length across the end of the ring", length_across_the_wrap, BELFRY_END_PEER_FAULT},
    {"a position ahead of what was written", position_ahead, BELFRY_END_PEER_FAULT},
    {"a position that goes back", position_back, BELFRY_END_PEER_FAULT},
    {"a position between two entries", position_unaligned, BELFRY_END_PEER_FAULT},
    {"an extension block beyond its entry", whole_of_no_bytes, BELFRY_END_PEER_FAULT},
    {"a part of no message", part_of_nothing, BELFRY_END_PEER_FAULT},
};

/* Then it asks until there is no room for replies any more, since only then is its position looked at. */
static int inflict(struct house *house, void *argument)
{
    static const uint8_t text[1000];
    const struct damage *damage = argument;
    belfry_client *c = hostile_attach(house);
    damage->inflict(c);
    for (int64_t until = SECONDS(20); belfry_now_ns() < until && load_acquire(&c->recv->end) == 0;) {
        hostile_ring(c);
        if (ring_producer_entry(&c->out, c->out.position)->length == 0)
            belfry_send(c, text, sizeof text, NULL);
    }
    return load_acquire(&c->recv->end) == damage->end ? 0 : 1;
}

Test(memory, row_18_what_no_client_would_write_ends_that_conn_alone)
{
    struct house house;
    hostile_start(&house);
    struct hostile_guest bob = hostile_guest(&house, BOB);
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        uint64_t before = ended(&house, damages[i].end);
        pid_t mallory = house_process_as(MALLORY, MALLORY, inflict, &house, (void *)&damages[i]);
        cr_assert_eq(house_reap(mallory, 60), 0, "%s was let pass", damages[i].what);
        cr_assert_eq(ended(&house, damages[i].end), before + 1, "%s", damages[i].what);
        hostile_served(&bob, 10);
    }
    hostile_leave(&bob);
    hostile_end(&house);
}

/* --- 19: changed under the handler -------------------------------------------------------------------------------------- */

/* Answers whether the message was the same before and after its sender had changed it. */
static struct hostile_word *seen, *changed;

static void read_twice(belfry_conn *conn, const belfry_message *m, void *user)
{
    uint8_t before[512], same;
    (void)user;
    if (m->size != sizeof before) {
        belfry_reply(conn, m, m->data, m->size);
        return;
    }
    memcpy(before, m->data, sizeof before);
    hostile_say(seen, 1);
    for (int64_t until = SECONDS(20); load_acquire(&changed->value) == 0 && belfry_now_ns() < until;)
        ;
    same = memcmp(before, m->data, sizeof before) == 0;
    belfry_reply(conn, m, &same, 1);
}

/* Exits with 0 if the handler saw the message change, and with 1 if it did not. */
static int change_it(struct house *house, void *argument)
{
    static uint8_t text[512];
    belfry_client *c = hostile_attach(house);
    belfry_message reply;
    uint64_t id;
    (void)argument;
    uint8_t *payload = (uint8_t *)(next_entry(c) + 1);
    if (belfry_send(c, text, sizeof text, &id) < 0)
        return 2;
    hostile_hear(seen);
    memset(payload, 0xff, sizeof text);
    hostile_say(changed, 1);
    if (belfry_await(c, id, &reply, SECONDS(20)) < 0 || reply.size != 1)
        return 3;
    return *(const uint8_t *)reply.data;
}

Test(memory, row_19_another_users_message_does_not_change_under_the_handler)
{
    struct house house;
    hostile_init(&house);
    house.options.on_message = read_twice;
    seen = hostile_word();
    changed = hostile_word();
    house_start(&house);
    cr_assert_eq(house_reap(house_process_as(MALLORY, MALLORY, change_it, &house, NULL), 30), 1);
    hostile_say(seen, 0);
    hostile_say(changed, 0);
    cr_assert_eq(house_reap(house_process_as(SERVER, SERVER, change_it, &house, NULL), 30), 0,
                 "one of the server's own does: there is no boundary");
    hostile_end(&house);
}

/* --- 20: no end ------------------------------------------------------------------------------------------------------------ */

static int send_for_ever(struct house *house, void *argument)
{
    static const uint8_t text[64];
    belfry_client *c = hostile_attach(house);
    for (uint32_t i = 1;; i++) {
        belfry_send_one_way(c, text, sizeof text);
        if (i % 4096 == 0)
            hostile_say(argument, i);
    }
    return 0;
}

Test(memory, row_20_a_ring_that_is_never_empty_does_not_starve_the_others)
{
    struct house house;
    pid_t mallory[3];
    hostile_start(&house);
    for (int i = 0; i < 3; i++) {
        struct hostile_word *word = hostile_word();
        mallory[i] = house_process_as(MALLORY, MALLORY, send_for_ever, &house, word);
        hostile_hear(word);
    }
    struct hostile_guest bob = hostile_guest(&house, BOB);
    hostile_served(&bob, 2000);
    hostile_visit(&house, ALICE);
    for (int i = 0; i < 3; i++)
        hostile_kill(mallory[i]);
    hostile_served(&bob, 100);
    hostile_leave(&bob);
    hostile_end(&house);
}

/* --- 21: what the one before left ---------------------------------------------------------------------------------------- */

static int leave_secrets(struct house *house, void *argument)
{
    char secret[1000];
    belfry_client *c;
    belfry_message reply;
    (void)argument;
    if (house_connect_rc(house, &c) < 0)
        return 3;
    memset(secret, 'S', sizeof secret);
    for (int i = 0; i < 100; i++) {
        if (belfry_call(c, secret, sizeof secret, &reply, SECONDS(20)) < 0)
            return 1;
        belfry_release(c, &reply);
    }
    belfry_close(c);
    return 0;
}

static int look_for_secrets(struct house *house, void *argument)
{
    belfry_client *c;
    (void)argument;
    int rc = house_connect_rc(house, &c);
    if (rc < 0) {
        fprintf(stderr, "who looks for secrets: %d: %s\n", rc, belfry_last_error());
        return 1;
    }
    const uint8_t *rings[] = {c->out.data, c->in.data};
    for (size_t i = 0; i < 2; i++)
        for (uint64_t at = 0; at < c->out.capacity; at++)
            if (rings[i][at] != 0 && rings[i][at] != BELFRY_BYE) {
                fprintf(stderr, "in ring %zu at %lu: %u\n", i, at, rings[i][at]);
                return 2;
            }
    belfry_close(c);
    return 0;
}

/* Until then who has left counts as there, against the quota of his uid, too. */
static bool all_are_warm(const struct house *house)
{
    return house_wait(house, house_active_is, 0, 20) &&
           hostile_wait(house_stats(house).total.slots_warm == house->options.max_slots);
}

Test(memory, row_21_nobody_sees_what_the_one_before_left)
{
    struct house house;
    hostile_init(&house);
    house.options.max_slots = house_shards(); /* one each: everybody gets the same */
    house.options.warm_pool = house.options.max_slots;
    house_start(&house);
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(house_reap(house_process_as(ALICE, ALICE, leave_secrets, &house, NULL), 30), 0);
        cr_assert(all_are_warm(&house));
        cr_assert_eq(house_reap(house_process_as(MALLORY, MALLORY, look_for_secrets, &house, NULL), 30), 0);
        cr_assert(all_are_warm(&house));
    }
    hostile_end(&house);
}

/* --- 22: killed in mid-write ---------------------------------------------------------------------------------------------- */

enum { WHOLE_WORDS = 120 };

/* Whole messages are of one number only, which grows. */
static void check_whole(belfry_conn *conn, const belfry_message *m, void *user)
{
    const uint64_t *words = m->data;
    (void)user;
    if (m->size != WHOLE_WORDS * sizeof *words)
        return;
    uint64_t last = (uintptr_t)belfry_conn_user(conn);
    for (int i = 1; i < WHOLE_WORDS; i++)
        if (words[i] != words[0])
            hostile_say(torn, 1);
    if (words[0] != last + 1)
        hostile_say(torn, 2);
    belfry_conn_set_user(conn, (void *)(uintptr_t)words[0]);
}

static int write_without_end(struct house *house, void *argument)
{
    belfry_client *c;
    uint64_t words[WHOLE_WORDS];
    if (house_connect_rc(house, &c) < 0)
        return 1;
    for (uint64_t n = 1;; n++) {
        for (int i = 0; i < WHOLE_WORDS; i++)
            words[i] = n;
        while (belfry_send_one_way(c, words, sizeof words) < 0)
            ;
        hostile_say(argument, (uint32_t)n);
    }
    return 0;
}

Test(memory, row_22_no_message_of_the_killed_is_torn)
{
    struct house house;
    torn = hostile_word();
    hostile_init(&house);
    house.options.on_message = check_whole;
    house_start(&house);
    for (int i = 0; i < 100; i++) {
        struct hostile_word *word = hostile_word();
        pid_t alice = house_process_as(i % 2 == 0 ? ALICE : SERVER, ALICE, write_without_end, &house, word);
        hostile_hear(word);
        nanosleep(&(struct timespec){.tv_nsec = rand() % 300000}, NULL);
        hostile_kill(alice);
    }
    cr_assert(house_wait(&house, house_active_is, 0, 20));
    cr_assert_eq(torn->value, 0, "a message was %s", torn->value == 1 ? "torn" : "lost, or came twice");
    hostile_end(&house);
}

/* --- 23: nothing is held ---------------------------------------------------------------------------------------------------- */

Test(memory, row_23_a_client_that_stands_still_at_any_point_holds_nobody_up)
{
    struct house house;
    hostile_start(&house);
    struct hostile_guest bob = hostile_guest(&house, BOB);
    for (int i = 0; i < 30; i++) {
        struct hostile_guest alice = hostile_guest(&house, ALICE);
        nanosleep(&(struct timespec){.tv_nsec = rand() % 300000}, NULL);
        kill(alice.pid, SIGSTOP);
        hostile_served(&bob, 20);
        kill(alice.pid, SIGCONT);
        hostile_served(&alice, 1);
        hostile_leave(&alice);
    }
    hostile_leave(&bob);
    hostile_end_all_the_same(&house); /* she may have been stopped before she rang */
}

/* --- 24: another version ---------------------------------------------------------------------------------------------------- */

static int come_from_elsewhere(struct house *house, void *argument)
{
    if (hostile_claim(house, 0, BELFRY_ABI_VERSION + 1, 1) < 0)
        return 1;
    hostile_say(argument, 1);
    pause();
    return 0;
}

Test(memory, row_24_another_version_is_refused_and_told)
{
    struct house house;
    struct hostile_word *word = hostile_word();
    hostile_start(&house);
    pid_t mallory = house_process_as(MALLORY, MALLORY, come_from_elsewhere, &house, word);
    cr_assert_eq(hostile_hear(word), 1);
    cr_assert(hostile_wait(house_stats(&house).total.refusals[BELFRY_END_VERSION] == 1));
    hostile_kill(mallory);
    cr_assert_eq(house_stats(&house).total.connections_total, 0);
    hostile_visit(&house, ALICE);
    hostile_end(&house);
}

/* --- 25: from read-only to writable ------------------------------------------------------------------------------------------ */

/* Exits with the number of ways in which it could get at what it may only read. */
static int make_writable(struct house *house, void *argument)
{
    char path[HOSTILE_PATH_BYTES], rest[64], fd_path[64];
    belfry_client *c = hostile_attach(house);
    int ways = 0;
    (void)argument;
    ways += mprotect((void *)(uintptr_t)c->recv, 4096, PROT_READ | PROT_WRITE) == 0 || errno != EACCES;
    ways += mprotect(c->shared->lobby.map, 4096, PROT_READ | PROT_WRITE) == 0 || errno != EACCES;
    snprintf(rest, sizeof rest, "segments/" SERVICE "_%u_recv", c->slot);
    hostile_path(house, path, rest);
    int fd = open(path, O_RDONLY);
    snprintf(fd_path, sizeof fd_path, "/proc/self/fd/%d", fd);
    ways += open(path, O_RDWR) >= 0 || errno != EACCES;
    ways += open(fd_path, O_RDWR) >= 0 || errno != EACCES;
    ways += write(fd, "x", 1) > 0;
    ways += ftruncate(fd, 0) == 0;
    ways += fchmod(fd, 0666) == 0;
    snprintf(fd_path, sizeof fd_path, "/proc/self/fd/%d", c->shared->lobby.fd);
    ways += open(fd_path, O_RDWR) >= 0 || errno != EACCES;
    ways += mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED || errno != EACCES;
    return ways;
}

Test(memory, row_25_what_may_be_read_cannot_be_made_writable)
{
    struct house house;
    hostile_start(&house);
    cr_assert_eq(house_reap(house_process_as(MALLORY, MALLORY, make_writable, &house, NULL), 30), 0);
    hostile_visit(&house, ALICE);
    hostile_end(&house);
}

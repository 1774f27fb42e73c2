/* SPDX-License-Identifier: MIT */
/* others.c: clients of users other than the server's: who is let in, to what, and how much of it. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <belfry/abi.h>

#include "base/os.h"
#include "client/client.h"
#include "hostile.h"

TestSuite(others, .timeout = 120);

/* --- who is let in -------------------------------------------------------------------------------------------------- */

static int call_of_many_sizes(struct house *house, void *argument)
{
    belfry_client *c;
    (void)argument;
    if (house_connect_rc(house, &c) < 0)
        return 1;
    for (uint64_t i = 0; i < 5000; i++)
        if (house_echo(c, i, i % 4000) < 0)
            return 2;
    belfry_close(c);
    return 0;
}

Test(others, are_served_as_one_is_oneself)
{
    struct house house;
    hostile_start(&house);
    pid_t a = house_process_as(ALICE, ALICE, call_of_many_sizes, &house, NULL);
    pid_t b = house_process_as(BOB, BOB, call_of_many_sizes, &house, NULL);
    pid_t own = house_process_as(SERVER, SERVER, call_of_many_sizes, &house, NULL);
    cr_assert_eq(house_reap(a, 60), 0);
    cr_assert_eq(house_reap(b, 60), 0);
    cr_assert_eq(house_reap(own, 60), 0);
    cr_assert(house_wait(&house, house_active_is, 0, 20));
    cr_assert_eq(house_stats(&house).total.ends[BELFRY_END_LEFT], 3);
    hostile_end(&house);
}

static int ask_who(struct house *house, void *argument)
{
    belfry_client *c;
    belfry_message reply;
    uint32_t gid = *(uint32_t *)argument;
    int rc;
    for (int64_t until = SECONDS(20); (rc = house_connect_rc(house, &c)) == BELFRY_EFULL && belfry_now_ns() < until;)
        ;
    if (rc < 0 || belfry_call(c, WORD_WHO, strlen(WORD_WHO), &reply, SECONDS(20)) < 0)
        return 1;
    const struct house_who *who = reply.data;
    bool right = who->uid == geteuid() && who->gid == gid && who->pid == (uint32_t)getpid();
    belfry_release(c, &reply);
    belfry_close(c);
    return right ? 0 : 2;
}

Test(others, are_known_by_user_group_and_process)
{
    struct house house;
    uint32_t gid = GUESTS, own_gid = SERVER;
    hostile_start(&house);
    cr_assert_eq(house_reap(house_process_as(ALICE, GUESTS, ask_who, &house, &gid), 30), 0);
    cr_assert_eq(house_reap(house_process_as(SERVER, SERVER, ask_who, &house, &own_gid), 30), 0);
    hostile_end(&house);
}

Test(others, stay_outside_unless_they_are_asked_in)
{
    struct house house;
    int denied = -EACCES;
    hostile_init(&house);
    house.options.access = BELFRY_ACCESS_OWNER;
    house_start(&house);
    cr_assert_eq(house_reap(house_process_as(ALICE, ALICE, hostile_is_told, &house, &denied), 30), 0);
    cr_assert_eq(house_reap(house_process_as(ALICE, SERVER, hostile_is_told, &house, &denied), 30), 0);
    cr_assert_eq(house_reap(house_process_as(SERVER, SERVER, call_of_many_sizes, &house, NULL), 60), 0);
    hostile_end(&house);
}

Test(others, of_the_group_are_let_in_and_no_others)
{
    struct house house;
    int denied = -EACCES;
    hostile_init(&house);
    house.options.access = BELFRY_ACCESS_GROUP;
    house.options.access_gid = SERVER;
    house_start(&house);
    cr_assert_eq(house_reap(house_process_as(ALICE, GUESTS, hostile_is_told, &house, &denied), 30), 0);
    cr_assert_eq(house_reap(house_process_as(ALICE, SERVER, call_of_many_sizes, &house, NULL), 60), 0);
    hostile_end(&house);
}

static int no_guests(belfry_conn *conn, void *user)
{
    (void)user;
    return belfry_conn_uid(conn) == ALICE ? -EPERM : 0;
}

Test(others, are_refused_by_on_connect_before_they_get_at_any_memory)
{
    struct house house;
    int refused = BELFRY_EREFUSED;
    hostile_init(&house);
    house.options.on_connect = no_guests;
    house_start(&house);
    cr_assert_eq(house_reap(house_process_as(ALICE, ALICE, hostile_is_told, &house, &refused), 30), 0);
    cr_assert_eq(house_reap(house_process_as(BOB, BOB, call_of_many_sizes, &house, NULL), 60), 0);
    cr_assert_eq(house_stats(&house).total.refusals[BELFRY_END_REFUSED], 1);
    hostile_end(&house);
}

/* --- to what -------------------------------------------------------------------------------------------------------- */

/* Attached; tells its slot, and stays until it is killed. */
static int stay(struct house *house, void *argument)
{
    struct hostile_word *word = argument;
    belfry_client *c;
    if (house_connect_rc(house, &c) < 0 || house_echo(c, 1, 100) < 0)
        return 1;
    hostile_say(word, belfry_client_slot(c) + 1);
    for (;;)
        pause();
}

/* Exits with the number of things that could be done with somebody else's slot. */
static int pry(struct house *house, void *argument)
{
    uint32_t slot = *(uint32_t *)argument, shard = slot % house_shards();
    const struct {
        const char *form;
        uint32_t part;
    } files[] = {{"segments/" SERVICE "_%u_send", slot}, {"segments/" SERVICE "_%u_recv", slot}};
    char path[256], lock[256];
    int done = 0;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char rest[64];
        snprintf(rest, sizeof rest, i == 0 ? "segments/" SERVICE "_%u_send" : "segments/" SERVICE "_%u_recv",
                 files[i].part);
        snprintf(path, sizeof path, "%s/" SERVICE "/1/%s", house->root, rest);
        done += open(path, O_RDONLY) >= 0 || errno != EACCES;
        done += open(path, O_RDWR) >= 0 || errno != EACCES;
        done += truncate(path, 0) == 0;
        done += unlink(path) == 0;
    }
    snprintf(lock, sizeof lock, "%s/" SERVICE "/1/shard-%u/slot_%u.lock", house->root, shard, slot);
    done += open(lock, O_RDONLY) >= 0 || errno != EACCES;
    done += open(lock, O_WRONLY) >= 0 || errno != EACCES;
    done += unlink(lock) == 0 || errno != EPERM;
    snprintf(path, sizeof path, "%s/" SERVICE "/1/shard-%u/elsewhere", house->root, shard);
    done += rename(lock, path) == 0;
    snprintf(path, sizeof path, "%s/" SERVICE "/1/shard-%u", house->root, shard);
    done += open(path, O_RDONLY | O_DIRECTORY) >= 0; /* no list of names */
    snprintf(path, sizeof path, "%s/" SERVICE, house->root);
    done += open(path, O_RDONLY | O_DIRECTORY) >= 0;
    snprintf(path, sizeof path, "%s/" SERVICE "/1/lobby", house->root);
    done += open(path, O_RDWR) >= 0 || errno != EACCES;
    return done;
}

Test(others, get_at_nobody_elses_slot)
{
    struct house house;
    struct hostile_word *word = hostile_word();
    hostile_start(&house);
    pid_t alice = house_process_as(ALICE, ALICE, stay, &house, word);
    uint32_t slot = hostile_hear(word) - 1;
    cr_assert_eq(house_reap(house_process_as(BOB, BOB, pry, &house, &slot), 30), 0);
    cr_assert_eq(house_reap(house_process_as(BOB, SERVER, pry, &house, &slot), 30), 0, "the server's group is no key");
    hostile_kill(alice);
    cr_assert(house_wait(&house, house_active_is, 0, 20));
    hostile_end(&house);
}

/* --- how much ------------------------------------------------------------------------------------------------------- */

/* Connects as often as it is let, says how often, and stays. Exits 1 when it was not told why no more. */
static int take_all(struct house *house, void *argument)
{
    belfry_client *c;
    uint32_t had = 0;
    int rc;
    while ((rc = house_connect_rc(house, &c)) == 0)
        had++;
    hostile_say(argument, had + 1);
    if (rc != BELFRY_EQUOTA)
        return 1;
    for (;;)
        pause();
}

Test(others, get_as_many_connections_as_one_user_may_have)
{
    struct house house;
    struct hostile_word *word = hostile_word();
    hostile_init(&house);
    house.options.max_slots = 64;
    house.options.uid_slots_max = 10;
    house_start(&house);
    pid_t alice = house_process_as(ALICE, ALICE, take_all, &house, word);
    cr_assert_eq(hostile_hear(word) - 1, 10);
    int full = BELFRY_EQUOTA;
    cr_assert_eq(house_reap(house_process_as(ALICE, ALICE, hostile_is_told, &house, &full), 30), 0);
    cr_assert_eq(house_reap(house_process_as(BOB, BOB, call_of_many_sizes, &house, NULL), 60), 0);
    hostile_kill(alice);
    cr_assert(house_wait(&house, house_active_is, 0, 20));
    cr_assert_eq(house_reap(house_process_as(ALICE, ALICE, call_of_many_sizes, &house, NULL), 60), 0,
                 "what she had is hers again");
    hostile_end(&house);
}

static int come_and_go(struct house *house, void *argument)
{
    belfry_client *c;
    int rc, had = 0;
    (void)argument;
    while ((rc = house_connect_rc(house, &c)) == 0 && had < 2000) {
        belfry_close(c);
        had++;
    }
    return rc == BELFRY_EQUOTA && had >= 5 ? 0 : 1;
}

Test(others, may_not_come_and_go_for_ever)
{
    struct house house;
    hostile_init(&house);
    house.options.uid_connects_max = 5;
    house_start(&house);
    cr_assert_eq(house_reap(house_process_as(ALICE, ALICE, come_and_go, &house, NULL), 60), 0);
    cr_assert_eq(house_reap(house_process_as(BOB, BOB, call_of_many_sizes, &house, NULL), 60), 0);
    hostile_end(&house);
}

/* The first part of a message of a mebibyte, and nothing after it. */
static void begin_large(belfry_client *c, const void *data, uint64_t bytes)
{
    struct parts_out part = {.data = data, .bytes = bytes, .id = 1000, .kind = BELFRY_REQUEST};
    bool moved = false;
    parts_send(&c->out, &part, 1, &moved);
    __atomic_fetch_add(&c->send->bell, 1, __ATOMIC_SEQ_CST);
    bf_os_wake(&c->send->bell);
}

/* Messages of a mebibyte, there and back; then two are begun and not finished. Exits with 0 when the next is refused. */
static int send_large(struct house *house, void *argument)
{
    static uint8_t text[1 << 20];
    belfry_client *c[3];
    belfry_message reply;
    (void)argument;
    for (int i = 0; i < 3; i++)
        if (house_connect_rc(house, &c[i]) < 0)
            return 1;
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (uint8_t)(i * 31);
    for (int i = 0; i < 3; i++) {
        if (belfry_call(c[i], text, sizeof text, &reply, SECONDS(20)) < 0 || reply.size != sizeof text ||
            memcmp(reply.data, text, sizeof text) != 0)
            return 2;
        belfry_release(c[i], &reply);
    }
    for (int i = 0; i < 2; i++) {
        begin_large(c[i], text, sizeof text);
        if (house_echo(c[i], 1, 64) < 0) /* now that has been seen */
            return 3;
    }
    return belfry_call(c[2], text, sizeof text, &reply, SECONDS(20)) == -ENOBUFS ? 0 : 4;
}

Test(others, have_large_messages_within_their_share)
{
    struct house house;
    hostile_init(&house);
    house.options.message_bytes_max = 1 << 20;
    house.options.whole_bytes_max = 64 << 20;
    house.options.uid_bytes_max = 2 << 20;
    house_start(&house);
    cr_assert_eq(house_reap(house_process_as(ALICE, ALICE, send_large, &house, NULL), 60), 0);
    cr_assert_gt(house_stats(&house).total.whole_refused, 0);
    hostile_visit(&house, BOB);
    hostile_end(&house);
}

/* --- and whose it is ------------------------------------------------------------------------------------------------ */

/* Makes the only lock file, lets go of the name while the server stands still, and claims it again and again for a while. */
static int let_go_and_claim(struct house *house, void *argument)
{
    struct hostile_word *words = argument; /* the first says that it is made, the second that it may go */
    char path[HOSTILE_PATH_BYTES];
    hostile_lock_path(house, path, 0);
    if (hostile_make_lock(house, 0) < 0)
        return 1;
    hostile_say(&words[0], 1);
    hostile_hear(&words[1]);
    if (unlink(path) < 0)
        return 2;
    hostile_say(&words[2], 1);
    for (int i = 0; i < 50; i++) {
        int fd = hostile_claim(house, 0, BELFRY_ABI_VERSION, (uint32_t)getpid());
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        if (fd >= 0) {
            unlink(path);
            close(fd);
        }
    }
    return 0;
}

Test(others, do_not_get_the_memory_of_one_who_took_the_name_that_they_let_go)
{
    struct house house;
    struct hostile_word *words = hostile_word(); /* a page of them */
    uint32_t gid = SERVER;
    hostile_init(&house);
    house.options.shards = 1;
    house.options.max_slots = 1;
    house.options.claim_grace_ms = 60000;
    house_start(&house);
    pid_t mallory = house_process_as(MALLORY, MALLORY, let_go_and_claim, &house, words);
    hostile_hear(&words[0]);
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL); /* the server has seen it; if not, this tests less */
    kill(house.server, SIGSTOP);
    hostile_say(&words[1], 1);
    hostile_hear(&words[2]);
    pid_t own = house_process_as(SERVER, SERVER, ask_who, &house, &gid);
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    kill(house.server, SIGCONT);
    cr_assert_eq(house_reap(own, 30), 0, "the server took it for somebody else");
    cr_assert_eq(house_reap(mallory, 30), 0);
    cr_assert(house_wait(&house, house_active_is, 0, 20));
    hostile_end(&house);
}

static struct hostile_word *asked;

static int take_long(belfry_conn *conn, void *user)
{
    (void)user;
    if (belfry_conn_uid(conn) == MALLORY) {
        hostile_say(asked, 1);
        nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    }
    return 0;
}

static int claim_and_stay(struct house *house, void *argument)
{
    (void)argument;
    if (hostile_claim(house, 0, BELFRY_ABI_VERSION, 1) < 0)
        return 1;
    for (;;)
        pause();
    return 0;
}

Test(others, are_not_let_at_what_somebody_else_has_taken_while_on_connect_was_asked)
{
    struct house house;
    char path[HOSTILE_PATH_BYTES];
    uint32_t gid = SERVER;
    asked = hostile_word();
    hostile_init(&house);
    house.options.shards = 1;
    house.options.max_slots = 1;
    house.options.on_connect = take_long;
    house_start(&house);
    pid_t mallory = house_process_as(MALLORY, MALLORY, claim_and_stay, &house, NULL);
    hostile_hear(asked);
    hostile_lock_path(&house, path, 0);
    cr_assert_eq(unlink(path), 0); /* as she could herself */
    pid_t own = house_process_as(SERVER, SERVER, ask_who, &house, &gid);
    cr_assert_eq(house_reap(own, 30), 0, "the server took it for somebody else");
    hostile_kill(mallory);
    hostile_end(&house);
}

/* SPDX-License-Identifier: MIT */
/*
 * taken.c: a client takes away the memory that it shares with the server: rows 14 to 16 of docs/THREATS.md.
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

TestSuite(taken, .timeout = 180);

static uint64_t ended(const struct house *house, enum belfry_end why)
{
    return house_stats(house).total.ends[why];
}

/* --- 14, 15: taken away ------------------------------------------------------------------------------------------------ */

/* A descriptor of one's own `_send`, with which it can be cut short. */
static int own_segment(const struct house *house, const belfry_client *c)
{
    char path[HOSTILE_PATH_BYTES], rest[64];
    snprintf(rest, sizeof rest, "segments/" SERVICE "_%u_send", c->slot);
    hostile_path(house, path, rest);
    return open(path, O_RDWR);
}

/* Cuts it short, and exits with 0 when it is told that this was the end. Whom a busy shard has parked it looks at once a minute:
   so it gives back what it took, rings, and takes it again, until then. */
static int cut(struct house *house, void *argument)
{
    belfry_client *c = hostile_attach(house);
    off_t left = *(off_t *)argument, whole = (off_t)segment_bytes(c->shared->lobby.geometry.ring_bytes);
    int fd = own_segment(house, c);
    for (int64_t until = SECONDS(20); load_acquire(&c->recv->end) == 0 && belfry_now_ns() < until;) {
        if (fd < 0 || ftruncate(fd, whole) < 0)
            return 1;
        hostile_ring(c);
        if (ftruncate(fd, left) < 0)
            return 1;
        for (int i = 0; i < 20 && load_acquire(&c->recv->end) == 0; i++)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return load_acquire(&c->recv->end) == BELFRY_END_PEER_FAULT ? 0 : 2;
}

Test(taken, row_14_who_cuts_his_file_short_ends_his_own_conn)
{
    static const off_t lengths[] = {0, 4096};
    struct house house;
    hostile_start(&house);
    struct hostile_guest bob = hostile_guest(&house, BOB);
    for (int i = 0; i < 10; i++)
        for (size_t n = 0; n < sizeof lengths / sizeof lengths[0]; n++) {
            uint32_t uid = i % 2 == 0 ? MALLORY : SERVER;
            pid_t mallory = house_process_as(uid, uid, cut, &house, (void *)&lengths[n]);
            cr_assert_eq(house_reap(mallory, 60), 0, "uid %u, cut to %ld", uid, (long)lengths[n]);
            hostile_served(&bob, 10);
        }
    cr_assert_eq(ended(&house, BELFRY_END_PEER_FAULT), 20);
    hostile_leave(&bob);
    hostile_end(&house);
}

/* The handler says that it reads, and reads on until the memory has been taken away. */
static struct hostile_word *reading, *taken;

static void read_while_it_is_taken(belfry_conn *conn, const belfry_message *m, void *user)
{
    uint64_t sum = 0;
    (void)user;
    if (m->size == 3000) {
        hostile_say(reading, 1);
        while (load_acquire(&taken->value) == 0)
            for (size_t i = 0; i < m->size; i++)
                sum += ((const volatile uint8_t *)m->data)[i];
        for (size_t i = 0; i < m->size; i++)
            sum += ((const volatile uint8_t *)m->data)[i];
    }
    belfry_reply(conn, m, &sum, m->size < sizeof sum ? m->size : sizeof sum);
}

static int cut_while_it_is_read(struct house *house, void *argument)
{
    static uint8_t text[3000];
    belfry_client *c;
    (void)argument;
    if (house_connect_rc(house, &c) < 0 || belfry_send(c, text, sizeof text, NULL) < 0)
        return 1;
    hostile_hear(reading);
    int fd = own_segment(house, c);
    int rc = fd < 0 || ftruncate(fd, 0) < 0 ? 2 : 0;
    hostile_say(taken, 1);
    for (int64_t until = SECONDS(20); load_acquire(&c->recv->end) == 0 && belfry_now_ns() < until;)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return rc == 0 && load_acquire(&c->recv->end) != BELFRY_END_PEER_FAULT ? 3 : rc;
}

Test(taken, row_14_who_cuts_it_under_a_handler_ends_his_own_conn)
{
    for (uint32_t uid = SERVER; uid <= ALICE; uid++) {
        struct house house;
        reading = hostile_word();
        taken = hostile_word();
        hostile_init(&house);
        house.options.on_message = read_while_it_is_taken;
        house_start(&house);
        cr_assert_eq(house_reap(house_process_as(uid, uid, cut_while_it_is_read, &house, NULL), 60), 0);
        cr_assert(house_wait(&house, house_active_is, 0, 20));
        cr_assert_eq(ended(&house, BELFRY_END_PEER_FAULT), 1);
        hostile_end(&house);
    }
}

/* What may be done with one's own `_send` by a server that may forbid it: exits with the number of ways. */
static int cut_what_is_protected(struct house *house, void *argument)
{
    char path[HOSTILE_PATH_BYTES], rest[64];
    belfry_client *c;
    (void)argument;
    if (house_connect_rc(house, &c) < 0)
        return 90;
    int fd = own_segment(house, c), ways = 0;
    for (uint64_t i = 0; i < 100; i++) /* from the first message on */
        if (house_echo(c, i, 1000) < 0)
            return 91;
    snprintf(rest, sizeof rest, "segments/" SERVICE "_%u_send", c->slot);
    hostile_path(house, path, rest);
    ways += fd < 0 || ftruncate(fd, 0) == 0 || errno != EPERM;
    ways += fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0 || errno != EPERM;
    ways += open(path, O_RDWR) >= 0 || errno != EPERM;
    ways += open(path, O_WRONLY | O_TRUNC) >= 0 || errno != EPERM;
    ways += house_echo(c, 1, 1000) < 0;
    belfry_close(c);
    return ways;
}

/* Has spoken, says whether its `_send` is protected by now (1), and stays. */
static int speak_and_stay(struct house *house, void *argument)
{
    belfry_client *c = hostile_attach(house);
    hostile_say(argument, own_segment(house, c) < 0 && errno == EPERM ? 1 : 2);
    pause();
    return 0;
}

Test(taken, row_14_a_server_that_may_forbids_it)
{
    struct house house;
    if (geteuid() != 0)
        cr_skip_test("only root can be several users");
    house_init_of(&house, 0);
    house.options.max_slots = 4 * house_shards(); /* each is used again and again: its files must get new names */
    house.options.warm_pool = 2 * house_shards();
    house_start(&house);
    for (int i = 0; i < 20; i++)
        cr_assert_eq(house_reap(house_process_as(MALLORY, MALLORY, cut_what_is_protected, &house, NULL), 30), 0);
    struct hostile_word *word = hostile_word();
    char dead[HOSTILE_PATH_BYTES];
    pid_t attached = house_process_as(MALLORY, MALLORY, speak_and_stay, &house, word);
    cr_assert_eq(hostile_hear(word), 1, "nothing is protected");
    hostile_kill(house.server);
    snprintf(dead, sizeof dead, "%s/" SERVICE "/1", house.root);
    cr_assert_eq(access(dead, F_OK), 0);
    house_start(&house);
    cr_assert_neq(access(dead, F_OK), 0, "what was protected is removed by the next start");
    hostile_kill(attached);
    cr_assert_eq(house_reap(house_process_as(MALLORY, MALLORY, cut_what_is_protected, &house, NULL), 30), 0);
    hostile_end(&house);
}

/* Gives back pages of its own `_send` that the server will want to read, and fills the file system with others; again,
   because the server may be quicker. */
static int punch(struct house *house, void *argument)
{
    static uint8_t text[65536];
    char path[HOSTILE_PATH_BYTES];
    belfry_client *c = hostile_attach(house);
    int fd = own_segment(house, c);
    (void)argument;
    hostile_path(house, path, "shard-0/.filler");
    int filler = open(path, O_CREAT | O_WRONLY, 0600);
    if (fd < 0 || filler < 0)
        return 1;
    for (int64_t until = SECONDS(20); load_acquire(&c->recv->end) == 0 && belfry_now_ns() < until;) {
        if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, SEGMENT_HEADER_BYTES, 1 << 20) < 0)
            return 2;
        for (size_t bytes = sizeof text; bytes > 0; bytes /= 2)
            while (write(filler, text, bytes) > 0)
                ;
        hostile_ring(c); /* then it looks at the ring, of which there is nothing left */
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    enum belfry_end end = (enum belfry_end)load_acquire(&c->recv->end);
    unlink(path);
    return end == BELFRY_END_PEER_FAULT ? 0 : 3;
}

Test(taken, row_15_who_punches_holes_into_a_full_file_system_ends_his_own_conn)
{
    struct house house;
    hostile_init(&house);
    hostile_mount(&house, "size=3m");
    house_start(&house);
    struct hostile_guest bob = hostile_guest(&house, BOB);
    cr_assert_eq(house_reap(house_process_as(MALLORY, MALLORY, punch, &house, NULL), 60), 0);
    hostile_served(&bob, 100);
    hostile_leave(&bob);
    hostile_visit(&house, ALICE);
    cr_assert_eq(house_stop(&house), 0);
    umount2(house.root, MNT_DETACH);
    house_clear(&house);
}

/* --- 16: the host program's own handler ---------------------------------------------------------------------------------- */

/* The host has a file of its own that is cut short under it, and mends that itself. */
static struct {
    struct sigaction before;
    uint8_t *map;
    bool chains;
} host;

static void on_host_bus(int number, siginfo_t *info, void *context)
{
    if ((uint8_t *)info->si_addr >= host.map && (uint8_t *)info->si_addr < host.map + 4096)
        mmap(host.map, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    else if (host.chains)
        host.before.sa_sigaction(number, info, context);
    else
        _exit(77);
}

static void install_host_handler(bool chains)
{
    struct sigaction action = {.sa_sigaction = on_host_bus, .sa_flags = SA_SIGINFO};
    host.chains = chains;
    sigaction(SIGBUS, &action, &host.before);
}

static int install_late(belfry_server *server, uint32_t shard, void *user)
{
    (void)server, (void)user;
    if (shard == 0)
        install_host_handler(true);
    return 0;
}

/* Any message makes the host touch its own file, too. */
static void touch_own_file(belfry_conn *conn, const belfry_message *m, void *user)
{
    char path[] = "/dev/shm/belfry-own-XXXXXX";
    (void)user;
    if (host.map == NULL) {
        int fd = mkstemp(path);
        unlink(path);
        uint8_t *map = ftruncate(fd, 4096) < 0 ? NULL : mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
        if (ftruncate(fd, 0) < 0)
            _exit(78);
        close(fd);
        host.map = map;
        if (*(volatile uint8_t *)map != 0) /* SIGBUS, and the host's handler */
            _exit(79);
    }
    belfry_reply(conn, m, m->data, m->size);
}

static void share_sigbus(bool late)
{
    static const off_t nothing = 0;
    struct house house;
    hostile_init(&house);
    house.options.on_message = touch_own_file;
    if (late)
        house.options.on_shard_start = install_late;
    else
        install_host_handler(false);
    house_start(&house);
    struct hostile_guest bob = hostile_guest(&house, BOB);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(house_reap(house_process_as(MALLORY, MALLORY, cut, &house, (void *)&nothing), 60), 0);
    hostile_served(&bob, 10);
    hostile_leave(&bob);
    hostile_end(&house);
}

Test(taken, row_16_a_handler_that_was_there_before_gets_what_is_its_own)
{
    share_sigbus(false);
}

Test(taken, row_16_a_handler_that_came_later_passes_on_what_is_not)
{
    share_sigbus(true);
}

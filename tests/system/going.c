/* SPDX-License-Identifier: MIT */
/* going.c: clients and servers that go, cleanly or not, and what the others notice. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "house.h"

TestSuite(going, .timeout = 120);

/* --- clients -------------------------------------------------------------------------------------------------------- */

/* Attached, in a slot that it tells, calling without end until it is killed. */
static int caller(struct house *house, void *argument)
{
    uint32_t *slot = argument;
    belfry_client *c;
    if (house_connect_rc(house, &c) < 0)
        return 1;
    __atomic_store_n(slot, belfry_client_slot(c) + 1, __ATOMIC_RELEASE);
    for (uint64_t i = 0;; i++)
        if (house_echo(c, i, i % 300) < 0)
            return 2;
}

static bool has_lock(const struct house *house, uint32_t slot)
{
    char ending[32];
    snprintf(ending, sizeof ending, "/slot_%u.lock", slot);
    return house_files(house, ending) == 1;
}

Test(going, fifty_killed_clients_leave_and_the_survivors_stay)
{
    enum { ALL = 100, KILLED = 50 };
    struct house house;
    pid_t pids[ALL];
    house_init(&house);
    house_start(&house);
    uint32_t *slots = mmap(NULL, ALL * sizeof *slots, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < ALL; i++)
        pids[i] = house_process(caller, &house, &slots[i]);
    cr_assert(house_wait(&house, house_active_is, ALL, 30));
    for (int i = 0; i < KILLED; i++)
        kill(pids[i], SIGKILL);
    for (int i = 0; i < KILLED; i++) { /* how long the kernel takes for that is not what is tested */
        int status;
        cr_assert(waitpid(pids[i], &status, 0) == pids[i] && WIFSIGNALED(status));
    }
    /* How soon depends on what processor the fifty leave that call without a pause. */
    cr_assert(house_wait(&house, house_active_is, ALL - KILLED, 60), "the dead are not gone");
    cr_assert(house_wait(&house, house_locks_are, ALL - KILLED, 60), "the lock files are not the survivors'");
    for (int i = KILLED; i < ALL; i++)
        cr_assert(has_lock(&house, slots[i] - 1), "slot %u lost its lock", slots[i] - 1);
    cr_assert_eq(house_stats(&house).total.ends[BELFRY_END_DIED], KILLED);
    cr_assert_eq(house_stats(&house).total.rescans, 0, "each was told of when it died");
    cr_assert_eq(house_stop(&house), 0);
    for (int i = KILLED; i < ALL; i++)
        cr_assert_eq(house_reap(pids[i], 10), 2, "the others were served until the server stopped");
    munmap(slots, ALL * sizeof *slots);
    house_clear(&house);
}

static bool ends_are(const struct house *house, uint64_t value)
{
    return house_stats(house).total.ends[BELFRY_END_LOCK_GONE] == value;
}

Test(going, a_lock_file_that_vanishes_ends_its_conn)
{
    struct house house;
    char path[256];
    house_init(&house);
    house_start(&house);
    belfry_client *c = house_connect(&house), *other = house_connect(&house);
    cr_assert_eq(house_echo(c, 1, 64), 0);
    cr_assert_eq(house_echo(other, 1, 64), 0);
    snprintf(path, sizeof path, "%s/%s/1/shard-%u/slot_%u.lock", house.root, SERVICE, belfry_client_shard(c),
             belfry_client_slot(c));
    cr_assert_eq(unlink(path), 0);
    cr_assert(house_wait(&house, ends_are, 1, 5));
    cr_assert_eq(house_echo(c, 2, 64), BELFRY_EGONE);
    cr_assert_eq(house_echo(other, 2, 64), 0);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

Test(going, a_handler_can_end_the_conn_and_fail_a_request)
{
    struct house house;
    belfry_message reply;
    house_init(&house);
    house_start(&house);
    belfry_client *c = house_connect(&house);
    cr_assert_eq(belfry_call(c, WORD_FAIL, 4, &reply, SECONDS(10)), BELFRY_EUSER - 7);
    cr_assert_not_null(strstr(belfry_last_error(), "as you wished"));
    cr_assert_eq(belfry_call(c, WORD_QUIET, 5, &reply, SECONDS(10)), BELFRY_EUNANSWERED);
    cr_assert_eq(belfry_call(c, WORD_KICK, 4, &reply, SECONDS(10)), BELFRY_EUNANSWERED);
    cr_assert_eq(house_echo(c, 1, 64), BELFRY_EGONE);
    cr_assert_eq(house_stats(&house).total.ends[BELFRY_END_KICKED], 1);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

/* The server's last words and the end come in one turn; the poller sleeps on the bell of another client by then. */
Test(going, a_poller_is_told_at_once_of_the_end_of_a_client_that_does_not_lead)
{
    struct house house;
    belfry_poller *poller;
    belfry_poll_event event;
    belfry_message m;
    house_init(&house);
    house.options.shards = 1;
    house_start(&house);
    belfry_client *leader = house_connect(&house), *member = house_connect(&house);
    cr_assert_eq(house_echo(leader, 1, 64), 0);
    cr_assert_eq(house_echo(member, 1, 64), 0);
    cr_assert_eq(belfry_poller_create(&poller), 0);
    cr_assert_eq(belfry_poller_add(poller, leader, NULL), 0);
    cr_assert_eq(belfry_poller_add(poller, member, NULL), 0);
    cr_assert_eq(belfry_send(member, WORD_NAP, 3, NULL), 0);
    cr_assert_eq(belfry_send(member, WORD_KICK, 4, NULL), 0);
    house_sleep_long(leader);
    house_sleep_long(member);
    cr_assert_eq(belfry_poller_wait(poller, &event, 1, SECONDS(20)), 1);
    cr_assert_eq(event.client, member);
    cr_assert_eq(belfry_client_rescued_wakes(leader) + belfry_client_rescued_wakes(member), 0,
                 "nobody woke the poller: it found the end by itself");
    cr_assert_eq(belfry_receive(member, &m, 0), 0);
    belfry_release(member, &m);
    cr_assert_eq(belfry_receive(member, &m, SECONDS(5)), 0);
    cr_assert_eq(m.status, BELFRY_EUNANSWERED);
    belfry_release(member, &m);
    cr_assert_eq(belfry_receive(member, &m, SECONDS(5)), BELFRY_EGONE);
    belfry_close(member);
    cr_assert_eq(house_echo(leader, 2, 64), 0);
    belfry_poller_destroy(poller);
    belfry_close(leader);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

/* Make a lock file by hand, as a client does that is stopped before it says hello. */
static int make_lock(const struct house *house, uint32_t slot, mode_t mode)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s/1/shard-0/slot_%u.lock", house->root, SERVICE, slot);
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, mode);
    cr_assert_geq(fd, 0);
    return fd;
}

Test(going, a_server_stops_at_once_although_a_claim_is_half_done)
{
    struct house house;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    house_init(&house);
    house_start(&house);
    int warm = make_lock(&house, 0, 0600);
    cr_assert_eq(fcntl(warm, F_OFD_SETLK, &lock), 0);
    belfry_client *c = house_connect(&house);
    cr_assert_eq(house_echo(c, 1, 64), 0);
    int64_t began = belfry_now_ns();
    cr_assert_eq(house_stop(&house), 0);
    cr_assert_lt(belfry_now_ns() - began, 10000000000ll, "the server waited for a hello");
    belfry_close(c);
    close(warm);
    house_clear(&house);
}

/* Hundreds of claims wait for their segments, and none of them will ever say hello. */
Test(going, a_server_stops_at_once_although_many_claims_wait_for_segments)
{
    enum { CLAIMS = 300 };
    struct house house;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fds[CLAIMS], status;
    house_init(&house);
    house.options.shards = 1;
    house.options.warm_pool = 0;
    pid_t server = house_start(&house);
    kill(server, SIGSTOP);
    cr_assert_eq(waitpid(server, &status, WUNTRACED), server);
    for (uint32_t i = 0; i < CLAIMS; i++) {
        fds[i] = make_lock(&house, i, 0600);
        cr_assert_eq(fcntl(fds[i], F_OFD_SETLK, &lock), 0);
    }
    kill(server, SIGCONT);
    int64_t began = belfry_now_ns();
    cr_assert_eq(house_stop(&house), 0);
    cr_assert_lt(belfry_now_ns() - began, 10000000000ll, "the server waited for a hello");
    for (uint32_t i = 0; i < CLAIMS; i++)
        close(fds[i]);
    house_clear(&house);
}

/* The member's own bell must be rung while it waits alone, and its leader's again afterwards. */
Test(going, a_member_of_a_poller_may_call_and_wait_on_its_own)
{
    struct house house;
    belfry_poller *poller;
    belfry_poll_event event;
    belfry_message m;
    house_init(&house);
    house.options.shards = 1;
    house_start(&house);
    belfry_client *leader = house_connect(&house), *member = house_connect(&house);
    cr_assert_eq(house_echo(leader, 1, 64), 0);
    cr_assert_eq(belfry_poller_create(&poller), 0);
    cr_assert_eq(belfry_poller_add(poller, leader, NULL), 0);
    cr_assert_eq(belfry_poller_add(poller, member, NULL), 0);
    house_sleep_long(member);
    cr_assert_eq(belfry_call(member, WORD_NAP, 3, &m, SECONDS(20)), 0);
    cr_assert_eq(belfry_client_rescued_wakes(member), 0, "its own timeout found the reply");
    belfry_release(member, &m);
    cr_assert_eq(belfry_send(member, WORD_NAP, 3, NULL), 0);
    house_sleep_long(leader);
    house_sleep_long(member);
    cr_assert_eq(belfry_poller_wait(poller, &event, 1, SECONDS(20)), 1);
    cr_assert_eq(event.client, member);
    cr_assert_eq(belfry_client_rescued_wakes(leader) + belfry_client_rescued_wakes(member), 0,
                 "the poller's timeout found the reply");
    belfry_close(member);
    belfry_close(leader);
    belfry_poller_destroy(poller);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

Test(going, a_lock_file_that_the_server_cannot_open_costs_no_slot)
{
    struct house house;
    house_init(&house);
    house.options.max_slots = 1;
    house.options.shards = 1;
    house_start(&house);
    int fd = make_lock(&house, 0, 0000);
    if (getuid() == 0) /* root may open it; but a client of another user has no business here either */
        cr_assert_eq(fchown(fd, 12345, 12345), 0);
    close(fd); /* an event that comes after the change */
    belfry_client *c;
    cr_assert_eq(house_connect_when_free(&house, &c), 0, "%s", belfry_last_error());
    cr_assert_eq(house_echo(c, 1, 64), 0);
    belfry_close(c);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

/* --- servers -------------------------------------------------------------------------------------------------------- */

Test(going, a_call_in_flight_ends_when_the_server_is_killed)
{
    struct house house;
    belfry_message reply;
    uint64_t id;
    house_init(&house);
    pid_t server = house_start(&house);
    belfry_client *c = house_connect(&house);
    cr_assert_eq(house_echo(c, 1, 64), 0);
    int status;
    kill(server, SIGSTOP);
    cr_assert_eq(waitpid(server, &status, WUNTRACED), server);
    cr_assert_eq(belfry_send(c, "x", 1, &id), 0);
    kill(server, SIGKILL);
    cr_assert_eq(belfry_receive(c, &reply, SECONDS(20)), BELFRY_EGONE);
    cr_assert_eq(belfry_send(c, "x", 1, &id), BELFRY_EGONE);
    belfry_close(c);
    house_clear(&house);
}

Test(going, a_killed_server_starts_again_and_the_dead_instance_is_swept)
{
    struct house house;
    belfry_client *early;
    house_init(&house);
    pid_t server = house_start(&house);
    belfry_client *c = house_connect(&house);
    cr_assert_eq(house_echo(c, 1, 64), 0);
    cr_assert_eq(belfry_client_instance(c), 1);
    kill(server, SIGKILL);
    cr_assert_eq(house_reap(server, 10), 128 + SIGKILL);
    cr_assert_eq(house_connect_rc(&house, &early), BELFRY_ENOSERVICE, "a dead server is no service");
    cr_assert_eq(house_echo(c, 2, 64), BELFRY_EGONE);
    belfry_close(c);
    house_start(&house);
    cr_assert_eq(house_files(&house, "lobby"), 1, "the dead instance was swept");
    c = house_connect(&house);
    cr_assert_eq(belfry_client_instance(c), 2);
    cr_assert_eq(house_echo(c, 3, 64), 0);
    belfry_close(c);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

Test(going, a_second_server_of_the_name_replaces_the_first_which_serves_its_own_to_the_end)
{
    struct house first, second;
    house_init(&first);
    second = first;
    house_start(&first);
    belfry_client *old = house_connect(&first);
    cr_assert_eq(house_echo(old, 1, 64), 0);
    house_start(&second);
    belfry_client *new = house_connect(&second);
    cr_assert_eq(belfry_client_instance(old), 1);
    cr_assert_eq(belfry_client_instance(new), 2);
    for (uint64_t i = 0; i < 100; i++) {
        cr_assert_eq(house_echo(old, i, 64), 0);
        cr_assert_eq(house_echo(new, i, 64), 0);
    }
    belfry_close(old);
    cr_assert_eq(house_reap(first.server, 20), 0, "when its last client has left the first server ends");
    cr_assert_eq(house_echo(new, 7, 64), 0);
    belfry_close(new);
    cr_assert_eq(house_stop(&second), 0);
    house_clear(&second);
}

static int serve_until_replaced(struct house *house, void *argument)
{
    belfry_server *server;
    (void)argument;
    house->options.root = house->root;
    int rc = belfry_server_create(&server, &house->options);
    if (rc == 0)
        rc = belfry_server_run(server);
    belfry_server_destroy(server);
    return rc < 0 ? 1 : 0;
}

static unsigned reap_ended(pid_t *pids, unsigned count)
{
    unsigned ended = 0;
    for (unsigned i = 0; i < count; i++) {
        int status;
        if (pids[i] != 0 && waitpid(pids[i], &status, WNOHANG) == pids[i]) {
            cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a server failed");
            pids[i] = 0;
        }
        ended += pids[i] == 0;
    }
    return ended;
}

Test(going, many_servers_of_one_name_at_once_leave_one)
{
    enum { SERVERS = 20 };
    struct house house;
    pid_t pids[SERVERS];
    house_init(&house);
    house.options.warm_pool = 2;
    house.options.max_slots = 8;
    for (int i = 0; i < SERVERS; i++)
        pids[i] = house_process(serve_until_replaced, &house, NULL);
    for (int64_t deadline = SECONDS(60); reap_ended(pids, SERVERS) < SERVERS - 1; usleep(1000))
        cr_assert(belfry_now_ns() < deadline, "%u of %d servers have ended", reap_ended(pids, SERVERS), SERVERS);
    belfry_client *c = house_connect(&house);
    cr_assert_eq(belfry_client_instance(c), SERVERS);
    cr_assert_eq(house_echo(c, 1, 64), 0);
    belfry_close(c);
    cr_assert_eq(house_files(&house, "lobby"), 1);
    for (int i = 0; i < SERVERS; i++)
        if (pids[i] != 0) {
            kill(pids[i], SIGTERM);
            cr_assert_eq(house_reap(pids[i], 20), 0);
        }
    house_clear(&house);
}

Test(going, a_server_that_is_replaced_while_inotify_lost_events_drains_all_the_same)
{
    struct house first, second;
    house_init(&first);
    second = first;
    pid_t old = house_start(&first);
    int status;
    kill(old, SIGSTOP);
    cr_assert_eq(waitpid(old, &status, WUNTRACED), old);
    for (uint32_t shard = 0; shard < house_shards(); shard++)
        house_overflow(&first, shard);
    house_start(&second);
    kill(old, SIGCONT);
    cr_assert_eq(house_reap(old, 20), 0);
    cr_assert_eq(house_stop(&second), 0);
    house_clear(&second);
}

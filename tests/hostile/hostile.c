/* SPDX-License-Identifier: MIT */
/* hostile.c: see hostile.h. */
#include "hostile.h"

#include <belfry/abi.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/os.h"
#include "client/client.h"

void hostile_init(struct house *house)
{
    if (geteuid() != 0)
        cr_skip_test("only root can be several users");
    house_init_of(house, SERVER);
}

void hostile_start(struct house *house)
{
    hostile_init(house);
    house_start(house);
}

void hostile_mount(struct house *house, const char *options)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", house->root, "tmpfs", 0, options) < 0) {
        int error = errno;
        house_clear(house);
        cr_skip_test("may not mount: %s", strerror(error));
    }
    cr_assert(chown(house->root, house->uid, house->uid) == 0 && chmod(house->root, 0711) == 0);
}

int hostile_serve(struct house *house, void *argument)
{
    belfry_server *server;
    (void)argument;
    house->options.root = house->root;
    int rc = belfry_server_create(&server, &house->options);
    if (rc == 0)
        rc = belfry_server_run(server);
    if (rc < 0)
        fprintf(stderr, "a server: %d: %s\n", rc, belfry_last_error());
    if (rc == 0)
        belfry_server_destroy(server);
    return rc < 0 ? 1 : 0;
}

void hostile_end(struct house *house)
{
    cr_assert_eq(house_stats(house).total.rescued_wakes, 0);
    hostile_end_all_the_same(house);
}

void hostile_end_all_the_same(struct house *house)
{
    cr_assert_eq(house_stop(house), 0);
    cr_assert_eq(house_files(house, ""), 1, "nothing but the start lock is left");
    house_clear(house);
}

void hostile_pause(const struct house *house)
{
    int status;
    cr_assert_eq(kill(house->server, SIGSTOP), 0);
    cr_assert_eq(waitpid(house->server, &status, WUNTRACED), house->server);
    cr_assert(WIFSTOPPED(status));
}

void hostile_kill(pid_t pid)
{
    kill(pid, SIGKILL);
    house_reap(pid, 30);
}

void hostile_set_limit(const char *path, const char *value, char before[32])
{
    before[0] = '\0';
    int fd = open(path, O_RDWR);
    ssize_t got = fd < 0 ? -1 : read(fd, before, 31);
    before[got > 0 ? got : 0] = '\0';
    if (fd >= 0 && (lseek(fd, 0, SEEK_SET) < 0 || write(fd, value, strlen(value)) < 0))
        before[0] = '\0';
    if (fd >= 0)
        close(fd);
}

struct hostile_word *hostile_word(void)
{
    void *map = mmap(NULL, sizeof(struct hostile_word), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert(map != MAP_FAILED);
    return map;
}

void hostile_say(struct hostile_word *word, uint32_t value)
{
    __atomic_store_n(&word->value, value, __ATOMIC_RELEASE);
}

uint32_t hostile_hear(struct hostile_word *word)
{
    uint32_t value;
    for (int64_t deadline = SECONDS(30); (value = __atomic_load_n(&word->value, __ATOMIC_ACQUIRE)) == 0;) {
        cr_assert(belfry_now_ns() < deadline, "nothing was said within 30 s");
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return value;
}

/* --- those who mean well --------------------------------------------------------------------------------------------- */

static int call_on(struct house *house, void *argument)
{
    struct hostile_word *calls = argument;
    belfry_client *c;
    if (house_connect_rc(house, &c) < 0)
        return 1;
    for (uint32_t i = 1;; i++) {
        int rc = house_echo(c, i, i % 2000);
        if (rc < 0) {
            fprintf(stderr, "call %u: %d: %s\n", i, rc, belfry_last_error());
            return 2;
        }
        hostile_say(calls, i + 1);
    }
}

struct hostile_guest hostile_guest(struct house *house, uint32_t uid)
{
    struct hostile_guest guest = {.calls = hostile_word()};
    guest.pid = house_process_as(uid, uid, call_on, house, guest.calls);
    hostile_hear(guest.calls);
    return guest;
}

static uint32_t calls_of(const struct hostile_guest *guest)
{
    return __atomic_load_n(&guest->calls->value, __ATOMIC_ACQUIRE);
}

void hostile_served(const struct hostile_guest *guest, uint32_t calls)
{
    for (uint32_t i = 0; i < calls; i++) {
        uint32_t before = calls_of(guest);
        cr_assert(hostile_wait(calls_of(guest) != before), "a neighbour is not served any more");
        if (calls_of(guest) - before >= calls - i)
            return;
        i += calls_of(guest) - before - 1;
    }
}

void hostile_leave(struct hostile_guest *guest)
{
    cr_assert_eq(waitpid(guest->pid, NULL, WNOHANG), 0, "a neighbour's call failed");
    hostile_kill(guest->pid);
}

static int call_a_few(struct house *house, void *argument)
{
    belfry_client *c;
    (void)argument;
    int rc = house_connect_rc(house, &c);
    for (uint64_t i = 0; i < 20 && rc == 0; i++)
        rc = house_echo(c, i, 100 * i);
    if (rc < 0)
        fprintf(stderr, "a visit failed: %d: %s\n", rc, belfry_last_error());
    if (rc == 0)
        belfry_close(c);
    return rc == 0 ? 0 : 1;
}

void hostile_visit(struct house *house, uint32_t uid)
{
    cr_assert_eq(house_reap(house_process_as(uid, uid, call_a_few, house, NULL), 30), 0);
}

int hostile_is_told(struct house *house, void *argument)
{
    belfry_client *c;
    int rc = house_connect_rc(house, &c);
    if (rc == *(int *)argument)
        return 0;
    fprintf(stderr, "connect gave %d: %s\n", rc, belfry_last_error());
    return 1;
}

/* --- by hand --------------------------------------------------------------------------------------------------------- */

void hostile_path(const struct house *house, char path[HOSTILE_PATH_BYTES], const char *rest)
{
    snprintf(path, HOSTILE_PATH_BYTES, "%s/" SERVICE "/current/%s", house->root, rest);
}

void hostile_lock_path(const struct house *house, char path[HOSTILE_PATH_BYTES], uint32_t slot)
{
    char rest[64];
    snprintf(rest, sizeof rest, "shard-%u/slot_%u.lock", slot % house_shards(), slot);
    hostile_path(house, path, rest);
}

int hostile_make_lock(const struct house *house, uint32_t slot)
{
    char path[HOSTILE_PATH_BYTES];
    hostile_lock_path(house, path, slot);
    return bf_os_open(BF_OS_CWD, path, BF_OS_WRITE | BF_OS_CREATE_NEW, 0600);
}

int hostile_claim(const struct house *house, uint32_t slot, uint32_t version, uint32_t pid)
{
    const struct belfry_abi_claim word = {.version = version, .pid = pid};
    int fd = hostile_make_lock(house, slot);
    int rc = fd < 0 ? fd : bf_os_write_at(fd, &word, sizeof word, 0);
    if (rc == 0)
        rc = bf_os_share(fd, 6, house->uid, 4);
    if (rc == 0)
        rc = bf_os_lock(fd);
    return rc < 0 ? rc : fd;
}

belfry_client *hostile_attach(struct house *house)
{
    belfry_client *c;
    if (house_connect_rc(house, &c) < 0 || house_echo(c, 1, 64) < 0)
        _exit(90);
    return c;
}

void hostile_ring(belfry_client *c)
{
    __atomic_fetch_add(&c->send->bell, 1, __ATOMIC_SEQ_CST);
    bf_os_wake(&c->send->bell);
}

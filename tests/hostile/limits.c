/* SPDX-License-Identifier: MIT */
/*
 * limits.c: every value of a limit, from none to enough (THREATS.md, rows 34 and 35): a server starts, or says what it lacks and
 * leaves nothing behind; one that serves goes on for those it has.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hostile.h"
#include "io/uring.h"
#include "server/server.h"

TestSuite(limits, .timeout = 180);

/* --- 34: descriptors ------------------------------------------------------------------------------------------------------ */

/* Names in the service's directory, or in the root when there is none: the start lock at most. */
static unsigned names_left(const struct house *house)
{
    char path[HOSTILE_PATH_BYTES];
    unsigned count = 0;
    snprintf(path, sizeof path, "%s/" SERVICE, house->root);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (dir != NULL)
        closedir(dir);
    return count;
}

struct limit {
    int number;
    const char *name;
    int wanted_rc; /* of a start that it does not let through */
};

static const struct limit descriptors = {RLIMIT_NOFILE, "RLIMIT_NOFILE", BELFRY_ENOFILES},
                          processes = {RLIMIT_NPROC, "RLIMIT_NPROC", -EAGAIN};

/* Try with that limit, which is raised again for the look at what is left. 0: it refused, as it should; 1: it works. */
static int try_limit(struct house *house, const struct limit *limit, rlim_t count, rlim_t enough)
{
    belfry_server *server;
    const struct rlimit few = {count, enough}, many = {enough, enough};
    unsigned before = house_proc_entries(getpid(), "fd"), threads = house_proc_entries(getpid(), "task");
    setrlimit((__rlimit_resource_t)limit->number, &few);
    int rc = belfry_server_create(&server, &house->options);
    rc = rc == 0 ? belfry_server_start(server) : rc;
    setrlimit((__rlimit_resource_t)limit->number, &many);
    if (rc < 0 && (rc != limit->wanted_rc || strstr(belfry_last_error(), limit->name) == NULL)) {
        fprintf(stderr, "%s %u: %d: %s\n", limit->name, (unsigned)count, rc, belfry_last_error());
        return -1;
    }
    belfry_server_destroy(server);
    unsigned after = house_proc_entries(getpid(), "fd"), names = names_left(house);
    /* The kernel wakes who joins a thread before it takes the thread out of /proc. */
    bool joined = hostile_wait(house_proc_entries(getpid(), "task") == threads);
    if (after != before || !joined || names > 1) {
        fprintf(stderr, "%s %u: %u descriptors afterwards, %u before, %u names and %s threads\n", limit->name,
                (unsigned)count, after, before, names, joined ? "as many" : "more");
        return -1;
    }
    return rc == 0;
}

static int try_all_descriptors(struct house *house, void *argument)
{
    int rc = 0;
    (void)argument;
    house->options.root = house->root;
    for (rlim_t count = 0; rc == 0 && count < 64 * house_shards(); count++)
        rc = try_limit(house, &descriptors, count, 1024);
    return rc == 1 ? 0 : 1;
}

Test(limits, row_34_with_any_number_of_descriptors_a_server_starts_or_says_that_it_lacks_them)
{
    struct house house;
    hostile_init(&house);
    cr_assert_eq(house_reap(house_process_as(SERVER, SERVER, try_all_descriptors, &house, NULL), 120), 0);
    house_start(&house);
    hostile_visit(&house, ALICE);
    hostile_end(&house);
}

/* This process is one, and each shard needs a thread. What else that user runs counts, too. */
static int try_all_processes(struct house *house, void *argument)
{
    rlim_t count = 0;
    int rc = 0;
    (void)argument;
    house->options.root = house->root;
    while (rc == 0 && count < 4096)
        rc = try_limit(house, &processes, count++, 4096);
    return rc == 1 && count > 1 + house_shards() ? 0 : 1;
}

Test(limits, row_34_with_any_number_of_processes_a_server_starts_or_says_that_it_lacks_them)
{
    struct house house;
    hostile_init(&house);
    cr_assert_eq(house_reap(house_process_as(SERVER, SERVER, try_all_processes, &house, NULL), 120), 0);
    house_clear(&house);
}

struct newcomer {
    uint32_t go;
    uint32_t begun;
};

static int come_when_told(struct house *house, void *argument)
{
    struct newcomer *n = argument;
    belfry_client *c;
    while (__atomic_load_n(&n->go, __ATOMIC_ACQUIRE) == 0)
        usleep(1000);
    int rc = house_connect_rc(house, &c);
    __atomic_store_n(&n->begun, 1, __ATOMIC_RELEASE);
    rc = rc == 0 ? house_echo(c, 1, 100) : rc;
    if (rc < 0)
        fprintf(stderr, "the newcomer: %d: %s\n", rc, belfry_last_error());
    return rc == 0 ? 0 : 1;
}

static void *shared_memory(size_t bytes)
{
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert(map != MAP_FAILED);
    return map;
}

/* In this process, whose limits we may change. */
static belfry_server *serve_here(struct house *house)
{
    belfry_server *server;
    house->options.root = house->root;
    house->options.stop_signals = false;
    cr_assert_eq(belfry_server_create(&server, &house->options), 0, "%s", belfry_last_error());
    cr_assert_eq(belfry_server_start(server), 0, "%s", belfry_last_error());
    return server;
}

Test(limits, row_34_a_server_without_a_descriptor_left_serves_those_it_has_and_newcomers_later)
{
    struct house house;
    struct rlimit before;
    house_init(&house);
    belfry_server *server = serve_here(&house);
    struct newcomer *n = shared_memory(sizeof *n);
    pid_t newcomer = house_process(come_when_told, &house, n);
    struct hostile_guest bob = hostile_guest(&house, geteuid());
    getrlimit(RLIMIT_NOFILE, &before);
    const struct rlimit none = {3, before.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    __atomic_store_n(&n->go, 1, __ATOMIC_RELEASE);
    cr_assert(hostile_wait(__atomic_load_n(&n->begun, __ATOMIC_ACQUIRE) == 1));
    hostile_served(&bob, 200);
    cr_assert_eq(waitpid(newcomer, NULL, WNOHANG), 0, "it cannot have been accepted");
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
    cr_assert_eq(house_reap(newcomer, 60), 0);
    hostile_served(&bob, 20);
    hostile_leave(&bob);
    belfry_server_destroy(server);
    cr_assert_eq(names_left(&house), 1, "nothing but the start lock is left");
    house_clear(&house);
}

/* All maps that this process may have: every second page of a large one is made different from its neighbours, and then one
   is added at a time. Gives where the large one is. */
static void *take_all_maps(size_t *bytes)
{
    long max = 0;
    FILE *file = fopen("/proc/sys/vm/max_map_count", "r");
    cr_assert(file != NULL && fscanf(file, "%ld", &max) == 1 && fclose(file) == 0);
    if (max > 1000000)
        cr_skip_test("vm.max_map_count is %ld, which takes too long to reach", max);
    *bytes = (size_t)max * 4096 + 4096;
    uint8_t *pages = mmap(NULL, *bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    cr_assert(pages != MAP_FAILED);
    for (size_t at = 4096; at < *bytes && mprotect(pages + at, 4096, PROT_READ) == 0; at += 8192)
        ;
    while (mmap(NULL, 4096, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
        ;
    cr_assert_eq(errno, ENOMEM);
    return pages;
}

struct visitor {
    uint32_t go, done;
    int32_t rc;
};

/* Made before, since a child would have as many maps. */
static int visit_when_told(struct house *house, void *argument)
{
    struct visitor *v = argument;
    belfry_client *c;
    while (__atomic_load_n(&v->go, __ATOMIC_ACQUIRE) == 0)
        usleep(1000);
    v->rc = house_connect_rc(house, &c);
    if (v->rc == 0) {
        v->rc = house_echo(c, 1, 100);
        belfry_close(c);
    }
    if (v->rc < 0)
        fprintf(stderr, "a visitor: %d: %s\n", v->rc, belfry_last_error());
    __atomic_store_n(&v->done, 1, __ATOMIC_RELEASE);
    return 0;
}

enum { VISITORS = 12 };

static void let_visit(struct visitor *v, bool has_maps)
{
    __atomic_store_n(&v->go, 1, __ATOMIC_RELEASE);
    cr_assert(hostile_wait(__atomic_load_n(&v->done, __ATOMIC_ACQUIRE) == 1));
    cr_assert(v->rc == 0 || (!has_maps && v->rc == BELFRY_ENOSPACE), "%d", v->rc);
}

/* Warm slots can be had; new ones cannot be made, and those who leave have theirs mapped for a while. */
Test(limits, row_34_a_server_without_a_map_left_serves_those_it_has_and_newcomers_later)
{
    struct house house;
    pid_t pids[VISITORS];
    size_t bytes;
#ifdef __SANITIZE_ADDRESS__
    cr_skip_test("AddressSanitizer ends a process that cannot give it another map");
#endif
    house_init(&house);
    house.options.warm_pool = 2;
    belfry_server *server = serve_here(&house);
    struct hostile_guest bob = hostile_guest(&house, geteuid());
    struct visitor *visitors = shared_memory(VISITORS * sizeof *visitors);
    for (int i = 0; i < VISITORS; i++)
        pids[i] = house_process(visit_when_told, &house, &visitors[i]);
    uint32_t refused = 0;
    void *pages = take_all_maps(&bytes);
    for (int i = 0; i < VISITORS / 2; i++) {
        let_visit(&visitors[i], false);
        refused += visitors[i].rc < 0;
        hostile_served(&bob, 20);
    }
    munmap(pages, bytes);
    cr_assert_gt(refused, 0, "the server had maps");
    for (int i = VISITORS / 2; i < VISITORS; i++)
        let_visit(&visitors[i], true);
    for (int i = 0; i < VISITORS; i++)
        cr_assert_eq(house_reap(pids[i], 30), 0);
    hostile_served(&bob, 20);
    hostile_leave(&bob);
    belfry_server_destroy(server);
    cr_assert_eq(names_left(&house), 1, "nothing but the start lock is left");
    house_clear(&house);
}

/* --- 34: inotify instances, locked memory ---------------------------------------------------------------------------------- */

static int take_all_instances(struct house *house, void *argument)
{
    belfry_server *server;
    (void)argument;
    const struct rlimit many = {4096, 4096};
    setrlimit(RLIMIT_NOFILE, &many);
    int fd, last = -1;
    while ((fd = inotify_init1(IN_CLOEXEC)) >= 0)
        last = fd;
    house->options.root = house->root;
    int rc = belfry_server_create(&server, &house->options);
    rc = rc == 0 ? belfry_server_start(server) : rc;
    bool told = rc == BELFRY_ENOFILES && strstr(belfry_last_error(), "max_user_instances") != NULL;
    belfry_server_destroy(server);
    return told && last >= 0 && names_left(house) <= 1 ? 0 : 1;
}

Test(limits, row_34_a_user_without_an_inotify_instance_is_told_so)
{
    struct house house;
    hostile_init(&house);
    cr_assert_eq(house_reap(house_process_as(SERVER, SERVER, take_all_instances, &house, NULL), 30), 0);
    house_clear(&house);
}

/* Since 5.12 the kernel counts an io_uring as the cgroup's memory, and not as the user's locked memory. */
static int lock_no_memory(struct house *house, void *argument)
{
    belfry_server *server;
    const struct rlimit none = {0, 0};
    (void)argument;
    setrlimit(RLIMIT_MEMLOCK, &none);
    house->options.root = house->root;
    int rc = belfry_server_create(&server, &house->options);
    rc = rc == 0 ? belfry_server_start(server) : rc;
    bool fits = rc == 0 || (rc == BELFRY_EMEMLOCK && strstr(belfry_last_error(), "RLIMIT_MEMLOCK") != NULL);
    belfry_server_destroy(server);
    return fits && names_left(house) <= 1 ? 0 : 1;
}

Test(limits, row_34_without_locked_memory_a_server_starts_or_says_that_it_lacks_it)
{
    struct house house;
    hostile_init(&house);
    cr_assert_eq(house_reap(house_process_as(SERVER, SERVER, lock_no_memory, &house, NULL), 30), 0);
    house_clear(&house);
}

/* --- 34: a small file system --------------------------------------------------------------------------------------------------- */

static void mount_small(const struct house *house, const char *what, unsigned value, const char *unit)
{
    char options[96];
    snprintf(options, sizeof options, "%s=%u%s,mode=0711,uid=%u,gid=%u", what, value, unit, house->uid, house->uid);
    if (mount("tmpfs", house->root, "tmpfs", 0, options) != 0)
        cr_skip_test("a tmpfs cannot be mounted here: %s", strerror(errno));
}

/* In file systems that are ever larger, until it starts. How many were too small. */
static unsigned grow_until_it_starts(struct house *house, const char *what, unsigned step, const char *unit)
{
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        cr_skip_test("no mount namespace: %s", strerror(errno));
    for (unsigned refused = 0; refused < 200; refused++) {
        mount_small(house, what, (refused + 1) * step, unit);
        int rc = house_start_rc(house);
        if (rc == 0)
            return refused;
        cr_assert_eq(rc, BELFRY_ENOSPACE, "%s=%u%s: %d", what, (refused + 1) * step, unit, rc);
        cr_assert_leq(names_left(house), 1, "%s=%u%s: something is left", what, (refused + 1) * step, unit);
        cr_assert_eq(umount(house->root), 0);
    }
    cr_assert_fail("no tmpfs is large enough");
    return 0;
}

static void serve_in_a_small_file_system(const char *what, unsigned step, const char *unit)
{
    struct house house;
    hostile_init(&house);
    house.options.warm_pool = 4;
    house.options.ring_bytes = 4096;
    house.options.message_bytes_max = 0;
    unsigned refused = grow_until_it_starts(&house, what, step, unit);
    cr_assert_geq(refused, 2);
    cr_assert_eq(house_stop(&house), 0);
    cr_assert_eq(names_left(&house), 1, "nothing but the start lock is left");
    cr_assert_eq(umount(house.root), 0);
    house_clear(&house);
}

Test(limits, row_34_a_tmpfs_of_any_size_is_enough_or_is_said_not_to_be)
{
    serve_in_a_small_file_system("size", 16, "k");
}

Test(limits, row_34_a_tmpfs_of_any_number_of_inodes_is_enough_or_is_said_not_to_be)
{
    serve_in_a_small_file_system("nr_inodes", 1, "");
}

/* --- 35: queues of the uring ------------------------------------------------------------------------------------------------------ */

static unsigned entries; /* of the submission queue, and half of the completion queue; 0: as the library has it */

int __real_bf_uring_open(struct bf_uring *u, unsigned submissions, unsigned completions);
int __wrap_bf_uring_open(struct bf_uring *u, unsigned submissions, unsigned completions);

int __wrap_bf_uring_open(struct bf_uring *u, unsigned submissions, unsigned completions)
{
    return entries == 0 ? __real_bf_uring_open(u, submissions, completions)
                        : __real_bf_uring_open(u, entries, 2 * entries);
}

enum { CROWD = 20, EACH = 50 };

struct crowd {
    struct house *house;
    uint32_t go;   /* so many calls each */
    uint32_t done; /* connects and calls of all */
    uint32_t failed;
};

static void crowd_fails(struct crowd *crowd, int rc)
{
    fprintf(stderr, "one of the crowd: %d: %s\n", rc, belfry_last_error());
    __atomic_add_fetch(&crowd->failed, 1, __ATOMIC_RELEASE);
}

/* All come, call once, and once more whenever they are told. */
static int be_one_of_many(struct house *house, void *argument)
{
    struct crowd *crowd = argument;
    static belfry_client *c[EACH];
    int rc = 0;
    for (int i = 0; i < EACH && rc == 0; i++) {
        rc = house_connect_rc(house, &c[i]);
        __atomic_add_fetch(&crowd->done, rc == 0, __ATOMIC_RELEASE);
    }
    for (uint32_t round = 1; rc == 0; round++) {
        while (__atomic_load_n(&crowd->go, __ATOMIC_ACQUIRE) < round)
            usleep(2000);
        for (int i = 0; i < EACH && rc == 0; i++) {
            rc = house_echo(c[i], round, 200);
            __atomic_add_fetch(&crowd->done, rc == 0, __ATOMIC_RELEASE);
        }
    }
    crowd_fails(crowd, rc);
    return 1;
}

struct waits {
    belfry_server *server;
    uint32_t conns, armed, counted;
    bool done;
};

/* On the shard's thread. */
static void count_waits(void *argument)
{
    struct waits *w = argument;
    const struct bf_shard *s = &w->server->shards[0];
    w->conns = s->conn_count;
    w->counted = s->waits_armed;
    for (uint32_t i = 0; i < s->pool.count; i++)
        w->armed += s->pool.slots[i].wait_armed;
    __atomic_store_n(&w->done, true, __ATOMIC_RELEASE);
}

/* Each open slot has one wait, and no other slot has. */
static bool all_wait(belfry_server *server, uint32_t conns)
{
    struct waits w = {.server = server};
    cr_assert_eq(belfry_post(server, 0, count_waits, &w), 0);
    cr_assert(hostile_wait(__atomic_load_n(&w.done, __ATOMIC_ACQUIRE)));
    return w.conns == conns && w.armed == conns && w.counted == conns;
}

/* How long it takes until all have come, and have called once in each round, is the machine's business: it has to go on. */
static void call_all(struct crowd *crowd, uint32_t round)
{
    uint32_t done;
    __atomic_store_n(&crowd->go, round, __ATOMIC_RELEASE);
    while ((done = __atomic_load_n(&crowd->done, __ATOMIC_ACQUIRE)) < (1 + round) * CROWD * EACH) {
        cr_assert(hostile_wait(__atomic_load_n(&crowd->done, __ATOMIC_ACQUIRE) != done || crowd->failed > 0),
                  "nobody comes or is served any more after %u", done);
        cr_assert_eq(crowd->failed, 0);
    }
}

Test(limits, row_35_a_uring_of_four_entries_serves_a_thousand_clients)
{
    struct house house;
    pid_t pids[CROWD];
    house_init(&house);
    house.options.shards = 1;
    house.options.max_slots = CROWD * EACH + 8;
    house.options.ring_bytes = 4096;
    house.options.message_bytes_max = 0;
    struct crowd *crowd = shared_memory(sizeof *crowd);
    entries = 4;
    belfry_server *server = serve_here(&house);
    for (int i = 0; i < CROWD; i++)
        pids[i] = house_process(be_one_of_many, &house, crowd);
    for (uint32_t round = 1; round <= 3; round++) {
        call_all(crowd, round);
        cr_assert(hostile_wait(all_wait(server, CROWD * EACH)), "not every open slot has exactly one wait");
    }
    for (int i = 0; i < CROWD; i++)
        kill(pids[i], SIGKILL);
    for (int i = 0; i < CROWD; i++)
        house_reap(pids[i], 30);
    cr_assert(hostile_wait(all_wait(server, 0)), "not every death was noticed");
    cr_assert_eq(house_stats(&house).total.ends[BELFRY_END_DIED], CROWD * EACH);
    cr_assert_eq(house_stats(&house).total.rescued_wakes, 0);
    belfry_server_destroy(server);
    house_clear(&house);
}

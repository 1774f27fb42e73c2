/* SPDX-License-Identifier: MIT */
/*
 * adversary.c: two users that do nothing but random system calls to a service that is open to everyone, while two others
 * are its clients.
 *
 * Each adversary's steps follow from a seed, which is printed: BELFRY_TEST_SEED repeats them, as far as the others' timing lets.
 * He makes, locks, shares, links, renames, truncates and removes files where lock files and segments are, maps what he may and
 * writes into it, wakes and moves whoever sleeps, connects and then breaks every rule, dies at any time. The clients must be
 * served within their deadlines, see no byte of anybody else's, and find every slot in order when he is gone.
 *
 * BELFRY_ADVERSARY_SECONDS says for how long; only root can play them all.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/os.h"
#include "client/client.h"
#include "fixture.h"
#include "hostile.h"

#define SECONDS_DEFAULT 5
#define ADVERSARIES 4u
#define GUESTS_COUNT 2u
#define SLOTS 32u
#define SLOTS_PER_USER 8u
#define FILES 16u
#define MAPS 4u
#define LIFE_STEPS 400u /* of one adversary at most; then he dies, and the next one comes */
#define CALLS_PER_VISIT 30u
#define VISIT_NS SECONDS(20)

TestSuite(adversary, .timeout = 4000);

/* --- the adversary ------------------------------------------------------------------------------------------------------ */

static struct {
    const struct house *house;
    struct fixture_random random;
    int files[FILES];
    struct {
        uint8_t *at;
        size_t bytes;
        bool writable;
    } maps[MAPS];
    belfry_client *client;
} own;

static uint32_t below(uint32_t limit)
{
    return (uint32_t)(fixture_next(&own.random) % limit);
}

/* A path that means something to the service, or nearly. */
static const char *some_path(char path[HOSTILE_PATH_BYTES])
{
    static const char *const others[] = {"lobby",
                                         "shard-0/slot_07.lock",
                                         "shard-0/slot_.lock",
                                         "shard-0/junk",
                                         "segments",
                                         "shard-0",
                                         "../current",
                                         "../.start",
                                         "shard-0/slot_4294967297.lock"};
    char rest[64];
    uint32_t slot = below(SLOTS + 2), what = below(10);
    if (what < 7) {
        hostile_lock_path(own.house, path, slot);
        return path;
    }
    if (what == 7)
        hostile_path(own.house, path, others[below(sizeof others / sizeof others[0])]);
    else {
        snprintf(rest, sizeof rest, "segments/" SERVICE "_%u_%s", slot, what == 8 ? "send" : "recv");
        hostile_path(own.house, path, rest);
    }
    return path;
}

static int *some_file(void)
{
    return &own.files[below(FILES)];
}

static void keep_file(int fd)
{
    int *place = some_file();
    if (fd < 0)
        return;
    if (*place >= 0)
        close(*place);
    *place = fd;
}

static void open_something(void)
{
    static const int flags[] = {O_RDONLY,        O_WRONLY | O_CREAT | O_EXCL, O_RDWR | O_CREAT | O_EXCL, O_RDWR, O_PATH,
                                O_RDWR | O_TRUNC};
    static const mode_t modes[] = {0600, 0600, 0640, 0666, 0, 0444};
    char path[HOSTILE_PATH_BYTES];
    int how = flags[below(6)] | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    keep_file(open(some_path(path), how, modes[below(6)]));
}

/* As a client does, or nearly. */
static void claim(void)
{
    uint32_t version = below(4) > 0 ? BELFRY_ABI_VERSION : below(100);
    int fd = hostile_claim(own.house, below(SLOTS), version, below(70000));
    keep_file(fd);
}

static void lock(int fd)
{
    struct flock how = {.l_type = (short)(below(3) == 0   ? F_RDLCK
                                          : below(3) == 0 ? F_UNLCK
                                                          : F_WRLCK),
                        .l_whence = SEEK_SET,
                        .l_start = below(4) == 0 ? below(100) : 0};
    switch (below(4)) {
    case 0:
        flock(fd, below(2) == 0 ? LOCK_EX | LOCK_NB : LOCK_UN);
        break;
    case 1:
        fcntl(fd, F_SETLK, &how);
        break;
    case 2:
        fcntl(fd, F_SETLEASE, below(2) == 0 ? F_WRLCK : F_UNLCK);
        break;
    default:
        fcntl(fd, F_OFD_SETLK, &how);
    }
}

static void change(int fd)
{
    uint64_t words[4] = {fixture_next(&own.random), 0, below(100), BELFRY_ABI_VERSION};
    off_t at = (off_t)below(20000);
    switch (below(6)) {
    case 0:
        if (ftruncate(fd, at) < 0)
            break;
        break;
    case 1:
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 4096);
        break;
    case 2:
        fallocate(fd, 0, at, 8192);
        break;
    case 3:
        fchmod(fd, (mode_t)below(01000));
        break;
    case 4:
        bf_os_share(fd, below(8), own.house->uid, below(8));
        break;
    default:
        bf_os_write_at(fd, words, sizeof words, (uint64_t)at);
    }
}

static void name_something(void)
{
    char one[HOSTILE_PATH_BYTES], two[HOSTILE_PATH_BYTES];
    some_path(one);
    some_path(two);
    switch (below(8)) {
    case 0:
        if (link(one, two) < 0)
            break;
        break;
    case 1:
        rename(one, two);
        break;
    case 2:
        mkdir(one, (mode_t)below(01000));
        break;
    case 3:
        rmdir(one);
        break;
    case 4:
        mkfifo(one, 0666);
        break;
    case 5:
        if (symlink(two, one) < 0)
            break;
        break;
    default:
        unlink(one);
    }
}

static void map_something(int fd)
{
    struct stat st;
    unsigned i = below(MAPS);
    bool writable = below(2) == 0;
    if (own.maps[i].at != NULL)
        munmap(own.maps[i].at, own.maps[i].bytes);
    own.maps[i].at = NULL;
    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size == 0)
        return;
    void *at = mmap(NULL, (size_t)st.st_size, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return;
    own.maps[i].at = at;
    own.maps[i].bytes = (size_t)st.st_size;
    own.maps[i].writable = writable || mprotect(at, own.maps[i].bytes, PROT_READ | PROT_WRITE) == 0;
}

static void use_map(void)
{
    unsigned i = below(MAPS);
    if (own.maps[i].at == NULL || own.maps[i].bytes < 16)
        return;
    uint32_t *word = (uint32_t *)(own.maps[i].at + below((uint32_t)own.maps[i].bytes / 4) * 4);
    switch (below(3)) {
    case 0:
        if (own.maps[i].writable)
            store_relaxed(word, below(3) == 0 ? below(200) : (uint32_t)fixture_next(&own.random));
        break;
    case 1:
        syscall(SYS_futex, word, FUTEX_WAKE, below(100), NULL, NULL, 0);
        break;
    default:
        syscall(SYS_futex, word, FUTEX_REQUEUE, 1, below(100), own.maps[i].at, 0);
    }
}

/* A client that breaks the rules: first of all it has to be one. */
static void misbehave(void)
{
    static const uint8_t some[4000];
    belfry_client *c = own.client;
    belfry_client_options o;
    belfry_client_options_init(&o, sizeof o);
    o.root = own.house->root;
    o.deadline_ns = belfry_in_ms(200);
    if (c == NULL) {
        belfry_connect(&own.client, own.house->service, &o);
        return;
    }
    uint8_t *send = (uint8_t *)c->send;
    size_t bytes = segment_bytes(c->shared->lobby.geometry.ring_bytes);
    switch (below(6)) {
    case 0:
        belfry_close(c);
        own.client = NULL;
        break;
    case 1:
        for (unsigned i = below(64); i > 0; i--)
            store_relaxed((uint32_t *)(send + below((uint32_t)bytes / 4) * 4), below(300));
        hostile_ring(c);
        break;
    case 2: /* where it is read next */
        store_relaxed((uint64_t *)ring_producer_entry(&c->out, c->out.position), fixture_next(&own.random));
        hostile_ring(c);
        break;
    case 3:
        store_relaxed(&c->send->consumed, fixture_next(&own.random));
        break;
    case 4:
        store_relaxed(&c->send->bell_at, BELFRY_BELL_AT(below(SLOTS), below(8)));
        belfry_send(c, some, below(sizeof some), NULL);
        break;
    default:
        belfry_send(c, some, below(sizeof some), NULL);
        hostile_ring(c);
    }
}

/* One's own child keeps what one had open, for a while. */
static void fork_holder(void)
{
    pid_t pid = fork();
    if (pid != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    _exit(0);
}

static void step(void)
{
    char path[HOSTILE_PATH_BYTES];
    int *file = some_file();
    switch (below(20)) {
    case 0:
    case 1:
    case 2:
        open_something();
        break;
    case 3:
    case 4:
        claim();
        break;
    case 5:
    case 6:
        lock(*file);
        break;
    case 7:
    case 8:
        change(*file);
        break;
    case 9:
    case 10:
    case 11:
        name_something();
        break;
    case 12:
        map_something(*file);
        break;
    case 13:
    case 14:
        use_map();
        break;
    case 15:
        if (*file >= 0)
            close(*file);
        *file = -1;
        break;
    case 16:
        chmod(some_path(path), (mode_t)below(01000));
        keep_file(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
        inotify_add_watch(*file, some_path(path), IN_ALL_EVENTS);
        break;
    case 17:
        if (below(20) == 0)
            fork_holder();
        break;
    default:
        misbehave();
    }
}

/* Of maps of his own, too, he may have taken the memory away. */
static void die_of_it(int number)
{
    (void)number;
    _exit(0);
}

struct life {
    uint64_t seed;
    struct hostile_word *steps; /* of all lives */
};

static int live(struct house *house, void *argument)
{
    const struct life *life = argument;
    own.house = house;
    own.random.state = life->seed;
    for (unsigned i = 0; i < FILES; i++)
        own.files[i] = -1;
    signal(SIGBUS, die_of_it);
    signal(SIGIO, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    for (uint32_t steps = below(LIFE_STEPS); steps > 0; steps--) {
        step();
        __atomic_fetch_add(&life->steps->value, 1, __ATOMIC_RELAXED);
    }
    return 0; /* without closing anything */
}

/* --- those who mean well ------------------------------------------------------------------------------------------------- */

/* Somebody else may have the last slots for a moment; not for long. */
static int visit(struct house *house, belfry_client **c)
{
    int64_t until = VISIT_NS;
    int rc;
    while ((rc = house_connect_rc(house, c)) == BELFRY_EFULL && belfry_now_ns() < until)
        ;
    return rc;
}

/* Comes, calls with bytes that nobody else has, goes, and comes again. */
static int be_guest(struct house *house, void *argument)
{
    struct hostile_word *calls = argument;
    uint64_t number = (uint64_t)geteuid() << 32;
    for (;;) {
        belfry_client *c;
        int rc = visit(house, &c);
        for (uint32_t i = 0; i < CALLS_PER_VISIT && rc == 0; i++) {
            int64_t late = VISIT_NS;
            rc = house_echo(c, number, (size_t)(number % 3000));
            number++;
            if (rc == 0 && belfry_now_ns() > late)
                rc = -ETIMEDOUT;
            __atomic_fetch_add(&calls->value, 1, __ATOMIC_RELEASE);
        }
        if (rc < 0) {
            fprintf(stderr, "uid %u, call %llu: %d: %s\n", geteuid(), (unsigned long long)(uint32_t)number, rc,
                    belfry_last_error());
            return 1;
        }
        belfry_close(c);
    }
}

/* --- the test ------------------------------------------------------------------------------------------------------------ */

/* Each slot, once, from a client of the server's own user, who has no quota. */
static int take_all(struct house *house, void *argument)
{
    static belfry_client *c[SLOTS];
    (void)argument;
    for (uint32_t i = 0; i < SLOTS; i++)
        if (visit(house, &c[i]) < 0 || house_echo(c[i], i, 100) < 0) {
            fprintf(stderr, "slot %u of %u: %s\n", i, SLOTS, belfry_last_error());
            return 1;
        }
    for (uint32_t i = 0; i < SLOTS; i++)
        belfry_close(c[i]);
    return 0;
}

static bool nothing_is_held(const struct house *house, uint64_t value)
{
    belfry_counters total = house_stats(house).total;
    return total.connections_active == value && total.outbox_bytes == 0 && total.allocated_bytes == 0;
}

/* Whoever has ended is followed by the next one, of the other user. */
static void send_adversaries(struct house *house, struct fixture_random *seeds, struct hostile_word *steps,
                             pid_t pids[ADVERSARIES])
{
    for (unsigned i = 0; i < ADVERSARIES; i++) {
        if (pids[i] != 0 && waitpid(pids[i], NULL, WNOHANG) == 0)
            continue;
        struct life life = {.seed = fixture_next(seeds), .steps = steps};
        uint32_t uid = i % 2 == 0 ? MALLORY : GUESTS;
        pids[i] = house_process_as(uid, uid, live, house, &life);
    }
}

static int seconds(void)
{
    const char *given = getenv("BELFRY_ADVERSARY_SECONDS");
    return given != NULL ? atoi(given) : SECONDS_DEFAULT;
}

/* Those that stay open: a server that looks at a name or makes a slot has one more for a moment. */
static unsigned descriptors(const struct house *house)
{
    unsigned least = UINT_MAX;
    for (int i = 0; i < 50; i++) {
        unsigned now = house_proc_entries(house->server, "fd");
        least = now < least ? now : least;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return least;
}

Test(adversary, random_calls_of_other_users_disturb_nobody)
{
    struct house house;
    struct fixture_random seeds;
    pid_t pids[ADVERSARIES] = {0};
    struct hostile_guest guests[GUESTS_COUNT];
    struct hostile_word *steps = hostile_word();
    hostile_init(&house);
    fixture_seed(&seeds, "adversary");
    house.options.max_slots = SLOTS;
    house.options.warm_pool = 4;
    house.options.uid_slots_max = SLOTS_PER_USER;
    house.options.uid_connects_max = 10000;
    house.options.claim_grace_ms = 100;
    house_start(&house);
    cr_assert_eq(house_reap(house_process_as(SERVER, SERVER, take_all, &house, NULL), 120), 0);
    unsigned files = descriptors(&house);
    for (unsigned i = 0; i < GUESTS_COUNT; i++) {
        guests[i].calls = hostile_word();
        uint32_t uid = i == 0 ? ALICE : BOB;
        guests[i].pid = house_process_as(uid, uid, be_guest, &house, guests[i].calls);
    }
    for (int64_t until = SECONDS(seconds()); belfry_now_ns() < until;) {
        send_adversaries(&house, &seeds, steps, pids);
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        for (unsigned i = 0; i < GUESTS_COUNT; i++)
            cr_assert_eq(waitpid(guests[i].pid, NULL, WNOHANG), 0, "a guest's call failed");
        cr_assert_eq(waitpid(house.server, NULL, WNOHANG), 0, "the server has died");
    }
    for (unsigned i = 0; i < ADVERSARIES; i++)
        hostile_kill(pids[i]);
    for (unsigned i = 0; i < GUESTS_COUNT; i++) {
        hostile_served(&guests[i], 2 * CALLS_PER_VISIT);
        hostile_leave(&guests[i]);
    }
    printf("adversary: %u steps, %u calls of guests\n", steps->value, guests[0].calls->value + guests[1].calls->value);
    cr_assert(steps->value > 0);
    cr_assert(house_wait(&house, nothing_is_held, 0, 60), "something is held by nobody");
    cr_assert_eq(house_reap(house_process_as(SERVER, SERVER, take_all, &house, NULL), 120), 0, "a slot is dead");
    cr_assert(house_wait(&house, nothing_is_held, 0, 60), "something is held by nobody");
    cr_assert(hostile_wait(descriptors(&house) <= files), "a descriptor is left");
    cr_assert_eq(house_stop(&house), 0);
    cr_assert_eq(house_files(&house, ""), 1, "nothing but the start lock is left");
    house_clear(&house);
}

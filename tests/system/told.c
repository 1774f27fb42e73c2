/* SPDX-License-Identifier: MIT */
/*
 * told.c: a thousand blocked clients and a server that is killed or stops: who tells them, and how soon does the last one
 * know?
 *
 * A client that is told is woken. One that is not finds out by itself at the end of a slice of its own timeout (1, 2, 4, 8
 * seconds), and its handle remembers which of the two its last sleep was: slices grow after a timeout and begin anew after
 * a wake. Here all begin in the longest, so that none ends while the server dies. With a thief among the waiters, who takes the
 * one wake that the kernel gives and keeps it, they begin in the first, and exactly that timeout is what tells them.
 *
 * How long it took is printed, beside what the signal to begin took: that is a bare futex with the same thousand waiters, so it
 * is what the machine needs by itself. It depends on the machine and what else it does, so no test demands any of it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <belfry/abi.h>

#include "client/client.h"
#include "house.h"

#define CLIENTS 1000
#define FEW 20 /* processes, of fifty clients each */
#define NS_PER_MS 1000000ll
#define LONGEST_SLICE 3 /* eight seconds */

TestSuite(told, .timeout = 300);

struct told_shared {
    uint32_t ready, go; /* clients that are connected; 1: wait now */
    uint32_t next;      /* number of the next client */
    uint32_t threads;   /* clients of each process */
    uint32_t slice;     /* that each begins to wait in */
    pid_t tid[CLIENTS];
    uint32_t told; /* clients that know */
    int64_t wait_ns[CLIENTS], told_ns[CLIENTS];
    int32_t rc[CLIENTS];
    bool by_itself[CLIENTS]; /* its own timeout ran out, and then it looked */

    uint32_t *obituary; /* the thief's, where it has mapped it */
    uint32_t thief_waits;
    int64_t stolen_ns;
};

struct crowd {
    struct house house;
    struct told_shared *shared;
    pid_t server, thief;
    pid_t clients[CLIENTS];
    int processes;
    int64_t went_ns, ended_ns;
};

static long futex(uint32_t *word, int operation, uint32_t value)
{
    return syscall(SYS_futex, word, operation, value, NULL, NULL, 0);
}

/* --- the server: it answers nobody who wants to wait ---------------------------------------------------------------- */

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    belfry_ticket ticket;
    (void)user;
    if (m->size == 4 && memcmp(m->data, "wait", 4) == 0)
        belfry_defer(conn, m, &ticket, NULL);
    else
        belfry_reply(conn, m, m->data, m->size);
}

/* --- a client ------------------------------------------------------------------------------------------------------- */

struct crowd_process {
    struct house *house;
    struct told_shared *shared;
};

/* Half of them wait for the answer to a call, half for whatever comes. */
static void *wait_to_be_told(void *context)
{
    const struct crowd_process *process = context;
    struct told_shared *shared = process->shared;
    uint32_t i = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED);
    belfry_client *c;
    belfry_message m;
    shared->tid[i] = (pid_t)syscall(SYS_gettid);
    int rc = house_connect_rc(process->house, &c);
    if (rc == 0)
        rc = house_echo(c, i, 64);
    __atomic_fetch_add(&shared->ready, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(&shared->go, __ATOMIC_ACQUIRE) == 0)
        futex(&shared->go, FUTEX_WAIT, 0);
    __atomic_store_n(&shared->wait_ns[i], belfry_now_ns(), __ATOMIC_RELEASE);
    if (rc == 0)
        c->slice = shared->slice;
    if (rc == 0)
        rc = i % 2 == 0 ? belfry_call(c, "wait", 4, &m, BELFRY_FOREVER) : belfry_receive(c, &m, BELFRY_FOREVER);
    shared->told_ns[i] = belfry_now_ns();
    shared->rc[i] = rc;
    shared->by_itself[i] = rc == BELFRY_EGONE && c->slice != 0;
    /* A process that ends keeps a processor busy for longer than one that is told. So nobody leaves before all know. */
    if (__atomic_add_fetch(&shared->told, 1, __ATOMIC_ACQ_REL) == CLIENTS)
        futex(&shared->told, FUTEX_WAKE, INT_MAX);
    for (uint32_t told; (told = __atomic_load_n(&shared->told, __ATOMIC_ACQUIRE)) < CLIENTS;)
        futex(&shared->told, FUTEX_WAIT, told);
    return NULL;
}

static int be_clients(struct house *house, void *argument)
{
    struct crowd_process process = {house, argument};
    pthread_t threads[CLIENTS];
    uint32_t count = process.shared->threads;
    for (uint32_t i = 1; i < count; i++)
        if (pthread_create(&threads[i], NULL, wait_to_be_told, &process) != 0)
            return 1;
    wait_to_be_told(&process);
    for (uint32_t i = 1; i < count; i++)
        pthread_join(threads[i], NULL);
    return 0;
}

/* --- a thief -------------------------------------------------------------------------------------------------------- */

/* Where the lobby keeps a shard's obituary, in a map that can only be read. */
static uint32_t *map_obituary(const struct house *house, uint32_t shard)
{
    char path[256];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s/1/lobby", house->root, SERVICE);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    cr_assert(fd >= 0 && fstat(fd, &st) == 0);
    uint8_t *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    cr_assert(map != MAP_FAILED);
    close(fd);
    const struct belfry_abi_lobby *lobby = (const void *)map;
    for (uint32_t i = 0; i < lobby->section_count; i++)
        if (lobby->section[i].kind == BELFRY_SECTION_SHARDS)
            return (uint32_t *)(void *)(map + lobby->section[i].offset + shard * lobby->section[i].stride +
                                        offsetof(struct belfry_abi_shard, obituary));
    cr_assert(false, "the lobby has no shards");
    return NULL;
}

/*
 * Another user cannot open the lobby (0400, in directories of 0700). So the map is made before it becomes another: as if
 * it had been handed the file. First in the queue, it gets the kernel's one wake, and tells nobody.
 */
static int steal(struct house *house, void *argument)
{
    struct told_shared *shared = argument;
    (void)house;
    if (setresgid(65534, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0)
        return 1;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* it was dropped with the uid */
    uint32_t word = __atomic_load_n(shared->obituary, __ATOMIC_ACQUIRE);
    __atomic_store_n(&shared->thief_waits, 1, __ATOMIC_RELEASE);
    if (futex(shared->obituary, FUTEX_WAIT, word) != 0)
        return 2;
    shared->stolen_ns = belfry_now_ns();
    return (__atomic_load_n(shared->obituary, __ATOMIC_ACQUIRE) & BELFRY_OBITUARY_DIED) != 0 ? 0 : 3;
}

/* --- a round -------------------------------------------------------------------------------------------------------- */

static bool is_asleep(pid_t pid)
{
    char path[64], text[256] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    const char *name_end = got > 0 ? strrchr(text, ')') : NULL;
    return name_end != NULL && name_end[2] == 'S';
}

static void wait_for(const char *what, const uint32_t *word, uint32_t value)
{
    for (int64_t deadline = SECONDS(120); __atomic_load_n(word, __ATOMIC_ACQUIRE) < value; usleep(1000))
        cr_assert(belfry_now_ns() < deadline, "%s: %u of %u", what, *word, value);
}

static void gather(struct crowd *crowd, int processes, uint32_t shards, bool thief)
{
    crowd->processes = processes;
    house_init(&crowd->house);
    crowd->house.options.on_message = on_message;
    crowd->house.options.shards = shards;
    crowd->house.options.max_slots = 1024;
    crowd->house.options.warm_pool = 256;
    crowd->house.options.ring_bytes = 4096;
    crowd->server = house_start(&crowd->house);
    crowd->shared = mmap(NULL, sizeof *crowd->shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert(crowd->shared != MAP_FAILED);
    crowd->thief = 0;
    if (thief) { /* before all others: who waits first is woken first */
        crowd->shared->obituary = map_obituary(&crowd->house, 0);
        crowd->thief = house_process(steal, &crowd->house, crowd->shared);
        wait_for("thieves", &crowd->shared->thief_waits, 1);
        for (int64_t deadline = SECONDS(10); !is_asleep(crowd->thief); usleep(1000))
            cr_assert(belfry_now_ns() < deadline, "the thief does not sleep");
    }
    crowd->shared->threads = (uint32_t)(CLIENTS / processes);
    for (int i = 0; i < processes; i++)
        crowd->clients[i] = house_process(be_clients, &crowd->house, crowd->shared);
    wait_for("clients", &crowd->shared->ready, CLIENTS);
}

/* Everybody falls asleep. */
static void let_them_wait(struct crowd *crowd, uint32_t slice)
{
    const struct told_shared *shared = crowd->shared;
    crowd->shared->slice = slice;
    crowd->went_ns = belfry_now_ns();
    __atomic_store_n(&crowd->shared->go, 1, __ATOMIC_RELEASE);
    futex(&crowd->shared->go, FUTEX_WAKE, INT_MAX);
    for (int i = 0; i < CLIENTS; i++)
        while (__atomic_load_n(&shared->wait_ns[i], __ATOMIC_ACQUIRE) == 0 || !is_asleep(shared->tid[i]))
            cr_assert(belfry_now_ns() - crowd->went_ns < 60000 * NS_PER_MS, "client %d does not sleep", i);
}

static int compare(const void *a, const void *b)
{
    int64_t difference = *(const int64_t *)a - *(const int64_t *)b;
    return (difference > 0) - (difference < 0);
}

/* End the server; every client must end with BELFRY_EGONE. Sorts told_ns and wait_ns; gives how many found out by
   themselves. */
static int end_server(struct crowd *crowd, int how)
{
    struct told_shared *shared = crowd->shared;
    int by_themselves = 0;
    crowd->ended_ns = belfry_now_ns();
    cr_assert(kill(crowd->server, how) == 0);
    for (int i = 0; i < crowd->processes; i++)
        cr_assert_eq(house_reap(crowd->clients[i], 60), 0);
    for (int i = 0; i < CLIENTS; i++) {
        cr_assert_eq(shared->rc[i], BELFRY_EGONE, "a client was told %d", shared->rc[i]);
        by_themselves += shared->by_itself[i];
    }
    cr_assert_eq(house_reap(crowd->server, 20), how == SIGKILL ? 128 + SIGKILL : 0);
    crowd->house.server = 0;
    qsort(shared->told_ns, CLIENTS, sizeof *shared->told_ns, compare);
    qsort(shared->wait_ns, CLIENTS, sizeof *shared->wait_ns, compare);
    return by_themselves;
}

static void disperse(struct crowd *crowd)
{
    munmap(crowd->shared, sizeof *crowd->shared);
    house_clear(&crowd->house);
}

static double ms(int64_t ns)
{
    return (double)ns / (double)NS_PER_MS;
}

static void say(const struct crowd *crowd, const char *how)
{
    const int64_t *told = crowd->shared->told_ns, *wait = crowd->shared->wait_ns;
    int64_t ended = crowd->ended_ns, went = crowd->went_ns;
    printf("told: %d clients in %d processes, %u shard(s), %s: the first knew after %.1f ms, half after "
           "%.1f, all after %.1f; a bare futex: %.1f, %.1f, %.1f\n",
           CLIENTS, crowd->processes, crowd->house.options.shards, how, ms(told[0] - ended),
           ms(told[CLIENTS / 2] - ended), ms(told[CLIENTS - 1] - ended), ms(wait[0] - went),
           ms(wait[CLIENTS / 2] - went), ms(wait[CLIENTS - 1] - went));
    fflush(stdout);
}

static void everybody_is_told(int processes, int how)
{
    struct crowd crowd;
    gather(&crowd, processes, house_shards(), false);
    let_them_wait(&crowd, LONGEST_SLICE);
    int by_themselves = end_server(&crowd, how);
    say(&crowd, how == SIGKILL ? "killed" : "stopped");
    cr_assert_eq(by_themselves, 0, "%d clients were not told", by_themselves);
    disperse(&crowd);
}

Test(told, a_thousand_blocked_clients_when_the_server_is_killed)
{
    everybody_is_told(FEW, SIGKILL);
}

Test(told, a_thousand_blocked_clients_when_the_server_stops)
{
    everybody_is_told(FEW, SIGTERM);
}

Test(told, a_thousand_blocked_processes_when_the_server_is_killed)
{
    everybody_is_told(CLIENTS, SIGKILL);
}

Test(told, a_thousand_blocked_clients_in_spite_of_a_thief)
{
    struct crowd crowd;
    if (getuid() != 0)
        cr_skip_test("only root can become another user");
    gather(&crowd, FEW, 1, true);
    let_them_wait(&crowd, 0);
    int by_themselves = end_server(&crowd, SIGKILL);
    say(&crowd, "killed, a thief");
    cr_assert_eq(house_reap(crowd.thief, 10), 0, "the thief was not woken");
    cr_assert_gt(by_themselves, 0, "the thief stole nothing");
    disperse(&crowd);
}

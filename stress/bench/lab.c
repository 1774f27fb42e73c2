/* SPDX-License-Identifier: MIT */
/* lab.c: see lab.h. */
#include "lab.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ticks.h"

#define READY_NS 60000000000ll  /* for a server to start, and for all clients to connect */
#define FINISH_NS 60000000000ll /* beyond the time that a run was given */
#define STOP_NS 5000000000ll
#define TICK_NS 1000000

enum stage { STAGE_STARTING = 0, STAGE_READY = 1, STAGE_DONE = 2 };

static void pause_tick(void)
{
    nanosleep(&(struct timespec){.tv_nsec = TICK_NS}, NULL);
}

void lab_pin(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (core == LAB_ANY_CORE || i == core)
            CPU_SET(i, &set);
    sched_setaffinity(0, sizeof set, &set);
}

/* In a child: die with the main process, and let ^C end the main process alone. */
static void become_child(pid_t parent, int signal)
{
    prctl(PR_SET_PDEATHSIG, signal);
    if (getppid() != parent)
        _exit(EXIT_FAILURE);
    prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul); /* a wait that lasts 50 us too long would be charged to the system */
}

pid_t lab_server_pid(const struct lab *lab)
{
    return atomic_load(&lab->board->service.pid);
}

bool lab_open(struct lab *lab)
{
    lab->board_bytes = sizeof *lab->board + lab->processes * sizeof lab->board->client[0];
    lab->board = mmap(NULL, lab->board_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    lab->client = calloc(lab->processes, sizeof *lab->client);
    if (lab->board == MAP_FAILED || lab->client == NULL)
        bench_die("no memory for %u client processes", lab->processes);
    struct bench_service *service = &lab->board->service;
    service->spoil_at = lab->setup.corrupt_one ? 100 : 0;
    pid_t parent = getpid();
    fflush(NULL);
    lab->server = fork();
    if (lab->server < 0)
        bench_die("fork: %s", strerror(errno));
    if (lab->server == 0) {
        become_child(parent, SIGTERM); /* not SIGKILL: it still removes its files */
        atomic_store(&service->pid, getpid());
        lab_pin(lab->server_core);
        lab->system->serve(&lab->setup, service);
        exit(EXIT_SUCCESS);
    }
    int64_t until_ns = clock_ns() + READY_NS;
    while (atomic_load(&service->ready) == 0) {
        int status;
        if (waitpid(lab->server, &status, WNOHANG) == lab->server) {
            fprintf(stderr, "belfry-bench: the server of %s ended while it started\n", lab->system->name);
            lab->server = 0;
            return false;
        }
        if (clock_ns() > until_ns) {
            fprintf(stderr, "belfry-bench: the server of %s does not become ready\n", lab->system->name);
            return false;
        }
        pause_tick();
    }
    return true;
}

/* --- in a client process ----------------------------------------------------------------------------------------- */

static void await(_Atomic uint32_t *word)
{
    while (atomic_load(word) == 0)
        syscall(SYS_futex, word, FUTEX_WAIT, 0, NULL, NULL, 0);
}

static void let_go(_Atomic uint32_t *word)
{
    atomic_store(word, 1);
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static int64_t own_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void lab_ready(struct lab *lab, struct lab_client *out)
{
    atomic_store(&out->stage, STAGE_READY);
    await(&lab->board->go);
    out->cpu_ns = -own_cpu_ns();
}

void lab_done(struct lab *lab, struct lab_client *out, uint64_t messages, double seconds)
{
    out->cpu_ns += own_cpu_ns();
    out->messages = messages;
    out->seconds = seconds;
    atomic_store(&out->stage, STAGE_DONE);
    await(&lab->board->leave);
}

/* --- in the main process ----------------------------------------------------------------------------------------- */

static void clients_kill(struct lab *lab)
{
    for (uint32_t i = 0; i < lab->processes; i++)
        if (lab->client[i] > 0)
            kill(lab->client[i], SIGKILL);
}

/* Have all clients come that far? -1: one has failed. */
static int clients_reached(struct lab *lab, enum stage stage)
{
    int status;
    pid_t ended = waitpid(-1, &status, WNOHANG);
    if (ended > 0) {
        fprintf(stderr, "belfry-bench: %s: %s ended too early, with %s %d\n", lab->system->name,
                ended == lab->server ? "the server" : "a client", WIFSIGNALED(status) ? "signal" : "status",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        lab->server = ended == lab->server ? 0 : lab->server;
        for (uint32_t i = 0; i < lab->processes; i++)
            lab->client[i] = lab->client[i] == ended ? 0 : lab->client[i];
        return -1;
    }
    for (uint32_t i = 0; i < lab->processes; i++)
        if (atomic_load(&lab->board->client[i].stage) < (uint32_t)stage)
            return 0;
    return 1;
}

static bool clients_await(struct lab *lab, enum stage stage, int64_t patience_ns)
{
    int64_t until_ns = clock_ns() + patience_ns;
    int reached;
    while ((reached = clients_reached(lab, stage)) == 0) {
        if (clock_ns() > until_ns) {
            fprintf(stderr, "belfry-bench: %s: the clients hang\n", lab->system->name);
            return false;
        }
        pause_tick();
    }
    return reached > 0;
}

static bool clients_reap(struct lab *lab)
{
    bool clean = true;
    for (uint32_t i = 0; i < lab->processes; i++) {
        int status = 0;
        if (lab->client[i] > 0 && waitpid(lab->client[i], &status, 0) == lab->client[i])
            clean &= WIFEXITED(status) && WEXITSTATUS(status) == 0;
        lab->client[i] = 0;
    }
    return clean;
}

static void sum_up(struct lab *lab, int64_t server_cpu_ns)
{
    int64_t client_cpu_ns = 0;
    lab->messages = 0;
    lab->per_second = 0;
    lab->rtt_ns = (struct histogram){0};
    for (uint32_t i = 0; i < lab->processes; i++) {
        const struct lab_client *client = &lab->board->client[i];
        histogram_merge(&lab->rtt_ns, &client->rtt_ns);
        lab->messages += client->messages;
        lab->per_second += client->seconds > 0 ? (double)client->messages / client->seconds : 0;
        client_cpu_ns += client->cpu_ns;
    }
    double messages = lab->messages > 0 ? (double)lab->messages : 1;
    lab->server_cpu_ns = (double)server_cpu_ns / messages;
    lab->client_cpu_ns = (double)client_cpu_ns / messages;
}

static void client_process(struct lab *lab, uint32_t index, pid_t parent,
                           void (*body)(struct lab *, uint32_t, struct lab_client *))
{
    become_child(parent, SIGKILL);
    lab_pin(lab->client_core);
    body(lab, index, &lab->board->client[index]);
    _exit(EXIT_SUCCESS); /* a thousand farewells of libraries that only a few of them have used would take seconds */
}

bool lab_run(struct lab *lab, void (*body)(struct lab *lab, uint32_t process, struct lab_client *out))
{
    pid_t parent = getpid();
    memset(lab->board->client, 0, lab->processes * sizeof lab->board->client[0]);
    atomic_store(&lab->board->go, 0);
    atomic_store(&lab->board->leave, 0);
    fflush(NULL);
    for (uint32_t i = 0; i < lab->processes; i++) {
        lab->client[i] = fork();
        if (lab->client[i] == 0)
            client_process(lab, i, parent, body);
        if (lab->client[i] < 0)
            bench_die("fork: %s", strerror(errno));
    }
    bool ok = clients_await(lab, STAGE_READY, READY_NS);
    struct proc_cpu before = proc_cpu(lab_server_pid(lab));
    let_go(&lab->board->go);
    if (ok)
        ok = clients_await(lab, STAGE_DONE, FINISH_NS + (int64_t)(lab->seconds * 1e9));
    struct proc_cpu after = proc_cpu(lab_server_pid(lab));
    if (!ok)
        clients_kill(lab);
    else if (lab->look != NULL)
        lab->look(lab);
    let_go(&lab->board->leave);
    ok &= clients_reap(lab);
    if (ok)
        sum_up(lab, after.run_ns - before.run_ns);
    return ok;
}

bool lab_close(struct lab *lab)
{
    bool clean = lab->server > 0;
    int status = 0;
    if (clean) {
        kill(lab->server, SIGTERM);
        int64_t until_ns = clock_ns() + STOP_NS;
        while (waitpid(lab->server, &status, WNOHANG) == 0) {
            if (clock_ns() > until_ns) {
                fprintf(stderr, "belfry-bench: the server of %s does not stop; it is killed\n", lab->system->name);
                kill(lab->server, SIGKILL);
                waitpid(lab->server, &status, 0);
                break;
            }
            pause_tick();
        }
        bool asked = WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM; /* the default, for most */
        clean = asked || (WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    munmap(lab->board, lab->board_bytes);
    free(lab->client);
    return clean;
}

/* SPDX-License-Identifier: MIT */
/* nursery.c: the process that has all clients: small, so that a fork is quick. See torture.h. */
#include "torture.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t child[CLIENTS_MAX]; /* 0: none */

/* Who sits there has been killed. Only here are clients reaped, so the referee never kills a stranger. */
static void bury(uint32_t number)
{
    int status;
    if (child[number] == 0)
        return;
    while (waitpid(child[number], &status, 0) < 0 && errno == EINTR)
        ;
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        violation(BAD_CODE, "a client ended otherwise than by SIGKILL");
    __atomic_store_n(&board->life[board->seat[number].life % LIVES].gone_ns, belfry_now_ns(), __ATOMIC_RELEASE);
    child[number] = 0;
    __atomic_store_n(&board->seat[number].pid, 0, __ATOMIC_RELEASE);
}

static _Noreturn void be_born(uint32_t number, uint32_t life, pid_t parent)
{
    struct seat *seat = &board->seat[number];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    board->life[life % LIVES] = (struct life){.number = life};
    __atomic_store_n(&board->life_of_pid[(uint32_t)getpid() % LIVES], life, __ATOMIC_RELEASE);
    seat->life = life;
    __atomic_store_n(&seat->pid, getpid(), __ATOMIC_RELEASE); /* from here on it can be killed */
    client_live(number, life);
}

void nursery_live(int orders)
{
    uint32_t number, lives = 0;
    pid_t parent = getpid();
    while (read(orders, &number, sizeof number) == (ssize_t)sizeof number) {
        bury(number);
        lives++;
        pid_t pid = fork();
        if (pid == 0)
            be_born(number, lives, parent);
        if (pid < 0)
            violation(NOT_STARTED, "cannot fork a client");
        else
            child[number] = pid;
    }
    for (number = 0; number < CLIENTS_MAX; number++) {
        if (child[number] != 0)
            kill(child[number], SIGKILL);
        bury(number);
    }
    _exit(0);
}

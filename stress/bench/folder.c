/* SPDX-License-Identifier: MIT */
/* folder.c: see folder.h. */
#include "folder.h"

#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "system.h"

#define STOP_SECONDS 10 /* for orphans, before they are killed */

static char folder[PATH_MAX / 2];
static pid_t runner;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st, (void)type, (void)where;
    remove(path);
    return 0;
}

const char *folder_open(void)
{
    static char path[PATH_MAX];
    static unsigned count;
    snprintf(path, sizeof path, "%s/%u", folder, count++);
    if (mkdir(path, 0700) < 0)
        bench_die("mkdir %s: %s", path, strerror(errno));
    return path;
}

void folder_close(const char *path)
{
    nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void pass_on(int number)
{
    kill(runner, number);
}

/* ^C reaches the runner from the terminal; a lone SIGTERM must be handed to it. Its orphans become our children. */
static int outlive(void)
{
    int status = 0, last = 0;
    sigaction(SIGINT, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = pass_on, .sa_flags = SA_RESTART}, NULL);
    while (waitpid(runner, &status, 0) < 0 && errno == EINTR)
        ;
    for (int tenths = 0; tenths < STOP_SECONDS * 10; tenths++) {
        while (waitpid(-1, &last, WNOHANG) > 0)
            ;
        if (waitpid(-1, &last, WNOHANG) < 0)
            break;
        usleep(100000);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE;
}

int folder_guard(int (*body)(void *user), void *user)
{
    const char *root = getenv("BELFRY_ROOT");
    pid_t parent = getpid();
    snprintf(folder, sizeof folder, "%s/belfry-bench-%d", root != NULL && *root ? root : "/dev/shm", (int)parent);
    if (mkdir(folder, 0700) < 0)
        bench_die("mkdir %s: %s", folder, strerror(errno));
    prctl(PR_SET_CHILD_SUBREAPER, 1ul, 0ul, 0ul, 0ul);
    fflush(NULL);
    runner = fork();
    if (runner == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        exit(getppid() == parent ? body(user) : EXIT_FAILURE);
    }
    int status = runner > 0 ? outlive() : EXIT_FAILURE;
    folder_close(folder);
    return status;
}

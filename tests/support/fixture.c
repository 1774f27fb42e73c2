/* SPDX-License-Identifier: MIT */
/* fixture.c: see fixture.h. */
#include "fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void fixture_root_make(char path[FIXTURE_PATH_BYTES])
{
    static char below[FIXTURE_PATH_BYTES]; /* the first $BELFRY_ROOT: it is changed here */
    const char *given = getenv("BELFRY_ROOT");
    if (below[0] == '\0')
        snprintf(below, sizeof below, "%s", given != NULL ? given : "/dev/shm");
    snprintf(path, FIXTURE_PATH_BYTES, "%.200s/belfry-unit-XXXXXX", below);
    if (mkdtemp(path) == NULL) {
        perror(path);
        abort();
    }
    setenv("BELFRY_ROOT", path, 1);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st;
    (void)kind;
    (void)where;
    return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

void fixture_remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

pid_t fixture_child(void (*body)(void *context), void *context)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it died before we could say so */
        _exit(1);
    body(context);
    _exit(0);
}

int fixture_reap(pid_t pid)
{
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status;
}

void fixture_kill(pid_t pid)
{
    kill(pid, SIGKILL);
    fixture_reap(pid);
}

int64_t fixture_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000ll + t.tv_nsec / 1000000;
}

void fixture_pause(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

int fixture_count_files(const char *path, const char *part)
{
    DIR *dir = opendir(path);
    int count = 0;
    if (dir == NULL)
        return -1;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += (entry->d_name[0] != '.' || part[0] == '.') && strstr(entry->d_name, part) != NULL;
    closedir(dir);
    return count;
}

int fixture_count_fds(void)
{
    return fixture_count_files("/proc/self/fd", "") - 1; /* less the one that looks */
}

uint64_t fixture_mapped_bytes(void)
{
    unsigned long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "re");
    if (statm == NULL || fscanf(statm, "%lu", &pages) != 1)
        abort();
    fclose(statm);
    return pages * 4096ull;
}

uint64_t fixture_seed(struct fixture_random *r, const char *what)
{
    const char *given = getenv("BELFRY_TEST_SEED");
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : (uint64_t)t.tv_sec * 1000000007u ^ (uint64_t)t.tv_nsec;
    printf("%s: BELFRY_TEST_SEED=%llu\n", what, (unsigned long long)seed);
    fflush(stdout);
    r->state = seed;
    return seed;
}

uint64_t fixture_next(struct fixture_random *r)
{
    uint64_t x = r->state += 0x9e3779b97f4a7c15ull; /* splitmix64 */
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

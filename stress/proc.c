/* SPDX-License-Identifier: MIT */
/* proc.c: see proc.h. */
#include "proc.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* schedstat of a thread: time on a core in ns, time waiting for one in ns, times that it was given one. */
struct proc_cpu proc_cpu(pid_t pid)
{
    struct proc_cpu cpu = {.run_ns = PROC_UNKNOWN, .wait_ns = PROC_UNKNOWN, .wakeups = PROC_UNKNOWN};
    char path[320];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        return cpu;
    int64_t run_ns = 0, wait_ns = 0, wakeups = 0;
    bool known = false;
    for (struct dirent *task; (task = readdir(tasks));) {
        if (task->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", (int)pid, task->d_name);
        FILE *f = fopen(path, "re");
        int64_t run = 0, wait = 0, times = 0;
        if (f && fscanf(f, "%" SCNd64 " %" SCNd64 " %" SCNd64, &run, &wait, &times) == 3) {
            run_ns += run;
            wait_ns += wait;
            wakeups += times;
            known = true;
        }
        if (f)
            fclose(f);
    }
    closedir(tasks);
    if (known)
        cpu = (struct proc_cpu){.run_ns = run_ns, .wait_ns = wait_ns, .wakeups = wakeups};
    return cpu;
}

static void read_status(pid_t pid, struct proc_size *size)
{
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "re");
    int64_t kib;
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "VmRSS: %" SCNd64, &kib) == 1)
            size->rss_bytes = kib * 1024;
        else if (sscanf(line, "RssAnon: %" SCNd64, &kib) == 1)
            size->rss_anon_bytes = kib * 1024;
        else if (sscanf(line, "VmPTE: %" SCNd64, &kib) == 1)
            size->page_table_bytes = kib * 1024;
    }
    if (f)
        fclose(f);
}

static int64_t count_entries(const char *path)
{
    DIR *directory = opendir(path);
    if (!directory)
        return PROC_UNKNOWN;
    int64_t count = 0;
    for (struct dirent *entry; (entry = readdir(directory));)
        count += entry->d_name[0] != '.';
    closedir(directory);
    return count;
}

static int64_t count_lines(const char *path)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return PROC_UNKNOWN;
    int64_t count = 0;
    for (int c; (c = getc_unlocked(f)) != EOF;)
        count += c == '\n';
    fclose(f);
    return count;
}

struct proc_size proc_size(pid_t pid)
{
    struct proc_size size = {.rss_bytes = PROC_UNKNOWN,
                             .rss_anon_bytes = PROC_UNKNOWN,
                             .page_table_bytes = PROC_UNKNOWN};
    char path[64];
    read_status(pid, &size);
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    size.fds = count_entries(path);
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    size.maps = count_lines(path);
    return size;
}

int64_t proc_directory_bytes(const char *path)
{
    DIR *directory = opendir(path);
    if (!directory)
        return PROC_UNKNOWN;
    int64_t bytes = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        struct stat st;
        if (fstatat(dirfd(directory), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            bytes += (int64_t)st.st_blocks * 512;
    }
    closedir(directory);
    return bytes;
}

void proc_raise_nofile(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* SPDX-License-Identifier: MIT */
/* proc.h: what the kernel says about a process and about files. What it does not say is PROC_UNKNOWN, never 0. */
#ifndef STRESS_PROC_H
#define STRESS_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define PROC_UNKNOWN (-1)

/* Sums over all threads. Exact to the nanosecond, where clock ticks would call 4 ms in 10 s nothing. */
struct proc_cpu {
    int64_t run_ns;
    int64_t wait_ns; /* for a core, while it could have run */
    int64_t wakeups; /* times that a thread was put on a core */
};

struct proc_size {
    int64_t rss_bytes;
    int64_t rss_anon_bytes; /* of these, the process's own; the rest are shared memory and files */
    int64_t page_table_bytes;
    int64_t fds;
    int64_t maps;
};

struct proc_cpu proc_cpu(pid_t pid);
struct proc_size proc_size(pid_t pid);

/* Memory that the files in a directory take, in bytes: blocks, not lengths. */
int64_t proc_directory_bytes(const char *path);

/* Raise the soft limit of descriptors to the hard one. A program may; a library must not. */
void proc_raise_nofile(void);

#endif

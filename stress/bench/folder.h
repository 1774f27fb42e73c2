/* SPDX-License-Identifier: MIT */
/*
 * folder.h: the directory on tmpfs where a run's sockets and rings live, and who takes it away.
 *
 * The processes of a run may be killed at any moment, the main process too. So the program is two: one that runs, and
 * one that only waits until all the others have ended, however they did, and then removes the directory.
 */
#ifndef BENCH_FOLDER_H
#define BENCH_FOLDER_H

/* Make the directory, below $BELFRY_ROOT or /dev/shm, run `body` in a child, clean up. Returns the exit status. */
int folder_guard(int (*body)(void *user), void *user);

/* A new empty directory in it, and the removal of that one. */
const char *folder_open(void);
void folder_close(const char *path);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * service.h: the echo server under load, in a process of its own, or one that somebody else runs.
 *
 * It is forked before any thread exists, so the child may do whatever it likes. It proves each request before it
 * echoes it, so a message that was spoilt on its way in is told apart from one that was spoilt on its way out.
 */
#ifndef STRESS_SERVICE_H
#define STRESS_SERVICE_H

#include "board.h"
#include "options.h"

#include <belfry/types.h>
#include <sys/types.h>

#define SERVICE_ECORRUPT (BELFRY_EUSER - 1) /* the server's answer to a request whose checksum is wrong */

struct service {
    char name[80];
    pid_t pid;   /* whose /proc is read */
    bool ours;   /* started here: a child of this process */
    bool exited; /* ours, and already reaped */
    int status;  /* then: as from waitpid */
};

/*
 * Start a server (or, with --service, find it) and wait until it takes clients. Returns 0, or the library's code after
 * a sentence on standard error; then nothing is left running. Call it while this process has one thread.
 */
int service_start(struct service *s, const struct options *o, struct board_shared *b);

/* Has our server ended on its own? Does not block. */
bool service_gone(struct service *s);

/* Stop our server, wait for it, and remove what it left behind. True: that was nothing (or it was never ours). */
bool service_stop(struct service *s, const struct options *o);

/* Where the files of this instance's segments lie: <root>/<name>/<instance>/segments. */
void service_segments_path(const struct service *s, const struct options *o, uint64_t instance, char *out,
                           size_t out_bytes);

#endif

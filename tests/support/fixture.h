/* SPDX-License-Identifier: MIT */
/*
 * fixture.h: what tests of several layers need: a root of their own, child processes, waiting for something to become
 * true. Knows nothing of belfry; server_fixture.h does.
 */
#ifndef BF_TESTS_FIXTURE_H
#define BF_TESTS_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define FIXTURE_PATH_BYTES 256
#ifndef FIXTURE_PATIENCE_MS       /* less where tests are meant to fail (tests/museum) */
#define FIXTURE_PATIENCE_MS 20000 /* how long `eventually` waits: long enough for a loaded machine */
#endif

/* A fresh directory on tmpfs, 0700, in $BELFRY_ROOT or /dev/shm; becomes $BELFRY_ROOT. */
void fixture_root_make(char path[FIXTURE_PATH_BYTES]);
void fixture_remove_tree(const char *path);

/* Fork; the child runs `body`, which should not return, and dies with its parent. */
pid_t fixture_child(void (*body)(void *context), void *context);

/* Wait for the child; returns its wait status. */
int fixture_reap(pid_t pid);

/* kill -9, and wait. */
void fixture_kill(pid_t pid);

int64_t fixture_now_ms(void);
void fixture_pause(void); /* 1 ms */

/* Look until the condition holds or patience is over. Gives whether it held. */
#define eventually(condition)                                        \
    ({                                                               \
        int64_t until_ = fixture_now_ms() + FIXTURE_PATIENCE_MS;     \
        bool holds_;                                                 \
        while (!(holds_ = (condition)) && fixture_now_ms() < until_) \
            fixture_pause();                                         \
        holds_;                                                      \
    })

/* Names in a directory that contain `part` ("" = all); those that begin with a dot only if `part` does, too. */
int fixture_count_files(const char *path, const char *part);

/* Descriptors that this process has open. */
int fixture_count_fds(void);

/* Addresses that it has mapped: what is mapped no longer shows here. */
uint64_t fixture_mapped_bytes(void);

/* A number generator of a printed seed ($BELFRY_TEST_SEED, else the clock). */
struct fixture_random {
    uint64_t state;
};
uint64_t fixture_seed(struct fixture_random *r, const char *what);
uint64_t fixture_next(struct fixture_random *r);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * house.h: real processes for the system tests: a server in one, clients in others.
 *
 * Every process started here dies with the test (PR_SET_PDEATHSIG). The number of shards comes from BELFRY_TEST_SHARDS,
 * so that the same program runs with one and with two. Each test gets a root of its own under BELFRY_ROOT.
 */
#ifndef TESTS_SYSTEM_HOUSE_H
#define TESTS_SYSTEM_HOUSE_H

#include <sys/types.h>

#include <belfry/belfry.h>

#define SERVICE "house"
#define SECONDS(n) belfry_in_ms((int64_t)(n)*1000)

/* The echo server of the tests. Its handler knows a few words: */
#define WORD_QUIET "quiet" /* ... is not answered */
#define WORD_FAIL "fail"   /* ... is failed with BELFRY_EUSER - 7 and "as you wished" */
#define WORD_KICK "kick"   /* ... ends the conn */
#define WORD_NAP "nap"     /* ... is answered after a fifth of a second */
#define WORD_WHO "who"     /* ... is answered with a struct house_who */

struct house_who {
    uint32_t uid;
    uint32_t gid;
    uint32_t pid;
};

struct house {
    char root[128];
    char service[32]; /* as clients name it */
    uint32_t uid;     /* whose server it is */
    belfry_server_options options;
    pid_t server;
};

/* Make a root; `house->options` has the defaults of the tests and may be changed before house_start(). */
void house_init(struct house *house);

/* The same, for a server of that user, whom everybody may connect to. Only root can. */
void house_init_of(struct house *house, uint32_t uid);

/* Start a server process and wait until it serves. Returns its pid; asserts that it came up. */
pid_t house_start(struct house *house);

/* Start one that is expected to fail: returns the code from belfry_server_start(). */
int house_start_rc(struct house *house);

/* SIGTERM, and its exit status. */
int house_stop(struct house *house);

/* Drain it without a deadline, wait for its end, and its exit status. */
int house_drain(struct house *house);

/* Remove what is left: the server by SIGKILL, the root with everything in it. */
void house_clear(struct house *house);

/* Run `body` in a process of its own that dies with us; it exits with what body returns. */
pid_t house_process(int (*body)(struct house *house, void *argument), struct house *house, void *argument);

/* The same as another user, in that one group. */
pid_t house_process_as(uint32_t uid, uint32_t gid, int (*body)(struct house *house, void *argument),
                       struct house *house, void *argument);

/* Wait for a process: its exit status, or 128 + the signal. Asserts that it ends within `seconds`. */
int house_reap(pid_t pid, int seconds);

/* Connect from this process; asserts success. */
belfry_client *house_connect(const struct house *house);
int house_connect_rc(const struct house *house, belfry_client **out);

/* The same where the one before has just left: whoever finds the service full waits a quarter of a second for that, which a busy
   machine may need for something else. So again, for at most 20 s. */
int house_connect_when_free(const struct house *house, belfry_client **out);

/* Its next sleep finds out by itself after the longest of its slices, eight seconds, whether it was forgotten, and not after
   one: so a wake that is only late on a busy machine still comes first. If none comes, it counts as rescued. */
void house_sleep_long(belfry_client *c);

/* One echo of a checked payload. 0, or the code (-EBADMSG when the echo differs). */
int house_echo(belfry_client *c, uint64_t number, size_t bytes);

/* Counters of the service; asserts that there is one. */
belfry_statistics house_stats(const struct house *house);

/* Look until `condition(house, value)` holds, for at most `seconds`. */
bool house_wait(const struct house *house, bool (*condition)(const struct house *house, uint64_t value), uint64_t value,
                int seconds);
bool house_active_is(const struct house *house, uint64_t value);

/* Make inotify lose events about a shard's lock directory; only while the server is stopped. */
void house_overflow(const struct house *house, uint32_t shard);

/* How many files below the root have names that end so. */
unsigned house_files(const struct house *house, const char *ending);

/* For house_wait(): the lock files. The server holds some of its own while it warms a slot, and a moment longer. */
bool house_locks_are(const struct house *house, uint64_t value);

/* Lines in /proc/PID/NAME, entries in /proc/PID/fd, a field of /proc/PID/status in bytes. */
unsigned house_proc_lines(pid_t pid, const char *name);
unsigned house_proc_entries(pid_t pid, const char *name);
uint64_t house_proc_status(pid_t pid, const char *field);

uint32_t house_shards(void);

#endif

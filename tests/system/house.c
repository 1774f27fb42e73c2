/* SPDX-License-Identifier: MIT */
/* house.c: see house.h. */
#include "house.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/client.h"

#define START_SECONDS 20

uint32_t house_shards(void)
{
    const char *text = getenv("BELFRY_TEST_SHARDS");
    return text != NULL ? (uint32_t)atoi(text) : 1;
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* --- the server's handler ----------------------------------------------------------------------------------------- */

static bool is_word(const belfry_message *m, const char *word)
{
    return m->size == strlen(word) && memcmp(m->data, word, m->size) == 0;
}

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    if (m->kind != BELFRY_REQUEST || is_word(m, WORD_QUIET))
        return;
    if (is_word(m, WORD_WHO)) {
        struct house_who who = {belfry_conn_uid(conn), belfry_conn_gid(conn), belfry_conn_pid(conn)};
        belfry_reply(conn, m, &who, sizeof who);
    } else if (is_word(m, WORD_FAIL))
        belfry_fail(conn, m, BELFRY_EUSER - 7, "as you wished");
    else if (is_word(m, WORD_KICK))
        belfry_disconnect(conn);
    else {
        if (is_word(m, WORD_NAP))
            pause_ms(200);
        belfry_reply(conn, m, m->data, m->size);
    }
}

/* --- start and stop ------------------------------------------------------------------------------------------------ */

void house_init(struct house *house)
{
    const char *parent = getenv("BELFRY_ROOT");
    *house = (struct house){0};
    snprintf(house->root, sizeof house->root, "%.80s/house-XXXXXX", parent != NULL ? parent : "/dev/shm");
    cr_assert(mkdtemp(house->root) != NULL, "cannot make %s: %s", house->root, strerror(errno));
    snprintf(house->service, sizeof house->service, SERVICE);
    house->uid = geteuid();
    belfry_server_options_init(&house->options, sizeof house->options);
    house->options.service = SERVICE;
    house->options.on_message = on_message;
    house->options.shards = house_shards();
    house->options.warm_pool = 16;
    house->options.ring_bytes = 16384;
    house->options.stop_signals = true;
}

void house_init_of(struct house *house, uint32_t uid)
{
    const char *parent = getenv("BELFRY_ROOT");
    house_init(house);
    if (parent != NULL)
        cr_assert(chmod(parent, 0711) == 0);
    cr_assert(chown(house->root, uid, uid) == 0 && chmod(house->root, 0711) == 0);
    snprintf(house->service, sizeof house->service, "%u:" SERVICE, uid);
    house->uid = uid;
    house->options.access = BELFRY_ACCESS_EVERYONE;
}

struct server_start {
    int rc;
    char error[512];
};

static belfry_server *serving;

static void on_drain_signal(int number)
{
    (void)number;
    belfry_drain(serving, BELFRY_FOREVER);
}

/* A change of user takes back that we die with our parent. */
static void become(uint32_t uid, uint32_t gid, pid_t parent)
{
    if (uid != geteuid() && (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0))
        _exit(9);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(9);
}

/* The server's process: says how its start went through the pipe, then serves. */
static void serve(struct house *house, int report)
{
    struct server_start start = {0};
    belfry_server *server;
    house->options.root = house->root;
    start.rc = belfry_server_create(&server, &house->options);
    if (start.rc == 0)
        start.rc = belfry_server_start(server);
    serving = server;
    signal(SIGUSR1, on_drain_signal);
    snprintf(start.error, sizeof start.error, "%s", belfry_last_error());
    if (write(report, &start, sizeof start) != (ssize_t)sizeof start || start.rc < 0)
        _exit(3);
    close(report);
    int rc = belfry_server_wait(server);
    belfry_server_destroy(server);
    _exit(rc < 0 ? 4 : 0);
}

static struct server_start start_server(struct house *house)
{
    struct server_start start = {.rc = -EPIPE};
    int report[2];
    cr_assert(pipe(report) == 0);
    pid_t parent = getpid();
    house->server = fork();
    cr_assert(house->server >= 0);
    if (house->server == 0) {
        close(report[0]);
        become(house->uid, house->uid, parent);
        serve(house, report[1]);
    }
    close(report[1]);
    ssize_t got = read(report[0], &start, sizeof start);
    close(report[0]);
    if (got != (ssize_t)sizeof start)
        start.rc = -EPIPE;
    return start;
}

pid_t house_start(struct house *house)
{
    struct server_start start = start_server(house);
    cr_assert(start.rc == 0, "the server did not start: %s", start.error);
    return house->server;
}

int house_start_rc(struct house *house)
{
    struct server_start start = start_server(house);
    if (start.rc < 0) {
        cr_assert(start.error[0] != '\0', "a failed start must say why");
        house_reap(house->server, START_SECONDS);
        house->server = 0;
    }
    return start.rc;
}

int house_stop(struct house *house)
{
    cr_assert(kill(house->server, SIGTERM) == 0);
    int status = house_reap(house->server, START_SECONDS);
    house->server = 0;
    return status;
}

int house_drain(struct house *house)
{
    cr_assert(kill(house->server, SIGUSR1) == 0);
    int status = house_reap(house->server, 4 * START_SECONDS);
    house->server = 0;
    return status;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind, (void)where;
    return remove(path);
}

void house_clear(struct house *house)
{
    if (house->server > 0) {
        kill(house->server, SIGKILL);
        kill(house->server, SIGCONT);
        waitpid(house->server, NULL, 0);
    }
    nftw(house->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* --- processes ----------------------------------------------------------------------------------------------------- */

pid_t house_process_as(uint32_t uid, uint32_t gid, int (*body)(struct house *house, void *argument),
                       struct house *house, void *argument)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    cr_assert(pid >= 0);
    if (pid == 0) {
        become(uid, gid, parent);
        _exit(body(house, argument));
    }
    return pid;
}

pid_t house_process(int (*body)(struct house *house, void *argument), struct house *house, void *argument)
{
    return house_process_as(geteuid(), getegid(), body, house, argument);
}

/* What a process that should have ended is doing, for whoever reads the report. */
static void describe(pid_t pid)
{
    static const char *const names[] = {"stat", "wchan", "syscall", "stack"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[64], text[1024];
        snprintf(path, sizeof path, "/proc/%d/%s", pid, names[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
        if (fd >= 0)
            close(fd);
        text[got > 0 ? got : 0] = '\0';
        fprintf(stderr, "%s: %s\n", path, text);
    }
}

int house_reap(pid_t pid, int seconds)
{
    int status;
    int64_t deadline = SECONDS(seconds);
    for (;;) {
        pid_t got = waitpid(pid, &status, WNOHANG);
        cr_assert(got >= 0);
        if (got == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (belfry_now_ns() >= deadline)
            describe(pid);
        cr_assert(belfry_now_ns() < deadline, "process %d did not end within %d s", pid, seconds);
        pause_ms(1);
    }
}

bool house_wait(const struct house *house, bool (*condition)(const struct house *house, uint64_t value), uint64_t value,
                int seconds)
{
    for (int64_t deadline = SECONDS(seconds); belfry_now_ns() < deadline; pause_ms(1))
        if (condition(house, value))
            return true;
    return condition(house, value);
}

/* --- clients ------------------------------------------------------------------------------------------------------- */

int house_connect_rc(const struct house *house, belfry_client **out)
{
    belfry_client_options o;
    belfry_client_options_init(&o, sizeof o);
    o.root = house->root;
    o.deadline_ns = SECONDS(20);
    return belfry_connect(out, house->service, &o);
}

int house_connect_when_free(const struct house *house, belfry_client **out)
{
    int rc;
    for (int64_t deadline = SECONDS(20); (rc = house_connect_rc(house, out)) == BELFRY_EFULL;)
        if (belfry_now_ns() >= deadline)
            break;
    return rc;
}

belfry_client *house_connect(const struct house *house)
{
    belfry_client *c;
    int rc = house_connect_rc(house, &c);
    cr_assert(rc == 0, "connect: %d: %s", rc, belfry_last_error());
    return c;
}

void house_sleep_long(belfry_client *c)
{
    c->slice = 3; /* 1 s << 3 */
}

int house_echo(belfry_client *c, uint64_t number, size_t bytes)
{
    uint64_t words[512];
    belfry_message reply;
    if (bytes > sizeof words)
        bytes = sizeof words;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        words[i] = number * 0x9e3779b97f4a7c15ull + i;
    int rc = belfry_call(c, words, bytes, &reply, SECONDS(30));
    if (rc < 0)
        return rc;
    bool same = reply.size == bytes && memcmp(reply.data, words, bytes) == 0;
    belfry_release(c, &reply);
    return same ? 0 : -EBADMSG;
}

/* --- what can be seen ---------------------------------------------------------------------------------------------- */

belfry_statistics house_stats(const struct house *house)
{
    belfry_statistics stats = {.size = sizeof stats};
    int rc = belfry_stats(house->service, house->root, &stats);
    cr_assert(rc == 0, "stats: %s", belfry_last_error());
    return stats;
}

bool house_active_is(const struct house *house, uint64_t value)
{
    return house_stats(house).total.connections_active == value;
}

void house_overflow(const struct house *house, uint32_t shard)
{
    char path[256];
    for (int i = 0; i < 40000; i++) { /* two events each; the queue holds 16,384 by default */
        snprintf(path, sizeof path, "%s/%s/1/shard-%u/.x%d", house->root, SERVICE, shard, i);
        int fd = open(path, O_CREAT | O_WRONLY, 0600);
        cr_assert_geq(fd, 0);
        close(fd);
        unlink(path);
    }
}

static struct {
    const char *ending;
    unsigned count;
} search;

static int match(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)where;
    size_t length = strlen(path), ending = strlen(search.ending);
    if (kind == FTW_F && length >= ending && strcmp(path + length - ending, search.ending) == 0)
        search.count++;
    return 0;
}

unsigned house_files(const struct house *house, const char *ending)
{
    search.ending = ending;
    search.count = 0;
    nftw(house->root, match, 16, FTW_PHYS);
    return search.count;
}

bool house_locks_are(const struct house *house, uint64_t value)
{
    return house_files(house, ".lock") == value;
}

static FILE *open_proc(pid_t pid, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    FILE *file = fopen(path, "r");
    cr_assert(file != NULL, "cannot read %s", path);
    return file;
}

unsigned house_proc_lines(pid_t pid, const char *name)
{
    FILE *file = open_proc(pid, name);
    unsigned lines = 0;
    for (int c; (c = getc(file)) != EOF;)
        lines += c == '\n';
    fclose(file);
    return lines;
}

unsigned house_proc_entries(pid_t pid, const char *name)
{
    char path[64];
    unsigned count = 0;
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    DIR *dir = opendir(path);
    cr_assert(dir != NULL, "cannot read %s", path);
    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count;
}

uint64_t house_proc_status(pid_t pid, const char *field)
{
    char line[256];
    uint64_t kib = 0;
    FILE *file = open_proc(pid, "status");
    while (fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, field, strlen(field)) == 0)
            kib = strtoull(line + strlen(field) + 1, NULL, 10);
    fclose(file);
    return kib * 1024;
}

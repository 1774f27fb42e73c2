/* SPDX-License-Identifier: MIT */
/*
 * belfry-large: one message of a gibibyte, and what it does to others.
 *
 * A client sends a large request to a server of one shard; a thread of the server computes its checksum and answers.
 * Then the same comes back the other way, timed from when it is answered. Beside it a neighbour calls the same shard two
 * thousand times per second, and its latencies are counted apart for four situations, which take turns: nobody else is
 * there; a third client calls as fast as it can, with small messages; the large message is on its way up, or down. How
 * late the neighbour got a processor for its call stands beside that: of this only the kernel's scheduler knows. The
 * peaks of memory are the kernel's.
 *
 *     belfry-large [BYTES [ROUNDS [yield | corrupt]]]
 *
 * Status: 0; 1: a checksum is wrong, or a call failed; 2: usage. `yield`: the large client, the busy one and the server's
 * thread take only what the others leave of the processors (SCHED_IDLE), as if they had some of their own. `corrupt`: the
 * server spoils one bit, so the status must be 1.
 */
#include <belfry/client.h>
#include <belfry/server.h>
#include <errno.h>
#include <ftw.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "histogram.h"
#include "text.h"

#define SERVICE "large"
#define PACE_NS 500000
#define PHASE_MS 1000
#define PATIENCE_MS 60000

enum situation { ALONE, BUSY, UP, DOWN, SITUATIONS, PAUSED = SITUATIONS, OVER };

static const char *const situation_names[SITUATIONS] = {"alone", "beside a busy client", "beside the way up",
                                                        "beside the way down"};

/* What the processes share. */
static struct board {
    _Atomic int situation;
    _Atomic bool ready, failed;
    _Atomic int64_t answered_ns;          /* when the large answer was made and began its way */
    struct histogram latency[SITUATIONS]; /* of the neighbour's calls */
    struct histogram late[SITUATIONS];    /* from when each was due to its beginning */
} * board;

static char root[64];
static bool corrupt, yielding;

static void *map_bytes(size_t bytes, int flags)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

static void yield_if_wanted(void)
{
    struct sched_param none = {0};
    if (yielding && sched_setscheduler(0, SCHED_IDLE, &none) != 0)
        perror("belfry-large: SCHED_IDLE");
}

/* Words that follow from their place. */
static void fill(void *data, size_t bytes)
{
    uint64_t *words = data;
    for (size_t i = 0; i < bytes / sizeof *words; i++)
        words[i] = (i + 1) * 0x9e3779b97f4a7c15ull ^ i >> 7;
}

static uint32_t checksum(const void *data, size_t bytes)
{
    uLong crc = crc32_z(0, Z_NULL, 0);
    return (uint32_t)crc32_z(crc, data, bytes);
}

/* ---- the server: two threads, the shard's and one for what takes long ------------------------------------------- */

enum { ECHO = 'e', SUM = 's', FILL = 'f' };

struct job {
    belfry_server *server;
    belfry_ticket ticket;
    belfry_message request;
};

/* SUM: the checksum of all of it. FILL: as many bytes as it asks for. */
static void *work(void *argument)
{
    struct job *job = argument;
    yield_if_wanted();
    const char *data = job->request.data;
    if (data[0] == SUM) {
        atomic_store(&board->situation, PAUSED); /* it is there */
        uint32_t sum = checksum(data, job->request.size);
        belfry_complete(job->server, &job->ticket, &sum, sizeof sum);
    } else {
        uint64_t bytes;
        memcpy(&bytes, data + 8, sizeof bytes);
        char *room = map_bytes(bytes, MAP_PRIVATE);
        if (room != NULL) {
            fill(room, bytes);
            room[bytes / 2] ^= corrupt;
            atomic_store(&board->situation, DOWN);
            atomic_store(&board->answered_ns, belfry_now_ns());
            belfry_complete(job->server, &job->ticket, room, bytes);
            munmap(room, bytes);
        } else {
            belfry_complete_failed(job->server, &job->ticket, -ENOMEM, NULL);
        }
    }
    belfry_message_free(&job->request);
    free(job);
    return NULL;
}

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    if (m->size == 0 || *(const char *)m->data == ECHO) {
        belfry_reply(conn, m, m->data, m->size);
        return;
    }
    pthread_t thread;
    struct job *job = calloc(1, sizeof *job);
    if (job == NULL || belfry_defer(conn, m, &job->ticket, &job->request) < 0) {
        free(job);
        return; /* the client is told that nobody answered */
    }
    job->server = belfry_conn_server(conn);
    if (pthread_create(&thread, NULL, work, job) == 0) {
        pthread_detach(thread);
    } else {
        belfry_complete_failed(job->server, &job->ticket, -EAGAIN, "no thread for it");
        belfry_message_free(&job->request);
        free(job);
    }
}

static int serve(size_t bytes)
{
    belfry_server_options o;
    belfry_server *s;
    belfry_server_options_init(&o, sizeof o);
    o.service = SERVICE;
    o.root = root;
    o.on_message = on_message;
    o.shards = 1;
    o.max_slots = 8;
    o.warm_pool = 4;
    o.message_bytes_max = (uint32_t)bytes;
    o.pin = false;
    o.stop_signals = true;
    int rc = belfry_server_create(&s, &o);
    if (rc == 0) {
        rc = belfry_server_start(s);
        atomic_store(&board->ready, rc == 0);
        if (rc == 0)
            rc = belfry_server_wait(s);
        belfry_server_destroy(s);
    }
    if (rc < 0)
        fprintf(stderr, "belfry-large: server: %s\n", belfry_last_error());
    return rc < 0;
}

/* ---- clients ----------------------------------------------------------------------------------------------------- */

static belfry_client *attach(void)
{
    belfry_client *c;
    belfry_client_options o;
    belfry_client_options_init(&o, sizeof o);
    o.root = root;
    if (belfry_connect(&c, SERVICE, &o) == 0)
        return c;
    fprintf(stderr, "belfry-large: %s\n", belfry_last_error());
    return NULL;
}

static bool echo(belfry_client *c)
{
    static char small[64] = {ECHO};
    belfry_message m;
    if (belfry_call(c, small, sizeof small, &m, belfry_in_ms(PATIENCE_MS)) < 0)
        return false;
    bool same = m.size == sizeof small && memcmp(m.data, small, sizeof small) == 0;
    belfry_release(c, &m);
    return same;
}

/*
 * Calls at its pace. A call counts from when it was due, so that what delays one is not hidden from the next; but from
 * its beginning when the thread slept until then and the kernel ran it late, which is counted apart.
 */
static int neighbour(size_t unused)
{
    (void)unused;
    belfry_client *c = attach();
    if (c == NULL)
        return 1;
    int64_t due = belfry_now_ns();
    for (int situation; (situation = atomic_load(&board->situation)) != OVER;) {
        due += PACE_NS;
        if (belfry_now_ns() < due) {
            struct timespec at = {.tv_sec = due / 1000000000, .tv_nsec = due % 1000000000};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
            int64_t woken = belfry_now_ns();
            if (situation < SITUATIONS)
                histogram_add(&board->late[situation], (uint64_t)(woken - due));
            due = woken;
        }
        if (!echo(c))
            return 1;
        int64_t now = belfry_now_ns();
        if (situation < SITUATIONS && situation == atomic_load(&board->situation))
            histogram_add(&board->latency[situation], (uint64_t)(now - due));
        if (now > due + 100 * PACE_NS) /* it was stopped: not everything after that is late */
            due = now;
    }
    belfry_close(c);
    return 0;
}

/* Calls as fast as it can, while it is told to. */
static int busy(size_t unused)
{
    (void)unused;
    yield_if_wanted();
    belfry_client *c = attach();
    if (c == NULL)
        return 1;
    while (atomic_load(&board->situation) != OVER) {
        if (atomic_load(&board->situation) != BUSY)
            usleep(1000);
        else if (!echo(c))
            return 1;
    }
    belfry_close(c);
    return 0;
}

static bool report(const char *way, size_t bytes, int64_t ns, bool right)
{
    char size[TEXT_CHARS], duration[TEXT_CHARS];
    printf("%-6s %s in %s, %.2f GiB/s, checksum %s\n", way, text_mebibytes(size, (int64_t)bytes),
           text_duration(duration, (uint64_t)ns), (double)bytes / (1 << 30) / ((double)ns / 1e9),
           right ? "right" : "WRONG");
    return right;
}

static bool failed_call(const char *way)
{
    fprintf(stderr, "belfry-large: %s: %s\n", way, belfry_last_error());
    return false;
}

static bool send_up(belfry_client *c, const char *data, size_t bytes, uint32_t sum)
{
    belfry_message m;
    uint32_t answer = 0;
    int64_t begin = belfry_now_ns();
    if (belfry_call(c, data, bytes, &m, belfry_in_ms(PATIENCE_MS)) < 0)
        return failed_call("up");
    int64_t ns = belfry_now_ns() - begin;
    if (m.size == sizeof answer)
        memcpy(&answer, m.data, sizeof answer);
    belfry_release(c, &m);
    return report("up", bytes, ns, answer == sum);
}

static bool get_down(belfry_client *c, size_t bytes, uint32_t sum)
{
    belfry_message m;
    uint64_t request[2] = {FILL, bytes};
    if (belfry_call(c, request, sizeof request, &m, belfry_in_ms(PATIENCE_MS)) < 0)
        return failed_call("down");
    int64_t ns = belfry_now_ns() - atomic_load(&board->answered_ns);
    atomic_store(&board->situation, PAUSED);
    bool right = m.size == bytes && checksum(m.data, m.size) == sum;
    belfry_release(c, &m);
    return report("down", bytes, ns, right);
}

static void be_in(enum situation situation, unsigned ms)
{
    atomic_store(&board->situation, situation);
    usleep(ms * 1000);
}

/*
 * A virtual machine may give memory that has been free for a while back to its host, which then takes milliseconds for
 * each huge page that is wanted again. So as much as a way takes is used just before it, by somebody else: the answer, its
 * copy in the outbox, and what arrives.
 */
static void warm_memory(size_t bytes)
{
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 3; i++) {
            char *at = map_bytes(bytes, MAP_PRIVATE);
            if (at == NULL || madvise(at, bytes, MADV_POPULATE_WRITE) != 0)
                _exit(1);
        }
        _exit(0);
    }
    int status = -1;
    if (waitpid(child, &status, 0) != child || status != 0)
        fprintf(stderr, "belfry-large: too little memory to use it beforehand: the host of this machine may count\n");
}

static bool measure(size_t bytes, int rounds)
{
    bool good = true;
    belfry_client *c = attach();
    char *data = map_bytes(bytes, MAP_PRIVATE);
    if (c == NULL || data == NULL)
        return false;
    fill(data, bytes);
    uint32_t down_sum = checksum(data, bytes);
    data[0] = SUM;
    uint32_t up_sum = checksum(data, bytes);
    yield_if_wanted();
    for (int round = 0; round < rounds && good; round++) {
        be_in(ALONE, PHASE_MS);
        be_in(BUSY, PHASE_MS);
        be_in(PAUSED, 0);
        warm_memory(bytes);
        be_in(UP, 0);
        good = send_up(c, data, bytes, up_sum);
        be_in(PAUSED, 0);
        warm_memory(bytes);
        good = good && get_down(c, bytes, down_sum);
        be_in(PAUSED, 10);
    }
    munmap(data, bytes);
    belfry_close(c);
    return good;
}

/* ---- processes --------------------------------------------------------------------------------------------------- */

static pid_t start(int (*body)(size_t bytes), size_t bytes)
{
    pid_t parent = getpid(), pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    _exit(getppid() != parent ? 1 : body(bytes));
}

/* Its peak of memory in bytes. */
static int64_t reap(pid_t pid, const char *who, bool *good)
{
    int status = 0;
    struct rusage usage = {0};
    if (wait4(pid, &status, 0, &usage) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "belfry-large: the %s failed\n", who);
        *good = false;
    }
    return usage.ru_maxrss * 1024;
}

static void print_neighbour(void)
{
    char p50[TEXT_CHARS], p99[TEXT_CHARS], p999[TEXT_CHARS], max[TEXT_CHARS], late[TEXT_CHARS];
    uint64_t alone = histogram_percentile(&board->latency[ALONE], 990);
    printf("\n%-22s %8s %9s %9s %9s %9s %6s %9s\n", "the neighbour's calls", "count", "p50", "p99", "p99.9", "max",
           "p99", "late p99");
    for (int i = 0; i < SITUATIONS; i++) {
        const struct histogram *h = &board->latency[i];
        printf("%-22s %8llu %9s %9s %9s %9s %6.2f %9s\n", situation_names[i], (unsigned long long)h->count,
               text_duration(p50, histogram_percentile(h, 500)), text_duration(p99, histogram_percentile(h, 990)),
               text_duration(p999, histogram_percentile(h, 999)), text_duration(max, h->max),
               alone == 0 ? 0 : (double)histogram_percentile(h, 990) / (double)alone,
               text_duration(late, histogram_percentile(&board->late[i], 990)));
    }
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st, (void)type, (void)walk;
    return remove(path);
}

int main(int argc, char **argv)
{
    size_t bytes = argc > 1 ? strtoull(argv[1], NULL, 0) : 1u << 30;
    int rounds = argc > 2 ? atoi(argv[2]) : 3;
    corrupt = argc > 3 && strcmp(argv[3], "corrupt") == 0;
    yielding = argc > 3 && strcmp(argv[3], "yield") == 0;
    if (bytes < 65536 || bytes > 1u << 30 || bytes % 8 != 0 || rounds < 1 || argc > 4 ||
        (argc > 3 && !corrupt && !yielding)) {
        fprintf(stderr,
                "usage: belfry-large [BYTES [ROUNDS [yield | corrupt]]]; BYTES: a multiple of 8, 64 KiB to 1 GiB\n");
        return 2;
    }
    board = map_bytes(sizeof *board, MAP_SHARED);
    snprintf(root, sizeof root, "/dev/shm/belfry-large.XXXXXX");
    if (board == NULL || mkdtemp(root) == NULL) {
        perror("belfry-large");
        return 1;
    }
    atomic_store(&board->situation, PAUSED);
    bool good = true;
    pid_t server = start(serve, bytes), others[2];
    while (!atomic_load(&board->ready) && waitpid(server, NULL, WNOHANG) == 0)
        usleep(1000);
    others[0] = start(neighbour, bytes);
    others[1] = start(busy, bytes);
    good = measure(bytes, rounds);
    atomic_store(&board->situation, OVER);
    reap(others[0], "neighbour", &good);
    reap(others[1], "busy client", &good);
    kill(server, SIGTERM);
    int64_t server_peak = reap(server, "server", &good);
    print_neighbour();
    struct rusage own;
    char server_text[TEXT_CHARS], own_text[TEXT_CHARS];
    getrusage(RUSAGE_SELF, &own);
    printf("\npeak of memory: server %s, client %s\n", text_mebibytes(server_text, server_peak),
           text_mebibytes(own_text, own.ru_maxrss * 1024));
    nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return good ? 0 : 1;
}

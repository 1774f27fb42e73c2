/* SPDX-License-Identifier: MIT */
/*
 * belfry-torture: clients that are killed as fast as the machine takes it, and a server that must not care.
 *
 * This process kills and is the referee; what the others are, torture.h says. It kills with SIGKILL, at random times; some
 * clients it stops for a while (SIGSTOP) before; and now and then it kills the server and starts another. At the end
 * everything must be as it was at first, and nothing that the server or a client has noticed may be wrong.
 */
#include "torture.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../proc.h"
#include "../text.h"

#define LOOK_US 200 /* from one look at the seats to the next */
#define STOP_ONE_OF 32u
#define STOP_MS_MAX 50u
#define START_SECONDS 30
#define SETTLE_SECONDS 30
#define NS_PER_MS 1000000ll
#define NS_PER_S 1000000000ll

struct board *board;

static const char *const words[VIOLATIONS] = {
    [TORN_REQUEST] = "torn requests",
    [TORN_REPLY] = "torn replies",
    [DISORDERED] = "out of order or repeated",
    [LOST] = "lost",
    [ALTERNATED] = "on_connect twice",
    [REUSED] = "generation reused",
    [RESCUED] = "rescued wakes",
    [LATE_CALL] = "calls without an answer",
    [BAD_CODE] = "codes without a reason",
    [LEAKED] = "leaked",
    [NOT_STARTED] = "starts or ends that failed",
};

/* What the referee knows of a seat. */
struct watch {
    pid_t pid;
    int64_t kill_at_ns;
    int64_t stop_at_ns; /* 0: not */
    int64_t go_at_ns;
    bool stopped;
    bool ordered; /* somebody for it, who has not come yet */
};

struct referee {
    struct options options;
    struct watch watch[CLIENTS_MAX];
    pid_t server;
    pid_t nursery;
    int orders;
    uint64_t random;
    uint64_t kills;
    uint64_t stops;
    uint64_t server_kills;
    int64_t began_ns;
    int64_t ended_ns;
    struct proc_size quiet; /* the server's, without clients */
    int64_t fds_max;
};

static volatile sig_atomic_t interrupted;

void violation(enum violation what, const char *why)
{
    uint64_t before = 0;
    for (int i = 0; i < VIOLATIONS; i++)
        before += __atomic_load_n(&board->violations[i], __ATOMIC_RELAXED);
    __atomic_fetch_add(&board->violations[what], 1, __ATOMIC_RELAXED);
    if (before == 0)
        snprintf(board->first, sizeof board->first, "%s", why);
}

static void pause_us(long us)
{
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

static uint64_t below(struct referee *r, uint64_t limit)
{
    return (random_next(&r->random) >> 16) % limit;
}

/* --- processes ---------------------------------------------------------------------------------------------------------- */

static pid_t fork_with_us(void)
{
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        signal(SIGINT, SIG_IGN); /* ^C is for the referee */
    }
    return pid;
}

/* False: it did not start. */
static bool start_server(struct referee *r)
{
    board->instance = 0;
    board->server_rc = 0;
    r->server = fork_with_us();
    if (r->server == 0) {
        close(r->orders);
        server_live();
    }
    for (int64_t until = belfry_now_ns() + START_SECONDS * NS_PER_S; belfry_now_ns() < until; pause_us(LOOK_US)) {
        if (__atomic_load_n(&board->instance, __ATOMIC_ACQUIRE) != 0)
            return true;
        if (__atomic_load_n(&board->server_rc, __ATOMIC_ACQUIRE) < 0)
            break;
    }
    violation(NOT_STARTED, "a server did not start");
    return false;
}

static bool start_nursery(struct referee *r)
{
    int ends[2];
    if (pipe(ends) != 0)
        return false;
    r->nursery = fork_with_us();
    if (r->nursery == 0) {
        close(ends[1]);
        nursery_live(ends[0]);
    }
    close(ends[0]);
    r->orders = ends[1];
    return r->nursery > 0;
}

/* --- killing -------------------------------------------------------------------------------------------------------------- */

static void order(struct referee *r, uint32_t number)
{
    r->watch[number].ordered = true;
    if (write(r->orders, &number, sizeof number) != (ssize_t)sizeof number)
        violation(NOT_STARTED, "the nursery is gone");
}

/* Somebody new sits there: when will he die, and will he be stopped before? */
static void meet(struct referee *r, struct watch *w, pid_t pid, int64_t now)
{
    uint64_t life_ns = below(r, 2 * r->options.life_ms * (uint64_t)NS_PER_MS);
    *w = (struct watch){.pid = pid, .kill_at_ns = now + (int64_t)life_ns};
    if (life_ns > 0 && below(r, STOP_ONE_OF) == 0) {
        w->stop_at_ns = now + (int64_t)below(r, life_ns);
        w->go_at_ns = w->stop_at_ns + (int64_t)below(r, STOP_MS_MAX * NS_PER_MS);
        w->kill_at_ns += (int64_t)below(r, STOP_MS_MAX * NS_PER_MS);
    }
}

static void look_at(struct referee *r, uint32_t number, int64_t now)
{
    struct watch *w = &r->watch[number];
    const struct seat *seat = &board->seat[number];
    pid_t pid = __atomic_load_n(&seat->pid, __ATOMIC_ACQUIRE);
    if (w->ordered) {
        if (pid == 0 || pid == w->pid) /* not buried yet, or not born */
            return;
        meet(r, w, pid, now);
    }
    if (now >= w->kill_at_ns) {
        __atomic_store_n(&board->life[seat->life % LIVES].killed_ns, belfry_now_ns(), __ATOMIC_RELEASE);
        kill(pid, SIGKILL);
        r->kills++;
        order(r, number);
    } else if (w->stop_at_ns != 0 && now >= w->stop_at_ns) {
        kill(pid, SIGSTOP);
        r->stops++;
        w->stop_at_ns = 0;
        w->stopped = true;
    } else if (w->stopped && now >= w->go_at_ns) {
        kill(pid, SIGCONT);
        w->stopped = false;
    }
}

static void judge_counters(void)
{
    belfry_statistics stats = {.size = sizeof stats};
    if (belfry_stats(SERVICE, board->options->root, &stats) == 0 && stats.total.rescued_wakes > 0)
        violation(RESCUED, "the server found a message only by its sweep");
}

/* False: there is no server any more. */
static bool kill_server(struct referee *r)
{
    int status;
    judge_counters();
    __atomic_store_n(&board->server_killed_ns, belfry_now_ns(), __ATOMIC_RELEASE);
    __atomic_store_n(&board->dead_instance, board->instance, __ATOMIC_RELEASE);
    kill(r->server, SIGKILL);
    waitpid(r->server, &status, 0);
    if (!WIFSIGNALED(status))
        violation(NOT_STARTED, "the server ended before it was killed");
    r->server_kills++;
    return start_server(r);
}

/* Descriptors are a function of the configuration: one or two more while a slot is made and a claim looked at. */
static void judge_size(struct referee *r)
{
    struct proc_size size = proc_size(r->server);
    r->fds_max = size.fds > r->fds_max ? size.fds : r->fds_max;
    if (size.fds > r->quiet.fds + 4 * (int64_t)r->options.shards)
        violation(LEAKED, "the server has more descriptors than it needs");
}

static bool is_enough(const struct referee *r)
{
    return interrupted || (r->options.kills > 0 && r->kills >= r->options.kills);
}

static void torture(struct referee *r)
{
    int64_t until = r->began_ns + (int64_t)(r->options.seconds * NS_PER_S), second = r->began_ns;
    int64_t every = (int64_t)(r->options.server_every * NS_PER_S), server_at = r->began_ns + every;
    for (uint32_t i = 0; i < r->options.clients; i++)
        order(r, i);
    for (int64_t now; (now = belfry_now_ns()) < until && !is_enough(r); pause_us(LOOK_US)) {
        for (uint32_t i = 0; i < r->options.clients && !is_enough(r); i++)
            look_at(r, i, now);
        if (every > 0 && now >= server_at) {
            if (!kill_server(r))
                return;
            server_at = belfry_now_ns() + every / 2 + (int64_t)below(r, (uint64_t)every);
        }
        if (now >= second) {
            judge_size(r);
            second = now + NS_PER_S;
        }
    }
}

/* --- afterwards ------------------------------------------------------------------------------------------------------- */

static unsigned count_names(const char *below_service)
{
    char path[256];
    unsigned count = 0;
    snprintf(path, sizeof path, "%s/" SERVICE "/%s", board->options->root, below_service);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (dir != NULL)
        closedir(dir);
    return count;
}

/* Nobody is there, and all is as it should be then. */
static bool is_quiet(const struct referee *r)
{
    static belfry_statistics stats;
    char path[64];
    stats.size = sizeof stats;
    if (belfry_stats(SERVICE, r->options.root, &stats) < 0 || stats.total.connections_active != 0 ||
        stats.total.slots_warm != slots_warm(&r->options) || stats.total.outbox_bytes != 0)
        return false;
    for (uint32_t shard = 0; shard < r->options.shards; shard++) {
        snprintf(path, sizeof path, "%llu/shard-%u", (unsigned long long)stats.instance, shard);
        if (count_names(path) != 0 || board->opened[shard] != board->closed[shard])
            return false;
    }
    snprintf(path, sizeof path, "%llu/segments", (unsigned long long)stats.instance);
    return count_names(path) == 2 * slots_warm(&r->options);
}

static bool becomes_quiet(const struct referee *r)
{
    for (int64_t until = belfry_now_ns() + SETTLE_SECONDS * NS_PER_S; belfry_now_ns() < until; pause_us(1000))
        if (is_quiet(r))
            return true;
    return is_quiet(r);
}

/* Maps of the service's files in the server. */
static int64_t count_maps(const struct referee *r)
{
    char path[64], line[1024];
    int64_t count = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)r->server);
    FILE *maps = fopen(path, "re");
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL)
        count += strstr(line, r->options.root) != NULL;
    if (maps != NULL)
        fclose(maps);
    return count;
}

static void measure_quiet(struct referee *r)
{
    if (!becomes_quiet(r))
        violation(LEAKED, "the server is not quiet before there was anybody");
    r->quiet = proc_size(r->server);
    r->quiet.maps = count_maps(r);
}

static void end(struct referee *r)
{
    int status;
    close(r->orders);
    waitpid(r->nursery, &status, 0);
    r->ended_ns = belfry_now_ns();
    if (!becomes_quiet(r))
        violation(LEAKED, "slots or files are left over");
    if (proc_size(r->server).fds != r->quiet.fds || count_maps(r) != r->quiet.maps)
        violation(LEAKED, "descriptors or maps are left over");
    judge_counters();
    kill(r->server, SIGTERM);
    waitpid(r->server, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        violation(NOT_STARTED, "the server did not end cleanly");
    if (count_names("") != 1) /* the lock that servers start under */
        violation(LEAKED, "the service's directory is not empty");
}

static void print_histogram(const char *what, const struct histogram *h)
{
    char text[5][TEXT_CHARS];
    if (h->count == 0)
        return;
    printf("%s: p50 %s, p99 %s, p99.99 %s, max %s, of %s\n", what, text_duration(text[0], histogram_percentile(h, 500)),
           text_duration(text[1], histogram_percentile(h, 990)),
           text_duration(text[2], histogram_at_rank(h, h->count - h->count / 10000)), text_duration(text[3], h->max),
           text_grouped(text[4], (int64_t)h->count));
}

static uint64_t report_violations(void)
{
    uint64_t wrong = 0;
    for (int i = 0; i < VIOLATIONS; i++) {
        wrong += board->violations[i];
        if (board->violations[i] > 0)
            printf("VIOLATED: %s: %llu\n", words[i], (unsigned long long)board->violations[i]);
    }
    if (wrong > 0)
        printf("first: %s\n", board->first);
    printf("%llu violations\n", (unsigned long long)wrong);
    return wrong;
}

static void report(const struct referee *r)
{
    static struct histogram noticed, late;
    char text[3][TEXT_CHARS];
    uint64_t messages = 0;
    for (uint32_t i = 0; i < r->options.shards; i++) {
        histogram_merge(&noticed, &board->noticed[i]);
        histogram_merge(&late, &board->late[i]);
        messages += board->messages[i];
    }
    double seconds = (double)(r->ended_ns - r->began_ns) / NS_PER_S;
    printf("%s clients killed in %.0f s, %.0f per second; %s stopped before\n",
           text_grouped(text[0], (int64_t)r->kills), seconds, (double)r->kills / seconds,
           text_grouped(text[1], (int64_t)r->stops));
    printf("%s connections, %s messages; %s times no slot was free\n", text_grouped(text[0], (int64_t)board->connects),
           text_grouped(text[1], (int64_t)messages), text_grouped(text[2], (int64_t)board->full));
    print_histogram("from kill -9 to on_disconnect", &noticed);
    print_histogram("from when its process was gone", &late);
    printf("server killed %s times; %s clients noticed, the last after %s\n",
           text_grouped(text[0], (int64_t)r->server_kills), text_grouped(text[1], (int64_t)board->told),
           text_duration(text[2], (uint64_t)board->told_ns_max));
    if (board->warnings > 0)
        printf("%llu warnings of the server, the last: %s\n", (unsigned long long)board->warnings, board->warning);
    printf("descriptors of the server: %lld without clients, %lld at most\n", (long long)r->quiet.fds,
           (long long)r->fds_max);
}

/* --- main ----------------------------------------------------------------------------------------------------------------- */

static void interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind, (void)where;
    return remove(path);
}

static bool prepare(struct referee *r)
{
    const char *below_root = getenv("BELFRY_ROOT");
    board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED || !message_pattern_create(BYTES_LARGE, r->options.seed))
        return false;
    snprintf(r->options.root, sizeof r->options.root, "%.60s/torture-XXXXXX",
             below_root != NULL ? below_root : "/dev/shm");
    board->options = &r->options;
    r->random = r->options.seed;
    return mkdtemp(r->options.root) != NULL;
}

int main(int argc, char **argv)
{
    static struct referee referee = {.orders = -1};
    struct referee *r = &referee;
    int status = options_parse(&r->options, argc, argv);
    if (status >= 0)
        return status;
    printf("belfry-torture --seed %llu: %u clients, %u shards\n", (unsigned long long)r->options.seed,
           r->options.clients, r->options.shards);
    fflush(stdout);
    if (!prepare(r)) {
        perror("belfry-torture");
        return EXIT_FAILURE;
    }
    struct sigaction action = {.sa_handler = interrupt, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (!start_nursery(r) || !start_server(r)) { /* the nursery first: it is the smaller for it */
        nftw(r->options.root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        return EXIT_UNAVAILABLE;
    }
    measure_quiet(r);
    r->began_ns = belfry_now_ns();
    torture(r);
    end(r);
    report(r);
    nftw(r->options.root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return report_violations() > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

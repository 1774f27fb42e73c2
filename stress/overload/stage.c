/* SPDX-License-Identifier: MIT */
/* stage.c: see stage.h. */
#include "stage.h"

#include <errno.h>
#include <ftw.h>
#include <grp.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host.h"

#define CONNECT_MS 60000
#define REST_SECONDS 90
#define START_SECONDS 120
#define LONG_TURN_NS 1000000

/* ---- any process ------------------------------------------------------------------------------------------------ */

void stage_wrong(struct stage *s, const char *format, ...)
{
    if (atomic_fetch_add(&s->board->failures, 1) > 0)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(s->board->failure, sizeof s->board->failure, format, arguments);
    va_end(arguments);
}

static void futex(_Atomic uint32_t *word, int operation, uint32_t value)
{
    syscall(SYS_futex, word, operation, value, NULL, NULL, 0);
}

/* ---- who is on it ------------------------------------------------------------------------------------------------ */

void stage_ready(struct stage *s)
{
    atomic_fetch_add(&s->board->ready, 1);
}

static uint32_t next_word(struct stage *s, uint32_t last)
{
    uint32_t word;
    while ((word = atomic_load(&s->board->word)) == last)
        futex(&s->board->word, FUTEX_WAIT, last);
    return word;
}

bool stage_act(struct stage *s, uint32_t mask, bool (*step)(void *context, enum situation now),
               void (*relax)(void *context), void *context)
{
    bool good = true, strained = false;
    for (uint32_t word = 0; good;) {
        word = next_word(s, word);
        enum situation now = (enum situation)(word & 15);
        atomic_fetch_add(&s->board->busy, 1);
        if ((mask & 1u << now) != 0)
            strained = true;
        else if (strained && (now == REST || now == OVER) && relax != NULL)
            relax(context), strained = false;
        while ((mask & 1u << now) != 0 && atomic_load_explicit(&s->board->word, memory_order_acquire) == word && good)
            good = step(context, now);
        atomic_fetch_sub(&s->board->busy, 1);
        if (now == OVER)
            break;
    }
    return good;
}

belfry_client *stage_connect(struct stage *s, bool may_fail, int *rc)
{
    belfry_client *c;
    belfry_client_options o;
    belfry_client_options_init(&o, sizeof o);
    o.root = s->directory;
    o.deadline_ns = belfry_in_ms(CONNECT_MS);
    int got = belfry_connect(&c, s->service, &o);
    if (rc != NULL)
        *rc = got;
    if (got < 0 && !may_fail)
        stage_wrong(s, "a connect failed: %s", belfry_last_error());
    return got < 0 ? NULL : c;
}

/* ---- the stage itself -------------------------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st, (void)type, (void)walk;
    return remove(path);
}

int stage_open(struct stage *s)
{
    s->root = geteuid() == 0;
    s->board = mmap(NULL, sizeof *s->board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    snprintf(s->directory, sizeof s->directory, "/dev/shm/belfry-overload.XXXXXX");
    snprintf(s->service, sizeof s->service, "%u:" SERVICE, s->root ? (unsigned)UID_SERVER : geteuid());
    if (s->board == MAP_FAILED || mkdtemp(s->directory) == NULL ||
        (s->root && (chown(s->directory, UID_SERVER, UID_SERVER) < 0 || chmod(s->directory, 0711) < 0))) {
        perror("belfry-overload");
        return EXIT_FAILURE;
    }
    return 0;
}

void stage_close(struct stage *s)
{
    nftw(s->directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    munmap(s->board, sizeof *s->board);
}

/* ---- the main process -------------------------------------------------------------------------------------------- */

void stage_pause(double seconds)
{
    struct timespec pause = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&pause, NULL);
}

int64_t stage_wait(struct stage *s, bool (*condition)(struct stage *s, uint64_t value), uint64_t value, int seconds)
{
    int64_t began_ns = belfry_now_ns(), until_ns = belfry_in_ms((int64_t)seconds * 1000);
    while (!condition(s, value)) {
        if (belfry_now_ns() > until_ns)
            return -1;
        stage_pause(0.001);
    }
    return belfry_now_ns() - began_ns;
}

static bool is_ready(struct stage *s, uint64_t value)
{
    return atomic_load(&s->board->ready) >= value || atomic_load(&s->board->failures) > 0;
}

static bool is_at_rest(struct stage *s, uint64_t value)
{
    return atomic_load(&s->board->busy) <= value;
}

void stage_set(struct stage *s, enum situation situation)
{
    atomic_store(&s->board->word, ((atomic_load(&s->board->word) >> 4) + 1) << 4 | situation);
    futex(&s->board->word, FUTEX_WAKE, INT_MAX);
}

/* Who has not woken yet will find what comes next; who acts is waited for. */
void stage_rest(struct stage *s)
{
    stage_set(s, REST);
    stage_pause(0.002);
    if (stage_wait(s, is_at_rest, 0, REST_SECONDS) < 0)
        stage_wrong(s, "%u processes do not come to rest", atomic_load(&s->board->busy));
}

/* A change of user takes back that we die with our parent. */
static void become(struct stage *s, uint32_t uid, pid_t parent)
{
    if (s->root && (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0))
        _exit(9);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(9);
}

static pid_t start(struct stage *s, uint32_t uid, stage_body *body, const struct plan *p, uint32_t index)
{
    pid_t parent = getpid(), pid = fork();
    if (pid != 0)
        return pid;
    become(s, uid, parent);
    _exit(body(s, p, index));
}

static void await_ready(struct stage *s, uint32_t before, const char *who)
{
    if (stage_wait(s, is_ready, before + 1, START_SECONDS) < 0)
        stage_wrong(s, "the %s does not begin", who);
}

bool stage_serve(struct stage *s, const struct plan *p)
{
    atomic_store(&s->board->failures, 0);
    atomic_store(&s->board->killed_ns, 0);
    atomic_store(&s->board->ready, 0);
    memset(s->board->buried, 0, sizeof s->board->buried);
    memset(&s->board->fed, 0, sizeof s->board->fed);
    stage_set(s, REST);
    s->actors = 0;
    s->has_attackers = false;
    s->server = start(s, UID_SERVER, host_serve, p, 0);
    await_ready(s, 0, "server");
    return atomic_load(&s->board->failures) == 0;
}

uint32_t stage_enter(struct stage *s, const char *who, uint32_t uid, stage_body *body, const struct plan *p,
                     uint32_t index)
{
    uint32_t before = atomic_load(&s->board->ready);
    s->actor[s->actors] = (struct actor){.who = who, .pid = start(s, uid, body, p, index)};
    await_ready(s, before, who);
    return s->actors++;
}

const belfry_statistics *stage_stats(struct stage *s)
{
    static belfry_statistics stats;
    stats.size = sizeof stats;
    if (belfry_stats(s->service, s->directory, &stats) < 0)
        stage_wrong(s, "no counters: %s", belfry_last_error());
    return &stats;
}

bool stage_conns_are(struct stage *s, uint64_t value)
{
    return stage_stats(s)->total.connections_active == value;
}

static uint32_t files_found;
static const char *files_ending;

static int count_one(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st, (void)walk;
    size_t length = strlen(path), ending = strlen(files_ending);
    files_found += type == FTW_F && length >= ending && strcmp(path + length - ending, files_ending) == 0;
    return 0;
}

static uint32_t count_files(struct stage *s, const char *ending)
{
    files_found = 0;
    files_ending = ending;
    nftw(s->directory, count_one, 16, FTW_PHYS);
    return files_found;
}

bool stage_is_settled(struct stage *s, uint64_t unused)
{
    (void)unused;
    return count_files(s, ".lock") == stage_stats(s)->total.connections_active;
}

static uint64_t long_turns(struct stage *s)
{
    const belfry_counters *total = &stage_stats(s)->total;
    uint64_t sum = 0;
    for (int i = 0; i < BELFRY_LONG_TURNS; i++)
        sum += BELFRY_LONG_TURN_NS << i >= LONG_TURN_NS ? total->long_turns[i] : 0;
    return sum;
}

void stage_begin(struct stage *s, enum situation situation)
{
    s->situation = situation;
    atomic_store(&s->board->attacked, false);
    memset(&s->board->calls[situation], 0, sizeof s->board->calls[situation]);
    memset(&s->board->visits[situation], 0, sizeof s->board->visits[situation]);
    s->long_turns_before = long_turns(s);
    s->server_before = proc_cpu(s->server);
    s->victim_before = proc_cpu(s->actor[s->victim].pid);
    s->began_ns = belfry_now_ns();
    stage_set(s, situation);
}

static bool has_begun(struct stage *s, uint64_t unused)
{
    (void)unused;
    if (atomic_load(&s->board->failures) > 0)
        return true;
    bool attacked = s->situation != DURING || !s->has_attackers || atomic_load(&s->board->attacked);
    return attacked && *(volatile uint64_t *)&s->board->calls[s->situation].count > 0;
}

struct figures stage_finish(struct stage *s)
{
    if (stage_wait(s, has_begun, 0, REST_SECONDS) < 0)
        stage_wrong(s, "no answer for %d s", REST_SECONDS);
    double ns = (double)(belfry_now_ns() - s->began_ns);
    struct proc_cpu server = proc_cpu(s->server), victim = proc_cpu(s->actor[s->victim].pid);
    double turns = (double)(long_turns(s) - s->long_turns_before);
    stage_rest(s);
    const struct histogram *calls = &s->board->calls[s->situation], *visits = &s->board->visits[s->situation];
    struct figures f = {{
        [PER_SECOND] = (double)calls->count / ns * 1e9,
        [P50_NS] = (double)histogram_percentile(calls, 500),
        [P99_NS] = (double)histogram_percentile(calls, 990),
        [P999_NS] = (double)histogram_percentile(calls, 999),
        [MAX_NS] = (double)calls->max,
        [VISITS] = (double)visits->count,
        [VISIT_P50_NS] = (double)histogram_percentile(visits, 500),
        [VISIT_P99_NS] = (double)histogram_percentile(visits, 990),
        [VISIT_MAX_NS] = (double)visits->max,
        [SERVER_CPU] = (double)(server.run_ns - s->server_before.run_ns) / ns,
        [SERVER_WAITS] = (double)(server.wait_ns - s->server_before.wait_ns) / ns,
        [VICTIM_WAITS] = (double)(victim.wait_ns - s->victim_before.wait_ns) / ns,
        [LONG_TURNS] = turns / ns * 1e9,
    }};
    return f;
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static int reap(pid_t pid)
{
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void stage_kill(struct stage *s, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++)
        kill(s->actor[i].pid, SIGKILL);
    for (uint32_t i = first; i < first + count; i++) {
        reap(s->actor[i].pid);
        s->actor[i].pid = 0;
    }
}

static void remove_service(struct stage *s)
{
    char path[128];
    snprintf(path, sizeof path, "%s/" SERVICE, s->directory);
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void reap_actors(struct stage *s)
{
    for (uint32_t i = 0; i < s->actors; i++)
        if (s->actor[i].pid != 0 && reap(s->actor[i].pid) != 0)
            stage_wrong(s, "the %s failed", s->actor[i].who);
}

static void check_counters(struct stage *s, const struct plan *p)
{
    const belfry_counters *total = &stage_stats(s)->total;
    if (total->rescued_wakes > 0)
        stage_wrong(s, "%llu rescued wakes", (unsigned long long)total->rescued_wakes);
    for (int end = 0; end < BELFRY_END_COUNT; end++)
        if (total->ends[end] > 0 && end != BELFRY_END_LEFT && (p->ends & 1u << end) == 0)
            stage_wrong(s, "%llu conns ended: %s", (unsigned long long)total->ends[end],
                        belfry_end_text((enum belfry_end)end));
}

/* A connect that fails on one side may be half a conn on the other: it is over when the lock files are. */
static void check_slots(struct stage *s)
{
    if (stage_wait(s, stage_conns_are, 0, REST_SECONDS) < 0)
        stage_wrong(s, "%llu conns are left", (unsigned long long)stage_stats(s)->total.connections_active);
    else if (stage_wait(s, stage_is_settled, 0, REST_SECONDS) < 0)
        stage_wrong(s, "%u slots are left without a conn", count_files(s, ".lock"));
}

void stage_end(struct stage *s, const struct plan *p)
{
    stage_set(s, OVER);
    if (atomic_load(&s->board->failures) > 0) /* who knows what they wait for */
        for (uint32_t i = 0; i < s->actors; i++)
            if (s->actor[i].pid != 0)
                kill(s->actor[i].pid, SIGKILL);
    bool sound = atomic_load(&s->board->failures) == 0;
    reap_actors(s);
    if (sound) {
        check_slots(s);
        check_counters(s, p);
    }
    kill(s->server, sound ? SIGTERM : SIGKILL);
    int status = reap(s->server);
    if (sound && status != 0)
        stage_wrong(s, "the server ended with status %d", status);
    if (sound && count_files(s, "") > 1)
        stage_wrong(s, "%u files are left behind", count_files(s, "") - 1);
    remove_service(s);
    if (atomic_load(&s->board->failures) > 0)
        snprintf(s->row->wrong[s->row->wrongs++ % PLAN_WRONGS_MAX], PLAN_TEXT_CHARS, "%s", s->board->failure);
}

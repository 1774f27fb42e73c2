/* SPDX-License-Identifier: MIT */
/* faults.c: see faults.h. The plan, what counts, and the processes. */
#include "faults.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "expect.h"

#define WORKERS 4u
#define EVERY 8u
#define TRIES 5u /* of one failure: no run makes quite the calls of another */
#define COUNTED 3u
#define HANG_MS 60000     /* some wait for seconds, and the machine may be busy */
#define REFUSALS_MAX 100u /* by what nothing can go on without: the kernel that takes no entries */

struct faults_report *faults;

static bool armed;
static int64_t blocks, mapped_bytes;
static _Thread_local bool marked;

/* --- in the process whose calls fail ------------------------------------------------------------------------------------ */

void faults_arm(void)
{
    __atomic_store_n(&armed, true, __ATOMIC_RELEASE);
}

void faults_disarm(void)
{
    __atomic_store_n(&armed, false, __ATOMIC_RELEASE);
}

void faults_mark(bool counts)
{
    marked = counts;
}

bool faults_marked(void)
{
    return marked;
}

void faults_stage(const char *stage)
{
    snprintf(faults->stage, sizeof faults->stage, "%s", stage);
}

void faults_wrong(const char *format, ...)
{
    va_list arguments;
    faults_disarm();
    va_start(arguments, format);
    vsnprintf(faults->why, sizeof faults->why, format, arguments);
    va_end(arguments);
    _exit(1);
}

int64_t faults_blocks(void)
{
    return __atomic_load_n(&blocks, __ATOMIC_RELAXED);
}

int64_t faults_mapped_bytes(void)
{
    return __atomic_load_n(&mapped_bytes, __ATOMIC_RELAXED);
}

void faults_block(int change)
{
    __atomic_add_fetch(&blocks, change, __ATOMIC_RELAXED);
}

void faults_map(int64_t bytes)
{
    int64_t pages = (bytes < 0 ? bytes - 4095 : bytes + 4095) / 4096;
    __atomic_add_fetch(&mapped_bytes, pages * 4096, __ATOMIC_RELAXED);
}

/* Once the first has failed: does this one, too? */
static int again(const char *name)
{
    struct faults_report *f = faults;
    if (f->mode == FAULTS_ONCE || f->error_number == EINTR || __atomic_load_n(&f->name, __ATOMIC_ACQUIRE) != name)
        return 0;
    uint32_t times = __atomic_add_fetch(&f->times, 1, __ATOMIC_RELAXED);
    bool needed = strncmp(name, "io_uring_submit", 15) == 0 || strncmp(name, "io_uring_get", 12) == 0;
    return needed && times > REFUSALS_MAX ? 0 : f->error_number;
}

int faults_next(const char *name, const int *errors)
{
    struct faults_report *f = faults;
    if (!marked || !__atomic_load_n(&armed, __ATOMIC_ACQUIRE))
        return 0;
    uint32_t number = __atomic_add_fetch(&f->passed, 1, __ATOMIC_RELAXED), count = 0;
    while (errors[count] != 0)
        count++;
    if (number <= FAULTS_CALLS_MAX)
        f->errors[number - 1] = (uint8_t)count;
    if (number != f->fatal)
        return again(name);
    if (f->error >= count)
        return 0;
    f->times = 1;
    f->error_number = errors[f->error];
    __atomic_store_n(&f->name, name, __ATOMIC_RELEASE);
    return f->error_number;
}

/* --- those processes ------------------------------------------------------------------------------------------------------ */

struct worker {
    pid_t pid; /* 0: idle */
    unsigned tries;
    int64_t begun_ms;
    struct faults_report *report;
};

struct series {
    const char *name;
    void (*act)(void *context);
    void *context;
    struct worker worker[WORKERS];
    unsigned done, refused, wrong;
    unsigned asked, met;
    uint32_t in_reach; /* so many calls every run has made */
    unsigned asked_in_reach, met_in_reach;
    char first_wrong[2 * FAULTS_WHY_BYTES];
};

static void begin(struct series *s, struct worker *w, uint32_t fatal, uint32_t error, enum faults_mode mode)
{
    memset(w->report, 0, sizeof *w->report);
    w->report->fatal = fatal;
    w->report->error = error;
    w->report->mode = mode;
    faults = w->report;
    blocks = mapped_bytes = 0; /* what this process has is not the library's */
    w->tries++;
    w->begun_ms = fixture_now_ms();
    w->pid = fixture_child(s->act, s->context);
    expect(w->pid > 0);
}

static void note_wrong(struct series *s, const struct faults_report *r, const char *what)
{
    static const char *const modes[] = {"once", "lasting", "to the end"};
    char line[2 * FAULTS_WHY_BYTES];
    snprintf(line, sizeof line, "%s, call %u (%s) failed with %s, %s: %s, at \"%s\": %s", s->name, r->fatal,
             r->name != NULL ? r->name : "none", r->name != NULL ? strerrorname_np(r->error_number) : "nothing",
             modes[r->mode], what, r->stage, r->why);
    printf("%s\n", line);
    if (s->wrong++ == 0)
        memcpy(s->first_wrong, line, sizeof line);
}

/* Is it over? */
static bool look(struct series *s, struct worker *w)
{
    int status;
    char what[64] = "";
    pid_t ended = waitpid(w->pid, &status, WNOHANG);
    if (ended < 0) {
        snprintf(what, sizeof what, "it cannot be waited for: %s", strerrorname_np(errno));
    } else if (ended == 0) {
        if (fixture_now_ms() - w->begun_ms < HANG_MS)
            return false;
        fixture_kill(w->pid);
        snprintf(what, sizeof what, "it hangs");
    } else if (WIFSIGNALED(status)) {
        snprintf(what, sizeof what, "it died by signal %d", WTERMSIG(status));
    } else if (WEXITSTATUS(status) != 0) {
        snprintf(what, sizeof what, "it does not hold");
    }
    w->pid = 0;
    s->done++;
    s->met += w->report->name != NULL;
    s->met_in_reach += w->report->name != NULL && w->report->fatal <= s->in_reach;
    s->refused += w->report->times;
    if (what[0] == '\0' && w->report->name == NULL && w->report->fatal != 0 && w->tries < TRIES) {
        begin(s, w, w->report->fatal, w->report->error, w->report->mode);
        return false;
    }
    if (what[0] != '\0')
        note_wrong(s, w->report, what);
    if (what[0] != '\0' && w->report->root[0] != '\0')
        fixture_remove_tree(w->report->root);
    return true;
}

static struct worker *idle(struct series *s)
{
    for (;; usleep(200))
        for (unsigned i = 0; i < WORKERS; i++)
            if (s->worker[i].pid == 0 || look(s, &s->worker[i]))
                return &s->worker[i];
}

static void wait_for_all(struct series *s)
{
    for (unsigned i = 0; i < WORKERS; i++)
        while (s->worker[i].pid != 0 && !look(s, &s->worker[i]))
            usleep(200);
}

static void open_series(struct series *s)
{
    size_t bytes = WORKERS * sizeof *s->worker[0].report;
    struct faults_report *reports = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    expect(reports != MAP_FAILED);
    for (unsigned i = 0; i < WORKERS; i++)
        s->worker[i].report = &reports[i];
}

static int by_passed(const void *a, const void *b)
{
    uint32_t left = ((const struct faults_report *)a)->passed, right = ((const struct faults_report *)b)->passed;
    return (left > right) - (left < right);
}

/* Those in which none fails say how many there are: as many as in the middle one of three, since a shard that is kept waiting
   looks oftener; and each of them made those of the shortest. */
static const struct faults_report *count_calls(struct series *s)
{
    static struct faults_report whole[COUNTED];
    for (unsigned i = 0; i < COUNTED; i++) {
        begin(s, &s->worker[0], 0, 0, FAULTS_ONCE);
        wait_for_all(s);
        whole[i] = *s->worker[0].report;
        if (s->wrong > 0)
            expect_failed("%s", s->first_wrong);
        expect(whole[i].passed > 0 && whole[i].passed <= FAULTS_CALLS_MAX);
    }
    qsort(whole, COUNTED, sizeof whole[0], by_passed);
    s->in_reach = whole[0].passed;
    return &whole[COUNTED / 2];
}

static unsigned every(void)
{
    const char *given = getenv("BELFRY_FAULTS_EVERY");
    return given != NULL ? (unsigned)strtoul(given, NULL, 10) : EVERY;
}

/* BELFRY_FAULTS_ONLY=CALL,ERROR,MODE repeats one. */
static bool is_wanted(uint32_t call, uint32_t error, unsigned mode)
{
    unsigned c, e, m;
    const char *given = getenv("BELFRY_FAULTS_ONLY");
    return given == NULL || (sscanf(given, "%u,%u,%u", &c, &e, &m) == 3 && c == call && e == error && m == mode);
}

static void ask(struct series *s, uint32_t call, uint32_t error, enum faults_mode mode)
{
    struct worker *w = idle(s);
    w->tries = 0;
    s->asked++;
    s->asked_in_reach += call <= s->in_reach;
    begin(s, w, call, error, mode);
}

void faults_each(const char *name, void (*act)(void *context), void *context)
{
    struct series s = {.name = name, .act = act, .context = context};
    struct fixture_random random;
    unsigned step = every();
    fixture_seed(&random, name);
    open_series(&s);
    const struct faults_report *whole = count_calls(&s);
    unsigned number = (unsigned)(fixture_next(&random) % step);
    for (uint32_t call = 1; call <= whole->passed; call++)
        for (uint32_t error = 0; error < whole->errors[call - 1]; error++)
            for (unsigned mode = 0; mode < FAULTS_MODES; mode++)
                if (number++ % step == 0 && is_wanted(call, error, mode))
                    ask(&s, call, error, (enum faults_mode)mode);
    wait_for_all(&s);
    printf(
        "%s: %u calls that can fail, %u of them in each run; %u failures, of which %u were met (%u of %u), by %u processes; "
        "%u calls failed, %u went wrong\n",
        name, whole->passed, s.in_reach, s.asked, s.met, s.met_in_reach, s.asked_in_reach, s.done, s.refused, s.wrong);
    fflush(stdout);
    if (s.wrong > 0)
        expect_failed("%u went wrong; the first: %s", s.wrong, s.first_wrong);
    if (2 * s.met_in_reach < s.asked_in_reach)
        expect_failed("only %u of %u failures were met", s.met_in_reach, s.asked_in_reach);
}

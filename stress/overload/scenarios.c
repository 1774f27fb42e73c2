/* SPDX-License-Identifier: MIT */
/* scenarios.c: see scenarios.h. */
#include "scenarios.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "attack.h"
#include "host.h"
#include "people.h"

#define ROUNDS_MAX 101
#define STIR_SECONDS 0.1
#define WAIT_SECONDS 90

static const struct scale full = {.crowd_processes = 100,
                                  .crowd_conns = 10,
                                  .dying_processes = 40,
                                  .dying_conns = 100,
                                  .half_open = 1000,
                                  .slow_readers = 50};
static const struct scale quick = {.crowd_processes = 10,
                                   .crowd_conns = 5,
                                   .dying_processes = 10,
                                   .dying_conns = 20,
                                   .half_open = 100,
                                   .slow_readers = 10};

const struct scale *scale_of(const struct overload_options *o)
{
    return o->quick ? &quick : &full;
}

/* ---- rounds, and what they have in common ------------------------------------------------------------------------ */

struct rounds {
    struct figures figures[SITUATIONS][ROUNDS_MAX];
    double note[PLAN_NOTES_MAX][ROUNDS_MAX];
    uint32_t count;
};

static struct rounds rounds;

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *value, uint32_t count)
{
    qsort(value, count, sizeof *value, compare);
    return count == 0 ? 0 : count % 2 == 1 ? value[count / 2] : (value[count / 2 - 1] + value[count / 2]) / 2;
}

static void take_medians(struct row *row)
{
    double value[ROUNDS_MAX];
    for (int situation = 0; situation < SITUATIONS; situation++)
        for (int f = 0; f < FIGURES && row->has[situation]; f++) {
            for (uint32_t i = 0; i < rounds.count; i++)
                value[i] = rounds.figures[situation][i].value[f];
            row->median[situation].value[f] = median(value, rounds.count);
        }
    for (uint32_t i = 0; i < row->notes; i++)
        row->note[i].value = median(rounds.note[i], rounds.count);
}

/* A figure that only this plan has, in this round; the same ones in the same order in each. */
static void note(struct stage *s, uint32_t number, const char *what, enum unit unit, double value)
{
    if (number >= PLAN_NOTES_MAX)
        return;
    s->row->note[number] = (struct note){.what = what, .unit = unit};
    s->row->notes = number + 1 > s->row->notes ? number + 1 : s->row->notes;
    rounds.note[number][rounds.count] = value;
}

static void note_histogram(struct stage *s, uint32_t number, const char *const what[3], const struct histogram *h)
{
    note(s, number, what[0], UNIT_NS, (double)histogram_percentile(h, 500));
    note(s, number + 1, what[1], UNIT_NS, (double)histogram_percentile(h, 990));
    note(s, number + 2, what[2], UNIT_NS, (double)h->max);
}

static void keep(struct stage *s, struct figures figures)
{
    s->row->has[s->situation] = true;
    rounds.figures[s->situation][rounds.count] = figures;
}

static void measure(struct stage *s, enum situation situation)
{
    stage_begin(s, situation);
    stage_pause(s->options->seconds);
    keep(s, stage_finish(s));
}

static bool is_good(struct stage *s)
{
    return atomic_load(&s->board->failures) == 0;
}

static bool another_round(struct stage *s)
{
    return rounds.count < s->options->rounds && is_good(s);
}

/* What was attacked must be as it was: every slot without a conn is free again. */
static void settle(struct stage *s)
{
    if (is_good(s) && stage_wait(s, stage_is_settled, 0, WAIT_SECONDS) < 0)
        stage_wrong(s, "slots are not free again %d s after an attack", WAIT_SECONDS);
}

static uint32_t own_uid(const struct stage *s)
{
    (void)s;
    return UID_SERVER;
}

static bool begin(struct stage *s, const struct plan *p)
{
    if (!stage_serve(s, p))
        return false;
    s->victim = stage_enter(s, "victim", own_uid(s), people_victim, p, 0);
    if (p->guest)
        stage_enter(s, "guest", UID_GUEST, people_guest, p, 0);
    return is_good(s);
}

/* ---- somebody attacks (1, 3, 4, 7) ------------------------------------------------------------------------------- */

static void enter_attackers(struct stage *s, const struct plan *p)
{
    s->has_attackers = true;
    for (uint32_t i = 0; i < p->processes && is_good(s); i++)
        stage_enter(s, "attacker", p->other ? UID_ATTACKER : own_uid(s), attack_actor, p, i);
}

static void run_attack(struct stage *s, const struct plan *p)
{
    if (!begin(s, p))
        return;
    enter_attackers(s, p);
    for (; another_round(s); rounds.count++) {
        measure(s, ALONE);
        measure(s, BESIDE);
        measure(s, DURING);
        settle(s);
    }
}

/* The victim floods other conns of its own, just before each call: what a turn of the shard costs it, with a core for either. */
static void run_own(struct stage *s, const struct plan *p)
{
    if (!begin(s, p))
        return;
    for (; another_round(s); rounds.count++) {
        measure(s, ALONE);
        measure(s, DURING);
    }
}

static uint64_t refusals(struct stage *s)
{
    const belfry_counters *total = &stage_stats(s)->total;
    uint64_t sum = 0;
    for (int i = 0; i < BELFRY_END_COUNT; i++)
        sum += total->refusals[i];
    return sum;
}

/* As run_attack(), and what it came to. */
static void run_greed(struct stage *s, const struct plan *p)
{
    if (!begin(s, p))
        return;
    enter_attackers(s, p);
    for (; another_round(s); rounds.count++) {
        measure(s, ALONE);
        measure(s, BESIDE);
        uint64_t before = refusals(s), junk = stage_stats(s)->total.junk_names;
        uint64_t events = stage_stats(s)->total.watch_events;
        measure(s, DURING);
        settle(s);
        note(s, 0, "claims refused", UNIT_COUNT, (double)(refusals(s) - before));
        note(s, 1, "junk names removed", UNIT_COUNT, (double)(stage_stats(s)->total.junk_names - junk));
        note(s, 2, "events read", UNIT_COUNT, (double)(stage_stats(s)->total.watch_events - events));
    }
}

/* ---- slow readers (4) -------------------------------------------------------------------------------------------- */

static bool somebody_was_told(struct stage *s, uint64_t before)
{
    return atomic_load(&s->board->fed.refused) > before || stage_stats(s)->total.pushes_dropped > before || !is_good(s);
}

static bool were_thrown_out(struct stage *s, uint64_t count)
{
    return stage_stats(s)->total.ends[BELFRY_END_BACKLOG] >= count || !is_good(s);
}

static void check_policy(struct stage *s, const struct plan *p, uint64_t outbox_bytes)
{
    uint64_t bound = (uint64_t)s->scale->slow_readers * HOST_OUTBOX_BYTES;
    uint64_t thrown_out = stage_stats(s)->total.ends[BELFRY_END_BACKLOG];
    uint64_t expected = (rounds.count + 1ull) * s->scale->slow_readers;
    if (outbox_bytes > bound)
        stage_wrong(s, "outboxes of %llu bytes, and the limit is %llu", (unsigned long long)outbox_bytes,
                    (unsigned long long)bound);
    if (p->overflow == BELFRY_OVERFLOW_DISCONNECT && thrown_out != expected)
        stage_wrong(s, "%llu slow readers thrown out, not %llu", (unsigned long long)thrown_out,
                    (unsigned long long)expected);
}

static void run_slow(struct stage *s, const struct plan *p)
{
    struct plan sized = *p;
    sized.conns = s->scale->slow_readers;
    if (!begin(s, &sized))
        return;
    enter_attackers(s, &sized);
    for (; another_round(s); rounds.count++) {
        measure(s, ALONE);
        measure(s, BESIDE);
        uint64_t taken = atomic_load(&s->board->fed.taken), refused = atomic_load(&s->board->fed.refused);
        uint64_t dropped = stage_stats(s)->total.pushes_dropped, marks = atomic_load(&s->board->fed.marks);
        stage_set(s, STIR);
        if (stage_wait(s, somebody_was_told, p->overflow == BELFRY_OVERFLOW_DROP_PUSH ? dropped : refused,
                       WAIT_SECONDS) < 0)
            stage_wrong(s, "nobody was told of a client that does not read");
        if (p->overflow == BELFRY_OVERFLOW_DISCONNECT)
            stage_wait(s, were_thrown_out, (rounds.count + 1ull) * s->scale->slow_readers, WAIT_SECONDS);
        stage_begin(s, DURING);
        stage_pause(s->options->seconds);
        uint64_t outbox_bytes = stage_stats(s)->total.outbox_bytes;
        int64_t rss_bytes = proc_size(s->server).rss_anon_bytes;
        keep(s, stage_finish(s));
        check_policy(s, &sized, outbox_bytes);
        settle(s);
        note(s, 0, "in outboxes", UNIT_BYTES, (double)outbox_bytes);
        note(s, 1, "server's own memory", UNIT_BYTES, (double)rss_bytes);
        note(s, 2, "pushes taken", UNIT_COUNT, (double)(atomic_load(&s->board->fed.taken) - taken));
        note(s, 3, "told BELFRY_EBACKLOG", UNIT_COUNT, (double)(atomic_load(&s->board->fed.refused) - refused));
        note(s, 4, "dropped", UNIT_COUNT, (double)(stage_stats(s)->total.pushes_dropped - dropped));
        note(s, 5, "on_backlog", UNIT_COUNT, (double)(atomic_load(&s->board->fed.marks) - marks));
        note(s, 6, "thrown out so far", UNIT_COUNT, (double)stage_stats(s)->total.ends[BELFRY_END_BACKLOG]);
    }
}

/* ---- half-open connects (3) -------------------------------------------------------------------------------------- */

static void run_half_open(struct stage *s, const struct plan *p)
{
    struct plan sized = *p;
    sized.max_slots = s->scale->half_open + s->scale->half_open / 4 + 64;
    run_attack(s, &sized);
}

/* ---- a crowd, stopped (2, 5) ------------------------------------------------------------------------------------- */

static uint32_t crowd_rounds_before[ACTORS_MAX];

static void remember_rounds(struct stage *s)
{
    for (uint32_t i = 0; i < s->scale->crowd_processes; i++)
        crowd_rounds_before[i] = atomic_load(&s->board->crowd_rounds[i]);
}

/* Has each of the last `count` processes had all its answers since? */
static bool are_served(struct stage *s, uint64_t count)
{
    for (uint32_t i = s->scale->crowd_processes - (uint32_t)count; i < s->scale->crowd_processes; i++)
        if (atomic_load(&s->board->crowd_rounds[i]) == crowd_rounds_before[i] && is_good(s))
            return false;
    return true;
}

static uint32_t enter_crowd(struct stage *s, const struct plan *p)
{
    uint32_t first = s->actors;
    for (uint32_t i = 0; i < s->scale->crowd_processes && is_good(s); i++)
        stage_enter(s, "crowd", own_uid(s), people_crowd, p, i);
    return first;
}

static void signal_last(struct stage *s, uint32_t count, int number)
{
    for (uint32_t i = s->actors - count; i < s->actors; i++)
        kill(s->actor[i].pid, number);
}

static void note_served_again(struct stage *s, uint32_t number, uint32_t count)
{
    int64_t ns = stage_wait(s, are_served, count, WAIT_SECONDS);
    if (ns < 0)
        stage_wrong(s, "not all are served again after %d s", WAIT_SECONDS);
    note(s, number, "until all were served again", UNIT_NS, (double)ns);
}

/* The first half of them talks in both situations; the other half, or all, are stopped in the middle of what they do. */
static void run_stopped(struct stage *s, const struct plan *p)
{
    if (!begin(s, p))
        return;
    enter_crowd(s, p);
    uint32_t count = p->processes == 0 ? s->scale->crowd_processes : s->scale->crowd_processes / 2;
    for (; another_round(s); rounds.count++) {
        measure(s, ALONE);
        stage_set(s, STIR);
        stage_pause(STIR_SECONDS);
        signal_last(s, count, SIGSTOP);
        stage_begin(s, DURING);
        stage_pause(s->options->seconds);
        remember_rounds(s);
        signal_last(s, count, SIGCONT);
        note_served_again(s, 0, count);
        keep(s, stage_finish(s));
        note(s, 1, "conns stopped", UNIT_COUNT, (double)count * s->scale->crowd_conns);
    }
}

/* Once, not in rounds: the situation DURING is what comes after. */
static void run_server_stopped(struct stage *s, const struct plan *p)
{
    if (!begin(s, p))
        return;
    enter_crowd(s, p);
    measure(s, ALONE);
    stage_set(s, STIR);
    stage_pause(STIR_SECONDS);
    kill(s->server, SIGSTOP);
    stage_pause(s->options->stopped_seconds);
    remember_rounds(s);
    kill(s->server, SIGCONT);
    note_served_again(s, 0, s->scale->crowd_processes);
    measure(s, DURING);
    note(s, 1, "stopped for", UNIT_NS, s->options->stopped_seconds * 1e9);
    note(s, 2, "conns", UNIT_COUNT, (double)stage_stats(s)->total.connections_active);
    rounds.count = 1;
}

/* ---- many die at once (6) ---------------------------------------------------------------------------------------- */

static uint32_t enter_silent(struct stage *s, const struct plan *p)
{
    uint32_t first = s->actors;
    for (uint32_t i = 0; i < s->scale->dying_processes && is_good(s); i++)
        stage_enter(s, "dying", own_uid(s), people_silent, p, i);
    return first;
}

static bool are_buried(struct stage *s, uint64_t left)
{
    return stage_stats(s)->total.connections_active <= left || !is_good(s);
}

/* The victim is measured until the last of them is buried. */
static void run_deaths(struct stage *s, const struct plan *p)
{
    static const char *const what[] = {"noticed after, p50", "p99", "max"};
    static struct histogram buried;
    if (!begin(s, p))
        return;
    uint32_t first = s->actors;
    for (; another_round(s); rounds.count++) {
        s->actors = first;
        enter_silent(s, p);
        settle(s);
        measure(s, ALONE);
        memset(s->board->buried, 0, sizeof s->board->buried);
        stage_begin(s, DURING);
        atomic_store(&s->board->killed_ns, belfry_now_ns());
        for (uint32_t i = first; i < s->actors; i++)
            kill(s->actor[i].pid, SIGKILL);
        int64_t ns = stage_wait(s, are_buried, 1, WAIT_SECONDS);
        keep(s, stage_finish(s));
        stage_kill(s, first, s->actors - first);
        settle(s);
        memset(&buried, 0, sizeof buried);
        for (uint32_t i = 0; i < s->options->shards; i++)
            histogram_merge(&buried, &s->board->buried[i]);
        note_histogram(s, 0, what, &buried);
        note(s, 3, "until the last was", UNIT_NS, (double)ns);
        note(s, 4, "conns", UNIT_COUNT, (double)buried.count);
        if (buried.count != s->scale->dying_processes * s->scale->dying_conns)
            stage_wrong(s, "%llu of %u dead conns buried", (unsigned long long)buried.count,
                        s->scale->dying_processes * s->scale->dying_conns);
    }
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

#define END(reason) (1u << BELFRY_END_##reason)

/* From one conn, from eight of one process, and from eight processes; of the server's user, and of another. */
#define FLOOD(title, of, text)                                                                                    \
    {title "-1", text ": one conn", run_attack, &of, .processes = 1, .conns = 1},                                 \
        {title "-8", text ": eight conns", run_attack, &of, .processes = 1, .conns = 8, .quick = true},           \
        {title "-8p", text ": eight processes", run_attack, &of, .processes = 8, .conns = 1},                     \
        {title "-1-other", text ": one conn of another user", run_attack, &of, .processes = 1, .conns = 1,        \
         .other = true},                                                                                          \
        {title "-8-other", text ": eight conns of another user",                                                  \
         run_attack,       &of,                                                                                   \
         .processes = 1,   .conns = 8,                                                                            \
         .other = true,    .quick = true},                                                                        \
    {                                                                                                             \
        title "-8p-other", text ": eight processes of another user", run_attack, &of, .processes = 8, .conns = 1, \
                                                                                      .other = true               \
    }

#define GREED(title, of, text, ...)                                                                           \
    {                                                                                                         \
        title, text, run_greed, &of, .processes = 1, .other = true, .guest = true, .quick = true, __VA_ARGS__ \
    }

const struct plan plans[] = {
    FLOOD("flood-one-way", attack_one_way, "one-way messages without end"),
    FLOOD("flood-unread", attack_unread, "requests whose replies are not read"),
    FLOOD("flood-large", attack_large, "one-way messages of a mebibyte"),
    FLOOD("flood-rings", attack_rings, "rings for nothing"),
    {"flood-own-1", "another conn of the victim's own is full whenever it calls", run_own, .conns = 1},
    {"flood-own-8", "eight other conns of the victim's own are full whenever it calls", run_own, .conns = 8,
     .quick = true},
    {"stopped-half", "half of the crowd stopped in the middle of its traffic", run_stopped, .processes = 1,
     .quick = true},
    {"stopped-all", "all of the crowd stopped, then continued", run_stopped},
    {"half-open", "lock files made and locked, and no hello", run_half_open, &attack_half_open, .processes = 1,
     .guest = true, .quick = true},
    {"slow-refuse", "clients that do not read; what is said to them is refused", run_slow, &attack_slow, .processes = 1,
     .quick = true},
    {"slow-drop", "clients that do not read; old pushes are dropped", run_slow, &attack_slow, .processes = 1,
     .overflow = BELFRY_OVERFLOW_DROP_PUSH, .quick = true},
    {"slow-disconnect", "clients that do not read; they are thrown out", run_slow, &attack_slow, .processes = 1,
     .overflow = BELFRY_OVERFLOW_DISCONNECT, .ends = END(BACKLOG), .quick = true},
    {"server-stopped", "the server stopped, then continued; during: after that", run_server_stopped, .quick = true},
    {"deaths", "a crowd dies at once", run_deaths, .ends = END(DIED), .max_slots = 4200, .ring_bytes = 4096,
     .quick = true},
    GREED("greed-slots", attack_slots, "a user grabs every slot's name", .ends = END(DIED)),
    GREED("greed-connects", attack_connects, "a user connects and leaves"),
    GREED("greed-junk", attack_junk, "a user makes names that are no slot's"),
    GREED("greed-touches", attack_touches, "a user touches its own lock file", .conns = 1),
    GREED("greed-bytes", attack_bytes, "a user has as many bytes of large messages as it may", .conns = 9,
          .large_visits = true),
};
const size_t plan_count = sizeof plans / sizeof plans[0];

static const char *reason_to_skip(const struct stage *s, const struct plan *p)
{
    if (p->other && !s->root)
        return "only root can be several users";
    return NULL;
}

void plan_run(struct stage *s, const struct plan *p)
{
    memset(s->row, 0, sizeof *s->row);
    rounds.count = 0;
    s->row->skipped = reason_to_skip(s, p);
    if (s->row->skipped != NULL)
        return;
    p->run(s, p);
    stage_end(s, p);
    take_medians(s->row);
}

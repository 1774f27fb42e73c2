/* SPDX-License-Identifier: MIT */
/* pace.c: see pace.h. What a tick is worth is learned here, over all the time since the start: the longer, the better. */
#include "server/pace.h"

#include "base/os.h"
#include "server/server.h"

#define NS_PER_MS 1000000ll
#define WARN_PAUSE_NS 10000000000ll

void bf_pace_init(struct bf_pace *pace)
{
    *pace = (struct bf_pace){.first_mark = cpu_cycles(), .first_ns = bf_os_now_ns()};
}

/* Nanoseconds per tick, 0 for nonsense. */
static double learn(struct bf_pace *pace, int64_t now_ns)
{
    int64_t cycles = (int64_t)(pace->mark - pace->first_mark), ns = now_ns - pace->first_ns;
    if (cycles <= 0 || ns <= 0)
        return 0;
    pace->long_cycles = (uint64_t)((double)BELFRY_LONG_TURN_NS * (double)cycles / (double)ns);
    return (double)ns / (double)cycles;
}

static unsigned bucket(uint64_t ns)
{
    unsigned log2 = 63u - (unsigned)__builtin_clzll(ns / BELFRY_LONG_TURN_NS);
    return bf_min(log2, BELFRY_LONG_TURNS - 1u);
}

static void warn(struct bf_shard *s, struct bf_pace *pace, uint64_t ns, int64_t now_ns)
{
    if (now_ns < pace->warn_at_ns)
        return;
    pace->warn_at_ns = now_ns + WARN_PAUSE_NS;
    bf_log(
        s->log, BELFRY_LOG_WARNING,
        "a turn of shard %u took %llu ms, and its clients waited (such turns so far: %llu): a handler blocks or works for "
        "too long, which can be deferred; or the processor was taken away",
        s->index, (unsigned long long)(ns / NS_PER_MS), (unsigned long long)s->counters->stalled_turns);
}

void bf_pace_long(struct bf_shard *s, struct bf_pace *pace, uint64_t cycles)
{
    int64_t now_ns = bf_os_now_ns();
    double took_ns = learn(pace, now_ns) * (double)cycles;
    if (took_ns < BELFRY_LONG_TURN_NS || cycles > INT64_MAX) /* not known before; or the processor's clock went back */
        return;
    uint64_t ns = (uint64_t)took_ns, stall_ns = s->options->stall_ms * (uint64_t)NS_PER_MS;
    counter_add(&s->counters->long_turns[bucket(ns)], 1);
    if (ns > load_relaxed(&s->counters->longest_turn_ns))
        store_relaxed(&s->counters->longest_turn_ns, ns);
    if (stall_ns != 0 && ns >= stall_ns) {
        counter_add(&s->counters->stalled_turns, 1);
        warn(s, pace, ns, now_ns);
    }
    pace_start(pace); /* this was no part of the next one */
}

/* SPDX-License-Identifier: MIT */
/* report.c: the table at the end of a run. */
#include "report.h"

#include <inttypes.h>
#include <string.h>

#define NUMBER_CHARS 32

/* 12345678 as 12,345,678. */
static const char *grouped(char out[NUMBER_CHARS], int64_t value)
{
    char digits[NUMBER_CHARS];
    if (value < 0)
        return strcpy(out, "unknown");
    int length = snprintf(digits, sizeof digits, "%" PRId64, value), o = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0)
            out[o++] = ',';
        out[o++] = digits[i];
    }
    out[o] = '\0';
    return out;
}

static const char *duration(char out[NUMBER_CHARS], uint64_t ns)
{
    static const char *const unit[] = {"ns", "us", "ms", "s"};
    double value = (double)ns;
    int u = 0;
    for (; u < 3 && value >= 999.5; u++)
        value /= 1000;
    snprintf(out, NUMBER_CHARS, "%.*f %s", u == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2, value, unit[u]);
    return out;
}

static const char *mebibytes(char out[NUMBER_CHARS], int64_t bytes)
{
    if (bytes < 0)
        return strcpy(out, "unknown");
    snprintf(out, NUMBER_CHARS, "%.1f MiB", (double)bytes / (1 << 20));
    return out;
}

static void print_times(FILE *out, const char *name, const struct histogram *h)
{
    char p50[NUMBER_CHARS], p99[NUMBER_CHARS], p99_9[NUMBER_CHARS], max[NUMBER_CHARS];
    if (h->count == 0)
        return;
    fprintf(out, "  %-18s p50 %s, p99 %s, p99.9 %s, max %s\n", name, duration(p50, histogram_percentile(h, 500)),
            duration(p99, histogram_percentile(h, 990)), duration(p99_9, histogram_percentile(h, 999)),
            duration(max, h->max));
}

static void print_count(FILE *out, const char *name, uint64_t value, const char *remark)
{
    char number[NUMBER_CHARS];
    fprintf(out, "  %-18s %s%s\n", name, grouped(number, (int64_t)value), remark);
}

static void print_heading(const struct options *o, const struct service *s, FILE *out)
{
    char connections[NUMBER_CHARS], rate[NUMBER_CHARS];
    fprintf(out, "belfry-stress: %s connections from %u processes", grouped(connections, o->connections), o->processes);
    if (o->threads > 1)
        fprintf(out, " of %u threads", o->threads);
    if (o->rate > 0)
        fprintf(out, ", open loop at %s messages per second", grouped(rate, (int64_t)o->rate));
    else
        fprintf(out, ", closed loop");
    fprintf(out, ", depth %u, %s bytes", o->depth, o->bytes);
    if (o->churn > 0)
        fprintf(out, ", %g reconnects per second", o->churn);
    fprintf(out, ", seed %" PRIu64 "\n", o->seed);
    fprintf(out, "  %-18s %s (%s)\n", "service", s->name, s->ours ? "started for this run" : "found running");
}

static void print_load(const struct results *r, const struct options *o, FILE *out)
{
    char messages[NUMBER_CHARS], rate[NUMBER_CHARS];
    int64_t per_second = r->seconds > 0 ? (int64_t)((double)r->interval_messages / r->seconds + 0.5) : 0;
    fprintf(out, "  %-18s %s in %.1f s, %s per second\n", "messages", grouped(messages, (int64_t)r->messages),
            r->seconds, grouped(rate, per_second));
    print_count(out, "lost", r->lost, "");
    print_count(out, "corrupt", r->corrupt, "");
    print_count(out, "rescued wakes", r->rescued_wakes, "");
    if (r->failed > 0)
        print_count(out, "failed", r->failed, " requests (counted as lost)");
    if (r->delays > 0)
        print_count(out, "full rings", r->delays, " (sends that had to wait; the wait is part of their round trip)");
    if (r->unsent > 0)
        print_count(out, "unsent", r->unsent, " were due when time was up: the rate was not reached");
    if (o->churn > 0)
        print_count(out, "reconnects", r->reconnects, "");
    print_times(out, o->rate > 0 ? "since due" : "round trip", &r->rtt_ns);
    print_times(out, "connecting", &r->connect_ns);
}

static void print_server(const struct results *r, FILE *out)
{
    char a[NUMBER_CHARS], b[NUMBER_CHARS], c[NUMBER_CHARS], d[NUMBER_CHARS];
    double cpu_ns = results_cpu_per_message(r);
    fprintf(out, "  %-18s ", "server");
    if (cpu_ns >= 0)
        fprintf(out, "%.0f ns CPU per message, ", cpu_ns);
    fprintf(out, "%s parks, %s rings heard, %s clients woken\n", grouped(a, (int64_t)r->parks),
            grouped(b, (int64_t)r->rings), grouped(c, (int64_t)r->wakes));
    fprintf(out, "  %-18s RSS %s (%s of its own), %s descriptors, %s maps\n", "", mebibytes(a, r->server.rss_bytes),
            mebibytes(b, r->server.rss_anon_bytes), grouped(c, r->server.fds), grouped(d, r->server.maps));
    fprintf(out, "  %-18s %s bytes before, %s at the peak, %s after\n", "allocated",
            grouped(a, (int64_t)r->allocated_before), grouped(b, (int64_t)r->allocated_peak),
            grouped(c, (int64_t)r->allocated_after));
    if (r->segments_bytes >= 0 && r->attached > 0)
        fprintf(out, "  %-18s %s bytes per connection\n", "shared memory",
                grouped(a, r->segments_bytes / (int64_t)r->attached));
    for (uint32_t i = 0; i < r->shards; i++) {
        double share = r->attached ? 100.0 * (double)r->shard_connections[i] / (double)r->attached : 0;
        fprintf(out, "  %-18s shard %u: %s connections (%.1f %%)\n", i == 0 ? "shards" : "", i,
                grouped(a, (int64_t)r->shard_connections[i]), share);
    }
    if (r->idle_seconds > 0 && r->idle_cpu_percent >= 0)
        fprintf(out, "  %-18s %.3f %% CPU, %.2f wake-ups per second, over %.1f s with all connections silent\n", "idle",
                r->idle_cpu_percent, r->idle_wakeups_per_second, r->idle_seconds);
    else if (r->idle_seconds > 0)
        fprintf(out, "  %-18s unknown: /proc says nothing about this server\n", "idle");
}

static void print_verdict(const struct results *r, const struct options *o, FILE *out)
{
    char number[NUMBER_CHARS];
    if (r->error != 0)
        fprintf(out, "  %-18s %s\n", "first failure", r->sentence);
    if (r->processes_crashed > 0)
        print_count(out, "crashed", r->processes_crashed, " client processes");
    if (r->left_behind > 0)
        fprintf(out, "  %-18s the server still counts %s connections that have left\n", "left behind",
                grouped(number, (int64_t)r->left_behind));
    if (r->server_failed)
        fprintf(out, "  %-18s it crashed, did not stop cleanly, or left files behind\n", "server");
    const char *how = r->incomplete    ? " (it ended before anything was measured)"
                      : r->interrupted ? " (interrupted; the figures are those until then)"
                                       : "";
    fprintf(out, "  %-18s %s%s\n", "result", results_passed(r, o) ? "passed" : "FAILED", how);
}

void report_print(const struct results *r, const struct options *o, const struct service *s, FILE *out)
{
    print_heading(o, s, out);
    if (!r->incomplete) {
        print_load(r, o, out);
        print_server(r, out);
    }
    print_verdict(r, o, out);
    fflush(out);
}

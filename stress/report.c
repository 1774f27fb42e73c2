/* SPDX-License-Identifier: MIT */
/* report.c: the table at the end of a run. */
#include "report.h"

#include "text.h"

#include <inttypes.h>

static void print_times(FILE *out, const char *name, const struct histogram *h)
{
    char p50[TEXT_CHARS], p99[TEXT_CHARS], p99_9[TEXT_CHARS], max[TEXT_CHARS];
    if (h->count == 0)
        return;
    fprintf(out, "  %-18s p50 %s, p99 %s, p99.9 %s, max %s\n", name, text_duration(p50, histogram_percentile(h, 500)),
            text_duration(p99, histogram_percentile(h, 990)), text_duration(p99_9, histogram_percentile(h, 999)),
            text_duration(max, h->max));
}

static void print_count(FILE *out, const char *name, uint64_t value, const char *remark)
{
    char number[TEXT_CHARS];
    fprintf(out, "  %-18s %s%s\n", name, text_grouped(number, (int64_t)value), remark);
}

static void print_heading(const struct options *o, const struct service *s, FILE *out)
{
    char connections[TEXT_CHARS], rate[TEXT_CHARS];
    fprintf(out, "belfry-stress: %s connections from %u processes", text_grouped(connections, o->connections),
            o->processes);
    if (o->threads > 1)
        fprintf(out, " of %u threads", o->threads);
    if (o->rate > 0)
        fprintf(out, ", open loop at %s messages per second", text_grouped(rate, (int64_t)o->rate));
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
    char messages[TEXT_CHARS], rate[TEXT_CHARS];
    int64_t per_second = r->seconds > 0 ? (int64_t)((double)r->interval_messages / r->seconds + 0.5) : 0;
    fprintf(out, "  %-18s %s in %.1f s, %s per second\n", "messages", text_grouped(messages, (int64_t)r->messages),
            r->seconds, text_grouped(rate, per_second));
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
    char a[TEXT_CHARS], b[TEXT_CHARS], c[TEXT_CHARS], d[TEXT_CHARS];
    double cpu_ns = results_cpu_per_message(r);
    fprintf(out, "  %-18s ", "server");
    if (cpu_ns >= 0)
        fprintf(out, "%.0f ns CPU per message, ", cpu_ns);
    fprintf(out, "%s parks, %s rings heard, %s clients woken\n", text_grouped(a, (int64_t)r->parks),
            text_grouped(b, (int64_t)r->rings), text_grouped(c, (int64_t)r->wakes));
    fprintf(out, "  %-18s RSS %s (%s of its own), %s descriptors, %s maps\n", "",
            text_mebibytes(a, r->server.rss_bytes), text_mebibytes(b, r->server.rss_anon_bytes),
            text_grouped(c, r->server.fds), text_grouped(d, r->server.maps));
    fprintf(out, "  %-18s %s bytes before, %s at the peak, %s after\n", "allocated",
            text_grouped(a, (int64_t)r->allocated_before), text_grouped(b, (int64_t)r->allocated_peak),
            text_grouped(c, (int64_t)r->allocated_after));
    if (r->segments_bytes >= 0 && r->attached > 0)
        fprintf(out, "  %-18s %s bytes per connection\n", "shared memory",
                text_grouped(a, r->segments_bytes / (int64_t)r->attached));
    for (uint32_t i = 0; i < r->shards; i++) {
        double share = r->attached ? 100.0 * (double)r->shard_connections[i] / (double)r->attached : 0;
        fprintf(out, "  %-18s shard %u: %s connections (%.1f %%)\n", i == 0 ? "shards" : "", i,
                text_grouped(a, (int64_t)r->shard_connections[i]), share);
    }
    if (r->idle_seconds > 0 && r->idle_cpu_percent >= 0)
        fprintf(out, "  %-18s %.3f %% CPU, %.2f wake-ups per second, over %.1f s with all connections silent\n", "idle",
                r->idle_cpu_percent, r->idle_wakeups_per_second, r->idle_seconds);
    else if (r->idle_seconds > 0)
        fprintf(out, "  %-18s unknown: /proc says nothing about this server\n", "idle");
}

static void print_verdict(const struct results *r, const struct options *o, FILE *out)
{
    char number[TEXT_CHARS];
    if (r->error != 0)
        fprintf(out, "  %-18s %s\n", "first failure", r->sentence);
    if (r->processes_crashed > 0)
        print_count(out, "crashed", r->processes_crashed, " client processes");
    if (r->left_behind > 0)
        fprintf(out, "  %-18s the server still counts %s connections that have left\n", "left behind",
                text_grouped(number, (int64_t)r->left_behind));
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

/* SPDX-License-Identifier: MIT */
/* report_json.c: the results as one JSON object; the names of its keys are an interface. */
#include "report.h"

#include "json.h"

static void json_times(struct json *j, const char *key, const struct histogram *h)
{
    static const struct {
        const char *key;
        uint32_t per_mille;
    } rank[] = {{"p50", 500}, {"p99", 990}, {"p99_9", 999}};
    json_open(j, key, '{');
    for (size_t i = 0; i < sizeof rank / sizeof rank[0]; i++)
        json_maybe(j, rank[i].key, h->count ? (int64_t)histogram_percentile(h, rank[i].per_mille) : PROC_UNKNOWN);
    json_maybe(j, "max", h->count ? (int64_t)h->max : PROC_UNKNOWN);
    json_close(j, '}');
}

static void json_setting(struct json *j, const struct options *o)
{
    json_count(j, "connections", o->connections);
    json_count(j, "processes", o->processes);
    json_count(j, "threads", o->threads);
    json_count(j, "depth", o->depth);
    json_string(j, "bytes", o->bytes);
    json_string(j, "loop", o->rate > 0 ? "open" : "closed");
    json_number(j, "rate", o->rate);
    json_number(j, "churn", o->churn);
    json_count(j, "seed", o->seed);
}

static void json_server(struct json *j, const struct results *r)
{
    json_number(j, "server_cpu_ns_per_message", results_cpu_per_message(r));
    json_maybe(j, "server_rss_bytes", r->server.rss_bytes);
    json_maybe(j, "server_rss_anon_bytes", r->server.rss_anon_bytes);
    json_maybe(j, "server_fds", r->server.fds);
    json_maybe(j, "server_maps", r->server.maps);
    json_count(j, "server_parks", r->parks);
    json_count(j, "server_rings", r->rings);
    json_count(j, "server_wakes", r->wakes);
    json_maybe(j, "shm_bytes_per_connection",
               r->segments_bytes >= 0 && r->attached > 0 ? r->segments_bytes / (int64_t)r->attached : PROC_UNKNOWN);
    json_open(j, "allocated_bytes", '{');
    json_count(j, "before", r->allocated_before);
    json_count(j, "peak", r->allocated_peak);
    json_count(j, "after", r->allocated_after);
    json_close(j, '}');
    json_open(j, "connections_per_shard", '[');
    for (uint32_t i = 0; i < r->shards; i++)
        json_count(j, NULL, r->shard_connections[i]);
    json_close(j, ']');
    if (r->idle_seconds > 0) {
        json_number(j, "idle_seconds", r->idle_seconds);
        json_number(j, "idle_cpu_percent", r->idle_cpu_percent);
        json_number(j, "idle_wakeups_per_second", r->idle_wakeups_per_second);
    }
}

bool report_json(const struct results *r, const struct options *o, FILE *out)
{
    struct json json = {.out = out}, *j = &json;
    json_open(j, NULL, '{');
    json_bool(j, "passed", results_passed(r, o));
    json_setting(j, o);
    json_number(j, "seconds", r->seconds);
    json_count(j, "sent", r->sent);
    json_count(j, "messages", r->messages);
    json_number(j, "messages_per_second", r->seconds > 0 ? (double)r->interval_messages / r->seconds : 0);
    json_count(j, "lost", r->lost);
    json_count(j, "corrupt", r->corrupt);
    json_count(j, "rescued_wakes", r->rescued_wakes);
    json_count(j, "failed", r->failed);
    json_count(j, "unsent", r->unsent);
    json_count(j, "full_rings", r->delays);
    json_count(j, "reconnects", r->reconnects);
    json_count(j, "left_behind", r->left_behind);
    json_count(j, "processes_crashed", r->processes_crashed);
    json_bool(j, "interrupted", r->interrupted);
    json_string(j, "first_failure", r->sentence);
    json_times(j, "rtt_ns", &r->rtt_ns);
    json_times(j, "connect_ns", &r->connect_ns);
    json_server(j, r);
    json_close(j, '}');
    fputc('\n', out);
    return fflush(out) == 0 && !ferror(out);
}

/* SPDX-License-Identifier: MIT */
/*
 * sqlite.c: a service that owns one SQLite database and answers SQL for many processes. sql.c is a client.
 *
 *     sqlite [OPTION...] DATABASE [SERVICE]          until SIGINT or SIGTERM
 *
 * A shard's thread only moves messages: it defers each request and queues it for a worker, so that no query, however
 * long, holds up another client. There is one worker that writes, since SQLite has one writer at a time anyway, and
 * several that read; each has a connection of its own (sqlite_db.h). What does not fit into the queue is refused at
 * once, with a code and a sentence.
 *
 * A request is some SQL with values for its parameters (sqlite_rows.h). Several statements are one transaction: all of
 * them or none. No transaction lasts longer than its request, so no client can keep the others from writing. Rows are
 * sent while the query runs, in as many replies as they take. It is interrupted when its deadline passes, when its
 * client cancels it, dies or stops reading, and when it takes longer than any may.
 */
#include <belfry/server.h>

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "sqlite_db.h"
#include "sqlite_rows.h"
#include "workers.h"

#define EXIT_UNAVAILABLE 69 /* this machine cannot run a server; the sentence says why */
#define READERS_MAX 64
#define WRITER_STALL_MS 200 /* there is only one: who does not read what RETURNING gives has changed nothing */

struct service {
    const char *path;
    const char *name;
    unsigned reader_count, queue_max;
    struct db_limits limits;

    struct db *writer, *readers[READERS_MAX];
    struct workers *writing, *reading;
};

/* --- on the shard's thread ---------------------------------------------------------------------------------------- */

/* Will it only read? A guess by the first word, to save most requests a way; SQLite knows, and db_run() asks it. */
static bool looks_like_reading(const belfry_message *m)
{
    static const char *const words[] = {"SELECT", "WITH", "VALUES", "EXPLAIN", "PRAGMA"};
    struct sql_request r;
    if (sql_get_request(m->data, m->size, &r) < 0)
        return true;
    uint32_t at = 0;
    while (at < r.sql_bytes && strchr(" \t\r\n(;", r.sql[at]) != NULL && r.sql[at] != '\0')
        at++;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (r.sql_bytes - at >= strlen(words[i]) && strncasecmp(r.sql + at, words[i], strlen(words[i])) == 0)
            return true;
    return false;
}

static void give(const struct service *s, struct work *work, bool reading)
{
    char text[100];
    if (workers_give(reading ? s->reading : s->writing, work) == 0)
        return;
    snprintf(text, sizeof text, "too busy: %u %s wait already", s->queue_max, reading ? "queries" : "changes");
    work_fail(work, SQL_EFULL, text);
}

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    struct work *work;
    if (m->kind != BELFRY_REQUEST)
        return;
    int rc = work_defer(&work, conn, m);
    if (rc == 0)
        give(user, work, looks_like_reading(&work->request));
    else if (belfry_fail(conn, m, rc, belfry_error_text(rc)) < 0)
        belfry_disconnect(conn);
}

/* What still waits in a queue is taken out. What runs already notices by itself. */
static void on_cancel(belfry_conn *conn, const belfry_ticket *t, int why, void *user)
{
    struct service *s = user;
    (void)conn;
    (void)why;
    if (!workers_forget(s->reading, t))
        workers_forget(s->writing, t);
}

/* --- on the workers' threads -------------------------------------------------------------------------------------- */

static struct service service = {.name = "sqlite",
                                 .reader_count = 4,
                                 .queue_max = 256,
                                 .limits = {.query_ms = 60000, .stall_ms = 5000}};

static void run_reading(struct work *work, void *own)
{
    if (db_run(own, work)) {
        work->moved = true;
        give(&service, work, false);
    }
}

static void run_writing(struct work *work, void *own)
{
    if (db_run(own, work)) {
        work->moved = true;
        give(&service, work, true);
    }
}

/* --- start and end ------------------------------------------------------------------------------------------------ */

static void close_all(struct service *s)
{
    workers_destroy(s->reading);
    workers_destroy(s->writing);
    for (unsigned i = 0; i < s->reader_count; i++)
        db_close(s->readers[i]);
    db_close(s->writer); /* the last one moves the log into the database and removes it */
}

static int open_all(struct service *s)
{
    struct db_limits writers = s->limits;
    if (writers.stall_ms > WRITER_STALL_MS)
        writers.stall_ms = WRITER_STALL_MS;
    int rc = db_open(&s->writer, s->path, true, &writers);
    for (unsigned i = 0; i < s->reader_count && rc == 0; i++)
        rc = db_open(&s->readers[i], s->path, false, &s->limits);
    if (rc < 0)
        return rc;
    rc = workers_create(&s->writing, 1, s->queue_max, run_writing, (void *[]){s->writer});
    if (rc == 0)
        rc = workers_create(&s->reading, s->reader_count, s->queue_max, run_reading, (void **)s->readers);
    if (rc < 0)
        fprintf(stderr, "sqlite: cannot start the workers: %s\n", strerror(-rc));
    return rc;
}

/* Whether the machine is at fault, rather than this program or its arguments. */
static bool is_unavailable(int rc)
{
    return rc == BELFRY_EKERNEL || rc == BELFRY_EFORBIDDEN || rc == BELFRY_EMEMLOCK || rc == BELFRY_ENOFILES ||
           rc == BELFRY_EMAPS || rc == BELFRY_ENOSPACE;
}

static int serve(struct service *s)
{
    belfry_server_options o;
    belfry_server_options_init(&o, sizeof o);
    o.service = s->name;
    o.on_message = on_message;
    o.on_cancel = on_cancel;
    o.user = s;
    o.shards = 1; /* it has nothing to do but pass on */
    o.ring_bytes = 65536;
    o.message_bytes_max = DB_MESSAGE_BYTES;
    o.outbox_bytes_max = 262144; /* the most that rows wait in for a client */
    o.deferred_max = 8;          /* so that no client fills the queue */
    o.stop_signals = true;

    belfry_server *server;
    int rc = belfry_server_create(&server, &o);
    if (rc == 0)
        rc = belfry_server_run(server);
    if (rc < 0)
        fprintf(stderr, "sqlite: %s\n", belfry_last_error());
    close_all(s); /* while the server is stopped, but still there to be told answers */
    belfry_server_destroy(server);
    return rc == 0 ? 0 : is_unavailable(rc) ? EXIT_UNAVAILABLE : 1;
}

static int usage(void)
{
    fputs("usage: sqlite [OPTION...] DATABASE [SERVICE]\n"
          "  --readers N    queries at a time, 1 to 64 (4); changes are made one at a time\n"
          "  --queue N      queries, and as many changes, that wait at most (256)\n"
          "  --limit MS     the longest that any may take (60000)\n"
          "  --stall MS     the longest that a client may leave its rows unread (5000; those of a change 200)\n",
          stderr);
    return 2;
}

/* A whole number from `least` to `most`, or -1. */
static long number(const char *text, long least, long most)
{
    char *end;
    long n = strtol(text, &end, 10);
    return *text != '\0' && *end == '\0' && n >= least && n <= most ? n : -1;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"readers", required_argument, NULL, 'r'},
                                            {"queue", required_argument, NULL, 'q'},
                                            {"limit", required_argument, NULL, 'l'},
                                            {"stall", required_argument, NULL, 's'},
                                            {0}};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        long n = option == '?' ? -1 : number(optarg, 1, option == 'r' ? READERS_MAX : 1000000000);
        if (n < 0)
            return usage();
        if (option == 'r')
            service.reader_count = (unsigned)n;
        else if (option == 'q')
            service.queue_max = (unsigned)n;
        else if (option == 'l')
            service.limits.query_ms = n;
        else
            service.limits.stall_ms = n;
    }
    if (optind == argc || argc - optind > 2)
        return usage();
    service.path = argv[optind];
    if (argc - optind == 2)
        service.name = argv[optind + 1];

    if (open_all(&service) < 0) {
        close_all(&service);
        return 1;
    }
    return serve(&service);
}

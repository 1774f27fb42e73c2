/* SPDX-License-Identifier: MIT */
/*
 * sql.c: a client of sqlite.c. It sends one request and prints the rows as they come.
 *
 *     sql [--deadline MS] [--names] [--time] SERVICE SQL [VALUE...]
 *
 * The values are for the parameters ?1, ?2, ... of the SQL; what looks like a number is sent as one. A row is a line, its
 * values are separated by "|"; NULL prints as nothing and a blob as x'...'. --names prints a line of column names before each
 * result; --time says on standard error how long it took, from sending to the last reply.
 *
 * The exit status says what happened; unless it is 0, a sentence stands on standard error.
 *
 *     0 done    1 refused or failed    2 usage    69 nobody serves, or it has gone
 *     75 the service is too busy: try again    124 the deadline passed
 */
#include <belfry/client.h>

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sqlite_rows.h"

enum { DONE = 0, FAILED = 1, USAGE = 2, UNAVAILABLE = 69, BUSY = 75, LATE = 124 };

#define VALUES_MAX 100

static int complain(int status, const char *sentence)
{
    fprintf(stderr, "sql: %s\n", sentence);
    return status;
}

/* The exit status for a code, after its sentence. */
static int fail(int rc)
{
    int status = rc == -ETIMEDOUT                                                         ? LATE
                 : rc == SQL_EFULL                                                        ? BUSY
                 : rc == BELFRY_ENOSERVICE || rc == BELFRY_EGONE || rc == BELFRY_EREFUSED ? UNAVAILABLE
                                                                                          : FAILED;
    return complain(status, belfry_last_error());
}

static void print_value(const struct sql_value *v)
{
    switch (v->type) {
    case SQL_INTEGER:
        printf("%lld", (long long)v->integer);
        break;
    case SQL_REAL:
        printf("%.15g", v->real);
        break;
    case SQL_TEXT:
        fwrite(v->data, 1, v->size, stdout);
        break;
    case SQL_BLOB:
        fputs("x'", stdout);
        for (uint32_t i = 0; i < v->size; i++)
            printf("%02x", (unsigned char)v->data[i]);
        putchar('\'');
        break;
    case SQL_NULL:
        break;
    }
}

static void print_line(struct sql_reader values, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct sql_value v;
        if (i > 0)
            putchar('|');
        sql_get_value(&values, &v);
        print_value(&v);
    }
    putchar('\n');
}

/* What arrived so far of the answer. */
struct answer {
    struct sql_replies replies;
    bool names; /* print them */
    int64_t rows, changes;
};

/* Print one reply. Returns 0 or -EBADMSG. */
static int print_reply(struct answer *a, const belfry_message *m)
{
    struct sql_record record;
    int rc;
    a->replies.in = (struct sql_reader){.data = m->data, .left = m->size};
    while ((rc = sql_next_record(&a->replies, &record)) > 0) {
        if (record.kind == SQL_ROW)
            a->rows++;
        if (record.kind == SQL_DONE)
            a->changes = record.changes;
        else if (record.kind == SQL_ROW || a->names)
            print_line(record.values, a->replies.columns);
    }
    if (rc == 0 && a->replies.done != !(m->flags & BELFRY_MORE))
        rc = -EBADMSG;
    return rc;
}

static int ask(belfry_client *client, const void *request, size_t size, int64_t deadline, struct answer *a)
{
    belfry_message m;
    bool more = true;
    int rc = belfry_call(client, request, size, &m, deadline);
    while (rc == 0) {
        more = (m.flags & BELFRY_MORE) != 0;
        uint64_t id = m.id;
        rc = print_reply(a, &m);
        belfry_release(client, &m);
        if (rc < 0)
            return complain(FAILED, "that is no answer of sqlite's");
        if (!more)
            break;
        rc = belfry_await(client, id, &m, deadline);
        if (rc == -ETIMEDOUT)
            belfry_cancel(client, id);
    }
    return rc < 0 ? fail(rc) : DONE;
}

static struct sql_value value_of(const char *text)
{
    char *end;
    errno = 0;
    long long whole = strtoll(text, &end, 10);
    if (*text != '\0' && *end == '\0' && errno == 0)
        return SQL_INT(whole);
    double real = strtod(text, &end);
    if (*text != '\0' && *end == '\0')
        return (struct sql_value){.type = SQL_REAL, .real = real};
    return SQL_STRING(text, strlen(text));
}

static int run(const char *service, const char *sql, char **texts, uint32_t count, int64_t deadline_ms, bool names,
               bool timed)
{
    struct sql_value values[VALUES_MAX];
    for (uint32_t i = 0; i < count; i++)
        values[i] = value_of(texts[i]);

    belfry_client *client;
    int rc = belfry_connect(&client, service, NULL);
    if (rc < 0)
        return fail(rc);
    size_t room = belfry_message_bytes_max(client);
    void *request = malloc(room);
    long size = request != NULL ? sql_put_request(request, room, sql, strlen(sql), values, count) : -ENOMEM;
    struct answer answer = {.names = names};
    int status;
    if (size < 0) {
        status = complain(FAILED, request != NULL ? "SQL and values are too long for a message" : "no memory");
    } else {
        int64_t began_ns = belfry_now_ns();
        status =
            ask(client, request, (size_t)size, deadline_ms < 0 ? BELFRY_FOREVER : belfry_in_ms(deadline_ms), &answer);
        if (timed)
            fprintf(stderr, "%lld rows, %lld changed, %.1f ms\n", (long long)answer.rows, (long long)answer.changes,
                    (double)(belfry_now_ns() - began_ns) / 1e6);
    }
    free(request);
    belfry_close(client);
    if (fflush(stdout) != 0 && status == DONE)
        status = complain(FAILED, "cannot write to standard output");
    return status;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"deadline", required_argument, NULL, 'd'},
                                            {"names", no_argument, NULL, 'n'},
                                            {"time", no_argument, NULL, 't'},
                                            {0}};
    int64_t deadline_ms = -1;
    bool names = false, timed = false, ok = true;
    int option;
    while ((option = getopt_long(argc, argv, "+", options, NULL)) != -1) {
        if (option == 'd') {
            char *end;
            deadline_ms = strtoll(optarg, &end, 10);
            ok = ok && *optarg != '\0' && *end == '\0' && deadline_ms >= 0;
        }
        ok = ok && option != '?';
        names = names || option == 'n';
        timed = timed || option == 't';
    }
    if (!ok || argc - optind < 2 || argc - optind - 2 > VALUES_MAX) {
        fputs("usage: sql [--deadline MS] [--names] [--time] SERVICE SQL [VALUE...]\n", stderr);
        return USAGE;
    }
    return run(argv[optind], argv[optind + 1], argv + optind + 2, (uint32_t)(argc - optind - 2), deadline_ms, names,
               timed);
}

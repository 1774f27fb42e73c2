/* SPDX-License-Identifier: MIT */
/*
 * test_sqlite_rows.c: sqlite_rows.c believes no message. Each is read from memory of exactly its size, so that
 * AddressSanitizer sees a step beyond it. The last line is "N passed, N failed".
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sqlite_rows.h"

static int passed, failed;
static volatile unsigned sink;

static void check(bool holds, const char *sentence)
{
    if (holds)
        passed++;
    else
        failed++;
    printf("%s: %s\n", holds ? "passed" : "failed", sentence);
}

static const struct sql_value values[] = {{.type = SQL_INTEGER, .integer = INT64_MIN},
                                          {.type = SQL_REAL, .real = -0.5},
                                          {.type = SQL_TEXT, .data = "text", .size = 4},
                                          {.type = SQL_BLOB, .data = "\0\1\2", .size = 3},
                                          {.type = SQL_TEXT, .data = "", .size = 0},
                                          {.type = SQL_NULL}};
enum { COUNT = sizeof values / sizeof values[0] };

static bool is_same(const struct sql_value *a, const struct sql_value *b)
{
    return a->type == b->type && a->integer == b->integer && a->real == b->real && a->size == b->size &&
           (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
}

static bool are_values(struct sql_reader r)
{
    struct sql_value v;
    for (int i = 0; i < COUNT; i++)
        if (sql_get_value(&r, &v) < 0 || !is_same(&v, &values[i]))
            return false;
    return r.left == 0 && sql_get_value(&r, &v) == -EBADMSG && v.type == SQL_NULL;
}

/* A copy that ends where its memory ends. */
static unsigned char *exact(const void *data, size_t size)
{
    unsigned char *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL)
        abort();
    memcpy(copy, data, size);
    return copy;
}

/* --- requests ----------------------------------------------------------------------------------------------------- */

static int read_request(const unsigned char *data, size_t size)
{
    unsigned char *copy = exact(data, size);
    struct sql_request request;
    int rc = sql_get_request(copy, size, &request);
    if (rc == 0) { /* what it says is there must be there */
        struct sql_value v;
        for (uint32_t i = 0; i < request.sql_bytes; i++)
            sink += (unsigned char)request.sql[i];
        for (uint32_t i = 0; i < request.count; i++)
            rc |= sql_get_value(&request.values, &v);
    }
    free(copy);
    return rc;
}

static void test_requests(void)
{
    unsigned char room[200], small[200];
    struct sql_request request;
    long size = sql_put_request(room, sizeof room, "SELECT 1", 8, values, COUNT);
    check(size > 0 && sql_get_request(room, (size_t)size, &request) == 0 && request.sql_bytes == 8 &&
              memcmp(request.sql, "SELECT 1", 8) == 0 && request.count == COUNT && are_values(request.values),
          "a request is read as it was written");

    bool all = true;
    for (long less = 0; less < size; less++) {
        memset(small, 0xee, sizeof small);
        all = all && sql_put_request(small, (size_t)less, "SELECT 1", 8, values, COUNT) == -EMSGSIZE;
        for (long at = less; at < (long)sizeof small; at++)
            all = all && small[at] == 0xee;
    }
    check(all, "a request that does not fit is refused, and nothing is written beyond its room");

    all = true;
    for (long cut = 0; cut < size; cut++)
        all = all && read_request(room, (size_t)cut) == -EBADMSG;
    check(all, "a request that is cut off anywhere is refused");
    room[size] = SQL_NULL;
    check(read_request(room, (size_t)size + 1) == -EBADMSG, "a request with more behind it is refused");

    all = true;
    for (long at = 0; at < size; at++)
        for (int byte = 0; byte < 256; byte++) {
            unsigned char before = room[at];
            room[at] = (unsigned char)byte;
            int rc = read_request(room, (size_t)size);
            all = all && (rc == 0 || rc == -EBADMSG);
            room[at] = before;
        }
    check(all, "a request with any byte changed is read or refused");
}

/* --- replies ------------------------------------------------------------------------------------------------------ */

/* Two messages: names and a row; a row and the end. */
static size_t write_reply(unsigned char *data, size_t room, bool last)
{
    struct sql_writer w = {.data = data, .room = room};
    size_t at;
    if (!last) {
        at = sql_record_begin(&w, SQL_COLUMNS);
        sql_put_count(&w, COUNT);
        for (int i = 0; i < COUNT; i++)
            sql_put_value(&w, &SQL_STRING("name", 4));
        sql_record_end(&w, at);
    }
    at = sql_record_begin(&w, SQL_ROW);
    for (int i = 0; i < COUNT; i++)
        sql_put_value(&w, &values[i]);
    sql_record_end(&w, at);
    if (last)
        sql_put_done(&w, 42, -7);
    return w.size;
}

/* All records of a message. Returns how many, or -EBADMSG. */
static int read_reply(struct sql_replies *replies, const unsigned char *data, size_t size, int *rows)
{
    unsigned char *copy = exact(data, size);
    struct sql_record record;
    int rc, count = 0;
    replies->in = (struct sql_reader){.data = copy, .left = size};
    while ((rc = sql_next_record(replies, &record)) > 0) {
        count++;
        if (record.kind == SQL_ROW)
            *rows += are_values(record.values);
        if (record.kind == SQL_DONE && (record.changes != 42 || record.last_row_id != -7))
            rc = -EBADMSG;
    }
    free(copy);
    return rc < 0 ? rc : count;
}

static void test_replies(void)
{
    unsigned char first[300], last[300];
    size_t first_bytes = write_reply(first, sizeof first, false), last_bytes = write_reply(last, sizeof last, true);
    struct sql_replies replies = {0};
    int rows = 0;
    check(read_reply(&replies, first, first_bytes, &rows) == 2 && rows == 1 && !replies.done,
          "names and a row are read as they were written");
    check(read_reply(&replies, last, last_bytes, &rows) == 2 && rows == 2 && replies.done, "a row and the end too");
    check(read_reply(&replies, first, first_bytes, &rows) == -EBADMSG, "nothing comes after the end");
    replies = (struct sql_replies){0};
    check(read_reply(&replies, last, last_bytes, &rows) == -EBADMSG, "no row comes before its names");

    bool all = true;
    for (size_t cut = 1; cut < first_bytes; cut++) {
        replies = (struct sql_replies){0};
        int count = read_reply(&replies, first, cut, &rows);
        all = all && (count == -EBADMSG || count == 1); /* between two records it is whole */
    }
    check(all, "a reply that is cut off is refused, but between two records");

    all = true;
    for (size_t at = 0; at < first_bytes; at++)
        for (int byte = 0; byte < 256; byte++) {
            unsigned char before = first[at];
            first[at] = (unsigned char)byte;
            replies = (struct sql_replies){0};
            int count = read_reply(&replies, first, first_bytes, &rows);
            all = all && (count == -EBADMSG || count == 2 || count == 1);
            first[at] = before;
        }
    check(all, "a reply with any byte changed is read or refused");

    unsigned char small[300];
    memset(small, 0xee, sizeof small);
    all = write_reply(small, 10, false) == first_bytes;
    for (size_t at = 10; at < sizeof small; at++)
        all = all && small[at] == 0xee;
    check(all, "what does not fit is counted and not written");
}

int main(void)
{
    test_requests();
    test_replies();
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0;
}

/* SPDX-License-Identifier: MIT */
/* sqlite_rows.c: see sqlite_rows.h. Both the service and its clients link this. */
#include "sqlite_rows.h"

#include <errno.h>
#include <string.h>

/* --- writing ------------------------------------------------------------------------------------------------------ */

static void put(struct sql_writer *w, const void *data, size_t size)
{
    if (w->size <= w->room && size <= w->room - w->size && size > 0)
        memcpy(w->data + w->size, data, size);
    w->size += size;
}

static void put_u32(struct sql_writer *w, uint32_t number)
{
    put(w, &number, sizeof number);
}

void sql_put_value(struct sql_writer *w, const struct sql_value *value)
{
    unsigned char type = (unsigned char)value->type;
    put(w, &type, 1);
    switch (value->type) {
    case SQL_INTEGER:
        put(w, &value->integer, sizeof value->integer);
        break;
    case SQL_REAL:
        put(w, &value->real, sizeof value->real);
        break;
    case SQL_TEXT:
    case SQL_BLOB:
        put_u32(w, value->size);
        put(w, value->data, value->size);
        break;
    case SQL_NULL:
        break;
    }
}

long sql_put_request(void *data, size_t room, const char *sql, size_t sql_bytes, const struct sql_value *values,
                     uint32_t count)
{
    struct sql_writer w = {.data = data, .room = room};
    put_u32(&w, SQL_FORMAT);
    put_u32(&w, (uint32_t)sql_bytes);
    put_u32(&w, count);
    put(&w, sql, sql_bytes);
    for (uint32_t i = 0; i < count; i++)
        sql_put_value(&w, &values[i]);
    return w.size <= room ? (long)w.size : -EMSGSIZE;
}

size_t sql_record_begin(struct sql_writer *w, enum sql_record_kind kind)
{
    size_t at = w->size;
    put_u32(w, kind);
    put_u32(w, 0);
    return at;
}

void sql_record_end(struct sql_writer *w, size_t at)
{
    uint32_t bytes = (uint32_t)(w->size - at - 8);
    if (w->size <= w->room)
        memcpy(w->data + at + 4, &bytes, sizeof bytes);
}

void sql_put_count(struct sql_writer *w, uint32_t count)
{
    put_u32(w, count);
}

void sql_put_done(struct sql_writer *w, int64_t changes, int64_t last_row_id)
{
    size_t at = sql_record_begin(w, SQL_DONE);
    put(w, &changes, sizeof changes);
    put(w, &last_row_id, sizeof last_row_id);
    sql_record_end(w, at);
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

/* The next `size` bytes; NULL when there are not so many. */
static const unsigned char *get(struct sql_reader *r, size_t size)
{
    const unsigned char *data = r->data;
    if (size > r->left)
        return NULL;
    r->data += size;
    r->left -= size;
    return data;
}

static bool get_copy(struct sql_reader *r, void *out, size_t size)
{
    const unsigned char *data = get(r, size);
    if (data != NULL)
        memcpy(out, data, size);
    return data != NULL;
}

int sql_get_value(struct sql_reader *r, struct sql_value *value)
{
    unsigned char type;
    bool ok = get_copy(r, &type, 1);
    *value = (struct sql_value){.type = SQL_NULL};
    if (!ok)
        return -EBADMSG;
    switch (type) {
    case SQL_INTEGER:
        ok = get_copy(r, &value->integer, sizeof value->integer);
        break;
    case SQL_REAL:
        ok = get_copy(r, &value->real, sizeof value->real);
        break;
    case SQL_TEXT:
    case SQL_BLOB:
        ok = get_copy(r, &value->size, sizeof value->size);
        if (ok)
            value->data = (const char *)get(r, value->size);
        ok = ok && value->data != NULL;
        break;
    case SQL_NULL:
        break;
    default:
        ok = false;
    }
    if (ok)
        value->type = (enum sql_type)type;
    else
        *value = (struct sql_value){.type = SQL_NULL};
    return ok ? 0 : -EBADMSG;
}

/* `count` values and nothing else. */
static int check_values(struct sql_reader values, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct sql_value value;
        if (sql_get_value(&values, &value) < 0)
            return -EBADMSG;
    }
    return values.left == 0 ? 0 : -EBADMSG;
}

int sql_get_request(const void *data, size_t size, struct sql_request *request)
{
    struct sql_reader r = {.data = data, .left = size};
    uint32_t format;
    *request = (struct sql_request){0};
    if (!get_copy(&r, &format, 4) || format != SQL_FORMAT || !get_copy(&r, &request->sql_bytes, 4) ||
        !get_copy(&r, &request->count, 4))
        return -EBADMSG;
    request->sql = (const char *)get(&r, request->sql_bytes);
    request->values = r;
    return request->sql != NULL ? check_values(r, request->count) : -EBADMSG;
}

static int read_body(struct sql_replies *replies, struct sql_record *record)
{
    struct sql_reader *body = &record->values;
    switch (record->kind) {
    case SQL_COLUMNS:
        if (!get_copy(body, &replies->columns, 4))
            return -EBADMSG;
        replies->begun = true;
        return check_values(*body, replies->columns);
    case SQL_ROW:
        return replies->begun ? check_values(*body, replies->columns) : -EBADMSG;
    case SQL_DONE:
        replies->done = true;
        if (!get_copy(body, &record->changes, 8) || !get_copy(body, &record->last_row_id, 8) || body->left > 0)
            return -EBADMSG;
        return replies->in.left == 0 ? 0 : -EBADMSG;
    }
    return -EBADMSG;
}

int sql_next_record(struct sql_replies *replies, struct sql_record *record)
{
    uint32_t kind, bytes;
    *record = (struct sql_record){0};
    if (replies->in.left == 0)
        return 0;
    if (replies->done || !get_copy(&replies->in, &kind, 4) || !get_copy(&replies->in, &bytes, 4))
        return -EBADMSG;
    record->kind = (enum sql_record_kind)kind;
    record->values = (struct sql_reader){.left = bytes, .data = get(&replies->in, bytes)};
    if (record->values.data == NULL)
        return -EBADMSG;
    return read_body(replies, record) < 0 ? -EBADMSG : 1;
}

/* SPDX-License-Identifier: MIT */
/*
 * sqlite_rows.h: what the clients of sqlite.c and it say to each other: SQL with the values of its parameters one way,
 * rows the other way.
 *
 * All numbers are little or big endian as the machine is; nothing is aligned.
 *
 *     request    u32 SQL_FORMAT, u32 bytes of the SQL, u32 number of values, the SQL, the values
 *     value      u8 enum sql_type, then: INTEGER and REAL 8 bytes; TEXT and BLOB u32 length and that many; NULL nothing
 *     reply      records, each whole: u32 enum sql_record_kind, u32 bytes of its body, the body
 *       COLUMNS  u32 number, then as many values of TEXT: names. Begins a result; a request may have several
 *       ROW      as many values as the last COLUMNS said
 *       DONE     i64 rows changed, i64 last row id. The last record of the last reply
 *
 * Who reads trusts nothing: a length that goes beyond what holds it is -EBADMSG, and so is what is left over. What is
 * read points into the message and lives as long.
 */
#ifndef SQLITE_ROWS_H
#define SQLITE_ROWS_H

#include <belfry/types.h>

#define SQL_FORMAT 0x314c5153u /* "SQL1" */

/* Codes of the service. A sentence comes with each. */
#define SQL_EREQUEST (BELFRY_EUSER - 100001)  /* not a request of this format, or too many statements */
#define SQL_EFULL (BELFRY_EUSER - 100002)     /* too busy: as many wait already as may; try again later */
#define SQL_ELIMIT (BELFRY_EUSER - 100003)    /* it took longer than the server lets any take */
#define SQL_ESTALL (BELFRY_EUSER - 100004)    /* the client has left its rows unread for too long */
#define SQL_EROW (BELFRY_EUSER - 100005)      /* a row is larger than a message */
#define SQL_ESQLITE(rc) (BELFRY_EUSER - (rc)) /* SQLite's own, an extended result code; the sentence is SQLite's */

enum sql_type { SQL_INTEGER = 1, SQL_REAL = 2, SQL_TEXT = 3, SQL_BLOB = 4, SQL_NULL = 5 }; /* SQLite's numbers */

struct sql_value {
    enum sql_type type;
    int64_t integer;
    double real;
    const char *data; /* of text and blob; no NUL follows */
    uint32_t size;
};

#define SQL_INT(number) ((struct sql_value){.type = SQL_INTEGER, .integer = (number)})
#define SQL_STRING(pointer, length) \
    ((struct sql_value){.type = SQL_TEXT, .data = (pointer), .size = (uint32_t)(length)})

/* --- writing ------------------------------------------------------------------------------------------------------ */

/* Memory of the caller's that is being filled. What does not fit is counted, not written. */
struct sql_writer {
    unsigned char *data;
    size_t room;
    size_t size; /* bytes that it would take; more than `room`: it did not fit */
};

void sql_put_value(struct sql_writer *w, const struct sql_value *value);

/* A whole request. Returns its size, or -EMSGSIZE when it does not fit into `room`. */
long sql_put_request(void *data, size_t room, const char *sql, size_t sql_bytes, const struct sql_value *values,
                     uint32_t count);

/* Begin a record, put values, end it. With begin's result, end fills in the length. */
enum sql_record_kind { SQL_COLUMNS = 1, SQL_ROW = 2, SQL_DONE = 3 };
size_t sql_record_begin(struct sql_writer *w, enum sql_record_kind kind);
void sql_record_end(struct sql_writer *w, size_t at);
void sql_put_count(struct sql_writer *w, uint32_t count); /* what a COLUMNS record begins with */
#define SQL_DONE_BYTES 24u
void sql_put_done(struct sql_writer *w, int64_t changes, int64_t last_row_id);

/* --- reading ------------------------------------------------------------------------------------------------------ */

struct sql_reader {
    const unsigned char *data;
    size_t left;
};

/* Returns 0 or -EBADMSG, and then `value` is NULL. */
int sql_get_value(struct sql_reader *r, struct sql_value *value);

struct sql_request {
    const char *sql; /* no NUL follows */
    uint32_t sql_bytes;
    uint32_t count;
    struct sql_reader values; /* `count` of them: checked */
};

/* Returns 0 or -EBADMSG. */
int sql_get_request(const void *data, size_t size, struct sql_request *request);

/* The replies to one request: begin with {0}, then for each message set `in` and take its records. */
struct sql_replies {
    struct sql_reader in;
    uint32_t columns; /* of the result that the rows belong to */
    bool begun, done;
};

struct sql_record {
    enum sql_record_kind kind;
    struct sql_reader values; /* of COLUMNS and ROW: replies->columns of them, checked */
    int64_t changes, last_row_id;
};

/* The next record of this message. Returns 1; 0 when it is at its end; -EBADMSG. */
int sql_next_record(struct sql_replies *replies, struct sql_record *record);

#endif

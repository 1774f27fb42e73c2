/* SPDX-License-Identifier: MIT */
/* sqlite_db.c: see sqlite_db.h. */
#include "sqlite_db.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sqlite_rows.h"

#define STEPS_PER_LOOK 1000         /* of SQLite's machine: some tens of microseconds */
#define VALUE_BYTES_MAX (1 << 20)   /* so that no single step of it takes long */
#define LIKE_PATTERN_BYTES_MAX 256  /* the same */
#define SCRIPT_STATEMENTS_MAX 1000u /* the same, of a request */

struct db {
    sqlite3 *handle;
    bool writer;
    struct db_limits limits;
    sqlite3_stmt *begin, *commit, *rollback;

    bool own; /* what runs is a statement of ours, which may not be refused */

    /* Of the request that runs; NULL: what runs may not be stopped. */
    struct work *work;
    int64_t until_ns;
    int stop; /* why it has to end: 0, or a code for the client */
    struct sql_writer out;
};

/* --- what SQLite asks us while it works --------------------------------------------------------------------------- */

static bool must_stop(struct db *db)
{
    if (db->work != NULL && db->stop == 0) {
        db->stop = work_status(db->work);
        if (db->stop == 0 && belfry_now_ns() >= db->until_ns)
            db->stop = SQL_ELIMIT;
    }
    return db->work != NULL && db->stop != 0;
}

static int on_progress(void *user)
{
    return must_stop(user);
}

/* The file is locked: by another server, when this one is being replaced. Returns whether to try again. */
static int on_busy(void *user, int tries)
{
    struct db *db = user;
    if (db->work == NULL ? tries > 5000 : must_stop(db))
        return 0;
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return 1;
}

/* Pragmas that change nothing. */
static bool is_harmless(const char *pragma)
{
    static const char *const names[] = {"table_list",  "table_info",      "table_xinfo",      "index_list",
                                        "index_info",  "index_xinfo",     "foreign_key_list", "foreign_key_check",
                                        "quick_check", "integrity_check", "compile_options",  "function_list"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (sqlite3_stricmp(pragma, names[i]) == 0)
            return true;
    return false;
}

/* Connections are shared by all clients: what would change one for whoever comes next is not theirs to do. */
static int on_authorize(void *user, int action, const char *a, const char *b, const char *c, const char *d)
{
    const struct db *db = user;
    (void)b;
    (void)c;
    (void)d;
    if (db->own)
        return SQLITE_OK;
    switch (action) {
    case SQLITE_TRANSACTION:
    case SQLITE_SAVEPOINT:
    case SQLITE_ATTACH:
    case SQLITE_DETACH:
    case SQLITE_CREATE_TEMP_INDEX:
    case SQLITE_CREATE_TEMP_TABLE:
    case SQLITE_CREATE_TEMP_TRIGGER:
    case SQLITE_CREATE_TEMP_VIEW:
        return SQLITE_DENY;
    case SQLITE_PRAGMA:
        return is_harmless(a) ? SQLITE_OK : SQLITE_DENY;
    default:
        return SQLITE_OK;
    }
}

/* --- opening and closing ------------------------------------------------------------------------------------------ */

static int db_prepare_own(struct db *db, const char *sql, sqlite3_stmt **out)
{
    return sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL);
}

static int db_set_up(struct db *db, const char *path)
{
    /* A reader is one by its opening too, whatever anybody makes of its SQL. */
    int flags = db->writer ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY;
    int rc = sqlite3_open_v2(path, &db->handle, flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_busy_handler(db->handle, on_busy, db);
    sqlite3_progress_handler(db->handle, STEPS_PER_LOOK, on_progress, db);
    sqlite3_set_authorizer(db->handle, on_authorize, db);
    sqlite3_limit(db->handle, SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX);
    sqlite3_limit(db->handle, SQLITE_LIMIT_LIKE_PATTERN_LENGTH, LIKE_PATTERN_BYTES_MAX);
    sqlite3_limit(db->handle, SQLITE_LIMIT_ATTACHED, 0);
    sqlite3_db_config(db->handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    if (!db->writer) /* so that the file is looked at now, and not by the first client */
        return sqlite3_exec(db->handle, "SELECT count(*) FROM sqlite_schema", NULL, NULL, NULL);

    /* NORMAL: a crash of the process loses nothing; that of the machine perhaps the last commits, but never a part. */
    rc = sqlite3_exec(db->handle, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON",
                      NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = db_prepare_own(db, "BEGIN IMMEDIATE", &db->begin);
    if (rc == SQLITE_OK)
        rc = db_prepare_own(db, "COMMIT", &db->commit);
    if (rc == SQLITE_OK)
        rc = db_prepare_own(db, "ROLLBACK", &db->rollback);
    return rc;
}

int db_open(struct db **out, const char *path, bool writer, const struct db_limits *limits)
{
    struct db *db = calloc(1, sizeof *db);
    *out = NULL;
    if (db == NULL) {
        fprintf(stderr, "sqlite: no memory for a connection\n");
        return -1;
    }
    db->writer = writer;
    db->limits = *limits;
    db->own = true;
    int rc = db_set_up(db, path);
    db->own = false;
    if (rc != SQLITE_OK) {
        fprintf(stderr, "sqlite: %s: %s\n", path, db->handle != NULL ? sqlite3_errmsg(db->handle) : sqlite3_errstr(rc));
        db_close(db);
        return -1;
    }
    *out = db;
    return 0;
}

void db_close(struct db *db)
{
    if (db == NULL)
        return;
    sqlite3_finalize(db->begin);
    sqlite3_finalize(db->commit);
    sqlite3_finalize(db->rollback);
    sqlite3_close(db->handle);
    free(db->out.data);
    free(db);
}

/* --- rows: collected until a message is full ---------------------------------------------------------------------- */

static int flush(struct db *db)
{
    int rc = db->out.size > 0 ? work_say(db->work, db->out.data, db->out.size, db->limits.stall_ms) : 0;
    db->out.size = 0;
    return rc == -ENOBUFS ? SQL_ESTALL : rc;
}

static struct sql_value column_value(sqlite3_stmt *stmt, int column)
{
    struct sql_value value = {.type = (enum sql_type)sqlite3_column_type(stmt, column)};
    switch (value.type) {
    case SQL_INTEGER:
        value.integer = sqlite3_column_int64(stmt, column);
        break;
    case SQL_REAL:
        value.real = sqlite3_column_double(stmt, column);
        break;
    case SQL_TEXT:
        value.data = (const char *)sqlite3_column_text(stmt, column);
        value.size = (uint32_t)sqlite3_column_bytes(stmt, column);
        break;
    case SQL_BLOB:
        value.data = sqlite3_column_blob(stmt, column); /* NULL when it is empty */
        value.size = (uint32_t)sqlite3_column_bytes(stmt, column);
        break;
    case SQL_NULL:
        break;
    }
    return value;
}

static void put_record(struct db *db, sqlite3_stmt *stmt, enum sql_record_kind kind)
{
    int columns = sqlite3_column_count(stmt);
    size_t at = sql_record_begin(&db->out, kind);
    if (kind == SQL_COLUMNS)
        sql_put_count(&db->out, (uint32_t)columns);
    for (int i = 0; i < columns; i++) {
        const char *name = kind == SQL_COLUMNS ? sqlite3_column_name(stmt, i) : NULL;
        struct sql_value value = name != NULL          ? SQL_STRING(name, strlen(name))
                                 : kind == SQL_COLUMNS ? SQL_STRING("?", 1)
                                                       : column_value(stmt, i);
        sql_put_value(&db->out, &value);
    }
    sql_record_end(&db->out, at);
}

/* Names or a row. What does not fit into this message begins the next. Returns 0 or a code for the client. */
static int say_record(struct db *db, sqlite3_stmt *stmt, enum sql_record_kind kind)
{
    size_t before = db->out.size;
    put_record(db, stmt, kind);
    if (db->out.size <= db->out.room)
        return 0;
    db->out.size = before;
    int rc = flush(db);
    if (rc < 0)
        return rc;
    put_record(db, stmt, kind);
    if (db->out.size <= db->out.room)
        return 0;
    db->out.size = 0;
    return SQL_EROW;
}

/* What is said after the commit must not fail any more: it is the last reply, for which there is always room. */
static int make_room_for_done(struct db *db)
{
    return db->out.size + SQL_DONE_BYTES > db->out.room ? flush(db) : 0;
}

/* --- statements --------------------------------------------------------------------------------------------------- */

static int bind_values(sqlite3_stmt *stmt, struct sql_reader values, uint32_t count)
{
    int rc = SQLITE_OK, wanted = sqlite3_bind_parameter_count(stmt);
    for (uint32_t i = 0; i < count && (int)i < wanted && rc == SQLITE_OK; i++) {
        struct sql_value v;
        int at = (int)i + 1;
        sql_get_value(&values, &v); /* checked when the request was read */
        if (v.type == SQL_INTEGER)
            rc = sqlite3_bind_int64(stmt, at, v.integer);
        else if (v.type == SQL_REAL)
            rc = sqlite3_bind_double(stmt, at, v.real);
        else if (v.type == SQL_TEXT)
            rc = sqlite3_bind_text64(stmt, at, v.data, v.size, SQLITE_STATIC, SQLITE_UTF8);
        else if (v.type == SQL_BLOB)
            rc = sqlite3_bind_blob64(stmt, at, v.data, v.size, SQLITE_STATIC);
    }
    return rc;
}

/* Run one statement to its end. Returns SQLite's code; db->stop says more when it was ended by us. */
static int run_statement(struct db *db, sqlite3_stmt *stmt, const struct sql_request *request)
{
    if (stmt == NULL) /* nothing but a comment, or a semicolon */
        return SQLITE_OK;
    int rc = bind_values(stmt, request->values, request->count);
    if (rc != SQLITE_OK)
        return rc;
    if (sqlite3_column_count(stmt) > 0)
        db->stop = say_record(db, stmt, SQL_COLUMNS);
    while (db->stop == 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW)
        db->stop = say_record(db, stmt, SQL_ROW);
    return db->stop != 0 ? SQLITE_INTERRUPT : rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* What is left of the SQL after a statement: is there another? */
static bool has_more(const char *rest, const char *end)
{
    for (; rest < end; rest++)
        if (strchr(" \t\r\n\f;", *rest) == NULL)
            return true;
    return false;
}

/* BEGIN, COMMIT or ROLLBACK. Beginning may be stopped, since it waits while another process writes; ending may not. */
static int run_own(struct db *db, sqlite3_stmt *stmt)
{
    struct work *work = db->work;
    db->own = true;
    if (stmt != db->begin)
        db->work = NULL;
    int rc = sqlite3_step(stmt);
    sqlite3_reset(stmt);
    db->work = work;
    db->own = false;
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* --- a request ---------------------------------------------------------------------------------------------------- */

/* The rest of the request, from its first statement on, which is prepared. */
static int run_rest(struct db *db, sqlite3_stmt *stmt, const char *rest, const struct sql_request *request)
{
    const char *end = request->sql + request->sql_bytes;
    unsigned count = 0;
    for (;;) {
        int rc = run_statement(db, stmt, request);
        sqlite3_finalize(stmt);
        if (rc == SQLITE_OK && !has_more(rest, end)) {
            db->stop = make_room_for_done(db);
            return db->stop != 0 ? SQLITE_INTERRUPT : SQLITE_OK;
        }
        if (rc != SQLITE_OK)
            return rc;
        if (++count == SCRIPT_STATEMENTS_MAX)
            db->stop = SQL_EREQUEST;
        if (must_stop(db))
            return SQLITE_INTERRUPT;
        rc = sqlite3_prepare_v2(db->handle, rest, (int)(end - rest), &stmt, &rest);
        if (rc != SQLITE_OK)
            return rc;
    }
}

/* All of it or nothing. */
static int run_transaction(struct db *db, sqlite3_stmt *stmt, const char *rest, const struct sql_request *request)
{
    int rc = run_own(db, db->begin);
    if (rc != SQLITE_OK) {
        sqlite3_finalize(stmt);
        return rc;
    }
    rc = run_rest(db, stmt, rest, request);
    if (rc == SQLITE_OK && must_stop(db)) /* the last look: who no longer waits has not done it */
        rc = SQLITE_INTERRUPT;
    if (rc == SQLITE_OK)
        rc = run_own(db, db->commit);
    return rc;
}

/* Why we ended it ourselves. */
static void fail_stopped(struct db *db)
{
    char text[128];
    switch (db->stop) {
    case -ETIMEDOUT:
        snprintf(text, sizeof text, "interrupted: the deadline has passed");
        break;
    case SQL_ELIMIT:
        snprintf(text, sizeof text, "interrupted after %lld ms, the most that a query may take",
                 (long long)db->limits.query_ms);
        break;
    case SQL_ESTALL:
        snprintf(text, sizeof text, "interrupted: its rows have not been read for too long");
        break;
    case SQL_EROW:
        snprintf(text, sizeof text, "a row does not fit into a message of %zu bytes", db->out.room);
        break;
    case SQL_EREQUEST:
        snprintf(text, sizeof text, "a request has fewer than %u statements", SCRIPT_STATEMENTS_MAX);
        break;
    default: /* nobody waits any more */
        snprintf(text, sizeof text, "%s", belfry_error_text(db->stop));
    }
    work_fail(db->work, db->stop, text);
}

/* Answer a request that has been run. */
static void answer(struct db *db, int rc, sqlite3_int64 changes_before)
{
    char sentence[256];
    snprintf(sentence, sizeof sentence, "%s", sqlite3_errmsg(db->handle)); /* before a rollback replaces it */
    if (!sqlite3_get_autocommit(db->handle) && run_own(db, db->rollback) != SQLITE_OK)
        fprintf(stderr, "sqlite: cannot roll back: %s\n", sqlite3_errmsg(db->handle));

    if (rc == SQLITE_OK) {
        sqlite3_int64 changes = sqlite3_total_changes64(db->handle) - changes_before;
        sql_put_done(&db->out, changes, sqlite3_last_insert_rowid(db->handle));
    }
    if (db->stop != 0)
        fail_stopped(db);
    else if (rc != SQLITE_OK)
        work_fail(db->work, SQL_ESQLITE(rc), sentence);
    else
        work_answer(db->work, db->out.data, db->out.size);
}

static int get_room(struct db *db, size_t room)
{
    if (db->out.room < room) {
        free(db->out.data);
        db->out = (struct sql_writer){.data = malloc(room)};
        db->out.room = db->out.data != NULL ? room : 0;
    }
    db->out.size = 0;
    return db->out.room > 0 ? 0 : -ENOMEM;
}

bool db_run(struct db *db, struct work *work)
{
    struct sql_request request;
    sqlite3_stmt *stmt = NULL;
    const char *rest;

    if (sql_get_request(work->request.data, work->request.size, &request) < 0) {
        work_fail(work, SQL_EREQUEST, "not a request: SQL and its values, as sqlite_rows.h says");
        return false;
    }
    if (get_room(db, DB_MESSAGE_BYTES) < 0) {
        work_fail(work, -ENOMEM, "no memory for rows");
        return false;
    }
    db->work = work;
    db->stop = 0;
    db->until_ns = belfry_in_ms(db->limits.query_ms);

    int rc = SQLITE_INTERRUPT;
    bool to_the_other = false;
    sqlite3_int64 before = sqlite3_total_changes64(db->handle);
    if (!must_stop(db))
        rc = sqlite3_prepare_v2(db->handle, request.sql, (int)request.sql_bytes, &stmt, &rest);
    if (rc == SQLITE_OK) {
        bool reads = sqlite3_stmt_readonly(stmt) && !has_more(rest, request.sql + request.sql_bytes);
        to_the_other = reads == db->writer && !work->moved;
        if (to_the_other)
            sqlite3_finalize(stmt);
        else if (db->writer)
            rc = run_transaction(db, stmt, rest, &request);
        else
            rc = run_rest(db, stmt, rest, &request);
    }
    if (!to_the_other)
        answer(db, rc, before);
    db->work = NULL;
    return to_the_other;
}

/* SPDX-License-Identifier: MIT */
/*
 * sqlite_db.h: one connection to the database file, and running a request on it.
 *
 * Why a file in WAL mode and not a shared cache in memory: with a write-ahead log a reader sees the database as it was
 * when its statement began and waits for no writer, nor the writer for it. Connections that share a cache lock whole tables
 * against each other; a stream to a slow client would hold up every write. And a file is there after a crash.
 *
 * Each connection belongs to one thread at a time, that of a worker. Nobody else touches it, so a query is not stopped
 * by sqlite3_interrupt() from outside: that stops whatever the connection runs by the time it arrives, perhaps the next
 * client's. SQLite itself asks instead, through its progress handler, every thousand steps of its machine, whether
 * somebody still waits for this very request (work_status).
 */
#ifndef SQLITE_DB_H
#define SQLITE_DB_H

#include <sqlite3.h>

#include "workers.h"

#define DB_MESSAGE_BYTES 16368u /* of a reply at most; belfry's rings of 64 KiB take no larger one */

struct db_limits {
    int64_t query_ms; /* the longest that a request may run */
    int64_t stall_ms; /* the longest that its client may not read */
};

struct db;

/* The writer makes the file if need be and comes first, goes last. Returns 0, or -1 and has said why. */
int db_open(struct db **out, const char *path, bool writer, const struct db_limits *limits);
void db_close(struct db *db); /* NULL is accepted */

/*
 * Run the request and answer it: rows in several replies, as they come. A reader runs one statement that only reads; the
 * writer runs everything else, all statements of a request in one transaction. A request that has come to the wrong one
 * is not answered but given back: `true`, it belongs to the other.
 */
bool db_run(struct db *db, struct work *work);

#endif

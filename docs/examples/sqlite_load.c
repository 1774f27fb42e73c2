/* SPDX-License-Identifier: MIT */
/*
 * sqlite_load.c: many clients of sqlite.c at once, and whether every sum is right.
 *
 *     sqlite_load SERVICE load ROWS                    make the tables and load the accounts
 *     sqlite_load SERVICE run ROWS CLIENTS REQUESTS    so many processes, so many requests of each; then check everything
 *     sqlite_load SERVICE check ROWS                   what must be true of the accounts at any time
 *     sqlite_load SERVICE deadline SQL                 with a deadline of 200 ms, is it over within 250, once in ten times?
 *     sqlite_load SERVICE cancel                       a server with one reader is free again after a cancellation
 *     sqlite_load SERVICE garbage                      what is no request is refused, and nothing worse
 *
 * The table is one of accounts. A transfer is one request of three statements: it credits one account, debits another
 * (and fails if that would make it negative, with the credit already made), and writes itself into a ledger. So, whatever
 * happens: the sum over all accounts is the one at the beginning, at every moment and for everybody who looks; a
 * transfer that the server confirmed is in the ledger once, one that it refused is not; and each account is what it was at
 * first and what the ledger says.
 *
 * run's clients transfer, transfer too much, give transfers up after a while (only the ledger can tell what became of these),
 * read single accounts, stream some thousand rows and check each, stream all of them, and cancel such streams.
 * The status is 0 when everything was right, 1 when not; sentences say what.
 */
#include <belfry/client.h>

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sqlite_rows.h"

#define PATIENCE_MS 30000 /* for any one answer */
#define ROWS_PER_REQUEST 100
#define IN_FLIGHT 8
#define SLICE_ROWS 2000
#define TOO_MUCH 1000000000
#define CONSTRAINT_CHECK 275 /* SQLite's number; clients do without its header */
#define REQUEST_BYTES_MAX 16368
#define DEADLINE_MS 200 /* of a slow query; */
#define LATEST_MS 250   /* it is over by then, */
#define ATTEMPTS 10     /* in one of so many: other programs can only make it later */

static const char transfer_sql[] = "UPDATE accounts SET balance = balance + ?3 WHERE id = ?2;"
                                   "UPDATE accounts SET balance = balance - ?3 WHERE id = ?1;"
                                   "INSERT INTO ledger(source, target, amount, client, number)"
                                   " VALUES(?1, ?2, ?3, ?4, ?5)";

/* --- what the rows must be ---------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static int64_t first_balance(int64_t id)
{
    return 1000 + (int64_t)(mix((uint64_t)id) % 9000);
}

static int owner_name(char *text, size_t room, int64_t id)
{
    return snprintf(text, room, "owner %016" PRIx64, mix(~(uint64_t)id));
}

static bool is_owner(const struct sql_value *v, int64_t id)
{
    char text[32];
    int length = owner_name(text, sizeof text, id);
    return v->type == SQL_TEXT && v->size == (uint32_t)length && memcmp(v->data, text, v->size) == 0;
}

static int64_t first_sum(int64_t rows)
{
    int64_t sum = 0;
    for (int64_t id = 1; id <= rows; id++)
        sum += first_balance(id);
    return sum;
}

/* --- one request and its rows ------------------------------------------------------------------------------------- */

static char who[32] = "sqlite_load"; /* a client's name begins its sentences */

static int complain(const char *what, int rc)
{
    fprintf(stderr, "%s: %s: %s\n", who, what, rc < 0 ? belfry_last_error() : "not what it must be");
    return 1;
}

struct query {
    belfry_client *client;
    uint64_t id;
    int64_t deadline;
    struct sql_replies replies;
    belfry_message reply; /* the one whose rows are being taken */
    int64_t changes;      /* when it is done */
};

static int ask(struct query *q, belfry_client *client, const char *sql, const struct sql_value *values, uint32_t count)
{
    unsigned char request[REQUEST_BYTES_MAX];
    *q = (struct query){.client = client, .deadline = belfry_in_ms(PATIENCE_MS)};
    long size = sql_put_request(request, sizeof request, sql, strlen(sql), values, count);
    return size < 0 ? (int)size : belfry_send_until(client, request, (size_t)size, q->deadline, &q->id);
}

/* The next reply, in place of the last. A failure is a code. */
static int next_reply(struct query *q)
{
    belfry_release(q->client, &q->reply);
    int rc = belfry_await(q->client, q->id, &q->reply, q->deadline);
    if (rc == 0)
        q->replies.in = (struct sql_reader){.data = q->reply.data, .left = q->reply.size};
    return rc;
}

/* The next row, of `columns` values. Returns 1; 0: there is none, all is done; or a code. */
static int next_row(struct query *q, struct sql_value *row, uint32_t columns)
{
    for (;;) {
        struct sql_record record;
        int rc = sql_next_record(&q->replies, &record);
        if (rc == 0 && q->replies.done) {
            belfry_release(q->client, &q->reply);
            return 0;
        }
        if (rc == 0)
            rc = next_reply(q);
        else if (rc > 0 && record.kind == SQL_DONE)
            q->changes = record.changes;
        else if (rc > 0 && q->replies.columns != columns)
            rc = -EBADMSG;
        if (rc < 0) {
            belfry_release(q->client, &q->reply);
            return rc;
        }
        if (record.kind != SQL_ROW)
            continue;
        for (uint32_t i = 0; i < columns; i++)
            sql_get_value(&record.values, &row[i]);
        return 1;
    }
}

/* A request without rows: 0 or a code. */
static int finish(struct query *q)
{
    struct sql_value row[1];
    int rc = next_row(q, row, 0);
    return rc > 0 ? -EBADMSG : rc;
}

static int execute(belfry_client *client, const char *sql)
{
    struct query q;
    int rc = ask(&q, client, sql, NULL, 0);
    return rc < 0 ? rc : finish(&q);
}

/* One number. */
static int query_number(belfry_client *client, const char *sql, int64_t *out)
{
    struct query q;
    struct sql_value row[1];
    int rc = ask(&q, client, sql, NULL, 0);
    if (rc == 0)
        rc = next_row(&q, row, 1);
    if (rc > 0) {
        *out = row[0].integer;
        rc = next_row(&q, row, 1);
    }
    return rc > 0 ? -EBADMSG : rc;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* --- load --------------------------------------------------------------------------------------------------------- */

static int ask_for_rows(struct query *q, belfry_client *client, int64_t first, int64_t rows)
{
    char sql[64 + ROWS_PER_REQUEST * 8] = "INSERT INTO accounts(id, owner, balance) VALUES(?,?,?)";
    char names[ROWS_PER_REQUEST][32];
    struct sql_value values[ROWS_PER_REQUEST * 3];
    uint32_t count = 0;
    size_t length = strlen(sql);
    for (int64_t id = first; id < first + ROWS_PER_REQUEST && id <= rows; id++) {
        char *name = names[id - first];
        int name_bytes = owner_name(name, sizeof names[0], id);
        if (id > first)
            length += (size_t)snprintf(sql + length, sizeof sql - length, ",(?,?,?)");
        values[count++] = SQL_INT(id);
        values[count++] = SQL_STRING(name, name_bytes);
        values[count++] = SQL_INT(first_balance(id));
    }
    return ask(q, client, sql, values, count);
}

static int load(belfry_client *client, int64_t rows)
{
    struct query in_flight[IN_FLIGHT];
    int64_t asked = 0, finished = 0, loaded = 0, requests = (rows + ROWS_PER_REQUEST - 1) / ROWS_PER_REQUEST;
    int64_t began_ns = belfry_now_ns();
    int rc = execute(client, "CREATE TABLE accounts(id INTEGER PRIMARY KEY, owner TEXT NOT NULL,"
                             " balance INTEGER NOT NULL CHECK(balance >= 0));"
                             "CREATE TABLE ledger(id INTEGER PRIMARY KEY, source INTEGER NOT NULL,"
                             " target INTEGER NOT NULL, amount INTEGER NOT NULL, client INTEGER NOT NULL,"
                             " number INTEGER NOT NULL, UNIQUE(client, number))");
    while (rc == 0 && finished < requests) {
        if (asked < requests && asked - finished < IN_FLIGHT) {
            rc = ask_for_rows(&in_flight[asked % IN_FLIGHT], client, asked * ROWS_PER_REQUEST + 1, rows);
            asked++;
        } else {
            struct query *q = &in_flight[finished++ % IN_FLIGHT];
            rc = finish(q);
            loaded += q->changes;
        }
    }
    if (rc < 0 || loaded != rows)
        return complain("loading", rc);
    printf("loaded %" PRId64 " rows in %.2f s\n", loaded, (double)(belfry_now_ns() - began_ns) / 1e9);
    return 0;
}

/* --- check: all rows, streamed ------------------------------------------------------------------------------------ */

/* `expected` (may be NULL): what each account must have, by its id. */
static int check_accounts(belfry_client *client, int64_t rows, const int64_t *expected)
{
    struct query q;
    struct sql_value row[3];
    int64_t id = 0, sum = 0;
    int rc = ask(&q, client, "SELECT id, owner, balance FROM accounts ORDER BY id", NULL, 0);
    while (rc == 0 && (rc = next_row(&q, row, 3)) > 0) {
        rc = 0;
        sum += row[2].integer;
        if (row[0].integer != ++id || !is_owner(&row[1], id) || row[2].type != SQL_INTEGER || row[2].integer < 0 ||
            (expected != NULL && row[2].integer != expected[id])) {
            fprintf(stderr, "%s: account %" PRId64 " has %" PRId64 ", not %" PRId64 ", or is not itself\n", who, id,
                    row[2].integer, expected != NULL ? expected[id] : -1);
            return 1;
        }
    }
    if (rc < 0)
        return complain("streaming the accounts", rc);
    if (id != rows || sum != first_sum(rows)) {
        fprintf(stderr, "%s: %" PRId64 " accounts with %" PRId64 " in all; there were %" PRId64 " with %" PRId64 "\n",
                who, id, sum, rows, first_sum(rows));
        return 1;
    }
    return 0;
}

static int check(belfry_client *client, int64_t rows)
{
    int64_t fewer = -1;
    int rc = query_number(client,
                          "SELECT count(*) FROM accounts AS a JOIN (SELECT account, sum(amount) AS moved FROM"
                          " (SELECT source AS account, -amount AS amount FROM ledger UNION ALL"
                          "  SELECT target, amount FROM ledger) GROUP BY account) AS l ON l.account = a.id"
                          " WHERE a.balance - l.moved < 1000",
                          &fewer);
    if (rc < 0 || fewer != 0)
        return complain("accounts that had less than any has at first", rc);
    if (check_accounts(client, rows, NULL) != 0)
        return 1;
    printf("%" PRId64 " accounts, %" PRId64 " in all\n", rows, first_sum(rows));
    return 0;
}

/* --- run: what the clients write down for the final check --------------------------------------------------------- */

enum fate { NOT_ASKED = 0, CONFIRMED, REFUSED, UNKNOWN };

struct transfer {
    int32_t source, target, amount;
    int32_t fate; /* as far as its client knows */
};

struct board { /* shared memory */
    atomic_int here;
    atomic_long requests, rows, whole_tables, streams_cancelled, too_busy;
    struct transfer transfers[]; /* of client c, number n: c * requests_each + n */
};

static struct board *board;
static int go[2];                       /* a pipe: its end is the word to begin */
static int64_t row_count, first_client; /* the number of client 0 in the ledger: those below belong to earlier runs */
static int client_count, requests_each;

struct client {
    belfry_client *belfry;
    int number;
    uint64_t random;
    struct transfer *transfers;
};

static int64_t choose(struct client *c, int64_t least, int64_t most)
{
    c->random = mix(c->random);
    return least + (int64_t)(c->random % (uint64_t)(most - least + 1));
}

/* --- run: what a client does -------------------------------------------------------------------------------------- */

static int ask_for_transfer(struct client *c, struct query *q, int n, int64_t amount)
{
    struct transfer *t = &c->transfers[n];
    int64_t among = choose(c, 0, 1) == 0 ? 100 : row_count; /* half of them within few accounts */
    t->source = (int32_t)choose(c, 1, among);
    t->target = (int32_t)choose(c, 1, among);
    t->amount = (int32_t)amount;
    t->fate = UNKNOWN;
    struct sql_value values[] = {SQL_INT(t->source), SQL_INT(t->target), SQL_INT(t->amount),
                                 SQL_INT(first_client + c->number), SQL_INT(n)};
    return ask(q, c->belfry, transfer_sql, values, 5);
}

/* `amount` may be TOO_MUCH. It is given up after patience_ms, when that is not negative. */
static int transfer(struct client *c, int n, int64_t amount, int64_t patience_ms)
{
    struct query q;
    struct transfer *t = &c->transfers[n];
    int rc = ask_for_transfer(c, &q, n, amount);
    if (patience_ms >= 0)
        q.deadline = belfry_in_ms(patience_ms);
    if (rc == 0)
        rc = finish(&q);
    if (rc == -ETIMEDOUT && patience_ms >= 0)
        return belfry_cancel(c->belfry, q.id);
    if (rc == 0 && q.changes == 3)
        t->fate = CONFIRMED;
    else if (rc == SQL_ESQLITE(CONSTRAINT_CHECK) && strstr(belfry_last_error(), "balance >= 0") != NULL)
        t->fate = REFUSED;
    else if (rc == SQL_EFULL)
        t->fate = NOT_ASKED;
    else
        return rc < 0 ? rc : -EBADMSG;
    if (amount == TOO_MUCH && t->source != t->target && t->fate == CONFIRMED)
        return -EBADMSG;
    return t->fate == NOT_ASKED ? SQL_EFULL : 0;
}

static int read_one(struct client *c)
{
    struct query q;
    struct sql_value row[2];
    int64_t id = choose(c, 1, row_count);
    int rc = ask(&q, c->belfry, "SELECT owner, balance FROM accounts WHERE id = ?", &SQL_INT(id), 1);
    if (rc == 0 && (rc = next_row(&q, row, 2)) == 0)
        return -ENOENT;
    if (rc > 0)
        rc = is_owner(&row[0], id) && row[1].integer >= 0 ? next_row(&q, row, 2) : -EBADMSG;
    return rc > 0 ? -EBADMSG : rc;
}

static int read_slice(struct client *c)
{
    struct query q;
    struct sql_value row[3];
    int64_t rows = row_count < SLICE_ROWS ? row_count : SLICE_ROWS, first = choose(c, 1, row_count - rows + 1),
            at = first;
    struct sql_value values[] = {SQL_INT(first), SQL_INT(first + rows - 1)};
    int rc =
        ask(&q, c->belfry, "SELECT id, owner, balance FROM accounts WHERE id BETWEEN ? AND ? ORDER BY id", values, 2);
    while (rc == 0 && (rc = next_row(&q, row, 3)) > 0) {
        rc = row[0].integer == at && is_owner(&row[1], at) && row[2].integer >= 0 ? 0 : -EBADMSG;
        at++;
    }
    atomic_fetch_add(&board->rows, at - first);
    return rc == 0 && at != first + rows ? -EBADMSG : rc;
}

static int read_all(struct client *c)
{
    atomic_fetch_add(&board->rows, row_count);
    atomic_fetch_add(&board->whole_tables, 1);
    return check_accounts(c->belfry, row_count, NULL) == 0 ? 0 : -EBADMSG;
}

static int cancel_stream(struct client *c)
{
    struct query q;
    struct sql_value row[2];
    int rc = ask(&q, c->belfry, "SELECT id, owner FROM accounts", NULL, 0);
    for (int64_t rows = choose(c, 1, 1000); rc == 0 && rows > 0; rows--)
        rc = next_row(&q, row, 2) == 1 ? 0 : -EBADMSG;
    belfry_release(c->belfry, &q.reply);
    atomic_fetch_add(&board->streams_cancelled, 1);
    return rc < 0 ? rc : belfry_cancel(c->belfry, q.id);
}

static int one_request(struct client *c, int n)
{
    int64_t what = choose(c, 0, 99);
    if (n == requests_each / 2 && c->number % 10 == 0)
        return read_all(c);
    if (what < 50)
        return transfer(c, n, choose(c, 1, 100), -1);
    if (what < 58)
        return transfer(c, n, TOO_MUCH, -1);
    if (what < 64)
        return transfer(c, n, 1, choose(c, 0, 100));
    if (what < 86)
        return read_one(c);
    if (what < 96)
        return read_slice(c);
    return cancel_stream(c);
}

/* A client's process, from connecting to its exit status. */
static int client_main(const char *service, int number, uint64_t seed)
{
    struct client c = {.number = number,
                       .random = mix(seed + (uint64_t)number),
                       .transfers = &board->transfers[(size_t)number * (size_t)requests_each]};
    snprintf(who, sizeof who, "client %d", number);
    belfry_client_options o;
    belfry_client_options_init(&o, sizeof o);
    o.deadline_ns = belfry_in_ms(PATIENCE_MS);
    int rc = belfry_connect(&c.belfry, service, &o);
    if (rc < 0)
        return complain("connecting", rc);
    atomic_fetch_add(&board->here, 1);
    if (read(go[0], &(char){0}, 1) != 0) /* until all are */
        return complain("waiting for the others", 0);
    for (int n = 0; n < requests_each && rc == 0; n++) {
        while ((rc = one_request(&c, n)) == SQL_EFULL) {
            atomic_fetch_add(&board->too_busy, 1);
            nap();
        }
        atomic_fetch_add(&board->requests, 1);
    }
    if (rc < 0)
        return complain("a request", rc);
    belfry_message m; /* nothing of what was cancelled may come */
    if (belfry_receive(c.belfry, &m, 0) != -ETIMEDOUT)
        return complain("something that nobody asked for", 0);
    belfry_close(c.belfry);
    return 0;
}

/* --- run: all together, and the final check ----------------------------------------------------------------------- */

static struct transfer *transfer_of(int64_t client, int64_t n)
{
    return client < client_count && n >= 0 && n < requests_each ? &board->transfers[client * requests_each + n] : NULL;
}

/* The ledger against what the clients know. Adds what was moved to `balances`. */
static int check_ledger(belfry_client *client, int64_t *balances, int64_t *found)
{
    struct query q;
    struct sql_value row[5];
    int rc = ask(&q, client, "SELECT client, number, source, target, amount FROM ledger", NULL, 0);
    *found = 0;
    while (rc == 0 && (rc = next_row(&q, row, 5)) > 0) {
        int64_t source = row[2].integer, target = row[3].integer, amount = row[4].integer;
        if (source < 1 || source > row_count || target < 1 || target > row_count)
            return complain("a transfer between accounts that are none", 0);
        balances[source] -= amount;
        balances[target] += amount;
        rc = 0;
        if (row[0].integer < first_client)
            continue;
        struct transfer *t = transfer_of(row[0].integer - first_client, row[1].integer);
        if (t == NULL || t->source != source || t->target != target || t->amount != amount ||
            (t->fate != CONFIRMED && t->fate != UNKNOWN)) {
            fprintf(stderr, "%s: transfer %" PRId64 " of client %" PRId64 " is in the ledger and should not be\n", who,
                    row[1].integer, row[0].integer);
            return 1;
        }
        t->fate = NOT_ASKED; /* seen: a second one would be one too many */
        ++*found;
    }
    return rc < 0 ? complain("streaming the ledger", rc) : 0;
}

static long count_fate(enum fate fate)
{
    long count = 0;
    for (long i = 0; i < (long)client_count * requests_each; i++)
        count += board->transfers[i].fate == (int32_t)fate;
    return count;
}

static int check_all(const char *service)
{
    belfry_client *client;
    int rc = belfry_connect(&client, service, NULL);
    if (rc < 0)
        return complain("connecting", rc);
    int64_t *balances = calloc((size_t)row_count + 1, sizeof *balances), found;
    for (int64_t id = 1; balances != NULL && id <= row_count; id++)
        balances[id] = first_balance(id);
    long confirmed = count_fate(CONFIRMED), refused = count_fate(REFUSED), unknown = count_fate(UNKNOWN);
    int failed = balances == NULL || check_ledger(client, balances, &found) != 0;
    if (!failed && count_fate(CONFIRMED) > 0)
        failed = complain("the ledger lacks a transfer that was confirmed", 0);
    failed = failed || check_accounts(client, row_count, balances) != 0;
    if (!failed)
        printf("%ld transfers confirmed, %ld refused, %ld given up (%" PRId64 " of them done all the same); every "
               "account is right\n",
               confirmed, refused, unknown, found - confirmed);
    free(balances);
    belfry_close(client);
    return failed;
}

/* Where the numbers of earlier runs end. */
static int find_first_client(const char *service)
{
    belfry_client *client;
    int rc = belfry_connect(&client, service, NULL);
    if (rc == 0)
        rc = query_number(client, "SELECT coalesce(max(client) + 1, 0) FROM ledger", &first_client);
    belfry_close(client);
    return rc < 0 ? complain("the ledger", rc) : 0;
}

static int run(const char *service, uint64_t seed)
{
    if (find_first_client(service) != 0)
        return 1;
    size_t bytes = sizeof *board + (size_t)client_count * (size_t)requests_each * sizeof board->transfers[0];
    board = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED || pipe(go) < 0)
        return complain("shared memory and a pipe", 0);
    printf("seed %" PRIu64 "\n", seed);
    fflush(NULL);

    pid_t parent = getpid();
    int started = 0, failed = 0;
    for (; started < client_count; started++) {
        pid_t child = fork();
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            close(go[1]);
            _exit(getppid() == parent ? client_main(service, started, seed) : 1);
        }
        if (child < 0)
            break;
    }
    int64_t deadline = belfry_in_ms(PATIENCE_MS);
    while (atomic_load(&board->here) < started && belfry_now_ns() < deadline)
        nap();
    int here = atomic_load(&board->here);
    int64_t began_ns = belfry_now_ns();
    close(go[1]);
    for (int i = 0, status; i < started; i++)
        if (wait(&status) < 0 || status != 0)
            failed++;
    double seconds = (double)(belfry_now_ns() - began_ns) / 1e9;

    if (failed > 0 || here < client_count) {
        fprintf(stderr, "%s: of %d clients %d were here, %d failed\n", who, client_count, here, failed);
        return 1;
    }
    printf("%d clients at once, %ld requests in %.2f s, %.0f per second; %ld rows streamed, %ld times all of them, %ld "
           "streams cancelled, %ld times too busy\n",
           here, atomic_load(&board->requests), seconds, (double)atomic_load(&board->requests) / seconds,
           atomic_load(&board->rows), atomic_load(&board->whole_tables), atomic_load(&board->streams_cancelled),
           atomic_load(&board->too_busy));
    int rc = check_all(service);
    close(go[0]);
    munmap(board, bytes);
    return rc;
}

/* --- cancel ------------------------------------------------------------------------------------------------------- */

#define ENDLESS "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) "

/* Cancel what runs; then how long until the same server, with its only reader, answers? */
static int cancel_and_time(belfry_client *client, uint64_t id, const char *what)
{
    int64_t one = 0, began_ns = belfry_now_ns();
    int rc = belfry_cancel(client, id);
    if (rc == 0)
        rc = query_number(client, "SELECT 1", &one);
    if (rc < 0 || one != 1)
        return complain(what, rc);
    printf("%s: cancelled, and the next answered %.1f ms after\n", what, (double)(belfry_now_ns() - began_ns) / 1e6);
    return 0;
}

static int cancel(belfry_client *client)
{
    struct query q;
    struct sql_value row[1];
    unsigned char request[200];
    belfry_message m;
    int64_t count = -1;

    int rc = ask(&q, client, ENDLESS "SELECT n FROM c", NULL, 0);
    if (rc < 0 || (rc = next_row(&q, row, 1)) != 1) /* it runs */
        return complain("an endless stream", rc);
    belfry_release(client, &q.reply);
    if (cancel_and_time(client, q.id, "a stream") != 0)
        return 1;

    rc = ask(&q, client, ENDLESS "SELECT count(*) FROM c", NULL, 0);
    long size = sql_put_request(request, sizeof request, "SELECT 1", 8, NULL, 0);
    if (rc < 0 || (rc = belfry_call(client, request, (size_t)size, &m, belfry_in_ms(50))) != -ETIMEDOUT)
        return complain("an endless count that holds the only reader", rc); /* it runs, or this would be answered */
    if (cancel_and_time(client, q.id, "a count") != 0)
        return 1;

    rc = execute(client, "CREATE TABLE IF NOT EXISTS endless(n INTEGER)");
    if (rc == 0)
        rc = ask(&q, client, "INSERT INTO endless VALUES(-1); INSERT INTO endless " ENDLESS "SELECT n FROM c", NULL, 0);
    size = sql_put_request(request, sizeof request, "DELETE FROM endless", 19, NULL, 0);
    if (rc < 0 || (rc = belfry_call(client, request, (size_t)size, &m, belfry_in_ms(50))) != -ETIMEDOUT)
        return complain("an endless change", rc);
    if (cancel_and_time(client, q.id, "a change") != 0)
        return 1;
    rc = execute(client, "INSERT INTO endless VALUES(7)"); /* waits until the writer is free */
    if (rc == 0)
        rc = query_number(client, "SELECT count(*) || sum(n) = '17' FROM endless", &count);
    return rc == 0 && count == 1 ? 0 : complain("an interrupted change leaves nothing", rc);
}

/* --- deadline ----------------------------------------------------------------------------------------------------- */

/* The client's own clock ends the call, and a cancellation follows. Gives how long it took, or a failure's code. */
static int64_t end_by_client(belfry_client *client, const unsigned char *request, size_t size)
{
    belfry_message m;
    int64_t began_ns = belfry_now_ns();
    int rc = belfry_call(client, request, size, &m, belfry_in_ms(DEADLINE_MS));
    return rc == -ETIMEDOUT ? belfry_now_ns() - began_ns : -1;
}

/* The client is patient; the server ends it by itself. */
static int64_t end_by_server(belfry_client *client, const unsigned char *request, size_t size)
{
    belfry_message m;
    uint64_t id;
    int64_t began_ns = belfry_now_ns();
    int rc = belfry_send_until(client, request, size, belfry_in_ms(DEADLINE_MS), &id);
    if (rc == 0)
        rc = belfry_await(client, id, &m, belfry_in_ms(PATIENCE_MS));
    bool said = rc == -ETIMEDOUT && strstr(belfry_last_error(), "the deadline has passed") != NULL;
    return said ? belfry_now_ns() - began_ns : -1;
}

/* The fastest of some attempts tells what the service takes by itself. */
static int judge(const char *what, int64_t (*end)(belfry_client *, const unsigned char *, size_t),
                 belfry_client *client, const unsigned char *request, size_t size)
{
    int64_t least_ns = INT64_MAX, latest_ns = LATEST_MS * INT64_C(1000000);
    int attempts = 0;
    while (least_ns > latest_ns && attempts < ATTEMPTS) {
        int64_t took_ns = end(client, request, size);
        attempts++;
        if (took_ns < 0)
            return complain(what, -ETIMEDOUT);
        least_ns = took_ns < least_ns ? took_ns : least_ns;
    }
    printf("%s after %.1f ms, in attempt %d\n", what, (double)least_ns / 1e6, attempts);
    return least_ns <= latest_ns ? 0 : complain("the time it took", 0);
}

static int deadline(belfry_client *client, const char *sql)
{
    unsigned char request[REQUEST_BYTES_MAX];
    long size = sql_put_request(request, sizeof request, sql, strlen(sql), NULL, 0);
    if (size < 0)
        return complain("the SQL", 0);
    int rc = judge("back", end_by_client, client, request, (size_t)size);
    return rc == 0 ? judge("interrupted by the server", end_by_server, client, request, (size_t)size) : rc;
}

/* --- garbage ------------------------------------------------------------------------------------------------------ */

/* Whatever it says, it is answered. Returns the code of the answer, or sets *failed. */
static int send_garbage(belfry_client *client, const void *data, size_t size, int *failed)
{
    belfry_message m;
    int rc = belfry_call(client, data, size, &m, belfry_in_ms(PATIENCE_MS));
    if (rc == 0)
        belfry_release(client, &m);
    if (rc > BELFRY_EUSER && rc != 0)
        *failed = complain("an answer to garbage", rc);
    return rc;
}

static int garbage(belfry_client *client)
{
    unsigned char request[300], changed[300];
    int refused = 0, failed = 0, sent = 0;
    struct sql_value values[] = {SQL_INT(-1),
                                 {.type = SQL_REAL, .real = 0.5},
                                 SQL_STRING("text", 4),
                                 {.type = SQL_BLOB, .data = "\0\1", .size = 2},
                                 {.type = SQL_NULL}};
    long size = sql_put_request(request, sizeof request, "SELECT ?1, ?2, ?3, ?4, ?5", 25, values, 5);

    for (long cut = 0; cut < size && failed == 0; cut++, sent++)
        if (send_garbage(client, request, (size_t)cut, &failed) == SQL_EREQUEST)
            refused++;
    if (refused != sent)
        failed = complain("a request that was cut off", 0);
    for (long at = 0; at < size; at++)
        for (int bit = 0; bit < 8 && failed == 0; bit++, sent++) {
            memcpy(changed, request, (size_t)size);
            changed[at] ^= (unsigned char)(1 << bit);
            send_garbage(client, changed, (size_t)size, &failed);
        }
    memcpy(changed, request, (size_t)size);
    memset(changed + size, 0, 8);
    if (failed == 0 && send_garbage(client, changed, (size_t)size + 8, &failed) != SQL_EREQUEST)
        failed = complain("a request with more behind it", 0);
    if (failed == 0 && belfry_send_one_way(client, request, (size_t)size) < 0)
        failed = complain("a one-way message", 0);
    if (failed == 0 && send_garbage(client, request, (size_t)size, &failed) != 0)
        failed = complain("a good request after the bad ones", 0);
    if (failed == 0)
        printf("%d bad requests answered, %d of them cut off\n", sent, refused);
    return failed;
}

/* ------------------------------------------------------------------------------------------------------------------ */

static int with_client(const char *service, const char *mode, const char *argument)
{
    belfry_client *client;
    int rc = belfry_connect(&client, service, NULL);
    if (rc < 0)
        return complain("connecting", rc);
    rc = strcmp(mode, "load") == 0       ? load(client, row_count)
         : strcmp(mode, "check") == 0    ? check(client, row_count)
         : strcmp(mode, "deadline") == 0 ? deadline(client, argument)
         : strcmp(mode, "cancel") == 0   ? cancel(client)
                                         : garbage(client);
    belfry_close(client);
    return rc;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 2 ? argv[2] : "";
    row_count = argc > 3 ? atol(argv[3]) : 0;
    if (argc == 6 && strcmp(mode, "run") == 0) {
        client_count = atoi(argv[4]);
        requests_each = atoi(argv[5]);
        if (row_count >= 100 && client_count > 0 && requests_each > 0) {
            const char *seed = getenv("SEED");
            return run(argv[1], seed != NULL ? strtoull(seed, NULL, 10) : (uint64_t)belfry_now_ns());
        }
    }
    if ((argc == 4 && strcmp(mode, "deadline") == 0) ||
        (argc == 4 && row_count > 0 && (strcmp(mode, "load") == 0 || strcmp(mode, "check") == 0)) ||
        (argc == 3 && (strcmp(mode, "cancel") == 0 || strcmp(mode, "garbage") == 0)))
        return with_client(argv[1], mode, argv[3]);
    fputs("usage: sqlite_load SERVICE load|check ROWS\n"
          "       sqlite_load SERVICE run ROWS CLIENTS REQUESTS   (ROWS: 100 or more; SEED in the environment)\n"
          "       sqlite_load SERVICE deadline SQL\n"
          "       sqlite_load SERVICE cancel|garbage\n",
          stderr);
    return 2;
}

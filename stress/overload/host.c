/* SPDX-License-Identifier: MIT */
/* host.c: see host.h. */
#include "host.h"

#include <belfry/server.h>
#include <string.h>

#define FED_MAX 256u
#define FEED_MS 1
#define FEED_PUSHES 8
#define FEED_BYTES 1000
#define CORRUPT_ANSWER 100u /* by then the victim is measured */

/* A shard's: those whom it pushes to. */
static _Thread_local struct {
    belfry_timer timer;
    belfry_conn *conn[FED_MAX];
    uint32_t count;
} feeder;

static struct board *board;
static bool corrupt_one;
static _Atomic uint32_t answers;

static void feed(belfry_timer *t, void *user)
{
    static const char data[FEED_BYTES];
    (void)user;
    for (uint32_t i = 0; i < feeder.count; i++)
        for (int n = 0; n < FEED_PUSHES; n++)
            atomic_fetch_add(belfry_push(feeder.conn[i], data, sizeof data) == 0 ? &board->fed.taken
                                                                                 : &board->fed.refused,
                             1);
    if (feeder.count > 0)
        belfry_timer_set(t, belfry_in_ms(FEED_MS));
}

static void begin_to_feed(belfry_conn *conn)
{
    if (belfry_conn_user(conn) != NULL || feeder.count == FED_MAX)
        return;
    belfry_conn_set_user(conn, &feeder);
    feeder.conn[feeder.count++] = conn;
    belfry_timer_set(&feeder.timer, belfry_in_ms(FEED_MS));
}

/* If it cannot, the client is told that nobody answered. */
static void answer(belfry_conn *conn, const belfry_message *m)
{
    void *room;
    if (!corrupt_one || atomic_fetch_add(&answers, 1) != CORRUPT_ANSWER) {
        belfry_reply(conn, m, m->data, m->size);
    } else if (belfry_reply_reserve(conn, m, m->size, &room) == 0) {
        memcpy(room, m->data, m->size);
        *(char *)room ^= 1;
        belfry_reply_commit(conn, m->size);
    }
}

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    if (m->kind == BELFRY_REQUEST)
        answer(conn, m);
    else if (m->size > 0 && *(const char *)m->data == HOST_FEED)
        begin_to_feed(conn);
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    (void)user;
    int64_t killed_ns = atomic_load(&board->killed_ns);
    if (why == BELFRY_END_DIED && killed_ns != 0)
        histogram_add(&board->buried[belfry_conn_shard(conn)], (uint64_t)(belfry_now_ns() - killed_ns));
    for (uint32_t i = 0; i < feeder.count; i++)
        if (feeder.conn[i] == conn)
            feeder.conn[i] = feeder.conn[--feeder.count];
}

static void on_backlog(belfry_conn *conn, bool high, void *user)
{
    (void)conn, (void)high, (void)user;
    atomic_fetch_add(&board->fed.marks, 1);
}

static int on_shard_start(belfry_server *server, uint32_t shard, void *user)
{
    (void)server, (void)shard, (void)user;
    belfry_timer_init(&feeder.timer, feed, NULL);
    return 0;
}

static void set_options(belfry_server_options *o, struct stage *s, const struct plan *p)
{
    belfry_server_options_init(o, sizeof *o);
    o->service = SERVICE;
    o->root = s->directory;
    o->on_message = on_message;
    o->on_disconnect = on_disconnect;
    o->on_backlog = on_backlog;
    o->on_shard_start = on_shard_start;
    o->shards = s->options->shards;
    o->max_slots = p->max_slots != 0 ? p->max_slots : SLOTS_DEFAULT;
    o->ring_bytes = p->ring_bytes != 0 ? p->ring_bytes : o->ring_bytes;
    o->message_bytes_max = HOST_MESSAGE_BYTES;
    o->whole_bytes_max = HOST_WHOLE_BYTES;
    o->uid_bytes_max = HOST_UID_BYTES;
    o->outbox_bytes_max = HOST_OUTBOX_BYTES;
    o->overflow = p->overflow;
    o->access = s->root ? BELFRY_ACCESS_EVERYONE : BELFRY_ACCESS_OWNER;
    o->stall_ms = 0; /* a line on standard error would tell nothing that the figures do not */
    o->stop_signals = true;
}

int host_serve(struct stage *s, const struct plan *p, uint32_t unused)
{
    belfry_server_options o;
    belfry_server *server;
    (void)unused;
    board = s->board;
    corrupt_one = s->options->corrupt_one;
    set_options(&o, s, p);
    int rc = belfry_server_create(&server, &o);
    if (rc == 0)
        rc = belfry_server_start(server);
    if (rc < 0) {
        stage_wrong(s, "the server does not start: %s", belfry_last_error());
        return 1;
    }
    stage_ready(s);
    rc = belfry_server_wait(server);
    belfry_server_destroy(server);
    return rc < 0 ? 1 : 0;
}

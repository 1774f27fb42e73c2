/* SPDX-License-Identifier: MIT */
/* server.c: the server of belfry-torture, which believes nobody. See torture.h. */
#include "torture.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SPOILED_MAX 20u
#define SLOTS_PER_CLIENT 4u /* a claim that dies half-way keeps its slot for a second */

uint32_t slots_max(const struct options *o)
{
    return (SLOTS_PER_CLIENT * o->clients + 64) / o->shards * o->shards;
}

uint32_t slots_warm(const struct options *o)
{
    return (o->clients + o->shards - 1) / o->shards * o->shards;
}

struct conn {
    uint32_t talk; /* 0: none yet */
    bool broken;   /* a violation was reported: the rest follows from it */
};

static struct slot *slot_of(const belfry_conn *conn)
{
    return &board->slot[belfry_conn_slot(conn) % SLOTS_MAX];
}

static int on_connect(belfry_conn *conn, void *user)
{
    struct slot *slot = slot_of(conn);
    belfry_conn_id id = belfry_conn_get_id(conn);
    struct conn *mine = belfry_alloc(sizeof *mine);
    (void)user;
    if (mine == NULL)
        return -1;
    *mine = (struct conn){.talk = 0};
    belfry_conn_set_user(conn, mine);
    if (slot->open)
        violation(ALTERNATED, "on_connect for a slot that has a conn");
    if (slot->last == id + 1)
        violation(REUSED, "a conn has the generation of the one before");
    slot->open = true;
    slot->last = id + 1;
    board->opened[belfry_conn_shard(conn)]++;
    return 0;
}

/* Is it the next of the talk that this conn has? */
static void hear(belfry_conn *conn, struct conn *mine, const struct message_header *m)
{
    struct talk *talk = &board->talk[m->number % TALKS];
    if (mine->talk == 0) {
        mine->talk = m->number;
        if (talk->conn != 0 && !mine->broken)
            violation(DISORDERED, "a talk that an earlier conn had");
        talk->conn = belfry_conn_get_id(conn) + 1;
    }
    if ((m->number != mine->talk || m->sequence != talk->heard + 1) && !mine->broken) {
        violation(DISORDERED, "a message that is not the next");
        mine->broken = true;
    }
    __atomic_store_n(&talk->heard, (uint32_t)m->sequence, __ATOMIC_RELAXED);
}

/* For the program's own check: a few times, since a client may be killed before it can tell. */
static bool spoil(bool wanted, uint64_t sequence)
{
    return wanted && sequence > 3 && __atomic_fetch_add(&board->spoiled, 1, __ATOMIC_RELAXED) < SPOILED_MAX;
}

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    struct conn *mine = belfry_conn_user(conn);
    struct message_header head;
    void *room;
    (void)user;
    board->messages[belfry_conn_shard(conn)]++;
    if (!message_is_sound(m->data, m->size)) {
        violation(TORN_REQUEST, "the server got a message that is not whole");
        mine->broken = true;
        return;
    }
    memcpy(&head, m->data, sizeof head);
    if (spoil(board->options->lose_one, head.sequence))
        return;
    hear(conn, mine, &head);
    if (m->kind != BELFRY_REQUEST)
        return;
    if (head.sequence % PUSH_EVERY == 0)
        belfry_push(conn, m->data, m->size);
    if (spoil(board->options->corrupt_one, head.sequence) && belfry_reply_reserve(conn, m, m->size, &room) == 0) {
        memcpy(room, m->data, m->size);
        ((uint8_t *)room)[m->size - 1] ^= 1;
        belfry_reply_commit(conn, m->size);
        return;
    }
    belfry_reply(conn, m, m->data, m->size);
}

/* How long ago was the client of this conn killed? */
static void note_death(const belfry_conn *conn)
{
    uint32_t number = __atomic_load_n(&board->life_of_pid[belfry_conn_pid(conn) % LIVES], __ATOMIC_ACQUIRE);
    const struct life *life = &board->life[number % LIVES];
    int64_t killed_ns = __atomic_load_n(&life->killed_ns, __ATOMIC_ACQUIRE);
    if (life->number != number || killed_ns == 0)
        return;
    int64_t now = belfry_now_ns(), gone_ns = __atomic_load_n(&life->gone_ns, __ATOMIC_ACQUIRE);
    histogram_add(&board->noticed[belfry_conn_shard(conn)], (uint64_t)(now - killed_ns));
    histogram_add(&board->late[belfry_conn_shard(conn)], gone_ns != 0 && now > gone_ns ? (uint64_t)(now - gone_ns) : 0);
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    struct slot *slot = slot_of(conn);
    struct conn *mine = belfry_conn_user(conn);
    (void)user;
    if (why == BELFRY_END_DIED)
        note_death(conn);
    else if (why != BELFRY_END_LEFT && why != BELFRY_END_STOPPED)
        violation(BAD_CODE, belfry_end_text(why));
    if (!slot->open)
        violation(ALTERNATED, "on_disconnect for a slot without a conn");
    const struct talk *talk = &board->talk[mine->talk % TALKS];
    if (mine->talk != 0 && why != BELFRY_END_STOPPED && !mine->broken &&
        talk->heard < __atomic_load_n(&talk->sent, __ATOMIC_ACQUIRE))
        violation(LOST, "a message that was sent before its client died was never handled");
    slot->open = false;
    board->closed[belfry_conn_shard(conn)]++;
    belfry_free(mine);
}

/* Of the server before nobody speaks any more. */
static int on_shard_start(belfry_server *s, uint32_t shard, void *user)
{
    (void)s, (void)user;
    for (uint32_t i = shard; i < SLOTS_MAX; i += board->options->shards)
        board->slot[i] = (struct slot){.open = false};
    board->opened[shard] = board->closed[shard] = 0;
    return 0;
}

/* On a machine that has too much to do, a turn may well take long, and the server says so. Not an error. */
static void on_log(enum belfry_log_level level, const char *line, void *user)
{
    (void)user;
    if (level == BELFRY_LOG_ERROR)
        fprintf(stderr, "%s\n", line);
    if (level != BELFRY_LOG_WARNING)
        return;
    __atomic_fetch_add(&board->warnings, 1, __ATOMIC_RELAXED);
    snprintf(board->warning, sizeof board->warning, "%s", line);
}

void server_live(void)
{
    const struct options *mine = board->options;
    belfry_server_options o;
    belfry_server *s;
    belfry_server_options_init(&o, sizeof o);
    o.service = SERVICE;
    o.root = mine->root;
    o.on_connect = on_connect;
    o.on_message = on_message;
    o.on_disconnect = on_disconnect;
    o.on_shard_start = on_shard_start;
    o.on_log = on_log;
    o.shards = mine->shards;
    o.max_slots = slots_max(mine);
    o.warm_pool = slots_warm(mine);
    o.ring_bytes = RING_BYTES;
    o.pin = false;
    o.stop_signals = true;
    int rc = belfry_server_create(&s, &o);
    if (rc == 0)
        rc = belfry_server_start(s);
    if (rc < 0) {
        fprintf(stderr, "belfry-torture: %s\n", belfry_last_error());
        __atomic_store_n(&board->server_rc, rc, __ATOMIC_RELEASE);
        _exit(1);
    }
    __atomic_store_n(&board->instance, belfry_server_instance(s), __ATOMIC_RELEASE);
    rc = belfry_server_wait(s);
    belfry_server_destroy(s);
    _exit(rc < 0);
}

/* SPDX-License-Identifier: MIT */
/*
 * post.c: what other threads ask of a shard: run this, push that. Each becomes a letter (mailbox.h).
 *
 * A conn is named by its id here, because whoever posts cannot know whether it will still be there; the shard looks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "server/conn.h"
#include "server/server.h"

/* --- which conn --------------------------------------------------------------------------------------------------- */

/* 6 bits of shard, 21 of slot, 29 of generation. */
belfry_conn_id belfry_conn_get_id(const belfry_conn *conn)
{
    return (uint64_t)conn->shard->index << 50 | (uint64_t)conn->slot->number << 29 | conn->slot->generation;
}

uint32_t belfry_conn_id_shard(belfry_conn_id id)
{
    return (uint32_t)(id >> 50);
}

struct belfry_conn *bf_conn_of(struct bf_shard *shard, belfry_conn_id id)
{
    if (shard->pool.slots == NULL) /* the shard's start failed */
        return NULL;
    const struct bf_geometry *g = &shard->pool.lobby->geometry;
    uint32_t number = (uint32_t)(id >> 29) & 0x1fffff;
    if (belfry_conn_id_shard(id) != shard->index || number % g->shards != shard->index || number >= g->max_slots)
        return NULL;
    struct bf_slot *slot = &shard->pool.slots[number / g->shards];
    return slot->phase == SLOT_OPEN && slot->generation == (id & BELFRY_GENERATION_MASK) ? slot->conn : NULL;
}

belfry_conn *belfry_conn_find(belfry_server *s, belfry_conn_id id)
{
    struct bf_shard *shard = bf_shard_self();
    return shard != NULL && shard->server == s ? bf_conn_of(shard, id) : NULL;
}

/* --- letters ------------------------------------------------------------------------------------------------------ */

static int not_running(const struct belfry_server *s)
{
    return bf_error(BELFRY_ESTATE, "the server \"%s\" is not running", s->place.service);
}

static int no_memory(size_t size)
{
    return bf_error(-ENOMEM, "no memory for a letter of %zu bytes to a shard", size);
}

struct work_letter {
    struct mailbox_letter letter;
    void (*work)(void *user);
    void *user;
};

static void deliver_work(struct bf_shard *shard, struct mailbox_letter *letter)
{
    struct work_letter work = *(struct work_letter *)letter;
    (void)shard;
    free(letter);
    work.work(work.user);
}

int belfry_post(belfry_server *s, uint32_t shard, void (*work)(void *user), void *user)
{
    if (shard >= s->shard_count)
        return bf_error(BELFRY_EOPTION, "there is no shard %u: the server \"%s\" has %u", shard, s->place.service,
                        s->shard_count);
    struct work_letter *letter = malloc(sizeof *letter);
    if (letter == NULL)
        return no_memory(sizeof *letter);
    *letter = (struct work_letter){.letter.deliver = deliver_work, .work = work, .user = user};
    if (bf_mailbox_put(&s->shards[shard].mailbox, &letter->letter))
        return 0;
    free(letter);
    return not_running(s);
}

struct push_letter {
    struct mailbox_letter letter;
    belfry_conn_id conn;
    size_t size;
    uint8_t data[];
};

/* A push that the conn does not take is lost, and counted. */
static void push_or_count(struct belfry_conn *conn, struct bf_shard *shard, const void *data, size_t size)
{
    if (conn != NULL && belfry_push(conn, data, size) == 0)
        return;
    if (conn != NULL)
        conn->backlog.dropped++;
    counter_add(&shard->counters->pushes_dropped, 1);
}

static void deliver_push(struct bf_shard *shard, struct mailbox_letter *letter)
{
    struct push_letter *push = (struct push_letter *)letter;
    push_or_count(bf_conn_of(shard, push->conn), shard, push->data, push->size);
    free(push);
}

static int check_size(const struct belfry_server *s, size_t size)
{
    if (size <= s->options.message_bytes_max)
        return 0;
    return bf_error(BELFRY_ETOOBIG, "a message of %zu bytes is larger than message_bytes_max, %u", size,
                    s->options.message_bytes_max);
}

int belfry_push_to(belfry_server *s, belfry_conn_id id, const void *data, size_t size)
{
    uint32_t shard = belfry_conn_id_shard(id);
    if (shard >= s->shard_count)
        return bf_error(BELFRY_EOPTION, "%llu is not the id of a conn of \"%s\"", (unsigned long long)id,
                        s->place.service);
    int rc = check_size(s, size);
    if (rc < 0)
        return rc;
    struct push_letter *letter = malloc(sizeof *letter + size);
    if (letter == NULL)
        return no_memory(sizeof *letter + size);
    *letter = (struct push_letter){.letter.deliver = deliver_push, .conn = id, .size = size};
    if (size > 0)
        memcpy(letter->data, data, size);
    if (bf_mailbox_put(&s->shards[shard].mailbox, &letter->letter))
        return 0;
    free(letter);
    return not_running(s);
}

/* --- broadcast: one message, a letter per shard ------------------------------------------------------------------- */

struct broadcast {
    uint32_t references;
    size_t size;
    const uint8_t *data; /* behind the letters */
    struct broadcast_letter {
        struct mailbox_letter letter;
        struct broadcast *whole;
    } letters[];
};

static void broadcast_release(struct broadcast *b)
{
    if (sub_acq_rel(&b->references, 1) == 1)
        free(b);
}

static void deliver_broadcast(struct bf_shard *shard, struct mailbox_letter *letter)
{
    struct broadcast *b = ((struct broadcast_letter *)letter)->whole;
    for (uint32_t i = 0; i < shard->pool.count; i++) {
        struct bf_slot *slot = &shard->pool.slots[i];
        if (slot->phase == SLOT_OPEN)
            push_or_count(slot->conn, shard, b->data, b->size);
    }
    broadcast_release(b);
}

int belfry_broadcast(belfry_server *s, const void *data, size_t size)
{
    int rc = check_size(s, size);
    if (rc < 0)
        return rc;
    size_t head = sizeof(struct broadcast) + s->shard_count * sizeof(struct broadcast_letter);
    struct broadcast *b = malloc(head + size);
    if (b == NULL)
        return no_memory(head + size);
    uint8_t *copy = (uint8_t *)b + head;
    *b = (struct broadcast){.references = s->shard_count + 1, .size = size, .data = copy};
    if (size > 0)
        memcpy(copy, data, size);
    uint32_t taken = 0;
    for (uint32_t i = 0; i < s->shard_count; i++) {
        b->letters[i] = (struct broadcast_letter){.letter.deliver = deliver_broadcast, .whole = b};
        if (bf_mailbox_put(&s->shards[i].mailbox, &b->letters[i].letter))
            taken++;
        else
            broadcast_release(b);
    }
    broadcast_release(b);
    return taken > 0 ? 0 : not_running(s);
}

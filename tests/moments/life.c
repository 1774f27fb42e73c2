/* SPDX-License-Identifier: MIT */
/* life.c: see life.h. */
#include "life.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "moments.h"

/* --- messages ------------------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* Over all of it, but the sum itself: whole words, and what is left. */
static uint64_t sum_of(const struct life_word *word, const uint8_t *rest)
{
    uint64_t sum = mix(word->life) ^ mix(word->number + 1ull) ^ mix((uint64_t)word->wish << 32) ^ mix(~word->bytes);
    size_t bytes = word->bytes - sizeof *word;
    for (size_t i = 0; i < bytes; i += sizeof sum) {
        uint64_t part = 0;
        memcpy(&part, rest + i, bytes - i < sizeof part ? bytes - i : sizeof part);
        sum = mix(sum ^ part) + i;
    }
    return sum;
}

void life_write(void *at, uint64_t life, uint32_t number, enum life_wish wish, size_t bytes)
{
    struct life_word word = {.life = life, .number = number, .wish = wish, .bytes = bytes};
    uint64_t *rest = (uint64_t *)((uint8_t *)at + sizeof word);
    size_t words = (bytes - sizeof word) / sizeof *rest, left = (bytes - sizeof word) % sizeof *rest;
    for (size_t i = 0; i < words; i++)
        rest[i] = mix(life << 32 ^ number ^ i << 16);
    memset(rest + words, (int)number, left);
    word.sum = sum_of(&word, (const uint8_t *)rest);
    memcpy(at, &word, sizeof word);
}
_Static_assert(sizeof(struct life_word) == LIFE_BYTES_MIN, "the head of a message");

bool life_read(const void *data, size_t bytes, struct life_word *word)
{
    if (bytes < sizeof *word)
        return false;
    memcpy(word, data, sizeof *word);
    return word->bytes == bytes && word->sum == sum_of(word, (const uint8_t *)data + sizeof *word);
}

/* --- the witness ---------------------------------------------------------------------------------------------------- */

struct life_witness *life_witness_new(void)
{
    void *w = mmap(NULL, sizeof(struct life_witness), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (w == MAP_FAILED)
        abort();
    return w;
}

const char *life_violation(const struct life_witness *w)
{
    if (w->torn > 0)
        return "a message was torn";
    if (w->disordered > 0)
        return "a message was lost, repeated or out of order";
    if (w->alternated > 0)
        return "on_connect and on_disconnect did not alternate";
    return w->reused > 0 ? "a conn had the id of an earlier one" : NULL;
}

/* A server and the one that replaces it may be there at the same time. */
static struct life_slot *slot_of(struct life_witness *w, belfry_conn *conn)
{
    uint64_t instance = belfry_server_instance(belfry_conn_server(conn));
    return &w->slot[instance % 2][belfry_conn_slot(conn) % LIFE_SLOTS_MAX];
}

static int on_shard_start(belfry_server *s, uint32_t shard, void *user)
{
    struct life_witness *w = user;
    (void)shard;
    memset(w->slot[belfry_server_instance(s) % 2], 0, sizeof w->slot[0]);
    return 0;
}

static int on_connect(belfry_conn *conn, void *user)
{
    struct life_witness *w = user;
    struct life_slot *slot = slot_of(w, conn);
    belfry_conn_id id = belfry_conn_get_id(conn);
    w->alternated += slot->open;
    w->reused += slot->last == id + 1;
    slot->last = id + 1;
    slot->open = true;
    __atomic_fetch_add(&w->opened, 1, __ATOMIC_RELEASE);
    return 0;
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    struct life_witness *w = user;
    struct life_slot *slot = slot_of(w, conn);
    (void)why;
    w->alternated += !slot->open;
    slot->open = false;
    __atomic_fetch_add(&w->closed, 1, __ATOMIC_RELEASE);
}

static void say_more(belfry_conn *conn, const belfry_message *m, const struct life_word *word)
{
    uint64_t more[LIFE_MORE_BYTES / 8 + 1];
    for (uint32_t i = 0; i < LIFE_MORE_COUNT; i++) {
        life_write(more, word->life, i + 1, LIFE_MORE, LIFE_MORE_BYTES);
        belfry_reply_more(conn, m, more, LIFE_MORE_BYTES);
    }
}

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    static uint64_t large[LIFE_LARGE_BYTES / 8];
    struct life_witness *w = user;
    struct life_word word;
    belfry_ticket ticket;
    if (!life_read(m->data, m->size, &word)) {
        w->torn++;
        return;
    }
    w->disordered += word.number != w->heard[word.life % LIVES_MAX] + 1;
    __atomic_store_n(&w->heard[word.life % LIVES_MAX], word.number, __ATOMIC_RELEASE);
    switch ((enum life_wish)word.wish) {
    case LIFE_SAY:
        return;
    case LIFE_HOLD:
        belfry_defer(conn, m, &ticket, NULL);
        return;
    case LIFE_LARGE:
        life_write(large, word.life, word.number, LIFE_LARGE, sizeof large);
        belfry_reply(conn, m, large, sizeof large);
        return;
    case LIFE_PUSH:
        belfry_push(conn, m->data, m->size);
        break;
    case LIFE_MORE:
        say_more(conn, m, &word);
        break;
    case LIFE_ARM:
        moments_arm(m->size - LIFE_BYTES_MIN);
        break;
    case LIFE_ECHO:
        break;
    }
    belfry_reply(conn, m, m->data, m->size);
}

/* Who holds a ticket has to end it, also when nobody waits. */
static void on_cancel(belfry_conn *conn, const belfry_ticket *t, int why, void *user)
{
    (void)why, (void)user;
    belfry_complete_failed(belfry_conn_server(conn), t, -ECANCELED, "as was wished");
}

void life_serve(belfry_server_options *o, struct life_witness *w)
{
    o->on_shard_start = on_shard_start;
    o->on_connect = on_connect;
    o->on_disconnect = on_disconnect;
    o->on_message = on_message;
    o->on_cancel = on_cancel;
    o->skip_expired = false; /* all that is read is heard */
    o->user = w;
}

/* SPDX-License-Identifier: MIT */
/*
 * drain.c: the server reads a ring whose client may write anything into it, at any moment.
 *
 * A shard without a thread, a uring or files: one slot, one conn, its two segments in the heap. The input says what the
 * client writes (well-formed entries, entries that lie, single bytes), what the handler does with what it gets, when the
 * kernel has pages, and when the turns are. The same conn is another user's or our own.
 */
#include <errno.h>
#include <stddef.h>

#include "peer.h"
#include "server/conn.h"
#include "server/io.h"
#include "server/listener.h"
#include "server/server.h"
#include "shm/doorbell.h"

#define RING_BYTES 4096u
#define STRANGER 61002u
#define TICKETS 8u
#define POPULATES 16u
#define STEPS_MAX 400

enum step {
    STEP_TURN,
    STEP_TURN_TOO, /* the most frequent one */
    STEP_SAY,
    STEP_SAY_PLAIN,
    STEP_FIRST_PART,
    STEP_LATER_PART,
    STEP_LIE,
    STEP_WRITE,
    STEP_READ_REPLIES,
    STEP_CLAIM_TO_HAVE_READ,
    STEP_LOOK,
    STEP_PAGES,
    STEP_COMPLETE,
    STEP_DRAIN,
    STEP_DIE,
    STEP_PUSH,
    STEPS,
};

static struct belfry_abi_shard shard_words;
static struct belfry_abi_slot slot_words;
static belfry_counters counters;

static struct {
    struct belfry_server server;
    struct bf_shard shard;
    struct bf_slot slot;
    struct bf_slot *hot[1], *touched[1];
    struct feed feed;
    struct belfry_abi_send *send;
    struct belfry_abi_recv *recv;
    struct ring_producer_local producer; /* the client's, as long as it behaves */
    struct ring_consumer_local consumer;
    uint64_t whole_id; /* of the parts that it sends */
    uint64_t started;  /* where the whole that arrives began */
    uint64_t handed_over_bytes;
    belfry_ticket tickets[TICKETS];
    unsigned ticket_count;
    belfry_message copies[TICKETS];
    const void *populates[POPULATES];
    unsigned populate_count;
} scene;

/* --- what is not there: the uring, and what makes segments ------------------------------------------------------------ */

void __wrap_bf_reactor_populate(struct bf_reactor *r, const void *owner, void *at, size_t bytes);
void __wrap_bf_reactor_cancel_owned(struct bf_reactor *r, const void *owner);
void __wrap_bf_reactor_wake(struct bf_reactor *r, const uint32_t *word);
void __wrap_bf_reactor_wake_some(struct bf_reactor *r, const uint32_t *word);
void __wrap_bf_slot_pool_recycle(struct bf_slot_pool *pool, struct bf_slot *slot);
void __wrap_bf_slot_pool_protect(struct bf_slot_pool *pool, struct bf_slot *slot);

void __wrap_bf_reactor_populate(struct bf_reactor *r, const void *owner, void *at, size_t bytes)
{
    (void)r, (void)at, (void)bytes;
    demand(scene.populate_count < POPULATES);
    scene.populates[scene.populate_count++] = owner;
}

void __wrap_bf_reactor_cancel_owned(struct bf_reactor *r, const void *owner)
{
    (void)r, (void)owner; /* its completion comes all the same */
}

void __wrap_bf_reactor_wake(struct bf_reactor *r, const uint32_t *word)
{
    (void)r, (void)word;
}

void __wrap_bf_reactor_wake_some(struct bf_reactor *r, const uint32_t *word)
{
    (void)r, (void)word;
}

void __wrap_bf_slot_pool_recycle(struct bf_slot_pool *pool, struct bf_slot *slot)
{
    (void)pool;
    demand(slot->phase == SLOT_ENDING);
}

void __wrap_bf_slot_pool_protect(struct bf_slot_pool *pool, struct bf_slot *slot)
{
    (void)pool, (void)slot;
}

/* The kernel has the pages, or has not. */
static void complete_populate(int32_t result)
{
    if (scene.populate_count == 0)
        return;
    struct bf_event event = {.kind = BF_EVENT_OWNED, .owner = (void *)(uintptr_t)scene.populates[0], .result = result};
    scene.populate_count--;
    memmove(scene.populates, scene.populates + 1, scene.populate_count * sizeof scene.populates[0]);
    bf_io_done(&scene.shard, &event);
}

/* --- the handler ------------------------------------------------------------------------------------------------------- */

/* Is it a message that has arrived, and all of it somewhere where its client cannot cut it off? */
static void judge(const belfry_conn *conn, const belfry_message *m)
{
    const uint8_t *at = m->data, *ring = conn->in.data;
    bool in_ring = at >= ring && at <= ring + RING_BYTES; /* an empty one may be the last */
    bool in_copy = conn->foreign && at == scene.shard.copy;
    in_copy |= conn->foreign && at > scene.shard.copy && at < scene.shard.copy + RING_BYTES / 4;
    demand(m->size <= scene.server.options.message_bytes_max);
    demand(m->kind == BELFRY_REQUEST || m->kind == BELFRY_ONE_WAY);
    if (in_ring || in_copy) {
        demand(in_ring ? !conn->foreign : conn->foreign);
        demand(m->size <= ring_payload_max(RING_BYTES));
        demand(at + m->size <= (in_ring ? ring + RING_BYTES : scene.shard.copy + ring_payload_max(RING_BYTES)));
    } else {
        demand(m->data == conn->whole.parts.data && m->size == conn->whole.parts.bytes);
        demand(conn->whole.parts.have == m->size && conn->whole.charged >= m->size);
    }
    /* No more than has been read, with the entry that is being read. */
    scene.handed_over_bytes += m->size;
    demand(scene.handed_over_bytes <= conn->in.position + RING_BYTES / 4);
}

static uint8_t sum(const belfry_message *m)
{
    volatile uint8_t sum = 0;
    size_t step = m->size > 65536 ? 4096 : 1; /* the fuzzer's own memory is small */
    loads_pause();
    for (size_t i = 0; i < m->size; i += step)
        sum = (uint8_t)(sum + ((const volatile uint8_t *)m->data)[i]);
    if (m->size > 0)
        sum = (uint8_t)(sum + ((const volatile uint8_t *)m->data)[m->size - 1]);
    loads_resume();
    return sum;
}

static void defer(belfry_conn *conn, const belfry_message *m, bool copy)
{
    if (scene.ticket_count == TICKETS)
        return;
    belfry_message *kept = &scene.copies[scene.ticket_count];
    *kept = (belfry_message){0};
    if (belfry_defer(conn, m, &scene.tickets[scene.ticket_count], copy ? kept : NULL) == 0)
        scene.ticket_count++;
}

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    static const uint8_t some[RING_BYTES];
    struct feed *f = &scene.feed;
    void *room;
    (void)user;
    judge(conn, m);
    sum(m);
    uint8_t what = feed_8(f);
    size_t bytes = feed_8(f) * (size_t)(what & 8 ? 16 : 1);
    switch (what & 7) {
    case 0:
        belfry_reply(conn, m, some, bytes);
        break;
    case 1:
        belfry_reply_more(conn, m, some, bytes);
        break;
    case 2:
        belfry_fail(conn, m, BELFRY_EUSER, "no");
        break;
    case 3:
        defer(conn, m, what & 16);
        break;
    case 4:
        if (belfry_reply_reserve(conn, m, bytes, &room) == 0) {
            memset(room, 1, bytes);
            if (what & 16)
                belfry_reply_commit(conn, bytes / 2);
            else if (what & 32)
                belfry_reply_abort(conn);
        }
        break;
    case 5:
        belfry_push(conn, some, bytes);
        break;
    case 6:
        if (what == 0xfe)
            belfry_disconnect(conn);
        break;
    default:
        break;
    }
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    (void)user;
    demand(conn->slot->phase == SLOT_ENDING && why != BELFRY_END_NONE);
}

/* --- the scene --------------------------------------------------------------------------------------------------------- */

static void set_options(uint8_t how)
{
    static const uint32_t bytes_max[] = {RING_BYTES / 4 - 16, 65536, 8u << 20, PARTS_BYTES_MAX};
    belfry_server_options o;
    belfry_server_options_init(&o, sizeof o);
    o.service = "fuzz";
    o.on_message = on_message;
    o.on_disconnect = on_disconnect;
    o.shards = 1;
    o.max_slots = 1;
    o.warm_pool = 1;
    o.ring_bytes = RING_BYTES;
    o.message_bytes_max = bytes_max[how >> 1 & 3];
    o.access = BELFRY_ACCESS_EVERYONE;
    o.deferred_max = 4;
    o.outbox_bytes_max = 16384;
    o.overflow = how >> 3 & 3 ? (enum belfry_overflow)((how >> 3 & 3) - 1) : o.overflow;
    o.skip_expired = how >> 5 & 1;
    demand(bf_options_resolve(&scene.server.options, &o) == 0);
}

static void make_lobby(void)
{
    struct bf_lobby *lobby = &scene.server.lobby;
    const belfry_server_options *o = &scene.server.options;
    *lobby = (struct bf_lobby){.fd = -1};
    lobby->geometry = (struct bf_geometry){.service = "fuzz",
                                           .shards = 1,
                                           .max_slots = 1,
                                           .slots_per_shard = 1,
                                           .ring_bytes = RING_BYTES,
                                           .message_bytes_max = o->message_bytes_max};
}

static void open_scene(uint8_t how)
{
    memset(&scene, 0, sizeof scene);
    memset(&counters, 0, sizeof counters);
    memset(&shard_words, 0, sizeof shard_words);
    memset(&slot_words, 0, sizeof slot_words);
    set_options(how);
    make_lobby();
    struct bf_shard *s = &scene.shard;
    scene.server.shards = s;
    scene.server.shard_count = 1;
    bf_quota_init(&scene.server.quota, &scene.server.options);
    bf_shard_init(s, &scene.server, 0, UINT32_MAX);
    bf_mailbox_open(&s->mailbox);
    demand(bf_arena_open(&s->arena) == 0);
    s->lobby = &shard_words;
    s->counters = &counters;
    s->hot = scene.hot;
    s->touched = scene.touched;
    s->copy = malloc(ring_payload_max(RING_BYTES));
    scene.send = peer_segment(SEGMENT_HEADER_BYTES + RING_BYTES);
    scene.recv = peer_segment(SEGMENT_HEADER_BYTES + RING_BYTES);
    bool foreign = how & 1;
    scene.slot = (struct bf_slot){.phase = SLOT_OPEN,
                                  .send = scene.send,
                                  .recv = scene.recv,
                                  .lobby = &slot_words,
                                  .uid = foreign ? STRANGER : scene.server.quota.own_uid,
                                  .foreign = foreign,
                                  .hot_index = SLOT_NOT_HOT};
    s->pool = (struct bf_slot_pool){.lobby = &scene.server.lobby,
                                    .quota = &scene.server.quota,
                                    .counters = &counters,
                                    .shard = &shard_words,
                                    .slots = &scene.slot,
                                    .count = 1};
    s->conn_count = 1;
    demand(bf_quota_enter(&scene.server.quota, scene.slot.uid, 1) == BELFRY_END_NONE);
    bf_shard_become(s);
    scene.slot.conn = bf_conn_new(s, &scene.slot);
    ring_producer_init(&scene.producer, (uint8_t *)scene.send + SEGMENT_HEADER_BYTES, RING_BYTES,
                       segment_colour(0, SEGMENT_SEND), &scene.recv->consumed);
    ring_consumer_init(&scene.consumer, (uint8_t *)scene.recv + SEGMENT_HEADER_BYTES, RING_BYTES,
                       segment_colour(0, SEGMENT_RECV), &scene.send->consumed);
}

static void deliver_letters(void)
{
    struct mailbox_letter *letter = bf_mailbox_take(&scene.shard.mailbox);
    while (letter != NULL) {
        struct mailbox_letter *next = letter->next;
        letter->deliver(&scene.shard, letter);
        letter = next;
    }
}

/* As many of what the handler put off as there are are answered, in the order in which they came. */
static void complete(struct feed *f, bool last)
{
    static const uint8_t some[4096];
    if (scene.ticket_count == 0)
        return;
    const belfry_ticket *ticket = &scene.tickets[0];
    size_t bytes = feed_8(f) * 3u;
    int rc = last ? belfry_complete(&scene.server, ticket, some, bytes)
                  : belfry_complete_more(&scene.server, ticket, some, bytes);
    deliver_letters();
    if (!last)
        return;
    demand(rc != BELFRY_EANSWERED);
    belfry_message_free(&scene.copies[0]);
    scene.ticket_count--;
    memmove(scene.tickets, scene.tickets + 1, scene.ticket_count * sizeof scene.tickets[0]);
    memmove(scene.copies, scene.copies + 1, scene.ticket_count * sizeof scene.copies[0]);
}

/* Nothing of the conn may be left: of its memory, of what it counted for, of what the kernel was asked for. */
static void close_scene(void)
{
    struct feed nothing = {NULL, NULL};
    struct bf_quota *quota = &scene.server.quota;
    if (scene.slot.phase == SLOT_OPEN)
        bf_listener_end(&scene.shard, &scene.slot, BELFRY_END_STOPPED);
    while (scene.populate_count > 0)
        complete_populate(-ECANCELED);
    while (scene.ticket_count > 0)
        complete(&nothing, true);
    demand(scene.shard.arena.allocated_bytes == 0);
    demand(scene.server.whole_bytes == 0);
    demand(counters.outbox_bytes == 0 && counters.connections_active == (uint64_t)-1);
    demand(scene.shard.ios == NULL && scene.shard.hot_count == 0 && scene.slot.conn == NULL);
    demand(bf_quota_charge(quota, scene.slot.uid, quota->bytes_max));
    bf_quota_discharge(quota, scene.slot.uid, quota->bytes_max);
    bf_quota_leave(quota, scene.slot.uid);
    bf_quota_deinit(quota);
    bf_tickets_destroy(&scene.shard.tickets);
    bf_arena_close(&scene.shard.arena);
    bf_shard_become(NULL);
    free(scene.shard.copy);
    free(scene.send);
    free(scene.recv);
}

/* --- the client -------------------------------------------------------------------------------------------------------- */

static void say(uint8_t kind, uint8_t flags, uint64_t id, const void *payload, size_t bytes)
{
    peer_say(&scene.producer, kind, flags, id, payload, bytes);
}

static void say_some(struct feed *f, bool plain)
{
    uint8_t payload[RING_BYTES / 4] = {0};
    uint8_t kind = plain ? BELFRY_REQUEST : feed_8(f) % (BELFRY_BYE + 3), flags = plain ? 0 : feed_8(f) & 3;
    uint64_t id = feed_8(f);
    size_t bytes = feed_8(f) * (size_t)(feed_8(f) % 4 + 1) % (ring_payload_max(RING_BYTES) + 1);
    feed_copy(f, payload, bytes < 24 ? bytes : 24);
    say(kind, flags, id, payload, bytes);
}

static void say_first_part(struct feed *f)
{
    uint64_t block[EXTENSION_BYTES_MAX / 8 + RING_BYTES / 8] = {0};
    uint8_t scale = feed_8(f);
    struct extension x = {.deadline_ns = feed_8(f),
                          .whole_bytes = (uint64_t)feed_16(f) << scale % 20,
                          .whole_kind = scale & 128 ? BELFRY_ONE_WAY : BELFRY_REQUEST};
    size_t more = feed_16(f) % (RING_BYTES / 4 - 80);
    extension_write(block, &x);
    say(BELFRY_PART, BELFRY_FLAG_EXTENDED, scene.whole_id = feed_8(f), block, extension_bytes(&x) + more);
}

static void say_later_part(struct feed *f)
{
    static const uint8_t some[RING_BYTES / 4];
    say(BELFRY_PART, 0, scene.whole_id, some, feed_16(f) % (ring_payload_max(RING_BYTES) + 1));
}

/* What the server says is well-formed, whatever its client does with its own segment. */
static void read_replies(void)
{
    struct ring_entry e;
    loads_pause();
    while (ring_peek(&scene.consumer, &e) > 0) {
        demand(e.kind == BELFRY_REPLY || e.kind == BELFRY_FAILURE || e.kind == BELFRY_PUSH || e.kind == BELFRY_PART ||
               e.kind == BELFRY_CANCEL);
        ring_advance(&scene.consumer, &e);
    }
    ring_publish(&scene.consumer);
    loads_resume();
}

/* --- the turns --------------------------------------------------------------------------------------------------------- */

static void check_positions(const belfry_conn *conn, uint64_t before)
{
    const struct ring_consumer_local *in = &conn->in;
    const struct ring_producer_local *out = &conn->out;
    demand(in->position % BELFRY_ENTRY_ALIGN == 0 && in->position >= before);
    demand(in->position - before <= 6 * RING_BYTES); /* sixteen entries, and the pads between them */
    demand(in->published <= in->position && in->position - in->published <= RING_BYTES);
    demand(scene.recv->consumed == in->published);
    demand(out->position - out->consumed <= RING_BYTES && out->consumed <= out->position);
    demand(conn->whole.parts.have <= conn->whole.parts.bytes);
    demand(conn->ticket_count <= TICKETS);
    demand(scene.server.whole_bytes == conn->whole.charged || scene.populate_count > 0); /* of what was dropped, too */
    demand(conn->halted != 0 || outbox_is_empty(&conn->outbox) || conn->dying != BELFRY_END_NONE);
}

/* What shard.c does after its turn's fence. */
static void flush(void)
{
    struct bf_shard *s = &scene.shard;
    if (s->touched_count > 0 && scene.slot.phase == SLOT_OPEN) {
        bf_shard_ring(s, bf_shard_bell_of(s, &scene.slot));
        scene.slot.conn->committed = scene.slot.conn->in.has_published = false;
    }
    scene.slot.touched = false;
    s->touched_count = 0;
}

static void turn(void)
{
    belfry_conn *conn = scene.slot.conn;
    uint64_t before = conn->in.position;
    loads_turn();
    int rc = bf_conn_turn(conn);
    loads_rest();
    check_positions(conn, before);
    if (rc < 0) {
        loads_watch(NULL);
        bf_listener_end(&scene.shard, &scene.slot, (enum belfry_end) - rc);
    }
    flush();
}

static void take_step(struct feed *f)
{
    belfry_conn *conn = scene.slot.conn;
    switch ((enum step)(feed_8(f) % STEPS)) {
    case STEP_TURN:
    case STEP_TURN_TOO:
        turn();
        break;
    case STEP_SAY:
        say_some(f, false);
        break;
    case STEP_SAY_PLAIN:
        say_some(f, true);
        break;
    case STEP_FIRST_PART:
        say_first_part(f);
        break;
    case STEP_LATER_PART:
        say_later_part(f);
        break;
    case STEP_LIE:
        peer_lie(f, scene.send, &scene.slot.conn->in, 256);
        break;
    case STEP_WRITE:
        peer_write_anywhere(f, scene.send, SEGMENT_HEADER_BYTES + RING_BYTES);
        break;
    case STEP_READ_REPLIES:
        read_replies();
        break;
    case STEP_CLAIM_TO_HAVE_READ:
        scene.send->consumed = feed_64(f);
        break;
    case STEP_LOOK:
        loads_turn();
        bf_conn_has_work(conn);
        loads_rest();
        break;
    case STEP_PAGES:
        complete_populate(feed_8(f) < 200 ? 0 : -ENOMEM);
        break;
    case STEP_COMPLETE:
        complete(f, feed_8(f) & 1);
        break;
    case STEP_DRAIN:
        conn->draining = true;
        conn->drain_from = conn->in.position;
        break;
    case STEP_DIE:
        conn->dying = BELFRY_END_DIED;
        conn->dying_from = conn->in.position;
        break;
    case STEP_PUSH:
        belfry_push(conn, "push", 4);
        break;
    case STEPS:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct feed spoils, feed = feed_split(data, bytes, &spoils);
    open_scene(feed_8(&feed));
    scene.feed = feed;
    loads_begin(&spoils);
    loads_open(scene.send, SEGMENT_HEADER_BYTES + RING_BYTES);
    loads_watch(&scene.slot.conn->in);
    for (int i = 0; i < STEPS_MAX && scene.slot.phase == SLOT_OPEN && !feed_is_empty(&scene.feed); i++)
        take_step(&scene.feed);
    if (scene.slot.phase == SLOT_OPEN)
        turn();
    loads_watch(NULL);
    loads_begin(&(struct feed){NULL, NULL});
    close_scene();
    return 0;
}

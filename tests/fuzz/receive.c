/* SPDX-License-Identifier: MIT */
/*
 * receive.c: a client receives from a server that may write anything into its segment and its lobby, at any moment.
 *
 * The client is put together by hand, over two segments in the heap and a real lobby. The input says what the program does
 * with it and what the server writes; while the client sleeps, the server goes on. Time is the test's own, so nothing waits.
 */
#include <errno.h>
#include <stddef.h>

#include "client/kept.h"
#include "peer.h"
#include "root.h"
#include "shm/place.h"

#define RING_BYTES 4096u
#define MESSAGE_BYTES_MAX 65536u
#define HELD 12u
#define STEPS_MAX 400
#define HOUR_NS 3600000000000ll
#define SLOT 1u

enum step {
    STEP_RECEIVE,
    STEP_RECEIVE_TOO, /* the most frequent one */
    STEP_CALL,
    STEP_SEND,
    STEP_SEND_PARTS,
    STEP_AWAIT,
    STEP_CANCEL,
    STEP_RELEASE,
    STEP_FLUSH,
    STEP_NEVER_READ,
    CLIENT_STEPS,
    STEP_SAY = CLIENT_STEPS,
    STEP_SAY_REPLY,
    STEP_FAIL,
    STEP_FIRST_PART,
    STEP_LATER_PART,
    STEP_LIE,
    STEP_FLOOD,
    STEP_WRITE,
    STEP_WRITE_LOBBY,
    STEP_READ,
    STEP_CLAIM_TO_HAVE_READ,
    STEP_END,
    STEPS,
};

static struct bf_lobby lobby;
static const struct feed nothing;

static struct {
    struct feed feed;
    belfry_client *c;
    struct belfry_abi_send *send;
    struct belfry_abi_recv *recv;
    struct ring_producer_local producer; /* the server's, as long as it behaves */
    struct ring_consumer_local consumer;
    uint64_t part_id;
    belfry_message held[HELD];
    unsigned held_count;
    int64_t now_ns;
    unsigned looks; /* at the clock, in this step */
    bool dead;      /* the lobby's lock is free */
} scene;

static void take_server_step(struct feed *f, enum step step);

/* --- what is not there: the clock, the kernel, files -------------------------------------------------------------------- */

int64_t __wrap_bf_os_now_ns(void);
int __wrap_bf_os_wait(const struct bf_os_wait *waits, unsigned count, int64_t deadline_ns);
void __wrap_bf_os_wake(const uint32_t *word);
int __wrap_bf_os_locked(int fd);
int __real_bf_os_unmap(void *at, size_t bytes);
int __wrap_bf_os_unmap(void *at, size_t bytes);

/* A look at it takes a microsecond, and longer the more there were: so the end of an hour is within reach of one who polls. */
int64_t __wrap_bf_os_now_ns(void)
{
    unsigned doublings = scene.looks++ / 4;
    demand(scene.looks < 4096); /* the hour has been over for long, and the call goes on */
    return scene.now_ns += 1000ll << (doublings < 32 ? doublings : 32);
}

/* The server goes on meanwhile. When the input is at its end, it is dead. */
int __wrap_bf_os_wait(const struct bf_os_wait *waits, unsigned count, int64_t deadline_ns)
{
    struct feed *f = &scene.feed;
    demand(count > 0 && count <= BF_OS_WAITS_MAX && waits != NULL);
    loads_pause();
    for (unsigned steps = feed_8(f) % 4; steps > 0; steps--)
        take_server_step(f, (enum step)(CLIENT_STEPS + feed_8(f) % (STEPS - CLIENT_STEPS)));
    loads_resume();
    int64_t until_ns = scene.now_ns + (feed_8(f) + 1) * 1000000ll;
    bool ends = feed_is_empty(f);
    scene.dead |= ends;
    scene.now_ns = ends || until_ns > deadline_ns ? deadline_ns : until_ns;
    return scene.now_ns == deadline_ns ? -ETIMEDOUT : 0;
}

void __wrap_bf_os_wake(const uint32_t *word)
{
    (void)word;
}

int __wrap_bf_os_locked(int fd)
{
    (void)fd;
    return !scene.dead;
}

int __wrap_bf_os_unmap(void *at, size_t bytes)
{
    if (at != scene.send && at != scene.recv)
        return __real_bf_os_unmap(at, bytes);
    free(at);
    return 0;
}

/* --- the scene --------------------------------------------------------------------------------------------------------- */

static void detach_lobby(void)
{
    bf_lobby_detach(&lobby);
}

static void make_lobby(void)
{
    struct bf_geometry g = {.service = "fuzz",
                            .instance = 7,
                            .uid = bf_os_uid(),
                            .shards = 1,
                            .max_slots = 2,
                            .slots_per_shard = 2,
                            .ring_bytes = RING_BYTES,
                            .message_bytes_max = MESSAGE_BYTES_MAX};
    if (!make_root())
        return;
    demand(bf_lobby_create(&lobby, dir, &g) == 0);
    bf_lobby_publish(&lobby);
    atexit(detach_lobby);
}

/* As connect.c does. */
static belfry_client *client_new(void)
{
    belfry_client *c;
    demand(posix_memalign((void **)&c, 64, sizeof *c) == 0);
    *c = (struct belfry_client){.lock_fd = -1, .next_id = 1, .slot = SLOT, .send = scene.send, .recv = scene.recv};
    c->held = c->held_few;
    c->held_capacity = CLIENT_HELD_FEW;
    demand(bf_client_lobby_attach(&c->shared, dir, false) == 0);
    c->lobby_slot = lobby_slot(&c->shared->lobby, SLOT);
    c->shard = lobby_shard(&c->shared->lobby, 0);
    c->open_state = BELFRY_SLOT_STATE(0, BELFRY_SLOT_OPEN);
    c->in_place_end = ring_payload_max(RING_BYTES) + 1;
    bf_spin_init(&c->spin, BELFRY_SPIN_POWER);
    ring_producer_init(&c->out, (uint8_t *)c->send + SEGMENT_HEADER_BYTES, RING_BYTES,
                       segment_colour(SLOT, SEGMENT_SEND), &c->recv->consumed);
    ring_consumer_init(&c->in, (const uint8_t *)c->recv + SEGMENT_HEADER_BYTES, RING_BYTES,
                       segment_colour(SLOT, SEGMENT_RECV), &c->send->consumed);
    return c;
}

static void open_scene(void)
{
    make_lobby();
    memset(&scene, 0, sizeof scene);
    memset(lobby_shard(&lobby, 0), 0, sizeof(struct belfry_abi_shard));
    *lobby_slot(&lobby, SLOT) = (struct belfry_abi_slot){.state = BELFRY_SLOT_STATE(0, BELFRY_SLOT_OPEN)};
    lobby_shard(&lobby, 0)->obituary = 0x80000001;
    scene.now_ns = 1000000000;
    scene.send = peer_segment(SEGMENT_HEADER_BYTES + RING_BYTES);
    scene.recv = peer_segment(SEGMENT_HEADER_BYTES + RING_BYTES);
    scene.recv->accepted = scene.recv->bell = 1;
    scene.c = client_new();
    ring_producer_init(&scene.producer, (uint8_t *)scene.recv + SEGMENT_HEADER_BYTES, RING_BYTES,
                       segment_colour(SLOT, SEGMENT_RECV), &scene.send->consumed);
    ring_consumer_init(&scene.consumer, (const uint8_t *)scene.send + SEGMENT_HEADER_BYTES, RING_BYTES,
                       segment_colour(SLOT, SEGMENT_SEND), &scene.recv->consumed);
}

/* --- the server -------------------------------------------------------------------------------------------------------- */

static void say(uint8_t kind, uint8_t flags, uint64_t id, const void *payload, size_t bytes)
{
    peer_say(&scene.producer, kind, flags, id, payload, bytes);
}

static void say_some(struct feed *f, bool reply)
{
    uint8_t payload[RING_BYTES / 4] = {0};
    uint8_t kind = reply ? BELFRY_REPLY : feed_8(f) % (BELFRY_BYE + 3), flags = feed_8(f) & (reply ? 2 : 3);
    uint64_t id = feed_8(f) % 8;
    size_t bytes = feed_8(f) * (size_t)(feed_8(f) % 4 + 1);
    feed_copy(f, payload, 16);
    say(kind, flags, id, payload, bytes % (ring_payload_max(RING_BYTES) + 1));
}

static void say_failure(struct feed *f)
{
    struct {
        int32_t status;
        char text[12];
    } failure = {.status = -(int32_t)feed_16(f), .text = "fuzz"};
    say(BELFRY_FAILURE, 0, feed_8(f) % 8, &failure, feed_8(f) % (sizeof failure + 1));
}

static void say_first_part(struct feed *f)
{
    uint64_t block[EXTENSION_BYTES_MAX / 8 + RING_BYTES / 8] = {0};
    uint8_t what = feed_8(f);
    struct extension x = {.whole_bytes = (uint64_t)feed_16(f) << (what & 64 ? 8 : 0),
                          .whole_kind = what % 12,
                          .whole_flags = what & 128 ? BELFRY_FLAG_MORE : 0};
    size_t more = feed_16(f) % (RING_BYTES / 4 - 80);
    extension_write(block, &x);
    say(BELFRY_PART, BELFRY_FLAG_EXTENDED, scene.part_id = feed_8(f) % 8, block, extension_bytes(&x) + more);
}

static void say_later_part(struct feed *f)
{
    static const uint8_t some[RING_BYTES / 4];
    say(BELFRY_PART, 0, scene.part_id, some, feed_16(f) % (ring_payload_max(RING_BYTES) + 1));
}

/* The whole ring is full of entries of one kind, round and round. */
static void flood(struct feed *f)
{
    uint8_t *ring = (uint8_t *)scene.recv + SEGMENT_HEADER_BYTES;
    struct belfry_abi_entry entry = {.kind = feed_8(f) % (BELFRY_BYE + 3), .flags = feed_8(f) & 3, .id = feed_8(f) % 8};
    uint32_t step = 16u << feed_8(f) % 7;
    entry.length = step;
    for (uint32_t at = 0; at < RING_BYTES; at += step)
        memcpy(ring + at, &entry, sizeof entry);
}

static void write_lobby(struct feed *f)
{
    struct belfry_abi_shard *shard = lobby_shard(&lobby, 0);
    struct belfry_abi_slot *slot = lobby_slot(&lobby, SLOT);
    switch (feed_8(f) % 4) {
    case 0:
        slot->state = feed_32(f);
        break;
    case 1:
        slot->parked = feed_32(f);
        break;
    case 2:
        shard->asleep = feed_32(f);
        break;
    default:
        shard->obituary = feed_8(f) & 1 ? BELFRY_OBITUARY_STOPPED : feed_32(f);
    }
}

/* What the client says is well-formed, whatever its server does. */
static void read_requests(void)
{
    struct ring_entry e;
    loads_pause();
    while (ring_peek(&scene.consumer, &e) > 0) {
        demand(e.kind == BELFRY_REQUEST || e.kind == BELFRY_ONE_WAY || e.kind == BELFRY_PART ||
               e.kind == BELFRY_CANCEL);
        ring_advance(&scene.consumer, &e);
    }
    ring_publish(&scene.consumer);
    loads_resume();
}

static void take_server_step(struct feed *f, enum step step)
{
    switch (step) {
    case STEP_SAY:
        say_some(f, false);
        break;
    case STEP_SAY_REPLY:
        say_some(f, true);
        break;
    case STEP_FAIL:
        say_failure(f);
        break;
    case STEP_FIRST_PART:
        say_first_part(f);
        break;
    case STEP_LATER_PART:
        say_later_part(f);
        break;
    case STEP_LIE:
        peer_lie(f, scene.recv, &scene.c->in, 8);
        break;
    case STEP_FLOOD:
        flood(f);
        break;
    case STEP_WRITE:
        peer_write_anywhere(f, scene.recv, SEGMENT_HEADER_BYTES + RING_BYTES);
        break;
    case STEP_WRITE_LOBBY:
        write_lobby(f);
        break;
    case STEP_READ:
        read_requests();
        break;
    case STEP_CLAIM_TO_HAVE_READ:
        scene.recv->consumed = feed_64(f);
        break;
    case STEP_END:
        scene.recv->end_status = (int32_t)feed_32(f);
        scene.recv->end = feed_8(f);
        break;
    default:
        break;
    }
}

/* --- the client -------------------------------------------------------------------------------------------------------- */

/* Is it a message that can be read from its first byte to its last, and says what it is? */
static void judge(const belfry_message *m)
{
    const uint8_t *at = m->data, *ring = scene.c->in.data;
    volatile uint8_t sum = 0;
    demand((m->status < 0) == (m->kind == BELFRY_FAILURE) && m->status <= 0);
    demand(m->kind == BELFRY_REPLY || m->kind == BELFRY_FAILURE || m->kind == BELFRY_PUSH);
    if (at >= ring && at < ring + RING_BYTES)
        demand(m->size <= ring_payload_max(RING_BYTES) && at + m->size <= ring + RING_BYTES);
    else
        demand(m->size <= MESSAGE_BYTES_MAX);
    loads_pause();
    for (size_t i = 0; i < m->size; i++)
        sum = (uint8_t)(sum + ((const volatile uint8_t *)at)[i]);
    loads_resume();
}

static void release(unsigned which)
{
    if (scene.held_count == 0)
        return;
    belfry_message *m = &scene.held[which % scene.held_count];
    belfry_release(scene.c, m);
    demand(m->data == NULL && m->cookie == 0);
    *m = scene.held[--scene.held_count];
}

static void keep(const belfry_message *m, bool keeps)
{
    judge(m);
    if (scene.held_count == HELD)
        release(0);
    scene.held[scene.held_count++] = *m;
    if (!keeps)
        release(scene.held_count - 1);
}

static int64_t deadline(struct feed *f)
{
    uint8_t how = feed_8(f);
    return how < 100 ? 0 : how < 240 ? scene.now_ns + how * 100000ll : scene.now_ns + HOUR_NS;
}

static void take_client_step(struct feed *f, enum step step)
{
    static const uint8_t some[MESSAGE_BYTES_MAX];
    belfry_client *c = scene.c;
    belfry_message m;
    uint64_t id;
    switch (step) {
    case STEP_RECEIVE:
    case STEP_RECEIVE_TOO:
        if (belfry_receive(c, &m, deadline(f)) == 0)
            keep(&m, feed_8(f) & 1);
        break;
    case STEP_CALL:
        if (belfry_call(c, some, feed_8(f) * (size_t)(feed_8(f) & 1 ? 64 : 1), &m, deadline(f)) == 0)
            keep(&m, feed_8(f) & 1);
        break;
    case STEP_SEND:
        belfry_send_until(c, some, feed_8(f), deadline(f), &id);
        break;
    case STEP_SEND_PARTS:
        belfry_send(c, some, feed_16(f), &id);
        break;
    case STEP_AWAIT:
        if (belfry_await(c, feed_8(f) % 8, &m, deadline(f)) == 0)
            keep(&m, feed_8(f) & 1);
        break;
    case STEP_CANCEL:
        belfry_cancel(c, feed_8(f) % 8);
        break;
    case STEP_RELEASE:
        release(feed_8(f));
        break;
    case STEP_FLUSH:
        belfry_flush(c, deadline(f));
        break;
    case STEP_NEVER_READ:
        belfry_client_never_read(c, feed_8(f) % 8);
        break;
    default:
        break;
    }
}

static void check_positions(uint64_t before)
{
    const struct belfry_client *c = scene.c;
    demand(c->in.position % BELFRY_ENTRY_ALIGN == 0 && c->in.position >= before);
    demand(c->held_first <= c->held_next && c->held_next - c->held_first <= c->held_capacity);
    demand(c->in.published <= c->in.position && scene.send->consumed == c->in.published);
    demand(c->out.consumed <= c->out.position && c->out.position - c->out.consumed <= RING_BYTES);
    demand(c->late_count >= c->unsaid_count);
    demand(c->large == NULL || !c->large->in.open || c->large->in.have <= c->large->in.bytes);
}

static void take_step(struct feed *f)
{
    enum step step = (enum step)(feed_8(f) % STEPS);
    if (step >= CLIENT_STEPS) {
        take_server_step(f, step);
        return;
    }
    uint64_t before = scene.c->in.position;
    scene.looks = 0;
    loads_turn();
    take_client_step(f, step);
    loads_rest();
    check_positions(before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct feed spoils, feed = feed_split(data, bytes, &spoils);
    open_scene();
    scene.feed = feed;
    loads_begin(&spoils);
    loads_open(scene.recv, SEGMENT_HEADER_BYTES + RING_BYTES);
    loads_watch(&scene.c->in);
    for (int i = 0; i < STEPS_MAX && !feed_is_empty(&scene.feed); i++)
        take_step(&scene.feed);
    loads_watch(NULL);
    loads_begin(&nothing);
    while (scene.held_count > 1) /* the last is freed by whoever closes */
        release(0);
    belfry_close(scene.c);
    return 0;
}

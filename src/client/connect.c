/* SPDX-License-Identifier: MIT */
/* connect.c: belfry_connect and belfry_close, and what a fork does to a handle. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/block.h"
#include "base/build.h"
#include "base/check.h"
#include "base/error.h"
#include "base/os.h"
#include "client/reconnect.h"
#include "shm/place.h"

#define CONNECT_NS 5000000000ll
#define STALE_PAUSE_NS 1000000ll
#define STALE_TRIES 50
#define CACHE_LINE 64

/* --- fork ---------------------------------------------------------------------------------------------------------- */

static pthread_mutex_t forked_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t forked_once = PTHREAD_ONCE_INIT;
static struct belfry_client *forked_list;
uint32_t bf_client_fork_generation;

static void before_fork(void)
{
    pthread_mutex_lock(&forked_mutex);
    bf_client_lobby_before_fork();
}

static void after_fork_in_parent(void)
{
    bf_client_lobby_after_fork(false);
    pthread_mutex_unlock(&forked_mutex);
}

/* The child must not hold the slot's lock, else the parent's death would go unnoticed. */
static void after_fork_in_child(void)
{
    bf_client_fork_generation++;
    for (struct belfry_client *c = forked_list; c != NULL; c = c->next_forked) {
        bf_os_close(c->lock_fd);
        c->lock_fd = -1;
    }
    forked_list = NULL;
    bf_client_lobby_after_fork(true);
    pthread_mutex_unlock(&forked_mutex);
}

static void register_atfork(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static void watch_forks(struct belfry_client *c)
{
    pthread_mutex_lock(&forked_mutex);
    c->fork_generation = bf_client_fork_generation;
    c->next_forked = forked_list;
    forked_list = c;
    pthread_mutex_unlock(&forked_mutex);
}

static void forget_forks(struct belfry_client *c)
{
    pthread_mutex_lock(&forked_mutex);
    for (struct belfry_client **at = &forked_list; *at != NULL; at = &(*at)->next_forked)
        if (*at == c) {
            *at = c->next_forked;
            break;
        }
    pthread_mutex_unlock(&forked_mutex);
}

int bf_client_forked(void)
{
    return bf_error(BELFRY_EFORKED, "this connection was made before a fork: connect again in the child");
}

/* --- connect ------------------------------------------------------------------------------------------------------- */

void belfry_client_options_init(belfry_client_options *o, size_t size)
{
    const belfry_client_options defaults = {
        .size = size,
        .spin = BELFRY_SPIN_DEFAULT,
        .atfork = true,
        .reconnect = {.first_ms = 5, .max_ms = 1000, .jitter_percent = 50, .replays_max = 3}};
    memset(o, 0, size);
    memcpy(o, &defaults, bf_min(size, sizeof defaults));
}

static void start_rings(struct belfry_client *c)
{
    uint32_t ring_bytes = c->shared->lobby.geometry.ring_bytes;
    c->in_place_end = (uint32_t)bf_min(ring_payload_max(ring_bytes), c->shared->lobby.geometry.message_bytes_max) + 1;
    uint8_t *out = (uint8_t *)c->send + SEGMENT_HEADER_BYTES;
    const uint8_t *in = (const uint8_t *)c->recv + SEGMENT_HEADER_BYTES;
    ring_producer_init(&c->out, out, ring_bytes, segment_colour(c->slot, SEGMENT_SEND), &c->recv->consumed);
    ring_consumer_init(&c->in, in, ring_bytes, segment_colour(c->slot, SEGMENT_RECV), &c->send->consumed);
    bf_client_tell(c, true); /* hello is news, as a committed entry is */
}

/* Attach to the instance that `current` names. 0; -ESTALE: it changed under our eyes; or a code. */
static int attach(struct belfry_client *c, const struct bf_place *place, int service_dir, int64_t deadline_ns)
{
    char name[32];
    uint64_t current = bf_place_current(service_dir);
    if (current == 0)
        return bf_error(BELFRY_ENOSERVICE, "nobody serves \"%s\" in %s: start the server", place->service, place->root);
    snprintf(name, sizeof name, "%" PRIu64, current);
    int dir = bf_os_enter_dir(service_dir, name);
    if (dir < 0)
        return dir == -ENOENT ? -ESTALE
                              : bf_error_errno(dir, "cannot open instance %s of \"%s\"", name, place->service);
    int rc = bf_client_lobby_attach(&c->shared, dir, c->atfork);
    if (rc == BELFRY_ENOSERVICE)
        rc = -ESTALE;
    if (rc == 0 && !bf_lobby_is_alive(&c->shared->lobby))
        rc = bf_error(BELFRY_ENOSERVICE, "the server of \"%s\" (pid %u) is dead: start it again", place->service,
                      c->shared->lobby.geometry.pid);
    if (rc == 0)
        rc = bf_client_claim(c, dir, deadline_ns);
    bf_os_close(dir);
    if (rc < 0 && c->shared != NULL) {
        bf_client_lobby_detach(c->shared);
        c->shared = NULL;
    }
    return rc;
}

static int attach_to_current(struct belfry_client *c, const struct bf_place *place, int64_t deadline_ns, int tries_max)
{
    int service_dir = bf_place_enter(place);
    if (service_dir < 0)
        return service_dir;
    int rc = -ESTALE;
    for (int tries = 0; rc == -ESTALE && tries < tries_max; tries++) {
        if (tries > 0) { /* a server is being replaced: its successor is about to be current */
            uint32_t never = 0;
            struct bf_os_wait pause = {&never, 0};
            bf_os_wait(&pause, 1, bf_os_now_ns() + STALE_PAUSE_NS);
        }
        rc = attach(c, place, service_dir, deadline_ns);
    }
    bf_os_close(service_dir);
    if (rc == -ESTALE)
        rc = bf_error(BELFRY_ENOSERVICE, "the server of \"%s\" takes no more clients: it is stopping, or gone",
                      place->service);
    return rc;
}

/* At the start of a cache line, so that what a message touches is no line more than it must be. */
static struct belfry_client *client_new(void)
{
    struct belfry_client *c;
    if (posix_memalign((void **)&c, CACHE_LINE, sizeof *c) != 0)
        return NULL;
    *c = (struct belfry_client){.lock_fd = -1, .next_id = 1};
    c->held = c->held_few;
    c->held_capacity = CLIENT_HELD_FEW;
    return c;
}

int bf_client_attach(struct belfry_client **out, const struct bf_place *place, const belfry_client_options *o,
                     int64_t deadline_ns, int tries)
{
    struct belfry_client *c = client_new();
    *out = NULL;
    if (c == NULL)
        return bf_error(-ENOMEM, "no memory for a connection");
    c->atfork = o->atfork;
    pthread_once(&forked_once, register_atfork); /* also for who ignores forks: a child must not inherit a held mutex */
    bf_spin_init(&c->spin, o->spin);
    if (c->atfork)
        watch_forks(c);
    int rc = attach_to_current(c, place, deadline_ns, tries);
    if (rc < 0) {
        forget_forks(c);
        free(c);
        return rc;
    }
    start_rings(c);
    *out = c;
    return 0;
}

int belfry_connect(belfry_client **out, const char *service, const belfry_client_options *o)
{
    belfry_client_options options;
    struct bf_place place;
    *out = NULL;
    belfry_client_options_init(&options, sizeof options);
    if (o != NULL) {
        if (o->size < offsetof(belfry_client_options, spin))
            return bf_error(BELFRY_EOPTION, "options.size is not set: call belfry_client_options_init() first");
        memcpy(&options, o, bf_min(o->size, sizeof options));
    }
    if (options.spin == BELFRY_SPIN_DEFAULT)
        options.spin = BF_DEFAULT_SPIN;
    if ((unsigned)options.spin > BELFRY_SPIN_LATENCY)
        return bf_error(BELFRY_EOPTION, "spin is %u: it must be one of enum belfry_spin", (unsigned)options.spin);
    int64_t deadline_ns = options.deadline_ns != 0 ? options.deadline_ns : bf_os_now_ns() + CONNECT_NS;

    int rc = bf_reconnect_check(&options.reconnect);
    if (rc == 0)
        rc = bf_place_init(&place, service, options.root);
    if (rc < 0)
        return rc;
    rc = bf_client_attach(out, &place, &options, deadline_ns, STALE_TRIES);
    if (rc == 0 && (rc = bf_reconnect_init(*out, &place, &options)) < 0) {
        belfry_close(*out);
        *out = NULL;
    }
    return rc;
}

/* --- another connection ---------------------------------------------------------------------------------------------- */

static void unmap_segments(struct belfry_client *c)
{
    uint64_t bytes = segment_bytes(c->shared->lobby.geometry.ring_bytes);
    bf_os_unmap(c->send, bytes);
    bf_os_unmap((void *)c->recv, bytes);
}

void bf_client_adopt(struct belfry_client *c, struct belfry_client *fresh, bool unmap)
{
    if (unmap)
        unmap_segments(c);
    bf_client_lobby_detach(c->shared);
    c->send = fresh->send;
    c->recv = fresh->recv;
    c->lobby_slot = fresh->lobby_slot;
    c->shard = fresh->shard;
    c->open_state = fresh->open_state;
    c->in_place_end = fresh->in_place_end;
    c->out = fresh->out;
    c->in = fresh->in;
    c->shared = fresh->shared;
    c->slot = fresh->slot;
    c->generation = fresh->generation;
    c->slice = 0;
    c->read_all_at = 0;
    c->end_rc = 0;
    c->server_dead = false;
    pthread_mutex_lock(&forked_mutex); /* a child that is forked now closes the lock, whoever holds it */
    c->lock_fd = fresh->lock_fd;
    fresh->lock_fd = -1;
    pthread_mutex_unlock(&forked_mutex);
    if (fresh->atfork)
        forget_forks(fresh);
    free(fresh);
}

void bf_client_close_lock(struct belfry_client *c)
{
    pthread_mutex_lock(&forked_mutex);
    bf_os_close(c->lock_fd);
    c->lock_fd = -1;
    pthread_mutex_unlock(&forked_mutex);
}

/* --- close --------------------------------------------------------------------------------------------------------- */

/* Two goodbyes: one in its place behind the last message, one that needs no room. */
static void say_goodbye(struct belfry_client *c)
{
    void *data;
    ring_abort(&c->out);
    store_relaxed(&c->send->hello, BELFRY_GOODBYE);
    if (ring_reserve(&c->out, 0, &data) == 0)
        ring_commit(&c->out, BELFRY_BYE, 0, 0, 0);
    bf_client_tell(c, true); /* also what a poller kept back */
}

static void stash_free(struct client_stashed *stashed)
{
    while (stashed != NULL) {
        struct client_stashed *next = stashed->next;
        bf_block_free(stashed);
        stashed = next;
    }
}

void belfry_close(belfry_client *c)
{
    if (c == NULL)
        return;
    bool usable = client_check(c) == 0; /* after a fork the maps are the parent's alone, the descriptors closed */
    if (c->poller != NULL)
        belfry_poller_remove(c->poller, c);
    bf_lookout_close(c->lookout); /* before what it reads is unmapped */
    if (usable) {
        if (!client_is_lost(c))
            say_goodbye(c);
        if (c->atfork)
            forget_forks(c);
        unmap_segments(c);
        bf_os_close(c->lock_fd);
        bf_client_lobby_detach(c->shared);
    }
    stash_free(c->stash_first);
    stash_free(c->stash_out);
    bf_reconnect_free(c, usable);
    bf_large_free(c);
    if (c->held != c->held_few)
        free(c->held);
    free(c->late);
    free(c);
}

/* --- what a client can be asked ------------------------------------------------------------------------------------ */

size_t belfry_message_bytes_max(const belfry_client *c)
{
    return c->shared->lobby.geometry.message_bytes_max;
}

uint32_t belfry_client_slot(const belfry_client *c)
{
    return c->slot;
}

uint32_t belfry_client_shard(const belfry_client *c)
{
    return c->slot % c->shared->lobby.geometry.shards;
}

uint64_t belfry_client_rescued_wakes(const belfry_client *c)
{
    return c->rescues;
}

uint64_t belfry_client_instance(const belfry_client *c)
{
    return c->shared->lobby.geometry.instance;
}

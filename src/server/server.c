/* SPDX-License-Identifier: MIT */
/*
 * server.c: create, start, wait, stop, destroy: the life of a server around its shards.
 *
 * Start holds the service's start lock from the making of the instance to the swing of `current`, so servers of one
 * name start one after the other. The shards do everything else; this thread only waits for them to end.
 */
#include "server/server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/order.h"
#include "base/os.h"
#include "server/guard.h"
#include "server/lost.h"

/* --- fork: a child must not keep a dead server alive --------------------------------------------------------------- */

static pthread_mutex_t forked_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t forked_once = PTHREAD_ONCE_INIT;
static struct belfry_server *forked_list;

static void before_fork(void)
{
    pthread_mutex_lock(&forked_mutex);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&forked_mutex);
}

/* A lock belongs to the open file: it is free only when the child has closed its copy, too. */
static void after_fork_in_child(void)
{
    for (struct belfry_server *s = forked_list; s != NULL; s = s->next_forked) {
        bf_os_close(s->lobby.fd);
        bf_os_close(s->instance.start_lock);
        s->lobby.fd = s->instance.start_lock = -1;
        s->started = false; /* its threads, its files and its clients are the parent's */
    }
    forked_list = NULL;
    pthread_mutex_unlock(&forked_mutex);
}

static void register_atfork(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

static void watch_forks(struct belfry_server *s)
{
    if (!s->options.atfork)
        return;
    pthread_once(&forked_once, register_atfork);
    pthread_mutex_lock(&forked_mutex);
    s->next_forked = forked_list;
    forked_list = s;
    pthread_mutex_unlock(&forked_mutex);
}

static void forget_forks(struct belfry_server *s)
{
    pthread_mutex_lock(&forked_mutex);
    for (struct belfry_server **at = &forked_list; *at != NULL; at = &(*at)->next_forked)
        if (*at == s) {
            *at = s->next_forked;
            break;
        }
    pthread_mutex_unlock(&forked_mutex);
}

/* --- stop signals -------------------------------------------------------------------------------------------------- */

static struct belfry_server *signalled; /* the one server that said stop_signals */
static void (*before_sigint)(int), (*before_sigterm)(int);

static void on_stop_signal(int number)
{
    struct belfry_server *s = load_acquire(&signalled);
    (void)number;
    if (s != NULL)
        belfry_server_stop(s);
}

static int take_signals(struct belfry_server *s)
{
    struct belfry_server *nobody = NULL;
    if (!s->options.stop_signals)
        return 0;
    if (!__atomic_compare_exchange_n(&signalled, &nobody, s, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) && nobody != s)
        return bf_error(BELFRY_EOPTION, "stop_signals: another server of this process takes the signals already");
    int rc = bf_os_on_signal(SIGINT, on_stop_signal, &before_sigint);
    if (rc == 0)
        rc = bf_os_on_signal(SIGTERM, on_stop_signal, &before_sigterm);
    return rc < 0 ? bf_error_errno(rc, "cannot take SIGINT and SIGTERM") : 0;
}

static void drop_signals(struct belfry_server *s)
{
    if (load_relaxed(&signalled) != s)
        return;
    bf_os_on_signal(SIGINT, before_sigint, NULL);
    bf_os_on_signal(SIGTERM, before_sigterm, NULL);
    store_release(&signalled, NULL);
}

/* --- create and destroy --------------------------------------------------------------------------------------------- */

int belfry_server_create(belfry_server **out, const belfry_server_options *o)
{
    *out = NULL;
    belfry_server_options resolved;
    struct bf_place place;
    int rc = bf_options_resolve(&resolved, o);
    if (rc == 0 && resolved.service != NULL && strchr(resolved.service, ':') != NULL)
        rc = bf_error(BELFRY_ENAME, "\"%s\": a server serves under its own user's name only", resolved.service);
    if (rc == 0)
        rc = bf_place_init(&place, resolved.service, resolved.root);
    if (rc < 0)
        return rc;

    struct belfry_server *s = calloc(1, sizeof *s);
    struct bf_shard *shards = calloc(resolved.shards, sizeof *shards);
    if (s == NULL || shards == NULL) {
        free(s);
        free(shards);
        return bf_error(-ENOMEM, "no memory for a server with %u shards", resolved.shards);
    }
    s->options = resolved;
    s->place = place;
    s->options.service = s->place.service;
    s->options.root = s->place.root;
    s->log = (struct bf_log){.callback = resolved.on_log, .user = resolved.user};
    memcpy(s->log.service, place.service, sizeof s->log.service);
    s->instance = BF_INSTANCE_NULL;
    s->lobby = BF_LOBBY_NULL;
    s->shards = shards;
    s->shard_count = resolved.shards;
    for (uint32_t i = 0; i < s->shard_count; i++)
        bf_mailbox_close(&s->shards[i].mailbox);
    for (uint32_t i = 0; i < s->shard_count; i++)
        s->shards[i].event_fd = -1;
    bf_quota_init(&s->quota, &resolved);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->reported, NULL);
    *out = s;
    return 0;
}

void belfry_server_destroy(belfry_server *s)
{
    if (s == NULL)
        return;
    if (s->started) {
        belfry_server_stop(s);
        if (belfry_server_wait(s) < 0) /* own_loop, and not its thread: better kept than freed under a shard */
            return;
    }
    bf_own_loop_end(s); /* of a forked child */
    pthread_cond_destroy(&s->reported);
    pthread_mutex_destroy(&s->mutex);
    for (uint32_t i = 0; i < s->shard_count; i++)
        bf_tickets_destroy(&s->shards[i].tickets);
    bf_quota_deinit(&s->quota);
    free(s->shards);
    free(s);
}

/* --- start ---------------------------------------------------------------------------------------------------------- */

void bf_server_report(struct belfry_server *s, struct bf_shard *shard, int rc, const char *error)
{
    pthread_mutex_lock(&s->mutex);
    shard->start_rc = rc;
    snprintf(shard->start_error, sizeof shard->start_error, "%s", error);
    shard->reported = true;
    pthread_cond_broadcast(&s->reported);
    pthread_mutex_unlock(&s->mutex);
}

static void choose_processors(struct belfry_server *s)
{
    uint32_t cpus[1024];
    int count = s->options.pin && !s->options.own_loop ? bf_min(bf_os_cpus(cpus, 1024), 1024) : 0;
    for (uint32_t i = 0; i < s->shard_count; i++)
        s->shards[i].cpu = count > 0 ? cpus[i % (uint32_t)count] : UINT32_MAX;
}

/* Start every thread, then hear from every one. The first failure is the server's. */
static int start_shards(struct belfry_server *s)
{
    int rc = 0;
    choose_processors(s);
    if (s->options.own_loop)
        return bf_own_loop_start(s);
    for (uint32_t i = 0; i < s->shard_count && rc == 0; i++) {
        uint32_t cpu = s->shards[i].cpu;
        bf_shard_init(&s->shards[i], s, i, cpu);
        rc = -pthread_create(&s->shards[i].thread, NULL, bf_shard_main, &s->shards[i]);
        if (rc < 0)
            bf_error_errno(rc, "cannot start the thread of shard %u: raise RLIMIT_NPROC", i);
        s->shards[i].thread_started = rc == 0;
    }
    pthread_mutex_lock(&s->mutex);
    for (uint32_t i = 0; i < s->shard_count; i++) {
        struct bf_shard *shard = &s->shards[i];
        while (shard->thread_started && !shard->reported)
            pthread_cond_wait(&s->reported, &s->mutex);
        if (rc == 0 && shard->start_rc < 0)
            rc = bf_error(shard->start_rc, "%s", shard->start_error);
    }
    pthread_mutex_unlock(&s->mutex);
    return rc;
}

static void join_shards(struct belfry_server *s)
{
    for (uint32_t i = 0; i < s->shard_count; i++)
        if (s->shards[i].thread_started) {
            pthread_join(s->shards[i].thread, NULL);
            s->shards[i].thread_started = false;
        }
}

static int make_lobby(struct belfry_server *s)
{
    struct bf_geometry g = {
        .instance = s->instance.number,
        .started_ns = (uint64_t)bf_os_now_ns(),
        .pid = bf_os_pid(),
        .uid = bf_os_uid(),
        .shards = s->shard_count,
        .max_slots = s->options.max_slots,
        .slots_per_shard = s->options.max_slots / s->shard_count,
        .warm_pool = s->options.warm_pool,
        .ring_bytes = s->options.ring_bytes,
        .message_bytes_max = s->options.message_bytes_max,
    };
    memcpy(g.service, s->place.service, sizeof g.service);
    int rc = bf_lobby_create(&s->lobby, s->instance.dir, &g);
    if (rc == 0 && s->options.atfork)
        bf_os_no_fork(s->lobby.map, s->lobby.bytes);
    if (rc == 0 && s->options.access != BELFRY_ACCESS_OWNER)
        rc = bf_lobby_share(&s->lobby);
    return rc;
}

/* Threads joined: nothing refers to these any more. */
static void close_files(struct belfry_server *s)
{
    bf_own_loop_end(s);
    drop_signals(s);
    forget_forks(s);
    bf_instance_remove(&s->instance);
    bf_lobby_detach(&s->lobby);
}

/* Undo a failed start without losing the sentence that says why. */
static int abandon(struct belfry_server *s, int rc)
{
    char error[512];
    snprintf(error, sizeof error, "%s", belfry_last_error());
    belfry_server_stop(s);
    if (s->options.own_loop)
        bf_own_loop_run(s);
    join_shards(s);
    close_files(s);
    store_relaxed(&s->stop_requested, false);
    store_relaxed(&s->drain_ns, 0);
    return bf_error(rc, "%s", error);
}

/* As the last call of belfry_drain() said. */
static void drain_shards(struct belfry_server *s)
{
    for (uint32_t i = 0; i < s->shard_count; i++)
        bf_shard_drain(&s->shards[i], load_acquire(&s->drain_ns));
}

int belfry_server_start(belfry_server *s)
{
    if (s->started)
        return bf_error(BELFRY_ESTATE, "the server \"%s\" has been started already", s->place.service);
    watch_forks(s);
    int rc = bf_instance_make(&s->instance, &s->place, (enum place_door)s->options.access, s->options.access_gid,
                              s->shard_count);
    if (rc < 0) {
        forget_forks(s);
        return rc;
    }
    rc = take_signals(s);
    if (rc == 0 && s->options.sigbus_guard)
        rc = bf_guard_start(&s->log);
    if (rc == 0)
        rc = make_lobby(s);
    if (rc == 0)
        rc = start_shards(s);
    if (rc == 0) {
        bf_lobby_publish(&s->lobby);
        rc = bf_instance_publish(&s->instance, &s->log);
    }
    if (rc < 0)
        return abandon(s, rc);
    s->started = true;
    if (load_acquire(&s->stop_requested)) /* asked while the shards were not there yet */
        belfry_server_stop(s);
    if (load_acquire(&s->drain_ns) != 0)
        drain_shards(s);
    return 0;
}

/* --- wait and stop -------------------------------------------------------------------------------------------------- */

int belfry_server_wait(belfry_server *s)
{
    if (!s->started)
        return bf_error(BELFRY_ESTATE, "the server \"%s\" is not running", s->place.service);
    int rc = s->options.own_loop ? bf_own_loop_run(s) : 0;
    if (rc < 0)
        return rc;
    bf_lost_wait(s);
    join_shards(s);
    close_files(s);
    s->started = false;
    store_relaxed(&s->stop_requested, false);
    store_relaxed(&s->drain_ns, 0);
    return 0;
}

int belfry_server_run(belfry_server *s)
{
    int rc = belfry_server_start(s);
    return rc < 0 ? rc : belfry_server_wait(s);
}

void belfry_server_stop(belfry_server *s)
{
    store_release(&s->stop_requested, true);
    for (uint32_t i = 0; i < s->shard_count; i++)
        bf_shard_stop(&s->shards[i]);
}

int belfry_drain(belfry_server *s, int64_t deadline)
{
    bool runs = false;
    for (uint32_t i = 0; i < s->shard_count; i++) /* some may have drained already */
        runs |= load_acquire(&s->shards[i].mailbox.newest) != MAILBOX_CLOSED;
    if (!runs)
        return BELFRY_ESTATE; /* without a sentence: this may be a signal handler */
    store_release(&s->drain_ns,
                  bf_max(deadline, 1)); /* for shards that are not there yet; partner: belfry_server_start */
    drain_shards(s);
    return 0;
}

uint64_t belfry_server_instance(const belfry_server *s)
{
    return s->instance.number;
}

/* SPDX-License-Identifier: MIT */
/* server.h (internal): the object behind belfry_server, and what shards need of it. */
#ifndef BF_SERVER_SERVER_H
#define BF_SERVER_SERVER_H

#include <pthread.h>

#include "base/log.h"
#include "server/instance.h"
#include "server/quota.h"
#include "server/shard.h"
#include "shm/lobby.h"
#include "shm/place.h"

struct belfry_server {
    belfry_server_options options; /* resolved: no zero that means "default" is left */
    struct bf_place place;
    struct bf_log log;

    struct bf_instance instance;
    struct bf_lobby lobby;

    struct bf_shard *shards;
    uint32_t shard_count;
    bool started;
    bool stop_requested;
    int64_t drain_ns; /* asked to drain until then; 0: not asked */
    struct bf_quota quota;
    uint64_t whole_bytes; /* memory of messages that are arriving in parts, of all shards; each adds and subtracts */

    pthread_mutex_t mutex; /* of the start-up handshake */
    pthread_cond_t reported;

    struct belfry_server *next_forked; /* the list that the atfork handler walks */
};

/* A shard's thread says how its start went; `error` is copied. */
void bf_server_report(struct belfry_server *s, struct bf_shard *shard, int rc, const char *error);

/* own_loop.c: start the only shard on this thread, which will run its turns; run what is left of them; let it go. */
int bf_own_loop_start(struct belfry_server *s);
int bf_own_loop_run(struct belfry_server *s);
void bf_own_loop_end(struct belfry_server *s);

/* own_loop.c: does the calling thread run the turns of this server? */
bool bf_own_loop_is_here(const struct belfry_server *s);

/* options.c: defaults of this build, and what can and cannot work. */
int bf_options_resolve(belfry_server_options *out, const belfry_server_options *in);

#endif

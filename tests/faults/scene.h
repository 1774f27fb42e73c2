/* SPDX-License-Identifier: MIT */
/*
 * scene.h: a server, a neighbour who only wants to be served, and what must hold when a call has failed.
 *
 * - A start fails with a code and a sentence and leaves nothing behind, and can be tried again; or it serves.
 * - While it serves: the neighbour's calls succeed; a client's end with a code, in time; what arrives is whole. Afterwards a new
 *   client connects and calls, and all slots are what they were.
 * - The server stops, and gives everything back. What it could not remove the next start does.
 */
#ifndef BF_TESTS_SCENE_H
#define BF_TESTS_SCENE_H

#include <belfry/belfry.h>

#include "faults.h"

#define SCENE_LARGE_BYTES 20000u
#define SCENE_SLOTS 8u
#define SCENE_SERVICE "scene"

/* What a client wants: the first byte of its message. */
enum scene_wish { SCENE_ECHO = 1, SCENE_PUSHES, SCENE_DEFER, SCENE_LARGE };
#define SCENE_PUSH_COUNT 12u
#define SCENE_PUSH_BYTES 900u

struct scene {
    belfry_server_options options;
    belfry_server *server;
    belfry_client *neighbour;
    belfry_client *client; /* the act's own, if any */
    int fds;

    /* the shard's thread writes these */
    bool open[SCENE_SLOTS];
    uint32_t alternated; /* on_connect or on_disconnect twice in a row */
    uint32_t torn;
    belfry_conn_id last;
    belfry_ticket ticket;
    uint32_t tickets;
};

/* An act: what is done before calls may fail, and what then. Either may be missing. */
struct scene_act {
    const char *name;
    void (*before)(struct scene *s);
    void (*run)(struct scene *s);
    uint32_t warm_pool;
    bool server_fails; /* its calls count, not the client's */
    bool starts;       /* calls may fail from the creation on; `run` is not called when it did not start */
    bool own_loop;
};

/* Play it with every failure. */
void scene_play(const struct scene_act *act);

/* --- for acts --- */

/* Until when an act waits: what lasts is not waited for. */
int64_t scene_deadline(void);

/* Connect, as a client whose calls fail if the act is about the client's. NULL and a code that may be. */
int scene_connect(struct scene *s, belfry_client **c);

/* Call and compare what comes. Never -ETIMEDOUT when the failure was a single one. */
int scene_call(struct scene *s, belfry_client *c, enum scene_wish wish, size_t bytes);
void scene_write(uint8_t *data, enum scene_wish wish, size_t bytes);
bool scene_is_whole(const void *data, size_t bytes);
void scene_close(struct scene *s, belfry_client **c);
void scene_neighbour(struct scene *s); /* is served */

/* The calling thread's, for the duration, if the act is about that side. */
extern bool scene_server_fails;
#define of_server(call) (scene_server_fails ? faulty(call) : (call))
#define of_client(call) (scene_server_fails ? (call) : faulty(call))

#endif

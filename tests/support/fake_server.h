/* SPDX-License-Identifier: MIT */
/*
 * fake_server.h: a server made by hand from shm/, without threads: it does nothing unless the test says so. So a test
 * of the client decides what is in the ring when, and in which order.
 */
#ifndef BF_TESTS_FAKE_SERVER_H
#define BF_TESTS_FAKE_SERVER_H

#include "fixture.h"
#include "shm/lobby.h"
#include "shm/ring.h"
#include "shm/segment.h"

#define FAKE_SERVICE "fake"
#define FAKE_SLOTS 4

struct fake_slot {
    struct belfry_abi_send *send; /* the real server maps it read-only */
    struct belfry_abi_recv *recv;
    struct belfry_abi_slot *lobby;
    struct ring_consumer_local in;
    struct ring_producer_local out;
};

struct fake_server {
    char root[FIXTURE_PATH_BYTES];
    char instance[FIXTURE_PATH_BYTES + 16];
    uint32_t number;
    struct bf_lobby lobby;
    struct fake_slot slots[FAKE_SLOTS];
};

/* Make everything that a client needs to find, with `warm` of the slots warm. */
void fake_open(struct fake_server *f, uint32_t warm);
void fake_open_for(struct fake_server *f, uint32_t warm, uint32_t message_bytes_max);
void fake_close(struct fake_server *f);

/* Another instance in the same root, which is current from here on. Close it first. */
void fake_succeed(struct fake_server *f, const struct fake_server *before, uint32_t warm, uint32_t message_bytes_max);

/* Make a slot's segments; then, if `publish`, say that it is warm. */
void fake_make(struct fake_server *f, uint32_t slot, uint32_t generation, bool publish);

/* Put an entry into a client's ring; the client is not woken. 0 or -EAGAIN. */
int fake_say(struct fake_server *f, uint32_t slot, uint8_t kind, uint8_t flags, uint64_t id, const void *data,
             size_t size);
int fake_reply(struct fake_server *f, uint32_t slot, uint64_t id, const char *text);

/* Take an entry out of a client's ring; as ring_peek. */
int fake_hear(struct fake_server *f, uint32_t slot, struct ring_entry *e);

/* As the real one does it: a fence, and a wake if the client is about to sleep. Gives whether it was. */
bool fake_ring(struct fake_server *f, uint32_t slot);

void fake_end(struct fake_server *f, uint32_t slot, enum belfry_end why);

/* As the real one ends a conn: it says how far it has read, and of what it has said, no more can come. */
void fake_drain(struct fake_server *f, uint32_t slot);

/* The shard dies, as far as words can tell; and its lock goes. */
void fake_die(struct fake_server *f);

void fake_path(const struct fake_server *f, char path[2 * FIXTURE_PATH_BYTES], const char *rest);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * world.h: what happens on the simulated machine, and what is known of it: a server, clients, and who has said and heard
 * what. The clients and the server write it down here, outside of their own memory, so that it outlives them.
 */
#ifndef BF_TESTS_SIM_WORLD_H
#define BF_TESTS_SIM_WORLD_H

#include <belfry/belfry.h>

#include "sim.h"

#define WORLD_LIVES 48u
#define WORLD_SLOTS 8u
#define WORLD_SERVERS 4u
#define WORLD_TICKETS 24u
#define WORLD_MESSAGES 256u /* of one connection */
#define WORLD_ROOT "/sim"
#define WORLD_SERVICE "bell"

/* A client's process and its one connection, from before it is asked for until it is over on both sides. */
struct life {
    const struct sim_process *process;
    uint32_t process_pid;
    uint32_t pid;   /* as it says to the server; a process with several connections has several */
    uint32_t begun; /* the last message: whose send began; whose send has returned; that was heard */
    uint32_t sent;
    uint32_t heard;
    bool may_be_dropped[WORLD_MESSAGES]; /* nobody waits for its answer */
    belfry_client *client;               /* in its memory; NULL: not connected, or no more */
    bool pauses;                         /* it sleeps because it likes to */
    bool leaving;
    bool accepted;
    bool disconnected;
    enum belfry_end why;
};

/* A request that is answered later. */
struct world_ticket {
    belfry_ticket ticket;
    uint32_t life, number, wish, bytes;
};

struct world_server {
    struct sim_process *process;
    uint32_t pid;
    bool gone; /* and its process may be another by now */
    bool died;
    unsigned controllers;  /* threads that are about to tell it something */
    belfry_server *server; /* in its memory */
    int start_rc;
    bool started;
    bool serves;
    struct sim_thread *worker;
    struct world_ticket tickets[WORLD_TICKETS];
    unsigned ticket_count;
    bool ending; /* it was told to end, or replaced, or killed */
    struct life *tenant[WORLD_SLOTS];
    belfry_conn_id last[WORLD_SLOTS]; /* + 1 */
};

/* What the seed has drawn. */
struct world_plan {
    uint32_t shards, slots, warm, clients;
    uint32_t connections;        /* in the place of each client, one after the other */
    uint32_t messages;           /* of each connection, at most */
    uint32_t client_dies_within; /* steps of its own; 0: none dies */
    uint32_t server_dies_within;
    uint32_t leaves_one_in; /* without saying so */
    bool replaces;          /* another server starts while clients are there */
    bool drains;
    bool stops; /* while clients are there */
    bool large;
    bool holds;
    bool quiet;
    uint32_t polls_one_in; /* clients that have several connections */
    bool faulty;           /* calls fail */
    enum belfry_spin spin;
};

struct world {
    struct world_plan plan;
    struct life lives[WORLD_LIVES];
    unsigned life_count;
    struct world_server servers[WORLD_SERVERS];
    unsigned server_count;
    uint64_t messages;
    uint64_t connections;
    uint64_t told_gone; /* clients that were told */
};

extern struct world world;

static inline bool life_lasts(const struct life *life)
{
    return life->process->pid == life->process_pid && !life->process->killed;
}

/* May a client find that its server is ending, or gone? */
bool world_is_ending(void);
bool world_server_is_dead(const struct world_server *s);

/* lives.c: the bodies of processes. */
void world_serve(void *server); /* a struct world_server */
void world_stop(void *server);  /* on a thread of its own, of that process */
void world_drain(void *server);
void world_live(void *unused); /* a client */
void world_poll(void *unused); /* one with several connections */

/* promises.c */
void world_look_at_rest(void);                         /* nobody can go on before the clock does */
bool world_server_rests(const struct world_server *s); /* it is as it was before the first client came */

/* families.c */
struct world_family {
    const char *name;
    void (*draw)(struct world_plan *plan, struct sim_machine *machine);
};
extern const struct world_family world_families[];
extern const unsigned world_family_count;
bool world_run(uint64_t seed, bool trace);
const struct world_family *world_family_of(uint64_t seed);

#endif

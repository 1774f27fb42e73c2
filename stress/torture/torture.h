/* SPDX-License-Identifier: MIT */
/*
 * torture.h: what the processes of belfry-torture share.
 *
 * Four kinds: the main process (main.c), which kills and is the referee; the nursery (nursery.c), small and with one thread,
 * which forks a client whenever one has died; the clients (client.c), each of which lives until it is killed; and the
 * server (server.c), which is killed now and then, too.
 *
 * A life is one client process. A talk is what one connection of a life sends: messages numbered from 1, each with the
 * talk's number (stress/message.h). So whoever gets one can tell that it is whole and the next of its talk.
 */
#ifndef STRESS_TORTURE_H
#define STRESS_TORTURE_H

#include <belfry/belfry.h>
#include <sys/types.h>

#include "histogram.h"
#include "message.h"

#define CLIENTS_MAX 1024u
#define SHARDS_MAX 16u
#define SLOTS_MAX 8192u
#define LIVES 65536u        /* that are remembered: the last so many */
#define TALKS (1u << 20)    /* the same */
#define EXIT_USAGE 64       /* the command line made no sense */
#define EXIT_UNAVAILABLE 69 /* this machine cannot run a server */
#define SERVICE "torture"
#define BYTES_SMALL 3000u /* goes straight into such a ring */
#define BYTES_LARGE 60000u
#define RING_BYTES 16384u
#define PUSH_EVERY 5u /* the server pushes before it answers a message whose number is a multiple */

struct options {
    uint32_t clients;
    uint32_t shards;
    double seconds;      /* at most */
    uint64_t kills;      /* at most; 0: no matter how many */
    uint32_t life_ms;    /* of a client, on average */
    double server_every; /* seconds between two deaths of the server; 0: never */
    uint64_t seed;
    bool corrupt_one; /* spoil one reply */
    bool lose_one;    /* let the server forget one message */
    char root[96];
};

/* What must not happen; and the words for it (main.c). */
enum violation {
    TORN_REQUEST,
    TORN_REPLY,
    DISORDERED,  /* not the next of its talk, or of a talk that another conn had */
    LOST,        /* it was visible before its client died, and never handled */
    ALTERNATED,  /* on_connect or on_disconnect twice in a row for one slot */
    REUSED,      /* two conns in a row with one generation */
    RESCUED,     /* a wake that only a timeout found, of a client */
    LATE_CALL,   /* a call that nothing answered */
    BAD_CODE,    /* a code that nothing explains */
    LEAKED,      /* slots, files, descriptors or maps that are left over */
    NOT_STARTED, /* a server that did not start, or not end cleanly */
    VIOLATIONS,
};

struct seat {
    pid_t pid;     /* who sits there; 0: nobody yet */
    uint32_t life; /* its number */
};

struct life {
    uint32_t number;
    int64_t killed_ns; /* 0: it lives */
    int64_t gone_ns;   /* its process was reaped; 0: not yet */
};

struct talk {
    uint32_t sent;  /* by the client: the last message that was visible */
    uint32_t heard; /* by the server */
    uint64_t conn;  /* id of the conn that has it, + 1 */
};

struct slot {
    uint64_t last; /* id of its last conn, + 1 */
    bool open;
};

struct board {
    const struct options *options; /* the same address in all: everything is forked */
    struct seat seat[CLIENTS_MAX];
    struct life life[LIVES];
    uint32_t life_of_pid[LIVES];
    struct talk talk[TALKS];
    uint32_t talks; /* so far */

    uint64_t violations[VIOLATIONS];
    char first[256]; /* a sentence about the first of them */

    /* the server's; those of a shard are written by it alone */
    struct slot slot[SLOTS_MAX];
    struct histogram noticed[SHARDS_MAX]; /* from kill -9 to on_disconnect, ns */
    struct histogram late[SHARDS_MAX];    /* from when its process was gone; 0: before */
    uint64_t messages[SHARDS_MAX];
    uint64_t opened[SHARDS_MAX];
    uint64_t closed[SHARDS_MAX];
    uint64_t instance;      /* of the server that serves; 0: none yet */
    int server_rc;          /* its start failed */
    uint64_t warnings;      /* that the server gave */
    char warning[256];      /* the last of them */
    uint64_t dead_instance; /* the last server that was killed */
    int64_t server_killed_ns;
    uint32_t spoiled; /* how often what corrupt_one or lose_one asks for has been done */

    /* the clients' */
    uint64_t connects;
    uint64_t told; /* clients that noticed a death of the server */
    int64_t told_ns_max;
    uint64_t full; /* connects that found no slot */
};

extern struct board *board;

void violation(enum violation what, const char *why);

/* How many slots the server has, and keeps warm. */
uint32_t slots_max(const struct options *o);
uint32_t slots_warm(const struct options *o);

/* Processes; each dies with who forks it. They do not return. */
_Noreturn void server_live(void);
_Noreturn void nursery_live(int orders); /* of uint32_t: the seat that needs a client */
_Noreturn void client_live(uint32_t seat, uint32_t life);

/* Returns -1 to go on, or the status to exit with. */
int options_parse(struct options *o, int argc, char **argv);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * puppet.h: a server in a process of its own that does what the test says, when the test says it.
 *
 * A handler stands still until it is told what to do next, so the test decides what the shard has seen and what not. A
 * second thread of that process holds the ticket. Test and puppet talk through a page of shared memory; all of it is
 * for one call of one client, and neither sleeps for longer than a look.
 */
#ifndef BF_TESTS_PUPPET_H
#define BF_TESTS_PUPPET_H

#include "server_fixture.h"

/* What a client sends, by its first letter. */
#define PUPPET_CALL "c"   /* the call: its handler stands still */
#define PUPPET_HOLD "h"   /* a one-way message whose handler stands still */
#define PUPPET_FILLER "f" /* one-way, nothing happens */
#define PUPPET_ECHO "e"

#define PUPPET_TURN_MAX 16 /* messages that a shard takes from one conn before it looks at anything else */

enum puppet_place { PUPPET_NOWHERE, PUPPET_IN_HOLD, PUPPET_IN_CALL, PUPPET_IN_DISCONNECT };

/* To the thread of the shard, in whose handler it stands. */
enum puppet_command {
    PUPPET_NO_COMMAND,
    PUPPET_REPLY,
    PUPPET_FAIL,
    PUPPET_REPLY_MORE,
    PUPPET_DEFER,
    PUPPET_KICK,
    PUPPET_RETURN,
};

/* To the other thread, which holds the ticket. */
enum puppet_order {
    PUPPET_NO_ORDER,
    PUPPET_STATUS,
    PUPPET_COMPLETE,
    PUPPET_COMPLETE_FAILED,
    PUPPET_COMPLETE_MORE,
    PUPPET_BARRIER, /* wait until the shard has gone twice round its loop */
    PUPPET_STOP,    /* belfry_server_stop(), without waiting */
    PUPPET_END,     /* destroy the server and exit */
};

struct puppet_shared { /* each word with one writer, but for `command` and `order`: the reader sets them back to 0 */
    uint32_t started;
    uint32_t command, order;
    int32_t command_rc, order_rc;
    uint32_t place;            /* enum puppet_place */
    uint32_t stop_in_goodbyes; /* on_disconnect stands still, too */
    uint32_t calls;            /* handlers of PUPPET_CALL that were entered */
    uint32_t open;             /* the call's handler may still answer */
    uint32_t deferred;         /* there is a ticket */
    uint32_t cancels;          /* of on_cancel */
    uint32_t disconnects;
    belfry_ticket ticket;
};

struct puppet {
    struct server_fixture server;
    struct puppet_shared *shared;
    pid_t pid; /* 0: it has ended */
};

void puppet_start(struct puppet *p);
void puppet_kill(struct puppet *p);
void puppet_end(struct puppet *p); /* also after puppet_kill() */

/* Wait until a handler stands there. */
void puppet_await(struct puppet *p, enum puppet_place place);

/* Both give the code of what was done. */
int puppet_command(struct puppet *p, enum puppet_command command);
int puppet_order(struct puppet *p, enum puppet_order order);

#endif

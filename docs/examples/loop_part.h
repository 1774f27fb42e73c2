/* SPDX-License-Identifier: MIT */
/*
 * loop_part.h: what the four loop examples have in common: a service that echoes and ticks, and a client that prints.
 * Everything of belfry is here; loop_epoll.c, loop_uv.c, loop_glib.c and loop_sd_event.c show what their loops add.
 *
 *     PROGRAM serve NAME          serve until SIGINT or SIGTERM: echo requests, push "tick" to every client each 50 ms
 *     PROGRAM follow NAME COUNT   say hello to that service, print what comes back, end after COUNT ticks
 *     PROGRAM both NAME COUNT     both in one thread and one loop: follow oneself, then stop
 */
#ifndef LOOP_PART_H
#define LOOP_PART_H

#include <belfry/belfry.h>

struct part {
    belfry_server *server; /* NULL: none */
    belfry_client *client; /* NULL: none, or it has left */
    int server_fd;         /* to be watched for reading; -1: none */
    int client_fd;
    belfry_timer tick;
    unsigned left; /* ticks still to come */
    int failed;    /* what main returns */
};

/* Start what the arguments say. False: nothing is to be watched; part_close() all the same. */
bool part_open(struct part *p, int argc, char **argv);

/* server_fd is readable. False: take it out of the loop, the server has ended. */
bool part_turn(struct part *p);

/* client_fd is readable. False: take it out of the loop, then part_leave(). */
bool part_read(struct part *p);
void part_leave(struct part *p);

/* The loop is over. Returns main's result. */
int part_close(struct part *p);

#endif

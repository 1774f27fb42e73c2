/* SPDX-License-Identifier: MIT */
/* loop_part.c: see loop_part.h. */
#include "loop_part.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TICK_MS 50

/* --- the service ---------------------------------------------------------------------------------------------------- */

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    if (m->kind == BELFRY_REQUEST)
        belfry_reply(conn, m, m->data, m->size);
}

/* Timers, too, are fired by the turns. */
static void on_tick(belfry_timer *t, void *user)
{
    struct part *p = user;
    belfry_broadcast(p->server, "tick", 4);
    belfry_timer_set(t, belfry_in_ms(TICK_MS));
}

static int on_shard_start(belfry_server *s, uint32_t shard, void *user)
{
    struct part *p = user;
    (void)s, (void)shard;
    belfry_timer_init(&p->tick, on_tick, p);
    return belfry_timer_set(&p->tick, belfry_in_ms(TICK_MS));
}

static int serve(struct part *p, const char *name)
{
    belfry_server_options o;
    belfry_server_options_init(&o, sizeof o);
    o.service = name;
    o.on_message = on_message;
    o.on_shard_start = on_shard_start;
    o.user = p;
    o.own_loop = true; /* no thread: this one turns */
    o.stop_signals = true;
    int rc = belfry_server_create(&p->server, &o);
    if (rc == 0)
        rc = belfry_server_start(p->server);
    if (rc == 0)
        rc = p->server_fd = belfry_shard_fd(p->server, 0);
    return rc < 0 ? rc : 0;
}

bool part_turn(struct part *p)
{
    int rc = belfry_shard_turn(p->server, 0);
    if (rc < 0)
        fprintf(stderr, "turn: %s\n", belfry_last_error());
    p->failed |= rc < 0;
    return rc > 0;
}

/* --- the client: it must never block, since its own server may be in this very loop ---------------------------------- */

static int follow(struct part *p, const char *name, const char *count)
{
    p->left = (unsigned)strtoul(count, NULL, 10);
    int rc = belfry_connect(&p->client, name, NULL); /* does not wait while the server keeps slots warm */
    if (rc == 0)
        rc = belfry_send(p->client, "hello", 5, NULL);
    if (rc == 0)
        rc = p->client_fd = belfry_client_fd(p->client);
    return rc < 0 ? rc : 0;
}

bool part_read(struct part *p)
{
    belfry_message m;
    int rc = 0;
    while (p->left > 0 && (rc = belfry_receive(p->client, &m, 0)) == 0) {
        printf("%.*s\n", (int)m.size, (const char *)m.data);
        if (m.kind == BELFRY_PUSH)
            p->left--;
        belfry_release(p->client, &m);
    }
    fflush(stdout);
    if (rc == -ETIMEDOUT || rc == -EAGAIN) /* nothing more: the descriptor is unreadable now */
        return true;
    if (rc < 0)
        fprintf(stderr, "receive: %s\n", belfry_last_error());
    p->failed |= rc < 0;
    return false;
}

void part_leave(struct part *p)
{
    belfry_close(p->client); /* and with it client_fd */
    p->client = NULL;
    p->client_fd = -1;
    if (p->server != NULL)
        belfry_server_stop(p->server); /* server_fd becomes readable */
}

/* --- both ------------------------------------------------------------------------------------------------------------ */

bool part_open(struct part *p, int argc, char **argv)
{
    *p = (struct part){.server_fd = -1, .client_fd = -1};
    const char *what = argc > 2 ? argv[1] : "";
    bool serves = argc == 3 && strcmp(what, "serve") == 0;
    bool follows = argc == 4 && strcmp(what, "follow") == 0;
    bool both = argc == 4 && strcmp(what, "both") == 0;
    int rc = 0;
    if (!serves && !follows && !both) {
        fprintf(stderr, "usage: %s serve NAME | follow NAME COUNT | both NAME COUNT\n", argv[0]);
        p->failed = 2;
        return false;
    }
    if (serves || both)
        rc = serve(p, argv[2]);
    if (rc == 0 && (follows || both))
        rc = follow(p, argv[2], argv[3]);
    if (rc < 0)
        fprintf(stderr, "%s: %s\n", what, belfry_last_error());
    p->failed |= rc < 0;
    return rc == 0;
}

int part_close(struct part *p)
{
    belfry_close(p->client);
    belfry_server_destroy(p->server); /* runs what is left of its turns and removes its files */
    return p->failed;
}

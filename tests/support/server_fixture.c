/* SPDX-License-Identifier: MIT */
/* server_fixture.c: see server_fixture.h. */
#include "server_fixture.h"

#include <stdio.h>

#include "expect.h"

static void echo(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    if (m->kind == BELFRY_REQUEST)
        belfry_reply(conn, m, m->data, m->size);
}

void server_fixture_init(struct server_fixture *f)
{
    *f = (struct server_fixture){.server = NULL};
    fixture_root_make(f->root);
    belfry_server_options_init(&f->options, sizeof f->options);
    f->options.service = FIXTURE_SERVICE;
    f->options.on_message = echo;
    f->options.user = f;
    f->options.shards = 1;
    f->options.max_slots = 8;
    f->options.warm_pool = 2;
    f->options.ring_bytes = 4096;
    f->options.message_bytes_max = 0; /* what the ring takes at once */
    f->options.pin = false;
}

void server_fixture_start(struct server_fixture *f)
{
    expect_rc(belfry_server_create(&f->server, &f->options), 0);
    expect_rc(belfry_server_start(f->server), 0);
}

void server_fixture_stop(struct server_fixture *f)
{
    belfry_server_destroy(f->server);
    f->server = NULL;
    fixture_remove_tree(f->root);
}

belfry_client *server_fixture_connect(void)
{
    belfry_client *c;
    expect_rc(belfry_connect(&c, FIXTURE_SERVICE, NULL), 0);
    return c;
}

belfry_counters server_fixture_counters(void)
{
    belfry_statistics s = {.size = sizeof s};
    expect_rc(belfry_stats(FIXTURE_SERVICE, NULL, &s), 0);
    return s.total;
}

void server_fixture_path(const struct server_fixture *f, char path[2 * FIXTURE_PATH_BYTES], const char *rest)
{
    snprintf(path, 2 * FIXTURE_PATH_BYTES, "%s/" FIXTURE_SERVICE "/%llu/%s", f->root,
             (unsigned long long)belfry_server_instance(f->server), rest);
}

int64_t server_fixture_patience(void)
{
    return belfry_in_ms(FIXTURE_PATIENCE_MS);
}

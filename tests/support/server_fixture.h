/* SPDX-License-Identifier: MIT */
/*
 * server_fixture.h: a real server in the test's own process, in a root of its own, with one shard and small rings.
 *
 * Handlers run on the shard's thread, where Criterion's asserts do not work: they leave what they found in plain
 * variables, and the test looks at these once it has an answer.
 */
#ifndef BF_TESTS_SERVER_FIXTURE_H
#define BF_TESTS_SERVER_FIXTURE_H

#include <belfry/belfry.h>

#include "fixture.h"

struct server_fixture {
    char root[FIXTURE_PATH_BYTES];
    belfry_server_options options;
    belfry_server *server;
};

#define FIXTURE_SERVICE "unit"

/* Make the root and fill in options that a test may still change: one shard, 8 slots of which 2 warm, rings of 4 KiB,
   an on_message that echoes. */
void server_fixture_init(struct server_fixture *f);
void server_fixture_start(struct server_fixture *f);
void server_fixture_stop(struct server_fixture *f); /* also removes the root */

/* Connect, or fail the test. */
belfry_client *server_fixture_connect(void);

/* One of the server's counters, as its lobby shows it. */
belfry_counters server_fixture_counters(void);

/* "<root>/unit/<instance>/<rest>" */
void server_fixture_path(const struct server_fixture *f, char path[2 * FIXTURE_PATH_BYTES], const char *rest);

/* A deadline that only a hang reaches. */
int64_t server_fixture_patience(void);

#endif

/* SPDX-License-Identifier: MIT */
/*
 * house.h: a server in the test's process that must be after each death as it was before.
 */
#ifndef BF_TESTS_MOMENTS_HOUSE_H
#define BF_TESTS_MOMENTS_HOUSE_H

#include "life.h"
#include "moments.h"
#include "server_fixture.h"

#define HOUSE_SLOTS 4u

struct house {
    struct server_fixture server;
    struct life_witness *witness;
    belfry_server *replaced;
    uint64_t lives;
    int fds;       /* as house_remember() found them */
    unsigned maps; /* of files of the service */
};

/* All slots are warm, or none: then what is mapped does not depend on which of them were used. */
void house_open(struct house *h, uint32_t warm_pool, uint32_t claim_grace_ms);

#define HOUSE_GRACE_MS 50 /* a claim that dies between its two calls is noticed after that */
void house_close(struct house *h);

/* Another server takes its place, with a new instance. The one that was replaced drains, and is no more. */
void house_replace(struct house *h);
void house_drain_replaced(struct house *h);

/* A number for a life that nobody had. Messages heard of one. */
uint64_t house_life(struct house *h);
uint32_t house_heard(const struct house *h, uint64_t life);

/* A client like any other connects and is answered: the service goes on. */
void house_expect_service(struct house *h);

/* Of what the dead speakers sent (speaker.h) all was heard, and nothing else. */
void house_expect_heard(const struct house *h, uint64_t fatal);

/* What it looks like when nobody is there; and that it does again, else the test fails and says what differs. */
void house_remember(struct house *h);
void house_expect_as_before(struct house *h, uint64_t fatal);

/* The instance whose directory is `name` has that many files of segments, no lock file, and nothing half-made. */
bool house_has_files(const char *root, uint64_t instance, unsigned segments, char why[256]);

#endif

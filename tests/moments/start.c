/* SPDX-License-Identifier: MIT */
/* start.c: see start.h. */
#include "start.h"

#include <sys/inotify.h>
#include <unistd.h>

#include "expect.h"
#include "walk.h"

#define INSTANCES 8 /* that there should be before a server is started */

bool start_has_room(void)
{
    int fds[INSTANCES], count = 0;
    while (count < INSTANCES && (fds[count] = inotify_init1(IN_CLOEXEC)) >= 0)
        count++;
    for (int i = 0; i < count; i++)
        close(fds[i]);
    return count == INSTANCES;
}

void start_patiently(struct server_fixture *f)
{
    int rc;
    expect_rc(belfry_server_create(&f->server, &f->options), 0);
    for (int tries = 0; (rc = belfry_server_start(f->server)) == BELFRY_ENOFILES && tries < START_TRIES; tries++)
        expect(soon(start_has_room()));
    expect_rc(rc, 0);
}

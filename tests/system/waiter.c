/* SPDX-License-Identifier: MIT */
/*
 * waiter.c: a client that calls once and then waits for a message that does not come. For tests/system/observe, which
 * counts its system calls between two marks: writes to a descriptor that nobody has.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <belfry/client.h>

static void mark(const char *text, size_t bytes)
{
    if (write(-1, text, bytes) >= 0)
        abort();
}

int main(int argc, char **argv)
{
    belfry_client *c;
    belfry_message m;
    if (argc != 3)
        return 64;
    int rc = belfry_connect(&c, argv[1], NULL);
    if (rc == 0)
        rc = belfry_call(c, "once", 4, &m, BELFRY_FOREVER);
    if (rc < 0) {
        fprintf(stderr, "waiter: %s\n", belfry_last_error());
        return 1;
    }
    belfry_release(c, &m);
    int64_t deadline = belfry_in_ms(atoi(argv[2]));
    mark("begin", 5);
    rc = belfry_receive(c, &m, deadline);
    mark("end", 3);
    belfry_close(c);
    return rc == -ETIMEDOUT ? 0 : 2;
}

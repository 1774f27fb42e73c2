/* SPDX-License-Identifier: MIT */
/* hello.c: the smallest client. It says hello to echo.c and prints what comes back. */
#include <belfry/client.h>
#include <stdio.h>

int main(void)
{
    belfry_client *c;
    int rc = belfry_connect(&c, "echo", NULL);
    if (rc == 0) {
        belfry_message r;
        rc = belfry_call(c, "hello", 5, &r, belfry_in_ms(1000));
        if (rc == 0) {
            printf("%.*s\n", (int)r.size, (const char *)r.data);
            belfry_release(c, &r);
        }
    }
    if (rc < 0)
        fprintf(stderr, "hello: %s\n", belfry_last_error());
    belfry_close(c);
    return rc < 0;
}

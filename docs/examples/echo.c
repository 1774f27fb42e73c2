/* SPDX-License-Identifier: MIT */
/* echo.c: the smallest server. It sends every request back; hello.c is its client. Ctrl-C or SIGTERM ends it. */
#include <belfry/server.h>
#include <stdio.h>

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    if (m->kind == BELFRY_REQUEST)
        belfry_reply(conn, m, m->data, m->size);
}

int main(int argc, char **argv)
{
    belfry_server_options o;
    belfry_server_options_init(&o, sizeof o);
    o.service = argc > 1 ? argv[1] : "echo";
    o.on_message = on_message;
    o.stop_signals = true;

    belfry_server *s;
    int rc = belfry_server_create(&s, &o);
    if (rc == 0)
        rc = belfry_server_run(s);
    if (rc < 0)
        fprintf(stderr, "echo: %s\n", belfry_last_error());
    belfry_server_destroy(s);
    return rc < 0;
}

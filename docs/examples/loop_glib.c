/* SPDX-License-Identifier: MIT */
/* loop_glib.c: a belfry server and a belfry client in a GLib main loop. loop_part.h says what they do. */
#include <glib-unix.h>

#include "loop_part.h"

static GMainLoop *loop;
static int watched; /* descriptors in the loop */

static gboolean unwatch(void)
{
    if (--watched == 0)
        g_main_loop_quit(loop);
    return G_SOURCE_REMOVE;
}

static gboolean on_server(gint fd, GIOCondition condition, gpointer user)
{
    (void)fd, (void)condition;
    return part_turn(user) ? G_SOURCE_CONTINUE : unwatch();
}

static gboolean on_client(gint fd, GIOCondition condition, gpointer user)
{
    (void)fd, (void)condition;
    if (part_read(user))
        return G_SOURCE_CONTINUE;
    g_source_destroy(g_main_current_source()); /* before its descriptor is closed */
    part_leave(user);
    return unwatch();
}

static void watch(int fd, GUnixFDSourceFunc callback, struct part *p)
{
    if (fd < 0)
        return;
    g_unix_fd_add(fd, G_IO_IN, callback, p);
    watched++;
}

int main(int argc, char **argv)
{
    struct part p;
    if (part_open(&p, argc, argv)) {
        loop = g_main_loop_new(NULL, FALSE);
        watch(p.server_fd, on_server, &p);
        watch(p.client_fd, on_client, &p);
        g_main_loop_run(loop);
        g_main_loop_unref(loop);
    }
    return part_close(&p);
}

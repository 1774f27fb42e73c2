/* SPDX-License-Identifier: MIT */
/* loop_sd_event.c: a belfry server and a belfry client in an sd-event loop. loop_part.h says what they do. */
#include <sys/epoll.h>
#include <systemd/sd-event.h>

#include "loop_part.h"

static int watched; /* descriptors in the loop */

static int unwatch(sd_event_source *source)
{
    sd_event_source_set_enabled(source, SD_EVENT_OFF); /* takes the descriptor out of its epoll at once */
    return --watched == 0 ? sd_event_exit(sd_event_source_get_event(source), 0) : 0;
}

static int on_server(sd_event_source *source, int fd, uint32_t events, void *user)
{
    (void)fd, (void)events;
    return part_turn(user) ? 0 : unwatch(source);
}

static int on_client(sd_event_source *source, int fd, uint32_t events, void *user)
{
    (void)fd, (void)events;
    if (part_read(user))
        return 0;
    int rc = unwatch(source);
    part_leave(user);
    return rc;
}

static void watch(sd_event *loop, int fd, sd_event_io_handler_t callback, struct part *p)
{
    if (fd >= 0 && sd_event_add_io(loop, NULL, fd, EPOLLIN, callback, p) >= 0) /* NULL: the loop owns the source */
        watched++;
}

int main(int argc, char **argv)
{
    struct part p;
    sd_event *loop = NULL;
    if (part_open(&p, argc, argv) && sd_event_new(&loop) >= 0) {
        watch(loop, p.server_fd, on_server, &p);
        watch(loop, p.client_fd, on_client, &p);
        sd_event_loop(loop);
        sd_event_unref(loop);
    }
    return part_close(&p);
}

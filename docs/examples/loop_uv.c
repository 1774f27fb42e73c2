/* SPDX-License-Identifier: MIT */
/* loop_uv.c: a belfry server and a belfry client in a libuv loop. loop_part.h says what they do. */
#include <uv.h>

#include "loop_part.h"

/* A handle that is being closed no longer watches its descriptor; libuv forgets it in its next round. */
static void unwatch(uv_poll_t *handle)
{
    uv_poll_stop(handle);
    uv_close((uv_handle_t *)handle, NULL);
}

static void on_server(uv_poll_t *handle, int status, int events)
{
    (void)status, (void)events;
    if (!part_turn(handle->data))
        unwatch(handle);
}

static void on_client(uv_poll_t *handle, int status, int events)
{
    struct part *p = handle->data;
    (void)status, (void)events;
    if (part_read(p))
        return;
    unwatch(handle);
    part_leave(p);
}

static void watch(uv_loop_t *loop, uv_poll_t *handle, int fd, uv_poll_cb callback, struct part *p)
{
    if (fd < 0)
        return;
    uv_poll_init(loop, handle, fd);
    handle->data = p;
    uv_poll_start(handle, UV_READABLE, callback);
}

int main(int argc, char **argv)
{
    struct part p;
    uv_poll_t server, client;
    if (part_open(&p, argc, argv)) {
        uv_loop_t *loop = uv_default_loop();
        watch(loop, &server, p.server_fd, on_server, &p);
        watch(loop, &client, p.client_fd, on_client, &p);
        uv_run(loop, UV_RUN_DEFAULT); /* until nothing is watched */
        uv_loop_close(loop);
    }
    return part_close(&p);
}

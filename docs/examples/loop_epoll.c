/* SPDX-License-Identifier: MIT */
/* loop_epoll.c: a belfry server and a belfry client in a loop around epoll. loop_part.h says what they do. */
#include <sys/epoll.h>
#include <unistd.h>

#include "loop_part.h"

static void watch(int loop, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd}; /* level-triggered: without EPOLLET */
    if (fd >= 0)
        epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
}

static void unwatch(int loop, int fd)
{
    epoll_ctl(loop, EPOLL_CTL_DEL, fd, NULL);
}

int main(int argc, char **argv)
{
    struct part p;
    if (!part_open(&p, argc, argv))
        return part_close(&p);
    int loop = epoll_create1(EPOLL_CLOEXEC);
    bool serves = p.server_fd >= 0, follows = p.client_fd >= 0;
    watch(loop, p.server_fd);
    watch(loop, p.client_fd);

    while (serves || follows) {
        struct epoll_event event;
        if (epoll_wait(loop, &event, 1, -1) < 1) /* interrupted by a signal */
            continue;
        int fd = event.data.fd;
        if (fd == p.server_fd && !part_turn(&p)) {
            unwatch(loop, fd);
            serves = false;
        } else if (fd == p.client_fd && !part_read(&p)) {
            unwatch(loop, fd);
            part_leave(&p);
            follows = false;
        }
    }
    close(loop);
    return part_close(&p);
}

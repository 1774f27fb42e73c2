/* SPDX-License-Identifier: MIT */
/*
 * Tests of server/io.c: the user's own operations on a real shard's uring, with files, sockets, pipes and processes.
 *
 * A message makes on_message run `script` on the shard's thread. What on_done was told is noted per operation and read
 * by the test once `done` says that it is there.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <liburing.h>

#include <belfry/uring.h>

#include "base/order.h"
#include "expect.h"
#include "server_fixture.h"

#define MANY 5000u /* more than the uring has entries, and more than it has room for completions */

/* One operation and what it was told. */
struct op {
    belfry_io io;
    char data[64];
    int32_t result;
    uint32_t flags;
    unsigned calls;
};

static struct server_fixture server;
static void (*script)(belfry_conn *conn);
static void (*at_end)(belfry_conn *conn);
static struct op ops[MANY];
static int fds[2];
static uint32_t done;
static int rc[8];
static unsigned results_bad;
static char path[2 * FIXTURE_PATH_BYTES];

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    script(conn);
    belfry_reply(conn, m, m->data, m->size);
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    (void)why, (void)user;
    if (at_end != NULL)
        at_end(conn);
}

static void note(belfry_io *io, int32_t result, uint32_t flags, void *user)
{
    struct op *op = user;
    bool more = (flags & IORING_CQE_F_MORE) != 0;
    if (io != &op->io || belfry_io_in_flight(io) != more)
        results_bad++;
    op->result = result;
    op->flags = flags;
    op->calls++;
    add_release(&done, 1);
}

static belfry_client *begin(void)
{
    server_fixture_init(&server);
    server.options.on_message = on_message;
    server.options.on_disconnect = on_disconnect;
    server_fixture_start(&server);
    for (unsigned i = 0; i < MANY; i++)
        belfry_io_init(&ops[i].io, note, &ops[i]);
    return server_fixture_connect();
}

static void end(belfry_client *c)
{
    expect_eq(results_bad, 0);
    belfry_close(c);
    server_fixture_stop(&server);
}

static void run(belfry_client *c, void (*what)(belfry_conn *conn))
{
    belfry_message reply;
    script = what;
    expect_rc(belfry_call(c, "go", 2, &reply, server_fixture_patience()), 0);
    belfry_release(c, &reply);
}

static void expect_done(uint32_t count)
{
    expect(eventually(load_acquire(&done) >= count));
    expect_eq(load_acquire(&done), count);
}

static int start(struct op *op, const struct io_uring_sqe *sqe)
{
    return belfry_io_start(&op->io, sqe);
}

static void start_pipe_read(struct op *op)
{
    struct io_uring_sqe sqe;
    io_uring_prep_read(&sqe, fds[0], op->data, sizeof op->data, 0);
    rc[0] = start(op, &sqe);
}

TestSuite(io, .timeout = 120);

/* --- what the kernel can do ------------------------------------------------------------------------------------------- */

static void push_what_was_read(belfry_io *io, int32_t result, uint32_t flags, void *user)
{
    struct op *op = &ops[0];
    belfry_conn *conn = user;
    (void)io, (void)flags;
    if (result < 0 || belfry_push(conn, op->data, (size_t)result) < 0)
        results_bad++;
}

static void read_file_and_push(belfry_conn *conn)
{
    struct io_uring_sqe sqe;
    belfry_io_init(&ops[0].io, push_what_was_read, conn);
    io_uring_prep_read(&sqe, fds[0], ops[0].data, sizeof ops[0].data, 0);
    sqe.user_data = 77; /* is nobody's business */
    rc[0] = start(&ops[0], &sqe);
}

Test(io, reads_a_file_and_pushes_it)
{
    belfry_client *c = begin();
    belfry_message push;
    snprintf(path, sizeof path, "%s/file", server.root);
    fds[0] = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    expect_eq(write(fds[0], "read me", 7), 7);
    run(c, read_file_and_push);
    expect_rc(rc[0], 0);
    expect_rc(belfry_receive(c, &push, server_fixture_patience()), 0);
    expect_eq(push.kind, BELFRY_PUSH);
    expect_eq(push.size, 7);
    expect(memcmp(push.data, "read me", 7) == 0);
    belfry_release(c, &push);
    close(fds[0]);
    end(c);
}

static void write_sync_read(belfry_conn *conn)
{
    struct io_uring_sqe sqes[3];
    belfry_io *ios[3] = {&ops[0].io, &ops[1].io, &ops[2].io};
    (void)conn;
    memcpy(ops[0].data, "in a chain", 10);
    io_uring_prep_write(&sqes[0], fds[0], ops[0].data, 10, 0);
    io_uring_prep_fsync(&sqes[1], fds[0], 0);
    io_uring_prep_read(&sqes[2], fds[0], ops[2].data, sizeof ops[2].data, 0);
    sqes[0].flags |= IOSQE_IO_LINK;
    sqes[1].flags |= IOSQE_IO_LINK;
    rc[0] = belfry_io_start_chain(ios, sqes, 3);
}

Test(io, a_chain_runs_in_its_order)
{
    belfry_client *c = begin();
    snprintf(path, sizeof path, "%s/file", server.root);
    fds[0] = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    run(c, write_sync_read);
    expect_rc(rc[0], 0);
    expect_done(3);
    expect_eq(ops[0].result, 10);
    expect_eq(ops[1].result, 0);
    expect_eq(ops[2].result, 10);
    expect(memcmp(ops[2].data, "in a chain", 10) == 0);
    close(fds[0]);
    end(c);
}

/* An accept that stays, and per connection: receive, send it back, receive, ... until the peer closes. */
struct echo {
    belfry_io io;
    int fd;
    bool sending;
    char data[64];
};

static uint32_t echoes_ended;

static void on_echo(belfry_io *io, int32_t result, uint32_t flags, void *user)
{
    struct echo *e = user;
    struct io_uring_sqe sqe;
    (void)flags;
    if (result <= 0) {
        close(e->fd);
        free(e);
        add_release(&echoes_ended, 1);
        return;
    }
    e->sending = !e->sending;
    if (e->sending)
        io_uring_prep_send(&sqe, e->fd, e->data, (size_t)result, MSG_NOSIGNAL);
    else
        io_uring_prep_recv(&sqe, e->fd, e->data, sizeof e->data, 0);
    if (belfry_io_start(io, &sqe) < 0)
        results_bad++;
}

static void on_accept(belfry_io *io, int32_t result, uint32_t flags, void *user)
{
    note(io, result, flags, user);
    if (result < 0)
        return;
    struct io_uring_sqe sqe;
    struct echo *e = calloc(1, sizeof *e);
    e->fd = result;
    belfry_io_init(&e->io, on_echo, e);
    io_uring_prep_recv(&sqe, e->fd, e->data, sizeof e->data, 0);
    if (belfry_io_start(&e->io, &sqe) < 0)
        results_bad++;
}

static void start_accept(belfry_conn *conn)
{
    struct io_uring_sqe sqe;
    (void)conn;
    belfry_io_init(&ops[0].io, on_accept, &ops[0]);
    io_uring_prep_multishot_accept(&sqe, fds[0], NULL, NULL, SOCK_CLOEXEC);
    rc[0] = start(&ops[0], &sqe);
}

Test(io, serves_sockets)
{
    enum { SOCKETS = 5 };
    int sockets[SOCKETS];
    char text[16];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    belfry_client *c = begin();
    snprintf(address.sun_path, sizeof address.sun_path, "%.90s/socket", server.root);
    fds[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    expect_eq(bind(fds[0], (struct sockaddr *)&address, sizeof address), 0);
    expect_eq(listen(fds[0], SOCKETS), 0);
    run(c, start_accept);
    expect_rc(rc[0], 0);
    for (int i = 0; i < SOCKETS; i++) {
        sockets[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        expect_eq(connect(sockets[i], (struct sockaddr *)&address, sizeof address), 0);
    }
    for (int turn = 0; turn < 20; turn++)
        for (int i = 0; i < SOCKETS; i++) {
            expect_eq(write(sockets[i], "echo", 4), 4);
            expect_eq(read(sockets[i], text, sizeof text), 4);
        }
    expect_eq(ops[0].calls, SOCKETS); /* of one and the same accept */
    for (int i = 0; i < SOCKETS; i++)
        close(sockets[i]);
    expect(eventually(load_acquire(&echoes_ended) == SOCKETS));
    belfry_server_stop(server.server);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(ops[0].result, -ECANCELED);
    expect_eq(ops[0].calls, SOCKETS + 1);
    close(fds[0]);
    end(c);
}

static void wait_for_child(void *context)
{
    (void)context;
    char byte;
    if (read(fds[0], &byte, 1) == 1)
        _exit(7);
    _exit(1);
}

static int pidfd;

static void start_pidfd_poll(belfry_conn *conn)
{
    struct io_uring_sqe sqe;
    (void)conn;
    io_uring_prep_poll_add(&sqe, pidfd, POLLIN);
    rc[0] = start(&ops[0], &sqe);
}

Test(io, tells_of_a_childs_exit)
{
    belfry_client *c = begin();
    expect_eq(pipe2(fds, O_CLOEXEC), 0);
    pid_t child = fixture_child(wait_for_child, NULL);
    pidfd = (int)syscall(SYS_pidfd_open, child, 0);
    expect(pidfd >= 0);
    run(c, start_pidfd_poll);
    expect_rc(rc[0], 0);
    expect_eq(load_acquire(&done), 0);
    expect_eq(write(fds[1], "x", 1), 1);
    expect_done(1);
    expect((ops[0].result & POLLIN) != 0);
    fixture_reap(child);
    close(pidfd);
    close(fds[0]);
    close(fds[1]);
    end(c);
}

static struct __kernel_timespec soon = {.tv_nsec = 3000000};

static void start_timeout(belfry_conn *conn)
{
    struct io_uring_sqe sqe;
    (void)conn;
    io_uring_prep_timeout(&sqe, &soon, 0, 0);
    rc[0] = start(&ops[0], &sqe);
}

Test(io, a_timeout_is_no_bell)
{
    belfry_client *c = begin();
    run(c, start_timeout);
    expect_done(1);
    expect_eq(ops[0].result, -ETIME);
    end(c);
}

static void start_read_with_timeout(belfry_conn *conn)
{
    struct io_uring_sqe sqes[2];
    belfry_io *ios[2] = {&ops[0].io, &ops[1].io};
    (void)conn;
    io_uring_prep_read(&sqes[0], fds[0], ops[0].data, sizeof ops[0].data, 0);
    sqes[0].flags |= IOSQE_IO_LINK;
    io_uring_prep_link_timeout(&sqes[1], &soon, 0);
    rc[0] = belfry_io_start_chain(ios, sqes, 2);
}

Test(io, a_linked_timeout_ends_a_read)
{
    belfry_client *c = begin();
    expect_eq(pipe2(fds, O_CLOEXEC), 0);
    run(c, start_read_with_timeout);
    expect_rc(rc[0], 0);
    expect_done(2);
    expect(ops[0].result == -ECANCELED || ops[0].result == -EINTR);
    expect_eq(ops[1].result, -ETIME);
    close(fds[0]);
    close(fds[1]);
    end(c);
}

/* --- many completions, many operations ----------------------------------------------------------------------------------- */

static void start_multishot_poll(belfry_conn *conn)
{
    struct io_uring_sqe sqe;
    (void)conn;
    io_uring_prep_poll_multishot(&sqe, fds[0], POLLIN);
    rc[0] = start(&ops[0], &sqe);
    rc[1] = start(&ops[0], &sqe);
}

static void cancel_first(belfry_conn *conn)
{
    (void)conn;
    rc[2] = belfry_io_cancel(&ops[0].io);
}

Test(io, a_multishot_stays_in_flight_until_its_last_completion)
{
    belfry_client *c = begin();
    expect_eq(pipe2(fds, O_CLOEXEC), 0);
    run(c, start_multishot_poll);
    expect_rc(rc[0], 0);
    expect_rc(rc[1], BELFRY_ESTATE);
    for (uint32_t i = 1; i <= 5; i++) {
        expect_eq(write(fds[1], "x", 1), 1);
        expect_done(i);
        expect((ops[0].flags & IORING_CQE_F_MORE) != 0);
    }
    run(c, cancel_first);
    expect_eq(rc[2], 1);
    expect_done(6);
    expect_eq(ops[0].result, -ECANCELED);
    expect_eq(ops[0].flags & IORING_CQE_F_MORE, 0);
    close(fds[0]);
    close(fds[1]);
    end(c);
}

static void start_many(belfry_conn *conn)
{
    struct io_uring_sqe sqe;
    (void)conn;
    io_uring_prep_nop(&sqe);
    for (unsigned i = 0; i < MANY; i++)
        if (start(&ops[i], &sqe) < 0)
            results_bad++;
    if (load_acquire(&done) != 0) /* never from within belfry_io_start() */
        results_bad++;
}

/* The queue of completions overflows: what does not fit, the kernel keeps. */
Test(io, more_than_the_queues_hold_are_all_done)
{
    belfry_client *c = begin();
    for (unsigned round = 1; round <= 3; round++) {
        store_relaxed(&done, 0);
        run(c, start_many);
        expect_done(MANY);
        for (unsigned i = 0; i < MANY; i++)
            expect_eq(ops[i].calls, round);
    }
    end(c);
}

static unsigned left;

static void start_next(belfry_io *io, int32_t result, uint32_t flags, void *user)
{
    struct io_uring_sqe sqe;
    note(io, result, flags, user);
    if (--left == 0)
        return;
    io_uring_prep_nop(&sqe);
    if (belfry_io_start(io, &sqe) < 0)
        results_bad++;
}

static void start_first(belfry_conn *conn)
{
    struct io_uring_sqe sqe;
    (void)conn;
    left = 10000;
    belfry_io_init(&ops[0].io, start_next, &ops[0]);
    io_uring_prep_nop(&sqe);
    rc[0] = start(&ops[0], &sqe);
}

Test(io, on_done_may_start_the_next)
{
    belfry_client *c = begin();
    run(c, start_first);
    expect_done(10000);
    end(c);
}

static void free_itself(belfry_io *io, int32_t result, uint32_t flags, void *user)
{
    (void)result, (void)flags, (void)user;
    memset(io, 0xee, sizeof *io);
    free(io);
    add_release(&done, 1);
}

static void start_freed(belfry_conn *conn)
{
    struct io_uring_sqe sqe;
    (void)conn;
    io_uring_prep_nop(&sqe);
    for (int i = 0; i < 10; i++) {
        belfry_io *io = malloc(sizeof *io);
        belfry_io_init(io, free_itself, NULL);
        if (belfry_io_start(io, &sqe) < 0)
            results_bad++;
    }
}

Test(io, on_done_may_free_it)
{
    belfry_client *c = begin();
    run(c, start_freed);
    expect_done(10);
    end(c);
}

/* --- chains and the queue's end --------------------------------------------------------------------------------------------- */

static unsigned before;

/* So many others first; then a chain whose first fails, so that a cut would show: what is behind it would succeed. */
static void start_chain_behind_others(belfry_conn *conn)
{
    enum { LINKS = BELFRY_IO_CHAIN_MAX };
    static struct io_uring_sqe sqes[LINKS];
    belfry_io *ios[LINKS];
    struct io_uring_sqe nop;
    (void)conn;
    io_uring_prep_nop(&nop);
    for (unsigned i = 0; i < before; i++)
        if (start(&ops[LINKS + i], &nop) < 0)
            results_bad++;
    for (unsigned i = 0; i < LINKS; i++) {
        io_uring_prep_nop(&sqes[i]);
        sqes[i].flags |= i + 1 < LINKS ? IOSQE_IO_LINK : 0;
        ios[i] = &ops[i].io;
    }
    io_uring_prep_read(&sqes[0], -1, ops[0].data, 1, 0);
    sqes[0].flags |= IOSQE_IO_LINK;
    rc[0] = belfry_io_start_chain(ios, sqes, LINKS);
}

Test(io, a_chain_is_never_cut)
{
    belfry_client *c = begin();
    for (before = 0; before < 300; before += 7) {
        store_relaxed(&done, 0);
        run(c, start_chain_behind_others);
        expect_rc(rc[0], 0);
        expect_done(before + BELFRY_IO_CHAIN_MAX);
        expect_eq(ops[0].result, -EBADF);
        for (unsigned i = 1; i < BELFRY_IO_CHAIN_MAX; i++)
            expect_eq(ops[i].result, -ECANCELED);
        for (unsigned i = 0; i < before; i++)
            expect_eq(ops[BELFRY_IO_CHAIN_MAX + i].result, 0);
    }
    end(c);
}

static char errors[8][256];

static void start_wrong(belfry_conn *conn)
{
    static const unsigned flags[] = {IOSQE_IO_DRAIN, IOSQE_CQE_SKIP_SUCCESS, IOSQE_IO_LINK, IOSQE_IO_HARDLINK};
    struct io_uring_sqe sqes[BELFRY_IO_CHAIN_MAX + 1];
    belfry_io *twice[2] = {&ops[0].io, &ops[0].io}, *both[2] = {&ops[0].io, &ops[1].io};
    (void)conn;
    for (int i = 0; i < 4; i++) {
        io_uring_prep_nop(&sqes[0]);
        sqes[0].flags |= flags[i];
        rc[i] = start(&ops[0], &sqes[0]);
        snprintf(errors[i], sizeof errors[i], "%s", belfry_last_error());
    }
    io_uring_prep_nop(&sqes[0]);
    io_uring_prep_nop(&sqes[1]);
    rc[4] = belfry_io_start_chain(both, sqes, 2); /* not linked */
    sqes[0].flags |= IOSQE_IO_LINK;
    rc[5] = belfry_io_start_chain(twice, sqes, 2);
    rc[6] = belfry_io_start_chain(both, sqes, 0);
    rc[7] = belfry_io_start_chain(both, sqes, BELFRY_IO_CHAIN_MAX + 1);
    if (belfry_io_in_flight(&ops[0].io) || belfry_io_in_flight(&ops[1].io))
        results_bad++;
}

Test(io, refuses_what_would_hang_or_hit_the_librarys_own)
{
    belfry_client *c = begin();
    run(c, start_wrong);
    for (int i = 0; i < 8; i++)
        expect_rc(rc[i], i == 5 ? BELFRY_ESTATE : BELFRY_EOPTION);
    expect_in(errors[0], "DRAIN");
    expect_in(errors[1], "SKIP_SUCCESS");
    expect_in(errors[2], "IO_LINK");
    expect_eq(load_acquire(&done), 0);
    end(c);
}

/* --- cancel and stop -------------------------------------------------------------------------------------------------------- */

static void start_read(belfry_conn *conn)
{
    (void)conn;
    start_pipe_read(&ops[0]);
}

static void cancel_twice(belfry_conn *conn)
{
    (void)conn;
    rc[2] = belfry_io_cancel(&ops[0].io);
    rc[3] = belfry_io_cancel(&ops[0].io);
    rc[4] = belfry_io_cancel(&ops[1].io);
}

Test(io, is_cancelled_on_demand)
{
    belfry_client *c = begin();
    expect_eq(pipe2(fds, O_CLOEXEC), 0);
    run(c, start_read);
    expect_rc(rc[0], 0);
    expect_rc(belfry_io_cancel(&ops[0].io), BELFRY_ETHREAD);
    expect(belfry_io_in_flight(&ops[0].io));
    run(c, cancel_twice);
    expect_eq(rc[2], 1);
    expect_eq(rc[3] >= 0, 1);
    expect_eq(rc[4], 0);
    expect_done(1);
    expect_eq(ops[0].result, -ECANCELED);
    expect_eq(ops[0].calls, 1);
    run(c, start_read); /* and the same again */
    expect_eq(write(fds[1], "x", 1), 1);
    expect_done(2);
    expect_eq(ops[0].result, 1);
    close(fds[0]);
    close(fds[1]);
    end(c);
}

Test(io, belongs_to_a_shards_thread)
{
    struct io_uring_sqe sqe;
    belfry_client *c = begin();
    io_uring_prep_nop(&sqe);
    expect_rc(start(&ops[0], &sqe), BELFRY_ETHREAD);
    expect_in(belfry_last_error(), "in a handler");
    expect(!belfry_io_in_flight(&ops[0].io));
    end(c);
}

static void start_again_when_cancelled(belfry_io *io, int32_t result, uint32_t flags, void *user)
{
    struct io_uring_sqe sqe;
    note(io, result, flags, user);
    io_uring_prep_nop(&sqe);
    rc[4] = belfry_io_start(io, &sqe);
}

/* Reads that nothing ends, and a chain whose second link the first cancel cannot find. */
static void start_endless(belfry_conn *conn)
{
    struct io_uring_sqe sqes[2];
    belfry_io *chain[2] = {&ops[1].io, &ops[2].io};
    (void)conn;
    belfry_io_init(&ops[0].io, start_again_when_cancelled, &ops[0]);
    start_pipe_read(&ops[0]);
    io_uring_prep_timeout(&sqes[0], &soon, 0, IORING_TIMEOUT_ETIME_SUCCESS);
    sqes[0].flags |= IOSQE_IO_LINK;
    io_uring_prep_read(&sqes[1], fds[0], ops[2].data, 1, 0);
    rc[1] = belfry_io_start_chain(chain, sqes, 2);
    for (unsigned i = 3; i < 1000; i++)
        start_pipe_read(&ops[i]);
}

static void start_when_over(belfry_conn *conn)
{
    struct io_uring_sqe sqe;
    (void)conn;
    io_uring_prep_nop(&sqe);
    rc[3] = start(&ops[2000], &sqe);
}

Test(io, stop_cancels_what_nothing_else_would_end)
{
    at_end = start_when_over;
    belfry_client *c = begin();
    expect_eq(pipe2(fds, O_CLOEXEC), 0);
    run(c, start_endless);
    expect_rc(rc[0], 0);
    expect_rc(rc[1], 0);
    belfry_server_stop(server.server);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(done, 1000);
    for (unsigned i = 0; i < 1000; i++) {
        expect_eq(ops[i].calls, 1);
        expect(i == 1 || ops[i].result == -ECANCELED || ops[i].result == -EINTR);
        expect(!belfry_io_in_flight(&ops[i].io));
    }
    expect_eq(rc[3], BELFRY_ESTATE);
    expect_eq(rc[4], BELFRY_ESTATE);
    close(fds[0]);
    close(fds[1]);
    end(c);
}

/* While it is being stopped the timeout of a chain ends well, and only then its read begins. */
static struct __kernel_timespec later = {.tv_nsec = 50000000};

static void start_uncancellable_for_a_while(belfry_conn *conn)
{
    struct io_uring_sqe sqes[2];
    belfry_io *chain[2] = {&ops[0].io, &ops[1].io};
    (void)conn;
    io_uring_prep_timeout(&sqes[0], &later, 0, IORING_TIMEOUT_ETIME_SUCCESS);
    sqes[0].flags |= IOSQE_IO_HARDLINK; /* goes on even when the timeout is cancelled */
    io_uring_prep_read(&sqes[1], fds[0], ops[1].data, 1, 0);
    rc[0] = belfry_io_start_chain(chain, sqes, 2);
}

Test(io, stop_cancels_again_what_began_after_its_first_cancel)
{
    belfry_client *c = begin();
    expect_eq(pipe2(fds, O_CLOEXEC), 0);
    run(c, start_uncancellable_for_a_while);
    expect_rc(rc[0], 0);
    belfry_server_stop(server.server);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_eq(done, 2);
    expect(ops[1].result == -ECANCELED || ops[1].result == -EINTR);
    close(fds[0]);
    close(fds[1]);
    end(c);
}

/* The shard's own file, so to say: opened with it, closed with it. */
static int start_rc;
static uint32_t done_before_stop;

static int on_shard_start(belfry_server *s, uint32_t shard, void *user)
{
    (void)s, (void)shard, (void)user;
    start_pipe_read(&ops[0]);
    return start_rc;
}

static void on_shard_stop(belfry_server *s, uint32_t shard, void *user)
{
    struct io_uring_sqe sqe;
    (void)s, (void)shard, (void)user;
    done_before_stop = load_acquire(&done);
    io_uring_prep_nop(&sqe);
    rc[1] = start(&ops[1], &sqe);
}

static void prepare_shard_hooks(void)
{
    server_fixture_init(&server);
    server.options.on_message = on_message;
    server.options.on_shard_start = on_shard_start;
    server.options.on_shard_stop = on_shard_stop;
    for (unsigned i = 0; i < 2; i++)
        belfry_io_init(&ops[i].io, note, &ops[i]);
    expect_eq(pipe2(fds, O_CLOEXEC), 0);
    expect_rc(belfry_server_create(&server.server, &server.options), 0);
}

Test(io, is_over_when_its_shard_stops)
{
    prepare_shard_hooks();
    expect_rc(belfry_server_start(server.server), 0);
    expect_rc(rc[0], 0);
    server_fixture_stop(&server);
    expect_eq(done_before_stop, 1);
    expect_eq(done, 1);
    expect_eq(rc[1], BELFRY_ESTATE);
}

Test(io, is_over_when_its_shard_has_failed_to_start)
{
    prepare_shard_hooks();
    start_rc = -ENOTBLK;
    expect_rc(belfry_server_start(server.server), -ENOTBLK);
    expect_rc(rc[0], 0);
    expect_eq(done, 1);
    expect(!belfry_io_in_flight(&ops[0].io));
    start_rc = 0;
    expect_rc(belfry_server_start(server.server), 0);
    server_fixture_stop(&server);
    expect_eq(done, 2);
}

Test(io, in_flight_costs_an_idle_shard_nothing)
{
    belfry_client *c = begin();
    expect_eq(pipe2(fds, O_CLOEXEC), 0);
    run(c, start_read);
    uint64_t sweeps = server_fixture_counters().sweeps;
    expect(eventually(server_fixture_counters().sweeps > sweeps));
    belfry_counters from = server_fixture_counters();
    expect(eventually(server_fixture_counters().sweeps > from.sweeps));
    expect_eq(server_fixture_counters().turns, from.turns);
    expect(belfry_io_in_flight(&ops[0].io));
    end(c);
    close(fds[0]);
    close(fds[1]);
}

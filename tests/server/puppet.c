/* SPDX-License-Identifier: MIT */
/* puppet.c: see puppet.h. */
#include "puppet.h"

#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/order.h"
#include "expect.h"
#include "server/conn.h"

/* --- the puppet's process ------------------------------------------------------------------------------------------ */

static struct {
    struct puppet_shared *shared;
    belfry_conn *conn;   /* whose call it is */
    belfry_message call; /* as its handler got it */
} own;

static void look_again_soon(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
}

static int obey(enum puppet_command command)
{
    switch (command) {
    case PUPPET_REPLY:
        return belfry_reply(own.conn, &own.call, "whole", 5);
    case PUPPET_FAIL:
        return belfry_fail(own.conn, &own.call, BELFRY_EUSER, "as told");
    case PUPPET_REPLY_MORE:
        return belfry_reply_more(own.conn, &own.call, "part", 4);
    case PUPPET_DEFER: {
        int rc = belfry_defer(own.conn, &own.call, &own.shared->ticket, NULL);
        if (rc == 0)
            store_relaxed(&own.shared->deferred, 1);
        return rc;
    }
    case PUPPET_KICK:
        belfry_disconnect(own.conn);
        return 0;
    default:
        return 0;
    }
}

/* Do as told until told to return. On the shard's thread. */
static void stand(enum puppet_place place)
{
    struct puppet_shared *s = own.shared;
    for (;;) {
        const struct belfry_conn *conn = own.conn;
        store_relaxed(&s->open, place == PUPPET_IN_CALL && conn->request_open);
        store_release(&s->place, place);
        uint32_t command;
        while ((command = load_acquire(&s->command)) == PUPPET_NO_COMMAND)
            look_again_soon();
        s->command_rc = obey(command);
        if (command == PUPPET_RETURN)
            store_relaxed(&s->place, PUPPET_NOWHERE);
        store_relaxed(&s->open, place == PUPPET_IN_CALL && command != PUPPET_RETURN && conn->request_open);
        store_release(&s->command, PUPPET_NO_COMMAND);
        if (command == PUPPET_RETURN)
            return;
    }
}

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    char what = m->size > 0 ? *(const char *)m->data : ' ';
    if (what == *PUPPET_ECHO) {
        belfry_reply(conn, m, m->data, m->size);
    } else if (what == *PUPPET_HOLD) {
        own.conn = conn;
        stand(PUPPET_IN_HOLD);
    } else if (what == *PUPPET_CALL) {
        own.conn = conn;
        own.call = *m;
        store_relaxed(&own.shared->calls, own.shared->calls + 1);
        stand(PUPPET_IN_CALL);
    }
}

static void on_cancel(belfry_conn *conn, const belfry_ticket *t, int why, void *user)
{
    (void)conn, (void)t, (void)why, (void)user;
    store_relaxed(&own.shared->cancels, own.shared->cancels + 1);
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    (void)why, (void)user;
    if (conn != own.conn)
        return;
    store_release(&own.shared->disconnects, own.shared->disconnects + 1);
    if (load_relaxed(&own.shared->stop_in_goodbyes) != 0)
        stand(PUPPET_IN_DISCONNECT);
    own.conn = NULL;
}

static void went_round(void *user)
{
    add_release((uint32_t *)user, 1);
}

/* 0, or the code of a server that has stopped. */
static int go_round(belfry_server *server)
{
    uint32_t rounds = 0;
    for (uint32_t wanted = 1; wanted <= 2; wanted++) {
        int rc = belfry_post(server, 0, went_round, &rounds);
        if (rc < 0)
            return rc;
        while (load_acquire(&rounds) < wanted)
            look_again_soon();
    }
    return 0;
}

static int follow(belfry_server *server, enum puppet_order order)
{
    const belfry_ticket *ticket = &own.shared->ticket;
    switch (order) {
    case PUPPET_STATUS:
        return belfry_ticket_status(server, ticket);
    case PUPPET_COMPLETE:
        return belfry_complete(server, ticket, "whole", 5);
    case PUPPET_COMPLETE_FAILED:
        return belfry_complete_failed(server, ticket, BELFRY_EUSER, "as told");
    case PUPPET_COMPLETE_MORE:
        return belfry_complete_more(server, ticket, "part", 4);
    case PUPPET_BARRIER:
        return go_round(server);
    case PUPPET_STOP:
        belfry_server_stop(server);
        return 0;
    default:
        return 0;
    }
}

static void be_puppet(void *context)
{
    struct puppet *p = context;
    struct puppet_shared *s = own.shared = p->shared;
    p->server.options.on_message = on_message;
    p->server.options.on_cancel = on_cancel;
    p->server.options.on_disconnect = on_disconnect;
    if (belfry_server_create(&p->server.server, &p->server.options) < 0 || belfry_server_start(p->server.server) < 0)
        _exit(3);
    store_release(&s->started, 1);
    for (;;) {
        uint32_t order;
        while ((order = load_acquire(&s->order)) == PUPPET_NO_ORDER)
            look_again_soon();
        if (order == PUPPET_END)
            break;
        s->order_rc = follow(p->server.server, order);
        store_release(&s->order, PUPPET_NO_ORDER);
    }
    belfry_server_destroy(p->server.server);
    _exit(0);
}

/* --- the test's process -------------------------------------------------------------------------------------------- */

void puppet_start(struct puppet *p)
{
    server_fixture_init(&p->server);
    p->shared = mmap(NULL, sizeof *p->shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    expect(p->shared != MAP_FAILED);
    p->pid = fixture_child(be_puppet, p);
    expect(eventually(load_acquire(&p->shared->started) == 1));
}

void puppet_kill(struct puppet *p)
{
    fixture_kill(p->pid);
    p->pid = 0;
}

void puppet_end(struct puppet *p)
{
    if (p->pid != 0) {
        store_release(&p->shared->order, PUPPET_END);
        expect_eq(fixture_reap(p->pid), 0);
    }
    munmap(p->shared, sizeof *p->shared);
    fixture_remove_tree(p->server.root);
}

void puppet_await(struct puppet *p, enum puppet_place place)
{
    if (!eventually(load_acquire(&p->shared->place) == place))
        expect_failed("the puppet stands at %u and not at %u", p->shared->place, place);
}

int puppet_command(struct puppet *p, enum puppet_command command)
{
    expect(load_acquire(&p->shared->place) != PUPPET_NOWHERE);
    store_release(&p->shared->command, command);
    expect(eventually(load_acquire(&p->shared->command) == PUPPET_NO_COMMAND));
    return p->shared->command_rc;
}

int puppet_order(struct puppet *p, enum puppet_order order)
{
    store_release(&p->shared->order, order);
    expect(eventually(load_acquire(&p->shared->order) == PUPPET_NO_ORDER));
    return p->shared->order_rc;
}

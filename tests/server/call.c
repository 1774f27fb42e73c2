/* SPDX-License-Identifier: MIT */
/*
 * call.c: every event in every state of a call, by call_table.h.
 *
 * For each row a real server and a real client are brought into the state, the event is made to happen, and then it is
 * looked what has become of the call: at the ticket, at the handler, at the client's ring and its list of late
 * requests, at the counters. Afterwards everybody goes on, and must find an end: a caller who still waits gets an answer, one
 * who does not gets none, and the ticket can be ended exactly once.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/order.h"
#include "client/client.h"
#include "expect.h"
#include "puppet.h"

enum state {
    SENT,
    SEEN,
    DEFERRED,
    ANSWERED,
    OVER,
    LATE_SENT,
    LATE_SEEN,
    LATE_DEFERRED,
    LATE_ANSWERED,
    CANCELLED,
    GONE,
    STATES,
    BETWEEN = STATES /* nothing of the kind, or not yet */
};

enum event {
    READ,
    EXPIRED,
    REPLY,
    FAIL,
    MORE,
    DEFER,
    RETURN,
    COMPLETE,
    COMPLETE_FAILED,
    COMPLETE_MORE,
    CANCEL,
    DEADLINE,
    CANCEL_READ,
    AWAIT,
    AWAIT_MORE,
    LEAVE,
    KICK,
    STOP,
    KILL,
    EVENTS
};

#define NO_CODE 1 /* no function of ours returns that */

struct row {
    enum state state;
    enum event event;
    const char *name; /* of both */
    enum state after;
    int rc;
    const char *counts; /* NULL: it cannot happen */
};

static const struct row table[] = {
#define CELL(state, event, after, rc, counts) {state, event, #state ", " #event, after, rc, counts},
#define NEVER(state, event, why) {state, event, #state ", " #event, BETWEEN, NO_CODE, NULL},
#include "call_table.h"
};

/* --- what is counted ----------------------------------------------------------------------------------------------- */

static const char *const counter_names[] = {"messages_out",    "unanswered", "deferred",  "cancels",
                                            "answers_dropped", "expired",    "on_cancel", "late_replies"};
#define COUNTERS (sizeof counter_names / sizeof counter_names[0])

struct counts {
    uint64_t of[COUNTERS];
};

/* "this, 2 that" */
static struct counts counts_parse(const char *text)
{
    struct counts counts = {{0}};
    while (*text != '\0') {
        char *name = (char *)text;
        uint64_t times = *text >= '0' && *text <= '9' ? strtoull(text, &name, 10) : 1;
        name += strspn(name, " ");
        size_t length = strcspn(name, ","), i = 0;
        while (i < COUNTERS && (strlen(counter_names[i]) != length || memcmp(counter_names[i], name, length) != 0))
            i++;
        expect(i < COUNTERS);
        counts.of[i] += times;
        text = name + length + strspn(name + length, ", ");
    }
    return counts;
}

/* --- one call ------------------------------------------------------------------------------------------------------ */

struct walk {
    struct puppet puppet;
    belfry_client *client;  /* NULL: it has left */
    belfry_client *witness; /* keeps the lobby mapped, whatever becomes of the server */
    uint64_t id;
    bool gave_up;  /* by cancelling or by running out */
    bool got_last; /* the last answer was handed out */
    bool stopped, killed;

    pthread_t caller; /* for DEADLINE */
    int64_t deadline;
    int caller_rc;
};

static struct counts counts_now(const struct walk *w)
{
    const belfry_counters *c = lobby_counters(&w->witness->shared->lobby, 0);
    return (struct counts){{load_relaxed(&c->messages_out), load_relaxed(&c->unanswered), load_relaxed(&c->deferred),
                            load_relaxed(&c->cancels), load_relaxed(&c->answers_dropped), load_relaxed(&c->expired),
                            load_relaxed(&w->puppet.shared->cancels),
                            w->client != NULL ? belfry_client_late_replies(w->client) : 0}};
}

static uint32_t place(const struct walk *w)
{
    return load_acquire(&w->puppet.shared->place);
}

/* The shard has done all that it had to do, unless a handler stands. */
static void let_it_finish(struct walk *w)
{
    if (!w->killed && place(w) == PUPPET_NOWHERE)
        puppet_order(&w->puppet, PUPPET_BARRIER);
}

/* --- looking: where is it? ----------------------------------------------------------------------------------------- */

static enum state observe_gone(struct walk *w)
{
    bool server = w->killed || load_acquire(&w->puppet.shared->disconnects) > 0;
    bool client = w->client == NULL || place(w) == PUPPET_IN_DISCONNECT || bf_client_end(w->client) < 0;
    return server && client ? GONE : server || (w->client != NULL && client) ? BETWEEN : STATES + 1;
}

static enum state observe(struct walk *w)
{
    const struct puppet_shared *s = w->puppet.shared;
    enum state gone = observe_gone(w);
    if (gone <= BETWEEN)
        return gone;
    const belfry_counters *counters = lobby_counters(&w->witness->shared->lobby, 0);
    bool told = load_relaxed(&counters->cancels) > 0;
    if (w->gave_up && !told && w->client != NULL && w->client->late_count != 1)
        return BETWEEN;
    if (load_relaxed(&s->calls) == 0 && load_relaxed(&counters->expired) == 0)
        return w->gave_up ? LATE_SENT : SENT;
    if (load_relaxed(&s->open))
        return w->gave_up ? LATE_SEEN : SEEN;
    switch (load_relaxed(&s->deferred) ? puppet_order(&w->puppet, PUPPET_STATUS) : BELFRY_EANSWERED) {
    case 0:
        return told ? BETWEEN : w->gave_up ? LATE_DEFERRED : DEFERRED;
    case -ECANCELED:
        return CANCELLED;
    case BELFRY_EANSWERED:
        break;
    default:
        return BETWEEN;
    }
    if (w->gave_up)
        return told ? OVER : LATE_ANSWERED;
    if (w->got_last)
        return OVER;
    return w->client != NULL && !ring_is_empty(&w->client->in) ? ANSWERED : BETWEEN;
}

static void expect_state(struct walk *w, enum state wanted, const char *what)
{
    if (!eventually(observe(w) == wanted))
        expect_failed("%s: it is in state %d and not in %d", what, observe(w), wanted);
}

/* --- driving it into a state --------------------------------------------------------------------------------------- */

static bool is_for_handler(enum event e)
{
    return e >= REPLY && e <= RETURN;
}

static bool is_for_holder(enum event e)
{
    return e == COMPLETE || e == COMPLETE_FAILED || e == COMPLETE_MORE;
}

static void hold(struct walk *w)
{
    expect_rc(belfry_send_one_way(w->client, PUPPET_HOLD, 1), 0);
    puppet_await(&w->puppet, PUPPET_IN_HOLD);
}

static void do_return(struct walk *w)
{
    expect_eq(puppet_command(&w->puppet, PUPPET_RETURN), 0);
}

static void give_up(struct walk *w)
{
    expect_rc(belfry_cancel(w->client, w->id), 0);
    w->gave_up = true;
}

static void *call_until_deadline(void *context)
{
    struct walk *w = context;
    belfry_message m;
    w->caller_rc = belfry_call(w->client, PUPPET_CALL, 1, &m, w->deadline);
    return NULL;
}

static void to_sent(struct walk *w, enum event e)
{
    hold(w);
    if (e == DEADLINE)
        return; /* the call itself is the event, and the shard will not see it */
    for (int i = 1; i < PUPPET_TURN_MAX && e == STOP; i++) /* the stop comes before its turn */
        expect_rc(belfry_send_one_way(w->client, PUPPET_FILLER, 1), 0);
    int64_t deadline = e == EXPIRED ? 1 : BELFRY_FOREVER;
    expect_rc(belfry_send_until(w->client, PUPPET_CALL, 1, deadline, &w->id), 0);
}

static void to_seen(struct walk *w, enum event e)
{
    if (e == DEADLINE)
        expect_eq(pthread_create(&w->caller, NULL, call_until_deadline, w), 0);
    else
        expect_rc(belfry_send(w->client, PUPPET_CALL, 1, &w->id), 0);
    puppet_await(&w->puppet, PUPPET_IN_CALL);
    if (e == AWAIT_MORE)
        expect_rc(puppet_command(&w->puppet, PUPPET_REPLY_MORE), 0);
}

static void to_deferred(struct walk *w, enum event e)
{
    to_seen(w, e);
    expect_rc(puppet_command(&w->puppet, PUPPET_DEFER), 0);
}

/* The handler of it stands, unless the event needs a ticket. */
static void to_answered(struct walk *w, enum event e)
{
    if (is_for_holder(e)) {
        to_deferred(w, e);
        do_return(w);
        expect_rc(puppet_order(&w->puppet, PUPPET_COMPLETE), 0);
        expect(eventually(!ring_is_empty(&w->client->in)));
    } else {
        to_seen(w, e);
        expect_rc(puppet_command(&w->puppet, PUPPET_REPLY), 0);
    }
}

static void take_answer(struct walk *w)
{
    belfry_message m;
    expect_rc(belfry_await(w->client, w->id, &m, server_fixture_patience()), 0);
    belfry_release(w->client, &m);
    w->got_last = true;
}

static void to_cancelled(struct walk *w, enum event e)
{
    to_deferred(w, e);
    do_return(w);
    give_up(w);
    expect(eventually(load_relaxed(&w->puppet.shared->cancels) == 1));
    if (is_for_handler(e) || e == KICK)
        hold(w);
}

static void to_gone(struct walk *w, enum event e)
{
    to_deferred(w, e);
    expect_rc(puppet_command(&w->puppet, PUPPET_KICK), 0);
    bool in_goodbyes = is_for_handler(e) || e == KICK;
    store_relaxed(&w->puppet.shared->stop_in_goodbyes, in_goodbyes);
    do_return(w);
    if (in_goodbyes)
        puppet_await(&w->puppet, PUPPET_IN_DISCONNECT);
}

static void drive(struct walk *w, enum state state, enum event e)
{
    bool by_itself = e == CANCEL_READ || is_for_holder(e); /* no handler of the call stands any more */
    switch (state) {
    case SENT:
    case LATE_SENT:
        to_sent(w, e);
        break;
    case SEEN:
    case LATE_SEEN:
        to_seen(w, e);
        break;
    case DEFERRED:
    case LATE_DEFERRED:
        to_deferred(w, e);
        if (is_for_holder(e) ? state == DEFERRED : e == CANCEL_READ)
            do_return(w);
        break;
    case ANSWERED:
    case OVER:
    case LATE_ANSWERED:
        to_answered(w, e);
        if (e == CANCEL_READ)
            do_return(w);
        if (state == OVER)
            take_answer(w);
        break;
    case CANCELLED:
        to_cancelled(w, e);
        break;
    case GONE:
        to_gone(w, e);
        break;
    default:
        expect(!"a state");
    }
    if (state >= LATE_SENT && state <= LATE_ANSWERED) {
        if (by_itself && place(w) == PUPPET_NOWHERE)
            hold(w);
        give_up(w);
    }
}

/* --- the events ---------------------------------------------------------------------------------------------------- */

static int await(struct walk *w, enum event e)
{
    belfry_message m;
    int rc = belfry_await(w->client, w->id, &m, 0);
    if (rc == 0) {
        expect_eq(m.kind, BELFRY_REPLY);
        expect_eq(m.flags, e == AWAIT_MORE ? BELFRY_MORE : 0);
        const char *said = e == AWAIT_MORE ? "part" : "whole";
        expect(m.size == strlen(said) && memcmp(m.data, said, m.size) == 0);
        w->got_last = m.flags == 0;
        belfry_release(w->client, &m);
    }
    return rc;
}

static int run_out(struct walk *w, enum state state)
{
    if (state == SENT) {
        w->deadline = belfry_in_ms(20);
        call_until_deadline(w);
    } else {
        pthread_join(w->caller, NULL);
    }
    w->gave_up = true;
    return w->caller_rc;
}

static int command(struct walk *w, enum puppet_command c)
{
    return puppet_command(&w->puppet, c);
}

static int fire(struct walk *w, enum state state, enum event e)
{
    int rc = NO_CODE;
    switch (e) {
    case REPLY:
        return command(w, PUPPET_REPLY);
    case FAIL:
        return command(w, PUPPET_FAIL);
    case MORE:
        return command(w, PUPPET_REPLY_MORE);
    case DEFER:
        return command(w, PUPPET_DEFER);
    case COMPLETE:
        return puppet_order(&w->puppet, PUPPET_COMPLETE);
    case COMPLETE_FAILED:
        return puppet_order(&w->puppet, PUPPET_COMPLETE_FAILED);
    case COMPLETE_MORE:
        return puppet_order(&w->puppet, PUPPET_COMPLETE_MORE);
    case CANCEL:
        rc = belfry_cancel(w->client, w->id);
        w->gave_up |= rc == 0;
        return rc;
    case DEADLINE:
        return run_out(w, state);
    case AWAIT:
    case AWAIT_MORE:
        return await(w, e);
    case READ:
        do_return(w);
        puppet_await(&w->puppet, PUPPET_IN_CALL);
        return rc;
    case EXPIRED:
    case RETURN:
    case CANCEL_READ:
        do_return(w);
        return rc;
    case LEAVE:
        belfry_close(w->client);
        w->client = NULL;
        break;
    case KICK:
        expect_eq(command(w, PUPPET_KICK), 0);
        break;
    case STOP:
        expect_eq(puppet_order(&w->puppet, PUPPET_STOP), 0);
        w->stopped = true;
        break;
    case KILL:
        puppet_kill(&w->puppet);
        w->killed = true;
        return rc;
    default:
        expect(!"an event");
    }
    if (place(w) != PUPPET_NOWHERE) /* and the handler returns */
        do_return(w);
    return rc;
}

/* --- afterwards everybody finds an end ----------------------------------------------------------------------------- */

static void settle_server(struct walk *w)
{
    if (w->killed)
        return;
    for (let_it_finish(w); place(w) != PUPPET_NOWHERE; let_it_finish(w))
        do_return(w);
    if (!load_relaxed(&w->puppet.shared->deferred))
        return;
    int worth = puppet_order(&w->puppet, PUPPET_STATUS);
    expect_eq(puppet_order(&w->puppet, PUPPET_COMPLETE), worth);
    int twice = puppet_order(&w->puppet, PUPPET_COMPLETE);
    /* Once the shard has closed its mailbox there is nobody to give the ticket back to. */
    expect(twice == BELFRY_EANSWERED || (w->stopped && twice == worth));
}

static void settle_client(struct walk *w, enum state state)
{
    belfry_message m;
    int rc;
    int64_t deadline = server_fixture_patience();
    if (state == GONE) {
        while ((rc = belfry_receive(w->client, &m, deadline)) == 0)
            belfry_release(w->client, &m);
        expect_rc(rc, BELFRY_EGONE);
    } else if (!w->gave_up && !w->got_last) {
        bool more = true;
        while (more && (rc = belfry_await(w->client, w->id, &m, deadline)) == 0) {
            more = (m.flags & BELFRY_MORE) != 0;
            belfry_release(w->client, &m);
        }
        expect(belfry_now_ns() < deadline);
        expect(rc == 0 || rc == BELFRY_EUNANSWERED || rc == BELFRY_EUSER || rc == -ETIMEDOUT);
    } else {
        expect_rc(belfry_call(w->client, PUPPET_ECHO, 1, &m, deadline), 0);
        belfry_release(w->client, &m);
        expect_eq(w->client->late_count, 0);
        expect_rc(belfry_await(w->client, w->id, &m, 0), -ETIMEDOUT);
    }
}

static void settle(struct walk *w, enum state state)
{
    settle_server(w);
    if (w->client != NULL)
        settle_client(w, state);
    belfry_close(w->client);
    belfry_close(w->witness);
    puppet_end(&w->puppet);
}

/* --- the walk ------------------------------------------------------------------------------------------------------ */

/* False: `patience_ms` were over before the state was reached (DEADLINE alone). */
static bool walk_row(const struct row *row, int64_t patience_ms)
{
    struct walk w = {.id = 1};
    puppet_start(&w.puppet);
    w.witness = server_fixture_connect();
    w.client = server_fixture_connect();
    w.deadline = belfry_in_ms(patience_ms);
    drive(&w, row->state, row->event);
    if (row->event != DEADLINE) {
        expect_state(&w, row->state, row->name);
    } else if (row->state != SENT && belfry_now_ns() >= w.deadline) {
        run_out(&w, row->state);
        settle(&w, BETWEEN);
        return false;
    }
    let_it_finish(&w);
    struct counts before = counts_now(&w), wanted = counts_parse(row->counts);

    int rc = fire(&w, row->state, row->event);
    if (rc != row->rc)
        expect_failed("%s: the code is %d and not %d", row->name, rc, row->rc);
    expect_state(&w, row->after, row->name);
    let_it_finish(&w);
    expect_state(&w, row->after, row->name);
    struct counts after = counts_now(&w);
    for (size_t i = 0; i < COUNTERS && (w.client != NULL || i < COUNTERS - 1); i++)
        if (after.of[i] - before.of[i] != wanted.of[i])
            expect_failed("%s: %s grew by %llu and not by %llu", row->name, counter_names[i],
                          (unsigned long long)(after.of[i] - before.of[i]), (unsigned long long)wanted.of[i]);
    settle(&w, row->after);
    return true;
}

static void walk_state(enum state state)
{
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        for (int64_t patience_ms = 50; table[i].state == state && table[i].counts != NULL; patience_ms *= 4)
            if (walk_row(&table[i], patience_ms))
                break;
}

TestSuite(call, .timeout = 120);

Test(call, has_one_row_for_each_event_in_each_state)
{
    unsigned rows[STATES][EVENTS] = {{0}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        rows[table[i].state][table[i].event]++;
    for (int state = 0; state < STATES; state++)
        for (int event = 0; event < EVENTS; event++)
            expect_eq(rows[state][event], 1);
}

#define WALK(state, name)  \
    Test(call, name)       \
    {                      \
        walk_state(state); \
    }

WALK(SENT, that_is_sent)
WALK(SEEN, that_is_seen)
WALK(DEFERRED, that_is_deferred)
WALK(ANSWERED, that_is_answered)
WALK(OVER, that_is_over)
WALK(LATE_SENT, that_is_given_up_before_it_is_seen)
WALK(LATE_SEEN, that_is_given_up_in_its_handler)
WALK(LATE_DEFERRED, that_is_given_up_while_it_is_deferred)
WALK(LATE_ANSWERED, that_is_given_up_beside_its_answer)
WALK(CANCELLED, that_is_cancelled)
WALK(GONE, whose_conn_is_over)

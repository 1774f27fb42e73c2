/* SPDX-License-Identifier: MIT */
/* client.c: every call of a client that can fail does. */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "expect.h"
#include "scene.h"

/* --- it comes, calls and leaves -------------------------------------------------------------------------------------------- */

static void visit(struct scene *s)
{
    faults_stage("connect");
    if (scene_connect(s, &s->client) < 0)
        return;
    faults_stage("call");
    scene_call(s, s->client, SCENE_ECHO, 300);
    faults_stage("pushes");
    scene_call(s, s->client, SCENE_PUSHES, 100); /* these are kept */
    faults_stage("large calls");
    scene_call(s, s->client, SCENE_ECHO, SCENE_LARGE_BYTES);
    scene_call(s, s->client, SCENE_LARGE, 100);
    faults_stage("close");
    scene_close(s, &s->client);
}

Test(faults, a_client_connects_calls_and_leaves_or_says_why_not)
{
    scene_play(&(struct scene_act){.name = "client", .run = visit, .warm_pool = 1});
}

Test(faults, a_client_of_a_cold_slot_says_why_not)
{
    scene_play(&(struct scene_act){.name = "client, cold", .run = visit});
}

/* --- many in one thread ----------------------------------------------------------------------------------------------------- */

static void attach(struct scene *s)
{
    faults_mark(false);
    if (scene_connect(s, &s->client) < 0 || scene_call(s, s->client, SCENE_ECHO, 10) < 0)
        faults_wrong("at first: %s", belfry_last_error());
}

/* What was sent is answered, or its conn is over: the poller says either. */
static void wait_for_answer(struct scene *s, belfry_poller *p)
{
    uint8_t data[200];
    belfry_poll_event event;
    belfry_message m;
    scene_write(data, SCENE_ECHO, sizeof data);
    if (of_client(belfry_send(s->client, data, sizeof data, NULL)) < 0)
        return;
    for (int64_t deadline = scene_deadline(); belfry_now_ns() < deadline;) {
        int rc = of_client(belfry_poller_wait(p, &event, 1, deadline));
        if (rc < 0)
            continue;
        rc = of_client(belfry_receive(s->client, &m, 0));
        if (rc == 0)
            of_client((belfry_release(s->client, &m), 0));
        if (rc != -ETIMEDOUT && rc != -EAGAIN)
            return;
    }
    if (faults->mode == FAULTS_ONCE)
        faults_wrong("the poller does not say that an answer came");
}

static void poll_clients(struct scene *s)
{
    belfry_poller *p;
    belfry_client *second = NULL;
    faults_stage("a poller");
    if (of_client(belfry_poller_create(&p)) < 0)
        return;
    int rc = of_client(belfry_poller_add(p, s->client, NULL));
    if (rc == 0 && scene_connect(s, &second) == 0)
        of_client(belfry_poller_add(p, second, NULL));
    if (rc == 0) {
        wait_for_answer(s, p);
        of_client(belfry_poller_fd(p));
        wait_for_answer(s, p);
    }
    scene_close(s, &second);
    of_client((belfry_poller_destroy(p), 0));
}

Test(faults, a_poller_works_or_says_why_not)
{
    scene_play(&(struct scene_act){.name = "poller", .before = attach, .run = poll_clients, .warm_pool = 1});
}

static void use_descriptor(struct scene *s)
{
    uint8_t data[100];
    belfry_message m;
    faults_stage("a descriptor");
    int fd = of_client(belfry_client_fd(s->client));
    scene_write(data, SCENE_ECHO, sizeof data);
    if (fd < 0 || of_client(belfry_receive(s->client, &m, 0)) != -ETIMEDOUT ||
        of_client(belfry_send(s->client, data, sizeof data, NULL)) < 0)
        return;
    if (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, FIXTURE_PATIENCE_MS) != 1 && faults->mode == FAULTS_ONCE)
        faults_wrong("the descriptor does not say that an answer came");
    if (of_client(belfry_receive(s->client, &m, 0)) == 0)
        of_client((belfry_release(s->client, &m), 0));
}

Test(faults, a_descriptor_works_or_is_refused)
{
    scene_play(&(struct scene_act){.name = "descriptor", .before = attach, .run = use_descriptor, .warm_pool = 1});
}

/* --- it goes on with the next server ------------------------------------------------------------------------------------------ */

static void attach_faithful(struct scene *s)
{
    belfry_client_options o;
    belfry_client_options_init(&o, sizeof o);
    o.spin = BELFRY_SPIN_POWER;
    o.reconnect.enabled = true;
    o.reconnect.idempotent = true;
    o.reconnect.first_ms = 1;
    o.reconnect.max_ms = 10;
    faults_mark(false);
    if (belfry_connect(&s->client, SCENE_SERVICE, &o) < 0 || scene_call(s, s->client, SCENE_ECHO, 10) < 0)
        faults_wrong("at first: %s", belfry_last_error());
}

/* What may be executed twice is sent again until it is answered. So a call ends otherwise only with the code of what failed in it, or
   at its deadline, while that lasts. */
static int call_faithful(struct scene *s)
{
    int rc = scene_call(s, s->client, SCENE_ECHO, 300);
    bool failed = faults->name != NULL && faults->error_number != EINTR;
    bool may_be = failed && (rc == -faults->error_number || (rc == -ETIMEDOUT && faults->mode != FAULTS_ONCE));
    if (rc < 0 && !may_be)
        faults_wrong("the call ended with %d: %s", rc, belfry_last_error());
    return rc;
}

/* One failure never ends it, and never more than one call. */
static void go_on(struct scene *s)
{
    faults_disarm();
    belfry_close(s->neighbour);
    s->neighbour = NULL;
    belfry_server_destroy(s->server);
    if (belfry_server_create(&s->server, &s->options) < 0)
        faults_wrong("the next server: %s", belfry_last_error());
    for (int rc; (rc = belfry_server_start(s->server)) < 0;)
        if (rc != BELFRY_ENOFILES)
            faults_wrong("the next server: %s", belfry_last_error());
    faults_arm();
    faults_stage("the first call after the server's restart");
    int first = call_faithful(s), second = call_faithful(s);
    if (faults->mode == FAULTS_ONCE && first < 0 && second < 0)
        faults_wrong("one failure ended two calls: %d, %d", first, second);
    faults_disarm();
    if (faults->mode == FAULTS_TO_END)
        return;
    faults_stage("a call after that");
    faults->mode = FAULTS_ONCE; /* it does not last any more: now it has to be answered */
    int rc = scene_call(s, s->client, SCENE_ECHO, 300);
    if (rc < 0)
        faults_wrong("it did not go on: %d: %s", rc, belfry_last_error());
    if (belfry_client_reconnects(s->client) == 0)
        faults_wrong("it says that it has never been without");
}

Test(faults, a_client_that_reconnects_goes_on)
{
    scene_play(&(struct scene_act){.name = "reconnect", .before = attach_faithful, .run = go_on, .warm_pool = 1});
}

/* SPDX-License-Identifier: MIT */
/* server.c: every call of a server that can fail does, in each part of its life. */
#include <errno.h>
#include <string.h>

#include "expect.h"
#include "scene.h"

/* --- it starts --------------------------------------------------------------------------------------------------------- */

Test(faults, a_start_works_or_leaves_nothing_behind)
{
    scene_play(&(struct scene_act){.name = "start", .starts = true, .server_fails = true, .warm_pool = 1});
}

Test(faults, a_start_in_a_loop_of_ones_own_works_or_leaves_nothing_behind)
{
    scene_play(&(struct scene_act){
        .name = "start, own_loop", .starts = true, .server_fails = true, .warm_pool = 1, .own_loop = true});
}

/* --- somebody comes ----------------------------------------------------------------------------------------------------- */

/* Unless something has failed: as many slots are warm and taken as there were, so that all that follows has happened. */
static bool is_quiet(const struct scene *s, unsigned active)
{
    belfry_statistics now = {.size = sizeof now};
    if (faults->name != NULL || belfry_stats(SCENE_SERVICE, NULL, &now) < 0)
        return true;
    return now.total.connections_active == active && now.total.slots_warm == s->options.warm_pool;
}

static void come(struct scene *s)
{
    faults_stage("connect");
    if (scene_connect(s, &s->client) == 0) {
        faults_stage("call");
        scene_call(s, s->client, SCENE_ECHO, 300);
    }
    faults_stage("the neighbour");
    scene_neighbour(s);
    if (!eventually(is_quiet(s, 2)))
        faults_wrong("the next slot is not made");
}

Test(faults, a_client_comes_to_a_warm_slot_or_is_told_why_not)
{
    scene_play(&(struct scene_act){.name = "accept, warm", .run = come, .server_fails = true, .warm_pool = 1});
}

Test(faults, a_client_comes_to_a_cold_slot_or_is_told_why_not)
{
    scene_play(&(struct scene_act){.name = "accept, cold", .run = come, .server_fails = true});
}

/* --- messages ------------------------------------------------------------------------------------------------------------ */

static void attach(struct scene *s)
{
    if (scene_connect(s, &s->client) < 0 || scene_call(s, s->client, SCENE_ECHO, 10) < 0)
        faults_wrong("at first: %s", belfry_last_error());
}

/* Take what has come, whole, until nothing does, or the end. */
static void take_all(struct scene *s, unsigned count)
{
    belfry_message m;
    for (unsigned i = 0; i < count; i++) {
        int rc = of_client(belfry_receive(s->client, &m, belfry_in_ms(faults->name != NULL ? 50 : 10000)));
        if (rc < 0)
            return;
        if (m.status == 0 && !scene_is_whole(m.data, m.size))
            faults_wrong("a push is torn");
        of_client((belfry_release(s->client, &m), 0));
    }
}

static void talk(struct scene *s)
{
    faults_stage("pushes that wait in the outbox");
    scene_call(s, s->client, SCENE_PUSHES, 200);
    scene_neighbour(s);
    take_all(s, SCENE_PUSH_COUNT);
    faults_stage("a large request");
    scene_call(s, s->client, SCENE_ECHO, SCENE_LARGE_BYTES);
    scene_neighbour(s);
    faults_stage("a large reply");
    scene_call(s, s->client, SCENE_LARGE, 100);
    scene_neighbour(s);
}

Test(faults, messages_are_answered_or_the_conn_ends)
{
    scene_play(
        &(struct scene_act){.name = "messages", .before = attach, .run = talk, .server_fails = true, .warm_pool = 1});
}

/* --- from other threads --------------------------------------------------------------------------------------------------- */

static void add_one(void *user)
{
    __atomic_add_fetch((uint32_t *)user, 1, __ATOMIC_RELEASE);
}

/* Every post that was accepted runs. */
static void post(struct scene *s)
{
    static uint32_t ran;
    faults_stage("post");
    int rc = of_server(belfry_post(s->server, 0, add_one, &ran));
    if (rc == 0 && !eventually(__atomic_load_n(&ran, __ATOMIC_ACQUIRE) == 1))
        faults_wrong("what was posted does not run");
}

static void push_from_outside(struct scene *s)
{
    uint8_t data[500];
    scene_write(data, SCENE_ECHO, sizeof data);
    of_server(belfry_push_to(s->server, __atomic_load_n(&s->last, __ATOMIC_ACQUIRE), data, sizeof data));
    of_server(belfry_broadcast(s->server, data, sizeof data));
    take_all(s, 2);
}

/* The ticket, if it came to one, is ended; out of memory, nothing has happened, and it is tried again. */
static bool complete(struct scene *s)
{
    uint8_t data[64];
    scene_write(data, SCENE_DEFER, sizeof data);
    return __atomic_load_n(&s->tickets, __ATOMIC_ACQUIRE) == 1 &&
           of_server(belfry_complete(s->server, &s->ticket, data, sizeof data)) != -ENOMEM;
}

static void defer(struct scene *s)
{
    uint8_t data[64];
    uint64_t id;
    belfry_message m;
    bool completed = false;
    int rc = -ETIMEDOUT;
    scene_write(data, SCENE_DEFER, sizeof data);
    if (of_client(belfry_send(s->client, data, sizeof data, &id)) < 0)
        return;
    for (int64_t deadline = scene_deadline(); rc == -ETIMEDOUT && belfry_now_ns() < deadline;) {
        completed = completed || complete(s);
        rc = of_client(belfry_await(s->client, id, &m, belfry_in_ms(5)));
    }
    if (rc == -ETIMEDOUT && faults->mode == FAULTS_ONCE)
        faults_wrong("a deferred request is not answered");
    if (rc == 0)
        of_client((belfry_release(s->client, &m), 0));
}

static void say_from_outside(struct scene *s)
{
    post(s);
    faults_stage("push_to, broadcast");
    push_from_outside(s);
    faults_stage("defer, complete");
    defer(s);
}

Test(faults, what_other_threads_say_is_said_or_refused)
{
    scene_play(&(struct scene_act){
        .name = "other threads", .before = attach, .run = say_from_outside, .server_fails = true, .warm_pool = 1});
}

/* --- somebody leaves ------------------------------------------------------------------------------------------------------ */

static void leave(struct scene *s)
{
    faults_stage("close");
    scene_close(s, &s->client);
    scene_neighbour(s);
    if (!eventually(is_quiet(s, 1)))
        faults_wrong("the slot does not come back");
    faults_stage("the next one comes");
    come(s);
}

Test(faults, the_slot_of_one_who_leaves_comes_back)
{
    scene_play(
        &(struct scene_act){.name = "release", .before = attach, .run = leave, .server_fails = true, .warm_pool = 1});
}

/* --- the end ---------------------------------------------------------------------------------------------------------------- */

static void end(struct scene *s)
{
    if (of_server(belfry_server_wait(s->server)) < 0)
        faults_wrong("wait: %s", belfry_last_error());
    faults_stage("destroy");
    of_server((belfry_server_destroy(s->server), 0));
    s->server = NULL;
    faults_stage("the neighbour is told");
    uint8_t data[8];
    belfry_message m;
    scene_write(data, SCENE_ECHO, sizeof data);
    int rc = belfry_call(s->neighbour, data, sizeof data, &m, belfry_in_ms(FIXTURE_PATIENCE_MS));
    if (rc != BELFRY_EGONE && rc != BELFRY_EUNREAD)
        faults_wrong("the neighbour was told %d: %s", rc, belfry_last_error());
}

static void stop(struct scene *s)
{
    faults_stage("stop");
    of_server((belfry_server_stop(s->server), 0));
    end(s);
}

static void drain(struct scene *s)
{
    faults_stage("drain");
    of_server(belfry_drain(s->server, BELFRY_FOREVER));
    end(s);
}

Test(faults, a_stop_always_ends)
{
    scene_play(
        &(struct scene_act){.name = "stop", .before = attach, .run = stop, .server_fails = true, .warm_pool = 1});
}

Test(faults, a_drain_always_ends)
{
    scene_play(
        &(struct scene_act){.name = "drain", .before = attach, .run = drain, .server_fails = true, .warm_pool = 1});
}

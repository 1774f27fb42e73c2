/* SPDX-License-Identifier: MIT */
/*
 * Tests of server/lost.c: a server in a child, one of whose shards loses its thread. The process ends by SIGABRT and says
 * why, and the clients of all shards are told.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/order.h"
#include "client/client.h"
#include "expect.h"
#include "server_fixture.h"

TestSuite(lost, .timeout = 120);

static struct server_fixture server;

/* How the thread of a handler ends. */
static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    (void)user;
    switch (*(const char *)m->data) {
    case 'e':
        pthread_exit(NULL);
    case 'c':
        pthread_cancel(pthread_self());
        pthread_testcancel();
        break;
    case 's':
        syscall(SYS_exit, 0);
        break;
    default:
        belfry_reply(conn, m, m->data, m->size);
    }
}

static void prepare(void)
{
    server_fixture_init(&server);
    server.options.on_message = on_message;
    server.options.shards = 2;
    server.options.max_slots = 64;
}

/* --- the server's process ---------------------------------------------------------------------------------------------- */

struct scene {
    int started[2];
    int words[2]; /* its standard error */
    bool waits;   /* its main thread is in belfry_server_wait() */
};

static void start_child(const struct scene *scene)
{
    prctl(PR_SET_DUMPABLE, 0);
    signal(SIGABRT, SIG_DFL);
    dup2(scene->words[1], STDERR_FILENO);
    if (belfry_server_create(&server.server, &server.options) < 0 || belfry_server_start(server.server) < 0)
        _exit(3);
    if (write(scene->started[1], "s", 1) != 1)
        _exit(4);
}

static void serve(void *context)
{
    const struct scene *scene = context;
    start_child(scene);
    while (!scene->waits)
        pause();
    belfry_server_wait(server.server);
    _exit(0);
}

static pid_t begin(struct scene *scene, void (*body)(void *context))
{
    char byte;
    expect(pipe(scene->started) == 0 && pipe(scene->words) == 0);
    pid_t pid = fixture_child(body, scene);
    close(scene->started[1]);
    close(scene->words[1]);
    expect_eq(read(scene->started[0], &byte, 1), 1);
    return pid;
}

/* What it said in its life, which is over. */
static void read_words(const struct scene *scene, char words[2048])
{
    size_t have = 0;
    ssize_t got;
    while ((got = read(scene->words[0], words + have, 2047 - have)) > 0)
        have += (size_t)got;
    words[have] = '\0';
}

static void expect_loud_end(const struct scene *scene, pid_t pid, uint32_t shard)
{
    char words[2048], wanted[64];
    int status = fixture_reap(pid);
    read_words(scene, words);
    snprintf(wanted, sizeof wanted, "the thread of shard %u has ended", shard);
    expect_in(words, wanted);
    expect(WIFSIGNALED(status));
    expect_eq(WTERMSIG(status), SIGABRT);
    fixture_remove_tree(server.root);
}

static void expect_good_end(const struct scene *scene, pid_t pid, const char *wanted)
{
    char words[2048];
    int status = fixture_reap(pid);
    read_words(scene, words);
    expect_eq(status, 0);
    if (wanted != NULL)
        expect_in(words, wanted);
    else
        expect(strstr(words, "has ended") == NULL);
    fixture_remove_tree(server.root);
}

/* --- the clients ------------------------------------------------------------------------------------------------------- */

struct waiter {
    pthread_t thread;
    belfry_client *c;
    int rc;
};

/* Wait for what does not come. */
static void *wait_for_a_push(void *argument)
{
    struct waiter *w = argument;
    belfry_message m;
    w->rc = belfry_receive(w->c, &m, server_fixture_patience());
    return NULL;
}

static void lose_a_shard(const char *how, bool waits)
{
    struct scene scene = {.waits = waits};
    struct waiter other;
    belfry_message m;
    prepare();
    pid_t pid = begin(&scene, serve);
    belfry_client *c = server_fixture_connect();
    do
        other.c = server_fixture_connect();
    while (belfry_client_shard(other.c) == belfry_client_shard(c));
    uint32_t shard = belfry_client_shard(c);
    expect_rc(belfry_call(other.c, "a", 1, &m, server_fixture_patience()), 0);
    belfry_release(other.c, &m);
    pthread_create(&other.thread, NULL, wait_for_a_push, &other);
    expect_rc(belfry_call(c, how, 1, &m, server_fixture_patience()), BELFRY_EGONE);
    pthread_join(other.thread, NULL);
    expect_eq(other.rc, BELFRY_EGONE);
    expect_loud_end(&scene, pid, shard);
}

static void lose_the_only_shard(const char *how, bool waits)
{
    struct scene scene = {.waits = waits};
    belfry_message m;
    prepare();
    server.options.shards = 1;
    pid_t pid = begin(&scene, serve);
    belfry_client *c = server_fixture_connect();
    expect_rc(belfry_call(c, how, 1, &m, server_fixture_patience()), BELFRY_EGONE);
    expect_loud_end(&scene, pid, 0);
}

Test(lost, by_pthread_exit_in_a_handler_ends_the_process)
{
    lose_a_shard("e", true);
}

#if defined(__SANITIZE_ADDRESS__)
#define KNOWS_ADDRESSES true
#elif defined(__has_feature)
#define KNOWS_ADDRESSES __has_feature(address_sanitizer)
#else
#define KNOWS_ADDRESSES false
#endif

Test(lost, by_pthread_cancel_in_a_handler_ends_the_process)
{
    if (KNOWS_ADDRESSES)
        cr_skip_test("AddressSanitizer takes the stack that a cancelled thread has left for one in use, and stops");
    lose_a_shard("c", false);
}

Test(lost, by_the_bare_system_call_is_seen_by_who_waits_for_the_server)
{
    lose_a_shard("s", true);
}

Test(lost, by_the_bare_system_call_is_seen_by_another_shard)
{
    lose_a_shard("s", false);
}

Test(lost, with_nobody_else_to_see_it_is_seen_by_the_thread_itself)
{
    lose_the_only_shard("e", false);
}

Test(lost, by_the_bare_system_call_with_the_only_shard_is_seen_by_who_waits)
{
    lose_the_only_shard("s", true);
}

/* --- threads that own a loop ------------------------------------------------------------------------------------------- */

static void *start_and_leave(void *argument)
{
    start_child(argument);
    for (int i = 0; i < 10; i++)
        belfry_shard_turn(server.server, 0);
    return NULL;
}

static void leave_a_loop(void *context)
{
    pthread_t thread;
    pthread_create(&thread, NULL, start_and_leave, context);
    pthread_join(thread, NULL);
    _exit(0);
}

Test(lost, with_the_thread_of_a_loop_is_said_and_left_to_the_program)
{
    struct scene scene = {.waits = false};
    prepare();
    server.options.own_loop = true;
    server.options.shards = 1;
    expect_good_end(&scene, begin(&scene, leave_a_loop), "the thread of shard 0 has ended");
}

static void *start_and_end(void *argument)
{
    start_child(argument);
    belfry_server *second;
    server.options.service = "second";
    if (belfry_server_create(&second, &server.options) < 0 || belfry_server_start(second) < 0)
        _exit(5);
    for (int i = 0; i < 2; i++) { /* each once, the older first */
        belfry_server *s = i == 0 ? server.server : second;
        belfry_server_stop(s);
        if (belfry_server_wait(s) < 0)
            _exit(6);
    }
    return NULL;
}

static void end_loops(void *context)
{
    pthread_t thread;
    pthread_create(&thread, NULL, start_and_end, context);
    pthread_join(thread, NULL);
    belfry_server_destroy(server.server);
    _exit(0);
}

Test(lost, are_none_that_have_ended_before_their_thread)
{
    struct scene scene = {.waits = false};
    prepare();
    server.options.own_loop = true;
    server.options.shards = 1;
    expect_good_end(&scene, begin(&scene, end_loops), NULL);
}

static void fork_a_loop(void *context)
{
    start_child(context);
    pid_t pid = fork();
    if (pid == 0)
        pthread_exit(NULL); /* its only thread: it exits with 0 */
    int status = fixture_reap(pid);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 7);
}

Test(lost, is_nothing_in_a_forked_child)
{
    struct scene scene = {.waits = false};
    prepare();
    server.options.own_loop = true;
    server.options.shards = 1;
    expect_good_end(&scene, begin(&scene, fork_a_loop), NULL);
}

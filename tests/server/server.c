/* SPDX-License-Identifier: MIT */
/* Tests of server/server.c and instance.c: the life of a server around its shards. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/os.h"
#include "expect.h"
#include "server_fixture.h"

static struct server_fixture server;

TestSuite(server, .timeout = 120);

static void expect_echo(belfry_client *c)
{
    belfry_message m;
    expect_rc(belfry_call(c, "echo", 4, &m, server_fixture_patience()), 0);
    expect_eq(m.size, 4);
    belfry_release(c, &m);
}

static void expect_no_files(void)
{
    char path[2 * FIXTURE_PATH_BYTES];
    snprintf(path, sizeof path, "%s/" FIXTURE_SERVICE, server.root);
    expect_eq(fixture_count_files(path, ""), 0);
}

Test(server, serves_and_leaves_nothing_behind)
{
    server_fixture_init(&server);
    int fds = fixture_count_fds(), threads = fixture_count_files("/proc/self/task", "");
    for (int round = 0; round < 5; round++) {
        server_fixture_start(&server);
        expect(belfry_server_instance(server.server) >= 1);
        belfry_client *c = server_fixture_connect();
        expect_echo(c);
        belfry_close(c);
        belfry_server_stop(server.server);
        expect_rc(belfry_server_wait(server.server), 0);
        expect_eq(belfry_server_instance(server.server), 0);
        belfry_server_destroy(server.server);
        expect_eq(fixture_count_fds(), fds);
        expect(eventually(fixture_count_files("/proc/self/task", "") == threads));
        expect_no_files();
    }
    fixture_remove_tree(server.root);
}

Test(server, says_what_does_not_fit_its_state)
{
    server_fixture_init(&server);
    expect_rc(belfry_server_create(&server.server, &server.options), 0);
    expect_eq(belfry_server_instance(server.server), 0);
    expect_rc(belfry_server_wait(server.server), BELFRY_ESTATE);
    belfry_server_stop(server.server); /* of what does not run yet: it ends as soon as it does */
    expect_rc(belfry_server_run(server.server), 0);
    expect_rc(belfry_server_start(server.server), 0);
    expect_rc(belfry_server_start(server.server), BELFRY_ESTATE);
    belfry_client *c = server_fixture_connect();
    expect_echo(c);
    belfry_close(c);
    belfry_server_stop(server.server);
    belfry_server_stop(server.server);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_rc(belfry_server_wait(server.server), BELFRY_ESTATE);
    expect_rc(belfry_server_start(server.server), 0); /* again */
    c = server_fixture_connect();
    expect_echo(c);
    belfry_close(c);
    server_fixture_stop(&server); /* destroy stops it */
    belfry_server_destroy(NULL);
}

Test(server, copies_its_options)
{
    char name[] = FIXTURE_SERVICE;
    server_fixture_init(&server);
    server.options.service = name;
    expect_rc(belfry_server_create(&server.server, &server.options), 0);
    memset(name, 'x', sizeof name - 1);
    memset(&server.options, 0xee, sizeof server.options);
    expect_rc(belfry_server_start(server.server), 0);
    belfry_client *c = server_fixture_connect();
    expect_echo(c);
    belfry_close(c);
    server_fixture_stop(&server);
}

Test(server, splits_its_slots_over_its_shards)
{
    belfry_client *c[16];
    uint32_t seen[4] = {0};
    server_fixture_init(&server);
    server.options.shards = 4;
    server.options.max_slots = 16;
    server.options.warm_pool = 6;
    server_fixture_start(&server);
    for (int i = 0; i < 16; i++) {
        c[i] = server_fixture_connect();
        expect_eq(belfry_client_slot(c[i]) % 4, belfry_client_shard(c[i]));
        seen[belfry_client_shard(c[i])]++;
        expect_echo(c[i]);
    }
    for (int i = 0; i < 4; i++)
        expect_eq(seen[i], 4);
    belfry_statistics s = {.size = sizeof s};
    expect_rc(belfry_stats(FIXTURE_SERVICE, NULL, &s), 0);
    expect_eq(s.shards, 4);
    expect_eq(s.total.connections_active, 16);
    for (int i = 0; i < 4; i++)
        expect_eq(s.shard[i].connections_active, 4);
    belfry_client *more;
    expect_rc(belfry_connect(&more, FIXTURE_SERVICE, NULL), BELFRY_EFULL);
    for (int i = 0; i < 16; i++)
        belfry_close(c[i]);
    server_fixture_stop(&server);
}

Test(server, serves_more_clients_than_it_keeps_warm_slots_for)
{
    belfry_client *c[8];
    server_fixture_init(&server);
    server.options.warm_pool = 0;
    server_fixture_start(&server);
    for (int i = 0; i < 8; i++) {
        c[i] = server_fixture_connect();
        expect_echo(c[i]);
    }
    expect_eq(server_fixture_counters().slots_made_on_demand, 8);
    for (int i = 0; i < 8; i++)
        belfry_close(c[i]);
    server_fixture_stop(&server);
}

Test(server, starts_and_restarts_whatever_the_umask)
{
    server_fixture_init(&server);
    umask(0777);
    for (int round = 0; round < 2; round++) {
        server_fixture_start(&server);
        belfry_client *c = server_fixture_connect();
        expect_echo(c);
        belfry_close(c);
        belfry_server_destroy(server.server);
    }
    expect_no_files();
    fixture_remove_tree(server.root);
}

/* --- starting that fails -------------------------------------------------------------------------------------------------- */

Test(server, refuses_a_root_that_others_may_enter)
{
    server_fixture_init(&server);
    chmod(server.root, 0755);
    expect_rc(belfry_server_create(&server.server, &server.options), 0);
    expect_rc(belfry_server_start(server.server), BELFRY_EROOT);
    chmod(server.root, 0700);
    expect_rc(belfry_server_start(server.server), 0); /* start may be tried again */
    server_fixture_stop(&server);
}

Test(server, refuses_a_root_that_is_not_on_tmpfs)
{
    char path[] = "/var/tmp/belfry-unit-XXXXXX";
    bool tmpfs = true;
    uint64_t bytes;
    server_fixture_init(&server);
    if (mkdtemp(path) == NULL)
        cr_skip_test("/var/tmp cannot be written");
    int dir = bf_os_open_dir(BF_OS_CWD, path);
    bf_os_space(dir, &tmpfs, &bytes);
    bf_os_close(dir);
    if (tmpfs) {
        rmdir(path);
        cr_skip_test("/var/tmp is on tmpfs, too");
    }
    server.options.root = path;
    expect_rc(belfry_server_create(&server.server, &server.options), 0);
    expect_rc(belfry_server_start(server.server), BELFRY_EROOT);
    expect_in(belfry_last_error(), "tmpfs");
    fixture_remove_tree(path);
    server_fixture_stop(&server);
}

Test(server, takes_stop_signals_for_one_server_of_a_process)
{
    belfry_server *second;
    belfry_server_options o;
    server_fixture_init(&server);
    server.options.stop_signals = true;
    server_fixture_start(&server);
    o = server.options;
    o.service = "second";
    expect_rc(belfry_server_create(&second, &o), 0);
    expect_rc(belfry_server_start(second), BELFRY_EOPTION);
    expect_in(belfry_last_error(), "stop_signals");
    raise(SIGTERM);
    expect_rc(belfry_server_wait(server.server), 0);
    expect_rc(belfry_server_start(second), 0); /* now it may have them */
    raise(SIGINT);
    expect_rc(belfry_server_wait(second), 0);
    belfry_server_destroy(second);
    server_fixture_stop(&server);
}

/* --- instances ------------------------------------------------------------------------------------------------------------------ */

Test(server, replaces_the_one_before_without_a_gap)
{
    belfry_server *second;
    belfry_message m;
    server_fixture_init(&server);
    server_fixture_start(&server);
    belfry_client *old = server_fixture_connect();
    expect_echo(old);
    expect_rc(belfry_server_create(&second, &server.options), 0);
    expect_rc(belfry_server_start(second), 0);
    expect(belfry_server_instance(second) > belfry_server_instance(server.server));
    belfry_client *fresh = server_fixture_connect();
    expect_eq(belfry_client_instance(fresh), belfry_server_instance(second));
    expect_echo(fresh);
    for (int i = 0; i < 10; i++)
        expect_echo(old); /* served until it leaves */
    belfry_close(old);
    expect_rc(belfry_server_wait(server.server), 0); /* and then it ends by itself */
    expect_echo(fresh);
    expect_rc(belfry_call(fresh, "x", 1, &m, server_fixture_patience()), 0);
    belfry_release(fresh, &m);
    belfry_close(fresh);
    belfry_server_destroy(second);
    server_fixture_stop(&server);
}

Test(server, sweeps_the_files_of_the_dead_and_only_those)
{
    char path[2 * FIXTURE_PATH_BYTES];
    server_fixture_init(&server);
    snprintf(path, sizeof path, "%s/" FIXTURE_SERVICE, server.root);
    mkdir(path, 0700);
    static const char *const dirs[] = {"3", "3/segments", "3/shard-0", "9", "keep", "007"};
    for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++) {
        snprintf(path, sizeof path, "%s/" FIXTURE_SERVICE "/%s", server.root, dirs[i]);
        expect_eq(mkdir(path, 0700), 0);
    }
    static const char *const files[] = {"3/lobby", "3/segments/unit_0_send", "3/shard-0/slot_0.lock"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/" FIXTURE_SERVICE "/%s", server.root, files[i]);
        close(open(path, O_CREAT | O_WRONLY, 0600));
    }
    server_fixture_start(&server);
    expect_eq(belfry_server_instance(server.server), 10); /* above every number that is there */
    snprintf(path, sizeof path, "%s/" FIXTURE_SERVICE, server.root);
    expect_eq(fixture_count_files(path, ""), 4); /* 10, current, keep, 007 */
    belfry_client *c = server_fixture_connect();
    expect_echo(c);
    belfry_close(c);
    server_fixture_stop(&server);
}

static void *start_one(void *argument)
{
    belfry_server **s = argument;
    return belfry_server_start(*s) == 0 ? NULL : argument;
}

Test(server, starts_one_after_the_other_when_many_start_at_once)
{
    belfry_server *s[8];
    pthread_t threads[8];
    void *failed;
    server_fixture_init(&server);
    for (int i = 0; i < 8; i++)
        expect_rc(belfry_server_create(&s[i], &server.options), 0);
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, start_one, &s[i]);
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], &failed);
        expect(failed == NULL);
    }
    belfry_client *c = server_fixture_connect();
    expect_echo(c);
    expect_eq(belfry_client_instance(c), 8);
    belfry_close(c);
    for (int i = 0; i < 8; i++)
        belfry_server_destroy(s[i]);
    expect_no_files();
    fixture_remove_tree(server.root);
}

/* --- fork ----------------------------------------------------------------------------------------------------------------------- */

static void live_on(void *context)
{
    (void)context;
    for (;;)
        pause();
}

static void serve_and_fork(void *context)
{
    int *pipes = context;
    server_fixture_start(&server);
    if (fork() == 0) {
        close(pipes[1]);
        live_on(NULL);
    }
    if (write(pipes[1], "x", 1) != 1)
        _exit(1);
    live_on(NULL);
}

/* A child of the server that lives on must not keep the dead server alive. */
Test(server, is_dead_for_everybody_though_a_forked_child_lives)
{
    int pipes[2];
    char ready;
    belfry_client *c;
    server_fixture_init(&server);
    expect_eq(pipe(pipes), 0);
    pid_t pid = fixture_child(serve_and_fork, pipes);
    close(pipes[1]);
    expect_eq(read(pipes[0], &ready, 1), 1);
    belfry_statistics s = {.size = sizeof s};
    expect_rc(belfry_stats(FIXTURE_SERVICE, NULL, &s), 0);
    expect(s.alive);
    char path[64], children[64] = "";
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, pid);
    FILE *file = fopen(path, "r");
    expect(file != NULL && fgets(children, sizeof children, file) != NULL);
    fclose(file);
    pid_t grandchild = atoi(children);
    expect(grandchild > 0);
    fixture_kill(pid);
    expect(eventually(belfry_stats(FIXTURE_SERVICE, NULL, &s) == 0 && !s.alive));
    expect_rc(belfry_connect(&c, FIXTURE_SERVICE, NULL), BELFRY_ENOSERVICE);
    kill(grandchild, SIGKILL);
    fixture_remove_tree(server.root);
}

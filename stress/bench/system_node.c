/* SPDX-License-Identifier: MIT */
/*
 * system_node.c: Node.js, module net, on a Unix socket: what a server and a client in JavaScript cost.
 *
 * Both are scripts in node/ that speak the frames of socket.h and verify as payload.h does. The server's script runs as
 * a child of the process that lab.c has forked for the server, the client's as a child of the client's process; they
 * talk to their parents in lines through two pipes, as the head of each script says. The workloads that the client's
 * script cannot do are done to the server by the C client of system_unix_epoll.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "system_unix_epoll.h"

#ifndef BENCH_NODE_DIR
#define BENCH_NODE_DIR "stress/bench/node"
#endif

#define ARGUMENTS_MAX 8

struct bench_run {
    pid_t pid;
    FILE *says;
    int hears;
};

/* Arguments: the socket, the pattern, then `own`. */
static struct bench_run node_start(const struct bench_setup *setup, const char *script, const char *const *own)
{
    char path[512], socket[256], pattern[256];
    const char *folder = getenv("BENCH_NODE_DIR");
    snprintf(path, sizeof path, "%s/%s", folder != NULL ? folder : BENCH_NODE_DIR, script);
    snprintf(socket, sizeof socket, "%s/%s", setup->folder, setup->address);
    snprintf(pattern, sizeof pattern, "%s/pattern", setup->folder);
    const char *arguments[ARGUMENTS_MAX + 5] = {"node", path, socket, pattern};
    for (int i = 0; i < ARGUMENTS_MAX && own[i] != NULL; i++)
        arguments[4 + i] = own[i];

    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
        bench_die("pipe: %s", strerror(errno));
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        bench_die("fork: %s", strerror(errno));
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(EXIT_FAILURE);
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        execvp("node", (char *const *)arguments);
        fprintf(stderr, "belfry-bench: cannot run node: %s\n", strerror(errno));
        _exit(EXIT_FAILURE);
    }
    close(in[0]);
    close(out[1]);
    return (struct bench_run){.pid = pid, .says = fdopen(out[0], "r"), .hears = in[1]};
}

static bool node_says(struct bench_run *node, char *line, int bytes)
{
    return fgets(line, bytes, node->says) != NULL;
}

static void node_hears(struct bench_run *node, const char *line)
{
    if (write(node->hears, line, strlen(line)) != (ssize_t)strlen(line))
        bench_die("node does not listen: %s", strerror(errno));
}

static bool node_ends(struct bench_run *node)
{
    int status = 0;
    fclose(node->says);
    close(node->hears);
    return waitpid(node->pid, &status, 0) == node->pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* --- server ------------------------------------------------------------------------------------------------------ */

static volatile sig_atomic_t server_stops;
static pid_t server_pid;

/* The script's end ends its output, and that ends serve(). */
static void on_sigterm(int signal)
{
    server_stops = 1;
    kill(server_pid, signal);
}

static void write_pattern(const struct bench_setup *setup)
{
    char path[256];
    snprintf(path, sizeof path, "%s/pattern", setup->folder);
    FILE *file = fopen(path, "w");
    if (file == NULL || fwrite(payload_pattern, sizeof payload_pattern, 1, file) != 1 || fclose(file) != 0)
        bench_die("cannot write %s: %s", path, strerror(errno));
}

static void serve(const struct bench_setup *setup, struct bench_service *service)
{
    char spoil_at[16], line[128];
    uint64_t sunk, bad;
    write_pattern(setup);
    snprintf(spoil_at, sizeof spoil_at, "%u", service->spoil_at);
    struct bench_run node = node_start(setup, "server.mjs", (const char *const[]){spoil_at, NULL});
    server_pid = node.pid;
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_sigterm, .sa_flags = SA_RESTART}, NULL);
    atomic_store(&service->pid, node.pid);
    while (node_says(&node, line, sizeof line)) {
        if (strcmp(line, "ready\n") == 0) {
            service_is_ready(service);
        } else if (sscanf(line, "sunk %" SCNu64 " %" SCNu64, &sunk, &bad) == 2) {
            atomic_store(&service->sunk, sunk);
            atomic_store(&service->sunk_bad, bad);
            node_hears(&node, "\n");
        }
    }
    node_ends(&node);
    if (!server_stops)
        bench_die("node's server has ended");
}

/* --- client ------------------------------------------------------------------------------------------------------ */

static struct bench_run *script_start(const struct bench_setup *setup, const struct bench_task *task)
{
    char connections[16], bytes[16], seconds[32], line[128];
    snprintf(connections, sizeof connections, "%u", task->connections);
    snprintf(bytes, sizeof bytes, "%u", task->bytes);
    snprintf(seconds, sizeof seconds, "%.9f", task->seconds);
    struct bench_run *run = malloc(sizeof *run);
    const char *own[] = {
        task->kind == BENCH_STREAM ? "stream" : "echo",
        connections,
        bytes,
        seconds,
        setup->corrupt_one ? "1" : "0",
        NULL,
    };
    *run = node_start(setup, "client.mjs", own);
    if (!node_says(run, line, sizeof line))
        bench_die("node's client has ended");
    return run;
}

static void script_finish(struct bench_run *run, uint64_t first, struct bench_result *result)
{
    char line[128];
    uint64_t max, value, count;
    snprintf(line, sizeof line, "%" PRIu64 "\n", first);
    node_hears(run, line);
    if (!node_says(run, line, sizeof line) || sscanf(line, "%" SCNu64 " %lf %" SCNd64 " %" SCNu64, &result->messages,
                                                     &result->seconds, &result->cpu_ns, &max) != 4)
        bench_die("node's client has ended");
    while (node_says(run, line, sizeof line) && sscanf(line, "%" SCNu64 " %" SCNu64, &value, &count) == 2)
        for (uint64_t i = 0; i < count; i++)
            histogram_add(result->rtt_ns, value);
    if (strcmp(line, "end\n") != 0)
        bench_die("node's client has ended in the middle of its results");
    if (result->rtt_ns->max < max)
        result->rtt_ns->max = max; /* the script cuts all values but this one */
}

static void script_close(struct bench_run *run)
{
    if (!node_ends(run))
        bench_die("node's client has failed");
    free(run);
}

static const struct bench_script script = {
    .start = script_start,
    .finish = script_finish,
    .close = script_close,
};

const struct bench_system system_node = {
    .name = "node-net",
    .what =
        "Node.js net on a Unix socket, server and client; with many processes or connects, the client of unix-epoll",
    .can_many = true,
    .serve = serve,
    .open = unix_epoll_open,
    .reserve = unix_epoll_reserve,
    .commit = unix_epoll_commit,
    .receive = unix_epoll_receive,
    .release = unix_epoll_release,
    .close = unix_epoll_close,
    .script = &script,
};

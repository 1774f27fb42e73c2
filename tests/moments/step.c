/* SPDX-License-Identifier: MIT */
/*
 * step.c: the cross-check of moments.h: clients of the library as it is shipped, stepped through a send, a receive and a call one
 * instruction at a time, and killed after each of them.
 *
 * A client stops itself where its window begins. The test lets it make n steps, and kills it; for n = 1, 2, 3, ...
 * until it comes to its end alive. A system call is one step.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/client.h"
#include "expect.h"
#include "house.h"
#include "speaker.h"
#include "walk.h"

/* --- the client's process --------------------------------------------------------------------------------------------- */

static void begin_window(void)
{
    raise(SIGSTOP);
}

static void sends(void)
{
    compose(0, LIFE_SAY, 300);
    begin_window();
    must("send", belfry_send_one_way(speaker[0].client, message, 300));
    sent(0);
}

static void receives(void)
{
    belfry_message m;
    ask(0, LIFE_PUSH, 100);
    while (ring_is_empty(&speaker[0].client->in))
        usleep(100);
    begin_window();
    must("receive", belfry_receive(speaker[0].client, &m, patience()));
    belfry_release(speaker[0].client, &m);
}

/* It sleeps until the answer comes. */
static void calls(void)
{
    belfry_message m;
    compose(0, LIFE_ECHO, 64);
    begin_window();
    must("call", belfry_call(speaker[0].client, message, 64, &m, patience()));
    sent(0);
    belfry_release(speaker[0].client, &m);
}

static void leaves(void)
{
    begin_window();
    leave(0);
}

static void live(void *context)
{
    void (*const *body)(void) = context;
    join(0, false);
    call(0, LIFE_ECHO, 64);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit(STATUS_FAILED);
    (*body)();
    _exit(0);
}

/* --- stepping --------------------------------------------------------------------------------------------------------- */

/* May we? In a container perhaps not. */
static bool may_trace(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 ? 0 : 1);
    return fixture_reap(pid) == 0;
}

/* Gives whether it has made so many steps; then it is dead. */
static bool step(pid_t pid, uint64_t steps)
{
    int status = 0;
    expect_eq(waitpid(pid, &status, 0), pid);
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGSTOP)
        expect_failed("the client ended before its window: %s", will->why);
    for (moments->passed = 0; moments->passed < steps; moments->passed++) {
        expect_eq(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
        expect_eq(waitpid(pid, &status, 0), pid);
        if (!WIFSTOPPED(status)) {
            expect_eq(status, 0);
            return false;
        }
        expect_eq(WSTOPSIG(status), SIGTRAP);
    }
    kill(pid, SIGKILL);
    expect_eq(waitpid(pid, &status, 0), pid);
    expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    return true;
}

static bool die_after(struct house *h, void (*body)(void), uint64_t steps)
{
    memset(will, 0, sizeof *will);
    speaker[0] = (struct speaker){.life = house_life(h)};
    bool died = step(fixture_child(live, &body), steps);
    house_expect_service(h);
    house_expect_as_before(h, steps);
    house_expect_heard(h, steps);
    return died;
}

static void dies_at_each_instruction(const char *name, void (*body)(void))
{
    struct house h;
    struct walk walk;
    if (!may_trace())
        cr_skip_test("a process may not trace its own child here");
    will_open();
    house_open(&h, HOUSE_SLOTS, HOUSE_GRACE_MS);
    house_expect_service(&h);
    house_remember(&h);
    walk_begin(&walk, name, 64);
    while (walk_on(&walk))
        walk_result(&walk, die_after(&h, body, walk.fatal));
    walk_end(&walk);
    house_close(&h);
}

Test(client_dies, at_each_instruction_of_a_send)
{
    dies_at_each_instruction("steps of a send", sends);
}

Test(client_dies, at_each_instruction_of_a_receive)
{
    dies_at_each_instruction("steps of a receive", receives);
}

Test(client_dies, at_each_instruction_of_a_call)
{
    dies_at_each_instruction("steps of a call", calls);
}

Test(client_dies, at_each_instruction_of_its_leaving)
{
    dies_at_each_instruction("steps of a close", leaves);
}

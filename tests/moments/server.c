/* SPDX-License-Identifier: MIT */
/*
 * server.c: servers that die at every moment of what a server does (moments.h), one process for each moment.
 *
 * The client lives on in the test's process. Whatever it waits for, it is told of the death; nothing that it got was torn. The
 * next start needs nobody's help and leaves nothing of the dead instance behind.
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "expect.h"
#include "life.h"
#include "server_fixture.h"
#include "start.h"
#include "walk.h"

#define TOLD_MS_MAX 5000 /* 1 s is the first of a client's own time-outs; the rest is for a loaded machine */
#define TALK 0u          /* the client that arms, and stays */
#define GUEST 1u         /* one that comes and goes */

/* --- the server's process --------------------------------------------------------------------------------------------- */

enum end { END_NOT_YET, END_STOP, END_DRAIN };

/* What server and test know of each other. */
struct stage {
    uint64_t instance; /* the server's; 0: it has not started */
    enum end end;      /* wanted */
    int rc;            /* its start failed */
    char why[256];
};

struct act {
    void (*before)(void); /* what the client does before the server is armed; optional */
    int (*body)(void);    /* and after; ends with the first code below 0 */
    enum end end;
    uint32_t warm_pool;
    bool at_start; /* the server is armed when it begins, or else by a message, ... */
    bool at_end;   /* ... or else when it is asked to end */
};

struct run {
    const struct act *act;
    uint64_t fatal;
    const belfry_server_options *options;
};

static struct stage *stage;
static struct life_witness *witness;

static void serve(void *context)
{
    const struct run *run = context;
    belfry_server *s;
    if (run->act->at_start)
        moments_arm(run->fatal);
    int rc = belfry_server_create(&s, run->options);
    if (rc == 0)
        rc = belfry_server_start(s);
    if (rc < 0) {
        snprintf(stage->why, sizeof stage->why, "%s", belfry_last_error());
        __atomic_store_n(&stage->rc, rc, __ATOMIC_RELEASE);
        _exit(2);
    }
    __atomic_store_n(&stage->instance, belfry_server_instance(s), __ATOMIC_RELEASE);
    while (__atomic_load_n(&stage->end, __ATOMIC_ACQUIRE) == END_NOT_YET)
        usleep(100);
    if (run->act->at_end)
        moments_arm(run->fatal);
    if (stage->end == END_DRAIN)
        belfry_drain(s, BELFRY_FOREVER);
    else
        belfry_server_stop(s);
    rc = belfry_server_wait(s);
    belfry_server_destroy(s);
    _exit(rc < 0 ? 3 : 0);
}

/* --- its client ------------------------------------------------------------------------------------------------------- */

struct speaker {
    uint64_t life;
    belfry_client *client;
    uint32_t said;
};

static struct speaker speaker[2];
static uint64_t message[LIFE_BYTES_MAX / 8];
static uint64_t lives;

static int join(unsigned who)
{
    belfry_client_options o;
    belfry_client_options_init(&o, sizeof o);
    o.spin = BELFRY_SPIN_POWER;
    o.deadline_ns = server_fixture_patience();
    speaker[who] = (struct speaker){.life = ++lives};
    expect(lives < LIVES_MAX);
    return belfry_connect(&speaker[who].client, FIXTURE_SERVICE, &o);
}

static int leave(unsigned who)
{
    belfry_close(speaker[who].client);
    speaker[who].client = NULL;
    return 0;
}

static int ask(unsigned who, enum life_wish wish, size_t bytes)
{
    life_write(message, speaker[who].life, ++speaker[who].said, wish, bytes);
    return belfry_send(speaker[who].client, message, bytes, NULL);
}

/* The next message is whole, of that life, and what it should be. */
static int hear(unsigned who, enum life_wish wish, uint32_t number)
{
    belfry_message m;
    struct life_word word;
    int rc = belfry_receive(speaker[who].client, &m, server_fixture_patience());
    if (rc < 0)
        return rc;
    expect_eq(m.status, 0);
    if (!life_read(m.data, m.size, &word) || word.life != speaker[who].life || word.wish != (uint32_t)wish ||
        word.number != number)
        expect_failed("what came is torn, or not the next");
    belfry_release(speaker[who].client, &m);
    return 0;
}

static int call(unsigned who, enum life_wish wish, size_t bytes)
{
    int rc = ask(who, wish, bytes);
    return rc < 0 ? rc : hear(who, wish, speaker[who].said);
}

/* Nothing will be said any more, and it is told so: by its end, or by the server's death. */
static int wait_for_end(unsigned who)
{
    belfry_message m;
    int rc = belfry_receive(speaker[who].client, &m, server_fixture_patience());
    if (rc == 0)
        expect_failed("a message that nobody had asked for");
    return rc;
}

/* --- one death ------------------------------------------------------------------------------------------------------ */

struct theatre {
    struct server_fixture f;
    const struct act *act;
    int64_t told_ms; /* the longest time from a death to the client that was told */
};

static bool has_died(void)
{
    return __atomic_load_n(&moments->died_ns, __ATOMIC_ACQUIRE) != 0;
}

static bool has_started(void)
{
    return __atomic_load_n(&stage->instance, __ATOMIC_ACQUIRE) != 0;
}

static bool has_failed(void)
{
    return __atomic_load_n(&stage->rc, __ATOMIC_ACQUIRE) < 0;
}

static pid_t fork_server(const struct run *run)
{
    expect(soon(start_has_room()));
    stage->instance = 0;
    stage->rc = 0;
    pid_t server = fixture_child(serve, (void *)run);
    if (!soon(has_started() || has_died() || has_failed()))
        expect_failed("a server neither starts nor dies");
    return server;
}

/* A server in a process of its own, which has started, or has died on its way. */
static pid_t begin(const struct run *run)
{
    pid_t server = fork_server(run);
    for (int tries = 0; has_failed() && stage->rc == BELFRY_ENOFILES && tries < START_TRIES; tries++) {
        fixture_reap(server); /* others were quicker */
        server = fork_server(run);
    }
    if (has_failed())
        expect_failed("moment %llu: the start failed: %s", (unsigned long long)moments->fatal, stage->why);
    return server;
}

/* The client got that code. If it is bad news, they are true, and they came soon. */
static void expect_news(struct theatre *t, int rc, bool ends)
{
    if (rc >= 0)
        return;
    int64_t now = belfry_now_ns(), died = __atomic_load_n(&moments->died_ns, __ATOMIC_ACQUIRE);
    if (died == 0 && ends)
        return;
    if (died == 0 || (rc != BELFRY_EGONE && rc != BELFRY_ENOSERVICE))
        expect_failed("moment %llu: %s, and the server is %s", (unsigned long long)moments->fatal, belfry_last_error(),
                      died == 0 ? "alive" : "dead");
    t->told_ms = (now - died) / 1000000 > t->told_ms ? (now - died) / 1000000 : t->told_ms;
    expect(t->told_ms <= TOLD_MS_MAX);
}

/* The names below the service's directory, without the lock that starting servers take turns with. */
static void list(const struct server_fixture *f, char names[512])
{
    char path[FIXTURE_PATH_BYTES + 16];
    snprintf(path, sizeof path, "%s/" FIXTURE_SERVICE, f->root);
    DIR *dir = opendir(path);
    names[0] = '\0';
    if (dir == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && strcmp(entry->d_name, ".start") != 0)
            snprintf(names + strlen(names), 512 - strlen(names), "[%.60s]", entry->d_name);
    closedir(dir);
}

static void expect_nothing_left(const struct theatre *t)
{
    char names[512];
    list(&t->f, names);
    if (names[0] != '\0')
        expect_failed("moment %llu: after a clean end there is %s", (unsigned long long)moments->fatal, names);
}

/* The next start: it serves, and of the dead instance there is nothing. */
static void start_again(struct theatre *t)
{
    char names[512], one[64], other[64];
    t->f.options.warm_pool = t->act->warm_pool;
    start_patiently(&t->f);
    expect_rc(join(GUEST), 0);
    expect_rc(call(GUEST, LIFE_ECHO, 100), 0);
    leave(GUEST);
    list(&t->f, names);
    unsigned long long instance = belfry_server_instance(t->f.server);
    snprintf(one, sizeof one, "[current][%llu]", instance);
    snprintf(other, sizeof other, "[%llu][current]", instance);
    if (strcmp(names, one) != 0 && strcmp(names, other) != 0)
        expect_failed("moment %llu: beside instance %llu there is %s", (unsigned long long)moments->fatal, instance,
                      names);
    belfry_server_destroy(t->f.server);
    t->f.server = NULL;
    expect_nothing_left(t);
}

/* What the client does while the server lives or dies. */
static void play(struct theatre *t, uint64_t fatal)
{
    const struct act *act = t->act;
    int rc = join(TALK);
    if (rc == 0 && act->before != NULL)
        act->before();
    if (rc == 0 && !act->at_start && !act->at_end)
        rc = call(TALK, LIFE_ARM, LIFE_BYTES_MIN + fatal);
    if (rc == 0)
        rc = act->body();
    expect_news(t, rc, false);
    if (act->end == END_NOT_YET)
        return;
    __atomic_store_n(&stage->end, act->end, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < 2 && rc == 0; i++)
        if (speaker[i].client != NULL)
            expect_news(t, wait_for_end(i), true);
}

static bool die_at(struct theatre *t, uint64_t fatal)
{
    struct run run = {.act = t->act, .fatal = fatal, .options = &t->f.options};
    char why[64];
    *stage = (struct stage){.instance = 0};
    memset(speaker, 0, sizeof speaker);
    moments->died_ns = 0;
    moments->fatal = fatal;
    t->f.options.warm_pool = t->act->warm_pool;
    pid_t server = begin(&run);
    if (has_started())
        play(t, fatal);
    if (stage->end == END_NOT_YET)
        __atomic_store_n(&stage->end, END_STOP, __ATOMIC_RELEASE);
    int status = fixture_reap(server);
    bool died = has_died();
    snprintf(why, sizeof why, "moment %llu: status %x", (unsigned long long)fatal, (unsigned)status);
    if (died ? !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL : status != 0)
        expect_failed("%s", why);
    if (died) {
        for (unsigned i = 0; i < 2; i++)
            if (speaker[i].client != NULL)
                expect_rc(ask(i, LIFE_ECHO, 64), BELFRY_EGONE);
        expect_rc(join(GUEST), BELFRY_ENOSERVICE);
        start_again(t);
    } else {
        expect_nothing_left(t);
    }
    leave(TALK);
    leave(GUEST);
    if (life_violation(witness) != NULL)
        expect_failed("moment %llu: %s", (unsigned long long)fatal, life_violation(witness));
    return died;
}

static void open_theatre(struct theatre *t)
{
    moments_open();
    witness = life_witness_new();
    stage = mmap(NULL, sizeof *stage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    server_fixture_init(&t->f);
    life_serve(&t->f.options, witness);
    t->f.options.max_slots = 4;
    t->f.options.message_bytes_max = LIFE_BYTES_MAX;
    t->f.options.spin = BELFRY_SPIN_POWER;
}

static void server_dies(const char *name, const struct act *act)
{
    struct theatre t = {.act = act};
    struct walk walk;
    open_theatre(&t);
    walk_begin(&walk, name, 8);
    while (walk_on(&walk))
        walk_result(&walk, die_at(&t, walk.fatal));
    walk_end(&walk);
    printf("%s: clients were told within %lld ms\n", name, (long long)t.told_ms);
    fflush(stdout);
    server_fixture_stop(&t.f);
}

/* --- what a server does ------------------------------------------------------------------------------------------------- */

static int talks(void)
{
    return call(TALK, LIFE_ECHO, 200);
}

Test(server_dies, while_it_starts)
{
    const struct act act = {.body = talks, .at_start = true, .warm_pool = 1};
    server_dies("start", &act);
}

static int guest_comes(void)
{
    int rc = join(GUEST);
    return rc < 0 ? rc : call(GUEST, LIFE_ECHO, 100);
}

Test(server_dies, while_it_accepts_in_a_warm_slot)
{
    const struct act act = {.body = guest_comes, .warm_pool = 2};
    server_dies("accept, warm", &act);
}

Test(server_dies, while_it_makes_a_slot_and_accepts)
{
    const struct act act = {.body = guest_comes, .warm_pool = 0};
    server_dies("accept, cold", &act);
}

static int is_answered(void)
{
    int rc = call(TALK, LIFE_ECHO, 300);
    return rc < 0 ? rc : call(TALK, LIFE_ECHO, 900);
}

Test(server_dies, while_it_answers)
{
    const struct act act = {.body = is_answered, .warm_pool = 1};
    server_dies("reply in the ring", &act);
}

static int is_answered_more(void)
{
    int rc = ask(TALK, LIFE_MORE, 500);
    for (uint32_t i = 1; i <= LIFE_MORE_COUNT && rc == 0; i++)
        rc = hear(TALK, LIFE_MORE, i);
    return rc < 0 ? rc : hear(TALK, LIFE_MORE, speaker[TALK].said);
}

Test(server_dies, while_answers_wait_in_its_outbox)
{
    const struct act act = {.body = is_answered_more, .warm_pool = 1};
    server_dies("reply in the outbox", &act);
}

static int is_answered_large(void)
{
    return call(TALK, LIFE_LARGE, 100);
}

Test(server_dies, while_a_large_answer_leaves)
{
    const struct act act = {.body = is_answered_large, .warm_pool = 1};
    server_dies("large reply", &act);
}

static int sends_large(void)
{
    int rc = ask(TALK, LIFE_ECHO, 9000);
    return rc < 0 ? rc : hear(TALK, LIFE_ECHO, speaker[TALK].said);
}

Test(server_dies, while_a_large_request_arrives)
{
    const struct act act = {.body = sends_large, .warm_pool = 1};
    server_dies("large request", &act);
}

static int is_pushed(void)
{
    int rc = ask(TALK, LIFE_PUSH, 400);
    if (rc == 0)
        rc = hear(TALK, LIFE_PUSH, speaker[TALK].said);
    return rc < 0 ? rc : hear(TALK, LIFE_PUSH, speaker[TALK].said);
}

Test(server_dies, while_it_pushes)
{
    const struct act act = {.body = is_pushed, .warm_pool = 1};
    server_dies("push", &act);
}

static void guest_is_there(void)
{
    expect_rc(guest_comes(), 0);
}

static bool alone(void)
{
    belfry_statistics s = {.size = sizeof s};
    return belfry_stats(FIXTURE_SERVICE, NULL, &s) < 0 || !s.alive ||
           (s.total.connections_active == 1 && s.total.slots_warm == s.warm_pool);
}

static int guest_leaves(void)
{
    leave(GUEST);
    expect(soon(alone()));
    return talks();
}

Test(server_dies, while_a_client_leaves_a_slot_that_is_warmed_again)
{
    const struct act act = {.before = guest_is_there, .body = guest_leaves, .warm_pool = 2};
    server_dies("release, warm", &act);
}

Test(server_dies, while_a_client_leaves_a_slot_that_gets_cold)
{
    const struct act act = {.before = guest_is_there, .body = guest_leaves, .warm_pool = 0};
    server_dies("release, cold", &act);
}

static void talks_first(void)
{
    expect_rc(talks(), 0);
}

static int nothing(void)
{
    return 0;
}

Test(server_dies, while_it_stops)
{
    const struct act act = {.before = talks_first, .body = nothing, .end = END_STOP, .at_end = true, .warm_pool = 2};
    server_dies("stop", &act);
}

Test(server_dies, while_it_drains)
{
    const struct act act = {.before = guest_is_there, .body = talks, .end = END_DRAIN, .at_end = true, .warm_pool = 2};
    server_dies("drain", &act);
}

/* --- one that was to replace another ---------------------------------------------------------------------------------- */

/* Who has a conn of the older server keeps it, whether its successor lives or dies. */
static void older_serves_on(void)
{
    expect_rc(call(TALK, LIFE_ECHO, 150), 0);
    leave(TALK);
}

static bool successor_dies_at(struct theatre *t, uint64_t fatal)
{
    struct act old_act = {.warm_pool = 2}, new_act = {.warm_pool = 2, .at_start = true};
    struct run old = {.act = &old_act, .options = &t->f.options};
    struct run new = {.act = &new_act, .fatal = fatal, .options = &t->f.options};
    t->act = &old_act;
    t->f.options.warm_pool = old_act.warm_pool;
    moments->died_ns = 0;
    moments->fatal = fatal;
    *stage = (struct stage){.instance = 0};
    pid_t older = begin(&old);
    expect_rc(join(TALK), 0);
    expect_rc(call(TALK, LIFE_ECHO, 150), 0);
    pid_t newer = begin(&new);
    older_serves_on();
    bool died = has_died();
    if (died)
        expect(WIFSIGNALED(fixture_reap(newer)));
    __atomic_store_n(&stage->end, END_STOP, __ATOMIC_RELEASE);
    expect_eq(fixture_reap(older), 0);
    if (!died)
        expect(WIFEXITED(fixture_reap(newer)) || has_died());
    start_again(t);
    if (life_violation(witness) != NULL)
        expect_failed("moment %llu: %s", (unsigned long long)fatal, life_violation(witness));
    return has_died();
}

Test(server_dies, while_it_replaces_another)
{
    struct theatre t = {.act = NULL};
    struct walk walk;
    open_theatre(&t);
    walk_begin(&walk, "replace", 8);
    while (walk_on(&walk))
        walk_result(&walk, successor_dies_at(&t, walk.fatal));
    walk_end(&walk);
    server_fixture_stop(&t.f);
}

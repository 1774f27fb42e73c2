/* SPDX-License-Identifier: MIT */
/*
 * Tests of server/guard.c through a real server and real clients: segments are cut short under the server's hands, at every
 * step of a conn's life, and a neighbour in the same shard goes on.
 *
 * The client whose file is cut stands in this process, too, and its own access would be nobody's fault: so the file gets its
 * size back, as zeros, before that client is used again. What ends a process is done in a child.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/order.h"
#include "base/os.h"
#include "client/client.h"
#include "expect.h"
#include "server/server.h"
#include "server_fixture.h"

#define LONG_BYTES 900

TestSuite(guard, .timeout = 120);

/* --- the server ------------------------------------------------------------------------------------------------------ */

static struct server_fixture server;
static struct {
    uint32_t entered, may_go; /* of a handler that waits */
    uint32_t disconnected;
    enum belfry_end why;
    uint32_t sum, size; /* of what a handler read after it had waited */
    uint32_t logged;    /* lines about SIGBUS */
    int rc;
} seen;

static void wait_for_leave(void)
{
    add_release(&seen.entered, 1);
    while (load_acquire(&seen.may_go) == 0)
        fixture_pause();
}

static void *read_it(void *argument)
{
    const belfry_message *m = argument;
    for (size_t i = 0; i < m->size; i++)
        seen.sum += ((const volatile uint8_t *)m->data)[i];
    seen.size = (uint32_t)m->size;
    return NULL;
}

/* The first letter says what to do: wait, then read here or on another thread, or say something; or just echo. */
static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    static const char answer[LONG_BYTES] = "long";
    pthread_t thread;
    (void)user;
    switch (m->size > 0 ? *(const char *)m->data : ' ') {
    case 'r':
        wait_for_leave();
        read_it((void *)m);
        break;
    case 't':
        wait_for_leave();
        if (pthread_create(&thread, NULL, read_it, (void *)m) == 0)
            pthread_join(thread, NULL);
        break;
    case 's':
        wait_for_leave();
        seen.rc = belfry_reply(conn, m, answer, sizeof answer);
        return;
    }
    if (m->kind == BELFRY_REQUEST)
        seen.rc = belfry_reply(conn, m, m->data, m->size);
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    (void)conn, (void)user;
    seen.why = why;
    add_release(&seen.disconnected, 1);
}

static void on_log(enum belfry_log_level level, const char *line, void *user)
{
    (void)level, (void)user;
    if (strstr(line, "SIGBUS") != NULL)
        add_release(&seen.logged, 1);
}

static void prepare(void)
{
    server_fixture_init(&server);
    server.options.on_message = on_message;
    server.options.on_disconnect = on_disconnect;
    server.options.on_log = on_log;
}

static void start(void)
{
    prepare();
    server_fixture_start(&server);
}

/* --- clients and their files ------------------------------------------------------------------------------------------- */

static int segment_open(uint32_t slot, const char *side)
{
    char path[2 * FIXTURE_PATH_BYTES], name[64];
    snprintf(name, sizeof name, "segments/" FIXTURE_SERVICE "_%u_%s", slot, side);
    server_fixture_path(&server, path, name);
    chmod(path, 0600); /* its owner may always do that */
    return open(path, O_RDWR | O_CLOEXEC);
}

static int segment_of(const belfry_client *c, const char *side)
{
    int fd = segment_open(c->slot, side);
    expect(fd >= 0);
    return fd;
}

static void cut(int fd)
{
    expect_eq(ftruncate(fd, 0), 0);
}

/* Its client can use it again. */
static void mend(int fd)
{
    expect_eq(ftruncate(fd, (off_t)segment_bytes(server.options.ring_bytes)), 0);
    close(fd);
}

static void expect_echo(belfry_client *c)
{
    belfry_message m;
    expect_rc(belfry_call(c, "echo", 4, &m, server_fixture_patience()), 0);
    expect(m.size == 4 && memcmp(m.data, "echo", 4) == 0);
    belfry_release(c, &m);
}

static void expect_end(belfry_client *c)
{
    belfry_message m;
    expect_rc(belfry_call(c, "echo", 4, &m, server_fixture_patience()), BELFRY_EPROTO);
}

static bool is_over(void)
{
    return eventually(load_acquire(&seen.disconnected) == 1) && seen.why == BELFRY_END_PEER_FAULT;
}

/* All other slots can be had and used. */
static void fill_and_leave(void)
{
    belfry_client *all[8];
    uint32_t count = server.options.max_slots - 1;
    for (uint32_t i = 0; i < count; i++)
        expect_echo(all[i] = server_fixture_connect());
    for (uint32_t i = 0; i < count; i++)
        belfry_close(all[i]);
}

/* One conn has ended with a fault; its neighbour, and whoever comes next, do not notice. */
static void finish(belfry_client *neighbour)
{
    expect_echo(neighbour);
    belfry_counters counters = server_fixture_counters();
    expect_eq(counters.ends[BELFRY_END_PEER_FAULT], 1);
    expect(eventually(server_fixture_counters().bus_faults == 1)); /* counted when the slot is made anew */
    fill_and_leave();
    expect_echo(neighbour);
    belfry_close(neighbour);
    expect_eq(load_acquire(&server.server->shards[0].pool.faults), 0);
    server_fixture_stop(&server);
}

/* --- one conn's file ---------------------------------------------------------------------------------------------------- */

Test(guard, ends_a_conn_whose_file_was_truncated_while_nothing_happened)
{
    start();
    belfry_client *neighbour = server_fixture_connect(), *c = server_fixture_connect();
    expect_echo(neighbour);
    expect_echo(c);
    int fd = segment_of(c, "send");
    cut(fd);
    expect(is_over());
    mend(fd);
    expect_end(c);
    belfry_close(c);
    finish(neighbour);
}

static bool is_parked(const belfry_client *c)
{
    return load_relaxed(&c->lobby_slot->parked) == BELFRY_PARKED_DATA;
}

Test(guard, finds_a_parked_conn_in_the_sweep)
{
    start();
    belfry_client *neighbour = server_fixture_connect(), *c = server_fixture_connect();
    expect_echo(c);
    for (int i = 0; i < 1000 && !is_parked(c);
         i++) { /* each echo ends with a sleep, after which the silent one is quieter */
        expect_echo(neighbour);
        fixture_pause();
    }
    expect(is_parked(c));
    int fd = segment_of(c, "send");
    cut(fd);
    expect(is_over());
    mend(fd);
    belfry_close(c);
    finish(neighbour);
}

static void cut_in_handler(const char *side, char word)
{
    char text[LONG_BYTES];
    memset(text, 1, sizeof text);
    text[0] = word;
    start();
    belfry_client *neighbour = server_fixture_connect(), *c = server_fixture_connect();
    expect_rc(belfry_send(c, text, sizeof text, NULL), 0);
    expect(eventually(load_acquire(&seen.entered) == 1));
    int fd = segment_of(c, side);
    cut(fd);
    store_release(&seen.may_go, 1);
    expect(is_over());
    mend(fd);
    expect_rc(seen.rc, 0);
    if (strcmp(side, "send") == 0)
        expect_end(c);
    belfry_close(c);
    finish(neighbour);
}

Test(guard, gives_a_handler_zeros_for_what_was_taken_from_its_message)
{
    cut_in_handler("send", 'r');
    expect_eq(seen.size, LONG_BYTES);
    expect_eq(seen.sum, 0);
}

Test(guard, gives_zeros_to_another_thread_that_reads_a_handlers_message)
{
    cut_in_handler("send", 't');
    expect_eq(seen.size, LONG_BYTES);
    expect_eq(seen.sum, 0);
}

Test(guard, lets_a_handler_reply_into_a_file_that_is_not_there)
{
    cut_in_handler("recv", 's');
}

/* In slots 0 and 1 the fifth of these messages begins in the first page of the ring and ends in the second. */
Test(guard, covers_what_lies_behind_the_new_end_of_a_file)
{
    char text[LONG_BYTES];
    prepare();
    server.options.max_slots = 2;
    server.options.ring_bytes = 2 * BELFRY_ABI_PAGE;
    server_fixture_start(&server);
    belfry_client *neighbour = server_fixture_connect(), *c = server_fixture_connect();
    memset(text, 1, sizeof text);
    for (int i = 0; i < 4; i++)
        expect_rc(belfry_send_one_way(c, text, sizeof text), 0);
    uint64_t before = BELFRY_ABI_PAGE - ring_offset(c->out.position, c->out.colour, c->out.capacity) -
                      sizeof(struct belfry_abi_entry); /* bytes of the next one that are in the first page */
    expect(before > 0 && before < LONG_BYTES);
    text[0] = 'r';
    expect_rc(belfry_send(c, text, sizeof text, NULL), 0);
    expect(eventually(load_acquire(&seen.entered) == 1));
    int fd = segment_of(c, "send");
    expect_eq(ftruncate(fd, SEGMENT_HEADER_BYTES + BELFRY_ABI_PAGE), 0);
    store_release(&seen.may_go, 1);
    expect(is_over());
    expect_eq(seen.sum, 'r' + before - 1);
    mend(fd);
    expect_end(c);
    belfry_close(c);
    finish(neighbour);
}

Test(guard, survives_that_an_end_cannot_be_told)
{
    start();
    belfry_client *neighbour = server_fixture_connect(), *c = server_fixture_connect();
    expect_rc(belfry_send(c, "s", 1, NULL), 0);
    expect(eventually(load_acquire(&seen.entered) == 1));
    int fds[] = {segment_of(c, "send"), segment_of(c, "recv")};
    cut(fds[0]);
    cut(fds[1]);
    store_release(&seen.may_go, 1);
    expect(is_over());
    mend(fds[0]);
    mend(fds[1]);
    belfry_close(c);
    finish(neighbour);
}

Test(guard, finds_a_leader_that_is_gone_before_the_shard_sleeps)
{
    start();
    belfry_client *neighbour = server_fixture_connect(), *leader = server_fixture_connect(),
                  *member = server_fixture_connect();
    expect_echo(leader);
    expect_echo(member);
    for (int i = 0; i < 1000 && !is_parked(leader); i++) {
        expect_echo(member);
        fixture_pause();
    }
    expect(is_parked(leader));
    store_relaxed(&member->send->bell_at, BELFRY_BELL_AT(leader->slot, leader->generation));
    expect_rc(belfry_send(member, "s", 1, NULL), 0);
    expect(eventually(load_acquire(&seen.entered) == 1));
    int fd = segment_of(leader, "send");
    cut(fd);
    uint64_t sweeps = server_fixture_counters().sweeps;
    store_release(&seen.may_go, 1); /* its reply is told to its leader's bell: the only access to the leader */
    expect(is_over());
    expect_eq(server_fixture_counters().sweeps, sweeps);
    mend(fd);
    belfry_close(leader);
    belfry_close(member);
    finish(neighbour);
}

/* What the shard does last before it looks for the last time. */
static struct {
    const belfry_client *client; /* whose file is cut then */
    int fd;
    uint64_t sweeps;
    uint32_t done;
} last_look;

void __wrap_bf_reactor_wait_mailbox(struct bf_reactor *r, const uint32_t *word, uint32_t value);
void __real_bf_reactor_wait_mailbox(struct bf_reactor *r, const uint32_t *word, uint32_t value);

void __wrap_bf_reactor_wait_mailbox(struct bf_reactor *r, const uint32_t *word, uint32_t value)
{
    const belfry_client *c = load_acquire(&last_look.client);
    const struct bf_shard *shard = bf_shard_self();
    __real_bf_reactor_wait_mailbox(r, word, value);
    if (c == NULL || last_look.done != 0 || shard->pool.slots[c->slot].hot_index == SLOT_NOT_HOT)
        return; /* a silent one may have been parked meanwhile: another try */
    last_look.sweeps = shard->counters->sweeps;
    if (ftruncate(last_look.fd, 0) == 0)
        store_release(&last_look.done, 1);
}

static void count_sweeps(belfry_conn *conn, enum belfry_end why, void *user)
{
    last_look.sweeps = bf_shard_self()->counters->sweeps - last_look.sweeps;
    on_disconnect(conn, why, user);
}

static void nothing(void *user)
{
    (void)user;
}

Test(guard, does_not_sleep_on_a_fault_of_its_last_look)
{
    prepare();
    server.options.on_disconnect = count_sweeps;
    server_fixture_start(&server);
    belfry_client *neighbour = server_fixture_connect(), *c = server_fixture_connect();
    expect_echo(c);
    last_look.fd = segment_of(c, "send");
    store_release(&last_look.client, c);
    do {
        expect_rc(belfry_post(server.server, 0, nothing, NULL), 0); /* after it the shard waits for the mailbox anew */
        fixture_pause();
        if (load_acquire(&last_look.done) == 0)
            expect_echo(c);
    } while (load_acquire(&last_look.done) == 0);
    expect(is_over());
    expect_eq(last_look.sweeps, 0);
    mend(last_look.fd);
    belfry_close(c);
    finish(neighbour);
}

Test(guard, does_not_mind_a_hole)
{
    start();
    belfry_client *neighbour = server_fixture_connect(), *c = server_fixture_connect();
    expect_echo(c);
    int fd = segment_of(c, "send");
    expect_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                        (off_t)segment_bytes(server.options.ring_bytes)),
              0);
    close(fd);
    expect_echo(c); /* the kernel gives both sides the same new page */
    belfry_close(c);
    expect(eventually(load_acquire(&seen.disconnected) == 1));
    expect_eq(seen.why, BELFRY_END_LEFT);
    expect_echo(neighbour);
    expect_eq(server_fixture_counters().bus_faults, 0);
    belfry_close(neighbour);
    server_fixture_stop(&server);
}

/* --- slots that are no conns ------------------------------------------------------------------------------------------- */

static belfry_counters counters;

static bool warm_again(uint64_t faults)
{
    counters = server_fixture_counters();
    return counters.bus_faults == faults && counters.slots_warm == 2;
}

static uint32_t warm_slot(void)
{
    for (uint32_t i = 0; i < server.server->shards[0].pool.count; i++)
        if (BELFRY_SLOT_STATE_OF(load_acquire(&lobby_slot(&server.server->lobby, i)->state)) == BELFRY_SLOT_WARM)
            return i;
    expect_failed("no slot is warm");
}

static void cut_warm(const char *side)
{
    start();
    belfry_client *neighbour = server_fixture_connect(); /* without a conn there is no sweep */
    expect_echo(neighbour);                              /* its slot does not look warm any more */
    expect(eventually(warm_again(0)));
    uint64_t made = counters.slots_made;
    int fd = segment_open(warm_slot(), side);
    cut(fd);
    close(fd);
    expect(eventually(warm_again(1)));
    expect_eq(counters.slots_made, made + 1);
    expect_eq(counters.refusals[BELFRY_END_PEER_FAULT], 0);
    fill_and_leave();
    belfry_close(neighbour);
    server_fixture_stop(&server);
}

Test(guard, makes_a_warm_slot_anew_whose_send_was_truncated)
{
    cut_warm("send");
}

Test(guard, makes_a_warm_slot_anew_whose_recv_was_truncated)
{
    cut_warm("recv");
}

static uint32_t takes_to_fail;

int __wrap_bf_claim_take(int lock_dir, uint32_t slot);
int __real_bf_claim_take(int lock_dir, uint32_t slot);

int __wrap_bf_claim_take(int lock_dir, uint32_t slot)
{
    if (takes_to_fail == 0)
        return __real_bf_claim_take(lock_dir, slot);
    store_release(&takes_to_fail, takes_to_fail - 1);
    return -ENOSPC;
}

Test(guard, tries_again_when_the_name_of_a_warm_slot_could_not_be_had)
{
    start();
    belfry_client *neighbour = server_fixture_connect();
    expect_echo(neighbour);
    expect(eventually(warm_again(0)));
    int fd = segment_open(warm_slot(), "send");
    store_release(&takes_to_fail, 1);
    cut(fd);
    close(fd);
    expect(eventually(load_acquire(&takes_to_fail) == 0));
    expect(eventually(warm_again(1)));
    fill_and_leave();
    belfry_close(neighbour);
    server_fixture_stop(&server);
}

static int lock_slot(uint32_t slot)
{
    char path[2 * FIXTURE_PATH_BYTES], name[64];
    snprintf(name, sizeof name, "shard-0/slot_%u.lock", slot);
    server_fixture_path(&server, path, name);
    int fd = -1;
    expect(eventually((fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600)) >=
                      0)); /* the server's may be there */
    expect_rc(bf_os_lock(fd), 0);
    return fd;
}

static bool refused_for_a_fault(void)
{
    return server_fixture_counters().refusals[BELFRY_END_PEER_FAULT] == 1;
}

Test(guard, refuses_a_claim_of_a_slot_whose_file_was_truncated_before)
{
    start();
    belfry_client *neighbour = server_fixture_connect();
    expect_echo(neighbour); /* its slot does not look warm any more */
    expect(eventually(warm_again(0)));
    uint32_t slot = warm_slot();
    int fd = segment_open(slot, "send");
    cut(fd);
    int lock = lock_slot(slot);
    expect(eventually(refused_for_a_fault()));
    expect(eventually(warm_again(1)));
    expect_eq(load_acquire(&seen.disconnected), 0);
    close(lock);
    close(fd);
    expect_echo(neighbour);
    belfry_close(neighbour);
    server_fixture_stop(&server);
}

Test(guard, refuses_a_claim_whose_file_is_truncated_before_its_hello)
{
    start();
    belfry_client *neighbour = server_fixture_connect();
    expect_echo(neighbour); /* its slot does not look warm any more */
    expect(eventually(warm_again(0)));
    uint32_t slot = warm_slot();
    int fd = segment_open(slot, "send"), lock = lock_slot(slot);
    expect(eventually(BELFRY_SLOT_STATE_OF(load_acquire(&lobby_slot(&server.server->lobby, slot)->state)) ==
                      BELFRY_SLOT_OPEN));
    cut(fd);
    expect(eventually(refused_for_a_fault()));
    expect(eventually(warm_again(1)));
    close(lock);
    close(fd);
    expect_echo(neighbour);
    belfry_close(neighbour);
    server_fixture_stop(&server);
}

/* --- under load --------------------------------------------------------------------------------------------------------- */

#define VICTIMS 24
#define CALLS_MAX 20000 /* a file that has its size back in time hurts nobody */

struct victim {
    pid_t pid;
    int go[2], slot[2];
};

/* Connect when told, say where, and call until something happens; which may be this process's own SIGBUS. */
static void be_victim(void *context)
{
    const struct victim *me = context;
    char text[LONG_BYTES], byte;
    belfry_client *c;
    belfry_message m;
    memset(text, 'e', sizeof text);
    prctl(PR_SET_DUMPABLE, 0);
    signal(SIGBUS, SIG_DFL);
    if (read(me->go[0], &byte, 1) != 1 || belfry_connect(&c, FIXTURE_SERVICE, NULL) < 0)
        _exit(1);
    if (write(me->slot[1], &c->slot, sizeof c->slot) != sizeof c->slot)
        _exit(1);
    for (size_t i = 0; i < CALLS_MAX && belfry_call(c, text, 1 + i * 97 % LONG_BYTES, &m, belfry_in_ms(200)) == 0; i++)
        belfry_release(c, &m);
    _exit(0);
}

static void attack(const struct victim *v, struct fixture_random *random)
{
    uint32_t slot;
    expect_eq(write(v->go[1], "g", 1), 1);
    expect_eq(read(v->slot[0], &slot, sizeof slot), sizeof slot);
    uint64_t how = fixture_next(random);
    int fd = segment_open(slot, how % 2 == 0 ? "send" : "recv");
    expect(fd >= 0);
    nanosleep(&(struct timespec){.tv_nsec = (long)(fixture_next(random) % 2000000)}, NULL); /* at any moment */
    off_t bytes = (off_t)(how / 2 % 3 == 0 ? 0 : fixture_next(random) % segment_bytes(server.options.ring_bytes));
    expect_eq(ftruncate(fd, bytes), 0);
    if (how / 8 % 3 == 0)
        expect_eq(ftruncate(fd, (off_t)segment_bytes(server.options.ring_bytes)), 0);
    close(fd);
}

static bool alone(void)
{
    return server_fixture_counters().connections_active == 1;
}

Test(guard, keeps_the_server_whole_while_files_are_truncated_under_load)
{
    static struct victim victims[VICTIMS];
    struct fixture_random random;
    fixture_seed(&random, "guard");
    prepare();
    for (int i = 0; i < VICTIMS; i++) { /* before there are threads */
        expect(pipe(victims[i].go) == 0 && pipe(victims[i].slot) == 0);
        victims[i].pid = fixture_child(be_victim, &victims[i]);
    }
    server_fixture_start(&server);
    belfry_client *neighbour = server_fixture_connect();
    for (int i = 0; i < VICTIMS; i++) {
        attack(&victims[i], &random);
        expect_echo(neighbour);
        fixture_reap(victims[i].pid);
        expect(eventually(alone()));
        expect_echo(neighbour);
    }
    expect(server_fixture_counters().bus_faults > 0);
    belfry_close(neighbour);
    server_fixture_stop(&server);
}

/* --- in a process of its own -------------------------------------------------------------------------------------------- */

#define CHECK(condition)                                            \
    do {                                                            \
        if (!(condition)) {                                         \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
            _exit(1);                                               \
        }                                                           \
    } while (0)

static sigjmp_buf back;
static uint8_t *theirs; /* a page of a file without one */
static volatile unsigned called;
static struct sigaction found;

static void host_handler(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (number == SIGBUS && info->si_addr == theirs)
        called++;
    siglongjmp(back, 1);
}

static void host_handler_that_chains(int number, siginfo_t *info, void *context)
{
    if (info->si_addr == theirs)
        host_handler(number, info, context);
    else
        found.sa_sigaction(number, info, context);
}

static void install(void (*handler)(int number, siginfo_t *info, void *context))
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGBUS, &action, &found) == 0);
}

static uint8_t *page_without_a_file(void *at)
{
    char path[2 * FIXTURE_PATH_BYTES];
    snprintf(path, sizeof path, "%s/cut-XXXXXX", server.root);
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    at = mmap(at, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | (at != NULL ? MAP_FIXED : 0), fd, 0);
    CHECK(at != MAP_FAILED);
    close(fd);
    return at;
}

static void begin_child(void)
{
    prctl(PR_SET_DUMPABLE, 0);
    signal(SIGBUS, SIG_DFL); /* a sanitizer has a handler */
    prepare();
}

static void start_child(void)
{
    CHECK(belfry_server_create(&server.server, &server.options) == 0 && belfry_server_start(server.server) == 0);
}

/* Cut a conn's file in its handler. What the handler reads then is a fault for certain. */
static void fault_once(void)
{
    belfry_client *c;
    CHECK(belfry_connect(&c, FIXTURE_SERVICE, NULL) == 0);
    CHECK(belfry_send(c, "r", 1, NULL) == 0);
    CHECK(eventually(load_acquire(&seen.entered) == 1));
    int fd = segment_open(c->slot, "send");
    CHECK(fd >= 0 && ftruncate(fd, 0) == 0);
    store_release(&seen.may_go, 1);
    CHECK(is_over());
}

static void fault_of_the_host(void)
{
    theirs = page_without_a_file(NULL);
    if (sigsetjmp(back, 1) == 0) {
        *(volatile uint8_t *)theirs = 1;
        CHECK(!"there was a page");
    }
    CHECK(called == 1);
}

static int status_of(void (*body)(void *context))
{
    int status = fixture_reap(fixture_child(body, NULL));
    return status;
}

static void expect_death_by_sigbus(void (*body)(void *context))
{
    int status = status_of(body);
    expect(WIFSIGNALED(status));
    expect_eq(WTERMSIG(status), SIGBUS);
}

static void host_before(void *context)
{
    (void)context;
    begin_child();
    install(host_handler);
    start_child();
    fault_once();
    fault_of_the_host();
    fixture_remove_tree(server.root);
}

Test(guard, leaves_its_faults_to_a_host_with_a_handler)
{
    expect_eq(status_of(host_before), 0);
}

static void host_after(void *context)
{
    (void)context;
    begin_child();
    start_child();
    install(host_handler_that_chains);
    fault_once();
    fault_of_the_host();
    CHECK(load_acquire(&seen.logged) == 0);
    belfry_server_destroy(server.server);
    start_child();
    CHECK(load_acquire(&seen.logged) == 1); /* somebody else is in front */
    fixture_remove_tree(server.root);
}

Test(guard, works_behind_a_host_that_came_later_and_says_so)
{
    expect_eq(status_of(host_after), 0);
}

static void nobodys(void *context)
{
    (void)context;
    begin_child();
    start_child();
    fault_once();
    theirs = page_without_a_file(NULL);
    fixture_remove_tree(server.root);
    *(volatile uint8_t *)theirs = 1;
}

Test(guard, lets_a_fault_of_nobodys_end_the_process)
{
    expect_death_by_sigbus(nobodys);
}

static void unguarded(void *context)
{
    (void)context;
    struct sigaction action;
    begin_child();
    server.options.sigbus_guard = false;
    start_child();
    CHECK(sigaction(SIGBUS, NULL, &action) == 0 && action.sa_handler == SIG_DFL);
    belfry_server_destroy(server.server);
    server.options.sigbus_guard = true;
    start_child();
    belfry_server_destroy(server.server);
    server.options.sigbus_guard =
        false; /* the handler is there, and this server's addresses are none of its business */
    start_child();
    fault_once();
}

Test(guard, does_nothing_when_it_was_not_wanted)
{
    expect_death_by_sigbus(unguarded);
}

static void stopped(void *context)
{
    (void)context;
    begin_child();
    for (int i = 0; i < 3; i++) { /* a range that was used before is forgotten, too */
        start_child();
        theirs = server.server->shards[0].pool.range;
        belfry_server_destroy(server.server);
    }
    theirs = page_without_a_file(theirs);
    fixture_remove_tree(server.root);
    *(volatile uint8_t *)theirs = 1;
}

Test(guard, forgets_the_addresses_of_a_server_that_has_stopped)
{
    expect_death_by_sigbus(stopped);
}

static void *run_turns(void *argument)
{
    (void)argument;
    CHECK(belfry_server_start(server.server) == 0);
    add_release(&seen.entered, 1);
    struct pollfd at = {.fd = belfry_shard_fd(server.server, 0), .events = POLLIN};
    do
        poll(&at, 1, 1000);
    while (belfry_shard_turn(server.server, 0) == 1);
    belfry_server_wait(server.server);
    return NULL;
}

static void own_loop(void *context)
{
    (void)context;
    pthread_t thread;
    belfry_client *c;
    begin_child();
    server.options.own_loop = true;
    CHECK(belfry_server_create(&server.server, &server.options) == 0);
    CHECK(pthread_create(&thread, NULL, run_turns, NULL) == 0 && eventually(load_acquire(&seen.entered) == 1));
    store_release(&seen.entered, 0);
    fault_once();
    CHECK(belfry_connect(&c, FIXTURE_SERVICE, NULL) == 0);
    belfry_message m;
    CHECK(belfry_call(c, "e", 1, &m, server_fixture_patience()) == 0);
    belfry_server_stop(server.server);
    pthread_join(thread, NULL);
    fixture_remove_tree(server.root);
}

Test(guard, works_on_a_thread_with_a_loop_of_its_own)
{
    expect_eq(status_of(own_loop), 0);
}

/* A hole in a file of a full file system is like the end of the file. */
static void full(void *context)
{
    (void)context;
    belfry_client *c, *neighbour;
    belfry_message m;
    begin_child();
    if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", server.root, "tmpfs", 0, "size=1m,mode=0700") != 0)
        _exit(77);
    start_child();
    CHECK(belfry_connect(&neighbour, FIXTURE_SERVICE, NULL) == 0 && belfry_connect(&c, FIXTURE_SERVICE, NULL) == 0);
    CHECK(belfry_send(c, "r", 1, NULL) == 0 && eventually(load_acquire(&seen.entered) == 1));
    char path[FIXTURE_PATH_BYTES + 16], page[4096] = "";
    snprintf(path, sizeof path, "%s/filler", server.root);
    int filler = open(path, O_CREAT | O_WRONLY, 0600), fd = segment_open(c->slot, "send");
    CHECK(filler >= 0 && fd >= 0);
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                    (off_t)segment_bytes(server.options.ring_bytes)) == 0);
    while (write(filler, page, sizeof page) == sizeof page)
        ;
    CHECK(errno == ENOSPC);
    store_release(&seen.may_go, 1);
    CHECK(is_over());
    CHECK(ftruncate(filler, 0) == 0);
    CHECK(belfry_call(neighbour, "e", 1, &m, server_fixture_patience()) == 0);
    belfry_server_destroy(server.server);
}

Test(guard, covers_a_hole_that_a_full_file_system_cannot_fill)
{
    int status = status_of(full);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        cr_skip_test("mounting a small file system needs root");
    expect_eq(status, 0);
}

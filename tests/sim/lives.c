/* SPDX-License-Identifier: MIT */
/*
 * lives.c: what the processes of a world do. A client makes connections, says things and checks what it is told; the server
 * answers, and checks what it hears: each message whole, the next of its connection, and no other.
 */
#include <errno.h>
#include <string.h>

#include "base/os.h"
#include "server/server.h"
#include "world.h"

#define MESSAGE_BYTES_MAX 8000u
#define IN_PLACE_MAX 1000u
#define FOREVER BELFRY_FOREVER
#define NS_PER_MS 1000000ll
#define RETRY_NS (20 * NS_PER_MS)
#define TRIES 400u
#define POLLED_MAX 3u
#define SPOKEN_PIDS 50000u

enum wish { WISH_NOTHING, WISH_ECHO, WISH_PUSH, WISH_LARGE, WISH_HOLD, WISH_LATER };

struct head {
    uint32_t life;
    uint32_t number;
    uint32_t wish;
    uint32_t bytes;
    uint64_t sum;
};

static void pause_for(int64_t ns)
{
    uint32_t never = 0;
    struct bf_os_wait wait = {&never, 0};
    bf_os_wait(&wait, 1, bf_os_now_ns() + ns);
}

/* --- messages -------------------------------------------------------------------------------------------------------- */

static uint64_t sum_of(const struct head *head, const uint8_t *rest)
{
    uint64_t sum =
        ((uint64_t)head->life << 32 | head->number) * 0x9e3779b97f4a7c15ull + head->wish * 31ull + head->bytes;
    for (size_t i = 0; i < head->bytes - sizeof *head; i++)
        sum = (sum ^ rest[i]) * 0x100000001b3ull;
    return sum;
}

static void write_message(void *at, uint32_t life, uint32_t number, enum wish wish, size_t bytes)
{
    struct head head = {.life = life, .number = number, .wish = wish, .bytes = (uint32_t)bytes};
    uint8_t *rest = (uint8_t *)at + sizeof head;
    memset(rest, (int)(life * 7 + number), bytes - sizeof head);
    head.sum = sum_of(&head, rest);
    memcpy(at, &head, sizeof head);
}

/* Is it whole? */
static bool read_message(const void *data, size_t bytes, struct head *head)
{
    uint8_t copy[MESSAGE_BYTES_MAX];
    if (bytes < sizeof *head || bytes > sizeof copy)
        return false;
    memcpy(copy, data, bytes);
    memcpy(head, copy, sizeof *head);
    return head->bytes == bytes && head->sum == sum_of(head, copy + sizeof *head);
}

/* --- the server ------------------------------------------------------------------------------------------------------ */

static struct life *life_of_pid(uint32_t pid)
{
    for (unsigned i = world.life_count; i-- > 0;)
        if (world.lives[i].pid == pid)
            return &world.lives[i];
    sim_fail("a conn of process %u, which has never asked for one", pid);
}

static int on_connect(belfry_conn *conn, void *user)
{
    struct world_server *s = user;
    uint32_t slot = belfry_conn_slot(conn);
    struct life *life = life_of_pid(belfry_conn_pid(conn));
    sim_expect(s->tenant[slot] == NULL, "slot %u has two tenants", slot);
    sim_expect(s->last[slot] != belfry_conn_get_id(conn) + 1, "a conn of slot %u has the id of the one before", slot);
    sim_expect(!life->accepted, "a connection of process %u is accepted twice", life->pid);
    s->last[slot] = belfry_conn_get_id(conn) + 1;
    s->tenant[slot] = life;
    life->accepted = true;
    belfry_conn_set_user(conn, life);
    return 0;
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    struct world_server *s = user;
    struct life *life = belfry_conn_user(conn);
    uint32_t slot = belfry_conn_slot(conn);
    sim_expect(s->tenant[slot] == life, "slot %u ends a conn that it does not have", slot);
    s->tenant[slot] = NULL;
    life->disconnected = true;
    life->why = why;
    bool alive = life_lasts(life) && !life->leaving;
    sim_expect(why != BELFRY_END_DIED || !alive, "process %u is said to be dead, and lives", life->pid);
    sim_expect(why != BELFRY_END_LEFT || life->leaving, "process %u is said to have left, and has not", life->pid);
    sim_expect(why != BELFRY_END_PEER_FAULT, "process %u is said to have broken the format", life->pid);
    if (why == BELFRY_END_DIED || why == BELFRY_END_LEFT)
        sim_expect(life->heard >= life->sent, "process %u has sent %u messages, and %u were heard", life->pid,
                   life->sent, life->heard);
}

/* A request that is answered later: by the worker, or, if nobody ever does that, when it is cancelled. */
static bool defer(struct world_server *s, belfry_conn *conn, const belfry_message *m, const struct head *head)
{
    struct world_ticket t = {.life = head->life, .number = head->number, .wish = head->wish, .bytes = head->bytes};
    if (s->ticket_count == WORLD_TICKETS || belfry_defer(conn, m, &t.ticket, NULL) < 0)
        return false;
    sim_stores_seen(sim.current); /* as whatever hands it to another thread would see to */
    s->tickets[s->ticket_count++] = t;
    if (s->worker != NULL)
        sim_rouse(s->worker);
    return true;
}

/* Take one of them: the first with that wish, and of that ticket if one is named. */
static bool take_ticket(struct world_server *s, enum wish wish, const belfry_ticket *ticket, struct world_ticket *out)
{
    for (unsigned i = 0; i < s->ticket_count; i++) {
        if (s->tickets[i].wish != wish ||
            (ticket != NULL && memcmp(&s->tickets[i].ticket, ticket, sizeof *ticket) != 0))
            continue;
        *out = s->tickets[i];
        s->tickets[i] = s->tickets[--s->ticket_count];
        return true;
    }
    return false;
}

/* A ticket is ended once, also when there is no memory for that yet. */
static void end_without_answer(const struct world_server *s, const belfry_ticket *ticket)
{
    while (belfry_complete_failed(s->server, ticket, -ECANCELED, "nobody waits") == -ENOMEM) {
        sim_expect(world.plan.faulty, "there is no memory for a failure");
        sim_step();
    }
}

/* A thread of the server's that answers what was deferred. */
static void work(void *argument)
{
    struct world_server *s = argument;
    struct world_ticket t;
    uint8_t data[MESSAGE_BYTES_MAX];
    while (s->serves || s->ticket_count > 0) {
        if (!take_ticket(s, WISH_LATER, NULL, &t)) {
            if (s->serves)
                sim_sleep(INT64_MAX, "work");
            else if (!take_ticket(s, WISH_HOLD, NULL, &t))
                break;
            else
                end_without_answer(s, &t.ticket);
            continue;
        }
        write_message(data, t.life, t.number, WISH_LATER, t.bytes);
        int rc = belfry_complete(s->server, &t.ticket, data, t.bytes);
        sim_expect(rc == 0 || rc == -ECANCELED || rc == BELFRY_EGONE || world.plan.faulty,
                   "a request cannot be completed: %s", belfry_last_error());
        if (rc == -ENOMEM)
            end_without_answer(s, &t.ticket);
    }
    s->controllers--;
}

static void answer(belfry_conn *conn, const belfry_message *m, const struct head *head)
{
    uint8_t data[MESSAGE_BYTES_MAX];
    size_t bytes = head->wish == WISH_LARGE ? sizeof data / 2 + head->number % 1000 : m->size;
    if (head->wish == WISH_PUSH) {
        write_message(data, head->life, head->number, WISH_NOTHING, 200);
        if (belfry_push(conn, data, 200) < 0)
            sim_expect(world.plan.faulty, "a push failed");
    }
    write_message(data, head->life, head->number, (enum wish)head->wish, bytes);
    int rc = belfry_reply(conn, m, data, bytes);
    sim_expect(rc == 0 || world.plan.faulty, "a reply of %zu bytes failed: %s", bytes, belfry_last_error());
}

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    struct life *life = belfry_conn_user(conn);
    struct head head;
    sim_expect(read_message(m->data, m->size, &head), "a message of process %u is torn", life->pid);
    sim_expect(&world.lives[head.life] == life, "process %u is heard with the words of another", life->pid);
    uint32_t next = life->heard + 1;
    while (next < head.number && life->may_be_dropped[next % WORLD_MESSAGES])
        next++;
    sim_expect(head.number == next, "process %u: message %u is heard after %u", life->pid, head.number, life->heard);
    sim_expect(head.number <= life->begun, "process %u is heard before it speaks", life->pid);
    life->heard = head.number;
    world.messages++;
    if (m->kind != BELFRY_REQUEST)
        return;
    if ((head.wish == WISH_HOLD || head.wish == WISH_LATER) && defer(user, conn, m, &head))
        return;
    answer(conn, m, &head);
}

static void on_cancel(belfry_conn *conn, const belfry_ticket *t, int why, void *user)
{
    struct world_ticket ticket;
    (void)conn, (void)why;
    if (take_ticket(user, WISH_HOLD, t, &ticket)) /* the others are the worker's to end */
        end_without_answer(user, t);
}

/* Once at the end of each shard: has only its clock found what was lost? */
static void on_shard_stop(belfry_server *server, uint32_t shard, void *user)
{
    (void)user;
    sim_expect(sim.dropped > 0 || server->shards[shard].counters->rescued_wakes == 0,
               "a sweep of shard %u had to find a message", shard);
}

static void on_log(enum belfry_log_level level, const char *line, void *user)
{
    (void)level, (void)line, (void)user;
}

void world_serve(void *argument)
{
    struct world_server *s = argument;
    const struct world_plan *plan = &world.plan;
    belfry_server_options o;
    belfry_server_options_init(&o, sizeof o);
    o.service = WORLD_SERVICE;
    o.root = WORLD_ROOT;
    o.on_connect = on_connect;
    o.on_disconnect = on_disconnect;
    o.on_message = on_message;
    o.on_cancel = on_cancel;
    o.on_shard_stop = on_shard_stop;
    o.on_log = on_log;
    o.user = s;
    o.shards = plan->shards;
    o.max_slots = plan->slots;
    o.warm_pool = plan->warm;
    o.ring_bytes = 4096;
    o.message_bytes_max = MESSAGE_BYTES_MAX;
    o.spin = plan->spin;
    o.sigbus_guard = false;
    belfry_server *server;
    int rc = belfry_server_create(&server, &o);
    sim_expect(rc == 0 || plan->faulty, "a server cannot be made: %s", belfry_last_error());
    if (rc == 0) {
        rc = belfry_server_start(server);
        sim_expect(rc == 0 || plan->faulty, "a server cannot start: %s", belfry_last_error());
        s->server = server;
        s->start_rc = rc;
        s->started = rc == 0;
        s->serves = rc == 0;
        if (rc == 0) {
            s->controllers++;
            s->worker = sim_thread_start(sim_self(), work, s);
            belfry_server_wait(server);
            s->serves = false;
            sim_rouse(s->worker);
        }
        while (s->controllers > 0) /* nobody may have it in his hands any more */
            pause_for(NS_PER_MS);
        s->server = NULL;
        belfry_server_destroy(server);
    }
    s->start_rc = rc;
    s->ending = true;
}

void world_stop(void *argument)
{
    struct world_server *s = argument;
    belfry_server_stop(s->server);
    s->controllers--;
}

void world_drain(void *argument)
{
    struct world_server *s = argument;
    belfry_drain(s->server, belfry_in_ms(2000));
    s->controllers--;
}

/* --- a client ---------------------------------------------------------------------------------------------------------- */

struct talk {
    belfry_client *client;
    struct life *life;
    uint32_t answered; /* in a group: the last message's number; how many answers are to come; nobody is there */
    uint32_t waiting;
    bool over;
    uint8_t data[MESSAGE_BYTES_MAX];
};

/* Is this how it may end? True: go on. */
static bool goes_on(struct talk *t, int rc, const char *what)
{
    if (rc == 0)
        return true;
    if (world_is_ending() && (rc == BELFRY_EGONE || rc == BELFRY_EREFUSED || rc == BELFRY_EUNREAD))
        world.told_gone++;
    else
        sim_expect(world.plan.faulty, "process %u: %s: %s", t->life->pid, what, belfry_last_error());
    return false;
}

static size_t some_bytes(void)
{
    size_t most = world.plan.large && sim_one_in(5) ? MESSAGE_BYTES_MAX : IN_PLACE_MAX;
    return sizeof(struct head) + sim_below((uint32_t)(most - sizeof(struct head)));
}

static void compose(struct talk *t, enum wish wish, size_t bytes)
{
    if (world.plan.faulty && bytes > IN_PLACE_MAX) /* a server without memory lets it pass */
        t->life->may_be_dropped[(t->life->begun + 1) % WORLD_MESSAGES] = true;
    sim_expect(t->life->begun + 1 < WORLD_MESSAGES, "process %u says too much", t->life->pid);
    write_message(t->data, (uint32_t)(t->life - world.lives), ++t->life->begun, wish, bytes);
}

static void check(struct talk *t, belfry_message *m, uint32_t number)
{
    struct head head;
    sim_expect(read_message(m->data, m->size, &head), "process %u gets a torn message", t->life->pid);
    sim_expect(&world.lives[head.life] == t->life, "process %u gets what another has asked for", t->life->pid);
    sim_expect(number == 0 || head.number == number, "process %u gets answer %u to message %u", t->life->pid,
               head.number, number);
    belfry_release(t->client, m);
}

/* A one-way message; when there is no room, wait for some. */
static bool say(struct talk *t)
{
    size_t bytes = some_bytes();
    belfry_message m;
    int rc;
    compose(t, WISH_NOTHING, bytes);
    while ((rc = belfry_send_one_way(t->client, t->data, bytes)) == -EAGAIN) {
        rc = belfry_receive(t->client, &m, FOREVER);
        if (rc == 0)
            check(t, &m, 0);
        else if (rc != -EAGAIN)
            break;
    }
    if (rc == 0 && bytes > IN_PLACE_MAX) /* in parts: it is only leaving */
        rc = belfry_flush(t->client, FOREVER);
    if (rc == 0)
        t->life->sent = t->life->begun;
    return goes_on(t, rc, "say");
}

/* More than the ring takes. */
static bool flood(struct talk *t)
{
    for (unsigned i = 4 + sim_below(8); i > 0; i--)
        if (!say(t))
            return false;
    return true;
}

static bool ask(struct talk *t, enum wish wish)
{
    belfry_message m;
    size_t bytes = some_bytes();
    compose(t, wish, bytes);
    uint32_t number = t->life->begun;
    int rc = belfry_call(t->client, t->data, bytes, &m, FOREVER);
    if (rc == 0) {
        t->life->sent = number;
        check(t, &m, number);
    }
    return goes_on(t, rc, "ask");
}

/* Requests without waiting, and then all their answers. */
static bool ask_many(struct talk *t)
{
    uint64_t ids[4];
    uint32_t numbers[4];
    unsigned count = 1 + sim_below(4), sent = 0;
    belfry_message m;
    int rc = 0;
    for (; sent < count && rc == 0; sent++) {
        size_t bytes = sizeof(struct head) + sim_below(IN_PLACE_MAX / 2);
        compose(t, sim_below(2) == 0 ? WISH_ECHO : WISH_LATER, bytes);
        numbers[sent] = t->life->begun;
        rc = belfry_send(t->client, t->data, bytes, &ids[sent]);
        if (rc == -EAGAIN) {
            t->life->begun--;
            break;
        }
        if (rc == 0)
            t->life->sent = numbers[sent];
    }
    rc = rc == -EAGAIN ? 0 : rc;
    for (unsigned i = 0; i < sent && rc == 0; i++) {
        rc = belfry_await(t->client, ids[i], &m, FOREVER);
        if (rc == 0)
            check(t, &m, numbers[i]);
    }
    return goes_on(t, rc, "await");
}

/* A request that is not answered in time, and is given up. */
static bool give_up(struct talk *t)
{
    belfry_message m;
    compose(t, WISH_HOLD, sizeof(struct head));
    t->life->may_be_dropped[t->life->begun % WORLD_MESSAGES] = true; /* when it is late already */
    int rc = belfry_call(t->client, t->data, sizeof(struct head), &m, belfry_in_ms(1 + sim_below(20)));
    sim_expect(rc != 0 || world.plan.faulty, "process %u gets an answer that nobody gives", t->life->pid);
    if (rc == 0)
        belfry_release(t->client, &m);
    return rc == -ETIMEDOUT || goes_on(t, rc, "give up");
}

static void rest(struct talk *t, int64_t ns)
{
    t->life->pauses = true;
    pause_for(ns);
    t->life->pauses = false;
}

static bool speak(struct talk *t)
{
    if (world.plan.quiet && sim_below(2) == 0)
        rest(t, 1 + sim_below(sim_below(2) == 0 ? 3000 : 40000));
    switch (sim_below(8)) {
    case 0:
        return say(t);
    case 1:
        return sim_below(2) == 0 ? flood(t) : say(t);
    case 2:
        return ask(t, WISH_PUSH);
    case 3:
        return ask(t, world.plan.large ? WISH_LARGE : WISH_ECHO);
    case 4:
        return ask_many(t);
    case 5:
        rest(t, sim_below(4) == 0 ? sim_below(4000) * NS_PER_MS : sim_below(100000));
        return true;
    case 6:
        if (world.plan.holds)
            return give_up(t);
        return ask(t, WISH_ECHO);
    default:
        return ask(t, WISH_LATER);
    }
}

static struct life *new_life(void)
{
    struct sim_process *p = sim_self();
    if (world.life_count == WORLD_LIVES)
        sim_fail("too many connections were asked for");
    struct life *life = &world.lives[world.life_count++];
    p->speaks_as = SPOKEN_PIDS + world.life_count;
    *life = (struct life){.process = p, .process_pid = p->pid, .pid = p->speaks_as};
    return life;
}

/* Until there is a connection, or so many times; NULL: there is nobody to connect to. */
static belfry_client *come(struct life *life, unsigned tries)
{
    belfry_client_options o;
    belfry_client *client;
    belfry_client_options_init(&o, sizeof o);
    o.root = WORLD_ROOT;
    o.spin = world.plan.spin;
    for (unsigned i = 0; i < tries; i++) {
        bool too_early = !world.servers[0].started;
        int rc = belfry_connect(&client, WORLD_SERVICE, &o);
        if (rc == 0) {
            life->client = client;
            world.connections++;
            return client;
        }
        bool crowded = sim.deaths > 0 || world.plan.clients >= world.plan.slots || world.plan.polls_one_in > 0;
        bool full = rc == BELFRY_EFULL && crowded;
        bool ending = world_is_ending() && (rc == BELFRY_ENOSERVICE || rc == BELFRY_EREFUSED || rc == BELFRY_EFULL);
        bool early = rc == BELFRY_ENOSERVICE && too_early;
        sim_expect(full || ending || early || world.plan.faulty, "process %u cannot connect: %s", life->pid,
                   belfry_last_error());
        if (ending && world.servers[world.server_count - 1].ending)
            return NULL;
        pause_for(RETRY_NS);
    }
    sim_expect(tries < TRIES || world.plan.faulty || world_is_ending(), "process %u finds no way in", life->pid);
    return NULL;
}

static void leave(struct talk *t)
{
    if (belfry_client_rescued_wakes(t->client) > 0)
        sim_expect(sim.dropped > 0, "process %u was woken by its own clock alone", t->life->pid);
    t->life->leaving = true;
    t->life->client = NULL;
    belfry_close(t->client);
}

void world_live(void *unused)
{
    (void)unused;
    struct talk t = {.life = new_life()};
    t.client = come(t.life, TRIES);
    if (t.client == NULL)
        return;
    unsigned count = sim_below(world.plan.messages + 1);
    for (unsigned i = 0; i < count && speak(&t); i++)
        ;
    if (sim_one_in(world.plan.leaves_one_in))
        sim_kill(sim_self());
    sim_step();
    leave(&t);
}

/* --- a client with several connections, which waits for all of them together --------------------------------------------- */

struct group {
    belfry_poller *poller;
    struct talk talks[POLLED_MAX];
    unsigned count;
    unsigned waiting; /* answers that are to come */
};

/* It is over for this one. */
static void drop(struct group *g, struct talk *t, int rc)
{
    goes_on(t, rc, "poll");
    g->waiting -= t->waiting;
    t->waiting = 0;
    t->over = true;
    t->life->client = NULL;
    belfry_poller_remove(g->poller, t->client);
}

static void send_some(struct group *g)
{
    bool corks = sim_below(2) == 0;
    belfry_poller_cork(g->poller, corks);
    for (unsigned i = 0; i < g->count; i++) {
        struct talk *t = &g->talks[i];
        size_t bytes = sizeof(struct head) + sim_below(IN_PLACE_MAX / 2);
        if (t->over || sim_below(2) == 0)
            continue;
        compose(t, WISH_ECHO, bytes);
        int rc = belfry_send(t->client, t->data, bytes, NULL);
        if (rc == 0) {
            t->waiting++;
            g->waiting++;
        } else if (rc == -EAGAIN) {
            t->life->begun--;
        } else {
            drop(g, t, rc);
        }
    }
    belfry_poller_cork(g->poller, false);
    for (unsigned i = 0; i < g->count; i++)
        g->talks[i].life->sent = g->talks[i].over ? 0 : g->talks[i].life->begun;
}

static void take_answers(struct group *g, struct talk *t)
{
    belfry_message m;
    int rc;
    while ((rc = belfry_receive(t->client, &m, 0)) == 0) {
        sim_expect(t->waiting > 0, "process %u gets what it has not asked for", t->life->pid);
        check(t, &m, ++t->answered);
        t->waiting--;
        g->waiting--;
    }
    if (rc != -ETIMEDOUT && rc != -EAGAIN)
        drop(g, t, rc);
}

static void await_answers(struct group *g)
{
    belfry_poll_event events[POLLED_MAX];
    while (g->waiting > 0) {
        int count = belfry_poller_wait(g->poller, events, POLLED_MAX, FOREVER);
        sim_expect(count > 0 || world.plan.faulty, "a poller that waits for ever says %d", count);
        for (int i = 0; i < count; i++)
            take_answers(g, events[i].tag);
        if (count < 0)
            return;
    }
}

static bool open_group(struct group *g)
{
    unsigned wanted = 2 + sim_below(POLLED_MAX - 1);
    while (g->count < wanted) {
        struct talk *t = &g->talks[g->count];
        *t = (struct talk){.life = new_life()};
        t->client = come(t->life, g->count == 0 ? TRIES : 1); /* who has one, lets others have theirs */
        if (t->client == NULL)
            break;
        g->count++;
    }
    int rc = belfry_poller_create(&g->poller);
    for (unsigned i = 0; i < g->count && rc == 0; i++)
        rc = belfry_poller_add(g->poller, g->talks[i].client, &g->talks[i]);
    sim_expect(rc == 0 || world.plan.faulty, "a poller cannot be made: %s", belfry_last_error());
    return rc == 0 && g->count > 0;
}

void world_poll(void *unused)
{
    (void)unused;
    struct group g = {.count = 0};
    unsigned rounds = open_group(&g) ? 1 + sim_below(world.plan.messages) : 0;
    for (unsigned i = 0; i < rounds; i++) {
        send_some(&g);
        await_answers(&g);
        for (unsigned k = 0; k < g.count && sim_below(4) == 0; k++)
            rest(&g.talks[k], sim_below(30000));
    }
    if (sim_one_in(world.plan.leaves_one_in))
        sim_kill(sim_self());
    sim_step();
    for (unsigned i = 0; i < g.count; i++)
        leave(&g.talks[i]);
    belfry_poller_destroy(g.poller);
}

/* SPDX-License-Identifier: MIT */
/*
 * families.c: the kinds of worlds, and the course of one: servers start, clients come and go, servers end; and what must be
 * then. A seed belongs to one family, and draws everything else.
 */
#include <stdio.h>
#include <string.h>

#include "server/server.h"
#include "world.h"

#define NS_PER_MS 1000000ll
#define PATIENCE_NS (2000000 * NS_PER_MS) /* beyond any clock of the library's, however often wakes are lost */
#define LOOK_NS (1000 * NS_PER_MS)

struct world world;

bool world_server_is_dead(const struct world_server *s)
{
    return s->died || (s->process->pid == s->pid && s->process->killed);
}

bool world_is_ending(void)
{
    for (unsigned i = 0; i < world.server_count; i++)
        if (world.servers[i].ending || world_server_is_dead(&world.servers[i]))
            return true;
    return false;
}

/* --- the course of a world ------------------------------------------------------------------------------------------- */

static void rest_for(int64_t ns)
{
    sim_sleep(sim.now_ns + ns, "the course of the world");
}

static struct world_server *start_server(void)
{
    struct world_server *s = &world.servers[world.server_count++];
    *s = (struct world_server){0};
    s->process = sim_process_start("server", world_serve, s);
    s->pid = s->process->pid;
    if (world.plan.server_dies_within > 0 && world.server_count < WORLD_SERVERS)
        s->process->dies_after = 1 + sim_below(world.plan.server_dies_within);
    return s;
}

static void await_end(struct world_server *s)
{
    if (s->gone)
        return;
    sim_process_wait(s->process);
    s->died = s->process->killed;
    s->gone = true;
}

/* A server whose start is over: started, failed or dead. */
static void await_start(const struct world_server *s)
{
    int64_t until_ns = sim.now_ns + PATIENCE_NS;
    while (!s->started && !s->ending && !world_server_is_dead(s)) {
        sim_expect(sim.now_ns < until_ns, "a server's start does not come to an end");
        rest_for(NS_PER_MS);
    }
}

/* One seat: a client after the other. On a thread of the world's own. */
static void take_seats(void *argument)
{
    unsigned *left = argument;
    for (unsigned i = 0; i < world.plan.connections; i++) {
        bool polls = sim_one_in(world.plan.polls_one_in);
        struct sim_process *p = sim_process_start("client", polls ? world_poll : world_live, NULL);
        if (world.plan.client_dies_within > 0 && sim_below(3) != 0)
            p->dies_after = 1 + sim_below(world.plan.client_dies_within);
        sim_process_wait(p);
    }
    (*left)--;
}

static void end_server(struct world_server *s, bool drains)
{
    await_start(s);
    s->ending = true;
    if (world_server_is_dead(s) || s->server == NULL)
        return;
    s->controllers++;
    sim_thread_start(s->process, drains ? world_drain : world_stop, s);
}

static struct world_server *newest(void)
{
    return &world.servers[world.server_count - 1];
}

/* A dead server is replaced, as whoever watches over it would; until it is the last that there may be. */
static void see_to_servers(void)
{
    struct world_server *s = newest();
    s->ending |= world_server_is_dead(s);
    if (s->ending && (world_server_is_dead(s) || s->start_rc < 0) && world.server_count < WORLD_SERVERS) {
        await_end(s);
        rest_for(sim_below(20) * NS_PER_MS);
        await_start(start_server());
    }
}

static void await_clients(unsigned *left)
{
    int64_t until_ns = sim.now_ns + PATIENCE_NS;
    while (*left > 0) {
        sim_expect(sim.now_ns < until_ns, "the clients do not come to an end");
        rest_for(LOOK_NS); /* or until somebody has ended */
        see_to_servers();
    }
}

static void await_rest(struct world_server *s)
{
    int64_t until_ns = sim.now_ns + PATIENCE_NS, pause_ns = NS_PER_MS / 8;
    while (!world_server_is_dead(s) && s->server != NULL && !world_server_rests(s)) {
        sim_expect(sim.now_ns < until_ns, "the last client has gone, and its slot is not free again");
        rest_for(pause_ns);
        pause_ns *= 2;
    }
}

static void end_servers(void)
{
    for (unsigned i = 0; i < world.server_count; i++) {
        struct world_server *s = &world.servers[i];
        if (s->gone)
            continue;
        s->process->dies_after = 0;
        await_start(s);
        if (!s->ending)
            await_rest(s);
        end_server(s, false);
        await_end(s);
    }
}

/* What is there after the last server's end. One that died leaves its directory to the next start. */
static void expect_nothing_left(void)
{
    const char *left = sim_list(WORLD_ROOT "/" WORLD_SERVICE);
    if (world_server_is_dead(newest()) || world.plan.faulty)
        return;
    sim_expect(strcmp(left, ".start") == 0, "the service's directory is not empty: %s", left);
    sim_expect(sim_futex_waiters() == 0, "%u still wait for words", sim_futex_waiters());
    sim_expect(sim_pages_used() == 0, "%llu pages of shared memory are in use", (unsigned long long)sim_pages_used());
}

/* While the clients are there: another server takes over, or this one drains or stops. */
static void disturb(void)
{
    const struct world_plan *plan = &world.plan;
    if (!plan->replaces && !plan->drains && !plan->stops)
        return;
    rest_for(sim_below(plan->holds ? 20000 : 500) * 1000ll);
    struct world_server *s = newest();
    if (plan->replaces) {
        s->ending = true;
        await_start(start_server());
    } else {
        end_server(s, plan->drains);
    }
}

static void run(void)
{
    unsigned left = world.plan.clients;
    sim.at_rest = world_look_at_rest;
    struct world_server *s = start_server();
    if (sim_below(4) != 0)
        await_start(s);
    for (unsigned i = 0; i < world.plan.clients; i++)
        sim_thread_start(NULL, take_seats, &left);
    disturb();
    await_clients(&left);
    end_servers();
    expect_nothing_left();
}

/* --- the kinds ------------------------------------------------------------------------------------------------------- */

static void draw_calm(struct world_plan *plan, struct sim_machine *machine)
{
    (void)plan, (void)machine;
}

static void draw_stores(struct world_plan *plan, struct sim_machine *machine)
{
    (void)plan;
    machine->order = 1 + sim_below(SIM_ORDERS - 1);
}

static void draw_deaths(struct world_plan *plan, struct sim_machine *machine)
{
    plan->client_dies_within = 1u << (5 + sim_below(8));
    machine->order = sim_below(SIM_ORDERS);
}

static void draw_server_deaths(struct world_plan *plan, struct sim_machine *machine)
{
    plan->server_dies_within = 1u << (8 + sim_below(7));
    plan->client_dies_within = sim_one_in(4) ? 2000 : 0;
    machine->order = sim_below(SIM_ORDERS);
}

static void draw_endings(struct world_plan *plan, struct sim_machine *machine)
{
    unsigned kind = sim_below(3);
    plan->replaces = kind == 0;
    plan->drains = kind == 1;
    plan->stops = kind == 2;
    plan->client_dies_within = sim_one_in(3) ? 2000 : 0;
    machine->order = sim_below(SIM_ORDERS);
}

static void draw_crowd(struct world_plan *plan, struct sim_machine *machine)
{
    plan->shards = 2;
    plan->slots = 2 + 2 * sim_below(2);
    plan->clients = 2 + sim_below(3);
    plan->client_dies_within = sim_one_in(2) ? 3000 : 0;
    machine->order = sim_below(SIM_ORDERS);
}

/* Many who say little, so that slots are parked and roused. */
static void draw_quiet(struct world_plan *plan, struct sim_machine *machine)
{
    plan->clients = 2 + sim_below(2);
    plan->slots = 4;
    plan->connections = 1;
    plan->messages = 40;
    plan->quiet = true;
    machine->order = sim_below(SIM_ORDERS);
}

static void draw_lost_wakes(struct world_plan *plan, struct sim_machine *machine)
{
    machine->drop_one_in = 2 + sim_below(20);
    plan->client_dies_within = sim_one_in(4) ? 2000 : 0;
    plan->server_dies_within = sim_one_in(4) ? 4000 : 0;
}

static void draw_lost_events(struct world_plan *plan, struct sim_machine *machine)
{
    machine->records_max = 1 + sim_below(3);
    plan->clients = 3;
    plan->client_dies_within = sim_one_in(2) ? 2000 : 0;
}

static void draw_failures(struct world_plan *plan, struct sim_machine *machine)
{
    static const char *const whose[] = {"server", "client", NULL};
    plan->faulty = true;
    machine->failing = whose[sim_below(3)];
    machine->fail_one_in = 1 + sim_below(20);
    machine->fail_from_steps = sim_below(2) * sim_below(2000);
    machine->fail_until_steps = machine->fail_from_steps + (1u << sim_below(11));
    plan->client_dies_within = sim_one_in(4) ? 2000 : 0;
}

const struct world_family world_families[] = {
    {"calm", draw_calm},
    {"late stores", draw_stores},
    {"deaths of clients", draw_deaths},
    {"deaths of servers", draw_server_deaths},
    {"endings", draw_endings},
    {"crowds", draw_crowd},
    {"quiet", draw_quiet},
    {"lost wakes", draw_lost_wakes},
    {"lost events", draw_lost_events},
    {"failing calls", draw_failures},
};
const unsigned world_family_count = sizeof world_families / sizeof *world_families;

const struct world_family *world_family_of(uint64_t seed)
{
    return &world_families[seed % world_family_count];
}

static void draw(uint64_t seed, struct world_plan *plan, struct sim_machine *machine)
{
    static const uint32_t often[] = {1, 2, 4, 16, 64};
    static const uint32_t long_runs[] = {8, 64, 512};
    sim.random = seed * 0xa0761d6478bd642full;
    *machine = (struct sim_machine){.strategy = sim_below(SIM_STRATEGIES),
                                    .changes = sim_below(8),
                                    .changes_within = 1u << (8 + sim_below(7)),
                                    .step_ns_max = 20 + sim_below(200),
                                    .drain_one_in = 2 + sim_below(30),
                                    .interrupt_one_in = sim_one_in(4) ? 20 : 0,
                                    .records_max = 60,
                                    .submissions_max = sim_one_in(3) ? 4 + sim_below(4) : 256,
                                    .pages_max = 1024,
                                    .spins = sim_one_in(4)};
    machine->switch_one_in = machine->strategy == SIM_RUNS ? long_runs[sim_below(3)] : often[sim_below(5)];
    *plan = (struct world_plan){.shards = 1,
                                .slots = 2 + sim_below(3),
                                .warm = sim_below(4),
                                .clients = 1 + sim_below(3),
                                .connections = 1 + sim_below(3),
                                .messages = 1 + sim_below(10),
                                .leaves_one_in = sim_one_in(3) ? 3 : 0,
                                .large = sim_one_in(4),
                                .polls_one_in = sim_one_in(3) ? 2 : 0,
                                .holds = sim_one_in(4),
                                .spin = sim_one_in(4) ? BELFRY_SPIN_BALANCED : BELFRY_SPIN_POWER};
    world_family_of(seed)->draw(plan, machine);
}

bool world_run(uint64_t seed, bool trace)
{
    struct sim_machine machine;
    memset(&world, 0, sizeof world);
    draw(seed, &world.plan, &machine);
    return sim_run(seed, &machine, trace, run);
}

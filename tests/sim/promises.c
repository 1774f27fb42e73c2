/* SPDX-License-Identifier: MIT */
/* promises.c: what must hold when nobody can go on before the clock does; and when the last client has gone. */
#include <stdio.h>
#include <string.h>

#include "client/client.h"
#include "server/conn.h"
#include "server/server.h"
#include "world.h"

#define SOON_NS 60000000ll

/* --- nobody sleeps beside work ------------------------------------------------------------------------------------------ */

static bool sleeps(const struct sim_process *p)
{
    for (unsigned i = 0; i < sim.thread_count; i++)
        if (sim.threads[i].process == p && sim.threads[i].can_run)
            return false;
    return true;
}

/* A slot in which something lies that its shard would take, if it looked. Who dies between his commit and his ring is
   noticed by his death. */
static void look_at_slot(struct bf_shard *s, const struct bf_slot *slot)
{
    if (slot->phase != SLOT_OPEN || slot->muted)
        return;
    const struct life *life = belfry_conn_user(slot->conn);
    if (life_lasts(life) && bf_conn_has_work(slot->conn))
        sim_fail("shard %u sleeps, and in slot %u there is work: a wake was lost", s->index, slot->number);
    if (!slot->wait_armed)
        sim_fail("shard %u sleeps, and nothing waits for the bell of slot %u", s->index, slot->number);
}

static void look_at_shard(struct bf_shard *s)
{
    if (s->thread_started && s->reported && s->start_rc == 0 && !s->finished && sim_reactor_rests(&s->reactor))
        for (uint32_t i = 0; i < s->pool.count; i++)
            look_at_slot(s, &s->pool.slots[i]);
}

/*
 * Who dies between the change of a word and its wake wakes nobody. Then a client that waits for a slot looks again by itself,
 * soon; and of those that wait beside a dead server one is woken by the kernel and wakes the others, if it lives.
 */
static void look_at_sleepers(void)
{
    uint64_t key;
    unsigned dead = 0;
    for (unsigned i = 0; i < world.server_count; i++)
        dead += world_server_is_dead(&world.servers[i]);
    if (dead > 0 && sim.deaths > dead)
        return;
    const struct sim_thread *t = sim_futex_overslept(dead > 0 ? sim.now_ns + SOON_NS : 0, &key);
    if (t == NULL)
        return;
    char name[96];
    sim_word_name(name, sizeof name, key);
    sim_fail("process %s sleeps, and its word %s has changed: a wake was lost",
             t->process == NULL ? "-" : t->process->name, name);
}

/* A client in front of something that it has not taken. */
static void look_at_client(const struct life *life)
{
    if (!life_lasts(life) || life->client == NULL || life->pauses)
        return;
    if (!ring_is_empty(&life->client->in))
        sim_fail("process %u sleeps, and there is a message for it: a wake was lost", life->pid);
    struct ring_producer_local out = life->client->out; /* to look changes it */
    if (life->client->wanted != 0 && ring_has_room(&out, life->client->wanted - 1))
        sim_fail("process %u sleeps, and there is room for what it has to say: a wake was lost", life->pid);
}

void world_look_at_rest(void)
{
    if (sim.dropped > 0)
        return;
    sim.running = false; /* to look is no step */
    look_at_sleepers();
    for (unsigned i = 0; i < world.life_count; i++)
        look_at_client(&world.lives[i]);
    for (unsigned i = 0; i < world.server_count; i++) {
        struct world_server *s = &world.servers[i];
        if (s->started && s->server != NULL && !world_server_is_dead(s) && sleeps(s->process))
            for (uint32_t k = 0; k < s->server->shard_count; k++)
                look_at_shard(&s->server->shards[k]);
    }
    sim.running = true;
}

/* --- nothing is left of those who have gone ----------------------------------------------------------------------------- */

static bool shard_rests(const struct world_server *w, const struct bf_shard *s)
{
    char locks[64];
    if (s->conn_count > 0 || s->waits_armed > 0 || s->pool.active > 0 || s->hot_count > 0 || s->pool.maker.slot != NULL)
        return false;
    for (uint32_t i = 0; i < s->pool.count; i++) {
        const struct bf_slot *slot = &s->pool.slots[i];
        if (slot->phase != SLOT_COLD && slot->phase != SLOT_WARM)
            return false;
        if (w->tenant[slot->number] != NULL)
            return false;
    }
    if (!world.plan.faulty && !s->draining && s->pool.warm != s->pool.warm_target)
        return false;
    snprintf(locks, sizeof locks, "%s/%s/%llu/shard-%u", WORLD_ROOT, WORLD_SERVICE,
             (unsigned long long)w->server->instance.number, s->index);
    return sim_list(locks)[0] == '\0';
}

bool world_server_rests(const struct world_server *w)
{
    sim.running = false;
    bool rests = true;
    for (uint32_t i = 0; i < w->server->shard_count && rests; i++)
        rests = shard_rests(w, &w->server->shards[i]);
    sim.running = true;
    return rests;
}

/* SPDX-License-Identifier: MIT */
/* people.c: see people.h. */
#include "people.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host.h"

#define CALL_MS 120000
#define LARGE_VISIT_BYTES (256u << 10)
#define VISIT_PAUSE_S 0.005
#define SITUATION(situation) (1u << (situation))

/* An echo; false: it has been said what is wrong. */
static bool call(struct stage *s, const char *who, belfry_client *c, const char *data, size_t bytes)
{
    belfry_message m;
    if (belfry_call(c, data, bytes, &m, belfry_in_ms(CALL_MS)) < 0) {
        stage_wrong(s, "a call of the %s failed: %s", who, belfry_last_error());
        return false;
    }
    bool same = m.size == bytes && memcmp(m.data, data, bytes) == 0;
    belfry_release(c, &m);
    if (!same)
        stage_wrong(s, "an answer to the %s is wrong", who);
    return same;
}

/* Leaves, unless it missed a wake. */
static bool leave(struct stage *s, belfry_client *c)
{
    uint64_t rescued = belfry_client_rescued_wakes(c);
    if (rescued > 0)
        stage_wrong(s, "%llu wakes of a client were rescued", (unsigned long long)rescued);
    belfry_close(c);
    return rescued == 0;
}

/* ---- the victim -------------------------------------------------------------------------------------------------- */

#define OTHERS_MAX 16u
#define OTHERS_FULL 64 /* messages: more than a turn reads, and soon made */

struct person {
    struct stage *s;
    belfry_client *client;
    char *data;
    size_t bytes;
    belfry_client *other[OTHERS_MAX]; /* conns of its own that it floods before each call, in DURING */
    uint32_t others;
};

static bool fill_others(struct person *v)
{
    static const char data[PEOPLE_CALL_BYTES] = {HOST_IGNORE};
    for (uint32_t i = 0; i < v->others; i++)
        for (int n = 0, rc = 0; n < OTHERS_FULL && rc == 0; n++)
            if ((rc = belfry_send_one_way(v->other[i], data, sizeof data)) < 0 && rc != -EAGAIN) {
                stage_wrong(v->s, "a message of the victim failed: %s", belfry_last_error());
                return false;
            }
    return true;
}

/* A plan without attackers may have the victim flood. */
static bool connect_others(struct person *v, const struct plan *p)
{
    v->others = p->attack == NULL ? p->conns : 0;
    for (uint32_t i = 0; i < v->others; i++)
        if ((v->other[i] = stage_connect(v->s, false, NULL)) == NULL)
            return false;
    return true;
}

static bool victim_step(void *context, enum situation now)
{
    struct person *v = context;
    if (now == DURING && !fill_others(v))
        return false;
    int64_t began_ns = belfry_now_ns();
    if (!call(v->s, "victim", v->client, v->data, v->bytes))
        return false;
    histogram_add(&v->s->board->calls[now], (uint64_t)(belfry_now_ns() - began_ns));
    return true;
}

int people_victim(struct stage *s, const struct plan *p, uint32_t unused)
{
    char data[PEOPLE_CALL_BYTES] = "victim";
    struct person v = {.s = s, .client = stage_connect(s, false, NULL), .data = data, .bytes = sizeof data};
    (void)unused;
    if (v.client == NULL || !connect_others(&v, p) || !call(s, "victim", v.client, data, sizeof data))
        return 1;
    stage_ready(s);
    bool good = stage_act(s, SITUATION(ALONE) | SITUATION(BESIDE) | SITUATION(DURING), victim_step, NULL, &v);
    for (uint32_t i = 0; i < v.others; i++)
        belfry_close(v.other[i]);
    return good && leave(s, v.client) ? 0 : 1;
}

/* ---- a guest ----------------------------------------------------------------------------------------------------- */

static bool guest_step(void *context, enum situation now)
{
    struct person *g = context;
    int64_t began_ns = belfry_now_ns();
    belfry_client *c = stage_connect(g->s, false, NULL);
    bool good = c != NULL && call(g->s, "guest", c, g->data, g->bytes);
    if (good)
        histogram_add(&g->s->board->visits[now], (uint64_t)(belfry_now_ns() - began_ns));
    belfry_close(c);
    stage_pause(VISIT_PAUSE_S);
    return good;
}

int people_guest(struct stage *s, const struct plan *p, uint32_t unused)
{
    size_t bytes = p->large_visits ? LARGE_VISIT_BYTES : PEOPLE_CALL_BYTES;
    struct person g = {.s = s, .data = calloc(1, bytes), .bytes = bytes};
    (void)unused;
    stage_ready(s);
    bool good =
        g.data != NULL && stage_act(s, SITUATION(ALONE) | SITUATION(BESIDE) | SITUATION(DURING), guest_step, NULL, &g);
    free(g.data);
    return good ? 0 : 1;
}

/* ---- a crowd ----------------------------------------------------------------------------------------------------- */

struct crowd {
    struct stage *s;
    uint32_t index;
    uint32_t conns;
    belfry_client **client;
    int64_t due_ns;
};

static bool crowd_connect(struct crowd *c)
{
    c->client = calloc(c->conns, sizeof *c->client);
    for (uint32_t i = 0; c->client != NULL && i < c->conns; i++)
        if ((c->client[i] = stage_connect(c->s, false, NULL)) == NULL)
            return false;
    return c->client != NULL;
}

static bool crowd_step(void *context, enum situation now)
{
    static const char data[PEOPLE_CALL_BYTES] = "crowd";
    struct crowd *c = context;
    belfry_message m;
    (void)now;
    int64_t now_ns = belfry_now_ns();
    if (now_ns < c->due_ns)
        stage_pause((double)(c->due_ns - now_ns) / 1e9);
    c->due_ns = belfry_in_ms(PEOPLE_CROWD_PACE_MS);
    int rc = 0;
    for (uint32_t i = 0; i < c->conns && rc == 0; i++)
        rc = belfry_send(c->client[i], data, sizeof data, NULL);
    for (uint32_t i = 0; i < c->conns && rc == 0; i++)
        if ((rc = belfry_receive(c->client[i], &m, belfry_in_ms(CALL_MS))) == 0)
            belfry_release(c->client[i], &m);
    if (rc < 0)
        stage_wrong(c->s, "a call of the crowd failed: %s", belfry_last_error());
    atomic_fetch_add(&c->s->board->crowd_rounds[c->index], 1);
    return rc == 0;
}

int people_crowd(struct stage *s, const struct plan *p, uint32_t index)
{
    struct crowd c = {.s = s, .index = index, .conns = s->scale->crowd_conns};
    (void)p;
    if (!crowd_connect(&c))
        return 1;
    stage_ready(s);
    uint32_t mask = SITUATION(STIR) | SITUATION(DURING);
    if (index < s->scale->crowd_processes / 2)
        mask |= SITUATION(ALONE);
    bool good = stage_act(s, mask, crowd_step, NULL, &c);
    for (uint32_t i = 0; i < c.conns; i++)
        good = leave(s, c.client[i]) && good;
    free(c.client);
    return good ? 0 : 1;
}

static bool silent_step(void *context, enum situation now)
{
    (void)context, (void)now;
    return true;
}

int people_silent(struct stage *s, const struct plan *p, uint32_t index)
{
    struct crowd c = {.s = s, .index = index, .conns = s->scale->dying_conns};
    (void)p;
    if (!crowd_connect(&c))
        return 1;
    stage_ready(s);
    stage_act(s, 0, silent_step, NULL, NULL);
    for (uint32_t i = 0; i < c.conns; i++)
        belfry_close(c.client[i]);
    free(c.client);
    return 0;
}

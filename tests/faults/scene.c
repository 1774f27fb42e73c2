/* SPDX-License-Identifier: MIT */
/* scene.c: see scene.h. In each process: open, the act, and all that must hold after it. */
#include "scene.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/server.h"

#define LASTING_MS 150 /* how long an act waits while a failure lasts */
#define PATIENCE_MS 25000
#define KEPT_BLOCKS 1 /* the guard's, for the next server of the process */

bool scene_server_fails;

/* --- the server's handlers ---------------------------------------------------------------------------------------------- */

static int on_connect(belfry_conn *conn, void *user)
{
    struct scene *s = user;
    bool *open = &s->open[belfry_conn_slot(conn)];
    s->alternated += *open;
    *open = true;
    __atomic_store_n(&s->last, belfry_conn_get_id(conn), __ATOMIC_RELEASE);
    return 0;
}

static void on_disconnect(belfry_conn *conn, enum belfry_end why, void *user)
{
    struct scene *s = user;
    bool *open = &s->open[belfry_conn_slot(conn)];
    s->alternated += !*open || why == BELFRY_END_NONE;
    *open = false;
}

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    static uint8_t data[SCENE_LARGE_BYTES];
    struct scene *s = user;
    if (!scene_is_whole(m->data, m->size)) {
        s->torn++;
        return;
    }
    enum scene_wish wish = *(const uint8_t *)m->data;
    if (m->kind != BELFRY_REQUEST)
        return;
    if (wish == SCENE_DEFER && belfry_defer(conn, m, &s->ticket, NULL) == 0) {
        __atomic_add_fetch(&s->tickets, 1, __ATOMIC_RELEASE);
        return;
    }
    scene_write(data, SCENE_ECHO, SCENE_LARGE_BYTES);
    for (unsigned i = 0; wish == SCENE_PUSHES && i < SCENE_PUSH_COUNT; i++) {
        scene_write(data, SCENE_ECHO, SCENE_PUSH_BYTES);
        belfry_push(conn, data, SCENE_PUSH_BYTES);
    }
    size_t bytes = wish == SCENE_LARGE ? SCENE_LARGE_BYTES : m->size;
    scene_write(data, wish, bytes);
    int rc = belfry_reply(conn, m, data, bytes);
    if (rc < 0)
        belfry_fail(conn, m, rc, "it could not be answered");
}

static void on_cancel(belfry_conn *conn, const belfry_ticket *t, int why, void *user)
{
    (void)why, (void)user;
    belfry_complete_failed(belfry_conn_server(conn), t, -ECANCELED, "nobody waits");
}

static void on_log(enum belfry_log_level level, const char *line, void *user)
{
    (void)level, (void)line, (void)user; /* many of these lines are to be expected */
}

/* --- messages ------------------------------------------------------------------------------------------------------------- */

void scene_write(uint8_t *data, enum scene_wish wish, size_t bytes)
{
    data[0] = (uint8_t)wish;
    for (size_t i = 1; i < bytes; i++)
        data[i] = (uint8_t)(i * 131 + bytes);
}

bool scene_is_whole(const void *data, size_t bytes)
{
    const uint8_t *byte = data;
    for (size_t i = 1; i < bytes; i++)
        if (byte[i] != (uint8_t)(i * 131 + bytes))
            return false;
    return bytes > 0;
}

/* --- clients -------------------------------------------------------------------------------------------------------------- */

static bool act_runs;

static bool lasts(void)
{
    return act_runs && faults->mode != FAULTS_ONCE;
}

int64_t scene_deadline(void)
{
    return belfry_in_ms(lasts() ? LASTING_MS : PATIENCE_MS);
}

static void may_be(const char *what, int rc)
{
    if (rc == -ETIMEDOUT && !lasts())
        faults_wrong("%s: nothing came, and no end with a reason", what);
    if (rc < 0 && belfry_error_text(rc)[0] == '\0')
        faults_wrong("%s: code %d has no text", what, rc);
}

int scene_connect(struct scene *s, belfry_client **c)
{
    belfry_client_options o;
    (void)s;
    belfry_client_options_init(&o, sizeof o);
    o.deadline_ns = scene_deadline();
    o.spin = BELFRY_SPIN_POWER;
    int rc = of_client(belfry_connect(c, SCENE_SERVICE, &o));
    may_be("connect", rc);
    if (rc < 0 && (*c != NULL || belfry_last_error()[0] == '\0'))
        faults_wrong("connect failed with %d, and a client or no sentence", rc);
    return rc;
}

int scene_call(struct scene *s, belfry_client *c, enum scene_wish wish, size_t bytes)
{
    static uint8_t data[SCENE_LARGE_BYTES];
    belfry_message m;
    (void)s;
    scene_write(data, wish, bytes);
    int rc = of_client(belfry_call(c, data, bytes, &m, scene_deadline()));
    may_be("call", rc);
    if (rc == 0 && !scene_is_whole(m.data, m.size))
        faults_wrong("what came is torn");
    if (rc == 0 && m.size != (wish == SCENE_LARGE ? SCENE_LARGE_BYTES : bytes))
        faults_wrong("%zu bytes came", m.size);
    if (rc == 0)
        of_client((belfry_release(c, &m), 0));
    return rc;
}

void scene_close(struct scene *s, belfry_client **c)
{
    (void)s;
    of_client((belfry_close(*c), 0));
    *c = NULL;
}

/* --- what must hold --------------------------------------------------------------------------------------------------------- */

static void visit(belfry_client *c, const char *who)
{
    uint8_t data[100];
    belfry_message m;
    scene_write(data, SCENE_ECHO, sizeof data);
    int rc = belfry_call(c, data, sizeof data, &m, belfry_in_ms(PATIENCE_MS));
    if (rc < 0)
        faults_wrong("%s is not served: %d: %s", who, rc, belfry_last_error());
    if (m.size != sizeof data || !scene_is_whole(m.data, m.size))
        faults_wrong("%s got something else", who);
    belfry_release(c, &m);
}

void scene_neighbour(struct scene *s)
{
    visit(s->neighbour, "the neighbour");
}

/* A new client comes. It may have to wait until a slot is made. */
static void expect_service(void)
{
    belfry_client *c;
    belfry_client_options o;
    int rc;
    belfry_client_options_init(&o, sizeof o);
    int64_t until_ms = fixture_now_ms() + PATIENCE_MS;
    do {
        o.deadline_ns = belfry_in_ms(PATIENCE_MS);
        rc = belfry_connect(&c, SCENE_SERVICE, &o);
    } while ((rc == BELFRY_EFULL || rc == BELFRY_ENOSPACE) && fixture_now_ms() < until_ms);
    if (rc < 0)
        faults_wrong("nobody can connect any more: %d: %s", rc, belfry_last_error());
    visit(c, "a new client");
    belfry_close(c);
}

struct look {
    struct scene *scene;
    char why[256];
    bool settled;
    bool done;
};

/* On the shard's thread. */
static void look(void *argument)
{
    struct look *l = argument;
    const struct bf_shard *s = &l->scene->server->shards[0];
    const struct bf_slot_pool *p = &s->pool;
    unsigned waits = 0;
    for (uint32_t i = 0; i < p->count; i++)
        waits += p->slots[i].wait_armed;
    l->settled = s->conn_count == 0 && p->active == 0 && p->warm == p->warm_target &&
                 p->cold == p->count - p->warm_target && p->maker.slot == NULL && p->ended.first == NULL &&
                 waits == 0 && s->waits_armed == 0 && s->hot_count == 0 && s->counters->outbox_bytes == 0 &&
                 s->counters->rescued_wakes == 0;
    snprintf(l->why, sizeof l->why,
             "%u conns, %u claims, %u warm of %u, %u cold of %u, %u waits, %u hot, %llu bytes kept, %llu rescued wakes",
             s->conn_count, p->active, p->warm, p->warm_target, p->cold, p->count, waits, s->hot_count,
             (unsigned long long)s->counters->outbox_bytes, (unsigned long long)s->counters->rescued_wakes);
    __atomic_store_n(&l->done, true, __ATOMIC_RELEASE);
}

static bool is_settled(struct scene *s, char why[256])
{
    struct look l = {.scene = s};
    char path[FIXTURE_PATH_BYTES + 64];
    if (belfry_post(s->server, 0, look, &l) < 0)
        faults_wrong("no shard to ask");
    if (!eventually(__atomic_load_n(&l.done, __ATOMIC_ACQUIRE)))
        faults_wrong("the shard does not answer");
    memcpy(why, l.why, sizeof l.why);
    snprintf(path, sizeof path, "%.200s/" SCENE_SERVICE "/%llu/shard-0", faults->root,
             (unsigned long long)belfry_server_instance(s->server));
    int locks = fixture_count_files(path, "");
    if (l.settled && locks != 0)
        snprintf(why, 256, "%d lock files left", locks);
    return l.settled && locks == 0;
}

static void expect_settled(struct scene *s)
{
    char why[256];
    if (!eventually(is_settled(s, why)))
        faults_wrong("the slots are not what they were: %s", why);
    if (s->alternated > 0 || s->torn > 0)
        faults_wrong("%u conns did not alternate, %u messages were torn", s->alternated, s->torn);
}

static char other_file[FIXTURE_PATH_BYTES];

static int is_other(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind;
    bool known = where->level == 0 || (where->level == 1 && strcmp(path + where->base, SCENE_SERVICE) == 0) ||
                 (where->level == 2 && strcmp(path + where->base, PLACE_START_LOCK) == 0);
    if (!known)
        snprintf(other_file, sizeof other_file, "%.255s", path);
    return !known;
}

static bool has_files(void)
{
    return nftw(faults->root, is_other, 16, FTW_PHYS) != 0;
}

static unsigned count_maps(void)
{
    char line[1024];
    unsigned count = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL)
        count += strstr(line, faults->root) != NULL;
    if (maps != NULL)
        fclose(maps);
    return count;
}

/* No server any more: what does the process still have? */
static void expect_nothing_left(const struct scene *s)
{
    if (!eventually(fixture_count_files("/proc/self/task", "") == 1))
        faults_wrong("%d threads", fixture_count_files("/proc/self/task", ""));
    if (fixture_count_fds() != s->fds)
        faults_wrong("%d descriptors, and %d before", fixture_count_fds(), s->fds);
    if (count_maps() != 0)
        faults_wrong("%u maps of files", count_maps());
    if (faults_mapped_bytes() != 0 && faults->mode == FAULTS_ONCE)
        faults_wrong("%lld bytes of addresses", (long long)faults_mapped_bytes());
    if (faults_blocks() < 0 || faults_blocks() > KEPT_BLOCKS)
        faults_wrong("%lld blocks of memory", (long long)faults_blocks());
}

/* --- from the beginning to the end ------------------------------------------------------------------------------------------- */

static void open_scene(struct scene *s, const struct scene_act *act)
{
    *s = (struct scene){.server = NULL};
    fixture_root_make(faults->root);
    scene_server_fails = act->server_fails;
    belfry_server_options *o = &s->options;
    belfry_server_options_init(o, sizeof *o);
    o->service = SCENE_SERVICE;
    o->on_connect = on_connect;
    o->on_disconnect = on_disconnect;
    o->on_message = on_message;
    o->on_cancel = on_cancel;
    o->on_log = on_log;
    o->user = s;
    o->shards = 1;
    o->max_slots = SCENE_SLOTS;
    o->warm_pool = act->warm_pool;
    o->ring_bytes = 4096;
    o->message_bytes_max = SCENE_LARGE_BYTES;
    o->claim_grace_ms = 200;
    o->spin = BELFRY_SPIN_POWER;
    o->own_loop = act->own_loop;
    s->fds = fixture_count_fds();
}

/* The machine may be short of inotify instances: others test, too. */
static int start(struct scene *s, bool may_fail)
{
    faults_stage("create");
    int rc = of_server(belfry_server_create(&s->server, &s->options));
    if (rc < 0)
        return rc;
    for (int64_t until_ms = fixture_now_ms() + PATIENCE_MS;;) {
        faults_stage("start");
        rc = of_server(belfry_server_start(s->server));
        if (rc != BELFRY_ENOFILES || (may_fail && faults->name != NULL) || fixture_now_ms() > until_ms)
            return rc;
        fixture_pause();
    }
}

static void start_again(struct scene *s)
{
    faults_stage("a second start");
    int rc;
    for (int64_t until_ms = fixture_now_ms() + PATIENCE_MS;
         (rc = belfry_server_start(s->server)) == BELFRY_ENOFILES && fixture_now_ms() < until_ms;)
        fixture_pause();
    if (rc < 0)
        faults_wrong("the second start fails: %d: %s", rc, belfry_last_error());
}

static void end_server(struct scene *s)
{
    faults_stage("destroy");
    of_server((belfry_server_destroy(s->server), 0));
    s->server = NULL;
}

/* A start that has failed: nothing is left, and the same server can be started. */
static void look_at_failed_start(struct scene *s, int rc)
{
    if (faults->name == NULL)
        faults_wrong("it does not start: %d: %s", rc, belfry_last_error());
    if (belfry_last_error()[0] == '\0')
        faults_wrong("no sentence about %d", rc);
    faults_disarm();
    if (s->server == NULL)
        return;
    if (fixture_count_fds() != s->fds)
        faults_wrong("a failed start (%d: %s) leaves %d descriptors", rc, belfry_last_error(),
                     fixture_count_fds() - s->fds);
    if (faults->mode == FAULTS_ONCE && has_files())
        faults_wrong("a failed start (%d: %s) leaves %s", rc, belfry_last_error(), other_file);
    start_again(s);
}

/* With own_loop nobody else runs the turns: this only starts, and stops. */
static void visit_all(struct scene *s, const struct scene_act *act)
{
    if (act->own_loop)
        return;
    faults_stage("afterwards: the neighbour");
    if (s->neighbour != NULL)
        visit(s->neighbour, "afterwards the neighbour");
    faults_stage("afterwards: a new client");
    expect_service();
    faults_stage("afterwards: all leave");
    scene_close(s, &s->client);
    belfry_close(s->neighbour);
    s->neighbour = NULL;
    expect_settled(s);
}

static void serve_again(struct scene *s, const struct scene_act *act)
{
    if (start(s, false) < 0)
        faults_wrong("the next server does not start: %s", belfry_last_error());
    if (!act->own_loop)
        expect_service();
    end_server(s);
    if (has_files())
        faults_wrong("even the next server leaves %s", other_file);
}

static void play(void *context)
{
    static struct scene scene;
    struct scene *s = &scene;
    const struct scene_act *act = context;
    open_scene(s, act);
    if (act->starts)
        faults_arm();
    int rc = start(s, act->starts);
    if (rc < 0)
        look_at_failed_start(s, rc);
    if (!act->starts) {
        if (scene_connect(s, &s->neighbour) < 0)
            faults_wrong("the neighbour cannot connect: %s", belfry_last_error());
        scene_neighbour(s);
        if (act->before != NULL)
            act->before(s);
        faults_arm();
    }
    act_runs = true;
    faults_stage("the act");
    if (rc == 0 && act->run != NULL)
        act->run(s);
    if (faults->mode != FAULTS_TO_END) {
        faults_disarm();
        if (s->server != NULL)
            visit_all(s, act);
    }
    scene_close(s, &s->client);
    belfry_close(s->neighbour);
    end_server(s);
    faults_disarm();
    faults_stage("afterwards: what is left");
    expect_nothing_left(s);
    faults_stage("the next server");
    serve_again(s, act);
    expect_nothing_left(s);
    fixture_remove_tree(faults->root);
    _exit(0);
}

void scene_play(const struct scene_act *act)
{
    faults_each(act->name, play, (void *)act);
}

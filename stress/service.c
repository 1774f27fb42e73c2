/* SPDX-License-Identifier: MIT */
/* service.c: see service.h. */
#include "service.h"

#include "message.h"

#include <belfry/server.h>
#include <belfry/stats.h>
#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STOP_MS 10000

/* ---- in the server's process ----------------------------------------------------------------------------------- */

struct echo {
    _Atomic bool corrupt_next; /* several shards may look at the same time */
};

/* One reply in which one bit is not what it should be. */
static int reply_spoiled(belfry_conn *conn, const belfry_message *m)
{
    void *room;
    int rc = belfry_reply_reserve(conn, m, m->size, &room);
    if (rc < 0)
        return rc;
    memcpy(room, m->data, m->size);
    ((unsigned char *)room)[m->size / 2] ^= 1;
    return belfry_reply_commit(conn, m->size);
}

static void on_message(belfry_conn *conn, const belfry_message *m, void *user)
{
    struct echo *echo = user;
    if (m->kind != BELFRY_REQUEST)
        return;
    if (!message_is_sound(m->data, m->size))
        belfry_fail(conn, m, SERVICE_ECORRUPT, "the checksum of the request is wrong");
    else if (atomic_load_explicit(&echo->corrupt_next, memory_order_relaxed) &&
             atomic_exchange(&echo->corrupt_next, false))
        reply_spoiled(conn, m);
    else
        belfry_reply(conn, m, m->data, m->size); /* if it cannot, the client is told that nobody answered */
}

static int serve(const struct options *o, const char *name, struct board_shared *b)
{
    struct echo echo = {.corrupt_next = o->corrupt_one};
    belfry_server_options so;
    belfry_server_options_init(&so, sizeof so);
    so.service = name;
    so.root = o->root;
    so.on_message = on_message;
    so.user = &echo;
    so.shards = o->shards;
    so.max_slots = o->max_slots;
    so.stop_signals = true;
    if (o->spin != BELFRY_SPIN_DEFAULT)
        so.spin = o->spin;
    if (o->ring_bytes > 0)
        so.ring_bytes = o->ring_bytes;
    if (o->warm_pool >= 0)
        so.warm_pool = (uint32_t)o->warm_pool;
    else if (so.warm_pool > so.max_slots)
        so.warm_pool = so.max_slots;

    belfry_server *s;
    int rc = belfry_server_create(&s, &so);
    if (rc == 0)
        rc = belfry_server_start(s);
    if (rc < 0) {
        b->service_rc = rc;
        snprintf(b->service_sentence, sizeof b->service_sentence, "%s", belfry_last_error());
        belfry_server_destroy(s);
        return rc;
    }
    atomic_store(&b->service_state, SERVICE_READY);
    rc = belfry_server_wait(s);
    if (rc < 0)
        fprintf(stderr, "belfry-stress: the server: %s\n", belfry_last_error());
    belfry_server_destroy(s);
    return rc;
}

/* A group of its own keeps the terminal's ^C away: the server must outlive it, for the last figures. */
static void service_process(const struct options *o, const char *name, struct board_shared *b, pid_t parent)
{
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* not SIGKILL: it still removes its files */
    if (getppid() != parent)
        exit(EXIT_FAILURE);
    int rc = serve(o, name, b);
    if (rc < 0)
        atomic_store(&b->service_state, SERVICE_FAILED);
    exit(rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

/* ---- in the main process --------------------------------------------------------------------------------------- */

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static int service_find(struct service *s, const struct options *o)
{
    belfry_statistics stats = {.size = sizeof stats};
    int rc = belfry_stats(o->service, o->root, &stats);
    if (rc < 0) {
        fprintf(stderr, "belfry-stress: %s\n", belfry_last_error());
        return rc;
    }
    if (!stats.alive) {
        fprintf(stderr, "belfry-stress: the server of '%s' is dead; start it again\n", o->service);
        return BELFRY_EGONE;
    }
    snprintf(s->name, sizeof s->name, "%s", o->service);
    s->pid = (pid_t)stats.pid;
    return 0;
}

int service_start(struct service *s, const struct options *o, struct board_shared *b)
{
    *s = (struct service){.ours = !o->service};
    if (!s->ours)
        return service_find(s, o);

    pid_t parent = getpid();
    snprintf(s->name, sizeof s->name, "stress-%d", (int)parent);
    fflush(NULL);
    s->pid = fork();
    if (s->pid < 0) {
        perror("belfry-stress: fork");
        return -errno;
    }
    if (s->pid == 0)
        service_process(o, s->name, b, parent);

    while (atomic_load(&b->service_state) == SERVICE_STARTING && !service_gone(s))
        pause_ms(1);
    if (atomic_load(&b->service_state) == SERVICE_READY)
        return 0;
    int rc = b->service_rc;
    if (rc < 0) {
        fprintf(stderr, "belfry-stress: the server cannot start: %s\n", b->service_sentence);
    } else {
        fprintf(stderr, "belfry-stress: the server ended while it started\n");
        rc = -ECHILD;
    }
    service_stop(s, o);
    return rc;
}

bool service_gone(struct service *s)
{
    if (s->ours && !s->exited && waitpid(s->pid, &s->status, WNOHANG) == s->pid)
        s->exited = true;
    return s->exited;
}

static void root_path(const struct options *o, char *out, size_t out_bytes)
{
    const char *root = o->root ? o->root : getenv("BELFRY_ROOT");
    if (root && *root)
        snprintf(out, out_bytes, "%s", root);
    else
        snprintf(out, out_bytes, "/dev/shm/belfry-%u", (unsigned)geteuid());
}

static uint32_t leftovers; /* nftw has no place for a pointer of ours */

static int remove_leftover(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st, (void)type;
    leftovers += where->level > 0 && strcmp(path + where->base, ".start") != 0;
    remove(path);
    return 0;
}

/* Nobody will use this name again: what a server that crashed has left is memory for nothing. How many files? */
static uint32_t service_forget(const struct service *s, const struct options *o)
{
    char root[512], path[768];
    root_path(o, root, sizeof root);
    snprintf(path, sizeof path, "%s/%s", root, s->name);
    leftovers = 0;
    nftw(path, remove_leftover, 16, FTW_DEPTH | FTW_PHYS);
    return leftovers;
}

bool service_stop(struct service *s, const struct options *o)
{
    if (!s->ours)
        return true;
    if (!s->exited)
        kill(s->pid, SIGTERM);
    for (int ms = 0; !service_gone(s); ms += 5) {
        if (ms == STOP_MS) {
            fprintf(stderr, "belfry-stress: the server does not stop; it is killed\n");
            kill(s->pid, SIGKILL);
        }
        pause_ms(5);
    }
    uint32_t left = service_forget(s, o);
    bool clean = WIFEXITED(s->status) && WEXITSTATUS(s->status) == 0;
    if (clean && left > 0)
        fprintf(stderr, "belfry-stress: the server has left %u files behind\n", left);
    return clean && left == 0;
}

/* A name with a uid in front of it lives below that user's default root. */
void service_segments_path(const struct service *s, const struct options *o, uint64_t instance, char *out,
                           size_t out_bytes)
{
    char root[512];
    const char *colon = strchr(s->name, ':');
    root_path(o, root, sizeof root);
    if (colon && !o->root)
        snprintf(root, sizeof root, "/dev/shm/belfry-%.*s", (int)(colon - s->name), s->name);
    snprintf(out, out_bytes, "%s/%s/%llu/segments", root, colon ? colon + 1 : s->name, (unsigned long long)instance);
}

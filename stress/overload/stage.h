/* SPDX-License-Identifier: MIT */
/*
 * stage.h: the processes of a plan and the one sheet of memory that they share.
 *
 * The main process says which situation it is. All others wait for that on a futex, act for as long as it lasts, and come
 * to rest; nothing is read or cleared before the last of them has. Each is forked while there is a single thread, becomes
 * the user that it plays, and dies with the main process.
 */
#ifndef OVERLOAD_STAGE_H
#define OVERLOAD_STAGE_H

#include <stdatomic.h>
#include <sys/types.h>

#include "../histogram.h"
#include "../proc.h"
#include "plan.h"

#define SERVICE "overload"
#define ACTORS_MAX 256u
#define SLOTS_DEFAULT 1024u

/* Nobody's numbers. Without root all of them are who started this. */
enum { UID_SERVER = 61001, UID_ATTACKER = 61002, UID_GUEST = 61003 };

/* What the server says about those whom it pushes to. */
struct fed {
    _Atomic uint64_t taken;
    _Atomic uint64_t refused; /* the handler was told BELFRY_EBACKLOG */
    _Atomic uint64_t marks;   /* calls of on_backlog */
};

struct board {
    _Atomic uint32_t word; /* the situation; above it a number that is never the same again */
    _Atomic uint32_t busy; /* actors that have not come to rest */
    _Atomic uint32_t ready;
    _Atomic uint32_t failures;
    char failure[PLAN_TEXT_CHARS]; /* the first */
    struct histogram calls[SITUATIONS];
    struct histogram visits[SITUATIONS];
    _Atomic uint32_t crowd_rounds[ACTORS_MAX]; /* by process: times that all its conns had an answer */
    _Atomic bool attacked;                     /* in this situation */
    struct fed fed;
    _Atomic int64_t killed_ns;
    struct histogram buried[BELFRY_SHARDS_MAX]; /* from then until on_disconnect */
};

struct actor {
    pid_t pid; /* 0: reaped */
    const char *who;
};

struct stage {
    const struct overload_options *options;
    const struct scale *scale;
    struct board *board;
    struct row *row;
    bool root; /* can play several users */
    char directory[64];
    char service[32]; /* as all of them name it */
    pid_t server;
    struct actor actor[ACTORS_MAX];
    uint32_t actors;
    uint32_t victim; /* which of them */

    bool has_attackers;

    /* of the situation that is measured */
    enum situation situation;
    int64_t began_ns;
    struct proc_cpu server_before, victim_before;
    uint64_t long_turns_before;
};

/* 0, or an exit status after a sentence on standard error. */
int stage_open(struct stage *s);
void stage_close(struct stage *s);

/* ---- the main process ------------------------------------------------------------------------------------------- */

typedef int stage_body(struct stage *s, const struct plan *p, uint32_t index);

/* False: what is wrong has been noted. */
bool stage_serve(struct stage *s, const struct plan *p);

/* Start one and wait until it is ready. Its number. */
uint32_t stage_enter(struct stage *s, const char *who, uint32_t uid, stage_body *body, const struct plan *p,
                     uint32_t index);

void stage_set(struct stage *s, enum situation situation);

/* REST, and wait until everybody does. */
void stage_rest(struct stage *s);

/* What is measured lies between begin and finish. The latter waits until the victim has had an answer, and whoever attacks
   has begun to; and brings everybody to rest. */
void stage_begin(struct stage *s, enum situation situation);
struct figures stage_finish(struct stage *s);
void stage_pause(double seconds);

/* Look until it is true, for at most so many seconds. The nanoseconds that took, or -1. */
int64_t stage_wait(struct stage *s, bool (*condition)(struct stage *s, uint64_t value), uint64_t value, int seconds);
bool stage_conns_are(struct stage *s, uint64_t value);

/* Every slot that has a lock file has a conn. */
bool stage_is_settled(struct stage *s, uint64_t unused);

void stage_kill(struct stage *s, uint32_t first, uint32_t count); /* and reap */
const belfry_statistics *stage_stats(struct stage *s);

/* Everybody leaves, the server stops. What is wrong by then, or was left behind, is noted. */
void stage_end(struct stage *s, const struct plan *p);

/* ---- any process ------------------------------------------------------------------------------------------------ */

/* Something is wrong. Prints nothing: the first such text comes into the report. */
void stage_wrong(struct stage *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- who is on it ------------------------------------------------------------------------------------------------ */

void stage_ready(struct stage *s);

static inline enum situation stage_now(struct stage *s)
{
    return (enum situation)(atomic_load_explicit(&s->board->word, memory_order_acquire) & 15);
}

/*
 * Until OVER: call `step` again and again in the situations of `mask`, and `relax` (may be NULL) once one of them has been
 * followed by REST or OVER. A step that returns false ends it: it has said what is wrong.
 */
bool stage_act(struct stage *s, uint32_t mask, bool (*step)(void *context, enum situation now),
               void (*relax)(void *context), void *context);

/* NULL: what is wrong has been noted, unless `may_fail`; *rc (may be NULL) is the code. */
belfry_client *stage_connect(struct stage *s, bool may_fail, int *rc);

#endif

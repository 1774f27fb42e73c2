/* SPDX-License-Identifier: MIT */
/*
 * speaker.h: clients of one process that is going to die, and what it leaves to the test.
 *
 * None of these returns unless it succeeds: else the process ends, and its will says why.
 */
#ifndef BF_TESTS_SPEAKER_H
#define BF_TESTS_SPEAKER_H

#include "life.h"

#define SPEAKERS_MAX 2u
#define STATUS_FAILED 2
#define STATUS_AGAIN 3 /* so slow that the server had given it up: nothing was tried */

struct speaker {
    uint64_t life;
    belfry_client *client;
    uint32_t said;
};

/* What a dead process leaves behind. */
struct will {
    uint32_t tried[SPEAKERS_MAX]; /* messages that it began to send */
    uint32_t sent[SPEAKERS_MAX];  /* of these, the last that was visible */
    bool ready;                   /* it waits for `go` */
    bool go;
    char why[256]; /* what went wrong */
};

extern struct will *will;
extern struct speaker speaker[SPEAKERS_MAX];
extern uint64_t message[LIFE_BYTES_MAX / 8]; /* the one that was composed */

void will_open(void);

_Noreturn void fail(const char *what, int rc);
void must(const char *what, int rc); /* fails if that is a code */
int64_t patience(void);

/* Connect, as one who parks whenever he waits: more of a client's moments. With `reconnect`, so that it goes on with another
   connection. And leave. */
void join(unsigned who, bool reconnect);
void leave(unsigned who);

/* Make the next message of that life. When it is sent, so that others see it, sent() tells the test. */
void compose(unsigned who, enum life_wish wish, size_t bytes);
void sent(unsigned who);

void say(unsigned who, size_t bytes);                      /* one way */
void ask(unsigned who, enum life_wish wish, size_t bytes); /* and hear later */
void check(const belfry_message *m);                       /* it is whole */
void hear(unsigned who);                                   /* receive, check, release */
void call(unsigned who, enum life_wish wish, size_t bytes);

#endif

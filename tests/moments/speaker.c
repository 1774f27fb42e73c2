/* SPDX-License-Identifier: MIT */
/* speaker.c: see speaker.h. */
#include "speaker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server_fixture.h"

struct will *will;
struct speaker speaker[SPEAKERS_MAX];
uint64_t message[LIFE_BYTES_MAX / 8];

void will_open(void)
{
    will = mmap(NULL, sizeof *will, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (will == MAP_FAILED)
        abort();
}

void fail(const char *what, int rc)
{
    snprintf(will->why, sizeof will->why, "%s: %d: %s", what, rc, belfry_last_error());
    _exit(rc == BELFRY_EREFUSED ? STATUS_AGAIN : STATUS_FAILED);
}

void must(const char *what, int rc)
{
    if (rc < 0)
        fail(what, rc);
}

void join(unsigned who, bool reconnect)
{
    belfry_client_options o;
    belfry_client_options_init(&o, sizeof o);
    o.spin = BELFRY_SPIN_POWER;
    o.reconnect.enabled = reconnect;
    must("connect", belfry_connect(&speaker[who].client, FIXTURE_SERVICE, &o));
}

void leave(unsigned who)
{
    belfry_close(speaker[who].client);
}

void compose(unsigned who, enum life_wish wish, size_t bytes)
{
    life_write(message, speaker[who].life, ++speaker[who].said, wish, bytes);
    will->tried[who] = speaker[who].said;
}

void sent(unsigned who)
{
    will->sent[who] = speaker[who].said;
}

int64_t patience(void)
{
    return belfry_in_ms(FIXTURE_PATIENCE_MS);
}

void say(unsigned who, size_t bytes)
{
    compose(who, LIFE_SAY, bytes);
    int rc;
    while ((rc = belfry_send_one_way(speaker[who].client, message, bytes)) == -EAGAIN) {
        belfry_message none;
        rc = belfry_receive(speaker[who].client, &none, patience());
        if (rc != -EAGAIN)
            fail("waiting for room", rc);
    }
    must("send", rc);
    if (belfry_client_unsent_bytes(speaker[who].client) == 0)
        sent(who);
}

void ask(unsigned who, enum life_wish wish, size_t bytes)
{
    compose(who, wish, bytes);
    must("send", belfry_send(speaker[who].client, message, bytes, NULL));
    sent(who);
}

void check(const belfry_message *m)
{
    struct life_word word;
    if (m->status < 0 || !life_read(m->data, m->size, &word))
        fail("what came is torn", m->status);
}

void hear(unsigned who)
{
    belfry_message m;
    must("receive", belfry_receive(speaker[who].client, &m, patience()));
    check(&m);
    belfry_release(speaker[who].client, &m);
}

void call(unsigned who, enum life_wish wish, size_t bytes)
{
    belfry_message m;
    compose(who, wish, bytes);
    must("call", belfry_call(speaker[who].client, message, bytes, &m, patience()));
    sent(who);
    check(&m);
    belfry_release(speaker[who].client, &m);
}

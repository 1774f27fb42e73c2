/* SPDX-License-Identifier: MIT */
/*
 * cancel.c: requests whose caller has stopped waiting.
 *
 * The server is told, so that it can stop working on them; it answers with an echo, behind which nothing with that id
 * comes. Until the echo is here, whatever arrives with the id is dropped and counted. When the ring is full the
 * cancellation is kept, and said as soon as there is room.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "client/reconnect.h"

static struct client_late *late_find(const struct belfry_client *c, uint64_t id)
{
    for (uint32_t i = 0; i < c->late_count; i++)
        if (c->late[i].id == id)
            return &c->late[i];
    return NULL;
}

static void late_remove(struct belfry_client *c, struct client_late *late)
{
    if (!late->said)
        c->unsaid_count--;
    *late = c->late[--c->late_count];
}

static int late_add(struct belfry_client *c, uint64_t id)
{
    if (c->late_count == c->late_capacity) {
        uint32_t capacity = c->late_capacity == 0 ? 16 : c->late_capacity * 2;
        struct client_late *late = realloc(c->late, capacity * sizeof *late);
        if (late == NULL)
            return bf_error(-ENOMEM, "no memory to remember %u cancelled requests", capacity);
        c->late = late;
        c->late_capacity = capacity;
    }
    c->late[c->late_count++] = (struct client_late){.id = id};
    c->unsaid_count++;
    return 0;
}

void bf_client_say_cancels(struct belfry_client *c)
{
    void *data;
    bool committed = false;
    for (uint32_t i = 0; i < c->late_count && c->unsaid_count > 0; i++) {
        struct client_late *late = &c->late[i];
        if (late->said)
            continue;
        if (ring_reserve(&c->out, 0, &data) != 0) /* full, or a reservation is open: the next call tries again */
            break;
        ring_commit(&c->out, BELFRY_CANCEL, 0, late->id, 0);
        late->said = committed = true;
        c->unsaid_count--;
    }
    if (committed)
        client_tell(c, true);
}

bool bf_client_has_said_cancel(const struct belfry_client *c, uint64_t id)
{
    const struct client_late *late = late_find(c, id);
    return late != NULL && late->said;
}

int bf_client_give_up(struct belfry_client *c, uint64_t id)
{
    if (c->reconnect != NULL && bf_reconnect_forget(c, id)) {
        bf_large_forget(c, id);
        return 0;
    }
    if (late_find(c, id) != NULL)
        return 0;
    int rc = late_add(c, id);
    if (rc < 0)
        return rc;
    bf_large_forget(c, id); /* from here on its parts are late */
    bf_client_say_cancels(c);
    return 0;
}

void bf_client_forget_late(struct belfry_client *c)
{
    c->late_count = c->unsaid_count = 0;
}

bool bf_client_is_late(struct belfry_client *c, uint8_t kind, uint8_t flags, uint64_t id)
{
    if (kind == BELFRY_PUSH)
        return false;
    struct client_late *late = late_find(c, id);
    if (late == NULL)
        return false;
    if (kind == BELFRY_CANCEL) {
        late_remove(c, late);
        return true;
    }
    bool last = kind == BELFRY_FAILURE || (kind == BELFRY_REPLY && (flags & BELFRY_FLAG_MORE) == 0);
    if (kind != BELFRY_PART || flags != 0) /* of parts, the first counts */
        c->late_replies++;
    if (last && !late->said) /* then the server need not be told any more */
        late_remove(c, late);
    return true;
}

int belfry_cancel(belfry_client *c, uint64_t id)
{
    int rc = client_check(c);
    if (rc < 0)
        return rc;
    if (id == 0 || id >= c->next_id)
        return bf_error(-ENOENT, "this connection has sent no request %llu", (unsigned long long)id);
    rc = client_end(c);
    if (rc < 0)
        rc = bf_reconnect_over(c, rc);
    if (rc < 0 && rc != -EAGAIN)
        return rc;
    bf_client_drop_stashed(c, id);
    if (client_is_leaving(c) && c->large->out.id == id) {
        if (c->reconnect != NULL)
            bf_reconnect_forget(c, id);
        bf_large_stop(c);
        return 0;
    }
    return bf_client_give_up(c, id);
}

uint64_t belfry_client_late_replies(const belfry_client *c)
{
    return c->late_replies;
}

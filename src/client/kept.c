/* SPDX-License-Identifier: MIT */
/* kept.c: see kept.h; and belfry_release(), with which what was handed out ends. */
#include "client/kept.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/block.h"
#include "base/error.h"
#include "client/reconnect.h"

/* --- in the ring: room is freed oldest first ----------------------------------------------------------------------- */

int bf_held_grow(struct belfry_client *c)
{
    uint32_t capacity = c->held_capacity * 8;
    struct client_held *held = malloc(capacity * sizeof *held);
    if (held == NULL)
        return bf_error(-ENOMEM, "no memory to remember %u received messages: release some", capacity);
    for (uint64_t i = c->held_first; i < c->held_next; i++)
        held[i & (capacity - 1)] = *held_at(c, i);
    if (c->held != c->held_few)
        free(c->held);
    c->held = held;
    c->held_capacity = capacity;
    return 0;
}

/* --- in memory of its own ------------------------------------------------------------------------------------------ */

/* A message with memory of its own, that was handed out. */
static void stash_unlink(struct client_stashed *stashed)
{
    *stashed->at = stashed->next;
    if (stashed->next != NULL)
        stashed->next->at = stashed->at;
}

static void stash_release(struct client_stashed *stashed)
{
    stash_unlink(stashed);
    bf_block_free(stashed);
}

/* Closing frees what is never released. */
void bf_client_hand_out(struct belfry_client *c, struct client_stashed *stashed, belfry_message *m)
{
    stashed->next = c->stash_out;
    stashed->at = &c->stash_out;
    if (stashed->next != NULL)
        stashed->next->at = &stashed->next;
    c->stash_out = stashed;
    *m = stashed->message;
    m->cookie = (uintptr_t)stashed;
}

void bf_client_keep(struct belfry_client *c, struct client_stashed *stashed)
{
    stashed->next = NULL;
    if (c->stash_last != NULL)
        c->stash_last->next = stashed;
    else
        c->stash_first = stashed;
    c->stash_last = stashed;
}

int bf_client_stash(struct belfry_client *c, belfry_message *m)
{
    struct client_stashed *stashed;
    if ((m->cookie & 1) == 0) { /* it has memory of its own already */
        stashed = (struct client_stashed *)(uintptr_t)m->cookie;
        stash_unlink(stashed);
    } else {
        stashed = bf_block_alloc(sizeof *stashed + m->size);
        if (stashed == NULL) { /* as if it had not been read */
            c->held_next--;
            c->in.position = c->taken_at;
            return bf_error(-ENOMEM, "no memory to keep a message of %zu bytes", m->size);
        }
        memcpy(stashed->data, m->data, m->size);
        stashed->message = *m;
        stashed->message.data = stashed->data;
        belfry_release(c, m);
    }
    *m = (belfry_message){0};
    bf_client_keep(c, stashed);
    return 0;
}

/* Take the first that answers request `id` out of the stash; 0: the first of all. NULL: none. */
static struct client_stashed *stash_take(struct belfry_client *c, uint64_t id)
{
    struct client_stashed *before = NULL, *stashed = c->stash_first;
    while (stashed != NULL && id != 0 && !answers(&stashed->message, id)) {
        before = stashed;
        stashed = stashed->next;
    }
    if (stashed == NULL)
        return NULL;
    if (before == NULL)
        c->stash_first = stashed->next;
    else
        before->next = stashed->next;
    if (c->stash_last == stashed)
        c->stash_last = before;
    return stashed;
}

void bf_client_drop_stashed(struct belfry_client *c, uint64_t id)
{
    struct client_stashed *stashed;
    while ((stashed = stash_take(c, id)) != NULL) {
        c->late_replies++;
        bf_block_free(stashed);
    }
}

bool bf_client_take_stashed(struct belfry_client *c, uint64_t id, belfry_message *m)
{
    struct client_stashed *stashed = stash_take(c, id);
    if (stashed == NULL)
        return false;
    bf_client_hand_out(c, stashed, m);
    return true;
}

/* --- public -------------------------------------------------------------------------------------------------------- */

void belfry_release(belfry_client *c, belfry_message *m)
{
    uint64_t cookie = m->cookie;
    *m = (belfry_message){0};
    if (cookie == 0 || client_check(c) < 0)
        return;
    if ((cookie & 1) == 0) {
        stash_release((struct client_stashed *)(uintptr_t)cookie);
        return;
    }
    uint64_t number = cookie >> 1;
    if (number >= c->held_first && number < c->held_next)
        held_release(c, number);
    else if (c->reconnect != NULL)
        bf_reconnect_release(c, number);
}

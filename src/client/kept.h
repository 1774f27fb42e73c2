/* SPDX-License-Identifier: MIT */
/*
 * kept.h: what a client has received and not yet let go of.
 *
 * A message is handed out in place. Its room is given back to the server when it and all before it are released, so a
 * small queue remembers what is out (`held`). Only what arrives during somebody else's call is copied (`stash`).
 */
#ifndef BF_CLIENT_KEPT_H
#define BF_CLIENT_KEPT_H

#include "client/client.h"

/* Room for more of them. 0 or -ENOMEM. */
int bf_held_grow(struct belfry_client *c);

static inline struct client_held *held_at(const struct belfry_client *c, uint64_t number)
{
    return &c->held[number & (c->held_capacity - 1)];
}

/* Remember that everything up to `end` has been read. Returns its number, or a code. */
static bf_inlined int64_t held_push(struct belfry_client *c, uint64_t end)
{
    if (bf_unlikely(c->held_next - c->held_first == c->held_capacity)) {
        int rc = bf_held_grow(c);
        if (rc < 0)
            return rc;
    }
    *held_at(c, c->held_next) = (struct client_held){.end = end};
    return (int64_t)c->held_next++;
}

static inline void held_release(struct belfry_client *c, uint64_t number)
{
    held_at(c, number)->released = true;
    while (c->held_first < c->held_next && held_at(c, c->held_first)->released)
        ring_free(&c->in, held_at(c, c->held_first++)->end);
    if (c->in.has_published)
        client_tell(c, false); /* room is news */
}

/*
 * Copy a message that is not for the call that found it, and free its room. Without memory it is as if it had not been
 * read: so it must be the last that was. 0 or -ENOMEM.
 */
int bf_client_stash(struct belfry_client *c, belfry_message *m);

/* Hand out the first that answers request `id`, of those that are kept; 0: the first of all. False: there is none. */
bool bf_client_take_stashed(struct belfry_client *c, uint64_t id, belfry_message *m);

/* Does it answer this request? A push answers none, whatever its id. */
static inline bool answers(const belfry_message *m, uint64_t id)
{
    return m->id == id && m->kind != BELFRY_PUSH;
}

#endif

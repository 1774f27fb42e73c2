/* SPDX-License-Identifier: MIT */
/*
 * large.c: messages that are larger than the ring takes at once (shm/parts.h).
 *
 * Sending never blocks, so what does not fit yet waits here, in a block of the message's size, and goes out whenever the
 * client is called and there is room. While it leaves, nothing else may overtake it: other sends are told -EAGAIN. A
 * call waits anyway, so its parts are read from the caller's own memory.
 *
 * What arrives is put together in a block, and handed out as a message that has its own memory.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/block.h"
#include "base/check.h"
#include "base/error.h"
#include "client/reconnect.h"

static struct client_large *large_of(struct belfry_client *c)
{
    if (c->large == NULL)
        c->large = calloc(1, sizeof *c->large);
    return c->large;
}

static int no_memory(size_t bytes)
{
    return bf_error(-ENOMEM, "no memory for a message of %zu bytes", bytes);
}

/* --- what leaves --------------------------------------------------------------------------------------------------- */

static void set_state(struct belfry_client *c, enum large_state state)
{
    c->large->state = state;
    uint64_t max = bf_min(ring_payload_max(c->out.capacity), c->shared->lobby.geometry.message_bytes_max);
    c->in_place_end = state == LARGE_NOTHING ? (uint32_t)max + 1 : 0;
    if (state == LARGE_LEAVING)
        c->wanted = parts_next_payload(&c->large->out, c->out.capacity) + 1;
    if (c->reconnect != NULL)
        bf_reconnect_settle(c);
}

/* It is out of the way. A send that it was in the way of may be tried again. */
static void nothing_leaves(struct belfry_client *c)
{
    struct client_large *large = c->large;
    bf_block_free(large->block);
    large->block = NULL;
    c->wanted = large->refused_one ? large->refused : 0;
    large->refused_one = false;
    if (c->reconnect != NULL && c->wanted != 0) { /* others may go before that one */
        c->reconnect->refused = c->wanted;
        c->wanted = 0;
    }
    set_state(c, LARGE_NOTHING);
}

/* A message that was given up half-way: its request is cancelled, and nothing else may be said before that. */
static int push_cancel(struct belfry_client *c)
{
    bf_client_give_up(c, c->large->out.id);
    bf_client_say_cancels(c);
    if (!bf_client_has_said_cancel(c, c->large->out.id))
        return 0;
    nothing_leaves(c);
    return 1;
}

int bf_large_push(struct belfry_client *c)
{
    struct client_large *large = c->large;
    bool moved = false;
    if (large->state == LARGE_STOPPING)
        return push_cancel(c);
    int rc = parts_send(&c->out, &large->out, c->out.capacity, &moved); /* the server may be as fast as we are */
    if (rc > 0)
        nothing_leaves(c);
    else if (rc == 0)
        c->wanted = parts_next_payload(&large->out, c->out.capacity) + 1;
    if (moved)
        client_tell(c, true);
    return rc;
}

void bf_large_stop(struct belfry_client *c)
{
    if (c->large->out.sent == 0) { /* the server has never heard of it */
        nothing_leaves(c);
        client_alert(c);
        return;
    }
    set_state(c, LARGE_STOPPING);
    c->wanted = 1;
    push_cancel(c);
    client_alert(c);
}

static int busy(struct belfry_client *c, size_t size)
{
    c->large->refused_one = true;
    c->large->refused = bf_min(size, ring_payload_max(c->out.capacity)) + 1;
    return bf_error(-EAGAIN, "a larger message is still on its way to \"%s\": receive something, then send again",
                    c->shared->lobby.geometry.service);
}

int bf_large_reserve(struct belfry_client *c, size_t size, bool in_place, void **data)
{
    if (c->out.reserved != 0 || (c->large != NULL && c->large->state == LARGE_RESERVED))
        return BELFRY_ESTATE;
    if (client_is_leaving(c)) {
        int rc = bf_large_push(c);
        if (rc <= 0)
            return rc < 0 ? rc : busy(c, size);
    }
    if (in_place)
        return ring_reserve(&c->out, size, data);
    struct client_large *large = large_of(c);
    void *block = large == NULL ? NULL : bf_block_alloc(size);
    if (block == NULL)
        return no_memory(size);
    large->block = block;
    large->reserved_bytes = size;
    set_state(c, LARGE_RESERVED);
    *data = block;
    return 0;
}

/* `data` is on its way: as much as fits goes at once. */
static int leave(struct belfry_client *c, enum belfry_kind kind, const void *data, size_t size, int64_t deadline,
                 uint64_t *id)
{
    struct client_large *large = c->large;
    struct parts_out out = {.data = data,
                            .bytes = size,
                            .id = kind == BELFRY_REQUEST ? c->next_id : 0,
                            .deadline_ns = deadline == BELFRY_FOREVER ? 0 : bf_max(deadline, 1),
                            .kind = (uint8_t)kind};
    bool must_wait = c->reconnect != NULL && client_is_busy(c);
    int rc = 0;
    if (must_wait)
        rc = bf_reconnect_later(c, kind, out.id, data, &large->block, size, out.deadline_ns);
    else if (c->reconnect != NULL)
        rc = bf_reconnect_sent(c, out.id, data, size, out.deadline_ns, &large->block);
    if (rc < 0 || must_wait)
        nothing_leaves(c);
    if (rc < 0)
        return rc;
    c->next_id += kind == BELFRY_REQUEST;
    if (id != NULL)
        *id = out.id;
    if (must_wait)
        return client_push(c);
    large->out = out;
    set_state(c, LARGE_LEAVING);
    rc = bf_large_push(c);
    if (rc == 0)
        client_alert(c); /* the rest wants room */
    return rc;
}

int bf_large_again(struct belfry_client *c, const struct parts_out *out, void **block)
{
    struct client_large *large = large_of(c);
    if (large == NULL)
        return no_memory(sizeof *large);
    if (large->state != LARGE_NOTHING)
        return 0;
    large->out = *out;
    large->block = *block;
    *block = NULL;
    set_state(c, LARGE_LEAVING);
    return bf_min(bf_large_push(c), 0) == 0 ? 1 : BELFRY_EPROTO;
}

int bf_large_commit(struct belfry_client *c, enum belfry_kind kind, size_t size, int64_t deadline, uint64_t *id)
{
    struct client_large *large = c->large;
    if (c->reconnect != NULL && c->reconnect->reserved != NULL)
        return bf_reconnect_commit(c, kind, size, id);
    if (large == NULL || large->state != LARGE_RESERVED || size > large->reserved_bytes)
        return bf_error(BELFRY_ESTATE, "commit without a reservation, or of more than was reserved");
    if (kind != BELFRY_REQUEST && kind != BELFRY_ONE_WAY)
        return bf_error(BELFRY_EOPTION, "a client sends requests and one-way messages, not kind %d", (int)kind);
    if (size == 0) /* no part would say so */
        return bf_error(BELFRY_ESTATE, "nothing of a large reservation was used: abort it, and send nothing at once");
    int rc = leave(c, kind, large->block, size, deadline, id);
    return bf_min(rc, 0);
}

void bf_large_abort(struct belfry_client *c)
{
    if (c->reconnect != NULL)
        bf_reconnect_abort(c);
    if (c->large != NULL && c->large->state == LARGE_RESERVED)
        nothing_leaves(c);
}

int bf_large_begin(struct belfry_client *c, const void *data, size_t size, int64_t deadline, uint64_t *id)
{
    if (large_of(c) == NULL)
        return no_memory(sizeof *c->large);
    if (c->out.reserved != 0 || c->large->state == LARGE_RESERVED)
        return bf_error(BELFRY_ESTATE, "a reservation is open: commit or abort it first");
    return leave(c, BELFRY_REQUEST, data, size, deadline, id);
}

/* --- what arrives -------------------------------------------------------------------------------------------------- */

/* Memory for the whole. */
static int begin_arrival(struct belfry_client *c)
{
    struct client_large *large = c->large;
    struct parts_in *in = &large->in;
    PEER_CHECK(in->kind == BELFRY_REPLY || in->kind == BELFRY_PUSH);
    PEER_CHECK(in->bytes <= c->shared->lobby.geometry.message_bytes_max);
    struct client_stashed *arriving = bf_block_alloc(sizeof *arriving + in->bytes);
    if (arriving == NULL)
        return no_memory(in->bytes);
    arriving->message = (belfry_message){.data = arriving->data,
                                         .size = in->bytes,
                                         .id = in->id,
                                         .kind = in->kind,
                                         .flags = in->flags == BELFRY_FLAG_MORE ? BELFRY_MORE : 0};
    large->arriving = arriving;
    in->data = (uint8_t *)arriving->data;
    return 0;
}

int bf_large_take(struct belfry_client *c, const struct ring_entry *e, belfry_message *m)
{
    uint32_t block = 0;
    struct client_large *large = large_of(c);
    if (large == NULL)
        return no_memory(sizeof *large);
    struct parts_in *in = &large->in;
    if (e->flags == BELFRY_FLAG_EXTENDED) {
        int rc = parts_open(in, e, &block);
        if (rc == 0 && (rc = begin_arrival(c)) < 0)
            in->open = false; /* whatever comes of it has no place to go to */
        if (rc < 0)
            return rc;
    }
    int rc = parts_take(in, e, block);
    if (rc <= 0)
        return rc;
    bf_client_hand_out(c, large->arriving, m);
    large->arriving = NULL;
    in->open = false;
    return 1;
}

void bf_large_forget(struct belfry_client *c, uint64_t id)
{
    struct client_large *large = c->large;
    if (large == NULL || !large->in.open || large->in.id != id || large->in.kind == BELFRY_PUSH)
        return;
    bf_block_free(large->arriving);
    large->arriving = NULL;
    large->in.open = false;
}

void bf_large_lost(struct belfry_client *c)
{
    struct client_large *large = c->large;
    if (large == NULL)
        return;
    bf_block_free(large->arriving);
    large->arriving = NULL;
    large->in.open = false;
    if (client_is_leaving(c))
        nothing_leaves(c);
}

bool bf_large_is_blocked(const struct belfry_client *c)
{
    if (c->large == NULL || !c->large->in.open || c->held_first == c->held_next)
        return false;
    const struct parts_in *in = &c->large->in;
    uint64_t part = bf_min(in->bytes - in->have, parts_payload_max(c->in.capacity));
    uint64_t bytes = ring_align(sizeof(struct belfry_abi_entry) + part);
    uint64_t offset = ring_offset(c->in.position, c->in.colour, c->in.capacity);
    uint64_t pad = offset + bytes > c->in.capacity ? c->in.capacity - offset : 0;
    uint64_t held = c->in.position - c->in.published;
    return held + pad + bytes + sizeof(struct belfry_abi_entry) > c->in.capacity; /* as the server asks, ring_fits() */
}

void bf_large_free(struct belfry_client *c)
{
    if (c->large == NULL)
        return;
    bf_block_free(c->large->block);
    bf_block_free(c->large->arriving);
    free(c->large);
    c->large = NULL;
}

/* --- public -------------------------------------------------------------------------------------------------------- */

uint64_t belfry_client_unsent_bytes(const belfry_client *c)
{
    return client_is_leaving(c) ? c->large->out.bytes - c->large->out.sent : 0;
}

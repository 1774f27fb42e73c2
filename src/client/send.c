/* SPDX-License-Identifier: MIT */
/* send.c: a message's first stop: the client's ring, in place or by copy, then the server's bell if it asked for it. */
#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "client/reconnect.h"
#include "shm/extension.h"

static int too_big(const struct belfry_client *c, size_t size)
{
    return bf_error(BELFRY_ETOOBIG, "a message of %zu bytes is larger than the %u that \"%s\" takes: send it in pieces",
                    size, c->shared->lobby.geometry.message_bytes_max, c->shared->lobby.geometry.service);
}

/* Why there is no room for an entry of `bytes`. */
static int no_room(struct belfry_client *c, int rc, size_t bytes)
{
    switch (rc) {
    case -ENOMEM:
        return rc;
    case -EAGAIN:
        client_alert(c);
        if (client_is_leaving(c)) /* it wants room, too, and said so */
            return rc;
        c->wanted = bytes + 1;
        return bf_error(rc, "the ring to \"%s\" is full: receive something, then send again",
                        c->shared->lobby.geometry.service);
    case BELFRY_ESTATE:
        return bf_error(rc, "a reservation is open: commit or abort it first");
    default:
        return c->end_rc =
                   bf_error(rc, "the server \"%s\" broke the format of its segment", c->shared->lobby.geometry.service);
    }
}

/* For what does not go straight into the ring. In a large reservation there is no room for the block, and no need. */
static int reserve_slowly(belfry_client *c, size_t size, uint32_t block, void **data)
{
    if (size > belfry_message_bytes_max(c))
        return too_big(c, size);
    int rc = client_end(c);
    if (rc < 0)
        return bf_reconnect_refuse(c, rc, block + size);
    if (c->reconnect != NULL && (rc = bf_reconnect_admit(c, block + size)) < 0)
        return rc;
    bool in_place = block + size <= ring_payload_max(c->out.capacity);
    rc = bf_large_reserve(c, in_place ? block + size : size, in_place, data);
    if (rc < 0)
        return no_room(c, rc, block + size);
    c->wanted = 0;
    return 0;
}

/* Room for a payload of `size` behind a block of `block` bytes. */
static bf_inlined int reserve(belfry_client *c, size_t size, uint32_t block, void **data)
{
    int rc = client_check(c);
    if (bf_unlikely(rc < 0))
        return rc;
    if (bf_unlikely(size >= c->in_place_end || block + size >= c->in_place_end)) /* the sum alone might wrap */
        return reserve_slowly(c, size, block, data);
    rc = client_end(c);
    if (bf_unlikely(rc < 0))
        return bf_reconnect_refuse(c, rc, block + size);
    rc = ring_reserve(&c->out, block + size, data);
    if (bf_unlikely(rc < 0))
        return no_room(c, rc, block + size);
    c->wanted = 0;
    return 0;
}

/* As the end of belfry_send_commit() and belfry_send_until(), for one that reconnects and remembers what it sends. */
static __attribute__((cold, noinline)) int commit_remembered(belfry_client *c, enum belfry_kind kind, size_t size,
                                                             uint64_t *id, uint32_t block, int64_t deadline_ns)
{
    const uint8_t *room = (const uint8_t *)(ring_producer_entry(&c->out, c->out.position + c->out.pad) + 1);
    uint64_t number = kind == BELFRY_REQUEST ? c->next_id : 0;
    int rc = bf_reconnect_sent(c, number, room + block, size, deadline_ns, NULL);
    if (rc < 0) {
        ring_abort(&c->out);
        return rc;
    }
    c->next_id += kind == BELFRY_REQUEST;
    ring_commit(&c->out, (uint8_t)kind, block > 0 ? BELFRY_FLAG_EXTENDED : 0, number, block + size);
    client_tell(c, true);
    if (id != NULL)
        *id = number;
    return 0;
}

int belfry_send_reserve(belfry_client *c, size_t size, void **data)
{
    return reserve(c, size, 0, data);
}

int belfry_send_commit(belfry_client *c, enum belfry_kind kind, size_t size, uint64_t *id)
{
    int rc = client_check(c);
    if (bf_unlikely(rc < 0))
        return rc;
    if (bf_unlikely(c->out.reserved == 0 || size >= c->out.reserved))
        return bf_large_commit(c, kind, size, BELFRY_FOREVER, id);
    if (bf_unlikely(kind != BELFRY_REQUEST && kind != BELFRY_ONE_WAY))
        return bf_error(BELFRY_EOPTION, "a client sends requests and one-way messages, not kind %d", (int)kind);
    if (bf_unlikely(c->reconnect != NULL))
        return commit_remembered(c, kind, size, id, 0, 0);
    uint64_t number = kind == BELFRY_REQUEST ? c->next_id++ : 0;
    ring_commit(&c->out, (uint8_t)kind, 0, number, size);
    client_tell(c, true);
    if (id != NULL)
        *id = number;
    return 0;
}

void belfry_send_abort(belfry_client *c)
{
    ring_abort(&c->out);
    bf_large_abort(c);
}

static int send_copy(belfry_client *c, enum belfry_kind kind, const void *data, size_t size, uint64_t *id)
{
    void *room = NULL;
    int rc = belfry_send_reserve(c, size, &room);
    if (bf_unlikely(rc < 0))
        return rc;
    if (size > 0)
        memcpy(room, data, size);
    return belfry_send_commit(c, kind, size, id);
}

int belfry_send(belfry_client *c, const void *data, size_t size, uint64_t *id)
{
    return send_copy(c, BELFRY_REQUEST, data, size, id);
}

int belfry_send_one_way(belfry_client *c, const void *data, size_t size)
{
    return send_copy(c, BELFRY_ONE_WAY, data, size, NULL);
}

int belfry_send_until(belfry_client *c, const void *data, size_t size, int64_t deadline, uint64_t *id)
{
    struct extension x = {.deadline_ns = bf_max(deadline, 1)};
    uint32_t block = extension_bytes(&x);
    uint8_t *room = NULL;
    if (deadline == BELFRY_FOREVER)
        return belfry_send(c, data, size, id);
    int rc = reserve(c, size, block, (void **)&room);
    if (bf_unlikely(rc < 0))
        return rc;
    if (bf_unlikely(c->out.reserved == 0)) { /* it is large: the parts say until when */
        memcpy(room, data, size);
        return bf_large_commit(c, BELFRY_REQUEST, size, deadline, id);
    }
    extension_write(room, &x);
    if (size > 0)
        memcpy(room + block, data, size);
    if (bf_unlikely(c->reconnect != NULL))
        return commit_remembered(c, BELFRY_REQUEST, size, id, block, x.deadline_ns);
    uint64_t number = c->next_id++;
    ring_commit(&c->out, BELFRY_REQUEST, BELFRY_FLAG_EXTENDED, number, block + size);
    client_tell(c, true);
    if (id != NULL)
        *id = number;
    return 0;
}

int belfry_send_idempotent(belfry_client *c, const void *data, size_t size, int64_t deadline, uint64_t *id)
{
    if (c->reconnect != NULL)
        c->reconnect->marked = true;
    int rc = belfry_send_until(c, data, size, deadline, id);
    if (c->reconnect != NULL)
        c->reconnect->marked = false;
    return rc;
}

/* SPDX-License-Identifier: MIT */
/* send.c: a message's first stop: the client's ring, in place or by copy, then the server's bell if it asked for it. */
#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "client/client.h"

int belfry_send_reserve(belfry_client *c, size_t size, void **data)
{
    int rc = client_check(c);
    if (bf_unlikely(rc < 0))
        return rc;
    if (bf_unlikely(size > c->message_bytes_max))
        return bf_error(BELFRY_ETOOBIG,
                        "a message of %zu bytes is larger than the %u that \"%s\" takes: send it in pieces", size,
                        c->message_bytes_max, c->shared->lobby.geometry.service);
    rc = client_end(c);
    if (bf_unlikely(rc < 0))
        return rc;
    rc = ring_reserve(&c->out, size, data);
    if (bf_likely(rc == 0)) {
        c->wanted = 0;
        return 0;
    }
    switch (rc) {
    case -EAGAIN:
        c->wanted = size + 1;
        return bf_error(rc, "the ring to \"%s\" is full: receive something, then send again",
                        c->shared->lobby.geometry.service);
    case BELFRY_ESTATE:
        return bf_error(rc, "a reservation is open: commit or abort it first");
    default:
        return c->end_rc =
                   bf_error(rc, "the server \"%s\" broke the format of its segment", c->shared->lobby.geometry.service);
    }
}

int belfry_send_commit(belfry_client *c, enum belfry_kind kind, size_t size, uint64_t *id)
{
    int rc = client_check(c);
    if (bf_unlikely(rc < 0))
        return rc;
    if (bf_unlikely(c->out.reserved == 0 || size >= c->out.reserved))
        return bf_error(BELFRY_ESTATE, "commit without a reservation, or of more than was reserved");
    if (bf_unlikely(kind != BELFRY_REQUEST && kind != BELFRY_ONE_WAY))
        return bf_error(BELFRY_EOPTION, "a client sends requests and one-way messages, not kind %d", (int)kind);
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

/* SPDX-License-Identifier: MIT */
/* whole.c: see whole.h. */
#include "server/whole.h"

#include <errno.h>

#include "base/block.h"
#include "server/conn.h"
#include "server/io.h"
#include "server/server.h"

#define STEP_BYTES (2ull << 20) /* a huge page; while the kernel gives pages, whoever maps or unmaps memory waits */

/* --- what it counts for -------------------------------------------------------------------------------------------- */

static void discharge(struct belfry_server *server, uint32_t uid, uint64_t bytes)
{
    if (bytes == 0)
        return;
    sub_acq_rel(&server->whole_bytes, bytes);
    bf_quota_discharge(&server->quota, uid, bytes);
}

/* Count so many of its bytes. False: then too much would be arriving. */
static bool charge(struct belfry_conn *conn, uint64_t bytes)
{
    struct belfry_server *server = conn->shard->server;
    struct bf_whole *whole = &conn->whole;
    if (bf_likely(bytes <= whole->charged))
        return true;
    uint64_t more = bytes - whole->charged, arriving = load_relaxed(&server->whole_bytes);
    if (!bf_quota_charge(&server->quota, conn->slot->uid, more))
        return false;
    do {
        if (arriving + more > server->options.whole_bytes_max) {
            bf_quota_discharge(&server->quota, conn->slot->uid, more);
            return false;
        }
    } while (!replace_release(&server->whole_bytes, &arriving, arriving + more));
    whole->charged = bytes;
    return true;
}

/* --- its pages ------------------------------------------------------------------------------------------------------ */

struct whole_pages {
    belfry_io io;
    struct bf_shard *shard;
    struct belfry_conn *conn; /* NULL: it is gone, or wants the message no longer */
    void *block;              /* to be freed then */
    uint64_t charged;         /* to that user, as long as it is there */
    uint32_t uid;
    uint64_t ready; /* what will be */
};

/* The conn's next part may be read. */
static void go_on(struct belfry_conn *conn)
{
    conn->halted &= (uint8_t)~HALTED_BY_PAGES;
    store_relaxed(&conn->slot->lobby->parked, 0); /* it is polled again */
    bf_shard_heat(conn->shard, conn->slot);
}

/* A failure but for want of memory: then they come as they are written to. */
static void on_pages(belfry_io *io, int32_t result, uint32_t cqe_flags, void *user)
{
    struct whole_pages *pages = user;
    struct belfry_conn *conn = pages->conn;
    (void)io, (void)cqe_flags;
    if (conn == NULL) {
        bf_block_free(pages->block);
        discharge(pages->shard->server, pages->uid, pages->charged);
    } else {
        conn->whole.pages = NULL;
        conn->whole.starved = result == -ENOMEM;
        if (result != -ENOMEM)
            conn->whole.ready = result == 0 ? pages->ready : conn->whole.parts.bytes;
        go_on(conn);
    }
    bf_arena_free(&pages->shard->arena, pages);
}

/* Where the next step ends. A few pages at the end of a message are no step of their own. */
static uint64_t next_step(const struct bf_whole *whole)
{
    uint64_t end = whole->ready + STEP_BYTES;
    return whole->parts.bytes <= end + STEP_BYTES / 16 ? whole->parts.bytes : end;
}

static void ask_for_pages(struct belfry_conn *conn, uint64_t end)
{
    struct bf_whole *whole = &conn->whole;
    struct bf_shard *shard = conn->shard;
    struct whole_pages *pages = bf_arena_alloc(&shard->arena, sizeof *pages);
    if (pages == NULL) {
        whole->ready = whole->parts.bytes;
        return;
    }
    *pages = (struct whole_pages){.shard = shard, .conn = conn, .block = whole->parts.data, .ready = end};
    belfry_io_init(&pages->io, on_pages, pages);
    whole->pages = pages;
    bf_io_populate(shard, &pages->io, whole->parts.data + whole->ready, end - whole->ready);
}

/* Ask for the next step when it is wanted, or half of the last is left. 0 or -ENOBUFS. */
static int look_ahead(struct belfry_conn *conn, uint64_t wanted)
{
    struct bf_whole *whole = &conn->whole;
    if (whole->pages != NULL || whole->starved || whole->ready == whole->parts.bytes)
        return 0;
    if (wanted <= whole->ready && whole->parts.have + STEP_BYTES / 2 < whole->ready)
        return 0;
    uint64_t end = next_step(whole);
    if (charge(conn, end))
        ask_for_pages(conn, end);
    else if (wanted > whole->ready)
        return -ENOBUFS;
    return 0;
}

/*
 * Is there a place for the first `bytes` of it? What the kernel was not asked for counts by the huge page: addresses cost
 * nothing, and a client that sends the first part of something huge must not keep others from theirs. 0; -WHOLE_LATER;
 * -ENOMEM; -ENOBUFS: whole_bytes_max or uid_bytes_max is reached.
 */
static int make_room(struct belfry_conn *conn, uint64_t bytes)
{
    struct bf_whole *whole = &conn->whole;
    int rc = look_ahead(conn, bytes);
    if (rc < 0)
        return rc;
    if (bytes > whole->ready && whole->starved)
        return -ENOMEM;
    if (bytes > whole->ready && conn->dying == BELFRY_END_NONE) { /* whoever is gone is not waited for */
        conn->halted |= HALTED_BY_PAGES;
        return -WHOLE_LATER;
    }
    uint64_t pages = (bytes + STEP_BYTES - 1) / STEP_BYTES * STEP_BYTES;
    return bytes <= whole->charged || charge(conn, bf_min(pages, whole->parts.bytes)) ? 0 : -ENOBUFS;
}

/* --- its parts ------------------------------------------------------------------------------------------------------ */

void bf_whole_drop(struct belfry_conn *conn)
{
    struct bf_whole *whole = &conn->whole;
    struct whole_pages *pages = whole->pages;
    if (pages != NULL) { /* the operation frees it at its end */
        pages->conn = NULL;
        pages->charged = whole->charged;
        pages->uid = conn->slot->uid;
        belfry_io_cancel(&pages->io);
    } else {
        bf_block_free(whole->parts.data);
        discharge(conn->shard->server, conn->slot->uid, whole->charged);
    }
    whole->charged = 0;
    whole->pages = NULL;
    whole->parts.data = NULL;
    whole->parts.open = whole->first_waits = whole->starved = false;
    conn->halted &= (uint8_t)~HALTED_BY_PAGES;
}

bool bf_whole_give(struct belfry_conn *conn, const void *data)
{
    struct bf_whole *whole = &conn->whole;
    if (whole->parts.data == NULL || whole->parts.data != data || whole->pages != NULL)
        return false;
    discharge(conn->shard->server, conn->slot->uid, whole->charged);
    whole->charged = 0;
    whole->parts.data = NULL;
    return true;
}

/* There is no memory for it: what has arrived is dropped, and what will is let pass. */
static int refuse(struct belfry_conn *conn, int status)
{
    const struct parts_in parts = conn->whole.parts;
    bf_whole_drop(conn);
    conn->whole.parts = parts; /* as far as it has come */
    conn->whole.parts.data = NULL;
    counter_add(&conn->shard->counters->whole_refused, 1);
    return bf_conn_refuse(conn, parts.kind, parts.id, status);
}

/* The first part is here: room for the whole, or a refusal at once. */
static int admit(struct belfry_conn *conn)
{
    struct bf_whole *whole = &conn->whole;
    struct parts_in *parts = &whole->parts;
    if (parts->kind != BELFRY_REQUEST && parts->kind != BELFRY_ONE_WAY)
        return -BELFRY_END_PEER_FAULT;
    if (parts->bytes > conn->shard->options->message_bytes_max)
        return bf_conn_refuse(conn, parts->kind, parts->id, BELFRY_ETOOBIG);
    parts->data = bf_block_alloc(parts->bytes);
    if (parts->data == NULL)
        return refuse(conn, -ENOMEM);
    whole->ready = bf_block_is_mapped(parts->data) ? 0 : parts->bytes;
    return 0;
}

/* What a first part says. *block is what its payload is behind. */
static int open_whole(struct belfry_conn *conn, const struct ring_entry *e, uint32_t *block)
{
    struct bf_whole *whole = &conn->whole;
    struct extension x;
    if (!whole->first_waits)
        return parts_open(&whole->parts, e, block) < 0 ? -BELFRY_END_PEER_FAULT : admit(conn);
    int rc = extension_read(e, &x); /* what it said of the whole stands */
    if (rc < 0)
        return -BELFRY_END_PEER_FAULT;
    whole->first_waits = false;
    *block = (uint32_t)rc;
    return 0;
}

int bf_whole_take(struct belfry_conn *conn, const struct ring_entry *e, belfry_message *m)
{
    struct parts_in *parts = &conn->whole.parts;
    uint32_t block = 0;
    int rc = 0;
    if (e->flags == BELFRY_FLAG_EXTENDED)
        rc = open_whole(conn, e, &block);
    else if (e->flags != 0 || conn->whole.first_waits)
        rc = -BELFRY_END_PEER_FAULT;
    if (rc == 0 && parts->data != NULL) {
        rc = make_room(conn, bf_min(parts->have + e->bytes - block, parts->bytes));
        if (rc == -WHOLE_LATER)
            conn->whole.first_waits = block > 0;
        else if (rc < 0)
            rc = refuse(conn, rc);
    }
    if (rc < 0)
        return rc;
    rc = parts_take(parts, e, block);
    if (rc < 0)
        return -BELFRY_END_PEER_FAULT;
    parts->open = rc == 0;
    if (rc == 0 || parts->data == NULL)
        return 0;
    *m = (belfry_message){.data = parts->data,
                          .size = parts->bytes,
                          .id = parts->id,
                          .kind = parts->kind,
                          .cookie = (uint64_t)parts->deadline_ns};
    return 1;
}

/* SPDX-License-Identifier: MIT */
/* options.c: the defaults that this library was built with (Meson options), and what can and cannot work. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <belfry/stats.h>

#include "base/build.h"
#include "base/check.h"
#include "base/error.h"
#include "base/os.h"
#include "server/server.h"
#include "shm/parts.h"

#define SLOTS_MAX 1048576u
#define OUTBOX_BYTES_MAX (1u << 20)
#define DEFERRED_MAX 64u
#define WHOLE_BYTES_MAX (256ull << 20)
#define CLAIM_GRACE_MS 1000u
#define STALL_MS 100u
#define UID_CONNECTS_MAX 500u
#define MESSAGE_BYTES_MIN 64u   /* a failure must fit */
#define AREAS_PER_SLOT 2        /* memory maps: one per segment */
#define AREAS_FOR_THE_REST 1000 /* the host program's, its libraries', its stacks' */

void belfry_server_options_init(belfry_server_options *o, size_t size)
{
    const belfry_server_options defaults = {
        .size = size,
        .shards = BF_DEFAULT_SHARDS,
        .max_slots = BF_DEFAULT_MAX_SLOTS,
        .warm_pool = BF_DEFAULT_WARM_POOL,
        .ring_bytes = BF_DEFAULT_RING_BYTES,
        .message_bytes_max = BF_DEFAULT_MESSAGE_BYTES_MAX,
        .outbox_bytes_max = OUTBOX_BYTES_MAX,
        .deferred_max = DEFERRED_MAX,
        .overflow = BELFRY_OVERFLOW_REFUSE,
        .claim_grace_ms = CLAIM_GRACE_MS,
        .access = BELFRY_ACCESS_OWNER,
        .access_gid = UINT32_MAX,
        .uid_connects_max = UID_CONNECTS_MAX,
        .spin = BELFRY_SPIN_DEFAULT,
        .stall_ms = STALL_MS,
        .skip_expired = true,
        .pin = BF_DEFAULT_PIN,
        .atfork = true,
        .sigbus_guard = true,
    };
    memset(o, 0, size);
    memcpy(o, &defaults, bf_min(size, sizeof defaults));
}

static int check_ring(const belfry_server_options *o)
{
    if (o->ring_bytes < RING_BYTES_MIN || o->ring_bytes > RING_BYTES_MAX || (o->ring_bytes & (o->ring_bytes - 1)) != 0)
        return bf_error(BELFRY_EOPTION, "ring_bytes is %" PRIu32 ": it must be a power of two from %u to %u",
                        o->ring_bytes, RING_BYTES_MIN, RING_BYTES_MAX);
    if (o->message_bytes_max < MESSAGE_BYTES_MIN || o->message_bytes_max > PARTS_BYTES_MAX)
        return bf_error(BELFRY_EOPTION, "message_bytes_max is %" PRIu32 ": it must be from %u to %u",
                        o->message_bytes_max, MESSAGE_BYTES_MIN, PARTS_BYTES_MAX);
    if (o->whole_bytes_max < o->message_bytes_max)
        return bf_error(BELFRY_EOPTION,
                        "whole_bytes_max is %" PRIu64 ": no message of message_bytes_max, %" PRIu32 ", could arrive",
                        o->whole_bytes_max, o->message_bytes_max);
    return 0;
}

static int check_slots(belfry_server_options *o)
{
    if (o->shards > BELFRY_SHARDS_MAX)
        return bf_error(BELFRY_EOPTION, "shards is %" PRIu32 ": at most %d", o->shards, BELFRY_SHARDS_MAX);
    if (o->max_slots == 0 || o->max_slots > SLOTS_MAX)
        return bf_error(BELFRY_EOPTION, "max_slots is %" PRIu32 ": it must be from 1 to %u", o->max_slots, SLOTS_MAX);
    o->shards = bf_min(o->shards, o->max_slots);
    o->max_slots = (o->max_slots + o->shards - 1) / o->shards * o->shards; /* the same number in each shard */
    o->warm_pool = bf_min(o->warm_pool, o->max_slots);
    return 0;
}

/* Other users, and what one of them may take. */
static int check_access(belfry_server_options *o)
{
    if ((unsigned)o->access > BELFRY_ACCESS_EVERYONE)
        return bf_error(BELFRY_EOPTION, "access is %u: it must be one of enum belfry_access", (unsigned)o->access);
    if (o->access_gid == UINT32_MAX)
        o->access_gid = bf_os_gid();
    if (o->access != BELFRY_ACCESS_OWNER && !o->sigbus_guard)
        return bf_error(BELFRY_EOPTION,
                        "sigbus_guard is false and access is not OWNER: any user could kill the server");
    if (o->uid_connects_max == 0)
        return bf_error(BELFRY_EOPTION, "uid_connects_max is 0: no other user could connect");
    if (o->uid_slots_max == 0)
        o->uid_slots_max = bf_max(o->max_slots / 4, 1);
    if (o->uid_bytes_max == 0)
        o->uid_bytes_max = bf_max(o->whole_bytes_max / 2, o->message_bytes_max);
    if (o->uid_bytes_max < o->message_bytes_max)
        return bf_error(BELFRY_EOPTION,
                        "uid_bytes_max is %" PRIu64 ": no message of message_bytes_max, %" PRIu32 ", could arrive",
                        o->uid_bytes_max, o->message_bytes_max);
    return 0;
}

static int check_map_count(const belfry_server_options *o)
{
    int64_t areas = (int64_t)o->max_slots * AREAS_PER_SLOT + AREAS_FOR_THE_REST;
    int64_t most = bf_os_map_count_max();
    if (areas > most)
        return bf_error(BELFRY_EMAPS,
                        "max_slots %" PRIu32 " takes %" PRId64 " memory maps and vm.max_map_count is %" PRId64
                        ": raise it with sysctl, or lower max_slots",
                        o->max_slots, areas, most);
    return 0;
}

int bf_options_resolve(belfry_server_options *out, const belfry_server_options *in)
{
    if (in == NULL || in->size < offsetof(belfry_server_options, user))
        return bf_error(BELFRY_EOPTION, "options.size is not set: call belfry_server_options_init() first");
    belfry_server_options_init(out, sizeof *out);
    memcpy(out, in, bf_min(in->size, sizeof *out));
    out->size = sizeof *out;
    if (out->on_message == NULL)
        return bf_error(BELFRY_EOPTION, "on_message is required");
    if (out->spin == BELFRY_SPIN_DEFAULT)
        out->spin = BF_DEFAULT_SPIN;
    if ((unsigned)out->spin > BELFRY_SPIN_LATENCY)
        return bf_error(BELFRY_EOPTION, "spin is %u: it must be one of enum belfry_spin", (unsigned)out->spin);
    if (out->claim_grace_ms == 0)
        return bf_error(BELFRY_EOPTION, "claim_grace_ms is 0: no client could come in time");
    if (out->deferred_max == 0)
        return bf_error(BELFRY_EOPTION, "deferred_max is 0: no request could be deferred");
    if (out->outbox_high_bytes == 0)
        out->outbox_high_bytes = out->outbox_bytes_max / 2;
    if (out->outbox_high_bytes > out->outbox_bytes_max)
        return bf_error(BELFRY_EOPTION, "outbox_high_bytes is %" PRIu32 ": more than outbox_bytes_max, %" PRIu32,
                        out->outbox_high_bytes, out->outbox_bytes_max);
    if (out->outbox_low_bytes > 0 && out->outbox_low_bytes >= out->outbox_high_bytes)
        return bf_error(BELFRY_EOPTION, "outbox_low_bytes is %" PRIu32 ": it must be below outbox_high_bytes, %" PRIu32,
                        out->outbox_low_bytes, out->outbox_high_bytes);
    if ((unsigned)out->overflow > BELFRY_OVERFLOW_DISCONNECT)
        return bf_error(BELFRY_EOPTION, "overflow is %u: it must be one of enum belfry_overflow",
                        (unsigned)out->overflow);
    if (out->own_loop && out->shards > 1)
        return bf_error(BELFRY_EOPTION,
                        "own_loop: a single thread runs the turns, and shards is %" PRIu32 ": make it 1", out->shards);
    if (out->own_loop)
        out->shards = 1;
    if (out->shards == 0)
        out->shards = (uint32_t)bf_min(bf_max(bf_os_cpus(NULL, 0), 1), BELFRY_SHARDS_MAX);
    if (out->message_bytes_max == 0 && out->ring_bytes >= RING_BYTES_MIN)
        out->message_bytes_max = ring_payload_max(out->ring_bytes);
    if (out->whole_bytes_max == 0)
        out->whole_bytes_max = bf_max(WHOLE_BYTES_MAX, out->message_bytes_max);
    int rc = check_slots(out);
    if (rc == 0)
        rc = check_ring(out);
    if (rc == 0)
        rc = check_access(out);
    if (rc == 0)
        rc = check_map_count(out);
    return rc;
}

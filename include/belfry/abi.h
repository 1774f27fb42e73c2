/* SPDX-License-Identifier: MIT */
/*
 * belfry/abi.h: the bytes in shared memory. docs/PROTOCOL.md says how they are used, docs/ORDERING.md in which order.
 *
 * All integers are in the machine's byte order; both sides run on the same machine. Every byte has one writer. What is
 * marked "server" below is written by the server only, what is marked "client" by the client only; "init" means that
 * the server wrote it before the client could see the file. Change anything here and BELFRY_ABI_VERSION with it; the
 * layout hash catches who forgot.
 */
#ifndef BELFRY_ABI_H
#define BELFRY_ABI_H

#include <belfry/stats.h>
#include <belfry/types.h>

#ifdef __cplusplus
#define BELFRY_ABI_ASSERT(condition, text) static_assert(condition, text)
#else
#define BELFRY_ABI_ASSERT(condition, text) _Static_assert(condition, text)
#endif

#define BELFRY_ABI_VERSION 2u
#define BELFRY_LOBBY_MAGIC 0x7962626f4c796c42ull   /* "BlyLobby" */
#define BELFRY_SEGMENT_MAGIC 0x676d6765536c4265ull /* "eBlSegmg" */
#define BELFRY_ABI_LINE 128u                       /* two cache lines: the prefetcher fetches pairs */
#define BELFRY_ABI_PAGE 4096u

/* ---- an entry in a ring -------------------------------------------------------------------------------------- */

/*
 * `length` counts the header and the payload, 0 means "not yet". It is stored last, with release: it is the commit.
 * Entries start at multiples of 16 and never wrap.
 */
struct belfry_abi_entry {
    uint32_t length; /* producer */
    uint8_t kind;    /* enum belfry_kind */
    uint8_t flags;   /* BELFRY_FLAG_... */
    uint16_t reserved;
    uint64_t id;
};

#define BELFRY_ENTRY_ALIGN 16u

#define BELFRY_FLAG_EXTENDED 0x01u /* an extension block stands between header and payload */
#define BELFRY_FLAG_MORE 0x02u     /* of a REPLY: not the last one to its request */

/*
 * An extension block: its length, then items, each at 4 before a multiple of 8, so that its data is aligned to 8.
 * A reader refuses a message with an item that it does not know (BELFRY_EUNSUPPORTED), unless it is optional.
 */
struct belfry_abi_item {
    uint16_t type;
    uint16_t bytes; /* of its data, which follows */
};

struct belfry_abi_extension {
    uint16_t bytes; /* in all, a multiple of 8 */
    uint16_t reserved;
    struct belfry_abi_item item; /* the first */
};

#define BELFRY_ITEM_DEADLINE 1u      /* int64_t: ns on CLOCK_MONOTONIC; nobody waits for the reply after that */
#define BELFRY_ITEM_WHOLE 2u         /* struct belfry_abi_whole, of the first PART of a message */
#define BELFRY_ITEM_OPTIONAL 0x8000u /* a bit of the type: may be ignored */

/* What the parts of a message make together. */
struct belfry_abi_whole {
    uint64_t bytes;
    uint8_t kind;  /* enum belfry_kind */
    uint8_t flags; /* BELFRY_FLAG_MORE */
    uint8_t reserved[6];
};

/* The payload of a BELFRY_FAILURE entry: the status, then its sentence without a NUL. */
struct belfry_abi_failure {
    int32_t status;
    char text[];
};

/* ---- what both segments begin with ---------------------------------------------------------------------------- */

struct belfry_abi_segment {
    uint64_t magic;        /* init */
    uint64_t layout_hash;  /* init */
    uint32_t version;      /* init */
    uint32_t header_bytes; /* init: where the ring begins */
    uint32_t ring_bytes;   /* init */
    uint32_t colour;       /* init: offset of position 0 within the ring */
    uint32_t slot;         /* init */
    uint32_t generation;   /* init */
    uint64_t instance;     /* init */
    uint64_t reserved[2];
};

/* <service>_<N>_send: from the client to the server. The client maps it writable, the server read-only. */
struct belfry_abi_send {
    struct belfry_abi_segment segment;

    /* Hello: the client's word that it owns the slot. `hello` is stored last, with release. */
    uint32_t hello_version;    /* client */
    uint32_t hello_pid;        /* client: informative */
    uint32_t hello_generation; /* client: of the segments that it mapped */
    uint32_t hello;            /* client: BELFRY_HELLO = here, BELFRY_GOODBYE = left on purpose */
    uint8_t pad_hello[48];

    /* The doorbell that the server waits on. */
    uint32_t bell; /* client: counts rings */
    uint8_t pad_bell[BELFRY_ABI_LINE - 4];

    /* What the server reads after its fence. */
    uint32_t parked;     /* client: the value of recv.bell it is about to sleep on */
    uint32_t want_space; /* client: 1 = a send was told -EAGAIN */
    uint64_t bell_at;    /* client: 0 = my own bell; else BELFRY_BELL_AT(slot, generation) of my group's leader */
    uint8_t pad_parked[BELFRY_ABI_LINE - 16];

    /* Where the client has read the server's ring up to; published once per quarter ring. */
    uint64_t consumed; /* client */
    uint8_t pad_consumed[BELFRY_ABI_LINE - 8];
};

/* <service>_<N>_recv: from the server to the client. The client maps it read-only; its mode allows no more. */
struct belfry_abi_recv {
    struct belfry_abi_segment segment;

    uint32_t accepted;  /* server: 1 = on_connect said yes */
    uint32_t end;       /* server: enum belfry_end, BELFRY_END_NONE while it lasts; stored with release */
    int32_t end_status; /* server: what on_connect returned, when it refused */
    uint32_t reserved;
    uint8_t pad_end[48];

    /* The doorbell that the client waits on. */
    uint32_t bell; /* server */
    uint8_t pad_bell[BELFRY_ABI_LINE - 4];

    /* Where the server has read the client's ring up to; published once per quarter ring, and exactly before `end`. */
    uint64_t consumed; /* server */
    uint8_t pad_consumed[2 * BELFRY_ABI_LINE - 8];
};

#define BELFRY_HELLO 0x6f6c6c65u   /* "ello" */
#define BELFRY_GOODBYE 0x20657962u /* "bye ": in place of hello, by a client that leaves */
#define BELFRY_CLAIM_WITHDRAWN 0xffffffffu
#define BELFRY_PARKED_DATA 0x1u  /* ring when you commit an entry */
#define BELFRY_PARKED_SPACE 0x2u /* ring when you publish a position */
#define BELFRY_BELL_AT(slot, generation) (((uint64_t)(slot) + 1) << 32 | (uint32_t)(generation))

/*
 * What a client of another user writes into its lock file before it locks it. It may not write to the slot's segments
 * before the server has accepted it, so this is its hello; the one in `_send` follows, once it may.
 */
struct belfry_abi_claim {
    uint32_t version; /* client: BELFRY_ABI_VERSION; or BELFRY_CLAIM_WITHDRAWN, by any client that gives the slot up */
    uint32_t pid;     /* client: informative */
};

/* ---- the lobby ------------------------------------------------------------------------------------------------- */

enum belfry_abi_section_kind {
    BELFRY_SECTION_SHARDS = 1,   /* struct belfry_abi_shard, one per shard */
    BELFRY_SECTION_SLOTS = 2,    /* struct belfry_abi_slot: the slots of shard 0, then those of shard 1, ... */
    BELFRY_SECTION_COUNTERS = 3, /* struct belfry_counters, one per shard */
};

#define BELFRY_SECTION_OPTIONAL 0x1u /* a reader that does not know the kind may go on without it */

struct belfry_abi_section {
    uint32_t kind;
    uint32_t flags;
    uint64_t offset; /* bytes from the start of the lobby */
    uint64_t size;   /* bytes */
    uint64_t stride; /* bytes from one element to the next */
};

/* The first page. All of it is written before the instance becomes current and never again. */
struct belfry_abi_lobby {
    uint64_t magic; /* stored last */
    uint64_t layout_hash;
    uint32_t version;
    uint32_t pid;
    uint64_t instance;
    uint64_t lobby_bytes;
    uint64_t started_ns;
    uint32_t shards;
    uint32_t max_slots;       /* a multiple of shards */
    uint32_t slots_per_shard; /* slot N: shard N % shards, element N / shards of its part of the section */
    uint32_t warm_pool;
    uint32_t ring_bytes;
    uint32_t message_bytes_max;
    uint32_t header_bytes; /* of a segment */
    uint32_t section_count;
    uint32_t uid;
    uint32_t slots_stride; /* bytes from shard k's part of the slots section to shard k + 1's */
    char service[64];
    struct belfry_abi_section section[8];
};

/* One shard's words. */
struct belfry_abi_shard {
    uint32_t asleep; /* server: 1 = about to sleep or asleep: ring whatever you commit */
    uint8_t pad_asleep[BELFRY_ABI_LINE - 4];

    uint32_t door;   /* server: enum belfry_abi_door */
    uint32_t active; /* server: slots claimed, for choosing the least busy shard */
    uint32_t warm;   /* server: warm slots */
    uint32_t cpu;    /* server: where it runs; UINT32_MAX = not pinned */
    uint8_t pad_door[BELFRY_ABI_LINE - 16];

    /* A robust mutex (glibc's pthread_mutex_t) that the shard's thread holds while it lives. Clients look at its first
       word only: BELFRY_OBITUARY_DIED or STOPPED. Written by the server and, at its death, by the kernel. */
    uint32_t obituary;
    uint8_t mutex_rest[BELFRY_ABI_LINE - 4];
};

#define BELFRY_OBITUARY_DIED 0x40000000u    /* FUTEX_OWNER_DIED, a bit */
#define BELFRY_OBITUARY_STOPPED 0x3ffffffeu /* the whole word: a clean end; no thread has this id */

enum belfry_abi_door {
    BELFRY_DOOR_STARTING = 0,
    BELFRY_DOOR_OPEN = 1,
    BELFRY_DOOR_DRAINING = 2, /* claims are refused; conns are served */
    BELFRY_DOOR_CLOSED = 3,   /* nobody is served */
};

/*
 * A slot's state word: generation << 3 | enum belfry_abi_state. The generation counts tenants and wraps at 2^29.
 * `reason` is stored before the state that it explains. `parked` stands here and not in the segment, so that a client
 * of a thousand slots finds state and parked of four of them in one cache line.
 */
struct belfry_abi_slot {
    uint32_t state;  /* server */
    uint32_t reason; /* server: enum belfry_end of the previous generation */
    uint32_t uid;    /* server: of the present tenant */
    uint32_t parked; /* server: BELFRY_PARKED_...: what the tenant must ring for; read after its fence */
};

enum belfry_abi_state {
    BELFRY_SLOT_COLD = 0,   /* no segments; lock it and wait for WARM */
    BELFRY_SLOT_WARM = 1,   /* segments are there */
    BELFRY_SLOT_OPEN = 2,   /* a client of the server's own user has it */
    BELFRY_SLOT_CLOSED = 3, /* its conn is over; not yet free */
    BELFRY_SLOT_ASKED = 4,  /* another user's client has claimed it; not yet let at its segments */
    BELFRY_SLOT_SHARED = 5, /* it has it */
};

#define BELFRY_SLOT_STATE(generation, state) ((uint32_t)(generation) << 3 | (uint32_t)(state))
#define BELFRY_SLOT_GENERATION(word) ((uint32_t)(word) >> 3)
#define BELFRY_SLOT_STATE_OF(word) ((uint32_t)(word)&7u)
#define BELFRY_GENERATION_MASK 0x1fffffffu

/* ---- offsets, checked ----------------------------------------------------------------------------------------- */

#define BELFRY_ABI_AT(type, field, offset) \
    BELFRY_ABI_ASSERT(offsetof(struct type, field) == (offset), #type "." #field " has moved")
#define BELFRY_ABI_SIZE(type, bytes) BELFRY_ABI_ASSERT(sizeof(struct type) == (bytes), #type " has changed its size")

BELFRY_ABI_AT(belfry_abi_entry, length, 0);
BELFRY_ABI_AT(belfry_abi_entry, kind, 4);
BELFRY_ABI_AT(belfry_abi_entry, flags, 5);
BELFRY_ABI_AT(belfry_abi_entry, reserved, 6);
BELFRY_ABI_AT(belfry_abi_entry, id, 8);
BELFRY_ABI_SIZE(belfry_abi_entry, 16);
BELFRY_ABI_AT(belfry_abi_extension, bytes, 0);
BELFRY_ABI_AT(belfry_abi_extension, item, 4);
BELFRY_ABI_SIZE(belfry_abi_extension, 8);
BELFRY_ABI_AT(belfry_abi_whole, kind, 8);
BELFRY_ABI_AT(belfry_abi_whole, flags, 9);
BELFRY_ABI_SIZE(belfry_abi_whole, 16);
BELFRY_ABI_AT(belfry_abi_failure, status, 0);
BELFRY_ABI_AT(belfry_abi_failure, text, 4);
BELFRY_ABI_AT(belfry_abi_segment, magic, 0);
BELFRY_ABI_AT(belfry_abi_segment, layout_hash, 8);
BELFRY_ABI_AT(belfry_abi_segment, version, 16);
BELFRY_ABI_AT(belfry_abi_segment, header_bytes, 20);
BELFRY_ABI_AT(belfry_abi_segment, ring_bytes, 24);
BELFRY_ABI_AT(belfry_abi_segment, colour, 28);
BELFRY_ABI_AT(belfry_abi_segment, slot, 32);
BELFRY_ABI_AT(belfry_abi_segment, generation, 36);
BELFRY_ABI_AT(belfry_abi_segment, instance, 40);
BELFRY_ABI_AT(belfry_abi_segment, reserved, 48);
BELFRY_ABI_SIZE(belfry_abi_segment, 64);
BELFRY_ABI_AT(belfry_abi_send, hello_version, 64);
BELFRY_ABI_AT(belfry_abi_send, hello_pid, 68);
BELFRY_ABI_AT(belfry_abi_send, hello_generation, 72);
BELFRY_ABI_AT(belfry_abi_send, hello, 76);
BELFRY_ABI_AT(belfry_abi_send, bell, 128);
BELFRY_ABI_AT(belfry_abi_send, parked, 256);
BELFRY_ABI_AT(belfry_abi_send, want_space, 260);
BELFRY_ABI_AT(belfry_abi_send, bell_at, 264);
BELFRY_ABI_AT(belfry_abi_send, consumed, 384);
BELFRY_ABI_SIZE(belfry_abi_send, 512);
BELFRY_ABI_AT(belfry_abi_recv, accepted, 64);
BELFRY_ABI_AT(belfry_abi_recv, end, 68);
BELFRY_ABI_AT(belfry_abi_recv, end_status, 72);
BELFRY_ABI_AT(belfry_abi_recv, reserved, 76);
BELFRY_ABI_AT(belfry_abi_recv, bell, 128);
BELFRY_ABI_AT(belfry_abi_recv, consumed, 256);
BELFRY_ABI_SIZE(belfry_abi_recv, 512);
BELFRY_ABI_AT(belfry_abi_claim, version, 0);
BELFRY_ABI_AT(belfry_abi_claim, pid, 4);
BELFRY_ABI_SIZE(belfry_abi_claim, 8);
BELFRY_ABI_AT(belfry_abi_section, kind, 0);
BELFRY_ABI_AT(belfry_abi_section, flags, 4);
BELFRY_ABI_AT(belfry_abi_section, offset, 8);
BELFRY_ABI_AT(belfry_abi_section, size, 16);
BELFRY_ABI_AT(belfry_abi_section, stride, 24);
BELFRY_ABI_SIZE(belfry_abi_section, 32);
BELFRY_ABI_AT(belfry_abi_lobby, magic, 0);
BELFRY_ABI_AT(belfry_abi_lobby, layout_hash, 8);
BELFRY_ABI_AT(belfry_abi_lobby, version, 16);
BELFRY_ABI_AT(belfry_abi_lobby, pid, 20);
BELFRY_ABI_AT(belfry_abi_lobby, instance, 24);
BELFRY_ABI_AT(belfry_abi_lobby, lobby_bytes, 32);
BELFRY_ABI_AT(belfry_abi_lobby, started_ns, 40);
BELFRY_ABI_AT(belfry_abi_lobby, shards, 48);
BELFRY_ABI_AT(belfry_abi_lobby, max_slots, 52);
BELFRY_ABI_AT(belfry_abi_lobby, slots_per_shard, 56);
BELFRY_ABI_AT(belfry_abi_lobby, warm_pool, 60);
BELFRY_ABI_AT(belfry_abi_lobby, ring_bytes, 64);
BELFRY_ABI_AT(belfry_abi_lobby, message_bytes_max, 68);
BELFRY_ABI_AT(belfry_abi_lobby, header_bytes, 72);
BELFRY_ABI_AT(belfry_abi_lobby, section_count, 76);
BELFRY_ABI_AT(belfry_abi_lobby, uid, 80);
BELFRY_ABI_AT(belfry_abi_lobby, slots_stride, 84);
BELFRY_ABI_AT(belfry_abi_lobby, service, 88);
BELFRY_ABI_AT(belfry_abi_lobby, section, 152);
BELFRY_ABI_SIZE(belfry_abi_lobby, 408);
BELFRY_ABI_AT(belfry_abi_shard, asleep, 0);
BELFRY_ABI_AT(belfry_abi_shard, door, 128);
BELFRY_ABI_AT(belfry_abi_shard, active, 132);
BELFRY_ABI_AT(belfry_abi_shard, warm, 136);
BELFRY_ABI_AT(belfry_abi_shard, cpu, 140);
BELFRY_ABI_AT(belfry_abi_shard, obituary, 256);
BELFRY_ABI_SIZE(belfry_abi_shard, 384);
BELFRY_ABI_AT(belfry_abi_slot, state, 0);
BELFRY_ABI_AT(belfry_abi_slot, reason, 4);
BELFRY_ABI_AT(belfry_abi_slot, uid, 8);
BELFRY_ABI_AT(belfry_abi_slot, parked, 12);
BELFRY_ABI_SIZE(belfry_abi_slot, 16);
BELFRY_ABI_ASSERT(sizeof(belfry_counters) == 90 * sizeof(uint64_t), "belfry_counters has changed its size");
BELFRY_ABI_ASSERT(sizeof(void *) == 8, "positions are 64-bit words: both sides must be 64-bit programs");

/* A constant of this layout: each step is FNV-1a over one number. Both sides must have computed the same. */
#define BELFRY_ABI_MIX(hash, number) (((hash) ^ (uint64_t)(number)) * 0x100000001b3ull)
#define BELFRY_ABI_LAYOUT_1 BELFRY_ABI_MIX(0xcbf29ce484222325ull, sizeof(struct belfry_abi_entry))
#define BELFRY_ABI_LAYOUT_2 BELFRY_ABI_MIX(BELFRY_ABI_LAYOUT_1, sizeof(struct belfry_abi_send))
#define BELFRY_ABI_LAYOUT_3 BELFRY_ABI_MIX(BELFRY_ABI_LAYOUT_2, offsetof(struct belfry_abi_send, bell))
#define BELFRY_ABI_LAYOUT_4 BELFRY_ABI_MIX(BELFRY_ABI_LAYOUT_3, offsetof(struct belfry_abi_send, parked))
#define BELFRY_ABI_LAYOUT_5 BELFRY_ABI_MIX(BELFRY_ABI_LAYOUT_4, offsetof(struct belfry_abi_send, consumed))
#define BELFRY_ABI_LAYOUT_6 BELFRY_ABI_MIX(BELFRY_ABI_LAYOUT_5, sizeof(struct belfry_abi_recv))
#define BELFRY_ABI_LAYOUT_7 BELFRY_ABI_MIX(BELFRY_ABI_LAYOUT_6, offsetof(struct belfry_abi_recv, consumed))
#define BELFRY_ABI_LAYOUT_8 BELFRY_ABI_MIX(BELFRY_ABI_LAYOUT_7, sizeof(struct belfry_abi_lobby))
#define BELFRY_ABI_LAYOUT_9 BELFRY_ABI_MIX(BELFRY_ABI_LAYOUT_8, sizeof(struct belfry_abi_shard))
#define BELFRY_ABI_LAYOUT_10 BELFRY_ABI_MIX(BELFRY_ABI_LAYOUT_9, offsetof(struct belfry_abi_shard, obituary))
#define BELFRY_ABI_LAYOUT_11 BELFRY_ABI_MIX(BELFRY_ABI_LAYOUT_10, offsetof(struct belfry_abi_slot, parked))
#define BELFRY_ABI_LAYOUT_12 BELFRY_ABI_MIX(BELFRY_ABI_LAYOUT_11, sizeof(struct belfry_abi_slot))
#define BELFRY_ABI_LAYOUT_13 BELFRY_ABI_MIX(BELFRY_ABI_LAYOUT_12, offsetof(struct belfry_abi_recv, end))
#define BELFRY_ABI_LAYOUT BELFRY_ABI_MIX(BELFRY_ABI_LAYOUT_13, sizeof(belfry_counters))

#endif

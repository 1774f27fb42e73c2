/* SPDX-License-Identifier: MIT */
/*
 * payload.h: what every message of the benchmark consists of, and how it is checked.
 *
 *     offset  bytes
 *     0       4      enum payload_kind: to be echoed, or to be counted
 *     4       4      number of the connection
 *     8       8      sequence number on that connection
 *     16      ...    a stretch of a random pattern that begins elsewhere for each sequence number
 *
 * All systems carry the same payloads. A receiver knows which number and sequence must come next and compares every
 * byte, so an old, torn, swapped or foreign message is found. Building and checking 64 bytes takes a few nanoseconds.
 */
#ifndef BENCH_PAYLOAD_H
#define BENCH_PAYLOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define PAYLOAD_BYTES_MIN 16u
#define PAYLOAD_BYTES_MAX 65536u
#define PAYLOAD_STARTS 512u /* places, 8 bytes apart, where a stretch may begin */
#define PAYLOAD_PATTERN_BYTES (PAYLOAD_BYTES_MAX + 8u * PAYLOAD_STARTS)

enum payload_kind { PAYLOAD_ECHO = 1, PAYLOAD_SINK = 2 };

struct payload_header {
    uint32_t kind;
    uint32_t number;
    uint64_t sequence;
};

/* Made once, before the forks; the same in every run. */
extern unsigned char payload_pattern[PAYLOAD_PATTERN_BYTES];
void payload_create(void);

static inline const unsigned char *payload_stretch(uint32_t number, uint64_t sequence)
{
    return payload_pattern + 8 * ((sequence + number) % PAYLOAD_STARTS);
}

/* `bytes` in all, at least PAYLOAD_BYTES_MIN; `to` is aligned to 8. */
static inline void payload_build(void *to, uint32_t bytes, enum payload_kind kind, uint32_t number, uint64_t sequence)
{
    struct payload_header *header = to;
    *header = (struct payload_header){.kind = kind, .number = number, .sequence = sequence};
    if (bytes == 64)
        memcpy(header + 1, payload_stretch(number, sequence), 48); /* inline: three vectors */
    else
        memcpy(header + 1, payload_stretch(number, sequence), bytes - sizeof *header);
}

static inline bool payload_same_48(const unsigned char *a, const unsigned char *b)
{
    uint64_t x[6], y[6], different = 0;
    memcpy(x, a, sizeof x);
    memcpy(y, b, sizeof y);
    for (int i = 0; i < 6; i++)
        different |= x[i] ^ y[i];
    return different == 0;
}

/* Is this exactly the message that payload_build() made of these? */
static inline bool payload_is(const void *data, uint32_t got, uint32_t bytes, enum payload_kind kind, uint32_t number,
                              uint64_t sequence)
{
    struct payload_header header;
    if (got != bytes)
        return false;
    memcpy(&header, data, sizeof header);
    if (header.kind != (uint32_t)kind || header.number != number || header.sequence != sequence)
        return false;
    const unsigned char *rest = (const unsigned char *)data + sizeof header;
    if (bytes == 64)
        return payload_same_48(rest, payload_stretch(number, sequence));
    return memcmp(rest, payload_stretch(number, sequence), bytes - sizeof header) == 0;
}

#endif

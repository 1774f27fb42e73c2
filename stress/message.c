/* SPDX-License-Identifier: MIT */
/* message.c: see message.h. */
#include "message.h"

#include <stdlib.h>
#include <string.h>

#define PATTERN_STARTS 512u /* places, 8 bytes apart, where a payload may start */

static unsigned char *pattern;

bool message_pattern_create(uint32_t bytes_max, uint64_t seed)
{
    size_t words = bytes_max / 8u + PATTERN_STARTS + 1u;
    uint64_t *made = malloc(words * sizeof *made);
    if (!made)
        return false;
    for (size_t i = 0; i < words; i++)
        made[i] = random_next(&seed);
    pattern = (unsigned char *)made;
    return true;
}

/* For a given state each word gives another result, so a change within one word cannot cancel out. */
static inline uint64_t stir(uint64_t state, uint64_t word)
{
    state = (state ^ word) * 0xff51afd7ed558ccdull;
    return state ^ state >> 32;
}

static inline uint64_t word_at(const unsigned char *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

/*
 * Four lanes, because one multiplication after the other would wait for its predecessor: at 16 KiB the checksum, not
 * the IPC, would be what is measured.
 */
static uint32_t checksum_of(uint32_t number, uint64_t sequence, const unsigned char *payload, size_t bytes)
{
    uint64_t lane[4] = {stir(1, bytes), stir(2, number), stir(3, sequence), 4};
    const unsigned char *p = payload;
    size_t left = bytes;
    for (; left >= 32; left -= 32, p += 32)
        for (int i = 0; i < 4; i++)
            lane[i] = stir(lane[i], word_at(p + 8 * i));
    for (; left >= 8; left -= 8, p += 8)
        lane[3] = stir(lane[3], word_at(p));
    if (left > 0) {
        unsigned char tail[8] = {0};
        memcpy(tail, p, left);
        lane[3] = stir(lane[3], word_at(tail));
    }
    uint64_t sum = stir(stir(stir(lane[0], lane[1]), lane[2]), lane[3]);
    return (uint32_t)(sum ^ sum >> 32);
}

void message_build(void *buffer, uint32_t bytes, uint32_t number, uint64_t sequence, struct message_mark *mark)
{
    struct message_header *header = buffer;
    uint32_t payload_bytes = bytes - (uint32_t)sizeof *header;
    const unsigned char *source = pattern + 8 * ((sequence + number) % PATTERN_STARTS);
    memcpy(header + 1, source, payload_bytes);

    header->number = number;
    header->sequence = sequence;
    header->checksum = checksum_of(number, sequence, source, payload_bytes);
    *mark = (struct message_mark){.sequence = sequence, .number = number, .bytes = bytes, .checksum = header->checksum};
}

bool message_is_sound(const void *data, size_t bytes)
{
    struct message_header header;
    if (bytes < sizeof header)
        return false;
    memcpy(&header, data, sizeof header);
    const unsigned char *payload = (const unsigned char *)data + sizeof header;
    return header.checksum == checksum_of(header.number, header.sequence, payload, bytes - sizeof header);
}

bool message_is_marked(const void *data, size_t bytes, const struct message_mark *mark)
{
    struct message_header header;
    if (bytes != mark->bytes)
        return false;
    memcpy(&header, data, sizeof header);
    return header.number == mark->number && header.sequence == mark->sequence && header.checksum == mark->checksum &&
           message_is_sound(data, bytes);
}

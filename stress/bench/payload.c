/* SPDX-License-Identifier: MIT */
/* payload.c: see payload.h. */
#include "payload.h"

unsigned char payload_pattern[PAYLOAD_PATTERN_BYTES];

/* xorshift64*, from a fixed state. */
void payload_create(void)
{
    uint64_t state = 0x9e3779b97f4a7c15ull;
    for (size_t i = 0; i < sizeof payload_pattern; i += 8) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        uint64_t word = state * 0x2545f4914f6cdd1dull;
        memcpy(payload_pattern + i, &word, sizeof word);
    }
}

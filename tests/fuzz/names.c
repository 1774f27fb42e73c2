/* SPDX-License-Identifier: MIT */
/*
 * names.c: the names that anybody may choose: of lock files, of services, of instances.
 *
 * Each parser is compared with another way to say the same: a name is good if and only if it is what would be printed for
 * the number that it gives.
 */
#include <inttypes.h>

#include "feed.h"
#include "shm/place.h"
#include "shm/segment.h"

#define NAME_MAX_BYTES 256

/* All digits, no leading zero, below `max`. */
static bool is_number(const char *text, size_t length, uint64_t max, uint64_t *number)
{
    uint64_t value = 0;
    if (length == 0 || length > 19 || (length > 1 && text[0] == '0'))
        return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    *number = value;
    return value < max;
}

static void try_lock(const char *name, uint32_t max_slots)
{
    static const char before[] = "slot_", behind[] = ".lock";
    size_t length = strlen(name), around = strlen(before) + strlen(behind);
    uint64_t wanted = 0;
    bool good = length > around && memcmp(name, before, strlen(before)) == 0 &&
                strcmp(name + length - strlen(behind), behind) == 0 &&
                is_number(name + strlen(before), length - around, max_slots, &wanted);
    uint32_t slot = UINT32_MAX;
    demand(bf_lock_name_parse(name, max_slots, &slot) == good);
    demand(slot == (good ? wanted : UINT32_MAX));
    if (good) {
        char printed[SEGMENT_NAME_BYTES];
        bf_lock_name(printed, slot);
        demand(strcmp(printed, name) == 0);
    }
}

static void try_service(const char *name)
{
    size_t length = strlen(name);
    bool good = length >= 1 && length < PLACE_SERVICE_BYTES && name[0] != '.';
    for (size_t i = 0; i < length; i++)
        good &= (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9') ||
                (name[i] != '\0' && strchr("._-", name[i]) != NULL);
    demand(bf_place_is_name(name) == good);
    struct bf_place place;
    if (bf_place_init(&place, name, "/nowhere") == 0)
        demand(bf_place_is_name(place.service));
    else
        demand(!good);
}

static void try_instance(const char *name)
{
    uint64_t wanted = 0, number = bf_place_instance_parse(name);
    if (is_number(name, strlen(name), UINT64_MAX, &wanted))
        demand(number == wanted);
    char printed[32];
    snprintf(printed, sizeof printed, "%" PRIu64, number);
    demand(number == 0 || strcmp(printed, name) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct feed f = {data, data + bytes};
    uint32_t max_slots = feed_8(&f) & 1 ? feed_8(&f) : UINT32_MAX;
    size_t length = (size_t)(f.end - f.at);
    char *name = malloc(length + 1); /* of its exact size: to read beyond it is noticed */
    demand(name != NULL);
    memcpy(name, length > 0 ? f.at : data, length);
    name[length] = '\0';
    try_lock(name, max_slots);
    try_service(name);
    try_instance(name);
    free(name);
    return 0;
}

/* SPDX-License-Identifier: MIT */
/*
 * place.h: where a service lives on disk, and whether the directory deserves trust.
 *
 *     <root>/<service>/current -> 7
 *     <root>/<service>/7/{lobby, shard-<k>/slot_<N>.lock, segments/<service>_<N>_{send,recv}}
 *
 * The root is $BELFRY_ROOT, else /dev/shm/belfry-<uid>. Owner and mode are checked, never trusted. Used by both sides.
 */
#ifndef BF_SHM_PLACE_H
#define BF_SHM_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#define PLACE_PATH_BYTES 512
#define PLACE_SERVICE_BYTES 64

#define PLACE_CURRENT "current"
#define PLACE_START_LOCK ".start"
#define PLACE_LOBBY "lobby"
#define PLACE_SEGMENTS "segments"

struct bf_place {
    char root[PLACE_PATH_BYTES];
    char service[PLACE_SERVICE_BYTES];
    uint32_t uid; /* whose root it must be */
};

/* [a-z0-9._-]{1,63}, not beginning with a dot. */
bool bf_place_is_name(const char *service);

/* Parse "name" or "uid:name". `root` NULL: the environment's, else the uid's own. 0, BELFRY_ENAME, BELFRY_EROOT. */
int bf_place_init(struct bf_place *place, const char *service, const char *root);

/* Who may pass through the directories of a service. What is in there has an owner and a mode of its own. */
enum place_door { PLACE_OWNER, PLACE_GROUP, PLACE_EVERYONE };

/* Enter <root>/<service>, checking the root: for looking up names in it only. A descriptor, BELFRY_ENOSERVICE,
   BELFRY_EROOT, or -errno. */
int bf_place_enter(const struct bf_place *place);

/* Its owner opens <root>/<service>, makes both when missing, and sets who else may pass: `gid`, for PLACE_GROUP. As above;
   -EPERM: the owner is not in that group. */
int bf_place_make(const struct bf_place *place, enum place_door door, uint32_t gid);

/* The number that `current` names in the service directory; 0 when there is none. */
uint64_t bf_place_current(int service_dir);

/* "7" to 7; 0 when it is not a canonical number. */
uint64_t bf_place_instance_parse(const char *name);

#endif

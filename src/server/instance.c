/* SPDX-License-Identifier: MIT */
/* instance.c: see instance.h. */
#include "server/instance.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <belfry/stats.h>
#include <belfry/types.h>

#include "base/check.h"
#include "base/error.h"
#include "base/os.h"

#define DIR_MODE 0700u
#define PASS_MODE 0711u   /* others may open what they know the name of, and may have */
#define CLAIM_MODE 01733u /* others may make a file, and remove their own */
#define START_LOCK_MODE 0600u
#define NAME_BYTES 32
#define DEPTH_MAX 16             /* others may have made directories in the lock directories */
#define FRESH_PREFIX ".current-" /* what becomes `current` by a rename */
#define LOCK_PAUSE_NS 2000000ll
#define START_PATIENCE_NS 60000000000ll /* somebody's warm pool may be large */
#define STOP_PATIENCE_NS 1000000000ll

/* --- removing a tree of known depth ------------------------------------------------------------------------------ */

struct removal {
    int dir;
    int depth;
};

/* A segment of another user's client may only be appended to (slot_pool.c). */
static int unlink_protected(int dir, const char *name)
{
    int fd = bf_os_open(dir, name, BF_OS_READ, 0);
    int rc = fd < 0 ? fd : bf_os_append_only(fd, false);
    bf_os_close(fd);
    return rc < 0 ? rc : bf_os_unlink(dir, name);
}

static int remove_entry(void *context, const char *name)
{
    struct removal *r = context;
    int rc = bf_os_unlink(r->dir, name);
    if (rc == -EPERM)
        rc = unlink_protected(r->dir, name);
    if (rc != -EISDIR || r->depth == 0)
        return 0;
    struct removal inner = {.dir = bf_os_open_dir(r->dir, name), .depth = r->depth - 1};
    if (inner.dir >= 0) {
        bf_os_mode(inner.dir, DIR_MODE); /* nobody puts anything new there; not ours: as it was */
        bf_os_list(inner.dir, remove_entry, &inner);
        bf_os_close(inner.dir);
    }
    bf_os_remove_dir(r->dir, name);
    return 0;
}

static void remove_instance_dir(int service_dir, const char *name)
{
    struct removal r = {.dir = bf_os_open_dir(service_dir, name), .depth = DEPTH_MAX};
    if (r.dir >= 0) {
        bf_os_unlink(r.dir, PLACE_LOBBY); /* first: from here on nobody finds it */
        bf_os_list(r.dir, remove_entry, &r);
        bf_os_close(r.dir);
    }
    bf_os_remove_dir(service_dir, name);
}

/* --- make -------------------------------------------------------------------------------------------------------- */

/* Other servers of the name start one after the other; one that hangs in its start must not hang us for ever. */
static int take_start_lock(struct bf_instance *instance, int64_t patience_ns)
{
    int64_t deadline_ns = bf_os_now_ns() + patience_ns;
    instance->start_lock =
        bf_os_open(instance->service_dir, PLACE_START_LOCK, BF_OS_READ_WRITE | BF_OS_CREATE, START_LOCK_MODE);
    if (instance->start_lock < 0)
        return bf_error_errno(instance->start_lock, "cannot open the start lock");
    int rc;
    while ((rc = bf_os_lock(instance->start_lock)) == -EAGAIN && bf_os_now_ns() < deadline_ns) {
        uint32_t never = 0;
        struct bf_os_wait pause = {&never, 0};
        bf_os_wait(&pause, 1, bf_os_now_ns() + LOCK_PAUSE_NS);
    }
    if (rc == -EAGAIN)
        return bf_error(-ETIMEDOUT,
                        "another server of this name is starting or stopping and does not come to an end: see "
                        "who holds %s in the service's directory",
                        PLACE_START_LOCK);
    return rc < 0 ? bf_error_errno(rc, "cannot take the start lock") : 0;
}

static int highest_number(void *context, const char *name)
{
    uint64_t *highest = context;
    *highest = bf_max(*highest, bf_place_instance_parse(name));
    return 0;
}

static int check_file_system(struct bf_instance *instance, const struct bf_place *place)
{
    bool tmpfs;
    int rc = bf_os_space(instance->service_dir, &tmpfs, &instance->tmpfs_free_bytes);
    if (rc < 0)
        return bf_error_errno(rc, "cannot look at the file system of %s", place->root);
    if (!tmpfs)
        return bf_error(BELFRY_EROOT, "%s is not on tmpfs: put BELFRY_ROOT on one, such as /dev/shm", place->root);
    return 0;
}

static int make_dirs(struct bf_instance *instance, bool others, uint32_t shards)
{
    uint32_t pass = others ? PASS_MODE : DIR_MODE;
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%" PRIu64, instance->number);
    int rc = bf_os_make_dir(instance->service_dir, name, pass);
    if (rc == 0)
        rc = instance->dir = bf_os_open_dir(instance->service_dir, name);
    if (rc >= 0)
        rc = bf_os_make_dir(instance->dir, PLACE_SEGMENTS, pass);
    if (rc == 0)
        rc = instance->segment_dir = bf_os_open_dir(instance->dir, PLACE_SEGMENTS);
    for (uint32_t shard = 0; shard < shards && rc >= 0; shard++) {
        snprintf(name, sizeof name, "shard-%" PRIu32, shard);
        rc = bf_os_make_dir(instance->dir, name, others ? CLAIM_MODE : DIR_MODE);
    }
    return rc < 0 ? bf_error_errno(rc, "cannot make the instance's directory") : 0;
}

int bf_instance_make(struct bf_instance *instance, const struct bf_place *place, enum place_door door, uint32_t gid,
                     uint32_t shards)
{
    *instance = BF_INSTANCE_NULL;
    int rc = instance->service_dir = bf_place_make(place, door, gid);
    if (rc >= 0)
        rc = check_file_system(instance, place);
    if (rc == 0)
        rc = take_start_lock(instance, START_PATIENCE_NS);
    if (rc == 0) {
        uint64_t highest = bf_place_current(instance->service_dir);
        rc = bf_os_list(instance->service_dir, highest_number, &highest);
        if (rc < 0)
            rc = bf_error_errno(rc, "cannot list the instances of \"%s\"", place->service);
        else
            instance->number = highest + 1;
    }
    if (rc == 0)
        rc = make_dirs(instance, door != PLACE_OWNER, shards);
    if (rc < 0)
        bf_instance_remove(instance);
    return rc;
}

int bf_instance_open_locks(const struct bf_instance *instance, uint32_t shard)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "shard-%" PRIu32, shard);
    int rc = bf_os_open_dir(instance->dir, name);
    return rc < 0 ? bf_error_errno(rc, "cannot open %s", name) : rc;
}

/* --- publish ----------------------------------------------------------------------------------------------------- */

struct sweep {
    const struct bf_instance *instance;
    const struct bf_log *log;
};

/* Remove an instance whose lobby is not locked, or which has none; and the link of one that died before its rename. */
static int sweep_entry(void *context, const char *name)
{
    const struct sweep *sweep = context;
    uint64_t number = bf_place_instance_parse(name);
    if (strncmp(name, FRESH_PREFIX, sizeof FRESH_PREFIX - 1) == 0) /* ours is renamed, and only we are starting */
        bf_os_unlink(sweep->instance->service_dir, name);
    if (number == 0 || number == sweep->instance->number)
        return 0;
    int dir = bf_os_open_dir(sweep->instance->service_dir, name);
    if (dir < 0)
        return 0;
    int lobby = bf_os_open(dir, PLACE_LOBBY, BF_OS_READ, 0);
    bool alive = lobby >= 0 ? bf_os_locked(lobby) != 0 : lobby != -ENOENT;
    bf_os_close(lobby);
    bf_os_close(dir);
    if (alive)
        return 0;
    bf_log(sweep->log, BELFRY_LOG_INFO, "removing the files of dead instance %s", name);
    remove_instance_dir(sweep->instance->service_dir, name);
    return 0;
}

int bf_instance_publish(struct bf_instance *instance, const struct bf_log *log)
{
    char target[NAME_BYTES], fresh[NAME_BYTES + 16];
    snprintf(target, sizeof target, "%" PRIu64, instance->number);
    snprintf(fresh, sizeof fresh, FRESH_PREFIX "%" PRIu64, instance->number);
    bf_os_unlink(instance->service_dir, fresh);
    int rc = bf_os_symlink(instance->service_dir, target, fresh);
    if (rc == 0)
        rc = bf_os_rename(instance->service_dir, fresh, PLACE_CURRENT);
    if (rc < 0) {
        bf_os_unlink(instance->service_dir, fresh);
        return bf_error_errno(rc, "cannot become the current instance");
    }
    struct sweep sweep = {.instance = instance, .log = log};
    bf_os_list(instance->service_dir, sweep_entry, &sweep);
    bf_os_close(instance->start_lock);
    instance->start_lock = -1;
    return 0;
}

/* A start that failed for want of a descriptor has none to list with: by their names, what is still empty. */
static void remove_empty(const struct bf_instance *instance)
{
    char name[NAME_BYTES];
    int rc = 0;
    if (instance->dir < 0)
        return;
    bf_os_unlink(instance->dir, PLACE_LOBBY); /* first: from here on nobody finds it */
    bf_os_remove_dir(instance->dir, PLACE_SEGMENTS);
    for (uint32_t shard = 0; shard < BELFRY_SHARDS_MAX && rc != -ENOENT; shard++) {
        snprintf(name, sizeof name, "shard-%" PRIu32, shard);
        rc = bf_os_remove_dir(instance->dir, name);
    }
}

void bf_instance_remove(struct bf_instance *instance)
{
    char name[NAME_BYTES];
    if (instance->number != 0 && instance->service_dir >= 0) {
        if (instance->start_lock < 0)
            take_start_lock(instance, STOP_PATIENCE_NS); /* nobody swings `current` between our look and our unlink */
        if (bf_place_current(instance->service_dir) == instance->number)
            bf_os_unlink(instance->service_dir, PLACE_CURRENT);
        remove_empty(instance);
    }
    bf_os_close(instance->segment_dir);
    bf_os_close(instance->dir);
    if (instance->number != 0 && instance->service_dir >= 0) { /* with as many descriptors as can be had */
        snprintf(name, sizeof name, "%" PRIu64, instance->number);
        remove_instance_dir(instance->service_dir, name);
    }
    bf_os_close(instance->start_lock);
    bf_os_close(instance->service_dir);
    *instance = BF_INSTANCE_NULL;
}

/* SPDX-License-Identifier: MIT */
/* place.c: see place.h. */
#include "shm/place.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <belfry/types.h>

#include "base/error.h"
#include "base/os.h"

#define OWNER_MODE 0700u
#define GROUP_MODE 0710u
#define PASS_MODE 0711u

bool bf_place_is_name(const char *service)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t length = strlen(service);
    return length >= 1 && length < PLACE_SERVICE_BYTES && service[0] != '.' && strspn(service, allowed) == length;
}

int bf_place_init(struct bf_place *place, const char *service, const char *root)
{
    *place = (struct bf_place){.uid = bf_os_uid()};
    if (service == NULL)
        return bf_error(BELFRY_ENAME, "no service name was given");

    const char *colon = strchr(service, ':');
    const char *name = service;
    if (colon != NULL) {
        char *end;
        errno = 0;
        unsigned long uid = strtoul(service, &end, 10);
        if (end != colon || end == service || errno != 0 || uid > UINT32_MAX || service[0] < '0' || service[0] > '9')
            return bf_error(BELFRY_ENAME, "\"%s\" is not \"uid:name\": before the colon stands a user's number",
                            service);
        place->uid = (uint32_t)uid;
        name = colon + 1;
    }
    if (!bf_place_is_name(name))
        return bf_error(BELFRY_ENAME,
                        "\"%s\" is not a service name: use 1 to 63 of a-z 0-9 . _ -, not beginning with a dot", name);
    snprintf(place->service, sizeof place->service, "%s", name);

    if (root == NULL && colon == NULL)
        root = getenv("BELFRY_ROOT");
    int length = root != NULL && root[0] != '\0'
                     ? snprintf(place->root, sizeof place->root, "%s", root)
                     : snprintf(place->root, sizeof place->root, "/dev/shm/belfry-%" PRIu32, place->uid);
    /* Room for "/<service>/<instance>/shard-<k>" behind it. */
    if (length < 0 || (size_t)length + PLACE_SERVICE_BYTES + 64 >= sizeof place->root)
        return bf_error(BELFRY_EROOT, "the root directory's name is too long: \"%.64s...\"", root);
    return 0;
}

/* The root belongs to the right user, and nobody else can do more than pass through it to a name that he knows. */
static int check_root(const struct bf_place *place, int root)
{
    struct bf_os_file file;
    int rc = bf_os_stat(root, &file);
    if (rc < 0)
        return bf_error_errno(rc, "cannot look at %s", place->root);
    if (file.uid != place->uid)
        return bf_error(BELFRY_EROOT,
                        "%s belongs to uid %" PRIu32 " and not to uid %" PRIu32 ": remove it, or set BELFRY_ROOT",
                        place->root, file.uid, place->uid);
    if ((file.mode & 0066) != 0)
        return bf_error(BELFRY_EROOT, "%s has mode %04" PRIo32 ": others may look or write into it; chmod 0700 it",
                        place->root, file.mode);
    return 0;
}

static int check_opened(const struct bf_place *place, int root)
{
    if (root == -ENOENT)
        return bf_error(BELFRY_ENOSERVICE,
                        "there is no service \"%s\": %s does not exist; start the server, or set BELFRY_ROOT",
                        place->service, place->root);
    if (root == -ENOTDIR || root == -ELOOP)
        return bf_error(BELFRY_EROOT, "%s is not a directory: remove it, or set BELFRY_ROOT", place->root);
    if (root < 0)
        return bf_error_errno(root, "cannot open %s", place->root);
    int rc = check_root(place, root);
    if (rc < 0) {
        bf_os_close(root);
        return rc;
    }
    return root;
}

int bf_place_enter(const struct bf_place *place)
{
    int root = check_opened(place, bf_os_enter_dir(BF_OS_CWD, place->root));
    if (root < 0)
        return root;
    struct bf_os_file file;
    int dir = bf_os_enter_dir(root, place->service);
    bf_os_close(root);
    if (dir >= 0 && bf_os_stat_at(dir, ".", &file) == -EACCES) { /* it can be opened, and that is all */
        bf_os_close(dir);
        dir = -EACCES;
    }
    if (dir == -ENOENT)
        return bf_error(BELFRY_ENOSERVICE, "there is no service \"%s\" in %s: start the server, or check the name",
                        place->service, place->root);
    if (dir == -EACCES)
        return bf_error(dir, "uid %" PRIu32 " does not let this user in to \"%s\": see its server's option `access`",
                        place->uid, place->service);
    if (dir < 0)
        return bf_error_errno(dir, "cannot open %s/%s", place->root, place->service);
    return dir;
}

/* Make the directory if it is missing, and enter it. */
static int make_and_enter(int dir, const char *name)
{
    int fd = bf_os_enter_dir(dir, name);
    if (fd != -ENOENT)
        return fd;
    int rc = bf_os_make_dir(dir, name, OWNER_MODE);
    return rc < 0 && rc != -EEXIST ? rc : bf_os_enter_dir(dir, name);
}

/* The directory that was entered, with all that its owner may do. */
static int open_entered(int entered)
{
    int fd = entered < 0 ? entered : bf_os_open_dir(entered, ".");
    bf_os_close(entered);
    return fd;
}

int bf_place_make(const struct bf_place *place, enum place_door door, uint32_t gid)
{
    int entered = check_opened(place, make_and_enter(BF_OS_CWD, place->root));
    if (entered < 0)
        return entered;
    int root = open_entered(entered); /* checked, and ours */
    if (root < 0)
        return bf_error_errno(root, "cannot open %s", place->root);
    int rc = 0, dir = open_entered(make_and_enter(root, place->service));
    if (door !=
        PLACE_OWNER) /* as a service of its own has a door of its own, one that is open does not harm the others */
        rc = bf_os_mode(root, PASS_MODE);
    bf_os_close(root);
    if (dir < 0)
        return bf_error_errno(dir, "cannot make %s/%s", place->root, place->service);
    if (rc == 0 && door == PLACE_GROUP)
        rc = bf_os_group(dir, gid);
    if (rc == 0)
        rc = bf_os_mode(dir, door == PLACE_OWNER ? OWNER_MODE : door == PLACE_GROUP ? GROUP_MODE : PASS_MODE);
    if (rc < 0) {
        bf_os_close(dir);
        return bf_error_errno(rc, "cannot open %s/%s to %s %" PRIu32, place->root, place->service,
                              door == PLACE_GROUP ? "group" : "everyone but", door == PLACE_GROUP ? gid : place->uid);
    }
    return dir;
}

uint64_t bf_place_instance_parse(const char *name)
{
    char canonical[32];
    char *end;
    errno = 0;
    unsigned long long number = strtoull(name, &end, 10);
    if (errno != 0 || *end != '\0')
        return 0;
    snprintf(canonical, sizeof canonical, "%llu", number);
    return strcmp(name, canonical) == 0 ? number : 0;
}

uint64_t bf_place_current(int service_dir)
{
    char target[32];
    return bf_os_read_link(service_dir, PLACE_CURRENT, target, sizeof target) < 0 ? 0 : bf_place_instance_parse(target);
}

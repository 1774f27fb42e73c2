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

#define ROOT_MODE 0700u

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

/* The root belongs to the right user and to nobody else. */
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
    if ((file.mode & 0077) != 0)
        return bf_error(BELFRY_EROOT, "%s has mode %04" PRIo32 ": others may enter it; chmod 0700 it", place->root,
                        file.mode);
    return 0;
}

static int open_root(const struct bf_place *place, bool create)
{
    int root = bf_os_open_dir(BF_OS_CWD, place->root);
    if (root == -ENOENT && create) {
        int rc = bf_os_make_dir(BF_OS_CWD, place->root, ROOT_MODE);
        if (rc < 0 && rc != -EEXIST)
            return bf_error_errno(rc, "cannot make %s", place->root);
        root = bf_os_open_dir(BF_OS_CWD, place->root);
    }
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

int bf_place_open(const struct bf_place *place, bool create)
{
    int root = open_root(place, create);
    if (root < 0)
        return root;
    if (create) {
        int rc = bf_os_make_dir(root, place->service, ROOT_MODE);
        if (rc < 0 && rc != -EEXIST) {
            bf_os_close(root);
            return bf_error_errno(rc, "cannot make %s/%s", place->root, place->service);
        }
    }
    int dir = bf_os_open_dir(root, place->service);
    bf_os_close(root);
    if (dir == -ENOENT)
        return bf_error(BELFRY_ENOSERVICE, "there is no service \"%s\" in %s: start the server, or check the name",
                        place->service, place->root);
    if (dir < 0)
        return bf_error_errno(dir, "cannot open %s/%s", place->root, place->service);
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

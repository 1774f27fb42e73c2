/* SPDX-License-Identifier: MIT */
/* claim.c: see claim.h. */
#include "server/claim.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"
#include "base/os.h"
#include "shm/segment.h"

#define CLAIM_MODE 0600u

/*
 * Gone meanwhile; or nothing that a client of ours would make, such as a file that its own user may not read. Another
 * user's client makes its file first and then shares it: until then it counts as not locked. So does one with a lease on
 * it (-EAGAIN), which would keep us from ever looking.
 */
static int unopened(int error, struct bf_claim *claim)
{
    if (error == -ENOENT)
        claim->kind = CLAIM_NONE;
    bool foreign = claim->uid != bf_os_uid();
    if (foreign && (error == -EACCES || error == -EAGAIN))
        claim->kind = CLAIM_FREE;
    if (foreign && error == -EAGAIN)
        return 0;
    return error == -ENOENT || error == -ELOOP || error == -EACCES ? 0 : error;
}

/* Is it locked, and what does its owner say in it? 0 or -errno. */
static int ask(int fd, struct bf_claim *claim)
{
    int held = bf_os_locked(fd);
    if (held < 0)
        return held;
    claim->kind = held == 1 ? CLAIM_HELD : CLAIM_FREE;
    if (held == 1 && claim->uid == bf_os_uid())
        return 0; /* its hello is in the segment */
    int rc = bf_os_read_at(fd, &claim->word, sizeof claim->word, 0);
    if (rc >= 0 && rc < (int)sizeof claim->word)
        claim->word = (struct belfry_abi_claim){0};
    if (held == 0 && claim->word.version == BELFRY_CLAIM_WITHDRAWN)
        claim->kind = CLAIM_WITHDRAWN;
    return bf_min(rc, 0);
}

int bf_claim_look(int lock_dir, uint32_t slot, unsigned how, struct bf_claim *claim)
{
    char name[SEGMENT_NAME_BYTES];
    struct bf_os_file file, opened;
    bf_lock_name(name, slot);
    *claim = (struct bf_claim){.kind = CLAIM_NONE};

    /* Look before opening: opening a device or a fifo can do things. */
    int rc = bf_os_stat_at(lock_dir, name, &file);
    if (rc == -ENOENT)
        return 0;
    if (rc < 0)
        return rc;
    *claim = (struct bf_claim){
        .kind = CLAIM_JUNK, .device = file.device, .inode = file.inode, .uid = file.uid, .gid = file.gid};
    bool linked = file.links != 1 && (how & CLAIM_IS_BOUND) == 0;
    if (!file.regular || linked || (file.uid != bf_os_uid() && (how & CLAIM_OF_OTHERS) == 0))
        return 0;

    int fd = bf_os_open(lock_dir, name, BF_OS_READ, 0);
    if (fd < 0)
        return unopened(fd, claim);
    rc = bf_os_stat(fd, &opened);
    if (rc == 0 && (opened.inode != file.inode || opened.device != file.device))
        rc = -EAGAIN; /* replaced under our eyes: an event for that is on its way */
    if (rc == 0)
        rc = ask(fd, claim);
    bf_os_close(fd);
    return rc;
}

bool bf_claim_is_there(int lock_dir, uint32_t slot, const struct bf_claim *claim)
{
    char name[SEGMENT_NAME_BYTES];
    struct bf_os_file file;
    bf_lock_name(name, slot);
    return bf_os_stat_at(lock_dir, name, &file) == 0 && file.inode == claim->inode && file.device == claim->device;
}

int bf_claim_take(int lock_dir, uint32_t slot)
{
    char name[SEGMENT_NAME_BYTES];
    bf_lock_name(name, slot);
    int fd = bf_os_open(lock_dir, name, BF_OS_WRITE | BF_OS_CREATE_NEW, CLAIM_MODE);
    if (fd < 0)
        return fd;
    bf_os_close(fd);
    return 0;
}

bool bf_claim_drop(int lock_dir, uint32_t slot)
{
    char name[SEGMENT_NAME_BYTES];
    bf_lock_name(name, slot);
    int rc = bf_claim_remove_junk(lock_dir, name);
    return rc == 0 || rc == -ENOENT;
}

int bf_claim_remove_junk(int lock_dir, const char *name)
{
    char hidden[SEGMENT_NAME_BYTES];
    int rc = bf_os_unlink(lock_dir, name);
    if (rc == -EISDIR)
        rc = bf_os_remove_dir(lock_dir, name);
    if (rc != -ENOTEMPTY)
        return rc;
    do /* a name that nobody can have taken before us */
        snprintf(hidden, sizeof hidden, ".junk-%016" PRIx64, bf_os_random());
    while ((rc = bf_os_rename(lock_dir, name, hidden)) == -ENOTEMPTY || rc == -EEXIST || rc == -ENOTDIR);
    return rc;
}

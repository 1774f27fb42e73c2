/* SPDX-License-Identifier: MIT */
/* claim.c: see claim.h. */
#include "server/claim.h"

#include <errno.h>
#include <stdio.h>

#include "base/os.h"
#include "shm/segment.h"

#define CLAIM_MODE 0600u

/*
 * Gone meanwhile; or nothing that a client of ours would make, such as a file that its own user may not read. Another
 * user's client makes its file first and then shares it: until then it counts as not locked.
 */
static int unopened(int error, struct bf_claim *claim)
{
    if (error == -ENOENT)
        claim->kind = CLAIM_NONE;
    if (error == -EACCES && claim->uid != bf_os_uid())
        claim->kind = CLAIM_FREE;
    return error == -ENOENT || error == -ELOOP || error == -EACCES ? 0 : error;
}

/* Is it locked? Then also what another user's client says in it. 1, 0, or -errno. */
static int ask(int fd, struct bf_claim *claim)
{
    int held = bf_os_locked(fd);
    if (held != 1 || claim->uid == bf_os_uid())
        return held;
    int rc = bf_os_read_at(fd, &claim->word, sizeof claim->word, 0);
    if (rc >= 0 && rc < (int)sizeof claim->word)
        claim->word = (struct belfry_abi_claim){0};
    return rc < 0 ? rc : 1;
}

int bf_claim_look(int lock_dir, uint32_t slot, bool others, struct bf_claim *claim)
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
    if (!file.regular || file.links != 1 || (file.uid != bf_os_uid() && !others))
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
    if (rc < 0)
        return rc;
    claim->kind = rc == 1 ? CLAIM_HELD : CLAIM_FREE;
    return 0;
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

void bf_claim_drop(int lock_dir, uint32_t slot)
{
    char name[SEGMENT_NAME_BYTES];
    bf_lock_name(name, slot);
    if (bf_os_unlink(lock_dir, name) == -EISDIR)
        bf_claim_remove_junk(lock_dir, name);
}

bool bf_claim_remove_junk(int lock_dir, const char *name)
{
    static unsigned long aside; /* only has to differ; several shards have several directories */
    char hidden[SEGMENT_NAME_BYTES];
    int rc = bf_os_unlink(lock_dir, name);
    if (rc != -EISDIR)
        return rc == 0;
    if (bf_os_remove_dir(lock_dir, name) == 0)
        return true;
    snprintf(hidden, sizeof hidden, ".junk-%lu", __atomic_add_fetch(&aside, 1, __ATOMIC_RELAXED));
    return bf_os_rename(lock_dir, name, hidden) == 0;
}

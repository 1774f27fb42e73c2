/* SPDX-License-Identifier: MIT */
/*
 * claim.h: the facts about a slot's lock file, looked at afresh each time.
 *
 * An inotify event means only "something about this name". Events coalesce, carry names and not inodes, and can come
 * before the lock is dropped. So nothing is concluded from an event but that one must look: what is there, whose is it,
 * is it locked. No descriptor is kept.
 */
#ifndef BF_SERVER_CLAIM_H
#define BF_SERVER_CLAIM_H

#include <stdbool.h>
#include <stdint.h>

#include <belfry/abi.h>

enum claim_kind {
    CLAIM_NONE,      /* no file of that name */
    CLAIM_JUNK,      /* a file that is no lock: directory, symlink, device, hard link, of a user who may not */
    CLAIM_FREE,      /* a lock file that nobody has locked, or not yet shared with us */
    CLAIM_HELD,      /* a lock file that somebody has locked */
    CLAIM_WITHDRAWN, /* the same as CLAIM_FREE, and its owner says that it does not want the slot after all */
};

struct bf_claim {
    enum claim_kind kind;
    uint64_t device;
    uint64_t inode;
    uint32_t uid;
    uint32_t gid;
    struct belfry_abi_claim word; /* what its owner wrote into it, else zeros */
};

/* How to look. */
enum {
    CLAIM_OF_OTHERS = 1, /* users other than our own may have one */
    CLAIM_IS_BOUND = 2,  /* it has been found sound, and is told by its inode: somebody may have linked to it since */
};

/* Look. 0, or -errno when the system would not let us (then nothing is known). */
int bf_claim_look(int lock_dir, uint32_t slot, unsigned how, struct bf_claim *claim);

/* Is the same file still there under the slot's name? */
bool bf_claim_is_there(int lock_dir, uint32_t slot, const struct bf_claim *claim);

/* Make the file ourselves, so that no client can take the slot. 0; -EEXIST: somebody has it; -errno. */
int bf_claim_take(int lock_dir, uint32_t slot);

/* Remove whatever lies at the slot's name. False: it is still there. */
bool bf_claim_drop(int lock_dir, uint32_t slot);

/* Get rid of a name: remove it, or move a directory that is not empty aside, under a name with a dot. 0; -ENOENT: it was gone;
   -errno. */
int bf_claim_remove_junk(int lock_dir, const char *name);

#endif

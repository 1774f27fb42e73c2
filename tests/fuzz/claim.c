/* SPDX-License-Identifier: MIT */
/*
 * claim.c: what the server finds where a lock file should be: any kind of file, any bytes in it, locked or not.
 *
 * Another user's client writes a word into its lock file. All of the files here are ours; that they are another's is what
 * the library is told when it asks who we are.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "root.h"
#include "server/claim.h"
#include "shm/segment.h"

#define LOCK "slot_3.lock"

static bool foreign;

uint32_t __real_bf_os_uid(void);
uint32_t __wrap_bf_os_uid(void);

uint32_t __wrap_bf_os_uid(void)
{
    return __real_bf_os_uid() + foreign;
}

enum file_kind { REGULAR, DIRECTORY, SYMLINK, FIFO, HARD_LINK, NOTHING, KINDS };

/* The descriptor of a regular file, or -1. */
static int make(enum file_kind kind, const void *bytes, size_t count)
{
    switch (kind) {
    case DIRECTORY:
        demand(mkdirat(dir, LOCK, 0700) == 0);
        return -1;
    case SYMLINK:
        demand(symlinkat("elsewhere", dir, LOCK) == 0);
        return -1;
    case FIFO:
        demand(mkfifoat(dir, LOCK, 0600) == 0);
        return -1;
    case NOTHING:
    case KINDS:
        return -1;
    case REGULAR:
    case HARD_LINK:
        break;
    }
    int fd = openat(dir, LOCK, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    demand(fd >= 0 && write(fd, bytes, count) == (ssize_t)count);
    demand(kind != HARD_LINK || linkat(dir, LOCK, dir, "another", 0) == 0);
    return fd;
}

static void judge(const struct bf_claim *claim, enum file_kind kind, unsigned how, bool locked, const void *bytes,
                  size_t count)
{
    struct belfry_abi_claim word = {0};
    bool may = !foreign || (how & CLAIM_OF_OTHERS) != 0;
    bool sound = kind == REGULAR || (kind == HARD_LINK && (how & CLAIM_IS_BOUND) != 0);
    if (sound && may && (foreign || !locked) && count >= sizeof word) /* all of it, or nothing */
        memcpy(&word, bytes, sizeof word);
    demand(claim->word.version == word.version && claim->word.pid == word.pid);
    if (kind == NOTHING)
        demand(claim->kind == CLAIM_NONE);
    else if (!sound || !may)
        demand(claim->kind == CLAIM_JUNK);
    else if (locked)
        demand(claim->kind == CLAIM_HELD);
    else
        demand(claim->kind == (word.version == BELFRY_CLAIM_WITHDRAWN ? CLAIM_WITHDRAWN : CLAIM_FREE));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct feed f = {data, data + bytes};
    uint8_t content[64];
    struct bf_claim claim;
    make_root();
    uint8_t what = feed_8(&f), more = feed_8(&f);
    enum file_kind kind = (enum file_kind)(what % KINDS);
    unsigned how = more & (CLAIM_OF_OTHERS | CLAIM_IS_BOUND);
    size_t count = (size_t)(f.end - f.at) < sizeof content ? (size_t)(f.end - f.at) : sizeof content;
    feed_copy(&f, content, count);
    int fds = fixture_count_fds(), fd = make(kind, content, count);
    bool locked = fd >= 0 && (more & 4) != 0;
    demand(!locked || bf_os_lock(fd) == 0);
    foreign = more & 8;
    demand(bf_claim_look(dir, 3, how, &claim) == 0);
    judge(&claim, kind, how, locked, content, count);
    demand(kind == NOTHING || bf_claim_is_there(dir, 3, &claim));
    demand(bf_claim_drop(dir, 3));
    demand(!bf_claim_is_there(dir, 3, &claim));
    foreign = false;
    bf_os_close(fd);
    bf_os_unlink(dir, "another");
    demand(fixture_count_fds() == fds && fixture_count_files(root, "") == 0);
    return 0;
}

/* SPDX-License-Identifier: MIT */
/* Tests of server/claim.c: what stands under a slot's lock name, whoever put it there. */
#include "server/claim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <belfry/types.h>

#include "base/os.h"
#include "expect.h"
#include "fixture.h"

static char root[FIXTURE_PATH_BYTES];
static int dir;

static void open_dir(void)
{
    fixture_root_make(root);
    dir = bf_os_open_dir(BF_OS_CWD, root);
}

static void close_dir(void)
{
    bf_os_close(dir);
    fixture_remove_tree(root);
}

TestSuite(server_claim, .init = open_dir, .fini = close_dir, .timeout = 30);

static struct bf_claim look(uint32_t slot)
{
    struct bf_claim claim;
    expect_eq(bf_claim_look(dir, slot, 0, &claim), 0);
    return claim;
}

static int make_lock(uint32_t slot)
{
    char name[32];
    snprintf(name, sizeof name, "slot_%u.lock", slot);
    int fd = bf_os_open(dir, name, BF_OS_WRITE | BF_OS_CREATE_NEW, 0600);
    expect(fd >= 0);
    return fd;
}

Test(server_claim, sees_no_file)
{
    expect_eq(look(3).kind, CLAIM_NONE);
}

Test(server_claim, sees_whether_a_lock_is_held)
{
    int fd = make_lock(3);
    struct bf_claim claim = look(3);
    struct stat st;
    fstat(fd, &st);
    expect_eq(claim.kind, CLAIM_FREE);
    expect_eq(claim.inode, st.st_ino);
    expect_eq(claim.device, st.st_dev);
    expect_eq(claim.uid, geteuid());
    expect_eq(bf_os_lock(fd), 0);
    expect_eq(look(3).kind, CLAIM_HELD);
    expect_eq(look(4).kind, CLAIM_NONE);
    close(fd);
    expect_eq(look(3).kind, CLAIM_FREE);
}

Test(server_claim, is_not_fooled_by_a_readers_lock)
{
    close(make_lock(3));
    int fd = bf_os_open(dir, "slot_3.lock", BF_OS_READ, 0);
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    expect_eq(fcntl(fd, F_OFD_SETLK, &lock), 0);
    expect_eq(look(3).kind, CLAIM_FREE);
    close(fd);
}

Test(server_claim, calls_junk_what_is_no_plain_file)
{
    expect_eq(mkfifoat(dir, "slot_0.lock", 0600), 0);
    expect_eq(mkdirat(dir, "slot_1.lock", 0700), 0);
    expect_eq(symlinkat("slot_9.lock", dir, "slot_2.lock"), 0);
    close(make_lock(9));
    expect_eq(linkat(dir, "slot_9.lock", dir, "slot_3.lock", 0), 0);
    for (uint32_t slot = 0; slot < 4; slot++)
        expect_eq(look(slot).kind, CLAIM_JUNK);
    expect_eq(look(9).kind, CLAIM_JUNK); /* it has two names */
    bf_claim_drop(dir, 3);
    expect_eq(look(9).kind, CLAIM_FREE);
}

Test(server_claim, calls_junk_the_file_of_another_user)
{
    if (geteuid() != 0)
        cr_skip_test("only root can give a file away");
    close(make_lock(3));
    expect_eq(fchownat(dir, "slot_3.lock", 12345, 12345, 0), 0);
    expect_eq(look(3).kind, CLAIM_JUNK);
}

Test(server_claim, calls_junk_a_file_that_it_may_not_open)
{
    if (geteuid() == 0)
        cr_skip_test("root may open every file");
    close(make_lock(3));
    expect_eq(fchmodat(dir, "slot_3.lock", 0, 0), 0);
    expect_eq(look(3).kind, CLAIM_JUNK);
}

Test(server_claim, opens_no_device)
{
    if (geteuid() != 0)
        cr_skip_test("only root can make a device");
    if (mknodat(dir, "slot_3.lock", S_IFCHR | 0600, makedev(1, 7)) != 0)
        cr_skip_test("devices cannot be made here");
    expect_eq(look(3).kind, CLAIM_JUNK);
    bf_claim_drop(dir, 3);
    expect_eq(look(3).kind, CLAIM_NONE);
}

Test(server_claim, takes_a_name_once_and_gives_it_back)
{
    expect_eq(bf_claim_take(dir, 5), 0);
    expect_eq(bf_claim_take(dir, 5), -EEXIST);
    expect_eq(look(5).kind, CLAIM_FREE);
    bf_claim_drop(dir, 5);
    expect_eq(look(5).kind, CLAIM_NONE);
    bf_claim_drop(dir, 5); /* gone already */
    expect_eq(bf_claim_take(dir, 5), 0);
}

Test(server_claim, drops_whatever_has_the_name)
{
    expect_eq(mkdirat(dir, "slot_1.lock", 0700), 0);
    bf_claim_drop(dir, 1);
    expect_eq(look(1).kind, CLAIM_NONE);
    expect_eq(mkdirat(dir, "slot_1.lock", 0700), 0);
    expect_eq(mkdirat(dir, "slot_1.lock/full", 0700), 0);
    bf_claim_drop(dir, 1);
    expect_eq(look(1).kind, CLAIM_NONE); /* moved aside */
    expect_eq(mkdirat(dir, "slot_1.lock", 0700), 0);
    expect_eq(mkdirat(dir, "slot_1.lock/full", 0700), 0);
    bf_claim_drop(dir, 1); /* and aside again, to another name */
    expect_eq(look(1).kind, CLAIM_NONE);
    expect_eq(fixture_count_files(root, ""), 0);
}

Test(server_claim, removes_junk_and_says_whether_it_was_there)
{
    close(bf_os_open(dir, "anything", BF_OS_WRITE | BF_OS_CREATE_NEW, 0600));
    expect_eq(bf_claim_remove_junk(dir, "anything"), 0);
    expect_eq(bf_claim_remove_junk(dir, "anything"), -ENOENT);
}

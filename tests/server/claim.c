/* SPDX-License-Identifier: MIT */
/* Tests of server/claim.c: what stands under a slot's lock name, whoever put it there. */
#include "server/claim.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
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

/* He could keep us from ever looking, or make us wait for him. */
Test(server_claim, counts_the_file_of_another_user_with_a_lease_on_it_as_not_locked)
{
    struct bf_claim claim;
    if (geteuid() != 0)
        cr_skip_test("only root can give a file away");
    int fd = make_lock(3);
    expect_eq(fchownat(dir, "slot_3.lock", 12345, 12345, 0), 0);
    expect_eq(fcntl(fd, F_SETLEASE, F_WRLCK), 0);
    signal(SIGIO, SIG_IGN); /* how the kernel asks for it back */
    expect_eq(bf_claim_look(dir, 3, CLAIM_OF_OTHERS, &claim), 0);
    expect_eq(claim.kind, CLAIM_FREE);
    expect_eq(claim.uid, 12345);
    expect_eq(fchownat(dir, "slot_3.lock", geteuid(), getegid(), 0), 0);
    expect_eq(bf_claim_look(dir, 3, 0, &claim), -EAGAIN); /* our own user's: somebody will tell when it is over */
    close(fd);
}

Test(server_claim, sees_that_a_claim_was_withdrawn_once_it_is_unlocked)
{
    const struct belfry_abi_claim word = {.version = BELFRY_CLAIM_WITHDRAWN};
    int fd = make_lock(3);
    expect_eq(look(3).kind, CLAIM_FREE);
    expect_eq(bf_os_write_at(fd, &word, sizeof word, 0), 0);
    expect_eq(look(3).kind, CLAIM_WITHDRAWN);
    expect_eq(bf_os_lock(fd), 0);
    expect_eq(look(3).kind, CLAIM_HELD);
    close(fd);
}

/* That we have no descriptor left says nothing about the file. */
Test(server_claim, does_not_call_junk_what_it_has_no_descriptor_for)
{
    struct bf_claim claim;
    struct rlimit limit;
    close(make_lock(3));
    expect_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = (rlim_t)dir + 1;
    expect_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    int rc;
    while ((rc = bf_os_open_dir(BF_OS_CWD, "/")) >= 0)
        ; /* those below it that are free */
    rc = bf_claim_look(dir, 3, 0, &claim);
    limit.rlim_cur = before;
    expect_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    expect_eq(rc, -EMFILE);
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

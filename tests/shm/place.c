/* SPDX-License-Identifier: MIT */
/* Tests of shm/place.c: names, roots, and whether a directory deserves trust. */
#include "shm/place.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <belfry/types.h>

#include "base/os.h"
#include "expect.h"
#include "fixture.h"

static char root[FIXTURE_PATH_BYTES];

static void open_place(void)
{
    fixture_root_make(root);
}

static void close_place(void)
{
    fixture_remove_tree(root);
}

TestSuite(place, .init = open_place, .fini = close_place, .timeout = 30);

static void expect_open(const char *service, const char *at, bool create, int wanted)
{
    struct bf_place place;
    expect_rc(bf_place_init(&place, service, at), 0);
    int rc = create ? bf_place_make(&place, PLACE_OWNER, 0) : bf_place_enter(&place);
    if (wanted == 0)
        expect(rc >= 0);
    else
        expect_rc(rc, wanted);
    bf_os_close(rc);
}

/* --- names ------------------------------------------------------------------------------------------------------------ */

Test(place, knows_a_service_name)
{
    char name[70] = {0};
    expect(bf_place_is_name("a"));
    expect(bf_place_is_name("my-service_2.0"));
    expect(bf_place_is_name("0"));
    expect(bf_place_is_name("-"));
    memset(name, 'z', 63);
    expect(bf_place_is_name(name));
    name[63] = 'z';
    expect(!bf_place_is_name(name));
    expect(!bf_place_is_name(""));
    expect(!bf_place_is_name("."));
    expect(!bf_place_is_name(".."));
    expect(!bf_place_is_name(".start"));
    expect(!bf_place_is_name("Echo"));
    expect(!bf_place_is_name("a/b"));
    expect(!bf_place_is_name("a b"));
    expect(!bf_place_is_name("caf\xc3\xa9"));
    expect(!bf_place_is_name("a\n"));
}

Test(place, means_ones_own_root_by_a_plain_name)
{
    struct bf_place place;
    char own[64];
    unsetenv("BELFRY_ROOT");
    snprintf(own, sizeof own, "/dev/shm/belfry-%u", geteuid());
    expect_rc(bf_place_init(&place, "echo", NULL), 0);
    expect_text(place.service, "echo");
    expect_text(place.root, own);
    expect_eq(place.uid, geteuid());
    setenv("BELFRY_ROOT", "", 1);
    expect_rc(bf_place_init(&place, "echo", NULL), 0);
    expect_text(place.root, own);
}

Test(place, means_another_users_root_by_uid_and_name)
{
    struct bf_place place;
    expect_rc(bf_place_init(&place, "1234:echo", NULL), 0); /* $BELFRY_ROOT is not theirs */
    expect_eq(place.uid, 1234);
    expect_text(place.service, "echo");
    expect_text(place.root, "/dev/shm/belfry-1234");
    expect_rc(bf_place_init(&place, "4294967295:echo", NULL), 0);
    expect_eq(place.uid, UINT32_MAX);
}

Test(place, takes_the_root_from_argument_before_environment)
{
    struct bf_place place;
    setenv("BELFRY_ROOT", "/from/the/environment", 1);
    expect_rc(bf_place_init(&place, "echo", NULL), 0);
    expect_text(place.root, "/from/the/environment");
    expect_rc(bf_place_init(&place, "echo", "/given"), 0);
    expect_text(place.root, "/given");
}

Test(place, refuses_what_is_no_name)
{
    static const char *const wrong[] = {"",        ":",
                                        ":echo",   "x:echo",
                                        "1:",      "1:2:echo",
                                        "-1:echo", "+1:e",
                                        " 1:e",    "4294967296:echo",
                                        "1 :e",    "0x1:e",
                                        "Echo",    "a/b",
                                        "../up",   "99999999999999999999999:echo"};
    struct bf_place place;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        expect_rc(bf_place_init(&place, wrong[i], NULL), BELFRY_ENAME);
        expect(strlen(belfry_last_error()) > 0);
    }
    expect_rc(bf_place_init(&place, NULL, NULL), BELFRY_ENAME);
}

Test(place, refuses_a_root_that_is_too_long)
{
    struct bf_place place;
    char path[PLACE_PATH_BYTES];
    memset(path, 'p', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    expect_rc(bf_place_init(&place, "echo", path), BELFRY_EROOT);
    setenv("BELFRY_ROOT", path, 1);
    expect_rc(bf_place_init(&place, "echo", NULL), BELFRY_EROOT);
}

/* --- directories -------------------------------------------------------------------------------------------------------- */

Test(place, makes_root_and_service_for_their_owner_alone)
{
    char inner[FIXTURE_PATH_BYTES + 16], service[FIXTURE_PATH_BYTES + 32];
    struct stat st;
    snprintf(inner, sizeof inner, "%s/inner", root);
    snprintf(service, sizeof service, "%s/echo", inner);
    umask(0);
    expect_open("echo", inner, false, BELFRY_ENOSERVICE);
    expect_open("echo", inner, true, 0);
    expect_eq(stat(inner, &st), 0);
    expect_eq(st.st_mode, S_IFDIR | 0700);
    expect_eq(stat(service, &st), 0);
    expect_eq(st.st_mode, S_IFDIR | 0700);
    expect_open("echo", inner, true, 0); /* it may be there already */
    expect_open("echo", inner, false, 0);
    expect_open("other", inner, false, BELFRY_ENOSERVICE);
    expect_in(belfry_last_error(), "other");
}

Test(place, refuses_a_root_that_others_may_look_or_write_into)
{
    static const mode_t wrong[] = {0702, 0720, 0770, 0755, 0777, 01777, 0704};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        expect_eq(chmod(root, wrong[i]), 0);
        expect_open("echo", root, true, BELFRY_EROOT);
        expect_in(belfry_last_error(), "chmod");
    }
    expect_eq(chmod(root, 0700), 0);
    expect_open("echo", root, true, 0);
}

static void expect_mode(const char *path, mode_t mode, gid_t gid)
{
    struct stat st;
    expect_eq(stat(path, &st), 0);
    expect_eq(st.st_mode, S_IFDIR | mode);
    expect_eq(st.st_gid, gid);
}

Test(place, lets_others_pass_as_it_is_told_to)
{
    char service[FIXTURE_PATH_BYTES + 16];
    struct bf_place place;
    snprintf(service, sizeof service, "%s/echo", root);
    expect_rc(bf_place_init(&place, "echo", root), 0);
    umask(077);
    bf_os_close(bf_place_make(&place, PLACE_EVERYONE, 0));
    expect_mode(root, 0711, getegid());
    expect_mode(service, 0711, getegid());
    bf_os_close(bf_place_make(&place, PLACE_GROUP, getegid()));
    expect_mode(service, 0710, getegid());
    bf_os_close(bf_place_make(&place, PLACE_OWNER, 0)); /* closes it again; another service may need the root open */
    expect_mode(service, 0700, getegid());
    expect_mode(root, 0711, getegid());
}

Test(place, says_when_the_owner_is_not_in_the_group)
{
    struct bf_place place;
    if (geteuid() == 0)
        cr_skip_test("root may give a directory to any group");
    expect_rc(bf_place_init(&place, "echo", root), 0);
    expect_rc(bf_place_make(&place, PLACE_GROUP, 12345), -EPERM);
    expect_in(belfry_last_error(), "12345");
}

Test(place, refuses_a_root_that_belongs_to_somebody_else)
{
    if (geteuid() != 0)
        cr_skip_test("only root can give a directory away");
    expect_eq(chown(root, 12345, 12345), 0);
    expect_open("echo", root, true, BELFRY_EROOT);
    expect_in(belfry_last_error(), "12345");
    expect_eq(chown(root, 0, 0), 0);
}

Test(place, refuses_a_root_of_another_user_than_was_named)
{
    char name[32];
    snprintf(name, sizeof name, "%u:echo", geteuid() + 1);
    expect_open(name, root, false, BELFRY_EROOT);
}

Test(place, refuses_a_root_that_is_a_symlink_or_a_file)
{
    char path[FIXTURE_PATH_BYTES + 16];
    snprintf(path, sizeof path, "%s/link", root);
    expect_eq(symlink(root, path), 0);
    expect_open("echo", path, true, BELFRY_EROOT);
    expect_open("echo", path, false, BELFRY_EROOT);
    snprintf(path, sizeof path, "%s/file", root);
    bf_os_close(bf_os_open(BF_OS_CWD, path, BF_OS_WRITE | BF_OS_CREATE_NEW, 0600));
    expect_open("echo", path, true, BELFRY_EROOT);
    snprintf(path, sizeof path, "%s/dangling", root);
    expect_eq(symlink("/nowhere", path), 0);
    expect_open("echo", path, true, BELFRY_EROOT);
    expect(access("/nowhere", F_OK) != 0);
}

Test(place, refuses_a_service_that_is_a_symlink_or_a_file)
{
    char path[FIXTURE_PATH_BYTES + 16];
    snprintf(path, sizeof path, "%s/link", root);
    expect_eq(symlink("/tmp", path), 0);
    struct bf_place place;
    expect_rc(bf_place_init(&place, "link", root), 0);
    expect(bf_place_make(&place, PLACE_OWNER, 0) < 0);
    expect(bf_place_make(&place, PLACE_EVERYONE, 0) < 0);
    expect(bf_place_enter(&place) < 0);
}

/* --- instances ------------------------------------------------------------------------------------------------------------- */

Test(place, reads_the_number_of_the_current_instance)
{
    static const struct {
        const char *target;
        uint64_t number;
    } links[] = {{"7", 7},
                 {"18446744073709551615", UINT64_MAX},
                 {"07", 0},
                 {"+7", 0},
                 {"-7", 0},
                 {" 7", 0},
                 {"7 ", 0},
                 {"0", 0},
                 {"7/..", 0},
                 {"../7", 0},
                 {"seven", 0},
                 {"18446744073709551616", 0},
                 {"99999999999999999999999999999999999999", 0}};
    int dir = bf_os_open_dir(BF_OS_CWD, root);
    expect_eq(bf_place_current(dir), 0);
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++) {
        expect_eq(bf_os_symlink(dir, links[i].target, PLACE_CURRENT), 0);
        expect(bf_place_current(dir) == links[i].number);
        expect_eq(bf_os_unlink(dir, PLACE_CURRENT), 0);
    }
    bf_os_close(bf_os_open(dir, PLACE_CURRENT, BF_OS_WRITE | BF_OS_CREATE_NEW, 0600));
    expect_eq(bf_place_current(dir), 0); /* not even a link */
    expect_eq(bf_place_instance_parse(""), 0);
    bf_os_close(dir);
}

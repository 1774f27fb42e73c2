/* SPDX-License-Identifier: MIT */
/* refusals.c: bad input and poor circumstances: each has its code and a sentence that names the remedy. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <belfry/abi.h>

#include "house.h"

TestSuite(refusals, .timeout = 120);

static void says(const char *word)
{
    cr_assert_not_null(strstr(belfry_last_error(), word), "no \"%s\" in: %s", word, belfry_last_error());
}

Test(refusals, no_such_service)
{
    struct house house;
    belfry_client *c;
    house_init(&house);
    cr_assert_eq(house_connect_rc(&house, &c), BELFRY_ENOSERVICE);
    cr_assert_null(c);
    says(SERVICE);
    says("start the server");
    house_clear(&house);
}

Test(refusals, not_a_service_name)
{
    belfry_client *c;
    cr_assert_eq(belfry_connect(&c, "No/Such", NULL), BELFRY_ENAME);
    cr_assert_eq(belfry_connect(&c, "", NULL), BELFRY_ENAME);
    cr_assert_eq(belfry_connect(&c, "x:echo", NULL), BELFRY_ENAME);
    says("uid:name");
}

Test(refusals, somebody_elses_root)
{
    struct house house;
    belfry_client *c;
    house_init(&house);
    cr_assert_eq(chmod(house.root, 0755), 0);
    cr_assert_eq(house_connect_rc(&house, &c), BELFRY_EROOT);
    says("chmod 0700");
    cr_assert_eq(house_start_rc(&house), BELFRY_EROOT);
    chmod(house.root, 0700);
    if (getuid() == 0) {
        cr_assert_eq(chown(house.root, 12345, 12345), 0);
        cr_assert_eq(house_connect_rc(&house, &c), BELFRY_EROOT);
        says("12345");
        cr_assert_eq(chown(house.root, 0, 0), 0);
    }
    house_clear(&house);
}

Test(refusals, a_root_that_is_not_on_tmpfs)
{
    struct house house;
    char disk[] = "/var/tmp/belfry-disk-XXXXXX";
    house_init(&house);
    house_clear(&house);
    cr_assert_not_null(mkdtemp(disk));
    snprintf(house.root, sizeof house.root, "%s", disk);
    int rc = house_start_rc(&house);
    if (rc == 0) {
        house_clear(&house);
        cr_skip_test("/var/tmp is on tmpfs here");
    }
    cr_assert_eq(rc, BELFRY_EROOT);
    house_clear(&house);
}

static int no_permission(struct house *house, void *argument)
{
    belfry_client *c;
    belfry_client_options o;
    belfry_client_options_init(&o, sizeof o);
    o.root = house->root;
    (void)argument;
    if (setgid(65534) != 0 || setuid(65534) != 0)
        return 9;
    int rc = belfry_connect(&c, "0:" SERVICE, &o);
    return rc == -EACCES && belfry_last_error()[0] != '\0' ? 0 : 1;
}

Test(refusals, no_permission)
{
    struct house house;
    if (getuid() != 0)
        cr_skip_test("needs root, to become another user");
    house_init(&house);
    house_start(&house);
    cr_assert_eq(house_reap(house_process(no_permission, &house, NULL), 20), 0);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

Test(refusals, a_message_that_is_too_large)
{
    struct house house;
    belfry_message reply;
    house_init(&house);
    house.options.message_bytes_max = 1000;
    house_start(&house);
    belfry_client *c = house_connect(&house);
    static char big[1001];
    cr_assert_eq(belfry_message_bytes_max(c), 1000);
    cr_assert_eq(belfry_call(c, big, 1001, &reply, SECONDS(5)), BELFRY_ETOOBIG);
    says("1001");
    cr_assert_eq(belfry_call(c, big, 1000, &reply, SECONDS(5)), 0);
    belfry_release(c, &reply);
    belfry_close(c);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

/* Write over a number in the lobby, as another version of the server would have written it. */
static void patch_lobby(const struct house *house, off_t at, uint32_t value)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s/1/lobby", house->root, SERVICE);
    cr_assert_eq(chmod(path, 0600), 0);
    int fd = open(path, O_WRONLY);
    cr_assert(fd >= 0 && pwrite(fd, &value, sizeof value, at) == (ssize_t)sizeof value);
    close(fd);
}

/* Connect in a process that has no connection yet, and so no map of the lobby: it reads what stands there now. */
static bool child_is_refused(struct house *house)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        belfry_client *c;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int rc = house_connect_rc(house, &c);
        _exit(rc == BELFRY_EVERSION && strstr(belfry_last_error(), "upgrade") != NULL ? 0 : 1);
    }
    cr_assert(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

Test(refusals, another_version_of_the_format)
{
    struct house house;
    house_init(&house);
    house_start(&house);
    belfry_client *before = house_connect(&house);
    cr_assert_eq(house_echo(before, 1, 64), 0);
    patch_lobby(&house, offsetof(struct belfry_abi_lobby, version), BELFRY_ABI_VERSION + 1);
    cr_assert(child_is_refused(&house));
    patch_lobby(&house, offsetof(struct belfry_abi_lobby, version), BELFRY_ABI_VERSION);
    patch_lobby(&house, offsetof(struct belfry_abi_lobby, layout_hash), 1);
    cr_assert(child_is_refused(&house));
    cr_assert_eq(house_echo(before, 2, 64), 0, "who is attached notices nothing");
    belfry_close(before);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

/* Leave this process so many descriptors. */
static void leave_descriptors(rlim_t count)
{
    int lowest = dup(0);
    close(lowest);
    struct rlimit limit = {.rlim_cur = (rlim_t)lowest + count, .rlim_max = (rlim_t)lowest + count};
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

Test(refusals, too_few_descriptors_for_a_server)
{
    struct house house;
    house_init(&house);
    leave_descriptors(5); /* two are the pipe of the test */
    cr_assert_eq(house_start_rc(&house), BELFRY_ENOFILES);
    house_clear(&house);
}

static int few_descriptors(struct house *house, void *argument)
{
    belfry_client *c;
    int rc = 0;
    (void)argument;
    leave_descriptors(16);
    for (int i = 0; i < 24 && rc == 0; i++)
        rc = house_connect_rc(house, &c);
    return rc == BELFRY_ENOFILES && strstr(belfry_last_error(), "RLIMIT_NOFILE") != NULL ? 0 : 1;
}

Test(refusals, too_few_descriptors_for_a_client)
{
    struct house house;
    house_init(&house);
    house_start(&house);
    cr_assert_eq(house_reap(house_process(few_descriptors, &house, NULL), 20), 0);
    belfry_client *c = house_connect(&house);
    cr_assert_eq(house_echo(c, 1, 64), 0);
    belfry_close(c);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

/* From here on io_uring_setup fails so in this process and its children, as in a container or on another kernel. */
static void forbid_io_uring(uint32_t error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
    cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    cr_assert_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static void start_is_refused(uint32_t error, int code)
{
    struct house house;
    house_init(&house);
    forbid_io_uring(error);
    cr_assert_eq(house_start_rc(&house), code);
    cr_assert_eq(house_files(&house, "lobby") + house_files(&house, "_send"), 0, "a failed start leaves nothing");
    house_clear(&house);
}

Test(refusals, io_uring_is_forbidden)
{
    start_is_refused(EPERM, BELFRY_EFORBIDDEN);
}

Test(refusals, a_kernel_without_io_uring)
{
    start_is_refused(ENOSYS, BELFRY_EKERNEL);
}

Test(refusals, no_memory_for_io_uring)
{
    start_is_refused(ENOMEM, BELFRY_EMEMLOCK);
}

static int client_without_io_uring(struct house *house, void *argument)
{
    belfry_client *c;
    (void)argument;
    forbid_io_uring(EPERM);
    return house_connect_rc(house, &c) == 0 && house_echo(c, 1, 64) == 0 ? 0 : 1;
}

Test(refusals, a_client_needs_no_io_uring)
{
    struct house house;
    house_init(&house);
    house_start(&house);
    cr_assert_eq(house_reap(house_process(client_without_io_uring, &house, NULL), 20), 0);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

Test(refusals, more_slots_than_memory_maps)
{
    struct house house;
    house_init(&house);
    house.options.max_slots = 1000000;
    belfry_server *server;
    house.options.root = house.root;
    cr_assert_eq(belfry_server_create(&server, &house.options), BELFRY_EMAPS);
    says("vm.max_map_count");
    cr_assert_null(server);
    house_clear(&house);
}

/* A tmpfs of its own of so many bytes at the house's root. False when we may not mount. */
static bool mount_small(const struct house *house, const char *size)
{
    char options[64];
    snprintf(options, sizeof options, "size=%s,mode=0700", size);
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return false;
    return mount("tmpfs", house->root, "tmpfs", 0, options) == 0;
}

Test(refusals, a_tmpfs_too_small_for_the_warm_pool)
{
    struct house house;
    house_init(&house);
    if (!mount_small(&house, "1m"))
        cr_skip_test("only root can mount a small tmpfs, and not in a chroot");
    house.options.warm_pool = 64;
    cr_assert_eq(house_start_rc(&house), BELFRY_ENOSPACE);
    cr_assert_eq(house_files(&house, "_send") + house_files(&house, "lobby"), 0, "a failed start leaves nothing");
    house.options.warm_pool = 4;
    house_start(&house);
    cr_assert_eq(house_stop(&house), 0);
    umount(house.root);
    house_clear(&house);
}

Test(refusals, a_tmpfs_that_fills_up_refuses_newcomers_and_serves_the_others)
{
    struct house house;
    belfry_client *c[300], *extra;
    int count = 0, rc = 0;
    house_init(&house);
    if (!mount_small(&house, "16m"))
        cr_skip_test("only root can mount a small tmpfs, and not in a chroot");
    house.options.ring_bytes = 65536;
    house.options.on_log = NULL;
    house_start(&house);
    while (count < 300 && (rc = house_connect_rc(&house, &c[count])) == 0) {
        cr_assert_eq(house_echo(c[count], 1, 64), 0);
        count++;
    }
    cr_assert_eq(rc, BELFRY_ENOSPACE, "%d: %s", rc, belfry_last_error());
    cr_assert_gt(count, 60, "only %d clients fit", count);
    for (int i = 0; i < count; i++)
        cr_assert_eq(house_echo(c[i], 2, 1000), 0, "client %d suffers", i);
    for (int i = 0; i < 8; i++)
        belfry_close(c[--count]);
    for (int64_t deadline = SECONDS(10); (rc = house_connect_rc(&house, &extra)) != 0 && belfry_now_ns() < deadline;)
        usleep(10000);
    cr_assert_eq(rc, 0, "with memory free again newcomers are served: %s", belfry_last_error());
    cr_assert_eq(house_echo(extra, 3, 64), 0);
    cr_assert_eq(house_stop(&house), 0);
    umount(house.root);
    house_clear(&house);
}

/* SPDX-License-Identifier: MIT */
/*
 * names.c: names, files, identity: rows 1 to 13 of docs/THREATS.md.
 *
 * SERVER serves, ALICE and BOB mean well, MALLORY does not. Each row ends with a server that still serves and ends well.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <belfry/abi.h>

#include "base/os.h"
#include "hostile.h"

TestSuite(names, .timeout = 180);

static unsigned junk(const struct house *house)
{
    return (unsigned)house_stats(house).total.junk_names;
}

/* --- 1: planted symlinks ---------------------------------------------------------------------------------------------- */

struct planted {
    char canary[HOSTILE_PATH_BYTES]; /* a file of SERVER's that says "canary" */
};

static void write_canary(const struct planted *planted)
{
    int fd = open(planted->canary, O_CREAT | O_WRONLY, 0666);
    cr_assert(write(fd, "canary", 6) == 6 && fchmod(fd, 0666) == 0 && fchown(fd, SERVER, SERVER) == 0);
    close(fd);
}

static bool canary_sings(const struct planted *planted)
{
    char text[16] = "";
    struct stat st;
    int fd = open(planted->canary, O_RDONLY);
    bool sings = read(fd, text, sizeof text) == 6 && strcmp(text, "canary") == 0 && fstat(fd, &st) == 0 &&
                 st.st_uid == SERVER && st.st_nlink == 1 && (st.st_mode & 07777) == 0666;
    close(fd);
    return sings;
}

static int plant_links(struct house *house, void *argument)
{
    const struct planted *planted = argument;
    char path[HOSTILE_PATH_BYTES];
    for (uint32_t slot = 0; slot < 8; slot++) {
        hostile_lock_path(house, path, slot);
        if (symlink(planted->canary, path) < 0)
            return 1;
    }
    return 0;
}

Test(names, row_01_symlinks_in_place_of_locks_lead_nowhere)
{
    struct house house;
    struct planted planted;
    hostile_start(&house);
    snprintf(planted.canary, sizeof planted.canary, "%s/canary", house.root);
    write_canary(&planted);
    cr_assert_eq(house_reap(house_process_as(MALLORY, MALLORY, plant_links, &house, &planted), 30), 0);
    cr_assert(hostile_wait(junk(&house) == 8));
    hostile_visit(&house, ALICE);
    cr_assert(canary_sings(&planted));
    unlink(planted.canary);
    hostile_end(&house);
}

/* In a directory like /dev/shm, where anybody may make names. */
Test(names, row_01_a_root_that_somebody_else_has_planted_is_refused)
{
    struct house house;
    char root[128], real[160];
    int wrong = BELFRY_EROOT;
    hostile_init(&house);
    snprintf(root, sizeof root, "%s", house.root);
    cr_assert_eq(chmod(root, 01777), 0);
    snprintf(real, sizeof real, "%.100s/real", root);
    cr_assert(mkdir(real, 0711) == 0 && chown(real, SERVER, SERVER) == 0);
    snprintf(house.root, sizeof house.root, "%.100s/link", root);
    cr_assert(symlink(real, house.root) == 0 && lchown(house.root, MALLORY, MALLORY) == 0);
    cr_assert_eq(house_start_rc(&house), wrong);
    snprintf(house.root, sizeof house.root, "%.100s/dir", root);
    cr_assert(mkdir(house.root, 0711) == 0 && chown(house.root, MALLORY, MALLORY) == 0);
    cr_assert_eq(house_start_rc(&house), wrong);
    cr_assert_eq(rmdir(real), 0, "nothing was made behind the link");
    snprintf(house.root, sizeof house.root, "%s", root);
    house_clear(&house);
}

/* --- 2: modes --------------------------------------------------------------------------------------------------------- */

static struct {
    int files;
    char wrong[256];
} walked;

static int check_mode(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    static const struct {
        const char *ending;
        mode_t mode;
    } rules[] = {{"/" SERVICE, 0711}, {"/1", 0711},      {"/shard-0", 01733}, {"/shard-1", 01733}, {"/segments", 0711},
                 {"/lobby", 0444},    {"/.start", 0600}, {"_send", 0600},     {"_recv", 0400}};
    mode_t wanted = where->level == 0 ? 0711 : 0;
    if (kind == FTW_SL)
        return 0;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0] && wanted == 0; i++) {
        size_t length = strlen(path), ending = strlen(rules[i].ending);
        if (length > ending && strcmp(path + length - ending, rules[i].ending) == 0)
            wanted = rules[i].mode;
    }
    walked.files++;
    if ((st->st_mode & 07777) != wanted || st->st_uid != SERVER)
        snprintf(walked.wrong, sizeof walked.wrong, "%s: %04o of %u", path, st->st_mode & 07777, st->st_uid);
    return 0;
}

Test(names, row_02_modes_do_not_depend_on_the_umask)
{
    static const mode_t masks[] = {0, 0777, 022};
    for (size_t i = 0; i < sizeof masks / sizeof masks[0]; i++) {
        struct house house;
        hostile_init(&house);
        umask(masks[i]);
        house_start(&house);
        walked.files = 0;
        walked.wrong[0] = '\0';
        nftw(house.root, check_mode, 16, FTW_PHYS);
        cr_assert(walked.wrong[0] == '\0', "with umask %04o: %s", masks[i], walked.wrong);
        cr_assert_geq(walked.files, 6 + 2 * 16);
        hostile_visit(&house, ALICE);
        umask(022);
        hostile_end(&house);
    }
}

/* --- 3: all slots -------------------------------------------------------------------------------------------------------- */

/* Takes every name there is, and every one that becomes free, as fast as it can. */
static int grab(struct house *house, void *argument)
{
    struct hostile_word *rounds = argument;
    for (uint32_t round = 1; round > 0; round++) {
        for (uint32_t slot = 0; slot < house->options.max_slots; slot++) {
            int fd = hostile_make_lock(house, slot);
            if (fd >= 0)
                close(fd);
        }
        hostile_say(rounds, round);
    }
    return 0;
}

Test(names, row_03_who_grabs_all_slots_leaves_some_for_others)
{
    struct house house;
    struct hostile_word *rounds = hostile_word();
    hostile_init(&house);
    house.options.max_slots = 256;
    house_start(&house);
    struct hostile_guest bob = hostile_guest(&house, BOB);
    pid_t mallory = house_process_as(MALLORY, MALLORY, grab, &house, rounds);
    hostile_hear(rounds);
    for (int i = 0; i < 20; i++)
        hostile_visit(&house, ALICE);
    hostile_served(&bob, 1000);
    cr_assert_gt(house_stats(&house).total.refusals[BELFRY_END_QUOTA], 0);
    hostile_kill(mallory);
    hostile_leave(&bob);
    cr_assert(house_wait(&house, house_locks_are, 0, 20), "what she grabbed comes back");
    hostile_end(&house);
}

/* Full directories in place of every lock, and the names taken to which they might be moved. Then she goes. */
static int close_the_service(struct house *house, void *argument)
{
    char path[HOSTILE_PATH_BYTES], hidden[HOSTILE_PATH_BYTES], rest[64];
    (void)argument;
    for (int i = 0; i < 400; i++) {
        snprintf(rest, sizeof rest, "shard-%d/.junk-%d", i % (int)house_shards(), i / (int)house_shards());
        hostile_path(house, path, rest);
        close(open(path, O_CREAT | O_WRONLY, 0600));
    }
    for (uint32_t slot = 0; slot < house->options.max_slots; slot++) {
        snprintf(rest, sizeof rest, "shard-%u/.full", slot % house_shards());
        hostile_path(house, hidden, rest);
        snprintf(path, sizeof path, "%.240s/inner", hidden);
        if (mkdir(hidden, 0777) < 0 || mkdir(path, 0700) < 0)
            return 1;
        hostile_lock_path(house, path, slot);
        if (rename(hidden, path) < 0)
            return 2;
    }
    return 0;
}

Test(names, row_04_directories_that_cannot_be_removed_close_no_service)
{
    struct house house;
    hostile_init(&house);
    house.options.max_slots = 64;
    house_start(&house);
    cr_assert_eq(house_reap(house_process_as(MALLORY, MALLORY, close_the_service, &house, NULL), 30), 0);
    hostile_visit(&house, ALICE);
    hostile_visit(&house, SERVER);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

/* A lease on each lock file: whoever opens it has to wait. */
static int lease_all(struct house *house, void *argument)
{
    uint32_t had = 0;
    signal(SIGIO, SIG_IGN); /* which tells of whoever wants the file */
    for (uint32_t slot = 0; slot < house->options.max_slots; slot++) {
        int fd = hostile_claim(house, slot, BELFRY_ABI_VERSION, 1);
        had += fd >= 0 && fcntl(fd, F_SETLEASE, F_WRLCK) == 0;
    }
    hostile_say(argument, had + 1);
    pause();
    return 0;
}

Test(names, row_03_a_lease_on_a_lock_file_holds_no_slot)
{
    struct house house;
    struct hostile_word *word = hostile_word();
    hostile_init(&house);
    house.options.max_slots = 64;
    house.options.claim_grace_ms = 50;
    house_start(&house);
    hostile_pause(&house);
    pid_t mallory = house_process_as(MALLORY, MALLORY, lease_all, &house, word);
    cr_assert_gt(hostile_hear(word), 32);
    kill(house.server, SIGCONT);
    hostile_visit(&house, ALICE);
    hostile_visit(&house, SERVER);
    hostile_kill(mallory);
    cr_assert(house_wait(&house, house_locks_are, 0, 20));
    hostile_end(&house);
}

#define ODD_THINGS 4

/* --- 4, 5, 7, 8: what is no lock ------------------------------------------------------------------------------------------- */

/* One of each, at the first names that are free; exits with 0 if it could make them all. */
static int make_odd_things(struct house *house, void *argument)
{
    char path[HOSTILE_PATH_BYTES], hidden[HOSTILE_PATH_BYTES], inner[HOSTILE_PATH_BYTES + 8];
    (void)argument;
    hostile_path(house, hidden, "shard-0/.full");
    snprintf(inner, sizeof inner, "%s/inner", hidden);
    if (mkdir(hidden, 0777) < 0 || mkdir(inner, 0700) < 0)
        return 1;
    for (uint32_t slot = 0, made = 0; made < ODD_THINGS; slot += 2) {
        hostile_lock_path(house, path, slot);
        int rc = made == 0   ? mkfifo(path, 0666)
                 : made == 1 ? mkdir(path, 0777)
                 : made == 2 ? rename(hidden, path)
                             : symlink("/proc/self/mem", path);
        if (rc < 0 && errno != EEXIST)
            return 2;
        made += rc == 0;
    }
    return 0;
}

Test(names, row_04_fifos_directories_links_and_devices_are_no_locks)
{
    struct house house;
    char path[HOSTILE_PATH_BYTES];
    hostile_start(&house);
    struct hostile_guest bob = hostile_guest(&house, BOB);
    cr_assert_eq(house_reap(house_process_as(MALLORY, MALLORY, make_odd_things, &house, NULL), 30), 0);
    for (uint32_t slot = 8; slot < 12; slot++) { /* a device, which only root can make; some slot is free */
        hostile_lock_path(&house, path, slot);
        if (mknod(path, S_IFCHR | 0666, 0x0105) == 0)
            break;
    }
    cr_assert(hostile_wait(junk(&house) >= ODD_THINGS + 1));
    cr_assert(hostile_wait(house_files(&house, ".lock") == 1), "there is Bob's lock and no other");
    hostile_served(&bob, 100);
    hostile_leave(&bob);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house); /* Mallory's full directory is hers: SERVER could move it aside, not remove it */
}

Test(names, row_05_a_hard_link_to_a_victims_file_is_no_lock)
{
    struct house house;
    struct planted planted;
    char path[HOSTILE_PATH_BYTES];
    struct stat st;
    hostile_start(&house);
    snprintf(planted.canary, sizeof planted.canary, "%s/canary", house.root);
    write_canary(&planted);
    hostile_lock_path(&house, path, 3);
    cr_assert_eq(link(planted.canary, path), 0); /* as anybody could with fs.protected_hardlinks = 0 */
    cr_assert(hostile_wait(access(path, F_OK) < 0));
    cr_assert(canary_sings(&planted));
    cr_assert_eq(chown(planted.canary, ALICE, ALICE), 0); /* and of another victim's */
    cr_assert_eq(link(planted.canary, path), 0);
    cr_assert(hostile_wait(access(path, F_OK) < 0));
    cr_assert(stat(planted.canary, &st) == 0 && st.st_uid == ALICE && st.st_nlink == 1 && st.st_size == 6);
    cr_assert_eq(house_stats(&house).total.connections_total, 0);
    unlink(planted.canary);
    hostile_visit(&house, BOB);
    hostile_end(&house);
}

Test(names, row_05_a_link_to_somebodys_lock_does_not_end_his_conn)
{
    struct house house;
    char path[HOSTILE_PATH_BYTES], other[HOSTILE_PATH_BYTES], rest[64];
    int linked = 0;
    hostile_init(&house);
    house.options.max_slots = 2;
    house_start(&house);
    struct hostile_guest bob = hostile_guest(&house, BOB);
    for (uint32_t slot = 0; slot < 2; slot++) {
        struct stat st;
        hostile_lock_path(&house, path, slot);
        snprintf(rest, sizeof rest, "shard-%u/.x%u", slot % house_shards(), slot);
        hostile_path(&house, other, rest);
        if (stat(path, &st) < 0 || st.st_uid != BOB)
            continue;
        cr_assert_eq(link(path, other), 0);            /* as anybody could with fs.protected_hardlinks = 0 */
        cr_assert_geq(close(open(path, O_WRONLY)), 0); /* which makes the server look */
        linked++;
    }
    cr_assert_eq(linked, 1);
    hostile_served(&bob, 500);
    hostile_leave(&bob);
    cr_assert(house_wait(&house, house_active_is, 0, 20));
    hostile_end(&house);
}

static int make_wrong_names(struct house *house, void *argument)
{
    static const char *const names[] = {"slot_07.lock",  "slot_+7.lock",     "slot_4294967303.lock", "slot_-1.lock",
                                        "slot_.lock",    "slot_7.lock.lock", "slot_7.loc",           "slot_999999.lock",
                                        "slot_0x7.lock", "slot_ 7.lock"};
    char path[HOSTILE_PATH_BYTES], rest[64];
    (void)argument;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(rest, sizeof rest, "shard-0/%s", names[i]);
        hostile_path(house, path, rest);
        int fd = bf_os_open(BF_OS_CWD, path, BF_OS_WRITE | BF_OS_CREATE_NEW, 0666);
        if (fd < 0 || bf_os_lock(fd) < 0)
            return 100;
    }
    pause(); /* with their locks held */
    return 0;
}

Test(names, row_07_only_the_canonical_name_is_a_slots)
{
    struct house house;
    hostile_start(&house);
    pid_t mallory = house_process_as(MALLORY, MALLORY, make_wrong_names, &house, NULL);
    cr_assert(hostile_wait(junk(&house) == 10));
    cr_assert_eq(house_files(&house, ".lock"), 0);
    cr_assert_eq(house_stats(&house).total.connections_total, 0);
    hostile_visit(&house, ALICE);
    hostile_kill(mallory);
    hostile_end(&house);
}

/* In a sticky directory that others may write to, the kernel refuses root's own open with O_CREAT. */
Test(names, row_08_a_server_of_root_opens_the_locks_of_others)
{
    static const char limit[] = "/proc/sys/fs/protected_regular";
    struct house house;
    char before[32], unused[32];
    if (geteuid() != 0)
        cr_skip_test("only root can be several users");
    hostile_set_limit(limit, "2", before);
    if (before[0] == '\0')
        cr_skip_test("%s may not be set", limit);
    house_init_of(&house, 0);
    house_start(&house);
    for (int i = 0; i < 10; i++)
        hostile_visit(&house, i % 2 == 0 ? ALICE : 0);
    cr_assert(house_wait(&house, house_locks_are, 0, 20));
    hostile_set_limit(limit, before, unused);
    hostile_end(&house);
}

/* --- 6, 9, 10: whose it is ---------------------------------------------------------------------------------------------- */

/* Attached; removes its own lock file, makes it again and locks that, and stays. */
static int make_two_owners(struct house *house, void *argument)
{
    char path[HOSTILE_PATH_BYTES];
    belfry_client *c;
    if (house_connect_rc(house, &c) < 0)
        return 1;
    uint32_t slot = belfry_client_slot(c);
    hostile_lock_path(house, path, slot);
    if (unlink(path) < 0)
        return 2;
    int fd = hostile_claim(house, slot, BELFRY_ABI_VERSION, (uint32_t)getpid());
    hostile_say(argument, fd >= 0 ? 1 : 2); /* or the server was quicker, and has the name itself */
    pause();
    return 0;
}

Test(names, row_06_a_lock_that_is_made_anew_is_not_the_same_lock)
{
    struct house house;
    hostile_init(&house);
    house.options.max_slots = 2;
    house.options.uid_slots_max = 2;
    house_start(&house);
    for (int i = 0; i < 10; i++) {
        struct hostile_word *word = hostile_word();
        pid_t mallory = house_process_as(MALLORY, MALLORY, make_two_owners, &house, word);
        hostile_hear(word);
        cr_assert(hostile_wait(house_stats(&house).total.ends[BELFRY_END_LOCK_GONE] == (uint64_t)i + 1));
        hostile_kill(mallory);
        cr_assert(house_wait(&house, house_active_is, 0, 20));
        cr_assert(
            hostile_wait(house_stats(&house).total.slots_warm == 2)); /* until then who has left counts as there */
    }
    hostile_visit(&house, ALICE);
    hostile_end(&house);
}

/* Makes a lock file that everybody may read, holds only a read lock on it, and stays. */
static int hold_a_read_lock(struct house *house, void *argument)
{
    char path[HOSTILE_PATH_BYTES];
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    int made = hostile_make_lock(house, 0);
    hostile_lock_path(house, path, 0);
    int fd = open(path, O_RDONLY);
    if (made < 0 || fchmod(made, 0644) < 0 || fd < 0 || fcntl(fd, F_OFD_SETLK, &lock) < 0)
        return 1;
    close(made);
    hostile_say(argument, 1);
    pause();
    return 0;
}

Test(names, row_09_a_read_lock_owns_nothing)
{
    struct house house;
    struct hostile_word *word = hostile_word();
    hostile_init(&house);
    house.options.claim_grace_ms = 50;
    house_start(&house);
    hostile_pause(&house); /* until the lock is there: a grace is short */
    pid_t mallory = house_process_as(MALLORY, MALLORY, hold_a_read_lock, &house, word);
    hostile_hear(word);
    kill(house.server, SIGCONT);
    cr_assert(hostile_wait(house_stats(&house).total.refusals[BELFRY_END_UNFINISHED] == 1));
    cr_assert(house_wait(&house, house_locks_are, 0, 20));
    cr_assert_eq(house_stats(&house).total.connections_total, 0);
    hostile_kill(mallory);
    hostile_visit(&house, ALICE);
    hostile_end(&house);
}

struct pretended {
    struct hostile_word *word;
    uint32_t pid;
};

static int pretend(struct house *house, void *argument)
{
    struct pretended *pretended = argument;
    int fd = hostile_claim(house, 0, BELFRY_ABI_VERSION, pretended->pid);
    hostile_say(pretended->word, fd >= 0 ? 1 : 2);
    pause();
    return 0;
}

static int sit(struct house *house, void *argument)
{
    (void)house, (void)argument;
    pause();
    return 0;
}

Test(names, row_10_nothing_is_decided_by_a_pid)
{
    struct house house;
    hostile_start(&house);
    struct pretended pretended = {.word = hostile_word()};
    pid_t other = house_process_as(ALICE, ALICE, sit, &house, NULL);
    pretended.pid = (uint32_t)other;
    pid_t mallory = house_process_as(MALLORY, MALLORY, pretend, &house, &pretended);
    cr_assert_eq(hostile_hear(pretended.word), 1);
    cr_assert(house_wait(&house, house_active_is, 1, 20));
    hostile_kill(other); /* whose pid it gave */
    hostile_visit(&house, BOB);
    cr_assert(house_wait(&house, house_active_is, 1, 20)); /* Bob has gone */
    cr_assert_eq(house_stats(&house).total.ends[BELFRY_END_DIED], 0, "the conn lives as long as its lock");
    hostile_kill(mallory);
    cr_assert(house_wait(&house, house_active_is, 0, 20));
    cr_assert_eq(house_stats(&house).total.ends[BELFRY_END_DIED], 1);
    hostile_end(&house);
}

/* --- 11 to 13: instances -------------------------------------------------------------------------------------------------- */

static int litter(struct house *house, void *argument)
{
    char path[HOSTILE_PATH_BYTES], rest[64];
    (void)argument;
    for (int i = 0; i < 300; i++) {
        snprintf(rest, sizeof rest, "shard-0/%s%d", i % 2 == 0 ? "." : "x", i);
        hostile_path(house, path, rest);
        close(open(path, O_CREAT | O_WRONLY, 0600));
    }
    return make_odd_things(house, NULL);
}

Test(names, row_11_what_a_killed_server_and_its_clients_left_is_swept)
{
    struct house house;
    char path[HOSTILE_PATH_BYTES];
    hostile_start(&house);
    cr_assert_eq(house_reap(house_process_as(MALLORY, MALLORY, litter, &house, NULL), 30), 0);
    hostile_visit(&house, ALICE);
    hostile_kill(house.server);
    house_start(&house);
    hostile_visit(&house, ALICE);
    snprintf(path, sizeof path, "%s/" SERVICE "/1/lobby", house.root);
    cr_assert(access(path, F_OK) < 0, "the dead instance is nobody's any more");
    snprintf(path, sizeof path, "%s/" SERVICE "/1/segments", house.root);
    cr_assert(access(path, F_OK) < 0);
    cr_assert_eq(house_files(&house, "x1"), 0);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

static struct hostile_word *said;

static void on_log(enum belfry_log_level level, const char *line, void *user)
{
    (void)user;
    if (level == BELFRY_LOG_ERROR && strstr(line, "somebody removed") != NULL)
        hostile_say(said, 1);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind, (void)where;
    return remove(path);
}

Test(names, row_12_a_directory_that_is_taken_away_is_cried_about)
{
    struct house house;
    char service[HOSTILE_PATH_BYTES];
    said = hostile_word();
    hostile_init(&house);
    house.options.on_log = on_log;
    house_start(&house);
    struct hostile_guest bob = hostile_guest(&house, BOB);
    snprintf(service, sizeof service, "%s/" SERVICE, house.root);
    hostile_leave(&bob);
    nftw(service, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    cr_assert_eq(hostile_hear(said), 1);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

/* A file system that is detached lives as long as it is used: nobody finds it, and those who have it are served on. */
Test(names, row_12_a_file_system_that_is_detached_serves_those_whom_it_has)
{
    struct house house;
    int gone = BELFRY_ENOSERVICE;
    hostile_init(&house);
    hostile_mount(&house, NULL);
    house_start(&house);
    struct hostile_guest bob = hostile_guest(&house, BOB);
    cr_assert_eq(umount2(house.root, MNT_DETACH), 0);
    hostile_served(&bob, 100);
    cr_assert_eq(house_reap(house_process_as(ALICE, ALICE, hostile_is_told, &house, &gone), 30), 0);
    hostile_leave(&bob);
    cr_assert_eq(house_stop(&house), 0);
    house_clear(&house);
}

Test(names, row_12_a_root_that_is_not_on_tmpfs_is_refused)
{
    struct house house;
    char root[128];
    hostile_init(&house);
    snprintf(root, sizeof root, "%s", house.root);
    snprintf(house.root, sizeof house.root, "/var/tmp/belfry-test-%d", getpid());
    if (mkdir(house.root, 0711) < 0 || chown(house.root, SERVER, SERVER) < 0)
        cr_skip_test("cannot write to /var/tmp");
    int rc = house_start_rc(&house);
    house_clear(&house);
    snprintf(house.root, sizeof house.root, "%s", root);
    house_clear(&house);
    cr_assert_eq(rc, BELFRY_EROOT);
}

Test(names, row_13_of_many_servers_that_start_at_once_one_serves)
{
    enum { ALL = 100 };
    static struct house houses[ALL];
    struct house first;
    pid_t starters[ALL];
    hostile_init(&first);
    first.options.shards = 1; /* a user may have 128 inotify instances */
    first.options.warm_pool = 2;
    first.options.max_slots = 16;
    for (int i = 0; i < ALL; i++) {
        houses[i] = first;
        starters[i] = house_process_as(SERVER, SERVER, hostile_serve, &houses[i], NULL);
    }
    int ended = 0;
    for (int64_t until = SECONDS(120); ended < ALL - 1 && belfry_now_ns() < until;
         nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL))
        for (int i = 0; i < ALL; i++) {
            int status;
            if (starters[i] > 0 && waitpid(starters[i], &status, WNOHANG) == starters[i]) {
                cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a server that was replaced ends well");
                starters[i] = 0;
                ended++;
            }
        }
    cr_assert_eq(ended, ALL - 1);
    hostile_visit(&first, ALICE);
    for (int i = 0; i < ALL; i++)
        if (starters[i] > 0) {
            kill(starters[i], SIGTERM);
            cr_assert_eq(house_reap(starters[i], 30), 0);
        }
    cr_assert_eq(house_files(&first, ""), 1, "nothing but the start lock is left");
    house_clear(&first);
}

/* SPDX-License-Identifier: MIT */
/* self.c: is a moment what moments.h says? Compiled as the library is for these tests. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "base/order.h"
#include "base/os.h"
#include "expect.h"
#include "moments.h"
#include "server_fixture.h"

struct shared {
    uint64_t word;
    uint8_t byte;
    uint8_t many[400];
};

static struct shared *shared; /* in a file */
static struct shared other;   /* of the process alone */

static void open_shared(void)
{
    char root[FIXTURE_PATH_BYTES];
    void *map;
    moments_open();
    fixture_root_make(root);
    int dir = bf_os_open_dir(BF_OS_CWD, root);
    int fd = bf_os_open(dir, "shared", BF_OS_READ_WRITE | BF_OS_CREATE_NEW, 0600);
    expect_rc(bf_os_size(fd, sizeof *shared), 0);
    expect_rc(bf_os_map(fd, sizeof *shared, true, NULL, &map), 0);
    shared = map;
    bf_os_close(fd);
    bf_os_close(dir);
    fixture_remove_tree(root);
}

/* Moments of `statement`. */
#define moments_of(statement)              \
    ({                                     \
        moments_arm(0);                    \
        __asm__ volatile("" ::: "memory"); \
        statement;                         \
        __asm__ volatile("" ::: "memory"); \
        moments_disarm();                  \
        moments->passed;                   \
    })

Test(moments, every_store_into_shared_memory_is_one)
{
    const struct shared source = {.word = 5};
    size_t bytes = sizeof source.many;
    open_shared();
    expect_eq(moments_of(shared->word = 1), 1);
    expect_eq(moments_of(shared->byte = 1), 1);
    expect_eq(moments_of((shared->word = 1, shared->byte = 2)), 2);
    expect_eq(moments_of(store_relaxed(&shared->word, 2)), 1);
    expect_eq(moments_of(store_release(&shared->byte, 2)), 1);
    expect_eq(moments_of(or_relaxed(&shared->word, 4)), 1);
    expect_eq(moments_of(memset(shared->many, 1, bytes)), 1);
    __asm__ volatile("" : "+r"(bytes)); /* a length that the compiler does not know */
    expect_eq(moments_of(memcpy(shared->many, source.many, bytes)), 2);
    expect(moments_of(*shared = source) >= 1);
    expect_eq(shared->word, 5);
}

Test(moments, a_store_that_nobody_else_sees_is_none)
{
    open_shared();
    expect_eq(moments_of(other.word = 1), 0);
    expect_eq(moments_of(store_release(&other.word, 2)), 0);
    expect_eq(moments_of(memset(&other, 0, sizeof other)), 0);
    uint64_t word = 0;
    expect_eq(moments_of(word = load_acquire(&shared->word)), 0);
    expect_eq(word, 0);
    expect_eq(moments_of(bf_os_unmap(shared, sizeof *shared)), 1);
}

Test(moments, every_system_call_is_one)
{
    open_shared();
    expect_eq(moments_of(bf_os_wake((uint32_t *)&shared->word)), 1);
    expect_eq(moments_of(bf_os_close(-1)), 0);
    expect_eq(moments_of(bf_os_unlink(BF_OS_CWD, "not-there")), 1);
    expect_eq(moments_of(bf_os_make_dir(BF_OS_CWD, "/proc/not-there", 0700)), 1);
}

static void store_three(void *context)
{
    moments_arm(*(uint64_t *)context);
    shared->word = 1;
    __asm__ volatile("" ::: "memory");
    shared->word = 2;
    __asm__ volatile("" ::: "memory");
    shared->word = 3;
}

Test(moments, who_is_to_die_at_one_has_done_what_comes_before_and_nothing_after)
{
    open_shared();
    for (uint64_t fatal = 1; fatal <= 4; fatal++) {
        shared->word = 0;
        int status = fixture_reap(fixture_child(store_three, &fatal));
        expect_eq(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, fatal <= 3);
        expect_eq(shared->word, fatal - 1);
        expect_eq(moments->died_ns != 0, fatal <= 3);
    }
    unsigned reached, killed;
    moments_places(&reached, &killed);
    expect_eq(reached, 3);
    expect_eq(killed, 3);
}

/* SPDX-License-Identifier: MIT */
/* hostile.c: see hostile.h. */
#include "hostile.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

void hostile_init(struct house *house)
{
    if (geteuid() != 0)
        cr_skip_test("only root can be several users");
    house_init_of(house, SERVER);
}

void hostile_start(struct house *house)
{
    hostile_init(house);
    house_start(house);
}

void hostile_end(struct house *house)
{
    cr_assert_eq(house_stats(house).total.rescued_wakes, 0);
    cr_assert_eq(house_stop(house), 0);
    cr_assert_eq(house_files(house, ""), 1, "nothing but the start lock is left");
    house_clear(house);
}

void hostile_kill(pid_t pid)
{
    kill(pid, SIGKILL);
    house_reap(pid, 30);
}

struct hostile_word *hostile_word(void)
{
    void *map = mmap(NULL, sizeof(struct hostile_word), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert(map != MAP_FAILED);
    return map;
}

void hostile_say(struct hostile_word *word, uint32_t value)
{
    __atomic_store_n(&word->value, value, __ATOMIC_RELEASE);
}

uint32_t hostile_hear(struct hostile_word *word)
{
    uint32_t value;
    for (int64_t deadline = SECONDS(30); (value = __atomic_load_n(&word->value, __ATOMIC_ACQUIRE)) == 0;) {
        cr_assert(belfry_now_ns() < deadline, "nothing was said within 30 s");
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return value;
}

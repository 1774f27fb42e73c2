/* SPDX-License-Identifier: MIT */
/* os.c: base/os.h as the simulated machine has it: what is neither about files (files.c) nor about words (futex.c). */
#include "base/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "names.h"
#include "sim.h"

#define UID 1000u
#define PROCESSORS 2
#define COARSE_NS 4000000ll

/* --- time, identity, limits: none of these waits for stores, as the real ones do not --- */

int64_t bf_os_now_ns(void)
{
    if (sim.running)
        sim.now_ns++; /* nobody reads the same time twice */
    return sim.now_ns;
}

int64_t bf_os_coarse_ns(void)
{
    return sim.now_ns / COARSE_NS * COARSE_NS;
}

uint32_t bf_os_uid(void)
{
    return UID;
}

uint32_t bf_os_gid(void)
{
    return UID;
}

uint32_t bf_os_pid(void)
{
    return sim_self()->speaks_as != 0 ? sim_self()->speaks_as : sim_self()->pid;
}

uint64_t bf_os_random(void)
{
    return sim_random();
}

int64_t bf_os_map_count_max(void)
{
    return 65530;
}

uint64_t bf_os_file_count_max(void)
{
    return SIM_DESCRIPTORS;
}

uint64_t bf_os_locked_bytes_max(void)
{
    return 8u << 20;
}

/* --- processors --- */

int bf_os_cpus(uint32_t *cpus, int max)
{
    for (int i = 0; i < PROCESSORS && i < max; i++)
        cpus[i] = (uint32_t)i;
    return PROCESSORS;
}

int bf_os_pin(uint32_t cpu)
{
    return cpu < PROCESSORS ? 0 : -EINVAL;
}

bool bf_os_spinning_is_free(void)
{
    return sim.machine.spins;
}

/* --- memory --- */

void *bf_os_map_memory(size_t bytes)
{
    uint8_t *block = sim_malloc(BF_OS_PAGE_BYTES + bytes);
    return block == NULL ? NULL : (uint8_t *)memset(block, 0, BF_OS_PAGE_BYTES + bytes) + BF_OS_PAGE_BYTES;
}

void bf_os_unmap_memory(void *at, size_t bytes)
{
    (void)bytes;
    sim_free((uint8_t *)at - BF_OS_PAGE_BYTES);
}

/* --- events: nobody polls here, so nobody asks for one --- */

int bf_os_event(void)
{
    return -EMFILE;
}

void bf_os_event_set(int fd)
{
    sim_fail("an event %d that nobody has made is set", fd);
}

void bf_os_event_clear(int fd)
{
    sim_fail("an event %d that nobody has made is cleared", fd);
}

/* --- signals: there are none but SIGKILL --- */

void bf_os_block_signals(void)
{
}

int bf_os_on_signal(int number, void (*handler)(int), void (**before)(int))
{
    (void)number, (void)handler;
    if (before != NULL)
        *before = SIG_DFL;
    return 0;
}

int bf_os_action(int number, const struct sigaction *action, struct sigaction *before)
{
    (void)number, (void)action;
    if (before != NULL)
        *before = (struct sigaction){.sa_handler = SIG_DFL};
    return 0;
}

void bf_os_mask_more(const sigset_t *set)
{
    (void)set;
}

void bf_os_unmask(int number)
{
    (void)number;
}

void bf_os_raise(int number)
{
    sim_fail("process %s has raised signal %d", sim_self()->name, number);
}

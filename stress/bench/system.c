/* SPDX-License-Identifier: MIT */
/* system.c: the table, and what all systems share. */
#include "system.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

extern const struct bench_system system_belfry, system_unix_epoll, system_unix_uring, system_pipe, system_node,
    system_zeromq, system_libqb, system_nng;

const struct bench_system *const bench_systems[] = {
    &system_belfry, &system_unix_epoll, &system_unix_uring, &system_pipe,
    &system_node,   &system_zeromq,     &system_libqb,      &system_nng,
};
const uint32_t bench_system_count = sizeof bench_systems / sizeof bench_systems[0];

const struct bench_system *bench_system_find(const char *name)
{
    for (uint32_t i = 0; i < bench_system_count; i++)
        if (strcmp(bench_systems[i]->name, name) == 0)
            return bench_systems[i];
    return NULL;
}

void bench_die(const char *format, ...)
{
    char sentence[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    fprintf(stderr, "belfry-bench: %s\n", sentence);
    exit(EXIT_FAILURE);
}

void service_is_ready(struct bench_service *s)
{
    atomic_store(&s->ready, 1);
}

void service_spoil(struct bench_service *s, void *reply, uint32_t bytes)
{
    if (atomic_load_explicit(&s->echoed, memory_order_relaxed) == s->spoil_at)
        ((unsigned char *)reply)[bytes / 2] ^= 1;
}

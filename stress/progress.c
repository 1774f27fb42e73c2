/* SPDX-License-Identifier: MIT */
/* progress.c: see progress.h. */
#include "progress.h"

#include <belfry/types.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define BAR_CHARS 30
#define DRAW_NS 100000000

static int64_t drawn_ns;
static bool shown;

void progress_draw(double done, const char *format, ...)
{
    if (!isatty(STDERR_FILENO) || belfry_now_ns() - drawn_ns < DRAW_NS)
        return;
    char bar[BAR_CHARS + 1], text[128];
    for (int i = 0; i < BAR_CHARS; i++)
        bar[i] = i < done * BAR_CHARS ? '#' : '.';
    bar[BAR_CHARS] = '\0';
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\r[%s] %s\033[K", bar, text);
    drawn_ns = belfry_now_ns();
    shown = true;
}

void progress_clear(void)
{
    if (shown)
        fputs("\r\033[K", stderr);
    shown = false;
}

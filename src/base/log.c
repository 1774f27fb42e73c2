/* SPDX-License-Identifier: MIT */
/* log.c: format once, hand over once; standard error gets errors and warnings only. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

void bf_log(const struct bf_log *log, enum belfry_log_level level, const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);

    if (log->callback != NULL)
        log->callback(level, line, log->user);
    else if (level <= BELFRY_LOG_WARNING)
        fprintf(stderr, "belfry: %s: %s\n", log->service, line);
}

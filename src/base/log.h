/* SPDX-License-Identifier: MIT */
/* log.h: one line for the operator, to the host's callback or to standard error. Any thread. */
#ifndef BF_BASE_LOG_H
#define BF_BASE_LOG_H

#include <belfry/server.h>

struct bf_log {
    void (*callback)(enum belfry_log_level level, const char *line, void *user);
    void *user;
    char service[64];
};

void bf_log(const struct bf_log *log, enum belfry_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

#endif

/* SPDX-License-Identifier: MIT */
/*
 * json.h: writes one JSON value, indented, straight to a file. belfry-stress and belfry-bench report through it.
 *
 * What is not known is null, never 0: a negative number stands for it where a key may lack its value. In an array the
 * key is NULL. Whether all of it was written is the file's to say: fflush() and ferror() at the end.
 */
#ifndef STRESS_JSON_H
#define STRESS_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Where we are: whether the next member needs a comma, and how far it is indented. Only `out` is the caller's to set. */
struct json {
    FILE *out;
    int depth;
    bool first;
};

/* '{' or '[', and later the bracket that belongs to it. */
void json_open(struct json *j, const char *key, char bracket);
void json_close(struct json *j, char bracket);

void json_count(struct json *j, const char *key, uint64_t value);
void json_maybe(struct json *j, const char *key, int64_t value); /* negative: null */
void json_number(struct json *j, const char *key, double value); /* likewise; read back, it is the same */
void json_bool(struct json *j, const char *key, bool value);
void json_string(struct json *j, const char *key, const char *text);

#endif

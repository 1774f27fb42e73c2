/* SPDX-License-Identifier: MIT */
/* json.c: see json.h. */
#include "json.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

static void json_key(struct json *j, const char *key)
{
    fprintf(j->out, "%s\n%*s", j->first ? "" : ",", 2 * j->depth, "");
    if (key)
        fprintf(j->out, "\"%s\": ", key);
    j->first = false;
}

void json_open(struct json *j, const char *key, char bracket)
{
    if (j->depth > 0)
        json_key(j, key);
    fputc(bracket, j->out);
    j->depth++;
    j->first = true;
}

void json_close(struct json *j, char bracket)
{
    j->depth--;
    fprintf(j->out, "\n%*s%c", 2 * j->depth, "", bracket);
    j->first = false;
}

void json_count(struct json *j, const char *key, uint64_t value)
{
    json_key(j, key);
    fprintf(j->out, "%" PRIu64, value);
}

void json_maybe(struct json *j, const char *key, int64_t value)
{
    json_key(j, key);
    if (value < 0)
        fputs("null", j->out);
    else
        fprintf(j->out, "%" PRId64, value);
}

void json_number(struct json *j, const char *key, double value)
{
    json_key(j, key);
    if (!isfinite(value) || value < 0) {
        fputs("null", j->out);
        return;
    }
    char text[32];
    for (int digits = DBL_DIG; digits <= DBL_DECIMAL_DIG; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    fputs(text, j->out);
}

void json_bool(struct json *j, const char *key, bool value)
{
    json_key(j, key);
    fputs(value ? "true" : "false", j->out);
}

void json_string(struct json *j, const char *key, const char *text)
{
    json_key(j, key);
    fputc('"', j->out);
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == '"' || *p == '\\')
            fprintf(j->out, "\\%c", *p);
        else if (*p < 0x20)
            fprintf(j->out, "\\u%04x", *p);
        else
            fputc(*p, j->out);
    }
    fputc('"', j->out);
}

/* SPDX-License-Identifier: MIT */
/* text.c: see text.h. */
#include "text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const char *text_grouped(char out[TEXT_CHARS], int64_t value)
{
    char digits[TEXT_CHARS];
    if (value < 0)
        return strcpy(out, "unknown");
    int length = snprintf(digits, sizeof digits, "%" PRId64, value), o = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0)
            out[o++] = ',';
        out[o++] = digits[i];
    }
    out[o] = '\0';
    return out;
}

const char *text_duration(char out[TEXT_CHARS], uint64_t ns)
{
    static const char *const unit[] = {"ns", "us", "ms", "s"};
    double value = (double)ns;
    int u = 0;
    for (; u < 3 && value >= 999.5; u++)
        value /= 1000;
    snprintf(out, TEXT_CHARS, "%.*f %s", u == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2, value, unit[u]);
    return out;
}

const char *text_mebibytes(char out[TEXT_CHARS], int64_t bytes)
{
    if (bytes < 0)
        return strcpy(out, "unknown");
    snprintf(out, TEXT_CHARS, "%.1f MiB", (double)bytes / (1 << 20));
    return out;
}

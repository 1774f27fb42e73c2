/* SPDX-License-Identifier: MIT */
/* text.h: figures as people read them. Each writes into `out` and returns it; what is negative is "unknown". */
#ifndef STRESS_TEXT_H
#define STRESS_TEXT_H

#include <stdint.h>

#define TEXT_CHARS 32

const char *text_grouped(char out[TEXT_CHARS], int64_t value);   /* 12345678 as 12,345,678 */
const char *text_duration(char out[TEXT_CHARS], uint64_t ns);    /* 1234 as 1.23 us */
const char *text_mebibytes(char out[TEXT_CHARS], int64_t bytes); /* 1.2 MiB */

#endif

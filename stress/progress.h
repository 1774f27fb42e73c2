/* SPDX-License-Identifier: MIT */
/* progress.h: a bar on standard error, and only when that is a terminal: a log file wants no bar. Main process. */
#ifndef STRESS_PROGRESS_H
#define STRESS_PROGRESS_H

/* `done` is from 0 to 1; `text` stands behind the bar. Draws at most ten times a second. */
void progress_draw(double done, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Wipe the bar away, so that what is printed next begins on a clean line. */
void progress_clear(void);

#endif

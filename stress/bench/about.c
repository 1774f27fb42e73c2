/* SPDX-License-Identifier: MIT */
/* about.c: see about.h. */
#include "about.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static void read_processor(char *out, size_t room)
{
    char line[512];
    FILE *f = fopen("/proc/cpuinfo", "re");
    snprintf(out, room, "unknown");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || colon == NULL)
            continue;
        snprintf(out, room, "%s", colon + 2);
        out[strcspn(out, "\n")] = '\0';
        break;
    }
    if (f != NULL)
        fclose(f);
}

struct about about_now(void)
{
    struct about a = {.cores = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN)};
    struct utsname name;
    time_t now = time(NULL);
    struct tm utc;
    read_processor(a.processor, sizeof a.processor);
    if (uname(&name) == 0)
        snprintf(a.kernel, sizeof a.kernel, "%s %s", name.sysname, name.release);
    strftime(a.date, sizeof a.date, "%Y-%m-%d %H:%M", gmtime_r(&now, &utc));
    return a;
}

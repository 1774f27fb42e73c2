/* SPDX-License-Identifier: MIT */
/* footprint.c: see footprint.h. */
#include "footprint.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/statvfs.h>

/* The counters of /proc/meminfo lie about up to a megabyte per core until these are folded in. Only root may. */
static void fold_counters(void)
{
    char line[256];
    FILE *f = fopen("/proc/sys/vm/stat_refresh", "re");
    if (f == NULL)
        return;
    while (fgets(line, sizeof line, f) != NULL)
        ;
    fclose(f);
}

static int64_t slab_bytes(void)
{
    char line[256];
    int64_t kib = PROC_UNKNOWN;
    fold_counters();
    FILE *f = fopen("/proc/meminfo", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (sscanf(line, "Slab: %" SCNd64, &kib) == 1)
            break;
    if (f != NULL)
        fclose(f);
    return kib < 0 ? PROC_UNKNOWN : kib * 1024;
}

struct footprint footprint_take(pid_t server, const char *folder)
{
    struct footprint now = {.server = proc_size(server),
                            .files_bytes = PROC_UNKNOWN,
                            .files = PROC_UNKNOWN,
                            .slab_bytes = slab_bytes()};
    struct statvfs files;
    if (statvfs(folder, &files) == 0) {
        now.files_bytes = (int64_t)((files.f_blocks - files.f_bfree) * files.f_frsize);
        now.files = (int64_t)(files.f_files - files.f_ffree);
    }
    return now;
}

static double each(int64_t before, int64_t after, uint32_t connections)
{
    if (before == PROC_UNKNOWN || after == PROC_UNKNOWN)
        return FIGURE_NONE;
    return after > before ? (double)(after - before) / connections : 0;
}

void footprint_per_connection(const struct footprint *before, const struct footprint *after, uint32_t connections,
                              double figure[FIGURES])
{
    const struct proc_size *a = &before->server, *b = &after->server;
    figure[FIGURE_OWN_BYTES] = each(a->rss_anon_bytes, b->rss_anon_bytes, connections);
    figure[FIGURE_RSS_BYTES] = each(a->rss_bytes, b->rss_bytes, connections);
    figure[FIGURE_PAGE_TABLE_BYTES] = each(a->page_table_bytes, b->page_table_bytes, connections);
    figure[FIGURE_MAPS] = each(a->maps, b->maps, connections);
    figure[FIGURE_DESCRIPTORS] = each(a->fds, b->fds, connections);
    figure[FIGURE_SHARED_BYTES] = each(before->files_bytes, after->files_bytes, connections);
    figure[FIGURE_INODES] = each(before->files, after->files, connections);
    figure[FIGURE_SLAB_BYTES] = each(before->slab_bytes, after->slab_bytes, connections);
}

/* SPDX-License-Identifier: MIT */
/* root.h: the directory that a target works in, from its first input to the end of the process. */
#ifndef BF_TESTS_ROOT_H
#define BF_TESTS_ROOT_H

#include "base/os.h"
#include "feed.h"
#include "fixture.h"

static char root[FIXTURE_PATH_BYTES];
static int dir = -1;

static void remove_root(void)
{
    bf_os_close(dir);
    fixture_remove_tree(root);
}

/* Gives whether it was the first time. */
static inline bool make_root(void)
{
    if (dir >= 0)
        return false;
    fixture_root_make(root);
    atexit(remove_root);
    dir = bf_os_open_dir(BF_OS_CWD, root);
    demand(dir >= 0);
    return true;
}

#endif

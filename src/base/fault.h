/* SPDX-License-Identifier: MIT */
/*
 * fault.h: a place in the chain of the process's handlers for SIGBUS.
 *
 * The kernel sends it to a thread that touches a page of a mapped file which is not there any more. Signals belong to the
 * whole process, and the program around us may have a handler of its own: it stood there before ours, and then ours calls it
 * for what is not ours; or it comes later, and calls ours as the one that it found.
 *
 * Ours is never taken out again. Somebody may have remembered it by then, and would call what is not there; and it passes on
 * all that it is not meant for.
 */
#ifndef BF_BASE_FAULT_H
#define BF_BASE_FAULT_H

#include <stdbool.h>

/* Who is the first to hear of a fault? */
enum bf_fault_front { BF_FAULT_OURS, BF_FAULT_ANOTHERS, BF_FAULT_NOBODYS };

/*
 * From now on `repair` is asked about each access to what is not there any more: true, it was ours and the access can be
 * tried again. It runs in the signal handler of the thread that made the access. Once per process: later calls change
 * nothing. Tells who stands in front now, or -errno. Any thread.
 */
int bf_fault_catch(bool (*repair)(void *address));

#endif

/* SPDX-License-Identifier: MIT
 *
 * Where calls that reach an arena stop by when something is to be done there that only some
 * programs ask for: a check of the heap (HEAPLEDGER_CHECK), a purge of what is free for long.
 */
#ifndef HEAPLEDGER_WATCH_H
#define HEAPLEDGER_WATCH_H

#include "arena.h"

/* arena_enter for a call of the program, and what others have left to do there. */
bool watch_enter(struct arena *arena);

/* Checks the heap if that is asked for: at malloc_trim and at the end of the process. No lock of
 * this thread's may be held. */
void watch_check(void);

#endif

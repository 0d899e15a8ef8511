/* SPDX-License-Identifier: MIT
 *
 * Which blocks only the calling thread hands out. Each arena has at most one home thread, the first
 * of those that use it. A block of the arena that another thread takes is marked until it is freed
 * (CHUNK_FOREIGN), so one without the mark was allocated by the home thread, or by an earlier one
 * that has ended. log.h tells what for. Called by preload.c and thread.c, no lock.
 *
 * log_hot.home is a part of that, for the hot path: a range of addresses with blocks of the arena
 * only. The exact question is asked when a block lies outside, and the range then moves there.
 */
#ifndef HEAPLEDGER_HOME_H
#define HEAPLEDGER_HOME_H

#include "chunk.h"

#include <stdbool.h>

struct arena;

/* The thread begins to use an arena; it ends, or is the one that is left after a fork. */
void home_enter(struct arena *arena);
void home_leave(struct arena *arena);

/* Whether a block that the caller owns is of its home arena; false for mapped blocks. */
bool home_has(const void *block);

/* A block that was just taken: marks it if it is not and has no mapping of its own; returns
 * home_has. */
bool home_take(void *block);

/* A block about to be given back: takes the mark off. home_give also moves the range. */
static inline void home_unmark(void *block)
{
	if (__builtin_expect(chunk_is_foreign(chunk_of(block)), 0))
		chunk_set_foreign(chunk_of(block), false);
}

void home_give(void *block);

#endif

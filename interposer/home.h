/* SPDX-License-Identifier: MIT
 *
 * Which blocks the calling thread has taken itself. Each arena has at most one home thread, the
 * first of those that use it. A block of the arena that another thread takes bears that thread's
 * number until it is freed (chunk_taker), so one without was taken by the home thread, or by an
 * earlier one that has ended. A number is another thread's once its thread has ended; HOME_ANYONE is
 * nobody's, for threads beyond those that there are numbers for. log.h tells what for. Called by
 * preload.c and thread.c, no lock.
 *
 * log_hot.home is a part of that, for the hot path: a range of addresses with blocks of the arena
 * only. The exact question is asked when a block lies outside, and the range then moves there.
 */
#ifndef HEAPLEDGER_HOME_H
#define HEAPLEDGER_HOME_H

#include "chunk.h"

#include <stdbool.h>

struct arena;

#define HOME_ANYONE UINT8_MAX

/* The thread's first call, and its end. */
void home_begin(void);
void home_end(void);

/* The thread begins to use an arena; it ends, or is the one that is left after a fork. */
void home_enter(struct arena *arena);
void home_leave(struct arena *arena);

/* A block that was just taken: marks it if it is not of the home arena and has no mapping of its
 * own. */
void home_take(void *block);

/* A block about to be given back, aligned as all are: whether the caller has taken it itself. That
 * is not known of one with a mapping of its own. */
bool home_has(const void *block);

/* ... and takes the mark off. */
static inline void home_unmark(void *block)
{
	if (__builtin_expect(chunk_taker(chunk_of(block)) != 0, 0))
		chunk_set_taker(chunk_of(block), 0);
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * The threads of one process, numbered from 1 in the order in which they first allocate, so that a
 * block can name its own in 16 bits. Used by ledger.c; names are given back for the outputs.
 */
#ifndef HEAPLEDGER_THREADS_H
#define HEAPLEDGER_THREADS_H

#include "id_map.h"

#include <stddef.h>

#define THREADS_RECENT 16

struct threads {
	struct id_map map;
	uint32_t *tids; /* by number - 1 */
	size_t capacity;
	uint32_t recent_tid[THREADS_RECENT]; /* who asked last, nearly always who asks next */
	uint32_t recent_number[THREADS_RECENT];
};

/* The number of a thread, a new one if it has none; 0 without memory. */
uint32_t threads_look_up(struct threads *threads, uint32_t tid);

static inline uint32_t threads_number(struct threads *threads, uint32_t tid)
{
	uint32_t at = tid % THREADS_RECENT, number = threads->recent_number[at];
	return number && threads->recent_tid[at] == tid ? number : threads_look_up(threads, tid);
}

/* 0 if there is no such number. */
static inline uint32_t threads_tid(const struct threads *threads, uint32_t number)
{
	return number && number <= threads->map.count ? threads->tids[number - 1] : 0;
}

int threads_copy(struct threads *to, const struct threads *from);
void threads_free(struct threads *threads);

#endif

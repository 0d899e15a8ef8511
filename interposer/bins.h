/* SPDX-License-Identifier: MIT
 *
 * The free lists of one arena. Called by carve.c with the arena's lock held; knows nothing of top,
 * of arenas or of the kernel.
 *
 * fast:     one list for each size up to tunables.fast_max; chunks stay marked in use
 * unsorted: what was freed or split lately, in order
 * small:    one list for each size below BINS_LARGE_BYTES, first in, first out
 * large:    16 size classes for each power of two, each sorted from large to small; the first of
 *           each size is in a ring
 */
#ifndef HEAPLEDGER_BINS_H
#define HEAPLEDGER_BINS_H

#include "heapledger/caches.h"

#include "chunk.h"

#define BINS_COUNT 240
#define BINS_WORDS 4
#define BINS_LARGE 64 /* the first list of large chunks */
#define BINS_UNSORTED 1
#define BINS_FAST HL_FAST_BINS
#define BINS_LARGE_BYTES ((size_t)1024)

struct bins {
	struct node list[BINS_COUNT]; /* [0] is unused */
	uint64_t map[BINS_WORDS];     /* a clear bit: that list is empty */
	struct chunk *fast[BINS_FAST];
	size_t fast_bytes;       /* in all fast bins */
	struct chunk *remainder; /* last one cut for a small request; only ever compared */
};

void bins_init(struct bins *bins);

static inline bool bins_is_small(size_t bytes)
{
	return bytes < BINS_LARGE_BYTES;
}

static inline unsigned bins_index(size_t bytes)
{
	unsigned power, index;

	if (bins_is_small(bytes))
		return (unsigned)(bytes >> 4);
	power = 63 - (unsigned)__builtin_clzll(bytes);
	index = BINS_LARGE + (power - 10) * 16 + ((unsigned)(bytes >> (power - 4)) & 15);
	return index < BINS_COUNT ? index : BINS_COUNT - 1;
}

/* To the front of the unsorted list; to the list of its size. Boundary tags must be right. */
void bins_put_unsorted(struct bins *bins, struct chunk *chunk);
void bins_put_sorted(struct bins *bins, struct chunk *chunk);

/* Takes a free chunk out of whichever list holds it, checking its links and tags. */
void bins_remove(struct bins *bins, struct chunk *chunk);

/* The chunk that fits best, still in its list; NULL if there is none. Not the unsorted list. */
struct chunk *bins_best_own(struct bins *bins, size_t bytes); /* in its own large list */
struct chunk *bins_best_above(struct bins *bins, unsigned index);

/* Fast bins. Push checks against the double free of the first entry. */
static inline unsigned bins_fast_index(size_t bytes)
{
	return (unsigned)(bytes >> 4) - 2;
}

static inline size_t bins_fast_bytes(unsigned index)
{
	return (size_t)(index + 2) << 4;
}

void bins_fast_push(struct bins *bins, struct chunk *chunk);
struct chunk *bins_fast_pop(struct bins *bins, unsigned index);

static inline struct chunk *bins_oldest(struct bins *bins, unsigned index)
{
	struct node *head = &bins->list[index];

	return head->prev != head ? chunk_of_node(head->prev) : NULL;
}

#endif

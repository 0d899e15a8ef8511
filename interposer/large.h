/* SPDX-License-Identifier: MIT
 *
 * Blocks with a mapping of their own. No lock anywhere: the counts are atomic and a mapping belongs
 * to whoever holds the block. Called by heap.c.
 */
#ifndef HEAPLEDGER_LARGE_H
#define HEAPLEDGER_LARGE_H

#include "heapledger/record.h"

#include "chunk.h"

struct large_counts {
	_Atomic size_t blocks, blocks_max;
	_Atomic size_t bytes, bytes_max;
};

extern struct large_counts large_counts;

/* A chunk of that size should be mapped once bins and top have failed. */
bool large_wanted(size_t bytes);

struct chunk *large_alloc(size_t bytes, enum hl_reason reason);

/* Unmaps; may raise the thresholds (the dynamic threshold). */
void large_free(struct chunk *chunk);

/* Resizes, possibly moving; NULL if the kernel refuses. */
struct chunk *large_resize(struct chunk *chunk, size_t bytes);

/* Moves the start of a mapped chunk up by `lead` bytes, for alignment. */
struct chunk *large_advance(struct chunk *chunk, size_t lead);

/* Bytes of the whole mapping. */
static inline size_t large_mapped_bytes(const struct chunk *chunk)
{
	return chunk->prev_bytes + chunk_bytes(chunk);
}

#endif

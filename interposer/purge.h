/* SPDX-License-Identifier: MIT
 *
 * Gives the whole pages inside free chunks back to the kernel, and remembers in the chunk that it
 * did (CHUNK_NOTED in chunk.h). Called by malloc_trim for all of an arena, by grow.c after a large
 * free and by watch.c for what has been free for long, as the tunable purge says. The arena's lock
 * is held.
 */
#ifndef HEAPLEDGER_PURGE_H
#define HEAPLEDGER_PURGE_H

#include "heapledger/record.h"

#include "arena.h"
#include "os.h"

/* The unsorted list, and all lists whose chunks may hold a whole page. */
static inline bool purge_is_list(unsigned index)
{
	return index == BINS_UNSORTED || index >= bins_index(OS_PAGE_BYTES);
}

/* Smaller ones have no room for a note either. */
static inline bool purge_may_hold_page(const struct chunk *chunk)
{
	return chunk_bytes(chunk) >= OS_PAGE_BYTES;
}

/* True if pages were given back. */
bool purge_chunk(struct arena *arena, struct chunk *chunk, enum hl_reason reason);

/* All free chunks that have not been purged since they are free, as far as the log has room. */
void purge_free(struct arena *arena);

/* Those that are free for tunables.purge milliseconds. First thing after the lock is taken: then
 * what is free has been so since the call before, if not longer. */
void purge_idle(struct arena *arena);

#endif

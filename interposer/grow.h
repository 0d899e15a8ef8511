/* SPDX-License-Identifier: MIT
 *
 * The edge of an arena: how its top grows from the kernel and shrinks back. The main arena grows by
 * the break, or with the policy mmap as others do: by segments, 64 MiB-aligned reservations that
 * are opened page by page. Called by carve.c with the arena's lock held, and by arena.c for a new
 * arena.
 */
#ifndef HEAPLEDGER_GROW_H
#define HEAPLEDGER_GROW_H

#include "heapledger/record.h"

#include "arena.h"

#include <stdbool.h>
#include <stddef.h>

#define GROW_SEGMENT_BYTES ((size_t)64 << 20)

/* At the start of each segment; the first is followed by its arena, if that is not the main one. */
struct segment {
	struct arena *arena;
	struct segment *below; /* the one the arena used before, NULL in the first */
	size_t bytes;          /* in use from the start */
	size_t open_bytes;     /* readable and writable from the start, >= bytes */
	size_t unused[2];      /* chunks behind it stay aligned */
};

static inline struct segment *grow_segment_of(const void *address)
{
	return (struct segment *)((uintptr_t)address & ~(GROW_SEGMENT_BYTES - 1));
}

/* Makes top large enough for a chunk of `need` bytes with CHUNK_MIN_BYTES left. May give the old
 * top back to carve.c (carve_give) when the new one lies elsewhere. False: no memory. */
bool grow_top(struct arena *arena, size_t need);

/* After a large free: returns the end of top, all but top_pad and a bit, if it reaches the trim
 * threshold, and interior pages if they are to be purged then. */
void grow_trim(struct arena *arena);

/* malloc_trim of the main arena: all but pad. True if something was returned. */
bool grow_trim_main(size_t pad);

/* Accessible memory of the arena around an address, which stays so while the lock is held. False:
 * it is none of the arena's, or not known to be. */
bool grow_find(const struct arena *arena, uintptr_t address, uintptr_t *from, uintptr_t *to);

struct arena *grow_new_arena(unsigned number, size_t need);
void grow_drop_arena(struct arena *arena); /* one that nobody has used yet */

#endif

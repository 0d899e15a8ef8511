/* SPDX-License-Identifier: MIT
 *
 * What the program has freed and the heap still keeps in use: the calling thread's cache, and the
 * fast lists of all arenas. Such a block holds its page, and all that is free below it at the break,
 * though no call of the program made it so. It is told at the end of the process, and where the
 * program says that a phase begins, one record a block.
 *
 * Other threads' caches are theirs alone and are not read; then the list says that it is not whole.
 * Nor is it while other threads live, which may change the fast lists.
 */
#include "heap.h"

#include "arena.h"
#include "cache.h"
#include "log.h"
#include "thread.h"

#include <sys/single_threaded.h>

#define KEPT_LIMIT 65536 /* 2 MiB of log */

struct kept {
	bool told; /* else counted only */
	size_t count;
};

static bool tell(struct kept *kept, struct chunk *chunk, enum hl_kept what)
{
	kept->count++;
	if (kept->count > KEPT_LIMIT)
		return false;
	return !kept->told || log_kept(chunk_block(chunk), chunk_bytes(chunk), what);
}

/* The newest entries, which go back first, are those beyond tcache_count. */
static size_t lent_entries(const struct cache *cache, size_t index)
{
	size_t surplus = cache_is_widened(cache, index) ? cache_surplus(index) : 0;

	return cache->room[index] < surplus ? surplus - cache->room[index] : 0;
}

static bool walk_cache(struct kept *kept, struct cache *cache)
{
	for (size_t i = 0; i < CACHE_BINS; i++) {
		struct cache_entry *entry = cache->first[i];
		size_t lent = lent_entries(cache, i);

		for (; entry != NULL; entry = chunk_mask(&entry->next, entry->next)) {
			if (!chunk_is_aligned(entry) ||
				!tell(kept, chunk_of(entry),
					lent > 0 ? HL_KEPT_LENT : HL_KEPT_CACHE))
				return false;
			lent -= lent > 0;
		}
	}
	return tell(kept, chunk_of(cache), HL_KEPT_TABLE);
}

static bool walk_fast(struct kept *kept, const struct arena *arena)
{
	if (arena_has_deferred(arena))
		return false;
	for (unsigned i = 0; i < BINS_FAST; i++) {
		struct chunk *chunk = arena->bins.fast[i];

		for (; chunk != NULL; chunk = chunk_mask(&chunk->link.next, chunk->link.next))
			if (!chunk_is_aligned(chunk) || !tell(kept, chunk, HL_KEPT_FAST))
				return false;
	}
	return true;
}

/* Whether that was all. */
static bool walk(struct kept *kept)
{
	struct cache *cache = thread_self.cache;
	const struct arena *arena = &arena_main;
	bool all = cache != NULL && walk_cache(kept, cache);

	if (!all || !__libc_single_threaded ||
		atomic_load_explicit(&caches.count, memory_order_relaxed) != 1)
		return false;
	do {
		all = walk_fast(kept, arena);
		arena = atomic_load_explicit(&arena->next, memory_order_acquire);
	} while (all && arena != &arena_main);
	return all;
}

void heap_log_kept(bool runs_on)
{
	struct kept counted = {0}, told = {.told = true};
	bool all;

	if (log_is_off())
		return;
	all = walk(&counted);
	if (counted.count > KEPT_LIMIT)
		counted.count = KEPT_LIMIT;
	if (log_kept(NULL, counted.count,
		    (all ? HL_KEPT_ALL : 0) | (runs_on ? HL_KEPT_MOMENT : 0)))
		walk(&told);
}

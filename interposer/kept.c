/* SPDX-License-Identifier: MIT
 *
 * What the program has freed and the heap still keeps in use: the caches of its threads, and the
 * fast lists of all arenas. Such a block holds its page, and all that is free below it at the break,
 * though no call of the program made it so. It is told at the end of the process, and where the
 * program says that a phase begins, one record a block.
 *
 * Where other threads are, or have been and left their caches (fork), others.c reads theirs, too. What
 * could not be read is counted, and the list says that it is not whole.
 */
#include "heap.h"

#include "arena.h"
#include "cache.h"
#include "log.h"
#include "others.h"
#include "thread.h"

#include <sys/single_threaded.h>

struct kept {
	uint64_t tick; /* 0: the blocks are only counted */
	uint32_t tid;
	size_t count;
};

static bool tell(struct kept *kept, struct chunk *chunk, enum hl_kept what)
{
	kept->count++;
	return kept->tick == 0 ||
	       log_kept(kept->tick, (uintptr_t)chunk_block(chunk), chunk_bytes(chunk),
		       hl_kept_pack(what, what != HL_KEPT_FAST ? kept->tid : 0));
}

static bool walk_cache(struct kept *kept, struct cache *cache)
{
	for (unsigned i = 0; i < CACHE_BINS; i++) {
		struct cache_entry *entry = cache->first[i];
		uint32_t left, lent;

		if (!hl_cache_count(&caches, i, cache_is_widened(cache, i), cache->room[i], &left,
			    &lent))
			return false;
		for (; entry != NULL; entry = chunk_mask(&entry->next, entry->next)) {
			if (left-- == 0 || !chunk_is_aligned(entry) ||
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
		size_t left = arena->system_bytes / CHUNK_MIN_BYTES;

		for (; chunk != NULL; chunk = chunk_mask(&chunk->link.next, chunk->link.next))
			if (left-- == 0 || !chunk_is_aligned(chunk) || !tell(kept, chunk, HL_KEPT_FAST))
				return false;
	}
	return true;
}

/* Of the only thread that there is. Returns whether that was all. */
static bool walk(struct kept *kept)
{
	struct cache *cache = thread_self.cache;
	const struct arena *arena = &arena_main;
	bool all = cache != NULL && walk_cache(kept, cache);

	while (all) {
		all = walk_fast(kept, arena);
		arena = atomic_load_explicit(&arena->next, memory_order_acquire);
		if (arena == &arena_main)
			break;
	}
	return all;
}

static bool is_alone(void)
{
	return __libc_single_threaded &&
	       atomic_load_explicit(&caches.count, memory_order_relaxed) == 1;
}

static void tell_own(unsigned flags)
{
	struct kept counted = {0}, told = {.tick = log_tick(), .tid = (uint32_t)log_thread()};
	bool all = walk(&counted);

	/* Of a list that is broken the rest is unknown. */
	if (log_kept(told.tick, 0, counted.count,
		    hl_kept_head(flags | (all ? HL_KEPT_ALL : 0), 1, all ? 0 : 1)))
		walk(&told);
}

/* They may run on, even if the process ends, and then what they held is not what they hold. */
static void tell_all(void)
{
	struct others others;

	others_read(&others);
	log_kept(others.tick, 0, others.blocks,
		hl_kept_head(HL_KEPT_MOMENT | (others.unread == 0 ? HL_KEPT_ALL : 0), others.caches,
			others.unread));
	others_tell(&others);
	others_drop(&others);
}

void heap_log_kept(bool runs_on)
{
	if (log_is_off())
		return;
	if (is_alone())
		tell_own(runs_on ? HL_KEPT_MOMENT : 0);
	else
		tell_all();
}

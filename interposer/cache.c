/* SPDX-License-Identifier: MIT
 *
 * The cold half of cache.h.
 */
#include "cache.h"

#include "fatal.h"

#include <string.h>
#include <sys/auxv.h>

uintptr_t cache_key;
_Atomic unsigned cache_count;

void cache_make_key(void)
{
	/* 16 random bytes from the kernel; libc's own guards use the others of them in turn. */
	const char *bytes = (const char *)getauxval(AT_RANDOM);

	if (bytes != NULL)
		memcpy(&cache_key, bytes + 4, sizeof(cache_key));
	cache_key = (cache_key ^ (uintptr_t)&cache_key) * UINT64_C(0x9e3779b97f4a7c15) | 1;
}

void cache_init(struct cache *cache)
{
	size_t bins = tunable(&tunables.cache_bins);

	atomic_fetch_add_explicit(&cache_count, 1, memory_order_relaxed);
	memset(cache, 0, sizeof(*cache));
	for (size_t i = 0; i < CACHE_BINS && i < bins; i++)
		cache->room[i] = (uint16_t)tunable(&tunables.cache_count);
}

bool cache_widen(struct cache *cache, size_t index)
{
	if (tunables.cache_fixed || !cache_serves((index + 2) << 4) ||
		cache_is_widened(cache, index))
		return false;
	cache->widened |= UINT64_C(1) << index;
	cache->room[index] += (uint16_t)cache_surplus(index);
	return true;
}

struct chunk *cache_get_surplus(struct cache *cache, size_t index)
{
	if (cache->room[index] >= cache_surplus(index))
		return NULL;
	return cache_get(cache, index);
}

void cache_narrow(struct cache *cache, size_t index)
{
	cache->widened &= ~(UINT64_C(1) << index);
	cache->room[index] -= (uint16_t)cache_surplus(index);
}

void cache_broken(const struct cache_entry *entry)
{
	fatal_block("corrupted thread cache: misaligned block", entry);
}

void cache_search(struct cache *cache, struct chunk *chunk, const char *fault)
{
	size_t index = cache_index(chunk_bytes(chunk));
	struct cache_entry *entry = cache->first[index];
	size_t left = tunable(&tunables.cache_count) - cache->room[index] +
		      (cache_is_widened(cache, index) ? cache_surplus(index) : 0);

	for (; left > 0 && entry != NULL; left--) {
		if (!chunk_is_aligned(entry))
			cache_broken(entry);
		if (entry == chunk_block(chunk))
			fatal_block(fault, entry);
		entry = chunk_mask(&entry->next, entry->next);
	}
}

/* SPDX-License-Identifier: MIT
 *
 * The cold half of cache.h.
 */
#include "cache.h"

#include "fatal.h"
#include "log.h"

#include <string.h>
#include <sys/auxv.h>

uintptr_t cache_key;
struct hl_caches caches;

void cache_make_key(void)
{
	/* 16 random bytes from the kernel; libc's own guards use the others of them in turn. */
	const char *bytes = (const char *)getauxval(AT_RANDOM);

	if (bytes != NULL)
		memcpy(&cache_key, bytes + 4, sizeof(cache_key));
	cache_key = (cache_key ^ (uintptr_t)&cache_key) * UINT64_C(0x9e3779b97f4a7c15) | 1;
}

/* Beyond the last place there are caches that are counted and not found. */
static void enlist(uint64_t cache)
{
	uint32_t highest = atomic_load_explicit(&caches.highest, memory_order_relaxed);

	for (uint32_t i = 0; i < HL_CACHES_MOST; i++) {
		struct hl_cache_place *place = &caches.place[i];
		uint64_t nobody = atomic_load_explicit(&place->cache, memory_order_relaxed);

		if (nobody != 0 || !atomic_compare_exchange_strong(&place->cache, &nobody, cache))
			continue;
		atomic_store(&place->thread, log_thread());
		while (highest <= i &&
			!atomic_compare_exchange_weak(&caches.highest, &highest, i + 1)) {
		}
		return;
	}
}

void cache_leave(struct cache *cache)
{
	uint32_t highest = atomic_load_explicit(&caches.highest, memory_order_relaxed);

	atomic_fetch_sub(&caches.count, 1);
	for (uint32_t i = 0; i < highest; i++) {
		struct hl_cache_place *place = &caches.place[i];

		if (atomic_load_explicit(&place->cache, memory_order_relaxed) != (uintptr_t)cache)
			continue;
		atomic_store(&place->thread, 0);
		atomic_store(&place->cache, 0);
		return;
	}
}

void cache_init(struct cache *cache)
{
	size_t bins = tunable(&tunables.cache_bins);

	memset(cache, 0, sizeof(*cache));
	for (size_t i = 0; i < CACHE_BINS && i < bins; i++)
		cache->room[i] = (uint16_t)tunable(&tunables.cache_count);
	atomic_fetch_add(&caches.count, 1);
	enlist((uintptr_t)cache);
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

__attribute__((noinline)) void cache_search(struct cache *cache, struct chunk *chunk, const char *fault)
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

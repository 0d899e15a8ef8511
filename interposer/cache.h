/* SPDX-License-Identifier: MIT
 *
 * The thread cache: for each small size a few freed chunks that only this thread touches. They stay
 * marked in use, so their arena never looks at them. The cache is itself a block of the heap, taken
 * at the thread's first call and given back at its end. Called by heap.c and carve.c, no lock.
 *
 * A bin holds tcache_count entries, as glibc's do. One that overflows is widened by a surplus,
 * which saves most ways to the arena, and is lent only: it goes back when the bin overflows again,
 * and all of it when the heap is about to join what is free, to trim or to grow. It goes newest
 * first, so that what stays is what glibc's cache has: the chunks that were freed first.
 */
#ifndef HEAPLEDGER_CACHE_H
#define HEAPLEDGER_CACHE_H

#include "heapledger/caches.h"

#include "chunk.h"
#include "tunables.h"

#define CACHE_BINS HL_CACHE_BINS
#define CACHE_SURPLUS_ENTRIES HL_CACHE_SURPLUS_ENTRIES

struct cache_entry {
	struct cache_entry *next; /* masked, chunk_mask */
	uintptr_t key;            /* cache_key while the block is in a cache */
};

struct cache {
	uint16_t room[CACHE_BINS]; /* entries that may still be put; 0 in bins that are not used */
	struct cache_entry *first[CACHE_BINS];
	uint64_t widened; /* a set bit: that bin has room for cache_surplus more */
};
static_assert(CACHE_BINS == 64, "one word has a bit for each bin");
static_assert(sizeof(struct cache) == sizeof(struct hl_cache) &&
		      offsetof(struct cache, first) == offsetof(struct hl_cache, first) &&
		      offsetof(struct cache, widened) == offsetof(struct hl_cache, widened),
	"the collector reads it");

/* A secret word of the process: a freed block that still shows it may have been freed twice. */
extern uintptr_t cache_key;

void cache_make_key(void);

/* Caches that are there, of all threads; in a forked child those of its parent's threads, too, for
 * what they hold stays where it is. Where they are, and the arenas' fast lists. */
extern struct hl_caches caches;

/* An empty cache, with the room that the tunables give. */
void cache_init(struct cache *cache);

/* It is empty, and is about to be given back. */
void cache_leave(struct cache *cache);

static inline size_t cache_index(size_t chunk_size)
{
	return (chunk_size >> 4) - 2;
}

static inline bool cache_serves(size_t chunk_size)
{
	return cache_index(chunk_size) < tunable(&tunables.cache_bins);
}

static inline bool cache_has_room(const struct cache *cache, size_t chunk_size)
{
	size_t index = cache_index(chunk_size);

	return cache != NULL && index < CACHE_BINS && cache->room[index] > 0;
}

/* Entries a bin gets when it is widened. */
static inline size_t cache_surplus(size_t index)
{
	return hl_cache_surplus((unsigned)index);
}

static inline bool cache_is_widened(const struct cache *cache, size_t index)
{
	return (cache->widened >> index & 1) != 0;
}

/* Whether a bin has less than its tcache_count entries. */
static inline bool cache_wants(const struct cache *cache, size_t chunk_size)
{
	size_t index = cache_index(chunk_size);

	return cache != NULL && index < CACHE_BINS &&
	       cache->room[index] > (cache_is_widened(cache, index) ? cache_surplus(index) : 0);
}

static inline bool cache_has_surplus(const struct cache *cache)
{
	return cache != NULL && cache->widened != 0;
}

/* Makes room in a full bin; false if that has been done before or may not be done. */
bool cache_widen(struct cache *cache, size_t index);

/* The newest entry above tcache_count, or NULL. */
struct chunk *cache_get_surplus(struct cache *cache, size_t index);

/* Takes the room back. The surplus must have been taken out. */
void cache_narrow(struct cache *cache, size_t index);

static inline void cache_put_at(struct cache *cache, struct cache_entry *entry, size_t index)
{
	entry->key = cache_key;
	entry->next = chunk_mask(&entry->next, cache->first[index]);
	cache->first[index] = entry;
	cache->room[index]--;
}

static inline void cache_put(struct cache *cache, struct chunk *chunk)
{
	cache_put_at(cache, chunk_block(chunk), cache_index(chunk_bytes(chunk)));
}

_Noreturn void cache_broken(const struct cache_entry *entry);

/* NULL if that bin is empty. */
static inline void *cache_get_block(struct cache *cache, size_t index)
{
	struct cache_entry *entry = cache->first[index];

	if (entry == NULL)
		return NULL;
	if (__builtin_expect(!chunk_is_aligned(entry), 0))
		cache_broken(entry);
	cache->first[index] = chunk_mask(&entry->next, entry->next);
	cache->room[index]++;
	entry->key = 0;
	return entry;
}

static inline struct chunk *cache_get(struct cache *cache, size_t index)
{
	void *block = cache_get_block(cache, index);

	return block != NULL ? chunk_of(block) : NULL;
}

/* cache_index(chunk_bytes_for(bytes)) */
static inline size_t cache_index_for(size_t bytes)
{
	return (bytes > 8 ? bytes - 9 : 0) >> 4;
}

static inline void *cache_alloc(struct cache *cache, size_t bytes)
{
	size_t index = cache_index_for(bytes);

	return __builtin_expect(index < CACHE_BINS, 1) ? cache_get_block(cache, index) : NULL;
}

/* The hot paths of malloc (a block or NULL) and free (whether cache_put_at may follow), about 20
 * instructions each. What looks wrong in any way is left to the slow paths, which say what and who
 * called. */
static inline void *cache_alloc_hot(struct cache *cache, size_t bytes)
{
	size_t index = cache_index_for(bytes);

	if (__builtin_expect(index >= CACHE_BINS || !chunk_is_aligned(cache->first[index]), 0))
		return NULL;
	return cache_get_block(cache, index);
}

static inline bool cache_takes_head(
	const struct cache *cache, const void *block, size_t head, size_t *bin)
{
	const struct cache_entry *entry = block;
	size_t index = cache_index(head & ~CHUNK_FLAGS);

	if (__builtin_expect(
		    (((uintptr_t)block & 15) | (head & (CHUNK_MMAPPED | CHUNK_NOTED))) != 0 ||
			    index >= CACHE_BINS,
		    0))
		return false;
	*bin = index;
	return __builtin_expect(cache->room[index] != 0 && entry->key != cache_key, 1);
}

static inline bool cache_takes_hot(const struct cache *cache, const void *block, size_t *bin)
{
	return cache_takes_head(cache, block, chunk_head(chunk_of(block)), bin);
}

/* Dies of `fault` if the block is in the cache: nearly always told by one look at the key. */
void cache_search(struct cache *cache, struct chunk *chunk, const char *fault);

static inline void cache_check_absent(struct cache *cache, struct chunk *chunk, const char *fault)
{
	struct cache_entry *entry = chunk_block(chunk);

	if (__builtin_expect(cache != NULL && entry->key == cache_key, 0) &&
		cache_serves(chunk_bytes(chunk)))
		cache_search(cache, chunk, fault);
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * carve.h. The order in which bins are searched decides where blocks lie and so when the heap
 * grows: it is that of glibc 2.36. Makes no system call itself; grow.c does.
 */
#include "carve.h"

#include "fatal.h"
#include "grow.h"
#include "log.h"

#include <stddef.h>
#include <string.h>

#define CARVE_SCAN_MAX 10000
#define CARVE_LARGE_FREE_BYTES ((size_t)65536)

static size_t owner_flag(const struct arena *arena)
{
	return arena->in_segments ? CHUNK_OTHER_ARENA : 0;
}

/* A free chunk as a whole becomes one in use. */
static void use_whole(struct arena *arena, struct chunk *chunk)
{
	chunk_set_head(chunk,
		(chunk_head(chunk) & ~(CHUNK_OTHER_ARENA | CHUNK_NOTED)) | owner_flag(arena));
	chunk_mark(chunk_next(chunk), CHUNK_BELOW_IN_USE);
}

static void set_free(struct chunk *chunk, size_t bytes)
{
	chunk_set_head(chunk, bytes | CHUNK_BELOW_IN_USE);
	chunk_at(chunk, bytes)->prev_bytes = bytes;
}

/* The front of a chunk that is in no list any more; the rest, if it can stand alone, is unsorted.
 */
static struct chunk *use_front(struct arena *arena, struct chunk *chunk, size_t bytes, bool small)
{
	size_t rest_bytes = chunk_bytes(chunk) - bytes;
	struct chunk *rest;

	if (rest_bytes < CHUNK_MIN_BYTES) {
		use_whole(arena, chunk);
		return chunk;
	}
	rest = chunk_at(chunk, bytes);
	chunk_set_head(chunk, bytes | CHUNK_BELOW_IN_USE | owner_flag(arena));
	set_free(rest, rest_bytes);
	bins_put_unsorted(&arena->bins, rest);
	if (small)
		arena->bins.remainder = rest;
	return chunk;
}

static struct chunk *take_fast(struct arena *arena, size_t bytes, struct cache *cache)
{
	unsigned index = bins_fast_index(bytes);
	struct chunk *chunk = bins_fast_pop(&arena->bins, index);

	while (chunk != NULL && arena->bins.fast[index] != NULL && cache_wants(cache, bytes))
		cache_put(cache, bins_fast_pop(&arena->bins, index));
	return chunk;
}

static struct chunk *pop_small(struct arena *arena, unsigned index)
{
	struct chunk *chunk = bins_oldest(&arena->bins, index);

	if (chunk == NULL)
		return NULL;
	bins_remove(&arena->bins, chunk);
	use_whole(arena, chunk);
	return chunk;
}

static struct chunk *take_small(struct arena *arena, size_t bytes, struct cache *cache)
{
	unsigned index = bins_index(bytes);
	struct chunk *chunk = pop_small(arena, index);

	while (chunk != NULL && bins_oldest(&arena->bins, index) != NULL &&
		cache_wants(cache, bytes))
		cache_put(cache, pop_small(arena, index));
	return chunk;
}

static void check_unsorted(const struct arena *arena, const struct chunk *chunk, size_t bytes)
{
	size_t next;

	if (bytes < CHUNK_MIN_BYTES || bytes > arena->system_bytes)
		fatal_block("corrupted size of an unsorted chunk", &chunk->link);
	next = chunk_head(chunk_at(chunk, bytes));
	if ((next & CHUNK_SIZE_MASK) < CHUNK_HEADER_BYTES ||
		(next & CHUNK_SIZE_MASK) > arena->system_bytes)
		fatal_block("corrupted size behind an unsorted chunk", &chunk->link);
	if ((next & CHUNK_BELOW_IN_USE) != 0)
		fatal_block("unsorted chunk is marked in use", &chunk->link);
}

/* Runs of small requests are served side by side from the last remainder, if it is all there is. */
static bool serves_run(struct arena *arena, struct chunk *chunk, size_t bytes)
{
	return bins_is_small(bytes) && chunk == arena->bins.remainder &&
	       arena->bins.list[BINS_UNSORTED].next == &chunk->link &&
	       chunk_bytes(chunk) > bytes + CHUNK_MIN_BYTES;
}

/* Sorts the unsorted list until one fits exactly. Exact fits fill the cache first: then *cached
 * says that one waits there. */
static struct chunk *take_unsorted(
	struct arena *arena, size_t bytes, struct cache *cache, bool *cached)
{
	size_t scan = tunable(&tunables.cache_scan);
	struct chunk *chunk;

	*cached = false;
	for (size_t i = 1; (chunk = bins_oldest(&arena->bins, BINS_UNSORTED)) != NULL; i++) {
		size_t have = chunk_bytes(chunk);

		check_unsorted(arena, chunk, have);
		if (serves_run(arena, chunk, bytes)) {
			bins_remove(&arena->bins, chunk);
			return use_front(arena, chunk, bytes, true);
		}
		bins_remove(&arena->bins, chunk);
		if (have != bytes) {
			bins_put_sorted(&arena->bins, chunk);
		} else {
			use_whole(arena, chunk);
			if (!cache_wants(cache, bytes))
				return chunk;
			cache_put(cache, chunk);
			*cached = true;
		}
		if ((*cached && scan > 0 && i > scan) || i >= CARVE_SCAN_MAX)
			break;
	}
	return *cached ? cache_get(cache, cache_index(bytes)) : NULL;
}

static struct chunk *take_best(struct arena *arena, size_t bytes)
{
	struct bins *bins = &arena->bins;
	struct chunk *chunk = bins_is_small(bytes) ? NULL : bins_best_own(bins, bytes);
	bool own = chunk != NULL;

	if (!own)
		chunk = bins_best_above(bins, bins_index(bytes));
	if (chunk == NULL)
		return NULL;
	bins_remove(bins, chunk);
	return use_front(arena, chunk, bytes, !own && bins_is_small(bytes));
}

static struct chunk *take_top(struct arena *arena, size_t bytes)
{
	struct chunk *chunk = arena->top;
	size_t have = chunk != NULL ? chunk_bytes(chunk) : 0;

	if (have > arena->system_bytes)
		fatal_block("corrupted size of top", chunk_block(chunk));
	if (have < bytes + CHUNK_MIN_BYTES)
		return NULL;
	arena->top = chunk_at(chunk, bytes);
	chunk_set_head(arena->top, (have - bytes) | CHUNK_BELOW_IN_USE);
	chunk_set_head(chunk, bytes | CHUNK_BELOW_IN_USE | owner_flag(arena));
	return chunk;
}

static struct chunk *take_sorted(struct arena *arena, size_t bytes, struct cache *cache)
{
	bool cached;
	struct chunk *chunk = take_unsorted(arena, bytes, cache, &cached);

	if (chunk == NULL)
		chunk = take_best(arena, bytes);
	return chunk != NULL ? chunk : take_top(arena, bytes);
}

/* Memory is about to be taken, which others may have given back: the record of it has to be later
 * than theirs (log.h). While nobody else comes, once is enough. */
static inline void claim(struct arena *arena)
{
	if (__builtin_expect(arena->taker == &thread_self, 1))
		return;
	arena->taker = &thread_self;
	log_restamp();
}

FLAT struct chunk *carve_take(struct arena *arena, size_t bytes, struct cache *cache)
{
	struct chunk *chunk = NULL;

	claim(arena);
	if (bytes <= tunable(&tunables.fast_max))
		chunk = take_fast(arena, bytes, cache);
	if (chunk != NULL)
		return chunk;
	if (bins_is_small(bytes))
		chunk = take_small(arena, bytes, cache);
	else if (arena->bins.fast_bytes != 0)
		carve_consolidate(arena, NULL);
	while (chunk == NULL) {
		chunk = take_sorted(arena, bytes, cache);
		if (chunk != NULL || (arena->bins.fast_bytes == 0 && !cache_has_surplus(cache)))
			break;
		carve_consolidate(arena, cache);
	}
	return chunk;
}

APART struct chunk *carve_take_grown(struct arena *arena, size_t bytes)
{
	if (!grow_top(arena, bytes))
		return NULL;
	log_restamp(); /* others may have had these addresses from the kernel */
	return take_top(arena, bytes);
}

static inline void check_block(
	const struct chunk *chunk, const char *bad_pointer, const char *bad_size)
{
	size_t bytes = chunk_bytes(chunk);

	if (!chunk_is_aligned(chunk) || (uintptr_t)chunk > -bytes)
		fatal_block(bad_pointer, &chunk->link);
	if (bytes < CHUNK_MIN_BYTES || (chunk_head(chunk) & CHUNK_NOTED) != 0)
		fatal_block(bad_size, &chunk->link);
}

void carve_check_free(const struct chunk *chunk)
{
	check_block(chunk, "free(): invalid pointer", "free(): invalid size");
}

void carve_check_realloc(const struct chunk *chunk)
{
	check_block(chunk, "realloc(): invalid pointer", "realloc(): invalid old size");
}

static void check_next(
	const struct arena *arena, const struct chunk *chunk, size_t bytes, const char *fault)
{
	size_t next = chunk_head(chunk_at(chunk, bytes));

	if (next <= CHUNK_HEADER_BYTES || (next & CHUNK_SIZE_MASK) >= arena->system_bytes)
		fatal_block(fault, &chunk->link);
}

static void check_merge(const struct arena *arena, const struct chunk *chunk, size_t bytes)
{
	const struct chunk *next = chunk_at(chunk, bytes);

	if (chunk == arena->top)
		fatal_block("double free or corruption (top)", &chunk->link);
	if (!arena->scattered && !arena->in_segments &&
		(const char *)next >= (const char *)arena->top + chunk_bytes(arena->top))
		fatal_block("double free or corruption (out)", &chunk->link);
	if (!chunk_below_in_use(next))
		fatal_block("double free or corruption (!prev)", &chunk->link);
	check_next(arena, chunk, bytes, "free(): invalid next size");
}

/* Joins a chunk with its free neighbours; returns how large it became, unsorted or top. */
static size_t merge(struct arena *arena, struct chunk *chunk, size_t bytes)
{
	struct chunk *next = chunk_at(chunk, bytes);

	if (!chunk_below_in_use(chunk)) {
		struct chunk *below = chunk_below(chunk);
		size_t below_bytes = chunk->prev_bytes;

		if (chunk_bytes(below) != below_bytes)
			fatal_block("corrupted size below a freed block", &chunk->link);
		bins_remove(&arena->bins, below);
		bytes += below_bytes;
		chunk = below;
	}
	if (next == arena->top) {
		bytes += chunk_bytes(next);
		chunk_set_head(chunk, bytes | CHUNK_BELOW_IN_USE);
		arena->top = chunk;
		return bytes;
	}
	if (!chunk_in_use(next)) {
		bins_remove(&arena->bins, next);
		bytes += chunk_bytes(next);
	} else {
		chunk_unmark(next, CHUNK_BELOW_IN_USE);
	}
	set_free(chunk, bytes);
	bins_put_unsorted(&arena->bins, chunk);
	return bytes;
}

FLAT void carve_give(struct arena *arena, struct chunk *chunk, struct cache *cache)
{
	size_t bytes = chunk_bytes(chunk);

	if (bytes <= tunable(&tunables.fast_max)) {
		check_next(arena, chunk, bytes, "free(): invalid next size (fast)");
		bins_fast_push(&arena->bins, chunk);
		return;
	}
	check_merge(arena, chunk, bytes);
	if (merge(arena, chunk, bytes) < CARVE_LARGE_FREE_BYTES)
		return;
	if (arena->bins.fast_bytes != 0 || cache_has_surplus(cache))
		carve_consolidate(arena, cache);
	grow_trim(arena);
}

void carve_give_quietly(struct arena *arena, struct chunk *chunk)
{
	merge(arena, chunk, chunk_bytes(chunk));
}

/* What belongs to other arenas waits for the next who enters them. */
static void give_surplus(struct arena *arena, struct cache *cache)
{
	struct chunk *chunk;

	while (cache->widened != 0) {
		size_t index = (size_t)__builtin_ctzll(cache->widened);

		while ((chunk = cache_get_surplus(cache, index)) != NULL) {
			carve_check_free(chunk);
			if (arena_of(chunk) != arena) {
				arena_defer(arena_of(chunk), chunk);
				continue;
			}
			check_merge(arena, chunk, chunk_bytes(chunk));
			merge(arena, chunk, chunk_bytes(chunk));
		}
		cache_narrow(cache, index);
	}
}

FLAT APART void carve_consolidate(struct arena *arena, struct cache *cache)
{
	struct chunk *chunk;

	for (unsigned i = 0; i < BINS_FAST && arena->bins.fast_bytes != 0; i++)
		while ((chunk = bins_fast_pop(&arena->bins, i)) != NULL) {
			/* They lie anywhere; the next one comes while this one is joined. */
			const struct chunk *ahead = arena->bins.fast[i];

			__builtin_prefetch(ahead, 1);
			__builtin_prefetch(chunk_at(ahead, bins_fast_bytes(i)), 1);
			merge(arena, chunk, bins_fast_bytes(i));
		}
	if (cache_has_surplus(cache))
		give_surplus(arena, cache);
}

APART void carve_drain_deferred(struct arena *arena)
{
	struct chunk *chunk = arena_take_deferred(arena);
	size_t largest = 0;

	arena->taker = NULL; /* others have given these back, or handlers of this thread */
	while (chunk != NULL) {
		struct chunk *next = (struct chunk *)chunk->link.next;
		size_t bytes;

		carve_check_free(chunk);
		check_merge(arena, chunk, chunk_bytes(chunk));
		bytes = merge(arena, chunk, chunk_bytes(chunk));
		largest = bytes > largest ? bytes : largest;
		chunk = next;
	}
	if (largest >= CARVE_LARGE_FREE_BYTES && log_has_room()) {
		carve_consolidate(arena, NULL);
		grow_trim(arena);
	}
}

void carve_cut(struct arena *arena, struct chunk *chunk, size_t bytes, struct cache *cache)
{
	size_t rest_bytes = chunk_bytes(chunk) - bytes;
	struct chunk *rest = chunk_at(chunk, bytes);

	if (rest_bytes < CHUNK_MIN_BYTES)
		return;
	chunk_set_head(chunk, bytes | (chunk_head(chunk) & CHUNK_FLAGS));
	chunk_set_head(rest, rest_bytes | CHUNK_BELOW_IN_USE | owner_flag(arena));
	chunk_mark(chunk_next(rest), CHUNK_BELOW_IN_USE);
	if (cache_has_room(cache, rest_bytes))
		cache_put(cache, rest);
	else
		carve_give(arena, rest, cache);
}

bool carve_resize(struct arena *arena, struct chunk *chunk, size_t bytes, struct cache *cache)
{
	size_t have = chunk_bytes(chunk);
	struct chunk *next = chunk_next(chunk);

	if (have >= bytes) {
		carve_cut(arena, chunk, bytes, cache);
		return true;
	}
	claim(arena);
	have += chunk_bytes(next);
	if (next == arena->top) {
		if (have < bytes + CHUNK_MIN_BYTES)
			return false;
		arena->top = chunk_at(chunk, bytes);
		chunk_set_head(arena->top, (have - bytes) | CHUNK_BELOW_IN_USE);
		chunk_set_head(chunk, bytes | (chunk_head(chunk) & CHUNK_FLAGS));
		return true;
	}
	if (have < bytes || chunk_in_use(next))
		return false;
	bins_remove(&arena->bins, next);
	chunk_set_head(chunk, have | (chunk_head(chunk) & CHUNK_FLAGS));
	chunk_mark(chunk_next(chunk), CHUNK_BELOW_IN_USE);
	carve_cut(arena, chunk, bytes, cache);
	return true;
}

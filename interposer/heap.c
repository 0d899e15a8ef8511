/* SPDX-License-Identifier: MIT
 *
 * heap.h: chooses cache, arena or mapping for each call. The hot path is heap_alloc and heap_free
 * as far as the thread's cache serves them: one bounds check, one list operation, no lock.
 *
 * Statically initialised; the dynamic linker calls in before any constructor has run, while there
 * is one thread. thread-local data is initial-exec, so that reaching it never allocates.
 */
#include "heap.h"

#include "arena.h"
#include "cache.h"
#include "carve.h"
#include "fatal.h"
#include "grow.h"
#include "home.h"
#include "large.h"
#include "log.h"
#include "os.h"
#include "thread.h"
#include "tunables.h"
#include "watch.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

static void *no_memory(void)
{
	errno = ENOMEM;
	return NULL;
}

static void *block_or_error(struct chunk *chunk)
{
	return chunk != NULL ? chunk_block(chunk) : no_memory();
}

static bool enter_arena(struct arena *arena)
{
	if (UNLIKELY(tunables.watched))
		return watch_enter(arena);
	if (!arena_enter(arena))
		return false;
	carve_drain(arena);
	return true;
}

static struct chunk *take_from(struct arena *arena, size_t bytes)
{
	struct chunk *chunk;

	if (!enter_arena(arena))
		return NULL;
	chunk = carve_take(arena, bytes, thread_self.cache);
	if (chunk == NULL)
		chunk = carve_take_grown(arena, bytes);
	arena_leave(arena);
	return chunk;
}

/* The thread's arena has no memory: another one may. The main arena cannot grow any more if the
 * break and mmap fail; then the thread moves. With one thread there is nowhere else to look, and
 * glibc does not make an arena for it either. */
static struct chunk *take_from_other(struct arena *arena, size_t bytes)
{
	struct arena *other = __libc_single_threaded ? NULL : arena_attach_other(arena, bytes);
	struct chunk *chunk;

	if (other == NULL)
		return NULL;
	chunk = take_from(other, bytes);
	if (chunk != NULL && arena == &arena_main && thread_self.arena == arena) {
		home_leave(arena);
		thread_self.arena = other;
		home_enter(other);
		other = arena;
	}
	arena_detach(other);
	return chunk;
}

/* Bins and top of the thread's arena have failed; top has not grown if a mapping is wanted. */
static APART struct chunk *take_elsewhere(
	struct arena *arena, size_t bytes, bool wanted)
{
	struct chunk *chunk = NULL;

	if (wanted || arena->in_segments)
		chunk = large_alloc(
			bytes, wanted ? HL_REASON_over_threshold : HL_REASON_arena_fallback);
	if (chunk == NULL && !log_has_room())
		log_make_room();
	if (chunk == NULL && wanted)
		chunk = take_from(arena, bytes);
	return chunk != NULL ? chunk : take_from_other(arena, bytes);
}

/* *dirty: how many bytes from the block's start may be other than zero. */
FLAT static APART struct chunk *take(size_t bytes, size_t *dirty)
{
	struct arena *arena = thread_arena(bytes);
	struct chunk *chunk, *top;
	size_t top_bytes;
	bool wanted;

	*dirty = SIZE_MAX;
	if (UNLIKELY(arena == NULL || !enter_arena(arena)))
		return large_alloc(bytes, HL_REASON_interrupted);
	top = arena->top;
	top_bytes = top != NULL ? chunk_bytes(top) : 0;
	chunk = carve_take(arena, bytes, thread_self.cache);
	wanted = chunk == NULL && large_wanted(bytes);
	if (chunk == NULL && !wanted)
		chunk = carve_take_grown(arena, bytes);
	arena_leave(arena);
	if (chunk == NULL)
		return take_elsewhere(arena, bytes, wanted);
	if (chunk == top && chunk_bytes(chunk) > top_bytes) /* the rest came from the kernel now */
		*dirty = top_bytes - CHUNK_HEADER_BYTES;
	return chunk;
}

static void perturb_alloc(void *block, size_t bytes)
{
	if (UNLIKELY(tunables.perturb != 0) && block != NULL)
		memset(block, tunables.perturb ^ 0xff, bytes);
}

static void *alloc_slow(size_t bytes)
{
	size_t dirty;
	void *block;

	if (bytes > PTRDIFF_MAX)
		return no_memory();
	thread_ready();
	block = block_or_error(take(chunk_bytes_for(bytes), &dirty));
	perturb_alloc(block, bytes);
	return block;
}

void *heap_alloc(size_t bytes)
{
	struct cache *cache = thread_self.cache;
	void *block = LIKELY(cache != NULL) ? cache_alloc(cache, bytes) : NULL;

	return LIKELY(block != NULL) ? block : alloc_slow(bytes);
}

static void give_back(struct chunk *chunk)
{
	struct arena *arena = arena_of(chunk);

	if (LIKELY(enter_arena(arena))) {
		carve_give(arena, chunk, thread_self.cache);
		arena_leave(arena);
	} else {
		arena_defer(arena, chunk);
	}
}

/* Those of the chunks that belong to the first one's arena, under one lock; the others move up.
 * Returns how many are left. */
static size_t give_some_back(struct chunk *chunks[], size_t count)
{
	struct arena *arena = arena_of(chunks[0]);
	bool entered = enter_arena(arena);
	size_t left = 0;

	for (size_t i = 0; i < count; i++) {
		if (arena_of(chunks[i]) != arena || (entered && !log_has_room()))
			chunks[left++] = chunks[i];
		else if (entered)
			carve_give(arena, chunks[i], NULL);
		else
			arena_defer(arena, chunks[i]);
	}
	if (entered)
		arena_leave(arena);
	return left;
}

/* The surplus of a bin that has overflowed, in the order in which it came, so that the arena's
 * lists have it as if it had not been held up. Turned round by 25 at a time, python3 with
 * PYTHONMALLOC=malloc took 2 % longer: what lies side by side is then used in jumps. */
static void give_surplus_back(struct cache *cache, size_t index)
{
	struct chunk *space[CACHE_SURPLUS_ENTRIES], **chunks = space + CACHE_SURPLUS_ENTRIES;
	struct chunk *chunk;
	size_t count = 0;

	while (count < CACHE_SURPLUS_ENTRIES && (chunk = cache_get_surplus(cache, index)) != NULL) {
		carve_check_free(chunk);
		*--chunks = chunk;
		count++;
	}
	while (count > 0) {
		if (!log_has_room())
			log_make_room();
		count = give_some_back(chunks, count);
	}
}

/* True if the bin has room now. */
static APART bool make_room(struct cache *cache, size_t index)
{
	if (cache_is_widened(cache, index))
		give_surplus_back(cache, index);
	else
		cache_widen(cache, index);
	return cache->room[index] > 0;
}

FLAT void heap_free(void *block)
{
	struct chunk *chunk = chunk_of(block);
	struct cache *cache = thread_self.cache;
	size_t index;

	if (UNLIKELY(block == NULL))
		return;
	if (UNLIKELY(chunk_is_mmapped(chunk))) {
		large_free(chunk);
		return;
	}
	carve_check_free(chunk);
	if (UNLIKELY(cache == NULL)) {
		thread_ready();
		cache = thread_self.cache;
	}
	cache_check_absent(cache, chunk, "double free (thread cache)");
	index = cache_index(chunk_bytes(chunk));
	if (LIKELY(cache != NULL) && index < CACHE_BINS &&
		(cache->room[index] > 0 || make_room(cache, index))) {
		cache_put_at(cache, block, index);
		return;
	}
	if (UNLIKELY(tunables.perturb != 0))
		memset(block, tunables.perturb, chunk_bytes(chunk) - 16);
	give_back(chunk);
}

static void clear(struct chunk *chunk, size_t dirty)
{
	size_t bytes = chunk_bytes(chunk) - 8;

	if (!chunk_is_mmapped(chunk))
		memset(chunk_block(chunk), 0, bytes < dirty ? bytes : dirty);
}

/* glibc 2.36 leaves the cache out here. Using it keeps no more blocks than it may hold anyway. */
void *heap_calloc(size_t bytes)
{
	struct cache *cache = thread_self.cache;
	struct chunk *chunk;
	size_t dirty;
	void *block;

	if (bytes > PTRDIFF_MAX)
		return no_memory();
	block = LIKELY(cache != NULL) ? cache_alloc(cache, bytes) : NULL;
	if (block != NULL)
		return memset(block, 0, heap_usable(block));
	thread_ready();
	chunk = take(chunk_bytes_for(bytes), &dirty);
	if (chunk == NULL)
		return no_memory();
	clear(chunk, dirty);
	return chunk_block(chunk);
}

static void copy_block(void *to, struct chunk *from, size_t bytes)
{
	size_t have = chunk_usable(from);

	memcpy(to, chunk_block(from), have < bytes ? have : bytes);
}

static void *move_block(struct chunk *chunk, size_t bytes)
{
	void *block = heap_alloc(bytes);

	if (block == NULL)
		return NULL;
	copy_block(block, chunk, bytes);
	heap_free(chunk_block(chunk));
	return block;
}

static void *realloc_mapped(struct chunk *chunk, size_t bytes)
{
	struct chunk *resized = large_resize(chunk, chunk_bytes_for(bytes));

	if (resized != NULL)
		return chunk_block(resized);
	if (chunk_bytes(chunk) - 8 >= chunk_bytes_for(bytes))
		return chunk_block(chunk);
	return move_block(chunk, bytes);
}

/* Takes another chunk from the same arena. If it happens to lie right behind the old one, as it
 * does when top has just grown, the two are joined and nothing is copied. */
static struct chunk *resize_by_move(struct arena *arena, struct chunk *chunk, size_t need)
{
	struct chunk *next = chunk_next(chunk);
	struct chunk *other = carve_take(arena, need, thread_self.cache);

	if (other == NULL && !large_wanted(need))
		other = carve_take_grown(arena, need);
	if (other == NULL)
		return NULL;
	if (other == next) {
		chunk_set_head(chunk, chunk_head(chunk) + chunk_bytes(other));
		carve_cut(arena, chunk, need, thread_self.cache);
		return chunk;
	}
	copy_block(chunk_block(other), chunk, SIZE_MAX);
	if (cache_has_room(thread_self.cache, chunk_bytes(chunk)))
		cache_put(thread_self.cache, chunk);
	else
		carve_give(arena, chunk, thread_self.cache);
	return other;
}

static void *realloc_in_arena(struct chunk *chunk, size_t bytes)
{
	struct arena *arena = arena_of(chunk);
	size_t need = chunk_bytes_for(bytes);
	struct chunk *result = NULL;

	carve_check_realloc(chunk);
	cache_check_absent(thread_self.cache, chunk, "realloc(): block is in the thread cache");
	if (!enter_arena(arena))
		return move_block(chunk, bytes);
	if (chunk_bytes(chunk) >= arena->system_bytes) /* before what lies behind it is read */
		fatal_block("realloc(): invalid old size", chunk_block(chunk));
	if (chunk == arena->top || !chunk_in_use(chunk))
		fatal_block("realloc(): block is not in use", chunk_block(chunk));
	if (chunk_bytes(chunk_next(chunk)) < CHUNK_HEADER_BYTES ||
		chunk_bytes(chunk_next(chunk)) >= arena->system_bytes)
		fatal_block("realloc(): invalid next size", chunk_block(chunk));
	if (carve_resize(arena, chunk, need, thread_self.cache))
		result = chunk;
	else
		result = resize_by_move(arena, chunk, need);
	arena_leave(arena);
	return result != NULL ? chunk_block(result) : move_block(chunk, bytes);
}

void *heap_realloc(void *block, size_t bytes)
{
	if (block == NULL)
		return heap_alloc(bytes);
	if (bytes == 0) {
		heap_free(block);
		return NULL;
	}
	if (bytes > PTRDIFF_MAX)
		return no_memory();
	thread_ready();
	if (chunk_is_mmapped(chunk_of(block)))
		return realloc_mapped(chunk_of(block), bytes);
	return realloc_in_arena(chunk_of(block), bytes);
}

/* The distance to the next aligned block that leaves room for a chunk before it. */
static size_t lead_bytes(struct chunk *chunk, size_t alignment)
{
	uintptr_t block = (uintptr_t)chunk_block(chunk);
	size_t lead = -block & (alignment - 1);

	return lead == 0 || lead >= CHUNK_MIN_BYTES ? lead : lead + alignment;
}

/* Cuts what lies before and behind the aligned block out of a chunk that is large enough. */
static struct chunk *align_chunk(struct chunk *chunk, size_t alignment, size_t need)
{
	size_t lead = lead_bytes(chunk, alignment);
	struct arena *arena = arena_of(chunk);
	struct chunk *first = chunk;

	if (chunk_is_mmapped(chunk))
		return lead != 0 ? large_advance(chunk, lead) : chunk;
	if (!enter_arena(arena)) { /* a fork: no cutting; the mapping is cut without a lock */
		give_back(chunk);
		chunk = large_alloc(need + alignment + CHUNK_MIN_BYTES, HL_REASON_interrupted);
		return chunk != NULL ? align_chunk(chunk, alignment, need) : NULL;
	}
	if (lead != 0) {
		chunk = chunk_at(first, lead);
		chunk_set_head(chunk, (chunk_bytes(first) - lead) | CHUNK_BELOW_IN_USE |
					      (chunk_head(first) & CHUNK_OTHER_ARENA));
		chunk_set_head(first, lead | (chunk_head(first) & CHUNK_FLAGS));
		if (cache_has_room(thread_self.cache, lead))
			cache_put(thread_self.cache, first);
		else
			carve_give(arena, first, thread_self.cache);
	}
	if (chunk_bytes(chunk) > need + CHUNK_MIN_BYTES)
		carve_cut(arena, chunk, need, thread_self.cache);
	arena_leave(arena);
	return chunk;
}

/* 0 = no power of two is that large. */
static size_t round_alignment(size_t alignment)
{
	size_t power = CHUNK_MIN_BYTES;

	while (power != 0 && power < alignment)
		power <<= 1;
	return power;
}

void *heap_aligned(size_t alignment, size_t bytes)
{
	size_t need, dirty;
	struct chunk *chunk;
	void *block;

	if (alignment <= CHUNK_ALIGN_BYTES)
		return heap_alloc(bytes);
	alignment = round_alignment(alignment);
	if (alignment == 0) {
		errno = EINVAL;
		return NULL;
	}
	if (bytes > PTRDIFF_MAX - alignment - 2 * CHUNK_MIN_BYTES)
		return no_memory();
	thread_ready();
	need = chunk_bytes_for(bytes);
	chunk = take(chunk_bytes_for(need + alignment + CHUNK_MIN_BYTES), &dirty);
	if (chunk != NULL)
		chunk = align_chunk(chunk, alignment, need);
	block = block_or_error(chunk);
	perturb_alloc(block, bytes);
	return block;
}

size_t heap_usable(const void *block)
{
	if (block == NULL)
		return 0;
	return chunk_usable(chunk_of(block));
}

size_t heap_taken(const void *block, bool *mapped)
{
	*mapped = block != NULL && chunk_is_mmapped(chunk_of(block));
	if (block == NULL)
		return 0;
	return *mapped ? large_mapped_bytes(chunk_of(block)) : chunk_bytes(chunk_of(block));
}

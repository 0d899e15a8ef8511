/* SPDX-License-Identifier: MIT
 *
 * check.h. The invariants, one function each:
 *   - from an arena's first chunk the boundary tags lead to top or a fence, without a gap;
 *   - no two free neighbours; a free chunk's size stands behind it too; it is in exactly one list;
 *   - each list holds only its sizes; large lists are sorted and their rings whole;
 *   - free bytes found by the walk = free bytes found in the lists.
 * Holds the arena's lock; makes no system call, allocates nothing.
 */
#include "check.h"

#include "arena.h"
#include "carve.h"
#include "fatal.h"
#include "grow.h"

struct sums {
	size_t bytes, chunks;
};

static void require(bool holds, const char *what, const void *where)
{
	if (!holds)
		fatal_block(what, where);
}

static struct sums check_list(struct bins *bins, unsigned index)
{
	struct node *head = &bins->list[index];
	struct sums sums = {0};
	size_t last = SIZE_MAX;

	for (struct node *node = head->next; node != head; node = node->next) {
		struct chunk *chunk = chunk_of_node(node);
		size_t bytes = chunk_bytes(chunk);

		require(node->next->prev == node, "check: broken list", node);
		require(!chunk_in_use(chunk), "check: listed chunk in use", node);
		require(chunk_below_in_use(chunk), "check: free neighbours", node);
		require(chunk_next(chunk)->prev_bytes == bytes, "check: size behind", node);
		if (index != BINS_UNSORTED) {
			require(bins_index(bytes) == index, "check: wrong list", node);
			require((bins->map[index / 64] >> index % 64 & 1) != 0, "check: map", node);
		}
		if (index != BINS_UNSORTED && !bins_is_small(bytes)) {
			require(bytes <= last, "check: unsorted large list", node);
			require((chunk->smaller != NULL) == (bytes != last), "check: ring", node);
			require(chunk->smaller == NULL || (chunk->smaller->larger == chunk &&
								  chunk->larger->smaller == chunk),
				"check: broken ring", node);
			last = bytes;
		}
		sums.bytes += bytes;
		sums.chunks++;
	}
	return sums;
}

static struct sums check_lists(struct bins *bins)
{
	struct sums all = {0};

	for (unsigned i = BINS_UNSORTED; i < BINS_COUNT; i++) {
		struct sums sums = check_list(bins, i);

		all.bytes += sums.bytes;
		all.chunks += sums.chunks;
	}
	return all;
}

static void check_fast(struct bins *bins)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < BINS_FAST; i++) {
		struct chunk *chunk = bins->fast[i];

		for (; chunk != NULL; chunk = chunk_mask(&chunk->link.next, chunk->link.next)) {
			require(chunk_is_aligned(chunk), "check: fast bin", chunk);
			require(bins_fast_index(chunk_bytes(chunk)) == i, "check: fast bin", chunk);
			require(chunk_in_use(chunk), "check: fast chunk not in use", chunk);
			bytes += chunk_bytes(chunk);
		}
	}
	require(bytes == bins->fast_bytes, "check: sum of fast bins", bins);
}

/* From one chunk to top or to the fence that ends the run (two chunks of only a header). */
static struct sums check_run(struct arena *arena, struct chunk *chunk)
{
	struct sums sums = {0};

	while (chunk != arena->top && chunk_bytes(chunk) != CHUNK_HEADER_BYTES) {
		struct chunk *next = chunk_next(chunk);

		require(chunk_bytes(chunk) >= CHUNK_MIN_BYTES, "check: size", &chunk->link);
		require(chunk_is_aligned(chunk), "check: alignment", &chunk->link);
		require(!chunk_is_mmapped(chunk), "check: mapped flag", &chunk->link);
		if (!chunk_below_in_use(next)) {
			require(next != arena->top, "check: free below top", &chunk->link);
			sums.bytes += chunk_bytes(chunk);
			sums.chunks++;
		} else {
			require(arena_of(chunk) == arena, "check: arena flag", &chunk->link);
		}
		chunk = next;
	}
	return sums;
}

/* All segments of a mapped arena. */
static struct sums check_segments(struct arena *arena)
{
	struct segment *segment = grow_segment_of(arena->top);
	struct sums all = {0};

	for (; segment != NULL; segment = segment->below) {
		uintptr_t first = (uintptr_t)(segment + 1);
		struct sums sums;

		require(segment->arena == arena, "check: segment's arena", segment);
		require(segment->bytes <= segment->open_bytes, "check: segment's size", segment);
		if (segment->below == NULL)
			first = ((uintptr_t)(arena + 1) + 15) & ~(uintptr_t)15;
		sums = check_run(arena, (struct chunk *)first);
		all.bytes += sums.bytes;
		all.chunks += sums.chunks;
	}
	require(all.bytes <= arena->system_bytes, "check: arena's size", arena);
	return all;
}

static void check_arena(struct arena *arena)
{
	struct sums listed, walked;

	require(arena_enter(arena), "check: cannot enter arena", arena);
	carve_drain(arena);
	check_fast(&arena->bins);
	listed = check_lists(&arena->bins);
	if (arena->top != NULL) {
		require(chunk_below_in_use(arena->top), "check: free below top", arena->top);
		require(chunk_bytes(arena->top) <= arena->system_bytes, "check: top", arena->top);
	}
	if (arena != &arena_main) {
		walked = check_segments(arena);
		require(walked.bytes == listed.bytes && walked.chunks == listed.chunks,
			"check: lists and walk disagree", arena);
	} else if (arena->base != NULL && arena->foreign_bytes == 0 && !arena->scattered) {
		uintptr_t first = ((uintptr_t)arena->base + 15) & ~(uintptr_t)15;

		walked = check_run(arena, (struct chunk *)first);
		require(walked.bytes == listed.bytes && walked.chunks == listed.chunks,
			"check: lists and walk disagree", arena);
	}
	arena_leave(arena);
}

void heap_check(void)
{
	struct arena *arena = &arena_main;

	do {
		if (arena->bins.list[BINS_UNSORTED].next != NULL)
			check_arena(arena);
		arena = arena->next;
	} while (arena != NULL && arena != &arena_main);
}

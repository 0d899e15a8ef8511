/* SPDX-License-Identifier: MIT
 *
 * check.h. First the chunks in the order of their addresses, then the lists, then both must agree.
 * Every address is looked at before it is followed, as far as it is known where the arena lies.
 * Holds the arena's lock; makes no system call, allocates nothing.
 */
#include "check.h"

#include "arena.h"
#include "carve.h"
#include "fatal.h"
#include "grow.h"
#include "purge.h"

/* Free chunks as the walk or the lists find them. */
struct sums {
	size_t bytes, chunks;
};

static void require(
	const struct arena *arena, bool holds, const char *invariant, const void *address)
{
	if (!holds)
		fatal_check(invariant, arena->number, address);
}

/* One piece of address space from its first chunk to its end: the break and what it is known to
 * hold, or a segment. */
struct run {
	uintptr_t start, end;
};

/* Foreign memory in the break, or mappings in its place: where chunks lie is not known. */
static bool is_known(const struct arena *arena)
{
	return arena->in_segments || (arena->foreign_bytes == 0 && !arena->scattered);
}

static uintptr_t align_up(uintptr_t address)
{
	return (address + CHUNK_ALIGN_BYTES - 1) & ~(CHUNK_ALIGN_BYTES - 1);
}

static struct run break_run(const struct arena *arena)
{
	return (struct run){
		align_up((uintptr_t)arena->base), (uintptr_t)arena->top + chunk_bytes(arena->top)};
}

/* The first segment begins with its arena, if that is not the main one. */
static struct run segment_run(const struct arena *arena, const struct segment *segment)
{
	uintptr_t start = (uintptr_t)(segment + 1);

	if (segment->below == NULL && arena != &arena_main)
		start = align_up((uintptr_t)(arena + 1));
	return (struct run){start, (uintptr_t)segment + segment->bytes};
}

static bool is_inside(struct run run, const void *address)
{
	return (uintptr_t)address >= run.start && (uintptr_t)address < run.end;
}

static bool is_in_arena(const struct arena *arena, const void *address)
{
	if (!is_known(arena) || arena->top == NULL)
		return address != NULL;
	if (!arena->in_segments)
		return is_inside(break_run(arena), address);
	for (struct segment *s = grow_segment_of(arena->top); s != NULL; s = s->below)
		if (is_inside(segment_run(arena, s), address))
			return true;
	return false;
}

/* A chunk that a list leads to, before its neighbour is looked at. */
static void check_reached(const struct arena *arena, const struct chunk *chunk)
{
	require(arena, chunk_is_aligned(chunk) && is_in_arena(arena, chunk), "list links", chunk);
	require(arena, is_in_arena(arena, chunk_next(chunk)), "list sizes", chunk);
}

static void check_chunk(const struct arena *arena, const struct chunk *chunk, struct run run)
{
	const struct chunk *next = chunk_next(chunk);

	require(arena, chunk_is_aligned(chunk) && chunk_bytes(chunk) >= CHUNK_MIN_BYTES,
		"chunk sizes", chunk);
	require(arena, next > chunk && is_inside(run, &next->head), "chunk sizes", chunk);
	require(arena, !chunk_is_mmapped(chunk), "chunk flags", chunk);
	if (chunk_in_use(chunk)) {
		require(arena, arena_of(chunk) == arena, "chunk flags", chunk);
		require(arena, (chunk_head(chunk) & CHUNK_NOTED) == 0, "chunk flags", chunk);
		return;
	}
	require(arena, next != arena->top && chunk_below_in_use(chunk), "free neighbours", chunk);
	require(arena, next->prev_bytes == chunk_bytes(chunk), "size behind", chunk);
}

/* To top, or to the fence that ends the run: two chunks of only a header. */
static struct sums check_run(const struct arena *arena, struct run run)
{
	struct chunk *chunk = (struct chunk *)run.start;
	struct sums sums = {0};

	while (chunk != arena->top && chunk_bytes(chunk) != CHUNK_HEADER_BYTES) {
		check_chunk(arena, chunk, run);
		if (!chunk_in_use(chunk)) {
			sums.bytes += chunk_bytes(chunk);
			sums.chunks++;
		}
		chunk = chunk_next(chunk);
	}
	require(arena, (uintptr_t)chunk_next(chunk) <= run.end, "chunk sizes", chunk);
	return sums;
}

static struct sums check_segments(const struct arena *arena)
{
	struct segment *segment = grow_segment_of(arena->top);
	struct sums all = {0};
	size_t bytes = 0;

	for (; segment != NULL; segment = segment->below) {
		struct sums sums;

		require(arena, segment->arena == arena, "arena size", segment);
		require(arena, segment->bytes <= segment->open_bytes, "arena size", segment);
		sums = check_run(arena, segment_run(arena, segment));
		all.bytes += sums.bytes;
		all.chunks += sums.chunks;
		bytes += segment->bytes;
	}
	require(arena, bytes == arena->system_bytes, "arena size", arena->top);
	return all;
}

/* Its two ends may have been aligned. */
static struct sums check_break(const struct arena *arena)
{
	struct run run = break_run(arena);
	size_t bytes = run.end - (uintptr_t)arena->base;

	require(arena, arena->system_bytes - bytes < CHUNK_ALIGN_BYTES, "arena size", arena->top);
	return check_run(arena, run);
}

static void check_fast(const struct arena *arena)
{
	const struct bins *bins = &arena->bins;
	size_t bytes = 0;

	for (unsigned i = 0; i < BINS_FAST; i++) {
		const struct chunk *chunk = bins->fast[i];

		while (chunk != NULL) {
			check_reached(arena, chunk);
			require(arena, bins_fast_index(chunk_bytes(chunk)) == i, "list sizes",
				chunk);
			require(arena, chunk_in_use(chunk), "fast bins", chunk);
			bytes += chunk_bytes(chunk);
			chunk = chunk_mask(&chunk->link.next, chunk->link.next);
		}
	}
	require(arena, bytes == bins->fast_bytes, "fast bins", bins);
}

/* `last`: bytes of the one before in the same large list. */
static void check_ring(const struct arena *arena, const struct chunk *chunk, size_t last)
{
	bool first = chunk_bytes(chunk) != last;

	require(arena, chunk_bytes(chunk) <= last, "large list order", chunk);
	require(arena, (chunk->smaller != NULL) == first, "ring of sizes", chunk);
	if (!first)
		return;
	require(arena, is_in_arena(arena, chunk->smaller) && is_in_arena(arena, chunk->larger),
		"ring of sizes", chunk);
	require(arena, chunk->smaller->larger == chunk && chunk->larger->smaller == chunk,
		"ring of sizes", chunk);
}

static void check_listed(const struct arena *arena, struct chunk *chunk, unsigned index)
{
	size_t bytes = chunk_bytes(chunk);

	require(arena, !chunk_in_use(chunk), "lists and chunks", chunk);
	require(arena, (chunk_head(chunk) & CHUNK_NOTED) == 0 || purge_may_hold_page(chunk),
		"chunk flags", chunk);
	if (index == BINS_UNSORTED)
		return;
	require(arena, bins_index(bytes) == index, "list sizes", chunk);
	require(arena, (arena->bins.map[index / 64] >> index % 64 & 1) != 0, "list sizes", chunk);
}

static struct sums check_list(const struct arena *arena, unsigned index)
{
	const struct node *head = &arena->bins.list[index], *before = head;
	struct sums sums = {0};
	size_t last = SIZE_MAX;

	for (struct node *node = head->next; node != head; node = node->next) {
		struct chunk *chunk = chunk_of_node(node);

		check_reached(arena, chunk);
		require(arena, node->prev == before, "list links", chunk);
		before = node;
		check_listed(arena, chunk, index);
		if (index != BINS_UNSORTED && !bins_is_small(chunk_bytes(chunk)))
			check_ring(arena, chunk, last);
		last = chunk_bytes(chunk);
		sums.bytes += last;
		sums.chunks++;
	}
	require(arena, head->prev == before, "list links", before);
	return sums;
}

static struct sums check_lists(const struct arena *arena)
{
	struct sums all = {0};

	for (unsigned i = BINS_UNSORTED; i < BINS_COUNT; i++) {
		struct sums sums = check_list(arena, i);

		all.bytes += sums.bytes;
		all.chunks += sums.chunks;
	}
	return all;
}

static void check_top(const struct arena *arena)
{
	require(arena, is_in_arena(arena, arena->top), "top", arena->top);
	require(arena, chunk_below_in_use(arena->top), "top", arena->top);
	require(arena, chunk_bytes(arena->top) <= arena->system_bytes, "top", arena->top);
}

static void check_arena(const struct arena *arena)
{
	struct sums listed, walked = {0};

	if (arena->top != NULL)
		check_top(arena);
	if (arena->top != NULL && is_known(arena))
		walked = arena->in_segments ? check_segments(arena) : check_break(arena);
	check_fast(arena);
	listed = check_lists(arena);
	if (is_known(arena))
		require(arena, walked.bytes == listed.bytes && walked.chunks == listed.chunks,
			"lists and chunks", arena->top);
}

void heap_check(void)
{
	struct arena *arena = &arena_main;

	if (atomic_load(&arena->next) == NULL)
		return; /* nobody has called yet */
	do {
		if (arena_enter(arena)) {
			carve_drain(arena);
			check_arena(arena);
			arena_leave(arena);
		}
		arena = arena->next;
	} while (arena != &arena_main);
}

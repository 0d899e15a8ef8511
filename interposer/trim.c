/* SPDX-License-Identifier: MIT
 *
 * malloc_trim and mallopt. Trimming walks every arena and gives the whole pages inside free chunks
 * back, not only the top; then the main arena's top. It works in batches: each system call is
 * logged, so when the log has no more room the lock is dropped and room made. Chunks that are still
 * to be looked at carry CHUNK_TO_TRIM, which goes when a chunk is taken, split or joined.
 */
#include "heap.h"

#include "arena.h"
#include "carve.h"
#include "grow.h"
#include "log.h"
#include "os.h"
#include "thread.h"
#include "tunables.h"

#include <malloc.h>

/* The unsorted list, and all lists whose chunks may hold a whole page. */
static bool is_trimmed_list(unsigned index)
{
	return index == BINS_UNSORTED || index >= bins_index(OS_PAGE_BYTES);
}

static void mark_list(struct node *head)
{
	for (struct node *node = head->next; node != head; node = node->next)
		chunk_of_node(node)->head |= CHUNK_TO_TRIM;
}

static void mark_arena(struct arena *arena)
{
	carve_consolidate(arena, thread_self.cache);
	for (unsigned i = BINS_UNSORTED; i < BINS_COUNT; i++)
		if (is_trimmed_list(i))
			mark_list(&arena->bins.list[i]);
}

/* The links at the chunk's start stay. True if pages were given back. */
static bool trim_chunk(struct arena *arena, struct chunk *chunk)
{
	uintptr_t start = os_page_up((uintptr_t)chunk + sizeof(struct chunk));
	uintptr_t end = os_page_down((uintptr_t)chunk_next(chunk));
	bool main_heap = arena == &arena_main;
	struct os_why why = {
		HL_REASON_trim_call, main_heap ? HL_REGION_break : HL_REGION_arena, arena->number};

	chunk->head &= ~CHUNK_TO_TRIM;
	return start < end && os_discard((void *)start, end - start, why);
}

/* False when the log is full and marked chunks may be left. */
static bool trim_list(struct arena *arena, struct node *head, bool *returned)
{
	for (struct node *node = head->next; node != head; node = node->next) {
		if ((chunk_of_node(node)->head & CHUNK_TO_TRIM) == 0)
			continue;
		if (!log_has_room())
			return false;
		*returned |= trim_chunk(arena, chunk_of_node(node));
	}
	return true;
}

/* From list *index on; false when the log is full. */
static bool trim_lists(struct arena *arena, unsigned *index, bool *returned)
{
	for (; *index < BINS_COUNT; (*index)++)
		if (is_trimmed_list(*index) &&
			!trim_list(arena, &arena->bins.list[*index], returned))
			return false;
	return true;
}

static bool trim_arena(struct arena *arena, size_t pad)
{
	unsigned index = BINS_UNSORTED;
	bool returned = false;
	bool done = false;

	for (bool first = true; !done; first = false) {
		if (!log_has_room())
			log_make_room();
		if (!arena_enter(arena))
			return returned;
		carve_drain(arena);
		if (first)
			mark_arena(arena);
		done = trim_lists(arena, &index, &returned);
		if (done && arena == &arena_main)
			returned |= grow_trim_main(pad, HL_REASON_trim_call);
		arena_leave(arena);
	}
	return returned;
}

int heap_trim(size_t pad)
{
	struct arena *arena = &arena_main;
	bool returned = false;

	thread_ready();
	do {
		returned |= trim_arena(arena, pad);
		arena = arena->next;
	} while (arena != &arena_main);
	return returned;
}

int heap_option(int parameter, int value)
{
	thread_ready();
	/* Fast bins must be empty while their limit changes; glibc does so at every mallopt. */
	if (arena_enter(&arena_main)) {
		carve_consolidate(&arena_main, thread_self.cache);
		arena_leave(&arena_main);
	}
	return tunables_set(parameter, value);
}

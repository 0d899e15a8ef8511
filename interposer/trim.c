/* SPDX-License-Identifier: MIT
 *
 * malloc_trim and mallopt. Trimming walks every arena and gives the whole pages inside free chunks
 * back, not only the top; then the main arena's top. It works in batches: each system call is
 * logged, so when the log has no more room the lock is dropped and room made. Chunks that are still
 * to be looked at are noted, and the note goes when a chunk is taken, split or joined.
 */
#include "heap.h"

#include "arena.h"
#include "carve.h"
#include "grow.h"
#include "log.h"
#include "purge.h"
#include "thread.h"
#include "tunables.h"
#include "watch.h"

#include <malloc.h>

static void mark_list(struct node *head)
{
	for (struct node *node = head->next; node != head; node = node->next) {
		struct chunk *chunk = chunk_of_node(node);

		if (!purge_may_hold_page(chunk))
			continue;
		chunk_mark(chunk, CHUNK_NOTED);
		chunk->note = CHUNK_NOTE_TO_TRIM;
	}
}

static void mark_arena(struct arena *arena)
{
	carve_consolidate(arena, thread_self.cache);
	for (unsigned i = BINS_UNSORTED; i < BINS_COUNT; i++)
		if (purge_is_list(i))
			mark_list(&arena->bins.list[i]);
}

static bool is_marked(const struct chunk *chunk)
{
	return (chunk_head(chunk) & CHUNK_NOTED) != 0 && chunk->note == CHUNK_NOTE_TO_TRIM;
}

/* False when the log is full and marked chunks may be left. */
static bool trim_list(struct arena *arena, struct node *head, bool *returned)
{
	for (struct node *node = head->next; node != head; node = node->next) {
		if (!is_marked(chunk_of_node(node)))
			continue;
		if (!log_has_room())
			return false;
		*returned |= purge_chunk(arena, chunk_of_node(node), HL_REASON_trim_call);
	}
	return true;
}

/* From list *index on; false when the log is full. */
static bool trim_lists(struct arena *arena, unsigned *index, bool *returned)
{
	for (; *index < BINS_COUNT; (*index)++)
		if (purge_is_list(*index) && !trim_list(arena, &arena->bins.list[*index], returned))
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
			returned |= grow_trim_main(pad);
		arena_leave(arena);
	}
	return returned;
}

int heap_trim(size_t pad)
{
	struct arena *arena = &arena_main;
	bool returned = false;

	thread_ready();
	watch_check();
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

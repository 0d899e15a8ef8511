/* SPDX-License-Identifier: MIT
 *
 * purge.h. A chunk that is taken, split or joined loses its note, so pages that nobody has touched
 * are never given back twice.
 */
#include "purge.h"

#include "log.h"
#include "tunables.h"

#include <stddef.h>
#include <x86intrin.h>

#define PURGE_LOOKS 4                         /* in the time after which chunks are purged */
#define PURGE_CLOCK_TICKS ((uint64_t)1 << 20) /* of the TSC: well below a millisecond */

static uint64_t note_of(const struct chunk *chunk)
{
	return (chunk->head & CHUNK_NOTED) != 0 ? chunk->note : CHUNK_NOTE_TO_TRIM;
}

static void set_note(struct chunk *chunk, uint64_t note)
{
	chunk->head |= CHUNK_NOTED;
	chunk->note = note;
}

/* Links and note at the chunk's start stay. What the kernel refuses, as of locked pages, it would
 * refuse again. */
bool purge_chunk(struct arena *arena, struct chunk *chunk, enum hl_reason reason)
{
	uintptr_t start = os_page_up((uintptr_t)chunk + sizeof(struct chunk));
	uintptr_t end = os_page_down((uintptr_t)chunk_next(chunk));
	enum hl_region region = arena->in_segments ? HL_REGION_arena : HL_REGION_break;

	set_note(chunk, CHUNK_NOTE_PURGED);
	return start < end && os_discard((void *)start, end - start,
				      (struct os_why){reason, region, arena->number});
}

/* False when the log is full. */
static bool free_chunk(struct arena *arena, struct chunk *chunk, uint64_t now)
{
	(void)now;
	if (note_of(chunk) == CHUNK_NOTE_PURGED)
		return true;
	if (!log_has_room())
		return false;
	purge_chunk(arena, chunk, HL_REASON_purge);
	return true;
}

static bool idle_chunk(struct arena *arena, struct chunk *chunk, uint64_t now)
{
	if (note_of(chunk) == CHUNK_NOTE_TO_TRIM)
		set_note(chunk, arena->entered_ms + 1);
	return note_of(chunk) == CHUNK_NOTE_PURGED || now < note_of(chunk) + tunables.purge ||
	       free_chunk(arena, chunk, now);
}

/* False when one of them did not come to an end. */
static bool each_chunk(struct arena *arena, uint64_t now,
	bool (*visit)(struct arena *arena, struct chunk *chunk, uint64_t now))
{
	for (unsigned i = BINS_UNSORTED; i < BINS_COUNT; i++) {
		struct node *head = &arena->bins.list[i];

		if (!purge_is_list(i))
			continue;
		for (struct node *node = head->next; node != head; node = node->next)
			if (purge_may_hold_page(chunk_of_node(node)) &&
				!visit(arena, chunk_of_node(node), now))
				return false;
	}
	return true;
}

void purge_free(struct arena *arena)
{
	each_chunk(arena, 0, free_chunk);
}

/* The clock is a system call, so the TSC rations it. */
void purge_idle(struct arena *arena)
{
	uint64_t tick = __rdtsc(), now;

	if (tick - arena->entered_tick < PURGE_CLOCK_TICKS)
		return;
	arena->entered_tick = tick;
	now = os_clock_ms();
	if (arena->entered_ms != 0 && now >= arena->sweep_ms && each_chunk(arena, now, idle_chunk))
		arena->sweep_ms = now + tunables.purge / PURGE_LOOKS + 1;
	arena->entered_ms = now;
}

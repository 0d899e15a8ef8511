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

static void set_note(struct chunk *chunk, uint64_t note)
{
	chunk_mark(chunk, CHUNK_NOTED);
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

/* Since when it is free, as far as is known, or CHUNK_NOTE_PURGED. */
static uint64_t free_since(const struct arena *arena, struct chunk *chunk)
{
	if ((chunk_head(chunk) & CHUNK_NOTED) == 0 || chunk->note == CHUNK_NOTE_TO_TRIM)
		set_note(chunk, arena->entered_ms + 1);
	return chunk->note;
}

/* What is free since `latest` or longer. False when the log is full. */
static bool purge_list(struct arena *arena, struct node *head, uint64_t latest)
{
	for (struct node *node = head->next; node != head; node = node->next) {
		struct chunk *chunk = chunk_of_node(node);

		if (!purge_may_hold_page(chunk) || free_since(arena, chunk) > latest)
			continue;
		if (!log_has_room())
			return false;
		purge_chunk(arena, chunk, HL_REASON_purge);
	}
	return true;
}

static bool purge_since(struct arena *arena, uint64_t latest)
{
	for (unsigned i = BINS_UNSORTED; i < BINS_COUNT; i++)
		if (purge_is_list(i) && !purge_list(arena, &arena->bins.list[i], latest))
			return false;
	return true;
}

void purge_free(struct arena *arena)
{
	purge_since(arena, CHUNK_NOTE_PURGED - 1);
}

/* The clock is a system call, so the TSC rations it. */
void purge_idle(struct arena *arena)
{
	uint64_t tick = __rdtsc(), now;

	if (tick - arena->entered_tick < PURGE_CLOCK_TICKS)
		return;
	arena->entered_tick = tick;
	now = os_clock_ms();
	if (arena->entered_ms != 0 && now >= arena->sweep_ms &&
		purge_since(arena, now > tunables.purge ? now - tunables.purge : 0))
		arena->sweep_ms = now + tunables.purge / PURGE_LOOKS + 1;
	arena->entered_ms = now;
}

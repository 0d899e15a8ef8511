/* SPDX-License-Identifier: MIT
 *
 * layout_walk.h. Each arena apart: how much of it is free, and which blocks keep its end where it
 * is. An arena ends in its newest segment, and goes on in the one before when that is gone.
 */
#include "layout_walk.h"
#include "room.h"

#include <errno.h>
#include <stdlib.h>

#define SEGMENT_BITS (HOLDS_SEGMENT_PAGES_BITS + PAGES_BITS)

/* The first entry that begins at an address or above. */
static size_t entry_from(const struct walk *walk, uint64_t address)
{
	size_t low = 0, high = walk->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (walk->entries[middle].start < address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* What is accessible of a segment: from its start on, as our allocator has it. */
static struct range open_part(const struct ledger *ledger, uint64_t key)
{
	uint64_t start = key << SEGMENT_BITS, end = (key + 1) << SEGMENT_BITS;
	const struct ranges *open = &ledger->arena_open;
	size_t at = ranges_find(open->list, open->count, start + 1);
	if (at == open->count || open->list[at].start > start)
		return (struct range){start, start};
	return (struct range){start, open->list[at].end < end ? open->list[at].end : end};
}

/* The pages from `from` on to where the blocks above lie, but those that went back already. */
static uint64_t to_return(const struct walk *walk, uint64_t from, uint64_t to)
{
	if (from >= to)
		return 0;
	struct pages_count count = pages_count(&walk->ledger->pages, from, to);
	return to - from - (count.returned << PAGES_BITS);
}

/* How far the arena's end has come down. */
struct fall {
	uint64_t returned;
	bool over; /* at a block that is no holder */
};

static void go_down(const struct walk *walk, struct layout_arena *arena, struct fall *fall,
	uint64_t below, uint64_t *to)
{
	uint64_t from = layout_align_up(below, PAGES_BITS);
	fall->returned += to_return(walk, from, *to);
	*to = from < *to ? from : *to;
	if (arena->holders)
		arena->holder[arena->holders - 1].returned = fall->returned;
}

/* The end comes down to each block, which is taken away, and at last to the segment's start. */
static void find_holders(
	const struct walk *walk, struct layout_arena *arena, struct range open, struct fall *fall)
{
	size_t first = entry_from(walk, open.start), i = entry_from(walk, open.end);
	uint64_t to = layout_align_down(open.end, PAGES_BITS);
	for (; !fall->over && i > first; i--) {
		go_down(walk, arena, fall, layout_end_of(&walk->entries[i - 1]), &to);
		fall->over = arena->holders == LAYOUT_ARENA_HOLDERS;
		if (!fall->over)
			arena->holder[arena->holders++] =
				(struct layout_holder){.block = *walk->entries[i - 1].block};
	}
	if (!fall->over)
		go_down(walk, arena, fall, open.start, &to);
}

static void add_segment(
	const struct walk *walk, struct layout_arena *arena, struct range open, struct fall *fall)
{
	uint64_t at = open.start, free_bytes = 0;
	for (size_t i = entry_from(walk, open.start);
		i < walk->count && walk->entries[i].start < open.end; i++) {
		uint64_t start = walk->entries[i].start, end = layout_end_of(&walk->entries[i]);
		free_bytes += start > at ? start - at : 0;
		at = end > at ? end : at;
		arena->blocks++;
	}
	uint64_t top = open.end > at ? open.end - at : 0;
	if (!arena->segments++)
		arena->top = top;
	arena->free_bytes += free_bytes + top;
	arena->mapped += open.end - open.start;
	find_holders(walk, arena, open, fall);
}

/* By area, the newest segment first. */
static int by_age(const void *left, const void *right)
{
	const struct holds_segment *a = left, *b = right;
	if (a->area != b->area)
		return a->area < b->area ? -1 : 1;
	return a->order > b->order ? -1 : a->order < b->order;
}

static int by_free(const void *left, const void *right)
{
	const struct layout_arena *a = left, *b = right;
	if (a->free_bytes != b->free_bytes)
		return a->free_bytes > b->free_bytes ? -1 : 1;
	return a->number < b->number ? -1 : a->number > b->number;
}

static int add_arena(struct layout *layout, uint64_t id, size_t *capacity)
{
	struct layout_arena *list =
		room_for_one(layout->arenas, layout->arena_count, capacity, sizeof(*list));
	if (!list)
		return -ENOMEM;
	layout->arenas = list;
	list[layout->arena_count++] = (struct layout_arena){.number = (uint32_t)(id - 1)};
	return 0;
}

static void keep_most(struct layout *layout)
{
	layout->all_arenas = layout->arena_count;
	if (!layout->arena_count)
		return;
	qsort(layout->arenas, layout->arena_count, sizeof(*layout->arenas), by_free);
	if (layout->arena_count > LAYOUT_ARENAS)
		layout->arena_count = LAYOUT_ARENAS;
	void *less = realloc(layout->arenas, layout->arena_count * sizeof(*layout->arenas));
	if (less)
		layout->arenas = less;
}

int layout_arenas(struct walk *walk)
{
	const struct holds *holds = &walk->ledger->pages.holds;
	struct layout *layout = walk->layout;
	struct holds_segment *segments = calloc(holds->segment_count + 1, sizeof(*segments));
	size_t capacity = 0;
	struct fall fall = {0};
	int rc = segments ? 0 : -ENOMEM;
	for (size_t i = 0; !rc && i < holds->segment_count; i++)
		segments[i] = holds->segments[i];
	if (!rc && holds->segment_count)
		qsort(segments, holds->segment_count, sizeof(*segments), by_age);
	for (size_t i = 0; !rc && i < holds->segment_count; i++) {
		if (!i || segments[i].area != segments[i - 1].area) {
			rc = add_arena(layout, holds->areas[segments[i].area].id, &capacity);
			fall = (struct fall){0};
		}
		if (!rc)
			add_segment(walk, &layout->arenas[layout->arena_count - 1],
				open_part(walk->ledger, segments[i].key), &fall);
	}
	free(segments);
	keep_most(layout);
	return rc;
}

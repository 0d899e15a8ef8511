/* SPDX-License-Identifier: MIT
 *
 * holds.h. A rise of the highest page takes steps away and a fall adds one, so both are O(1) over
 * time; the next lower page is found by a look at a byte for every 2 MiB.
 */
#include "holds.h"
#include "room.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORD_BITS 64
#define SLICE_WORDS (HOLDS_SLICE_PAGES / WORD_BITS)
#define PAGES_OF_SEGMENT (UINT64_C(1) << HOLDS_SEGMENT_PAGES_BITS)

/* ---- areas and segments ---------------------------------------------------------------------- */

static int area_of(struct holds *holds, uint64_t id, uint32_t *area)
{
	for (size_t i = 0; i < holds->count; i++) {
		if (holds->areas[i].id != id)
			continue;
		*area = (uint32_t)i;
		return 0;
	}
	struct holds_area *list =
		room_for_one(holds->areas, holds->count, &holds->capacity, sizeof(*list));
	if (!list)
		return -ENOMEM;
	holds->areas = list;
	list[holds->count] = (struct holds_area){.id = id};
	*area = (uint32_t)holds->count++;
	return 0;
}

/* Where a segment is, or would be. */
static size_t segment_place(const struct holds *holds, uint64_t key)
{
	size_t low = 0, high = holds->segment_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (holds->segments[middle].key < key)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct holds_segment *segment_of(const struct holds *holds, uint64_t key)
{
	size_t place = segment_place(holds, key);
	return place < holds->segment_count && holds->segments[place].key == key
		       ? &holds->segments[place]
		       : NULL;
}

int holds_segment_begins(struct holds *holds, uint64_t key, unsigned arena, bool *is_new)
{
	uint32_t area;
	*is_new = !segment_of(holds, key);
	if (!*is_new)
		return 0;
	/* The break is the first, whatever comes first. */
	if (area_of(holds, 0, &area) || area_of(holds, (uint64_t)arena + 1, &area))
		return -ENOMEM;
	struct holds_segment *list = room_for_one(
		holds->segments, holds->segment_count, &holds->segment_capacity, sizeof(*list));
	if (!list)
		return -ENOMEM;
	holds->segments = list;
	size_t place = segment_place(holds, key);
	memmove(&list[place + 1], &list[place], (holds->segment_count++ - place) * sizeof(*list));
	list[place] = (struct holds_segment){key, area, holds->areas[area].segments++};
	return 0;
}

void holds_segments_end(struct holds *holds, uint64_t first, uint64_t end)
{
	if (first >= end || !holds->segment_count)
		return;
	size_t from = segment_place(holds, first), to = segment_place(holds, end);
	memmove(&holds->segments[from], &holds->segments[to],
		(holds->segment_count - to) * sizeof(*holds->segments));
	holds->segment_count -= to - from;
}

/* ---- slices ---------------------------------------------------------------------------------- */

/* The first slice of an area that begins at a position or above. */
static size_t slice_place(const struct holds_area *area, uint64_t position)
{
	size_t low = 0, high = area->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (area->slices[middle]->first < position)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void leave(struct holds_area *area, const struct holds_slice *slice)
{
	size_t place = slice_place(area, slice->first);
	size_t after = --area->count - place;
	memmove(&area->slices[place], &area->slices[place + 1], after * sizeof(*area->slices));
	memmove(&area->used[place], &area->used[place + 1], after);
}

static int grow(struct holds_area *area)
{
	size_t capacity = area->capacity ? area->capacity * 2 : 16;
	struct holds_slice **slices =
		realloc(area->slices, capacity * sizeof(struct holds_slice *));
	if (!slices)
		return -ENOMEM;
	area->slices = slices;
	unsigned char *used = realloc(area->used, capacity);
	if (!used)
		return -ENOMEM;
	area->used = used;
	area->capacity = capacity;
	return 0;
}

int holds_place(struct holds *holds, struct holds_slice *slice, uint64_t page, bool placed)
{
	const struct holds_segment *segment = segment_of(holds, page >> HOLDS_SEGMENT_PAGES_BITS);
	uint32_t number = segment ? segment->area : 0;
	if (!segment && area_of(holds, 0, &number))
		return -ENOMEM;
	struct holds_area *area = &holds->areas[number];
	if (area->count == area->capacity && grow(area))
		return -ENOMEM;
	if (placed)
		leave(&holds->areas[slice->area], slice);
	slice->area = number;
	slice->first = segment ? segment->order << HOLDS_SEGMENT_PAGES_BITS |
					 (page & (PAGES_OF_SEGMENT - 1))
			       : page;
	size_t place = slice_place(area, slice->first), after = area->count++ - place;
	memmove(&area->slices[place + 1], &area->slices[place], after * sizeof(*area->slices));
	memmove(&area->used[place + 1], &area->used[place], after);
	area->slices[place] = slice;
	area->used[place] = slice->count > 0;
	return 0;
}

/* ---- the highest page ------------------------------------------------------------------------ */

static uint64_t position_of(const struct holds_slice *slice, unsigned nth)
{
	return slice->first + nth;
}

/* One beyond the highest page that holds a block, or 0. */
static unsigned highest(const struct holds_slice *slice)
{
	for (unsigned word = SLICE_WORDS; word--;)
		if (slice->live[word])
			return word * WORD_BITS + WORD_BITS -
			       (unsigned)__builtin_clzll(slice->live[word]);
	return 0;
}

static void rise(struct holds_area *area, uint64_t top)
{
	while (area->step_count) {
		struct holds_step *last = &area->steps[area->step_count - 1];
		if (area->step_count == 1 || last[-1].from > top) {
			last->from = top;
			break;
		}
		area->step_count--;
	}
	area->top = top;
}

static int fall(
	struct holds_area *area, const struct holds_slice *slice, uint64_t tick, uint32_t site)
{
	size_t place = slice_place(area, slice->first);
	if (!slice->count) {
		const unsigned char *lower = place ? memrchr(area->used, 1, place) : NULL;
		slice = lower ? area->slices[lower - area->used] : NULL;
	}
	area->top = slice ? slice->first + highest(slice) : 0;
	struct holds_step *list =
		room_for_one(area->steps, area->step_count, &area->step_capacity, sizeof(*list));
	if (!list)
		return -ENOMEM;
	area->steps = list;
	list[area->step_count++] = (struct holds_step){area->top, tick, site};
	return 0;
}

void holds_page(struct holds *holds, struct holds_slice *slice, unsigned nth)
{
	struct holds_area *area = &holds->areas[slice->area];
	uint64_t position = position_of(slice, nth);
	slice->live[nth / WORD_BITS] |= UINT64_C(1) << nth % WORD_BITS;
	if (!slice->count++)
		area->used[slice_place(area, slice->first)] = 1;
	if (position >= area->top)
		rise(area, position + 1);
}

int holds_page_gone(
	struct holds *holds, struct holds_slice *slice, unsigned nth, uint64_t tick, uint32_t site)
{
	struct holds_area *area = &holds->areas[slice->area];
	slice->live[nth / WORD_BITS] &= ~(UINT64_C(1) << nth % WORD_BITS);
	if (!--slice->count)
		area->used[slice_place(area, slice->first)] = 0;
	return position_of(slice, nth) + 1 == area->top ? fall(area, slice, tick, site) : 0;
}

const struct holds_step *holds_clear(
	const struct holds *holds, const struct holds_slice *slice, unsigned nth)
{
	const struct holds_area *area = &holds->areas[slice->area];
	uint64_t position = position_of(slice, nth);
	size_t low = 0, high = area->step_count;
	if (position < area->top || !area->step_count)
		return NULL;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (area->steps[middle].from <= position)
			high = middle;
		else
			low = middle + 1;
	}
	return &area->steps[low];
}

/* ---- life ------------------------------------------------------------------------------------ */

int holds_copy_areas(struct holds *to, const struct holds *from)
{
	*to = (struct holds){0};
	to->areas = calloc(from->count + 1, sizeof(*to->areas));
	to->segments = calloc(from->segment_count + 1, sizeof(*to->segments));
	if (!to->areas || !to->segments)
		return -ENOMEM;
	to->count = from->count;
	to->capacity = from->count + 1;
	for (size_t i = 0; i < from->count; i++) {
		to->areas[i].id = from->areas[i].id;
		to->areas[i].segments = from->areas[i].segments;
	}
	to->segment_count = from->segment_count;
	to->segment_capacity = from->segment_count + 1;
	if (from->segment_count)
		memcpy(to->segments, from->segments, from->segment_count * sizeof(*to->segments));
	return 0;
}

void holds_free(struct holds *holds)
{
	for (size_t i = 0; i < holds->count; i++) {
		free(holds->areas[i].slices);
		free(holds->areas[i].used);
		free(holds->areas[i].steps);
	}
	free(holds->areas);
	free(holds->segments);
	*holds = (struct holds){0};
}

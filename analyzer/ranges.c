/* SPDX-License-Identifier: MIT
 *
 * Sorted ranges in an array. Adding and removing are one operation: what overlaps is cut out, what
 * remains of it at both ends (and for adding, the union) is put back.
 */
#include "ranges.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

size_t ranges_find(const struct range *list, size_t count, uint64_t address)
{
	size_t low = 0, high = count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (list[middle].end < address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static size_t find(const struct ranges *ranges, uint64_t address)
{
	return ranges_find(ranges->list, ranges->count, address);
}

bool ranges_has(const struct ranges *ranges, uint64_t address)
{
	size_t at = find(ranges, address + 1);
	return at < ranges->count && ranges->list[at].start <= address;
}

/* Replaces list[from, to) by `count` ranges. */
static int splice(
	struct ranges *ranges, size_t from, size_t to, const struct range *with, size_t count)
{
	size_t after = ranges->count - (to - from) + count;
	if (after > ranges->capacity) {
		size_t capacity = after * 2 + 8;
		struct range *list = realloc(ranges->list, capacity * sizeof(*list));
		if (!list)
			return -ENOMEM;
		ranges->list = list;
		ranges->capacity = capacity;
	}
	if (!ranges->list)
		return 0;
	memmove(ranges->list + from + count, ranges->list + to,
		(ranges->count - to) * sizeof(*ranges->list));
	if (count)
		memcpy(ranges->list + from, with, count * sizeof(*with));
	ranges->count = after;
	return 0;
}

int ranges_add(struct ranges *ranges, uint64_t start, uint64_t end, uint64_t *changed)
{
	struct range all = {start, end};
	uint64_t covered = 0;
	*changed = 0;
	if (start >= end)
		return 0;
	size_t from = find(ranges, start), to = from;
	for (; to < ranges->count && ranges->list[to].start <= end; to++) {
		const struct range *range = &ranges->list[to];
		covered += range->end - range->start;
		all.start = range->start < all.start ? range->start : all.start;
		all.end = range->end > all.end ? range->end : all.end;
	}
	int rc = splice(ranges, from, to, &all, 1);
	if (rc)
		return rc;
	*changed = all.end - all.start - covered;
	ranges->bytes += *changed;
	return 0;
}

int ranges_remove(struct ranges *ranges, uint64_t start, uint64_t end, uint64_t *changed)
{
	struct range rest[2];
	size_t count = 0;
	uint64_t covered = 0, kept = 0;
	*changed = 0;
	if (start >= end)
		return 0;
	size_t from = find(ranges, start), to = from;
	for (; to < ranges->count && ranges->list[to].start < end; to++) {
		const struct range *range = &ranges->list[to];
		covered += range->end - range->start;
		if (range->start < start)
			rest[count++] = (struct range){
				range->start, start < range->end ? start : range->end};
		if (range->end > end)
			rest[count++] = (struct range){end, range->end};
	}
	for (size_t i = 0; i < count; i++)
		kept += rest[i].end - rest[i].start;
	int rc = splice(ranges, from, to, rest, count);
	if (rc)
		return rc;
	*changed = covered - kept;
	ranges->bytes -= *changed;
	return 0;
}

int ranges_copy(struct ranges *to, const struct ranges *from)
{
	*to = (struct ranges){.bytes = from->bytes};
	return splice(to, 0, 0, from->list, from->count);
}

void ranges_free(struct ranges *ranges)
{
	free(ranges->list);
	*ranges = (struct ranges){0};
}

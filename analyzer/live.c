/* SPDX-License-Identifier: MIT
 *
 * The live table. Linear probing with deletion by shifting back, so it never fills with tombstones
 * and its size is that of the largest live set.
 */
#include "live.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BITS 8

static inline size_t place_of(const struct live *live, uint64_t addr)
{
	return (size_t)((addr >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> live->shift);
}

static inline size_t mask_of(const struct live *live)
{
	return ((size_t)1 << (64 - live->shift)) - 1;
}

void live_prefetch(const struct live *live, uint64_t addr)
{
	if (live->blocks)
		__builtin_prefetch(&live->blocks[place_of(live, addr)], 1);
}

static int live_grow(struct live *live)
{
	unsigned bits = live->blocks ? 64 - live->shift + 1 : FIRST_BITS;
	struct live_block *blocks = calloc((size_t)1 << bits, sizeof(*blocks));
	if (!blocks)
		return -ENOMEM;
	struct live grown = {
		.blocks = blocks,
		.count = live->count,
		.limit = ((size_t)1 << bits) / 3 * 2,
		.shift = 64 - bits,
	};
	size_t at = 0, mask = mask_of(&grown);
	for (const struct live_block *block; (block = live_next(live, &at));) {
		size_t place = place_of(&grown, block->addr);
		while (blocks[place].addr)
			place = (place + 1) & mask;
		blocks[place] = *block;
	}
	free(live->blocks);
	*live = grown;
	return 0;
}

int live_add(struct live *live, const struct live_block *block, struct live_block *old)
{
	if (live->count >= live->limit && live_grow(live))
		return -ENOMEM;
	size_t mask = mask_of(live), place = place_of(live, block->addr);
	while (live->blocks[place].addr && live->blocks[place].addr != block->addr)
		place = (place + 1) & mask;
	bool was_live = live->blocks[place].addr != 0;
	if (was_live)
		*old = live->blocks[place];
	else
		live->count++;
	live->blocks[place] = *block;
	return was_live;
}

static void empty(struct live *live, size_t place)
{
	size_t mask = mask_of(live);
	live->count--;
	/* Move back what would not be found across the hole. */
	for (size_t next = (place + 1) & mask; live->blocks[next].addr; next = (next + 1) & mask) {
		size_t home = place_of(live, live->blocks[next].addr);
		if (((next - home) & mask) < ((next - place) & mask))
			continue;
		live->blocks[place] = live->blocks[next];
		place = next;
	}
	live->blocks[place].addr = 0;
}

bool live_take(struct live *live, uint64_t addr, struct live_block *block)
{
	if (!live->count)
		return false;
	size_t mask = mask_of(live), place = place_of(live, addr);
	while (live->blocks[place].addr != addr) {
		if (!live->blocks[place].addr)
			return false;
		place = (place + 1) & mask;
	}
	*block = live->blocks[place];
	empty(live, place);
	return true;
}

void live_leave_before(struct live *live, uint64_t record)
{
	size_t size = live->blocks ? mask_of(live) + 1 : 0;
	/* What is moved into the place comes from behind it, and is looked at next. */
	for (size_t at = 0; at < size;) {
		if (live->blocks[at].addr && live->blocks[at].record >= record)
			empty(live, at);
		else
			at++;
	}
}

const struct live_block *live_find(const struct live *live, uint64_t addr)
{
	if (!live->count || !addr)
		return NULL;
	size_t mask = mask_of(live), place = place_of(live, addr);
	while (live->blocks[place].addr && live->blocks[place].addr != addr)
		place = (place + 1) & mask;
	return live->blocks[place].addr ? &live->blocks[place] : NULL;
}

int live_copy(struct live *to, const struct live *from)
{
	*to = *from;
	if (!from->blocks)
		return 0;
	size_t bytes = (mask_of(from) + 1) * sizeof(*from->blocks);
	to->blocks = malloc(bytes);
	if (!to->blocks) {
		*to = (struct live){0};
		return -ENOMEM;
	}
	memcpy(to->blocks, from->blocks, bytes);
	return 0;
}

void live_free(struct live *live)
{
	free(live->blocks);
	*live = (struct live){0};
}

static struct live_block *next(const struct live *live, size_t *at)
{
	size_t size = live->blocks ? mask_of(live) + 1 : 0;
	while (*at < size) {
		struct live_block *block = &live->blocks[(*at)++];
		if (block->addr)
			return block;
	}
	return NULL;
}

const struct live_block *live_next(const struct live *live, size_t *at)
{
	return next(live, at);
}

struct live_block *live_change(struct live *live, size_t *at)
{
	return next(live, at);
}

/* SPDX-License-Identifier: MIT
 *
 * The live table. Linear probing with deletion by shifting back, so it never fills with tombstones
 * and its size is that of the largest live set. A place has 8 bytes and a block 64: what is moved and
 * searched is small, and blocks that come and go use the same memory again, which is in the cache.
 */
#include "live.h"
#include "room.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BITS 8
#define FEW 8192 /* blocks, which are in the cache anyway */
#define MOST_BITS 32 /* of a hash that a place keeps */

static inline uint32_t hash_of(uint64_t addr)
{
	return (uint32_t)((addr >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> MOST_BITS);
}

/* Where it belongs. */
static inline size_t home_of(const struct live *live, uint32_t hash)
{
	return hash >> (MOST_BITS - live->bits);
}

static inline size_t mask_of(const struct live *live)
{
	return ((size_t)1 << live->bits) - 1;
}

static inline struct live_block *block_at(const struct live *live, size_t place)
{
	return &live->blocks[live->places[place].block - 1];
}

void live_prefetch(const struct live *live, uint64_t addr)
{
	if (live->bits)
		__builtin_prefetch(&live->places[home_of(live, hash_of(addr))], 1);
}

void live_prefetch_block(const struct live *live, uint64_t addr)
{
	uint32_t hash = hash_of(addr);
	if (live->made < FEW)
		return;
	size_t mask = mask_of(live), place = home_of(live, hash);
	while (live->places[place].block && live->places[place].hash != hash)
		place = (place + 1) & mask;
	if (!live->places[place].block)
		return;
	const struct live_block *block = block_at(live, place);
	__builtin_prefetch(block, 1);
	__builtin_prefetch((const char *)(block + 1) - 1, 1); /* it may lie on two lines */
}

/* The place of a block, or the empty one where it would be. */
static inline size_t place_of(const struct live *live, uint64_t addr)
{
	uint32_t hash = hash_of(addr);
	size_t mask = mask_of(live), place = home_of(live, hash);
	while (live->places[place].block &&
		(live->places[place].hash != hash || block_at(live, place)->addr != addr))
		place = (place + 1) & mask;
	return place;
}

static int grow(struct live *live)
{
	unsigned bits = live->bits ? live->bits + 1 : FIRST_BITS;
	struct live_place *places =
		bits < MOST_BITS ? calloc((size_t)1 << bits, sizeof(*places)) : NULL;
	if (!places)
		return -ENOMEM;
	size_t size = live->bits ? mask_of(live) + 1 : 0, mask = ((size_t)1 << bits) - 1;
	struct live_place *old = live->places;
	live->places = places;
	live->bits = bits;
	live->limit = ((size_t)1 << bits) / 3 * 2;
	for (size_t i = 0; i < size; i++) {
		size_t place = home_of(live, old[i].hash);
		if (!old[i].block)
			continue;
		while (places[place].block)
			place = (place + 1) & mask;
		places[place] = old[i];
	}
	free(old);
	return 0;
}

/* Number + 1 of a block that is not in use; 0 without memory. */
static inline uint32_t new_block(struct live *live)
{
	uint32_t unused = live->unused;
	if (unused) {
		live->unused = (uint32_t)live->blocks[unused - 1].addr;
		return unused;
	}
	struct live_block *blocks =
		room_for_one(live->blocks, live->made, &live->capacity, sizeof(*blocks));
	if (!blocks)
		return 0;
	live->blocks = blocks;
	return (uint32_t)++live->made;
}

int live_add(struct live *live, const struct live_block *block, struct live_block *old)
{
	if (live->count >= live->limit && grow(live))
		return -ENOMEM;
	size_t place = place_of(live, block->addr);
	bool was_live = live->places[place].block;
	if (was_live) {
		*old = *block_at(live, place);
	} else {
		uint32_t number = new_block(live);
		if (!number)
			return -ENOMEM;
		live->places[place] = (struct live_place){number, hash_of(block->addr)};
		live->count++;
	}
	*block_at(live, place) = *block;
	return was_live;
}

static void empty(struct live *live, size_t place)
{
	struct live_place *places = live->places;
	size_t mask = mask_of(live);
	block_at(live, place)->addr = LIVE_UNUSED | live->unused;
	live->unused = places[place].block;
	live->count--;
	/* Move back what would not be found across the hole. */
	for (size_t next = (place + 1) & mask; places[next].block; next = (next + 1) & mask) {
		size_t home = home_of(live, places[next].hash);
		if (((next - home) & mask) < ((next - place) & mask))
			continue;
		places[place] = places[next];
		place = next;
	}
	places[place] = (struct live_place){0};
}

bool live_take(struct live *live, uint64_t addr, struct live_block *block)
{
	size_t place = live->count ? place_of(live, addr) : 0;
	if (!live->count || !live->places[place].block)
		return false;
	*block = *block_at(live, place);
	empty(live, place);
	return true;
}

void live_leave_before(struct live *live, uint64_t record)
{
	size_t size = live->bits ? mask_of(live) + 1 : 0;
	/* What is moved into the place comes from behind it, and is looked at next. */
	for (size_t at = 0; at < size;) {
		if (live->places[at].block && block_at(live, at)->record >= record)
			empty(live, at);
		else
			at++;
	}
}

const struct live_block *live_find(const struct live *live, uint64_t addr)
{
	if (!live->count || !addr)
		return NULL;
	size_t place = place_of(live, addr);
	return live->places[place].block ? block_at(live, place) : NULL;
}

int live_copy(struct live *to, const struct live *from)
{
	*to = *from;
	if (!from->bits)
		return 0;
	size_t places = (mask_of(from) + 1) * sizeof(*from->places);
	size_t blocks = from->made * sizeof(*from->blocks);
	to->capacity = from->made;
	to->places = malloc(places);
	to->blocks = malloc(blocks + 1);
	if (!to->places || !to->blocks) {
		live_free(to);
		return -ENOMEM;
	}
	memcpy(to->places, from->places, places);
	if (blocks)
		memcpy(to->blocks, from->blocks, blocks);
	return 0;
}

void live_free(struct live *live)
{
	free(live->places);
	free(live->blocks);
	*live = (struct live){0};
}

#define AHEAD 8 /* places whose blocks are asked for before they are needed */

static inline struct live_block *next(const struct live *live, size_t *at)
{
	size_t size = live->bits ? mask_of(live) + 1 : 0;
	while (*at < size) {
		size_t place = (*at)++;
		if (place + AHEAD < size && live->places[place + AHEAD].block)
			__builtin_prefetch(block_at(live, place + AHEAD));
		if (live->places[place].block)
			return block_at(live, place);
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

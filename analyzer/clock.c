/* SPDX-License-Identifier: MIT
 *
 * Ticks to nanoseconds. Integer arithmetic: the same trace gives the same digits everywhere.
 */
#include "clock.h"

#include <errno.h>
#include <stdlib.h>

#define SCALE_BITS 32

__extension__ typedef unsigned __int128 wide;

int clock_add(struct clock *clock, uint64_t tick, uint64_t ns)
{
	if (clock->count == clock->capacity) {
		size_t capacity = clock->capacity ? clock->capacity * 2 : 8;
		struct clock_pair *pairs = realloc(clock->pairs, capacity * sizeof(*pairs));
		if (!pairs)
			return -ENOMEM;
		clock->pairs = pairs;
		clock->capacity = capacity;
	}
	clock->pairs[clock->count++] = (struct clock_pair){.tick = tick, .ns = ns};
	return 0;
}

static int by_tick(const void *left, const void *right)
{
	const struct clock_pair *a = left, *b = right;
	if (a->tick != b->tick)
		return a->tick < b->tick ? -1 : 1;
	return a->ns < b->ns ? -1 : a->ns > b->ns;
}

static uint64_t scale_of(uint64_t ns, uint64_t ticks)
{
	wide scale = ((wide)ns << SCALE_BITS) / ticks;
	return scale > UINT64_MAX ? UINT64_MAX : (uint64_t)scale;
}

void clock_finish(struct clock *clock, uint64_t tick_hz)
{
	struct clock_pair *pairs = clock->pairs;
	size_t kept = 0;
	if (!clock->count)
		return;
	qsort(pairs, clock->count, sizeof(*pairs), by_tick);
	for (size_t i = 0; i < clock->count; i++)
		if (!kept ||
			(pairs[i].tick > pairs[kept - 1].tick && pairs[i].ns >= pairs[kept - 1].ns))
			pairs[kept++] = pairs[i];
	clock->count = kept;
	for (size_t i = 0; i + 1 < kept; i++)
		pairs[i].scale =
			scale_of(pairs[i + 1].ns - pairs[i].ns, pairs[i + 1].tick - pairs[i].tick);
	/* Beyond the last pair: the rate over the whole recording, or what it was estimated to be.
	 */
	pairs[kept - 1].scale = kept > 1 ? scale_of(pairs[kept - 1].ns - pairs[0].ns,
						   pairs[kept - 1].tick - pairs[0].tick)
					 : scale_of(UINT64_C(1000000000), tick_hz);
	clock->last = 0;
}

void clock_free(struct clock *clock)
{
	free(clock->pairs);
}

static uint64_t scaled(uint64_t ticks, uint64_t scale)
{
	wide ns = ((wide)ticks * scale) >> SCALE_BITS;
	return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

static uint64_t monotonic_ns(struct clock *clock, uint64_t tick)
{
	size_t i = clock->last;
	if (!clock->count)
		return 0;
	while (i + 1 < clock->count && clock->pairs[i + 1].tick <= tick)
		i++;
	while (i && clock->pairs[i].tick > tick)
		i--;
	clock->last = i;
	const struct clock_pair *pair = &clock->pairs[i];
	if (tick >= pair->tick)
		return pair->ns + scaled(tick - pair->tick, pair->scale);
	uint64_t before = scaled(pair->tick - tick, pair->scale);
	return before < pair->ns ? pair->ns - before : 0;
}

uint64_t clock_ns(struct clock *clock, uint64_t tick)
{
	uint64_t ns = monotonic_ns(clock, tick);
	return ns > clock->origin_ns ? ns - clock->origin_ns : 0;
}

uint64_t clock_ns_before(struct clock *clock, uint64_t tick)
{
	uint64_t ns = monotonic_ns(clock, tick);
	return clock->count && ns < clock->origin_ns ? clock->origin_ns - ns : 0;
}

uint64_t clock_span(const struct clock *clock, uint64_t ticks)
{
	return clock->count ? scaled(ticks, clock->pairs[clock->count - 1].scale) : 0;
}

static uint64_t unscaled(uint64_t ns, uint64_t scale)
{
	wide ticks = scale ? ((wide)ns << SCALE_BITS) / scale : 0;
	return ticks > UINT64_MAX ? UINT64_MAX : (uint64_t)ticks;
}

uint64_t clock_tick(const struct clock *clock, uint64_t ns)
{
	size_t low = 0, high = clock->count;
	if (!high)
		return 0;
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		if (clock->pairs[middle].ns <= ns)
			low = middle;
		else
			high = middle;
	}
	const struct clock_pair *pair = &clock->pairs[low];
	if (ns >= pair->ns)
		return pair->tick + unscaled(ns - pair->ns, pair->scale);
	uint64_t before = unscaled(pair->ns - ns, pair->scale);
	return before < pair->tick ? pair->tick - before : 0;
}

uint64_t clock_ticks(const struct clock *clock, uint64_t ns)
{
	return clock->count ? unscaled(ns, clock->pairs[clock->count - 1].scale) : 0;
}

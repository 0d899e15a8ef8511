/* SPDX-License-Identifier: MIT
 *
 * map.h.
 */
#include "map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MOST_BYTES (UINT64_C(1) << 40) /* that are followed */

static uint64_t at_most(uint64_t value, uint64_t most)
{
	return value < most ? value : most;
}

static uint64_t at_least(uint64_t value, uint64_t least)
{
	return value > least ? value : least;
}

/* ---- regions --------------------------------------------------------------------------------- */

static struct map_cell *new_cells(const struct map_region *region)
{
	return calloc((size_t)MAP_COLUMNS * region->most_rows, sizeof(struct map_cell));
}

static void add_cell(struct map_cell *to, const struct map_cell *from)
{
	for (unsigned state = 0; state < MAP_STATES; state++)
		to->bytes[state] += from->bytes[state];
}

/* The columns up to now, over rows of another size or from another address on. */
static void lay_again(
	struct map_region *region, unsigned bits, uint64_t first_row, uint32_t columns)
{
	struct map_cell before[MAP_BREAK_ROWS];
	for (uint32_t column = 0; column < columns; column++) {
		struct map_cell *cells = &region->cells[(size_t)column * region->most_rows];
		memcpy(before, cells, region->most_rows * sizeof(*cells));
		memset(cells, 0, region->most_rows * sizeof(*cells));
		for (uint32_t row = 0; row < region->most_rows; row++) {
			uint64_t to =
				((region->first_row + row) >> (bits - region->bits)) - first_row;
			if (to < region->most_rows)
				add_cell(&cells[to], &before[row]);
		}
	}
	region->bits = bits;
	region->first_row = first_row;
}

static void reach(struct map_region *region, struct range range, uint32_t columns)
{
	region->low = at_most(region->low, range.start);
	region->high = at_least(region->high, range.end);
	unsigned bits = region->bits;
	while (((region->high - 1) >> bits) - (region->low >> bits) >= region->most_rows)
		bits++;
	if (bits != region->bits || region->low >> bits != region->first_row)
		lay_again(region, bits, region->low >> bits, columns);
}

static bool is_in(const struct map_region *region, uint64_t address)
{
	return address >= region->low && address < region->high;
}

static struct map_region *find_arena(struct map *map, uint64_t address)
{
	for (size_t i = 0; i < map->regions; i++)
		if (!map->region[i].is_break &&
			map->region[i].low >> MAP_ARENA_BITS == address >> MAP_ARENA_BITS)
			return &map->region[i];
	return NULL;
}

static struct map_region *find_break(struct map *map)
{
	for (size_t i = 0; i < map->regions; i++)
		if (map->region[i].is_break)
			return &map->region[i];
	return NULL;
}

/* NULL: no memory, or too many arenas; then *full. */
static struct map_region *new_region(struct map *map, struct range range, bool is_break, bool *full)
{
	size_t most = is_break || find_break(map) ? MAP_REGIONS : MAP_REGIONS - 1;
	*full = map->regions == most;
	if (*full)
		return NULL;
	struct map_region *region = &map->region[map->regions];
	*region = (struct map_region){.is_break = is_break,
		.low = range.start,
		.high = range.end,
		.bits = PAGES_BITS,
		.first_row = range.start >> PAGES_BITS,
		.most_rows = is_break ? MAP_BREAK_ROWS : MAP_ARENA_ROWS};
	region->cells = new_cells(region);
	map->regions += region->cells != NULL;
	return region->cells ? region : NULL;
}

/* ---- a column -------------------------------------------------------------------------------- */

static struct map_cell *cell_at(struct map *map, struct map_region *region, uint64_t address)
{
	size_t row = (size_t)((address >> region->bits) - region->first_row);
	return &region->cells[(size_t)map->taken * region->most_rows + row];
}

static uint64_t row_end(const struct map_region *region, uint64_t address)
{
	return ((address >> region->bits) + 1) << region->bits;
}

/* The tick of the snapshot by which a column goes: what it found is followed since (still.h). */
static uint64_t look_of(const struct map *map, const struct ledger *ledger, uint32_t column)
{
	const struct still *still = &ledger->still;
	uint64_t end = map_column_tick(map, column);
	uint64_t old = (map->last_tick - map->first_tick) / MAP_LOOK_PART;
	return still->known && still->tick <= end && end - still->tick <= old ? still->tick
									      : MAP_NO_LOOK;
}

static void move(uint64_t *bytes, enum map_state from, enum map_state to, uint64_t by)
{
	by = at_most(by, bytes[from]);
	bytes[from] -= by;
	bytes[to] += by;
}

/* A page that has been free since before the snapshot, and that it did not find. */
static void lay_absent(uint64_t *bytes, const struct ledger *ledger, uint64_t start, uint64_t end)
{
	if (start < end)
		move(bytes, MAP_FREE, MAP_ABSENT,
			pages_free_since(&ledger->pages, start, end, ledger->still.tick)
				<< PAGES_BITS);
}

static void lay_look(uint64_t *bytes, const struct ledger *ledger, struct range range)
{
	const struct ranges *found = &ledger->still.pages;
	uint64_t at = range.start;
	for (size_t i = ranges_find(found->list, found->count, range.start + 1);
		i < found->count && found->list[i].start < range.end; i++) {
		uint64_t start = at_least(found->list[i].start, at);
		uint64_t end = at_most(found->list[i].end, range.end);
		struct pages_count count = pages_count(&ledger->pages, start, end);
		uint64_t known = (count.live + count.free + count.returned) << PAGES_BITS;
		lay_absent(bytes, ledger, at, start);
		move(bytes, MAP_UNTOUCHED, MAP_FREE, end - start > known ? end - start - known : 0);
		at = end;
	}
	lay_absent(bytes, ledger, at, range.end);
}

/* Pages with a block count as partial until their blocks are taken off. */
static void lay_pages(
	struct map *map, struct map_region *region, const struct ledger *ledger, struct range range)
{
	for (uint64_t at = range.start; at < range.end;) {
		uint64_t end = at_most(row_end(region, at), range.end);
		struct pages_count count = pages_count(&ledger->pages, at, end);
		uint64_t *bytes = cell_at(map, region, at)->bytes;
		bytes[MAP_PARTIAL] += count.live << PAGES_BITS;
		bytes[MAP_FREE] += count.free << PAGES_BITS;
		bytes[MAP_PURGED] += count.returned << PAGES_BITS;
		bytes[MAP_UNTOUCHED] +=
			end - at - ((count.live + count.free + count.returned) << PAGES_BITS);
		if (map->look[map->taken] != MAP_NO_LOOK)
			lay_look(bytes, ledger, (struct range){at, end});
		at = end;
	}
}

static int lay_range(
	struct map *map, const struct ledger *ledger, struct range range, bool is_break)
{
	bool full = false;
	struct map_region *region = is_break ? find_break(map) : find_arena(map, range.start);
	if (!region)
		region = new_region(map, range, is_break, &full);
	if (full) {
		map->beyond += range.end - range.start;
		return 0;
	}
	if (!region)
		return -ENOMEM;
	reach(region, range, map->taken + 1);
	lay_pages(map, region, ledger, range);
	return 0;
}

/* Arenas whose memory touches are one range there, and a region each here. A trace may claim any
 * size at all. */
static int lay_ranges(
	struct map *map, const struct ledger *ledger, const struct ranges *ranges, bool is_break)
{
	int rc = 0;
	if (ranges->bytes > MOST_BYTES) {
		map->beyond += ranges->bytes;
		return 0;
	}
	for (size_t i = 0; !rc && i < ranges->count; i++) {
		struct range range = ranges->list[i];
		while (!rc && range.start < range.end) {
			struct range part = range;
			if (!is_break)
				part.end = at_most(part.end, ((range.start >> MAP_ARENA_BITS) + 1)
								     << MAP_ARENA_BITS);
			rc = lay_range(map, ledger, part, is_break);
			range.start = part.end;
		}
	}
	return rc;
}

static struct map_region *region_of(struct map *map, uint64_t address)
{
	if (map->near < map->regions && is_in(&map->region[map->near], address))
		return &map->region[map->near];
	for (size_t i = 0; i < map->regions; i++)
		if (is_in(&map->region[i], address)) {
			map->near = i;
			return &map->region[i];
		}
	return NULL;
}

static void lay(uint64_t *bytes, struct laid_bytes laid)
{
	bytes[MAP_REQUESTED] += laid.asked;
	bytes[MAP_SLACK] += laid.slack;
}

static void lay_larger(struct map *map, const struct live_block *block)
{
	uint64_t start, end;
	laid_reach(block, &start, &end);
	struct map_region *region =
		end - start > LAID_MOST_BYTES ? region_of(map, start) : NULL;
	if (!region)
		return;
	for (end = at_most(end, region->high); start < end;) {
		uint64_t until = at_most(row_end(region, start), end);
		lay(cell_at(map, region, start)->bytes, laid_of(block, start, until));
		start = until;
	}
}

static void lay_blocks(struct map *map, const struct ledger *ledger)
{
	size_t at = 0;
	for (size_t i = 0; i < map->regions; i++) {
		struct map_region *region = &map->region[i];
		for (uint64_t from = region->low; from < region->high;) {
			uint64_t to = at_most(row_end(region, from), region->high);
			lay(cell_at(map, region, from)->bytes, laid_sum(&ledger->laid, from, to));
			from = to;
		}
	}
	for (const struct live_block *block;
		ledger->laid.larger && (block = live_each(&ledger->live, &at));)
		lay_larger(map, block);
}

static void lay_cached(struct map *map, const struct ledger *ledger)
{
	bool known = ledger_kept_known(ledger);
	for (size_t i = 0; known && i < ledger->kept_count; i++) {
		const struct ledger_kept *kept = &ledger->kept[i];
		if (!kept->bytes || live_find(&ledger->live, kept->addr) ||
			!ledger_kept_holds(ledger, kept))
			continue;
		struct live_block block = {
			.addr = kept->addr, .chunk = kept->bytes & HL_ADDRESS_MASK};
		uint64_t start, end;
		laid_reach(&block, &start, &end);
		struct map_region *region = region_of(map, start);
		for (end = region ? at_most(end, region->high) : start; start < end;) {
			uint64_t until = at_most(row_end(region, start), end);
			cell_at(map, region, start)->bytes[MAP_CACHED] += until - start;
			start = until;
		}
	}
}

/* Blocks are taken off the pages that they lie on. Where a trace has more of them than is mapped,
 * what is mapped is the sum. */
static void settle(struct map_cell *cell)
{
	static const enum map_state from[] = {
		MAP_PARTIAL, MAP_UNTOUCHED, MAP_PURGED, MAP_ABSENT, MAP_FREE};
	uint64_t *bytes = cell->bytes;
	uint64_t rest = bytes[MAP_REQUESTED] + bytes[MAP_SLACK];
	for (unsigned i = 0; rest && i < sizeof(from) / sizeof(*from); i++) {
		uint64_t part = at_most(rest, bytes[from[i]]);
		bytes[from[i]] -= part;
		rest -= part;
	}
	/* What is cached may have a page to itself. */
	uint64_t cached = bytes[MAP_CACHED];
	bytes[MAP_CACHED] = 0;
	move(bytes, MAP_PARTIAL, MAP_CACHED, cached);
	move(bytes, MAP_FREE, MAP_CACHED, cached - bytes[MAP_CACHED]);
	uint64_t slack = at_most(rest, bytes[MAP_SLACK]);
	bytes[MAP_SLACK] -= slack;
	bytes[MAP_REQUESTED] -= rest - slack;
}

static int take_column(struct map *map, const struct ledger *ledger)
{
	uint64_t beyond = map->beyond;
	map->beyond = 0;
	map->look[map->taken] = look_of(map, ledger, map->taken);
	int rc = lay_ranges(map, ledger, &ledger->break_mapped, true);
	if (!rc)
		rc = lay_ranges(map, ledger, &ledger->arena_open, false);
	map->beyond = at_least(map->beyond, beyond);
	if (rc)
		return rc;
	lay_blocks(map, ledger);
	lay_cached(map, ledger);
	for (size_t i = 0; i < map->regions; i++) {
		struct map_region *region = &map->region[i];
		for (uint32_t row = 0; row < region->most_rows; row++)
			settle(&region->cells[(size_t)map->taken * region->most_rows + row]);
	}
	map->taken++;
	return 0;
}

/* Nothing happened since the last one. */
static void repeat_column(struct map *map)
{
	for (size_t i = 0; i < map->regions; i++) {
		struct map_region *region = &map->region[i];
		struct map_cell *to = &region->cells[(size_t)map->taken * region->most_rows];
		memcpy(to, to - region->most_rows, region->most_rows * sizeof(*to));
	}
	map->look[map->taken] = map->look[map->taken - 1];
	map->taken++;
}

static int take_until(struct map *map, const struct ledger *ledger, uint32_t column)
{
	int rc = map->taken < column ? take_column(map, ledger) : 0;
	while (!rc && map->taken < column) {
		if (look_of(map, ledger, map->taken) != map->look[map->taken - 1])
			rc = take_column(map, ledger); /* the snapshot is too old now */
		else
			repeat_column(map);
	}
	return rc;
}

/* ---- a process ------------------------------------------------------------------------------- */

void map_start(struct map *map, uint64_t first_tick, uint64_t last_tick)
{
	*map = (struct map){.first_tick = first_tick, .last_tick = at_least(last_tick, first_tick)};
}

uint64_t map_column_tick(const struct map *map, uint32_t column)
{
	uint64_t ticks = map->last_tick - map->first_tick, next = (uint64_t)column + 1;
	return map->first_tick + ticks / MAP_COLUMNS * next +
	       ticks % MAP_COLUMNS * next / MAP_COLUMNS;
}

int map_before(struct map *map, const struct ledger *ledger, uint64_t tick)
{
	uint32_t column = map->taken;
	while (column + 1 < MAP_COLUMNS && map_column_tick(map, column) < tick)
		column++;
	return take_until(map, ledger, column);
}

static int by_address(const void *left, const void *right)
{
	const struct map_region *a = left, *b = right;
	return a->low < b->low ? -1 : a->low > b->low;
}

int map_finish(struct map *map, const struct ledger *ledger)
{
	int rc = take_until(map, ledger, MAP_COLUMNS);
	qsort(map->region, map->regions, sizeof(*map->region), by_address);
	return rc;
}

void map_free(struct map *map)
{
	for (size_t i = 0; i < map->regions; i++)
		free(map->region[i].cells);
	*map = (struct map){0};
}

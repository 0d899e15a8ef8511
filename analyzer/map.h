/* SPDX-License-Identifier: MIT
 *
 * The address map of one process: what each stretch of the break and of the arenas held, at even
 * times from its begin to its end. Fed by analysis.c while the ledger runs; pure, does no I/O. The
 * words are those of docs/analysis.md, "Address map".
 *
 * Nobody knows before how far a heap will reach: a region begins with rows of one page, and when it
 * outgrows them two rows become one. So memory is bounded, and one reading is enough. A column
 * costs a look at the rows, at what lies on their pages (laid.h).
 */
#ifndef HEAPLEDGER_MAP_H
#define HEAPLEDGER_MAP_H

#include "ledger.h"

#define MAP_COLUMNS 240
#define MAP_BREAK_ROWS 240
#define MAP_ARENA_ROWS 64
#define MAP_REGIONS 33    /* the break, and so many arenas less one */
#define MAP_ARENA_BITS 26 /* arenas lie at multiples of 64 MiB */
#define MAP_LOOK_PART 10  /* of the time: longer than that after it a snapshot says nothing */
#define MAP_NO_LOOK UINT64_MAX

/* Every mapped byte is in one of these. */
enum map_state {
	MAP_REQUESTED,
	MAP_SLACK,     /* headers and rounding of live blocks */
	MAP_CACHED,    /* freed, held by a cache, where that is known */
	MAP_PARTIAL,   /* free, on a page that holds a live block */
	MAP_FREE,      /* free, on a page without one that held one since it was last given back; or
			  that is in memory for another reason, by a snapshot */
	MAP_ABSENT,    /* such a page, but by a snapshot not in memory */
	MAP_PURGED,    /* given back, still mapped */
	MAP_UNTOUCHED, /* never held a block */
	MAP_STATES
};

struct map_cell {
	uint64_t bytes[MAP_STATES];
};

struct map_region {
	bool is_break;
	uint64_t low; /* of all that was ever mapped in it */
	uint64_t high;
	unsigned bits;      /* a row has 1 << bits bytes */
	uint64_t first_row; /* address >> bits of row 0 */
	uint32_t most_rows;
	struct map_cell *cells; /* most_rows a column */
};

struct map {
	uint64_t first_tick;
	uint64_t last_tick;
	uint32_t taken;                        /* columns */
	uint64_t look[MAP_COLUMNS]; /* tick of the snapshot that each went by, or MAP_NO_LOOK */
	struct map_region region[MAP_REGIONS]; /* the break is the first, if there was one */
	size_t regions;
	size_t near;     /* where the last block lay */
	uint64_t beyond; /* bytes of arenas that were too many, or of a heap too large; most at once
			  */
};

void map_start(struct map *map, uint64_t first_tick, uint64_t last_tick);

/* The tick up to which the column that comes next reaches. */
uint64_t map_column_tick(const struct map *map, uint32_t column);

/* Before a record of this tick is applied: takes the columns that end before it. 0 or -ENOMEM. */
int map_before(struct map *map, const struct ledger *ledger, uint64_t tick);

/* After the last one: takes those that are left, and puts regions in the order of addresses. */
int map_finish(struct map *map, const struct ledger *ledger);
void map_free(struct map *map);

static inline const struct map_cell *map_cell(
	const struct map_region *region, uint32_t column, uint32_t row)
{
	return &region->cells[(size_t)column * region->most_rows + row];
}

static inline uint32_t map_rows(const struct map_region *region)
{
	return (uint32_t)(((region->high - 1) >> region->bits) - region->first_row + 1);
}

#endif

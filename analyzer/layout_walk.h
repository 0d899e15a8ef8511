/* SPDX-License-Identifier: MIT
 *
 * The state of the walk over the heap, which layout.c makes. layout_resident.c counts what was in
 * memory of what it passes, layout_trim.c what malloc_trim would return, layout_freed.c what would
 * go if a place's blocks did, layout_arenas.c each arena.
 */
#ifndef HEAPLEDGER_LAYOUT_WALK_H
#define HEAPLEDGER_LAYOUT_WALK_H

#include "layout.h"

#define HEADER_BYTES 8
#define ON_A_PAGE 130 /* blocks at most: a chunk has 32 bytes, and two can reach in */

/* Of an entry's tail. */
#define TAIL_TABLE 0xfffd
#define TAIL_CACHED 0xfffe
#define TAIL_LONG 0xffff /* the block has to be looked up */

#define AHEAD 16 /* blocks that a walk asks for: in the order of addresses they are anywhere */

struct entry {
	uint64_t start;
	union {
		const struct live_block *block; /* with pins: in the ledger's table */
		struct {                        /* without: then nothing else is needed */
			uint64_t end : HL_ADDRESS_BITS;
			uint64_t tail : 16; /* bytes at its end that were not asked for, or: */
		};
	};
};

/* The page that the walk is on, of one size. */
struct spot {
	unsigned bits;
	uint64_t number;
	uint64_t free_bytes;
	uint32_t count;
	uint32_t site[ON_A_PAGE]; /* of each block; only for small pages */
	struct layout_pages *pages;
};

/* Blocks of one place that follow each other. */
struct freed {
	uint64_t start; /* where what is free before them begins */
	uint64_t at;    /* the end of the last one */
	uint64_t free;  /* what malloc_trim returns from between them as it is */
	uint32_t site;
	bool any;
};

struct walk {
	struct layout *layout;
	const struct ledger *ledger;
	unsigned wants; /* enum layout_wants */
	bool pins;      /* are wanted */
	struct layout_room *room;
	struct entry *entries; /* of it */
	size_t count;
	size_t next;
	const struct range *runs;  /* in memory */
	size_t run_count;
	size_t run;                /* of them: those before end before the walk */
	struct live_block *kept;   /* blocks of caches */
	uint64_t mapped_bytes;     /* mappings of live blocks ... */
	uint64_t mapped_requested; /* ... and what was in memory of what these hold */
	struct spot small;
	struct spot huge;
	struct freed freed;
	uint32_t *table; /* of sites, by caller: index + 1 */
	size_t table_size;
};

static inline uint64_t layout_align_up(uint64_t value, unsigned bits)
{
	uint64_t mask = (UINT64_C(1) << bits) - 1;
	return (value + mask) & ~mask;
}

static inline uint64_t layout_align_down(uint64_t value, unsigned bits)
{
	return value >> bits << bits;
}

/* With pins. */
static inline uint64_t layout_end_of(const struct entry *entry)
{
	return entry->start + (entry->block->chunk & HL_ADDRESS_MASK);
}

static inline void layout_ask(const struct walk *walk, size_t at)
{
	if (walk->pins && at + AHEAD < walk->count)
		__builtin_prefetch(walk->entries[at + AHEAD].block);
}

/* The residency. Ranges come by rising address; `walk->run` is where the next one is looked for. */
uint64_t layout_in_memory(struct walk *walk, uint64_t start, uint64_t end);
/* Of a block's own mapping, in any order. */
void layout_mapped_in_memory(struct walk *walk, const struct live_block *block);
uint16_t layout_tail(const struct live_block *block);
/* Adds the block, of which the walk has `range`, to the rows. */
void layout_add_resident(struct walk *walk, const struct entry *entry, struct range range);
/* After the walk: what lies between the blocks' own mappings and their ends, and tables; then what
 * is left is not the heap's. */
void layout_complete_resident(struct walk *walk);
void layout_use_snapshot(struct walk *walk);

/* The arenas, before the walk. 0 or -ENOMEM. */
int layout_arenas(struct walk *walk);

/* What malloc_trim would return of a region, before the walk passes it. The top of the break goes
 * but for the least that a chunk takes; those of arenas stay. */
void layout_trim_region(struct walk *walk, struct range region, bool is_break, bool has_top);

/* Bytes in pages that were touched, of a run of free memory: where malloc_trim looks for them; or
 * of one at the end of the heap. `with_blocks`: those that blocks lie on, too. */
uint64_t layout_trimmed(const struct walk *walk, uint64_t start, uint64_t end, bool with_blocks);
uint64_t layout_top_pages(const struct walk *walk, uint64_t start, uint64_t end, bool with_blocks);

/* What malloc_trim joins with what is free before it looks. */
bool layout_goes_first(const struct live_block *block);

/* With pins, what each place's blocks would leave if they were freed: of a region from its start
 * on, each of its blocks, and its end. */
void layout_freed_begin(struct walk *walk, uint64_t start);
void layout_freed_block(
	struct walk *walk, const struct live_block *block, struct range range, uint32_t site);
void layout_freed_end(struct walk *walk, uint64_t end, bool has_top);

#endif

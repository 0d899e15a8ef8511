/* SPDX-License-Identifier: MIT
 *
 * The heap as it was at its peaks. Nobody knows that one is a peak before it is over; so of the
 * highest point up to now all that has changed since is kept: blocks that went, what pages were,
 * and ranges, what caches held and the snapshot as soon as they change. From that and from the heap
 * at its end follows the heap at the peak. Each block and page is kept once, so this takes no more
 * than the heap at the peak did. Part of the ledger; used by analysis.c.
 */
#ifndef HEAPLEDGER_RECALL_H
#define HEAPLEDGER_RECALL_H

#include "live.h"
#include "timeline.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ledger;

enum recall_moment {
	RECALL_MAPPED_PEAK,
	RECALL_RESIDENT_PEAK,
	RECALL_MOMENTS /* PAGES_MOMENTS */
};

/* A block that was live at the moment and is no more, as struct live_block. */
struct recall_gone {
	uint64_t addr;
	uint64_t size;
	uint64_t chunk;
	uint64_t tick;
	uint64_t origin;
	uint64_t record;
};

struct recall_point {
	uint64_t since; /* the first record of the stream that it is before; 0 = there is none */
	uint64_t tick;
	uint64_t quiet; /* as in the ledger */
	struct memory memory;
	struct recall_gone *gone;
	size_t gone_count;
	size_t gone_capacity;
	struct recall_areas *areas; /* NULL: they are the ledger's, as the next two */
	struct recall_kept *kept;
	struct ledger_snapshot *snapshot;
};

struct recall {
	bool wanted;
	struct recall_point point[RECALL_MOMENTS];
};

/* The ledger is at this moment now, that of before is forgotten. */
void recall_keep(struct ledger *ledger, enum recall_moment moment, uint64_t tick);

/* Before they change: 0 or -ENOMEM. */
int recall_areas_change(struct ledger *ledger);
int recall_kept_change(struct ledger *ledger);
int recall_snapshot_changes(struct ledger *ledger);

/* A block has gone that may have been there. */
void recall_add_gone(struct ledger *ledger, const struct live_block *block);

static inline void recall_block_gone(
	struct ledger *ledger, const struct recall *recall, const struct live_block *block)
{
	if (__builtin_expect(block->record < recall->point[RECALL_MAPPED_PEAK].since ||
				     block->record < recall->point[RECALL_RESIDENT_PEAK].since,
		    0))
		recall_add_gone(ledger, block);
}

/* There is no such moment any more. */
void recall_forget(struct ledger *ledger);

/* After the end: blocks, pages, ranges, caches, snapshot and memory are as they were at the moment,
 * which there has to be; the later one first. 0 or -ENOMEM. */
int recall_go_back(struct ledger *ledger, enum recall_moment moment);

void recall_free(struct recall *recall);

#endif

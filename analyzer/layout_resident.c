/* SPDX-License-Identifier: MIT
 *
 * layout_walk.h. A snapshot of the process's pages is a list of ranges; of each row of the ledger,
 * as much was in memory as lies in them.
 */
#include "layout_walk.h"

uint64_t layout_in_memory(struct walk *walk, uint64_t start, uint64_t end)
{
	const struct ledger_snapshot *snapshot = &walk->ledger->snapshot;
	uint64_t bytes = 0;
	if (!walk->layout->resident.known)
		return 0;
	while (walk->run < snapshot->count && snapshot->run[walk->run].end <= start)
		walk->run++;
	for (size_t i = walk->run; i < snapshot->count && snapshot->run[i].start < end; i++) {
		const struct range *run = &snapshot->run[i];
		uint64_t from = run->start > start ? run->start : start;
		uint64_t to = run->end < end ? run->end : end;
		bytes += to > from ? to - from : 0;
	}
	return bytes;
}

void layout_mapped_in_memory(struct walk *walk, const struct live_block *block)
{
	if (!walk->layout->resident.known)
		return;
	const struct ledger_snapshot *snapshot = &walk->ledger->snapshot;
	walk->run = ranges_find(snapshot->run, snapshot->count, block->addr + 1);
	walk->mapped_requested += layout_in_memory(walk, block->addr, block->addr + block->size);
}

void layout_add_resident(struct walk *walk, const struct live_block *block, struct range range)
{
	struct layout_resident *resident = &walk->layout->resident;
	uint64_t caller = live_caller(block), from = range.start + HEADER_BYTES;
	uint64_t to = block->size < range.end - from ? from + block->size : range.end;
	if (!resident->known)
		return;
	if (layout_is_kept(caller) && layout_kept(caller) == HL_KEPT_TABLE) {
		resident->tables += layout_in_memory(walk, range.start, range.end);
	} else if (layout_is_kept(caller)) {
		resident->cached += layout_in_memory(walk, range.start, range.end);
	} else if (from < range.end) {
		resident->slack += layout_in_memory(walk, range.start, from);
		resident->requested += layout_in_memory(walk, from, to);
		resident->slack += layout_in_memory(walk, to, range.end);
	}
}

static uint64_t ranges_in_memory(struct walk *walk, const struct ranges *ranges)
{
	uint64_t bytes = 0;
	walk->run = 0;
	for (size_t i = 0; i < ranges->count; i++)
		bytes += layout_in_memory(walk, ranges->list[i].start, ranges->list[i].end);
	return bytes;
}

void layout_complete_resident(struct walk *walk)
{
	const struct ledger *ledger = walk->ledger;
	struct layout_resident *resident = &walk->layout->resident;
	if (!resident->known)
		return;
	uint64_t mapped = ranges_in_memory(walk, &ledger->block_mapped);
	resident->requested += walk->mapped_requested;
	if (mapped > walk->mapped_requested)
		resident->slack += mapped - walk->mapped_requested;
	resident->metadata = ranges_in_memory(walk, &ledger->metadata_mapped);
	uint64_t heap = resident->requested + resident->slack + resident->cached +
			resident->tables + resident->free + resident->top + resident->metadata;
	resident->all = ledger->snapshot.bytes;
	resident->outside = resident->all > heap ? resident->all - heap : 0;
}

void layout_use_snapshot(struct layout_resident *resident, const struct ledger *ledger)
{
	const struct ledger_snapshot *snapshot = &ledger->snapshot;
	*resident = (struct layout_resident){
		.known = snapshot->whole,
		.cut = snapshot->cut,
		.reason = snapshot->reason,
		.tick = snapshot->tick,
		.took = snapshot->took,
		.counted = snapshot->counted,
	};
}

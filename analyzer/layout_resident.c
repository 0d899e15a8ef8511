/* SPDX-License-Identifier: MIT
 *
 * layout_walk.h. A snapshot of the process's pages is a list of ranges; of each row of the ledger,
 * as much was in memory as lies in them.
 */
#include "layout_walk.h"

uint64_t layout_in_memory(struct walk *walk, uint64_t start, uint64_t end)
{
	uint64_t bytes = 0;
	if (!walk->layout->resident.known)
		return 0;
	while (walk->run < walk->run_count && walk->runs[walk->run].end <= start)
		walk->run++;
	for (size_t i = walk->run; i < walk->run_count && walk->runs[i].start < end; i++) {
		const struct range *run = &walk->runs[i];
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
	walk->run = ranges_find(walk->runs, walk->run_count, block->addr + 1);
	walk->mapped_requested += layout_in_memory(walk, block->addr, block->addr + block->size);
}

uint16_t layout_tail(const struct live_block *block)
{
	uint64_t caller = live_caller(block), chunk = block->chunk & HL_ADDRESS_MASK;
	if (layout_is_kept(caller))
		return layout_kept(caller) == HL_KEPT_TABLE ? TAIL_TABLE : TAIL_CACHED;
	uint64_t taken = HEADER_BYTES + block->size;
	uint64_t tail = chunk > taken ? chunk - taken : 0;
	return (uint16_t)(tail < TAIL_TABLE ? tail : TAIL_LONG);
}

/* Where what was asked for ends. */
static uint64_t asked_end(const struct walk *walk, const struct entry *entry, unsigned tail)
{
	if (!walk->pins && tail < TAIL_TABLE)
		return entry->end - tail;
	const struct live_block *block =
		walk->pins ? entry->block
			   : live_find(&walk->ledger->live, entry->start + HEADER_BYTES);
	return block ? block->addr + block->size : entry->end;
}

void layout_add_resident(struct walk *walk, const struct entry *entry, struct range range)
{
	struct layout_resident *resident = &walk->layout->resident;
	unsigned tail = walk->pins ? layout_tail(entry->block) : entry->tail;
	if (tail == TAIL_TABLE) {
		resident->tables += layout_in_memory(walk, range.start, range.end);
	} else if (tail == TAIL_CACHED) {
		resident->cached += layout_in_memory(walk, range.start, range.end);
	} else {
		uint64_t from = range.start + HEADER_BYTES, to = asked_end(walk, entry, tail);
		from = from < range.end ? from : range.end;
		to = to < from ? from : to < range.end ? to : range.end;
		uint64_t all = layout_in_memory(walk, range.start, range.end);
		uint64_t asked = all == range.end - range.start ? to - from
								: layout_in_memory(walk, from, to);
		resident->requested += asked;
		resident->slack += all - asked;
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
	resident->outside = resident->all > heap ? resident->all - heap : 0;
}

void layout_use_snapshot(struct walk *walk)
{
	const struct ledger_snapshot *snapshot = &walk->ledger->snapshot;
	const struct still *still = &walk->ledger->still;
	struct layout_resident *resident = &walk->layout->resident;
	if (walk->wants & LAYOUT_STILL) {
		*resident = (struct layout_resident){
			.known = still->known, .tick = still->tick, .all = still->pages.bytes};
		walk->runs = still->pages.list;
		walk->run_count = still->pages.count;
	} else if (walk->wants & LAYOUT_SNAPSHOT) {
		*resident = (struct layout_resident){
			.known = snapshot->whole,
			.cut = snapshot->cut,
			.reason = snapshot->reason,
			.tick = snapshot->tick,
			.took = snapshot->took,
			.all = snapshot->bytes,
			.counted = snapshot->counted,
		};
		walk->runs = snapshot->run;
		walk->run_count = snapshot->count;
	}
}

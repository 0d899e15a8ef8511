/* SPDX-License-Identifier: MIT
 *
 * What the files of the ledger share, and nobody else needs: ledger.c, ledger_begin.c,
 * ledger_samples.c and ledger_finish.c.
 */
#ifndef HEAPLEDGER_LEDGER_PARTS_H
#define HEAPLEDGER_LEDGER_PARTS_H

#include "ledger.h"
#include "mapping.h"
#include "room.h"

#include <errno.h>

/* A block takes [addr - 8, addr - 8 + chunk): the header before it and what it may use. */
#define HEADER_BYTES 8

static inline double ratio_of(double held, double live)
{
	return live > 0 ? held / live : 0;
}

static inline void note_requested(struct ledger *ledger, uint64_t tick)
{
	struct ledger_peak *peak = &ledger->result->peak;
	const struct memory *memory = &ledger->memory;
	struct ledger_ratio *resident = &ledger->result->resident_ratio;

	if (memory->requested > ledger->timeline.peak_requested)
		ledger->timeline.peak_requested = memory->requested;
	if (memory->live_blocks > peak->live_blocks)
		peak->live_blocks = memory->live_blocks;
	if (memory->requested > ledger->result->phases.peak_requested) {
		ledger->result->phases.peak_requested = memory->requested;
		if (memory->requested > peak->requested) {
			peak->requested = memory->requested;
			peak->requested_tick = tick;
			peak->at_requested = *memory;
		}
	}
	/* While the most is mapped, the fullest moment stands for it. */
	if (memory_mapped(memory) == peak->mapped &&
		memory->requested > peak->at_mapped.requested) {
		peak->at_mapped = *memory;
		peak->mapped_tick = tick;
		peak->mapped_record = ledger->applied;
	}
	if (ledger->result->samples && (double)memory->requested > resident->max_live) {
		resident->max_live = (double)memory->requested;
		resident->at_peak_live =
			ratio_of((double)ledger->result->last_sample.rss_anon, resident->max_live);
	}
}

/* A block in the heap, as the page table counts it. A record that names more than is mapped is a
 * lie or from a heap we do not know: it must not make us count its pages one by one. */
static inline bool in_pages(const struct ledger *ledger, const struct live_block *block)
{
	uint64_t bytes = block->chunk & HL_ADDRESS_MASK;
	int64_t heap = ledger->memory.break_bytes + ledger->memory.arena_bytes;

	return !ledger->result->observed && !(block->chunk >> HL_ADDRESS_BITS & HL_CHUNK_MMAPPED) &&
	       bytes && bytes <= (uint64_t)(heap > 0 ? heap : 0) && block->addr > HEADER_BYTES;
}

/* `reused`: what to do with pages that were free; NULL = they were not, in truth. */
static inline int hold_pages(struct ledger *ledger, struct live_block *block, uint64_t tick,
	struct free_span *reused)
{
	uint64_t start = block->addr - HEADER_BYTES;
	int rc = pages_add(&ledger->pages, start, start + (block->chunk & HL_ADDRESS_MASK), tick,
		reused ? free_span_ends : NULL, reused, &block->pinned);
	if (rc != -E2BIG)
		return rc;
	ledger->result->anomalies.impossible++;
	return 0;
}

/* Unsigned inside: a hostile trace may add up to anything, and the checks for that come later. */
static inline void count_block(struct ledger *ledger, const struct live_block *block, bool add)
{
	struct memory *memory = &ledger->memory;
	uint64_t size = block->size, chunk = block->chunk & HL_ADDRESS_MASK;

	memory->requested = (int64_t)((uint64_t)memory->requested + (add ? size : 0 - size));
	memory->chunk = (int64_t)((uint64_t)memory->chunk + (add ? chunk : 0 - chunk));
	memory->live_blocks += add ? 1 : -1;
	laid_block(&ledger->laid, block, add);
}

/* Of a block that was taken out. */
static inline struct ledger_birth take_birth(struct ledger *ledger, const struct live_block *block)
{
	struct live_block first = {.after = LIVE_BEFORE};
	if (__builtin_expect(block->after != LIVE_RESIZED, 1))
		return (struct ledger_birth){block->tick, block->after};
	live_take(&ledger->resized, block->addr, &first);
	return (struct ledger_birth){first.tick, first.after};
}

/* A block that is LIVE_RESIZED was put in. 0 or -ENOMEM. */
static inline int lives_on(
	struct ledger *ledger, const struct live_block *block, const struct ledger_birth *birth)
{
	struct live_block old, first = {
		.addr = block->addr, .tick = birth->tick, .after = birth->after};
	return live_add(&ledger->resized, &first, &old) < 0 ? -ENOMEM : 0;
}

/* A block's life is over, or seen no longer. */
static inline void note_life(struct ledger *ledger, const struct live_block *block,
	struct ledger_birth birth, enum lifetimes_end end, uint64_t tick, uint64_t allocated)
{
	struct lifetimes *lifetimes = &ledger->result->lifetimes;
	if (__builtin_expect(birth.after == LIVE_BEFORE, 0)) {
		lifetimes->before[end].blocks++;
		lifetimes->before[end].bytes += block->size;
		return;
	}
	uint64_t ticks = tick > birth.tick ? tick - birth.tick : 0;
	uint64_t ns = ticks < ledger->short_ticks ? 0 : clock_span(ledger->clock, ticks);
	if (lifetimes_add(lifetimes, end, block->size, ns, allocated - birth.after))
		ledger->pages.starved = true;
}

static inline int add_realloc(struct ledger *ledger, const struct ledger_realloc *entry)
{
	struct ledger_realloc *list = room_for_one(ledger->reallocs, ledger->realloc_count,
		&ledger->realloc_capacity, sizeof(*list));
	if (!list)
		return -ENOMEM;
	ledger->reallocs = list;
	ledger->reallocs[ledger->realloc_count++] = *entry;
	return 0;
}

static inline struct phases_totals totals_of(const struct ledger *ledger)
{
	const struct ledger_result *result = ledger->result;
	return (struct phases_totals){result->calls, &result->causes, &ledger->memory};
}

static inline struct timeline_sums sums_of(const struct ledger_result *result)
{
	return (struct timeline_sums){
		.returned_bytes = ledger_returned_bytes(&result->returned),
		.thrash_cycles = result->thrash.break_.count + result->thrash.block.count,
	};
}

/* It may be the highest up to now. */
static inline void keep_peaks(struct ledger *ledger, uint64_t tick)
{
	const struct ledger_peak *peak = &ledger->result->peak;
	if (!ledger->recall.wanted || !ledger->applied)
		return;
	if (peak->mapped_record == ledger->applied)
		recall_keep(ledger, RECALL_MAPPED_PEAK, tick);
	if (ledger_resident_record(peak) == ledger->applied)
		recall_keep(ledger, RECALL_RESIDENT_PEAK, tick);
}

/* The recording begins here: pages that are free already are as new. 0 or -ENOMEM. */
int ledger_recording_begins(struct ledger *ledger, uint64_t tick);

/* A sample, and the parts of a snapshot. 0 or -ENOMEM. */
int ledger_sampled(struct ledger *ledger, uint32_t tid, const struct hl_sample_record *sample);
int ledger_snapshot_begins(struct ledger *ledger, uint32_t tid, const struct hl_mark_record *mark);
int ledger_snapshot_run(struct ledger *ledger, const struct hl_mark_record *mark);

#endif

/* SPDX-License-Identifier: MIT
 *
 * The ledger: blocks, counts, peaks and ratios. The system calls are in mapping.c. One call for
 * each record of a trace, so this is the analyzer's hot path: about 40 ns a record when the live
 * table is in cache.
 */
#include "ledger.h"
#include "mapping.h"
#include "names.h"
#include "room.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A block takes [addr - 8, addr - 8 + chunk): the header before it and what it may use. */
#define HEADER_BYTES 8

void ledger_start(struct ledger *ledger, struct ledger_result *result, struct clock *clock)
{
	*ledger = (struct ledger){.result = result, .clock = clock};
	result->thrash.window = clock_ticks(clock, THRASH_WINDOW_NS);
	ledger->timeline.next_tick = UINT64_MAX;
}

static int add_realloc(struct ledger *ledger, const struct ledger_realloc *entry)
{
	struct ledger_realloc *list = room_for_one(ledger->reallocs, ledger->realloc_count,
		&ledger->realloc_capacity, sizeof(*list));
	if (!list)
		return -ENOMEM;
	ledger->reallocs = list;
	ledger->reallocs[ledger->realloc_count++] = *entry;
	return 0;
}

/* Reallocs that are under way: one that a signal handler interrupted and then forked is so in the
 * child, too, in its only thread. */
static int fork_reallocs(
	struct ledger *child, const struct ledger *parent, const struct ledger_copy *copy)
{
	int rc = 0;
	for (size_t i = 0; !rc && i < parent->realloc_count; i++) {
		struct ledger_realloc entry = parent->reallocs[i];
		uint32_t depth = entry.tid & ~LEDGER_TID_MASK;
		if (ledger_same_thread(entry.tid, copy->forked_by)) {
			entry.tid = copy->child_tid | depth;
			rc = add_realloc(child, &entry);
		} else if (entry.old.addr) {
			rc = inherit_note_block(child, &entry.old);
		}
	}
	return rc;
}

/* The blocks of before: when they came and what they pinned is of no account. */
static void own_blocks(struct ledger *ledger)
{
	size_t at = 0;
	for (struct live_block *block; (block = live_change(&ledger->live, &at));)
		block->record = 0, block->pinned = 0;
	for (size_t i = 0; i < ledger->realloc_count; i++)
		ledger->reallocs[i].old.pinned = 0;
}

int ledger_fork(struct ledger *child, const struct ledger *parent, const struct ledger_copy *copy,
	struct ledger_result *result, struct clock *clock)
{
	ledger_start(child, result, clock);
	child->memory = parent->memory;
	child->break_end = parent->break_end;
	int rc = live_copy(&child->live, &parent->live);
	if (!rc)
		rc = pages_copy(&child->pages, &parent->pages, result->phases.start_tick);
	if (!rc)
		rc = ranges_copy(&child->break_mapped, &parent->break_mapped);
	if (!rc)
		rc = ranges_copy(&child->block_mapped, &parent->block_mapped);
	if (!rc)
		rc = ranges_copy(&child->metadata_mapped, &parent->metadata_mapped);
	if (!rc)
		rc = ranges_copy(&child->arena_mapped, &parent->arena_mapped);
	if (!rc)
		rc = ranges_copy(&child->arena_open, &parent->arena_open);
	if (!rc)
		rc = inherit_copy(&child->inherit, &parent->inherit);
	if (!rc)
		rc = threads_copy(&child->threads, &parent->threads);
	if (!rc)
		rc = fork_reallocs(child, parent, copy);
	own_blocks(child);
	ledger_note_mapped(child, 0);
	result->usable_unknown = parent->result->usable_unknown;
	result->peak.requested = child->memory.requested;
	result->peak.live_blocks = child->memory.live_blocks;
	result->peak.at_requested = child->memory;
	return rc ? rc : phases_fork(&result->phases, &parent->result->phases, &child->memory);
}

void ledger_free(struct ledger *ledger)
{
	live_free(&ledger->live);
	pages_free(&ledger->pages);
	threads_free(&ledger->threads);
	ranges_free(&ledger->break_mapped);
	ranges_free(&ledger->arena_mapped);
	ranges_free(&ledger->arena_open);
	inherit_free(&ledger->inherit);
	recall_free(&ledger->recall);
	free(ledger->reallocs);
	free(ledger->freed);
	free(ledger->kept);
	free(ledger->snapshot.run);
	ranges_free(&ledger->break_again);
	ranges_free(&ledger->block_again);
	ranges_free(&ledger->block_mapped);
	ranges_free(&ledger->metadata_mapped);
}

uint64_t ledger_returned_bytes(const struct ledger_returned *returned)
{
	return returned->break_bytes + returned->arena_bytes + returned->block_bytes;
}

static double ratio_of(double held, double live)
{
	return live > 0 ? held / live : 0;
}

/* The byte clock moves by `bytes`. */
static void move_clock(struct ledger *ledger, uint64_t bytes)
{
	struct ledger_result *result = ledger->result;
	double weight = (double)bytes, live = (double)ledger->memory.requested;

	result->mapped_ratio.held += (double)memory_mapped(&ledger->memory) * weight;
	result->mapped_ratio.live += live * weight;
	result->mapped_ratio.bytes += weight;
	if (result->samples) {
		result->resident_ratio.held += (double)result->last_sample.rss_anon * weight;
		result->resident_ratio.live += live * weight;
		result->resident_ratio.bytes += weight;
	}
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

/* Where memory that becomes free now is from. */
static struct pages_gone gone_by(
	struct ledger *ledger, const struct live_block *block, uint64_t tick)
{
	uint32_t site = waits_site(&ledger->result->waits, live_caller(block));
	ledger->pages.starved |= site == WAITS_NOBODY;
	return (struct pages_gone){tick, site, (uint8_t)tally_size_class(block->size)};
}

static void drop_pages(struct ledger *ledger, const struct live_block *block, uint64_t tick)
{
	uint64_t start = block->addr - HEADER_BYTES;
	if (!in_pages(ledger, block))
		return;
	struct pages_gone gone = gone_by(ledger, block, tick);
	if (gone.site == WAITS_NOBODY)
		return;
	double pinned = pages_remove(
		&ledger->pages, start, start + (block->chunk & HL_ADDRESS_MASK), &gone);
	ledger->result->waits.sites[gone.site].pinned += pinned - block->pinned;
}

/* Unsigned inside: a hostile trace may add up to anything, and the checks for that come later. */
static void count_block(struct ledger *ledger, const struct live_block *block, bool add)
{
	struct memory *memory = &ledger->memory;
	uint64_t size = block->size, chunk = block->chunk & HL_ADDRESS_MASK;

	memory->requested = (int64_t)((uint64_t)memory->requested + (add ? size : 0 - size));
	memory->chunk = (int64_t)((uint64_t)memory->chunk + (add ? chunk : 0 - chunk));
	memory->live_blocks += add ? 1 : -1;
}

/* Counts it, and keeps the first ones. */
static void note_oddity(struct ledger *ledger, uint64_t *count, struct ledger_oddity *list)
{
	const struct stream_event *event = ledger->event;
	uint64_t place = (*count)++;
	if (place >= LEDGER_ODDITIES || !event)
		return;
	list[place] = (struct ledger_oddity){
		.addr = hl_addr_of(event->record.call.kind_addr),
		.size = event->record.call.size,
		.tick = event->record.call.tick,
		.tid = event->tid,
		.kind = (uint8_t)hl_kind_of(event->record.call.kind_addr),
	};
}

static int add_block(struct ledger *ledger, struct live_block *block, uint64_t tick)
{
	struct free_span reused = {ledger, tick, WAITS_REUSED, NULL};
	struct live_block old;
	int rc = in_pages(ledger, block) ? hold_pages(ledger, block, tick, &reused) : 0;
	if (!rc)
		rc = live_add(&ledger->live, block, &old);
	if (rc < 0)
		return rc;
	if (rc) {
		note_oddity(ledger, &ledger->result->anomalies.order_violations,
			ledger->result->order_violation);
		recall_block_gone(ledger, &ledger->recall, &old);
		count_block(ledger, &old, false);
		drop_pages(ledger, &old, tick);
	}
	count_block(ledger, block, true);
	return 0;
}

int ledger_take_in(struct ledger *ledger, const struct live_block *block)
{
	struct memory by = {.requested = (int64_t)block->size,
		.chunk = (int64_t)(block->chunk & HL_ADDRESS_MASK),
		.live_blocks = 1};
	uint64_t reused = ledger->pages.reused_pages;
	struct live_block added = *block, old;
	added.record = ledger->applied;
	int rc = live_find(&ledger->live, block->addr) || !in_pages(ledger, block)
			 ? 0
			 : hold_pages(ledger, &added, block->tick, NULL);
	if (!rc)
		rc = live_add(&ledger->live, &added, &old);
	if (rc > 0)
		recall_block_gone(ledger, &ledger->recall, &old);
	ledger->pages.reused_pages = reused; /* it was there first */
	ledger_rebase(ledger, &by);
	return rc < 0 ? rc : 0;
}

void ledger_leave_out(struct ledger *ledger, uint64_t addr)
{
	struct live_block block;
	if (!live_take(&ledger->live, addr, &block))
		return;
	recall_block_gone(ledger, &ledger->recall, &block);
	struct memory by = {.requested = (int64_t)(0 - block.size),
		.chunk = -(int64_t)(block.chunk & HL_ADDRESS_MASK),
		.live_blocks = -1};
	uint64_t start = block.addr - HEADER_BYTES;
	if (in_pages(ledger, &block))
		pages_forget(&ledger->pages, start, start + (block.chunk & HL_ADDRESS_MASK));
	ledger_rebase(ledger, &by);
}

/* held / live, when live was more than we knew. */
static double rebased(double ratio, double held, double by)
{
	return ratio > 0 ? ratio_of(held, held / ratio + by) : 0;
}

static void rebase_resident(struct ledger_ratio *ratio, double by)
{
	ratio->at_peak_live =
		rebased(ratio->at_peak_live, ratio->at_peak_live * ratio->max_live, by);
	ratio->at_peak_held = rebased(ratio->at_peak_held, ratio->max_held, by);
	ratio->live += by * ratio->bytes;
	if (ratio->max_live > 0)
		ratio->max_live += by;
}

void ledger_rebase(struct ledger *ledger, const struct memory *by)
{
	struct ledger_ratio *ratio = &ledger->result->mapped_ratio;
	struct ledger_peak *peak = &ledger->result->peak;

	memory_add(&ledger->memory, by);
	memory_add(&peak->at_requested, by);
	memory_add(&peak->at_mapped, by);
	peak->requested = memory_sum(peak->requested, by->requested);
	peak->live_blocks = memory_sum(peak->live_blocks, by->live_blocks);
	peak->mapped = memory_sum(peak->mapped, memory_mapped(by));
	ratio->held += (double)memory_mapped(by) * ratio->bytes;
	ratio->live += (double)by->requested * ratio->bytes;
	rebase_resident(&ledger->result->resident_ratio, (double)by->requested);
	timeline_rebase(&ledger->timeline, by);
	phases_rebase(&ledger->result->phases, by);
}

static int allocated(
	struct ledger *ledger, unsigned kind, uint32_t tid, const struct hl_call_record *call)
{
	struct ledger_result *result = ledger->result;
	struct tally_call *count = &result->calls[kind];
	uint32_t thread = threads_number(&ledger->threads, tid & LEDGER_TID_MASK);
	struct live_block block = {
		.addr = hl_addr_of(call->kind_addr),
		.size = call->size,
		.chunk = call->chunk,
		.tick = call->tick,
		.origin = live_origin(call->caller, thread),
		.record = ledger->applied,
	};

	count->count++;
	if (!block.addr) {
		count->failed++;
		return 0;
	}
	count->bytes += call->size;
	result->usable_unknown |= call->chunk == 0;
	struct tally_size *size = &result->sizes[tally_size_class(call->size)];
	size->count++;
	size->bytes += call->size;
	if (__builtin_expect(ledger->inherit.any, 0))
		inherit_block_made(ledger, &block);
	int rc = add_block(ledger, &block, call->tick);
	move_clock(ledger, call->size);
	note_requested(ledger, call->tick);
	return rc;
}

static int push_freed(struct ledger *ledger, const struct live_block *block, uint64_t tick)
{
	struct ledger_freed *list = room_for_one(ledger->freed, ledger->freed_count,
		&ledger->freed_capacity, sizeof(*list));
	if (!list)
		return -ENOMEM;
	ledger->freed = list;
	struct pages_gone gone = gone_by(ledger, block, tick);
	if (gone.site == WAITS_NOBODY)
		return -ENOMEM;
	ledger->freed[ledger->freed_count++] = (struct ledger_freed){.addr = block->addr,
		.bytes = block->chunk & HL_ADDRESS_MASK,
		.tick = tick,
		.site = gone.site,
		.size_class = gone.size_class};
	return 0;
}

static bool is_mapped_block(const struct live_block *block)
{
	return block->chunk >> HL_ADDRESS_BITS & HL_CHUNK_MMAPPED;
}

/* Takes a block out of the live set; false and counted if it is not there. */
static bool take_block(struct ledger *ledger, uint64_t addr, struct live_block *block)
{
	struct ledger_anomalies *anomalies = &ledger->result->anomalies;
	if (live_take(&ledger->live, addr, block)) {
		recall_block_gone(ledger, &ledger->recall, block);
		count_block(ledger, block, false);
		return true;
	}
	if (ledger->result->attached)
		ledger->result->unseen_freed++;
	else if (ledger->result->orphan)
		anomalies->inherited++;
	else
		note_oddity(ledger, &anomalies->unknown_frees, ledger->result->unknown_free);
	return false;
}

static int freed(struct ledger *ledger, unsigned kind, const struct hl_call_record *call)
{
	struct tally_call *count = &ledger->result->calls[kind];
	uint64_t addr = hl_addr_of(call->kind_addr);
	struct live_block block;

	count->count++;
	if (__builtin_expect(ledger->inherit.any, 0) && inherit_block_freed(ledger, addr))
		return -ENOMEM;
	if (!addr || !take_block(ledger, addr, &block))
		return 0;
	count->bytes += block.size;
	if (is_mapped_block(&block))
		return push_freed(ledger, &block, call->tick);
	drop_pages(ledger, &block, call->tick);
	return 0;
}

static int realloc_begin(struct ledger *ledger, uint32_t tid, const struct hl_call_record *call)
{
	if (add_realloc(ledger, &(struct ledger_realloc){.tid = tid, .tick = call->tick}))
		return -ENOMEM;
	struct ledger_realloc *entry = &ledger->reallocs[ledger->realloc_count - 1];
	uint64_t addr = hl_addr_of(call->kind_addr);
	if (__builtin_expect(ledger->inherit.any, 0) && inherit_block_freed(ledger, addr))
		return -ENOMEM;
	if (!addr || !take_block(ledger, addr, &entry->old)) {
		entry->old.addr = 0;
		return 0;
	}
	if (is_mapped_block(&entry->old))
		return push_freed(ledger, &entry->old, call->tick);
	/* Its pages stay counted until the realloc is done, or until the realloc gives memory back:
	 * a block that is resized in place does not free its pages and use them again. */
	entry->holds_pages = true;
	return 0;
}

struct ledger_realloc *ledger_realloc_of(struct ledger *ledger, uint32_t tid)
{
	for (size_t i = ledger->realloc_count; i--;)
		if (ledger->reallocs[i].tid == tid)
			return &ledger->reallocs[i];
	return NULL;
}

void ledger_drop_realloc_pages(struct ledger *ledger, struct ledger_realloc *entry)
{
	if (entry->holds_pages)
		drop_pages(ledger, &entry->old, entry->tick);
	entry->holds_pages = false;
}

static int realloc_end(struct ledger *ledger, uint32_t tid, const struct hl_call_record *call)
{
	struct ledger_realloc *entry = ledger_realloc_of(ledger, tid);
	if (!entry) {
		ledger->result->anomalies.unmatched++;
		return allocated(ledger, HL_KIND_realloc, tid, call);
	}
	struct ledger_realloc done = *entry;
	memmove(entry, entry + 1,
		(size_t)(ledger->reallocs + ledger->realloc_count - entry - 1) * sizeof(*entry));
	ledger->realloc_count--;
	if (done.old.addr)
		ledger_forget_freed(ledger, done.old.addr);

	int rc;
	if (!hl_addr_of(call->kind_addr) && call->size && done.old.addr) {
		struct tally_call *count = &ledger->result->calls[HL_KIND_realloc];
		count->count++;
		count->failed++;
		struct live_block again = done.old;
		again.record = ledger->applied;
		rc = add_block(ledger, &again, call->tick);
	} else if (!hl_addr_of(call->kind_addr) && !call->size) {
		ledger->result->calls[HL_KIND_realloc].count++; /* realloc(p, 0) frees */
		rc = 0;
	} else {
		rc = allocated(ledger, HL_KIND_realloc, tid, call);
	}
	ledger_drop_realloc_pages(ledger, &done);
	return rc;
}

/* The highest that the kernel has seen; of a process that ran before, only if it rose since the first
 * sample. */
static uint64_t peak_since(
	const struct ledger_result *result, const struct hl_sample_record *sample)
{
	bool older = (result->attached || result->windowed) &&
		     (!result->samples || sample->rss_peak == result->first_sample.rss_peak);
	return older ? 0 : sample->rss_peak;
}

/* The end is told by the process itself, at rest: what it counts just after is what was there. */
static void count_after(struct ledger *ledger, uint64_t rss_anon)
{
	struct ledger_snapshot *snapshot = &ledger->snapshot;
	struct ledger_counted *counted = &snapshot->counted;
	if (!snapshot->whole || counted->has_after)
		return;
	counted->after = rss_anon;
	counted->has_after = true;
	if (snapshot->reason == HL_RESIDENT_end)
		*counted = (struct ledger_counted){rss_anon, rss_anon, true, true};
	if (snapshot->is_peak)
		ledger->result->peak.snapshot_counted = *counted;
}

bool ledger_snapshot_of_end(const struct ledger *ledger)
{
	const struct ledger_snapshot *snapshot = &ledger->snapshot;
	return snapshot->reason == HL_RESIDENT_end ||
	       (snapshot->end_told &&
		       !memcmp(&snapshot->at_end, &ledger->memory, sizeof(ledger->memory)));
}

bool ledger_residual(const struct ledger_counted *counted, uint64_t found, int64_t *residual)
{
	uint64_t before = counted->before, after = counted->has_after ? counted->after : before;
	if (!counted->has_before)
		before = after;
	uint64_t low = before < after ? before : after, high = before < after ? after : before;
	uint64_t nearest = found < low ? low : found > high ? high : found;
	*residual = (int64_t)(nearest - found);
	return counted->has_before || counted->has_after;
}

static int sampled(struct ledger *ledger, const struct hl_sample_record *sample)
{
	struct ledger_result *result = ledger->result;
	struct ledger_ratio *ratio = &result->resident_ratio;
	struct ledger_peak *peak = &result->peak;
	uint64_t rss = sample->rss_anon + sample->rss_file + sample->rss_shmem;
	uint64_t highest = peak_since(result, sample);
	uint64_t best = rss > highest ? rss : highest;
	uint64_t own = rss - (sample->recorder < rss ? sample->recorder : rss);

	best -= sample->recorder < best ? sample->recorder : best;
	if (best > peak->rss)
		peak->rss = best;
	if (!result->samples || own > result->max_sampled_rss) {
		result->max_sampled_rss = own;
		peak->rss_tick = sample->tick;
		peak->rss_record = ledger->applied;
	}
	if (sample->recorder > peak->recorder)
		peak->recorder = sample->recorder;
	if ((double)sample->rss_anon > ratio->max_held) {
		ratio->max_held = (double)sample->rss_anon;
		ratio->at_peak_held = ratio_of(ratio->max_held, (double)ledger->memory.requested);
	}
	if (!result->samples)
		result->first_sample = *sample;
	result->samples++;
	phases_sampled(&result->phases, own);
	count_after(ledger, sample->rss_anon);
	result->last_sample = *sample;
	note_requested(ledger, sample->tick);
	return timeline_add_sample(&ledger->timeline, sample);
}

static struct phases_totals totals_of(const struct ledger *ledger)
{
	const struct ledger_result *result = ledger->result;
	return (struct phases_totals){result->calls, &result->causes, &ledger->memory};
}

static int phase_begins(struct ledger *ledger, const struct hl_phase_record *record)
{
	struct phases_totals totals = totals_of(ledger);
	return phases_begin(&ledger->result->phases, &totals, record);
}

/* Records that tell of calls, up to now. */
static uint64_t calls_of(const struct ledger *ledger)
{
	return ledger->applied - ledger->quiet;
}

bool ledger_kept_known(const struct ledger *ledger)
{
	return ledger->kept_told &&
	       (!ledger->kept_moment || ledger->kept_calls == calls_of(ledger));
}

static void list_begins(struct ledger *ledger, uint64_t flags)
{
	ledger->kept_passed =
		!(flags & HL_KEPT_ALL) && ledger->kept_all && ledger_kept_known(ledger);
	if (ledger->kept_passed)
		return;
	ledger->kept_count = 0;
	ledger->kept_told = true;
	ledger->kept_all = flags & HL_KEPT_ALL;
	ledger->kept_moment = flags & HL_KEPT_MOMENT;
	ledger->kept_calls = calls_of(ledger);
}

/* What caches hold: as was read while the process ran, or as it told itself. */
static int keeps(struct ledger *ledger, const struct hl_mark_record *record)
{
	uint64_t addr = hl_addr_of(record->kind_addr);
	if (recall_kept_change(ledger))
		return -ENOMEM;
	if (!addr) {
		list_begins(ledger, record->chunk);
		return 0;
	}
	if (ledger->kept_passed)
		return 0;
	struct ledger_kept *list = room_for_one(ledger->kept, ledger->kept_count,
		&ledger->kept_capacity, sizeof(*list));
	if (!list)
		return -ENOMEM;
	ledger->kept = list;
	ledger->kept[ledger->kept_count++] = (struct ledger_kept){
		.addr = addr, .bytes = record->size, .what = (enum hl_kept)record->chunk};
	return 0;
}

/* ---- snapshots of resident pages ------------------------------------------------------------- */

static void complete_snapshot(struct ledger *ledger)
{
	struct ledger_snapshot *snapshot = &ledger->snapshot;
	struct ledger_peak *peak = &ledger->result->peak;
	snapshot->whole = true;
	if (snapshot->reason == HL_RESIDENT_end) {
		snapshot->end_told = true;
		snapshot->at_end = ledger->memory;
	}
	snapshot->is_peak = false;
	snapshot->counted = (struct ledger_counted){
		.before = ledger->result->last_sample.rss_anon,
		.has_before = ledger->result->samples > 0,
	};
	if (snapshot->cut || snapshot->bytes <= peak->snapshot_bytes)
		return;
	peak->snapshot_bytes = snapshot->bytes;
	peak->snapshot_record = ledger->applied;
	peak->snapshot_counted = snapshot->counted;
	snapshot->is_peak = true;
}

static void snapshot_begins(struct ledger *ledger, const struct hl_mark_record *mark)
{
	struct ledger_snapshot *snapshot = &ledger->snapshot;
	uint64_t addr = hl_addr_of(mark->kind_addr);
	snapshot->count = 0;
	snapshot->bytes = 0;
	snapshot->tick = mark->tick;
	snapshot->took = mark->size;
	snapshot->left = mark->chunk;
	snapshot->reason = (unsigned)(addr & HL_RESIDENT_REASON_MASK);
	snapshot->cut = addr & HL_RESIDENT_CUT;
	snapshot->whole = false;
	if (!snapshot->left)
		complete_snapshot(ledger);
}

/* Runs that follow each other with other flags are one here. */
static int add_run(struct ledger_snapshot *snapshot, struct range run)
{
	struct range *last = snapshot->count ? &snapshot->run[snapshot->count - 1] : NULL;
	snapshot->bytes += run.end - run.start;
	if (last && last->end == run.start) {
		last->end = run.end;
		return 0;
	}
	struct range *list = room_for_one(
		snapshot->run, snapshot->count, &snapshot->capacity, sizeof(*list));
	if (!list)
		return -ENOMEM;
	snapshot->run = list;
	snapshot->run[snapshot->count++] = run;
	return 0;
}

/* What is in swap, or was never written, takes no memory. A run out of order spoils the snapshot. */
static int snapshot_run(struct ledger *ledger, const struct hl_mark_record *mark)
{
	struct ledger_snapshot *snapshot = &ledger->snapshot;
	struct range run = {hl_addr_of(mark->kind_addr), hl_addr_of(mark->kind_addr) + mark->size};
	uint64_t before = snapshot->count ? snapshot->run[snapshot->count - 1].end : 0;
	if (mark->tick != snapshot->tick || !snapshot->left)
		return 0;
	if (run.end <= run.start || run.start < before || run.end > HL_ADDRESS_MASK) {
		snapshot->left = 0;
		return 0;
	}
	if (!(mark->chunk & (HL_RESIDENT_SWAPPED | HL_RESIDENT_ZERO)) && add_run(snapshot, run))
		return -ENOMEM;
	if (!--snapshot->left)
		complete_snapshot(ledger);
	return 0;
}

/* As they are now, from the live blocks: what was free or given back before is of no account. */
static int count_pages_anew(struct ledger *ledger, uint64_t tick)
{
	size_t at = 0;
	int rc = pages_clear(&ledger->pages);
	for (struct live_block *block; !rc && (block = live_change(&ledger->live, &at));)
		rc = in_pages(ledger, block) ? hold_pages(ledger, block, tick, NULL) : 0;
	for (size_t i = 0; !rc && i < ledger->realloc_count; i++) {
		struct ledger_realloc *entry = &ledger->reallocs[i];
		entry->holds_pages = entry->old.addr && in_pages(ledger, &entry->old);
		rc = entry->holds_pages ? hold_pages(ledger, &entry->old, tick, NULL) : 0;
	}
	return rc;
}

/* The heap stays, and nothing has been counted. */
static int count_anew(struct ledger *ledger, uint64_t tick)
{
	struct ledger_result *result = ledger->result, before = *result;
	int rc;
	ranges_free(&ledger->break_again);
	ranges_free(&ledger->block_again);
	recall_forget(ledger);
	memset(result, 0, sizeof(*result));
	result->waits = before.waits;
	waits_restart(&result->waits);
	pages_pin_anew(&ledger->pages, tick);
	own_blocks(ledger);
	result->orphan = before.orphan;
	result->observed = before.observed;
	result->syscalls_unknown = before.syscalls_unknown;
	result->usable_unknown = before.usable_unknown;
	result->attached = before.attached;
	result->windowed = before.windowed;
	result->calls_unknown = before.calls_unknown;
	result->phases.start_tick = tick;
	result->thrash.window = before.thrash.window;
	timeline_restart(&ledger->timeline, &ledger->memory);
	rc = phases_fork(&result->phases, &before.phases, &ledger->memory);
	result->peak.requested = ledger->memory.requested;
	result->peak.requested_tick = tick;
	result->peak.live_blocks = ledger->memory.live_blocks;
	result->peak.at_requested = ledger->memory;
	ledger_note_mapped(ledger, tick);
	result->faults.peak = ledger->memory.resident_bytes;
	result->faults.peak_tick = tick;
	free(before.causes.list);
	triggers_free(&before.triggers);
	phases_free(&before.phases);
	return rc;
}

/* The recording begins here: pages that are free already are as new. */
static int recording_begins(struct ledger *ledger, uint64_t tick)
{
	ledger->freed_count = 0;
	int rc = count_anew(ledger, tick);
	return rc ? rc : count_pages_anew(ledger, tick);
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

int ledger_window(struct ledger *ledger, uint64_t tick)
{
	uint64_t lost = ledger->result->lost;
	int rc = count_anew(ledger, tick);
	ledger->pages.reused_pages = 0;
	ledger->result->windowed = true;
	ledger->result->lost = lost;
	keep_peaks(ledger, tick);
	return rc;
}

static int marked(struct ledger *ledger, unsigned kind, const struct stream_event *event)
{
	const struct hl_call_record *call = &event->record.call;
	if (kind == HL_KIND_realloc_begin)
		return realloc_begin(ledger, event->tid, call);
	if (kind == HL_KIND_lost)
		ledger->result->lost += call->size;
	if ((kind == HL_KIND_resident_begin || kind == HL_KIND_resident_run) &&
		recall_snapshot_changes(ledger))
		return -ENOMEM;
	if (kind == HL_KIND_resident_begin)
		snapshot_begins(ledger, &event->record.mark);
	if (kind == HL_KIND_resident_run)
		return snapshot_run(ledger, &event->record.mark);
	if (kind == HL_KIND_kept)
		return keeps(ledger, &event->record.mark);
	if (kind == HL_KIND_begin)
		return recording_begins(ledger, call->tick);
	return kind == HL_KIND_phase ? phase_begins(ledger, &event->record.phase) : 0;
}

void ledger_prefetch(const struct ledger *ledger, const struct stream_event *event)
{
	uint64_t addr = hl_addr_of(event->record.call.kind_addr);
	if (!addr)
		return;
	live_prefetch(&ledger->live, addr);
	pages_prefetch(&ledger->pages, addr - HEADER_BYTES);
}

void ledger_prefetch_again(const struct ledger *ledger, const struct stream_event *event)
{
	live_prefetch_block(&ledger->live, hl_addr_of(event->record.call.kind_addr));
}

static struct timeline_sums sums_of(const struct ledger_result *result)
{
	return (struct timeline_sums){
		.returned_bytes = ledger_returned_bytes(&result->returned),
		.thrash_cycles = result->thrash.break_.count + result->thrash.block.count,
	};
}

void ledger_pass(struct ledger *ledger, uint64_t tick)
{
	if (tick >= ledger->timeline.next_tick)
		timeline_advance(
			&ledger->timeline, tick, &ledger->memory, sums_of(ledger->result));
}

static int apply(struct ledger *ledger, const struct stream_event *event)
{
	const struct hl_call_record *call = &event->record.call;
	unsigned kind = hl_kind_of(call->kind_addr);

	ledger->applied++;
	ledger->event = event;
	ledger_pass(ledger, call->tick);
	ledger->result->events[kind]++;
	switch (name_shape(kind)) {
	case NAME_SHAPE_ALLOC:
	case NAME_SHAPE_ALIGNED:
		return allocated(ledger, kind, event->tid, call);
	case NAME_SHAPE_FREE:
		return freed(ledger, kind, call);
	case NAME_SHAPE_REALLOC:
		return realloc_end(ledger, event->tid, call);
	case NAME_SHAPE_CONTROL:
		ledger->result->calls[kind].count++;
		return 0;
	default:
		break;
	}
	if (name_is_syscall(kind)) {
		uint64_t recorders = ledger->result->recorder_calls;
		int rc = mapping_apply(ledger, event->tid, &event->record.syscall);
		ledger->quiet += ledger->result->recorder_calls - recorders;
		return rc;
	}
	ledger->quiet += kind != HL_KIND_realloc_begin;
	if (kind == HL_KIND_sample)
		return sampled(ledger, &event->record.sample);
	return marked(ledger, kind, event);
}

int ledger_apply(struct ledger *ledger, const struct stream_event *event)
{
	int rc = apply(ledger, event);
	keep_peaks(ledger, event->record.call.tick);
	return rc || !ledger->pages.starved ? rc : -ENOMEM;
}

/* ---- the end --------------------------------------------------------------------------------- */

/* The highest block of each area. */
struct highest {
	uint32_t *site;
	uint64_t *position;
};

/* What a block has pinned up to the end. */
static void finish_pins(struct ledger *ledger, const struct live_block *block, uint64_t tick,
	struct highest *highest)
{
	uint64_t start = block->addr - HEADER_BYTES;
	uint64_t end = start + (block->chunk & HL_ADDRESS_MASK), position;
	if (!in_pages(ledger, block))
		return;
	uint32_t site = waits_site(&ledger->result->waits, live_caller(block));
	ledger->pages.starved |= site == WAITS_NOBODY;
	if (site == WAITS_NOBODY)
		return;
	ledger->result->waits.sites[site].pinned +=
		pages_pinned(&ledger->pages, start, end, tick) - block->pinned;
	uint32_t area = pages_area(&ledger->pages, end - 1, &position);
	if (position < highest->position[area])
		return;
	highest->position[area] = position;
	highest->site[area] = site;
}

/* What is free at the end: it was not seen for longer. */
static void note_waiting(struct ledger *ledger, uint64_t tick, const uint32_t *holders)
{
	struct free_span span = {ledger, tick, WAITS_STILL, holders};
	pages_waiting(&ledger->pages, free_span_ends, &span);
	for (size_t i = 0; i < ledger->freed_count; i++)
		free_span_ends_alone(&span, &ledger->freed[i], ledger->freed[i].bytes);
}

static int finish_waits(struct ledger *ledger, uint64_t tick, size_t most_sites)
{
	struct ledger_result *result = ledger->result;
	size_t at = 0, areas = ledger->pages.holds.count + 1;
	struct highest highest = {
		calloc(areas, sizeof(*highest.site)), calloc(areas, sizeof(*highest.position))};
	int rc = highest.site && highest.position ? 0 : -ENOMEM;
	for (size_t i = 0; !rc && i < areas; i++)
		highest.site[i] = WAITS_NOBODY;
	for (const struct live_block *block; !rc && (block = live_next(&ledger->live, &at));)
		finish_pins(ledger, block, tick, &highest);
	for (size_t i = 0; !rc && i < ledger->realloc_count; i++)
		if (ledger->reallocs[i].holds_pages)
			finish_pins(ledger, &ledger->reallocs[i].old, tick, &highest);
	if (!rc)
		note_waiting(ledger, tick, highest.site);
	free(highest.site);
	free(highest.position);
	double scale = UINT64_C(1) << 40;
	if (!rc)
		rc = waits_finish(&result->waits,
			(double)clock_span(ledger->clock, UINT64_C(1) << 40) / scale, most_sites);
	return rc ? rc : ledger->pages.starved ? -ENOMEM : 0;
}

/* A block whose realloc has not ended; unless another one is where it was. 0 or -ENOMEM. */
static int put_back(struct ledger *ledger, struct live_block *block)
{
	struct live_block other, again;
	block->record = UINT64_MAX; /* whatever it was before, it is so after the last record */
	int rc = live_add(&ledger->live, block, &other);
	if (rc > 0)
		rc = live_add(&ledger->live, &other, &again) < 0 ? -ENOMEM : 0;
	else if (!rc) {
		count_block(ledger, block, true);
		ledger_forget_freed(ledger, block->addr);
	}
	return rc;
}

int ledger_finish(struct ledger *ledger, uint64_t tick, size_t most_sites)
{
	struct ledger_result *result = ledger->result;
	struct ledger_ratio *ratio = &result->mapped_ratio;
	const struct ledger_peak *peak = &result->peak;
	size_t at = 0;

	/* Reallocs that never ended: the program died in them, its old blocks are as they were. */
	for (size_t i = 0; i < ledger->realloc_count; i++)
		if (ledger->reallocs[i].old.addr && put_back(ledger, &ledger->reallocs[i].old))
			return -ENOMEM;
	timeline_finish(&ledger->timeline, &ledger->memory, sums_of(result));
	result->end = ledger->memory;
	struct phases_totals totals = totals_of(ledger);
	phases_finish(&result->phases, &totals, tick);
	for (const struct live_block *block; (block = live_next(&ledger->live, &at));) {
		struct tally_size *size = &result->sizes[tally_size_class(block->size)];
		size->live_count++;
		size->live_bytes += block->size;
	}
	ratio->max_held = (double)peak->mapped;
	ratio->max_live = (double)peak->requested;
	ratio->at_peak_live = ratio_of((double)memory_mapped(&peak->at_requested), ratio->max_live);
	ratio->at_peak_held = ratio_of((double)peak->mapped, (double)peak->at_mapped.requested);
	result->reused_page_bytes += ledger->pages.reused_pages << PAGES_BITS;
	triggers_finish(&result->triggers, most_sites);
	int rc = finish_waits(ledger, tick, most_sites);
	result->never_page_bytes += result->waiting.total_bytes;
	return rc;
}

void ledger_result_free(struct ledger_result *result)
{
	free(result->causes.list);
	triggers_free(&result->triggers);
	waits_free(&result->waits);
}

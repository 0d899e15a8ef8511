/* SPDX-License-Identifier: MIT
 *
 * The ledger: blocks, counts, peaks and ratios. The system calls are in mapping.c. One call for
 * each record of a trace, so this is the analyzer's hot path: about 40 ns a record when the live
 * table is in cache.
 */
#include "ledger_parts.h"
#include "names.h"

#include <stdlib.h>
#include <string.h>

uint64_t ledger_returned_bytes(const struct ledger_returned *returned)
{
	return returned->break_bytes + returned->arena_bytes + returned->block_bytes;
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
		take_birth(ledger, &old);
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
	added.after = LIVE_BEFORE;
	int rc = live_find(&ledger->live, block->addr) || !in_pages(ledger, block)
			 ? 0
			 : hold_pages(ledger, &added, block->tick, NULL);
	if (!rc)
		rc = live_add(&ledger->live, &added, &old);
	if (rc > 0) {
		recall_block_gone(ledger, &ledger->recall, &old);
		take_birth(ledger, &old);
		laid_block(&ledger->laid, &old, false);
	}
	if (rc >= 0)
		laid_block(&ledger->laid, &added, true);
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
	take_birth(ledger, &block);
	laid_block(&ledger->laid, &block, false);
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

/* `of`: a block that is resized was made then; NULL = it is a new one. */
static int allocated(struct ledger *ledger, unsigned kind, uint32_t tid,
	const struct hl_call_record *call, const struct ledger_birth *of)
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
	ledger->allocated += call->size;
	block.after = !of                        ? ledger->allocated
		      : of->after == LIVE_BEFORE ? LIVE_BEFORE
						 : LIVE_RESIZED;
	result->usable_unknown |= call->chunk == 0;
	tally_block(&result->sizes[tally_size_class(call->size)].all, call->size,
		call->chunk & HL_ADDRESS_MASK);
	if (__builtin_expect(ledger->inherit.any, 0))
		inherit_block_made(ledger, &block);
	int rc = add_block(ledger, &block, call->tick);
	if (block.after == LIVE_RESIZED && !rc)
		rc = lives_on(ledger, &block, of);
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
	note_life(ledger, &block, take_birth(ledger, &block), LIFETIMES_FREED, call->tick,
		ledger->allocated);
	if (is_mapped_block(&block))
		return push_freed(ledger, &block, call->tick);
	drop_pages(ledger, &block, call->tick);
	return 0;
}

static int realloc_begin(struct ledger *ledger, uint32_t tid, const struct hl_call_record *call)
{
	uint64_t addr = hl_addr_of(call->kind_addr);
	if (add_realloc(ledger, &(struct ledger_realloc){.tid = tid,
					.makes = !addr,
					.tick = call->tick,
					.allocated = ledger->allocated}))
		return -ENOMEM;
	struct ledger_realloc *entry = &ledger->reallocs[ledger->realloc_count - 1];
	if (__builtin_expect(ledger->inherit.any, 0) && inherit_block_freed(ledger, addr))
		return -ENOMEM;
	if (!addr || !take_block(ledger, addr, &entry->old)) {
		entry->old.addr = 0;
		entry->birth.after = LIVE_BEFORE;
		return 0;
	}
	entry->birth = take_birth(ledger, &entry->old);
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
		return allocated(ledger, HL_KIND_realloc, tid, call,
			&(struct ledger_birth){.after = LIVE_BEFORE});
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
		if (!rc && again.after == LIVE_RESIZED)
			rc = lives_on(ledger, &again, &done.birth);
	} else if (!hl_addr_of(call->kind_addr) && !call->size) {
		ledger->result->calls[HL_KIND_realloc].count++; /* realloc(p, 0) frees */
		if (done.old.addr)
			note_life(ledger, &done.old, done.birth, LIFETIMES_FREED, done.tick,
				done.allocated);
		rc = 0;
	} else {
		rc = allocated(ledger, HL_KIND_realloc, tid, call, done.makes ? NULL : &done.birth);
	}
	ledger_drop_realloc_pages(ledger, &done);
	return rc;
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

bool ledger_kept_whole(const struct ledger *ledger)
{
	return ledger->kept_told &&
	       (!ledger->kept_moment || ledger->kept_calls == calls_of(ledger));
}

bool ledger_kept_all(const struct ledger *ledger)
{
	return ledger->kept_all && !ledger->kept_left && ledger_kept_whole(ledger);
}

/* Nobody but its thread changes a cache. What has happened after the moment that the ledger has gone
 * back to does not count. */
bool ledger_kept_holds(const struct ledger *ledger, const struct ledger_kept *kept)
{
	uint32_t number;
	if (ledger_kept_whole(ledger) || !kept->tid)
		return ledger_kept_whole(ledger);
	number = id_map_find(&ledger->ran.map, kept->tid);
	if (!number)
		return true;
	const struct ledger_ran_at *at = &ledger->ran.at[number - 1];
	return at->list != ledger->kept_lists || at->calls > calls_of(ledger);
}

bool ledger_kept_known(const struct ledger *ledger)
{
	if (ledger_kept_whole(ledger) || !ledger->kept_told)
		return ledger->kept_told;
	for (size_t i = 0; i < ledger->kept_count; i++)
		if (ledger_kept_holds(ledger, &ledger->kept[i]))
			return true;
	return false;
}

/* A thread makes a call, or ends. */
static int runs(struct ledger *ledger, uint32_t tid)
{
	struct ledger_ran *ran = &ledger->ran;
	uint32_t number;
	tid &= LEDGER_TID_MASK;
	struct ledger_ran_at *list =
		room_for_one(ran->at, ran->map.count, &ran->capacity, sizeof(*list));
	if (!list)
		return -ENOMEM;
	ran->at = list;
	uint32_t before = ran->map.count;
	if (id_map_number(&ran->map, tid, UINT32_MAX, &number))
		return -ENOMEM;
	if (number > before || list[number - 1].list != ledger->kept_lists)
		list[number - 1] = (struct ledger_ran_at){ledger->kept_lists, calls_of(ledger)};
	ran->last = tid;
	return 0;
}

/* One that says less than the one before, which holds, is passed over. */
static void list_begins(struct ledger *ledger, uint32_t tid, uint64_t count, uint64_t head)
{
	uint64_t flags = head & 0xff;
	if (!(flags & HL_KEPT_ALL) && ledger->kept_all && ledger_kept_whole(ledger))
		return;
	ledger->kept_left = count;
	ledger->kept_lists++;
	ledger->ran.last = UINT32_MAX;
	ledger->kept_caches = hl_kept_caches(head);
	ledger->kept_unread = hl_kept_unread(head);
	ledger->kept_by = tid;
	ledger->kept_count = 0;
	ledger->kept_told = true;
	ledger->kept_all = flags & HL_KEPT_ALL;
	ledger->kept_moment = flags & HL_KEPT_MOMENT;
	ledger->kept_calls = calls_of(ledger);
}

/* What caches hold: as was read while the process ran, or as it told itself. One list may begin while
 * another thread's goes on. */
static int keeps(struct ledger *ledger, uint32_t tid, const struct hl_mark_record *record)
{
	uint64_t addr = hl_addr_of(record->kind_addr);
	if (recall_kept_change(ledger))
		return -ENOMEM;
	if (!addr) {
		list_begins(ledger, tid, record->size, record->chunk);
		return 0;
	}
	if (!ledger->kept_told || tid != ledger->kept_by)
		return 0;
	struct ledger_kept *list = room_for_one(ledger->kept, ledger->kept_count,
		&ledger->kept_capacity, sizeof(*list));
	if (!list)
		return -ENOMEM;
	ledger->kept = list;
	ledger->kept_left -= ledger->kept_left > 0;
	ledger->kept[ledger->kept_count++] = (struct ledger_kept){
		.addr = addr,
		.bytes = record->size,
		.what = (enum hl_kept)hl_kept_what(record->chunk),
		.part = record->chunk & HL_KEPT_PART,
		.tid = hl_kept_tid(record->chunk)};
	return 0;
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
		return ledger_snapshot_begins(ledger, event->tid, &event->record.mark);
	if (kind == HL_KIND_resident_run)
		return ledger_snapshot_run(ledger, &event->record.mark);
	if (kind == HL_KIND_kept)
		return keeps(ledger, event->tid, &event->record.mark);
	if (kind == HL_KIND_begin)
		return ledger_recording_begins(ledger, call->tick);
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

void ledger_pass(struct ledger *ledger, uint64_t tick)
{
	if (tick >= ledger->timeline.next_tick)
		timeline_advance(
			&ledger->timeline, tick, &ledger->memory, sums_of(ledger->result));
}

/* Whether caches may change: also when a thread ends, and its own goes back. */
static bool is_run(unsigned kind)
{
	return kind <= HL_KIND_realloc_begin ? !name_is_syscall(kind) : kind == HL_KIND_thread_exit;
}

static int apply(struct ledger *ledger, const struct stream_event *event)
{
	const struct hl_call_record *call = &event->record.call;
	unsigned kind = hl_kind_of(call->kind_addr);

	ledger->applied++;
	ledger->event = event;
	ledger_pass(ledger, call->tick);
	ledger->result->events[kind]++;
	if (ledger->kept_moment && event->tid != ledger->ran.last && is_run(kind) &&
		runs(ledger, event->tid))
		return -ENOMEM;
	switch (name_shape(kind)) {
	case NAME_SHAPE_ALLOC:
	case NAME_SHAPE_ALIGNED:
		return allocated(ledger, kind, event->tid, call, NULL);
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
		recorders = ledger->result->recorder_calls - recorders;
		ledger->quiet += recorders;
		if (!rc && !recorders && ledger->kept_moment)
			rc = runs(ledger, event->tid);
		return rc;
	}
	ledger->quiet += !is_run(kind);
	if (kind == HL_KIND_sample)
		return ledger_sampled(ledger, event->tid, &event->record.sample);
	return marked(ledger, kind, event);
}

int ledger_apply(struct ledger *ledger, const struct stream_event *event)
{
	int rc = apply(ledger, event);
	keep_peaks(ledger, event->record.call.tick);
	return rc || !(ledger->pages.starved || ledger->laid.starved) ? rc : -ENOMEM;
}

void ledger_result_free(struct ledger_result *result)
{
	free(result->causes.list);
	triggers_free(&result->triggers);
	waits_free(&result->waits);
	lifetimes_free(&result->lifetimes);
}

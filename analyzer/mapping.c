/* SPDX-License-Identifier: MIT
 *
 * System calls into the ledger: mapped bytes by kind, what was returned, how long it had been free,
 * and the count by cause. A failed call changes nothing but its count.
 */
#include "mapping.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

static unsigned region_of(const struct hl_syscall_record *record)
{
	return record->cause >> 16 & 0xff;
}

static unsigned arena_of(const struct hl_syscall_record *record)
{
	return (unsigned)(record->cause >> 32);
}

static unsigned reason_of(const struct hl_syscall_record *record)
{
	return record->cause >> 8 & 0xff;
}

/* A failed brk leaves the break where it was. */
static bool failed(unsigned kind, const struct hl_syscall_record *record)
{
	if (record->result < 0)
		return true;
	uint64_t before = hl_addr_of(record->kind_addr), after = (uint64_t)record->result;
	return kind == HL_KIND_brk && record->argument && record->argument != before &&
	       after == before;
}

static uint64_t distance(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

static uint64_t bytes_of(unsigned kind, const struct hl_syscall_record *record)
{
	uint64_t addr = hl_addr_of(record->kind_addr);
	if (kind == HL_KIND_brk)
		return addr ? distance(addr, (uint64_t)record->result) : 0;
	if (kind == HL_KIND_mremap)
		return distance(record->length, record->argument);
	return record->length;
}

void ledger_note_mapped(struct ledger *ledger, uint64_t tick)
{
	struct ledger_peak *peak = &ledger->result->peak;
	int64_t mapped = memory_mapped(&ledger->memory);

	if (mapped > ledger->timeline.peak_mapped)
		ledger->timeline.peak_mapped = mapped;
	if (mapped > ledger->result->phases.peak_mapped)
		ledger->result->phases.peak_mapped = mapped;
	if (mapped > peak->mapped) {
		peak->mapped = mapped;
		peak->mapped_tick = tick;
		peak->mapped_record = ledger->applied;
		peak->at_mapped = ledger->memory;
	}
}

static void change(struct ledger *ledger, int64_t *bytes, int64_t by)
{
	int64_t after;
	if (__builtin_add_overflow(*bytes, by, &after) || after > (int64_t)HL_ADDRESS_MASK) {
		ledger->result->anomalies.impossible++;
		return;
	}
	if (after < 0) {
		/* A child whose parent is missing gives back what it never took, as far as we know.
		 */
		if (!ledger->result->orphan)
			ledger->result->anomalies.impossible++;
		after = 0;
	}
	*bytes = after;
}

static uint64_t before(uint64_t tick, uint64_t since)
{
	return tick > since ? tick - since : 0;
}

static void end_wait(const struct free_span *span, uint64_t since, struct waits_one *one)
{
	struct ledger_result *result = span->ledger->result;
	struct tally_latency *times[WAITS_ENDS] = {
		&result->latency, &result->reused, &result->waiting};
	uint64_t ns = clock_span(span->ledger->clock, before(span->tick, since));
	one->end = span->end;
	one->policy_ns = ns - one->pinned_ns;
	one->ns = ns;
	tally_latency(times[span->end], ns, one->bytes);
	if (waits_add(&result->waits, one))
		span->ledger->pages.starved = true;
}

void free_span_ends(void *context, const struct pages_wait *wait)
{
	const struct free_span *span = context;
	uint64_t clear = wait->held || wait->clear_since > span->tick ? span->tick : wait->clear_since;
	struct waits_one one = {.bytes = UINT64_C(1) << PAGES_BITS,
		.pinned_ns = clock_span(span->ledger->clock, before(clear, wait->since)),
		.held = wait->held,
		.site = wait->site,
		.size_class = wait->size_class,
		.holder = !wait->held     ? wait->clear_site
			  : span->holders ? span->holders[wait->area]
					  : WAITS_NOBODY};
	end_wait(span, wait->since, &one);
}

void free_span_ends_alone(
	const struct free_span *span, const struct ledger_freed *freed, uint64_t bytes)
{
	struct waits_one one = {.bytes = bytes,
		.site = freed->site,
		.size_class = freed->size_class,
		.holder = WAITS_NOBODY};
	end_wait(span, freed->tick, &one);
}

static struct pages_taken take_pages(struct ledger *ledger, uint32_t tid, uint64_t start,
	uint64_t end, bool unmapped, uint64_t tick)
{
	struct free_span span = {ledger, tick, WAITS_RETURNED, NULL};
	struct ledger_realloc *entry =
		ledger->realloc_count ? ledger_realloc_of(ledger, tid) : NULL;
	if (entry)
		ledger_drop_realloc_pages(ledger, entry);
	return pages_return(&ledger->pages, start, end, unmapped, free_span_ends, &span);
}

/* The range is not mapped any more. Of its `bytes`, returns those that went back by this: what
 * madvise had given back before is not counted again. */
static uint64_t unmap_pages(struct ledger *ledger, uint32_t tid, uint64_t start, uint64_t end,
	uint64_t bytes, uint64_t tick)
{
	struct pages_taken taken = take_pages(ledger, tid, start, end, true, tick);
	uint64_t before = taken.returned << PAGES_BITS;

	return bytes > before ? bytes - before : 0;
}

/* Where the heap at the break lies. */
static int break_changed(struct ledger *ledger, uint64_t start, uint64_t end, bool mapped)
{
	uint64_t changed;
	if (mapped)
		return ranges_add(&ledger->break_mapped, start, end, &changed);
	return ranges_remove(&ledger->break_mapped, start, end, &changed);
}

/* What went away is not there again, even if it once was. */
static int taken_again(struct ranges *again, struct range gone, struct range range)
{
	uint64_t changed;
	int rc = gone.start < gone.end ? ranges_remove(again, gone.start, gone.end, &changed) : 0;
	return rc || range.start >= range.end
		       ? rc
		       : ranges_add(again, range.start, range.end, &changed);
}

static int brk_called(struct ledger *ledger, uint32_t tid, const struct hl_syscall_record *record)
{
	uint64_t before = hl_addr_of(record->kind_addr), after = (uint64_t)record->result;
	if (!before)
		return 0; /* only asked where it is */
	change(ledger, &ledger->memory.break_bytes, (int64_t)(after - before));
	int rc = taken_again(&ledger->break_again, (struct range){after, before},
		thrash_break(&ledger->result->thrash, record));
	if (rc)
		return rc;
	ledger->break_end = after;
	if (after >= before)
		return break_changed(ledger, before, after, true);
	ledger->result->returned.break_bytes +=
		unmap_pages(ledger, tid, after, before, before - after, record->tick);
	return break_changed(ledger, after, before, false);
}

/* Arenas: address space is reserved first and made accessible piece by piece. */
static int arena_changed(struct ledger *ledger)
{
	ledger->memory.arena_bytes = (int64_t)ledger->arena_open.bytes;
	ledger->memory.reserved_bytes =
		(int64_t)(ledger->arena_mapped.bytes - ledger->arena_open.bytes);
	return 0;
}

/* `arena`: its number, of calls of our own allocator. */
static int arena_protect(
	struct ledger *ledger, uint64_t start, uint64_t bytes, uint64_t prot, unsigned arena)
{
	uint64_t changed;
	bool open = prot & (PROT_READ | PROT_WRITE);
	int rc = ranges_add(&ledger->arena_mapped, start, start + bytes, &changed);
	if (!rc)
		rc = open ? ranges_add(&ledger->arena_open, start, start + bytes, &changed)
			  : ranges_remove(&ledger->arena_open, start, start + bytes, &changed);
	if (!rc && open && !ledger->result->observed)
		rc = pages_arena(&ledger->pages, start, arena);
	return rc ? rc : arena_changed(ledger);
}

static int arena_unmap(
	struct ledger *ledger, uint32_t tid, uint64_t start, uint64_t bytes, uint64_t tick)
{
	uint64_t changed, opened = 0;
	int rc = ranges_remove(&ledger->arena_mapped, start, start + bytes, &changed);
	if (!rc)
		rc = ranges_remove(&ledger->arena_open, start, start + bytes, &opened);
	if (rc)
		return rc;
	ledger->result->returned.arena_bytes +=
		unmap_pages(ledger, tid, start, start + bytes, opened, tick);
	pages_arena_ends(&ledger->pages, start, start + bytes);
	return arena_changed(ledger);
}

static void forget(struct ledger *ledger, size_t i)
{
	memmove(&ledger->freed[i], &ledger->freed[i + 1],
		(ledger->freed_count - i - 1) * sizeof(*ledger->freed));
	ledger->freed_count--;
}

void ledger_forget_freed(struct ledger *ledger, uint64_t addr)
{
	for (size_t i = ledger->freed_count; i--;) {
		if (ledger->freed[i].addr != addr)
			continue;
		forget(ledger, i);
		return;
	}
}

/* A mapped block goes back: the newest one that was freed inside the range, if any. A block that
 * was unmapped to make room inside a live one has no free before it. */
static void block_returned(
	struct ledger *ledger, uint64_t start, uint64_t length, uint64_t bytes, uint64_t tick)
{
	struct ledger_result *result = ledger->result;
	result->returned.block_bytes += bytes;
	for (size_t i = ledger->freed_count; i--;) {
		const struct ledger_freed *freed = &ledger->freed[i];
		if (freed->addr < start || freed->addr - start >= length)
			continue;
		free_span_ends_alone(
			&(struct free_span){ledger, tick, WAITS_RETURNED, NULL}, freed, bytes);
		forget(ledger, i);
		return;
	}
}

static int64_t *simple_region(struct ledger *ledger, unsigned region)
{
	switch (region) {
	case HL_REGION_break:
		return &ledger->memory.break_bytes; /* what was mapped because brk refused */
	case HL_REGION_metadata:
		return &ledger->memory.metadata_bytes;
	default:
		return &ledger->memory.block_bytes;
	}
}

/* Where blocks' own mappings and tables lie. */
static int simple_moved(
	struct ledger *ledger, unsigned region, struct range from, struct range to)
{
	struct ranges *ranges = region == HL_REGION_metadata ? &ledger->metadata_mapped
							     : &ledger->block_mapped;
	uint64_t changed;
	int rc = ranges_remove(ranges, from.start, from.end, &changed);
	if (!rc)
		rc = taken_again(&ledger->block_again, from, (struct range){0});
	return rc ? rc : ranges_add(ranges, to.start, to.end, &changed);
}

static int mmap_called(struct ledger *ledger, uint32_t tid, const struct hl_syscall_record *record)
{
	uint64_t start = (uint64_t)record->result;
	unsigned region = region_of(record);
	if (region != HL_REGION_arena) {
		change(ledger, simple_region(ledger, region), (int64_t)record->length);
		struct range again = region == HL_REGION_block
					     ? thrash_block(&ledger->result->thrash, record)
					     : (struct range){0};
		int rc = taken_again(&ledger->block_again, (struct range){0}, again);
		if (rc)
			return rc;
		if (region != HL_REGION_break)
			return simple_moved(ledger, region, (struct range){0},
				(struct range){start, start + record->length});
		return break_changed(ledger, start, start + record->length, true);
	}
	/* Mapping over what is there gives the pages below back. */
	uint64_t open_before = ledger->arena_open.bytes;
	int rc = arena_protect(
		ledger, start, record->length, record->argument, arena_of(record));
	if (open_before > ledger->arena_open.bytes)
		ledger->result->returned.arena_bytes +=
			unmap_pages(ledger, tid, start, start + record->length,
				open_before - ledger->arena_open.bytes, record->tick);
	return rc;
}

static int munmap_called(
	struct ledger *ledger, uint32_t tid, const struct hl_syscall_record *record)
{
	uint64_t start = hl_addr_of(record->kind_addr);
	unsigned region = region_of(record);
	if (region == HL_REGION_arena)
		return arena_unmap(ledger, tid, start, record->length, record->tick);
	change(ledger, simple_region(ledger, region), -(int64_t)record->length);
	if (region == HL_REGION_break) {
		ledger->result->returned.break_bytes += unmap_pages(
			ledger, tid, start, start + record->length, record->length, record->tick);
		return break_changed(ledger, start, start + record->length, false);
	}
	if (region != HL_REGION_metadata)
		block_returned(ledger, start, record->length, record->length, record->tick);
	if (region == HL_REGION_block)
		thrash_block(&ledger->result->thrash, record);
	return simple_moved(ledger, region, (struct range){start, start + record->length},
		(struct range){0});
}

int ledger_unmapped(struct ledger *ledger, uint64_t start, uint64_t length)
{
	uint64_t changed;
	int rc;
	if (!length || start + length < start)
		return 0;
	rc = ranges_remove(&ledger->arena_mapped, start, start + length, &changed);
	if (!rc)
		rc = ranges_remove(&ledger->arena_open, start, start + length, &changed);
	return rc ? rc : arena_changed(ledger);
}

/* Of an observed allocator: none of ours resizes an arena so. */
static int arena_resize(struct ledger *ledger, const struct hl_syscall_record *record)
{
	uint64_t start = hl_addr_of(record->kind_addr);
	int rc = ledger_unmapped(ledger, start, record->length);
	return rc ? rc
		  : arena_protect(ledger, (uint64_t)record->result, record->argument, PROT_READ, 0);
}

static int mremap_called(struct ledger *ledger, const struct hl_syscall_record *record)
{
	uint64_t start = hl_addr_of(record->kind_addr);
	if (region_of(record) == HL_REGION_arena)
		return arena_resize(ledger, record);
	change(ledger, simple_region(ledger, region_of(record)),
		(int64_t)(record->argument - record->length));
	if (record->argument < record->length)
		block_returned(ledger, start, record->length, record->length - record->argument,
			record->tick);
	return simple_moved(ledger, region_of(record), (struct range){start, start + record->length},
		(struct range){(uint64_t)record->result,
			(uint64_t)record->result + record->argument});
}

static void madvise_called(
	struct ledger *ledger, uint32_t tid, const struct hl_syscall_record *record)
{
	struct ledger_returned *returned = &ledger->result->returned;
	uint64_t start = hl_addr_of(record->kind_addr);
	if (record->argument == MADV_FREE)
		returned->offered_bytes += record->length;
	if (record->argument != MADV_DONTNEED)
		return;
	unsigned region = region_of(record);
	if (region == HL_REGION_block || region == HL_REGION_metadata) {
		returned->block_bytes += region == HL_REGION_block ? record->length : 0;
		return;
	}
	uint64_t end = start + record->length;
	uint64_t bytes = take_pages(ledger, tid, start, end, false, record->tick).used
			 << PAGES_BITS;
	if (region == HL_REGION_arena)
		returned->arena_bytes += bytes;
	else
		returned->break_bytes += bytes;
}

static int call_succeeded(
	struct ledger *ledger, uint32_t tid, unsigned kind, const struct hl_syscall_record *record)
{
	int rc = recall_areas_change(ledger);
	if (!rc && ledger->inherit.any)
		rc = inherit_mapping_moved(ledger, record);
	if (!rc)
		rc = still_call(&ledger->still, kind, record);
	if (rc)
		return rc;
	switch (kind) {
	case HL_KIND_brk:
		return brk_called(ledger, tid, record);
	case HL_KIND_mmap:
		return mmap_called(ledger, tid, record);
	case HL_KIND_munmap:
		return munmap_called(ledger, tid, record);
	case HL_KIND_mremap:
		return mremap_called(ledger, record);
	case HL_KIND_madvise:
		madvise_called(ledger, tid, record);
		return 0;
	case HL_KIND_mprotect:
		if (region_of(record) != HL_REGION_arena)
			return 0;
		return arena_protect(
			ledger, hl_addr_of(record->kind_addr), record->length, record->argument,
			arena_of(record));
	default:
		return 0;
	}
}

/* Lengths beyond any address space would overflow the sums. */
static bool absurd(const struct hl_syscall_record *record)
{
	return record->length > HL_ADDRESS_MASK >> 1 || record->argument > INT64_MAX >> 1 ||
	       (record->result > 0 && (uint64_t)record->result > HL_ADDRESS_MASK);
}

static bool is_recorders(const struct hl_syscall_record *record)
{
	return reason_of(record) == HL_REASON_recorder ||
	       hl_kind_of(record->kind_addr) == HL_KIND_other ||
	       region_of(record) == HL_REGION_recorder;
}

bool mapping_succeeded(const struct hl_syscall_record *record)
{
	return !is_recorders(record) && !failed(hl_kind_of(record->kind_addr), record) &&
	       !absurd(record);
}

bool mapping_counts(const struct hl_syscall_record *record)
{
	return !is_recorders(record) &&
	       (failed(hl_kind_of(record->kind_addr), record) || !absurd(record));
}

/* `wrong`: it changed nothing. */
static int count_call(struct ledger *ledger, const struct hl_syscall_record *record, bool *wrong)
{
	unsigned kind = hl_kind_of(record->kind_addr);
	*wrong = failed(kind, record); /* a refused call may have asked for anything */
	if (!*wrong && absurd(record)) {
		ledger->result->anomalies.impossible++;
		*wrong = true;
		return 0;
	}
	struct tally_cause cause = {
		.syscall = (uint8_t)kind,
		.reason = (uint8_t)reason_of(record),
		.call = (uint8_t)record->cause,
		.count = 1,
		.failed = *wrong,
		.bytes = *wrong ? 0 : bytes_of(kind, record),
		.ticks = record->duration,
	};
	int rc = tally_cause(&ledger->result->causes, &cause);
	return rc ? rc : timeline_add_cause(&ledger->timeline, &cause);
}

/* The call gave so many bytes back. */
static int note_returned(
	struct ledger *ledger, const struct hl_syscall_record *record, uint64_t bytes)
{
	struct ledger_result *result = ledger->result;
	struct trigger trigger = {.caller = record->caller,
		.syscall = (uint8_t)hl_kind_of(record->kind_addr),
		.reason = (uint8_t)reason_of(record),
		.call = (uint8_t)record->cause,
		.count = 1,
		.returned = bytes,
		.ticks = record->duration};
	struct tally_cause cause = {.syscall = trigger.syscall,
		.reason = trigger.reason,
		.call = trigger.call,
		.returned = bytes};
	int rc = tally_cause(&result->causes, &cause);
	return rc ? rc : triggers_add(&result->triggers, &trigger);
}

int mapping_apply(struct ledger *ledger, uint32_t tid, const struct hl_syscall_record *record)
{
	unsigned kind = hl_kind_of(record->kind_addr);
	if (kind == HL_KIND_other && reason_of(record) == HL_REASON_observed)
		return 0; /* no system call: observed.c has seen it */
	if (is_recorders(record)) {
		ledger->result->recorder_calls++;
		return 0;
	}
	bool wrong;
	uint64_t before = ledger_returned_bytes(&ledger->result->returned);
	int rc = count_call(ledger, record, &wrong);
	if (!rc && !wrong)
		rc = call_succeeded(ledger, tid, kind, record);
	uint64_t after = ledger_returned_bytes(&ledger->result->returned);
	if (!rc && after > before)
		rc = note_returned(ledger, record, after - before);
	ledger_note_mapped(ledger, record->tick);
	return rc;
}

/* ---- any call of a process ----------------------------------------------------------------- */

/* Other mappings than those that are counted can be protected, too. */
static int protect_any(struct ledger *ledger, const struct hl_syscall_record *record)
{
	uint64_t start = hl_addr_of(record->kind_addr), end = start + record->length;
	int rc = 0;
	for (size_t i = 0; !rc && i < ledger->arena_mapped.count; i++) {
		struct range range = ledger->arena_mapped.list[i];
		uint64_t from = range.start > start ? range.start : start;
		uint64_t to = range.end < end ? range.end : end;
		if (from < to)
			rc = arena_protect(ledger, from, to - from, record->argument, 0);
	}
	return rc;
}

static int move_any(struct ledger *ledger, const struct hl_syscall_record *record, uint64_t flags)
{
	uint64_t from = hl_addr_of(record->kind_addr), to = (uint64_t)record->result;
	bool counted = ranges_has(&ledger->arena_mapped, from);
	bool open = ranges_has(&ledger->arena_open, from);
	int rc = ledger_unmapped(ledger, to, record->argument);
	if (!rc && counted && !(flags & MREMAP_DONTUNMAP))
		rc = ledger_unmapped(ledger, from, record->length);
	if (!rc && counted)
		rc = arena_protect(
			ledger, to, record->argument, open ? PROT_READ : PROT_NONE, 0);
	return rc;
}

static int change_any(struct ledger *ledger, const struct hl_syscall_record *record, uint64_t flags)
{
	bool anonymous = (flags & MAP_ANONYMOUS) && (flags & MAP_TYPE) == MAP_PRIVATE;
	switch (hl_kind_of(record->kind_addr)) {
	case HL_KIND_brk:
		if (hl_addr_of(record->kind_addr))
			change(ledger, &ledger->memory.break_bytes,
				(int64_t)((uint64_t)record->result -
					  hl_addr_of(record->kind_addr)));
		return 0;
	case HL_KIND_mmap:
		return anonymous
			       ? arena_protect(ledger, (uint64_t)record->result, record->length,
					 record->argument, 0)
			       : ledger_unmapped(ledger, (uint64_t)record->result, record->length);
	case HL_KIND_munmap:
		return ledger_unmapped(ledger, hl_addr_of(record->kind_addr), record->length);
	case HL_KIND_mremap:
		return move_any(ledger, record, flags);
	case HL_KIND_mprotect:
		return protect_any(ledger, record);
	default:
		return 0;
	}
}

int mapping_apply_any(struct ledger *ledger, const struct hl_syscall_record *record, uint64_t flags)
{
	bool wrong;
	int rc = count_call(ledger, record, &wrong);
	if (!rc && !wrong)
		rc = change_any(ledger, record, flags);
	ledger_note_mapped(ledger, record->tick);
	return rc;
}

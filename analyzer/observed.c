/* SPDX-License-Identifier: MIT
 *
 * observed.h. All calls of the kernel's streams are kept, sorted by process image and time; a
 * process's are its share of them. Its log says from when to when each allocator call lasted that
 * may have made one (`other` with the reason `observed`). A system call lies inside of that with
 * time to spare on both sides, one that the program makes for itself lies outside: the middle of it
 * decides, so that the clocks may differ by half its length. By how much they differ tell the
 * recorder's own calls, which both sides have: in truth the kernel's time lies within the log's.
 */
#include "observed.h"
#include "mapping.h"

#include "heapledger/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define TID_MASK ((UINT32_C(1) << HL_TID_DEPTH_SHIFT) - 1)
#define CLOCK_CLOSE_NS UINT64_C(20000)
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum owner { OWNER_PROGRAM, OWNER_ALLOCATOR, OWNER_RECORDER };

struct call {
	struct hl_syscall_record record; /* times are ns, and ticks once a stream has it */
	uint32_t pid;
	uint32_t image;
	uint32_t tid;
	uint8_t owner;
	uint8_t cause; /* kind of the allocator call */
};

/* The calls of one stream. */
struct share {
	struct call *next, *end;
	uint32_t image;
	bool found;
	uint64_t by_others; /* attached: calls by children that share the memory */
	uint64_t doubtful;  /* calls that lay half inside an allocator call */
	uint64_t
		unlogged; /* calls by a child that shares the process's memory, or was not logged */
};

struct observed {
	struct trace *trace;
	struct call *call;
	size_t count;
	size_t capacity;
	struct share *share; /* as trace->streams */
	bool attached;       /* every call of a process counts, and its stream says from when on */
};

static bool has_mode(const struct trace *trace, unsigned least)
{
	for (size_t i = 0; i < trace->stream_count; i++)
		if (trace->streams[i].info.header.mode >= least &&
			trace->streams[i].info.header.mode != HL_MODE_IMPORTED)
			return true;
	return false;
}

/* NULL when the kernel's side is whole. */
static const char *fault(const struct trace *trace)
{
	if (!trace->kernel_count)
		return "the kernel's record of them is not there";
	for (size_t i = 0; i < trace->kernel_count; i++) {
		const struct hl_trace_header *header = &trace->kernel[i].info.header;
		if (header->lost)
			return "events of the kernel's record are lost";
		if (header->flags & HL_TRACE_INCOMPLETE)
			return "the kernel's record was not closed whole";
	}
	return NULL;
}

static int add(void *context, const struct stream_event *event)
{
	struct observed *observed = context;
	const struct hl_syscall_record *record = &event->record.syscall;
	unsigned kind = hl_kind_of(record->kind_addr);
	if (kind < HL_KIND_brk || kind > HL_KIND_mprotect)
		return 0;
	if (observed->count == observed->capacity) {
		size_t capacity = observed->capacity ? observed->capacity * 2 : 1024;
		struct call *grown = realloc(observed->call, capacity * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		observed->call = grown;
		observed->capacity = capacity;
	}
	observed->call[observed->count++] = (struct call){
		.record = *record,
		.pid = (uint32_t)(record->cause >> 32),
		.image = observed->attached ? 0 : (uint32_t)(record->trim_threshold >> 32),
		.tid = event->tid,
	};
	return 0;
}

static int by_image(const void *left, const void *right)
{
	const struct call *a = left, *b = right;
	if (a->pid != b->pid)
		return a->pid < b->pid ? -1 : 1;
	if (a->image != b->image)
		return a->image < b->image ? -1 : 1;
	if (a->record.tick != b->record.tick)
		return a->record.tick < b->record.tick ? -1 : 1;
	return a->tid < b->tid ? -1 : a->tid > b->tid;
}

static bool same_image(const struct call *a, const struct call *b)
{
	return a->pid == b->pid && a->image == b->image;
}

static struct call *image_end(const struct observed *observed, struct call *call)
{
	struct call *end = observed->call + observed->count, *at = call;
	while (at < end && same_image(at, call))
		at++;
	return at;
}

static const struct share *parent_of(const struct observed *observed, size_t stream)
{
	const struct trace *trace = observed->trace;
	uint32_t wanted = trace->streams[stream].info.header.parent_serial;
	for (size_t i = stream; wanted && i--;)
		if (trace->streams[i].info.header.serial == wanted)
			return &observed->share[i];
	return NULL;
}

/* An image that an exec began has mapped its loader before it registers: it is the last one to
 * have begun by then. One that a fork began has its parent's number, and may have made no call. */
static void find_share(struct observed *observed, size_t stream)
{
	struct share *share = &observed->share[stream];
	struct trace_stream *from = &observed->trace->streams[stream];
	const struct share *parent = parent_of(observed, stream);
	bool forked = from->info.header.parent_serial != 0;
	uint64_t start_ns =
		observed->trace->origin_ns + clock_ns(&from->clock, from->info.header.start_tick);
	struct call *end = observed->call + observed->count;

	if (forked && parent) {
		share->found = parent->found;
		share->image = parent->image;
	}
	for (struct call *at = observed->call, *next; at < end; at = next) {
		next = image_end(observed, at);
		if (at->pid != from->info.header.pid)
			continue;
		if (forked ? at->image != share->image : at->record.tick > start_ns)
			continue;
		if (share->next && at->record.tick < share->next->record.tick)
			continue;
		share->next = at;
		share->end = next;
		share->image = at->image;
		share->found = !forked || share->found;
	}
}

/* Calls by a process that has no stream, under an image that a stream has. */
static void find_unlogged(struct observed *observed, const struct call *call)
{
	const struct trace *trace = observed->trace;
	for (size_t i = 0; i < trace->stream_count; i++)
		if (trace->streams[i].info.header.pid == call->pid)
			return;
	for (size_t i = 0; i < trace->stream_count; i++)
		if (observed->share[i].found && observed->share[i].image == call->image)
			observed->share[i].unlogged++;
}

static void to_ticks(struct share *share, const struct clock *clock)
{
	for (struct call *call = share->next; call < share->end; call++) {
		uint64_t end = clock_tick(clock, call->record.tick + call->record.duration);
		call->record.tick = clock_tick(clock, call->record.tick);
		call->record.duration = end > call->record.tick ? end - call->record.tick : 0;
	}
}

/* ---- of processes that were attached to ----------------------------------------------------- */

/* The first call of a process that is not before this time, or where it would be. */
static struct call *first_from(const struct observed *observed, uint32_t pid, uint64_t tick)
{
	struct call wanted = {.pid = pid, .record.tick = tick};
	size_t low = 0, high = observed->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (by_image(&observed->call[middle], &wanted) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return observed->call + low;
}

/* Ticks of such streams are the kernel's nanoseconds. One that was not closed has no end; the
 * next of the same process takes over then. */
static void find_attached(struct observed *observed, size_t stream)
{
	struct share *share = &observed->share[stream];
	const struct trace *trace = observed->trace;
	const struct hl_trace_header *header = &trace->streams[stream].info.header;
	uint64_t until = header->end_tick ? header->end_tick : UINT64_MAX;

	for (size_t i = stream + 1; !header->end_tick && i < trace->stream_count; i++)
		if (trace->streams[i].info.header.pid == header->pid &&
			trace->streams[i].info.header.start_tick < until)
			until = trace->streams[i].info.header.start_tick;
	share->found = true;
	share->next = first_from(observed, header->pid, header->start_tick);
	share->end = first_from(observed, header->pid, until);
}

static struct share *parent_share(struct observed *observed, size_t stream)
{
	const struct share *parent = parent_of(observed, stream);
	return parent ? &observed->share[parent - observed->share] : NULL;
}

static void share_out_attached(struct observed *observed)
{
	const struct trace *trace = observed->trace;
	for (size_t i = 0; i < trace->stream_count; i++)
		find_attached(observed, i);
	for (size_t i = 0; i < trace->stream_count; i++) {
		struct share *parent = parent_share(observed, i);
		if (parent && !trace->streams[i].info.header.fork_id)
			parent->by_others +=
				(uint64_t)(observed->share[i].end - observed->share[i].next);
	}
}

bool observed_maps(const struct observed *observed, size_t stream)
{
	return observed && !observed->share[stream].by_others;
}

static void share_out(struct observed *observed)
{
	struct call *end = observed->call + observed->count;
	if (observed->attached) {
		share_out_attached(observed);
		return;
	}
	for (size_t i = 0; i < observed->trace->stream_count; i++)
		find_share(observed, i);
	for (struct call *at = observed->call; at < end; at = image_end(observed, at))
		find_unlogged(observed, at);
	for (size_t i = 0; i < observed->trace->stream_count; i++)
		to_ticks(&observed->share[i], &observed->trace->streams[i].clock);
}

int observed_read(struct observed **out, struct trace *trace, char *why, size_t why_bytes)
{
	const char *wrong = fault(trace);
	struct observed *observed;
	int rc = 0;

	*out = NULL;
	if (!has_mode(trace, HL_MODE_OBSERVE))
		return 0;
	if (wrong) {
		snprintf(why, why_bytes, "%s", wrong);
		return 0;
	}
	observed = calloc(1, sizeof(*observed));
	if (observed)
		observed->share = calloc(trace->stream_count, sizeof(*observed->share));
	if (!observed || !observed->share) {
		free(observed);
		snprintf(trace->error, sizeof(trace->error), "not enough memory");
		return -ENOMEM;
	}
	observed->trace = trace;
	observed->attached = has_mode(trace, HL_MODE_ATTACHED);
	for (size_t i = 0; !rc && i < trace->kernel_count; i++)
		rc = trace_stream_read(trace, &trace->kernel[i], add, observed);
	if (rc) {
		observed_free(observed);
		return rc;
	}
	if (observed->count)
		qsort(observed->call, observed->count, sizeof(*observed->call), by_image);
	share_out(observed);
	*out = observed;
	return 0;
}

void observed_free(struct observed *observed)
{
	if (!observed)
		return;
	free(observed->call);
	free(observed->share);
	free(observed);
}

bool observed_knows(const struct observed *observed, size_t stream, char *why, size_t why_bytes)
{
	const struct trace_stream *from = &observed->trace->streams[stream];
	const struct share *share = &observed->share[stream];
	const char *wrong = NULL;

	if (!share->found)
		wrong = "the kernel's record does not have this process";
	else if (observed->attached)
		return true;
	else if (from->info.header.lost)
		wrong = "events of the log are lost";
	else if (share->unlogged)
		wrong = "a child without a log of its own made some, perhaps in the same memory";
	else if (share->doubtful)
		wrong = "the clocks are too far apart to tell which were the allocator's";
	if (wrong)
		snprintf(why, why_bytes, "%s (%s)", wrong, from->name);
	return !wrong;
}

/* How much of a call lies in [from, to), in quarters. */
static unsigned quarters_inside(const struct hl_syscall_record *call, uint64_t from, uint64_t to)
{
	uint64_t start = call->tick > from ? call->tick : from;
	uint64_t end = call->tick + call->duration < to ? call->tick + call->duration : to;
	if (start >= end)
		return 0;
	return call->duration ? (unsigned)((end - start) * 4 / call->duration) : 4;
}

static void claim(struct share *share, uint32_t tid, const struct hl_syscall_record *span)
{
	uint64_t to = span->tick + span->duration;
	for (struct call *call = share->next; call < share->end && call->record.tick < to; call++) {
		unsigned inside = quarters_inside(&call->record, span->tick, to);
		if (call->tid != tid || !inside)
			continue;
		share->doubtful += inside < 3;
		if (inside < 2)
			continue;
		call->owner = OWNER_ALLOCATOR;
		call->cause = (uint8_t)span->cause;
	}
}

/* Brings the kernel's times of what is still to come to those of the log, if they differ for sure. A
 * kernel that is behind by more than the recorder's call lasted is not noticed here. */
static void set_clock(
	struct share *share, const struct hl_syscall_record *own, const struct hl_syscall_record *seen)
{
	int64_t least = (int64_t)(own->tick - seen->tick);
	int64_t most = least + (int64_t)own->duration - (int64_t)seen->duration;

	if (least > most || (least <= 0 && most >= 0))
		return;
	for (struct call *call = share->next; call < share->end; call++)
		call->record.tick += (uint64_t)(least + (most - least) / 2);
}

/* The recorder's own call in the kernel's record. */
static void disown(
	struct share *share, uint32_t tid, const struct hl_syscall_record *own, uint64_t slack)
{
	for (struct call *call = share->next;
		call < share->end && call->record.tick <= own->tick + own->duration + slack; call++)
		if (call->tid == tid && call->owner != OWNER_RECORDER &&
			hl_kind_of(call->record.kind_addr) == hl_kind_of(own->kind_addr) &&
			call->record.result == own->result && call->record.length == own->length) {
			call->owner = OWNER_RECORDER;
			set_clock(share, own, &call->record);
			return;
		}
}

static void look_at(struct share *share, const struct stream_event *event, uint64_t slack)
{
	const struct hl_syscall_record *record = &event->record.syscall;
	unsigned kind = hl_kind_of(record->kind_addr), reason = record->cause >> 8 & 0xff;

	if (kind == HL_KIND_other && reason == HL_REASON_observed)
		claim(share, event->tid & TID_MASK, record);
	else if (kind >= HL_KIND_brk && kind < HL_KIND_other && reason == HL_REASON_recorder)
		disown(share, event->tid & TID_MASK, record, slack);
}

/* What is mapped lies in ranges, whatever the allocator has it for. */
static int take(struct ledger *ledger, const struct call *call, uint64_t page_bytes)
{
	struct stream_event event = {.tid = call->tid, .record.syscall = call->record};
	struct hl_syscall_record *record = &event.record.syscall;
	unsigned kind = hl_kind_of(record->kind_addr);
	unsigned region = kind == HL_KIND_brk ? HL_REGION_break : HL_REGION_arena;

	record->cause = hl_cause_pack(call->cause, HL_REASON_observed, region, 0);
	if (kind != HL_KIND_brk)
		record->length = (record->length + page_bytes - 1) / page_bytes * page_bytes;
	if (kind == HL_KIND_mremap)
		record->argument = (record->argument + page_bytes - 1) / page_bytes * page_bytes;
	return ledger_apply(ledger, &event);
}

static uint64_t page_up(uint64_t bytes, uint64_t page_bytes)
{
	return (bytes + page_bytes - 1) / page_bytes * page_bytes;
}

/* As mappings have it: in whole pages, the break too. */
static int take_any(struct ledger *ledger, const struct call *call, uint64_t page_bytes)
{
	struct hl_syscall_record record = call->record;
	unsigned kind = hl_kind_of(record.kind_addr);
	uint64_t flags = record.cause_size;

	record.cause =
		hl_cause_pack((unsigned)record.cause & 0xff, HL_REASON_unknown, HL_REGION_none, 0);
	record.length = page_up(record.length, page_bytes);
	if (kind == HL_KIND_mremap)
		record.argument = page_up(record.argument, page_bytes);
	if (kind == HL_KIND_brk) {
		record.kind_addr = hl_kind_addr(
			HL_KIND_brk, page_up(hl_addr_of(record.kind_addr), page_bytes));
		record.argument = page_up(record.argument, page_bytes);
		record.result = (int64_t)page_up((uint64_t)record.result, page_bytes);
	}
	return mapping_apply_any(ledger, &record, flags);
}

/* The program's own, or an allocator's at the end of a thread: it may give back what is mapped. */
static int pass_by(struct ledger *ledger, const struct call *call)
{
	const struct hl_syscall_record *record = &call->record;
	ledger->result->foreign_calls++;
	if (hl_kind_of(record->kind_addr) != HL_KIND_munmap || record->result != 0)
		return 0;
	return ledger_unmapped(ledger, hl_addr_of(record->kind_addr), record->length);
}

/* A page of the log that the kernel makes for a thread that may not wait. */
static bool is_log_page(const struct call *call)
{
	return hl_kind_of(call->record.kind_addr) == HL_KIND_madvise &&
	       call->record.argument == MADV_POPULATE_WRITE && call->record.length == HL_PAGE_BYTES;
}

int observed_until(struct observed *observed, size_t stream, struct ledger *ledger, uint64_t until)
{
	struct share *share = &observed->share[stream];
	const struct trace_stream *from = &observed->trace->streams[stream];
	int rc = 0;

	while (!rc && share->next < share->end &&
		share->next->record.tick + share->next->record.duration < until) {
		const struct call *call = share->next++;
		if (observed->attached) {
			rc = take_any(ledger, call, from->info.header.page_bytes);
			continue;
		}
		if (call->owner == OWNER_RECORDER || is_log_page(call))
			continue;
		rc = call->owner == OWNER_ALLOCATOR
			     ? take(ledger, call, from->info.header.page_bytes)
			     : pass_by(ledger, call);
	}
	return rc;
}

int observed_before(struct observed *observed, size_t stream, struct ledger *ledger,
	const struct stream_event *event)
{
	const struct clock *clock = &observed->trace->streams[stream].clock;
	int rc = observed_until(observed, stream, ledger, event->record.word[0]);
	if (!observed->attached)
		look_at(&observed->share[stream], event, clock_ticks(clock, CLOCK_CLOSE_NS));
	return rc;
}

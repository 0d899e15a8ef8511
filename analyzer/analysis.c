/* SPDX-License-Identifier: MIT
 *
 * Runs every stream of a trace through a ledger. A forked child begins with a copy of its parent's
 * heap, so its ledger is forked when the parent's stream reaches the fork mark. It is told what
 * other threads of the parent log from there until the copy was surely made (inherit.h), and then
 * it is run: depth first, each ledger alive only as long as it is needed.
 */
#include "analysis.h"
#include "names.h"
#include "residence.h"

#include "heapledger/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MOST 1000
#define ROWS_LEAST 50
#define ROWS_ALL_STREAMS 200000
#define INSTANTS_ALL_STREAMS 24000
#define DEPTH_LIMIT 200 /* of forks within forks; deeper ones begin empty, as orphans */
#define COPIES_LIMIT 64 /* children of a parent under way at once: only a false trace has more */

/* A stream and its ledger. */
struct process {
	size_t index;
	unsigned depth;
	uint32_t forked_by; /* the thread, as in the parent's records */
	struct window_span span;
	bool entered; /* it is in the window, or was */
	bool left;
	struct ledger ledger;
	struct residence residence;
	struct map *map;             /* NULL: none is wanted, or it cannot be known */
	struct ledger_result *again; /* of the second pass: nobody reads it */
	size_t children;             /* in the second pass: forked ones that need it still */
};

/* Records that were read and not applied yet: the tables are far larger than the processor's caches,
 * and a record that finds its lines there takes a third of the time. */
#define AHEAD 16
struct ahead {
	struct stream_event event[AHEAD];
	uint64_t read;
	uint64_t given;
	int rc; /* 1 = there are no more */
};

/* Children that were marked and whose copies may not have been made yet. */
struct copies {
	struct process *child[COPIES_LIMIT];
	size_t count;
};

/* Fewer rows each when there are thousands of streams, and never more than events. */
static uint32_t rows_of(const struct analysis *analysis, const struct stream_info *info)
{
	uint64_t rows = ROWS_ALL_STREAMS / analysis->count;
	rows = rows > ROWS_MOST ? ROWS_MOST : rows < ROWS_LEAST ? ROWS_LEAST : rows;
	return (uint32_t)(info->records < rows ? info->records : rows);
}

static uint64_t instants_of(const struct analysis *analysis, const struct stream_info *info)
{
	uint64_t most = INSTANTS_ALL_STREAMS / analysis->count;
	return info->records < most ? info->records : most;
}

static int out_of_memory(struct analysis *analysis, const char *path)
{
	snprintf(analysis->trace->error, sizeof(analysis->trace->error),
		"%.300s: not enough memory to analyse it", path);
	return -ENOMEM;
}

static uint64_t first_tick(const struct trace_stream *stream)
{
	return stream->begin_tick ? stream->begin_tick : stream->info.first_tick;
}

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static struct ledger_result *result_of(struct analysis *analysis, struct process *process)
{
	if (!analysis->again)
		return &analysis->streams[process->index].result;
	process->again = calloc(1, sizeof(*process->again));
	return process->again;
}

static int begin_map(struct process *process, uint64_t first, uint64_t last)
{
	process->map = malloc(sizeof(*process->map));
	if (!process->map)
		return -ENOMEM;
	map_start(process->map, first, last);
	return 0;
}

/* A copy's only thread has the process's id. */
static int begin(struct analysis *analysis, struct process *process, const struct process *parent)
{
	struct analysis_stream *entry = &analysis->streams[process->index];
	struct trace_stream *stream = entry->stream;
	struct ledger *ledger = &process->ledger;
	int rc = 0;

	entry->done = true;
	process->span = window_span(&analysis->window, stream, process->index);
	struct ledger_result *result = result_of(analysis, process);
	if (!result)
		return out_of_memory(analysis, stream->path);
	uint64_t first = first_tick(stream);
	process->entered = !process->span.by_record && first >= process->span.from_tick;
	result->phases.start_tick = first;
	struct ledger_copy copy = {process->forked_by, stream->info.header.pid};
	result->observed = stream->info.header.mode != HL_MODE_ALLOCATOR;
	result->attached = stream->info.header.mode >= HL_MODE_ATTACHED;
	result->calls_unknown = stream->info.header.mode == HL_MODE_ATTACHED;
	result->syscalls_unknown = result->observed;
	if (parent)
		rc = ledger_fork(ledger, &parent->ledger, &copy, result, &stream->clock);
	else
		ledger_start(ledger, result, &stream->clock);
	/* A log may begin later than its process, or be of a forked one. */
	result->orphan = !parent && (stream->info.header.parent_serial ||
					    stream->info.header.mode == HL_MODE_IMPORTED);
	result->peak.requested_tick = first;
	result->peak.mapped_tick = first;
	if (!rc && (analysis->wants & ANALYSIS_TIMELINES) && !analysis->again)
		rc = timeline_start(&ledger->timeline, later(first, process->span.from_tick),
			earlier(stream->info.last_tick, process->span.to_tick),
			rows_of(analysis, &stream->info));
	if (!rc && (analysis->wants & ANALYSIS_INSTANTS) && !analysis->again && !result->observed)
		rc = instants_start(&entry->instants, later(first, process->span.from_tick),
			earlier(stream->info.last_tick, process->span.to_tick),
			instants_of(analysis, &stream->info));
	if (!rc && (analysis->wants & ANALYSIS_MAP) && !analysis->again && !result->observed)
		rc = begin_map(process, first, stream->info.last_tick);
	if (!rc && analysis->faults && !analysis->again && !result->orphan)
		rc = residence_start(&process->residence,
			faults_of(analysis->faults, process->index),
			parent ? &parent->residence : NULL);
	return rc ? out_of_memory(analysis, stream->path) : 0;
}

static void end(struct analysis *analysis, struct process *process)
{
	struct analysis_stream *entry = &analysis->streams[process->index];
	if (!analysis->again) {
		entry->timeline = process->ledger.timeline;
		entry->threads = process->ledger.threads;
		process->ledger.threads = (struct threads){0};
	}
	ledger_free(&process->ledger);
	residence_free(&process->residence);
	if (process->map)
		map_free(process->map);
	free(process->map);
	if (process->again) {
		ledger_result_free(process->again);
		phases_free(&process->again->phases);
		free(process->again);
	}
	free(process);
}

static int run_process(struct analysis *analysis, struct process *process);

static int run_copy(struct analysis *analysis, struct copies *copies, size_t i)
{
	struct process *child = copies->child[i];
	copies->count--;
	memmove(&copies->child[i], &copies->child[i + 1],
		(copies->count - i) * sizeof(*copies->child));
	inherit_close(&child->ledger);
	return run_process(analysis, child);
}

/* The thread that forks goes on, and the child begins, when the copy is made. */
static bool is_made(const struct analysis *analysis, const struct process *child,
	const struct stream_event *event)
{
	const struct stream_info *info = &analysis->streams[child->index].stream->info;
	return ledger_same_thread(event->tid, child->forked_by) || event->record.word[0] >= info->first_tick;
}

/* The parent's next event, or NULL at its end. */
static int watch_copies(
	struct analysis *analysis, struct copies *copies, const struct stream_event *event)
{
	int rc = 0;
	for (size_t i = 0; !rc && i < copies->count;) {
		struct process *child = copies->child[i];
		if (!event || is_made(analysis, child, event)) {
			rc = run_copy(analysis, copies, i);
		} else {
			i++;
			if (inherit_note(&child->ledger, event))
				rc = out_of_memory(analysis, analysis->trace->path);
		}
	}
	return rc;
}

static struct process *new_process(size_t index, unsigned depth)
{
	struct process *process = calloc(1, sizeof(*process));
	if (process) {
		process->index = index;
		process->depth = depth;
	}
	return process;
}

static int add_copy(struct analysis *analysis, struct copies *copies, size_t index,
	const struct process *parent, uint32_t tid)
{
	int rc = copies->count == COPIES_LIMIT ? run_copy(analysis, copies, 0) : 0;
	if (rc)
		return rc;
	struct process *child = new_process(index, parent->depth + 1);
	if (!child)
		return out_of_memory(analysis, analysis->streams[index].stream->path);
	child->forked_by = tid;
	copies->child[copies->count++] = child;
	return begin(analysis, child, parent);
}

static int fork_children(struct analysis *analysis, struct copies *copies,
	struct process *parent, const struct stream_event *event)
{
	const struct trace_stream *stream = analysis->streams[parent->index].stream;
	uint64_t fork_id = event->record.call.size;
	if (!fork_id || parent->depth >= DEPTH_LIMIT)
		return 0;
	int rc = 0;
	/* A child registers after its parent: its serial is higher, and the list is sorted. */
	for (size_t i = parent->index + 1; !rc && i < analysis->count; i++) {
		const struct hl_trace_header *header = &analysis->streams[i].stream->info.header;
		if (analysis->streams[i].done || header->fork_id != fork_id ||
			header->parent_serial != stream->info.header.serial)
			continue;
		parent->children -= parent->children > 0;
		rc = add_copy(analysis, copies, i, parent, event->tid);
	}
	return rc;
}

static bool is_observed(const struct analysis *analysis, const struct process *process)
{
	return analysis->observed && analysis->streams[process->index].result.observed;
}

/* What the kernel has recorded of a process until a tick: where a page fault lies is known when the
 * calls before it are. */
static int observe_until(struct analysis *analysis, struct process *process, uint64_t tick)
{
	const struct clock *clock = &analysis->streams[process->index].stream->clock;
	bool observed = is_observed(analysis, process);
	uint64_t next;
	int rc = 0;
	while (!rc && (next = residence_next(&process->residence, clock)) < tick) {
		if (observed)
			rc = observed_until(
				analysis->observed, process->index, &process->ledger, next);
		if (!rc)
			rc = residence_before(&process->residence, &process->ledger, next, 0);
		if (!rc)
			rc = residence_take(&process->residence, &process->ledger, next);
	}
	if (!rc && observed)
		rc = observed_until(analysis->observed, process->index, &process->ledger, tick);
	return rc;
}

/* ... and until its next event. */
static int observe(
	struct analysis *analysis, struct process *process, const struct stream_event *event)
{
	int rc = observe_until(analysis, process, event->record.word[0]);
	if (!rc && is_observed(analysis, process))
		rc = observed_before(analysis->observed, process->index, &process->ledger, event);
	return rc ? rc
		  : residence_before(&process->residence, &process->ledger, event->record.word[0],
			    hl_kind_of(event->record.word[1]));
}

/* Whether anything of a stream is in the window. */
static bool is_there(const struct window *window, struct trace_stream *stream)
{
	if (!window->set)
		return true;
	if (!stream->info.records)
		return false;
	return clock_ns(&stream->clock, first_tick(stream)) <= window->to_ns &&
	       clock_ns(&stream->clock, stream->info.last_tick) >= window->from_ns;
}

/* The window begins before the next event. */
static int enter(struct analysis *analysis, struct process *process)
{
	process->entered = true;
	if (observe_until(analysis, process, process->span.from_tick) ||
		ledger_window(&process->ledger, process->span.from_tick))
		return out_of_memory(analysis, analysis->streams[process->index].stream->path);
	return 0;
}

/* What the next event makes of the window: 0, 1 = it is behind it, or -errno. */
static int watch_window(
	struct analysis *analysis, struct process *process, const struct stream_event *event)
{
	const struct window_span *span = &process->span;
	uint64_t tick = event->record.word[0], applied = process->ledger.applied;
	int rc = 0;
	if (!process->entered && !window_before(span, tick, applied))
		rc = enter(analysis, process);
	process->left = window_after(span, tick, applied);
	return rc ? rc : process->left;
}

/* What was there when it was attached to, the first stream has before its begin mark, and a fork
 * has from its parent; an exec begins with nothing. */
static bool knows_mapped(const struct analysis *analysis, const struct process *process)
{
	const struct analysis_stream *entry = &analysis->streams[process->index];
	const struct hl_trace_header *header = &entry->stream->info.header;
	if (entry->result.syscalls_unknown || entry->result.orphan)
		return false;
	if (header->serial == 1 && !entry->stream->begin_tick)
		return false;
	return observed_maps(analysis->observed, process->index);
}

/* Before, the ledger was only told what there is. */
static void settle_observed(struct analysis *analysis, const struct process *process)
{
	struct ledger_result *result = &analysis->streams[process->index].result;
	if (result->observed && analysis->observed)
		result->syscalls_unknown = !observed_knows(analysis->observed, process->index,
			analysis->unknown_why, sizeof(analysis->unknown_why));
	result->mapped_unknown =
		result->attached ? !knows_mapped(analysis, process) : result->syscalls_unknown;
}

/* ---- moments --------------------------------------------------------------------------------- */

static int take_moment(
	struct analysis *analysis, struct process *process, enum moment_kind kind, uint64_t tick)
{
	struct analysis_stream *entry = &analysis->streams[process->index];
	if (entry->result.observed)
		return 0;
	entry->moments.most_sites = analysis->top;
	if (analysis->group_by == ANALYSIS_BY_SITE || analysis->group_by == ANALYSIS_BY_MODULE)
		entry->moments.most_sites = SIZE_MAX;
	entry->moments.by = analysis->group_by == ANALYSIS_BY_SIZE     ? LAYOUT_BY_SIZE
			    : analysis->group_by == ANALYSIS_BY_THREAD ? LAYOUT_BY_THREAD
								       : 0;
	if (moments_take(&entry->moments, kind, &process->ledger, tick))
		return out_of_memory(analysis, entry->stream->path);
	return 0;
}

/* After which record most was in memory: by a snapshot, or else by a sample. */
static uint64_t resident_record(const struct ledger_peak *peak)
{
	return peak->snapshot_record ? peak->snapshot_record : peak->rss_record;
}

/* What the kernel counted after the snapshot the first pass has seen. */
static int take_resident_peak(struct analysis *analysis, struct process *process,
	const struct ledger_peak *peak, uint64_t tick)
{
	struct moments *moments = &analysis->streams[process->index].moments;
	size_t count = moments->count;
	int rc = take_moment(analysis, process, MOMENT_RESIDENT_PEAK, tick);
	if (!rc && moments->count > count && peak->snapshot_record)
		moments->list[count].layout.resident.counted = peak->snapshot_counted;
	return rc;
}

/* A record has been applied. In the first pass the last phase has ended with a mark; in the second
 * it may be a peak. */
static int at_record(
	struct analysis *analysis, struct process *process, const struct stream_event *event)
{
	const struct ledger_peak *peak = &analysis->streams[process->index].result.peak;
	uint64_t applied = process->ledger.applied;
	/* A peak that the window began with was there before. */
	uint64_t tick = later(event->record.call.tick, process->span.from_tick);
	int rc = 0;
	if (!analysis->again)
		return process->entered && hl_kind_of(event->record.call.kind_addr) == HL_KIND_phase
			       ? take_moment(analysis, process, MOMENT_PHASE, tick)
			       : 0;
	if (applied == resident_record(peak))
		rc = take_resident_peak(analysis, process, peak, tick);
	if (!rc && applied == peak->mapped_record)
		rc = take_moment(analysis, process, MOMENT_MAPPED_PEAK, tick);
	return rc;
}

static size_t count_children(const struct analysis *analysis, size_t parent)
{
	uint32_t serial = analysis->streams[parent].stream->info.header.serial;
	size_t count = 0;
	for (size_t i = parent + 1; i < analysis->count; i++) {
		const struct hl_trace_header *header = &analysis->streams[i].stream->info.header;
		count += header->fork_id && header->parent_serial == serial;
	}
	return count;
}

/* The second pass has seen all of a stream that it wants, and the children that need it were copied. */
static bool is_over(const struct analysis *analysis, const struct process *process,
	const struct copies *copies)
{
	const struct ledger_peak *peak = &analysis->streams[process->index].result.peak;
	return analysis->again && !process->children && !copies->count &&
	       process->ledger.applied >= resident_record(peak) &&
	       process->ledger.applied >= peak->mapped_record;
}

/* ---- a stream -------------------------------------------------------------------------------- */

/* The next record, and 1; what it needs of the ledger's tables was asked for AHEAD records before. */
static int next_event(struct ahead *ahead, struct stream_reader *reader,
	const struct ledger *ledger, const struct stream_event **event)
{
	const struct stream_event *read;
	while (!ahead->rc && ahead->read - ahead->given < AHEAD) {
		int rc = stream_reader_next(reader, &read);
		if (rc <= 0) {
			ahead->rc = rc ? rc : 1;
			break;
		}
		ahead->event[ahead->read++ % AHEAD] = *read;
		ledger_prefetch(ledger, read);
	}
	if (ahead->given == ahead->read)
		return ahead->rc < 0 ? ahead->rc : 0;
	*event = &ahead->event[ahead->given++ % AHEAD];
	return 1;
}

static bool wants_instants(const struct analysis *analysis, const struct process *process)
{
	return (analysis->wants & ANALYSIS_INSTANTS) && !analysis->again && process->entered;
}

static int run_events(struct analysis *analysis, struct process *process, struct copies *copies,
	struct stream_reader *reader)
{
	const struct stream_event *event;
	struct ahead ahead = {.rc = 0};
	int rc = 0;
	process->children = analysis->again ? count_children(analysis, process->index) : 0;
	while (!is_over(analysis, process, copies) &&
		(rc = next_event(&ahead, reader, &process->ledger, &event)) > 0) {
		rc = analysis->window.set ? watch_window(analysis, process, event) : 0;
		if (rc < 0)
			return rc;
		if (rc > 0)
			break;
		if (observe(analysis, process, event))
			return out_of_memory(analysis, analysis->trace->path);
		rc = copies->count ? watch_copies(analysis, copies, event) : 0;
		if (rc)
			return rc;
		if (process->map &&
			map_before(process->map, &process->ledger, event->record.call.tick))
			return out_of_memory(analysis, analysis->trace->path);
		if (wants_instants(analysis, process) &&
			instants_before(&analysis->streams[process->index].instants,
				&process->ledger, event->record.call.tick))
			return out_of_memory(analysis, analysis->trace->path);
		if (ledger_apply(&process->ledger, event))
			return out_of_memory(
				analysis, analysis->streams[process->index].stream->path);
		residence_after(&process->residence, &process->ledger);
		rc = at_record(analysis, process, event);
		if (!rc && hl_kind_of(event->record.call.kind_addr) == HL_KIND_fork)
			rc = fork_children(analysis, copies, process, event);
		if (rc)
			return rc;
	}
	return rc < 0 ? rc : watch_copies(analysis, copies, NULL);
}

/* Of a window that begins with the last event, or has nothing of the stream. */
static int enter_last(struct analysis *analysis, struct process *process)
{
	if (process->entered || !is_there(&analysis->window, analysis->streams[process->index].stream))
		return 0;
	return enter(analysis, process);
}

/* Of the two the one whose heap is shown: by what it had mapped, if that is known. */
static bool is_larger(const struct ledger_result *a, const struct ledger_result *b)
{
	if (a->mapped_unknown || b->mapped_unknown)
		return a->peak.requested > b->peak.requested;
	return a->peak.mapped > b->peak.mapped;
}

/* Whether add_up will prefer it to the one whose map is kept: of equal ones the first. */
static bool is_shown(const struct analysis *analysis, size_t index)
{
	const struct ledger_result *result = &analysis->streams[index].result;
	const struct ledger_result *kept = &analysis->streams[analysis->map_stream].result;
	return !analysis->map_known || is_larger(result, kept) ||
	       (index < analysis->map_stream && !is_larger(kept, result));
}

static int finish_map(struct analysis *analysis, struct process *process)
{
	int rc = map_finish(process->map, &process->ledger);
	if (rc || !is_shown(analysis, process->index))
		return rc;
	map_free(&analysis->map);
	analysis->map = *process->map;
	analysis->map_stream = process->index;
	analysis->map_known = true;
	*process->map = (struct map){0};
	return 0;
}

static int finish(struct analysis *analysis, struct process *process)
{
	uint64_t tick = earlier(
		analysis->streams[process->index].stream->info.last_tick, process->span.to_tick);
	settle_observed(analysis, process);
	if (!process->entered)
		return 0;
	if (residence_finish(&process->residence, &process->ledger) ||
		(process->map && finish_map(analysis, process)))
		return out_of_memory(analysis, analysis->trace->path);
	if (instants_finish(&analysis->streams[process->index].instants, &process->ledger) ||
		ledger_finish(&process->ledger, tick, analysis_top(analysis, WAITS_SITES)))
		return out_of_memory(analysis, analysis->trace->path);
	return take_moment(analysis, process, MOMENT_END, tick);
}

/* Runs a process that has begun to its end, and frees it. */
static int run_process(struct analysis *analysis, struct process *process)
{
	struct analysis_stream *entry = &analysis->streams[process->index];
	struct stream_reader *reader = NULL;
	struct copies copies = {0};
	int fd = -1;

	int rc = trace_stream_open(analysis->trace, entry->stream, &reader, &fd);
	if (!rc)
		rc = run_events(analysis, process, &copies, reader);
	if (!rc && !analysis->again)
		rc = enter_last(analysis, process);
	if (!rc && observe_until(analysis, process, process->left ? process->span.to_tick : UINT64_MAX))
		rc = out_of_memory(analysis, entry->stream->path);
	if (!rc && !analysis->again)
		rc = finish(analysis, process);
	while (copies.count)
		end(analysis, copies.child[--copies.count]);
	end(analysis, process);
	return trace_stream_close(analysis->trace, reader, fd, rc);
}

/* A stream whose parent's heap is not known or was empty. */
static int run_stream(struct analysis *analysis, size_t index)
{
	struct process *process = new_process(index, 0);
	if (!process)
		return out_of_memory(analysis, analysis->streams[index].stream->path);
	int rc = begin(analysis, process, NULL);
	if (!rc)
		return run_process(analysis, process);
	end(analysis, process);
	return rc;
}

uint64_t analysis_calls(const struct ledger_result *result)
{
	uint64_t count = 0;
	for (unsigned kind = 0; kind < HL_KIND_LIMIT; kind++)
		count += result->calls[kind].count;
	return count;
}

uint64_t analysis_syscalls(const struct ledger_result *result, unsigned kind)
{
	uint64_t count = 0;
	for (size_t i = 0; i < result->causes.count; i++)
		if (result->causes.list[i].syscall == kind)
			count += result->causes.list[i].count;
	return count;
}

uint64_t analysis_all_syscalls(const struct ledger_result *result)
{
	uint64_t count = 0;
	for (size_t i = 0; i < result->causes.count; i++)
		count += result->causes.list[i].count;
	return count;
}

uint64_t analysis_lost(const struct analysis_stream *stream)
{
	uint64_t by_header = stream->stream->info.header.lost;
	return by_header > stream->result.lost ? by_header : stream->result.lost;
}

bool analysis_stream_complete(const struct analysis_stream *stream)
{
	return !(stream->stream->info.header.flags & HL_TRACE_INCOMPLETE) && !analysis_lost(stream);
}

bool analysis_ran_on(const struct trace_stream *stream)
{
	const struct hl_trace_header *header = &stream->info.header;
	return header->end == HL_TRACE_END_DETACHED && !(header->flags & HL_TRACE_INCOMPLETE);
}

bool analysis_imported(const struct analysis *analysis)
{
	const struct trace *trace = analysis->trace;
	if (!trace->stream_count)
		return trace_imported(trace) != NULL;
	return trace->streams[0].info.header.mode == HL_MODE_IMPORTED;
}

const struct trace_stream *analysis_program(const struct analysis *analysis)
{
	const struct trace *trace = analysis->trace;
	const struct trace_stream *program = NULL;
	for (size_t i = 0; i < trace->stream_count; i++)
		if (trace->streams[i].info.header.pid == trace->streams[0].info.header.pid)
			program = &trace->streams[i];
	return program;
}

static void add_cycles(struct thrash_cycles *total, const struct thrash_cycles *cycles)
{
	total->count += cycles->count;
	total->bytes += cycles->bytes;
	total->ticks += cycles->ticks;
	total->faults += cycles->faults;
	if (cycles->largest > total->largest)
		total->largest = cycles->largest;
}

static int add_counts(struct ledger_result *total, const struct ledger_result *result)
{
	for (unsigned i = 0; i < HL_KIND_LIMIT; i++) {
		total->events[i] += result->events[i];
		total->calls[i].count += result->calls[i].count;
		total->calls[i].failed += result->calls[i].failed;
		total->calls[i].bytes += result->calls[i].bytes;
	}
	for (size_t i = 0; i < result->causes.count; i++)
		if (tally_cause(&total->causes, &result->causes.list[i]))
			return -ENOMEM;
	total->recorder_calls += result->recorder_calls;
	total->observed |= result->observed;
	total->syscalls_unknown |= result->syscalls_unknown;
	total->foreign_calls += result->foreign_calls;
	total->attached |= result->attached;
	total->unseen_freed += result->unseen_freed;
	total->returned.break_bytes += result->returned.break_bytes;
	total->returned.arena_bytes += result->returned.arena_bytes;
	total->returned.block_bytes += result->returned.block_bytes;
	total->returned.offered_bytes += result->returned.offered_bytes;
	total->thrash.faults_known &= result->thrash.faults_known;
	add_cycles(&total->thrash.break_, &result->thrash.break_);
	add_cycles(&total->thrash.block, &result->thrash.block);
	if (waits_merge(&total->waits, &result->waits))
		return -ENOMEM;
	tally_latency_merge(&total->latency, &result->latency);
	tally_latency_merge(&total->reused, &result->reused);
	tally_latency_merge(&total->waiting, &result->waiting);
	total->reused_page_bytes += result->reused_page_bytes;
	total->never_page_bytes += result->never_page_bytes;
	total->anomalies.unknown_frees += result->anomalies.unknown_frees;
	total->anomalies.order_violations += result->anomalies.order_violations;
	total->anomalies.unmatched += result->anomalies.unmatched;
	total->anomalies.inherited += result->anomalies.inherited;
	total->anomalies.impossible += result->anomalies.impossible;
	return 0;
}

/* Causes sorted by count, most first; equal ones by name, so that the order is always the same. */
static int by_count(const void *left, const void *right)
{
	const struct tally_cause *a = left, *b = right;
	if (a->count != b->count)
		return a->count > b->count ? -1 : 1;
	if (a->syscall != b->syscall)
		return a->syscall < b->syscall ? -1 : 1;
	if (a->reason != b->reason)
		return a->reason < b->reason ? -1 : 1;
	return a->call < b->call ? -1 : a->call > b->call;
}

static void sort_causes(struct tally_causes *causes)
{
	if (causes->count)
		qsort(causes->list, causes->count, sizeof(*causes->list), by_count);
}

/* Who attaches to a process asks about that one, be its children larger. */
static bool may_be_main(const struct analysis *analysis, const struct analysis_stream *entry)
{
	return !entry->result.attached || entry->stream->info.header.pid ==
						  analysis->trace->streams[0].info.header.pid;
}

static int add_up(struct analysis *analysis)
{
	struct ledger_result *total = &analysis->total;
	bool calls_unknown = analysis->count > 0;
	total->thrash.faults_known = analysis->count > 0;
	analysis->first_ns = UINT64_MAX;
	json_t *session = analysis->trace->session;
	analysis->complete = analysis->count > 0 && !analysis->trace->missing_count &&
			     !json_is_false(json_object_get(session, "complete")) &&
			     !json_integer_value(json_object_get(session, "unrecorded_processes"));
	for (size_t i = 0; i < analysis->count; i++) {
		struct analysis_stream *entry = &analysis->streams[i];
		struct stream_info *info = &entry->stream->info;
		sort_causes(&entry->result.causes);
		if (add_counts(total, &entry->result))
			return out_of_memory(analysis, analysis->trace->path);
		total->lost += analysis_lost(entry);
		analysis->trace_bytes += info->size;
		analysis->complete = analysis->complete && analysis_stream_complete(entry);
		if (may_be_main(analysis, entry) &&
			is_larger(&entry->result, &analysis->streams[analysis->main].result))
			analysis->main = i;
		if (!info->records)
			continue;
		uint64_t first = clock_ns(&entry->stream->clock, first_tick(entry->stream));
		uint64_t last = clock_ns(&entry->stream->clock, info->last_tick);
		if (analysis->window.set) {
			first = later(first, analysis->window.from_ns);
			last = earlier(last, analysis->window.to_ns);
		}
		analysis->first_ns = first < analysis->first_ns ? first : analysis->first_ns;
		analysis->last_ns = last > analysis->last_ns ? last : analysis->last_ns;
	}
	if (analysis->first_ns > analysis->last_ns)
		analysis->first_ns = analysis->last_ns = 0;
	sort_causes(&total->causes);
	for (size_t i = 0; i < analysis->count; i++)
		calls_unknown = calls_unknown && analysis->streams[i].result.calls_unknown;
	if (analysis->count) {
		const struct ledger_result *most = &analysis->streams[analysis->main].result;
		total->peak = most->peak;
		total->end = most->end;
		total->mapped_ratio = most->mapped_ratio;
		total->resident_ratio = most->resident_ratio;
		total->samples = most->samples;
		total->faults = most->faults;
		total->last_sample = most->last_sample;
		total->phases = most->phases;
		total->usable_unknown = most->usable_unknown;
		total->first_sample = most->first_sample;
		total->mapped_unknown = most->mapped_unknown;
		total->calls_unknown = calls_unknown;
	}
	return 0;
}

/* Else it is of no interest, and neither is what it forked. */
static bool begins_before_end(const struct analysis *analysis, size_t index)
{
	struct trace_stream *stream = analysis->streams[index].stream;
	return !analysis->window.set ||
	       clock_ns(&stream->clock, first_tick(stream)) <= analysis->window.to_ns;
}

static void free_stream(struct analysis_stream *entry)
{
	ledger_result_free(&entry->result);
	phases_free(&entry->result.phases);
	groups_free(entry);
	moments_free(&entry->moments);
	threads_free(&entry->threads);
	timeline_free(&entry->timeline);
	instants_free(&entry->instants);
}

/* Streams that have nothing in the window. */
static void leave_out(struct analysis *analysis)
{
	size_t kept = 0;
	for (size_t i = 0; i < analysis->count; i++) {
		struct analysis_stream *entry = &analysis->streams[i];
		if (is_there(&analysis->window, entry->stream))
			analysis->streams[kept++] = *entry;
		else
			free_stream(entry);
	}
	analysis->count = kept;
}

static int run_all(struct analysis *analysis)
{
	int rc = 0;
	for (size_t i = 0; i < analysis->count; i++)
		analysis->streams[i].done = false;
	for (size_t i = 0; !rc && i < analysis->count; i++)
		if (!analysis->streams[i].done && begins_before_end(analysis, i))
			rc = run_stream(analysis, i);
	return rc;
}

static bool any_observed(const struct analysis *analysis)
{
	bool any = false;
	for (size_t i = 0; i < analysis->count; i++)
		any = any || analysis->streams[i].result.observed;
	return any;
}

int analysis_run(struct analysis *analysis, struct trace *trace, unsigned wants)
{
	*analysis = (struct analysis){.trace = trace,
		.count = trace->stream_count,
		.wants = wants,
		.top = analysis->top,
		.group_by = analysis->group_by,
		.window = analysis->window};
	if (analysis->count)
		analysis->streams = calloc(analysis->count, sizeof(*analysis->streams));
	if (analysis->count && !analysis->streams) {
		analysis->count = 0;
		return out_of_memory(analysis, trace->path);
	}
	int rc = observed_read(
		&analysis->observed, trace, analysis->unknown_why, sizeof(analysis->unknown_why));
	if (!rc)
		rc = faults_read(&analysis->faults, trace, analysis->faults_why,
			sizeof(analysis->faults_why));
	if (analysis_imported(analysis))
		snprintf(analysis->unknown_why, sizeof(analysis->unknown_why),
			"an imported log has none");
	for (size_t i = 0; i < analysis->count; i++)
		analysis->streams[i].stream = &trace->streams[i];
	if (!rc)
		rc = run_all(analysis);
	if (!rc && (wants & ANALYSIS_PEAKS) && !any_observed(analysis)) {
		analysis->again = true;
		rc = run_all(analysis);
	}
	leave_out(analysis);
	for (size_t i = 0; i < analysis->count; i++)
		moments_sort(&analysis->streams[i].moments);
	return rc ? rc : add_up(analysis);
}

void analysis_free(struct analysis *analysis)
{
	for (size_t i = 0; i < analysis->count; i++)
		free_stream(&analysis->streams[i]);
	map_free(&analysis->map);
	observed_free(analysis->observed);
	faults_free(analysis->faults);
	ledger_result_free(&analysis->total);
	free(analysis->streams);
	*analysis = (struct analysis){0};
}

/* SPDX-License-Identifier: MIT
 *
 * Runs every stream of a trace through a ledger. A forked child begins with a copy of its parent's
 * heap, so its ledger is forked when the parent's stream reaches the fork mark, and the child is run
 * when its copy was made (analysis_forks.c): depth first, each ledger alive only as long as it is
 * needed.
 */
#include "analysis_parts.h"
#include "names.h"
#include "progress.h"

#include "heapledger/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MOST 1000
#define ROWS_LEAST 50
#define ROWS_ALL_STREAMS 200000
#define INSTANTS_ALL_STREAMS 24000

/* Records that were read and not applied yet: the tables are far larger than the processor's caches,
 * and a record that finds its lines there takes a third of the time. */
#define AHEAD 16
struct ahead {
	struct stream_event event[AHEAD];
	uint64_t read;
	uint64_t given;
	int rc; /* 1 = there are no more */
};

/* Fewer rows each when there are thousands of streams, and never more than events. */
static uint32_t rows_of(const struct analysis *analysis, const struct stream_info *info)
{
	uint64_t rows = ROWS_ALL_STREAMS / analysis->count;
	rows = rows > ROWS_MOST ? ROWS_MOST : rows < ROWS_LEAST ? ROWS_LEAST : rows;
	return (uint32_t)(info->records < rows ? info->records : rows);
}

/* The same of what is laid out. */
static uint64_t instants_of(const struct analysis *analysis, const struct stream_info *info)
{
	uint64_t most = INSTANTS_ALL_STREAMS / analysis->count;
	return info->records < most ? info->records : most;
}

static int begin_instants(struct analysis *analysis, struct process *process)
{
	struct analysis_stream *entry = &analysis->streams[process->index];
	const struct stream_info *info = &entry->stream->info;
	uint64_t first = later(first_tick(entry->stream), process->span.from_tick);
	uint64_t last = earlier(info->last_tick, process->span.to_tick);
	uint64_t most = instants_of(analysis, info);
	process->ledger.still.wanted = true;
	int rc = instants_start(&entry->instants, first, last, most);
	return rc ? rc : snapshots_start(&entry->snapshots, first, last, most);
}

int analysis_out_of_memory(struct analysis *analysis, const char *path)
{
	snprintf(analysis->trace->error, sizeof(analysis->trace->error),
		"%.300s: not enough memory to analyse it", path);
	return -ENOMEM;
}

static int begin_map(struct process *process, uint64_t first, uint64_t last)
{
	process->map = malloc(sizeof(*process->map));
	if (!process->map)
		return -ENOMEM;
	map_start(process->map, first, last);
	process->ledger.still.wanted = true;
	return laid_start(&process->ledger.laid, &process->ledger.live);
}

/* A copy's only thread has the process's id. */
int process_begin(struct analysis *analysis, struct process *process, const struct process *parent)
{
	struct analysis_stream *entry = &analysis->streams[process->index];
	struct trace_stream *stream = entry->stream;
	struct ledger *ledger = &process->ledger;
	int rc = 0;

	entry->done = true;
	process->span = window_span(&analysis->window, stream, process->index);
	struct ledger_result *result = &entry->result;
	uint64_t first = first_tick(stream);
	process->entered = !process->span.by_record && first >= process->span.from_tick;
	result->phases.start_tick = first;
	struct ledger_copy copy = {process->forked_by, stream->info.header.pid};
	result->elsewhere = stream->elsewhere;
	result->observed = result->elsewhere || stream->info.header.mode != HL_MODE_ALLOCATOR;
	result->attached = stream->info.header.mode >= HL_MODE_ATTACHED;
	result->calls_unknown = result->elsewhere || stream->info.header.mode == HL_MODE_ATTACHED;
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
	ledger->recall.wanted = analysis->peaks;
	if (!rc && (analysis->wants & ANALYSIS_TIMELINES))
		rc = timeline_start(&ledger->timeline, later(first, process->span.from_tick),
			earlier(stream->info.last_tick, process->span.to_tick),
			rows_of(analysis, &stream->info));
	if (!rc && (analysis->wants & ANALYSIS_INSTANTS) && !result->observed)
		rc = begin_instants(analysis, process);
	if (!rc && (analysis->wants & ANALYSIS_MAP) && !result->observed)
		rc = begin_map(process, first, stream->info.last_tick);
	if (!rc && analysis->faults && !result->orphan && !result->elsewhere)
		rc = residence_start(&process->residence,
			faults_of(analysis->faults, process->index),
			parent ? &parent->residence : NULL);
	return rc ? analysis_out_of_memory(analysis, stream->path) : 0;
}

static void end(struct analysis *analysis, struct process *process)
{
	struct analysis_stream *entry = &analysis->streams[process->index];
	entry->timeline = process->ledger.timeline;
	entry->threads = process->ledger.threads;
	process->ledger.threads = (struct threads){0};
	ledger_free(&process->ledger);
	residence_free(&process->residence);
	if (process->map)
		map_free(process->map);
	free(process->map);
	free(process);
}

static bool is_observed(const struct analysis *analysis, const struct process *process)
{
	const struct ledger_result *result = &analysis->streams[process->index].result;
	return analysis->observed && result->observed && !result->elsewhere;
}

int process_observe_until(struct analysis *analysis, struct process *process, uint64_t tick)
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
	int rc = process_observe_until(analysis, process, event->record.word[0]);
	if (!rc && is_observed(analysis, process))
		rc = observed_before(analysis->observed, process->index, &process->ledger, event);
	return rc ? rc
		  : residence_before(&process->residence, &process->ledger, event->record.word[0],
			    hl_kind_of(event->record.word[1]));
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
	if (is_observed(analysis, process))
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
	if (analysis->group_by == ANALYSIS_BY_SITE || analysis->group_by == ANALYSIS_BY_MODULE ||
		(analysis->wants & ANALYSIS_SITES && kind == MOMENT_MAPPED_PEAK))
		entry->moments.most_sites = SIZE_MAX;
	entry->moments.by = analysis->group_by == ANALYSIS_BY_SIZE     ? LAYOUT_BY_SIZE
			    : analysis->group_by == ANALYSIS_BY_THREAD ? LAYOUT_BY_THREAD
								       : 0;
	if (moments_take(&entry->moments, kind, &process->ledger, tick))
		return analysis_out_of_memory(analysis, entry->stream->path);
	return 0;
}

static int take_peak(
	struct analysis *analysis, struct process *process, enum recall_moment which)
{
	struct moments *moments = &analysis->streams[process->index].moments;
	const struct ledger_peak *peak = &process->ledger.result->peak;
	bool resident = which == RECALL_RESIDENT_PEAK;
	size_t count = moments->count;
	/* A peak that the window began with was there before. */
	uint64_t tick = later(process->ledger.recall.point[which].tick, process->span.from_tick);
	if (!resident)
		ledger_count_peak(&process->ledger);
	int rc = take_moment(analysis, process,
		resident ? MOMENT_RESIDENT_PEAK : MOMENT_MAPPED_PEAK, tick);
	/* What the kernel counted after the snapshot. */
	if (!rc && resident && moments->count > count && peak->snapshot_record)
		moments->list[count].layout.resident.counted = peak->snapshot_counted;
	return rc;
}

/* The later one first: the ledger only goes back. */
static int take_peaks(struct analysis *analysis, struct process *process)
{
	const struct recall_point *point = process->ledger.recall.point;
	enum recall_moment order[] = {RECALL_MAPPED_PEAK, RECALL_RESIDENT_PEAK};
	int rc = 0;
	if (point[RECALL_RESIDENT_PEAK].since > point[RECALL_MAPPED_PEAK].since) {
		order[0] = RECALL_RESIDENT_PEAK;
		order[1] = RECALL_MAPPED_PEAK;
	}
	for (size_t i = 0; !rc && i < RECALL_MOMENTS; i++) {
		if (!point[order[i]].since)
			continue;
		if (recall_go_back(&process->ledger, order[i]))
			return analysis_out_of_memory(analysis, analysis->trace->path);
		rc = take_peak(analysis, process, order[i]);
	}
	return rc;
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
	if (ahead->given + AHEAD / 2 < ahead->read)
		ledger_prefetch_again(ledger, &ahead->event[(ahead->given + AHEAD / 2) % AHEAD]);
	*event = &ahead->event[ahead->given++ % AHEAD];
	return 1;
}

static bool wants_instants(const struct analysis *analysis, const struct process *process)
{
	return (analysis->wants & ANALYSIS_INSTANTS) && process->entered;
}

/* The record was of a snapshot or of what the kernel counts. */
static int watch_snapshots(
	struct analysis *analysis, const struct process *process, const struct stream_event *event)
{
	unsigned kind = hl_kind_of(event->record.call.kind_addr);
	if (kind != HL_KIND_resident_begin && kind != HL_KIND_resident_run &&
		kind != HL_KIND_sample)
		return 0;
	struct analysis_stream *entry = &analysis->streams[process->index];
	return snapshots_follow(&entry->snapshots, &process->ledger, &entry->instants.room);
}

/* Something else than its log tells of the process. */
static bool is_watched(const struct analysis *analysis, const struct process *process)
{
	return process->residence.known || is_observed(analysis, process);
}

static int run_events(struct analysis *analysis, struct process *process, struct copies *copies,
	struct stream_reader *reader)
{
	const struct stream_event *event;
	struct ahead ahead = {.rc = 0};
	bool watched = is_watched(analysis, process);
	int rc = 0;
	while ((rc = next_event(&ahead, reader, &process->ledger, &event)) > 0) {
		if (analysis->progress)
			progress_step(analysis->progress);
		rc = analysis->window.set ? process_watch_window(analysis, process, event) : 0;
		if (rc < 0)
			return rc;
		if (rc > 0)
			break;
		if (watched && observe(analysis, process, event))
			return analysis_out_of_memory(analysis, analysis->trace->path);
		rc = copies->count ? process_watch_copies(analysis, copies, event) : 0;
		if (rc)
			return rc;
		if (process->map &&
			map_before(process->map, &process->ledger, event->record.call.tick))
			return analysis_out_of_memory(analysis, analysis->trace->path);
		if (wants_instants(analysis, process) &&
			instants_before(&analysis->streams[process->index].instants,
				&process->ledger, event->record.call.tick))
			return analysis_out_of_memory(analysis, analysis->trace->path);
		if (ledger_apply(&process->ledger, event))
			return analysis_out_of_memory(
				analysis, analysis->streams[process->index].stream->path);
		if (wants_instants(analysis, process) && watch_snapshots(analysis, process, event))
			return analysis_out_of_memory(analysis, analysis->trace->path);
		if (watched)
			residence_after(&process->residence, &process->ledger);
		rc = 0;
		if (process->entered && hl_kind_of(event->record.call.kind_addr) == HL_KIND_phase)
			rc = take_moment(analysis, process, MOMENT_PHASE,
				later(event->record.call.tick, process->span.from_tick));
		if (!rc && hl_kind_of(event->record.call.kind_addr) == HL_KIND_fork)
			rc = process_fork(analysis, copies, process, event);
		if (rc)
			return rc;
	}
	return rc < 0 ? rc : process_watch_copies(analysis, copies, NULL);
}

/* Whether analysis_add_up will prefer it to the one whose map is kept: of equal ones the first. */
static bool is_shown(const struct analysis *analysis, size_t index)
{
	const struct ledger_result *result = &analysis->streams[index].result;
	const struct ledger_result *kept = &analysis->streams[analysis->map_stream].result;
	return !analysis->map_known || analysis_is_larger(result, kept) ||
	       (index < analysis->map_stream && !analysis_is_larger(kept, result));
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
		return analysis_out_of_memory(analysis, analysis->trace->path);
	if (ledger_finish(&process->ledger, tick, analysis_top(analysis, WAITS_SITES)) ||
		instants_finish(&analysis->streams[process->index].instants, &process->ledger))
		return analysis_out_of_memory(analysis, analysis->trace->path);
	int rc = take_moment(analysis, process, MOMENT_END, tick);
	return rc ? rc : take_peaks(analysis, process);
}

int process_run(struct analysis *analysis, struct process *process)
{
	struct analysis_stream *entry = &analysis->streams[process->index];
	struct stream_reader *reader = NULL;
	struct copies copies = {0};
	int fd = -1;

	int rc = trace_stream_open(analysis->trace, entry->stream, &reader, &fd);
	if (!rc)
		rc = run_events(analysis, process, &copies, reader);
	if (!rc)
		rc = process_enter_last(analysis, process);
	if (!rc && process_observe_until(analysis, process, process->left ? process->span.to_tick : UINT64_MAX))
		rc = analysis_out_of_memory(analysis, entry->stream->path);
	if (!rc)
		rc = finish(analysis, process);
	while (copies.count)
		end(analysis, copies.child[--copies.count]);
	end(analysis, process);
	return trace_stream_close(analysis->trace, reader, fd, rc);
}

/* A stream whose parent's heap is not known or was empty. */
static int run_stream(struct analysis *analysis, size_t index)
{
	struct process *process = process_new(index, 0);
	if (!process)
		return analysis_out_of_memory(analysis, analysis->streams[index].stream->path);
	int rc = process_begin(analysis, process, NULL);
	if (!rc)
		return process_run(analysis, process);
	end(analysis, process);
	return rc;
}

static int run_all(struct analysis *analysis)
{
	int rc = 0;
	for (size_t i = 0; !rc && i < analysis->count; i++)
		if (!analysis->streams[i].done && analysis_begins_before_end(analysis, i))
			rc = run_stream(analysis, i);
	return rc;
}

/* What lies inside another allocator's heap is not known; then no process's peaks are shown. */
static bool any_observed(const struct analysis *analysis)
{
	bool any = false;
	for (size_t i = 0; i < analysis->count; i++)
		any = any || (analysis_begins_before_end(analysis, i) &&
				     analysis->streams[i].stream->info.header.mode !=
					     HL_MODE_ALLOCATOR);
	return any;
}

int analysis_run(struct analysis *analysis, struct trace *trace, unsigned wants)
{
	*analysis = (struct analysis){.trace = trace,
		.count = trace->stream_count,
		.wants = wants,
		.top = analysis->top,
		.progress = analysis->progress,
		.group_by = analysis->group_by,
		.window = analysis->window};
	if (analysis->count)
		analysis->streams = calloc(analysis->count, sizeof(*analysis->streams));
	if (analysis->count && !analysis->streams) {
		analysis->count = 0;
		return analysis_out_of_memory(analysis, trace->path);
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
	analysis->peaks = (wants & ANALYSIS_PEAKS) && !any_observed(analysis);
	if (!rc)
		rc = run_all(analysis);
	analysis_leave_out(analysis);
	for (size_t i = 0; i < analysis->count; i++)
		moments_sort(&analysis->streams[i].moments);
	return rc ? rc : analysis_add_up(analysis);
}

void analysis_free(struct analysis *analysis)
{
	for (size_t i = 0; i < analysis->count; i++)
		analysis_free_stream(&analysis->streams[i]);
	map_free(&analysis->map);
	observed_free(analysis->observed);
	faults_free(analysis->faults);
	ledger_result_free(&analysis->total);
	free(analysis->streams);
	*analysis = (struct analysis){0};
}

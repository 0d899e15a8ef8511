/* SPDX-License-Identifier: MIT
 *
 * Runs every stream of a trace through a ledger. A forked child begins with a copy of its parent's
 * heap, so it is analysed when the parent's stream reaches the fork mark: depth first, each ledger
 * alive only as long as it is needed.
 */
#include "analysis.h"
#include "names.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROWS_MOST 1000
#define ROWS_LEAST 50
#define ROWS_ALL_STREAMS 200000
#define DEPTH_LIMIT 200 /* of forks within forks; deeper ones begin empty, as orphans */

/* Fewer rows each when there are thousands of streams, and never more than events. */
static uint32_t rows_of(const struct analysis *analysis, const struct stream_info *info)
{
	uint64_t rows = ROWS_ALL_STREAMS / analysis->count;
	rows = rows > ROWS_MOST ? ROWS_MOST : rows < ROWS_LEAST ? ROWS_LEAST : rows;
	return (uint32_t)(info->records < rows ? info->records : rows);
}

static int run(struct analysis *analysis, size_t index, const struct ledger *parent, unsigned depth,
	bool timelines);

static int run_children(struct analysis *analysis, const struct trace_stream *stream,
	uint64_t fork_id, const struct ledger *ledger, unsigned depth, bool timelines)
{
	if (!fork_id || depth >= DEPTH_LIMIT)
		return 0;
	int rc = 0;
	/* A child registers after its parent: its serial is higher, and the list is sorted. */
	size_t first = (size_t)(stream - analysis->trace->streams) + 1;
	for (size_t i = first; !rc && i < analysis->count; i++) {
		const struct hl_trace_header *header = &analysis->streams[i].stream->info.header;
		if (!analysis->streams[i].done && header->fork_id == fork_id &&
			header->parent_serial == stream->info.header.serial)
			rc = run(analysis, i, ledger, depth + 1, timelines);
	}
	return rc;
}

static int out_of_memory(struct analysis *analysis, const char *path)
{
	snprintf(analysis->trace->error, sizeof(analysis->trace->error),
		"%.300s: not enough memory to analyse it", path);
	return -ENOMEM;
}

static int run_events(struct analysis *analysis, size_t index, struct ledger *ledger,
	struct stream_reader *reader, unsigned depth, bool timelines)
{
	struct trace_stream *stream = analysis->streams[index].stream;
	const struct stream_event *event;
	int rc;
	while ((rc = stream_reader_next(reader, &event)) > 0) {
		rc = ledger_apply(ledger, event);
		if (rc)
			return out_of_memory(analysis, stream->path);
		const struct hl_call_record *call = &event->record.call;
		if (hl_kind_of(call->kind_addr) != HL_KIND_fork)
			continue;
		rc = run_children(analysis, stream, call->size, ledger, depth, timelines);
		if (rc)
			return rc;
	}
	if (rc)
		snprintf(analysis->trace->error, sizeof(analysis->trace->error), "%s",
			stream_reader_error(reader));
	return rc;
}

static int begin(struct analysis *analysis, size_t index, const struct ledger *parent,
	struct ledger *ledger, bool timelines)
{
	struct analysis_stream *entry = &analysis->streams[index];
	struct trace_stream *stream = entry->stream;
	int rc = 0;

	entry->done = true;
	if (parent)
		rc = ledger_fork(ledger, parent, &entry->result, &stream->clock);
	else
		ledger_start(ledger, &entry->result, &stream->clock);
	entry->result.orphan = !parent && stream->info.header.parent_serial;
	entry->result.peak.requested_tick = stream->info.first_tick;
	entry->result.peak.mapped_tick = stream->info.first_tick;
	if (!rc && timelines)
		rc = timeline_start(&ledger->timeline, stream->info.first_tick,
			stream->info.last_tick, rows_of(analysis, &stream->info));
	return rc ? out_of_memory(analysis, stream->path) : 0;
}

static int run(struct analysis *analysis, size_t index, const struct ledger *parent, unsigned depth,
	bool timelines)
{
	struct analysis_stream *entry = &analysis->streams[index];
	struct stream_reader *reader = NULL;
	struct ledger ledger;
	int fd = -1;

	int rc = begin(analysis, index, parent, &ledger, timelines);
	if (!rc)
		rc = trace_stream_open(analysis->trace, entry->stream, &reader, &fd);
	if (!rc)
		rc = run_events(analysis, index, &ledger, reader, depth, timelines);
	if (!rc)
		ledger_finish(&ledger);
	entry->timeline = ledger.timeline;
	ledger_free(&ledger);
	stream_reader_close(reader);
	if (fd >= 0)
		close(fd);
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

const struct trace_stream *analysis_program(const struct analysis *analysis)
{
	const struct trace *trace = analysis->trace;
	const struct trace_stream *program = NULL;
	for (size_t i = 0; i < trace->stream_count; i++)
		if (trace->streams[i].info.header.pid == trace->streams[0].info.header.pid)
			program = &trace->streams[i];
	return program;
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
	total->returned.break_bytes += result->returned.break_bytes;
	total->returned.arena_bytes += result->returned.arena_bytes;
	total->returned.block_bytes += result->returned.block_bytes;
	total->returned.offered_bytes += result->returned.offered_bytes;
	tally_latency_merge(&total->latency, &result->latency);
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

static int add_up(struct analysis *analysis)
{
	struct ledger_result *total = &analysis->total;
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
		if (entry->result.peak.mapped >
			analysis->streams[analysis->main].result.peak.mapped)
			analysis->main = i;
		if (!info->records)
			continue;
		uint64_t first = clock_ns(&entry->stream->clock, info->first_tick);
		uint64_t last = clock_ns(&entry->stream->clock, info->last_tick);
		analysis->first_ns = first < analysis->first_ns ? first : analysis->first_ns;
		analysis->last_ns = last > analysis->last_ns ? last : analysis->last_ns;
	}
	if (analysis->first_ns > analysis->last_ns)
		analysis->first_ns = analysis->last_ns = 0;
	sort_causes(&total->causes);
	if (analysis->count) {
		const struct ledger_result *most = &analysis->streams[analysis->main].result;
		total->peak = most->peak;
		total->end = most->end;
		total->mapped_ratio = most->mapped_ratio;
		total->resident_ratio = most->resident_ratio;
		total->samples = most->samples;
		total->last_sample = most->last_sample;
	}
	return 0;
}

int analysis_run(struct analysis *analysis, struct trace *trace, bool timelines)
{
	*analysis = (struct analysis){.trace = trace, .count = trace->stream_count};
	if (analysis->count)
		analysis->streams = calloc(analysis->count, sizeof(*analysis->streams));
	if (analysis->count && !analysis->streams) {
		analysis->count = 0;
		return out_of_memory(analysis, trace->path);
	}
	int rc = 0;
	for (size_t i = 0; i < analysis->count; i++)
		analysis->streams[i].stream = &trace->streams[i];
	for (size_t i = 0; !rc && i < analysis->count; i++)
		if (!analysis->streams[i].done)
			rc = run(analysis, i, NULL, 0, timelines);
	return rc ? rc : add_up(analysis);
}

void analysis_free(struct analysis *analysis)
{
	for (size_t i = 0; i < analysis->count; i++) {
		free(analysis->streams[i].result.causes.list);
		timeline_free(&analysis->streams[i].timeline);
	}
	free(analysis->total.causes.list);
	free(analysis->streams);
	*analysis = (struct analysis){0};
}

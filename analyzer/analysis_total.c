/* SPDX-License-Identifier: MIT
 *
 * What all streams of a trace come to together, and which of them is shown for all.
 */
#include "analysis_parts.h"

#include "heapledger/session.h"

#include <errno.h>
#include <stdlib.h>

bool analysis_is_larger(const struct ledger_result *a, const struct ledger_result *b)
{
	if (a->mapped_unknown || b->mapped_unknown)
		return a->peak.requested > b->peak.requested;
	return a->peak.mapped > b->peak.mapped;
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

/* Who attaches to a process asks about that one, be its children larger. Of a heap that is not known
 * nobody can tell how large it is. */
static bool may_be_main(const struct analysis *analysis, const struct analysis_stream *entry)
{
	return !entry->result.elsewhere &&
	       (!entry->result.attached || entry->stream->info.header.pid ==
						   analysis->trace->streams[0].info.header.pid);
}

/* The first stream whose calls are recorded; `count`: there is none, and nothing is known of the run. */
static size_t first_known(const struct analysis *analysis)
{
	size_t i = 0;
	while (i < analysis->count && analysis->streams[i].result.elsewhere)
		i++;
	return i;
}

int analysis_add_up(struct analysis *analysis)
{
	struct ledger_result *total = &analysis->total;
	size_t known = first_known(analysis);
	bool calls_unknown = analysis->count > 0, all_elsewhere = known == analysis->count;
	analysis->main = all_elsewhere ? 0 : known;
	total->thrash.faults_known = analysis->count > 0;
	analysis->first_ns = UINT64_MAX;
	json_t *session = analysis->trace->session;
	analysis->complete = analysis->count > 0 && !trace_absent(analysis->trace) &&
			     !analysis->trace->elsewhere_count &&
			     !json_is_false(json_object_get(session, "complete")) &&
			     !json_integer_value(json_object_get(session, "unrecorded_processes"));
	for (size_t i = 0; i < analysis->count; i++) {
		struct analysis_stream *entry = &analysis->streams[i];
		struct stream_info *info = &entry->stream->info;
		sort_causes(&entry->result.causes);
		if ((!entry->result.elsewhere || all_elsewhere) &&
			add_counts(total, &entry->result))
			return analysis_out_of_memory(analysis, analysis->trace->path);
		total->lost += analysis_lost(entry);
		analysis->trace_bytes += info->size;
		analysis->complete = analysis->complete && analysis_stream_complete(entry);
		if (may_be_main(analysis, entry) &&
			analysis_is_larger(
				&entry->result, &analysis->streams[analysis->main].result))
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
		total->elsewhere = all_elsewhere;
		if (all_elsewhere)
			snprintf(analysis->unknown_why, sizeof(analysis->unknown_why),
				"malloc is the program's own, and its calls are not recorded");
	}
	return 0;
}

/* SPDX-License-Identifier: MIT
 *
 * The analysis as JSON, field by field as docs/analysis.md has it. What was not measured is null.
 */
#include "analysis.h"
#include "json_put.h"
#include "names.h"
#include "resident_pages.h"
#include "writer.h"

#include "heapledger/record.h"
#include "heapledger/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NOTES_MOST 100

/* null where there is no time. */
static void put_time(json_t *object, const char *name, struct trace_stream *stream, uint64_t tick)
{
	uint64_t ns = clock_ns(&stream->clock, tick);
	put(object, name,
		trace_has_times(stream) ? json_integer(ns > INT64_MAX ? INT64_MAX : (json_int_t)ns)
					: NULL);
}

/* Bytes of a name or argument may be anything; JSON strings are UTF-8. */
json_t *json_text(const char *bytes, size_t length)
{
	json_t *string = json_stringn(bytes, length);
	if (string)
		return string;
	char *latin = malloc(length * 2 + 1);
	size_t used = 0;
	for (size_t i = 0; latin && i < length; i++) {
		unsigned char c = (unsigned char)bytes[i];
		if (c >= 0x80)
			latin[used++] = (char)(0xc0 | c >> 6);
		latin[used++] = (char)(c < 0x80 ? c : 0x80 | (c & 0x3f));
	}
	string = latin ? json_stringn(latin, used) : NULL;
	free(latin);
	return string;
}

static json_t *command_array(const struct trace_stream *stream)
{
	json_t *array = json_array();
	const char *p = stream->command, *end = p + stream->info.header.command_bytes;
	while (p < end) {
		size_t length = strnlen(p, (size_t)(end - p));
		json_array_append_new(array, json_text(p, length));
		p += length + 1;
	}
	return array;
}

static json_t *exit_object(const struct hl_trace_header *header)
{
	if (header->end == HL_TRACE_END_EXIT && header->end_status >= 0)
		return json_pack("{s:i}", "status", header->end_status);
	if (header->end == HL_TRACE_END_SIGNAL)
		return json_pack("{s:i}", "signal", header->end_status);
	return NULL;
}

static json_t *by_call(const struct tally_call *tally)
{
	json_t *calls = json_object();
	for (unsigned kind = 0; kind < HL_KIND_LIMIT; kind++) {
		const struct tally_call *call = &tally[kind];
		if (!call->count)
			continue;
		json_t *entry = json_object();
		put_count(entry, "count", call->count);
		put_count(entry, "failed", call->failed);
		put_count(entry, "bytes", call->bytes);
		put(calls, name_kind(kind), entry);
	}
	return calls;
}

static json_t *events(const struct ledger_result *result, uint64_t lost)
{
	json_t *object = json_object();
	uint64_t calls = analysis_calls(result), syscalls = analysis_all_syscalls(result);
	put_count(object, "total", calls + syscalls);
	put_known(object, "calls", !result->calls_unknown, (int64_t)calls);
	put_known(object, "syscalls", !result->syscalls_unknown, (int64_t)syscalls);
	put_count(object, "lost", lost);
	put(object, "by_call", result->calls_unknown ? NULL : by_call(result->calls));
	return object;
}

static void put_cause(json_t *object, unsigned syscall, unsigned why, unsigned call)
{
	const char *reason = name_reason(why), *reason_text = name_reason_text(why);
	put(object, "syscall", json_string(name_kind(syscall)));
	put(object, "reason", json_string(reason ? reason : "unknown"));
	put(object, "reason_text", json_string(reason_text ? reason_text : "not recorded"));
	put(object, "call", call && name_kind(call) ? json_string(name_kind(call)) : NULL);
}

/* What an observed allocator gave back is not known. */
static json_t *cause_object(
	const struct tally_cause *cause, const struct clock *clock, bool observed)
{
	json_t *object = json_object();
	put_cause(object, cause->syscall, cause->reason, cause->call);
	put_count(object, "count", cause->count);
	put_count(object, "bytes", cause->bytes);
	put_known(object, "returned_bytes", !observed, (int64_t)cause->returned);
	put_count(object, "time_ns", clock_span(clock, cause->ticks));
	put_count(object, "failed", cause->failed);
	return object;
}

static json_t *causes_array(const struct ledger_result *result, const struct clock *clock)
{
	json_t *causes = json_array();
	for (size_t i = 0; i < result->causes.count; i++)
		json_array_append_new(causes,
			cause_object(&result->causes.list[i], clock, result->observed));
	return causes;
}

static json_t *syscalls(
	const struct ledger_result *result, const struct clock *clock, bool imported)
{
	json_t *object = json_object();
	bool known = !result->syscalls_unknown;
	uint64_t ticks = 0;
	for (size_t i = 0; i < result->causes.count; i++)
		ticks += result->causes.list[i].ticks;
	for (unsigned kind = HL_KIND_brk; kind <= HL_KIND_mprotect; kind++)
		put_known(object, name_kind(kind), known, (int64_t)analysis_syscalls(result, kind));
	put_known(object, "total", known, (int64_t)analysis_all_syscalls(result));
	put_known(object, "time_ns", known, (int64_t)clock_span(clock, ticks));
	put_known(object, "foreign", result->observed && !result->attached && known,
		(int64_t)result->foreign_calls);
	put_known(object, "recorder", !imported, (int64_t)result->recorder_calls);
	put(object, "by_cause", known ? causes_array(result, clock) : NULL);
	return object;
}

/* Of an allocator that is not ours, how it uses what it has mapped is not known. */
static json_t *memory_object(const struct memory *memory, const struct ledger_result *result)
{
	json_t *object = json_object();
	bool ours = !result->observed, mapped = !result->mapped_unknown;
	bool whole = !ledger_requested_unknown(result);
	put_known(object, "requested_bytes", whole, memory->requested);
	put_known(object, "live_blocks", whole, memory->live_blocks);
	put_known(object, "usable_bytes", result->observed && whole && !result->usable_unknown,
		memory->chunk - memory->live_blocks * (int64_t)HL_OBSERVED_HEADER_BYTES);
	put_known(object, "slack_bytes", ours, memory->chunk - memory->requested);
	put_known(object, "free_bytes", ours, memory_free(memory));
	put_known(object, "mapped_bytes", mapped, memory_mapped(memory));
	put_known(object, "break_bytes", mapped, memory->break_bytes);
	put_known(object, "arena_bytes", ours, memory->arena_bytes);
	put_known(object, "block_bytes", ours, memory->block_bytes);
	put_known(object, "metadata_bytes", ours, memory->metadata_bytes);
	put_known(object, "reserved_bytes", mapped, memory->reserved_bytes);
	return object;
}

static json_t *end_object(const struct ledger_result *result)
{
	json_t *object = memory_object(&result->end, result);
	const struct hl_sample_record *sample = &result->last_sample;
	uint64_t rss = sample->rss_anon + sample->rss_file + sample->rss_shmem;
	put_known(object, "rss_bytes", result->samples,
		(int64_t)(rss - (sample->recorder < rss ? sample->recorder : rss)));
	return object;
}

static json_t *peak_object(const struct ledger_result *result, struct trace_stream *stream)
{
	const struct ledger_peak *peak = &result->peak;
	json_t *object = json_object();
	bool sampled = result->samples > 0, mapped = !result->mapped_unknown;
	bool whole = !ledger_requested_unknown(result);
	put_known(object, "requested_bytes", whole, peak->requested);
	if (whole)
		put_time(object, "requested_at_ns", stream, peak->requested_tick);
	else
		put(object, "requested_at_ns", NULL);
	put_known(object, "requested_at_event", !trace_has_times(stream),
		(int64_t)peak->requested_tick);
	put_known(object, "mapped_bytes", mapped, peak->mapped);
	put_known(object, "mapped_at_ns", mapped,
		(int64_t)clock_ns(&stream->clock, peak->mapped_tick));
	put(object, "rss_bytes", sampled ? json_integer((json_int_t)peak->rss) : NULL);
	put(object, "rss_at_ns",
		sampled ? json_integer((json_int_t)clock_ns(&stream->clock, peak->rss_tick))
			: NULL);
	put_known(object, "live_blocks", whole, peak->live_blocks);
	put(object, "stream", json_string(stream->name));
	put(object, "at_mapped", mapped ? memory_object(&peak->at_mapped, result) : NULL);
	return object;
}

static json_t *returned_object(const struct ledger_returned *returned)
{
	json_t *object = json_object();
	put_count(object, "break_bytes", returned->break_bytes);
	put_count(object, "arena_bytes", returned->arena_bytes);
	put_count(object, "block_bytes", returned->block_bytes);
	put_count(object, "offered_bytes", returned->offered_bytes);
	return object;
}

/* The calls that gave memory back. */
static json_t *returning_object(
	const struct analysis *analysis, const struct analysis_stream *entry)
{
	json_t *returning = json_object(), *array = json_array();
	put_count(returning, "total", entry ? entry->result.triggers.all : 0);
	for (size_t i = 0; entry && i < entry->result.triggers.count; i++) {
		const struct trigger *trigger = &entry->result.triggers.list[i];
		json_t *object = json_object();
		put_cause(object, trigger->syscall, trigger->reason, trigger->call);
		put_count(object, "count", trigger->count);
		put_count(object, "returned_bytes", trigger->returned);
		put_count(object, "time_ns", clock_span(&entry->stream->clock, trigger->ticks));
		json_put_origin(object, analysis, entry, entry->stream->info.last_tick,
			trigger->caller);
		json_array_append_new(array, object);
	}
	put(returning, "calls", array);
	return returning;
}

static json_t *percent(double ratio)
{
	return ratio > 0 ? json_real(analysis_fragmentation(ratio)) : NULL;
}

static json_t *ratio_object(const struct ledger_ratio *ratio, const char *at_peak)
{
	if (ratio->bytes <= 0)
		return NULL;
	json_t *object = json_object();
	put(object, "mean", percent(ratio->live > 0 ? ratio->held / ratio->live : 0));
	put(object, "at_peak_live", percent(ratio->at_peak_live));
	put(object, at_peak, percent(ratio->at_peak_held));
	put(object, "peaks", percent(ratio->max_live > 0 ? ratio->max_held / ratio->max_live : 0));
	return object;
}

static json_t *recorder_object(
	const struct ledger_result *result, uint64_t trace_bytes, bool windowed)
{
	json_t *object = json_object();
	uint64_t count = analysis_calls(result) + analysis_all_syscalls(result);
	put(object, "peak_rss_bytes",
		result->samples ? json_integer((json_int_t)result->peak.recorder) : NULL);
	put_count(object, "trace_bytes", trace_bytes);
	put(object, "bytes_per_event",
		count && !windowed ? json_real((double)trace_bytes / (double)count) : NULL);
	return object;
}

static json_t *anomalies_object(const struct ledger_anomalies *anomalies)
{
	json_t *object = json_object();
	put_count(object, "unknown_frees", anomalies->unknown_frees);
	put_count(object, "order_violations", anomalies->order_violations);
	put_count(object, "unmatched", anomalies->unmatched);
	put_count(object, "inherited", anomalies->inherited);
	put_count(object, "impossible", anomalies->impossible);
	return object;
}

static json_t *phase_object(
	const struct phases_row *row, struct trace_stream *stream, const struct ledger_result *result)
{
	bool known = !result->syscalls_unknown, mapped = !result->mapped_unknown;
	bool whole = !ledger_requested_unknown(result);
	json_t *object = json_object(), *peak = json_object(), *end = json_object();
	json_t *syscalls = json_object();
	uint64_t calls = 0, total = 0;
	for (unsigned kind = 0; kind < HL_KIND_LIMIT; kind++)
		calls += row->calls[kind].count;
	for (unsigned kind = HL_KIND_brk; kind <= HL_KIND_mprotect; kind++) {
		put_known(syscalls, name_kind(kind), known, (int64_t)row->syscalls[kind]);
		total += row->syscalls[kind];
	}
	put_known(syscalls, "total", known, (int64_t)total);
	put(object, "name", row->named ? json_text(row->name, strlen(row->name)) : NULL);
	put_count(object, "start_ns", clock_ns(&stream->clock, row->first_tick));
	put_count(object, "end_ns", clock_ns(&stream->clock, row->end_tick));
	put_count(object, "events", calls + total);
	put_known(object, "calls", !result->calls_unknown, (int64_t)calls);
	put(object, "by_call", result->calls_unknown ? NULL : by_call(row->calls));
	put(object, "syscalls", syscalls);
	put_known(peak, "requested_bytes", whole, row->peak_requested);
	put_known(peak, "mapped_bytes", mapped, row->peak_mapped);
	put(peak, "rss_bytes", row->samples ? json_integer((json_int_t)row->peak_rss) : NULL);
	put(object, "peak", peak);
	put_known(end, "requested_bytes", whole, row->end.requested);
	put_known(end, "mapped_bytes", mapped, memory_mapped(&row->end));
	put(object, "end", end);
	return object;
}

static json_t *phases_array(const struct ledger_result *result, struct trace_stream *stream)
{
	const struct phases *phases = &result->phases;
	json_t *array = json_array();
	for (size_t i = 0; i < phases->count; i++)
		json_array_append_new(
			array, phase_object(&phases->row[i], stream, result));
	return array;
}

static json_t *cycles_object(
	const struct thrash *thrash, const struct thrash_cycles *cycles, const struct clock *clock)
{
	json_t *object = json_object();
	put_count(object, "cycles", cycles->count);
	put_count(object, "bytes", cycles->bytes);
	put_count(object, "time_ns", clock_span(clock, cycles->ticks));
	put_count(object, "largest_bytes", cycles->largest);
	put_known(object, "faults", thrash->faults_known, (int64_t)cycles->faults);
	return object;
}

static json_t *thrash_object(const struct thrash *thrash, const struct clock *clock)
{
	json_t *object = json_object();
	put(object, "break", cycles_object(thrash, &thrash->break_, clock));
	put(object, "block", cycles_object(thrash, &thrash->block, clock));
	return object;
}

static uint64_t allocated_blocks(const struct ledger_result *result)
{
	uint64_t count = 0;
	for (unsigned kind = 0; kind < HL_KIND_LIMIT; kind++)
		if (HL_KIND_ALLOCATES(kind))
			count += result->calls[kind].count - result->calls[kind].failed;
	return count;
}

static uint64_t allocated_bytes(const struct ledger_result *result)
{
	uint64_t bytes = 0;
	for (unsigned kind = 0; kind < HL_KIND_LIMIT; kind++)
		if (HL_KIND_ALLOCATES(kind))
			bytes += result->calls[kind].bytes;
	return bytes;
}

/* NULL where they were not recorded. */
static json_t *faults_object(const struct ledger_result *result, struct trace_stream *stream)
{
	const struct ledger_faults *faults = &result->faults;
	if (!faults->known)
		return NULL;
	json_t *object = json_object();
	put_count(object, "count", faults->count);
	put_count(object, "in_calls", faults->in_calls);
	put_count(object, "large_pages", faults->large);
	put_count(object, "again_bytes", faults->again << RESIDENT_PAGE_BITS);
	put_count(object, "peak_resident_bytes", (uint64_t)faults->peak);
	put_count(object, "peak_resident_at_ns", clock_ns(&stream->clock, faults->peak_tick));
	put_count(object, "end_resident_bytes", (uint64_t)result->end.resident_bytes);
	put_count(object, "snapshots", faults->snapshots);
	put_count(object, "unseen_bytes", faults->unseen << RESIDENT_PAGE_BITS);
	put_count(object, "vanished_bytes", faults->vanished << RESIDENT_PAGE_BITS);
	return object;
}

/* Of a process that ran before, what can be told is what came since. */
static json_t *since_attach(const struct ledger_result *result)
{
	const struct hl_sample_record *first = &result->first_sample, *last = &result->last_sample;
	bool calls = !result->calls_unknown;
	json_t *object = json_object();
	put_known(object, "minor_faults", result->samples > 1,
		(int64_t)(last->minor_faults - first->minor_faults));
	put_known(object, "major_faults", result->samples > 1,
		(int64_t)(last->major_faults - first->major_faults));
	put_known(object, "allocated_blocks", calls, (int64_t)allocated_blocks(result));
	put_known(object, "allocated_bytes", calls, (int64_t)allocated_bytes(result));
	put_known(object, "live_blocks", calls, result->end.live_blocks);
	put_known(object, "live_bytes", calls, result->end.requested);
	put_known(object, "peak_live_bytes", calls, result->peak.requested);
	put_known(object, "unseen_blocks_freed", calls, (int64_t)result->unseen_freed);
	return object;
}

/* The objects that the whole trace and each stream have alike. */
static void put_figures(json_t *object, const struct analysis *analysis,
	const struct analysis_stream *entry, const struct ledger_result *result,
	struct trace_stream *stream, uint64_t lost, uint64_t trace_bytes)
{
	json_t *ratios = json_object();
	put(object, "events", events(result, lost));
	put(object, "syscalls", syscalls(result, &stream->clock, analysis_imported(analysis)));
	put(object, "peak", peak_object(result, stream));
	put(object, "end", end_object(result));
	put_known(object, "returned_bytes", !result->observed,
		(int64_t)ledger_returned_bytes(&result->returned));
	put(object, "returned", result->observed ? NULL : returned_object(&result->returned));
	put(object, "returning", result->observed ? NULL : returning_object(analysis, entry));
	put(ratios, "mapped",
		result->mapped_unknown || result->attached
			? NULL
			: ratio_object(&result->mapped_ratio, "at_peak_mapped"));
	put(ratios, "resident",
		ledger_requested_unknown(result)
			? NULL
			: ratio_object(&result->resident_ratio, "at_peak_resident"));
	put(object, "fragmentation", ratios);
	put(object, "free_to_return", result->observed ? NULL : json_free_to_return(analysis, entry, result));
	put(object, "pins", result->observed ? NULL : json_pins(analysis, entry));
	put(object, "sizes", entry ? json_sizes(&entry->result) : NULL);
	put(object, "lifetimes",
		entry ? json_lifetimes(&entry->result, trace_has_times(stream)) : NULL);
	put(object, "thrash",
		result->observed ? NULL : thrash_object(&result->thrash, &stream->clock));
	put(object, "recorder", recorder_object(result, trace_bytes, analysis->window.set));
	put(object, "phases", phases_array(result, stream));
	put_count(object, "phases_beyond", result->phases.beyond);
	put(object, "moments", json_moments(analysis, entry));
	put_count(object, "moments_left_out", entry ? entry->moments.left_out : 0);
	put(object, "faults", faults_object(result, stream));
	put(object, "since_attach", result->attached ? since_attach(result) : NULL);
	put(object, "anomalies", anomalies_object(&result->anomalies));
}

static json_t *process_object(
	const struct analysis *analysis, const struct analysis_stream *entry)
{
	struct trace_stream *stream = entry->stream;
	const struct hl_trace_header *header = &stream->info.header;
	json_t *object = json_object();
	put(object, "stream", json_string(stream->name));
	bool imported = header->mode == HL_MODE_IMPORTED;
	put_known(object, "pid", !imported || header->pid, header->pid);
	put_known(object, "ppid", !imported, header->ppid);
	put_count(object, "serial", header->serial);
	put_count(object, "parent_serial", header->parent_serial);
	put(object, "command", command_array(stream));
	put_time(object, "start_ns", stream,
		entry->stream->begin_tick ? entry->stream->begin_tick : header->start_tick);
	put_time(object, "end_ns", stream,
		header->end_tick ? header->end_tick : stream->info.last_tick);
	put(object, "complete", json_boolean(analysis_stream_complete(entry)));
	put(object, "exit", exit_object(header));
	put(object, "malloc_elsewhere", json_boolean(entry->result.elsewhere));
	put(object, "began_late", json_boolean(stream->begin_tick != 0));
	put(object, "ran_on", json_boolean(analysis_ran_on(entry->stream)));
	put_figures(object, analysis, entry, &entry->result, stream, analysis_lost(entry),
		stream->info.size);
	return object;
}

static json_t *session_text(
	const struct analysis *analysis, const char *name, const char *otherwise)
{
	json_t *value = json_object_get(analysis->trace->session, name);
	if (json_is_string(value))
		return json_incref(value);
	return otherwise ? json_string(otherwise) : NULL;
}

/* NULL if session.json does not have it. */
static json_t *session_member(const struct analysis *analysis, const char *name)
{
	return json_incref(json_object_get(analysis->trace->session, name));
}

static json_t *object_or_null(const struct analysis *analysis, const char *name)
{
	json_t *value = json_object_get(analysis->trace->session, name);
	return json_is_object(value) ? json_incref(value) : NULL;
}

static json_t *text_or_null(const json_t *object, const char *name)
{
	json_t *value = json_object_get(object, name);
	return json_is_string(value) ? json_incref(value) : NULL;
}

static json_t *count_or_null(const json_t *object, const char *name)
{
	json_t *value = json_object_get(object, name);
	return json_is_integer(value) && json_integer_value(value) >= 0 ? json_incref(value) : NULL;
}

static json_t *tunables_set(const struct analysis *analysis)
{
	json_t *names = json_object_get(analysis->trace->session, "tunables_set"), *name, *array;
	size_t i;
	if (!json_is_array(names))
		return NULL;
	array = json_array();
	json_array_foreach(names, i, name) if (json_is_string(name)) json_array_append(array, name);
	return array;
}

static json_t *tunables_from(const struct analysis *analysis)
{
	json_t *from = json_object_get(analysis->trace->session, "tunables_from"), *value;
	const char *name;
	json_t *object = json_is_object(from) ? json_object() : NULL;
	json_object_foreach(from, name, value) put(object, name, text_or_null(from, name));
	return object;
}

static json_t *host_object(const struct analysis *analysis)
{
	static const char *const texts[] = {"kernel", "distribution", "libc", "cpu_model"};
	static const char *const counts[] = {"cpus", "memory_bytes", "page_bytes"};
	json_t *host = json_object_get(analysis->trace->session, "host"), *object;
	if (!json_is_object(host))
		return NULL;
	object = json_object();
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		put(object, texts[i], text_or_null(host, texts[i]));
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
		put(object, counts[i], count_or_null(host, counts[i]));
	return object;
}

static json_t *notes_array(const struct analysis *analysis)
{
	const struct trace *trace = analysis->trace;
	json_t *notes = json_array();
	char buffer[640];
	const char *note;
	for (unsigned i = 0;
		i < NOTES_MOST && (note = trace_note(trace, i, buffer, sizeof(buffer))); i++)
		json_array_append_new(notes, json_text(note, strlen(note)));
	if (analysis->total.syscalls_unknown)
		json_array_append_new(notes,
			json_pack("s+",
				analysis->total.attached
					? "system calls are not known: "
					: "system calls of the program's allocator are not known: ",
				analysis->unknown_why));
	if (analysis->faults_why[0])
		json_array_append_new(
			notes, json_pack("s+", "resident memory is not known from page faults: ",
				       analysis->faults_why));
	if (analysis->total.attached && !analysis->total.calls_unknown && analysis->count > 1)
		json_array_append_new(notes,
			json_string("allocator calls are those of the process that was attached "
				    "to, not of what it started"));
	return notes;
}

static json_t *window_object(const struct window *window)
{
	if (!window->set)
		return NULL;
	json_t *object = json_object();
	put_count(object, "from_ns", window->from_ns);
	put_count(object, "to_ns", window->to_ns);
	put(object, "phase",
		window->phase ? json_text(window->phase, strlen(window->phase)) : NULL);
	return object;
}

static void put_identity(json_t *root, const struct analysis *analysis)
{
	const struct trace_stream *program = analysis_program(analysis);
	const struct hl_trace_header *header = program ? &program->info.header : NULL;
	json_t *command = json_object_get(analysis->trace->session, "command");
	bool imported = analysis_imported(analysis);

	put(root, "schema", json_string("heapledger-analysis/1"));
	put(root, "version", json_string(HEAPLEDGER_VERSION));
	put(root, "mode",
		header ? json_string(name_mode(header->mode))
		       : session_text(analysis, "mode", NULL));
	put(root, "imported", session_member(analysis, "imported"));
	put(root, "policy",
		header && header->mode ? NULL
		: header               ? json_string(name_policy(header->policy))
				       : session_text(analysis, "policy", NULL));
	put(root, "tunables", object_or_null(analysis, "tunables"));
	put(root, "tunables_set", tunables_set(analysis));
	put(root, "tunables_from", tunables_from(analysis));
	put(root, "host", host_object(analysis));
	put(root, "recorder_cpu_ns", count_or_null(analysis->trace->session, "recorder_cpu_ns"));
	put(root, "model",
		session_text(analysis, "model",
			imported || (header && header->mode) ? NULL : ANALYSIS_MODEL));
	if (json_is_array(command))
		put(root, "command", json_incref(command));
	else
		put(root, "command",
			program ? command_array(&analysis->trace->streams[0]) : json_array());
	put(root, "complete", json_boolean(analysis->complete));
	put_known(root, "duration_ns", program ? trace_has_times(program) : !imported,
		(int64_t)(analysis->last_ns - analysis->first_ns));
	put(root, "window", window_object(&analysis->window));
	put(root, "group_by",
		analysis->group_by ? json_string(analysis_group_name(analysis->group_by)) : NULL);
	json_t *session_exit = json_object_get(analysis->trace->session, "exit");
	if (json_is_object(session_exit))
		put(root, "exit", json_incref(session_exit));
	else
		put(root, "exit", header ? exit_object(header) : NULL);
	put_count(root, "overwritten_events", trace_overwritten(analysis->trace));
	put(root, "notes", notes_array(analysis));
}

static json_t *findings_array(const struct findings *findings)
{
	json_t *array = json_array();
	for (size_t i = 0; i < findings->count; i++) {
		const struct finding *finding = &findings->list[i];
		json_t *object = json_object();
		put(object, "kind", json_string(finding->kind));
		put_count(object, "bytes", finding->bytes);
		put(object, "sentence", json_text(finding->sentence, strlen(finding->sentence)));
		put(object, "remedy",
			finding->remedy[0] ? json_text(finding->remedy, strlen(finding->remedy))
					   : NULL);
		put_known(object, "promised_bytes", finding->promised,
			(int64_t)finding->promised);
		json_array_append_new(array, object);
	}
	return array;
}

static json_t *build(const struct analysis *analysis)
{
	json_t *root = json_object(), *processes = json_array();
	struct trace_stream none = {.name = NULL};
	const struct analysis_stream *main_entry =
		analysis->count ? &analysis->streams[analysis->main] : NULL;
	struct trace_stream *stream = main_entry ? main_entry->stream : &none;

	put_identity(root, analysis);
	put(root, "main_stream", stream->name ? json_string(stream->name) : NULL);
	put_figures(root, analysis, main_entry, &analysis->total, stream, analysis->total.lost,
		analysis->trace_bytes);
	for (size_t i = 0; i < analysis->count; i++)
		json_array_append_new(processes, process_object(analysis, &analysis->streams[i]));
	put(root, "processes", processes);
	put(root, "findings", findings_array(&analysis->findings));
	return root;
}

static int to_output(const char *bytes, size_t length, void *out)
{
	writer_write(out, bytes, length);
	return 0;
}

int json_write(const struct analysis *analysis, const char *path)
{
	struct writer *out = malloc(sizeof(*out));
	json_t *root = out ? build(analysis) : NULL;
	int rc = root ? writer_open(out, path) : -ENOMEM;
	if (!rc) {
		int failed = json_dump_callback(root, to_output, out,
			JSON_INDENT(1) | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(10));
		writer_char(out, '\n');
		rc = writer_close(out, !failed);
		if (failed && !rc)
			rc = -ENOMEM;
	}
	json_decref(root);
	free(out);
	return rc;
}

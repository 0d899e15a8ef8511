/* SPDX-License-Identifier: MIT
 *
 * The summary on the terminal: where the memory is, why it has not gone back, and what it cost, in
 * lines of at most 80 columns. Every number is from the analysis; words only where the figures
 * support them.
 */
#include "analysis.h"
#include "names.h"
#include "prose.h"
#include "summary_tables.h"
#include "tool.h"

#include "heapledger/settings.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CAUSES_SHOWN 6

/* The command cut to what fits; control characters would change the terminal. */
static void print_command(const struct trace_stream *stream, size_t room)
{
	size_t used = 0;
	for (uint32_t i = 0; i < stream->info.header.command_bytes && used < room; i++, used++) {
		unsigned char c = (unsigned char)stream->command[i];
		if (!c && i + 1 == stream->info.header.command_bytes)
			break;
		if (used + 3 >= room && i + 3 < stream->info.header.command_bytes) {
			fputs("...", stdout);
			break;
		}
		putchar(!c ? ' ' : c < ' ' || c >= 0x7f ? '?' : c);
	}
	putchar('\n');
}

/* The same of a name. */
static void print_printable(const char *name, size_t room)
{
	size_t length = strlen(name), at = length > room ? length - room + 3 : 0;
	if (at)
		fputs("...", stdout);
	for (; name[at]; at++)
		putchar(name[at] < ' ' || name[at] > '~' ? '?' : name[at]);
	putchar('\n');
}

/* Those that were set. */
static void print_tunables(const json_t *session)
{
	const json_t *values = json_object_get(session, "tunables");
	char line[512] = "";
	size_t used = 0, i;
	json_t *name;

	json_array_foreach(json_object_get(session, "tunables_set"), i, name)
	{
		const json_t *value = json_object_get(values, json_string_value(name));

		if (used >= sizeof(line))
			break;
		if (json_is_string(value))
			used += (size_t)snprintf(line + used, sizeof(line) - used, ", %s=%s",
				json_string_value(name), json_string_value(value));
		else if (json_is_integer(value))
			used += (size_t)snprintf(line + used, sizeof(line) - used,
				", %s=%" JSON_INTEGER_FORMAT, json_string_value(name),
				json_integer_value(value));
	}
	if (used > 0)
		prose_say("tunables %s", line + 2);
}

/* What an imported log says of itself, instead of a command and times. */
static void print_log(const struct analysis *analysis)
{
	const json_t *imported = trace_imported(analysis->trace);
	const char *file = json_string_value(json_object_get(imported, "file"));
	const char *format = json_string_value(json_object_get(imported, "format"));
	const struct trace_stream *first = &analysis->trace->streams[0];

	printf("%sheapledger%s  ", prose.bold, prose.plain);
	print_printable(file ? file : "an imported log", PROSE_COLUMNS - 12);
	prose_say("mode imported: a log of %s; what it does not say is unknown",
		format ? format : "another tool");
	prose_say("%s allocator calls, %s, in %zu process%s",
		tool_count(analysis_calls(&analysis->total)),
		trace_has_times(first) ? prose_duration(analysis->last_ns - analysis->first_ns)
				       : "at times that are unknown",
		analysis->count, analysis->count == 1 ? "" : "es");
}

static void print_identity(const struct analysis *analysis)
{
	const struct trace_stream *first = &analysis->trace->streams[0];
	const struct trace_stream *program = analysis_program(analysis);
	const struct hl_trace_header *header = &program->info.header;
	const char *model = json_string_value(json_object_get(analysis->trace->session, "model"));
	uint64_t calls = analysis_calls(&analysis->total);
	uint64_t total = calls + analysis_all_syscalls(&analysis->total);
	uint64_t older = trace_overwritten(analysis->trace);

	printf("%sheapledger%s  ", prose.bold, prose.plain);
	print_command(first, PROSE_COLUMNS - 12);
	if (header->mode >= HL_MODE_ATTACHED)
		prose_say("mode attached: the process ran before, on its own allocator, whose "
			  "inside is "
			  "not known");
	else if (header->mode)
		prose_say("mode observe: the program's own allocator, whose inside is not known");
	else
		prose_say("mode allocator, policy %s, growth and return as in %s",
			name_policy(header->policy), model ? model : ANALYSIS_MODEL);
	if (!header->mode)
		print_tunables(analysis->trace->session);
	prose_say("%s allocator calls, %s system calls, %s, %zu process%s",
		analysis->total.calls_unknown ? "unknown" : tool_count(calls),
		analysis->total.syscalls_unknown ? "unknown" : tool_count(total - calls),
		prose_duration(analysis->last_ns - analysis->first_ns), analysis->count,
		analysis->count == 1 ? "" : " images");
	if (calls == 0 && !analysis->total.calls_unknown && !analysis->window.set &&
		!program->begin_tick && older == 0)
		prose_say("no call came: the program makes none, or has an allocator of its own "
			  "that it does not export");
	if (older > 0)
		prose_say("of %s older events only the heap that they left is kept (record --ring)",
			tool_count(older));
	else if (program->begin_tick && !analysis->total.attached)
		prose_say(
			"the recording began later than the program, with the heap as it was then");
	if (header->end == HL_TRACE_END_SIGNAL)
		prose_say("the program was killed by signal %d (%s)", header->end_status,
			strsignal(header->end_status));
	else if (header->end == HL_TRACE_END_EXIT && header->end_status > 0)
		prose_say("the program exited with status %d", header->end_status);
	else if (analysis_ran_on(program))
		prose_say("the recording ended first, as asked; the program ran on unrecorded");
}

/* What the figures are of, if not of all. */
static void print_window(const struct window *window)
{
	if (!window->set)
		return;
	char first[48] = "";
	if (window->phases > 1)
		snprintf(first, sizeof(first), ", the first of %s", tool_count(window->phases));
	prose_say("only %s to %s of the recording%s%s%s", prose_duration(window->from_ns),
		prose_duration(window->to_ns), window->phase ? ": phase " : "",
		window->phase ? window->phase : "", first);
}

static void print_warnings(const struct analysis *analysis)
{
	const struct ledger_anomalies *anomalies = &analysis->total.anomalies;
	bool imported = analysis_imported(analysis);
	uint64_t odd = anomalies->unknown_frees + anomalies->order_violations +
		       anomalies->unmatched + anomalies->impossible;
	if (analysis->total.lost)
		prose_warn("LOST: %s events are missing: the figures below are not exact",
			tool_count(analysis->total.lost));
	size_t incomplete = 0;
	char elsewhere[640];
	for (size_t i = 0; i < analysis->count; i++)
		incomplete +=
			(analysis->streams[i].stream->info.header.flags & HL_TRACE_INCOMPLETE) != 0;
	if (incomplete && imported)
		prose_warn("INCOMPLETE: lines of the log could not be read; what they say is in no "
			   "figure");
	else if (incomplete)
		prose_warn("INCOMPLETE: %zu of %zu streams end early; the figures are up to there",
			incomplete, analysis->count);
	if (trace_tell_elsewhere(analysis->trace, elsewhere, sizeof(elsewhere)))
		prose_warn("INCOMPLETE: %s", elsewhere);
	if (analysis->trace->missing_count)
		prose_warn("INCOMPLETE: %zu stream%s not there: what %s recorded is in no figure",
			analysis->trace->missing_count,
			analysis->trace->missing_count == 1 ? " is" : "s are",
			analysis->trace->missing_count == 1 ? "it" : "they");
	if (odd)
		prose_warn("INCONSISTENT: %s events contradict the ledger (see anomalies in "
			   "--json)",
			tool_count(odd));
	if (anomalies->inherited)
		prose_say("%s free%s of what was allocated before %s",
			tool_count(anomalies->inherited),
			anomalies->inherited == 1 ? " is" : "s are",
			imported ? "the log began, or before a fork"
				 : "a fork that the trace does not show");
}

static void print_column(const char *label, int64_t peak, int64_t end, const char *note)
{
	printf("  %-19s %12s %12s%s%s%s%s\n", label, prose_size(peak), prose_size(end),
		*note ? "  " : "", prose.dim, note, prose.plain);
}

/* As print_column, of what may not be known. */
static void print_known(bool known, const char *label, int64_t peak, int64_t end, const char *note)
{
	if (known)
		print_column(label, peak, end, note);
	else
		printf("  %-19s %12s %12s%s%s%s%s\n", label, "unknown", "unknown",
			*note ? "  " : "", prose.dim, note, prose.plain);
}

/* "4.00 KiB (0.01 %) more", of what the kernel counts than what was found. */
static void residual_text(
	char *text, size_t length, const struct ledger_counted *counted, uint64_t found)
{
	int64_t residual;
	if (!ledger_residual(counted, found, &residual)) {
		snprintf(text, length, "is not known to count more or less");
		return;
	}
	double share = found ? 100 * fabs((double)residual) / (double)found : 0;
	if (residual)
		snprintf(text, length, "counts %s (%.2f %%) %s", prose_size(llabs(residual)), share,
			residual > 0 ? "more" : "less");
	else
		snprintf(text, length, "counts the same");
}

/* What of anonymous memory the rows leave over, where snapshots of its pages were taken. */
static void print_residual(const struct analysis *analysis)
{
	const struct analysis_stream *entry = &analysis->streams[analysis->main];
	const struct ledger_peak *peak = &entry->result.peak;
	const struct moment *end = moments_find(&entry->moments, MOMENT_END);
	char text[96];
	if (peak->snapshot_record) {
		residual_text(text, sizeof(text), &peak->snapshot_counted, peak->snapshot_bytes);
		prose_say("Found page by page: %s of anonymous memory at its highest snapshot, "
			  "where the "
			  "kernel %s.",
			tool_size(peak->snapshot_bytes), text);
	}
	if (end && end->layout.resident.known) {
		const struct layout_resident *resident = &end->layout.resident;
		if (resident->cut) {
			prose_say("At the end %s at least: that snapshot was cut short.",
				tool_size(resident->all));
			return;
		}
		residual_text(text, sizeof(text), &resident->counted, resident->all);
		prose_say("At the end %s, where the kernel %s.", tool_size(resident->all), text);
	}
}

/* Of what is free at the end, what lies in caches; how much of that is not known is said with it.
 */
static void print_caches(const struct analysis *analysis)
{
	const struct moment *end =
		moments_find(&analysis->streams[analysis->main].moments, MOMENT_END);
	const struct layout *layout = end ? &end->layout : NULL;
	if (!layout || !layout->kept_known)
		return;
	const char *bytes = tool_size(layout->cached);
	uint32_t unknown = layout->caches - layout->caches_known;
	if (layout->kept_all)
		prose_say("At the end caches and fast lists keep %s in %s freed block%s.", bytes,
			tool_count(layout->cached_blocks), layout->cached_blocks == 1 ? "" : "s");
	else if (layout->caches_known < layout->caches)
		prose_say("At the end caches and fast lists keep at least %s: the caches of %s of "
			  "%s threads are not known in full.",
			bytes, tool_count(unknown), tool_count(layout->caches));
	else
		prose_say("At the end caches and fast lists keep at least %s: not all fast lists "
			  "are known.",
			bytes);
}

static void print_memory(const struct analysis *analysis)
{
	const struct ledger_result *result = &analysis->total;
	bool ours = !result->observed, mapped = !result->mapped_unknown;
	const struct memory *peak = mapped ? &result->peak.at_mapped : &result->peak.at_requested;
	const struct memory *end = &result->end;
	bool breakless =
		analysis->streams[analysis->main].stream->info.header.policy == HL_POLICY_mmap;

	prose_heading_of_main(analysis, "Where the memory is", ", the one with the highest peak");
	printf("  %-19s %12s %12s\n", "", "at the peak", "at the end");
	print_known(!ledger_requested_unknown(result), "requested", peak->requested, end->requested,
		"asked for, not freed");
	print_known(ours, "slack", peak->chunk - peak->requested, end->chunk - end->requested,
		"headers and rounding");
	print_known(ours, "free", memory_free(peak), memory_free(end), "mapped, in no block");
	print_known(ours, "metadata", peak->metadata_bytes, end->metadata_bytes,
		"the allocator's tables");
	printf("  %s%-19s %12s %12s%s\n", prose.bold, "= mapped",
		mapped ? prose_size(memory_mapped(peak)) : "unknown",
		mapped ? prose_size(memory_mapped(end)) : "unknown", prose.plain);
	print_known(mapped, "  by brk", peak->break_bytes, end->break_bytes, "");
	if (ours) {
		print_column("  in arenas", peak->arena_bytes, end->arena_bytes,
			breakless ? "heaps of 64 MiB" : "other threads' heaps");
		print_column(
			"  mapped blocks", peak->block_bytes, end->block_bytes, "one mapping each");
	} else {
		print_known(mapped, "  by mmap", peak->arena_bytes, end->arena_bytes, "");
	}
	const struct hl_sample_record *sample = &result->last_sample;
	uint64_t rss = sample->rss_anon + sample->rss_file + sample->rss_shmem;
	if (result->samples)
		print_column("resident (process)", (int64_t)result->peak.rss,
			(int64_t)(rss - (sample->recorder < rss ? sample->recorder : rss)),
			"highest and last, by the kernel");
	else
		printf("  %-19s %12s\n", "resident", "not measured");
	if (result->faults.known)
		print_column("  of the heap", result->faults.peak, result->end.resident_bytes,
			"by page faults");
	if (ledger_requested_unknown(result))
		return;
	print_residual(analysis);
	print_caches(analysis);
	const struct trace_stream *stream = analysis->streams[analysis->main].stream;
	char when[48] = "";
	if (!trace_has_times(stream))
		snprintf(when, sizeof(when), ", at event %s",
			tool_count(result->peak.requested_tick));
	prose_say("Most requested at any time: %s, in %s block%s%s.",
		prose_size(result->peak.requested),
		tool_count((uint64_t)result->peak.at_requested.live_blocks),
		result->peak.at_requested.live_blocks == 1 ? "" : "s", when);
}

static void print_live(
	const struct analysis *analysis, const struct ledger_result *result, bool ran_on)
{
	if (result->end.requested > 0)
		prose_say("%s in %s block%s was %s%s.", prose_size(result->end.requested),
			tool_count((uint64_t)result->end.live_blocks),
			result->end.live_blocks == 1 ? "" : "s",
			analysis->window.set ? "not freed" : "never freed",
			analysis->window.set            ? " by the end of that time"
			: analysis_imported(analysis)   ? " as far as the log goes"
			: analysis->complete && !ran_on ? " before the program ended"
							: " as far as the trace goes");
}

static void print_since_attach(const struct analysis *analysis, const struct ledger_result *result)
{
	const struct hl_sample_record *first = &result->first_sample, *last = &result->last_sample;
	uint64_t major = last->major_faults - first->major_faults;

	prose_heading(
		analysis->count > 1 ? "Since the attach, in the same process" : "Since the attach");
	if (result->samples > 1)
		prose_say("%s page faults, %s of them from the disk.",
			tool_count(last->minor_faults - first->minor_faults + major),
			tool_count(major));
	if (result->calls_unknown) {
		prose_say("Allocator calls are unknown: attach --malloc records them.");
		return;
	}
	prose_say("%s in %s block%s that %s allocated since %s live at the end; at most %s at a "
		  "time.",
		prose_size(result->end.requested), tool_count((uint64_t)result->end.live_blocks),
		result->end.live_blocks == 1 ? "" : "s",
		result->end.live_blocks == 1 ? "was" : "were",
		result->end.live_blocks == 1 ? "is" : "are", prose_size(result->peak.requested));
	if (result->unseen_freed)
		prose_say("%s block%s freed that %s not seen being made.",
			tool_count(result->unseen_freed),
			result->unseen_freed == 1 ? " was" : "s were",
			result->unseen_freed == 1 ? "was" : "were");
}

/* What can be said for certain about memory that is still there at the end. */
static void print_returns(const struct analysis *analysis)
{
	const struct ledger_result *result = &analysis->streams[analysis->main].result;
	const struct tally_latency *latency = &result->latency;
	uint64_t returned = ledger_returned_bytes(&result->returned);
	int64_t left = memory_free(&result->end);
	bool ran_on = analysis_ran_on(analysis->streams[analysis->main].stream);

	if (result->attached) {
		print_since_attach(analysis, result);
		return;
	}
	if (result->elsewhere)
		return;
	if (result->observed) {
		print_live(analysis, result, ran_on);
		return;
	}
	prose_heading(analysis->count > 1 ? "Why it has not gone back, in the same process"
					  : "Why it has not gone back");
	prose_say("%s went back to the kernel: %s from the break, %s from arenas, %s as mapped "
		  "blocks.",
		tool_size(returned), tool_size(result->returned.break_bytes),
		tool_size(result->returned.arena_bytes), tool_size(result->returned.block_bytes));
	print_live(analysis, result, ran_on);
	if (left > 0)
		prose_say("%s is mapped but in no block: %s as whole pages that were used and "
			  "freed, the "
			  "rest never used or on a page with a live block. %s of freed pages were "
			  "used "
			  "again.",
			prose_size(left), tool_size(result->never_page_bytes),
			tool_size(result->reused_page_bytes));
	if (latency->total_bytes)
		prose_say(
			"Of what was freed and went back, half did so within %s (by bytes), 90 %% "
			"within %s, all within %s.",
			prose_duration(tally_percentile(latency, 50)),
			prose_duration(tally_percentile(latency, 90)),
			prose_duration(latency->max_ns));
	double pinned = result->waits.waited[WAITS_PINNED];
	double waited = pinned + result->waits.waited[WAITS_POLICY];
	if (waited > 0)
		prose_say("Of the time that freed memory waited, by bytes, %.0f %% was below a "
			  "block in use; "
			  "the rest was left to policy: thresholds and caches.",
			100 * pinned / waited);
	double peak = analysis_fragmentation(result->mapped_ratio.at_peak_held);
	if (peak >= 0)
		prose_say(
			"Fragmentation: at the peak the heap held %.1f %% more than was requested.",
			peak);
}

/* A name in it may hold anything. */
static void print_sentence(const char *number, const char *sentence)
{
	char text[FINDING_TEXT_BYTES + 8];
	int used = snprintf(text, sizeof(text), "%-3s%s", number, sentence);
	for (int i = 0; i < used && i < (int)sizeof(text) - 1; i++)
		if ((unsigned char)text[i] < ' ' || (unsigned char)text[i] >= 0x7f)
			text[i] = '?';
	prose_broken(text, 3);
}

static void print_findings(const struct analysis *analysis)
{
	const struct findings *findings = &analysis->findings;
	if (!findings->count && !findings->all_well[0])
		return;
	prose_heading_of_main(analysis, "What to make of it", " at its end");
	for (size_t i = 0; i < findings->count; i++) {
		char number[24];
		snprintf(number, sizeof(number), "%zu.", i + 1);
		print_sentence(number, findings->list[i].sentence);
		if (findings->list[i].remedy[0])
			print_sentence("", findings->list[i].remedy);
	}
	if (findings->all_well[0])
		prose_broken(findings->all_well, 0);
}

static void print_syscalls(const struct analysis *analysis)
{
	const struct ledger_result *result = &analysis->total;
	uint64_t total = analysis_all_syscalls(result), calls = analysis_calls(result), ticks = 0;
	const struct clock *clock = &analysis->streams[analysis->main].stream->clock;

	for (size_t i = 0; i < result->causes.count; i++)
		ticks += result->causes.list[i].ticks;
	prose_heading(
		result->attached ? "Its system calls for memory" : "What it cost in system calls");
	if (result->syscalls_unknown) {
		prose_say("Unknown: %s.", analysis->unknown_why);
		return;
	}
	if (result->observed && !result->attached)
		prose_say("Beside these the process made %s that were in no allocator call.",
			tool_count(result->foreign_calls));
	if (!total) {
		prose_say(
			result->attached ? "None were made." : "None were made by the allocator.");
		return;
	}
	printf("  ");
	for (unsigned kind = HL_KIND_brk; kind <= HL_KIND_mprotect; kind++)
		printf("%s %s%s", name_kind(kind), tool_count(analysis_syscalls(result, kind)),
			kind < HL_KIND_mprotect ? ", " : "\n");
	if (result->attached) {
		prose_say("%s in all, %s in the kernel", tool_count(total),
			prose_duration(clock_span(clock, ticks)));
		if (result->calls_unknown)
			return; /* nor in which call each was made */
	} else {
		prose_say("%s in all, %s in the kernel, one for every %s allocator calls",
			tool_count(total), prose_duration(clock_span(clock, ticks)),
			tool_count(calls / total));
	}
	size_t most = analysis_top(analysis, CAUSES_SHOWN);
	for (size_t i = 0; i < result->causes.count && i < most; i++) {
		const struct tally_cause *cause = &result->causes.list[i];
		const char *text = name_reason_text(cause->reason);
		const char *call = cause->call ? name_kind(cause->call) : NULL;
		printf("  %9s %-8s in %-14s %s%.41s%s\n", tool_count(cause->count),
			name_kind(cause->syscall), call ? call : "no call", prose.dim,
			text ? text : "not recorded", prose.plain);
	}
	if (result->causes.count > most)
		prose_say("... and %zu more (--json, syscalls.by_cause)",
			result->causes.count - most);
	if (result->recorder_calls)
		prose_say("Not counted: %s calls of the recorder itself.",
			tool_count(result->recorder_calls));
}

void summary_print(const struct analysis *analysis)
{
	prose_begin();
	if (!analysis->count) {
		puts("No process was recorded: the trace holds no stream.");
		return;
	}
	if (analysis_imported(analysis))
		print_log(analysis);
	else
		print_identity(analysis);
	print_window(&analysis->window);
	print_warnings(analysis);
	print_memory(analysis);
	print_returns(analysis);
	print_syscalls(analysis);
	summary_groups(analysis);
	summary_phases(analysis);
	summary_processes(analysis);
	print_findings(analysis);
}

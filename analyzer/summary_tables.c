/* SPDX-License-Identifier: MIT
 *
 * See summary_tables.h.
 */
#include "summary_tables.h"
#include "names.h"
#include "prose.h"
#include "tool.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GROUPS_SHOWN 12
#define GROUP_COLUMNS 38
#define PHASES_SHOWN 12
#define PROCESSES_SHOWN 12

static void print_phase(const struct analysis *analysis, const struct phases_row *row)
{
	const struct clock *clock = &analysis->streams[analysis->main].stream->clock;
	uint64_t calls = 0, syscalls = 0;
	for (unsigned kind = 0; kind < HL_KIND_LIMIT; kind++) {
		calls += row->calls[kind].count;
		syscalls += row->syscalls[kind];
	}
	printf("  ");
	prose_cell(row->named ? row->name : "(before)", 15);
	bool known = !analysis->total.syscalls_unknown;
	printf(" %8s %11s %8s %10s %10s",
		prose_duration(clock_span(clock, row->end_tick - row->first_tick)),
		analysis->total.calls_unknown ? "-" : tool_count(calls),
		known ? tool_count(syscalls) : "-",
		analysis->total.elsewhere ? "-" : prose_size(row->peak_requested), known ? prose_size(row->peak_mapped) : "-");
	printf(" %10s\n", row->samples ? tool_size(row->peak_rss) : "-");
}

void summary_phases(const struct analysis *analysis)
{
	const struct phases *phases = &analysis->total.phases;
	if (!phases->count)
		return;
	prose_heading_of_main(analysis, "Phases", "");
	printf("  %-15s %8s %11s %8s %10s %10s %10s\n", "", "time", "calls", "syscalls",
		"requested", "mapped", "resident");
	size_t most = analysis_top(analysis, PHASES_SHOWN);
	for (size_t i = 0; i < phases->count && i < most; i++)
		print_phase(analysis, &phases->row[i]);
	if (phases->count > most)
		prose_say("... and %zu more (--json, phases)", phases->count - most);
	prose_say("Memory is the most in each phase; - is not measured.");
	if (phases->beyond)
		prose_say("Not listed: what follows the first %zu phases, %s more marks.",
			phases->count, tool_count(phases->beyond));
}

static void name_place(char *text, size_t length, const struct analysis_site *place)
{
	if (place->function && place->file && place->line)
		snprintf(text, length, "%s (%s:%u)", place->function, tool_base_name(place->file),
			place->line);
	else if (place->function)
		snprintf(text, length, "%s", place->function);
	else if (site_is_nameless(place))
		snprintf(text, length, "%s+0x%" PRIx64, tool_base_name(place->module), place->offset);
	else if (place->address)
		snprintf(text, length, "0x%" PRIx64, place->address);
	else
		snprintf(text, length, "%s", place->module ? tool_base_name(place->module) : "unknown");
}

static void name_group(char *text, size_t length, const struct analysis_stream *entry,
	const struct groups *groups, const struct group *group)
{
	static const char *const kept[] = {
		[HL_KEPT_CACHE] = "(freed, in a thread's cache)",
		[HL_KEPT_FAST] = "(freed, in a fast list)",
		[HL_KEPT_TABLE] = "(the allocator's own)",
		[HL_KEPT_LENT] = "(freed, lent to the cache)",
	};
	const struct layout_site *sum = &group->sum;
	uint32_t tid = threads_tid(&entry->threads, sum->thread);
	if (layout_is_kept(sum->caller)) {
		unsigned what = layout_kept(sum->caller);
		bool known = what < sizeof(kept) / sizeof(kept[0]) && kept[what];
		snprintf(text, length, "%s", known ? kept[what] : "(freed, and kept)");
	} else if (groups->by == ANALYSIS_BY_SIZE) {
		snprintf(text, length, "up to %s", tool_size(group_up_to(group)));
	} else if (groups->by == ANALYSIS_BY_THREAD && tid) {
		snprintf(text, length, "thread %" PRIu32, tid);
	} else {
		name_place(text, length, &group->place);
	}
}

static void print_groups_at(
	const struct analysis *analysis, enum moment_kind kind, const char *when)
{
	const struct analysis_stream *entry = &analysis->streams[analysis->main];
	const struct moment *moment = moments_find(&entry->moments, kind);
	const struct groups *groups = moment ? &entry->groups[moment - entry->moments.list] : NULL;
	size_t most = analysis_top(analysis, GROUPS_SHOWN);
	if (!groups)
		return;
	printf("  %12s %12s %12s  %s%s%s\n", "free there", "requested", "blocks", prose.bold, when,
		prose.plain);
	for (size_t i = 0; i < groups->count && i < most; i++) {
		const struct layout_site *sum = &groups->list[i].sum;
		char name[256];
		name_group(name, sizeof(name), entry, groups, &groups->list[i]);
		printf("  %12s %12s %12s  ", tool_size((uint64_t)sum->pinned),
			tool_size(sum->bytes), tool_count(sum->blocks));
		size_t width = strlen(name);
		prose_cell(name, width < GROUP_COLUMNS ? (int)width : GROUP_COLUMNS);
		putchar('\n');
	}
	if (groups->count > most)
		prose_say("... and %zu more (--top)", groups->count - most);
}

void summary_groups(const struct analysis *analysis)
{
	char title[64];
	if (!analysis->group_by)
		return;
	snprintf(title, sizeof(title), "What holds memory, by %s",
		analysis_group_name(analysis->group_by));
	prose_heading_of_main(analysis, title, "");
	if (analysis->total.observed) {
		prose_say("Unknown: the allocator is the program's own.");
		return;
	}
	print_groups_at(analysis, MOMENT_MAPPED_PEAK, "at the peak");
	print_groups_at(analysis, MOMENT_END, "at the end");
	prose_say("Free there: bytes on the pages that the blocks lie on, shared with the others "
		  "there.");
}

/* The largest first: by what was mapped, or asked for where that is not known. */
static int by_peak(const void *left, const void *right)
{
	const struct analysis_stream *a = *(const struct analysis_stream *const *)left;
	const struct analysis_stream *b = *(const struct analysis_stream *const *)right;
	if (a->result.elsewhere != b->result.elsewhere)
		return a->result.elsewhere ? 1 : -1;
	int64_t of_a =
		a->result.syscalls_unknown ? a->result.peak.requested : a->result.peak.mapped;
	int64_t of_b =
		b->result.syscalls_unknown ? b->result.peak.requested : b->result.peak.mapped;
	if (of_a != of_b)
		return of_a > of_b ? -1 : 1;
	return a->stream->info.header.serial < b->stream->info.header.serial ? -1 : 1;
}

static void print_process(const struct analysis_stream *entry)
{
	const struct ledger_result *result = &entry->result;
	bool known = !result->syscalls_unknown;
	printf("  ");
	prose_cell(tool_base_name(entry->stream->command), 13);
	printf(" %-10.10s %11s %8s %10s %10s %10s\n", entry->stream->name,
		result->calls_unknown ? "-" : tool_count(analysis_calls(result)),
		known ? tool_count(analysis_all_syscalls(result)) : "-",
		result->elsewhere ? "-" : prose_size(result->peak.requested),
		known ? prose_size(result->peak.mapped) : "-",
		result->samples ? tool_size(result->peak.rss) : "-");
}

void summary_processes(const struct analysis *analysis)
{
	const struct analysis_stream **order = calloc(analysis->count, sizeof(*order));
	const struct ledger_result *total = &analysis->total;
	if (analysis->count < 2 || !order) {
		free(order);
		return;
	}
	for (size_t i = 0; i < analysis->count; i++)
		order[i] = &analysis->streams[i];
	qsort(order, analysis->count, sizeof(*order), by_peak);
	prose_heading("Processes");
	printf("  %-13s %-10s %11s %8s %10s %10s %10s\n", "", "stream", "calls", "syscalls",
		"requested", "mapped", "resident");
	size_t most = analysis_top(analysis, PROCESSES_SHOWN);
	for (size_t i = 0; i < analysis->count && i < most; i++)
		print_process(order[i]);
	if (analysis->count > most)
		prose_say("... and %zu more (--json, processes)", analysis->count - most);
	printf("  %s%-13s %10s %11s %8s%s\n", prose.bold, "= all", "",
		total->calls_unknown ? "-" : tool_count(analysis_calls(total)),
		total->syscalls_unknown ? "-" : tool_count(analysis_all_syscalls(total)),
		prose.plain);
	prose_say("Memory is the most of each; those of several do not add up.");
	free(order);
}

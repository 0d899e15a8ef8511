/* SPDX-License-Identifier: MIT
 *
 * findings.h: of the process with the highest peak, as it was at its end. A sentence is only made
 * where the figures are known, and only of what is worth a look: a twentieth of the peak, and 1 MiB.
 */
#include "analysis.h"
#include "names.h"
#include "tool.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORTH_BYTES (UINT64_C(1) << 20)
#define WORTH_SHARE 20      /* one in so many of the peak's mapped bytes */
#define WORTH_TIME_SHARE 20 /* system calls that take one in so much of the time ... */
#define THRASH_CYCLES 10
#define TOP_PAD_BYTES (UINT64_C(128) << 10) /* what trimming leaves and growth adds, unless it was set */
#define MMAP_THRESHOLD_MOST (UINT64_C(32) << 20)
#define WORTH_TIME_NS UINT64_C(10000000) /* ... and so long: what starts and ends at once does little else */

struct maker {
	const struct analysis *analysis;
	const struct analysis_stream *entry;
	const struct layout *layout; /* at the end */
	struct findings *findings;
	uint64_t worth;
	struct place *places; /* NULL: nobody has asked yet */
	size_t place_count;
};

static unsigned percent(uint64_t part, uint64_t all)
{
	return all ? (unsigned)((double)part * 100 / (double)all + 0.5) : 0;
}

static uint64_t mapped_at_end(const struct maker *maker)
{
	int64_t mapped = memory_mapped(&maker->layout->memory);
	return mapped > 0 ? (uint64_t)mapped : 0;
}

/* The next place in the list, or NULL: the list is full of larger ones. */
static struct finding *add(struct maker *maker, const char *kind, uint64_t bytes)
{
	struct findings *findings = maker->findings;
	size_t at = findings->count;
	while (at && findings->list[at - 1].bytes < bytes)
		at--;
	if (at == FINDINGS_MOST)
		return NULL;
	size_t last = findings->count < FINDINGS_MOST ? findings->count++ : FINDINGS_MOST - 1;
	memmove(&findings->list[at + 1], &findings->list[at],
		(last - at) * sizeof(findings->list[0]));
	findings->list[at] = (struct finding){.kind = kind, .bytes = bytes};
	return &findings->list[at];
}

/* ---- places ---------------------------------------------------------------------------------- */

/* Sites of one place in the code together. */
struct place {
	struct analysis_site site;
	uint64_t caller;
	uint64_t blocks, bytes, alone_pages;
	double pinned;
};

static bool same_place(const struct place *a, const struct place *b)
{
	if (layout_is_kept(a->caller) || layout_is_kept(b->caller))
		return a->caller == b->caller;
	if (!a->site.function || !b->site.function)
		return a->site.address ? a->site.address == b->site.address
				       : a->caller == b->caller;
	return !strcmp(a->site.function, b->site.function) && a->site.line == b->site.line &&
	       !strcmp(a->site.file ? a->site.file : "", b->site.file ? b->site.file : "");
}

static struct place place_of(const struct maker *maker, uint64_t tick, uint64_t caller)
{
	const struct analysis *analysis = maker->analysis;
	struct place place = {.caller = caller};
	if (analysis->describe && !layout_is_kept(caller))
		analysis->describe(analysis->describe_context, maker->entry->stream, tick, caller,
			&place.site);
	return place;
}

/* Those that caches hold are places of their own. Once: names cost much. */
static void find_places(struct maker *maker)
{
	const struct layout *layout = maker->layout;
	struct place *places = maker->places;
	if (places)
		return;
	places = maker->places = calloc(layout->site_count + 1, sizeof(*places));
	for (size_t i = 0; places && i < layout->site_count; i++) {
		const struct layout_site *site = &layout->sites[i];
		struct place *last = &places[maker->place_count];
		size_t at = 0;
		*last = place_of(maker, site->oldest, site->caller);
		while (!same_place(&places[at], last))
			at++;
		maker->place_count += at == maker->place_count;
		places[at].blocks += site->blocks;
		places[at].bytes += site->bytes;
		places[at].pinned += site->pinned;
		places[at].alone_pages += site->alone_pages;
	}
}

static double pinned_of(const struct place *place)
{
	return place->pinned;
}

static double bytes_of(const struct place *place)
{
	return (double)place->bytes;
}

/* The place with the most of something; NULL without any, or without memory. */
static const struct place *place_with_most(
	struct maker *maker, double (*of)(const struct place *place))
{
	const struct place *most = NULL;
	find_places(maker);
	for (size_t i = 0; i < maker->place_count; i++)
		if (!most || of(&maker->places[i]) > of(most))
			most = &maker->places[i];
	return most;
}

/* "parse_line (parse.c:120)", "parse_line (libfoo.so)", "libfoo.so+0x1a2b", or an address. */
static const char *name_place(const struct place *place, char *text, size_t length)
{
	const struct analysis_site *site = &place->site;
	if (site->function && site->file && site->line)
		snprintf(text, length, "%.80s (%.60s:%u)", site->function, tool_base_name(site->file),
			site->line);
	else if (site->function)
		snprintf(text, length, "%.80s (%.60s)", site->function,
			site->module ? tool_base_name(site->module) : "?");
	else if (site->module)
		snprintf(text, length, "%.80s+0x%" PRIx64, tool_base_name(site->module), site->offset);
	else if (place->caller && !hl_caller_stack(place->caller))
		snprintf(text, length, "0x%" PRIx64 " (record --stacks 16 gives names)",
			place->caller);
	else
		snprintf(text, length, "an unknown place");
	return text;
}

static const char *name_keeper(uint64_t caller)
{
	return layout_kept(caller) == HL_KEPT_FAST ? "a fast list" : "the thread's cache";
}

/* "434 blocks from parse_line (parse.c:120)" */
static const char *name_blocks(const struct place *place, char *text, size_t length)
{
	char name[200];
	if (layout_is_kept(place->caller) && layout_kept(place->caller) == HL_KEPT_TABLE)
		snprintf(text, length, "%s blocks of the allocator's own", tool_count(place->blocks));
	else if (layout_is_kept(place->caller))
		snprintf(text, length, "%s freed blocks that %s keeps", tool_count(place->blocks),
			name_keeper(place->caller));
	else
		snprintf(text, length, "%s blocks from %s", tool_count(place->blocks),
			name_place(place, name, sizeof(name)));
	return text;
}

/* What keeps the break from coming down. */
static const char *name_holder(const struct maker *maker, char *text, size_t length)
{
	const struct layout_holder *holder = &maker->layout->holder[0];
	uint64_t caller = live_caller(&holder->block);
	char place_text[200];
	if (!maker->layout->holders)
		snprintf(text, length, "no block");
	else if (layout_is_kept(caller))
		snprintf(text, length, "a freed block that %s keeps", name_keeper(caller));
	else {
		struct place place = place_of(maker, holder->block.tick, caller);
		snprintf(text, length, "a block of %s from %s", tool_size(holder->block.size),
			name_place(&place, place_text, sizeof(place_text)));
	}
	return text;
}

/* ---- findings -------------------------------------------------------------------------------- */

/* Blocks need not have been written: what is given back may have been in memory in part only. */
static void promise_trim(const struct maker *maker, struct finding *finding, uint64_t bytes)
{
	const struct ledger_result *result = &maker->entry->result;
	const struct hl_sample_record *sample = &result->last_sample;
	uint64_t resident = sample->rss_anon + sample->rss_file + sample->rss_shmem;
	bool sparse = result->samples && resident < bytes;
	finding->promised = bytes;
	snprintf(finding->remedy, sizeof(finding->remedy), "malloc_trim(0) would return %s%s%s%s%s",
		tool_size(bytes),
		maker->layout->kept_all ? "."
					: " at most: what thread caches hold was not all recorded.",
		sparse ? " By the last sample no more than " : "", sparse ? tool_size(resident) : "",
		sparse ? " of the process was in memory." : "");
}

/* Whole pages below the top: policy keeps them, and malloc_trim does not. */
static void find_whole_pages(struct maker *maker)
{
	const struct layout *layout = maker->layout;
	uint64_t bytes = layout->whole.touched, mapped = mapped_at_end(maker);
	char holder[300];
	if (bytes < maker->worth)
		return;
	struct finding *finding = add(maker, "whole_pages", bytes);
	if (!finding)
		return;
	bool in_break = layout->memory.break_bytes > layout->memory.arena_bytes;
	snprintf(finding->sentence, sizeof(finding->sentence),
		"%s, %u %% of what is mapped, is free in whole pages%s%s%s.", tool_size(bytes),
		percent(bytes, mapped), in_break ? " below " : " inside arenas",
		in_break ? name_holder(maker, holder, sizeof(holder)) : "",
		in_break ? ", and the break cannot come down past it" : "");
	promise_trim(maker, finding, bytes < layout->trim ? bytes : layout->trim);
}

static void find_top(struct maker *maker)
{
	const struct layout *layout = maker->layout;
	uint64_t bytes = layout->in_top.touched;
	if (bytes < maker->worth)
		return;
	struct finding *finding = add(maker, "top", bytes);
	if (!finding)
		return;
	snprintf(finding->sentence, sizeof(finding->sentence),
		"%s, %u %% of what is mapped, is free at the end of the heap, where it waits for "
		"the trim threshold.",
		tool_size(bytes), percent(bytes, mapped_at_end(maker)));
	if (layout->trim_top)
		promise_trim(maker, finding, bytes < layout->trim_top ? bytes : layout->trim_top);
}

static uint64_t beyond(uint64_t bytes, uint64_t known)
{
	return bytes > known ? bytes - known : 0;
}

/* Free bytes that share their page with a block. malloc_trim empties fast lists first, and then there
 * may be more whole pages than there are now. */
static void find_partial_pages(struct maker *maker)
{
	const struct layout *layout = maker->layout;
	uint64_t more = beyond(layout->trim, layout->whole.touched) +
			beyond(layout->trim_top, layout->in_top.touched);
	char blocks[300];
	if (layout->partial < maker->worth)
		return;
	const struct place *most = place_with_most(maker, pinned_of);
	struct finding *finding = most ? add(maker, "partial_pages", layout->partial) : NULL;
	if (!finding)
		return;
	snprintf(finding->sentence, sizeof(finding->sentence),
		"%s, %u %% of what is mapped, is free on pages that hold blocks too: the "
		"most, %s, beside %s.",
		tool_size(layout->partial), percent(layout->partial, mapped_at_end(maker)),
		tool_size((uint64_t)most->pinned), name_blocks(most, blocks, sizeof(blocks)));
	if (more >= WORTH_BYTES)
		promise_trim(maker, finding, more);
	else
		snprintf(finding->remedy, sizeof(finding->remedy),
			"No call returns it. Were those blocks freed or elsewhere, %s more would "
			"be whole free pages.",
			tool_size(most->alone_pages << PAGES_BITS));
}

static void find_in_use(struct maker *maker)
{
	const struct layout *layout = maker->layout;
	uint64_t bytes = layout->memory.requested > 0 ? (uint64_t)layout->memory.requested : 0;
	char blocks[300];
	if (bytes < maker->worth)
		return;
	const struct place *most = place_with_most(maker, bytes_of);
	struct finding *finding = most ? add(maker, "in_use", bytes) : NULL;
	if (finding)
		snprintf(finding->sentence, sizeof(finding->sentence),
			"%s in %s blocks, %u %% of what is mapped, is in use at the end: the "
			"most, %s, in %s.",
			tool_size(bytes), tool_count((uint64_t)layout->memory.live_blocks),
			percent(bytes, mapped_at_end(maker)), tool_size(most->bytes),
			name_blocks(most, blocks, sizeof(blocks)));
}

static void find_slack(struct maker *maker)
{
	const struct memory *memory = &maker->layout->memory;
	int64_t slack = memory->chunk - memory->requested;
	if (slack < 0 || (uint64_t)slack < maker->worth || memory->live_blocks <= 0)
		return;
	struct finding *finding = add(maker, "slack", (uint64_t)slack);
	if (finding)
		snprintf(finding->sentence, sizeof(finding->sentence),
			"%s, %u %% of what is mapped, is headers and rounding of %s "
			"live blocks of %s on average.",
			tool_size((uint64_t)slack), percent((uint64_t)slack, mapped_at_end(maker)),
			tool_count((uint64_t)memory->live_blocks),
			tool_size((uint64_t)(memory->requested / memory->live_blocks)));
}

/* Once in a while is no thrashing. */
static bool thrashes(const struct maker *maker, const struct thrash_cycles *cycles)
{
	return cycles->count >= THRASH_CYCLES && cycles->bytes >= maker->worth;
}

static struct finding *add_cycles(
	struct maker *maker, const struct thrash_cycles *cycles, const char *what, const char *calls)
{
	const struct clock *clock = &maker->entry->stream->clock;
	bool known = maker->entry->result.thrash.faults_known;
	struct finding *finding = add(maker, "thrash", cycles->bytes);
	if (finding)
		snprintf(finding->sentence, sizeof(finding->sentence),
			"%s times %s, %s in all, went back to the kernel and was asked for "
			"again within a second: %.3f s in %s, and %s%s page faults.",
			tool_count(cycles->count), what, tool_size(cycles->bytes),
			(double)clock_span(clock, cycles->ticks) / 1e9, calls,
			known ? "" : "up to ",
			tool_count(known ? cycles->faults : cycles->bytes >> PAGES_BITS));
	return finding;
}

/* What returns must be less than the threshold, rounded up to whole KiB. */
static uint64_t threshold_above(uint64_t bytes)
{
	return (bytes / 1024 + 1) * 1024;
}

static void find_thrash(struct maker *maker)
{
	const struct thrash *thrash = &maker->entry->result.thrash;
	struct finding *finding;
	if (thrashes(maker, &thrash->break_) &&
		(finding = add_cycles(maker, &thrash->break_, "the end of the break", "brk")))
		snprintf(finding->remedy, sizeof(finding->remedy),
			"M_TRIM_THRESHOLD=%" PRIu64 " would have kept it.",
			threshold_above(thrash->break_.largest + 2 * TOP_PAD_BYTES));
	if (!thrashes(maker, &thrash->block) ||
		!(finding = add_cycles(maker, &thrash->block, "a block's mapping", "mmap and munmap")))
		return;
	if (thrash->block.largest <= MMAP_THRESHOLD_MOST)
		snprintf(finding->remedy, sizeof(finding->remedy),
			"M_MMAP_THRESHOLD=%" PRIu64 " and M_TRIM_THRESHOLD=%" PRIu64
			" would have kept them in the heap.",
			threshold_above(thrash->block.largest),
			2 * threshold_above(thrash->block.largest));
	else
		snprintf(finding->remedy, sizeof(finding->remedy),
			"They are larger than the largest mmap_threshold; keep them, or use them again.");
}

static void find_system_calls(struct maker *maker)
{
	const struct analysis *analysis = maker->analysis;
	const struct tally_causes *causes = &maker->entry->result.causes;
	const struct clock *clock = &maker->entry->stream->clock;
	uint64_t ticks = 0, count = 0, bytes = 0, all_ns = analysis->last_ns - analysis->first_ns;
	for (size_t i = 0; i < causes->count; i++) {
		ticks += causes->list[i].ticks;
		count += causes->list[i].count;
	}
	uint64_t ns = clock_span(clock, ticks);
	if (ns < WORTH_TIME_NS || ns < all_ns / WORTH_TIME_SHARE)
		return;
	bytes = causes->list[0].bytes;
	struct finding *finding = add(maker, "system_calls", 0);
	const char *call = causes->list[0].call ? name_kind(causes->list[0].call) : NULL;
	const char *reason = name_reason_text(causes->list[0].reason);
	if (finding)
		snprintf(finding->sentence, sizeof(finding->sentence),
			"%s system calls took %u %% of the time: the most, %s %s in %s for %s "
			"(%s).",
			tool_count(count), percent(ns, all_ns), tool_count(causes->list[0].count),
			name_kind(causes->list[0].syscall), call ? call : "no call", tool_size(bytes),
			reason ? reason : "not recorded");
}

static void say_all_is_well(struct maker *maker)
{
	const struct layout *layout = maker->layout;
	struct findings *findings = maker->findings;
	uint64_t back = layout->trim + layout->trim_top;
	for (size_t i = 0; i < findings->count; i++)
		if (strcmp(findings->list[i].kind, "in_use"))
			return;
	snprintf(findings->all_well, sizeof(findings->all_well),
		"Little memory lies idle in this heap: %s is mapped at the end, %s of it in use, and "
		"malloc_trim(0) would return %s.%s",
		tool_size(mapped_at_end(maker)),
		tool_size(layout->memory.requested > 0 ? (uint64_t)layout->memory.requested : 0),
		tool_size(back),
		findings->count ? " Whether all that is in use is still needed is not known here."
				: "");
}

void findings_make(struct findings *findings, const struct analysis *analysis)
{
	*findings = (struct findings){.count = 0};
	if (!analysis->count)
		return;
	const struct analysis_stream *entry = &analysis->streams[analysis->main];
	const struct moment *end = moments_find(&entry->moments, MOMENT_END);
	if (!end)
		return;
	struct maker maker = {.analysis = analysis,
		.entry = entry,
		.layout = &end->layout,
		.findings = findings,
		.worth = WORTH_BYTES};
	if (entry->result.peak.mapped > 0 &&
		(uint64_t)entry->result.peak.mapped / WORTH_SHARE > maker.worth)
		maker.worth = (uint64_t)entry->result.peak.mapped / WORTH_SHARE;
	find_whole_pages(&maker);
	find_top(&maker);
	find_partial_pages(&maker);
	find_in_use(&maker);
	find_slack(&maker);
	find_thrash(&maker);
	find_system_calls(&maker);
	say_all_is_well(&maker);
	free(maker.places);
}

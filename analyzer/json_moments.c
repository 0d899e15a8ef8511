/* SPDX-License-Identifier: MIT
 *
 * The moments of an analysis as JSON, as docs/analysis.md has them.
 */
#include "json_put.h"
#include "names.h"

#include <stdio.h>
#include <string.h>

static json_t *address(uint64_t value)
{
	char text[24];
	snprintf(text, sizeof(text), "0x%llx", (unsigned long long)value);
	return value ? json_string(text) : NULL;
}

static json_t *string_or_null(const char *text)
{
	return text ? json_text(text, strlen(text)) : NULL;
}

static void put_module(json_t *object, const struct analysis_site *site)
{
	put(object, "module", string_or_null(site->module));
	put(object, "offset",
		site_is_nameless(site) ? json_integer((json_int_t)site->offset) : NULL);
}

void json_put_origin(json_t *object, const struct analysis *analysis,
	const struct analysis_stream *entry, uint64_t tick, uint64_t caller)
{
	struct analysis_site site = {0};
	uint32_t number;
	put(object, "kept",
		layout_is_kept(caller) ? json_string(name_kept(layout_kept(caller))) : NULL);
	if (layout_is_kept(caller))
		caller = 0;
	number = hl_caller_stack(caller);
	if (analysis->describe)
		analysis->describe(analysis->describe_context, entry->stream, tick, caller, &site);
	put(object, "caller", number ? address(site.address) : address(caller));
	put(object, "stack", number ? json_integer(number) : NULL);
	put(object, "function", string_or_null(site.function));
	put(object, "file", string_or_null(site.file));
	put(object, "line", site.line ? json_integer(site.line) : NULL);
	put_module(object, &site);
}

static void append_frame(void *array, const char *function, const char *module)
{
	json_t *object = json_object();
	put(object, "function", string_or_null(function));
	put(object, "module", string_or_null(module));
	json_array_append_new(array, object);
}

static void put_frames(json_t *object, const struct analysis *analysis,
	const struct analysis_stream *entry, uint64_t tick, uint64_t caller)
{
	json_t *array = NULL;
	if (analysis->frames && !layout_is_kept(caller) && hl_caller_stack(caller)) {
		array = json_array();
		analysis->frames(analysis->describe_context, entry->stream, tick, caller,
			append_frame, array);
	}
	put(object, "frames", array);
}

static void put_thread(json_t *object, const struct analysis_stream *entry, uint32_t number)
{
	uint32_t tid = threads_tid(&entry->threads, number);
	put(object, "thread", tid ? json_integer(tid) : NULL);
}

static json_t *whole_object(const struct layout_whole *whole)
{
	json_t *object = json_object();
	put_count(object, "touched_bytes", whole->touched);
	put_count(object, "purged_bytes", whole->purged);
	put_count(object, "untouched_bytes", whole->untouched);
	return object;
}

/* Every byte of what is mapped is in one of these. */
static json_t *ledger_object(const struct layout *layout)
{
	const struct memory *memory = &layout->memory;
	json_t *object = json_object();
	put_count(object, "mapped_bytes", (uint64_t)memory_mapped(memory));
	put_int(object, "requested_bytes", memory->requested);
	put_int(object, "slack_bytes", memory->chunk - memory->requested);
	put_known(object, "cached_bytes", layout->kept_known, (int64_t)layout->cached);
	put_known(object, "table_bytes", layout->kept_known, (int64_t)layout->tables);
	put_count(object, "partial_bytes", layout->partial);
	put(object, "whole_pages", whole_object(&layout->whole));
	put_count(object, "top_bytes", layout->top);
	put(object, "top_pages", whole_object(&layout->in_top));
	put_count(object, "between_bytes", layout->between);
	put_int(object, "metadata_bytes", memory->metadata_bytes);
	put_int(object, "live_blocks", memory->live_blocks);
	put_int(object, "break_bytes", memory->break_bytes);
	put_int(object, "arena_bytes", memory->arena_bytes);
	put_int(object, "block_bytes", memory->block_bytes);
	return object;
}

static json_t *free_space_object(const struct layout *layout)
{
	const struct layout_runs *runs = &layout->runs, *inner = &layout->inner;
	json_t *object = json_object(), *sizes = json_array();
	put_count(object, "bytes", runs->bytes);
	put_count(object, "runs", runs->count);
	put_count(object, "largest_bytes", runs->largest);
	put_count(object, "largest_without_top_bytes", inner->largest);
	for (unsigned i = 0; i < LAYOUT_SIZES; i++) {
		json_t *size = json_object();
		put_count(size, "size_bytes", layout_sizes[i]);
		put_real(size, "unusable", layout_unusable(runs, i));
		put_real(size, "unusable_without_top", layout_unusable(inner, i));
		put_real(size, "split", layout_split(runs, i));
		put_real(size, "split_without_top", layout_split(inner, i));
		json_array_append_new(sizes, size);
	}
	put(object, "sizes", sizes);
	return object;
}

static json_t *pages_object(const struct layout_pages *pages, unsigned bits)
{
	json_t *object = json_object();
	put_count(object, "page_bytes", UINT64_C(1) << bits);
	put_count(object, "used", pages->used);
	put_count(object, "half_free", pages->half);
	put_count(object, "single", pages->single);
	put_count(object, "whole", pages->whole);
	put_count(object, "free_bytes", pages->free_bytes);
	put_count(object, "single_free_bytes", pages->single_free);
	return object;
}

static json_t *holder_object(const struct analysis *analysis, const struct analysis_stream *entry,
	const struct layout_holder *holder)
{
	const struct live_block *block = &holder->block;
	json_t *object = json_object();
	put_count(object, "returned_bytes", holder->returned);
	put(object, "address", address(block->addr));
	bool kept = layout_is_kept(live_caller(block));
	put_known(object, "size_bytes", !kept, (int64_t)block->size);
	put_count(object, "chunk_bytes", block->chunk & HL_ADDRESS_MASK);
	put_known(object, "allocated_at_ns", !kept,
		(int64_t)clock_ns(&entry->stream->clock, block->tick));
	put_thread(object, entry, live_thread(block));
	json_put_origin(object, analysis, entry, block->tick, live_caller(block));
	return object;
}

static json_t *break_object(const struct analysis *analysis, const struct analysis_stream *entry,
	const struct layout *layout)
{
	json_t *object = json_object(), *holders = json_array();
	put_count(object, "top_bytes", layout->break_top);
	for (size_t i = 0; i < layout->holders; i++)
		json_array_append_new(
			holders, holder_object(analysis, entry, &layout->holder[i]));
	put(object, "holders", holders);
	return object;
}

static json_t *arenas_array(const struct analysis *analysis, const struct analysis_stream *entry,
	const struct layout *layout)
{
	json_t *array = json_array();
	for (size_t i = 0; i < layout->arena_count; i++) {
		const struct layout_arena *arena = &layout->arenas[i];
		json_t *object = json_object(), *holders = json_array();
		put_count(object, "arena", arena->number);
		put_count(object, "segments", arena->segments);
		put_count(object, "mapped_bytes", arena->mapped);
		put_count(object, "free_bytes", arena->free_bytes);
		put_count(object, "top_bytes", arena->top);
		put_count(object, "blocks", arena->blocks);
		for (size_t j = 0; j < arena->holders; j++)
			json_array_append_new(
				holders, holder_object(analysis, entry, &arena->holder[j]));
		put(object, "holders", holders);
		json_array_append_new(array, object);
	}
	return array;
}

static void put_sums(
	json_t *object, const struct analysis_stream *entry, const struct layout_site *site)
{
	put_real(object, "pinned_bytes", site->pinned);
	put_count(object, "alone_bytes", site->alone_bytes);
	put_count(object, "alone_pages", site->alone_pages);
	put_count(object, "blocks", site->blocks);
	put_count(object, "requested_bytes", site->bytes);
	put_count(object, "mapped_blocks", site->mapped_blocks);
	put_count(object, "mapped_requested_bytes", site->mapped_bytes);
	bool kept = layout_is_kept(site->caller);
	put_known(object, "smallest_bytes", !kept, (int64_t)site->smallest);
	put_known(object, "largest_bytes", !kept, (int64_t)site->largest);
	put_known(object, "oldest_at_ns", !kept,
		(int64_t)clock_ns(&entry->stream->clock, site->oldest));
	put_known(object, "youngest_at_ns", !kept,
		(int64_t)clock_ns(&entry->stream->clock, site->youngest));
	put_thread(object, entry, site->thread);
}

/* NULL of what caches hold: no free of the program has it. */
static json_t *freed_object(const struct layout_site *site)
{
	if (layout_is_kept(site->caller))
		return NULL;
	json_t *object = json_object();
	put_count(object, "mapped_bytes", site->freed_mapped);
	put_count(object, "top_bytes", site->freed_top);
	put_count(object, "trim_bytes", site->freed_trim);
	return object;
}

static json_t *site_object(const struct analysis *analysis, const struct analysis_stream *entry,
	const struct layout_site *site)
{
	json_t *object = json_object();
	put_sums(object, entry, site);
	put(object, "freed", freed_object(site));
	json_put_origin(object, analysis, entry, site->oldest, site->caller);
	put_frames(object, analysis, entry, site->oldest, site->caller);
	return object;
}

static json_t *group_object(
	const struct analysis_stream *entry, const struct groups *groups, const struct group *group)
{
	const struct analysis_site *place = &group->place;
	uint64_t key = group->sum.caller;
	bool kept = layout_is_kept(key), size = !kept && groups->by == ANALYSIS_BY_SIZE;
	json_t *object = json_object();
	put_sums(object, entry, &group->sum);
	put(object, "kept", kept ? json_string(name_kept(layout_kept(key))) : NULL);
	put_known(object, "up_to_bytes", size, size ? (int64_t)group_up_to(group) : 0);
	put(object, "caller", address(place->address));
	put(object, "function", string_or_null(place->function));
	put(object, "file", string_or_null(place->file));
	put(object, "line", place->line ? json_integer(place->line) : NULL);
	put_module(object, place);
	return object;
}

static void put_groups(json_t *object, const struct analysis_stream *entry, size_t moment)
{
	const struct groups *groups = entry->groups ? &entry->groups[moment] : NULL;
	json_t *array = groups ? json_array() : NULL;
	for (size_t i = 0; groups && i < groups->shown; i++)
		json_array_append_new(array, group_object(entry, groups, &groups->list[i]));
	put_known(object, "groups_total", groups, groups ? (int64_t)groups->count : 0);
	put(object, "groups", array);
}

static json_t *sites_array(const struct analysis *analysis, const struct analysis_stream *entry,
	const struct layout *layout)
{
	json_t *array = json_array();
	size_t most = analysis_top(analysis, MOMENTS_SITES);
	for (size_t i = 0; i < layout->site_count && i < most; i++)
		json_array_append_new(array, site_object(analysis, entry, &layout->sites[i]));
	return array;
}

/* Of what is in memory, the same rows; NULL without a snapshot. */
static json_t *resident_object(
	const struct layout_resident *resident, const struct analysis_stream *entry)
{
	if (!resident->known)
		return NULL;
	json_t *object = json_object();
	put_count(object, "at_ns", clock_ns(&entry->stream->clock, resident->tick));
	put_count(object, "took_ns", clock_span(&entry->stream->clock, resident->took));
	put(object, "reason", json_string(name_resident(resident->reason)));
	put(object, "cut", json_boolean(resident->cut));
	put_count(object, "requested_bytes", resident->requested);
	put_count(object, "slack_bytes", resident->slack);
	put_count(object, "cached_bytes", resident->cached);
	put_count(object, "table_bytes", resident->tables);
	put_count(object, "free_bytes", resident->free);
	put_count(object, "top_bytes", resident->top);
	put_count(object, "metadata_bytes", resident->metadata);
	put_count(object, "outside_bytes", resident->outside);
	put_count(object, "all_bytes", resident->all);
	const struct ledger_counted *counted = &resident->counted;
	put_known(object, "rss_anon_bytes", counted->has_before, (int64_t)counted->before);
	put_known(object, "rss_anon_after_bytes", counted->has_after, (int64_t)counted->after);
	int64_t residual;
	bool known = ledger_residual(counted, resident->all, &residual) && !resident->cut;
	put_known(object, "residual_bytes", known, residual);
	return object;
}

/* Whose content the ledger has, and how much it has not. */
static json_t *caches_object(const struct layout *layout)
{
	if (!layout->kept_known)
		return json_null();
	json_t *object = json_object();
	put_count(object, "total", layout->caches);
	put_count(object, "known", layout->caches_known);
	put_count(object, "unread_lists", layout->unread);
	return object;
}

static json_t *moment_object(const struct analysis *analysis, const struct analysis_stream *entry,
	const struct moment *moment)
{
	const struct layout *layout = &moment->layout;
	json_t *object = json_object();
	put(object, "moment", json_string(moments_name(moment->kind)));
	put(object, "phase", string_or_null(moments_phase(moment, &entry->result.phases)));
	put_count(object, "at_ns", clock_ns(&entry->stream->clock, layout->tick));
	put(object, "ledger", ledger_object(layout));
	put(object, "resident", resident_object(&layout->resident, entry));
	put(object, "free_space", free_space_object(layout));
	put(object, "pages", pages_object(&layout->pages, PAGES_BITS));
	put(object, "huge_pages", pages_object(&layout->huge, LAYOUT_HUGE_BITS));
	put(object, "break", break_object(analysis, entry, layout));
	put_count(object, "arenas_total", layout->all_arenas);
	put(object, "arenas", arenas_array(analysis, entry, layout));
	put_count(object, "trim_bytes", layout->trim);
	put_count(object, "trim_top_bytes", layout->trim_top);
	put_count(object, "sites_total", layout->all_sites);
	put(object, "sites", sites_array(analysis, entry, layout));
	put_groups(object, entry, (size_t)(moment - entry->moments.list));
	put(object, "caches_known",
		layout->kept_known ? json_boolean(layout->kept_all) : json_false());
	put(object, "caches", caches_object(layout));
	put_count(object, "strays", layout->strays);
	return object;
}

json_t *json_moments(const struct analysis *analysis, const struct analysis_stream *entry)
{
	json_t *array = json_array();
	if (!entry || entry->result.observed) {
		json_decref(array);
		return NULL;
	}
	for (size_t i = 0; i < entry->moments.count; i++)
		json_array_append_new(
			array, moment_object(analysis, entry, &entry->moments.list[i]));
	return array;
}

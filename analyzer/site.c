/* SPDX-License-Identifier: MIT
 *
 * See site.h.
 */
#include "site.h"

#include <string.h>
#include <strings.h>

/* Whose beginning says that it is a library's. */
static const char *const prefixes[] = {"operator new", "std::", "__gnu_cxx::", "void std::", "<alloc::",
	"alloc::", "core::", "<core::", "hashbrown::", "__rust_", "__rdl_", "__rg_"};
/* What is in the name of a function that allocates. */
static const char *const parts[] = {"alloc", "strdup", "strndup", "asprintf", "_dup_"};

bool site_is_wrapper(const char *function)
{
	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
		if (!strncmp(function, prefixes[i], strlen(prefixes[i])))
			return true;
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (strcasestr(function, parts[i]))
			return true;
	return false;
}

static void set_site(struct analysis_site *site, uint64_t address, const struct symbol *symbol,
	const struct symbol_place *place)
{
	site->address = address;
	site->module = place->module ? place->module->path : NULL;
	site->function = symbol ? symbol->function : NULL;
	site->file = symbol ? symbol->file : NULL;
	site->line = symbol ? symbol->line : 0;
	site->offset = place->offset;
}

/* Functions without a name are passed on the way to the one of their module that has a name,
 * through which it was entered. Where there is none, who called that module is not the place. */
static bool has_left(const struct analysis_site *nameless, const struct symbol_place *place)
{
	return nameless->module && place->module && strcmp(nameless->module, place->module->path);
}

/* Whether the search ends with this frame. */
static bool try_frame(const struct site_finder *finder, const struct trace_stream *stream,
	uint64_t tick, uint64_t frame, struct analysis_site *site, struct analysis_site *nameless)
{
	struct symbol_place place;
	if (symbols_find(finder->symbols, stream, tick, frame, &place))
		return true;
	if (has_left(nameless, &place)) {
		*site = *nameless;
		return true;
	}
	for (unsigned i = 0; i < place.count; i++) {
		const struct symbol *symbol = &place.symbols[i];
		if (!site->address)
			set_site(site, frame, symbol, &place);
		if (!symbol->function || site_is_wrapper(symbol->function))
			continue;
		set_site(site, frame, symbol, &place);
		return true;
	}
	if (!site->address)
		set_site(site, frame, NULL, &place);
	if (!place.count && !nameless->address)
		set_site(nameless, frame, NULL, &place);
	return false;
}

/* If all are wrappers, or have no name, it is the first without a name, or else the first. */
void site_find(void *context, const struct trace_stream *stream, uint64_t tick, uint64_t caller,
	struct analysis_site *site)
{
	const struct site_finder *finder = context;
	uint32_t number = hl_caller_stack(caller);
	const struct stack *stack =
		number ? stacks_find(&finder->trace->stacks, number) : NULL;
	struct analysis_site nameless = {0};
	if (!finder->symbols)
		return;
	if (!number && caller)
		try_frame(finder, stream, tick, caller, site, &nameless);
	for (unsigned i = 0; stack && i < stack->count; i++)
		if (try_frame(finder, stream, tick, stacks_frames(&finder->trace->stacks, stack)[i],
			    site, &nameless))
			return;
	if (nameless.address)
		*site = nameless;
}

static void each_function(const struct symbol_place *place, analysis_each_frame *each, void *to)
{
	const char *module = place->module ? place->module->path : NULL;
	if (!place->count)
		each(to, NULL, module);
	for (unsigned i = 0; i < place->count; i++)
		each(to, place->symbols[i].function, module);
}

void site_frames(void *context, const struct trace_stream *stream, uint64_t tick, uint64_t caller,
	analysis_each_frame *each, void *to)
{
	const struct site_finder *finder = context;
	const struct stacks *stacks = &finder->trace->stacks;
	const struct stack *stack = stacks_find(stacks, hl_caller_stack(caller));
	for (unsigned i = 0; finder->symbols && stack && i < stack->count; i++) {
		struct symbol_place place;
		if (!symbols_find(
			    finder->symbols, stream, tick, stacks_frames(stacks, stack)[i], &place))
			each_function(&place, each, to);
	}
}

/* SPDX-License-Identifier: MIT
 *
 * What holds memory at each moment, summed up by --group-by. Sizes and threads the walk over the
 * heap has told apart (layout.h); places in the code and modules are only known here, when symbols
 * are.
 */
#include "analysis.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[ANALYSIS_GROUPS] = {
	[ANALYSIS_BY_SITE] = "site",
	[ANALYSIS_BY_SIZE] = "size",
	[ANALYSIS_BY_THREAD] = "thread",
	[ANALYSIS_BY_MODULE] = "module",
};

const char *analysis_group_name(enum analysis_group by)
{
	return names[by];
}

enum analysis_group analysis_group_named(const char *name)
{
	enum analysis_group by = ANALYSIS_GROUPS;
	while (--by > 0 && strcmp(names[by], name))
		;
	return by;
}

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

/* Of groups that symbols tell apart. A place without a name is its address; what is not known at
 * all is one module, but not one place. */
static bool same(enum analysis_group by, const struct group *a, const struct group *b)
{
	const struct analysis_site *one = &a->place, *other = &b->place;
	if (layout_is_kept(a->sum.caller) || layout_is_kept(b->sum.caller))
		return a->sum.caller == b->sum.caller;
	if (by == ANALYSIS_BY_SITE && !one->function && !one->address)
		return a->sum.caller == b->sum.caller;
	return same_text(one->module, other->module) && one->address == other->address &&
	       same_text(one->function, other->function) && same_text(one->file, other->file) &&
	       one->line == other->line;
}

static int by_pinned(const void *left, const void *right)
{
	const struct group *a = left, *b = right;
	return layout_by_pinned(&a->sum, &b->sum);
}

static struct group group_of(const struct analysis *analysis, const struct analysis_stream *entry,
	const struct layout_site *site)
{
	struct group group = {.sum = *site};
	bool named =
		analysis->group_by == ANALYSIS_BY_SITE || analysis->group_by == ANALYSIS_BY_MODULE;
	if (!named || layout_is_kept(site->caller))
		return group;
	if (analysis->describe)
		analysis->describe(analysis->describe_context, entry->stream, site->oldest,
			site->caller, &group.place);
	if (analysis->group_by == ANALYSIS_BY_MODULE)
		group.place = (struct analysis_site){.module = group.place.module};
	else if (group.place.function)
		group.place.address = 0;
	else if (!hl_caller_stack(site->caller))
		group.place.address = site->caller;
	return group;
}

static int make(struct groups *groups, const struct analysis *analysis,
	const struct analysis_stream *entry, const struct moment *moment)
{
	enum analysis_group by = analysis->group_by;
	bool told = by == ANALYSIS_BY_SIZE || by == ANALYSIS_BY_THREAD;
	const struct layout_site *sites = told ? moment->by : moment->layout.sites;
	size_t count = told ? moment->by_count : moment->layout.site_count, at;
	groups->by = by;
	groups->list = calloc(count + 1, sizeof(*groups->list));
	if (!groups->list)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		struct group *next = &groups->list[groups->count];
		*next = group_of(analysis, entry, &sites[i]);
		for (at = told ? groups->count : 0; at < groups->count; at++)
			if (same(by, &groups->list[at], next))
				break;
		if (at == groups->count)
			groups->count++;
		else
			layout_join_sites(&groups->list[at].sum, &next->sum);
	}
	qsort(groups->list, groups->count, sizeof(*groups->list), by_pinned);
	size_t most = analysis_top(analysis, MOMENTS_SITES);
	groups->shown = groups->count < most ? groups->count : most;
	return 0;
}

int groups_make(struct analysis *analysis)
{
	int rc = 0;
	for (size_t i = 0; !rc && analysis->group_by && i < analysis->count; i++) {
		struct analysis_stream *entry = &analysis->streams[i];
		entry->groups = calloc(entry->moments.count + 1, sizeof(*entry->groups));
		rc = entry->groups ? 0 : -ENOMEM;
		for (size_t j = 0; !rc && j < entry->moments.count; j++)
			rc = make(&entry->groups[j], analysis, entry, &entry->moments.list[j]);
	}
	return rc;
}

void groups_free(struct analysis_stream *entry)
{
	for (size_t i = 0; entry->groups && i < entry->moments.count; i++)
		free(entry->groups[i].list);
	free(entry->groups);
	entry->groups = NULL;
}

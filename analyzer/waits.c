/* SPDX-License-Identifier: MIT
 *
 * See waits.h.
 */
#include "waits.h"
#include "room.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_SITES ((size_t)64)

/* ---- sites ----------------------------------------------------------------------------------- */

static size_t place_of(const struct waits *waits, uint64_t caller)
{
	size_t mask = waits->table_size - 1;
	size_t place = (size_t)(caller * UINT64_C(0x9e3779b97f4a7c15) >> 20) & mask;
	while (waits->table[place] && waits->sites[waits->table[place] - 1].caller != caller)
		place = (place + 1) & mask;
	return place;
}

static int grow_table(struct waits *waits)
{
	size_t size = waits->table_size ? waits->table_size * 2 : FIRST_SITES * 2;
	uint32_t *table = size / 2 < WAITS_NOBODY ? calloc(size, sizeof(*table)) : NULL;
	if (!table)
		return -ENOMEM;
	free(waits->table);
	waits->table = table;
	waits->table_size = size;
	for (uint32_t i = 0; i < waits->count; i++)
		table[place_of(waits, waits->sites[i].caller)] = i + 1;
	return 0;
}

static uint32_t new_site(struct waits *waits, uint64_t caller)
{
	if (waits->count >= waits->table_size / 2 && grow_table(waits))
		return WAITS_NOBODY;
	struct waits_site *list =
		room_for_one(waits->sites, waits->count, &waits->capacity, sizeof(*list));
	if (!list)
		return WAITS_NOBODY;
	waits->sites = list;
	list[waits->count] = (struct waits_site){.caller = caller};
	waits->table[place_of(waits, caller)] = (uint32_t)waits->count + 1;
	return (uint32_t)waits->count++;
}

uint32_t waits_look_up(struct waits *waits, uint64_t caller)
{
	uint32_t entry = waits->table_size ? waits->table[place_of(waits, caller)] : 0;
	uint32_t site = entry ? entry - 1 : new_site(waits, caller);
	if (site != WAITS_NOBODY)
		waits->recent[waits_recent(caller)] = (struct waits_recent){caller, site + 1};
	return site;
}

/* ---- sums ------------------------------------------------------------------------------------ */

static int add_times(struct waits_sum *sum, const struct waits_one *one)
{
	if (!sum->times)
		sum->times = calloc(1, sizeof(*sum->times));
	if (!sum->times)
		return -ENOMEM;
	sum->times->bytes[WAITS_PINNED][tally_step(one->pinned_ns)] += one->bytes;
	sum->times->bytes[WAITS_POLICY][tally_step(one->policy_ns)] += one->bytes;
	return 0;
}

static int add_sum(struct waits_sum *sum, const struct waits_one *one)
{
	sum->bytes[one->end] += one->bytes;
	sum->waited[WAITS_PINNED] += (double)one->bytes * (double)one->pinned_ns;
	sum->waited[WAITS_POLICY] += (double)one->bytes * (double)one->policy_ns;
	return one->end == WAITS_RETURNED && !one->held ? add_times(sum, one) : 0;
}

static const uint64_t group_limits[WAITS_GROUPS - 1] = {1 << 10, 64 << 10, 1 << 20};

uint64_t waits_group_limit(unsigned group)
{
	return group < WAITS_GROUPS - 1 ? group_limits[group] : 0;
}

static int add_group(struct waits *waits, const struct waits_one *one)
{
	uint64_t size = tally_size_limit(one->size_class);
	unsigned i = 0;
	while (i < WAITS_GROUPS - 1 && size > group_limits[i])
		i++;
	if (!waits->groups[i])
		waits->groups[i] = calloc(1, sizeof(*waits->groups[i]));
	if (!waits->groups[i])
		return -ENOMEM;
	tally_latency(&waits->groups[i]->ended[one->end], one->ns, one->bytes);
	return 0;
}

static void add_split(struct waits_split *split, const struct waits_one *one)
{
	if (one->held) {
		tally_latency(&split->held[one->end], one->pinned_ns, one->bytes);
		return;
	}
	tally_latency(&split->cleared, one->pinned_ns, one->bytes);
	tally_latency(&split->policy[one->end], one->policy_ns, one->bytes);
	if (one->end == WAITS_RETURNED)
		tally_latency(&split->pinned, one->pinned_ns, one->bytes);
}

int waits_add(struct waits *waits, const struct waits_one *one)
{
	struct waits_sum **size = &waits->sizes[one->size_class];
	if (!*size)
		*size = calloc(1, sizeof(**size));
	if (!*size || add_sum(*size, one) || add_sum(&waits->sites[one->site].sum, one) ||
		add_group(waits, one))
		return -ENOMEM;
	add_split(&waits->split, one);
	waits->waited[WAITS_PINNED] += (double)one->bytes * (double)one->pinned_ns;
	waits->waited[WAITS_POLICY] += (double)one->bytes * (double)one->policy_ns;
	/* Nothing was above a page that was clear as soon as it was free: nobody held it. */
	if (one->holder != WAITS_NOBODY && one->pinned_ns) {
		waits->sites[one->holder].held_bytes += one->bytes;
		waits->sites[one->holder].held += (double)one->bytes * (double)one->pinned_ns;
	}
	return 0;
}

static int merge_sum(struct waits_sum *to, const struct waits_sum *from)
{
	for (unsigned i = 0; i < WAITS_ENDS; i++)
		to->bytes[i] += from->bytes[i];
	for (unsigned part = 0; part < WAITS_PARTS; part++)
		to->waited[part] += from->waited[part];
	if (from->times && !to->times)
		to->times = calloc(1, sizeof(*to->times));
	if (from->times && !to->times)
		return -ENOMEM;
	for (unsigned part = 0; from->times && part < WAITS_PARTS; part++)
		for (unsigned i = 0; i < TALLY_STEPS; i++)
			to->times->bytes[part][i] += from->times->bytes[part][i];
	return 0;
}

static int merge_groups(struct waits *to, const struct waits *from)
{
	for (unsigned i = 0; i < WAITS_GROUPS; i++) {
		if (from->groups[i] && !to->groups[i])
			to->groups[i] = calloc(1, sizeof(*to->groups[i]));
		if (from->groups[i] && !to->groups[i])
			return -ENOMEM;
		for (unsigned end = 0; from->groups[i] && end < WAITS_ENDS; end++)
			tally_latency_merge(
				&to->groups[i]->ended[end], &from->groups[i]->ended[end]);
	}
	return 0;
}

int waits_merge(struct waits *to, const struct waits *from)
{
	tally_latency_merge(&to->split.cleared, &from->split.cleared);
	tally_latency_merge(&to->split.pinned, &from->split.pinned);
	for (unsigned i = 0; i < WAITS_ENDS; i++) {
		tally_latency_merge(&to->split.held[i], &from->split.held[i]);
		tally_latency_merge(&to->split.policy[i], &from->split.policy[i]);
	}
	for (unsigned part = 0; part < WAITS_PARTS; part++)
		to->waited[part] += from->waited[part];
	to->pinned += from->pinned;
	for (unsigned i = 0; i < TALLY_SIZES; i++) {
		if (from->sizes[i] && !to->sizes[i])
			to->sizes[i] = calloc(1, sizeof(*to->sizes[i]));
		if (from->sizes[i] && (!to->sizes[i] || merge_sum(to->sizes[i], from->sizes[i])))
			return -ENOMEM;
	}
	return merge_groups(to, from);
}

uint64_t waits_percentile(const struct waits_times *times, enum waits_part part, unsigned percent)
{
	const uint64_t *bytes = times->bytes[part];
	double all = 0, seen = 0;
	for (unsigned i = 0; i < TALLY_STEPS; i++)
		all += (double)bytes[i];
	for (unsigned i = 0; i < TALLY_STEPS; i++) {
		seen += (double)bytes[i];
		if (bytes[i] && seen >= all * percent / 100)
			return tally_step_limit(i);
	}
	return 0;
}

/* ---- the rankings ---------------------------------------------------------------------------- */

static uint64_t waited_bytes(const struct waits_site *site)
{
	const uint64_t *bytes = site->sum.bytes;
	return bytes[WAITS_RETURNED] + bytes[WAITS_REUSED] + bytes[WAITS_STILL];
}

static double waited(const struct waits_site *site)
{
	return site->sum.waited[WAITS_PINNED] + site->sum.waited[WAITS_POLICY];
}

static int by_number(double left, double right)
{
	return left == right ? 0 : left > right ? -1 : 1;
}

/* Sites without any wait are the last. */
static int by_wait(const void *left, const void *right)
{
	const struct waits_site *a = left, *b = right;
	int order = by_number(waited(a), waited(b));
	if (!order)
		order = by_number((double)waited_bytes(a), (double)waited_bytes(b));
	if (!order)
		order = by_number(a->held, b->held);
	return order ? order : a->caller < b->caller ? -1 : a->caller > b->caller;
}

static int by_pinned(const void *left, const void *right)
{
	const struct waits_site *a = left, *b = right;
	int order = by_number(a->pinned, b->pinned);
	return order ? order : a->caller < b->caller ? -1 : a->caller > b->caller;
}

static size_t least(uint64_t a, size_t b)
{
	return a < b ? (size_t)a : b;
}

static int rank_pins(struct waits *waits, size_t most)
{
	qsort(waits->sites, waits->count, sizeof(*waits->sites), by_pinned);
	waits->pin_count = least(waits->pinning_sites, most);
	waits->pins = calloc(waits->pin_count + 1, sizeof(*waits->pins));
	if (!waits->pins)
		return -ENOMEM;
	for (size_t i = 0; i < waits->pin_count; i++) {
		waits->pins[i] = waits->sites[i];
		waits->pins[i].sum.times = NULL;
	}
	return 0;
}

static void rank_waits(struct waits *waits, size_t most)
{
	qsort(waits->sites, waits->count, sizeof(*waits->sites), by_wait);
	size_t left = least(waits->waiting_sites, most);
	for (size_t i = left; i < waits->count; i++)
		free(waits->sites[i].sum.times);
	waits->count = left;
	void *less = realloc(waits->sites, (left + 1) * sizeof(*waits->sites));
	if (less)
		waits->sites = less;
}

int waits_finish(struct waits *waits, double tick_ns, size_t most)
{
	free(waits->table);
	waits->table = NULL;
	waits->table_size = 0;
	memset(waits->recent, 0, sizeof(waits->recent));
	for (size_t i = 0; i < waits->count; i++) {
		struct waits_site *site = &waits->sites[i];
		site->pinned = site->pinned > 0 ? site->pinned * tick_ns : 0;
		waits->pinned += site->pinned;
		waits->pinning_sites += site->pinned > 0;
		waits->waiting_sites += waited_bytes(site) || site->held_bytes;
	}
	if (!waits->count)
		return 0;
	int rc = rank_pins(waits, most);
	rank_waits(waits, most);
	return rc;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void free_sizes(struct waits *waits)
{
	for (unsigned i = 0; i < TALLY_SIZES; i++) {
		if (waits->sizes[i])
			free(waits->sizes[i]->times);
		free(waits->sizes[i]);
	}
	for (unsigned i = 0; i < WAITS_GROUPS; i++)
		free(waits->groups[i]);
}

void waits_restart(struct waits *waits)
{
	struct waits anew = {.sites = waits->sites,
		.count = waits->count,
		.capacity = waits->capacity,
		.table = waits->table,
		.table_size = waits->table_size};
	free_sizes(waits);
	*waits = anew;
	for (size_t i = 0; i < anew.count; i++) {
		free(anew.sites[i].sum.times);
		anew.sites[i] = (struct waits_site){.caller = anew.sites[i].caller};
	}
}

void waits_free(struct waits *waits)
{
	free_sizes(waits);
	for (size_t i = 0; i < waits->count; i++)
		free(waits->sites[i].sum.times);
	free(waits->sites);
	free(waits->table);
	free(waits->pins);
	*waits = (struct waits){0};
}

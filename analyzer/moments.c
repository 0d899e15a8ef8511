/* SPDX-License-Identifier: MIT
 *
 * See moments.h.
 */
#include "moments.h"
#include "room.h"

#include <errno.h>
#include <stdlib.h>

static struct moment *add(struct moments *moments)
{
	struct moment *list = room_for_one(
		moments->list, moments->count, &moments->capacity, sizeof(*list));
	if (!list)
		return NULL;
	moments->list = list;
	return &list[moments->count];
}

/* The same walk once more, with other sites. */
static int take_by(struct moment *moment, unsigned by, const struct ledger *ledger, uint64_t tick,
	struct layout_room *room)
{
	struct layout layout = {0};
	int rc = by ? layout_take(&layout, ledger, tick, LAYOUT_PINS | by, room) : 0;
	moment->by = layout.sites;
	moment->by_count = layout.site_count;
	return rc;
}

int moments_take(struct moments *moments, enum moment_kind kind, const struct ledger *ledger,
	uint64_t tick)
{
	if (kind == MOMENT_PHASE && moments->phases == MOMENTS_PHASES) {
		moments->left_out++;
		return 0;
	}
	struct moment *moment = add(moments);
	if (!moment)
		return -ENOMEM;
	moment->kind = kind;
	moment->phase = kind == MOMENT_PHASE ? moments->phases++ : 0;
	bool is_end = kind == MOMENT_END && ledger_snapshot_of_end(ledger);
	bool snapshot = is_end || kind == MOMENT_RESIDENT_PEAK;
	struct layout_room room = {0};
	int rc = layout_take(&moment->layout, ledger, tick,
		LAYOUT_PINS | (snapshot ? LAYOUT_SNAPSHOT : 0), &room);
	moment->by = NULL;
	if (!rc)
		rc = take_by(moment, moments->by, ledger, tick, &room);
	layout_room_free(&room);
	if (rc) {
		free(moment->by);
		layout_free(&moment->layout);
		return rc;
	}
	/* Findings are about the end, and sum up all of its sites. */
	if (kind != MOMENT_END)
		layout_keep_sites(&moment->layout,
			moments->most_sites ? moments->most_sites : MOMENTS_SITES);
	moments->count++;
	return 0;
}

static int by_time(const void *left, const void *right)
{
	const struct moment *a = left, *b = right;
	if (a->layout.tick != b->layout.tick)
		return a->layout.tick < b->layout.tick ? -1 : 1;
	if (a->kind != b->kind)
		return a->kind < b->kind ? -1 : 1;
	return a->phase < b->phase ? -1 : a->phase > b->phase;
}

void moments_sort(struct moments *moments)
{
	if (moments->count)
		qsort(moments->list, moments->count, sizeof(*moments->list), by_time);
}

void moments_free(struct moments *moments)
{
	for (size_t i = 0; i < moments->count; i++) {
		free(moments->list[i].by);
		layout_free(&moments->list[i].layout);
	}
	free(moments->list);
	*moments = (struct moments){0};
}

const struct moment *moments_find(const struct moments *moments, enum moment_kind kind)
{
	for (size_t i = 0; i < moments->count; i++)
		if (moments->list[i].kind == kind)
			return &moments->list[i];
	return NULL;
}

const char *moments_phase(const struct moment *moment, const struct phases *phases)
{
	bool named = moment->kind == MOMENT_PHASE && moment->phase < phases->count &&
		     phases->row[moment->phase].named;
	return named ? phases->row[moment->phase].name : NULL;
}

const char *moments_name(enum moment_kind kind)
{
	static const char *const names[MOMENT_KINDS] = {
		"resident_peak", "mapped_peak", "phase", "end"};
	return names[kind];
}

/* SPDX-License-Identifier: MIT
 *
 * See recall.h.
 */
#include "recall.h"
#include "ledger.h"
#include "room.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static_assert((int)RECALL_MOMENTS == PAGES_MOMENTS, "each has its pages");

/* What is mapped where, as in the ledger; blocks' own mappings and tables only matter to a snapshot. */
struct recall_areas {
	struct ranges break_mapped;
	uint64_t break_end;
	struct ranges arena_open;
	struct ranges block_mapped;
	struct ranges metadata_mapped;
	struct holds_segment *segments;
	size_t segment_count;
};

struct recall_kept {
	struct ledger_kept *list;
	size_t count;
	bool all;
	bool told;
	uint32_t caches;
	uint32_t unread;
};

/* ---- what is forgotten ----------------------------------------------------------------------- */

static void free_areas(struct recall_areas *areas)
{
	if (!areas)
		return;
	ranges_free(&areas->break_mapped);
	ranges_free(&areas->arena_open);
	ranges_free(&areas->block_mapped);
	ranges_free(&areas->metadata_mapped);
	free(areas->segments);
	free(areas);
}

static void free_kept(struct recall_kept *kept)
{
	if (kept)
		free(kept->list);
	free(kept);
}

static void free_snapshot(struct ledger_snapshot *snapshot)
{
	if (snapshot)
		free(snapshot->run);
	free(snapshot);
}

static void free_lists(struct recall_point *point)
{
	free_areas(point->areas);
	free_kept(point->kept);
	free_snapshot(point->snapshot);
	point->areas = NULL;
	point->kept = NULL;
	point->snapshot = NULL;
}

void recall_keep(struct ledger *ledger, enum recall_moment moment, uint64_t tick)
{
	struct recall_point *point = &ledger->recall.point[moment];
	free_lists(point);
	point->gone_count = 0;
	point->since = ledger->applied + 1;
	point->tick = tick;
	point->quiet = ledger->quiet;
	point->memory = ledger->memory;
	pages_keep(&ledger->pages, moment);
}

void recall_forget(struct ledger *ledger)
{
	for (unsigned i = 0; i < RECALL_MOMENTS; i++) {
		struct recall_point *point = &ledger->recall.point[i];
		free_lists(point);
		point->gone_count = 0;
		point->since = 0;
		pages_forget_kept(&ledger->pages, i);
	}
}

void recall_free(struct recall *recall)
{
	for (unsigned i = 0; i < RECALL_MOMENTS; i++) {
		free_lists(&recall->point[i]);
		free(recall->point[i].gone);
	}
}

/* ---- what changes ---------------------------------------------------------------------------- */

static int add_gone(struct recall_point *point, const struct live_block *block)
{
	struct recall_gone *list = room_for_one(
		point->gone, point->gone_count, &point->gone_capacity, sizeof(*list));
	if (!list)
		return -ENOMEM;
	point->gone = list;
	list[point->gone_count++] = (struct recall_gone){
		block->addr, block->size, block->chunk, block->tick, block->origin, block->record};
	return 0;
}

void recall_add_gone(struct ledger *ledger, const struct live_block *block)
{
	for (unsigned i = 0; i < RECALL_MOMENTS; i++) {
		struct recall_point *point = &ledger->recall.point[i];
		if (block->record < point->since && add_gone(point, block))
			ledger->pages.starved = true;
	}
}

static int copy_segments(struct recall_areas *areas, const struct holds *holds)
{
	areas->segments = calloc(holds->segment_count + 1, sizeof(*areas->segments));
	if (!areas->segments)
		return -ENOMEM;
	areas->segment_count = holds->segment_count;
	for (size_t i = 0; i < areas->segment_count; i++)
		areas->segments[i] = holds->segments[i];
	return 0;
}

static int copy_areas(
	struct recall_areas *areas, const struct ledger *ledger, enum recall_moment moment)
{
	areas->break_end = ledger->break_end;
	int rc = ranges_copy(&areas->break_mapped, &ledger->break_mapped);
	if (!rc)
		rc = ranges_copy(&areas->arena_open, &ledger->arena_open);
	if (!rc && moment == RECALL_RESIDENT_PEAK)
		rc = ranges_copy(&areas->block_mapped, &ledger->block_mapped);
	if (!rc && moment == RECALL_RESIDENT_PEAK)
		rc = ranges_copy(&areas->metadata_mapped, &ledger->metadata_mapped);
	return rc ? rc : copy_segments(areas, &ledger->pages.holds);
}

int recall_areas_change(struct ledger *ledger)
{
	int rc = 0;
	for (unsigned i = 0; !rc && i < RECALL_MOMENTS; i++) {
		struct recall_point *point = &ledger->recall.point[i];
		if (!point->since || point->areas)
			continue;
		point->areas = calloc(1, sizeof(*point->areas));
		rc = point->areas ? copy_areas(point->areas, ledger, i) : -ENOMEM;
	}
	return rc;
}

/* What of the list held at the point. */
static struct recall_kept *copy_kept(
	const struct ledger *ledger, const struct recall_point *point)
{
	struct ledger then = *ledger;
	struct recall_kept *kept = calloc(1, sizeof(*kept));
	struct ledger_kept *list = calloc(ledger->kept_count + 1, sizeof(*list));
	if (!kept || !list) {
		free(kept);
		free(list);
		return NULL;
	}
	then.applied = point->since - 1;
	then.quiet = point->quiet;
	*kept = (struct recall_kept){.list = list,
		.all = ledger_kept_all(&then),
		.told = ledger_kept_known(&then),
		.caches = then.kept_caches,
		.unread = then.kept_unread};
	for (size_t i = 0; i < ledger->kept_count; i++)
		if (ledger_kept_holds(&then, &ledger->kept[i]))
			list[kept->count++] = ledger->kept[i];
	return kept;
}

int recall_kept_change(struct ledger *ledger)
{
	int rc = 0;
	for (unsigned i = 0; !rc && i < RECALL_MOMENTS; i++) {
		struct recall_point *point = &ledger->recall.point[i];
		if (!point->since || point->kept)
			continue;
		point->kept = copy_kept(ledger, point);
		rc = point->kept ? 0 : -ENOMEM;
	}
	return rc;
}

int recall_snapshot_changes(struct ledger *ledger)
{
	struct recall_point *point = &ledger->recall.point[RECALL_RESIDENT_PEAK];
	const struct ledger_snapshot *now = &ledger->snapshot;
	if (!point->since || point->snapshot)
		return 0;
	struct ledger_snapshot *snapshot = calloc(1, sizeof(*snapshot));
	struct range *run = calloc(now->count + 1, sizeof(*run));
	if (!snapshot || !run) {
		free(snapshot);
		free(run);
		return -ENOMEM;
	}
	for (size_t i = 0; i < now->count; i++)
		run[i] = now->run[i];
	*snapshot = *now;
	snapshot->run = run;
	snapshot->capacity = now->count + 1;
	point->snapshot = snapshot;
	return 0;
}

/* ---- back ------------------------------------------------------------------------------------ */

static int bring_back_blocks(struct ledger *ledger, const struct recall_point *point)
{
	int rc = 0;
	live_leave_before(&ledger->live, point->since);
	for (size_t i = 0; rc >= 0 && i < point->gone_count; i++) {
		const struct recall_gone *gone = &point->gone[i];
		struct live_block same;
		rc = live_add(&ledger->live,
			&(struct live_block){.addr = gone->addr,
				.size = gone->size,
				.chunk = gone->chunk,
				.tick = gone->tick,
				.origin = gone->origin,
				.record = gone->record},
			&same);
	}
	return rc < 0 ? rc : 0;
}

static void swap_ranges(struct ranges *a, struct ranges *b)
{
	struct ranges swap = *a;
	*a = *b;
	*b = swap;
}

static void bring_back_areas(struct ledger *ledger, struct recall_areas *areas)
{
	struct holds *holds = &ledger->pages.holds;
	swap_ranges(&ledger->break_mapped, &areas->break_mapped);
	swap_ranges(&ledger->arena_open, &areas->arena_open);
	swap_ranges(&ledger->block_mapped, &areas->block_mapped);
	swap_ranges(&ledger->metadata_mapped, &areas->metadata_mapped);
	ledger->break_end = areas->break_end;
	free(holds->segments);
	holds->segments = areas->segments;
	holds->segment_count = areas->segment_count;
	holds->segment_capacity = areas->segment_count;
	areas->segments = NULL;
}

static void bring_back_kept(struct ledger *ledger, struct recall_kept *kept)
{
	free(ledger->kept);
	ledger->kept = kept->list;
	ledger->kept_count = kept->count;
	ledger->kept_capacity = kept->count;
	ledger->kept_all = kept->all;
	ledger->kept_moment = false;
	ledger->kept_left = 0;
	ledger->kept_told = kept->told;
	ledger->kept_caches = kept->caches;
	ledger->kept_unread = kept->unread;
	kept->list = NULL;
}

int recall_go_back(struct ledger *ledger, enum recall_moment moment)
{
	struct recall_point *point = &ledger->recall.point[moment];
	assert(point->since);
	if (bring_back_blocks(ledger, point))
		return -ENOMEM;
	pages_go_back(&ledger->pages, moment);
	if (point->areas)
		bring_back_areas(ledger, point->areas);
	if (point->kept)
		bring_back_kept(ledger, point->kept);
	if (point->snapshot) {
		free(ledger->snapshot.run);
		ledger->snapshot = *point->snapshot;
		point->snapshot->run = NULL;
	}
	ledger->memory = point->memory;
	ledger->applied = point->since - 1;
	ledger->quiet = point->quiet;
	free_lists(point);
	return 0;
}

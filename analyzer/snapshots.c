/* SPDX-License-Identifier: MIT
 *
 * snapshots.h.
 */
#include "snapshots.h"

#include <errno.h>
#include <stdlib.h>

_Static_assert(SNAPSHOTS_MOST / SNAPSHOTS_LEAST == 16, "parts are halved four times");

static bool may_halve(const struct snapshots *snapshots)
{
	return snapshots->apart < SNAPSHOTS_MOST / SNAPSHOTS_LEAST;
}

int snapshots_start(
	struct snapshots *snapshots, uint64_t first_tick, uint64_t last_tick, uint64_t most)
{
	uint64_t ticks = last_tick > first_tick ? last_tick - first_tick : 0;
	*snapshots = (struct snapshots){
		.first_tick = first_tick, .ticks = ticks / SNAPSHOTS_MOST + 1, .apart = 1};
	while (SNAPSHOTS_MOST / snapshots->apart > most && may_halve(snapshots))
		snapshots->apart *= 2;
	/* One more: that of the end may come after the last tick. */
	snapshots->row = calloc(SNAPSHOTS_MOST / snapshots->apart + 1, sizeof(*snapshots->row));
	return snapshots->row ? 0 : -ENOMEM;
}

static uint64_t part_of(const struct snapshots *snapshots, uint64_t tick)
{
	uint64_t since = tick > snapshots->first_tick ? tick - snapshots->first_tick : 0;
	uint64_t part = since / snapshots->ticks;
	return (part < SNAPSHOTS_MOST ? part : SNAPSHOTS_MOST) / snapshots->apart;
}

static uint64_t part_of_row(const struct snapshots *snapshots, size_t row)
{
	return part_of(snapshots, snapshots->row[row].resident.tick);
}

static bool is_end(const struct snapshots_row *row)
{
	return row->resident.reason == HL_RESIDENT_end;
}

/* Of each part the first stays, or the end. */
static void halve(struct snapshots *snapshots)
{
	size_t kept = 0;
	snapshots->apart *= 2;
	snapshots->work = 0;
	for (size_t i = 0; i < snapshots->count; i++) {
		const struct snapshots_row *row = &snapshots->row[i];
		bool same = kept && part_of_row(snapshots, kept - 1) == part_of_row(snapshots, i);
		if (same && !is_end(row))
			continue;
		kept -= same;
		if (same)
			snapshots->work -= snapshots->row[kept].work;
		snapshots->row[kept++] = *row;
		snapshots->work += row->work;
	}
	snapshots->count = kept;
}

/* In blocks, each of which takes as long as some 32 pages. */
static uint64_t work_of(const struct ledger *ledger)
{
	return ledger->live.count + ledger->snapshot.count +
	       ((ledger->break_mapped.bytes + ledger->arena_open.bytes) >> (PAGES_BITS + 5));
}

static int take(struct snapshots *snapshots, const struct ledger *ledger, struct layout_room *room)
{
	const struct ledger_snapshot *snapshot = &ledger->snapshot;
	size_t at = snapshots->count;
	uint64_t part = part_of(snapshots, snapshot->tick);
	bool same = at && part_of_row(snapshots, at - 1) == part;
	if (same ? snapshot->reason != HL_RESIDENT_end
		 : at && part < part_of_row(snapshots, at - 1))
		return 0;
	struct layout layout;
	int rc = layout_take(&layout, ledger, snapshot->tick, LAYOUT_SNAPSHOT, room);
	if (rc)
		return rc;
	at -= same;
	if (same)
		snapshots->work -= snapshots->row[at].work;
	snapshots->row[at] = (struct snapshots_row){.resident = layout.resident,
		.kept_known = layout.kept_known,
		.work = work_of(ledger)};
	snapshots->count = at + 1;
	snapshots->work += snapshots->row[at].work;
	while (snapshots->work > SNAPSHOTS_WORK && may_halve(snapshots))
		halve(snapshots);
	return 0;
}

int snapshots_follow(
	struct snapshots *snapshots, const struct ledger *ledger, struct layout_room *room)
{
	const struct ledger_snapshot *snapshot = &ledger->snapshot;
	if (!snapshots->row || !snapshot->whole)
		return 0;
	if (snapshot->tick != snapshots->seen) {
		snapshots->seen = snapshot->tick;
		return take(snapshots, ledger, room);
	}
	struct snapshots_row *last = &snapshots->row[snapshots->count ? snapshots->count - 1 : 0];
	if (last->resident.tick == snapshot->tick)
		last->resident.counted = snapshot->counted;
	return 0;
}

void snapshots_free(struct snapshots *snapshots)
{
	free(snapshots->row);
	*snapshots = (struct snapshots){0};
}

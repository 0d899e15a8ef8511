/* SPDX-License-Identifier: MIT
 *
 * The time line: rows are allocated once, intervals are even in ticks.
 */
#include "timeline.h"
#include "room.h"

#include <errno.h>
#include <stdlib.h>

__extension__ typedef unsigned __int128 wide;

/* Where interval `row` ends: exclusive, but for the last one. */
static uint64_t end_of(const struct timeline *timeline, uint32_t row)
{
	wide span = timeline->last_tick - timeline->first_tick;
	return timeline->first_tick + (uint64_t)(span * (row + 1) / timeline->wanted);
}

int timeline_start(
	struct timeline *timeline, uint64_t first_tick, uint64_t last_tick, uint32_t rows)
{
	*timeline = (struct timeline){
		.first_tick = first_tick,
		.last_tick = last_tick,
		.wanted = rows,
		.next_tick = UINT64_MAX,
	};
	if (!rows)
		return 0;
	timeline->row = calloc(rows, sizeof(*timeline->row));
	if (!timeline->row)
		return -ENOMEM;
	if (rows > 1)
		timeline->next_tick = end_of(timeline, 0);
	return 0;
}

static void end_row(struct timeline *timeline, uint64_t tick, const struct memory *memory,
	struct timeline_sums sums)
{
	timeline->row[timeline->rows++] = (struct timeline_row){
		.tick = tick,
		.memory = *memory,
		.sums = sums,
		.peak_requested = timeline->peak_requested,
		.peak_mapped = timeline->peak_mapped,
	};
	timeline->peak_requested = memory->requested;
	timeline->peak_mapped = memory_mapped(memory);
}

void timeline_restart(struct timeline *timeline, const struct memory *memory)
{
	timeline->cause_count = timeline->sample_count = 0;
	timeline->peak_requested = memory->requested;
	timeline->peak_mapped = memory_mapped(memory);
}

void timeline_advance(struct timeline *timeline, uint64_t tick, const struct memory *memory,
	struct timeline_sums sums)
{
	while (tick >= timeline->next_tick && timeline->rows + 1 < timeline->wanted) {
		end_row(timeline, timeline->next_tick, memory, sums);
		timeline->next_tick = timeline->rows + 1 < timeline->wanted
					      ? end_of(timeline, timeline->rows)
					      : UINT64_MAX;
	}
}

static void move_row(struct timeline_row *row, const struct memory *by)
{
	memory_add(&row->memory, by);
	row->peak_requested = memory_sum(row->peak_requested, by->requested);
	row->peak_mapped = memory_sum(row->peak_mapped, memory_mapped(by));
}

void timeline_rebase(struct timeline *timeline, const struct memory *by)
{
	timeline->peak_requested = memory_sum(timeline->peak_requested, by->requested);
	timeline->peak_mapped = memory_sum(timeline->peak_mapped, memory_mapped(by));
	if (timeline->rows)
		memory_add(&timeline->row[timeline->rows - 1].rebased, by);
}

/* Each row by what was found out after it. */
static void move_rows(struct timeline *timeline)
{
	struct memory by = {0};
	for (uint32_t i = timeline->rows; i--;) {
		memory_add(&by, &timeline->row[i].rebased);
		move_row(&timeline->row[i], &by);
	}
}

void timeline_finish(
	struct timeline *timeline, const struct memory *memory, struct timeline_sums sums)
{
	if (!timeline->wanted)
		return;
	timeline_advance(timeline, timeline->last_tick, memory, sums);
	if (timeline->rows < timeline->wanted)
		end_row(timeline, timeline->last_tick, memory, sums);
	timeline->next_tick = UINT64_MAX;
	move_rows(timeline);
}

static int same_cause(const struct tally_cause *a, const struct tally_cause *b)
{
	return a->syscall == b->syscall && a->reason == b->reason && a->call == b->call;
}

int timeline_add_cause(struct timeline *timeline, const struct tally_cause *cause)
{
	if (!timeline->wanted)
		return 0;
	/* The causes of the current interval are the last ones in the list, and few. */
	for (size_t i = timeline->cause_count; i--;) {
		struct timeline_cause *entry = &timeline->causes[i];
		if (entry->row != timeline->rows)
			break;
		if (!same_cause(&entry->cause, cause))
			continue;
		entry->cause.count += cause->count;
		entry->cause.failed += cause->failed;
		entry->cause.bytes += cause->bytes;
		entry->cause.ticks += cause->ticks;
		return 0;
	}
	struct timeline_cause *causes = room_for_one(timeline->causes, timeline->cause_count,
		&timeline->cause_capacity, sizeof(*causes));
	if (!causes)
		return -ENOMEM;
	timeline->causes = causes;
	causes[timeline->cause_count++] =
		(struct timeline_cause){.row = timeline->rows, .cause = *cause};
	return 0;
}

int timeline_add_sample(struct timeline *timeline, const struct hl_sample_record *sample)
{
	if (!timeline->wanted)
		return 0;
	struct timeline_sample *samples = room_for_one(timeline->samples, timeline->sample_count,
		&timeline->sample_capacity, sizeof(*samples));
	if (!samples)
		return -ENOMEM;
	timeline->samples = samples;
	samples[timeline->sample_count++] =
		(struct timeline_sample){.tick = sample->tick, .sample = *sample};
	return 0;
}

void timeline_free(struct timeline *timeline)
{
	free(timeline->row);
	free(timeline->causes);
	free(timeline->samples);
	*timeline = (struct timeline){0};
}

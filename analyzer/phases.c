/* SPDX-License-Identifier: MIT
 *
 * See phases.h.
 */
#include "phases.h"
#include "room.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void add_totals(struct phases_row *row, const struct phases_totals *totals)
{
	memcpy(row->calls, totals->calls, sizeof(row->calls));
	memset(row->syscalls, 0, sizeof(row->syscalls));
	for (size_t i = 0; i < totals->causes->count; i++)
		row->syscalls[totals->causes->list[i].syscall] += totals->causes->list[i].count;
}

static struct phases_row *add_row(struct phases *phases)
{
	struct phases_row *rows = room_for_one(
		phases->row, phases->count, &phases->capacity, sizeof(*rows));
	if (!rows)
		return NULL;
	phases->row = rows;
	struct phases_row *row = &rows[phases->count++];
	memset(row, 0, sizeof(*row));
	phases->open = true;
	return row;
}

/* What came before the first mark: the totals at its start were 0. */
static int add_first(struct phases *phases)
{
	struct phases_row *row = add_row(phases);
	if (!row)
		return -ENOMEM;
	row->named = phases->named;
	memcpy(row->name, phases->name, sizeof(row->name));
	row->first_tick = phases->start_tick;
	return 0;
}

static void close_row(struct phases *phases, const struct phases_totals *totals, uint64_t tick)
{
	struct phases_row *row, now;
	if (!phases->open)
		return;
	row = &phases->row[phases->count - 1];
	add_totals(&now, totals);
	for (unsigned kind = 0; kind < HL_KIND_LIMIT; kind++) {
		row->calls[kind].count = now.calls[kind].count - row->calls[kind].count;
		row->calls[kind].failed = now.calls[kind].failed - row->calls[kind].failed;
		row->calls[kind].bytes = now.calls[kind].bytes - row->calls[kind].bytes;
		row->syscalls[kind] = now.syscalls[kind] - row->syscalls[kind];
	}
	row->end_tick = tick;
	row->peak_requested = phases->peak_requested;
	row->peak_mapped = phases->peak_mapped;
	row->peak_rss = phases->peak_rss;
	row->samples = phases->samples;
	row->end = *totals->memory;
	phases->open = false;
}

int phases_begin(struct phases *phases, const struct phases_totals *totals,
	const struct hl_phase_record *record)
{
	if (!phases->count && add_first(phases))
		return -ENOMEM;
	close_row(phases, totals, record->tick);
	memcpy(phases->name, record->name, sizeof(phases->name));
	phases->name[sizeof(phases->name) - 1] = 0; /* a file may lack it */
	phases->named = true;
	phases->peak_requested = totals->memory->requested;
	phases->peak_mapped = memory_mapped(totals->memory);
	phases->peak_rss = phases->samples = 0;
	if (phases->count == PHASES_MOST) {
		phases->beyond++;
		return 0;
	}
	struct phases_row *row = add_row(phases);
	if (!row)
		return -ENOMEM;
	row->named = true;
	memcpy(row->name, phases->name, sizeof(row->name));
	row->first_tick = record->tick;
	add_totals(row, totals);
	return 0;
}

void phases_finish(struct phases *phases, const struct phases_totals *totals, uint64_t tick)
{
	close_row(phases, totals, tick);
}

int phases_fork(struct phases *child, const struct phases *parent, const struct memory *memory)
{
	child->named = parent->named;
	memcpy(child->name, parent->name, sizeof(child->name));
	child->peak_requested = memory->requested;
	child->peak_mapped = memory_mapped(memory);
	return child->named ? add_first(child) : 0;
}

void phases_rebase(struct phases *phases, const struct memory *by)
{
	int64_t mapped = memory_mapped(by);
	phases->peak_requested = memory_sum(phases->peak_requested, by->requested);
	phases->peak_mapped = memory_sum(phases->peak_mapped, mapped);
	for (size_t i = 0; i < phases->count; i++) {
		struct phases_row *row = &phases->row[i];
		row->peak_requested = memory_sum(row->peak_requested, by->requested);
		row->peak_mapped = memory_sum(row->peak_mapped, mapped);
		memory_add(&row->end, by);
	}
}

void phases_free(struct phases *phases)
{
	free(phases->row);
	phases->row = NULL;
	phases->count = phases->capacity = 0;
}

/* SPDX-License-Identifier: MIT
 *
 * See lifetimes.h. A table has a place for each bucket, which is quick and mostly empty; of each
 * process only what is in it stays.
 */
#include "lifetimes.h"
#include "room.h"

struct lifetimes_table *lifetimes_table(struct lifetimes *lifetimes, unsigned doubling)
{
	return lifetimes->tables[doubling] = calloc(1, sizeof(struct lifetimes_table));
}

static int keep_rows(struct lifetimes *lifetimes, unsigned clock, unsigned doubling, size_t *room)
{
	const struct lifetimes_table *table = lifetimes->tables[doubling];
	for (unsigned i = 0; table && i < TALLY_LATENCIES; i++) {
		unsigned bucket = clock == LIFETIMES_TIME && !i
					  ? tally_latency_bucket(LIFETIMES_KNOWN_NS - 1)
					  : i;
		struct lifetimes_row row = {(uint8_t)clock, (uint8_t)doubling, (uint16_t)bucket,
			{table->blocks[clock][LIFETIMES_FREED][i],
				table->blocks[clock][LIFETIMES_LIVE][i]}};
		if (!row.blocks[LIFETIMES_FREED] && !row.blocks[LIFETIMES_LIVE])
			continue;
		struct lifetimes_row *rows =
			room_for_one(lifetimes->rows, lifetimes->count, room, sizeof(*rows));
		if (!rows)
			return -ENOMEM;
		lifetimes->rows = rows;
		rows[lifetimes->count++] = row;
	}
	return 0;
}

static void free_tables(struct lifetimes *lifetimes)
{
	for (unsigned i = 0; i < TALLY_DOUBLINGS; i++) {
		free(lifetimes->tables[i]);
		lifetimes->tables[i] = NULL;
	}
}

int lifetimes_finish(struct lifetimes *lifetimes)
{
	size_t room = 0;
	int rc = 0;
	for (unsigned clock = 0; clock < LIFETIMES_CLOCKS; clock++)
		for (unsigned i = 0; !rc && i < TALLY_DOUBLINGS; i++)
			rc = keep_rows(lifetimes, clock, i, &room);
	free_tables(lifetimes);
	if (lifetimes->longest[LIFETIMES_TIME] < LIFETIMES_KNOWN_NS)
		lifetimes->longest[LIFETIMES_TIME] = LIFETIMES_KNOWN_NS - 1;
	return rc;
}

static bool is_of(const struct lifetimes_row *row, unsigned clock, unsigned doubling)
{
	return row->clock == clock && (doubling == LIFETIMES_ALL || row->doubling == doubling);
}

void lifetimes_read(const struct lifetimes *lifetimes, enum lifetimes_clock clock,
	enum lifetimes_end end, unsigned doubling, struct tally_latency *lived)
{
	*lived = (struct tally_latency){.max_ns = lifetimes->longest[clock]};
	for (size_t i = 0; i < lifetimes->count; i++) {
		const struct lifetimes_row *row = &lifetimes->rows[i];
		if (!is_of(row, clock, doubling))
			continue;
		lived->bytes[row->bucket] += row->blocks[end];
		lived->total_bytes += row->blocks[end];
	}
}

struct lifetimes_count lifetimes_sum(
	const struct lifetimes *lifetimes, enum lifetimes_end end, unsigned doubling)
{
	struct lifetimes_count sum = {0};
	for (size_t i = 0; i < lifetimes->count; i++)
		if (is_of(&lifetimes->rows[i], LIFETIMES_ALLOCATED, doubling))
			sum.blocks += lifetimes->rows[i].blocks[end];
	for (unsigned i = 0; i < TALLY_DOUBLINGS; i++)
		if (doubling == LIFETIMES_ALL || doubling == i)
			sum.bytes += lifetimes->bytes[i][end];
	return sum;
}

void lifetimes_free(struct lifetimes *lifetimes)
{
	free_tables(lifetimes);
	free(lifetimes->rows);
	lifetimes->rows = NULL;
	lifetimes->count = 0;
}

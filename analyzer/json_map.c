/* SPDX-License-Identifier: MIT
 *
 * `analyze --map`: the address map as JSON (docs/analysis.md, "Address map"). Rows are long and
 * much alike from one column to the next, so they are written as runs, and not by way of a tree.
 */
#include "analysis.h"
#include "names.h"
#include "writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void key(struct writer *out, const char *name, uint64_t value)
{
	writer_text(out, ",\n \"");
	writer_text(out, name);
	writer_text(out, "\": ");
	writer_u64(out, value);
}

static void put_stream(struct writer *out, const struct analysis *analysis)
{
	json_t *name = json_string(analysis->streams[analysis->map_stream].stream->name);
	char *text = name ? json_dumps(name, JSON_ENCODE_ANY | JSON_ENSURE_ASCII) : NULL;
	writer_text(out, text ? text : "null");
	free(text);
	json_decref(name);
}

static void put_looks(struct writer *out, const struct map *map, struct clock *clock)
{
	writer_text(out, ",\n \"snapshots_ns\": [");
	for (uint32_t column = 0; column < MAP_COLUMNS; column++) {
		writer_text(out, column ? "," : "");
		if (map->look[column] == MAP_NO_LOOK)
			writer_text(out, "null");
		else
			writer_u64(out, clock_ns(clock, map->look[column]));
	}
	writer_char(out, ']');
}

static void put_run(struct writer *out, const struct map_cell *cell, uint32_t columns)
{
	writer_u64(out, columns);
	for (unsigned state = 0; state < MAP_STATES; state++) {
		writer_char(out, ',');
		writer_u64(out, cell->bytes[state]);
	}
}

static void put_row(struct writer *out, const struct map_region *region, uint32_t row)
{
	uint32_t from = 0;
	writer_char(out, '[');
	for (uint32_t column = 1; column <= MAP_COLUMNS; column++) {
		const struct map_cell *cell = map_cell(region, from, row);
		if (column < MAP_COLUMNS &&
			!memcmp(cell, map_cell(region, column, row), sizeof(*cell)))
			continue;
		if (from)
			writer_char(out, ',');
		put_run(out, cell, column - from);
		from = column;
	}
	writer_char(out, ']');
}

static void put_region(struct writer *out, const struct map_region *region)
{
	writer_text(out, region->is_break ? "{\"kind\": \"break\"" : "{\"kind\": \"arena\"");
	writer_text(out, ", \"start\": \"");
	writer_hex(out, region->first_row << region->bits);
	writer_text(out, "\", \"row_bytes\": ");
	writer_u64(out, UINT64_C(1) << region->bits);
	writer_text(out, ", \"rows\": [");
	for (uint32_t row = 0; row < map_rows(region); row++) {
		writer_text(out, row ? ",\n  " : "\n  ");
		put_row(out, region, row);
	}
	writer_text(out, "]}");
}

static void put_map(struct writer *out, const struct analysis *analysis)
{
	static const char *const states[] = {
		"requested", "slack", "cached", "partial", "free", "absent", "purged", "untouched"};
	_Static_assert(sizeof(states) / sizeof(*states) == MAP_STATES, "a name each");
	const struct map *map = &analysis->map;
	struct trace_stream *stream = analysis->streams[analysis->map_stream].stream;
	put_stream(out, analysis);
	key(out, "start_ns", clock_ns(&stream->clock, map->first_tick));
	key(out, "end_ns", clock_ns(&stream->clock, map->last_tick));
	key(out, "columns", MAP_COLUMNS);
	key(out, "beyond_bytes", map->beyond);
	put_looks(out, map, &stream->clock);
	writer_text(out, ",\n \"states\": [");
	for (unsigned state = 0; state < MAP_STATES; state++) {
		writer_text(out, state ? ", \"" : "\"");
		writer_text(out, states[state]);
		writer_char(out, '"');
	}
	writer_text(out, "],\n \"regions\": [");
	for (size_t i = 0; i < map->regions; i++) {
		writer_text(out, i ? ",\n " : "\n ");
		put_region(out, &map->region[i]);
	}
	writer_char(out, ']');
}

int json_map_write(const struct analysis *analysis, const char *path)
{
	struct writer *out = malloc(sizeof(*out));
	int rc = out ? writer_open(out, path) : -ENOMEM;
	if (!rc) {
		writer_text(out, "{\"schema\": \"heapledger-map/1\",\n \"stream\": ");
		if (analysis->map_known)
			put_map(out, analysis);
		else
			writer_text(out, "null,\n \"regions\": null");
		writer_text(out, "}\n");
		rc = writer_close(out, 1);
	}
	free(out);
	return rc;
}

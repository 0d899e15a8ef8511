/* SPDX-License-Identifier: MIT
 *
 * A profile of pprof: the message Profile of its profile.proto, compressed with gzip. What it
 * refers to is written as it comes up, each message compressed at once; only the tables of what has
 * been written stay in memory.
 */
#include "export.h"
#include "proto.h"
#include "room.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum {
	PROFILE_SAMPLE_TYPE = 1,
	PROFILE_SAMPLE = 2,
	PROFILE_MAPPING = 3,
	PROFILE_LOCATION = 4,
	PROFILE_FUNCTION = 5,
	PROFILE_STRING = 6,
	PROFILE_DURATION_NS = 10,
	PROFILE_COMMENT = 13,
	PROFILE_DEFAULT_TYPE = 14,
	VALUE_TYPE = 1,
	VALUE_UNIT = 2,
	SAMPLE_LOCATION = 1,
	SAMPLE_VALUE = 2,
	SAMPLE_LABEL = 3,
	LABEL_KEY = 1,
	LABEL_STRING = 2,
	LABEL_NUMBER = 3,
	MAPPING_ID = 1,
	MAPPING_START = 2,
	MAPPING_LIMIT = 3,
	MAPPING_FILE = 5,
	MAPPING_BUILD_ID = 6,
	MAPPING_HAS_FUNCTIONS = 7,
	MAPPING_HAS_FILES = 8,
	MAPPING_HAS_LINES = 9,
	MAPPING_HAS_INLINED = 10,
	LOCATION_ID = 1,
	LOCATION_MAPPING = 2,
	LOCATION_ADDRESS = 3,
	LOCATION_LINE = 4,
	LINE_FUNCTION = 1,
	LINE_NUMBER = 2,
	FUNCTION_ID = 1,
	FUNCTION_NAME = 2,
	FUNCTION_SYSTEM_NAME = 3,
	FUNCTION_FILE = 4,
};

/* What there is in a module, as far as it was looked at. */
struct mapping {
	const struct stack_module *module;
	bool functions, files, lines, inlined;
};

struct pprof {
	const struct export_profile *profile;
	struct writer *out;
	z_stream zip;
	bool zip_open;
	int error;
	json_t *strings; /* text -> number; the first is "" */
	struct id_map frames;
	struct id_map locations; /* frame's number, module's number */
	struct id_map functions; /* name, file */
	struct id_map modules;   /* by their order in the file */
	struct mapping *mappings;
	size_t mapping_count;
	size_t mapping_room;
};

static void fail(struct pprof *pprof, int error)
{
	if (!pprof->error)
		pprof->error = error;
}

/* ---- what is written ------------------------------------------------------------------------- */

static void deflate_bytes(struct pprof *pprof, const void *bytes, size_t length, int flush)
{
	unsigned char packed[4096];
	pprof->zip.next_in = (Bytef *)(uintptr_t)bytes;
	pprof->zip.avail_in = (uInt)length;
	do {
		pprof->zip.next_out = packed;
		pprof->zip.avail_out = sizeof(packed);
		deflate(&pprof->zip, flush); /* with room it cannot fail */
		writer_write(
			pprof->out, (const char *)packed, sizeof(packed) - pprof->zip.avail_out);
	} while (!pprof->zip.avail_out);
}

/* The message is a field of the profile, and is done with. */
static void put_message(struct pprof *pprof, unsigned field, struct proto *message)
{
	struct proto framed = {0};
	proto_bytes(&framed, field, message->bytes, message->used);
	if (message->failed || framed.failed)
		fail(pprof, -ENOMEM);
	else
		deflate_bytes(pprof, framed.bytes, framed.used, Z_NO_FLUSH);
	proto_free(&framed);
	proto_free(message);
}

static void put_integer(struct pprof *pprof, unsigned field, uint64_t value)
{
	struct proto message = {0};
	proto_integer(&message, field, value);
	if (message.failed)
		fail(pprof, -ENOMEM);
	else
		deflate_bytes(pprof, message.bytes, message.used, Z_NO_FLUSH);
	proto_free(&message);
}

/* The number of a text, which is written when it is new. */
static uint64_t string(struct pprof *pprof, const char *text)
{
	json_t *valid = json_text(text, strlen(text));
	const char *key = valid ? json_string_value(valid) : "";
	const json_t *known = json_object_get(pprof->strings, key);
	size_t number = json_object_size(pprof->strings);
	struct proto message = {0};
	if (!valid)
		fail(pprof, -ENOMEM);
	if (known) {
		number = (size_t)json_integer_value(known);
	} else {
		proto_bytes(&message, PROFILE_STRING, key, strlen(key));
		if (message.failed ||
			json_object_set_new(pprof->strings, key, json_integer((json_int_t)number)))
			fail(pprof, -ENOMEM);
		else
			deflate_bytes(pprof, message.bytes, message.used, Z_NO_FLUSH);
		proto_free(&message);
	}
	json_decref(valid);
	return number;
}

/* ---- where ----------------------------------------------------------------------------------- */

/* `is_new`: it was not in the map. 0 = failed. */
static uint32_t number_of(struct pprof *pprof, struct id_map *map, uint64_t id, bool *is_new)
{
	uint32_t before = map->count, number = 0;
	int rc = id_map_number(map, id, UINT32_MAX, &number);
	if (rc)
		fail(pprof, rc);
	*is_new = map->count > before;
	return number;
}

static uint32_t function(struct pprof *pprof, const struct symbol *symbol)
{
	bool is_new;
	uint64_t name = string(pprof, symbol->function);
	uint64_t file = string(pprof, symbol->file ? symbol->file : "");
	uint32_t number = number_of(pprof, &pprof->functions, name << 32 | file, &is_new);
	if (!is_new)
		return number;
	struct proto message = {0};
	proto_integer(&message, FUNCTION_ID, number);
	proto_integer(&message, FUNCTION_NAME, name);
	proto_integer(&message, FUNCTION_SYSTEM_NAME, name);
	proto_integer(&message, FUNCTION_FILE, file);
	put_message(pprof, PROFILE_FUNCTION, &message);
	return number;
}

static uint32_t mapping(struct pprof *pprof, const struct symbol_place *place)
{
	bool is_new;
	if (!place->module)
		return 0;
	uint32_t number = number_of(pprof, &pprof->modules, place->module->order, &is_new);
	if (!is_new)
		return number;
	struct mapping *mappings = room_for_one(
		pprof->mappings, pprof->mapping_count, &pprof->mapping_room, sizeof(*mappings));
	if (!mappings) {
		fail(pprof, -ENOMEM);
		return 0;
	}
	pprof->mappings = mappings;
	mappings[pprof->mapping_count++] = (struct mapping){.module = place->module};
	return number;
}

static void put_line(struct pprof *pprof, struct proto *location, struct mapping *mapping,
	const struct symbol *symbol)
{
	struct proto line = {0};
	proto_integer(&line, LINE_FUNCTION, function(pprof, symbol));
	proto_integer(&line, LINE_NUMBER, symbol->line);
	proto_bytes(location, LOCATION_LINE, line.bytes, line.used);
	location->failed |= line.failed;
	proto_free(&line);
	mapping->functions = true;
	mapping->files |= symbol->file != NULL;
	mapping->lines |= symbol->line != 0;
	mapping->inlined |= symbol->inlined;
}

/* Addresses of other processes may be the same, and their modules are not. */
static uint32_t location(struct pprof *pprof, const struct export_row *row, uint64_t frame)
{
	const struct trace_stream *stream = pprof->profile->analysis->streams[row->stream].stream;
	struct symbol_place place = {0};
	bool is_new;
	if (pprof->profile->symbols &&
		symbols_find(pprof->profile->symbols, stream, row->tick, frame, &place))
		fail(pprof, -ENOMEM);
	uint64_t module = mapping(pprof, &place);
	uint64_t address = number_of(pprof, &pprof->frames, frame, &is_new);
	uint32_t number = number_of(pprof, &pprof->locations, address << 32 | module, &is_new);
	if (!is_new)
		return number;
	struct proto message = {0};
	proto_integer(&message, LOCATION_ID, number);
	proto_integer(&message, LOCATION_MAPPING, module);
	proto_integer(&message, LOCATION_ADDRESS, frame);
	for (unsigned i = 0; module && i < place.count; i++)
		if (place.symbols[i].function)
			put_line(pprof, &message, &pprof->mappings[module - 1], &place.symbols[i]);
	put_message(pprof, PROFILE_LOCATION, &message);
	return number;
}

/* Of a sample whose place is not known: one without a location is in no table that pprof prints. */
static uint32_t unknown_location(struct pprof *pprof)
{
	static const struct symbol unknown = {.function = "[unknown]"};
	struct mapping none = {0};
	struct proto message = {0};
	bool is_new;
	uint32_t number = number_of(pprof, &pprof->locations, 0, &is_new);
	if (!is_new)
		return number;
	proto_integer(&message, LOCATION_ID, number);
	put_line(pprof, &message, &none, &unknown);
	put_message(pprof, PROFILE_LOCATION, &message);
	return number;
}

static void put_mappings(struct pprof *pprof)
{
	for (size_t i = 0; i < pprof->mapping_count; i++) {
		const struct mapping *mapping = &pprof->mappings[i];
		const struct stack_module *module = mapping->module;
		struct proto message = {0};
		char build_id[HL_BUILD_ID_BYTES * 2 + 1] = "";
		for (unsigned j = 0; j < module->build_id_bytes; j++)
			snprintf(build_id + 2 * j, 3, "%02x", module->build_id[j]);
		proto_integer(&message, MAPPING_ID, i + 1);
		proto_integer(&message, MAPPING_START, module->start);
		proto_integer(&message, MAPPING_LIMIT, module->end);
		proto_integer(&message, MAPPING_FILE, string(pprof, module->path));
		proto_integer(&message, MAPPING_BUILD_ID, string(pprof, build_id));
		proto_integer(&message, MAPPING_HAS_FUNCTIONS, mapping->functions);
		proto_integer(&message, MAPPING_HAS_FILES, mapping->files);
		proto_integer(&message, MAPPING_HAS_LINES, mapping->lines);
		proto_integer(&message, MAPPING_HAS_INLINED, mapping->inlined);
		put_message(pprof, PROFILE_MAPPING, &message);
	}
}

/* ---- samples --------------------------------------------------------------------------------- */

static void put_types(struct pprof *pprof)
{
	const bool *known = pprof->profile->known;
	for (unsigned i = 0; i < EXPORT_VALUES; i++) {
		struct proto message = {0};
		if (!known[i])
			continue;
		proto_integer(&message, VALUE_TYPE, string(pprof, export_pprof_type(i)));
		proto_integer(&message, VALUE_UNIT, string(pprof, export_pprof_unit(i)));
		put_message(pprof, PROFILE_SAMPLE_TYPE, &message);
	}
	enum export_value first = known[EXPORT_PEAK] ? EXPORT_PEAK : EXPORT_ALLOCATED;
	if (known[first])
		put_integer(pprof, PROFILE_DEFAULT_TYPE, string(pprof, export_pprof_type(first)));
}

static void put_label(struct pprof *pprof, struct proto *sample, const char *key, const char *text)
{
	struct proto label = {0};
	proto_integer(&label, LABEL_KEY, string(pprof, key));
	proto_integer(&label, LABEL_STRING, string(pprof, text));
	proto_bytes(sample, SAMPLE_LABEL, label.bytes, label.used);
	sample->failed |= label.failed;
	proto_free(&label);
}

/* Not put if it is 0. */
static void put_number(struct pprof *pprof, struct proto *sample, const char *key, uint64_t number)
{
	struct proto label = {0};
	if (!number)
		return;
	proto_integer(&label, LABEL_KEY, string(pprof, key));
	proto_integer(&label, LABEL_NUMBER, number);
	proto_bytes(sample, SAMPLE_LABEL, label.bytes, label.used);
	sample->failed |= label.failed;
	proto_free(&label);
}

static bool is_nothing(const struct pprof *pprof, const struct export_row *row)
{
	for (unsigned i = 0; i < EXPORT_VALUES; i++)
		if (pprof->profile->known[i] && row->value[i])
			return false;
	return true;
}

static void put_sample(struct pprof *pprof, const struct export_row *row)
{
	const struct trace_stream *stream = pprof->profile->analysis->streams[row->stream].stream;
	struct proto sample = {0}, locations = {0}, values = {0};
	struct export_frames frames;
	export_frames(pprof->profile, row, &frames);
	for (unsigned i = 0; i < frames.count; i++)
		proto_varint(&locations, location(pprof, row, frames.frame[i]));
	if (!frames.count)
		proto_varint(&locations, unknown_location(pprof));
	for (unsigned i = 0; i < EXPORT_VALUES; i++)
		if (pprof->profile->known[i])
			proto_varint(&values, (uint64_t)row->value[i]);
	proto_bytes(&sample, SAMPLE_LOCATION, locations.bytes, locations.used);
	proto_bytes(&sample, SAMPLE_VALUE, values.bytes, values.used);
	put_label(pprof, &sample, "program", trace_program(stream));
	put_label(pprof, &sample, "process", stream->name);
	put_number(pprof, &sample, "stack", hl_caller_stack(row->caller));
	put_number(pprof, &sample, "cut", frames.cut);
	sample.failed |= locations.failed || values.failed;
	put_message(pprof, PROFILE_SAMPLE, &sample);
	proto_free(&locations);
	proto_free(&values);
}

static void put_samples(struct pprof *pprof, const struct export_rows *rows)
{
	for (size_t i = 0; i < rows->count && !pprof->error && !pprof->out->error; i++)
		if (!is_nothing(pprof, &rows->row[i]))
			put_sample(pprof, &rows->row[i]);
}

static void put_profile(struct pprof *pprof)
{
	const struct export_profile *profile = pprof->profile;
	const struct analysis *analysis = profile->analysis;
	string(pprof, "");
	put_types(pprof);
	for (size_t i = 0; i < profile->trace->stream_count; i++)
		put_samples(pprof, &profile->streams[i]);
	put_mappings(pprof);
	if (!analysis_imported(analysis))
		put_integer(pprof, PROFILE_DURATION_NS, analysis->last_ns - analysis->first_ns);
	put_integer(pprof, PROFILE_COMMENT, string(pprof, "heapledger " HEAPLEDGER_VERSION));
}

int export_pprof(const struct export_profile *profile, struct writer *out)
{
	struct pprof pprof = {.profile = profile, .out = out, .strings = json_object()};
	/* + 16: with gzip's header, whose time stays 0. */
	pprof.zip_open =
		pprof.strings && deflateInit2(&pprof.zip, Z_DEFAULT_COMPRESSION, Z_DEFLATED,
					 MAX_WBITS + 16, MAX_MEM_LEVEL, Z_DEFAULT_STRATEGY) == Z_OK;
	if (pprof.zip_open)
		put_profile(&pprof);
	else
		fail(&pprof, -ENOMEM);
	if (pprof.zip_open) {
		deflate_bytes(&pprof, "", 0, Z_FINISH);
		deflateEnd(&pprof.zip);
	}
	json_decref(pprof.strings);
	id_map_free(&pprof.frames);
	id_map_free(&pprof.locations);
	id_map_free(&pprof.functions);
	id_map_free(&pprof.modules);
	free(pprof.mappings);
	return pprof.error;
}

/* SPDX-License-Identifier: MIT
 *
 * Collapsed stacks: one stack a line, the outermost function first, frames parted by semicolons,
 * then a space and the value. Each stack is there once, sorted, so that two files can be compared.
 */
#include "export.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct line {
	char *text;
	uint64_t value;
};

/* Nothing that would part frames or lines, or that a terminal would obey. */
static void put_name(FILE *to, const char *name)
{
	for (; *name; name++) {
		unsigned char c = (unsigned char)*name;
		fputc(c == ';' ? ':' : c < ' ' || c == 0x7f ? '?' : c, to);
	}
}

static void put_unnamed(FILE *to, uint64_t frame, const struct symbol_place *place)
{
	const char *path = place->module ? place->module->path : NULL;
	const char *slash = path ? strrchr(path, '/') : NULL;
	fputc(';', to);
	if (path)
		put_name(to, slash ? slash + 1 : path);
	fprintf(to, path ? "+0x%llx" : "0x%llx",
		(unsigned long long)(path ? place->offset : frame));
}

static int put_frame(const struct export_profile *profile, const struct export_row *row,
	uint64_t frame, FILE *to)
{
	const struct trace_stream *stream = profile->analysis->streams[row->stream].stream;
	struct symbol_place place = {0};
	bool named = false;
	if (profile->symbols && symbols_find(profile->symbols, stream, row->tick, frame, &place))
		return -ENOMEM;
	for (unsigned i = place.count; i--;) {
		if (!place.symbols[i].function)
			continue;
		fputc(';', to);
		put_name(to, place.symbols[i].function);
		named = true;
	}
	if (!named)
		put_unnamed(to, frame, &place);
	return 0;
}

static int make_line(
	const struct export_profile *profile, const struct export_row *row, char **text)
{
	const struct trace_stream *stream = profile->analysis->streams[row->stream].stream;
	struct export_frames frames;
	size_t length;
	int rc = 0;
	FILE *to = open_memstream(text, &length);
	if (!to)
		return -ENOMEM;
	export_frames(profile, row, &frames);
	put_name(to, trace_program(stream));
	fprintf(to, " [%s]", stream->name);
	if (frames.cut)
		fputs(";[cut]", to);
	if (!frames.count)
		fputs(";[unknown]", to);
	for (unsigned i = frames.count; !rc && i--;)
		rc = put_frame(profile, row, frames.frame[i], to);
	return fclose(to) ? -ENOMEM : rc;
}

static int by_text(const void *left, const void *right)
{
	return strcmp(((const struct line *)left)->text, ((const struct line *)right)->text);
}

static void put_lines(struct line *lines, size_t count, struct writer *out)
{
	if (count)
		qsort(lines, count, sizeof(*lines), by_text);
	for (size_t i = 0; i < count; i++) {
		if (i + 1 < count && !by_text(&lines[i], &lines[i + 1])) {
			lines[i + 1].value += lines[i].value;
			continue;
		}
		writer_text(out, lines[i].text);
		writer_char(out, ' ');
		writer_u64(out, lines[i].value);
		writer_char(out, '\n');
	}
}

static int make_lines(const struct export_profile *profile, const struct export_rows *rows,
	enum export_value value, struct line *lines, size_t *count)
{
	int rc = 0;
	for (size_t i = 0; !rc && i < rows->count; i++) {
		if (rows->row[i].value[value] <= 0)
			continue;
		lines[*count].value = (uint64_t)rows->row[i].value[value];
		rc = make_line(profile, &rows->row[i], &lines[(*count)++].text);
	}
	return rc;
}

int export_collapsed(
	const struct export_profile *profile, enum export_value value, struct writer *out)
{
	size_t all = 0, count = 0;
	for (size_t i = 0; i < profile->trace->stream_count; i++)
		all += profile->streams[i].count;
	struct line *lines = calloc(all + 1, sizeof(*lines));
	int rc = lines ? 0 : -ENOMEM;
	for (size_t i = 0; !rc && i < profile->trace->stream_count; i++)
		rc = make_lines(profile, &profile->streams[i], value, lines, &count);
	if (!rc)
		put_lines(lines, count, out);
	for (size_t i = 0; i < count; i++)
		free(lines[i].text);
	free(lines);
	return rc;
}

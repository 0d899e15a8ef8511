/* SPDX-License-Identifier: MIT
 *
 * See window.h: times in words, and where a phase is. No phase begins or ends but at a mark, so the
 * streams are read for their marks first.
 */
#include "window.h"
#include "room.h"
#include "tool.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_SHOWN 20

/* ---- times ----------------------------------------------------------------------------------- */

/* "1.5s", "200ms", "2m", "1h", "30%" of the recording, or seconds. */
static bool parse_time(const char *text, uint64_t all_ns, uint64_t *ns)
{
	const struct {
		const char *name;
		double ns;
	} units[] = {{"", 1e9}, {"s", 1e9}, {"ms", 1e6}, {"m", 60e9}, {"h", 3600e9},
		{"%", (double)all_ns / 100}};
	char *unit;
	if (!isdigit((unsigned char)text[0]) || text[strspn(text, "0123456789")] == 'x')
		return false;
	double value = strtod(text, &unit);
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcmp(unit, units[i].name) != 0)
			continue;
		value *= units[i].ns;
		*ns = value < 0x1p62 ? (uint64_t)(value + 0.5) : UINT64_C(1) << 62;
		return true;
	}
	return false;
}

/* From the start of the recording to its last record. */
static uint64_t recording_ns(struct trace *trace)
{
	uint64_t last = 0;
	for (size_t i = 0; i < trace->stream_count; i++) {
		struct trace_stream *stream = &trace->streams[i];
		uint64_t ns =
			stream->info.records ? clock_ns(&stream->clock, stream->info.last_tick) : 0;
		last = ns > last ? ns : last;
	}
	return last;
}

static int find_times(struct window *window, struct trace *trace,
	const struct window_request *request, const char *command)
{
	uint64_t all = recording_ns(trace);
	window->to_ns = all;
	if (request->from && !parse_time(request->from, all, &window->from_ns))
		return tool_fail(TOOL_USAGE, command,
			"--from %s: a time is needed, such as 1.5s, 200ms or 30%%", request->from);
	if (request->to && !parse_time(request->to, all, &window->to_ns))
		return tool_fail(TOOL_USAGE, command,
			"--to %s: a time is needed, such as 1.5s, 200ms or 30%%", request->to);
	if (window->from_ns > all)
		return tool_fail(TOOL_USAGE, command, "--from %s: the recording ends at %.9g s",
			request->from, (double)all / 1e9);
	if (window->to_ns <= window->from_ns && request->to)
		return tool_fail(TOOL_USAGE, command,
			"--to %s: the window would end before it begins", request->to);
	window->to_end = window->to_ns >= all;
	window->to_ns = window->to_end ? all : window->to_ns;
	return TOOL_OK;
}

/* ---- phases ---------------------------------------------------------------------------------- */

struct mark {
	size_t stream;
	uint64_t record; /* of the stream: how many there are up to it, with it */
	uint64_t tick;
	char name[HL_PHASE_NAME_BYTES];
};

struct marks {
	struct mark *list;
	size_t count;
	size_t capacity;
};

static int add_mark(
	struct marks *marks, size_t stream, uint64_t record, const struct hl_phase_record *phase)
{
	struct mark *list =
		room_for_one(marks->list, marks->count, &marks->capacity, sizeof(*list));
	if (!list)
		return -ENOMEM;
	marks->list = list;
	struct mark *mark = &list[marks->count++];
	*mark = (struct mark){.stream = stream, .record = record, .tick = phase->tick};
	memcpy(mark->name, phase->name, sizeof(mark->name) - 1); /* a file may lack the NUL */
	return 0;
}

static int read_marks_of(
	struct marks *marks, struct trace *trace, size_t index, const char *command)
{
	struct stream_reader *reader = NULL;
	const struct stream_event *event;
	uint64_t record = 0;
	int fd = -1, rc = trace_stream_open(trace, &trace->streams[index], &reader, &fd);

	while (!rc && (rc = stream_reader_next(reader, &event)) > 0) {
		record++;
		rc = hl_kind_of(event->record.call.kind_addr) == HL_KIND_phase
			     ? add_mark(marks, index, record, &event->record.phase)
			     : 0;
	}
	rc = trace_stream_close(trace, reader, fd, rc);
	return rc ? tool_fail(TOOL_UNREADABLE, command, "%s", trace->error) : TOOL_OK;
}

static int no_such_phase(const struct marks *marks, const char *name, const char *command)
{
	char names[NAMES_SHOWN * (HL_PHASE_NAME_BYTES + 2) + 16] = "";
	size_t used = 0, shown = 0;
	for (size_t i = 0; i < marks->count; i++) {
		bool again = false;
		for (size_t k = 0; k < i && !again; k++)
			again = !strcmp(marks->list[k].name, marks->list[i].name);
		if (again)
			continue;
		if (shown++ == NAMES_SHOWN) {
			snprintf(names + used, sizeof(names) - used, " ...");
			break;
		}
		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s",
			shown > 1 ? ", " : "", marks->list[i].name);
	}
	if (!shown)
		return tool_fail(TOOL_USAGE, command, "--phase %s: no phase was marked", name);
	return tool_fail(TOOL_USAGE, command, "--phase %s: there is no such phase; there are: %s",
		name, names);
}

/* The first of the name, up to the next mark of its stream. */
static int choose(struct window *window, struct trace *trace, const struct marks *marks,
	const char *name, const char *command)
{
	size_t at = 0;
	while (at < marks->count && strcmp(marks->list[at].name, name) != 0)
		at++;
	if (at == marks->count)
		return no_such_phase(marks, name, command);
	const struct mark *mark = &marks->list[at];
	const struct mark *next = at + 1 < marks->count ? mark + 1 : NULL;
	if (next && next->stream != mark->stream)
		next = NULL;
	struct trace_stream *stream = &trace->streams[mark->stream];
	window->phase = name;
	window->stream = mark->stream;
	window->from_record = mark->record;
	window->to_record = next ? next->record - 1 : UINT64_MAX;
	window->from_ns = clock_ns(&stream->clock, mark->tick);
	window->to_ns = clock_ns(&stream->clock, next ? next->tick : stream->info.last_tick);
	for (; at < marks->count && marks->list[at].stream == window->stream; at++)
		window->phases += !strcmp(marks->list[at].name, name);
	return TOOL_OK;
}

static int find_phase(
	struct window *window, struct trace *trace, const char *name, const char *command)
{
	struct marks marks = {0};
	int code = TOOL_OK;
	for (size_t i = 0; !code && i < trace->stream_count; i++)
		code = read_marks_of(&marks, trace, i, command);
	if (!code)
		code = choose(window, trace, &marks, name, command);
	free(marks.list);
	return code;
}

int window_find(struct window *window, struct trace *trace, const struct window_request *request,
	const char *command)
{
	*window = (struct window){0};
	window->set = request->from || request->to || request->phase;
	if (!window->set)
		return TOOL_OK;
	if (request->phase && (request->from || request->to))
		return tool_fail(
			TOOL_USAGE, command, "--phase is a window itself: not with --from or --to");
	if (!trace->stream_count)
		return tool_fail(TOOL_USAGE, command,
			"no process was recorded: there is no time to choose from");
	if (!trace_has_times(&trace->streams[0]))
		return tool_fail(TOOL_USAGE, command,
			"the log has no times: --from, --to and --phase need them");
	return request->phase ? find_phase(window, trace, request->phase, command)
			      : find_times(window, trace, request, command);
}

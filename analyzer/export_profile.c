/* SPDX-License-Identifier: MIT
 *
 * See export.h. What was allocated, and the system calls, are counted record by record; what was
 * held comes from the layouts of the analysis.
 */
#include "export.h"
#include "mapping.h"
#include "names.h"
#include "room.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name, *type, *unit;
} values[EXPORT_VALUES] = {
	[EXPORT_ALLOCATIONS] = {"allocations", "alloc_objects", "count"},
	[EXPORT_ALLOCATED] = {"allocated", "alloc_space", "bytes"},
	[EXPORT_PEAK_BLOCKS] = {"peak-blocks", "peak_objects", "count"},
	[EXPORT_PEAK] = {"peak", "peak_space", "bytes"},
	[EXPORT_END_BLOCKS] = {"end-blocks", "inuse_objects", "count"},
	[EXPORT_END] = {"end", "inuse_space", "bytes"},
	[EXPORT_PINNED] = {"pinned", "pinned_space", "bytes"},
	[EXPORT_SYSCALLS] = {"syscalls", "syscalls", "count"},
	[EXPORT_SYSCALL_TIME] = {"syscall-time", "syscall_time", "nanoseconds"},
};

const char *export_name(enum export_value value)
{
	return values[value].name;
}

const char *export_pprof_type(enum export_value value)
{
	return values[value].type;
}

const char *export_pprof_unit(enum export_value value)
{
	return values[value].unit;
}

const char *export_program(const struct trace_stream *stream)
{
	const char *slash = strrchr(stream->command, '/');
	const char *name = slash ? slash + 1 : stream->command;
	return *name ? name : "unknown";
}

void export_frames(const struct export_profile *profile, const struct export_row *row,
	struct export_frames *frames)
{
	const struct stacks *stacks = &profile->analysis->trace->stacks;
	uint32_t number = hl_caller_stack(row->caller);
	const struct stack *stack = number ? stacks_find(stacks, number) : NULL;
	*frames = (struct export_frames){0};
	if (!number && row->caller) {
		frames->frame = &row->caller;
		frames->count = 1;
	}
	if (stack) {
		frames->frame = stacks_frames(stacks, stack);
		frames->count = stack->count;
		frames->cut = stack->end != HL_STACK_WHOLE;
	}
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* NULL when there is no memory. */
static struct export_row *row_of(
	struct export_profile *profile, size_t stream, uint64_t caller, uint64_t tick)
{
	uint32_t number;
	if (id_map_number(&profile->callers, caller, UINT32_MAX, &number))
		return NULL;
	size_t at = profile->first + number - 1;
	if (at < profile->count)
		return &profile->rows[at];
	struct export_row *rows =
		room_for_one(profile->rows, profile->count, &profile->capacity, sizeof(*rows));
	if (!rows)
		return NULL;
	profile->rows = rows;
	rows[profile->count] =
		(struct export_row){.stream = stream, .caller = caller, .tick = tick};
	return &rows[profile->count++];
}

static int count_call(
	struct export_profile *profile, size_t stream, const struct hl_call_record *call)
{
	if (!hl_addr_of(call->kind_addr))
		return 0; /* failed, or realloc(p, 0) */
	struct export_row *row = row_of(profile, stream, call->caller, call->tick);
	if (!row)
		return -ENOMEM;
	row->value[EXPORT_ALLOCATIONS]++;
	row->value[EXPORT_ALLOCATED] += (int64_t)call->size;
	return 0;
}

static int count_syscall(
	struct export_profile *profile, size_t stream, const struct hl_syscall_record *record)
{
	if (!mapping_counts(record))
		return 0;
	const struct clock *clock = &profile->analysis->streams[stream].stream->clock;
	struct export_row *row = row_of(profile, stream, record->caller, record->tick);
	if (!row)
		return -ENOMEM;
	row->value[EXPORT_SYSCALLS]++;
	row->value[EXPORT_SYSCALL_TIME] += (int64_t)clock_span(clock, record->duration);
	return 0;
}

/* The recording begins later than the program: what was before only says what the heap was then. */
static void forget_counts(struct export_profile *profile)
{
	for (size_t i = profile->first; i < profile->count; i++)
		memset(profile->rows[i].value, 0, sizeof(profile->rows[i].value));
}

static int count_event(
	struct export_profile *profile, size_t stream, const struct stream_event *event)
{
	unsigned kind = hl_kind_of(event->record.call.kind_addr);
	switch (name_shape(kind)) {
	case NAME_SHAPE_ALLOC:
	case NAME_SHAPE_ALIGNED:
	case NAME_SHAPE_REALLOC:
		return count_call(profile, stream, &event->record.call);
	default:
		break;
	}
	if (kind == HL_KIND_begin)
		forget_counts(profile);
	if (name_is_syscall(kind) && !profile->analysis->streams[stream].result.observed)
		return count_syscall(profile, stream, &event->record.syscall);
	return 0;
}

static int count_stream(struct export_profile *profile, size_t stream)
{
	struct trace *trace = profile->analysis->trace;
	struct stream_reader *reader;
	const struct stream_event *event;
	int fd, rc = trace_stream_open(trace, &trace->streams[stream], &reader, &fd);
	if (!rc) {
		while ((rc = stream_reader_next(reader, &event)) > 0)
			if ((rc = count_event(profile, stream, event)))
				break;
	}
	return trace_stream_close(trace, reader, fd, rc);
}

/* ---- what was held --------------------------------------------------------------------------- */

static int take_moment(struct export_profile *profile, size_t stream, enum moment_kind kind)
{
	bool peak = kind == MOMENT_MAPPED_PEAK;
	const struct moment *moment =
		moments_find(&profile->analysis->streams[stream].moments, kind);
	for (size_t i = 0; moment && i < moment->layout.site_count; i++) {
		const struct layout_site *site = &moment->layout.sites[i];
		if (layout_is_kept(site->caller))
			continue;
		struct export_row *row = row_of(profile, stream, site->caller, site->oldest);
		if (!row)
			return -ENOMEM;
		row->value[peak ? EXPORT_PEAK_BLOCKS : EXPORT_END_BLOCKS] = (int64_t)site->blocks;
		row->value[peak ? EXPORT_PEAK : EXPORT_END] = (int64_t)site->bytes;
		if (peak)
			row->value[EXPORT_PINNED] = (int64_t)(site->pinned + 0.5);
	}
	return 0;
}

static void note_known(struct export_profile *profile, const struct analysis_stream *entry)
{
	const struct ledger_result *result = &entry->result;
	for (unsigned i = 0; i < EXPORT_VALUES; i++)
		profile->known[i] |=
			i <= EXPORT_ALLOCATED ? !result->calls_unknown : !result->observed;
}

int export_profile_make(struct export_profile *profile, const struct analysis *analysis)
{
	int rc = 0;
	*profile = (struct export_profile){.analysis = analysis};
	for (size_t i = 0; !rc && i < analysis->count; i++) {
		profile->first = profile->count;
		id_map_free(&profile->callers);
		note_known(profile, &analysis->streams[i]);
		rc = count_stream(profile, i);
		if (!rc)
			rc = take_moment(profile, i, MOMENT_MAPPED_PEAK);
		if (!rc)
			rc = take_moment(profile, i, MOMENT_END);
	}
	if (rc == -ENOMEM)
		snprintf(analysis->trace->error, sizeof(analysis->trace->error),
			"%.300s: not enough memory to export it", analysis->trace->path);
	return rc;
}

void export_profile_free(struct export_profile *profile)
{
	id_map_free(&profile->callers);
	free(profile->rows);
	*profile = (struct export_profile){0};
}

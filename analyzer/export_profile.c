/* SPDX-License-Identifier: MIT
 *
 * See export.h. What was allocated, and the system calls, are counted record by record, in a thread
 * of their own that touches nothing but the streams' files; what was held comes from the layouts of
 * the analysis.
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
	struct export_rows *rows = &profile->streams[stream];
	uint32_t number;
	if (id_map_number(&rows->callers, caller, UINT32_MAX, &number))
		return NULL;
	if (number <= rows->count)
		return &rows->row[number - 1];
	struct export_row *row =
		room_for_one(rows->row, rows->count, &rows->capacity, sizeof(*row));
	if (!row)
		return NULL;
	rows->row = row;
	row[rows->count] = (struct export_row){.stream = stream, .caller = caller, .tick = tick};
	return &row[rows->count++];
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
	const struct clock *clock = &profile->trace->streams[stream].clock;
	struct export_row *row = row_of(profile, stream, record->caller, record->tick);
	if (!row)
		return -ENOMEM;
	row->value[EXPORT_SYSCALLS]++;
	row->value[EXPORT_SYSCALL_TIME] += (int64_t)clock_span(clock, record->duration);
	return 0;
}

/* The recording begins later than the program: what was before only says what the heap was then. */
static void forget_counts(struct export_rows *rows)
{
	for (size_t i = 0; i < rows->count; i++)
		memset(rows->row[i].value, 0, sizeof(rows->row[i].value));
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
		forget_counts(&profile->streams[stream]);
	if (name_is_syscall(kind) &&
		profile->trace->streams[stream].info.header.mode == HL_MODE_ALLOCATOR)
		return count_syscall(profile, stream, &event->record.syscall);
	return 0;
}

static int count_stream(struct export_profile *profile, size_t stream)
{
	struct trace own = {0}; /* for its error: that of the trace is the other thread's */
	struct stream_reader *reader;
	const struct stream_event *event;
	int fd, rc = trace_stream_open(&own, &profile->trace->streams[stream], &reader, &fd);
	if (!rc) {
		while ((rc = stream_reader_next(reader, &event)) > 0)
			if ((rc = count_event(profile, stream, event)))
				break;
	}
	rc = trace_stream_close(&own, reader, fd, rc);
	if (rc)
		snprintf(profile->error, sizeof(profile->error), "%s", own.error);
	return rc;
}

static void *count_all(void *argument)
{
	struct export_profile *profile = argument;
	int rc = profile->streams || !profile->trace->stream_count ? 0 : -ENOMEM;
	for (size_t i = 0; !rc && i < profile->trace->stream_count; i++)
		if (!profile->trace->streams[i].elsewhere)
			rc = count_stream(profile, i);
	profile->counted = rc;
	return NULL;
}

void export_profile_begin(struct export_profile *profile, struct trace *trace)
{
	*profile = (struct export_profile){.trace = trace};
	profile->streams = calloc(trace->stream_count, sizeof(*profile->streams));
	profile->counting = !pthread_create(&profile->counter, NULL, count_all, profile);
	if (!profile->counting)
		count_all(profile); /* no thread to be had: first this, then the analysis */
}

static int end_counting(struct export_profile *profile)
{
	if (profile->counting)
		pthread_join(profile->counter, NULL);
	profile->counting = false;
	return profile->counted;
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
	int rc = end_counting(profile);
	profile->analysis = analysis;
	for (size_t i = 0; !rc && i < analysis->count; i++) {
		note_known(profile, &analysis->streams[i]);
		rc = take_moment(profile, i, MOMENT_MAPPED_PEAK);
		if (!rc)
			rc = take_moment(profile, i, MOMENT_END);
	}
	if (rc == -ENOMEM)
		snprintf(profile->error, sizeof(profile->error),
			"%.300s: not enough memory to export it", profile->trace->path);
	return rc;
}

/* All zero is an empty one. */
void export_profile_free(struct export_profile *profile)
{
	end_counting(profile);
	for (size_t i = 0; profile->streams && i < profile->trace->stream_count; i++) {
		id_map_free(&profile->streams[i].callers);
		free(profile->streams[i].row);
	}
	free(profile->streams);
	*profile = (struct export_profile){0};
}

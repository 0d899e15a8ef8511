/* SPDX-License-Identifier: MIT
 *
 * The time line in the trace-event format that Perfetto and Chrome's chrome://tracing open:
 * counters of the ledger, each system call of the allocator with its cause, and the phases. One
 * event a line.
 */
#include "export.h"
#include "id_map.h"
#include "mapping.h"
#include "names.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct events {
	const struct analysis *analysis;
	const struct analysis_stream *entry;
	struct writer *out;
	struct id_map threads; /* of the stream, that have a name by now */
	bool any;
	bool failed; /* no memory */
};

/* ---- one event ------------------------------------------------------------------------------- */

static int append(const char *bytes, size_t length, void *out)
{
	writer_write(out, bytes, length);
	return 0;
}

/* A label and a JSON string. */
static void put_string(struct events *events, const char *label, const char *bytes, size_t length)
{
	json_t *text = json_text(bytes, length);
	writer_text(events->out, label);
	if (!text || json_dump_callback(text, append, events->out, JSON_ENCODE_ANY))
		events->failed = true;
	json_decref(text);
}

/* Microseconds, as the format has them, with all their digits. */
static void put_microseconds(struct events *events, const char *label, uint64_t ns)
{
	writer_text(events->out, label);
	writer_u64(events->out, ns / 1000);
	writer_char(events->out, '.');
	writer_fraction(events->out, ns % 1000, 3);
}

static void begin(struct events *events, const char *phase, const char *name, size_t length)
{
	writer_text(events->out, events->any ? ",\n{\"ph\":\"" : "\n{\"ph\":\"");
	writer_text(events->out, phase);
	writer_text(events->out, "\",\"pid\":");
	writer_u64(events->out, events->entry->stream->info.header.pid);
	put_string(events, ",\"name\":", name, length);
	events->any = true;
}

static void put_time(struct events *events, uint64_t tick)
{
	put_microseconds(events, ",\"ts\":", clock_ns(&events->entry->stream->clock, tick));
}

static void put_thread(struct events *events, uint32_t tid)
{
	writer_text(events->out, ",\"tid\":");
	writer_u64(events->out, tid);
}

/* What a viewer writes beside a track. */
static void end_name(struct events *events, const char *name)
{
	put_string(events, ",\"args\":{\"name\":", name, strlen(name));
	writer_text(events->out, "}}");
}

/* ---- counters -------------------------------------------------------------------------------- */

static void begin_counter(struct events *events, const char *name, uint64_t tick)
{
	begin(events, "C", name, strlen(name));
	writer_text(events->out, ",\"cat\":\"memory\"");
	put_time(events, tick);
	writer_text(events->out, ",\"args\":{");
}

static void put_value(struct events *events, const char *label, int64_t value)
{
	writer_text(events->out, label);
	writer_i64(events->out, value > 0 ? value : 0);
}

static void end_counter(struct events *events)
{
	writer_text(events->out, "}}");
}

/* The parts of what is mapped, so that a viewer that stacks them shows the sum. */
static void put_row(struct events *events, const struct timeline_row *row)
{
	const struct ledger_result *result = &events->entry->result;
	const struct memory *memory = &row->memory;
	if (result->calls_unknown)
		return;
	begin_counter(events, "heap bytes", row->tick);
	put_value(events, "\"requested\":", memory->requested);
	if (!result->observed) {
		put_value(events, ",\"slack\":", memory->chunk - memory->requested);
		put_value(events, ",\"free\":", memory_free(memory));
		put_value(events, ",\"metadata\":", memory->metadata_bytes);
	}
	end_counter(events);
	begin_counter(events, "live blocks", row->tick);
	put_value(events, "\"blocks\":", memory->live_blocks);
	end_counter(events);
	if (result->observed)
		return;
	begin_counter(events, "returned bytes", row->tick);
	put_value(events, "\"returned\":", (int64_t)row->sums.returned_bytes);
	end_counter(events);
}

static void put_sample(struct events *events, const struct hl_sample_record *sample)
{
	uint64_t rss = sample->rss_anon + sample->rss_file + sample->rss_shmem;
	begin_counter(events, "resident bytes", sample->tick);
	put_value(events, "\"resident\":",
		(int64_t)(rss - (sample->recorder < rss ? sample->recorder : rss)));
	end_counter(events);
}

static void put_counters(struct events *events)
{
	const struct timeline *timeline = &events->entry->timeline;
	for (uint32_t i = 0; i < timeline->rows; i++)
		put_row(events, &timeline->row[i]);
	for (size_t i = 0; i < timeline->sample_count; i++)
		put_sample(events, &timeline->samples[i].sample);
}

/* ---- slices ---------------------------------------------------------------------------------- */

static const char *reason_of(const struct hl_syscall_record *record)
{
	const char *name = name_reason(record->cause >> 8 & 0xff);
	return name ? name : "unknown";
}

static void put_args(struct events *events, unsigned kind, const struct hl_syscall_record *record)
{
	unsigned call = record->cause & 0xff;
	const char *text = name_reason_text(record->cause >> 8 & 0xff);
	uint64_t from = hl_addr_of(record->kind_addr);
	put_string(events, ",\"args\":{\"reason\":", reason_of(record), strlen(reason_of(record)));
	if (text)
		put_string(events, ",\"reason_text\":", text, strlen(text));
	if (call && name_kind(call))
		put_string(events, ",\"call\":", name_kind(call), strlen(name_kind(call)));
	if (call) {
		writer_text(events->out, ",\"call_bytes\":");
		writer_u64(events->out, record->cause_size);
	}
	if (record->result < 0) {
		writer_text(events->out, ",\"errno\":");
		writer_i64(events->out, -record->result);
	} else if (kind == HL_KIND_brk && !from) {
		writer_text(events->out, ",\"moved_bytes\":0"); /* it asked where the break is */
	} else if (kind == HL_KIND_brk) {
		writer_text(events->out, ",\"moved_bytes\":");
		writer_i64(events->out, record->result - (int64_t)from);
	} else {
		writer_text(events->out, ",\"length_bytes\":");
		writer_u64(events->out, record->length);
	}
	writer_text(events->out, "}}");
}

/* The first time that there is something on its track. */
static void name_thread(struct events *events, uint32_t tid)
{
	uint32_t known = events->threads.count, number;
	char name[64] = "system calls, main thread";
	if (id_map_number(&events->threads, tid, UINT32_MAX, &number)) {
		events->failed = true;
		return;
	}
	if (number <= known)
		return;
	if (tid != events->entry->stream->info.header.pid)
		snprintf(name, sizeof(name), "system calls, thread %u", tid);
	begin(events, "M", "thread_name", strlen("thread_name"));
	put_thread(events, tid);
	end_name(events, name);
}

/* Viewers colour slices by their names, and sum them up so: hence the cause is in it. */
static void put_syscall(struct events *events, const struct stream_event *event, unsigned kind)
{
	const struct hl_syscall_record *record = &event->record.syscall;
	uint32_t tid = event->tid & LEDGER_TID_MASK;
	char name[64];
	if (!mapping_counts(record))
		return;
	name_thread(events, tid);
	int length = snprintf(name, sizeof(name), "%s %s", name_kind(kind), reason_of(record));
	begin(events, "X", name, (size_t)length);
	writer_text(events->out, ",\"cat\":\"syscall\"");
	put_thread(events, tid);
	put_time(events, record->tick);
	put_microseconds(
		events, ",\"dur\":", clock_span(&events->entry->stream->clock, record->duration));
	put_args(events, kind, record);
}

/* What is before the recording's begin only says what the heap was then. */
static bool is_before(const struct events *events, const struct stream_event *event)
{
	return event->record.word[0] < events->entry->stream->begin_tick;
}

static int put_syscalls(struct events *events)
{
	struct trace *trace = events->analysis->trace;
	struct stream_reader *reader;
	const struct stream_event *event;
	int fd, rc = trace_stream_open(trace, events->entry->stream, &reader, &fd);
	if (!rc) {
		while (!events->out->error && (rc = stream_reader_next(reader, &event)) > 0) {
			unsigned kind = hl_kind_of(event->record.word[1]);
			if (name_is_syscall(kind) && !is_before(events, event))
				put_syscall(events, event, kind);
		}
	}
	return trace_stream_close(trace, reader, fd, rc);
}

/* ---- phases ---------------------------------------------------------------------------------- */

/* On a track of their own: they are the process's, not a thread's. */
static void put_phase_end(
	struct events *events, const struct phases_row *row, const char *phase, uint64_t tick)
{
	begin(events, phase, row->name, strnlen(row->name, sizeof(row->name)));
	put_string(events, ",\"cat\":\"phase\",\"id\":", events->entry->stream->name,
		strlen(events->entry->stream->name));
	put_thread(events, events->entry->stream->info.header.pid);
	put_time(events, tick);
	writer_char(events->out, '}');
}

static void put_phases(struct events *events)
{
	const struct phases *phases = &events->entry->result.phases;
	for (size_t i = 0; i < phases->count; i++) {
		if (!phases->row[i].named)
			continue;
		put_phase_end(events, &phases->row[i], "b", phases->row[i].first_tick);
		put_phase_end(events, &phases->row[i], "e", phases->row[i].end_tick);
	}
}

/* ---- all ------------------------------------------------------------------------------------- */

/* A process number can be that of several streams, by exec: the last one gives it its name, and
 * each is marked where it begins. */
static void put_process(struct events *events, size_t index)
{
	const struct trace_stream *stream = events->entry->stream;
	const char *program = trace_program(stream);
	begin(events, "M", "process_name", strlen("process_name"));
	end_name(events, program);
	begin(events, "M", "process_sort_index", strlen("process_sort_index"));
	writer_text(events->out, ",\"args\":{\"sort_index\":");
	writer_u64(events->out, index);
	writer_text(events->out, "}}");
	begin(events, "i", program, strlen(program));
	writer_text(events->out, ",\"cat\":\"process\",\"s\":\"p\"");
	put_thread(events, stream->info.header.pid);
	put_time(events, stream->begin_tick ? stream->begin_tick : stream->info.header.start_tick);
	put_string(events, ",\"args\":{\"stream\":", stream->name, strlen(stream->name));
	writer_text(events->out, "}}");
}

static int put_stream(struct events *events, size_t index)
{
	put_process(events, index);
	put_counters(events);
	put_phases(events);
	return events->entry->result.observed ? 0 : put_syscalls(events);
}

int export_events(const struct analysis *analysis, struct writer *out)
{
	struct events events = {.analysis = analysis, .out = out};
	int rc = 0;
	writer_text(out, "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"version\":"
			 "\"heapledger " HEAPLEDGER_VERSION "\"},\"traceEvents\":[");
	for (size_t i = 0; !rc && i < analysis->count; i++) {
		events.entry = &analysis->streams[i];
		rc = put_stream(&events, i);
		id_map_free(&events.threads);
	}
	writer_text(out, "\n]}\n");
	if (rc || !events.failed)
		return rc;
	snprintf(analysis->trace->error, sizeof(analysis->trace->error), "not enough memory");
	return -ENOMEM;
}

/* SPDX-License-Identifier: MIT
 *
 * A trace directory: session.json and its streams. Called by the commands; uses stream_reader.c.
 * Functions return 0 or -errno and leave a sentence in trace_error; nothing is printed here.
 */
#ifndef HEAPLEDGER_TRACE_DIRECTORY_H
#define HEAPLEDGER_TRACE_DIRECTORY_H

#include "clock.h"
#include "stacks.h"
#include "stream_reader.h"

#include <jansson.h>
#include <stdbool.h>

struct trace_stream {
	char *name; /* of the file, without the suffix: "1234.1" */
	char *path;
	struct stream_info info; /* as when the trace was opened; command is a copy */
	char *command;
	uint64_t begin_tick; /* the recording began then, later than the process; 0 = with it */
	bool elsewhere;      /* its calls of malloc went to one of its own */
	struct clock clock;
};

struct trace {
	char *path;
	json_t *session;              /* NULL when it is missing */
	struct trace_stream *streams; /* of the recorded processes, sorted by serial */
	size_t stream_count;
	struct trace_stream *kernel; /* written by the kernel probe, sorted by serial */
	size_t kernel_count;
	struct stacks stacks; /* after trace_read_stacks */
	size_t missing_count; /* streams that session.json names and that are not there */
	const char *missing;  /* the file of the first of them */
	size_t elsewhere_count;               /* streams of `elsewhere` ... */
	const struct trace_stream *elsewhere; /* ... and the first of them */
	size_t empty_count;   /* files of streams that were created, and nothing was written */
	uint64_t origin_ns;   /* CLOCK_MONOTONIC ns of the start: the first stream's start */
	char error[640];
};

/* Streams that nothing can be read of. */
static inline size_t trace_absent(const struct trace *trace)
{
	return trace->missing_count + trace->empty_count;
}

/* The name of its program, without folders; "unknown" if it has none. */
const char *trace_program(const struct trace_stream *stream);

/* By the headers of all streams. */
static inline uint64_t trace_records(const struct trace *trace)
{
	uint64_t records = 0;
	for (size_t i = 0; i < trace->stream_count; i++)
		records += trace->streams[i].info.records;
	return records;
}

/* Opens the directory, checks every stream's headers and reads its clock marks. On failure
 * trace->error says why; trace_close is needed in any case. */
int trace_open(struct trace *trace, const char *path);
void trace_close(struct trace *trace);

/* A reader of one stream, from *fd; trace_stream_close is needed in any case. */
int trace_stream_open(struct trace *trace, const struct trace_stream *stream,
	struct stream_reader **reader, int *fd);

/* Closes both. `rc` is what opening, reading or the work on a record returned last: below 0 it is
 * returned, and trace->error says why, by the reader's words or as lack of memory, unless it does
 * already; otherwise 0 is. */
int trace_stream_close(struct trace *trace, struct stream_reader *reader, int fd, int rc);

/* Gives each record of a stream to `take`, until that returns other than 0; below 0 is -errno, as
 * above. */
typedef int trace_take(void *context, const struct stream_event *event);
int trace_stream_read(
	struct trace *trace, const struct trace_stream *stream, trace_take *take, void *context);

/* Reads stacks.hls, if there is one; on failure trace->error says why. */
int trace_read_stacks(struct trace *trace);

/* Whether its ticks are time. Those of a log without times are numbers of events. */
bool trace_has_times(const struct trace_stream *stream);

/* What session.json says of the log that was imported; NULL if none was, or it does not. */
const json_t *trace_imported(const struct trace *trace);

/* Events that `record --ring` recorded and left out since; 0 = none. */
uint64_t trace_overwritten(const struct trace *trace);

/* Why the trace is not whole, for people: NULL when it is. `index` counts the notes from 0; the
 * buffer takes 512 bytes at least. */
const char *trace_note(const struct trace *trace, unsigned index, char *buffer, size_t length);

/* A sentence about those, if there are any, into `buffer`; false: there are none. */
bool trace_tell_elsewhere(const struct trace *trace, char *buffer, size_t length);

#endif

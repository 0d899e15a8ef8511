/* SPDX-License-Identifier: MIT
 *
 * The part of a recording that is analysed: what the options --from, --to and --phase of analyze
 * ask for (window.c), and what that is in one stream (analysis.c).
 */
#ifndef HEAPLEDGER_WINDOW_H
#define HEAPLEDGER_WINDOW_H

#include "trace.h"

/* Options as they were given; NULL = not. */
struct window_request {
	const char *from;
	const char *to;
	const char *phase;
};

struct window {
	bool set;         /* else all of the recording */
	uint64_t from_ns; /* since its start */
	uint64_t to_ns;
	bool to_end; /* of every stream */
	/* A phase, by the marks of the stream that was found to have it: after so many of its
	 * records and before the one that follows so many. */
	const char *phase; /* NULL = by time */
	size_t stream;
	uint64_t from_record;
	uint64_t to_record;
	uint64_t phases; /* of this name in that stream; it is the first */
};

/* What is wrong with the request is said. An enum tool_exit. */
int window_find(struct window *window, struct trace *trace, const struct window_request *request,
	const char *command);

/* In one stream: by ticks, or where it has the phase by records. */
struct window_span {
	uint64_t from_tick;
	uint64_t to_tick; /* inclusive */
	bool by_record;
	uint64_t from_record;
	uint64_t to_record;
};

/* All of the stream, if no window is set. */
struct window_span window_span(
	const struct window *window, const struct trace_stream *stream, size_t index);

/* An event that `applied` others were before. */
static inline bool window_before(const struct window_span *span, uint64_t tick, uint64_t applied)
{
	return span->by_record ? applied < span->from_record : tick < span->from_tick;
}

static inline bool window_after(const struct window_span *span, uint64_t tick, uint64_t applied)
{
	return span->by_record ? applied >= span->to_record : tick > span->to_tick;
}

#endif

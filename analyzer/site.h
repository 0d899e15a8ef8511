/* SPDX-License-Identifier: MIT
 *
 * Which place in the program's code allocated: of a call stack, the first function that is not
 * itself one that allocates for others; an address, where its module names none. Called by the
 * commands; uses symbols.c.
 */
#ifndef HEAPLEDGER_SITE_H
#define HEAPLEDGER_SITE_H

#include "analysis.h"
#include "symbols.h"

struct site_finder {
	const struct trace *trace;
	struct symbols *symbols; /* NULL: addresses only */
};

/* For analysis.describe; the context is a site_finder. */
void site_find(void *finder, const struct trace_stream *stream, uint64_t tick, uint64_t caller,
	struct analysis_site *site);

/* For analysis.frames, of the same context. */
void site_frames(void *finder, const struct trace_stream *stream, uint64_t tick, uint64_t caller,
	analysis_each_frame *each, void *to);

/* Whether a function by this name allocates for whoever called it: malloc and its wrappers, operator
 * new, containers of the C++ and Rust libraries, strdup and the like. */
bool site_is_wrapper(const char *function);

#endif

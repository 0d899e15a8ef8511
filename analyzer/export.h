/* SPDX-License-Identifier: MIT
 *
 * What a recording says of each call stack, for the formats of other tools. Made by
 * export_profile.c from an analysis and one more pass over the streams, in a thread beside the
 * analysis; written by export_collapsed.c and export_pprof.c. export_events.c writes the time line
 * instead. `heapledger export` is export.c; `analyze --profile` writes the same for the report.
 */
#ifndef HEAPLEDGER_EXPORT_H
#define HEAPLEDGER_EXPORT_H

#include "analysis.h"
#include "id_map.h"
#include "symbols.h"
#include "writer.h"

#include <pthread.h>

enum export_value {
	EXPORT_ALLOCATIONS,
	EXPORT_ALLOCATED,
	EXPORT_PEAK_BLOCKS,
	EXPORT_PEAK,
	EXPORT_END_BLOCKS,
	EXPORT_END,
	EXPORT_PINNED,
	EXPORT_SYSCALLS,
	EXPORT_SYSCALL_TIME,
	EXPORT_VALUES
};

/* What was done from one place in the code of one process. */
struct export_row {
	size_t stream;
	uint64_t caller; /* as a record has it: an address or a stack; 0 = not known */
	uint64_t tick;   /* when it was seen, to find its module */
	int64_t value[EXPORT_VALUES];
};

/* Of one stream. */
struct export_rows {
	struct export_row *row;
	size_t count;
	size_t capacity;
	struct id_map callers; /* caller -> its row, from 1 */
};

struct export_profile {
	struct trace *trace;
	const struct analysis *analysis; /* NULL until it is made */
	struct symbols *symbols; /* of whoever made this; NULL: addresses only */
	struct export_rows *streams; /* as trace->streams */
	bool known[EXPORT_VALUES];
	pthread_t counter;
	bool counting; /* the thread is there */
	int counted;   /* how it ended: 0 or -errno */
	char error[640];
};

/* The option's word, and what pprof calls it. */
const char *export_name(enum export_value value);
const char *export_pprof_type(enum export_value value);
const char *export_pprof_unit(enum export_value value);

/* Counts what was allocated and the system calls, while somebody else analyses the trace: which must
 * be there until export_profile_free. */
void export_profile_begin(struct export_profile *profile, struct trace *trace);

/* And what was held. The analysis has peaks and ANALYSIS_SITES, and no window. 0 or -errno, then
 * profile->error says why. */
int export_profile_make(struct export_profile *profile, const struct analysis *analysis);
void export_profile_free(struct export_profile *profile);

/* The frames of a row, the innermost first. */
struct export_frames {
	const uint64_t *frame;
	unsigned count;
	bool cut; /* there were more */
};
void export_frames(const struct export_profile *profile, const struct export_row *row,
	struct export_frames *frames);

/* 0 or -errno. */
int export_collapsed(
	const struct export_profile *profile, enum export_value value, struct writer *out);
int export_pprof(const struct export_profile *profile, struct writer *out);

/* The analysis has time lines. As export_profile_make. */
int export_events(const struct analysis *analysis, struct writer *out);

#endif

/* SPDX-License-Identifier: MIT
 *
 * What the files of an analysis share, and nobody else needs: a process while its records go by
 * (analysis.c), its forks (analysis_forks.c), the window (analysis_window.c), and the sums
 * (analysis_total.c).
 */
#ifndef HEAPLEDGER_ANALYSIS_PARTS_H
#define HEAPLEDGER_ANALYSIS_PARTS_H

#include "analysis.h"
#include "residence.h"

#define COPIES_LIMIT 64 /* children of a parent under way at once: only a false trace has more */

/* A stream and its ledger. */
struct process {
	size_t index;
	unsigned depth;
	uint32_t forked_by; /* the thread, as in the parent's records */
	struct window_span span;
	bool entered; /* it is in the window, or was */
	bool left;
	struct ledger ledger;
	struct residence residence;
	struct map *map; /* NULL: none is wanted, or it cannot be known */
};

/* Children that were marked and whose copies may not have been made yet. */
struct copies {
	struct process *child[COPIES_LIMIT];
	size_t count;
};

static inline uint64_t first_tick(const struct trace_stream *stream)
{
	return stream->begin_tick ? stream->begin_tick : stream->info.first_tick;
}

static inline uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Says so in trace->error. -ENOMEM. */
int analysis_out_of_memory(struct analysis *analysis, const char *path);

/* NULL without memory. */
struct process *process_new(size_t index, unsigned depth);

/* Begins; `parent`: NULL, or whose heap it has. 0 or -errno, as all below. */
int process_begin(struct analysis *analysis, struct process *process, const struct process *parent);

/* Runs a process that has begun to its end, and frees it. */
int process_run(struct analysis *analysis, struct process *process);

/* What the kernel has recorded of a process until a tick: where a page fault lies is known when the
 * calls before it are. */
int process_observe_until(struct analysis *analysis, struct process *process, uint64_t tick);

/* The parent has come to a fork mark; children begin whose copy it is. */
int process_fork(struct analysis *analysis, struct copies *copies, struct process *parent,
	const struct stream_event *event);

/* The parent's next event, or NULL at its end: copies that were made by then are run. */
int process_watch_copies(
	struct analysis *analysis, struct copies *copies, const struct stream_event *event);

/* What the next event makes of the window: 0, 1 = it is behind it, or -errno. */
int process_watch_window(
	struct analysis *analysis, struct process *process, const struct stream_event *event);

/* Of a window that begins with the last event, or has nothing of the stream. */
int process_enter_last(struct analysis *analysis, struct process *process);

/* Else it is of no interest, and neither is what it forked. */
bool analysis_begins_before_end(const struct analysis *analysis, size_t index);

/* Frees streams that have nothing in the window. */
void analysis_leave_out(struct analysis *analysis);
void analysis_free_stream(struct analysis_stream *entry);

/* Of the two the one whose heap is shown: by what it had mapped, if that is known. */
bool analysis_is_larger(const struct ledger_result *a, const struct ledger_result *b);

/* Makes analysis->total and what goes with it. */
int analysis_add_up(struct analysis *analysis);

#endif

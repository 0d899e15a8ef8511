/* SPDX-License-Identifier: MIT
 *
 * A forked child begins with a copy of its parent's heap. It is marked in the parent's stream, told
 * what other threads of the parent log from there until the copy was surely made (inherit.h), and
 * then it is run.
 */
#include "analysis_parts.h"

#include <stdlib.h>
#include <string.h>

#define DEPTH_LIMIT 200 /* of forks within forks; deeper ones begin empty, as orphans */

static int run_copy(struct analysis *analysis, struct copies *copies, size_t i)
{
	struct process *child = copies->child[i];
	copies->count--;
	memmove(&copies->child[i], &copies->child[i + 1],
		(copies->count - i) * sizeof(*copies->child));
	inherit_close(&child->ledger);
	return process_run(analysis, child);
}

/* The thread that forks goes on, and the child begins, when the copy is made. */
static bool is_made(const struct analysis *analysis, const struct process *child,
	const struct stream_event *event)
{
	const struct stream_info *info = &analysis->streams[child->index].stream->info;
	return ledger_same_thread(event->tid, child->forked_by) ||
	       event->record.word[0] >= info->first_tick;
}

int process_watch_copies(
	struct analysis *analysis, struct copies *copies, const struct stream_event *event)
{
	int rc = 0;
	for (size_t i = 0; !rc && i < copies->count;) {
		struct process *child = copies->child[i];
		if (!event || is_made(analysis, child, event)) {
			rc = run_copy(analysis, copies, i);
		} else {
			i++;
			if (inherit_note(&child->ledger, event))
				rc = analysis_out_of_memory(analysis, analysis->trace->path);
		}
	}
	return rc;
}

struct process *process_new(size_t index, unsigned depth)
{
	struct process *process = calloc(1, sizeof(*process));
	if (process) {
		process->index = index;
		process->depth = depth;
	}
	return process;
}

static int add_copy(struct analysis *analysis, struct copies *copies, size_t index,
	const struct process *parent, uint32_t tid)
{
	int rc = copies->count == COPIES_LIMIT ? run_copy(analysis, copies, 0) : 0;
	if (rc)
		return rc;
	struct process *child = process_new(index, parent->depth + 1);
	if (!child)
		return analysis_out_of_memory(analysis, analysis->streams[index].stream->path);
	child->forked_by = tid;
	copies->child[copies->count++] = child;
	return process_begin(analysis, child, parent);
}

int process_fork(struct analysis *analysis, struct copies *copies, struct process *parent,
	const struct stream_event *event)
{
	const struct trace_stream *stream = analysis->streams[parent->index].stream;
	uint64_t fork_id = event->record.call.size;
	if (!fork_id || parent->depth >= DEPTH_LIMIT)
		return 0;
	int rc = 0;
	/* A child registers after its parent: its serial is higher, and the list is sorted. */
	for (size_t i = parent->index + 1; !rc && i < analysis->count; i++) {
		const struct hl_trace_header *header = &analysis->streams[i].stream->info.header;
		if (analysis->streams[i].done || header->fork_id != fork_id ||
			header->parent_serial != stream->info.header.serial)
			continue;
		rc = add_copy(analysis, copies, i, parent, event->tid);
	}
	return rc;
}

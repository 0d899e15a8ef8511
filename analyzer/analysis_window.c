/* SPDX-License-Identifier: MIT
 *
 * A window of the recording: where a process enters and leaves it, and which streams have
 * nothing in it.
 */
#include "analysis_parts.h"

/* Whether anything of a stream is in the window. */
static bool is_there(const struct window *window, struct trace_stream *stream)
{
	if (!window->set)
		return true;
	if (!stream->info.records)
		return false;
	return clock_ns(&stream->clock, first_tick(stream)) <= window->to_ns &&
	       clock_ns(&stream->clock, stream->info.last_tick) >= window->from_ns;
}

/* The window begins before the next event. */
static int enter(struct analysis *analysis, struct process *process)
{
	process->entered = true;
	if (process_observe_until(analysis, process, process->span.from_tick) ||
		ledger_window(&process->ledger, process->span.from_tick))
		return analysis_out_of_memory(
			analysis, analysis->streams[process->index].stream->path);
	return 0;
}

int process_watch_window(
	struct analysis *analysis, struct process *process, const struct stream_event *event)
{
	const struct window_span *span = &process->span;
	uint64_t tick = event->record.word[0], applied = process->ledger.applied;
	int rc = 0;
	if (!process->entered && !window_before(span, tick, applied))
		rc = enter(analysis, process);
	process->left = window_after(span, tick, applied);
	return rc ? rc : process->left;
}

int process_enter_last(struct analysis *analysis, struct process *process)
{
	if (process->entered ||
		!is_there(&analysis->window, analysis->streams[process->index].stream))
		return 0;
	return enter(analysis, process);
}

bool analysis_begins_before_end(const struct analysis *analysis, size_t index)
{
	struct trace_stream *stream = analysis->streams[index].stream;
	return !analysis->window.set ||
	       clock_ns(&stream->clock, first_tick(stream)) <= analysis->window.to_ns;
}

void analysis_free_stream(struct analysis_stream *entry)
{
	ledger_result_free(&entry->result);
	phases_free(&entry->result.phases);
	groups_free(entry);
	moments_free(&entry->moments);
	threads_free(&entry->threads);
	timeline_free(&entry->timeline);
	instants_free(&entry->instants);
	snapshots_free(&entry->snapshots);
}

void analysis_leave_out(struct analysis *analysis)
{
	size_t kept = 0;
	for (size_t i = 0; i < analysis->count; i++) {
		struct analysis_stream *entry = &analysis->streams[i];
		if (is_there(&analysis->window, entry->stream))
			analysis->streams[kept++] = *entry;
		else
			analysis_free_stream(entry);
	}
	analysis->count = kept;
}

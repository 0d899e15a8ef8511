/* SPDX-License-Identifier: MIT
 *
 * Holds what the log says of the beginning and end of processes against the forks and exits that
 * the kernel saw. Called by verify.c.
 */
#include "verify.h"

#include <errno.h>
#include <stdlib.h>

/* Whose beginning or end it is. */
static uint32_t subject(const struct verify_call *event)
{
	return event->kind == HL_KIND_process_fork ? (uint32_t)event->argument : event->pid;
}

static int by_subject(const void *left, const void *right)
{
	const struct verify_call *a = *(struct verify_call *const *)left;
	const struct verify_call *b = *(struct verify_call *const *)right;

	if (a->kind != b->kind)
		return a->kind < b->kind ? -1 : 1;
	if (subject(a) != subject(b))
		return subject(a) < subject(b) ? -1 : 1;
	return 0;
}

struct events {
	struct verify_call **event;
	size_t count;
};

/* The first event of this kind about this process, or where it would be. Process numbers come
 * again. */
static size_t find(const struct events *events, unsigned kind, uint32_t pid)
{
	struct verify_call wanted = {.kind = (uint8_t)kind, .pid = pid, .argument = pid};
	const struct verify_call *key = &wanted;
	size_t low = 0, high = events->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (by_subject(&events->event[middle], &key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool is_about(const struct events *events, size_t place, unsigned kind, uint32_t pid)
{
	return place < events->count && events->event[place]->kind == kind &&
	       subject(events->event[place]) == pid;
}

static bool ended_so(uint64_t wait_status, const struct hl_trace_header *header)
{
	if (wait_status == UINT64_MAX) /* unknown */
		return true;
	if (header->end == HL_TRACE_END_SIGNAL)
		return (wait_status & 0x7f) == (uint64_t)header->end_status;
	return (wait_status & 0x7f) == 0 &&
	       (wait_status >> 8 & 0xff) == (uint64_t)header->end_status;
}

static bool has_end(const struct events *events, const struct hl_trace_header *header)
{
	bool known = (header->end == HL_TRACE_END_EXIT || header->end == HL_TRACE_END_SIGNAL) &&
		     header->end_status >= 0;
	size_t at = find(events, HL_KIND_process_exit, header->pid);

	if (!known)
		return true;
	for (; is_about(events, at, HL_KIND_process_exit, header->pid); at++)
		if (ended_so(events->event[at]->argument, header))
			return true;
	return false;
}

static bool has_beginning(const struct events *events, const struct hl_trace_header *header)
{
	size_t at = find(events, HL_KIND_process_fork, header->pid);

	return !header->parent_serial || is_about(events, at, HL_KIND_process_fork, header->pid);
}

int verify_check_processes(struct verify *verify)
{
	struct events events = {.count = verify->others.count};

	events.event = malloc((events.count + 1) * sizeof(*events.event));
	if (!events.event)
		return -ENOMEM;
	for (size_t i = 0; i < events.count; i++)
		events.event[i] = &verify->others.call[i];
	qsort(events.event, events.count, sizeof(*events.event), by_subject);
	for (size_t i = 0; i < verify->trace->stream_count; i++) {
		const struct hl_trace_header *header = &verify->trace->streams[i].info.header;

		verify->wrong_ends += !has_end(&events, header);
		verify->wrong_forks += !has_beginning(&events, header);
	}
	free(events.event);
	return 0;
}

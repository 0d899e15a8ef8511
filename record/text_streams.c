/* SPDX-License-Identifier: MIT
 *
 * See text_streams.h.
 *
 * Readers merge the threads of a stream by tick. The lines of a log are in order already, so every
 * event gets a tick of its own, later than all before it: its number, or its time where the log has
 * one, pushed on by a nanosecond where that would not be later.
 */
#include "text_streams.h"

#include "stream.h"

#include "heapledger/record.h"
#include "heapledger/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TID_LIMIT (UINT64_C(1) << HL_TID_DEPTH_SHIFT)
/* What all streams gather before it is written: each thread with a block of its own takes 12 KiB at
 * least, each event about 20 bytes. */
#define TOUCHED_MOST 1024u
#define GATHERED_MOST (UINT32_C(1) << 20)

static int open_stream(struct text_streams *streams, struct process *process, uint64_t tick)
{
	process->header = (struct hl_trace_header){
		.source = HL_TRACE_TARGET,
		.mode = HL_MODE_IMPORTED,
		.clock = streams->timed ? HL_CLOCK_MONOTONIC : HL_CLOCK_EVENTS,
		.pid = (uint32_t)process->pid,
		.serial = process->serial,
		.start_tick = tick,
		.clock_tick = streams->timed ? tick : 0,
		.clock_ns = streams->timed ? tick : 0,
		.tick_hz = 1000000000,
		.end = HL_TRACE_END_UNKNOWN,
		.end_status = -1,
	};
	return stream_create(&process->stream, streams->dirfd, &process->header, NULL);
}

/* 0, -errno, or 1 and *expected is set. */
static int find_process(struct text_streams *streams, uint64_t pid, uint64_t tick,
	struct text_process **found, const char **expected)
{
	struct text_process *process;
	uint32_t number;
	int rc = id_map_number(&streams->pids, pid, TEXT_PROCESSES_MOST, &number);

	if (rc == -ENOSPC) {
		*expected = "at most 500 processes";
		return 1;
	}
	if (rc != 0)
		return rc;
	*found = streams->process[number - 1];
	if (*found != NULL)
		return 0;
	process = calloc(1, sizeof(*process));
	if (process == NULL)
		return -ENOMEM;
	process->process.pid = (pid_t)pid;
	process->process.serial = number;
	rc = open_stream(streams, &process->process, tick);
	if (rc != 0) {
		free(process);
		return rc;
	}
	*found = streams->process[number - 1] = process;
	return 0;
}

/* The thread is counted once in each epoch. */
static int touch(struct text_streams *streams, struct text_process *process, uint32_t number)
{
	if (number >= process->capacity) {
		uint32_t capacity = process->capacity != 0 ? process->capacity * 2 : 16;
		uint32_t *epoch = realloc(process->epoch, capacity * sizeof(*epoch));

		if (epoch == NULL)
			return -ENOMEM;
		memset(epoch + process->capacity, 0,
			(capacity - process->capacity) * sizeof(*epoch));
		process->epoch = epoch;
		process->capacity = capacity;
	}
	streams->touched += process->epoch[number] != streams->epoch;
	process->epoch[number] = streams->epoch;
	return 0;
}

/* As the records name it: its id, its number, or 0. 0, -errno, or 1 as above. */
static int find_thread(struct text_streams *streams, struct text_process *process,
	const struct text_event *event, uint32_t *tid, const char **expected)
{
	bool by_number = streams->format->numbers_threads;
	uint32_t before = process->threads.count, number = 0;
	int rc = 0;

	if (!by_number && event->tid >= TID_LIMIT) {
		*expected = "a thread id below 16,777,216";
		return 1;
	}
	if (event->tid != 0)
		rc = id_map_number(&process->threads, event->tid,
			before + TEXT_THREADS_MOST - streams->threads, &number);
	if (rc == -ENOSPC) {
		*expected = "at most 262,144 threads";
		return 1;
	}
	streams->threads += process->threads.count - before;
	*tid = by_number ? number : (uint32_t)event->tid;
	return rc != 0 ? rc : touch(streams, process, number);
}

static void put_call(struct hl_slot *slots, uint64_t tick, unsigned kind, uint64_t addr,
	const struct text_event *event)
{
	struct hl_call_record record = {
		.tick = tick,
		.kind_addr = hl_kind_addr(kind, addr),
		.size = kind == HL_KIND_realloc_begin || kind == HL_KIND_free ? 0 : event->size,
		.alignment = event->alignment,
	};

	memcpy(slots, &record, sizeof(record));
}

static unsigned fill_slots(struct hl_slot *slots, uint64_t tick, const struct text_event *event)
{
	struct hl_mark_record mark = {.tick = tick, .kind_addr = hl_kind_addr(event->kind, 0)};
	unsigned at = 0;

	if (event->kind == HL_KIND_thread_exit) {
		memcpy(slots, &mark, sizeof(mark));
		return 1;
	}
	if (event->kind == HL_KIND_realloc) {
		put_call(slots, tick, HL_KIND_realloc_begin, event->old, event);
		at = hl_kind_slots(HL_KIND_realloc_begin);
	}
	put_call(slots + at, tick, event->kind, event->addr, event);
	return at + hl_kind_slots(event->kind);
}

/* Allocations are stamped after they are made, frees before they are done. */
static uint64_t time_of(const struct text_event *event)
{
	return event->kind == HL_KIND_free ? event->start_ns : event->end_ns;
}

static uint64_t next_tick(const struct text_streams *streams, const struct text_event *event)
{
	uint64_t tick = streams->tick + (event->kind != HL_KIND_thread_exit);

	return streams->timed && event->timed && time_of(event) > tick ? time_of(event) : tick;
}

static void count(struct text_streams *streams, struct process *process, uint64_t tick,
	const struct text_event *event)
{
	bool call = event->kind != HL_KIND_thread_exit;

	streams->tick = process->end_tick = tick;
	streams->events += call;
	process->events += call;
	streams->untimed += call && streams->timed && !event->timed;
	streams->timed_in_vain += call && !streams->timed && event->timed;
	streams->numbered |= event->numbered;
}

static int write_out(struct text_streams *streams)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < streams->pids.count && i < TEXT_PROCESSES_MOST; i++)
		if (streams->process[i] != NULL)
			rc = stream_flush(streams->process[i]->process.stream);
	streams->touched = streams->gathered = 0;
	streams->epoch++;
	return rc;
}

int text_streams_put(
	struct text_streams *streams, const struct text_event *event, const char **expected)
{
	struct hl_slot slots[4];
	struct text_process *process;
	uint64_t tick;
	uint32_t tid;
	int rc;

	if (streams->epoch == 0) {
		streams->timed = event->timed;
		streams->epoch = 1;
	}
	tick = next_tick(streams, event);
	rc = find_process(streams, event->pid, tick, &process, expected);
	if (rc == 0)
		rc = find_thread(streams, process, event, &tid, expected);
	if (rc != 0)
		return rc;
	rc = stream_append(process->process.stream, tid, slots, fill_slots(slots, tick, event));
	count(streams, &process->process, tick, event);
	if (rc == 0 && (++streams->gathered >= GATHERED_MOST || streams->touched >= TOUCHED_MOST))
		rc = write_out(streams);
	return rc;
}

int text_streams_close(struct text_streams *streams, bool whole)
{
	int rc = 0;

	for (uint32_t i = 0; i < TEXT_PROCESSES_MOST; i++) {
		struct process *process =
			streams->process[i] != NULL ? &streams->process[i]->process : NULL;
		int close_rc;

		if (process == NULL || process->stream == NULL)
			continue;
		close_rc = stream_close(process->stream, whole, HL_TRACE_END_UNKNOWN, -1,
			process->end_tick, 0, NULL, 0);
		process->stream = NULL;
		process->complete = whole && close_rc == 0;
		rc = rc != 0 ? rc : close_rc;
	}
	return rc;
}

void text_streams_free(struct text_streams *streams)
{
	text_streams_close(streams, false);
	for (uint32_t i = 0; i < TEXT_PROCESSES_MOST; i++) {
		if (streams->process[i] == NULL)
			continue;
		id_map_free(&streams->process[i]->threads);
		free(streams->process[i]->epoch);
		free(streams->process[i]);
		streams->process[i] = NULL;
	}
	id_map_free(&streams->pids);
}

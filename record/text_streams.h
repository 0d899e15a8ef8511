/* SPDX-License-Identifier: MIT
 *
 * The streams of an imported log: events of text_formats.h become records, one stream a process, in
 * the order of the lines. Called by import_text.c, which knows files and messages.
 *
 * The memory it takes is bounded by the processes and threads that the log names, not by its
 * length.
 */
#ifndef HEAPLEDGER_RECORD_TEXT_STREAMS_H
#define HEAPLEDGER_RECORD_TEXT_STREAMS_H

#include "analyzer/id_map.h"
#include "processes.h"
#include "text_formats.h"

#include <stdbool.h>
#include <stdint.h>

#define TEXT_PROCESSES_MOST 500u /* each has a file open */
#define TEXT_THREADS_MOST (UINT32_C(1) << 18)

struct text_process {
	struct process process; /* as session.json needs it */
	struct id_map threads;
	uint32_t *epoch;   /* by the thread's number: when it last got a record */
	uint32_t capacity; /* of it */
};

struct text_streams {
	const struct text_format *format;
	int dirfd;
	bool timed; /* the clock is the log's; else it is the number of the event */
	struct id_map pids;
	struct text_process *process[TEXT_PROCESSES_MOST];
	uint64_t tick;          /* of the last event */
	uint64_t events;        /* calls so far */
	uint64_t threads;       /* of all processes */
	uint64_t untimed;       /* events without a time, in a log with times */
	uint64_t timed_in_vain; /* the reverse */
	bool numbered;          /* blocks have numbers, not addresses */
	uint32_t epoch;         /* of what is gathered in memory: how many threads, and events */
	uint32_t touched;
	uint32_t gathered;
};

/* The first event decides whether there are times. 0, -errno, or 1: the event cannot be taken, and
 * *expected says what was expected. */
int text_streams_put(
	struct text_streams *streams, const struct text_event *event, const char **expected);

/* Closes all; `whole`: no line was left out. 0 or -errno. */
int text_streams_close(struct text_streams *streams, bool whole);

void text_streams_free(struct text_streams *streams);

#endif

/* SPDX-License-Identifier: MIT
 *
 * When the resident pages of which process are looked at: each so often, when there are more of
 * them than ever before, at phase marks and at the end. A thread of its own looks, so that the
 * collector goes on; its work is a hundredth of the time at most. Called by the collector and
 * processes.c.
 */
#ifndef HEAPLEDGER_RECORD_RESIDENCY_H
#define HEAPLEDGER_RECORD_RESIDENCY_H

#include "heapledger/record.h"

#include <stdbool.h>
#include <stdint.h>

struct process;
struct processes;
struct residency;

/* Of one process; all zero at first. */
struct residency_state {
	unsigned wanted;        /* 1 << enum hl_resident */
	uint64_t due_ns;        /* the next by interval */
	uint64_t rollup_due_ns; /* the next that reads smaps_rollup */
	uint64_t anonymous;     /* resident bytes in the last sample ... */
	uint64_t highest;       /* ... and the most that a snapshot was taken at */
	bool end_tried;
	/* For session.json. */
	uint64_t snapshots;
	uint64_t cut;
	uint64_t failed;
	uint64_t work_ns;
	uint64_t phases_missed;
	bool peak_missed;
	bool end;
};

int residency_open(struct residency **out, struct processes *all, uint64_t interval_ns);
void residency_close(struct residency *residency);

/* After a sample of this process was taken. */
void residency_sampled(struct residency *residency, struct process *process);

/* A phase has begun in it from outside, or the recording. */
void residency_want(struct residency *residency, struct process *process, enum hl_resident reason);

/* In each round of the collector: writes what was looked at, and begins with the next. */
void residency_round(struct residency *residency, uint64_t now);

/* Before the stream of a process is closed: waits for a snapshot under way. */
void residency_leave(struct residency *residency, struct process *process);

#endif

/* SPDX-License-Identifier: MIT
 *
 * One snapshot of the pages that a process has in memory: the records resident_begin and
 * resident_run of a trace, with what its caches held then, between two samples, of which the first
 * now and then has what smaps_rollup says. Called by residency.c in a thread of its own; writes
 * nothing.
 */
#ifndef HEAPLEDGER_RECORD_RESIDENT_H
#define HEAPLEDGER_RECORD_RESIDENT_H

#include "caches.h"
#include "session.h"

#include "heapledger/record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct resident_request {
	const struct session *session;
	pid_t pid;
	int pidfd;
	uint32_t serial;
	uint64_t caches; /* hl_process.caches */
	enum hl_resident reason;
	bool rollup;
	size_t most_runs;
};

/* All zero before the first one; its memory is used again by the next. */
struct resident_snapshot {
	struct hl_mark_record *record; /* a resident_begin and its runs ... */
	size_t count;                  /* ... all of them */
	size_t capacity;
	bool cut;
	struct caches_held caches;      /* just before the pages; none: they could not be read */
	struct hl_sample_record before; /* what the kernel counts, just before ... */
	struct hl_sample_record after;  /* ... and after; tick 0: the process was gone */
	uint64_t rollup_ns;             /* what smaps_rollup took of this thread's time */
};

/* CPU time of the calling thread. */
uint64_t resident_worked_ns(void);

/* 0 or -errno: -ESRCH if the process, or the image that is recorded, is gone. */
int resident_take(struct resident_snapshot *snapshot, const struct resident_request *request);
void resident_free(struct resident_snapshot *snapshot);

#endif

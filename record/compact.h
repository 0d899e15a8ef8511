/* SPDX-License-Identifier: MIT
 *
 * Rewrites a stream so that of what came before some time only the heap as it was then is left, as
 * the records that made it. For recordings that began late (--start-after), at their begin mark,
 * and for those that keep the newest records only (--ring). Called by processes.c and ring.c; reads
 * with analyzer/stream_reader.c. Functions return 0 or -errno.
 */
#ifndef HEAPLEDGER_RECORD_COMPACT_H
#define HEAPLEDGER_RECORD_COMPACT_H

#include "stream.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COMPACT_TEMPORARY "compact.tmp"

/* A stream that was forked from this one: if it is not gone, it begins with the heap as of that
 * mark, copied before `start_tick`. */
struct compact_child {
	uint64_t fork_id;
	uint64_t start_tick;
	bool gone;
};

struct compact_request {
	int dirfd;
	const char *name;  /* of the file */
	uint64_t size;     /* so much of it is read, whole blocks; 0 = all */
	uint64_t cut;      /* what is later stays as it is; 0 = what comes after its begin mark */
	uint64_t previous; /* the cut before: what is not later is no event; 0 = none */
	uint64_t awaited; /* the children of later fork marks may still be to come */
	const struct compact_child *children;
	size_t child_count;
};

/* The new file, whose name is COMPACT_TEMPORARY still. */
struct compact_result {
	struct stream *stream;
	struct hl_trace_header header; /* as it was read */
	uint64_t heap_bytes;           /* of what is left of before */
	uint64_t events;               /* that are left out: calls and system calls ... */
	uint64_t syscalls;             /* ... and those of them */
};

/* Makes the new file; the old one stays as it is. May run in a thread of its own. */
int compact_write(const struct compact_request *request, struct compact_result *result);

/* Copies the blocks that the old file has got since, up to `size`, and how it was closed, if it was. */
int compact_copy(
	const struct compact_request *request, struct compact_result *result, uint64_t size);

/* One of these ends it: the new file takes the place of the old one and is closed as that was,
 * *bytes being its size; the same, but `stream` goes on in it; or it is removed. */
int compact_close(const struct compact_request *request, struct compact_result *result,
	uint64_t *bytes);
int compact_go_on(const struct compact_request *request, struct compact_result *result,
	struct stream *stream);
void compact_drop(const struct compact_request *request, struct compact_result *result);

#endif

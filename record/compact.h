/* SPDX-License-Identifier: MIT
 *
 * After a recording that began late (--start-after): rewrites a stream so that of what came before
 * its `begin` mark only the heap as it was then is left, as the records that made it. Called by
 * processes.c when all streams are closed; reads with analyzer/stream_reader.c.
 */
#ifndef HEAPLEDGER_RECORD_COMPACT_H
#define HEAPLEDGER_RECORD_COMPACT_H

#include <stddef.h>
#include <stdint.h>

/* A stream that stays and was forked from this one: it begins with the heap as of that mark. */
struct compact_child {
	uint64_t fork_id;
	uint64_t start_tick;
};

/* Rewrites the file `name`, which has a begin mark. 0 and its new size, or -errno: then the file is
 * as it was. */
int compact_stream(int dirfd, const char *name, const struct compact_child *children,
	size_t child_count, uint64_t *bytes);

#endif

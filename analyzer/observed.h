/* SPDX-License-Identifier: MIT
 *
 * The system calls of processes that kept their own allocator: the kernel's record of them, and
 * which of them were made while an allocator call of their thread was under way; of processes that
 * were attached to, all of them. Called by
 * analysis.c between a process's own events; the ledger takes what is the allocator's.
 */
#ifndef HEAPLEDGER_OBSERVED_H
#define HEAPLEDGER_OBSERVED_H

#include "ledger.h"
#include "trace.h"

struct observed;

/* 0 with *out NULL: there is nothing to read, and `why` says it, or no process is observed. -errno,
 * then trace->error says why. */
int observed_read(struct observed **out, struct trace *trace, char *why, size_t why_bytes);
void observed_free(struct observed *observed);

/* Whether all system calls of a stream are there; else why not. */
bool observed_knows(const struct observed *observed, size_t stream, char *why, size_t why_bytes);

/* Of a process that was attached to: that nobody else has changed its mappings. */
bool observed_maps(const struct observed *observed, size_t stream);

/* Before the event of a stream gives the ledger the calls that were over by then. 0 or -ENOMEM. */
int observed_before(struct observed *observed, size_t stream, struct ledger *ledger,
	const struct stream_event *event);

/* The same before a tick: UINT64_MAX at the end. */
int observed_until(struct observed *observed, size_t stream, struct ledger *ledger, uint64_t until);

#endif

/* SPDX-License-Identifier: MIT
 *
 * The pages that the last snapshot found in memory, and that the allocator has not given back
 * since: between two snapshots they are in memory still, but for what the kernel took by itself
 * (swap, MADV_FREE) and for what is not the heap's. What came since is not among them. Kept by
 * ledger.c where it is wanted, read by layout.c.
 */
#ifndef HEAPLEDGER_STILL_H
#define HEAPLEDGER_STILL_H

#include "ranges.h"

#include "heapledger/record.h"

struct ledger_snapshot;

struct still {
	bool wanted;
	bool known; /* there was a snapshot, and it has not fallen into too many pieces since */
	struct ranges pages;
	uint64_t tick;     /* of the snapshot ... */
	uint64_t end_tick; /* ... and when it had all pages */
};

/* A snapshot is whole. 0 or -ENOMEM, as below. */
int still_begin(struct still *still, const struct ledger_snapshot *snapshot);

/* A system call of the allocator succeeded. */
int still_call(struct still *still, unsigned kind, const struct hl_syscall_record *record);

void still_free(struct still *still);

#endif

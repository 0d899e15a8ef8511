/* SPDX-License-Identifier: MIT
 *
 * Which pages of a process's heap are in memory, followed from one page fault to the next
 * (faults.h) and held against each snapshot. What is the heap the ledger says, of which the
 * resident bytes and the figures about faults are filled in. Called by analysis.c.
 */
#ifndef HEAPLEDGER_RESIDENCE_H
#define HEAPLEDGER_RESIDENCE_H

#include "faults.h"
#include "ledger.h"
#include "resident_pages.h"

/* The last fault of a thread: it may be under way still. */
struct residence_thread {
	uint32_t tid;
	uint64_t first; /* page */
	uint64_t end;
};

struct residence {
	struct resident_pages pages;
	struct faults_share share;
	bool known;
	struct residence_thread *thread;
	size_t threads;
	size_t thread_capacity;
	bool watching;        /* a snapshot is under way ... */
	uint64_t settle_tick; /* ... until then */
	uint64_t seen_tick;   /* of the last snapshot */
};

/* `parent` is that of a fork, as it is now; NULL: nothing is in memory. 0 or -ENOMEM;
 * residence_free is needed in any case. */
int residence_start(
	struct residence *residence, struct faults_share share, const struct residence *parent);
void residence_free(struct residence *residence);

/* When the next event happened, in ticks of the stream; UINT64_MAX = there is none. */
uint64_t residence_next(const struct residence *residence, const struct clock *clock);

/* Takes that event. 0 or -ENOMEM. */
int residence_take(struct residence *residence, struct ledger *ledger, uint64_t tick);

/* Before a record of the stream is applied, and after it: snapshots. 0 or -ENOMEM. */
int residence_before(
	struct residence *residence, struct ledger *ledger, uint64_t tick, unsigned kind);
void residence_after(struct residence *residence, struct ledger *ledger);

/* At the end of the stream. 0 or -ENOMEM. */
int residence_finish(struct residence *residence, struct ledger *ledger);

#endif

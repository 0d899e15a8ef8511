/* SPDX-License-Identifier: MIT
 *
 * The phases of one process: what was counted and the most that was held in each. A row holds the
 * totals at its start while its phase lasts, so that nothing is counted twice on the way. Filled by
 * ledger.c and mapping.c, read by the outputs.
 */
#ifndef HEAPLEDGER_PHASES_H
#define HEAPLEDGER_PHASES_H

#include "tally.h"
#include "timeline.h"

#define PHASES_MOST 1000 /* rows a stream; what follows is in no row */

struct phases_row {
	bool named; /* else: before the first mark */
	char name[HL_PHASE_NAME_BYTES];
	uint64_t first_tick;
	uint64_t end_tick;
	struct tally_call calls[HL_KIND_LIMIT];
	uint64_t syscalls[HL_KIND_LIMIT];
	int64_t peak_requested;
	int64_t peak_mapped;
	uint64_t peak_rss; /* of the samples in it, without the recorder's buffers */
	uint64_t samples;
	struct memory end;
};

struct phases {
	struct phases_row *row;
	size_t count;
	size_t capacity;
	uint64_t beyond; /* marks after PHASES_MOST rows */
	bool open;       /* the last row's phase lasts */
	/* Of the phase that lasts, or before the first mark. */
	int64_t peak_requested;
	int64_t peak_mapped;
	uint64_t peak_rss;
	uint64_t samples;
	uint64_t start_tick; /* of the process */
	bool named;          /* a child begins in its parent's phase */
	char name[HL_PHASE_NAME_BYTES];
};

/* What has been counted up to now. */
struct phases_totals {
	const struct tally_call *calls;
	const struct tally_causes *causes;
	const struct memory *memory;
};

/* A mark. 0 or -ENOMEM, as phases_fork. */
int phases_begin(struct phases *phases, const struct phases_totals *totals,
	const struct hl_phase_record *record);
void phases_finish(struct phases *phases, const struct phases_totals *totals, uint64_t tick);

/* The child's phase is its parent's; the child's start_tick is set. */
int phases_fork(struct phases *child, const struct phases *parent, const struct memory *memory);

/* Everything so far was more by this much (ledger_rebase). */
void phases_rebase(struct phases *phases, const struct memory *by);

void phases_free(struct phases *phases);

static inline void phases_sampled(struct phases *phases, uint64_t rss)
{
	phases->samples++;
	if (rss > phases->peak_rss)
		phases->peak_rss = rss;
}

#endif

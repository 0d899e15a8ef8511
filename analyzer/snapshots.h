/* SPDX-License-Identifier: MIT
 *
 * Of one process what was in memory of each row of the ledger, at its snapshots of resident pages
 * over time. Fed by analysis.c while the ledger runs, read by csv.c.
 *
 * There may be ten a second for hours, and each costs a walk over the live blocks: the first in
 * each even part of the time is taken, and that of the end. As with instants.h, each time that
 * those kept have cost SNAPSHOTS_WORK blocks, two parts become one.
 */
#ifndef HEAPLEDGER_SNAPSHOTS_H
#define HEAPLEDGER_SNAPSHOTS_H

#include "layout.h"

#define SNAPSHOTS_MOST 240
#define SNAPSHOTS_LEAST 15
#define SNAPSHOTS_WORK (UINT64_C(1) << 23)

struct snapshots_row {
	struct layout_resident resident;
	bool kept_known; /* else what caches hold is among what is free */
	uint64_t work;   /* in blocks */
};

struct snapshots {
	uint64_t first_tick;
	uint64_t ticks; /* of one of SNAPSHOTS_MOST parts */
	uint64_t apart; /* so many of these are one: 1, 2, 4, 8 or 16 */
	uint64_t seen;  /* tick of the last one, taken or not */
	uint64_t work;  /* of those that are kept */
	struct snapshots_row *row;
	size_t count;
};

/* `most`: of them, SNAPSHOTS_LEAST in any case. 0 or -ENOMEM; without it there are none. */
int snapshots_start(
	struct snapshots *snapshots, uint64_t first_tick, uint64_t last_tick, uint64_t most);

/* After a record of a snapshot or a sample: takes the snapshot when it is whole, and what the
 * kernel counted after it. 0 or -ENOMEM. */
int snapshots_follow(
	struct snapshots *snapshots, const struct ledger *ledger, struct layout_room *room);

void snapshots_free(struct snapshots *snapshots);

#endif

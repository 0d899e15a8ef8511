/* SPDX-License-Identifier: MIT
 *
 * The heap of one process laid out (layout.h) at even times, without what pins it: fragmentation
 * over time. Fed by analysis.c while the ledger runs, read by csv.c.
 *
 * An instant costs a sort of the live blocks and a walk over them, and nobody knows before how many
 * there will be. So it begins with many; each time that the instants kept have laid out
 * INSTANTS_WORK blocks, every other one is dropped and those to come are twice as far apart. That
 * bounds the work to three times as many blocks, and INSTANTS_LEAST heaps beyond.
 */
#ifndef HEAPLEDGER_INSTANTS_H
#define HEAPLEDGER_INSTANTS_H

#include "layout.h"

#define INSTANTS_MOST 240
#define INSTANTS_LEAST 15
#define INSTANTS_WORK (UINT64_C(1) << 24)

struct instants {
	uint64_t first_tick;
	uint64_t last_tick;
	uint32_t next;    /* of INSTANTS_MOST even parts, the end of which is the next instant */
	uint64_t next_tick; /* of it; UINT64_MAX = it is the end */
	uint32_t apart;   /* so many parts: 1, 2, 4, 8 or 16 */
	uint64_t applied; /* records before the last one */
	uint64_t work;    /* of those that are kept, in blocks */
	struct layout_room room;
	struct layout *list;
	size_t count;
};

/* `most`: instants, of which there are INSTANTS_LEAST in any case. 0 or -ENOMEM; without it there
 * are none. */
int instants_start(
	struct instants *instants, uint64_t first_tick, uint64_t last_tick, uint64_t most);

/* Before a record of this tick is applied: takes the instants before it. 0 or -ENOMEM. */
int instants_take(struct instants *instants, const struct ledger *ledger, uint64_t tick);

static inline int instants_before(
	struct instants *instants, const struct ledger *ledger, uint64_t tick)
{
	return instants->list && instants->next_tick < tick ? instants_take(instants, ledger, tick) : 0;
}

/* After ledger_finish: takes those that are left. */
int instants_finish(struct instants *instants, const struct ledger *ledger);
void instants_free(struct instants *instants);

#endif

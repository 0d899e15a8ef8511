/* SPDX-License-Identifier: MIT
 *
 * What live blocks of the break and of arenas have on each page: bytes that were asked for, and
 * slack. Told of each block that comes and goes, so that nobody need walk over all of them to draw a
 * column of the map. Filled by ledger.c, read by map.c; kept only for a map.
 */
#ifndef HEAPLEDGER_LAID_H
#define HEAPLEDGER_LAID_H

#include "leaves.h"
#include "live.h"

/* A block beyond this is only counted: it has too many pages for that to be worth it. */
#define LAID_MOST_BYTES (UINT64_C(1) << 30)

struct laid {
	bool wanted;
	bool starved; /* memory ran out */
	struct leaves leaves; /* by addr >> 21 */
	uint64_t larger; /* blocks beyond LAID_MOST_BYTES */
};

struct laid_bytes {
	uint64_t asked;
	uint64_t slack;
};

/* From here on it is wanted; what there is already is `live`. 0 or -ENOMEM. */
int laid_start(struct laid *laid, const struct live *live);

/* A block comes or goes. */
void laid_change(struct laid *laid, const struct live_block *block, bool comes);

static inline void laid_block(struct laid *laid, const struct live_block *block, bool comes)
{
	if (__builtin_expect(laid->wanted, 0))
		laid_change(laid, block, comes);
}

/* Of the pages that [start, end) touches, without blocks beyond LAID_MOST_BYTES. */
struct laid_bytes laid_sum(const struct laid *laid, uint64_t start, uint64_t end);

/* [start, end) of a block: nothing of one that is not in the break or an arena. */
struct laid_bytes laid_of(const struct live_block *block, uint64_t start, uint64_t end);

/* Where it begins and ends, with its header; both 0 of one with a mapping of its own. */
void laid_reach(const struct live_block *block, uint64_t *start, uint64_t *end);

void laid_free(struct laid *laid);

#endif

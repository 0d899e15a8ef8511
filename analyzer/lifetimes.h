/* SPDX-License-Identifier: MIT
 *
 * How long blocks live, by what was asked for last: on the clock, and by the bytes that were
 * allocated meanwhile. One that is live at the end was seen for so long only. Filled by the ledger,
 * read by the outputs; docs/analysis.md has the words.
 */
#ifndef HEAPLEDGER_LIFETIMES_H
#define HEAPLEDGER_LIFETIMES_H

#include "tally.h"

#include <errno.h>

/* What is shorter is not told apart: a call bears the time that its thread had read last, in
 * general no more than this before. */
#define LIFETIMES_KNOWN_NS (UINT64_C(1) << 20)

enum lifetimes_clock { LIFETIMES_TIME, LIFETIMES_ALLOCATED, LIFETIMES_CLOCKS };
enum lifetimes_end { LIFETIMES_FREED, LIFETIMES_LIVE, LIFETIMES_ENDS };

/* Blocks of a doubling of sizes, by the bucket of how long they lived, as latencies have them. */
struct lifetimes_table {
	uint64_t blocks[LIFETIMES_CLOCKS][LIFETIMES_ENDS][TALLY_LATENCIES];
};

/* What is not 0 of it, when all is counted; by clock, doubling and bucket. */
struct lifetimes_row {
	uint8_t clock;
	uint8_t doubling;
	uint16_t bucket;
	uint64_t blocks[LIFETIMES_ENDS];
};

struct lifetimes_count {
	uint64_t blocks;
	uint64_t bytes;
};

struct lifetimes {
	struct lifetimes_table *tables[TALLY_DOUBLINGS]; /* NULL = none, or all is counted */
	struct lifetimes_row *rows;
	size_t count;
	uint64_t bytes[TALLY_DOUBLINGS][LIFETIMES_ENDS];
	uint64_t longest[LIFETIMES_CLOCKS];            /* of freed ones */
	struct lifetimes_count before[LIFETIMES_ENDS]; /* nobody saw them being made */
};

/* NULL without memory. */
struct lifetimes_table *lifetimes_table(struct lifetimes *lifetimes, unsigned doubling);

/* A block's life is over, or seen no longer; `ns` is 0 if it was less than LIFETIMES_KNOWN_NS. 0 or
 * -ENOMEM. */
static inline int lifetimes_add(struct lifetimes *lifetimes, enum lifetimes_end end,
	uint64_t bytes, uint64_t ns, uint64_t allocated)
{
	unsigned doubling = tally_doubling(bytes);
	struct lifetimes_table *table = lifetimes->tables[doubling];
	if (__builtin_expect(!table, 0) && !(table = lifetimes_table(lifetimes, doubling)))
		return -ENOMEM;
	lifetimes->bytes[doubling][end] += bytes;
	table->blocks[LIFETIMES_TIME][end][tally_latency_bucket(ns)]++;
	table->blocks[LIFETIMES_ALLOCATED][end][tally_latency_bucket(allocated)]++;
	if (end == LIFETIMES_FREED && ns > lifetimes->longest[LIFETIMES_TIME])
		lifetimes->longest[LIFETIMES_TIME] = ns;
	if (end == LIFETIMES_FREED && allocated > lifetimes->longest[LIFETIMES_ALLOCATED])
		lifetimes->longest[LIFETIMES_ALLOCATED] = allocated;
	return 0;
}

/* All is counted. 0 or -ENOMEM. */
int lifetimes_finish(struct lifetimes *lifetimes);

/* Which blocks: of a doubling, or of all. */
#define LIFETIMES_ALL TALLY_DOUBLINGS

/* By how long they lived: `bytes` of it are blocks. */
void lifetimes_read(const struct lifetimes *lifetimes, enum lifetimes_clock clock,
	enum lifetimes_end end, unsigned doubling, struct tally_latency *lived);
struct lifetimes_count lifetimes_sum(
	const struct lifetimes *lifetimes, enum lifetimes_end end, unsigned doubling);

void lifetimes_free(struct lifetimes *lifetimes);

#endif

/* SPDX-License-Identifier: MIT
 *
 * What freed memory waited for, and what live blocks pinned: over all, by the place in the code and
 * by the size of the block that lay there last. A wait is in two parts: pinned, as long as a block
 * held the end of the heap above the page, and policy, from when nothing did. The words are those
 * of docs/analysis.md. Filled by ledger.c and mapping.c, read by the outputs.
 */
#ifndef HEAPLEDGER_WAITS_H
#define HEAPLEDGER_WAITS_H

#include "tally.h"

#define WAITS_SITES 50 /* are put out, unless so many are asked for */
#define WAITS_NOBODY UINT32_MAX

enum waits_end {
	WAITS_RETURNED,
	WAITS_REUSED, /* a block lies there again */
	WAITS_STILL,  /* free at the end of the log */
	WAITS_ENDS
};

enum waits_part { WAITS_PINNED, WAITS_POLICY, WAITS_PARTS };

/* The returned bytes by how long they waited. */
struct waits_times {
	uint64_t bytes[WAITS_PARTS][TALLY_STEPS];
};

struct waits_sum {
	uint64_t bytes[WAITS_ENDS];
	double waited[WAITS_PARTS]; /* bytes x ns */
	struct waits_times *times;  /* NULL = nothing was returned */
};

/* Blocks from one place. */
struct waits_site {
	uint64_t caller;
	struct waits_sum sum;
	uint64_t held_bytes; /* free pages that its block was the last to lie above ... */
	double held;         /* ... and how long they had been free by then: bytes x ns */
	double pinned; /* free bytes on its blocks' pages: bytes x ticks, x ns when all is over */
};

/* Bytes by how their time ended. */
struct waits_split {
	struct tally_latency cleared;            /* until the last block above went */
	struct tally_latency held[WAITS_ENDS];   /* ... or the wait ended before */
	struct tally_latency policy[WAITS_ENDS]; /* from when it went */
	struct tally_latency pinned;             /* until it went, of what was returned then */
};

/* Sizes that are put together, by doublings: up to 1 KiB, to 64 KiB, to 1 MiB, and above. */
#define WAITS_GROUPS 4
struct waits_group {
	struct tally_latency ended[WAITS_ENDS]; /* whole waits */
};

/* The largest size in it; 0 = there is none. */
uint64_t waits_group_limit(unsigned group);

/* A site that was looked up. */
#define WAITS_RECENT 64
struct waits_recent {
	uint64_t caller;
	uint32_t entry; /* its number + 1; 0 = none */
};

struct waits {
	struct waits_split split;
	double waited[WAITS_PARTS];           /* bytes x ns */
	struct waits_sum *sizes[TALLY_SIZES]; /* NULL = none of them lay on a page last */
	struct waits_group *groups[WAITS_GROUPS]; /* NULL = the same */
	struct waits_site *sites;
	size_t count;
	size_t capacity;
	uint32_t *table; /* open addressing, by caller: index + 1 */
	size_t table_size;
	struct waits_recent recent[WAITS_RECENT]; /* by waits_recent() */
	double pinned;          /* of all sites */
	uint64_t waiting_sites; /* that have a sum or held ... */
	uint64_t pinning_sites; /* ... and that pinned anything */
	/* After waits_finish the sites are in this order: the longest waits first; and as many by
	 * what they pinned. */
	struct waits_site *pins;
	size_t pin_count;
};

static inline size_t waits_recent(uint64_t caller)
{
	return (caller ^ caller >> 6) % WAITS_RECENT;
}

/* The number of a site. WAITS_NOBODY without memory. */
uint32_t waits_look_up(struct waits *waits, uint64_t caller);

static inline uint32_t waits_site(struct waits *waits, uint64_t caller)
{
	const struct waits_recent *recent = &waits->recent[waits_recent(caller)];
	return recent->entry && recent->caller == caller ? recent->entry - 1
							 : waits_look_up(waits, caller);
}

/* A wait that is over, or is seen no longer. */
struct waits_one {
	enum waits_end end;
	uint64_t bytes;
	uint64_t pinned_ns;
	uint64_t policy_ns;
	uint64_t ns; /* both */
	bool held; /* to its end */
	uint32_t site;
	unsigned size_class;
	uint32_t holder; /* the site of the last block above it, WAITS_NOBODY: none or not known */
};

/* 0 or -ENOMEM. */
int waits_add(struct waits *waits, const struct waits_one *one);

/* Nothing has been counted; the numbers of sites stay. */
void waits_restart(struct waits *waits);

/* A tick takes so many ns. Ranks the sites, and leaves so many of each ranking. 0 or -ENOMEM. */
int waits_finish(struct waits *waits, double tick_ns, size_t most);

/* All but the sites. 0 or -ENOMEM. */
int waits_merge(struct waits *to, const struct waits *from);
void waits_free(struct waits *waits);

/* The time that `percent` of the returned bytes did not exceed, up to the next doubling. */
uint64_t waits_percentile(const struct waits_times *times, enum waits_part part, unsigned percent);

#endif

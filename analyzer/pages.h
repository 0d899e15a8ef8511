/* SPDX-License-Identifier: MIT
 *
 * The pages of the break and of arenas: how many live blocks lie on each and what these pin, since
 * when it is free, and whether it went back to the kernel. Survives shrinking and growing again. Used
 * by ledger.c.
 *
 * A page is UNUSED until a block lies on it; then LIVE, FREE (since a tick) when the last block is
 * freed, RETURNED when the kernel took it back.
 */
#ifndef HEAPLEDGER_PAGES_H
#define HEAPLEDGER_PAGES_H

#include "holds.h"
#include "leaves.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGES_BITS 12

/* 256 GiB of heap, 1.6 GiB of tables: a trace that claims more is not followed page by page. */
#define PAGES_LEAF_LIMIT ((size_t)1 << 17)

/* Pages that are not any more what they were at a moment, and what that was. */
#define PAGES_MOMENTS 2
struct pages_changed {
	uint64_t *list; /* number of the page, and the state in its lowest bits */
	size_t count;
	size_t capacity;
};

struct pages {
	struct leaves leaves; /* by addr >> 21 */
	size_t limit; /* of leaves; 0 = PAGES_LEAF_LIMIT */
	uint64_t reused_pages; /* FREE pages that got a block again */
	struct holds holds;
	unsigned kept; /* moments, a bit each ... */
	struct pages_changed changed[PAGES_MOMENTS]; /* ... and what has changed since */
	bool starved; /* memory ran out where nobody could be told */
};

/* A page that ceases to be free, or is so still. */
struct pages_wait {
	uint64_t since; /* tick: it is free */
	uint32_t site;  /* of the block that left it last, as pages_remove was told ... */
	unsigned size_class; /* ... and of what size it was */
	bool held; /* a block lies above it in its area */
	uint64_t clear_since; /* else: tick since when there was none ... */
	uint32_t clear_site;  /* ... and the site of the one that went then */
	uint32_t area; /* if it is held */
};
typedef void pages_freed(void *context, const struct pages_wait *wait);

/* A block now covers [start, end). 0, -ENOMEM, or -E2BIG at the limit. `reused`, if not NULL, is told
 * of pages that were FREE. `*pinned`: what one block on each of these pages has pinned so far, bytes x
 * ticks; to be taken from what pages_remove says. */
int pages_add(struct pages *pages, uint64_t start, uint64_t end, uint64_t tick, pages_freed *reused,
	void *context, double *pinned);

/* Whose block goes, and when. */
struct pages_gone {
	uint64_t tick;
	uint32_t site;
	uint8_t size_class;
};

/* ... and no longer does; the time is kept for pages that became free. */
double pages_remove(
	struct pages *pages, uint64_t start, uint64_t end, const struct pages_gone *gone);

/* No block covers [start, end), and none has since the fork: a page that becomes free is UNUSED. */
void pages_forget(struct pages *pages, uint64_t start, uint64_t end);

/* What one block on each page of [start, end) has pinned up to a tick. */
double pages_pinned(struct pages *pages, uint64_t start, uint64_t end, uint64_t tick);

/* Nothing was pinned before this tick. */
void pages_pin_anew(struct pages *pages, uint64_t tick);

/* What a range held when the kernel took it back. */
struct pages_taken {
	uint64_t used; /* pages that a block had lain on since their last return: LIVE or FREE */
	uint64_t returned; /* pages that had gone back before: RETURNED */
};

/* The kernel took back [start, end) (whole pages), and the addresses too if `unmapped`; `returned`
 * is told of those that were FREE. */
struct pages_taken pages_return(struct pages *pages, uint64_t start, uint64_t end, bool unmapped,
	pages_freed *returned, void *context);

/* An arena opens memory at an address, or has none there any more. 0 or -ENOMEM. */
int pages_arena(struct pages *pages, uint64_t addr, unsigned arena);
void pages_arena_ends(struct pages *pages, uint64_t start, uint64_t end);

/* Pages of a range by state; the others are UNUSED. */
struct pages_count {
	uint64_t live; /* where the ledger has no block, one that is being resized */
	uint64_t free;
	uint64_t returned;
};
struct pages_count pages_count(const struct pages *pages, uint64_t start, uint64_t end);

/* Of a range those that are FREE, and were so at a tick. */
uint64_t pages_free_since(const struct pages *pages, uint64_t start, uint64_t end, uint64_t tick);

/* Tells `waiting` of the pages that are FREE now. */
void pages_waiting(const struct pages *pages, pages_freed *waiting, void *context);

/* The area of an address, as in struct pages_wait, and where in it that is, in bytes from 1 on. */
uint32_t pages_area(const struct pages *pages, uint64_t addr, uint64_t *position);

/* Asks for the page of an address ahead of its use. */
void pages_prefetch(const struct pages *pages, uint64_t address);

/* What pages are now is kept as the nth moment, in place of what was; or forgotten; or the pages are again
 * as they were then, by state: of use for pages_count only. */
void pages_keep(struct pages *pages, unsigned nth);
void pages_forget_kept(struct pages *pages, unsigned nth);
void pages_go_back(struct pages *pages, unsigned nth);

/* For the child of a fork, which begins at a tick: what was free before counts as UNUSED there. */
int pages_copy(struct pages *to, const struct pages *from, uint64_t tick);

/* No page holds a block or did; arenas stay. 0 or -ENOMEM. */
int pages_clear(struct pages *pages);
void pages_free(struct pages *pages);

#endif

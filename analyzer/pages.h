/* SPDX-License-Identifier: MIT
 *
 * The pages of the break and of arenas: how many live blocks lie on each, since when it is free,
 * and whether it went back to the kernel. Survives shrinking and growing again. Used by ledger.c.
 *
 * A page is UNUSED until a block lies on it; then LIVE, FREE (since a tick) when the last block is
 * freed, RETURNED when the kernel took it back.
 */
#ifndef HEAPLEDGER_PAGES_H
#define HEAPLEDGER_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGES_BITS 12

/* 256 GiB of heap, 1 GiB of tables: a trace that claims more is not followed page by page. */
#define PAGES_LEAF_LIMIT ((size_t)1 << 17)

struct pages_leaf;

struct pages {
	struct pages_leaf **leaves; /* open addressing, keyed by addr >> 21 */
	size_t count;
	size_t size;
	size_t limit; /* of leaves; 0 = PAGES_LEAF_LIMIT */
	struct pages_leaf *last;
	uint64_t reused_pages; /* FREE pages that got a block again */
};

/* Told of pages that cease to be free, or are so still, with the tick since when they were. */
typedef void pages_freed(void *context, uint64_t free_since, uint64_t pages);

/* A block now covers [start, end). 0, -ENOMEM, or -E2BIG at the limit. `reused`, if not NULL, is told
 * of pages that were FREE. */
int pages_add(
	struct pages *pages, uint64_t start, uint64_t end, pages_freed *reused, void *context);

/* ... and no longer does; the time is kept for pages that became free. */
void pages_remove(struct pages *pages, uint64_t start, uint64_t end, uint64_t tick);

/* No block covers [start, end), and none has since the fork: a page that becomes free is UNUSED. */
void pages_forget(struct pages *pages, uint64_t start, uint64_t end);

/* What a range held when the kernel took it back. */
struct pages_taken {
	uint64_t used; /* pages that a block had lain on since their last return: LIVE or FREE */
	uint64_t returned; /* pages that had gone back before: RETURNED */
};

/* The kernel took back [start, end) (whole pages), and the addresses too if `unmapped`; `returned`
 * is told of those that were FREE. */
struct pages_taken pages_return(struct pages *pages, uint64_t start, uint64_t end, bool unmapped,
	pages_freed *returned, void *context);

/* Pages of a range by state; the others are UNUSED. */
struct pages_count {
	uint64_t live; /* where the ledger has no block, one that is being resized */
	uint64_t free;
	uint64_t returned;
};
struct pages_count pages_count(const struct pages *pages, uint64_t start, uint64_t end);

/* Tells `waiting` of the pages that are FREE now. */
void pages_waiting(const struct pages *pages, pages_freed *waiting, void *context);

/* Asks for the page of an address ahead of its use. */
void pages_prefetch(const struct pages *pages, uint64_t address);

/* For the child of a fork: what was free before counts as UNUSED there. */
int pages_copy(struct pages *to, const struct pages *from);
void pages_free(struct pages *pages);

#endif

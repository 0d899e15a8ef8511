/* SPDX-License-Identifier: MIT
 *
 * The heap of one process at one moment, in address order: where its free bytes lie, which blocks
 * hold the pages that they lie on, and what would go back if those were freed. Made by moments.c
 * from a ledger; pure, does no I/O. The words are those of docs/analysis.md.
 *
 * Time is that of a radix sort of the live blocks and one walk; memory 32 bytes a live block, in the
 * room that its caller keeps for it.
 */
#ifndef HEAPLEDGER_LAYOUT_H
#define HEAPLEDGER_LAYOUT_H

#include "ledger.h"

#include "heapledger/callstack.h"

/* The sizes that free space is asked for: 64, 512, 4 Ki, 64 Ki, 128 Ki. */
#define LAYOUT_SIZES 5
extern const uint64_t layout_sizes[LAYOUT_SIZES];

#define LAYOUT_HUGE_BITS 21
#define LAYOUT_HOLDERS 16 /* of the break ... */
#define LAYOUT_ARENA_HOLDERS 4 /* ... and of an arena */
#define LAYOUT_ARENAS 64 /* with the most free bytes */

/* Runs of free bytes between blocks. */
struct layout_runs {
	uint64_t count;
	uint64_t bytes;
	uint64_t largest;
	uint64_t too_small[LAYOUT_SIZES]; /* bytes in runs shorter than the size */
	uint64_t pieces[LAYOUT_SIZES];    /* sum of floor(run / size) */
};

/* Pages of one size. A block is on each page that it overlaps. */
struct layout_pages {
	uint64_t used;        /* hold a block */
	uint64_t half;        /* ... and are free for at least the half */
	uint64_t single;      /* ... and no second one */
	uint64_t free_bytes;  /* on used ones */
	uint64_t single_free; /* ... on single ones */
	uint64_t whole;       /* hold none */
};

/* In place of a caller, of blocks that a cache holds; no caller and no stack is like it. */
#define LAYOUT_KEPT (HL_CALLER_STACK | UINT64_C(1) << 40)

static inline bool layout_is_kept(uint64_t caller)
{
	return (caller & LAYOUT_KEPT) == LAYOUT_KEPT;
}

static inline enum hl_kept layout_kept(uint64_t caller)
{
	return (enum hl_kept)(caller & 0xff);
}

/* A block that holds the end of the break: freed with all above it, `returned` bytes lie behind the
 * page of the next one. */
struct layout_holder {
	struct live_block block;
	uint64_t returned;
};

/* An arena, of all its segments. */
struct layout_arena {
	uint32_t number; /* 0 = the main one, where it is not at the break */
	uint64_t segments;
	uint64_t mapped; /* accessible */
	uint64_t free_bytes;
	uint64_t top; /* of it, at the end of the newest segment */
	uint64_t blocks;
	struct layout_holder holder[LAYOUT_ARENA_HOLDERS]; /* the highest first */
	size_t holders;
};

/* Blocks from one caller; or of one size class or thread, if so wanted. */
struct layout_site {
	uint64_t caller; /* or number of the class + 1, or of the thread; kept blocks are apart */
	uint64_t blocks;
	uint64_t bytes; /* requested */
	uint64_t mapped_blocks; /* of them, those with a mapping of their own: on no page here */
	uint64_t mapped_bytes;
	uint64_t smallest;
	uint64_t largest;
	uint64_t oldest; /* ticks */
	uint64_t youngest;
	uint32_t thread; /* of all of them, or 0 = several */
	double pinned; /* free bytes on pages that its blocks hold, shared evenly with the others there */
	uint64_t alone_pages; /* it has the only block of */
	uint64_t alone_bytes; /* free bytes on those */
	/* What would be free if all its blocks were freed and no cache kept them: pages that were
	 * touched, beyond those that are free now. */
	uint64_t freed_mapped; /* their own mappings */
	uint64_t freed_top;    /* at the end of the break and of arenas */
	uint64_t freed_trim;   /* elsewhere, as `trim` counts them */
};

/* What pages without a block were, in bytes. */
struct layout_whole {
	uint64_t touched;   /* held a block since they were mapped or given back */
	uint64_t purged;    /* given back, still mapped */
	uint64_t untouched; /* never held one */
};

/* What was in memory of each row, by a snapshot of the process's pages. */
struct layout_resident {
	bool known;
	bool cut; /* of addresses beyond some nothing is known */
	unsigned reason; /* enum hl_resident */
	uint64_t tick;
	uint64_t took; /* ticks */
	uint64_t requested;
	uint64_t slack;
	uint64_t cached;
	uint64_t tables;
	uint64_t free; /* not top */
	uint64_t top;
	uint64_t metadata;
	uint64_t outside; /* not the heap's */
	uint64_t all;
	struct ledger_counted counted;
};

struct layout {
	struct memory memory;
	struct layout_resident resident;
	uint64_t tick;
	uint64_t top;               /* free bytes at the break's end and at the ends of arenas */
	uint64_t partial;           /* free bytes, not of top, on pages that hold a block */
	uint64_t between;           /* blocks' own mappings that no block has yet, or any more */
	struct layout_whole whole;  /* pages, not of top, that hold none */
	struct layout_whole in_top; /* pages of top */
	/* What malloc_trim(0) would return: pages that were touched, where it looks for them, after it
	 * has emptied fast lists and what the cache was lent. */
	uint64_t trim;
	uint64_t trim_top; /* of that at the end of the break */
	bool kept_known; /* what caches hold was told, and they have not changed since ... */
	bool kept_all;   /* ... of all caches. Else their blocks are taken for free ones. */
	uint32_t caches; /* there were ... */
	uint32_t caches_known; /* ... of which that holds for all that they have */
	uint32_t unread;       /* lists of them, and fast lists, that could not be read */
	uint64_t cached; /* bytes of freed blocks in thread caches and fast lists */
	uint64_t cached_blocks;
	uint64_t tables; /* bytes of the allocator's own blocks */
	struct layout_runs runs;
	struct layout_runs inner; /* those that are not top */
	struct layout_pages pages;
	struct layout_pages huge;
	uint64_t break_top; /* bytes of top at the end of the break */
	struct layout_holder holder[LAYOUT_HOLDERS]; /* the highest first */
	size_t holders;
	struct layout_arena *arenas; /* by free bytes */
	size_t arena_count;
	uint64_t all_arenas;
	struct layout_site *sites; /* by pinned bytes */
	size_t site_count;
	uint64_t all_sites; /* before layout_keep_sites */
	uint64_t strays; /* blocks outside of what is mapped, or over each other: a false trace */
};

enum layout_wants {
	/* Sites, each arena, the holders of the break, and what trim would return; with other sites
	 * (below) without the arenas. */
	LAYOUT_PINS = 1,
	LAYOUT_SNAPSHOT = 2, /* what was in memory by the ledger's last snapshot, of this moment */
	LAYOUT_BY_SIZE = 4,  /* the sites are size classes (tally.h) ... */
	LAYOUT_BY_THREAD = 8, /* ... or threads */
	LAYOUT_STILL = 16    /* of what the last snapshot found what is there still, if that is known */
};

/* Where blocks are sorted, for one walk after the other; all 0 at first. */
struct entry;
struct layout_room {
	struct entry *entries;
	struct entry *spare;
	size_t capacity;
};
void layout_room_free(struct layout_room *room);

/* `wants`: of enum layout_wants. 0 or -ENOMEM. Nothing of an observed allocator's inside is known:
 * not to be called for one. */
int layout_take(struct layout *layout, const struct ledger *ledger, uint64_t tick, unsigned wants,
	struct layout_room *room);

/* For qsort: what pins more comes first. */
int layout_by_pinned(const void *left, const void *right);

/* Adds what another site has: both are one. */
void layout_join_sites(struct layout_site *site, const struct layout_site *other);

/* Leaves so many sites, those that pin the most. */
void layout_keep_sites(struct layout *layout, size_t most);
void layout_free(struct layout *layout);

/* Unusable free space (Gorman and Whitcroft 2005, Linux mm/vmstat.c): the share of the free bytes
 * that are in runs too short. And 1 - sum of floor(run / size) / floor(sum / size). NAN if there are
 * none, or not even one piece. */
double layout_unusable(const struct layout_runs *runs, unsigned size);
double layout_split(const struct layout_runs *runs, unsigned size);

#endif

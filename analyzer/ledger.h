/* SPDX-License-Identifier: MIT
 *
 * The ledger of one process: from its records, where every byte of the heap is, and what the
 * figures of docs/analysis.md need. Called by analyze.c record by record; does no I/O and knows no
 * files.
 */
#ifndef HEAPLEDGER_LEDGER_H
#define HEAPLEDGER_LEDGER_H

#include "heapledger/session.h"
#include "clock.h"
#include "inherit.h"
#include "laid.h"
#include "lifetimes.h"
#include "live.h"
#include "pages.h"
#include "phases.h"
#include "ranges.h"
#include "recall.h"
#include "still.h"
#include "stream_reader.h"
#include "thrash.h"
#include "threads.h"
#include "timeline.h"
#include "triggers.h"
#include "waits.h"

/* Bytes given back to the kernel, by kind of memory. */
struct ledger_returned {
	uint64_t break_bytes;
	uint64_t arena_bytes;
	uint64_t block_bytes;
	uint64_t offered_bytes; /* MADV_FREE: the kernel may take them; not in the others */
};

/* What the kernel counted as anonymous memory around a snapshot, by the samples before and after
 * it: the process ran on meanwhile. */
struct ledger_counted {
	uint64_t before;
	uint64_t after;
	bool has_before;
	bool has_after;
};

struct ledger_peak {
	int64_t requested;
	uint64_t requested_tick;
	int64_t mapped;
	uint64_t mapped_tick;
	uint64_t mapped_record; /* after how many records of the stream */
	int64_t live_blocks;
	struct memory at_requested;
	struct memory at_mapped;
	uint64_t rss;      /* see docs/analysis.md; 0 without samples */
	uint64_t rss_tick; /* of the sample with the most resident memory */
	uint64_t rss_record;
	uint64_t snapshot_bytes; /* of the snapshot with the most in memory */
	uint64_t snapshot_record;
	struct ledger_counted snapshot_counted;
	uint64_t recorder; /* the recorder's buffers, most at any sample */
};

/* Johnstone and Wilson over the byte clock: sums weighted by the bytes of each allocation. */
struct ledger_ratio {
	double held; /* mapped or resident */
	double live;
	double bytes;
	double at_peak_live; /* held / live, 0 = not seen */
	double at_peak_held;
	double max_held;
	double max_live;
};

/* Of the heap's pages, by the kernel's record of faults. */
struct ledger_faults {
	bool known;
	uint64_t count;    /* faults in the heap */
	uint64_t in_calls; /* of them, by system calls */
	uint64_t large;    /* larger pages than usual that the kernel took for them */
	uint64_t again;    /* pages that had been there before, and had gone */
	int64_t peak;      /* bytes */
	uint64_t peak_tick;
	uint64_t snapshots; /* that were compared: */
	uint64_t unseen;    /* pages that were there, and no fault had told so */
	uint64_t vanished;  /* pages that were not there, and no call had taken them */
};

struct ledger_anomalies {
	uint64_t unknown_frees;
	uint64_t order_violations; /* an address handed out that was live */
	uint64_t unmatched;        /* a realloc without its begin, or the reverse */
	uint64_t inherited;        /* frees of blocks from before an orphan began */
	uint64_t impossible;       /* the mapped bytes of a kind would have gone below 0, a block is
				      larger than the heap: the trace contradicts itself */
};

/* A record that contradicts those before it, for whoever wants to look. */
#define LEDGER_ODDITIES 3
struct ledger_oddity {
	uint64_t addr;
	uint64_t size;
	uint64_t tick;
	uint32_t tid;
	uint8_t kind; /* enum hl_kind */
};

/* What is left when a stream has gone by. */
struct ledger_result {
	uint64_t events[HL_KIND_LIMIT];
	struct tally_call calls[HL_KIND_LIMIT];
	struct tally_causes causes;
	struct triggers triggers; /* what gave memory back */
	uint64_t recorder_calls;
	struct tally_size sizes[TALLY_SIZES];
	bool peak_sizes_known;
	struct lifetimes lifetimes;
	struct memory end;
	struct ledger_peak peak;
	struct ledger_returned returned;
	struct ledger_ratio mapped_ratio;
	struct ledger_ratio resident_ratio;
	struct tally_latency latency; /* of freed pages, until they went back */
	struct tally_latency reused;  /* ... until a block lay on them again */
	struct tally_latency waiting; /* ... until the end */
	struct waits waits;
	uint64_t reused_page_bytes;
	uint64_t never_page_bytes;
	struct ledger_anomalies anomalies;
	struct ledger_oddity unknown_free[LEDGER_ODDITIES]; /* the first ones of each */
	struct ledger_oddity order_violation[LEDGER_ODDITIES];
	struct thrash thrash;
	uint64_t lost; /* by lost marks */
	uint64_t samples;
	uint64_t max_sampled_rss; /* without the recorder's part */
	struct hl_sample_record last_sample;
	struct ledger_faults faults;
	struct phases phases; /* start_tick is set before ledger_start or ledger_fork */
	bool orphan; /* forked, but the parent's heap is not known; or a log that began later */
	/* The program's own allocator, or an imported log of one: what it does with its memory is
	 * not known, and its system calls only where the kernel's side is there. */
	bool observed;
	bool syscalls_unknown;
	bool usable_unknown;    /* of some block nobody could say how large it is */
	uint64_t foreign_calls; /* observed: system calls outside of allocator calls */
	/* The process ran before it was attached to (observed, too): what it had asked for by then
	 * is not known, so `memory` has what was asked for since. */
	bool attached;
	bool windowed;          /* it was counted anew at the beginning of a window */
	bool elsewhere;         /* malloc is the program's own, and its calls are not recorded */
	bool calls_unknown;     /* so, or its allocator was not probed */
	bool mapped_unknown;    /* as when syscalls_unknown; or memory that others have a hand in */
	uint64_t unseen_freed;  /* blocks that were given up and not seen being made */
	struct hl_sample_record first_sample;
};

/* What the program had asked for: before it was attached to, or of its own malloc. */
static inline bool ledger_requested_unknown(const struct ledger_result *result)
{
	return result->elsewhere || result->attached;
}

/* When a block was made; as long as it is resized, it is the same one. */
struct ledger_birth {
	uint64_t tick;
	uint64_t after; /* as in struct live_block, and not LIVE_RESIZED */
};

struct ledger_realloc {
	uint32_t tid;
	bool holds_pages; /* the old block's pages are still counted */
	bool makes; /* of no block */
	uint64_t tick;
	uint64_t allocated; /* as in the ledger, when it began */
	struct ledger_birth birth;
	struct live_block old; /* addr 0 = none, or nobody saw it being made */
};

struct ledger_freed {
	uint64_t addr;
	uint64_t bytes;
	uint64_t tick;
	uint32_t site; /* of the waits */
	unsigned size_class;
};

/* A freed block that a cache holds. */
struct ledger_kept {
	uint64_t addr;
	uint64_t bytes; /* of its chunk */
	enum hl_kept what;
	bool part;    /* of a table: not all that this cache holds is told */
	uint32_t tid; /* whose cache it is; 0 = any thread may have changed it */
};

/* Which threads have made calls since the list began: what their caches held is not what they hold. */
struct ledger_ran {
	struct id_map map; /* thread id -> number */
	struct ledger_ran_at {
		uint64_t list;
		uint64_t calls; /* up to its first one since this list */
	} *at; /* by number - 1 */
	size_t capacity;
	uint32_t last; /* tid that was noted last */
};

/* Which pages were in memory, by the last snapshot. */
struct ledger_snapshot {
	struct range *run; /* in memory and the process's own; sorted, disjoint */
	size_t count;
	size_t capacity;
	uint64_t bytes;
	uint32_t tid; /* who took it; 0: the recorder */
	uint64_t tick;
	uint64_t took; /* ticks */
	uint64_t left; /* runs that are still to come */
	unsigned reason; /* enum hl_resident */
	bool cut;
	bool whole; /* all its runs are there */
	bool is_peak; /* it has the most in memory up to now */
	struct ledger_counted counted;
	bool end_told; /* there was one of the process's end, with this in the heap */
	struct memory at_end;
};

struct ledger {
	struct memory memory;
	struct live live;
	struct live resized; /* of blocks that are live and LIVE_RESIZED: addr, and tick and after of birth */
	struct pages pages;
	struct laid laid;
	struct threads threads;
	uint64_t applied; /* records up to now, in this stream */
	uint64_t quiet;   /* of them, those that tell of no call */
	uint64_t allocated; /* bytes, up to now: the byte clock */
	uint64_t short_ticks; /* of lives that are too short to be told apart */
	const struct stream_event *event; /* that is being applied */
	struct ranges break_mapped;
	uint64_t break_end; /* where the last brk left it; 0 = there was none */
	struct ranges arena_mapped;
	struct ranges arena_open;
	struct ledger_realloc *reallocs; /* under way; few */
	size_t realloc_count;
	size_t realloc_capacity;
	struct ledger_freed *freed; /* mapped blocks that were freed and not unmapped yet; few */
	size_t freed_count;
	size_t freed_capacity;
	struct ledger_kept *kept; /* by the last list of them */
	size_t kept_count;
	size_t kept_capacity;
	bool kept_all;    /* no cache is missing in it */
	bool kept_moment; /* it holds until the next call, and of a thread's cache until the thread's */
	bool kept_told;
	uint32_t kept_caches; /* there were */
	uint32_t kept_unread; /* lists that could not be read */
	uint64_t kept_left;   /* blocks that are still to be told */
	uint64_t kept_lists;  /* up to now */
	struct ledger_ran ran;
	uint32_t kept_by;    /* the thread that tells it */
	uint64_t kept_calls; /* before it */
	struct ledger_snapshot snapshot;
	struct still still;
	struct ranges break_again; /* asked for again soon after it had gone back (thrash.h) */
	struct ranges block_again;
	struct ranges block_mapped;
	struct ranges metadata_mapped;
	struct inherit inherit;
	struct recall recall;
	struct clock *clock;
	struct timeline timeline;
	struct ledger_result *result;
};

/* Begins an empty heap; `result` and `clock` stay the caller's. */
void ledger_start(struct ledger *ledger, struct ledger_result *result, struct clock *clock);

/* A thread of a stream as it is numbered in records: the id, and the depth of signal handlers. */
#define LEDGER_TID_MASK ((UINT32_C(1) << HL_TID_DEPTH_SHIFT) - 1)

static inline bool ledger_same_thread(uint32_t a, uint32_t b)
{
	return ((a ^ b) & LEDGER_TID_MASK) == 0;
}

/* Which thread forked, in the parent, and the one that the child has. */
struct ledger_copy {
	uint32_t forked_by;
	uint32_t child_tid;
};

/* Begins with a copy of the parent's heap as it is now; inherit_note and inherit_close tell it what
 * may differ. 0 or -ENOMEM; ledger_free is needed in any case. */
int ledger_fork(struct ledger *child, const struct ledger *parent, const struct ledger_copy *copy,
	struct ledger_result *result, struct clock *clock);

/* Asks for what ledger_apply will need, some records ahead; and, fewer ahead, for what depends on it. */
void ledger_prefetch(const struct ledger *ledger, const struct stream_event *event);
void ledger_prefetch_again(const struct ledger *ledger, const struct stream_event *event);

/* The time line goes on to a tick, with what there was before. */
void ledger_pass(struct ledger *ledger, uint64_t tick);

/* Takes the next record in time order. 0 or -ENOMEM. */
int ledger_apply(struct ledger *ledger, const struct stream_event *event);

/* From here on is counted what is in the result; the heap stays as it is, with what is free in it, and
 * so do lost events. 0 or -ENOMEM. */
int ledger_window(struct ledger *ledger, uint64_t tick);

/* Completes the result, with so many sites in its rankings; then ledger_free. The time line stays until timeline_free, the phases until
 * phases_free. `tick`: the last one of the stream. */
int ledger_finish(struct ledger *ledger, uint64_t tick, size_t most_sites);

/* After that, gone back to the peak of what was mapped: which sizes it had. */
void ledger_count_peak(struct ledger *ledger);
void ledger_free(struct ledger *ledger);

/* What a result has of its own, but for its phases. */
void ledger_result_free(struct ledger_result *result);

/* What caches hold was told, and is so still: of all caches, of all that was told, of some of it, and of
 * this. */
bool ledger_kept_all(const struct ledger *ledger);
bool ledger_kept_whole(const struct ledger *ledger);
bool ledger_kept_known(const struct ledger *ledger);
bool ledger_kept_holds(const struct ledger *ledger, const struct ledger_kept *kept);

/* After which record most was in memory: by a snapshot, or else by a sample. */
static inline uint64_t ledger_resident_record(const struct ledger_peak *peak)
{
	return peak->snapshot_record ? peak->snapshot_record : peak->rss_record;
}

/* The last snapshot is of the end: of what was there then nothing has been allocated or freed since.
 * The recorder may have taken one more after the process's own. */
bool ledger_snapshot_of_end(const struct ledger *ledger);

/* By how much what a snapshot found is not what the kernel counted: the nearer one of the two less
 * what was found, 0 between them. False: nothing was counted. */
bool ledger_residual(const struct ledger_counted *counted, uint64_t found, int64_t *residual);

uint64_t ledger_returned_bytes(const struct ledger_returned *returned);

#endif

/* SPDX-License-Identifier: MIT
 *
 * The moments of a process at which its heap is laid out (layout.h): the peaks, the end of each
 * phase, the end. Taken by analysis.c while the records go by, read by the outputs.
 */
#ifndef HEAPLEDGER_MOMENTS_H
#define HEAPLEDGER_MOMENTS_H

#include "layout.h"

#define MOMENTS_PHASES 100 /* ends of phases, at most */
#define MOMENTS_SITES 50   /* of each moment are put out, unless so many are asked for */

enum moment_kind {
	MOMENT_RESIDENT_PEAK, /* the sample with the most resident memory */
	MOMENT_MAPPED_PEAK,   /* the most mapped and, while it was, requested */
	MOMENT_PHASE,         /* a phase ended */
	MOMENT_END,           /* the last record */
	MOMENT_KINDS
};

struct moment {
	enum moment_kind kind;
	size_t phase; /* of MOMENT_PHASE: the row that ended */
	struct layout layout;
	struct layout_site *by; /* what holds memory by size or thread, if that is wanted */
	size_t by_count;
};

struct moments {
	struct moment *list; /* in time order when the analysis is done */
	size_t count;
	size_t capacity;
	size_t phases;
	size_t most_sites; /* of each moment are kept but for the last; 0 = MOMENTS_SITES */
	unsigned by;       /* LAYOUT_BY_SIZE, LAYOUT_BY_THREAD or 0 */
	uint64_t left_out; /* ends of phases beyond the limit */
};

/* The heap as it is now. 0 or -ENOMEM. */
int moments_take(struct moments *moments, enum moment_kind kind, const struct ledger *ledger,
	uint64_t tick);

/* Puts them in order. */
void moments_sort(struct moments *moments);
void moments_free(struct moments *moments);

/* NULL if there is none. */
const struct moment *moments_find(const struct moments *moments, enum moment_kind kind);

/* The name of the phase that ended with it, or NULL. */
const char *moments_phase(const struct moment *moment, const struct phases *phases);

/* As in JSON: `resident_peak`, `mapped_peak`, `phase`, `end`. */
const char *moments_name(enum moment_kind kind);

#endif

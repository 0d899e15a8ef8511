/* SPDX-License-Identifier: MIT
 *
 * The numbers that steer the heap, with glibc's names, defaults and sources (heapledger/settings.h)
 * and mallopt. Read everywhere, written by tunables_load (once, before the first allocation),
 * mallopt and the dynamic threshold (large.c).
 */
#ifndef HEAPLEDGER_TUNABLES_H
#define HEAPLEDGER_TUNABLES_H

#include "heapledger/settings.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#define TUNABLES_MMAP_THRESHOLD_MAX_BYTES ((size_t)32 << 20)
#define TUNABLES_FAST_MAX_BYTES 160

struct tunables {
	_Atomic size_t mmap_threshold; /* bytes of chunk from which a mapping is tried */
	_Atomic size_t trim_threshold; /* bytes of top from which it is trimmed */
	_Atomic size_t top_pad;        /* bytes asked for beyond need, and kept by a trim */
	_Atomic size_t mmap_max;       /* mapped blocks at a time */
	_Atomic size_t fast_max;       /* largest chunk that goes to a fast bin */
	_Atomic size_t arena_max;      /* 0 = by cores */
	_Atomic size_t arena_test;     /* arenas before the number of cores is asked for */
	_Atomic size_t cache_bins;     /* thread cache: bins in use */
	_Atomic size_t cache_count;    /* thread cache: entries a bin */
	_Atomic size_t cache_scan;     /* unsorted chunks looked at after a cached fit; 0 = all */
	_Atomic int perturb;
	bool cache_fixed;   /* cache_count was set by hand: no surplus */
	_Atomic bool fixed; /* a threshold was set by hand: no dynamic threshold */

	/* Never changed after the start. */
	enum hl_policy policy;
	bool watched;      /* calls that reach an arena stop by at watch.c */
	bool hugetlb;      /* ask for transparent huge pages ... */
	size_t huge_bytes; /* ... of this size; 0 = the kernel has none to be asked for */
	uint64_t purge;    /* ms, or SETTINGS_PURGE_... */
	uint64_t check;    /* the heap is checked at every n-th call; 0 = never */
};

extern struct tunables tunables;

/* From the process's initial environment. What is malformed or unknown is ignored ... */
void tunables_load(void);

/* ... and here said on stderr, unless `heapledger record` has done so: once, when the program is
 * about to start. */
void tunables_report(void);

/* mallopt: 1 if the parameter is known and the value in its range. */
int tunables_set(int parameter, int value);

static inline size_t tunable(_Atomic size_t *value)
{
	return atomic_load_explicit(value, memory_order_relaxed);
}

static inline void tunable_set(_Atomic size_t *value, size_t bytes)
{
	atomic_store_explicit(value, bytes, memory_order_relaxed);
}

#endif

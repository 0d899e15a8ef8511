/* SPDX-License-Identifier: MIT
 *
 * What /proc says of a process's memory at one time: where its anonymous memory lies, where its
 * break is, how much of it is resident. The witness for `verify` where the kernel probe is not.
 * Called by the collector; writes nothing.
 */
#ifndef HEAPLEDGER_RECORD_LOOK_H
#define HEAPLEDGER_RECORD_LOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct look_range {
	uint64_t start;
	uint64_t end;
	bool other; /* private, but no heap's: [stack], or of a file, whose pages become anonymous when
		       they are written */
};

/* Times are CLOCK_MONOTONIC: what it says was so at some time from from_ns to to_ns. */
struct look {
	uint64_t from_ns;
	uint64_t to_ns;    /* 0: there is none */
	uint64_t heap_end; /* of the mapping called [heap]: the break, rounded up; 0 = none */
	struct look_range *range; /* private memory, or the heap's and the session's; sorted, disjoint */
	size_t count;
};

struct look_resident {
	uint64_t from_ns;
	uint64_t to_ns;     /* 0: there is none */
	uint64_t present;   /* bytes that pagemap has in memory or swap, the session's left out ... */
	uint64_t own;       /* ... of those, in no other process's memory */
	uint64_t anonymous; /* as in smaps_rollup, before pagemap was read */
	uint64_t swap;
	bool quiet; /* no page came between the two: own <= anonymous + swap */
};

enum look_ranges { LOOK_PRIVATE, LOOK_HEAP_AND_SESSION };

/* maps. A process without a mapping of `session` runs another image by now: -ESRCH. On failure the
 * look is as it was. */
int look_take(struct look *look, pid_t pid, const char *session, enum look_ranges ranges);

/* Each private anonymous mapping of a process that is not recorded from within, the main thread's
 * stack left out; sets only the times of the look. */
struct look_mapping {
	uint64_t start;
	uint64_t end;
	bool at_break;
	bool accessible;
};
typedef void look_taker(void *context, const struct look_mapping *mapping);
int look_each(struct look *look, pid_t pid, look_taker *take, void *context);

/* smaps_rollup, and pagemap for the ranges of a look. Takes 10 ms for 100 MiB. */
int look_count_resident(struct look_resident *resident, const struct look *look, pid_t pid);

void look_free(struct look *look);

#endif

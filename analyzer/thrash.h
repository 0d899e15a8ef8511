/* SPDX-License-Identifier: MIT
 *
 * Memory that goes back to the kernel and is asked for again at once: the end of the break that
 * shrinks and grows, blocks of one size that are mapped and unmapped. Fed by mapping.c, call by call.
 */
#ifndef HEAPLEDGER_THRASH_H
#define HEAPLEDGER_THRASH_H

#include "heapledger/record.h"

#include "ranges.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define THRASH_WINDOW_NS UINT64_C(1000000000) /* from giving back to asking again */
#define THRASH_RECENT 32                      /* unmapped blocks that are remembered */

/* Cycles of one kind: each is one call that gave back, and what took the same again. */
struct thrash_cycles {
	uint64_t count;
	uint64_t bytes;   /* given back and taken again */
	uint64_t ticks;   /* that these calls took */
	uint64_t largest; /* bytes of the largest */
	uint64_t faults;  /* on what was taken again, until it went back once more */
};

struct thrash_range {
	uint64_t start; /* of blocks, 0 */
	uint64_t end;   /* of blocks, the length; 0 = none */
	uint64_t tick;
	uint64_t duration;
	bool counted;
};

struct thrash {
	struct thrash_cycles break_; /* by brk */
	struct thrash_cycles block;  /* by mmap and munmap */
	bool faults_known;
	uint64_t window;             /* in ticks */
	struct thrash_range shrunk;
	struct thrash_range unmapped[THRASH_RECENT];
	unsigned next;
};

/* Successful calls, in time order. What a call has taken again; empty if it has not. */
struct range thrash_break(struct thrash *thrash, const struct hl_syscall_record *record);
struct range thrash_block(struct thrash *thrash, const struct hl_syscall_record *record);

#endif

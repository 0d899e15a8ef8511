/* SPDX-License-Identifier: MIT
 *
 * Ticks to nanoseconds: piecewise linear through the pairs of the stream's header and clock marks,
 * monotone. Filled by trace.c when a stream is opened; used by dump and the ledger.
 */
#ifndef HEAPLEDGER_CLOCK_H
#define HEAPLEDGER_CLOCK_H

#include <stddef.h>
#include <stdint.h>

struct clock_pair {
	uint64_t tick;
	uint64_t ns;
	uint64_t scale; /* ns a tick from here to the next pair, 2^-32 */
};

struct clock {
	struct clock_pair *pairs;
	size_t count;
	size_t capacity;
	size_t last; /* where the last question was answered */
	uint64_t origin_ns;
};

/* Pairs in any order; then clock_finish once. 0 or -ENOMEM. Pairs that would make time run backwards
 * are left out. */
int clock_add(struct clock *clock, uint64_t tick, uint64_t ns);
void clock_finish(struct clock *clock, uint64_t tick_hz);
void clock_free(struct clock *clock);

/* Nanoseconds since clock->origin_ns, 0 for what is before it. */
uint64_t clock_ns(struct clock *clock, uint64_t tick);

/* Nanoseconds from `tick` to clock->origin_ns, 0 for what is after it: the kernel saw exec and ld.so
 * before the first stream began. */
uint64_t clock_ns_before(struct clock *clock, uint64_t tick);

/* The tick of a CLOCK_MONOTONIC time, and how many ticks so many ns take: monotonic_ns and
 * clock_span backwards. */
uint64_t clock_tick(const struct clock *clock, uint64_t ns);
uint64_t clock_ticks(const struct clock *clock, uint64_t ns);

/* The length of `ticks` at the average rate. */
uint64_t clock_span(const struct clock *clock, uint64_t ticks);

#endif

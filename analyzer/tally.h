/* SPDX-License-Identifier: MIT
 *
 * What is counted while a stream goes by: calls, causes of system calls, size classes, latencies and
 * the time line. Filled by ledger.c, read by the outputs. Ticks stay ticks here but where a name
 * says ns.
 */
#ifndef HEAPLEDGER_TALLY_H
#define HEAPLEDGER_TALLY_H

#include "heapledger/record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tally_call {
	uint64_t count;
	uint64_t failed;
	uint64_t bytes;
};

/* System calls of one kind, reason and calling function. */
struct tally_cause {
	uint8_t syscall; /* enum hl_kind */
	uint8_t reason;
	uint8_t call; /* enum hl_kind, 0 = none */
	uint64_t count;
	uint64_t failed;
	uint64_t bytes;
	uint64_t returned; /* bytes that went back to the kernel by it */
	uint64_t ticks;
};

struct tally_causes {
	struct tally_cause *list;
	size_t count;
	size_t capacity;
};

/* Adds to the entry of (syscall, reason, call). 0 or -ENOMEM. */
int tally_cause(struct tally_causes *causes, const struct tally_cause *add);

/* Blocks, what was asked for and what they take from the heap. */
struct tally_blocks {
	uint64_t count;
	uint64_t bytes;
	uint64_t chunk;
};

/* Size classes: four for each doubling from 16 bytes on; the last one is open. */
#define TALLY_SIZES 200
struct tally_size {
	struct tally_blocks all;  /* allocations */
	struct tally_blocks live; /* at the end */
	struct tally_blocks peak; /* when the most was mapped */
};

static inline void tally_block(struct tally_blocks *blocks, uint64_t bytes, uint64_t chunk)
{
	blocks->count++;
	blocks->bytes += bytes;
	blocks->chunk += chunk;
}

/* Values up to 2^step_bits have a bucket each; above, a doubling is cut into 2^step_bits steps. */
static inline unsigned tally_bucket(uint64_t value, unsigned step_bits)
{
	if (value >> step_bits == 0)
		return (unsigned)value;
	unsigned top = 63 - (unsigned)__builtin_clzll(value);
	unsigned step = (unsigned)(value >> (top - step_bits)) & ((1u << step_bits) - 1);
	return ((top - step_bits + 1) << step_bits) + step;
}

/* In units of 4 bytes less one, so that classes end at 16, 20, ... would be too fine below 16:
 * those are one class. */
static inline unsigned tally_size_class(uint64_t bytes)
{
	unsigned class_index = bytes <= 16 ? 0 : tally_bucket(bytes - 1, 2) - tally_bucket(15, 2);
	return class_index < TALLY_SIZES ? class_index : TALLY_SIZES - 1;
}

uint64_t tally_size_limit(unsigned class_index); /* the largest size in it */

/* The same by doublings: up to 16 bytes, and one for each doubling above. */
#define TALLY_DOUBLINGS ((TALLY_SIZES - 1 + 3) / 4 + 1)
static inline unsigned tally_doubling(uint64_t bytes)
{
	unsigned doubling = bytes <= 16 ? 0 : 60 - (unsigned)__builtin_clzll(bytes - 1);
	return doubling < TALLY_DOUBLINGS ? doubling : TALLY_DOUBLINGS - 1;
}

static inline uint64_t tally_doubling_limit(unsigned doubling)
{
	return tally_size_limit(doubling * 4 < TALLY_SIZES ? doubling * 4 : TALLY_SIZES - 1);
}

/* Latencies: eight buckets for each doubling of ns, so that a percentile read from them is at most
 * an eighth too high. */
#define TALLY_LATENCIES 512
#define TALLY_LATENCY_BITS 3
static inline unsigned tally_latency_bucket(uint64_t ns)
{
	return tally_bucket(ns, TALLY_LATENCY_BITS);
}

uint64_t tally_latency_limit(unsigned bucket); /* the largest ns in it */

/* Coarser: 0 is one of its own, and so is each doubling from 8 on; below, 1 to 7. */
#define TALLY_STEPS (TALLY_LATENCIES / 8)
static inline unsigned tally_step(uint64_t value)
{
	return value ? tally_bucket(value, TALLY_LATENCY_BITS) / 8 + 1 : 0;
}

static inline uint64_t tally_step_limit(unsigned step)
{
	return step ? tally_latency_limit(step * 8 - 1) : 0;
}

struct tally_latency {
	uint64_t bytes[TALLY_LATENCIES];
	uint64_t total_bytes;
	uint64_t max_ns;
};
void tally_latency(struct tally_latency *latency, uint64_t ns, uint64_t bytes);
void tally_latency_merge(struct tally_latency *to, const struct tally_latency *from);
/* The latency that `percent` of the bytes did not exceed; needs total_bytes > 0. */
uint64_t tally_percentile(const struct tally_latency *latency, unsigned percent);

#endif

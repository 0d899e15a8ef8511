/* SPDX-License-Identifier: MIT
 *
 * The time line of a stream: the ledger's state at even times, what the system calls of each
 * interval were, and the samples. Filled by ledger.c, read by csv.c.
 */
#ifndef HEAPLEDGER_TIMELINE_H
#define HEAPLEDGER_TIMELINE_H

#include "tally.h"

/* The memory of a process at one moment, in bytes. */
struct memory {
	int64_t requested;
	int64_t chunk; /* live blocks with header and rounding */
	int64_t live_blocks;
	int64_t break_bytes;
	int64_t arena_bytes; /* accessible */
	int64_t block_bytes;
	int64_t metadata_bytes;
	int64_t reserved_bytes; /* arenas' address space that is not accessible */
	int64_t resident_bytes; /* of the heap, by the kernel's record of faults; 0 without one */
};

/* Wraps, as a hostile trace may make it: the ledger's checks come later. */
static inline int64_t memory_sum(int64_t a, int64_t b)
{
	return (int64_t)((uint64_t)a + (uint64_t)b);
}

static inline void memory_add(struct memory *memory, const struct memory *by)
{
	memory->requested = memory_sum(memory->requested, by->requested);
	memory->chunk = memory_sum(memory->chunk, by->chunk);
	memory->live_blocks = memory_sum(memory->live_blocks, by->live_blocks);
	memory->break_bytes = memory_sum(memory->break_bytes, by->break_bytes);
	memory->arena_bytes = memory_sum(memory->arena_bytes, by->arena_bytes);
	memory->block_bytes = memory_sum(memory->block_bytes, by->block_bytes);
	memory->metadata_bytes = memory_sum(memory->metadata_bytes, by->metadata_bytes);
	memory->reserved_bytes = memory_sum(memory->reserved_bytes, by->reserved_bytes);
	memory->resident_bytes = memory_sum(memory->resident_bytes, by->resident_bytes);
}

static inline int64_t memory_mapped(const struct memory *memory)
{
	return memory->break_bytes + memory->arena_bytes + memory->block_bytes +
	       memory->metadata_bytes;
}

/* Mapped for blocks, but in no live one. */
static inline int64_t memory_free(const struct memory *memory)
{
	int64_t bytes = (int64_t)((uint64_t)memory_mapped(memory) -
				  (uint64_t)memory->metadata_bytes - (uint64_t)memory->chunk);
	return bytes > 0 ? bytes : 0;
}

/* Of all until now. */
struct timeline_sums {
	uint64_t returned_bytes;
	uint64_t thrash_cycles;
};

struct timeline_row {
	uint64_t tick; /* end of the interval */
	struct memory memory;
	struct timeline_sums sums;
	int64_t peak_requested;
	int64_t peak_mapped;
	struct memory rebased; /* what was found out in the next interval about all until here */
};

struct timeline_cause {
	uint32_t row;
	struct tally_cause cause;
};

struct timeline_sample {
	uint64_t tick;
	struct hl_sample_record sample;
};

struct timeline {
	uint64_t first_tick;
	uint64_t last_tick;
	uint32_t wanted; /* rows; 0 = no time line */
	uint32_t rows;
	uint64_t next_tick; /* the current interval ends before it */
	int64_t peak_requested;
	int64_t peak_mapped;
	struct timeline_row *row;
	struct timeline_cause *causes;
	size_t cause_count;
	size_t cause_capacity;
	struct timeline_sample *samples;
	size_t sample_count;
	size_t sample_capacity;
};

int timeline_start(
	struct timeline *timeline, uint64_t first_tick, uint64_t last_tick, uint32_t rows);

/* Ends the intervals before `tick`; call it when tick >= timeline->next_tick. */
void timeline_advance(struct timeline *timeline, uint64_t tick, const struct memory *memory,
	struct timeline_sums sums);
void timeline_finish(
	struct timeline *timeline, const struct memory *memory, struct timeline_sums sums);

/* What was taken down so far is not of the time line; its rows begin later. */
void timeline_restart(struct timeline *timeline, const struct memory *memory);

/* All until now was more by this much. */
void timeline_rebase(struct timeline *timeline, const struct memory *by);

int timeline_add_cause(struct timeline *timeline, const struct tally_cause *cause);
int timeline_add_sample(struct timeline *timeline, const struct hl_sample_record *sample);
void timeline_free(struct timeline *timeline);

#endif

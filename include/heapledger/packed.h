/* SPDX-License-Identifier: MIT
 *
 * The packed record: what a thread of the target writes into its page (session.h), 16 bytes for
 * nearly every call. Written by interposer/log.c, read by the collector, which turns it into the
 * records of record.h. Never in a file.
 *
 * A slot is two words. The first is kind << 56 | extra << 48 | addr, the address in 48 bits. What
 * follows depends on the kind:
 *
 * - Calls and realloc_begin, compact, extra < WIDE: one slot, word 1 = size << 48 | caller. An
 *   allocation's chunk is hl_packed_chunk(size) + 16 * extra, 0 if addr is 0; that of a free and of
 *   realloc_begin is 0.
 * - The same with extra = WIDE: three slots, word 1 = caller, then size, chunk with flags,
 *   alignment, reserved (0).
 * - HL_PACKED_TICK: one slot, word 1 = tick. What follows was made at that time or later.
 * - HL_PACKED_TICK_BACK: the same, and the record just before was made not before the tick that
 *   held for it and not after this one, which is what it gets.
 * - System calls, sample, phase: six slots, word 1 = tick, then words 2 to 11 of the record.
 * - Other marks: two slots, word 1 = tick, size, chunk.
 *
 * A record without a tick of its own was made after the latest tick before it in its page, which
 * begins with hl_page.tick. A timed record sets the tick for what follows, too.
 */
#ifndef HEAPLEDGER_PACKED_H
#define HEAPLEDGER_PACKED_H

#include "heapledger/record.h"

#include <stdint.h>

struct hl_packed {
	uint64_t word[2];
};

#define HL_PACKED_ADDRESS_BITS 48
#define HL_PACKED_ADDRESS_MASK ((UINT64_C(1) << HL_PACKED_ADDRESS_BITS) - 1)
#define HL_PACKED_WIDE UINT8_C(0xff)    /* extra: size, chunk and alignment follow */
#define HL_PACKED_SIZE_LIMIT (1u << 16) /* compact sizes are below */
#define HL_PACKED_EXTRA_BYTES 16u

/* Kinds that only pages hold, beyond those of calls.def. */
#define HL_PACKED_TICK 62
#define HL_PACKED_TICK_BACK 63

static inline uint64_t hl_packed_head(unsigned kind, unsigned extra, uint64_t addr)
{
	return (uint64_t)kind << 56 | (uint64_t)extra << HL_PACKED_ADDRESS_BITS |
	       (addr & HL_PACKED_ADDRESS_MASK);
}

static inline unsigned hl_packed_kind(uint64_t head)
{
	return (unsigned)(head >> 56);
}

static inline unsigned hl_packed_extra(uint64_t head)
{
	return (unsigned)(head >> HL_PACKED_ADDRESS_BITS) & 0xff;
}

/* What a block of this size takes by the heap's rule, header and rounding included. */
static inline uint64_t hl_packed_chunk(uint64_t size)
{
	uint64_t bytes = (size + 8 + 15) & ~UINT64_C(15);

	return bytes < 32 ? 32 : bytes;
}

/* Slots a record takes that starts with this word; 0 for a kind that does not exist. */
static inline unsigned hl_packed_slots(uint64_t head)
{
	switch (hl_packed_kind(head)) {
#define HL_CALL(number, name, shape) case number:
#include "heapledger/calls.def"
	case HL_KIND_realloc_begin:
		return hl_packed_extra(head) == HL_PACKED_WIDE ? 3 : 1;
	case HL_PACKED_TICK:
	case HL_PACKED_TICK_BACK:
		return 1;
#define HL_SYSCALL(number, name) case number:
#include "heapledger/calls.def"
	case HL_KIND_sample:
	case HL_KIND_phase:
		return 6;
	case HL_KIND_fork:
	case HL_KIND_lost:
	case HL_KIND_thread_start:
	case HL_KIND_thread_exit:
	case HL_KIND_clock:
	case HL_KIND_exit:
	case HL_KIND_begin:
	case HL_KIND_resident_begin:
	case HL_KIND_resident_run:
	case HL_KIND_kept:
		return 2;
	default:
		return 0;
	}
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * Turns records into the blocks of a trace file (heapledger/trace.h, "HL_BLOCK"): a block is built
 * column by column, then compressed into one run of bytes. Used by stream.c; does no I/O.
 */
#ifndef HEAPLEDGER_ENCODE_H
#define HEAPLEDGER_ENCODE_H

#include "define.h"
#include "varint.h"
#include "heapledger/packed.h"
#include "heapledger/record.h"
#include "heapledger/trace.h"

#include <stddef.h>
#include <stdint.h>

/* The addresses that ADDR can refer to, divided by 16, and where some of them are. */
struct encode_recent {
	uint64_t place[HL_BLOCK_RECENT]; /* a ring */
	uint8_t index[1024];             /* into it, by hash; whether it is there is looked up */
	uint8_t count;                   /* modulo the ring's length */
};

/* The records of one thread gathered so far. All zero is an empty block. */
struct encode_block {
	uint64_t first_tick;
	uint64_t last_tick;
	uint64_t other_addr; /* of the last record that was spelled out ... */
	uint64_t other_caller;
	uint32_t records;
	uint32_t raw_bytes; /* of all columns */
	bool many_ticks;    /* in what came last */
	struct encode_column column[HL_COLUMN_LIMIT];
	struct define_table definitions;
	struct encode_recent *recent;
};

/* Appends records from `slots` until they are all in, the block holds `limit_bytes`, or a tick goes
 * back (the block must be finished first). Returns how many slots were taken or -errno: -EINVAL for
 * a kind that does not exist or a record that is cut off. */
ptrdiff_t encode_append(struct encode_block *block, const struct hl_slot *slots, size_t count,
	uint32_t limit_bytes);

/* The same for what a target wrote into a page (heapledger/packed.h). *tick is the page's at first
 * and moves along: it belongs to the slots that were not taken yet. */
ptrdiff_t encode_append_packed(struct encode_block *block, uint64_t *tick,
	const struct hl_packed *slots, size_t count, uint32_t limit_bytes);

/* Makes header and payload, one run of bytes that stays valid until the next call in this thread.
 * `level` is zstd's; 0 stores the payload as it is. The block is left as it was. */
int encode_finish(const struct encode_block *block, uint32_t tid, uint64_t sequence, int level,
	const void **bytes, size_t *length);

/* Empties the block for the next records; encode_free also gives its memory back. */
void encode_reset(struct encode_block *block);
void encode_free(struct encode_block *block);

/* Before a thread that has finished blocks ends: gives back what it kept for that. */
void encode_thread_end(void);

#endif

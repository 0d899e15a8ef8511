/* SPDX-License-Identifier: MIT
 *
 * The table of live blocks: address -> what its record says. Filled by ledger.c, walked by layout.c.
 */
#ifndef HEAPLEDGER_LIVE_H
#define HEAPLEDGER_LIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct live_block {
	uint64_t addr; /* not 0 */
	uint64_t size;
	uint64_t chunk; /* as in hl_call_record: flags in the top byte */
	uint64_t tick;  /* of its allocation */
	uint64_t origin; /* live_origin() */
	double pinned;   /* what one block on each of its pages had pinned before (pages_add) */
	uint64_t record; /* of the stream, that made it; 0 = it was there before */
	uint64_t after;  /* so many bytes had been allocated, its own among them; or ... */
};
#define LIVE_BEFORE UINT64_MAX        /* ... it was there before, or nobody saw it being made */
#define LIVE_RESIZED (UINT64_MAX - 1) /* ... it was made earlier, and resized since */

#define LIVE_CALLER_BITS 48
#define LIVE_THREAD_LIMIT (UINT32_C(1) << 16)

/* Caller, or number of a stack, and the number of the thread in its process, from 1 on; 0 = beyond
 * the 65,535th. */
static inline uint64_t live_origin(uint64_t caller, uint32_t thread)
{
	return (uint64_t)(thread < LIVE_THREAD_LIMIT ? thread : 0) << LIVE_CALLER_BITS |
	       (caller & ((UINT64_C(1) << LIVE_CALLER_BITS) - 1));
}

static inline uint64_t live_caller(const struct live_block *block)
{
	return block->origin & ((UINT64_C(1) << LIVE_CALLER_BITS) - 1);
}

static inline uint32_t live_thread(const struct live_block *block)
{
	return (uint32_t)(block->origin >> LIVE_CALLER_BITS);
}

/* A place of the table: empty, or which block is there, and the half of its hash that says where it
 * belongs, so that nothing has to be looked up in the blocks to find one or to close a gap. */
struct live_place {
	uint32_t block; /* its number + 1; 0 = empty */
	uint32_t hash;
};

struct live {
	struct live_place *places; /* open addressing, at most two thirds full */
	size_t count;
	size_t limit; /* grow when count reaches it */
	unsigned bits; /* of the number of places; 0 = there are none */
	struct live_block *blocks; /* in no order */
	size_t made;  /* of them, those that are or were in use */
	size_t capacity;
	uint32_t unused; /* the first of those that are no more, + 1; its addr is the next one ... */
};
#define LIVE_UNUSED (UINT64_C(1) << 63) /* ... and this, which no address has */

/* Asks for what is needed of an address, some time ahead of its use: its place, and when that had time
 * to come, its block. */
void live_prefetch(const struct live *live, uint64_t addr);
void live_prefetch_block(const struct live *live, uint64_t addr);

/* Puts a block in. If the address is live already, *old is that block and the result 1; else 0 or
 * -ENOMEM. */
int live_add(struct live *live, const struct live_block *block, struct live_block *old);

/* Takes a block out into *block; false if there is none at this address. */
bool live_take(struct live *live, uint64_t addr, struct live_block *block);

/* The block at this address, or NULL; valid until the table changes. */
const struct live_block *live_find(const struct live *live, uint64_t addr);

/* Takes out what came with this record or later. */
void live_leave_before(struct live *live, uint64_t record);

int live_copy(struct live *to, const struct live *from);
void live_free(struct live *live);

/* Walks over all blocks in the order of memory: start with *at = 0; NULL at the end. */
static inline const struct live_block *live_each(const struct live *live, size_t *at)
{
	while (*at < live->made) {
		const struct live_block *block = &live->blocks[(*at)++];
		if (!(block->addr & LIVE_UNUSED))
			return block;
	}
	return NULL;
}

/* The same in the order of places, which sums of fractions depend on. Of those of live_change all but
 * the address may be changed. */
const struct live_block *live_next(const struct live *live, size_t *at);
struct live_block *live_change(struct live *live, size_t *at);

#endif

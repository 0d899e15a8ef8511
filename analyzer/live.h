/* SPDX-License-Identifier: MIT
 *
 * The table of live blocks: address -> size and chunk. Open addressing, 24 bytes a place, at most
 * two thirds full. Used by ledger.c only.
 */
#ifndef HEAPLEDGER_LIVE_H
#define HEAPLEDGER_LIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct live_block {
	uint64_t addr; /* 0 = an empty place */
	uint64_t size;
	uint64_t chunk; /* as in hl_call_record: flags in the top byte */
};

struct live {
	struct live_block *blocks;
	size_t count;
	size_t limit; /* grow when count reaches it */
	unsigned shift;
};

/* Puts a block in. If the address is live already, *old is that block and the result 1; else 0 or
 * -ENOMEM. */
int live_add(struct live *live, const struct live_block *block, struct live_block *old);

/* Takes a block out into *block; false if there is none at this address. */
bool live_take(struct live *live, uint64_t addr, struct live_block *block);

/* The block at this address, or NULL; valid until the table changes. */
const struct live_block *live_find(const struct live *live, uint64_t addr);

int live_copy(struct live *to, const struct live *from);
void live_free(struct live *live);

/* Walks over all blocks: start with *at = 0; NULL at the end. */
const struct live_block *live_next(const struct live *live, size_t *at);

#endif

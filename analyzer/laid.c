/* SPDX-License-Identifier: MIT
 *
 * laid.h.
 */
#include "laid.h"
#include "pages.h"

#include "heapledger/record.h"

#include <errno.h>
#include <stdlib.h>

#define HEADER_BYTES 8
#define LEAF_BITS 21
#define LEAF_PAGES (1u << (LEAF_BITS - PAGES_BITS))

struct laid_leaf {
	struct leaf leaf;
	struct laid_bytes all;
	uint32_t asked[LEAF_PAGES];
	uint32_t slack[LEAF_PAGES];
};

static uint64_t at_most(uint64_t value, uint64_t most)
{
	return value < most ? value : most;
}

static uint64_t page_end(uint64_t address)
{
	return ((address >> PAGES_BITS) + 1) << PAGES_BITS;
}

void laid_reach(const struct live_block *block, uint64_t *start, uint64_t *end)
{
	*start = *end = 0;
	if (block->chunk >> HL_ADDRESS_BITS & HL_CHUNK_MMAPPED || block->addr <= HEADER_BYTES)
		return;
	*start = block->addr - HEADER_BYTES;
	*end = *start + (block->chunk & HL_ADDRESS_MASK);
}

struct laid_bytes laid_of(const struct live_block *block, uint64_t start, uint64_t end)
{
	uint64_t from = start > block->addr ? start : block->addr;
	uint64_t to = at_most(end, block->addr + block->size);
	uint64_t asked = from < to ? to - from : 0;
	return (struct laid_bytes){asked, end - start - asked};
}

static struct laid_leaf *find_or_add(struct laid *laid, uint64_t key)
{
	struct laid_leaf *leaf = (struct laid_leaf *)leaves_find(&laid->leaves, key);
	if (leaf || laid->leaves.count >= PAGES_LEAF_LIMIT)
		return leaf;
	leaf = calloc(1, sizeof(*leaf));
	if (leaf)
		leaf->leaf.key = key;
	if (leaf && !leaves_add(&laid->leaves, &leaf->leaf))
		return leaf;
	free(leaf);
	laid->starved = true;
	return NULL;
}

void laid_change(struct laid *laid, const struct live_block *block, bool comes)
{
	uint64_t at, end;
	laid_reach(block, &at, &end);
	if (end - at > LAID_MOST_BYTES) {
		laid->larger += comes ? 1 : UINT64_MAX;
		return;
	}
	while (at < end) {
		struct laid_leaf *leaf = find_or_add(laid, at >> LEAF_BITS);
		if (!leaf)
			return; /* beyond the limit, where there is never one */
		do {
			uint64_t until = at_most(page_end(at), end);
			struct laid_bytes bytes = laid_of(block, at, until);
			unsigned page = at >> PAGES_BITS & (LEAF_PAGES - 1);
			if (!comes)
				bytes = (struct laid_bytes){0 - bytes.asked, 0 - bytes.slack};
			leaf->asked[page] += (uint32_t)bytes.asked;
			leaf->slack[page] += (uint32_t)bytes.slack;
			leaf->all.asked += bytes.asked;
			leaf->all.slack += bytes.slack;
			at = until;
		} while (at < end && at >> LEAF_BITS == leaf->leaf.key);
	}
}

int laid_start(struct laid *laid, const struct live *live)
{
	size_t at = 0;
	laid->wanted = true;
	for (const struct live_block *block; (block = live_each(live, &at));)
		laid_change(laid, block, true);
	return laid->starved ? -ENOMEM : 0;
}

struct laid_bytes laid_sum(const struct laid *laid, uint64_t start, uint64_t end)
{
	struct laid_bytes sum = {0};
	uint64_t page = start >> PAGES_BITS, last = (end + (1 << PAGES_BITS) - 1) >> PAGES_BITS;
	while (page < last) {
		const struct laid_leaf *leaf =
			(const struct laid_leaf *)leaves_look_up(&laid->leaves, page / LEAF_PAGES);
		uint64_t next = at_most((page / LEAF_PAGES + 1) * LEAF_PAGES, last);
		if (leaf && next - page == LEAF_PAGES) {
			sum.asked += leaf->all.asked;
			sum.slack += leaf->all.slack;
		} else {
			for (; leaf && page < next; page++) {
				sum.asked += leaf->asked[page % LEAF_PAGES];
				sum.slack += leaf->slack[page % LEAF_PAGES];
			}
		}
		page = next;
	}
	return sum;
}

void laid_free(struct laid *laid)
{
	leaves_free(&laid->leaves);
	*laid = (struct laid){0};
}

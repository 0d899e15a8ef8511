/* SPDX-License-Identifier: MIT
 *
 * A hash of 2 MiB leaves of 512 pages; the leaf used last is at hand, which is nearly always the
 * right one.
 */
#include "pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LEAF_BITS 21
#define LEAF_PAGES (1u << (LEAF_BITS - PAGES_BITS))

enum page_state { PAGE_UNUSED, PAGE_LIVE, PAGE_FREE, PAGE_RETURNED };

struct page {
	uint64_t free_since;
	uint32_t blocks;
	uint32_t state;
};

struct pages_leaf {
	uint64_t key;
	struct page page[LEAF_PAGES];
};

static size_t place_of(const struct pages *pages, uint64_t key)
{
	size_t place = (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (pages->size - 1);
	while (pages->leaves[place] && pages->leaves[place]->key != key)
		place = (place + 1) & (pages->size - 1);
	return place;
}

static struct pages_leaf *look_up(const struct pages *pages, uint64_t key)
{
	if (pages->last && pages->last->key == key)
		return pages->last;
	return pages->size ? pages->leaves[place_of(pages, key)] : NULL;
}

static struct pages_leaf *find(struct pages *pages, uint64_t key)
{
	struct pages_leaf *leaf = look_up(pages, key);
	if (leaf)
		pages->last = leaf;
	return leaf;
}

static int grow(struct pages *pages)
{
	struct pages grown = {.size = pages->size ? pages->size * 2 : 16};
	grown.leaves = calloc(grown.size, sizeof(struct pages_leaf *));
	if (!grown.leaves)
		return -ENOMEM;
	for (size_t i = 0; i < pages->size; i++)
		if (pages->leaves[i])
			grown.leaves[place_of(&grown, pages->leaves[i]->key)] = pages->leaves[i];
	free(pages->leaves);
	pages->leaves = grown.leaves;
	pages->size = grown.size;
	return 0;
}

static size_t limit_of(const struct pages *pages)
{
	return pages->limit ? pages->limit : PAGES_LEAF_LIMIT;
}

static struct pages_leaf *find_or_add(struct pages *pages, uint64_t key)
{
	struct pages_leaf *leaf = find(pages, key);
	if (leaf)
		return leaf;
	if (pages->count >= limit_of(pages))
		return NULL;
	if (pages->count >= pages->size / 2 && grow(pages))
		return NULL;
	leaf = calloc(1, sizeof(*leaf));
	if (!leaf)
		return NULL;
	leaf->key = key;
	pages->leaves[place_of(pages, key)] = leaf;
	pages->count++;
	return pages->last = leaf;
}

static inline unsigned page_in_leaf(uint64_t number)
{
	return number & (LEAF_PAGES - 1);
}

int pages_add(
	struct pages *pages, uint64_t start, uint64_t end, pages_freed *reused, void *context)
{
	uint64_t last = (end - 1) >> PAGES_BITS;
	for (uint64_t number = start >> PAGES_BITS; number <= last;) {
		struct pages_leaf *leaf = find_or_add(pages, number >> (LEAF_BITS - PAGES_BITS));
		if (!leaf)
			return pages->count >= limit_of(pages) ? -E2BIG : -ENOMEM;
		do {
			struct page *page = &leaf->page[page_in_leaf(number)];
			if (page->state == PAGE_FREE) {
				pages->reused_pages++;
				if (reused)
					reused(context, page->free_since, 1);
			}
			page->state = PAGE_LIVE;
			page->blocks++;
		} while (++number <= last && page_in_leaf(number));
	}
	return 0;
}

static void uncover(
	struct pages *pages, uint64_t start, uint64_t end, enum page_state left, uint64_t tick)
{
	uint64_t last = (end - 1) >> PAGES_BITS;
	for (uint64_t number = start >> PAGES_BITS; number <= last;) {
		struct pages_leaf *leaf = find(pages, number >> (LEAF_BITS - PAGES_BITS));
		if (!leaf)
			return;
		do {
			struct page *page = &leaf->page[page_in_leaf(number)];
			if (page->blocks && !--page->blocks) {
				page->state = left;
				page->free_since = tick;
			}
		} while (++number <= last && page_in_leaf(number));
	}
}

void pages_remove(struct pages *pages, uint64_t start, uint64_t end, uint64_t tick)
{
	uncover(pages, start, end, PAGE_FREE, tick);
}

void pages_forget(struct pages *pages, uint64_t start, uint64_t end)
{
	uncover(pages, start, end, PAGE_UNUSED, 0);
}

/* A range that goes back, and what has been found in it. */
struct return_range {
	uint64_t first;
	uint64_t end;
	bool unmapped;
	pages_freed *returned;
	void *context;
	struct pages_taken taken;
};

/* Pages that still hold a block (the program unmapped under itself, or the trace lies) stay LIVE.
 */
static void return_page(struct page *page, struct return_range *range)
{
	enum page_state left = range->unmapped ? PAGE_UNUSED : PAGE_RETURNED;

	range->taken.used += page->state == PAGE_LIVE || page->state == PAGE_FREE;
	range->taken.returned += page->state == PAGE_RETURNED;
	if (page->state == PAGE_FREE)
		range->returned(range->context, page->free_since, 1);
	if (page->state == PAGE_FREE || page->state == PAGE_RETURNED)
		page->state = left;
}

static void return_in_leaf(struct pages_leaf *leaf, uint64_t number, struct return_range *range)
{
	do
		return_page(&leaf->page[page_in_leaf(number)], range);
	while (++number < range->end && page_in_leaf(number));
}

/* For a range larger than everything known: a trace may name any range at all. */
static void return_by_leaf(struct pages *pages, struct return_range *range)
{
	for (size_t i = 0; i < pages->size; i++) {
		struct pages_leaf *leaf = pages->leaves[i];
		for (unsigned j = 0; leaf && j < LEAF_PAGES; j++) {
			uint64_t number = leaf->key * LEAF_PAGES + j;
			if (number >= range->first && number < range->end)
				return_page(&leaf->page[j], range);
		}
	}
}

struct pages_taken pages_return(struct pages *pages, uint64_t start, uint64_t end, bool unmapped,
	pages_freed *returned, void *context)
{
	struct return_range range = {
		.first = (start + (1 << PAGES_BITS) - 1) >> PAGES_BITS,
		.end = end >> PAGES_BITS,
		.unmapped = unmapped,
		.returned = returned,
		.context = context,
	};
	uint64_t number = range.first;
	if (number >= range.end)
		return range.taken;
	if ((range.end - number) / LEAF_PAGES > pages->count) {
		return_by_leaf(pages, &range);
		return range.taken;
	}
	while (number < range.end) {
		struct pages_leaf *leaf = find(pages, number >> (LEAF_BITS - PAGES_BITS));
		if (leaf)
			return_in_leaf(leaf, number, &range);
		number = (number / LEAF_PAGES + 1) * LEAF_PAGES;
	}
	return range.taken;
}

struct pages_count pages_count(const struct pages *pages, uint64_t start, uint64_t end)
{
	struct pages_count count = {0};
	uint64_t number = start >> PAGES_BITS, last = end >> PAGES_BITS;
	while (number < last) {
		const struct pages_leaf *leaf = look_up(pages, number / LEAF_PAGES);
		uint64_t next = (number / LEAF_PAGES + 1) * LEAF_PAGES;
		for (next = next < last ? next : last; leaf && number < next; number++) {
			const struct page *page = &leaf->page[page_in_leaf(number)];
			count.live += page->state == PAGE_LIVE;
			count.free += page->state == PAGE_FREE;
			count.returned += page->state == PAGE_RETURNED;
		}
		number = next;
	}
	return count;
}

void pages_prefetch(const struct pages *pages, uint64_t address)
{
	uint64_t number = address >> PAGES_BITS;
	const struct pages_leaf *leaf = look_up(pages, number / LEAF_PAGES);
	if (leaf)
		__builtin_prefetch(&leaf->page[page_in_leaf(number)], 1);
}

void pages_waiting(const struct pages *pages, pages_freed *waiting, void *context)
{
	for (size_t i = 0; i < pages->size; i++) {
		const struct pages_leaf *leaf = pages->leaves[i];
		for (unsigned j = 0; leaf && j < LEAF_PAGES; j++)
			if (leaf->page[j].state == PAGE_FREE)
				waiting(context, leaf->page[j].free_since, 1);
	}
}

int pages_copy(struct pages *to, const struct pages *from)
{
	*to = (struct pages){.size = from->size, .limit = from->limit};
	if (!from->size)
		return 0;
	to->leaves = calloc(from->size, sizeof(struct pages_leaf *));
	if (!to->leaves) {
		to->size = 0;
		return -ENOMEM;
	}
	for (size_t i = 0; i < from->size; i++) {
		if (!from->leaves[i])
			continue;
		to->leaves[i] = malloc(sizeof(struct pages_leaf));
		if (!to->leaves[i]) {
			pages_free(to);
			return -ENOMEM;
		}
		memcpy(to->leaves[i], from->leaves[i], sizeof(struct pages_leaf));
		to->count++;
		/* Pages that were free before the fork are in the parent's account. */
		for (unsigned j = 0; j < LEAF_PAGES; j++)
			if (to->leaves[i]->page[j].state == PAGE_FREE)
				to->leaves[i]->page[j].state = PAGE_UNUSED;
	}
	return 0;
}

void pages_free(struct pages *pages)
{
	for (size_t i = 0; i < pages->size; i++)
		free(pages->leaves[i]);
	free(pages->leaves);
	*pages = (struct pages){0};
}

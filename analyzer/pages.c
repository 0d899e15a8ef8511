/* SPDX-License-Identifier: MIT
 *
 * Leaves of 2 MiB, of 512 pages.
 */
#include "pages.h"
#include "room.h"
#include "tally.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LEAF_BITS 21
#define LEAF_PAGES (1u << (LEAF_BITS - PAGES_BITS))

#define WORD_BITS 64
#define LEAF_WORDS (LEAF_PAGES / WORD_BITS)

enum page_state { PAGE_UNUSED, PAGE_LIVE, PAGE_FREE, PAGE_RETURNED };

#define PAGE_BYTES (UINT64_C(1) << PAGES_BITS)

struct page {
	uint64_t tick; /* FREE: since then; LIVE: `pinned` is up to then */
	double pinned; /* LIVE: by each block that is on it since it is LIVE, bytes x ticks */
	uint32_t blocks; /* LIVE; else the site of the last block */
	uint16_t covered; /* bytes, by blocks */
	uint8_t state : 4;
	uint8_t told : 4; /* of which moments its state was kept, a bit each */
	uint8_t size_class; /* of the last block */
};

struct pages_leaf {
	struct leaf leaf;
	struct holds_slice slice;
	uint64_t freed_tick; /* when the last one of its pages became FREE */
	/* Which pages, as their `state` says, to be counted; those that are LIVE are in the slice. */
	uint64_t free[LEAF_WORDS];
	uint64_t returned[LEAF_WORDS];
	struct page page[LEAF_PAGES];
};

static_assert(LEAF_PAGES == HOLDS_SLICE_PAGES, "a leaf is a slice");
static_assert(TALLY_SIZES <= UINT8_MAX, "a class fits into a page");

static struct pages_leaf *look_up(const struct pages *pages, uint64_t key)
{
	return (struct pages_leaf *)leaves_look_up(&pages->leaves, key);
}

static struct pages_leaf *find(struct pages *pages, uint64_t key)
{
	return (struct pages_leaf *)leaves_find(&pages->leaves, key);
}

static struct pages_leaf *next_leaf(const struct pages *pages, size_t *at)
{
	return (struct pages_leaf *)leaves_next(&pages->leaves, at);
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
	if (pages->leaves.count >= limit_of(pages))
		return NULL;
	leaf = calloc(1, sizeof(*leaf));
	if (!leaf)
		return NULL;
	leaf->leaf.key = key;
	if (leaves_add(&pages->leaves, &leaf->leaf)) {
		free(leaf);
		return NULL;
	}
	if (!holds_place(&pages->holds, &leaf->slice, key * LEAF_PAGES, false))
		return leaf;
	pages->starved = true;
	return NULL;
}

static inline unsigned page_in_leaf(uint64_t number)
{
	return number & (LEAF_PAGES - 1);
}

/* To or from LIVE is told to holds.c, too. */
static inline void put(struct pages_leaf *leaf, unsigned nth, enum page_state state)
{
	uint64_t bit = UINT64_C(1) << nth % WORD_BITS;
	enum page_state old = leaf->page[nth].state;
	if (old == PAGE_FREE)
		leaf->free[nth / WORD_BITS] &= ~bit;
	else if (old == PAGE_RETURNED)
		leaf->returned[nth / WORD_BITS] &= ~bit;
	if (state == PAGE_FREE)
		leaf->free[nth / WORD_BITS] |= bit;
	else if (state == PAGE_RETURNED)
		leaf->returned[nth / WORD_BITS] |= bit;
	leaf->page[nth].state = state & 0xf;
}

/* Its free bytes have been pinned by the blocks on it, each by as much, since it was looked at. */
static inline void settle(struct page *page, uint64_t tick)
{
	if (tick <= page->tick)
		return;
	if (page->covered < PAGE_BYTES)
		page->pinned += (double)((int64_t)PAGE_BYTES - page->covered) *
				(double)(int64_t)(tick - page->tick) / page->blocks;
	page->tick = tick;
}

static inline uint64_t overlap(uint64_t number, uint64_t start, uint64_t end)
{
	uint64_t from = number << PAGES_BITS, to = from + PAGE_BYTES;
	return (end < to ? end : to) - (start > from ? start : from);
}

static struct pages_wait wait_of(
	const struct pages *pages, const struct pages_leaf *leaf, unsigned nth)
{
	const struct page *page = &leaf->page[nth];
	const struct holds_step *step = holds_clear(&pages->holds, &leaf->slice, nth);
	struct pages_wait wait = {.since = page->tick,
		.site = page->blocks,
		.size_class = page->size_class,
		.held = !step,
		.area = leaf->slice.area};
	if (step) {
		wait.clear_since = step->tick;
		wait.clear_site = step->site;
	}
	return wait;
}

/* ---- moments --------------------------------------------------------------------------------- */

#define STATE_BITS 2

static int tell(struct pages_changed *changed, uint64_t number, unsigned state)
{
	uint64_t *list = room_for_one(
		changed->list, changed->count, &changed->capacity, sizeof(*list));
	if (!list)
		return -ENOMEM;
	changed->list = list;
	list[changed->count++] = number << STATE_BITS | state;
	return 0;
}

static void tell_all(struct pages *pages, struct pages_leaf *leaf, unsigned nth)
{
	struct page *page = &leaf->page[nth];
	for (unsigned i = 0; i < PAGES_MOMENTS; i++)
		if ((pages->kept & ~page->told) >> i & 1 &&
			tell(&pages->changed[i], leaf->leaf.key * LEAF_PAGES + nth, page->state))
			pages->starved = true;
	page->told = pages->kept & 0xf;
}

/* It will have another state. */
static inline void page_turns(struct pages *pages, struct pages_leaf *leaf, unsigned nth)
{
	if (__builtin_expect(pages->kept & ~leaf->page[nth].told, 0))
		tell_all(pages, leaf, nth);
}

static struct pages_leaf *leaf_of(struct pages *pages, uint64_t entry, unsigned *nth)
{
	uint64_t number = entry >> STATE_BITS;
	*nth = page_in_leaf(number);
	return find(pages, number / LEAF_PAGES);
}

void pages_forget_kept(struct pages *pages, unsigned nth)
{
	struct pages_changed *changed = &pages->changed[nth];
	for (size_t i = 0; i < changed->count; i++) {
		unsigned page;
		leaf_of(pages, changed->list[i], &page)->page[page].told &= ~(1u << nth) & 0xf;
	}
	changed->count = 0;
	pages->kept &= ~(1u << nth);
}

void pages_keep(struct pages *pages, unsigned nth)
{
	pages_forget_kept(pages, nth);
	pages->kept |= 1u << nth;
}

void pages_go_back(struct pages *pages, unsigned nth)
{
	const struct pages_changed *changed = &pages->changed[nth];
	for (size_t i = 0; i < changed->count; i++) {
		unsigned page;
		struct pages_leaf *leaf = leaf_of(pages, changed->list[i], &page);
		enum page_state state = changed->list[i] & ((1u << STATE_BITS) - 1);
		uint64_t bit = UINT64_C(1) << page % WORD_BITS;
		put(leaf, page, state);
		leaf->slice.live[page / WORD_BITS] &= ~bit;
		leaf->slice.live[page / WORD_BITS] |= state == PAGE_LIVE ? bit : 0;
	}
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* The first block comes to a page. */
static void begin_page(struct pages *pages, struct pages_leaf *leaf, unsigned nth, uint64_t tick,
	pages_freed *reused, void *context)
{
	struct page *page = &leaf->page[nth];
	if (page->state == PAGE_FREE) {
		struct pages_wait wait = wait_of(pages, leaf, nth);
		pages->reused_pages++;
		if (reused)
			reused(context, &wait);
	}
	page_turns(pages, leaf, nth);
	put(leaf, nth, PAGE_LIVE);
	*page = (struct page){.tick = tick, .state = PAGE_LIVE, .told = page->told};
	holds_page(&pages->holds, &leaf->slice, nth);
}

int pages_add(struct pages *pages, uint64_t start, uint64_t end, uint64_t tick, pages_freed *reused,
	void *context, double *pinned)
{
	uint64_t last = (end - 1) >> PAGES_BITS;
	*pinned = 0;
	for (uint64_t number = start >> PAGES_BITS; number <= last;) {
		struct pages_leaf *leaf = find_or_add(pages, number >> (LEAF_BITS - PAGES_BITS));
		if (!leaf)
			return pages->leaves.count >= limit_of(pages) ? -E2BIG : -ENOMEM;
		do {
			struct page *page = &leaf->page[page_in_leaf(number)];
			if (page->state == PAGE_LIVE)
				settle(page, tick);
			else
				begin_page(pages, leaf, page_in_leaf(number), tick, reused, context);
			page->blocks++;
			page->covered = (uint16_t)(page->covered + overlap(number, start, end));
			*pinned += page->pinned;
		} while (++number <= last && page_in_leaf(number));
	}
	return 0;
}

static double uncover(struct pages *pages, uint64_t start, uint64_t end, enum page_state left,
	const struct pages_gone *gone)
{
	uint64_t last = (end - 1) >> PAGES_BITS;
	double pinned = 0;
	for (uint64_t number = start >> PAGES_BITS; number <= last;) {
		struct pages_leaf *leaf = find(pages, number >> (LEAF_BITS - PAGES_BITS));
		if (!leaf)
			return pinned;
		do {
			struct page *page = &leaf->page[page_in_leaf(number)];
			if (page->state != PAGE_LIVE)
				continue;
			settle(page, gone->tick);
			pinned += page->pinned;
			page->covered = (uint16_t)(page->covered - overlap(number, start, end));
			if (--page->blocks)
				continue;
			page_turns(pages, leaf, page_in_leaf(number));
			put(leaf, page_in_leaf(number), left);
			leaf->freed_tick = left == PAGE_FREE ? gone->tick : leaf->freed_tick;
			*page = (struct page){.tick = gone->tick,
				.state = left & 0xf,
				.told = page->told,
				.blocks = gone->site,
				.size_class = gone->size_class};
			if (holds_page_gone(&pages->holds, &leaf->slice, page_in_leaf(number),
				    gone->tick, gone->site))
				pages->starved = true;
		} while (++number <= last && page_in_leaf(number));
	}
	return pinned;
}

double pages_remove(
	struct pages *pages, uint64_t start, uint64_t end, const struct pages_gone *gone)
{
	return uncover(pages, start, end, PAGE_FREE, gone);
}

void pages_forget(struct pages *pages, uint64_t start, uint64_t end)
{
	uncover(pages, start, end, PAGE_UNUSED, &(struct pages_gone){0});
}

double pages_pinned(struct pages *pages, uint64_t start, uint64_t end, uint64_t tick)
{
	uint64_t last = (end - 1) >> PAGES_BITS;
	double pinned = 0;
	for (uint64_t number = start >> PAGES_BITS; number <= last;) {
		struct pages_leaf *leaf = find(pages, number / LEAF_PAGES);
		if (!leaf)
			return pinned; /* pages_add came no further, either */
		do {
			struct page *page = &leaf->page[page_in_leaf(number)];
			if (page->state != PAGE_LIVE)
				continue;
			settle(page, tick);
			pinned += page->pinned;
		} while (++number <= last && page_in_leaf(number));
	}
	return pinned;
}

void pages_pin_anew(struct pages *pages, uint64_t tick)
{
	size_t at = 0;
	for (struct pages_leaf *leaf; (leaf = next_leaf(pages, &at));) {
		for (unsigned j = 0; j < LEAF_PAGES; j++) {
			struct page *page = &leaf->page[j];
			page->pinned = 0;
			if (page->state == PAGE_LIVE)
				page->tick = tick;
		}
	}
}

/* A range that goes back, and what has been found in it. */
struct return_range {
	struct pages *pages;
	uint64_t first;
	uint64_t end;
	bool unmapped;
	pages_freed *returned;
	void *context;
	struct pages_taken taken;
};

/* Pages that still hold a block (the program unmapped under itself, or the trace lies) stay LIVE.
 */
static void return_page(struct pages_leaf *leaf, unsigned nth, struct return_range *range)
{
	struct page *page = &leaf->page[nth];
	enum page_state left = range->unmapped ? PAGE_UNUSED : PAGE_RETURNED;

	range->taken.used += page->state == PAGE_LIVE || page->state == PAGE_FREE;
	range->taken.returned += page->state == PAGE_RETURNED;
	if (page->state == PAGE_FREE) {
		struct pages_wait wait = wait_of(range->pages, leaf, nth);
		range->returned(range->context, &wait);
	}
	if (page->state == PAGE_FREE || page->state == PAGE_RETURNED) {
		page_turns(range->pages, leaf, nth);
		put(leaf, nth, left);
	}
}

static void return_in_leaf(struct pages_leaf *leaf, uint64_t number, struct return_range *range)
{
	do
		return_page(leaf, page_in_leaf(number), range);
	while (++number < range->end && page_in_leaf(number));
}

/* For a range larger than everything known: a trace may name any range at all. */
static void return_by_leaf(struct pages *pages, struct return_range *range)
{
	size_t at = 0;
	for (struct pages_leaf *leaf; (leaf = next_leaf(pages, &at));) {
		for (unsigned j = 0; j < LEAF_PAGES; j++) {
			uint64_t number = leaf->leaf.key * LEAF_PAGES + j;
			if (number >= range->first && number < range->end)
				return_page(leaf, j, range);
		}
	}
}

struct pages_taken pages_return(struct pages *pages, uint64_t start, uint64_t end, bool unmapped,
	pages_freed *returned, void *context)
{
	struct return_range range = {
		.pages = pages,
		.first = (start + (1 << PAGES_BITS) - 1) >> PAGES_BITS,
		.end = end >> PAGES_BITS,
		.unmapped = unmapped,
		.returned = returned,
		.context = context,
	};
	uint64_t number = range.first;
	if (number >= range.end)
		return range.taken;
	if ((range.end - number) / LEAF_PAGES > pages->leaves.count) {
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

/* Those of a word from `first` on, and before `end`, both in a leaf. */
static inline uint64_t bits_of(unsigned word, unsigned first, unsigned end)
{
	uint64_t bits = UINT64_MAX;
	if (first > word * WORD_BITS)
		bits <<= first - word * WORD_BITS;
	if (end < (word + 1) * WORD_BITS)
		bits &= (UINT64_C(1) << (end - word * WORD_BITS)) - 1;
	return bits;
}

static inline unsigned bits_set(uint64_t word)
{
	return word ? (unsigned)__builtin_popcountll(word) : 0;
}

static void count_in_leaf(
	const struct pages_leaf *leaf, unsigned first, unsigned end, struct pages_count *count)
{
	for (unsigned word = first / WORD_BITS; word * WORD_BITS < end; word++) {
		uint64_t bits = bits_of(word, first, end);
		count->live += bits_set(leaf->slice.live[word] & bits);
		count->free += bits_set(leaf->free[word] & bits);
		count->returned += bits_set(leaf->returned[word] & bits);
	}
}

struct pages_count pages_count(const struct pages *pages, uint64_t start, uint64_t end)
{
	struct pages_count count = {0};
	uint64_t number = start >> PAGES_BITS, last = end >> PAGES_BITS;
	while (number < last) {
		const struct pages_leaf *leaf = look_up(pages, number / LEAF_PAGES);
		uint64_t next = (number / LEAF_PAGES + 1) * LEAF_PAGES;
		next = next < last ? next : last;
		if (leaf)
			count_in_leaf(leaf, page_in_leaf(number), page_in_leaf(next - 1) + 1, &count);
		number = next;
	}
	return count;
}

static uint64_t free_since_in_leaf(
	const struct pages_leaf *leaf, unsigned first, unsigned end, uint64_t tick)
{
	uint64_t count = 0;
	for (unsigned word = first / WORD_BITS; word * WORD_BITS < end; word++) {
		uint64_t bits = leaf->free[word] & bits_of(word, first, end);
		if (leaf->freed_tick <= tick) {
			count += bits_set(bits);
			continue;
		}
		for (; bits; bits &= bits - 1) {
			unsigned nth = word * WORD_BITS + (unsigned)__builtin_ctzll(bits);
			count += leaf->page[nth].tick <= tick;
		}
	}
	return count;
}

uint64_t pages_free_since(const struct pages *pages, uint64_t start, uint64_t end, uint64_t tick)
{
	uint64_t number = start >> PAGES_BITS, last = end >> PAGES_BITS, count = 0;
	while (number < last) {
		const struct pages_leaf *leaf = look_up(pages, number / LEAF_PAGES);
		uint64_t next = (number / LEAF_PAGES + 1) * LEAF_PAGES;
		next = next < last ? next : last;
		if (leaf)
			count += free_since_in_leaf(
				leaf, page_in_leaf(number), page_in_leaf(next - 1) + 1, tick);
		number = next;
	}
	return count;
}

void pages_prefetch(const struct pages *pages, uint64_t address)
{
	uint64_t number = address >> PAGES_BITS;
	const struct pages_leaf *leaf = look_up(pages, number / LEAF_PAGES);
	if (!leaf)
		return;
	const struct page *page = &leaf->page[page_in_leaf(number)];
	__builtin_prefetch(page, 1);
	__builtin_prefetch((const char *)(page + 1) - 1, 1);
	__builtin_prefetch(&leaf->slice.live[page_in_leaf(number) / WORD_BITS], 1);
}

void pages_waiting(const struct pages *pages, pages_freed *waiting, void *context)
{
	size_t at = 0;
	for (const struct pages_leaf *leaf; (leaf = next_leaf(pages, &at));) {
		for (unsigned j = 0; j < LEAF_PAGES; j++) {
			if (leaf->page[j].state != PAGE_FREE)
				continue;
			struct pages_wait wait = wait_of(pages, leaf, j);
			waiting(context, &wait);
		}
	}
}

/* ---- arenas ---------------------------------------------------------------------------------- */

#define SEGMENT_BITS (HOLDS_SEGMENT_PAGES_BITS + PAGES_BITS)
#define SEGMENT_LEAVES (1u << (SEGMENT_BITS - LEAF_BITS))

int pages_arena(struct pages *pages, uint64_t addr, unsigned arena)
{
	uint64_t key = addr >> SEGMENT_BITS;
	bool is_new;
	int rc = holds_segment_begins(&pages->holds, key, arena, &is_new);
	/* What lay at these addresses before belonged elsewhere. */
	for (unsigned i = 0; !rc && is_new && i < SEGMENT_LEAVES; i++) {
		struct pages_leaf *leaf = look_up(pages, key * SEGMENT_LEAVES + i);
		if (leaf && !leaf->slice.count)
			rc = holds_place(&pages->holds, &leaf->slice, leaf->leaf.key * LEAF_PAGES, true);
	}
	return rc;
}

void pages_arena_ends(struct pages *pages, uint64_t start, uint64_t end)
{
	uint64_t first = (start + (UINT64_C(1) << SEGMENT_BITS) - 1) >> SEGMENT_BITS;
	holds_segments_end(&pages->holds, first, end >> SEGMENT_BITS);
}

uint32_t pages_area(const struct pages *pages, uint64_t addr, uint64_t *position)
{
	const struct pages_leaf *leaf = look_up(pages, addr >> LEAF_BITS);
	uint64_t page = leaf ? leaf->slice.first + page_in_leaf(addr >> PAGES_BITS) : 0;
	*position = leaf ? (page << PAGES_BITS | (addr & (PAGE_BYTES - 1))) + 1 : 0;
	return leaf ? leaf->slice.area : 0;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* Pages that were free before the fork are in the parent's account. */
static int copy_leaf(struct pages *to, const struct pages_leaf *from, uint64_t tick)
{
	struct pages_leaf *leaf = find_or_add(to, from->leaf.key);
	if (!leaf)
		return -ENOMEM;
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		struct page *page = &leaf->page[i];
		enum page_state state = from->page[i].state;
		put(leaf, i, state == PAGE_FREE ? PAGE_UNUSED : state);
		uint8_t copied = page->state;
		*page = from->page[i];
		page->told = 0;
		page->state = copied & 0xf;
		if (page->state != PAGE_LIVE)
			continue;
		page->pinned = 0;
		page->tick = tick;
		holds_page(&to->holds, &leaf->slice, i);
	}
	return 0;
}

int pages_copy(struct pages *to, const struct pages *from, uint64_t tick)
{
	*to = (struct pages){.limit = from->limit};
	int rc = holds_copy_areas(&to->holds, &from->holds);
	size_t at = 0;
	for (const struct pages_leaf *leaf; !rc && (leaf = next_leaf(from, &at));)
		rc = copy_leaf(to, leaf, tick);
	if (rc)
		pages_free(to);
	return rc;
}

int pages_clear(struct pages *pages)
{
	struct pages cleared = {.limit = pages->limit, .starved = pages->starved};
	int rc = holds_copy_areas(&cleared.holds, &pages->holds);
	pages_free(pages);
	*pages = cleared;
	return rc;
}

void pages_free(struct pages *pages)
{
	leaves_free(&pages->leaves);
	for (unsigned i = 0; i < PAGES_MOMENTS; i++)
		free(pages->changed[i].list);
	holds_free(&pages->holds);
	*pages = (struct pages){0};
}

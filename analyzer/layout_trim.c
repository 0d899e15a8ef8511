/* SPDX-License-Identifier: MIT
 *
 * layout_walk.h. malloc_trim, told without calling it: what lies free between the blocks, and how
 * much of it is whole pages that were touched.
 */
#include "layout_walk.h"

/* malloc_trim keeps the head of a free chunk, 56 bytes (interposer/chunk.h) from 8 before where we
 * say that it begins, and its last 8 are the next one's. */
#define TRIM_HEAD 48
#define TRIM_TAIL 8
#define TOP_LEAST 25 /* 32 bytes from there, and one */

static uint64_t touched(const struct walk *walk, uint64_t start, uint64_t end, bool with_blocks)
{
	if (start >= end)
		return 0;
	struct pages_count count = pages_count(&walk->ledger->pages, start, end);
	return (count.free + (with_blocks ? count.live : 0)) << PAGES_BITS;
}

uint64_t layout_trimmed(const struct walk *walk, uint64_t start, uint64_t end, bool with_blocks)
{
	return touched(walk, layout_align_up(start + TRIM_HEAD, PAGES_BITS),
		layout_align_down(end - TRIM_TAIL, PAGES_BITS), with_blocks);
}

uint64_t layout_top_pages(const struct walk *walk, uint64_t start, uint64_t end, bool with_blocks)
{
	return touched(walk, layout_align_up(start + TOP_LEAST, PAGES_BITS),
		layout_align_down(end, PAGES_BITS), with_blocks);
}

bool layout_goes_first(const struct live_block *block)
{
	uint64_t caller = live_caller(block);
	enum hl_kept kept = layout_kept(caller);
	return layout_is_kept(caller) && (kept == HL_KEPT_FAST || kept == HL_KEPT_LENT);
}

void layout_trim_region(struct walk *walk, struct range region, bool is_break, bool has_top)
{
	uint64_t at = region.start;
	for (size_t i = walk->next; i < walk->count && walk->entries[i].start < region.end; i++) {
		const struct entry *entry = &walk->entries[i];
		layout_ask(walk, i);
		if (entry->start < region.start || layout_goes_first(entry->block))
			continue;
		if (entry->start > at)
			walk->layout->trim += layout_trimmed(walk, at, entry->start, false);
		at = layout_end_of(entry) > at ? layout_end_of(entry) : at;
	}
	if (at >= region.end)
		return;
	if (is_break && has_top)
		walk->layout->trim_top = layout_top_pages(walk, at, region.end, false);
	else if (!has_top)
		walk->layout->trim += layout_trimmed(walk, at, region.end, false);
}

/* SPDX-License-Identifier: MIT
 *
 * layout_walk.h. What would be free if all blocks of a place were freed: those that follow each
 * other are then one free run, with what is free around them.
 */
#include "layout_walk.h"

void layout_freed_begin(struct walk *walk, uint64_t start)
{
	walk->freed = (struct freed){.start = start, .at = start};
}

/* Up to a block of another place, or the end. */
static void end_run(struct walk *walk, uint64_t end)
{
	const struct freed *freed = &walk->freed;
	if (freed->any)
		walk->layout->sites[freed->site].freed_trim +=
			layout_trimmed(walk, freed->start, end, true) - freed->free;
}

void layout_freed_block(
	struct walk *walk, const struct live_block *block, struct range range, uint32_t site)
{
	struct freed *freed = &walk->freed;
	if (layout_goes_first(block))
		return;
	uint64_t before = layout_trimmed(walk, freed->at, range.start, false);
	freed->free += before;
	if (!freed->any || freed->site != site) {
		end_run(walk, range.start);
		*freed = (struct freed){freed->at, .free = before, .site = site, .any = true};
	}
	freed->at = range.end;
}

void layout_freed_end(struct walk *walk, uint64_t end, bool has_top)
{
	struct freed *freed = &walk->freed;
	if (!has_top) {
		freed->free += layout_trimmed(walk, freed->at, end, false);
		end_run(walk, end);
	} else if (freed->any) {
		walk->layout->sites[freed->site].freed_top +=
			layout_top_pages(walk, freed->start, end, true) -
			layout_top_pages(walk, freed->at, end, false);
	}
}

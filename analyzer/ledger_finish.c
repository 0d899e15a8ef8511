/* SPDX-License-Identifier: MIT
 *
 * The end of a stream: what is free still, what blocks have pinned up to then, and the ratios.
 */
#include "ledger_parts.h"

#include <stdlib.h>

/* The highest block of each area. */
struct highest {
	uint32_t *site;
	uint64_t *position;
};

/* What a block has pinned up to the end. */
static void finish_pins(struct ledger *ledger, const struct live_block *block, uint64_t tick,
	struct highest *highest)
{
	uint64_t start = block->addr - HEADER_BYTES;
	uint64_t end = start + (block->chunk & HL_ADDRESS_MASK), position;
	if (!in_pages(ledger, block))
		return;
	uint32_t site = waits_site(&ledger->result->waits, live_caller(block));
	ledger->pages.starved |= site == WAITS_NOBODY;
	if (site == WAITS_NOBODY)
		return;
	ledger->result->waits.sites[site].pinned +=
		pages_pinned(&ledger->pages, start, end, tick) - block->pinned;
	uint32_t area = pages_area(&ledger->pages, end - 1, &position);
	if (position < highest->position[area])
		return;
	highest->position[area] = position;
	highest->site[area] = site;
}

#define AT_ONCE 16

/* The next blocks, by their places; their pages, which are anywhere, are asked for. */
static size_t ask_for_some(
	const struct ledger *ledger, size_t *at, const struct live_block *some[AT_ONCE])
{
	size_t count = 0;
	while (count < AT_ONCE && (some[count] = live_next(&ledger->live, at)))
		pages_prefetch(&ledger->pages, some[count++]->addr - HEADER_BYTES);
	return count;
}

/* What is free at the end: it was not seen for longer. */
static void note_waiting(struct ledger *ledger, uint64_t tick, const uint32_t *holders)
{
	struct free_span span = {ledger, tick, WAITS_STILL, holders};
	pages_waiting(&ledger->pages, free_span_ends, &span);
	for (size_t i = 0; i < ledger->freed_count; i++)
		free_span_ends_alone(&span, &ledger->freed[i], ledger->freed[i].bytes);
}

static int finish_waits(struct ledger *ledger, uint64_t tick, size_t most_sites)
{
	struct ledger_result *result = ledger->result;
	size_t at = 0, areas = ledger->pages.holds.count + 1;
	struct highest highest = {
		calloc(areas, sizeof(*highest.site)), calloc(areas, sizeof(*highest.position))};
	int rc = highest.site && highest.position ? 0 : -ENOMEM;
	for (size_t i = 0; !rc && i < areas; i++)
		highest.site[i] = WAITS_NOBODY;
	const struct live_block *some[AT_ONCE];
	for (size_t count = AT_ONCE; !rc && count == AT_ONCE;) {
		count = ask_for_some(ledger, &at, some);
		for (size_t i = 0; i < count; i++)
			finish_pins(ledger, some[i], tick, &highest);
	}
	for (size_t i = 0; !rc && i < ledger->realloc_count; i++)
		if (ledger->reallocs[i].holds_pages)
			finish_pins(ledger, &ledger->reallocs[i].old, tick, &highest);
	if (!rc)
		note_waiting(ledger, tick, highest.site);
	free(highest.site);
	free(highest.position);
	double scale = UINT64_C(1) << 40;
	if (!rc)
		rc = waits_finish(&result->waits,
			(double)clock_span(ledger->clock, UINT64_C(1) << 40) / scale, most_sites);
	return rc ? rc : ledger->pages.starved ? -ENOMEM : 0;
}

/* A block whose realloc has not ended; unless another one is where it was. 0 or -ENOMEM. */
static int put_back(struct ledger *ledger, const struct ledger_realloc *entry)
{
	struct live_block other, again, old = entry->old, *block = &old;
	block->record = UINT64_MAX; /* whatever it was before, it is so after the last record */
	int rc = live_add(&ledger->live, block, &other);
	if (rc > 0)
		rc = live_add(&ledger->live, &other, &again) < 0 ? -ENOMEM : 0;
	else if (!rc) {
		count_block(ledger, block, true);
		ledger_forget_freed(ledger, block->addr);
		if (block->after == LIVE_RESIZED)
			rc = lives_on(ledger, block, &entry->birth);
	}
	return rc;
}

int ledger_finish(struct ledger *ledger, uint64_t tick, size_t most_sites)
{
	struct ledger_result *result = ledger->result;
	struct ledger_ratio *ratio = &result->mapped_ratio;
	const struct ledger_peak *peak = &result->peak;
	size_t at = 0;

	/* Reallocs that never ended: the program died in them, its old blocks are as they were. */
	for (size_t i = 0; i < ledger->realloc_count; i++)
		if (ledger->reallocs[i].old.addr && put_back(ledger, &ledger->reallocs[i]))
			return -ENOMEM;
	timeline_finish(&ledger->timeline, &ledger->memory, sums_of(result));
	result->end = ledger->memory;
	struct phases_totals totals = totals_of(ledger);
	phases_finish(&result->phases, &totals, tick);
	for (const struct live_block *block; (block = live_each(&ledger->live, &at));) {
		tally_block(&result->sizes[tally_size_class(block->size)].live, block->size,
			block->chunk & HL_ADDRESS_MASK);
		note_life(ledger, block, take_birth(ledger, block), LIFETIMES_LIVE, tick,
			ledger->allocated);
	}
	ratio->max_held = (double)peak->mapped;
	ratio->max_live = (double)peak->requested;
	ratio->at_peak_live = ratio_of((double)memory_mapped(&peak->at_requested), ratio->max_live);
	ratio->at_peak_held = ratio_of((double)peak->mapped, (double)peak->at_mapped.requested);
	result->reused_page_bytes += ledger->pages.reused_pages << PAGES_BITS;
	triggers_finish(&result->triggers, most_sites);
	int rc = lifetimes_finish(&result->lifetimes);
	if (!rc)
		rc = finish_waits(ledger, tick, most_sites);
	result->never_page_bytes += result->waiting.total_bytes;
	return rc;
}

void ledger_count_peak(struct ledger *ledger)
{
	size_t at = 0;
	for (const struct live_block *block; (block = live_each(&ledger->live, &at));)
		tally_block(&ledger->result->sizes[tally_size_class(block->size)].peak, block->size,
			block->chunk & HL_ADDRESS_MASK);
	ledger->result->peak_sizes_known = true;
}

/* SPDX-License-Identifier: MIT
 *
 * layout.h. The live blocks are sorted by address and laid over what is mapped; one walk sees each
 * block, each run of free bytes between two of them, and each page of both sizes.
 */
#include "layout_walk.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RADIX_BITS 11 /* as many places as the processor's caches can write to at once */
#define RADIX_FEW_BITS 8
#define RADIX_FEW ((size_t)1 << 14) /* blocks: fewer are sorted sooner by smaller digits */
#define FIRST_SITES ((size_t)64)

const uint64_t layout_sizes[LAYOUT_SIZES] = {64, 512, 4 << 10, 64 << 10, 128 << 10};

static bool is_mapped(const struct live_block *block)
{
	return block->chunk >> HL_ADDRESS_BITS & HL_CHUNK_MMAPPED;
}

/* ---- sites ----------------------------------------------------------------------------------- */

static size_t place_of(const struct walk *walk, uint64_t caller)
{
	size_t mask = walk->table_size - 1;
	size_t place = (size_t)(caller * UINT64_C(0x9e3779b97f4a7c15) >> 20) & mask;
	while (walk->table[place] && walk->layout->sites[walk->table[place] - 1].caller != caller)
		place = (place + 1) & mask;
	return place;
}

static int grow_sites(struct walk *walk)
{
	struct layout *layout = walk->layout;
	size_t size = walk->table_size ? walk->table_size * 2 : FIRST_SITES * 2;
	struct layout_site *sites = realloc(layout->sites, size / 2 * sizeof(*sites));
	uint32_t *table = sites ? calloc(size, sizeof(*table)) : NULL;
	if (sites)
		layout->sites = sites;
	if (!table)
		return -ENOMEM;
	free(walk->table);
	walk->table = table;
	walk->table_size = size;
	for (uint32_t i = 0; i < layout->site_count; i++)
		table[place_of(walk, sites[i].caller)] = i + 1;
	return 0;
}

static void add_to_site(struct layout_site *site, const struct live_block *block)
{
	uint32_t thread = live_thread(block);
	if (!site->blocks) {
		site->smallest = site->largest = block->size;
		site->oldest = site->youngest = block->tick;
		site->thread = thread;
	}
	site->blocks++;
	site->bytes += block->size;
	site->mapped_blocks += is_mapped(block);
	site->mapped_bytes += is_mapped(block) ? block->size : 0;
	site->freed_mapped += is_mapped(block) ? block->chunk & HL_ADDRESS_MASK : 0;
	if (block->size < site->smallest)
		site->smallest = block->size;
	if (block->size > site->largest)
		site->largest = block->size;
	if (block->tick < site->oldest)
		site->oldest = block->tick;
	if (block->tick > site->youngest)
		site->youngest = block->tick;
	if (thread != site->thread)
		site->thread = 0;
}

void layout_join_sites(struct layout_site *site, const struct layout_site *other)
{
	site->blocks += other->blocks;
	site->bytes += other->bytes;
	site->mapped_blocks += other->mapped_blocks;
	site->mapped_bytes += other->mapped_bytes;
	site->pinned += other->pinned;
	site->alone_pages += other->alone_pages;
	site->alone_bytes += other->alone_bytes;
	if (other->smallest < site->smallest)
		site->smallest = other->smallest;
	if (other->largest > site->largest)
		site->largest = other->largest;
	if (other->oldest < site->oldest)
		site->oldest = other->oldest;
	if (other->youngest > site->youngest)
		site->youngest = other->youngest;
	if (other->thread != site->thread)
		site->thread = 0;
}

/* What tells sites apart. */
static uint64_t key_of(const struct walk *walk, const struct live_block *block)
{
	uint64_t caller = live_caller(block);
	if (layout_is_kept(caller))
		return caller;
	return walk->wants & LAYOUT_BY_SIZE     ? tally_size_class(block->size) + UINT64_C(1)
	       : walk->wants & LAYOUT_BY_THREAD ? live_thread(block)
						: caller;
}

static int site_of(struct walk *walk, const struct live_block *block, uint32_t *index)
{
	struct layout *layout = walk->layout;
	uint64_t caller = key_of(walk, block);
	if (layout->site_count >= walk->table_size / 2 && grow_sites(walk))
		return -ENOMEM;
	size_t place = place_of(walk, caller);
	if (!walk->table[place]) {
		layout->sites[layout->site_count++] = (struct layout_site){.caller = caller};
		layout->all_sites++;
		walk->table[place] = (uint32_t)layout->site_count;
	}
	*index = walk->table[place] - 1;
	add_to_site(&layout->sites[*index], block);
	return 0;
}

/* ---- the blocks, sorted ---------------------------------------------------------------------- */

/* By one digit. */
static void sort_by(
	struct entry *to, const struct entry *from, size_t count, unsigned shift, unsigned bits)
{
	size_t places[1 << RADIX_BITS] = {0}, mask = ((size_t)1 << bits) - 1, place = 0;
	for (size_t i = 0; i < count; i++)
		places[from[i].start >> shift & mask]++;
	for (size_t i = 0; i <= mask; i++) {
		size_t of_digit = places[i];
		places[i] = place;
		place += of_digit;
	}
	for (size_t i = 0; i < count; i++)
		to[places[from[i].start >> shift & mask]++] = from[i];
}

/* By the bits in which addresses differ. */
static void sort(struct walk *walk)
{
	struct layout_room *room = walk->room;
	unsigned bits = walk->count < RADIX_FEW ? RADIX_FEW_BITS : RADIX_BITS, shift = 0;
	uint64_t differ = 0;
	for (size_t i = 1; i < walk->count; i++)
		differ |= walk->entries[i].start ^ walk->entries[0].start;
	for (; differ >> shift; shift += bits) {
		shift += (unsigned)__builtin_ctzll(differ >> shift);
		sort_by(room->spare, room->entries, walk->count, shift, bits);
		walk->entries = room->spare;
		room->spare = room->entries;
		room->entries = walk->entries;
	}
}

static void add_entry(struct walk *walk, const struct live_block *block)
{
	struct entry *entry = &walk->entries[walk->count++];
	entry->start = block->addr - HEADER_BYTES;
	if (walk->pins) {
		entry->block = block;
		return;
	}
	entry->end = (entry->start + (block->chunk & HL_ADDRESS_MASK)) & HL_ADDRESS_MASK;
	entry->tail = layout_tail(block);
}

/* What caches hold is in use for all that lies around it. A block that was handed out again after
 * it was told is live. */
static int add_kept(struct walk *walk)
{
	const struct ledger *ledger = walk->ledger;
	struct layout *layout = walk->layout;
	layout->kept_known = ledger_kept_known(ledger);
	layout->kept_all = ledger_kept_all(ledger);
	layout->caches = ledger->kept_caches;
	layout->unread = ledger->kept_unread;
	walk->kept = calloc(ledger->kept_count + 1, sizeof(*walk->kept));
	if (!walk->kept)
		return -ENOMEM;
	for (size_t i = 0; layout->kept_known && i < ledger->kept_count; i++) {
		const struct ledger_kept *kept = &ledger->kept[i];
		if (!kept->bytes || live_find(&ledger->live, kept->addr) ||
			!ledger_kept_holds(ledger, kept))
			continue;
		walk->kept[i] = (struct live_block){.addr = kept->addr,
			.chunk = kept->bytes & HL_ADDRESS_MASK,
			.tick = walk->layout->tick,
			.origin = live_origin(LAYOUT_KEPT | kept->what, 0)};
		add_entry(walk, &walk->kept[i]);
		if (kept->what == HL_KEPT_TABLE) {
			layout->tables += kept->bytes;
			layout->caches_known += !kept->part;
		} else {
			layout->cached += kept->bytes;
			layout->cached_blocks++;
		}
	}
	return 0;
}

/* A block with a mapping of its own has nothing to do with the order of the others. */
static int add_mapped(struct walk *walk, const struct live_block *block)
{
	uint32_t site;
	walk->mapped_bytes += block->chunk & HL_ADDRESS_MASK;
	layout_mapped_in_memory(walk, block);
	return walk->pins ? site_of(walk, block, &site) : 0;
}

/* The one walk over the table of live blocks. */
static int gather_blocks(struct walk *walk)
{
	const struct live *live = &walk->ledger->live;
	size_t at = 0;
	int rc = 0;
	for (const struct live_block *block; !rc && (block = live_each(live, &at));) {
		if (is_mapped(block))
			rc = add_mapped(walk, block);
		else if (block->chunk && block->addr > HEADER_BYTES)
			add_entry(walk, block);
	}
	walk->run = 0;
	return rc ? rc : add_kept(walk);
}

void layout_room_free(struct layout_room *room)
{
	free(room->entries);
	free(room->spare);
	*room = (struct layout_room){0};
}

static int make_room(struct layout_room *room, size_t most)
{
	if (most <= room->capacity)
		return 0;
	layout_room_free(room);
	size_t capacity = most + most / 8;
	room->entries = malloc(capacity * sizeof(*room->entries));
	room->spare = malloc(capacity * sizeof(*room->spare));
	room->capacity = room->entries && room->spare ? capacity : 0;
	return room->capacity ? 0 : -ENOMEM;
}

static int sort_blocks(struct walk *walk)
{
	if (make_room(walk->room, walk->ledger->live.count + walk->ledger->kept_count + 1))
		return -ENOMEM;
	walk->entries = walk->room->entries;
	int rc = gather_blocks(walk);
	if (!rc)
		sort(walk);
	return rc;
}

/* ---- pages ----------------------------------------------------------------------------------- */

/* The walk has passed the page. */
static void leave_page(struct walk *walk, struct spot *spot)
{
	struct layout_pages *pages = spot->pages;
	uint64_t free_bytes = spot->free_bytes;
	if (spot->count) {
		pages->used++;
		pages->half += free_bytes >= UINT64_C(1) << (spot->bits - 1);
		pages->free_bytes += free_bytes;
	}
	if (spot->count == 1) {
		pages->single++;
		pages->single_free += free_bytes;
	}
	for (uint32_t i = 0; walk->pins && spot == &walk->small && i < spot->count; i++) {
		struct layout_site *site = &walk->layout->sites[spot->site[i]];
		site->pinned += (double)free_bytes / spot->count;
		site->alone_pages += spot->count == 1;
		site->alone_bytes += spot->count == 1 ? free_bytes : 0;
	}
	spot->free_bytes = 0;
	spot->count = 0;
}

static void go_to(struct walk *walk, struct spot *spot, uint64_t number)
{
	if (spot->number != number)
		leave_page(walk, spot);
	spot->number = number;
}

static void hold_page(struct walk *walk, struct spot *spot, uint64_t number, uint32_t site)
{
	go_to(walk, spot, number);
	if (spot == &walk->small && spot->count < ON_A_PAGE)
		spot->site[spot->count++] = site;
	else if (spot != &walk->small)
		spot->count++;
}

static void hold(struct walk *walk, struct spot *spot, struct range range, uint32_t site)
{
	uint64_t first = range.start >> spot->bits, last = (range.end - 1) >> spot->bits;
	hold_page(walk, spot, first, site);
	if (last == first)
		return;
	spot->pages->used += last - first - 1;
	spot->pages->single += last - first - 1;
	if (walk->pins && spot == &walk->small)
		walk->layout->sites[site].alone_pages += last - first - 1;
	hold_page(walk, spot, last, site);
}

static void free_on_page(struct walk *walk, struct spot *spot, uint64_t start, uint64_t end)
{
	if (start == end)
		return;
	go_to(walk, spot, start >> spot->bits);
	spot->free_bytes += end - start;
}

/* Returns the whole pages in it, as a range. */
static struct range free_pages(struct walk *walk, struct spot *spot, struct range range, bool top)
{
	struct range whole = {
		layout_align_up(range.start, spot->bits), layout_align_down(range.end, spot->bits)};
	if (whole.start > whole.end) {
		free_on_page(walk, spot, range.start, range.end);
		return (struct range){0};
	}
	free_on_page(walk, spot, range.start, whole.start);
	if (!top)
		spot->pages->whole += (whole.end - whole.start) >> spot->bits;
	free_on_page(walk, spot, whole.end, range.end);
	return whole;
}

/* ---- runs ------------------------------------------------------------------------------------ */

static void add_run(struct layout_runs *runs, uint64_t bytes)
{
	runs->count++;
	runs->bytes += bytes;
	if (bytes > runs->largest)
		runs->largest = bytes;
	for (unsigned i = 0; i < LAYOUT_SIZES; i++) {
		runs->too_small[i] += bytes < layout_sizes[i] ? bytes : 0;
		runs->pieces[i] += bytes / layout_sizes[i];
	}
}

static void join_runs(struct layout_runs *to, const struct layout_runs *from)
{
	to->count += from->count;
	to->bytes += from->bytes;
	if (from->largest > to->largest)
		to->largest = from->largest;
	for (unsigned i = 0; i < LAYOUT_SIZES; i++) {
		to->too_small[i] += from->too_small[i];
		to->pieces[i] += from->pieces[i];
	}
}

static void add_whole(struct walk *walk, struct layout_whole *whole, struct range range)
{
	if (range.start >= range.end)
		return;
	struct pages_count count = pages_count(&walk->ledger->pages, range.start, range.end);
	uint64_t touched = (count.live + count.free) << PAGES_BITS;
	uint64_t purged = count.returned << PAGES_BITS;
	whole->touched += touched;
	whole->purged += purged;
	whole->untouched += range.end - range.start - touched - purged;
}

static void free_run(struct walk *walk, struct range range, bool top)
{
	struct layout *layout = walk->layout;
	uint64_t bytes = range.end - range.start;
	struct range whole = free_pages(walk, &walk->small, range, top);
	free_pages(walk, &walk->huge, range, top);
	add_run(top ? &layout->runs : &layout->inner, bytes);
	add_whole(walk, top ? &layout->in_top : &layout->whole, whole);
	*(top ? &layout->resident.top : &layout->resident.free) +=
		layout_in_memory(walk, range.start, range.end);
	if (top) {
		layout->top += bytes;
		return;
	}
	layout->partial += bytes - (whole.end - whole.start);
}

/* ---- the walk -------------------------------------------------------------------------------- */

/* Blocks before `until` are not in what is mapped. */
static void skip(struct walk *walk, uint64_t until)
{
	while (walk->next < walk->count && walk->entries[walk->next].start < until) {
		walk->layout->strays++;
		walk->next++;
	}
}

static int add_block(
	struct walk *walk, const struct entry *entry, struct range range, uint32_t *site)
{
	if (walk->layout->resident.known)
		layout_add_resident(walk, entry, range);
	if (!walk->pins)
		return 0;
	int rc = site_of(walk, entry->block, site);
	if (!rc)
		layout_freed_block(walk, entry->block, range, *site);
	return rc;
}

/* What is mapped and belongs together; its last free run is top. */
static int walk_region(struct walk *walk, struct range region, bool has_top)
{
	uint64_t at = region.start;
	skip(walk, region.start);
	layout_freed_begin(walk, region.start);
	for (; walk->next < walk->count; walk->next++) {
		const struct entry *entry = &walk->entries[walk->next];
		if (entry->start >= region.end)
			break;
		layout_ask(walk, walk->next);
		struct range range = {entry->start, walk->pins ? layout_end_of(entry) : entry->end};
		uint32_t site = 0;
		walk->layout->strays += range.start < at || range.end > region.end;
		range.start = range.start < at ? at : range.start;
		range.end = range.end > region.end ? region.end : range.end;
		if (range.start >= range.end)
			continue;
		if (range.start > at)
			free_run(walk, (struct range){at, range.start}, false);
		if (add_block(walk, entry, range, &site))
			return -ENOMEM;
		hold(walk, &walk->small, range, site);
		hold(walk, &walk->huge, range, site);
		at = range.end;
	}
	if (at < region.end)
		free_run(walk, (struct range){at, region.end}, has_top);
	if (walk->pins)
		layout_freed_end(walk, region.end, has_top);
	return 0;
}

/* The highest blocks at the break, before the walk. */
static void find_holders(struct walk *walk, struct range last)
{
	struct layout *layout = walk->layout;
	size_t i = walk->count;
	uint64_t page_end = layout_align_down(last.end, PAGES_BITS), above;
	while (i && walk->entries[i - 1].start >= last.end)
		i--;
	above = i && walk->entries[i - 1].start >= last.start ? layout_end_of(&walk->entries[i - 1])
							      : last.start;
	layout->break_top = last.end > above ? last.end - above : 0;
	while (i && walk->entries[i - 1].start >= last.start && layout->holders < LAYOUT_HOLDERS) {
		bool more = --i && walk->entries[i - 1].start >= last.start;
		uint64_t below = more ? layout_end_of(&walk->entries[i - 1]) : last.start;
		uint64_t from = layout_align_up(below, PAGES_BITS);
		layout->holder[layout->holders++] = (struct layout_holder){
			.block = *walk->entries[i].block,
			.returned = from < page_end ? page_end - from : 0,
		};
	}
}

/* Both lists in the order of addresses. Of the break's ranges only the one that ends at the break
 * has a top; others lie below memory that the program took itself. */
static int walk_all(struct walk *walk)
{
	const struct ledger *ledger = walk->ledger;
	const struct ranges *breaks = &ledger->break_mapped, *arenas = &ledger->arena_open;
	size_t i = 0, j = 0;
	int rc = 0;
	while (!rc && (i < breaks->count || j < arenas->count)) {
		bool is_break =
			j == arenas->count ||
			(i < breaks->count && breaks->list[i].start < arenas->list[j].start);
		struct range region = is_break ? breaks->list[i++] : arenas->list[j++];
		bool has_top = !is_break || region.end == ledger->break_end;
		if (walk->pins && is_break && has_top)
			find_holders(walk, region);
		if (walk->pins)
			layout_trim_region(walk, region, is_break, has_top);
		rc = walk_region(walk, region, has_top);
	}
	skip(walk, UINT64_MAX);
	join_runs(&walk->layout->runs, &walk->layout->inner);
	layout_complete_resident(walk);
	leave_page(walk, &walk->small);
	leave_page(walk, &walk->huge);
	return rc;
}

int layout_by_pinned(const void *left, const void *right)
{
	const struct layout_site *a = left, *b = right;
	if (a->pinned != b->pinned)
		return a->pinned > b->pinned ? -1 : 1;
	if (a->bytes != b->bytes)
		return a->bytes > b->bytes ? -1 : 1;
	return a->caller < b->caller ? -1 : a->caller > b->caller;
}

int layout_take(struct layout *layout, const struct ledger *ledger, uint64_t tick, unsigned wants,
	struct layout_room *room)
{
	*layout = (struct layout){.memory = ledger->memory, .tick = tick};
	struct walk *walk = calloc(1, sizeof(*walk));
	if (!walk)
		return -ENOMEM;
	walk->layout = layout;
	walk->ledger = ledger;
	walk->room = room;
	walk->wants = wants;
	walk->pins = wants & LAYOUT_PINS;
	layout_use_snapshot(walk);
	walk->small.bits = PAGES_BITS;
	walk->small.pages = &layout->pages;
	walk->huge.bits = LAYOUT_HUGE_BITS;
	walk->huge.pages = &layout->huge;
	int rc = sort_blocks(walk);
	if (!rc && (wants & (LAYOUT_PINS | LAYOUT_BY_SIZE | LAYOUT_BY_THREAD)) == LAYOUT_PINS)
		rc = layout_arenas(walk);
	if (!rc)
		rc = walk_all(walk);
	/* A mapping is there before its block is logged, and still after the block's free is. */
	if (layout->memory.block_bytes > 0 &&
		(uint64_t)layout->memory.block_bytes > walk->mapped_bytes)
		layout->between = (uint64_t)layout->memory.block_bytes - walk->mapped_bytes;
	if (!rc && layout->site_count)
		qsort(layout->sites, layout->site_count, sizeof(*layout->sites), layout_by_pinned);
	free(walk->kept);
	free(walk->table);
	free(walk);
	return rc;
}

void layout_keep_sites(struct layout *layout, size_t most)
{
	if (layout->site_count <= most)
		return;
	layout->site_count = most;
	void *less = realloc(layout->sites, most * sizeof(*layout->sites));
	if (less)
		layout->sites = less;
}

void layout_free(struct layout *layout)
{
	free(layout->arenas);
	free(layout->sites);
	*layout = (struct layout){0};
}

double layout_unusable(const struct layout_runs *runs, unsigned size)
{
	return runs->bytes ? (double)runs->too_small[size] / (double)runs->bytes : NAN;
}

double layout_split(const struct layout_runs *runs, unsigned size)
{
	uint64_t possible = runs->bytes / layout_sizes[size];
	return possible ? 1 - (double)runs->pieces[size] / (double)possible : NAN;
}

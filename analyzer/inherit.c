/* SPDX-License-Identifier: MIT
 *
 * inherit.h. Nothing here counts as a call: what turns out to have been there, or not, was so from
 * the child's start on, so all of its figures move as one (ledger_rebase).
 */
#include "inherit.h"
#include "mapping.h"
#include "names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_ENTRIES 16
#define HEADER_BYTES 8

/* ---- the lists ------------------------------------------------------------------------------- */

static int by_range(const void *left, const void *right)
{
	const struct inherit_entry *a = left, *b = right;
	if (a->start != b->start)
		return a->start < b->start ? -1 : 1;
	if (a->end != b->end)
		return a->end < b->end ? -1 : 1;
	return a->order < b->order ? -1 : 1;
}

/* Sorts the entries from `from` on; of those for the same range, the first one stays. */
static void sort(struct inherit_list *list, size_t from)
{
	size_t kept = from;
	if (list->count > from)
		qsort(list->entry + from, list->count - from, sizeof(*list->entry), by_range);
	for (size_t i = from; i < list->count; i++) {
		const struct inherit_entry *entry = &list->entry[i];
		if (kept > from && list->entry[kept - 1].start == entry->start &&
			list->entry[kept - 1].end == entry->end)
			continue;
		list->entry[kept++] = *entry;
	}
	list->count = kept;
}

/* Room for one more. Sorted before it grows, so a window however long takes no more than there are
 * ranges in it. */
static int make_room(struct inherit_list *list)
{
	if (list->count < list->capacity)
		return 0;
	sort(list, list->known);
	if (list->count && list->count < list->capacity / 2)
		return 0;
	size_t capacity = list->capacity ? list->capacity * 2 : FIRST_ENTRIES;
	void *entry = realloc(list->entry, capacity * sizeof(*list->entry));
	if (!entry)
		return -ENOMEM;
	list->entry = entry;
	list->capacity = capacity;
	return 0;
}

static int gather(struct inherit_list *list, struct inherit_entry entry)
{
	int rc = make_room(list);
	if (rc)
		return rc;
	entry.order = list->orders++;
	list->entry[list->count++] = entry;
	return 0;
}

static void publish(struct inherit_list *list)
{
	uint64_t reach = 0;
	for (size_t i = 0; i < list->count; i++) {
		if (list->entry[i].end > reach)
			reach = list->entry[i].end;
		list->entry[i].reach = reach;
	}
	list->known = list->count;
}

static void leave_out_settled(struct inherit_list *list)
{
	size_t kept = 0;
	for (size_t i = 0; i < list->count; i++)
		if (!list->entry[i].settled)
			list->entry[kept++] = list->entry[i];
	list->count = kept;
}

/* The number of known entries that start before `address`. */
static size_t starts_before(const struct inherit_list *list, uint64_t address)
{
	size_t low = 0, high = list->known;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (list->entry[middle].start < address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* What its user may use: in an observed heap no header lies between two blocks. */
static struct range range_of(const struct live_block *block)
{
	/* A block with a mapping of its own may lie anywhere in that. */
	bool mapped = block->chunk >> HL_ADDRESS_BITS & HL_CHUNK_MMAPPED;
	uint64_t bytes = mapped ? block->size : block->chunk & HL_ADDRESS_MASK;

	if (bytes > HL_ADDRESS_MASK)
		bytes = HL_ADDRESS_MASK;
	bytes = bytes > 2 * HEADER_BYTES ? bytes - HEADER_BYTES : HEADER_BYTES;
	return (struct range){block->addr, block->addr + bytes};
}

void inherit_close(struct ledger *child)
{
	struct inherit *inherit = &child->inherit;
	struct inherit_list *lists[] = {&inherit->blocks, &inherit->maps};
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		leave_out_settled(lists[i]);
		sort(lists[i], 0);
		publish(lists[i]);
	}
	inherit->any = inherit->blocks.known || inherit->maps.known;
}

static int copy_list(struct inherit_list *to, const struct inherit_list *from)
{
	*to = (struct inherit_list){.orders = from->orders};
	if (!from->known)
		return 0;
	to->entry = malloc(from->known * sizeof(*to->entry));
	if (!to->entry)
		return -ENOMEM;
	memcpy(to->entry, from->entry, from->known * sizeof(*to->entry));
	to->count = to->capacity = from->known;
	leave_out_settled(to);
	publish(to);
	return 0;
}

int inherit_copy(struct inherit *to, const struct inherit *from)
{
	int rc = copy_list(&to->blocks, &from->blocks);
	if (!rc)
		rc = copy_list(&to->maps, &from->maps);
	to->any = to->blocks.known || to->maps.known;
	return rc;
}

void inherit_free(struct inherit *inherit)
{
	free(inherit->blocks.entry);
	free(inherit->maps.entry);
	*inherit = (struct inherit){0};
}

/* ---- what the child shows ------------------------------------------------------------------ */

static int64_t *field_of(struct memory *memory, const struct inherit_entry *entry)
{
	return entry->metadata ? &memory->metadata_bytes : &memory->block_bytes;
}

static void leave_out(struct ledger *ledger, const struct inherit_entry *entry)
{
	struct memory by = {0};
	int64_t bytes = (int64_t)(entry->end - entry->start);
	if (entry->block.addr) {
		ledger_leave_out(ledger, entry->block.addr);
		return;
	}
	if (*field_of(&ledger->memory, entry) < bytes)
		return; /* never counted: the trace contradicts itself */
	*field_of(&by, entry) = -bytes;
	ledger_rebase(ledger, &by);
}

/* The child has shown how these addresses were in the copy: in use by what was there at the mark,
 * or no longer in use (`vacant`). */
static void settle(
	struct ledger *ledger, struct inherit_list *list, struct range range, bool vacant)
{
	for (size_t i = starts_before(list, range.end);
		i-- && list->entry[i].reach > range.start;) {
		struct inherit_entry *entry = &list->entry[i];
		if (entry->settled || entry->end <= range.start)
			continue;
		entry->settled = true;
		if (vacant && entry->gone)
			leave_out(ledger, entry);
	}
}

static int take_in(struct ledger *ledger, struct inherit_list *list, struct inherit_entry entry)
{
	struct memory by = {0};
	settle(ledger, list, (struct range){entry.start, entry.end}, true);
	if (entry.block.addr)
		return ledger_take_in(ledger, &entry.block);
	*field_of(&by, &entry) = (int64_t)(entry.end - entry.start);
	ledger_rebase(ledger, &by);
	return 0;
}

/* The first one made there after the mark; `end` 0 = of any length. */
static const struct inherit_entry *find_made(
	const struct inherit_list *list, uint64_t start, uint64_t end)
{
	const struct inherit_entry *found = NULL;
	for (size_t i = starts_before(list, start);
		i < list->known && list->entry[i].start == start; i++) {
		const struct inherit_entry *entry = &list->entry[i];
		if (entry->settled || entry->gone || (end && entry->end != end))
			continue;
		if (!found || entry->order < found->order)
			found = entry;
	}
	return found;
}

int inherit_block_freed(struct ledger *ledger, uint64_t addr)
{
	struct inherit_list *list = &ledger->inherit.blocks;
	const struct live_block *live = live_find(&ledger->live, addr);
	if (live) {
		settle(ledger, list, range_of(live), false);
		return 0;
	}
	if (!addr)
		return 0;
	const struct inherit_entry *made =
		find_made(list, range_of(&(struct live_block){.addr = addr}).start, 0);
	return made ? take_in(ledger, list, *made) : 0;
}

void inherit_block_made(struct ledger *ledger, const struct live_block *block)
{
	settle(ledger, &ledger->inherit.blocks, range_of(block), true);
}

/* What a call gave up and what it made; empty = nothing. */
static struct range given_up(const struct hl_syscall_record *record)
{
	unsigned kind = hl_kind_of(record->kind_addr);
	uint64_t start = hl_addr_of(record->kind_addr);
	bool is = kind == HL_KIND_munmap || kind == HL_KIND_mremap;
	return (struct range){start, is ? start + record->length : start};
}

static struct range made_by(const struct hl_syscall_record *record)
{
	unsigned kind = hl_kind_of(record->kind_addr);
	uint64_t start = (uint64_t)record->result;
	uint64_t bytes = kind == HL_KIND_mmap     ? record->length
			 : kind == HL_KIND_mremap ? record->argument
						  : 0;
	return (struct range){start, start + bytes};
}

static bool of_its_own(const struct hl_syscall_record *record)
{
	unsigned region = record->cause >> 16 & 0xff;
	return region == HL_REGION_block || region == HL_REGION_metadata;
}

static int mapping_given_up(struct ledger *ledger, struct range range)
{
	struct inherit_list *list = &ledger->inherit.maps;
	const struct inherit_entry *made = find_made(list, range.start, range.end);
	if (made)
		return take_in(ledger, list, *made);
	settle(ledger, list, range, false);
	return 0;
}

int inherit_mapping_moved(struct ledger *ledger, const struct hl_syscall_record *record)
{
	struct range old = given_up(record), made = made_by(record);
	int rc = 0;
	if (old.start < old.end && of_its_own(record))
		rc = mapping_given_up(ledger, old);
	if (!rc && made.start < made.end) {
		settle(ledger, &ledger->inherit.maps, made, true);
		settle(ledger, &ledger->inherit.blocks, made, true);
	}
	return rc;
}

/* ---- what the parent's threads did --------------------------------------------------------- */

/* What a thread does also shows how things were at an earlier copy: that is settled first. */

int inherit_note_block(struct ledger *child, const struct live_block *block)
{
	struct range range = range_of(block);
	return gather(&child->inherit.blocks,
		(struct inherit_entry){.start = range.start, .end = range.end, .block = *block});
}

static int note_made(struct ledger *child, const struct hl_call_record *call)
{
	struct live_block block = {
		.addr = hl_addr_of(call->kind_addr),
		.size = call->size,
		.chunk = call->chunk,
		.tick = call->tick,
		.origin = live_origin(call->caller, 0),
	};
	if (!block.addr)
		return 0;
	inherit_block_made(child, &block);
	return inherit_note_block(child, &block);
}

static int note_freed(struct ledger *child, uint64_t addr)
{
	int rc = inherit_block_freed(child, addr);
	const struct live_block *block = live_find(&child->live, addr);
	if (rc || !block)
		return rc;
	struct range range = range_of(block);
	return gather(&child->inherit.blocks,
		(struct inherit_entry){
			.start = range.start, .end = range.end, .block = *block, .gone = true});
}

static int note_mapping(struct ledger *child, const struct hl_syscall_record *record)
{
	bool metadata = (record->cause >> 16 & 0xff) == HL_REGION_metadata;
	struct range old = given_up(record), made = made_by(record);
	struct inherit_list *list = &child->inherit.maps;
	int rc;
	if (!of_its_own(record) || !mapping_succeeded(record))
		return 0;
	rc = inherit_mapping_moved(child, record);
	if (!rc && old.start < old.end)
		rc = gather(list, (struct inherit_entry){.start = old.start,
					  .end = old.end,
					  .metadata = metadata,
					  .gone = true});
	if (!rc && made.start < made.end)
		rc = gather(
			list, (struct inherit_entry){
				      .start = made.start, .end = made.end, .metadata = metadata});
	return rc;
}

int inherit_note(struct ledger *child, const struct stream_event *event)
{
	const struct hl_call_record *call = &event->record.call;
	unsigned kind = hl_kind_of(call->kind_addr);
	switch (name_shape(kind)) {
	case NAME_SHAPE_ALLOC:
	case NAME_SHAPE_ALIGNED:
	case NAME_SHAPE_REALLOC:
		return note_made(child, call);
	case NAME_SHAPE_FREE:
		return note_freed(child, hl_addr_of(call->kind_addr));
	default:
		break;
	}
	if (kind == HL_KIND_realloc_begin)
		return note_freed(child, hl_addr_of(call->kind_addr));
	return name_is_syscall(kind) ? note_mapping(child, &event->record.syscall) : 0;
}

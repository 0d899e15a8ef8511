/* SPDX-License-Identifier: MIT
 *
 * See thrash.h.
 */
#include "thrash.h"

static void count(struct thrash_cycles *cycles, struct thrash_range *back, uint64_t bytes,
	const struct hl_syscall_record *again)
{
	cycles->bytes += bytes;
	cycles->ticks += again->duration;
	if (back->counted)
		return;
	back->counted = true;
	cycles->count++;
	cycles->ticks += back->duration;
	if (back->end - back->start > cycles->largest)
		cycles->largest = back->end - back->start;
}

static bool is_recent(
	const struct thrash *thrash, const struct thrash_range *back, uint64_t tick)
{
	return back->end && tick >= back->tick && tick - back->tick <= thrash->window;
}

/* Shrinks that follow each other are one: trimming may go page by page. */
static void shrinks(
	struct thrash *thrash, const struct hl_syscall_record *record, uint64_t from, uint64_t to)
{
	struct thrash_range *back = &thrash->shrunk;
	if (is_recent(thrash, back, record->tick) && !back->counted && to == back->start) {
		back->start = from;
		back->tick = record->tick;
		back->duration += record->duration;
		return;
	}
	*back = (struct thrash_range){from, to, record->tick, record->duration, false};
}

/* What has been taken again by several calls is one cycle. */
struct range thrash_break(struct thrash *thrash, const struct hl_syscall_record *record)
{
	struct thrash_range *back = &thrash->shrunk;
	uint64_t before = hl_addr_of(record->kind_addr), after = (uint64_t)record->result;
	if (after < before) {
		shrinks(thrash, record, after, before);
		return (struct range){0};
	}
	if (after == before || !is_recent(thrash, back, record->tick) || before < back->start ||
		before >= back->end)
		return (struct range){0};
	uint64_t end = after < back->end ? after : back->end;
	count(&thrash->break_, back, end - before, record);
	if (end == back->end)
		back->end = 0;
	return (struct range){before, end};
}

struct range thrash_block(struct thrash *thrash, const struct hl_syscall_record *record)
{
	if (hl_kind_of(record->kind_addr) == HL_KIND_munmap) {
		thrash->unmapped[thrash->next++ % THRASH_RECENT] = (struct thrash_range){
			0, record->length, record->tick, record->duration, false};
		return (struct range){0};
	}
	for (unsigned i = 0; i < THRASH_RECENT; i++) {
		struct thrash_range *back = &thrash->unmapped[i];
		if (back->end != record->length || !is_recent(thrash, back, record->tick))
			continue;
		count(&thrash->block, back, back->end, record);
		back->end = 0;
		return (struct range){
			(uint64_t)record->result, (uint64_t)record->result + record->length};
	}
	return (struct range){0};
}

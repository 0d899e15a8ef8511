/* SPDX-License-Identifier: MIT
 *
 * The ledger against a naive model that keeps every block in a plain array and every page in a
 * plain table, on random sequences; and the rules of realloc, fork and return, one by one.
 */
#include "ledger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define BASE UINT64_C(0x555555000000)
#define PAGE UINT64_C(4096)
#define MODEL_PAGES 512
#define MODEL_BLOCKS 400

static struct ledger ledger;
static struct ledger_result result;
static struct clock ns_clock;
static uint64_t now;
static uint64_t state = 42;

static uint64_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static int set_up(void **unused)
{
	(void)unused;
	memset(&result, 0, sizeof(result));
	ns_clock = (struct clock){0};
	clock_add(&ns_clock, 0, 0);
	clock_finish(&ns_clock, 1000000000);
	ledger_start(&ledger, &result, &ns_clock);
	now = 0;
	return 0;
}

static int tear_down(void **unused)
{
	(void)unused;
	ledger_free(&ledger);
	clock_free(&ns_clock);
	ledger_result_free(&result);
	phases_free(&result.phases);
	return 0;
}

static void call_as(uint32_t tid, enum hl_kind kind, uint64_t addr, uint64_t size, uint64_t chunk,
	uint64_t flags)
{
	struct stream_event event = {.tid = tid};
	event.record.call = (struct hl_call_record){.tick = now += 10,
		.kind_addr = hl_kind_addr(kind, addr),
		.size = size,
		.chunk = chunk | flags << HL_ADDRESS_BITS};
	assert_int_equal(ledger_apply(&ledger, &event), 0);
}

static void call(enum hl_kind kind, uint64_t addr, uint64_t size, uint64_t chunk)
{
	call_as(1, kind, addr, size, chunk, 0);
}

static void syscall_of(enum hl_kind kind, uint64_t addr, uint64_t length, uint64_t argument,
	int64_t returned, enum hl_region region)
{
	struct stream_event event = {.tid = 1};
	event.record.syscall = (struct hl_syscall_record){.tick = now += 10,
		.kind_addr = hl_kind_addr(kind, addr),
		.length = length,
		.argument = argument,
		.result = returned,
		.duration = 7,
		.cause = hl_cause_pack(HL_KIND_malloc, HL_REASON_grow_top, region, 0)};
	assert_int_equal(ledger_apply(&ledger, &event), 0);
}

static void move_break(uint64_t from, uint64_t to)
{
	syscall_of(HL_KIND_brk, from, 0, to, (int64_t)to, HL_REGION_break);
}

struct model_block {
	uint64_t addr, size, chunk;
};

struct model_page {
	unsigned blocks;
	bool free;
	bool returned; /* and not used since */
	uint64_t since;
};

static struct {
	struct model_block block[MODEL_BLOCKS];
	unsigned count;
	struct model_page page[MODEL_PAGES];
	uint64_t end; /* of the break */
	uint64_t reused, returned_pages, latency_max, returned;
	int64_t peak_requested, peak_mapped;
} model;

static int64_t model_requested(void)
{
	int64_t sum = 0;
	for (unsigned i = 0; i < model.count; i++)
		sum += (int64_t)model.block[i].size;
	return sum;
}

static void model_cover(const struct model_block *block, bool add)
{
	uint64_t first = (block->addr - 8 - BASE) / PAGE;
	uint64_t last = (block->addr - 8 + block->chunk - 1 - BASE) / PAGE;
	for (uint64_t i = first; i <= last; i++) {
		struct model_page *page = &model.page[i];
		if (add) {
			model.reused += page->free;
			page->free = false;
			page->returned = false;
			page->blocks++;
		} else if (!--page->blocks) {
			page->free = true;
			page->since = now;
		}
	}
}

static bool model_overlaps(uint64_t addr, uint64_t chunk)
{
	for (unsigned i = 0; i < model.count; i++)
		if (addr < model.block[i].addr + model.block[i].chunk &&
			model.block[i].addr < addr + chunk)
			return true;
	return false;
}

static void model_allocate(void)
{
	uint64_t size = 1 + next_random() % (next_random() % 20 ? 700 : 20000);
	uint64_t chunk = (size + 8 + 15) & ~UINT64_C(15);
	uint64_t room = (model.end - BASE) / 16;
	if (!room || model.count == MODEL_BLOCKS)
		return;
	uint64_t addr = BASE + 16 + next_random() % room * 16;
	if (addr + chunk > model.end || model_overlaps(addr, chunk))
		return;
	struct model_block block = {addr, size, chunk};
	call(HL_KIND_malloc, addr, size, chunk);
	model.block[model.count++] = block;
	model_cover(&block, true);
	if (model_requested() > model.peak_requested)
		model.peak_requested = model_requested();
}

static void model_free(void)
{
	if (!model.count)
		return;
	unsigned i = (unsigned)(next_random() % model.count);
	struct model_block block = model.block[i];
	call(HL_KIND_free, block.addr, 0, 0);
	model.block[i] = model.block[--model.count];
	model_cover(&block, false);
}

static void model_returned(uint64_t from, uint64_t to, bool unmapped)
{
	for (uint64_t i = (from - BASE) / PAGE; i < (to - BASE) / PAGE; i++) {
		struct model_page *page = &model.page[i];
		bool before = page->returned;
		if (unmapped)
			model.returned += before ? 0 : PAGE;
		else
			model.returned += page->free ? PAGE : 0;
		page->returned = !unmapped && (before || page->free);
		if (!page->free)
			continue;
		page->free = false;
		model.returned_pages++;
		if (now - page->since > model.latency_max)
			model.latency_max = now - page->since;
	}
}

static void model_move_break(void)
{
	uint64_t top = BASE;
	for (unsigned i = 0; i < model.count; i++)
		if (model.block[i].addr + model.block[i].chunk > top)
			top = model.block[i].addr + model.block[i].chunk;
	uint64_t least = (top + PAGE - 1) & ~(PAGE - 1);
	uint64_t most = BASE + MODEL_PAGES * PAGE;
	uint64_t end = least + next_random() % ((most - least) / PAGE + 1) * PAGE;
	if (end == model.end)
		return;
	move_break(model.end, end);
	if (end < model.end)
		model_returned(end, model.end, true);
	model.end = end;
	if ((int64_t)(end - BASE) > model.peak_mapped)
		model.peak_mapped = (int64_t)(end - BASE);
}

/* malloc_trim: a run of pages without a block on them. */
static void model_trim(void)
{
	uint64_t pages = (model.end - BASE) / PAGE;
	uint64_t first = pages ? next_random() % pages : 0, last = first;
	while (last < pages && !model.page[last].blocks)
		last++;
	if (first == last)
		return;
	syscall_of(HL_KIND_madvise, BASE + first * PAGE, (last - first) * PAGE, MADV_DONTNEED, 0,
		HL_REGION_break);
	model_returned(BASE + first * PAGE, BASE + last * PAGE, false);
}

static void model_compare(void)
{
	int64_t chunk = 0;
	for (unsigned i = 0; i < model.count; i++)
		chunk += (int64_t)model.block[i].chunk;
	assert_int_equal(ledger.memory.requested, model_requested());
	assert_int_equal(ledger.memory.live_blocks, model.count);
	assert_int_equal(ledger.memory.chunk, chunk);
	assert_int_equal(memory_mapped(&ledger.memory), model.end - BASE);
	assert_int_equal(memory_free(&ledger.memory), (int64_t)(model.end - BASE) - chunk);
	assert_int_equal(result.peak.requested, model.peak_requested);
	assert_int_equal(result.peak.mapped, model.peak_mapped);
	assert_int_equal(result.returned.break_bytes, model.returned);
	assert_int_equal(result.latency.total_bytes, model.returned_pages * PAGE);
	assert_int_equal(result.latency.max_ns, model.latency_max);
	assert_int_equal(ledger.pages.reused_pages, model.reused);
}

static void random_sequences_agree_with_the_model(void **unused)
{
	for (unsigned round = 0; round < 30; round++) {
		memset(&model, 0, sizeof(model));
		model.end = BASE;
		for (unsigned i = 0; i < 4000; i++) {
			uint64_t dice = next_random() % 100;
			if (dice < 52)
				model_allocate();
			else if (dice < 97)
				model_free();
			else if (dice < 98)
				model_trim();
			else
				model_move_break();
			if (!(i % 16))
				model_compare();
		}
		model_compare();
		assert_int_equal(ledger_finish(&ledger, 0, 50), 0);
		uint64_t waiting = 0;
		for (unsigned i = 0; i < MODEL_PAGES; i++)
			waiting += model.page[i].free;
		assert_int_equal(result.never_page_bytes, waiting * PAGE);
		assert_int_equal(result.anomalies.unknown_frees, 0);
		assert_int_equal(result.anomalies.impossible, 0);
		assert_true(model.returned_pages > 0 && model.reused > 0);
		tear_down(unused);
		set_up(unused);
	}
}

static void realloc_takes_and_gives(void **unused)
{
	(void)unused;
	move_break(BASE, BASE + 100 * PAGE);
	call(HL_KIND_malloc, BASE + 16, 100, 112);
	call(HL_KIND_realloc_begin, BASE + 16, 0, 0);
	assert_int_equal(ledger.memory.requested, 0);
	/* Another thread may get the old address before this one is done. */
	call_as(2, HL_KIND_malloc, BASE + 16, 50, 64, 0);
	call(HL_KIND_realloc, BASE + 8192, 200, 208);
	assert_int_equal(ledger.memory.requested, 250);
	assert_int_equal(ledger.memory.live_blocks, 2);
	/* One that fails leaves the block as it was. */
	call(HL_KIND_realloc_begin, BASE + 8192, 0, 0);
	call(HL_KIND_realloc, 0, 1 << 30, 0);
	assert_int_equal(ledger.memory.requested, 250);
	assert_int_equal(result.calls[HL_KIND_realloc].failed, 1);
	/* realloc(p, 0) frees; realloc(NULL, n) allocates. */
	call(HL_KIND_realloc_begin, BASE + 8192, 0, 0);
	call(HL_KIND_realloc, 0, 0, 0);
	call(HL_KIND_realloc_begin, 0, 0, 0);
	call(HL_KIND_realloc, BASE + 4096, 7, 32);
	assert_int_equal(ledger.memory.requested, 57);
	assert_int_equal(result.calls[HL_KIND_realloc].count, 4);
	assert_int_equal(result.anomalies.unmatched + result.anomalies.order_violations, 0);
}

static void a_realloc_in_place_frees_no_page(void **unused)
{
	(void)unused;
	move_break(BASE, BASE + 100 * PAGE);
	call(HL_KIND_malloc, BASE + 16, 5 * PAGE, 5 * PAGE + 16);
	call(HL_KIND_realloc_begin, BASE + 16, 0, 0);
	call(HL_KIND_realloc, BASE + 16, 6 * PAGE, 6 * PAGE + 16);
	assert_int_equal(ledger.pages.reused_pages, 0);
	call(HL_KIND_free, BASE + 16, 0, 0);
	move_break(BASE + 100 * PAGE, BASE);
	assert_int_equal(result.latency.total_bytes, 7 * PAGE);
	assert_int_equal(result.latency.max_ns, 10);
}

static void a_mapped_block_returns_when_it_is_unmapped(void **unused)
{
	uint64_t start = UINT64_C(0x7ffff0000000);
	(void)unused;
	syscall_of(HL_KIND_mmap, 0, 50 * PAGE, 3, (int64_t)start, HL_REGION_block);
	call_as(1, HL_KIND_malloc, start + 16, 49 * PAGE, 50 * PAGE, HL_CHUNK_MMAPPED);
	assert_int_equal(memory_free(&ledger.memory), 0);
	call(HL_KIND_realloc_begin, start + 16, 0, 0);
	syscall_of(HL_KIND_mremap, start, 50 * PAGE, 20 * PAGE, (int64_t)start, HL_REGION_block);
	call_as(1, HL_KIND_realloc, start + 16, 19 * PAGE, 20 * PAGE, HL_CHUNK_MMAPPED);
	assert_int_equal(result.returned.block_bytes, 30 * PAGE);
	call(HL_KIND_free, start + 16, 0, 0);
	syscall_of(HL_KIND_munmap, start, 20 * PAGE, 0, -12, HL_REGION_block);
	assert_int_equal(ledger.memory.block_bytes, 20 * PAGE);
	syscall_of(HL_KIND_munmap, start, 20 * PAGE, 0, 0, HL_REGION_block);
	assert_int_equal(ledger.memory.block_bytes, 0);
	assert_int_equal(result.returned.block_bytes, 50 * PAGE);
	assert_int_equal(result.latency.total_bytes, 50 * PAGE);
	assert_int_equal(result.latency.max_ns, 20);
	assert_int_equal(ledger_finish(&ledger, 0, 50), 0);
	assert_int_equal(result.never_page_bytes, 0);
}

static void arenas_count_what_is_accessible(void **unused)
{
	const uint64_t size = 64 << 20;
	uint64_t start = UINT64_C(0x7fffe0000000);
	(void)unused;
	syscall_of(HL_KIND_mmap, 0, 2 * size, PROT_NONE, (int64_t)(start - PAGE), HL_REGION_arena);
	syscall_of(HL_KIND_munmap, start - PAGE, PAGE, 0, 0, HL_REGION_arena);
	syscall_of(HL_KIND_munmap, start + size, size - PAGE, 0, 0, HL_REGION_arena);
	assert_int_equal(ledger.memory.reserved_bytes, size);
	assert_int_equal(ledger.memory.arena_bytes, 0);
	assert_int_equal(ledger_returned_bytes(&result.returned), 0);
	syscall_of(HL_KIND_mprotect, start, 33 * PAGE, 3, 0, HL_REGION_arena);
	syscall_of(HL_KIND_mprotect, start + 33 * PAGE, PAGE, 3, -12, HL_REGION_arena);
	assert_int_equal(ledger.memory.arena_bytes, 33 * PAGE);
	call(HL_KIND_malloc, start + 16, 4 * PAGE, 4 * PAGE + 16);
	call(HL_KIND_free, start + 16, 0, 0);
	syscall_of(HL_KIND_madvise, start, 33 * PAGE, MADV_DONTNEED, 0, HL_REGION_arena);
	assert_int_equal(result.returned.arena_bytes, 5 * PAGE);
	syscall_of(HL_KIND_madvise, start, 33 * PAGE, MADV_DONTNEED, 0, HL_REGION_arena);
	assert_int_equal(result.returned.arena_bytes, 5 * PAGE);
	syscall_of(HL_KIND_munmap, start, size, 0, 0, HL_REGION_arena);
	assert_int_equal(result.returned.arena_bytes, 33 * PAGE);
	assert_int_equal(ledger.memory.arena_bytes + ledger.memory.reserved_bytes, 0);
	assert_int_equal(result.peak.mapped, 33 * PAGE);
}

/* A child of `ledger` as it is now, and what others do before and it does after the copy. */
static struct ledger child;
static struct ledger_result child_result;
static const struct ledger_copy copy = {.forked_by = 100, .child_tid = 200};

static void fork_child(void)
{
	memset(&child_result, 0, sizeof(child_result));
	assert_int_equal(ledger_fork(&child, &ledger, &copy, &child_result, &ns_clock), 0);
}

static void copied(void)
{
	inherit_close(&child);
}

static void a_child_begins_as_its_parent_was(void **unused)
{
	struct stream_event event = {.tid = 1};
	(void)unused;
	move_break(BASE, BASE + 10 * PAGE);
	call(HL_KIND_malloc, BASE + 16, 100, 112);
	fork_child();
	event.record.call.kind_addr = hl_kind_addr(HL_KIND_free, BASE + 16);
	event.record.call.tick = now;
	assert_int_equal(ledger_apply(&child, &event), 0);
	assert_int_equal(child.memory.requested, 0);
	assert_int_equal(child_result.anomalies.unknown_frees, 0);
	assert_int_equal(child_result.peak.mapped, 10 * PAGE);
	assert_int_equal(ledger.memory.requested, 100);
	ledger_free(&child);
	ledger_result_free(&child_result);
}

static struct stream_event call_event(
	enum hl_kind kind, uint64_t addr, uint64_t size, uint64_t chunk, uint64_t flags)
{
	struct stream_event event = {.tid = 2};
	event.record.call = (struct hl_call_record){.tick = now += 10,
		.kind_addr = hl_kind_addr(kind, addr),
		.size = size,
		.chunk = chunk | flags << HL_ADDRESS_BITS};
	return event;
}

static struct stream_event map_event(
	enum hl_kind kind, uint64_t addr, uint64_t length, uint64_t argument, uint64_t returned)
{
	struct stream_event event = {.tid = 2};
	event.record.syscall = (struct hl_syscall_record){.tick = now += 10,
		.kind_addr = hl_kind_addr(kind, addr),
		.length = length,
		.argument = argument,
		.result = (int64_t)returned,
		.cause = hl_cause_pack(
			HL_KIND_malloc, HL_REASON_over_threshold, HL_REGION_block, 0)};
	return event;
}

static void perhaps(struct stream_event event)
{
	assert_int_equal(inherit_note(&child, &event), 0);
}

static void surely(struct stream_event event)
{
	assert_int_equal(ledger_apply(&child, &event), 0);
}

static uint64_t child_anomalies(void)
{
	const struct ledger_anomalies *found = &child_result.anomalies;
	return found->unknown_frees + found->order_violations + found->unmatched +
	       found->inherited + found->impossible;
}

#define MALLOC(addr, size) call_event(HL_KIND_malloc, addr, size, (size) + 16, 0)
#define FREE(addr) call_event(HL_KIND_free, addr, 0, 0, 0)
#define REALLOC_BEGIN(addr) call_event(HL_KIND_realloc_begin, addr, 0, 0, 0)
#define REALLOC(addr, size) call_event(HL_KIND_realloc, addr, size, (size) + 16, 0)

static void a_block_made_after_the_mark_is_taken_in_when_it_is_freed(void **unused)
{
	(void)unused;
	move_break(BASE, BASE + 10 * PAGE);
	call(HL_KIND_malloc, BASE + 16, 1000, 1016);
	fork_child();
	perhaps(MALLOC(BASE + 2048, 200));
	perhaps(MALLOC(BASE + 4096, 300));
	perhaps(MALLOC(BASE + 8192, 400));
	copied();
	surely(MALLOC(BASE + 12288, 50));
	surely(FREE(BASE + 2048));
	surely(REALLOC_BEGIN(BASE + 4096));
	surely(REALLOC(BASE + 4096, 310));
	/* What nobody touches is not in the heap; what was, was from the start. */
	assert_int_equal(child.memory.requested, 1000 + 50 + 310);
	assert_int_equal(child.memory.live_blocks, 3);
	assert_int_equal(child_result.peak.requested, 1000 + 200 + 300 + 50);
	assert_int_equal(child_result.peak.live_blocks, 4);
	assert_int_equal(child_result.calls[HL_KIND_malloc].count, 1);
	assert_int_equal(child_anomalies(), 0);
	/* Once. */
	surely(FREE(BASE + 2048));
	assert_int_equal(child_result.anomalies.unknown_frees, 1);
	surely(FREE(BASE + 5120));
	assert_int_equal(child_result.anomalies.unknown_frees, 2);
	ledger_free(&child);
	ledger_result_free(&child_result);
}

static void a_block_freed_after_the_mark_makes_way(void **unused)
{
	(void)unused;
	move_break(BASE, BASE + 10 * PAGE);
	call(HL_KIND_malloc, BASE + 16, 1000, 1016);
	call(HL_KIND_malloc, BASE + 2048, 500, 516);
	call(HL_KIND_malloc, BASE + 4096, 600, 616);
	call(HL_KIND_malloc, BASE + 8192, 700, 716);
	fork_child();
	perhaps(FREE(BASE + 16));
	perhaps(REALLOC_BEGIN(BASE + 2048));
	perhaps(FREE(BASE + 4096));
	copied();
	surely(MALLOC(BASE + 16, 10));
	surely(MALLOC(BASE + 2048 + 64, 20)); /* inside the old block */
	assert_int_equal(child.memory.requested, 10 + 20 + 600 + 700);
	assert_int_equal(child_result.peak.requested, 600 + 700 + 30);
	assert_int_equal(child.pages.reused_pages, 0);
	assert_int_equal(child_anomalies(), 0);
	/* It was there after all: once the child frees it, only the child's own calls count. */
	surely(FREE(BASE + 4096));
	surely(MALLOC(BASE + 4096, 600));
	assert_int_equal(child_anomalies(), 0);
	surely(MALLOC(BASE + 4096, 600));
	assert_int_equal(child_result.anomalies.order_violations, 1);
	surely(MALLOC(BASE + 8192, 700)); /* nobody freed that one */
	assert_int_equal(child_result.anomalies.order_violations, 2);
	assert_int_equal(ledger.memory.requested, 1000 + 500 + 600 + 700);
	ledger_free(&child);
	ledger_result_free(&child_result);
}

static void an_address_that_changes_hands_after_the_mark(void **unused)
{
	(void)unused;
	move_break(BASE, BASE + 10 * PAGE);
	call(HL_KIND_malloc, BASE + 16, 1000, 1016);
	fork_child();
	perhaps(FREE(BASE + 16)); /* there, gone, there */
	perhaps(MALLOC(BASE + 16, 30));
	perhaps(MALLOC(BASE + 2048, 100)); /* not there, there, gone, there */
	perhaps(FREE(BASE + 2048));
	perhaps(MALLOC(BASE + 2048, 200));
	perhaps(MALLOC(BASE + 512, 40)); /* inside the block that went */
	copied();
	surely(FREE(BASE + 2048));
	assert_int_equal(child.memory.requested, 1000);
	surely(FREE(BASE + 512));
	assert_int_equal(child.memory.requested, 0);
	assert_int_equal(child_anomalies(), 0);
	surely(FREE(BASE + 2048));
	assert_int_equal(child_result.anomalies.unknown_frees, 1);
	ledger_free(&child);
	ledger_result_free(&child_result);
}

static void a_block_that_was_being_resized_at_the_mark(void **unused)
{
	(void)unused;
	move_break(BASE, BASE + 10 * PAGE);
	call(HL_KIND_malloc, BASE + 16, 1000, 1016);
	call(HL_KIND_realloc_begin, BASE + 16, 0, 0);
	fork_child();
	copied();
	assert_int_equal(child.memory.requested, 0);
	surely(FREE(BASE + 16));
	assert_int_equal(child_result.peak.requested, 1000);
	assert_int_equal(child_anomalies(), 0);
	ledger_free(&child);
	ledger_result_free(&child_result);
}

static void mappings_made_and_given_up_after_the_mark(void **unused)
{
	const uint64_t there = UINT64_C(0x7ffff0000000), grown = there + 100 * PAGE;
	const uint64_t fresh = there + 200 * PAGE, resized = there + 300 * PAGE;
	(void)unused;
	syscall_of(HL_KIND_mmap, 0, 50 * PAGE, 3, (int64_t)there, HL_REGION_block);
	call_as(1, HL_KIND_malloc, there + 16, 49 * PAGE, 50 * PAGE, HL_CHUNK_MMAPPED);
	syscall_of(HL_KIND_mmap, 0, 10 * PAGE, 3, (int64_t)grown, HL_REGION_block);
	fork_child();
	perhaps(FREE(there + 16));
	perhaps(map_event(HL_KIND_munmap, there, 50 * PAGE, 0, 0));
	perhaps(map_event(HL_KIND_mmap, 0, 40 * PAGE, 3, fresh));
	perhaps(call_event(HL_KIND_malloc, fresh + 16, 39 * PAGE, 40 * PAGE, HL_CHUNK_MMAPPED));
	perhaps(map_event(HL_KIND_mremap, grown, 10 * PAGE, 90 * PAGE, grown));
	perhaps(map_event(HL_KIND_mmap, 0, 5 * PAGE, 3, resized));
	perhaps(map_event(HL_KIND_mmap, 0, 5 * PAGE, 3, (uint64_t)-12));
	copied();
	/* Its own mapping lies where the first one was: mapping and block are gone. */
	surely(map_event(HL_KIND_mmap, 0, 20 * PAGE, 3, there + 10 * PAGE));
	assert_int_equal(child.memory.block_bytes, (10 + 20) * PAGE);
	assert_int_equal(child.memory.requested, 0);
	surely(map_event(HL_KIND_munmap, there + 10 * PAGE, 20 * PAGE, 0, 0));
	/* It frees one that was made, */
	surely(FREE(fresh + 16));
	surely(map_event(HL_KIND_munmap, fresh, 40 * PAGE, 0, 0));
	assert_int_equal(child.memory.block_bytes, 10 * PAGE);
	/* one that had grown, */
	surely(map_event(HL_KIND_munmap, grown, 90 * PAGE, 0, 0));
	assert_int_equal(child.memory.block_bytes, 0);
	/* and resizes another. */
	surely(map_event(HL_KIND_mremap, resized, 5 * PAGE, 6 * PAGE, resized));
	assert_int_equal(child.memory.block_bytes, 6 * PAGE);
	assert_int_equal(child_result.peak.mapped, (90 + 40 + 20 + 5) * PAGE);
	assert_int_equal(child_anomalies(), 0);
	surely(map_event(HL_KIND_munmap, fresh, 40 * PAGE, 0, 0));
	assert_int_equal(child_result.anomalies.impossible, 1);
	ledger_free(&child);
	ledger_result_free(&child_result);
}

static void a_grandchild_does_not_know_either(void **unused)
{
	struct ledger_result result_of_grandchild = {0};
	struct ledger grandchild;
	struct stream_event event;
	(void)unused;
	move_break(BASE, BASE + 10 * PAGE);
	call(HL_KIND_malloc, BASE + 16, 1000, 1016);
	fork_child();
	perhaps(FREE(BASE + 16));
	perhaps(MALLOC(BASE + 2048, 100));
	perhaps(MALLOC(BASE + 4096, 200));
	perhaps(MALLOC(BASE + 8192, 300));
	copied();
	surely(FREE(BASE + 8192));
	assert_int_equal(ledger_fork(&grandchild, &child, &copy, &result_of_grandchild, &ns_clock), 0);
	/* A thread of the child frees one: so it was there, and perhaps no longer is. */
	event = FREE(BASE + 4096);
	assert_int_equal(inherit_note(&grandchild, &event), 0);
	inherit_close(&grandchild);
	assert_int_equal(grandchild.memory.requested, 1200);
	event = MALLOC(BASE + 4096, 20);
	assert_int_equal(ledger_apply(&grandchild, &event), 0);
	event = FREE(BASE + 2048);
	assert_int_equal(ledger_apply(&grandchild, &event), 0);
	event = MALLOC(BASE + 16, 10);
	assert_int_equal(ledger_apply(&grandchild, &event), 0);
	assert_int_equal(grandchild.memory.requested, 30);
	assert_int_equal(result_of_grandchild.anomalies.unknown_frees, 0);
	assert_int_equal(result_of_grandchild.anomalies.order_violations, 0);
	event = FREE(BASE + 8192); /* the child had freed that one */
	assert_int_equal(ledger_apply(&grandchild, &event), 0);
	assert_int_equal(result_of_grandchild.anomalies.unknown_frees, 1);
	/* The child itself has not been asked. */
	surely(FREE(BASE + 16));
	surely(FREE(BASE + 4096));
	assert_int_equal(child_anomalies(), 0);
	ledger_free(&grandchild);
	ledger_result_free(&result_of_grandchild);
	ledger_free(&child);
	ledger_result_free(&child_result);
}

/* However long the window is, what is kept is bounded by the addresses in it. */
static void a_long_window_takes_no_more_room_than_its_addresses(void **unused)
{
	(void)unused;
	move_break(BASE, BASE + 10 * PAGE);
	fork_child();
	for (unsigned i = 0; i < 100000; i++) {
		perhaps(MALLOC(BASE + 16 + i % 50 * 64, 40));
		perhaps(FREE(BASE + 16 + i % 50 * 64));
	}
	assert_true(child.inherit.blocks.capacity <= 256);
	copied();
	for (unsigned i = 0; i < 50; i++)
		surely(FREE(BASE + 16 + i * 64));
	assert_int_equal(child_anomalies(), 0);
	surely(FREE(BASE + 16));
	assert_int_equal(child_result.anomalies.unknown_frees, 1);
	ledger_free(&child);
	ledger_result_free(&child_result);
}

static void what_contradicts_itself_is_counted(void **unused)
{
	(void)unused;
	move_break(BASE, BASE + 10 * PAGE);
	call(HL_KIND_free, BASE + 16, 0, 0);
	assert_int_equal(result.anomalies.unknown_frees, 1);
	call(HL_KIND_malloc, BASE + 16, 100, 112);
	call(HL_KIND_malloc, BASE + 16, 200, 208);
	assert_int_equal(result.anomalies.order_violations, 1);
	assert_int_equal(ledger.memory.requested, 200);
	call(HL_KIND_realloc, BASE + 4096, 1, 32);
	assert_int_equal(result.anomalies.unmatched, 1);
	syscall_of(HL_KIND_munmap, BASE, 10 * PAGE, 0, 0, HL_REGION_block);
	assert_int_equal(result.anomalies.impossible, 1);
	assert_int_equal(ledger.memory.block_bytes, 0);
}

static void phase(const char *name)
{
	struct stream_event event = {.tid = 1};
	event.record.phase = (struct hl_phase_record){
		.tick = now += 10, .kind_addr = hl_kind_addr(HL_KIND_phase, 0)};
	hl_phase_name(&event.record.phase, name);
	assert_int_equal(ledger_apply(&ledger, &event), 0);
}

static void phases_divide_what_is_counted(void **unused)
{
	const struct phases_row *row;
	(void)unused;
	move_break(BASE, BASE + 10 * PAGE);
	call(HL_KIND_malloc, BASE + 16, 5000, 5008);
	phase("one");
	call(HL_KIND_free, BASE + 16, 0, 0);
	call(HL_KIND_malloc, BASE + 16, 100, 112);
	move_break(BASE + 10 * PAGE, BASE + 20 * PAGE);
	phase("two");
	move_break(BASE + 20 * PAGE, BASE + 5 * PAGE);
	assert_int_equal(ledger_finish(&ledger, now + 10, 50), 0);
	row = result.phases.row;
	assert_int_equal(result.phases.count, 3);
	assert_false(row[0].named);
	assert_string_equal(row[1].name, "one");
	assert_string_equal(row[2].name, "two");
	assert_int_equal(row[0].calls[HL_KIND_malloc].count, 1);
	assert_int_equal(row[1].calls[HL_KIND_malloc].count, 1);
	assert_int_equal(row[1].calls[HL_KIND_malloc].bytes, 100);
	assert_int_equal(row[1].calls[HL_KIND_free].count, 1);
	assert_int_equal(row[2].calls[HL_KIND_malloc].count, 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(row[i].syscalls[HL_KIND_brk], 1);
	/* What was there when it began counts. */
	assert_int_equal(row[1].peak_requested, 5000);
	assert_int_equal(row[2].peak_requested, 100);
	assert_int_equal(row[0].peak_mapped, 10 * PAGE);
	assert_int_equal(row[2].peak_mapped, 20 * PAGE);
	assert_int_equal(memory_mapped(&row[2].end), 5 * PAGE);
	assert_int_equal(row[0].end_tick, row[1].first_tick);
	assert_int_equal(row[2].end_tick, now + 10);
}

static void what_came_before_the_begin_is_the_heap_only(void **unused)
{
	(void)unused;
	move_break(BASE, BASE + 10 * PAGE);
	call(HL_KIND_malloc, BASE + 16, 5000, 5008);
	call(HL_KIND_malloc, BASE + 0x4010, 3 * PAGE, 3 * PAGE + 16);
	call(HL_KIND_free, BASE + 16, 0, 0);
	phase("early");
	call(HL_KIND_realloc_begin, BASE + 0x4010, 0, 0);
	call(HL_KIND_begin, 0, 0, 0);
	assert_int_equal(result.calls[HL_KIND_malloc].count, 0);
	assert_int_equal(result.causes.count, 0);
	assert_int_equal(result.peak.mapped, 10 * PAGE);
	call(HL_KIND_realloc, BASE + 0x4010, 100, 112);
	assert_int_equal(result.peak.requested, 100);
	move_break(BASE + 10 * PAGE, BASE + 5 * PAGE);
	assert_int_equal(ledger_finish(&ledger, now, 50), 0);
	assert_int_equal(result.calls[HL_KIND_realloc].count, 1);
	assert_int_equal(result.returned.break_bytes, 5 * PAGE);
	assert_int_equal(result.anomalies.unmatched, 0);
	assert_int_equal(result.phases.count, 1);
	assert_string_equal(result.phases.row[0].name, "early");
	assert_int_equal(result.phases.row[0].calls[HL_KIND_realloc].count, 1);
	/* Of pages only those of the large block were free since the begin, but for its first. */
	assert_int_equal(result.never_page_bytes + result.latency.total_bytes, 3 * PAGE);
}

static void a_name_without_an_end_is_bounded(void **unused)
{
	struct stream_event event = {.tid = 1};
	(void)unused;
	memset(&event.record, 'x', sizeof(event.record));
	event.record.phase.tick = 5;
	event.record.phase.kind_addr = hl_kind_addr(HL_KIND_phase, 0);
	assert_int_equal(ledger_apply(&ledger, &event), 0);
	assert_int_equal(strlen(result.phases.row[1].name), HL_PHASE_NAME_BYTES - 1);
}

/* Its pages are not counted one by one, neither when it comes nor at the end. */
static void a_block_beyond_all_tables_is_bounded(void **unused)
{
	(void)unused;
	ledger.pages.limit = 4;
	move_break(BASE, BASE + (UINT64_C(1) << 46));
	call(HL_KIND_malloc, BASE + 16, UINT64_C(1) << 45, UINT64_C(1) << 45);
	assert_int_equal(result.anomalies.impossible, 1);
	assert_int_equal(ledger_finish(&ledger, now, 50), 0);
	assert_int_equal(result.end.requested, INT64_C(1) << 45);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(random_sequences_agree_with_the_model),
		TEST(realloc_takes_and_gives),
		TEST(a_block_beyond_all_tables_is_bounded),
		TEST(a_realloc_in_place_frees_no_page),
		TEST(a_mapped_block_returns_when_it_is_unmapped),
		TEST(arenas_count_what_is_accessible),
		TEST(a_child_begins_as_its_parent_was),
		TEST(a_block_made_after_the_mark_is_taken_in_when_it_is_freed),
		TEST(a_block_freed_after_the_mark_makes_way),
		TEST(an_address_that_changes_hands_after_the_mark),
		TEST(a_block_that_was_being_resized_at_the_mark),
		TEST(mappings_made_and_given_up_after_the_mark),
		TEST(a_grandchild_does_not_know_either),
		TEST(a_long_window_takes_no_more_room_than_its_addresses),
		TEST(what_contradicts_itself_is_counted),
		TEST(phases_divide_what_is_counted),
		TEST(a_name_without_an_end_is_bounded),
		TEST(what_came_before_the_begin_is_the_heap_only),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

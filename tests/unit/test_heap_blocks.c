/* SPDX-License-Identifier: MIT
 *
 * What one thread may expect of the heap: sizes, alignment, contents, errno, and when it grows and
 * gives memory back.
 */
#include "heap_log.h"

#include "arena.h"
#include "check.h"
#include "chunk.h"
#include "heap.h"
#include "large.h"
#include "log.h"
#include "os.h"
#include "stats.h"
#include "tunables.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define KIB ((size_t)1024)
#define MIB (KIB * 1024)

static bool is_filled(const unsigned char *block, unsigned char value, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (block[i] != value)
			return false;
	return true;
}

static void each_size_is_aligned_and_usable(void **state)
{
	(void)state;
	for (size_t bytes = 0; bytes < 5000; bytes++) {
		unsigned char *block = heap_alloc(bytes);
		bool mapped;

		assert_non_null(block);
		assert_int_equal((uintptr_t)block % 16, 0);
		assert_true(heap_usable(block) >= bytes);
		assert_true(heap_usable(block) < bytes + 40);
		assert_int_equal(heap_taken(block, &mapped), heap_usable(block) + 8);
		assert_false(mapped);
		memset(block, 0x5a, heap_usable(block));
		heap_free(block);
	}
	heap_check();
}

static void chunk_sizes_follow_the_rule(void **state)
{
	(void)state;
	assert_int_equal(chunk_bytes_for(0), 32);
	assert_int_equal(chunk_bytes_for(24), 32);
	assert_int_equal(chunk_bytes_for(25), 48);
	assert_int_equal(chunk_bytes_for(1032), 1040);
	assert_int_equal(chunk_bytes_for(131048), 131056);
	assert_int_equal(chunk_bytes_for(131049), 131072);
}

static void impossible_sizes_are_refused(void **state)
{
	void *block;

	(void)state;
	errno = 0;
	assert_null(heap_alloc((size_t)PTRDIFF_MAX + 1));
	assert_int_equal(errno, ENOMEM);
	errno = 0;
	assert_null(heap_alloc(SIZE_MAX));
	assert_int_equal(errno, ENOMEM);
	errno = 0;
	assert_null(heap_calloc(SIZE_MAX));
	assert_int_equal(errno, ENOMEM);
	errno = 0;
	assert_null(heap_aligned(4096, SIZE_MAX - 100));
	assert_int_equal(errno, ENOMEM);
	errno = 0;
	assert_null(heap_aligned(SIZE_MAX, 1));
	assert_int_equal(errno, EINVAL);
	block = heap_alloc(100);
	memset(block, 7, 100);
	errno = 0;
	assert_null(heap_realloc(block, SIZE_MAX));
	assert_int_equal(errno, ENOMEM);
	assert_true(is_filled(block, 7, 100));
	errno = EINTR;
	heap_free(block);
	heap_free(NULL);
	assert_int_equal(errno, EINTR);
	assert_int_equal(heap_usable(NULL), 0);
	heap_check();
}

static void freed_neighbours_are_joined(void **state)
{
	char *block[3], *end, *joined;

	(void)state;
	for (int i = 0; i < 3; i++)
		block[i] = heap_alloc(2000);
	end = heap_alloc(2000); /* keeps them from top */
	assert_ptr_equal(block[1], block[0] + 2016);
	heap_free(block[0]);
	heap_free(block[2]);
	heap_check();
	heap_free(block[1]);
	heap_check();
	joined = heap_alloc(6000);
	assert_ptr_equal(joined, block[0]);
	heap_free(joined);
	heap_free(end);
}

static void calloc_clears_what_was_used(void **state)
{
	size_t sizes[] = {1, 24, 100, 1000, 5000, 60000, 120000, 200000, 3 * MIB};

	(void)state;
	for (int round = 0; round < 20; round++)
		for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
			unsigned char *dirty = heap_alloc(sizes[i]);
			unsigned char *block;

			memset(dirty, 0xff, heap_usable(dirty));
			heap_free(dirty);
			block = heap_calloc(sizes[i]);
			assert_true(is_filled(block, 0, heap_usable(block)));
			memset(block, 0xff, heap_usable(block));
			if (round % 2 == 0)
				heap_free(block);
			else
				heap_free(heap_realloc(block, sizes[i] / 2 + 1));
		}
	heap_check();
}

static void alignments_are_kept(void **state)
{
	(void)state;
	for (size_t alignment = 1; alignment <= MIB; alignment *= 2)
		for (size_t bytes = 0; bytes < 300000; bytes = bytes * 3 + 1) {
			unsigned char *block = heap_aligned(alignment, bytes);

			assert_non_null(block);
			assert_int_equal((uintptr_t)block % alignment, 0);
			memset(block, 1, heap_usable(block));
			assert_true(heap_usable(block) >= bytes);
			block = heap_realloc(block, bytes + 5000);
			assert_true(is_filled(block, 1, bytes));
			heap_free(block);
		}
	assert_int_equal((uintptr_t)heap_aligned(48, 10) % 64, 0);
	heap_check();
}

static void realloc_keeps_contents(void **state)
{
	unsigned char *block = heap_alloc(10);
	size_t have = 10;

	(void)state;
	memset(block, 0x33, have);
	for (int i = 0; i < 400; i++) {
		size_t bytes = 1 + (size_t)(i * 7919) % 700000;
		void *fence = heap_alloc(bytes % 3000);

		block = heap_realloc(block, bytes);
		assert_true(is_filled(block, 0x33, have < bytes ? have : bytes));
		memset(block, 0x33, bytes);
		have = bytes;
		heap_free(fence);
	}
	assert_null(heap_realloc(block, 0));
	heap_check();
}

static void top_is_trimmed_at_the_threshold(void **state)
{
	unsigned trims = heap_log_count(HL_KIND_brk, HL_REASON_trim_top);
	void *small[64];

	(void)state;
	heap_trim(0);
	for (int i = 0; i < 64; i++)
		small[i] = heap_alloc(100 * KIB);
	for (int i = 63; i > 32; i--)
		heap_free(small[i]);
	assert_true(heap_log_count(HL_KIND_brk, HL_REASON_trim_top) > trims);
	/* What stays is top_pad and less than a page more. */
	assert_in_range(stats_mallinfo().keepcost, 128 * KIB, 128 * KIB + 100 * KIB + 4096);
	for (int i = 32; i >= 0; i--)
		heap_free(small[i]);
	heap_check();
}

static void deferred_frees_trim(void **state)
{
	void *block[60];
	size_t before;

	(void)state;
	heap_trim(0);
	for (int i = 0; i < 60; i++)
		block[i] = heap_alloc(100 * KIB);
	before = arena_main.system_bytes;
	for (int i = 0; i < 60; i++)
		heap_free_aside(block[i]);
	assert_int_equal(arena_main.system_bytes, before);
	heap_free(heap_alloc(2000)); /* enters the arena */
	assert_true(arena_main.system_bytes < before - 5 * MIB);
	heap_check();
}

static void the_mmap_threshold_moves(void **state)
{
	void *block = heap_alloc(300 * KIB);
	bool mapped;

	(void)state;
	heap_free(block);
	block = heap_alloc(20 * MIB);
	assert_int_equal(heap_taken(block, &mapped), os_page_up(20 * MIB + 16));
	assert_true(mapped);
	heap_free(block);
	assert_int_equal(tunables.mmap_threshold, os_page_up(20 * MIB + 16));
	assert_int_equal(tunables.trim_threshold, 2 * tunables.mmap_threshold);
	block = heap_alloc(19 * MIB);
	heap_taken(block, &mapped);
	assert_false(mapped);
	heap_free(block);
	block = heap_alloc(33 * MIB); /* too large to move it */
	heap_free(block);
	assert_int_equal(tunables.mmap_threshold, os_page_up(20 * MIB + 16));
	heap_check();
}

static void mapped_blocks_grow_by_mremap(void **state)
{
	unsigned before = heap_log_count(HL_KIND_mremap, HL_REASON_realloc_mremap);
	unsigned char *block = heap_alloc(40 * MIB);

	(void)state;
	memset(block, 9, 1000);
	block = heap_realloc(block, 80 * MIB);
	assert_int_equal(heap_log_count(HL_KIND_mremap, HL_REASON_realloc_mremap), before + 1);
	assert_true(is_filled(block, 9, 1000));
	block = heap_realloc(block, 80 * MIB - 10); /* the same pages */
	assert_int_equal(heap_log_count(HL_KIND_mremap, HL_REASON_realloc_mremap), before + 1);
	block[80 * MIB - 11] = 1;
	heap_free(block);
	assert_int_equal(heap_log_last().result, 0);
	assert_int_equal(hl_kind_of(heap_log_last().kind_addr), HL_KIND_munmap);
}

static void trim_returns_inner_pages_in_batches(void **state)
{
	enum { COUNT = 200 };
	unsigned before = heap_log_count(HL_KIND_madvise, HL_REASON_trim_call);
	unsigned rooms = heap_log_rooms();
	unsigned char *block[COUNT];

	(void)state;
	for (int i = 0; i < COUNT; i++) {
		block[i] = heap_alloc(20000);
		memset(block[i], 3, 20000);
	}
	for (int i = 0; i < COUNT; i += 2)
		heap_free(block[i]);
	log_enter(HL_KIND_malloc_trim, 0, NULL);
	assert_int_equal(heap_trim(0), 1);
	log_leave();
	assert_true(heap_log_count(HL_KIND_madvise, HL_REASON_trim_call) >= before + COUNT / 2 - 1);
	assert_true(heap_log_rooms() > rooms);
	heap_check();
	for (int i = 1; i < COUNT; i += 2) {
		assert_true(is_filled(block[i], 3, 20000));
		heap_free(block[i]);
	}
	heap_check();
}

static void figures_add_up(void **state)
{
	struct mallinfo2 before = stats_mallinfo(), after;
	void *block = heap_alloc(50000);
	void *mapped = heap_alloc(50 * MIB);

	(void)state;
	after = stats_mallinfo();
	assert_int_equal(after.uordblks + after.fordblks, after.arena);
	assert_true(after.uordblks >= before.uordblks + 50000);
	assert_int_equal(after.hblks, before.hblks + 1);
	assert_true(after.hblkhd >= before.hblkhd + 50 * MIB);
	heap_free(mapped);
	heap_free(block);
}

static void a_foreign_break_is_fenced(void **state)
{
	size_t foreign_before, i;
	unsigned char *foreign, *block[40];

	(void)state;
	foreign_before = arena_main.foreign_bytes;
	foreign = sbrk(10001);
	assert_ptr_not_equal(foreign, (void *)-1);
	memset(foreign, 0x77, 10001);
	for (i = 0; i < 40; i++) {
		block[i] = heap_alloc(90 * KIB);
		memset(block[i], 1, 90 * KIB);
	}
	assert_true(is_filled(foreign, 0x77, 10001));
	for (i = 0; i < 40; i++)
		heap_free(block[i]);
	heap_trim(0);
	assert_true(is_filled(foreign, 0x77, 10001));
	assert_true(arena_main.foreign_bytes >= foreign_before + 10001);
	heap_check();
}

static void aside_calls_need_no_lock(void **state)
{
	unsigned char *block = heap_alloc(3000), *aside = heap_alloc_aside(100), *moved;
	bool mapped;

	(void)state;
	memset(block, 4, 3000);
	heap_taken(aside, &mapped);
	assert_true(mapped);
	moved = heap_realloc_aside(block, 5000);
	assert_true(is_filled(moved, 4, 3000));
	heap_free_aside(aside);
	aside = heap_aligned_aside(8192, 10);
	assert_int_equal((uintptr_t)aside % 8192, 0);
	heap_free(aside);
	heap_free(moved);
	aside = heap_calloc_aside(100);
	assert_true(is_filled(aside, 0, 100));
	heap_free_aside(aside);
	heap_free(heap_alloc(2000)); /* enters the arena: the deferred free is done */
	heap_check();
}

static void options_are_checked(void **state)
{
	(void)state;
	assert_int_equal(heap_option(M_MXFAST, 160), 1);
	assert_int_equal(heap_option(M_MXFAST, 161), 0);
	assert_int_equal(heap_option(M_MXFAST, 128), 1);
	assert_int_equal(heap_option(M_MMAP_THRESHOLD, 64 << 20), 1); /* no bound, as in 2.36 */
	assert_int_equal(heap_option(M_MMAP_THRESHOLD, 1 << 20), 1);
	assert_true(tunables.fixed);
	heap_free(heap_alloc(5 * MIB));
	assert_int_equal(tunables.mmap_threshold, MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_size_is_aligned_and_usable),
		cmocka_unit_test(chunk_sizes_follow_the_rule),
		cmocka_unit_test(impossible_sizes_are_refused),
		cmocka_unit_test(top_is_trimmed_at_the_threshold),
		cmocka_unit_test(deferred_frees_trim), /* before the threshold moves */
		cmocka_unit_test(freed_neighbours_are_joined),
		cmocka_unit_test(the_mmap_threshold_moves),
		cmocka_unit_test(calloc_clears_what_was_used),
		cmocka_unit_test(alignments_are_kept),
		cmocka_unit_test(realloc_keeps_contents),
		cmocka_unit_test(mapped_blocks_grow_by_mremap),
		cmocka_unit_test(trim_returns_inner_pages_in_batches),
		cmocka_unit_test(figures_add_up),
		cmocka_unit_test(a_foreign_break_is_fenced),
		cmocka_unit_test(aside_calls_need_no_lock),
		cmocka_unit_test(options_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT
 *
 * Reads the caches of a process that is made up here: what is whole is told exactly, and what
 * changes while it is read, or is no list at all, is left out and said to be missing.
 */
#include "caches.h"

#include "heapledger/caches.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#define TICK 1234
#define BLOCKS 64
#define BYTES 1024 /* of a place for a block */
#define ENTRIES 7
#define BIN 3 /* of 80 bytes */
#define TABLE 656
#define SERIAL 5
#define OTHER_BIN 9 /* of the first cache, with one block */

struct arena {
	uint64_t fast[HL_FAST_BINS];
	uint64_t deferred;
	uint64_t next;
};

/* The process: its own addresses, read by its own pid. */
static struct {
	struct hl_caches caches;
	struct {
		_Alignas(16) uint64_t below;
		uint64_t head;
		struct hl_cache cache;
	} cache[2];
	struct arena arena[2];
	_Alignas(16) unsigned char place[BLOCKS][BYTES];
} image;

static unsigned calls; /* of read, up to now */
static void (*meddle)(unsigned call);

static ssize_t read_image(const struct caches_source *source, const struct iovec *local,
	const struct iovec *remote, size_t count)
{
	(void)source;
	calls++;
	if (meddle != NULL)
		meddle(calls);
	return process_vm_readv(getpid(), local, count, remote, count, 0);
}

static void (*log_meanwhile)(void); /* between the two readings */

static uint64_t divide(const struct caches_source *source)
{
	(void)source;
	if (log_meanwhile != NULL)
		log_meanwhile();
	return TICK;
}

static const struct caches_source source = {.address = 0, .read = read_image, .divide = divide};

static uint64_t address(const void *pointer)
{
	return (uint64_t)(uintptr_t)pointer;
}

static uint64_t block(unsigned number)
{
	return address(image.place[number]) + 16;
}

static struct hl_kept_block *words(unsigned number)
{
	return (struct hl_kept_block *)(void *)(image.place[number] + 8);
}

static void put_block(unsigned number, unsigned bin, uint64_t next, uint64_t key)
{
	*words(number) =
		(struct hl_kept_block){hl_bin_bytes(bin) | 1, hl_unmask(block(number), next), key};
}

static void push(unsigned cache, unsigned bin, unsigned number)
{
	struct hl_cache *to = &image.cache[cache].cache;

	put_block(number, bin, to->first[bin], image.caches.key);
	to->first[bin] = block(number);
	to->room[bin]--;
}

static void push_fast(unsigned arena, unsigned bin, unsigned number)
{
	put_block(number, bin, image.arena[arena].fast[bin], 77);
	image.arena[arena].fast[bin] = block(number) - 16;
}

static void begin(void)
{
	memset(&image, 0, sizeof(image));
	meddle = NULL;
	log_meanwhile = NULL;
	calls = 0;
	image.caches.key = 0x1234567890abcdef;
	image.caches.arena = address(&image.arena[0]);
	image.caches.arena_next = offsetof(struct arena, next);
	image.caches.arena_deferred = offsetof(struct arena, deferred);
	image.caches.arena_fast = offsetof(struct arena, fast);
	image.caches.bins = HL_CACHE_BINS;
	image.caches.entries = ENTRIES;
	image.caches.count = 2;
	image.caches.highest = 4;
	for (unsigned i = 0; i < 2; i++) {
		image.caches.place[2 * i + 1].cache = address(&image.cache[i].cache);
		image.caches.place[2 * i + 1].thread = (uint64_t)SERIAL << 32 | (100 + i);
		image.arena[i].next = address(&image.arena[1 - i]);
		image.cache[i].head = TABLE | 5;
		for (unsigned bin = 0; bin < HL_CACHE_BINS; bin++)
			image.cache[i].cache.room[bin] = ENTRIES;
	}
	for (unsigned i = 0; i < 5; i++)
		push(0, BIN, i);
	push(0, OTHER_BIN, 50);
	push(1, 0, 10);
	push_fast(0, 1, 20);
	push_fast(0, 1, 21);
	push_fast(1, 6, 22);
}

static void take(struct caches_held *held)
{
	struct caches_source from = source;

	from.address = address(&image.caches);
	from.serial = SERIAL;
	assert_int_equal(caches_take(held, &from), 0);
	assert_int_equal(held->record[0].size, held->count - 1);
	assert_int_equal(hl_addr_of(held->record[0].kind_addr), 0);
	assert_int_equal(
		held->record[0].chunk & 0xff, HL_KEPT_MOMENT | (held->all ? HL_KEPT_ALL : 0));
	assert_int_equal(hl_kept_caches(held->record[0].chunk), image.caches.count);
	assert_int_equal(hl_kept_unread(held->record[0].chunk), held->unread);
	assert_true(!held->all || held->unread == 0);
	for (size_t i = 0; i < held->count; i++) {
		assert_int_equal(held->record[i].tick, TICK);
		assert_int_equal(hl_kind_of(held->record[i].kind_addr), HL_KIND_kept);
	}
}

static unsigned found(const struct caches_held *held, uint64_t addr, uint64_t bytes, unsigned what)
{
	unsigned count = 0;

	for (size_t i = 1; i < held->count; i++)
		count += hl_addr_of(held->record[i].kind_addr) == addr &&
			 held->record[i].size == bytes &&
			 hl_kept_what(held->record[i].chunk) == what;
	return count;
}

/* Of a table, whether that is all that this cache holds, and whose it is; of others only this. */
static void expect_thread(const struct caches_held *held, uint64_t addr, uint32_t tid, bool part)
{
	for (size_t i = 1; i < held->count; i++)
		if (hl_addr_of(held->record[i].kind_addr) == addr) {
			assert_int_equal(hl_kept_tid(held->record[i].chunk), tid);
			assert_int_equal((held->record[i].chunk & HL_KEPT_PART) != 0, part);
		}
}

/* Its large bin so often; the rest of it in any case. */
static void expect_first_cache(const struct caches_held *held, unsigned times)
{
	uint64_t table = address(&image.cache[0].cache);

	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(found(held, block(i), hl_bin_bytes(BIN), HL_KEPT_CACHE), times);
		expect_thread(held, block(i), 100, false);
	}
	assert_int_equal(found(held, block(50), hl_bin_bytes(OTHER_BIN), HL_KEPT_CACHE), 1);
	assert_int_equal(found(held, table, TABLE, HL_KEPT_TABLE), 1);
	expect_thread(held, table, 100, times == 0);
}

static void expect_others(const struct caches_held *held)
{
	assert_int_equal(found(held, block(10), 32, HL_KEPT_CACHE), 1);
	assert_int_equal(found(held, address(&image.cache[1].cache), TABLE, HL_KEPT_TABLE), 1);
	expect_thread(held, block(10), 101, false);
	expect_thread(held, block(20), 0, false);
	assert_int_equal(found(held, block(20), 48, HL_KEPT_FAST), 1);
	assert_int_equal(found(held, block(21), 48, HL_KEPT_FAST), 1);
	assert_int_equal(found(held, block(22), hl_bin_bytes(6), HL_KEPT_FAST), 1);
}

static void test_what_is_there_is_told(void **state)
{
	struct caches_held held = {0};

	(void)state;
	begin();
	for (int again = 0; again < 2; again++) {
		take(&held);
		assert_true(held.all);
		assert_int_equal(held.tries, 1);
		assert_int_equal(held.count, 1 + 5 + 1 + 1 + 3 + 2);
		assert_int_equal(held.unread, 0);
		expect_first_cache(&held, 1);
		expect_others(&held);
	}
	caches_free(&held);
}

static void test_the_newest_beyond_the_count_are_lent(void **state)
{
	struct caches_held held = {0};
	struct hl_cache *cache = &image.cache[0].cache;

	(void)state;
	begin();
	cache->widened = UINT64_C(1) << BIN;
	cache->room[BIN] = (uint16_t)(cache->room[BIN] + hl_cache_surplus(BIN));
	for (unsigned i = 30; i < 36; i++)
		push(0, BIN, i);
	take(&held);
	assert_true(held.all);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(found(&held, block(i), hl_bin_bytes(BIN), HL_KEPT_CACHE), 1);
	for (unsigned i = 30; i < 36; i++)
		assert_int_equal(found(&held, block(i), hl_bin_bytes(BIN),
					 i < 32 ? HL_KEPT_CACHE : HL_KEPT_LENT),
			1);
	caches_free(&held);
}

/* Whatever is wrong with a bin of the first cache: it is left out, all others are told. */
static void expect_torn(void)
{
	struct caches_held held = {0};

	take(&held);
	assert_false(held.all);
	assert_int_equal(held.tries, 3);
	assert_int_equal(held.unread, 1);
	expect_first_cache(&held, 0);
	expect_others(&held);
	assert_int_equal(held.count, 1 + 1 + 1 + 3 + 2);
	caches_free(&held);
}

static void test_what_is_no_list_is_left_out(void **state)
{
	struct hl_cache *cache = &image.cache[0].cache;

	(void)state;
	begin();
	words(2)->key ^= 16;
	expect_torn();
	begin();
	words(2)->head += 16;
	expect_torn();
	begin();
	words(2)->next ^= 8; /* not at a multiple of 16 */
	expect_torn();
	begin();
	words(2)->next = hl_unmask(block(2), block(4)); /* round and round */
	expect_torn();
	begin();
	words(2)->next = hl_unmask(block(2), 0); /* too short */
	expect_torn();
	begin();
	words(2)->next = hl_unmask(block(2), 4096); /* where nothing is */
	expect_torn();
	begin();
	words(2)->next = hl_unmask(block(2), UINT64_MAX - 15);
	expect_torn();
	begin();
	cache->room[BIN] = ENTRIES + 1;
	expect_torn();
	begin();
	cache->first[BIN] = 0;
	expect_torn();
}

static void test_a_bin_that_is_said_to_be_empty_and_is_not(void **state)
{
	struct caches_held held = {0};

	(void)state;
	begin();
	image.cache[0].cache.room[BIN + 1]--;
	take(&held);
	assert_int_equal(held.unread, 1);
	assert_int_equal(found(&held, block(4), hl_bin_bytes(BIN), HL_KEPT_CACHE), 1);
	expect_thread(&held, address(&image.cache[0].cache), 100, true);
	caches_free(&held);
}

static void test_what_is_no_cache_is_left_out_as_a_whole(void **state)
{
	struct caches_held held = {0};

	(void)state;
	begin();
	image.cache[0].head += 64;
	take(&held);
	assert_false(held.all);
	assert_int_equal(held.unread, HL_CACHE_BINS);
	assert_int_equal(held.count, 1 + 1 + 3 + 1);
	expect_others(&held);
	caches_free(&held);
}

/* A thread of the process that this one was copied from: it makes no calls here by that id. */
static void test_the_thread_of_another_process_is_not_named(void **state)
{
	struct caches_held held = {0};

	(void)state;
	begin();
	image.caches.place[1].thread += UINT64_C(1) << 32;
	take(&held);
	assert_true(held.all);
	expect_thread(&held, block(0), 0, false);
	expect_thread(&held, block(10), 101, false);
	caches_free(&held);
}

static void pop_and_push(unsigned call)
{
	/* Before each reading, another number of blocks. After four it is the same again, and the bin is
	 * read again two readings after its last block: of two blocks that would be such a time. */
	static const uint16_t blocks[] = {1, 3, 4, 5};
	struct hl_cache *cache = &image.cache[0].cache;

	cache->first[BIN] = block(blocks[call % 4] - 1);
	cache->room[BIN] = ENTRIES - blocks[call % 4];
}

static void test_what_changes_is_left_out(void **state)
{
	(void)state;
	begin();
	meddle = pop_and_push;
	expect_torn();
}

static unsigned change_at;

static void change_once(unsigned call)
{
	struct hl_cache *cache = &image.cache[0].cache;

	if (call != change_at)
		return;
	cache->first[BIN] = block(3);
	cache->room[BIN]++;
	words(4)->key = 0;
}

/* At whichever step of the reading: what is told in the end is how it is then. */
static void test_a_change_is_read_again(void **state)
{
	struct caches_held held = {0};
	unsigned last, again = 0;

	(void)state;
	begin();
	take(&held);
	last = calls;
	for (change_at = 1; change_at <= last; change_at++) {
		begin();
		meddle = change_once;
		take(&held);
		assert_true(held.all);
		again += held.tries > 1;
		assert_int_equal(found(&held, block(3), hl_bin_bytes(BIN), HL_KEPT_CACHE), 1);
		/* After the last word was read twice it may change. */
		if (held.tries > 1)
			assert_int_equal(held.count, 1 + 4 + 1 + 1 + 3 + 2);
	}
	assert_true(again > 3 && again < last);
	caches_free(&held);
}

static unsigned calls_a_try;

static bool is_second_half(unsigned call)
{
	return (call - 1) % calls_a_try >= calls_a_try / 2;
}

/* In the second half of each try the thread has ended, and the memory is as it left it. */
static void end_thread(unsigned call)
{
	image.caches.place[1].cache = is_second_half(call) ? 0 : address(&image.cache[0].cache);
}

/* ... or has had one after it, which has done the same. */
static void follow_thread(unsigned call)
{
	image.caches.place[1].thread = (uint64_t)SERIAL << 32 | (is_second_half(call) ? 200 : 100);
}

static void test_a_cache_that_goes_is_left_out_as_a_whole(void **state)
{
	void (*const ways[])(unsigned call) = {end_thread, follow_thread};
	struct caches_held held = {0};

	(void)state;
	begin();
	take(&held);
	assert_true(held.all && held.tries == 1);
	calls_a_try = calls;
	for (unsigned i = 0; i < 2; i++) {
		begin();
		meddle = ways[i];
		take(&held);
		assert_int_equal(held.tries, 3);
		assert_false(held.all);
		assert_int_equal(
			found(&held, address(&image.cache[0].cache), TABLE, HL_KEPT_TABLE), 0);
		assert_int_equal(
			found(&held, block(50), hl_bin_bytes(OTHER_BIN), HL_KEPT_CACHE), 0);
		expect_others(&held);
	}
	caches_free(&held);
}

#define LONG 23 /* blocks from 23 on; a prime number, so that steps of 7 meet them all */

static void begin_long(void)
{
	begin();
	for (unsigned i = 0; i < LONG; i++)
		push_fast(1, 3, 23 + i * 7 % LONG);
}

static void break_long(unsigned call)
{
	if (call == change_at)
		words(23 + LONG / 2)->next ^= 32;
}

/* Its pages are read, which are fewer than its blocks; and whatever changes after that is noticed. */
static void test_a_long_fast_list(void **state)
{
	struct caches_held held = {0};
	unsigned last;

	(void)state;
	begin_long();
	take(&held);
	last = calls;
	assert_true(held.all && last < LONG);
	for (unsigned i = 0; i < LONG; i++)
		assert_int_equal(
			found(&held, block(23 + i), hl_bin_bytes(3), HL_KEPT_FAST), 1);
	for (change_at = 1; change_at <= last; change_at++) {
		begin_long();
		meddle = break_long;
		take(&held);
		assert_int_equal(held.all, held.tries == 1);
		assert_int_equal(found(&held, block(23), hl_bin_bytes(3), HL_KEPT_FAST), held.all);
		expect_first_cache(&held, 1);
		expect_others(&held);
	}
	assert_true(held.all); /* it was over by then */
	caches_free(&held);
}

static void test_other_caches_that_are_not_all(void **state)
{
	struct caches_held held = {0};

	(void)state;
	begin();
	image.caches.count = 3; /* of one there was no room for */
	take(&held);
	assert_false(held.all);
	assert_int_equal(held.unread, HL_CACHE_BINS);
	expect_first_cache(&held, 1);
	expect_others(&held);
	begin();
	image.arena[1].deferred = block(30) - 16;
	take(&held);
	assert_false(held.all);
	expect_first_cache(&held, 1);
	assert_int_equal(found(&held, block(21), 48, HL_KEPT_FAST), 1);
	assert_int_equal(found(&held, block(22), hl_bin_bytes(6), HL_KEPT_FAST), 1);
	assert_int_equal(held.unread, 1); /* what is deferred */
	begin();
	put_block(20, 1, block(21) - 16, 77); /* a fast list without end */
	take(&held);
	assert_false(held.all);
	assert_int_equal(found(&held, block(20), 48, HL_KEPT_FAST), 0);
	caches_free(&held);
}

static void test_nothing_to_read(void **state)
{
	struct caches_held held = {0};
	struct caches_source from = source;

	(void)state;
	begin();
	assert_int_equal(caches_take(&held, &from), -ESRCH);
	from.address = 4096;
	assert_int_equal(caches_take(&held, &from), -ESRCH);
	from.address = address(&image.caches);
	image.caches.key = 0;
	assert_int_equal(caches_take(&held, &from), -ESRCH);
	begin();
	image.caches.highest = HL_CACHES_MOST + 1;
	assert_int_equal(caches_take(&held, &from), -ESRCH);
	assert_int_equal(held.count, 0);
	caches_free(&held);
}

/* The log: one page of the first cache's thread, and one that is free. */
static _Alignas(16) char pages[2][HL_PAGE_BYTES];
static struct hl_session log_map = {.page_count = 2, .fresh_pages = 2};
static const struct session log_session = {.map = &log_map, .pages = pages[0]};

static struct hl_page *page(unsigned number)
{
	return (struct hl_page *)(void *)pages[number];
}

static void own_page(unsigned number, uint32_t tid)
{
	page(number)->serial = SERIAL;
	page(number)->tid = tid;
	page(number)->used = 0;
	page(number)->state = HL_PAGE_OWNED;
}

static void put_call(unsigned kind, uint64_t addr, uint64_t size)
{
	struct hl_packed *slot = (struct hl_packed *)(page(0) + 1) + page(0)->used++;

	slot->word[0] = hl_packed_head(kind, 0, addr);
	slot->word[1] = size << HL_PACKED_ADDRESS_BITS;
}

static void take_and_give_back(void)
{
	put_call(HL_PACKED_TICK, 0, 0);
	put_call(HL_KIND_malloc, block(4), hl_bin_bytes(BIN) - 16);
	put_call(HL_KIND_free, block(4), 0);
}

static void give_back(void)
{
	put_call(HL_KIND_free, 4096, 0);
}

static void take_large(void)
{
	put_call(HL_KIND_malloc, 4096, 5000);
}

static void change_pages(void)
{
	unsigned now = page(0)->state == HL_PAGE_OWNED ? 0 : 1;

	page(now)->state = HL_PAGE_READY;
	own_page(1 - now, 100);
}

static void write_beyond(void)
{
	put_call(255, block(4), hl_bin_bytes(BIN) - 16);
}

/* What is the same both times was something else in between, if the log says that blocks of this
 * size were handed out. */
static void test_a_list_that_comes_back_is_left_out(void **state)
{
	static const struct {
		void (*meanwhile)(void);
		uint32_t tid;
		unsigned large, other, unread; /* lists that are told, and that are not */
	} cases[] = {
		{take_and_give_back, 100, 1, 0, 2}, /* and the fast lists of that size */
		{give_back, 100, 1, 1, 0},
		{take_large, 100, 1, 1, 0},
		{take_and_give_back, 100 | 1u << HL_TID_DEPTH_SHIFT, 1, 0, 2},
		{take_and_give_back, 102, 1, 1, 2}, /* a thread without a cache */
		{change_pages, 100, 0, 0, 0},
		{write_beyond, 100, 0, 0, 0},
	};
	struct caches_held held = {0};
	struct caches_source from = source;

	(void)state;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		begin();
		memset(pages, 0, sizeof(pages));
		own_page(0, cases[i].tid);
		log_meanwhile = cases[i].meanwhile;
		from.address = address(&image.caches);
		from.serial = SERIAL;
		from.session = &log_session;
		assert_int_equal(caches_take(&held, &from), 0);
		assert_int_equal(held.all, cases[i].large && cases[i].unread == 0);
		assert_int_equal(found(&held, block(50), hl_bin_bytes(OTHER_BIN), HL_KEPT_CACHE),
			cases[i].large);
		assert_int_equal(
			found(&held, block(0), hl_bin_bytes(BIN), HL_KEPT_CACHE), cases[i].other);
		if (cases[i].large)
			assert_int_equal(held.unread, cases[i].unread + !cases[i].other);
		else
			assert_int_equal(held.unread, HL_CACHE_BINS + 2 * HL_FAST_BINS);
		assert_int_equal(found(&held, block(10), 32, HL_KEPT_CACHE), 1);
	}
	caches_free(&held);
}

static uint64_t seed;

static uint64_t chance(uint64_t below)
{
	seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (seed >> 33) % below;
}

/* A word anywhere becomes another one: often one that was somewhere else, or nearly what it was. */
static void spoil(unsigned call)
{
	uint64_t *word = (uint64_t *)&image + chance(sizeof(image) / 8);

	(void)call;
	if (chance(4) == 0)
		word = (uint64_t *)(void *)words((unsigned)chance(32)) + chance(3);
	if (chance(3) == 0)
		*word = ((uint64_t *)&image)[chance(sizeof(image) / 8)];
	else
		*word ^= UINT64_C(1) << chance(64);
}

static void test_garbage_is_survived(void **state)
{
	struct caches_held held = {0};
	struct caches_source from = source;
	unsigned told = 0, whole = 0;

	(void)state;
	from.address = address(&image.caches);
	for (unsigned run = 0; run < 3000; run++) {
		seed = run;
		begin();
		for (uint64_t i = chance(6); i > 0; i--)
			spoil(0);
		meddle = chance(2) != 0 ? spoil : NULL;
		if (caches_take(&held, &from) != 0)
			continue;
		told++;
		whole += held.all;
		assert_int_equal(held.record[0].size, held.count - 1);
		for (size_t i = 1; i < held.count; i++) {
			assert_int_equal(held.record[i].kind_addr % 16, 0);
			assert_int_equal(held.record[i].size % 16, 0);
			assert_in_range(
				hl_kept_what(held.record[i].chunk), HL_KEPT_CACHE, HL_KEPT_LENT);
		}
	}
	assert_true(told > 500 && whole > 20 && whole < told);
	caches_free(&held);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_there_is_told),
		cmocka_unit_test(test_the_newest_beyond_the_count_are_lent),
		cmocka_unit_test(test_what_is_no_list_is_left_out),
		cmocka_unit_test(test_a_bin_that_is_said_to_be_empty_and_is_not),
		cmocka_unit_test(test_what_is_no_cache_is_left_out_as_a_whole),
		cmocka_unit_test(test_the_thread_of_another_process_is_not_named),
		cmocka_unit_test(test_what_changes_is_left_out),
		cmocka_unit_test(test_a_change_is_read_again),
		cmocka_unit_test(test_a_cache_that_goes_is_left_out_as_a_whole),
		cmocka_unit_test(test_a_long_fast_list),
		cmocka_unit_test(test_a_list_that_comes_back_is_left_out),
		cmocka_unit_test(test_other_caches_that_are_not_all),
		cmocka_unit_test(test_nothing_to_read),
		cmocka_unit_test(test_garbage_is_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT
 *
 * The reader of raw files, on files that are right, cut at every byte, damaged at every byte of
 * what is not a record, and cut in time as those of a process that runs.
 */
#include "heapledger/settings.h"
#include "raw_reader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PAGES 3
#define FILE_BYTES (HL_RAW_HEADER_BYTES + PAGES * HL_PAGE_BYTES)
#define SERIAL 5

static union {
	uint8_t bytes[FILE_BYTES];
	struct hl_raw raw;
} file;

static struct hl_page *page_at(unsigned number)
{
	return (struct hl_page *)(void *)(file.bytes + HL_RAW_HEADER_BYTES +
					  number * HL_PAGE_BYTES);
}

static struct hl_packed *put(struct hl_page *page, unsigned slots)
{
	struct hl_packed *slot = (struct hl_packed *)(page + 1) + page->used;

	page->used += slots;
	return slot;
}

static void put_page(unsigned number, uint64_t sequence, uint32_t tid, uint64_t tick)
{
	struct hl_page *page = page_at(number);

	page->state = HL_PAGE_OWNED;
	page->serial = SERIAL;
	page->tid = tid;
	page->sequence = sequence;
	page->tick = tick;
}

static void put_malloc(struct hl_page *page, uint64_t addr)
{
	put(page, 1)->word[0] = hl_packed_head(HL_KIND_malloc, 0, addr);
}

static void put_timed(struct hl_page *page, unsigned kind, uint64_t tick, uint64_t size)
{
	struct hl_packed *slot = put(page, hl_packed_slots(hl_packed_head(kind, 0, 0)));

	slot->word[0] = hl_packed_head(kind, 0, 0);
	slot->word[1] = tick;
	if (kind == HL_KIND_clock)
		slot[1].word[0] = size;
}

/* Two pages in the other order than they were taken, and one that was not. */
static int make_file(void **state)
{
	(void)state;
	memset(&file, 0, sizeof(file));
	file.raw.magic = HL_RAW_MAGIC;
	file.raw.version = HL_RAW_VERSION;
	file.raw.header_bytes = HL_RAW_HEADER_BYTES;
	file.raw.page_bytes = HL_PAGE_BYTES;
	file.raw.memory_page_bytes = 4096;
	file.raw.reserved_bytes = FILE_BYTES;
	file.raw.setting_count = SETTINGS_COUNT;
	file.raw.process.pid = 77;
	file.raw.process.serial = SERIAL;
	file.raw.process.state = HL_PROCESS_LIVE;
	put_page(0, 1, 78, 200);
	put_malloc(page_at(0), 0x1000);
	put_timed(page_at(0), HL_PACKED_TICK, 300, 0);
	put_malloc(page_at(0), 0x2000);
	put_page(1, 0, 77, 100);
	put_timed(page_at(1), HL_KIND_clock, 110, 9000);
	put_malloc(page_at(1), 0x3000);
	put_timed(page_at(1), HL_KIND_brk, 120, 0);
	return 0;
}

static struct raw_reader *open_bytes(size_t size, uint64_t latest_tick)
{
	struct raw_input input = {
		.fd = -1,
		.bytes = file.bytes,
		.size = size,
		.name = "file",
		.latest_tick = latest_tick,
	};
	struct raw_reader *reader;

	if (raw_reader_open(&reader, &input) == 0)
		return reader;
	assert_non_null(strstr(raw_reader_error(reader), "file: offset "));
	raw_reader_close(reader);
	return NULL;
}

/* Pages that can be read; -1 for a refusal on the way, with a reason. */
static int count_pages(struct raw_reader *reader)
{
	const struct raw_page *page;
	int count = 0, rc;

	while ((rc = raw_reader_next(reader, &page)) > 0) {
		assert_true(page->count <= HL_PAGE_SLOTS);
		count++;
	}
	if (rc < 0)
		assert_non_null(strstr(raw_reader_error(reader), "file: offset "));
	return rc < 0 ? -1 : count;
}

static void test_in_order(void **state)
{
	struct raw_reader *reader = open_bytes(FILE_BYTES, UINT64_MAX);
	const struct raw_page *page;
	uint64_t tick, ns;

	(void)state;
	assert_non_null(reader);
	assert_true(raw_reader_has_begun(reader));
	assert_true(raw_reader_last_clock(reader, &tick, &ns));
	assert_int_equal(tick, 110);
	assert_int_equal(ns, 9000);
	assert_int_equal(raw_reader_next(reader, &page), 1);
	assert_int_equal(page->tid, 77);
	assert_int_equal(page->tick, 100);
	assert_int_equal(page->count, 9);
	assert_int_equal(page->events, 2);
	assert_int_equal(page->syscalls, 1);
	assert_int_equal(page->last_tick, 120);
	assert_int_equal(raw_reader_next(reader, &page), 1);
	assert_int_equal(page->tid, 78);
	assert_int_equal(page->events, 2);
	assert_int_equal(page->last_tick, 300);
	assert_int_equal(page->damage_offset, 0);
	assert_int_equal(raw_reader_next(reader, &page), 0);
	raw_reader_close(reader);
}

/* Of a process that runs: nothing later, whichever page it is in. */
static void test_up_to_an_instant(void **state)
{
	static const struct {
		uint64_t latest, events;
	} cases[] = {{99, 0}, {100, 0}, {110, 1}, {120, 2}, {199, 2}, {200, 3}, {299, 3}, {300, 4}};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct raw_reader *reader = open_bytes(FILE_BYTES, cases[i].latest);
		const struct raw_page *page;
		uint64_t events = 0;

		while (raw_reader_next(reader, &page) > 0)
			events += page->events;
		assert_int_equal(events, cases[i].events);
		raw_reader_close(reader);
	}
}

static void test_cut_anywhere(void **state)
{
	struct raw_reader *reader = open_bytes(0, UINT64_MAX);

	(void)state;
	assert_false(raw_reader_has_begun(reader)); /* killed before it began: no error */
	raw_reader_close(reader);
	for (size_t size = 1; size < FILE_BYTES; size += size < 2048 ? 1 : 97)
		assert_null(open_bytes(size, UINT64_MAX));
}

static void test_not_begun(void **state)
{
	struct raw_reader *reader;

	(void)state;
	file.raw.process.state = HL_PROCESS_FREE;
	reader = open_bytes(FILE_BYTES, UINT64_MAX);
	assert_false(raw_reader_has_begun(reader));
	assert_int_equal(count_pages(reader), 0);
	raw_reader_close(reader);
}

static void try_bytes(size_t from, size_t to)
{
	for (size_t at = from; at < to; at++)
		for (unsigned flip = 1; flip < 256; flip = flip * 2 + 1) {
			struct raw_reader *reader;

			file.bytes[at] ^= (uint8_t)flip;
			reader = open_bytes(FILE_BYTES, UINT64_MAX);
			if (reader != NULL)
				count_pages(reader);
			raw_reader_close(reader);
			file.bytes[at] ^= (uint8_t)flip;
		}
}

static void test_any_byte(void **state)
{
	(void)state;
	try_bytes(0, sizeof(struct hl_raw));
	for (unsigned i = 0; i < PAGES; i++)
		try_bytes(HL_RAW_HEADER_BYTES + i * HL_PAGE_BYTES,
			HL_RAW_HEADER_BYTES + i * HL_PAGE_BYTES + 200);
}

/* What is before it stays. */
static void test_damaged_records(void **state)
{
	const size_t slots = HL_RAW_HEADER_BYTES + sizeof(struct hl_page);
	struct hl_packed *slot = (struct hl_packed *)(page_at(0) + 1);
	struct raw_reader *reader;
	const struct raw_page *page;

	(void)state;
	slot[2].word[0] = ~UINT64_C(0); /* no kind */
	reader = open_bytes(FILE_BYTES, UINT64_MAX);
	assert_int_equal(raw_reader_next(reader, &page), 1);
	assert_int_equal(raw_reader_next(reader, &page), 1);
	assert_int_equal(page->count, 2);
	assert_int_equal(page->damage_offset, slots + 2 * sizeof(struct hl_packed));
	raw_reader_close(reader);
	slot[2].word[0] = hl_packed_head(HL_KIND_brk, 0, 0); /* longer than the page is full */
	reader = open_bytes(FILE_BYTES, UINT64_MAX);
	assert_int_equal(raw_reader_next(reader, &page), 1);
	assert_int_equal(raw_reader_next(reader, &page), 1);
	assert_int_equal(page->count, 2);
	assert_int_not_equal(page->damage_offset, 0);
	raw_reader_close(reader);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_in_order, make_file),
		cmocka_unit_test_setup(test_up_to_an_instant, make_file),
		cmocka_unit_test_setup(test_cut_anywhere, make_file),
		cmocka_unit_test_setup(test_not_begun, make_file),
		cmocka_unit_test_setup(test_any_byte, make_file),
		cmocka_unit_test_setup(test_damaged_records, make_file),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

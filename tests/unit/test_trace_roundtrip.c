/* SPDX-License-Identifier: MIT
 *
 * What stream.c writes, stream_reader.c gives back: every word of every record, in time order, over
 * threads, block limits and ticks that go back; packed records as a slow expansion of their own has
 * them; and what a failed write leaves is readable.
 */
#include "stream.h"
#include "stream_reader.h"
#include "heapledger/session.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char directory[] = "/tmp/heapledger-test-XXXXXX";
static int dirfd_of_test;
static uint64_t state = 1;

static uint64_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* Mostly small numbers, now and then any, and the borders of the varint lengths. */
static uint64_t random_word(void)
{
	uint64_t word = next_random() >> (next_random() % 64);
	if (!(next_random() % 50))
		return UINT64_MAX;
	return next_random() % 10 ? word
				  : (UINT64_C(1) << (next_random() % 64)) - next_random() % 2;
}

static unsigned random_kind(void)
{
	for (;;) {
		unsigned kind = 1 + (unsigned)(next_random() % (HL_KIND_LIMIT - 1));
		if (hl_kind_slots(kind))
			return kind;
	}
}

/* Of those that a program can write: the marks of kernel streams are none of its. */
static unsigned random_packed_kind(void)
{
	for (;;) {
		unsigned kind = random_kind();
		if (hl_packed_slots(hl_packed_head(kind, 0, 0)))
			return kind;
	}
}

static bool is_call(unsigned kind)
{
	return kind < HL_KIND_brk || kind == HL_KIND_realloc_begin;
}

static uint64_t usual_chunk(unsigned kind, uint64_t addr, uint64_t size)
{
	uint64_t bytes = size + 8 <= 32 ? 32 : (size + 8 + 15) / 16 * 16;
	return addr && kind <= HL_KIND_pvalloc ? bytes : 0;
}

/* More callers than a block can have definitions, a few of which make most calls; one in two has
 * one size only. */
static uint64_t usual_caller(void)
{
	return 0x401000 + (next_random() % 4 ? next_random() % 20 : next_random() % 3000) * 7;
}

static uint64_t usual_size(uint64_t caller)
{
	return caller % 2 ? caller % 1000 : next_random() % 500;
}

/* Often one of few, so that it was there a while ago. */
static uint64_t usual_addr(void)
{
	return next_random() % (next_random() & 1 ? 300 : 100000) * 16;
}

static void make_usual(uint64_t *word, unsigned kind)
{
	uint64_t addr = next_random() % 20 ? usual_addr() : 0;
	word[4] = usual_caller();
	word[2] = kind == HL_KIND_free || kind == HL_KIND_realloc_begin ? 0 : usual_size(word[4]);
	word[3] = usual_chunk(kind, addr, word[2]);
	if (word[3] && !(next_random() % 10))
		word[3] += next_random() % 300 * 16;
	word[5] = kind >= HL_KIND_aligned_alloc && kind <= HL_KIND_pvalloc
			  ? UINT64_C(1) << next_random() % 64
			  : 0;
	word[1] = hl_kind_addr((enum hl_kind)kind, addr);
}

static unsigned random_record(uint64_t *word, uint64_t tick)
{
	unsigned kind = random_kind(), slots = hl_kind_slots(kind);
	for (unsigned i = 0; i < slots * 4; i++)
		word[i] = random_word();
	word[0] = tick;
	word[1] = hl_kind_addr((enum hl_kind)kind, word[1]);
	if (slots < 3 && !(next_random() & 3))
		word[2] = word[3] = 0;
	if (is_call(kind))
		word[6] = word[7] = 0;
	if (is_call(kind) && next_random() % 4)
		make_usual(word, kind);
	return slots;
}

static struct stream *create(uint32_t serial)
{
	struct hl_trace_header header = {
		.pid = 77, .serial = serial, .tick_hz = 1, .command_bytes = 5};
	struct stream *stream;
	assert_int_equal(stream_create(&stream, dirfd_of_test, &header, "true"), 0);
	return stream;
}

static void finish(struct stream *stream, int complete)
{
	assert_int_equal(stream_close(stream, complete, HL_TRACE_END_EXIT, 3, 9, 5, "false", 6), 0);
}

static int open_stream(uint32_t serial, struct stream_reader **reader, int *fd)
{
	char name[32];
	struct stat status;
	snprintf(name, sizeof(name), "77.%u.hlt", serial);
	*fd = openat(dirfd_of_test, name, O_RDONLY);
	assert_true(*fd >= 0);
	assert_int_equal(fstat(*fd, &status), 0);
	struct stream_input input = {.fd = *fd, .size = (uint64_t)status.st_size, .name = name};
	return stream_reader_open(reader, &input);
}

static void every_word_comes_back(void **unused)
{
	enum { COUNT = 200000 };
	uint64_t(*records)[12] = calloc(COUNT, sizeof(*records));
	(void)unused;
	assert_non_null(records);
	struct stream *stream = create(1);
	uint64_t tick = 5;
	for (size_t i = 0; i < COUNT; i++) {
		tick += next_random() % 3 ? 0 : random_word() >> 20;
		unsigned slots = random_record(records[i], tick);
		assert_int_equal(
			stream_append(stream, 9, (const struct hl_slot *)records[i], slots), 0);
	}
	finish(stream, 1);

	struct stream_reader *reader;
	const struct stream_event *event;
	int fd;
	assert_int_equal(open_stream(1, &reader, &fd), 0);
	const struct stream_info *info = stream_reader_info(reader);
	assert_int_equal(info->records, COUNT);
	assert_true(info->blocks > 2);
	assert_string_equal(info->command, "false");
	assert_int_equal(info->header.end_status, 3);
	assert_int_equal(info->header.lost, 5);
	assert_int_equal(info->header.flags, 0);
	for (size_t i = 0; i < COUNT; i++) {
		assert_int_equal(stream_reader_next(reader, &event), 1);
		unsigned slots = hl_kind_slots(hl_kind_of(records[i][1]));
		assert_int_equal(event->tid, 9);
		assert_memory_equal(&event->record, records[i], slots * sizeof(struct hl_slot));
	}
	assert_int_equal(stream_reader_next(reader, &event), 0);
	stream_reader_close(reader);
	close(fd);
	free(records);
}

/* Each record's size is its number, so nothing is twice or missing; each thread's order holds. */
static void threads_are_merged_by_time(void **unused)
{
	enum { COUNT = 300000, THREADS = 3000 };
	uint64_t *last = calloc(THREADS, sizeof(*last));
	uint8_t *seen = calloc(1, COUNT + 1);
	struct stream *stream = create(2);
	(void)unused;
	assert_non_null(last);
	assert_non_null(seen);
	for (uint64_t i = 1; i <= COUNT; i++) {
		struct hl_call_record record = {
			.tick = i * 10, .kind_addr = hl_kind_addr(HL_KIND_malloc, i), .size = i};
		uint32_t tid = 1 + (uint32_t)(next_random() % THREADS);
		assert_int_equal(stream_append(stream, tid, (const struct hl_slot *)&record, 2), 0);
	}
	finish(stream, 1);

	struct stream_reader *reader;
	const struct stream_event *event;
	int fd;
	assert_int_equal(open_stream(2, &reader, &fd), 0);
	for (uint64_t i = 1; i <= COUNT; i++) {
		assert_int_equal(stream_reader_next(reader, &event), 1);
		assert_int_equal(event->record.call.tick, i * 10);
		assert_int_equal(event->record.call.size, i);
		assert_false(seen[i]++);
		assert_true(last[event->tid - 1] < i);
		last[event->tid - 1] = i;
	}
	assert_int_equal(stream_reader_next(reader, &event), 0);
	stream_reader_rewind(reader, 1);
	while (stream_reader_next(reader, &event) == 1)
		assert_int_equal(event->tid, 1);
	stream_reader_close(reader);
	close(fd);
	free(last);
	free(seen);
}

static void ticks_that_go_back_are_put_in_order(void **unused)
{
	static const uint64_t ticks[] = {10, 11, 20, 30, 12, 13, 13, 31, 5};
	static const uint64_t sorted[] = {5, 10, 11, 12, 13, 13, 20, 30, 31};
	struct stream *stream = create(3);
	struct stream_reader *reader;
	const struct stream_event *event;
	int fd;
	(void)unused;
	for (size_t i = 0; i < 9; i++) {
		struct hl_call_record record = {
			.tick = ticks[i], .kind_addr = hl_kind_addr(HL_KIND_free, 16)};
		assert_int_equal(stream_append(stream, 4, (const struct hl_slot *)&record, 2), 0);
	}
	finish(stream, 0);
	assert_int_equal(open_stream(3, &reader, &fd), 0);
	assert_int_equal(stream_reader_info(reader)->header.flags, HL_TRACE_INCOMPLETE);
	for (size_t i = 0; i < 9; i++) {
		assert_int_equal(stream_reader_next(reader, &event), 1);
		assert_int_equal(event->record.call.tick, sorted[i]);
	}
	stream_reader_close(reader);
	close(fd);
}

/* A page being filled, and what it must be read as. */
struct packing {
	struct hl_packed page[HL_PAGE_SLOTS];
	uint32_t used;
	bool after_call; /* the last slots hold a call */
	uint64_t page_tick;
	uint64_t tick;
	uint64_t (*expected)[12];
	size_t count;
};

static void pack_words(struct packing *packing, unsigned kind, unsigned extra, uint64_t addr,
	const uint64_t *word, unsigned words)
{
	struct hl_packed *slot = &packing->page[packing->used];
	memset(slot, 0, sizeof(*slot) * 6);
	slot->word[0] = hl_packed_head(kind, extra, addr);
	memcpy(&slot->word[1], word, words * sizeof(*word));
	packing->used += (words + 2) / 2;
	packing->after_call = false;
}

static uint64_t *expect(struct packing *packing, unsigned kind, uint64_t addr)
{
	uint64_t *expected = packing->expected[packing->count++];
	expected[0] = packing->tick;
	expected[1] = (uint64_t)kind << 56 | addr;
	return expected;
}

static void pack_tick(struct packing *packing)
{
	bool back = next_random() & 1;
	packing->tick += next_random() % 4 ? next_random() % 5000 : random_word() >> 24;
	if (back && packing->after_call)
		packing->expected[packing->count - 1][0] = packing->tick;
	pack_words(packing, back ? HL_PACKED_TICK_BACK : HL_PACKED_TICK, 0, 0, &packing->tick, 1);
}

static void pack_compact(struct packing *packing, unsigned kind, uint64_t addr)
{
	unsigned extra = next_random() % 10 ? 0 : (unsigned)(next_random() % HL_PACKED_WIDE);
	uint64_t caller = usual_caller(), size = usual_size(caller);
	if (kind == HL_KIND_free || kind == HL_KIND_realloc_begin)
		size = extra = 0;
	uint64_t *expected = expect(packing, kind, addr);
	expected[2] = size;
	expected[3] = usual_chunk(kind, addr, size);
	expected[3] += expected[3] ? extra * 16 : 0;
	expected[4] = caller;
	pack_words(packing, kind, extra, addr, &(uint64_t){size << 48 | caller}, 1);
	packing->after_call = true;
}

static void pack_wide(struct packing *packing, unsigned kind, uint64_t addr)
{
	uint64_t *expected = expect(packing, kind, addr);
	make_usual(expected, kind);
	expected[1] = (uint64_t)kind << 56 | addr;
	for (unsigned i = 2; i < 6; i++)
		if (!(next_random() & 3))
			expected[i] = random_word();
	const uint64_t word[] = {expected[4], expected[2], expected[3], expected[5], 0};
	pack_words(packing, kind, HL_PACKED_WIDE, addr, word, 5);
	packing->after_call = true;
}

static void pack_random(struct packing *packing)
{
	unsigned kind = random_packed_kind();
	uint64_t addr = next_random() % 20 ? usual_addr() : random_word() >> 16;
	if (!(next_random() % 10)) {
		pack_tick(packing);
	} else if (is_call(kind) && next_random() % 8) {
		pack_compact(packing, kind, addr);
	} else if (is_call(kind)) {
		pack_wide(packing, kind, addr);
	} else if (!(next_random() % 10)) {
		packing->tick += random_word() >> 24;
		uint64_t *expected = expect(packing, kind, addr), word[11] = {packing->tick};
		unsigned words = hl_kind_slots(kind) * 4 - 2;
		for (unsigned i = 0; i < words; i++)
			expected[2 + i] = word[1 + i] = random_word();
		pack_words(packing, kind, 0, addr, word, 1 + words);
	}
}

static void append_page(struct packing *packing, struct stream *stream)
{
	assert_int_equal(
		stream_append_packed(stream, 9, packing->page_tick, packing->page, packing->used),
		0);
	/* At times a page begins later than the last one ended. */
	packing->tick += next_random() & 1 ? next_random() % 1000 : 0;
	packing->page_tick = packing->tick;
	packing->used = 0;
	packing->after_call = false;
}

static void packed_records_are_expanded(void **unused)
{
	enum { COUNT = 400000 };
	static struct packing packing;
	(void)unused;
	packing.expected = calloc(COUNT, sizeof(*packing.expected));
	assert_non_null(packing.expected);
	struct stream *stream = create(7);
	packing.page_tick = packing.tick = 1000;
	while (packing.count < COUNT) {
		pack_random(&packing);
		if (packing.used + 6 > HL_PAGE_SLOTS || !(next_random() % 200))
			append_page(&packing, stream);
	}
	append_page(&packing, stream);
	finish(stream, 1);

	struct stream_reader *reader;
	const struct stream_event *event;
	int fd;
	assert_int_equal(open_stream(7, &reader, &fd), 0);
	assert_int_equal(stream_reader_info(reader)->records, COUNT);
	assert_true(stream_reader_info(reader)->blocks > 2);
	for (size_t i = 0; i < COUNT; i++) {
		assert_int_equal(stream_reader_next(reader, &event), 1);
		unsigned slots = hl_kind_slots(hl_kind_of(packing.expected[i][1]));
		assert_memory_equal(&event->record, packing.expected[i], slots * 32);
	}
	assert_int_equal(stream_reader_next(reader, &event), 0);
	stream_reader_close(reader);
	close(fd);
	free(packing.expected);
}

static struct hl_packed packed_free(uint64_t addr)
{
	return (struct hl_packed){{hl_packed_head(HL_KIND_free, 0, addr), 0x401000}};
}

static struct hl_packed packed_tick(unsigned kind, uint64_t tick)
{
	return (struct hl_packed){{hl_packed_head(kind, 0, 0), tick}};
}

/* A TICK_BACK is about the call just before it in the page, and about nothing else; a page's tick
 * and a TICK may go back, to another block. */
static void ticks_of_packed_records(void **unused)
{
	const struct hl_packed first[] = {
		packed_tick(HL_PACKED_TICK_BACK, 110), /* first in its page */
		packed_free(0x10),
		packed_free(0x20),
		packed_tick(HL_PACKED_TICK_BACK, 120),
		packed_tick(HL_PACKED_TICK_BACK, 130), /* behind a tick */
		packed_free(0x30),
		{{hl_packed_head(HL_KIND_thread_exit, 0, 0), 140}},
		{{0, 0}},
		packed_tick(HL_PACKED_TICK_BACK, 150), /* behind a timed record */
		packed_free(0x40),
		packed_tick(HL_PACKED_TICK, 105), /* back */
		packed_free(0x50),
	};
	const struct hl_packed second[] = {packed_free(0x60)};
	static const uint64_t expected[][2] = {{100, 0x60}, {105, 0x50}, {110, 0x10}, {120, 0x20},
		{130, 0x30}, {140, 0}, {150, 0x40}};
	struct stream *stream = create(8);
	struct stream_reader *reader;
	const struct stream_event *event;
	int fd;
	(void)unused;
	assert_int_equal(stream_append_packed(stream, 4, 100, first, 12), 0);
	assert_int_equal(stream_append_packed(stream, 4, 100, second, 1), 0);
	finish(stream, 1);
	assert_int_equal(open_stream(8, &reader, &fd), 0);
	assert_int_equal(stream_reader_info(reader)->blocks, 3);
	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
		assert_int_equal(stream_reader_next(reader, &event), 1);
		assert_int_equal(event->record.call.tick, expected[i][0]);
		assert_int_equal(hl_addr_of(event->record.call.kind_addr), expected[i][1]);
	}
	assert_int_equal(stream_reader_next(reader, &event), 0);
	stream_reader_close(reader);
	close(fd);
}

static void a_damaged_page_is_refused(void **unused)
{
	const struct hl_packed slots[] = {{{hl_packed_head(HL_KIND_malloc, HL_PACKED_WIDE, 16), 1}},
		packed_free(16), {{hl_packed_head(61, 0, 16), 1}}, {{hl_packed_head(0, 0, 16), 1}},
		{{hl_packed_head(200, 0, 16), 1}}};
	(void)unused;
	for (size_t i = 0; i < 4; i++) {
		struct stream *stream = create(9);
		int rc = stream_append_packed(stream, 4, 100, &slots[i ? i + 1 : 0], i ? 1 : 2);
		assert_int_equal(rc, -EINVAL);
		assert_int_equal(stream_append_packed(stream, 4, 100, &slots[1], 1), -EINVAL);
		stream_close(stream, 1, HL_TRACE_END_EXIT, 0, 0, 0, NULL, 0);
		unlinkat(dirfd_of_test, "77.9.hlt", 0);
	}
}

static void a_cut_off_record_is_refused(void **unused)
{
	struct hl_syscall_record record = {.tick = 1, .kind_addr = hl_kind_addr(HL_KIND_brk, 0)};
	struct hl_call_record unknown = {.tick = 1, .kind_addr = UINT64_C(200) << HL_ADDRESS_BITS};
	(void)unused;
	struct stream *stream = create(4);
	assert_int_equal(stream_append(stream, 1, (const struct hl_slot *)&record, 2), -EINVAL);
	assert_int_equal(stream_append(stream, 1, (const struct hl_slot *)&record, 3), -EINVAL);
	stream_close(stream, 1, HL_TRACE_END_EXIT, 0, 0, 0, NULL, 0);
	stream = create(5);
	assert_int_equal(stream_append(stream, 1, (const struct hl_slot *)&unknown, 1), -EINVAL);
	stream_close(stream, 1, HL_TRACE_END_EXIT, 0, 0, 0, NULL, 0);
}

/* A file size limit stands in for the full disk: the write that crosses it is short, the next
 * fails. */
static void a_full_disk_leaves_whole_blocks(void **unused)
{
	enum { LIMIT = 1000000 };
	struct rlimit before, limit;
	struct stream *stream = create(6);
	uint64_t word[12], tick = 0, appended = 0;
	int rc = 0;
	(void)unused;
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	limit = before;
	limit.rlim_cur = LIMIT;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	while (!rc && appended < 1000000) {
		unsigned slots = random_record(word, tick += 10);
		rc = stream_append(stream, 1, (const struct hl_slot *)word, slots);
		appended++;
	}
	int again = stream_append(stream, 1, (const struct hl_slot *)word, 3);
	int closed = stream_close(stream, 1, HL_TRACE_END_EXIT, 0, tick, 0, NULL, 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(rc, -EFBIG);
	assert_int_equal(again, -EFBIG);
	assert_int_equal(closed, -EFBIG);

	struct stream_reader *reader;
	const struct stream_event *event;
	int fd;
	assert_int_equal(open_stream(6, &reader, &fd), 0);
	const struct stream_info *info = stream_reader_info(reader);
	assert_int_equal(info->header.flags, HL_TRACE_INCOMPLETE);
	assert_int_equal(info->tail_bytes, 0);
	assert_true(info->records > 0 && info->records < appended);
	uint64_t count = 0;
	while (stream_reader_next(reader, &event) == 1)
		count++;
	assert_int_equal(count, info->records);
	stream_reader_close(reader);
	close(fd);
}

static int set_up(void **unused)
{
	(void)unused;
	if (!mkdtemp(directory))
		return -1;
	dirfd_of_test = open(directory, O_RDONLY | O_DIRECTORY);
	return dirfd_of_test < 0;
}

static int tear_down(void **unused)
{
	char name[32];
	(void)unused;
	for (unsigned serial = 1; serial < 10; serial++) {
		snprintf(name, sizeof(name), "77.%u.hlt", serial);
		unlinkat(dirfd_of_test, name, 0);
	}
	close(dirfd_of_test);
	return rmdir(directory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_word_comes_back),
		cmocka_unit_test(threads_are_merged_by_time),
		cmocka_unit_test(ticks_that_go_back_are_put_in_order),
		cmocka_unit_test(packed_records_are_expanded),
		cmocka_unit_test(ticks_of_packed_records),
		cmocka_unit_test(a_damaged_page_is_refused),
		cmocka_unit_test(a_cut_off_record_is_refused),
		cmocka_unit_test(a_full_disk_leaves_whole_blocks),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}

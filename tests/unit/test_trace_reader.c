/* SPDX-License-Identifier: MIT
 *
 * The reader on files that are cut, damaged or lie: cut at every byte, every byte flipped,
 * impossible lengths under right checksums. It refuses with a reason, or gives what was before the
 * damage; under the sanitizers it also shows that it reads nothing else.
 */
#include "encode.h"
#include "stream_reader.h"

#include <zlib.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define RECORDS 40
#define FILE_LIMIT 65536
#define HEADER_BYTES 136

static uint8_t file[FILE_LIMIT];
static size_t file_size;
static size_t block_end[8]; /* where the blocks end */
static size_t block_count;

static void put_header(uint32_t flags)
{
	struct hl_trace_header header = {
		.magic = HL_TRACE_MAGIC,
		.version = HL_TRACE_VERSION,
		.fixed_bytes = sizeof(header),
		.header_bytes = HEADER_BYTES,
		.flags = flags,
		.pid = 1,
		.serial = 1,
		.tick_hz = 1000,
		.command_bytes = 5,
	};
	memset(file, 0, HEADER_BYTES);
	memcpy(file, &header, sizeof(header));
	memcpy(file + sizeof(header), "true", 5);
	header.crc = (uint32_t)crc32(0, file, HEADER_BYTES);
	memcpy(file, &header, sizeof(header));
}

static void put_block(uint32_t tid, uint64_t sequence, uint64_t tick, int level)
{
	struct encode_block block = {0};
	const void *bytes;
	size_t length;
	for (unsigned i = 0; i < RECORDS; i++) {
		struct hl_call_record record = {
			.tick = tick + i * 3,
			.kind_addr = hl_kind_addr(
				i % 3 ? HL_KIND_malloc : HL_KIND_memalign, 0x5000 + i * 64),
			.size = i * 10,
			.chunk = i * 10 + 16,
			.caller = 0x401000 + i % 5,
			.alignment = i % 3 ? 0 : 64,
		};
		if (i % 7 == 6)
			record.kind_addr = hl_kind_addr(HL_KIND_free, 0x5008 + i); /* spelled out */
		assert_int_equal(
			encode_append(&block, (const struct hl_slot *)&record, 2, 1 << 18), 2);
	}
	assert_int_equal(encode_finish(&block, tid, sequence, level, &bytes, &length), 0);
	memcpy(file + file_size, bytes, length);
	file_size += length;
	block_end[block_count++] = file_size;
	encode_free(&block);
}

static void make_file(uint32_t flags)
{
	put_header(flags);
	file_size = HEADER_BYTES;
	block_count = 0;
	put_block(1, 0, 100, 0);
	put_block(2, 0, 150, 1);
	put_block(1, 1, 300, 1);
}

/* Reads a copy of exactly `size` bytes, so that the sanitizers see any step beyond. Returns how
 * many records came, or -1 - that number if the reader refused then. */
static int read_bytes(const uint8_t *bytes, size_t size, uint64_t *tail)
{
	uint8_t *copy = malloc(size ? size : 1);
	struct stream_reader *reader;
	const struct stream_event *event;
	int count = 0;

	assert_non_null(copy);
	memcpy(copy, bytes, size);
	struct stream_input input = {.fd = -1, .bytes = copy, .size = size, .name = "trace.hlt"};
	int rc = stream_reader_open(&reader, &input);
	if (!rc && tail)
		*tail = stream_reader_info(reader)->tail_bytes;
	while (!rc && (rc = stream_reader_next(reader, &event)) == 1) {
		count++;
		rc = 0;
	}
	if (rc < 0) {
		assert_int_equal(rc, -EBADMSG);
		assert_non_null(strstr(stream_reader_error(reader), "trace.hlt: offset "));
	}
	stream_reader_close(reader);
	free(copy);
	return rc < 0 ? -1 - count : count;
}

static void a_whole_file_is_read(void **unused)
{
	uint64_t tail;
	(void)unused;
	make_file(0);
	assert_int_equal(read_bytes(file, file_size, &tail), 3 * RECORDS);
	assert_int_equal(tail, 0);
}

static size_t blocks_before(size_t size)
{
	size_t blocks = 0;
	while (blocks < block_count && block_end[blocks] <= size)
		blocks++;
	return blocks;
}

static void a_cut_complete_file_is_refused(void **unused)
{
	(void)unused;
	make_file(0);
	for (size_t size = 0; size < file_size; size++) {
		size_t blocks = blocks_before(size);
		size_t end = blocks ? block_end[blocks - 1] : HEADER_BYTES;
		int count = read_bytes(file, size, NULL);
		if (size == end)
			assert_int_equal(count, blocks * RECORDS);
		else
			assert_int_equal(count, -1);
	}
}

static void a_cut_incomplete_file_gives_what_is_before(void **unused)
{
	(void)unused;
	make_file(HL_TRACE_INCOMPLETE);
	for (size_t size = HEADER_BYTES; size < file_size; size++) {
		size_t blocks = blocks_before(size);
		size_t end = blocks ? block_end[blocks - 1] : HEADER_BYTES;
		uint64_t tail;
		assert_int_equal(read_bytes(file, size, &tail), blocks * RECORDS);
		assert_int_equal(tail, size - end);
	}
	for (size_t size = 0; size < HEADER_BYTES; size++)
		assert_int_equal(read_bytes(file, size, NULL), -1);
}

/* There is no byte in a file that a checksum, a magic or a length does not guard. */
static void every_flipped_byte_is_noticed(void **unused)
{
	(void)unused;
	make_file(0);
	for (size_t i = 0; i < file_size; i++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			file[i] ^= (uint8_t)(1u << bit);
			assert_true(read_bytes(file, file_size, NULL) < 0);
			file[i] ^= (uint8_t)(1u << bit);
		}
	}
}

static void mend_block(size_t at)
{
	struct hl_block_header header;
	memcpy(&header, file + at, sizeof(header));
	if (header.stored_bytes <= file_size - at - sizeof(header))
		header.payload_crc =
			(uint32_t)crc32(0, file + at + sizeof(header), header.stored_bytes);
	header.header_crc = 0;
	header.header_crc = (uint32_t)crc32(0, (const Bytef *)&header, sizeof(header));
	memcpy(file + at, &header, sizeof(header));
}

/* The same with right checksums: the reader must come to an end, and may be fooled, not broken. */
static void lies_with_right_checksums(void **unused)
{
	static const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff};
	unsigned refused = 0;
	(void)unused;
	for (size_t i = HEADER_BYTES; i < FILE_LIMIT; i++) {
		make_file(0);
		if (i >= block_end[0])
			break;
		for (size_t v = 0; v < sizeof(values); v++) {
			make_file(0);
			file[i] = values[v];
			mend_block(HEADER_BYTES);
			refused += read_bytes(file, file_size, NULL) < 0;
		}
	}
	assert_true(refused > 100);
}

static void huge_lengths_are_refused(void **unused)
{
	static const uint32_t lengths[] = {
		0, 1, 23, 1u << 20, (1u << 20) + 1, 0x7fffffff, UINT32_MAX};
	(void)unused;
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		for (size_t field = offsetof(struct hl_block_header, raw_bytes);
			field <= offsetof(struct hl_block_header, stored_bytes); field += 4) {
			make_file(0);
			memcpy(file + HEADER_BYTES + field, &lengths[i], 4);
			mend_block(HEADER_BYTES);
			assert_true(read_bytes(file, file_size, NULL) < 0);
		}
		make_file(0);
		memcpy(file + HEADER_BYTES + offsetof(struct hl_block_header, records), &lengths[i],
			4);
		mend_block(HEADER_BYTES);
		assert_true(read_bytes(file, file_size, NULL) < 0);
	}
}

static void a_missing_block_is_noticed(void **unused)
{
	(void)unused;
	make_file(0);
	size_t length = block_end[0] - HEADER_BYTES;
	memmove(file + HEADER_BYTES, file + block_end[0], file_size - block_end[0]);
	assert_int_equal(read_bytes(file, file_size - length, NULL), -1);
}

static void another_version_is_named(void **unused)
{
	struct stream_reader *reader;
	(void)unused;
	make_file(0);
	file[8] = 1;
	struct stream_input input = {.fd = -1, .bytes = file, .size = file_size, .name = "x.hlt"};
	assert_int_equal(stream_reader_open(&reader, &input), -EBADMSG);
	assert_string_equal(stream_reader_error(reader),
		"x.hlt: offset 8: trace format version 1; this heapledger reads version 2 only");
	stream_reader_close(reader);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_whole_file_is_read),
		cmocka_unit_test(a_cut_complete_file_is_refused),
		cmocka_unit_test(a_cut_incomplete_file_gives_what_is_before),
		cmocka_unit_test(every_flipped_byte_is_noticed),
		cmocka_unit_test(lies_with_right_checksums),
		cmocka_unit_test(huge_lengths_are_refused),
		cmocka_unit_test(a_missing_block_is_noticed),
		cmocka_unit_test(another_version_is_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

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
#include <stdio.h>
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

/* Blocks of two records at ticks 10 to 20, as columns in hexadecimal: a byte that is odd is the
 * varint of its half. 01 = malloc, 09 = free, 30 = realloc_begin, 33 = thread_start, 3e = TICK. */
static const struct {
	const char *column[HL_COLUMN_LIMIT];
	const char *wrong;
} impossible[] = {
	{{"0303", "09010103", "", "2101", "3e15"},
		"the block's last tick is not its last record's"},
	{{"030103", "09010103", "", "2105", "3e15"}, NULL},
	{{"010301", "09010103", "", "21",
		 "3315010101"
		 "3e01"},
		"the block's first tick is not its first record's"},
	{{"0103", "09010103", "", "21", "3301010101"},
		"the block's last tick is not its last record's"},
	{{"03", "09010103", "", "21", ""}, "the column of tokens is too short"},
	{{"0302", "09010103", "", "21", ""}, "a token is cut off"},
	{{"0307", "09010103", "", "21", ""}, "a token names a definition that does not exist"},
	{{"05", "09010103", "", "21", ""}, "a token names a definition that does not exist"},
	{{"0305", "09010103", "", "2121", ""}, "a definition is missing"},
	{{"03", "0901", "", "21", ""}, "a definition is cut off"},
	{{"03", "04010103", "", "21", ""}, "a definition is cut off"}, /* an alignment is missing */
	{{"03", "00010103", "", "21", ""}, "a definition is of an unknown kind"},
	{{"03", "20010103", "", "21", ""}, "a definition is of an unknown kind"},
	{{"03", "33010103", "", "21", ""}, "a definition is of an unknown kind"},
	{{"01", "", "", "", ""}, "a spelled-out record is missing"},
	{{"01", "", "", "", "330101"}, "a spelled-out record is cut off"},
	{{"01", "", "", "", "3f01010101"}, "a record is of an unknown kind"},
	{{"01", "", "", "", "0001010101"}, "a record is of an unknown kind"},
	{{"0301", "09010103", "", "21", "3e17"}, "a record's tick is outside its block"},
	{{"0301", "09010103", "", "21", "3e00ffffffffffffffff"},
		"a record's tick is outside its block"},
	{{"03", "09010103", "", "", ""}, "a column ends in the middle of a record"},
	{{"03", "8103", "", "21", ""}, "a column ends in the middle of a record"},
	{{"03", "8103", "03", "21", ""}, "a column ends in the middle of a record"},
	{{"03", "09010103", "", "03", ""}, "a record's address is 0 or refers to none"},
	{{"03", "09010103", "", "01", ""}, "a record's address is 0 or refers to none"},
	{{"030103", "49010303", "", "", "3e15"}, "the block holds more than its records"},
	{{"030103", "490103", "", "", "3e15"}, NULL},
	{{"030103", "490103", "", "21", "3e15"}, "the block holds more than its records"},
	{{"03010301", "490103", "", "",
		 "3e15"
		 "3e01"},
		"the block holds more than its records"},
};

static uint32_t from_hex(uint8_t *bytes, const char *text)
{
	uint32_t length = 0;
	unsigned byte;
	for (; sscanf(text, "%2x", &byte) == 1; text += 2)
		bytes[length++] = (uint8_t)byte;
	return length;
}

static const char *decode_columns(const char *const *column)
{
	static struct decode_cursor cursor;
	union decode_record record;
	struct hl_block_header header = {.records = 2, .first_tick = 10, .last_tick = 20};
	uint8_t *raw = calloc(1, 512), *exact;
	assert_non_null(raw);
	header.raw_bytes = HL_COLUMN_LIMIT * sizeof(uint32_t);
	for (int i = 0; i < HL_COLUMN_LIMIT; i++) {
		uint32_t length = from_hex(raw + header.raw_bytes, column[i]);
		memcpy(raw + (size_t)i * sizeof(length), &length, sizeof(length));
		header.raw_bytes += length;
	}
	exact = realloc(raw, header.raw_bytes + DECODE_PADDING_BYTES);
	assert_non_null(exact);
	const char *wrong = decode_start(&cursor, &header, exact);
	while (!wrong && cursor.left)
		wrong = decode_next(&cursor, &record);
	free(exact);
	return wrong;
}

static void impossible_columns_are_named(void **unused)
{
	(void)unused;
	for (size_t i = 0; i < sizeof(impossible) / sizeof(impossible[0]); i++) {
		const char *wrong = decode_columns(impossible[i].column);
		if (!impossible[i].wrong)
			assert_null(wrong);
		else
			assert_string_equal(wrong ? wrong : "nothing", impossible[i].wrong);
	}
}

static void too_many_definitions_are_refused(void **unused)
{
	static struct decode_cursor cursor;
	static uint8_t raw[1 << 16];
	union decode_record record;
	struct hl_block_header header = {.records = HL_BLOCK_DEFINITIONS + 1};
	uint8_t *p = raw + HL_COLUMN_LIMIT * sizeof(uint32_t);
	uint32_t lengths[HL_COLUMN_LIMIT] = {
		2 * (HL_BLOCK_DEFINITIONS + 1), 3 * (HL_BLOCK_DEFINITIONS + 1)};
	const char *wrong = NULL;
	(void)unused;
	for (unsigned i = 1; i <= HL_BLOCK_DEFINITIONS + 1; i++) {
		uint16_t two_bytes = (uint16_t)(i << 2 | 2);
		memcpy(p, &two_bytes, 2);
		p += 2;
	}
	for (unsigned i = 0; i <= HL_BLOCK_DEFINITIONS; i++, p += 3)
		memcpy(p, "\x49\x01\x01", 3); /* a free of NULL */
	memcpy(raw, lengths, sizeof(lengths));
	header.raw_bytes = (uint32_t)(p - raw);
	assert_null(decode_start(&cursor, &header, raw));
	while (!wrong && cursor.left)
		wrong = decode_next(&cursor, &record);
	assert_string_equal(wrong ? wrong : "nothing", "the block has too many definitions");
	assert_int_equal(cursor.left, 1);
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
		"x.hlt: offset 8: trace format version 1; this heapledger reads version 5 only");
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
		cmocka_unit_test(impossible_columns_are_named),
		cmocka_unit_test(too_many_definitions_are_refused),
		cmocka_unit_test(a_missing_block_is_noticed),
		cmocka_unit_test(another_version_is_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

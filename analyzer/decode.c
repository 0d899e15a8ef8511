/* SPDX-License-Identifier: MIT
 *
 * Checks and decodes the bytes of a trace file (docs/trace-format.md). Pure functions: whatever the
 * bytes are, they read only what they were given and end with a record or a reason.
 *
 * Budget: a record of an allocation is five varints, about 15 ns; no branch on a varint's length
 * but "one byte or more".
 */
#include "decode.h"
#include "heapledger/session.h"

#include <zlib.h>

#include <stdbool.h>
#include <string.h>

#define LENGTHS_BYTES (HL_COLUMN_LIMIT * sizeof(uint32_t))
#define PLAIN_WORDS 10
#define WORD_RESULT 4

static_assert(DECODE_PADDING_BYTES >= PLAIN_WORDS * 10 + 16, "one record may run past a column");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian");

const char *decode_check_header(const struct hl_trace_header *header)
{
	if (memcmp(header->magic, HL_TRACE_MAGIC, sizeof(header->magic)))
		return "not a heapledger trace (wrong magic)";
	if (header->version != HL_TRACE_VERSION)
		return "written in another version of the format";
	if (header->fixed_bytes != sizeof(*header))
		return "the header has a wrong size";
	if (header->header_bytes < sizeof(*header) || header->header_bytes % 8 ||
		header->header_bytes > sizeof(*header) + DECODE_COMMAND_LIMIT)
		return "the header's length is impossible";
	if (header->command_bytes > header->header_bytes - sizeof(*header))
		return "the command is longer than the header";
	return NULL;
}

const char *decode_check_command(const uint8_t *bytes, const struct hl_trace_header *header)
{
	struct hl_trace_header copy = *header;
	copy.crc = 0;
	uLong crc = crc32(0, (const Bytef *)&copy, sizeof(copy));
	crc = crc32(crc, bytes + sizeof(copy), (uInt)(header->header_bytes - sizeof(copy)));
	if (crc != header->crc)
		return "the header is damaged (checksum)";
	if (header->source > HL_TRACE_KERNEL || header->clock > HL_CLOCK_TSC)
		return "the header names an unknown source or clock";
	if (header->mode > 1 || header->policy > 2)
		return "the header names an unknown mode or policy";
	if (!header->tick_hz)
		return "the header gives no tick rate";
	return NULL;
}

const char *decode_check_block(const struct hl_block_header *header)
{
	struct hl_block_header copy = *header;
	if (header->magic != HL_BLOCK_MAGIC)
		return "no block starts here (wrong magic)";
	copy.header_crc = 0;
	if (crc32(0, (const Bytef *)&copy, sizeof(copy)) != header->header_crc)
		return "the block's header is damaged (checksum)";
	if (header->header_bytes != sizeof(*header))
		return "the block's header has a wrong size";
	if (header->compression > HL_BLOCK_ZSTD)
		return "the block is compressed in an unknown way";
	if (header->raw_bytes < LENGTHS_BYTES || header->raw_bytes > HL_BLOCK_RAW_LIMIT)
		return "the block's size is impossible";
	/* The smallest record is a kind, a tick and an address of one byte each. */
	if (!header->records || header->records > (header->raw_bytes - LENGTHS_BYTES) / 3)
		return "the block's number of records is impossible";
	if (!header->stored_bytes || header->stored_bytes > header->raw_bytes)
		return "the block's stored size is impossible";
	if (header->compression == HL_BLOCK_STORED && header->stored_bytes != header->raw_bytes)
		return "the block's sizes contradict each other";
	if (header->last_tick < header->first_tick)
		return "the block's ticks go backwards";
	return NULL;
}

const char *decode_check_payload(const struct hl_block_header *header, const uint8_t *stored)
{
	if (crc32(0, stored, header->stored_bytes) != header->payload_crc)
		return "the block is damaged (checksum)";
	return NULL;
}

const char *decode_start(
	struct decode_cursor *cursor, const struct hl_block_header *header, const uint8_t *raw)
{
	uint64_t left = header->raw_bytes - LENGTHS_BYTES;
	const uint8_t *p = raw + LENGTHS_BYTES;

	for (unsigned i = 0; i < HL_COLUMN_LIMIT; i++) {
		uint32_t length;
		memcpy(&length, raw + i * sizeof(length), sizeof(length));
		if (length > left)
			return "a column is longer than its block";
		cursor->at[i] = p;
		p += length;
		left -= length;
		cursor->end[i] = p;
	}
	if (left)
		return "the columns do not fill their block";
	if (cursor->end[HL_COLUMN_KIND] - cursor->at[HL_COLUMN_KIND] != (ptrdiff_t)header->records)
		return "the column of kinds has a wrong length";
	cursor->tick = header->first_tick;
	cursor->last_tick = header->last_tick;
	cursor->addr = 0;
	cursor->left = header->records;
	return NULL;
}

/* Nine or ten bytes, or no varint at all: then *at moves beyond anything allowed. */
static __attribute__((noinline)) uint64_t get_long(const uint8_t **at)
{
	uint64_t value = 0;
	const uint8_t *p = *at;
	for (unsigned shift = 0; shift < 70; shift += 7) {
		uint8_t byte = *p++;
		value |= (uint64_t)(byte & 0x7f) << (shift < 64 ? shift : 63);
		if (byte < 0x80) {
			*at = p;
			return shift == 63 && byte > 1 ? 0 : value;
		}
	}
	*at = p;
	return 0;
}

/* Loads eight bytes whatever is there: the padding makes that safe, and the callers check `at`
 * against the column's end before they use what came out. */
static inline uint64_t get_varint(const uint8_t **at)
{
	const uint8_t *p = *at;
	if (__builtin_expect(*p < 0x80, 1)) {
		*at = p + 1;
		return *p;
	}
	uint64_t bytes;
	memcpy(&bytes, p, sizeof(bytes));
	uint64_t stops = ~bytes & UINT64_C(0x8080808080808080);
	if (__builtin_expect(!stops, 0))
		return get_long(at);
	unsigned last = (unsigned)__builtin_ctzll(stops);
	bytes &= stops ^ (stops - 1); /* up to and with the last byte's top bit, which is 0 */
	bytes &= UINT64_C(0x7f7f7f7f7f7f7f7f);
	*at = p + last / 8 + 1;
	/* Close the gaps: 8 x 7 bits, pairwise. */
	bytes = (bytes & UINT64_C(0x007f007f007f007f)) |
		(bytes & UINT64_C(0x7f007f007f007f00)) >> 1;
	bytes = (bytes & UINT64_C(0x00003fff00003fff)) |
		(bytes & UINT64_C(0x3fff00003fff0000)) >> 2;
	return (bytes & UINT64_C(0x000000000fffffff)) | (bytes & UINT64_C(0x0fffffff00000000)) >> 4;
}

static inline uint64_t unzigzag(uint64_t value)
{
	return value >> 1 ^ (0 - (value & 1));
}

static inline uint64_t get_chunk(const uint8_t **at, uint64_t size)
{
	uint64_t value = get_varint(at);
	uint64_t chunk = (size + unzigzag(value >> 1)) & HL_ADDRESS_MASK;
	if (value & 1)
		chunk |= get_varint(at) << HL_ADDRESS_BITS;
	return chunk;
}

static inline bool is_syscall_kind(unsigned kind)
{
	return kind >= HL_KIND_brk && kind <= HL_KIND_other;
}

static const char *check_end(const struct decode_cursor *cursor)
{
	if (cursor->tick != cursor->last_tick)
		return "the block's last tick is not its last record's";
	for (int i = 0; i < HL_COLUMN_LIMIT; i++)
		if (cursor->at[i] != cursor->end[i])
			return "the block holds more than its records";
	return NULL;
}

const char *decode_next(struct decode_cursor *cursor, union decode_record *record)
{
	const uint8_t **at = cursor->at;
	uint8_t kind_byte = *at[HL_COLUMN_KIND]++;
	unsigned kind = kind_byte & (HL_KIND_BARE - 1);
	unsigned slots = hl_kind_slots(kind);
	if (!slots || kind == HL_KIND_FILLER)
		return "a record is of an unknown kind";

	uint64_t tick = cursor->tick + get_varint(&at[HL_COLUMN_TICK]);
	if (tick < cursor->tick || tick > cursor->last_tick)
		return "a record's tick is outside its block";
	cursor->tick = tick;
	cursor->addr = (cursor->addr + unzigzag(get_varint(&at[HL_COLUMN_ADDR]))) & HL_ADDRESS_MASK;
	record->word[0] = tick;
	record->word[1] = (uint64_t)kind << HL_ADDRESS_BITS | cursor->addr;

	unsigned plain = 4;
	if (slots == 3) {
		plain = 2;
		if (kind_byte & HL_KIND_BARE)
			return "a record is of an unknown kind";
	} else if (kind_byte & HL_KIND_BARE) {
		record->word[2] = record->word[3] = 0;
	} else {
		uint64_t size = get_varint(&at[HL_COLUMN_SIZE]);
		record->word[2] = size;
		record->word[3] = get_chunk(&at[HL_COLUMN_CHUNK], size);
	}
	for (unsigned i = plain; i < slots * 4; i++)
		record->word[i] = get_varint(&at[HL_COLUMN_PLAIN]);
	if (slots == 3 && is_syscall_kind(kind))
		record->word[WORD_RESULT] = unzigzag(record->word[WORD_RESULT]);

	for (int i = HL_COLUMN_TICK; i < HL_COLUMN_LIMIT; i++)
		if (at[i] > cursor->end[i])
			return "a column ends in the middle of a record";
	return --cursor->left ? NULL : check_end(cursor);
}

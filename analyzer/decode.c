/* SPDX-License-Identifier: MIT
 *
 * Checks and decodes the bytes of a trace file (docs/trace-format.md). Pure functions: whatever the
 * bytes are, they read only what they were given and end with a record or a reason.
 *
 * Budget: a record with a definition is three varints, 16 ns with the merge, and has no branch that
 * depends on a varint's length or on whether its size varies.
 */
#include "decode.h"
#include "heapledger/packed.h"
#include "heapledger/session.h"

#include <zlib.h>

#include <stdbool.h>
#include <string.h>

#define LENGTHS_BYTES (HL_COLUMN_LIMIT * sizeof(uint32_t))
#define VARINT_BYTES 9
#define WORDS_BEFORE 2 /* tick and kind with addr */
#define WORD_RESULT 4
#define WORD_LIMIT 12
#define PLACE_SHIFT 4
#define PLACE_MASK (HL_ADDRESS_MASK >> PLACE_SHIFT)
#define DEFINE_KIND_MASK (HL_DEFINE_NULL - 1u)

static_assert(DECODE_PADDING_BYTES >= 2 + (WORD_LIMIT + 1) * VARINT_BYTES,
	"one record may run past a column");
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
	if (header->source > HL_TRACE_KERNEL || header->clock > HL_CLOCK_EVENTS)
		return "the header names an unknown source or clock";
	if (header->mode > HL_MODE_ATTACHED_CALLS || header->policy > 2)
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
	/* The smallest record is a token of one byte: a free of NULL. */
	if (!header->records || header->records > header->raw_bytes - LENGTHS_BYTES)
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
	cursor->tick = header->first_tick;
	cursor->last_tick = header->last_tick;
	cursor->other_addr = cursor->other_caller = cursor->defined_caller = 0;
	cursor->records = cursor->left = header->records;
	cursor->definitions = cursor->recent = 0;
	memset(cursor->place, 0, sizeof(cursor->place));
	return NULL;
}

static uint64_t get_long(const uint8_t *p)
{
	uint64_t value;
	memcpy(&value, p + 1, sizeof(value));
	return value;
}

/* Loads nine bytes whatever is there: the padding makes that safe, and the callers check where a
 * column ended before they use what came out. Advances by the varint's length under `mask`. */
static inline uint64_t get_varint_if(const uint8_t **at, uint64_t mask)
{
	const uint8_t *p = *at;
	uint64_t word;
	memcpy(&word, p, sizeof(word));
	if (__builtin_expect(!(word & 0xff), 0)) {
		*at = p + (VARINT_BYTES & mask);
		return get_long(p);
	}
	unsigned bytes = (unsigned)__builtin_ctzll(word) + 1;
	*at = p + (bytes & mask);
	unsigned above = 64 - 8 * bytes;
	return word << above >> above >> bytes;
}

static inline uint64_t get_varint(const uint8_t **at)
{
	return get_varint_if(at, UINT64_MAX);
}

static inline uint64_t unzigzag(uint64_t value)
{
	return value >> 1 ^ (0 - (value & 1));
}

static uint64_t get_chunk(const uint8_t **at, uint64_t expected)
{
	uint64_t value = get_varint(at);
	uint64_t chunk = (expected + unzigzag(value >> 1)) & HL_ADDRESS_MASK;
	if (value & 1)
		chunk |= get_varint(at) << HL_ADDRESS_BITS;
	return chunk;
}

/* The chunk that goes without saying. */
static inline uint64_t expected_chunk(unsigned kind, uint64_t addr, uint64_t size)
{
	return addr && HL_KIND_ALLOCATES(kind) ? hl_packed_chunk(size) & HL_ADDRESS_MASK : 0;
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

static const char *get_definition(struct decode_cursor *cursor)
{
	const uint8_t **at = &cursor->at[HL_COLUMN_DEF];
	if (cursor->definitions == HL_BLOCK_DEFINITIONS)
		return "the block has too many definitions";
	if (*at >= cursor->end[HL_COLUMN_DEF])
		return "a definition is missing";
	struct decode_definition *new = &cursor->definition[cursor->definitions];
	unsigned byte = *(*at)++, kind = byte & DEFINE_KIND_MASK;
	bool null = byte & HL_DEFINE_NULL;
	if (!HL_KIND_IS_CALL(kind))
		return "a definition is of an unknown kind";
	*new = (struct decode_definition){
		.kind = (uint64_t)kind << HL_ADDRESS_BITS, .placed = null ? 0 : UINT64_MAX};
	if (byte & HL_DEFINE_VARIES) {
		new->varies = UINT64_MAX;
		new->chunk = !null &&HL_KIND_ALLOCATES(kind) ? HL_ADDRESS_MASK : 0;
	} else {
		new->size = get_varint(at);
		new->chunk = null ? 0 : get_chunk(at, expected_chunk(kind, 1, new->size));
	}
	new->caller = cursor->defined_caller += unzigzag(get_varint(at));
	if (HL_KIND_ALIGNED(kind))
		new->alignment = get_varint(at);
	if (*at > cursor->end[HL_COLUMN_DEF])
		return "a definition is cut off";
	cursor->definitions++;
	return NULL;
}

/* The address of a record, by 16; 0, and nothing is read, if `placed` is 0. */
static inline uint64_t get_place(struct decode_cursor *cursor, uint64_t placed)
{
	const unsigned mask = HL_BLOCK_RECENT - 1;
	uint64_t code = get_varint_if(&cursor->at[HL_COLUMN_ADDR], placed);
	uint64_t *next = &cursor->place[cursor->recent & mask];
	uint64_t is_near = 0 - (code & 1);
	uint64_t place = cursor->place[(cursor->recent - 1 - (code >> 1 & is_near)) & mask];
	place += unzigzag(code >> 1) & ~is_near;
	place &= PLACE_MASK & placed;
	*next ^= (*next ^ place) & placed;
	cursor->recent += placed & 1;
	return place;
}

/* A call with a definition. */
static inline const char *get_defined(struct decode_cursor *cursor, union decode_record *record,
	const struct decode_definition *defined)
{
	uint64_t varies = defined->varies, placed = defined->placed;
	uint64_t place = get_place(cursor, placed);
	uint64_t varying = get_varint_if(&cursor->at[HL_COLUMN_SIZE], varies) & varies;
	uint64_t size = varying >> 1 | defined->size;
	uint64_t chunk = (hl_packed_chunk(size) | ~varies) & defined->chunk;
	if (__builtin_expect(varying & 1, 0))
		chunk = get_chunk(&cursor->at[HL_COLUMN_SIZE], chunk);
	record->word[0] = cursor->tick;
	record->word[1] = defined->kind | place << PLACE_SHIFT;
	record->word[2] = size;
	record->word[3] = chunk;
	record->word[4] = defined->caller;
	record->word[5] = defined->alignment;
	record->word[6] = record->word[7] = 0;
	if (cursor->at[HL_COLUMN_ADDR] > cursor->end[HL_COLUMN_ADDR] ||
		cursor->at[HL_COLUMN_SIZE] > cursor->end[HL_COLUMN_SIZE])
		return "a column ends in the middle of a record";
	if (__builtin_expect(!place && placed, 0))
		return "a record's address is 0 or refers to none";
	return --cursor->left ? NULL : check_end(cursor);
}

static const char *move_tick(struct decode_cursor *cursor, uint64_t passed)
{
	uint64_t tick = cursor->tick + passed;
	if (tick < cursor->tick || tick > cursor->last_tick)
		return "a record's tick is outside its block";
	if (passed && cursor->left == cursor->records)
		return "the block's first tick is not its first record's";
	cursor->tick = tick;
	return NULL;
}

static void get_other_call(struct decode_cursor *cursor, union decode_record *record, unsigned kind)
{
	const uint8_t **at = &cursor->at[HL_COLUMN_OTHER];
	uint64_t size = record->word[2] = get_varint(at);
	record->word[3] = get_chunk(at, expected_chunk(kind, cursor->other_addr, size));
	record->word[4] = cursor->other_caller += unzigzag(get_varint(at));
	record->word[5] = get_varint(at);
	record->word[6] = record->word[7] = 0;
}

/* What is next in OTHER. *is_record says whether it was one. */
static const char *get_other(
	struct decode_cursor *cursor, union decode_record *record, bool *is_record)
{
	const uint8_t **at = &cursor->at[HL_COLUMN_OTHER];
	if (*at >= cursor->end[HL_COLUMN_OTHER])
		return "a spelled-out record is missing";
	unsigned kind = *(*at)++, slots = hl_kind_slots(kind);
	*is_record = kind != HL_TRACE_TICK;
	if (*is_record && (!slots || kind == HL_KIND_FILLER))
		return "a record is of an unknown kind";
	const char *wrong = move_tick(cursor, get_varint(at));
	if (wrong)
		return wrong;
	if (*is_record) {
		cursor->other_addr += unzigzag(get_varint(at));
		cursor->other_addr &= HL_ADDRESS_MASK;
		record->word[0] = cursor->tick;
		record->word[1] = (uint64_t)kind << HL_ADDRESS_BITS | cursor->other_addr;
	}
	if (HL_KIND_IS_CALL(kind))
		get_other_call(cursor, record, kind);
	else
		for (unsigned i = WORDS_BEFORE; i < slots * 4; i++)
			record->word[i] = get_varint(at);
	if (HL_KIND_IS_SYSCALL(kind))
		record->word[WORD_RESULT] = unzigzag(record->word[WORD_RESULT]);
	return *at > cursor->end[HL_COLUMN_OTHER] ? "a spelled-out record is cut off" : NULL;
}

const char *decode_next(struct decode_cursor *cursor, union decode_record *record)
{
	const uint8_t **at = &cursor->at[HL_COLUMN_SITE];
	for (;;) {
		if (*at >= cursor->end[HL_COLUMN_SITE])
			return "the column of tokens is too short";
		uint64_t number = get_varint(at) - 1;
		if (*at > cursor->end[HL_COLUMN_SITE])
			return "a token is cut off";
		if (__builtin_expect(number < cursor->definitions, 1))
			return get_defined(cursor, record, &cursor->definition[number]);

		bool is_record = true;
		const char *wrong;
		if (number == cursor->definitions) {
			wrong = get_definition(cursor);
			return wrong ? wrong
				     : get_defined(cursor, record, &cursor->definition[number]);
		}
		if (number != UINT64_MAX)
			return "a token names a definition that does not exist";
		wrong = get_other(cursor, record, &is_record);
		if (wrong)
			return wrong;
		if (is_record)
			return --cursor->left ? NULL : check_end(cursor);
	}
}

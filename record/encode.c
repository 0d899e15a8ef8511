/* SPDX-License-Identifier: MIT
 *
 * Records to columns to compressed blocks. The hot path is encode_append: columns are grown once
 * for a batch of records, so that putting a value is a store and an add.
 */
#include "encode.h"

#include <zlib.h>
#include <zstd.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_RECORDS 16
#define VARINT_BYTES 10
#define PLAIN_WORDS 10 /* the most that one record puts into PLAIN */
#define WORD_RESULT 4  /* hl_syscall_record.result */

static_assert(HL_BLOCK_RAW_LIMIT >= (512u << 10), "a block holds what stream.c gathers");

/* Compression state and output are shared by all streams of a thread: a stream that waits for more
 * records then costs only its columns. */
static _Thread_local struct {
	ZSTD_CCtx *zstd;
	uint8_t *raw;
	size_t raw_capacity;
	uint8_t *out;
	size_t out_capacity;
} scratch;

static int grow(uint8_t **data, size_t *capacity, size_t wanted)
{
	if (wanted <= *capacity)
		return 0;
	size_t bytes = *capacity ? *capacity : 256;
	while (bytes < wanted)
		bytes *= 2;
	uint8_t *moved = realloc(*data, bytes);
	if (!moved)
		return -ENOMEM;
	*data = moved;
	*capacity = bytes;
	return 0;
}

static int reserve(struct encode_column *column, uint32_t bytes)
{
	size_t capacity = column->capacity;
	int rc = grow(&column->data, &capacity, (size_t)column->used + bytes);
	if (!rc)
		column->capacity = (uint32_t)capacity;
	return rc;
}

static int reserve_batch(struct encode_block *block)
{
	static const uint32_t bytes[HL_COLUMN_LIMIT] = {
		[HL_COLUMN_KIND] = BATCH_RECORDS,
		[HL_COLUMN_TICK] = BATCH_RECORDS * VARINT_BYTES,
		[HL_COLUMN_ADDR] = BATCH_RECORDS * VARINT_BYTES,
		[HL_COLUMN_SIZE] = BATCH_RECORDS * VARINT_BYTES,
		[HL_COLUMN_CHUNK] = BATCH_RECORDS * VARINT_BYTES * 2,
		[HL_COLUMN_PLAIN] = BATCH_RECORDS * VARINT_BYTES * PLAIN_WORDS,
	};
	for (int i = 0; i < HL_COLUMN_LIMIT; i++) {
		int rc = reserve(&block->column[i], bytes[i]);
		if (rc)
			return rc;
	}
	return 0;
}

static inline void put_varint(struct encode_column *column, uint64_t value)
{
	uint8_t *p = column->data + column->used;
	while (value >= 0x80) {
		*p++ = (uint8_t)(value | 0x80);
		value >>= 7;
	}
	*p++ = (uint8_t)value;
	column->used = (uint32_t)(p - column->data);
}

static inline uint64_t zigzag(uint64_t value)
{
	return value << 1 ^ (value >> 63 ? UINT64_MAX : 0);
}

/* chunk bytes are 56 bits wide, so their distance to any size is too. */
static inline void put_chunk(struct encode_column *column, uint64_t size, uint64_t chunk)
{
	const unsigned above = 64 - HL_ADDRESS_BITS;
	uint64_t distance = (uint64_t)((int64_t)((chunk - size) << above) >> above);
	uint64_t flags = chunk >> HL_ADDRESS_BITS;

	put_varint(column, zigzag(distance) << 1 | (flags != 0));
	if (flags)
		put_varint(column, flags);
}

static inline void put_words(struct encode_column *column, const uint64_t *word, unsigned from,
	unsigned to, bool is_syscall)
{
	for (unsigned i = from; i < to; i++)
		put_varint(column, is_syscall && i == WORD_RESULT ? zigzag(word[i]) : word[i]);
}

static inline bool is_syscall_kind(unsigned kind)
{
	return kind >= HL_KIND_brk && kind <= HL_KIND_other;
}

static void put_record(struct encode_block *block, const uint64_t *word, unsigned slots)
{
	unsigned kind = hl_kind_of(word[1]);
	uint64_t addr = hl_addr_of(word[1]);
	struct encode_column *column = block->column;

	if (!block->records)
		block->first_tick = block->last_tick = word[0];
	put_varint(&column[HL_COLUMN_TICK], word[0] - block->last_tick);
	put_varint(&column[HL_COLUMN_ADDR], zigzag(addr - block->last_addr));
	block->last_tick = word[0];
	block->last_addr = addr;
	block->records++;
	unsigned bare = 0;
	if (slots == 3) {
		put_words(&column[HL_COLUMN_PLAIN], word, 2, 12, is_syscall_kind(kind));
	} else {
		bare = word[2] || word[3] ? 0 : HL_KIND_BARE;
		if (!bare) {
			put_varint(&column[HL_COLUMN_SIZE], word[2]);
			put_chunk(&column[HL_COLUMN_CHUNK], word[2], word[3]);
		}
		put_words(&column[HL_COLUMN_PLAIN], word, 4, 4 * slots, false);
	}
	column[HL_COLUMN_KIND].data[column[HL_COLUMN_KIND].used++] = (uint8_t)(kind | bare);
}

static uint32_t columns_bytes(const struct encode_block *block)
{
	uint32_t bytes = 0;
	for (int i = 0; i < HL_COLUMN_LIMIT; i++)
		bytes += block->column[i].used;
	return bytes;
}

ptrdiff_t encode_append(
	struct encode_block *block, const struct hl_slot *slots, size_t count, uint32_t limit_bytes)
{
	size_t at = 0;
	while (at < count && block->raw_bytes < limit_bytes) {
		int rc = reserve_batch(block);
		if (rc)
			return rc;
		for (int i = 0; i < BATCH_RECORDS && at < count; i++) {
			const uint64_t *word = slots[at].word;
			unsigned kind = hl_kind_of(word[1]);
			unsigned width = hl_kind_slots(kind);
			if (!width || width > count - at)
				return -EINVAL;
			if (kind != HL_KIND_FILLER) {
				if (block->records && word[0] < block->last_tick) {
					block->raw_bytes = columns_bytes(block);
					return (ptrdiff_t)at;
				}
				put_record(block, word, width);
			}
			at += width;
		}
		block->raw_bytes = columns_bytes(block);
	}
	return (ptrdiff_t)at;
}

/* The payload before compression: the lengths of the columns, then the columns. */
static int lay_out(const struct encode_block *block, uint8_t *raw)
{
	uint8_t *p = raw + HL_COLUMN_LIMIT * sizeof(uint32_t);
	for (int i = 0; i < HL_COLUMN_LIMIT; i++) {
		uint32_t used = block->column[i].used;
		memcpy(raw + (size_t)i * sizeof(used), &used, sizeof(used));
		if (used)
			memcpy(p, block->column[i].data, used);
		p += used;
	}
	return (int)(p - raw);
}

int encode_finish(const struct encode_block *block, uint32_t tid, uint64_t sequence, int level,
	const void **bytes, size_t *length)
{
	struct hl_block_header header = {
		.magic = HL_BLOCK_MAGIC,
		.header_bytes = sizeof(header),
		.tid = tid,
		.records = block->records,
		.sequence = sequence,
		.first_tick = block->first_tick,
		.last_tick = block->last_tick,
	};
	size_t raw_bytes = columns_bytes(block) + HL_COLUMN_LIMIT * sizeof(uint32_t);
	size_t bound = ZSTD_compressBound(raw_bytes);
	if (raw_bytes > HL_BLOCK_RAW_LIMIT)
		return -EFBIG;
	int rc = grow(&scratch.raw, &scratch.raw_capacity, raw_bytes);
	if (!rc)
		rc = grow(&scratch.out, &scratch.out_capacity, sizeof(header) + bound);
	if (rc)
		return rc;
	if (!scratch.zstd && !(scratch.zstd = ZSTD_createCCtx()))
		return -ENOMEM;

	uint8_t *payload = scratch.out + sizeof(header);
	size_t stored = raw_bytes;
	lay_out(block, scratch.raw);
	if (level) {
		stored = ZSTD_compressCCtx(
			scratch.zstd, payload, bound, scratch.raw, raw_bytes, level);
		if (ZSTD_isError(stored))
			return -ENOMEM;
		header.compression = HL_BLOCK_ZSTD;
	}
	if (!level || stored >= raw_bytes) {
		memcpy(payload, scratch.raw, raw_bytes);
		stored = raw_bytes;
		header.compression = HL_BLOCK_STORED;
	}
	header.raw_bytes = (uint32_t)raw_bytes;
	header.stored_bytes = (uint32_t)stored;
	header.payload_crc = (uint32_t)crc32(0, payload, (uInt)stored);
	header.header_crc = (uint32_t)crc32(0, (const Bytef *)&header, sizeof(header));
	memcpy(scratch.out, &header, sizeof(header));
	*bytes = scratch.out;
	*length = sizeof(header) + stored;
	return 0;
}

void encode_reset(struct encode_block *block)
{
	for (int i = 0; i < HL_COLUMN_LIMIT; i++)
		block->column[i].used = 0;
	block->records = 0;
	block->raw_bytes = 0;
	block->first_tick = block->last_tick = block->last_addr = 0;
}

void encode_free(struct encode_block *block)
{
	for (int i = 0; i < HL_COLUMN_LIMIT; i++)
		free(block->column[i].data);
	memset(block, 0, sizeof(*block));
}

/* SPDX-License-Identifier: MIT
 *
 * Records to columns to compressed blocks. The hot path is put_compact: columns are grown once
 * for a batch of records, so that putting a value is a store and an add.
 */
#include "encode.h"

#include <zlib.h>
#include <zstd.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_RECORDS 32
#define WORD_RESULT 4 /* hl_syscall_record.result */
#define WORD_LIMIT 12 /* of system calls and samples */
#define PLACE_SHIFT 4
#define PLACE_BYTES 16 /* addresses with a token are multiples of it */
/* The hash of level 1 is four times as large, and no better for columns. */
#define ZSTD_HASH_LOG 12
#define ZSTD_LEAST_MATCH 7
#define TICK_CODE 1    /* the varint of 0: SITE of what is in OTHER */
#define MANY_BYTES 24  /* in OTHER for one batch: ticks, as a rule */
#define PASSED_BITS 48 /* more are put one by one: a byte and a varint must fit a word */

static_assert(HL_BLOCK_RAW_LIMIT >= (512u << 10), "a block holds what stream.c gathers");

/* Compression state and output are shared by all streams of a thread: a stream that waits for more
 * records then costs only its columns. */
static _Thread_local struct {
	ZSTD_CCtx *zstd;
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

/* For each record of the batch, and before it a tick. */
static int reserve_batch(struct encode_block *block)
{
	static const uint32_t bytes[HL_COLUMN_LIMIT] = {
		[HL_COLUMN_SITE] = 1 + VARINT_BYTES,
		[HL_COLUMN_DEF] = DEFINE_COLUMN_BYTES,
		[HL_COLUMN_SIZE] = 3 * VARINT_BYTES,
		[HL_COLUMN_ADDR] = VARINT_BYTES,
		[HL_COLUMN_OTHER] = 2 + (WORD_LIMIT + 1) * VARINT_BYTES,
	};
	for (int i = 0; i < HL_COLUMN_LIMIT; i++) {
		int rc = reserve(&block->column[i], bytes[i] * BATCH_RECORDS + VARINT_SLACK);
		if (rc)
			return rc;
	}
	if (!block->recent && !(block->recent = calloc(1, sizeof(*block->recent))))
		return -ENOMEM;
	return define_ready(&block->definitions);
}

/* What ADDR says of an address, and remembers it. Without a branch: in a program with a random
 * order of blocks none could be foretold. */
static inline uint64_t address_code(struct encode_recent *recent, uint8_t next, uint64_t place)
{
	uint8_t last = (uint8_t)(next - 1);
	uint8_t *index = &recent->index[place * UINT64_C(0x9e3779b97f4a7c15) >> 54];
	uint64_t near = (uint64_t)(uint8_t)(last - *index) << 1 | 1;
	uint64_t far = zigzag(place - recent->place[last]) << 1;
	uint64_t is_near = 0 - (uint64_t)(recent->place[*index] == place);
	*index = next;
	recent->place[next] = place;
	return far ^ ((far ^ near) & is_near);
}

static inline bool goes_back(const struct encode_block *block, uint64_t tick)
{
	return block->records && tick < block->last_tick;
}

/* The record's own time; returns how far it is from that of the last record. */
static uint64_t count_record(struct encode_block *block, uint64_t tick)
{
	if (!block->records++)
		block->first_tick = block->last_tick = tick;
	uint64_t passed = tick - block->last_tick;
	block->last_tick = tick;
	return passed;
}

static void put_other_head(struct encode_block *block, uint64_t tick, unsigned kind, uint64_t addr)
{
	struct encode_column *other = &block->column[HL_COLUMN_OTHER];

	put_varint(&block->column[HL_COLUMN_SITE], 0);
	put_byte(other, kind);
	put_varint(other, count_record(block, tick));
	put_varint(other, zigzag(address_difference(addr, block->other_addr)));
	block->other_addr = addr;
}

static void put_other_call(
	struct encode_block *block, uint64_t tick, const struct define_call *call)
{
	struct encode_column *other = &block->column[HL_COLUMN_OTHER];

	put_other_head(block, tick, call->kind, call->addr);
	put_varint(other, call->size);
	put_chunk(other, define_chunk(call->kind, call->addr, call->size), call->chunk);
	put_varint(other, zigzag(call->caller - block->other_caller));
	put_varint(other, call->alignment);
	block->other_caller = call->caller;
}

/* `word` are those from the third on. */
static void put_other_words(struct encode_block *block, uint64_t tick, unsigned kind, uint64_t addr,
	const uint64_t *word)
{
	struct encode_column *other = &block->column[HL_COLUMN_OTHER];
	unsigned words = 4 * hl_kind_slots(kind) - 2;

	put_other_head(block, tick, kind, addr);
	for (unsigned i = 0; i < words; i++)
		put_varint(other,
			HL_KIND_IS_SYSCALL(kind) && i == WORD_RESULT - 2 ? zigzag(word[i]) : word[i]);
}

static void put_tick(struct encode_block *block, uint64_t passed)
{
	put_varint(&block->column[HL_COLUMN_SITE], 0);
	put_byte(&block->column[HL_COLUMN_OTHER], HL_TRACE_TICK);
	put_varint(&block->column[HL_COLUMN_OTHER], passed);
}

static void put_call(struct encode_block *block, uint64_t tick, const struct define_call *call)
{
	struct encode_column *column = block->column;
	struct define_token token = define_find(&block->definitions, &column[HL_COLUMN_DEF], call);

	if (!token.number) {
		put_other_call(block, tick, call);
		return;
	}
	uint64_t passed = count_record(block, tick);
	if (passed)
		put_tick(block, passed);
	put_varint(&column[HL_COLUMN_SITE], token.number);
	if (token.varies) {
		uint64_t expected = define_chunk(call->kind, call->addr, call->size);
		put_varint(&column[HL_COLUMN_SIZE], call->size << 1 | (call->chunk != expected));
		if (call->chunk != expected)
			put_chunk(&column[HL_COLUMN_SIZE], expected, call->chunk);
	}
	if (call->addr)
		put_varint(
			&column[HL_COLUMN_ADDR], address_code(block->recent, block->recent->count++,
							 call->addr >> PLACE_SHIFT));
}

static uint32_t columns_bytes(const struct encode_block *block)
{
	uint32_t bytes = 0;
	for (int i = 0; i < HL_COLUMN_LIMIT; i++)
		bytes += block->column[i].used;
	return bytes;
}

static void put_record(struct encode_block *block, const uint64_t *word)
{
	unsigned kind = hl_kind_of(word[1]);
	uint64_t addr = hl_addr_of(word[1]);

	if (HL_KIND_IS_CALL(kind))
		put_call(block, word[0],
			&(struct define_call){kind, addr, word[2], word[3], word[4], word[5]});
	else
		put_other_words(block, word[0], kind, addr, word + 2);
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
				if (goes_back(block, word[0])) {
					block->raw_bytes = columns_bytes(block);
					return (ptrdiff_t)at;
				}
				put_record(block, word);
			}
			at += width;
		}
		block->raw_bytes = columns_bytes(block);
	}
	return (ptrdiff_t)at;
}

/* The address of a packed record by 16; 0 if it has none or it is not a multiple. */
static inline uint64_t address_place(uint64_t head)
{
	uint64_t addr = head & HL_PACKED_ADDRESS_MASK;

	return addr % PLACE_BYTES ? 0 : addr >> PLACE_SHIFT;
}

/* What a compact record's call site is known by: kind and caller. */
static inline uint64_t site_key(const struct hl_packed *slot)
{
	return (slot->word[0] >> HL_ADDRESS_BITS << HL_ADDRESS_BITS) |
	       (slot->word[1] & HL_PACKED_ADDRESS_MASK);
}

/* Where the next bytes of the columns go. */
struct encode_places {
	uint8_t *site, *size, *addr, *other;
};

/* The site of a compact record, and the place of its token there; DEFINE_FIXED if none is known. Most
 * sites have one size, or any, and a look at the first place is all. */
static inline const struct define_site *find_token(const struct define_site *sites, uint32_t bits,
	uint64_t key, const struct hl_packed *slot, unsigned *at)
{
	uint64_t size = slot->word[1] >> HL_PACKED_ADDRESS_BITS;
	uint32_t exact = (uint32_t)(size << 8 | hl_packed_extra(slot->word[0]));
	uint32_t found = define_hash(key, bits);

	found |= sites[found].key != key;
	const struct define_site *site = &sites[found];
	*at = 0;
	if (__builtin_expect(site->key != key || (exact & site->mask) != site->exact[0], 0))
		*at = site->key == key ? define_exact(site, exact) : DEFINE_FIXED;
	return site;
}

/* The size only if its definition leaves it open. */
static inline void put_token(
	struct encode_places *to, const struct define_site *site, unsigned at, uint64_t size)
{
	unsigned bytes = varint_bytes(size << 1);
	uint64_t word = varint_word(size << 1, bytes);
	uint32_t open = ~site->mask >> 8;
	uint16_t code = site->code[at];

	memcpy(to->site, &code, sizeof(code));
	to->site += 2 - code % 2; /* a varint of one byte is odd */
	memcpy(to->size, &word, sizeof(word));
	to->size += bytes & open;
}

/* Nothing if none has passed. */
static inline void put_passed(struct encode_places *to, uint64_t passed)
{
	unsigned bytes = varint_bytes(passed);
	uint64_t word = varint_word(passed, bytes) << 8 | HL_TRACE_TICK;

	*to->site = TICK_CODE;
	to->site += passed != 0;
	memcpy(to->other, &word, sizeof(word));
	to->other += passed ? 1 + bytes : 0;
}

/* Whether a tick can be put for what follows it: a record that put_compact takes. */
static inline bool takes_tick(const struct define_site *sites, uint32_t bits,
	const struct hl_packed *slots, size_t count, uint64_t passed)
{
	unsigned token;

	if (count < 3 || passed >> PASSED_BITS || !address_place(slots->word[0]))
		return false;
	find_token(sites, bits, site_key(slots), slots, &token);
	return token != DEFINE_FIXED && hl_packed_kind(slots[1].word[0]) != HL_PACKED_TICK_BACK;
}

/* Compact records of known definitions and the ticks before them, as long as nothing else comes and
 * two more slots follow; at most `left` records, which it counts down. Returns how many slots. No
 * branch on what a varint's length is, on whether a size varies nor, if ticks are `many`, on whether
 * one comes: none could foretell it in a program of many threads. A site's key has an address of 0 and
 * kinds that are calls, so that everything else falls through the look-up. */
static inline __attribute__((always_inline)) size_t put_compact(struct encode_block *block,
	uint64_t *tick, const struct hl_packed *slots, size_t count, size_t *left, const bool many)
{
	const struct define_site *sites = block->definitions.sites;
	const uint32_t bits = block->definitions.site_bits;
	const size_t limit = *left;
	struct encode_column *column = block->column;
	struct encode_recent *recent = block->recent;
	uint8_t next = recent->count;
	struct encode_places to = {
		column[HL_COLUMN_SITE].data + column[HL_COLUMN_SITE].used,
		column[HL_COLUMN_SIZE].data + column[HL_COLUMN_SIZE].used,
		column[HL_COLUMN_ADDR].data + column[HL_COLUMN_ADDR].used,
		column[HL_COLUMN_OTHER].data + column[HL_COLUMN_OTHER].used,
	};
	uint64_t last = block->last_tick, current = *tick;
	size_t at = 0, records = 0;

	if (!many && current != last) {
		if (!takes_tick(sites, bits, slots, count, current - last))
			return 0;
		put_passed(&to, current - last);
		last = current;
	}
	while (at + 2 < count && records < limit) {
		bool timed = many && hl_packed_kind(slots[at].word[0]) == HL_PACKED_TICK;
		uint64_t when = timed ? slots[at].word[1] : current, passed = when - last;
		const struct hl_packed *slot = &slots[at + timed];
		uint64_t place = address_place(slot->word[0]), key = site_key(slot);
		uint64_t size = slot->word[1] >> HL_PACKED_ADDRESS_BITS;
		const struct define_site *site;
		unsigned token;

		if (hl_packed_kind(slot[1].word[0]) == HL_PACKED_TICK_BACK)
			break;
		if (many && passed >> PASSED_BITS)
			break;
		if (__builtin_expect(!place, 0)) {
			if (many)
				break;
			if (hl_packed_kind(slot->word[0]) == HL_PACKED_TICK) {
				when = slot->word[1];
				if (!takes_tick(sites, bits, slot + 1, count - at - 1, when - last))
					break;
				put_passed(&to, when - last);
				current = last = when;
				at++;
				continue;
			}
			site = find_token(sites, bits, key | DEFINE_KEY_NULL, slot, &token);
			if (slot->word[0] & HL_PACKED_ADDRESS_MASK || token == DEFINE_FIXED)
				break;
			put_token(&to, site, token, size);
			at++;
			records++;
			continue;
		}
		site = find_token(sites, bits, key, slot, &token);
		if (token == DEFINE_FIXED)
			break;
		if (many) {
			put_passed(&to, passed);
			current = last = when;
		}
		put_token(&to, site, token, size);
		at += 1u + timed;
		records++;

		uint64_t near = address_code(recent, next++, place);
		unsigned bytes = varint_bytes(near);
		uint64_t word = varint_word(near, bytes);
		memcpy(to.addr, &word, sizeof(word));
		to.addr += bytes;
	}
	column[HL_COLUMN_SITE].used = (uint32_t)(to.site - column[HL_COLUMN_SITE].data);
	column[HL_COLUMN_SIZE].used = (uint32_t)(to.size - column[HL_COLUMN_SIZE].data);
	column[HL_COLUMN_ADDR].used = (uint32_t)(to.addr - column[HL_COLUMN_ADDR].data);
	column[HL_COLUMN_OTHER].used = (uint32_t)(to.other - column[HL_COLUMN_OTHER].data);
	recent->count = next;
	block->last_tick = last;
	*tick = current;
	block->records += (uint32_t)records;
	*left -= records;
	return at;
}

/* Most threads have few ticks, and the loop that expects them takes a quarter longer. */
static size_t put_calls(struct encode_block *block, uint64_t *tick, const struct hl_packed *slots,
	size_t count, size_t *left)
{
	return block->many_ticks ? put_compact(block, tick, slots, count, left, true)
				 : put_compact(block, tick, slots, count, left, false);
}

static struct define_call unpack_call(const struct hl_packed *slot)
{
	uint64_t head = slot->word[0], tail = slot->word[1];
	struct define_call call = {
		.kind = hl_packed_kind(head), .addr = head & HL_PACKED_ADDRESS_MASK};

	if (hl_packed_extra(head) == HL_PACKED_WIDE) {
		call.caller = tail;
		call.size = slot[1].word[0];
		call.chunk = slot[1].word[1];
		call.alignment = slot[2].word[0];
		return call;
	}
	call.size = tail >> HL_PACKED_ADDRESS_BITS;
	call.caller = tail & HL_PACKED_ADDRESS_MASK;
	call.chunk = define_chunk(call.kind, call.addr, call.size);
	if (call.chunk)
		call.chunk += hl_packed_extra(head) * HL_PACKED_EXTRA_BYTES;
	return call;
}

/* Any record; how many slots it took, 0 if its tick goes back. */
static ptrdiff_t put_packed(
	struct encode_block *block, uint64_t *tick, const struct hl_packed *slot, size_t count)
{
	unsigned kind = hl_packed_kind(slot->word[0]), width = hl_packed_slots(slot->word[0]);

	if (!width || width > count)
		return -EINVAL;
	if (kind == HL_PACKED_TICK || kind == HL_PACKED_TICK_BACK) {
		*tick = slot->word[1];
	} else if (HL_KIND_IS_CALL(kind)) {
		bool back =
			width < count && hl_packed_kind(slot[width].word[0]) == HL_PACKED_TICK_BACK;
		uint64_t when = back ? slot[width].word[1] : *tick;
		if (goes_back(block, when))
			return 0;
		struct define_call call = unpack_call(slot);
		put_call(block, when, &call);
	} else {
		*tick = slot->word[1];
		if (goes_back(block, *tick))
			return 0;
		put_other_words(
			block, *tick, kind, slot->word[0] & HL_PACKED_ADDRESS_MASK, slot[1].word);
	}
	return (ptrdiff_t)width;
}

ptrdiff_t encode_append_packed(struct encode_block *block, uint64_t *tick,
	const struct hl_packed *slots, size_t count, uint32_t limit_bytes)
{
	size_t at = 0;
	ptrdiff_t width = 1;
	while (width && at < count && block->raw_bytes < limit_bytes) {
		uint32_t other = block->column[HL_COLUMN_OTHER].used;
		int rc = reserve_batch(block);
		if (rc)
			return rc;
		for (size_t left = BATCH_RECORDS; width && left && at < count;) {
			if (block->records) {
				at += put_calls(block, tick, slots + at, count - at, &left);
				if (!left)
					break;
			}
			width = put_packed(block, tick, slots + at, count - at);
			if (width < 0)
				return width;
			at += (size_t)width;
			left--;
		}
		block->many_ticks = block->column[HL_COLUMN_OTHER].used - other >= MANY_BYTES;
		block->raw_bytes = columns_bytes(block);
	}
	return (ptrdiff_t)at;
}

static void column_lengths(const struct encode_block *block, uint32_t *length)
{
	for (int i = 0; i < HL_COLUMN_LIMIT; i++)
		length[i] = block->column[i].used;
}

/* The payload as it is: the lengths of the columns, then the columns. */
static void lay_out(const struct encode_block *block, uint8_t *p)
{
	uint32_t length[HL_COLUMN_LIMIT];

	column_lengths(block, length);
	memcpy(p, length, sizeof(length));
	p += sizeof(length);
	for (int i = 0; i < HL_COLUMN_LIMIT; p += length[i++])
		if (length[i])
			memcpy(p, block->column[i].data, length[i]);
}

static bool set_zstd(ZSTD_cParameter parameter, int value)
{
	return !ZSTD_isError(ZSTD_CCtx_setParameter(scratch.zstd, parameter, value));
}

/* The same as one zstd frame; returns its bytes, 0 if it failed. Each column begins a zstd block,
 * so that it has an entropy table of its own: 6 % smaller for 0.5 ns an event. */
static size_t compress_columns(
	const struct encode_block *block, size_t raw_bytes, int level, uint8_t *to, size_t room)
{
	uint32_t length[HL_COLUMN_LIMIT];
	ZSTD_outBuffer out = {to, room, 0};
	ZSTD_inBuffer in = {length, sizeof(length), 0};
	size_t rest = 0;

	column_lengths(block, length);
	if (ZSTD_isError(ZSTD_CCtx_reset(scratch.zstd, ZSTD_reset_session_only)) ||
		!set_zstd(ZSTD_c_compressionLevel, level) ||
		!set_zstd(ZSTD_c_hashLog, ZSTD_HASH_LOG) ||
		!set_zstd(ZSTD_c_minMatch, ZSTD_LEAST_MATCH) ||
		ZSTD_isError(ZSTD_CCtx_setPledgedSrcSize(scratch.zstd, raw_bytes)) ||
		ZSTD_isError(ZSTD_compressStream2(scratch.zstd, &out, &in, ZSTD_e_continue)))
		return 0;
	for (int i = 0; i < HL_COLUMN_LIMIT; i++) {
		in = (ZSTD_inBuffer){block->column[i].data, length[i], 0};
		rest = ZSTD_compressStream2(scratch.zstd, &out, &in,
			i == HL_COLUMN_LIMIT - 1 ? ZSTD_e_end : ZSTD_e_flush);
		if (rest) /* an error, or no room: it would be larger than stored */
			return 0;
	}
	return out.pos;
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
	if (raw_bytes > HL_BLOCK_RAW_LIMIT)
		return -EFBIG;
	int rc = grow(&scratch.out, &scratch.out_capacity, sizeof(header) + raw_bytes);
	if (rc)
		return rc;
	if (level && !scratch.zstd && !(scratch.zstd = ZSTD_createCCtx()))
		return -ENOMEM;

	uint8_t *payload = scratch.out + sizeof(header);
	size_t stored = level ? compress_columns(block, raw_bytes, level, payload, raw_bytes) : 0;
	if (stored && stored < raw_bytes) {
		header.compression = HL_BLOCK_ZSTD;
	} else {
		lay_out(block, payload);
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
	define_reset(&block->definitions);
	if (block->recent)
		memset(block->recent, 0, sizeof(*block->recent));
	block->records = 0;
	block->raw_bytes = 0;
	block->first_tick = block->last_tick = 0;
	block->other_addr = block->other_caller = 0;
}

void encode_free(struct encode_block *block)
{
	for (int i = 0; i < HL_COLUMN_LIMIT; i++)
		free(block->column[i].data);
	define_free(&block->definitions);
	free(block->recent);
	memset(block, 0, sizeof(*block));
}

void encode_thread_end(void)
{
	ZSTD_freeCCtx(scratch.zstd);
	free(scratch.out);
	memset(&scratch, 0, sizeof(scratch));
}

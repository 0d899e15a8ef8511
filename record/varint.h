/* SPDX-License-Identifier: MIT
 *
 * Putting numbers into the columns of a block (docs/trace-format.md, "Payload"). Whoever puts has
 * made room before, VARINT_BYTES and VARINT_SLACK beyond what stays.
 */
#ifndef HEAPLEDGER_VARINT_H
#define HEAPLEDGER_VARINT_H

#include "heapledger/record.h"

#include <stdint.h>
#include <string.h>

#define VARINT_BYTES 9
#define VARINT_SLACK 8 /* written behind the last byte, and over again */

struct encode_column {
	uint8_t *data;
	uint32_t used;
	uint32_t capacity;
};

static inline uint64_t zigzag(uint64_t value)
{
	return value << 1 ^ (0 - (value >> 63));
}

/* The difference of two numbers of HL_ADDRESS_BITS, which wraps there, for zigzag. */
static inline uint64_t address_difference(uint64_t to, uint64_t from)
{
	const unsigned above = 64 - HL_ADDRESS_BITS;

	return (uint64_t)((int64_t)((to - from) << above) >> above);
}

/* Bytes of a value below 1 << 56: seven bits each. */
static inline unsigned varint_bytes(uint64_t value)
{
	return ((63 - (unsigned)__builtin_clzll(value | 1)) * 9 + 73) / 64;
}

/* The bytes of such a value, as one little-endian number. */
static inline uint64_t varint_word(uint64_t value, unsigned bytes)
{
	return (value << 1 | 1) << (bytes - 1);
}

static inline uint8_t *varint_put(uint8_t *p, uint64_t value)
{
	if (__builtin_expect(value >> 56 != 0, 0)) {
		*p++ = 0;
		memcpy(p, &value, sizeof(value));
		return p + sizeof(value);
	}
	unsigned bytes = varint_bytes(value);
	uint64_t word = varint_word(value, bytes);
	memcpy(p, &word, sizeof(word));
	return p + bytes;
}

static inline void put_varint(struct encode_column *column, uint64_t value)
{
	column->used = (uint32_t)(varint_put(column->data + column->used, value) - column->data);
}

static inline void put_byte(struct encode_column *column, unsigned value)
{
	column->data[column->used++] = (uint8_t)value;
}

/* Chunk bytes are 56 bits wide, so their distance to what was expected is too. */
static inline void put_chunk(struct encode_column *column, uint64_t expected, uint64_t chunk)
{
	uint64_t flags = chunk >> HL_ADDRESS_BITS;

	put_varint(column, zigzag(address_difference(chunk, expected)) << 1 | (flags != 0));
	if (flags)
		put_varint(column, flags);
}

#endif

/* SPDX-License-Identifier: MIT
 *
 * The definitions of one block: what calls have in common, so that a record needs only a token and
 * its address. Used by encode.c, which looks up call sites itself on its hot path.
 *
 * A site is a kind of call, its caller and its alignment. Each size (with its chunk) that a site is
 * seen with becomes a fixed definition, up to DEFINE_FIXED of them; from then on the site has one
 * whose size varies.
 */
#ifndef HEAPLEDGER_DEFINE_H
#define HEAPLEDGER_DEFINE_H

#include "heapledger/packed.h"
#include "heapledger/trace.h"
#include "varint.h"

#include <emmintrin.h>
#include <stdbool.h>
#include <stdint.h>

#define DEFINE_FIXED 8
#define DEFINE_KEY_NULL (UINT64_C(1) << 55) /* the calls without an address */

/* What a call leaves in a block, beside its tick. */
struct define_call {
	unsigned kind;
	uint64_t addr;
	uint64_t size;
	uint64_t chunk;
	uint64_t caller;
	uint64_t alignment;
};

/* `exact`, `code` and `mask` are for compact packed records: one whose size << 8 | extra, under
 * `mask`, is among `exact` has the token whose varint is in that place of `code`. */
struct define_site {
	uint64_t key; /* of define_key(), 0 = empty */
	uint32_t mask;
	uint8_t fixed;   /* definitions with a size so far */
	uint16_t varies; /* token of the definition whose size varies, 0 = none */
	uint32_t exact[DEFINE_FIXED];
	uint16_t code[DEFINE_FIXED];
};

struct define_fixed {
	uint64_t key;
	uint64_t size;
	uint64_t chunk;
};

/* All zero is an empty table. */
struct define_table {
	struct define_site *sites; /* open addressing */
	uint32_t site_bits;        /* there are 1 << site_bits */
	uint32_t site_count;
	struct define_fixed *fixed; /* by token - 1; those that vary have key 0 */
	uint16_t *index;            /* tokens by what they define, open addressing, 0 = empty */
	uint32_t index_bits;
	uint32_t count; /* definitions */
	uint64_t last_caller;
};

struct define_token {
	uint32_t number; /* 0 = none: spell the record out */
	bool varies;     /* put its size and chunk into SIZE */
};

/* Where to look for a site in a hash of 1 << bits: there, in the odd place behind it, and so on. */
static inline uint32_t define_hash(uint64_t key, uint32_t bits)
{
	return (uint32_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> (64 - bits)) & ~UINT32_C(1);
}

/* The place in `exact`, DEFINE_FIXED if it is none. */
static inline unsigned define_exact(const struct define_site *site, uint32_t exact)
{
	__m128i wanted = _mm_set1_epi32((int)(exact & site->mask));
	const __m128i *at = (const __m128i *)(const void *)site->exact;
	__m128i low = _mm_cmpeq_epi32(_mm_loadu_si128(at), wanted);
	__m128i high = _mm_cmpeq_epi32(_mm_loadu_si128(at + 1), wanted);
	__m128i both = _mm_packs_epi16(_mm_packs_epi32(low, high), _mm_setzero_si128());

	return (unsigned)__builtin_ctz(
		(unsigned)_mm_movemask_epi8(both) | UINT32_C(1) << DEFINE_FIXED);
}

/* The chunk that goes without saying. */
static inline uint64_t define_chunk(unsigned kind, uint64_t addr, uint64_t size)
{
	return addr && HL_KIND_ALLOCATES(kind) ? hl_packed_chunk(size) & HL_ADDRESS_MASK : 0;
}

/* Makes the tables if there are none yet: 0 or -ENOMEM. */
int define_ready(struct define_table *table);

/* The token for a call; puts its definition into `column` when it is new. Room for
 * DEFINE_COLUMN_BYTES must be there. */
struct define_token define_find(
	struct define_table *table, struct encode_column *column, const struct define_call *call);
#define DEFINE_COLUMN_BYTES (1 + 5 * VARINT_BYTES)

void define_reset(struct define_table *table);
void define_free(struct define_table *table);

#endif

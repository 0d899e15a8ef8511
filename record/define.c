/* SPDX-License-Identifier: MIT
 *
 * Two hashes of one block: call sites by key, fixed definitions by key, size and chunk. Both start
 * small, for the many threads that make few calls. The sites are never more than a quarter of their
 * hash: those in the first two places for them are found without a branch.
 */
#include "define.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SITE_BITS_FIRST 6
#define INDEX_BITS_FIRST 6
#define KEY_ALIGNMENT_SHIFT 48
#define NO_EXACT 0xff /* all bytes of it: compact records stay below 1 << 24 */
#define SIZE_LIMIT (UINT64_C(1) << 54)

static_assert(sizeof(struct define_site) == 64, "a site takes one line");

/* The ranges in trace.h are those of calls.def. */
#define IS_ALLOC 1
#define IS_REALLOC 1
#define IS_ALIGNED 2
#define IS_FREE 0
#define IS_CONTROL 0
#define HL_CALL(number, name, shape)                                                               \
	static_assert(HL_KIND_ALLOCATES(number) + HL_KIND_ALIGNED(number) == IS_##shape, #name);
#include "heapledger/calls.def"

/* What must be equal for two calls to be of one site; 0 if the call must be spelled out. Equal to
 * kind and caller of a compact packed record if there is an address and no alignment. */
static uint64_t define_key(const struct define_call *call)
{
	uint64_t alignment = 0;

	if (call->addr % 16 || (!call->addr && call->chunk))
		return 0;
	if (call->caller > HL_PACKED_ADDRESS_MASK)
		return 0;
	if (call->alignment) {
		if (!HL_KIND_ALIGNED(call->kind) || call->alignment & (call->alignment - 1))
			return 0;
		alignment = (uint64_t)__builtin_ctzll(call->alignment) + 1;
	}
	return (uint64_t)call->kind << HL_ADDRESS_BITS | (call->addr ? 0 : DEFINE_KEY_NULL) |
	       alignment << KEY_ALIGNMENT_SHIFT | call->caller;
}

static struct define_site *site_place(struct define_site *sites, uint32_t bits, uint64_t key)
{
	uint32_t mask = (UINT32_C(1) << bits) - 1;
	uint32_t at = define_hash(key, bits);

	while (sites[at].key && sites[at].key != key)
		at = (at + 1) & mask;
	return &sites[at];
}

static int sites_grow(struct define_table *table)
{
	uint32_t bits = table->sites ? table->site_bits + 1 : SITE_BITS_FIRST;
	struct define_site *sites = calloc((size_t)1 << bits, sizeof(*sites));

	if (!sites)
		return -ENOMEM;
	for (uint32_t i = 0; table->sites && i < UINT32_C(1) << table->site_bits; i++)
		if (table->sites[i].key)
			*site_place(sites, bits, table->sites[i].key) = table->sites[i];
	free(table->sites);
	table->sites = sites;
	table->site_bits = bits;
	return 0;
}

static uint32_t index_hash(const struct define_fixed *fixed, uint32_t bits)
{
	uint64_t mixed = fixed->size * UINT64_C(0xff51afd7ed558ccd) + fixed->chunk;

	return define_hash(fixed->key ^ (mixed << 20 | mixed >> 44), bits);
}

static uint16_t *index_place(const struct define_table *table, const struct define_fixed *wanted)
{
	uint32_t mask = (UINT32_C(1) << table->index_bits) - 1;
	uint32_t at = index_hash(wanted, table->index_bits);

	for (; table->index[at]; at = (at + 1) & mask) {
		const struct define_fixed *fixed = &table->fixed[table->index[at] - 1];
		if (fixed->key == wanted->key && fixed->size == wanted->size &&
			fixed->chunk == wanted->chunk)
			break;
	}
	return &table->index[at];
}

static int index_grow(struct define_table *table)
{
	uint32_t bits = table->index ? table->index_bits + 1 : INDEX_BITS_FIRST;
	size_t size = (size_t)1 << bits;
	uint16_t *index = calloc(size, sizeof(*index));
	struct define_fixed *fixed = realloc(table->fixed, size / 2 * sizeof(*fixed));

	if (fixed)
		table->fixed = fixed;
	if (!index || !fixed) {
		free(index);
		return -ENOMEM;
	}
	free(table->index);
	table->index = index;
	table->index_bits = bits;
	for (uint32_t i = 0; i < table->count; i++)
		if (fixed[i].key)
			*index_place(table, &fixed[i]) = (uint16_t)(i + 1);
	return 0;
}

int define_ready(struct define_table *table)
{
	int rc = table->sites ? 0 : sites_grow(table);

	return rc || table->index ? rc : index_grow(table);
}

static struct define_site *site_find(struct define_table *table, uint64_t key)
{
	struct define_site *site = site_place(table->sites, table->site_bits, key);

	if (site->key)
		return site;
	if (table->count >= HL_BLOCK_DEFINITIONS)
		return NULL;
	if (table->site_count >= UINT32_C(1) << (table->site_bits - 2)) {
		if (sites_grow(table))
			return NULL;
		site = site_place(table->sites, table->site_bits, key);
	}
	table->site_count++;
	*site = (struct define_site){.key = key, .mask = UINT32_MAX};
	memset(site->exact, NO_EXACT, sizeof(site->exact));
	return site;
}

static void put_definition(struct define_table *table, struct encode_column *column,
	const struct define_call *call, bool varies)
{
	unsigned flags = (varies ? HL_DEFINE_VARIES : 0) | (call->addr ? 0 : HL_DEFINE_NULL);

	put_byte(column, call->kind | flags);
	if (!varies) {
		put_varint(column, call->size);
		if (call->addr)
			put_chunk(column, define_chunk(call->kind, call->addr, call->size),
				call->chunk);
	}
	put_varint(column, zigzag(call->caller - table->last_caller));
	if (HL_KIND_ALIGNED(call->kind))
		put_varint(column, call->alignment);
	table->last_caller = call->caller;
}

/* The next number; 0 if the block can have no more. */
static uint32_t define(struct define_table *table, struct encode_column *column,
	const struct define_call *call, const struct define_fixed *fixed)
{
	if (table->count >= HL_BLOCK_DEFINITIONS)
		return 0;
	if (table->count >= UINT32_C(1) << (table->index_bits - 1) && index_grow(table))
		return 0;
	put_definition(table, column, call, !fixed);
	table->fixed[table->count++] = fixed ? *fixed : (struct define_fixed){0};
	if (fixed)
		*index_place(table, fixed) = (uint16_t)table->count;
	return table->count;
}

/* Leaves the token where encode.c finds it for the next compact record of this kind. */
static void remember(struct define_site *site, const struct define_call *call, uint32_t token)
{
	uint64_t beyond = call->chunk - define_chunk(call->kind, call->addr, call->size);
	uint64_t extra = beyond / HL_PACKED_EXTRA_BYTES;
	uint32_t exact = (uint32_t)(call->size << 8 | extra);
	unsigned at = 0;

	if (site->varies) {
		memset(site->exact, NO_EXACT, sizeof(site->exact));
		site->mask = 0xff;
		exact = 0;
	} else if (call->size < HL_PACKED_SIZE_LIMIT && beyond % HL_PACKED_EXTRA_BYTES == 0 &&
		   extra < (HL_KIND_ALLOCATES(call->kind) ? HL_PACKED_WIDE : 1)) {
		while (site->exact[at] != exact && site->exact[at] != UINT32_MAX)
			at++;
	} else {
		return;
	}
	site->exact[at] = exact;
	site->code[at] = (uint16_t)varint_word(token, varint_bytes(token));
}

struct define_token define_find(
	struct define_table *table, struct encode_column *column, const struct define_call *call)
{
	const struct define_token none = {0};
	struct define_fixed wanted = {define_key(call), call->size, call->chunk};
	struct define_site *site = wanted.key ? site_find(table, wanted.key) : NULL;
	uint32_t token;

	if (!site)
		return none;
	if (!site->varies) {
		token = *index_place(table, &wanted);
		if (!token && site->fixed < DEFINE_FIXED) {
			token = define(table, column, call, &wanted);
			site->fixed += token != 0;
		}
		if (token) {
			remember(site, call, token);
			return (struct define_token){token, false};
		}
		site->varies = (uint16_t)define(table, column, call, NULL);
		if (site->varies)
			remember(site, call, site->varies);
	}
	if (!site->varies || call->size >= SIZE_LIMIT)
		return none;
	return (struct define_token){site->varies, true};
}

void define_reset(struct define_table *table)
{
	if (table->sites)
		memset(table->sites, 0, sizeof(*table->sites) << table->site_bits);
	if (table->index)
		memset(table->index, 0, sizeof(*table->index) << table->index_bits);
	table->site_count = table->count = 0;
	table->last_caller = 0;
}

void define_free(struct define_table *table)
{
	free(table->sites);
	free(table->fixed);
	free(table->index);
	memset(table, 0, sizeof(*table));
}

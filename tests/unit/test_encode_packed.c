/* SPDX-License-Identifier: MIT
 *
 * The encoder's batches against itself without any: packed records given many at a time, so that
 * the hot path takes what it can, and one at a time, so that it never does, must make the same
 * block.
 */
#include "encode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SLOTS 4096
#define RUNS 200
#define BLOCK_BYTES (UINT32_C(1) << 20)

struct made {
	struct hl_packed slot[SLOTS + 8];
	size_t count;
	uint64_t tick;
	uint64_t seed;
};

static uint64_t next(struct made *made)
{
	made->seed ^= made->seed << 13;
	made->seed ^= made->seed >> 7;
	made->seed ^= made->seed << 17;
	return made->seed;
}

static void put(struct made *made, uint64_t head, uint64_t tail)
{
	made->slot[made->count++] = (struct hl_packed){{head, tail}};
}

static void put_compact(struct made *made, unsigned kind, uint64_t addr)
{
	uint64_t r = next(made);
	/* Half of the sites have five sizes. */
	uint64_t size = r & 1 ? 48 : r >> 8 & (r >> 35 & 1 ? 3 : 1023);
	if (kind == HL_KIND_free)
		size = 0;
	unsigned extra = kind != HL_KIND_free && (r >> 20 & 31) == 0 ? r >> 25 & 3 : 0;

	put(made, hl_packed_head(kind, extra, addr),
		size << HL_PACKED_ADDRESS_BITS | (0x401000 + (r >> 32 & 15)));
}

static void put_wide(struct made *made, uint64_t addr)
{
	put(made, hl_packed_head(HL_KIND_memalign, HL_PACKED_WIDE, addr), 0x402000);
	put(made, 100000 + (next(made) & 4095), 108000);
	put(made, 64, 0);
}

static void put_syscall(struct made *made)
{
	put(made, hl_packed_head(HL_KIND_brk, 0, 0), made->tick += 5);
	for (int i = 0; i < 5; i++)
		put(made, next(made) & 0xffff, next(made) & 0xffff);
}

/* What a thread's page holds: calls, ticks before half of them or a few, and now and then anything
 * else. */
static void make(struct made *made, uint64_t seed)
{
	uint64_t untimed = seed % 2 ? 1 : 31;

	*made = (struct made){.tick = 1000, .seed = seed};
	while (made->count < SLOTS) {
		uint64_t r = next(made);
		uint64_t addr = UINT64_C(0x7f0000001000) + (r >> 40 & 255) * 32;

		/* Also none at all, two in turn and a very long time. */
		if ((r & 1) && (r >> 52 & untimed) <= 1)
			put(made, hl_packed_head(HL_PACKED_TICK, 0, 0),
				made->tick += (r >> 1 & 255) ? r >> 9 & 4095 : r >> 9);
		if ((r >> 33 & 63) == 0)
			put_wide(made, addr);
		else if ((r >> 33 & 63) == 1)
			put_syscall(made);
		else
			put_compact(made, r & 2 ? HL_KIND_malloc : HL_KIND_free,
				(r >> 50 & 127) == 0 ? 0 : addr + ((r >> 50 & 127) == 1) * 8);
		if ((r >> 57 & 31) == 0)
			put(made, hl_packed_head(HL_PACKED_TICK_BACK, 0, 0), made->tick += 7);
	}
}

/* At most `most` slots at a time, whole records; how many were taken. */
static size_t encode(struct encode_block *block, const struct made *made, size_t most)
{
	uint64_t tick = 1000;
	size_t at = 0;

	while (at < made->count) {
		size_t count = 0;
		do {
			count += hl_packed_slots(made->slot[at + count].word[0]);
		} while (at + count < made->count &&
			 (count < most || hl_packed_kind(made->slot[at + count].word[0]) ==
						  HL_PACKED_TICK_BACK));
		ptrdiff_t taken =
			encode_append_packed(block, &tick, made->slot + at, count, BLOCK_BYTES);
		assert_true(taken >= 0);
		if (taken == 0)
			break;
		at += (size_t)taken;
	}
	return at;
}

static void test_batches_change_nothing(void **state)
{
	static struct made made;
	uint64_t batched = 0;
	(void)state;

	for (uint64_t run = 1; run <= RUNS; run++) {
		struct encode_block many = {0}, single = {0};
		const void *bytes;
		size_t length, single_length;

		make(&made, run * UINT64_C(88172645463325252));
		size_t taken = encode(&many, &made, SLOTS);
		assert_int_equal(encode(&single, &made, 1), taken);
		assert_int_equal(many.records, single.records);
		assert_true(many.last_tick == single.last_tick);

		assert_int_equal(encode_finish(&single, 1, 0, 0, &bytes, &single_length), 0);
		uint8_t *expected = malloc(single_length);
		assert_non_null(expected);
		memcpy(expected, bytes, single_length);
		assert_int_equal(encode_finish(&many, 1, 0, 0, &bytes, &length), 0);
		assert_int_equal(length, single_length);
		assert_memory_equal(bytes, expected, length);
		batched += many.records;
		free(expected);
		encode_free(&many);
		encode_free(&single);
	}
	assert_true(batched > RUNS * SLOTS / 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_batches_change_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: MIT
 *
 * Sequences of random calls over the whole interface, the same for the same seed under every
 * allocator. Prints what the manual promises of each call and never an address, so that two
 * allocators that keep the promises print the same. test_differential.py compares.
 *
 *	victim_differential FIRST COUNT         a hash for each seed
 *	victim_differential FIRST COUNT SEED    and each call of that one
 *
 * Seeds of one process share its heap and its mallopt settings, so FIRST belongs to a replay. Every
 * sixth sequence runs in a thread of its own and leaves its blocks to the main thread.
 */
#include "victim.h"

#include <errno.h>
#include <gnu/libc-version.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define SLOTS 24
#define CALLS_MIN 10
#define CALLS_SPREAD 50
#define WHOLE_BYTES ((size_t)160 << 10) /* filled and compared in full up to here */
#define EDGE_BYTES ((size_t)4096)       /* beyond, at both ends and */
#define STRIDE_BYTES ((size_t)20479)    /* here and there between */
#define SPARSE_BYTES ((size_t)2 << 20)  /* but not between beyond this */

struct slot {
	unsigned char *block;
	size_t size;
	unsigned char salt;
};

static struct slot slots[SLOTS];
static uint64_t chance_state;
static uint64_t seed_hash;
static unsigned call_number;
static bool verbose;
static size_t page_bytes;
static FILE *nowhere;
static bool refuses_odd_alignment;

static uint64_t chance64(void)
{
	uint64_t mixed = chance_state += 0x9e3779b97f4a7c15;

	mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
	mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
	return mixed ^ mixed >> 31;
}

static size_t chance(size_t below)
{
	return (size_t)(chance64() % below);
}

/* One line for a call: hashed, and printed if somebody wants to see it. */
static __attribute__((format(printf, 1, 2))) void say(const char *format, ...)
{
	char line[256];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	for (int i = 0; i < length; i++)
		seed_hash = (seed_hash ^ (unsigned char)line[i]) * 0x100000001b3;
	if (verbose)
		printf("%u %s\n", call_number, line);
}

/* Sizes: small ones most, the edges of every limit, and what no machine has. Between 256 MiB and
 * 128 TiB success depends on the machine, so nothing is asked for there. */

static size_t near(size_t value)
{
	return value + chance(81) - 40;
}

/* The larger the rarer: MiB. 32 is where glibc's dynamic threshold ends. */
static size_t chance_limit(void)
{
	size_t kind = chance(64);

	return kind == 0 ? 256 : kind < 8 ? 36 : kind < 24 ? 4 : 1;
}

static size_t chance_size(void)
{
	static const size_t edges[] = {64, 128, 160, 1032, 1024, 4096, 32768, 65536, 131072, 131072,
		262144, (size_t)1 << 20, (size_t)4 << 20};
	static const size_t refused[] = {(size_t)1 << 47, (size_t)1 << 62, PTRDIFF_MAX - 4096,
		PTRDIFF_MAX, PTRDIFF_MAX, SIZE_MAX - 4096, SIZE_MAX - 40};

	size_t kind = chance(32);

	if (kind == 0)
		return 0;
	if (kind < 13)
		return chance(200);
	if (kind < 18)
		return chance(2000);
	if (kind < 21)
		return chance(40000);
	if (kind < 25)
		return near(edges[chance(sizeof(edges) / sizeof(edges[0]))]);
	if (kind < 27)
		return chance(200000);
	if (kind < 28)
		return chance(chance_limit() << 20);
	return near(refused[chance(sizeof(refused) / sizeof(refused[0]))]);
}

/* Good and bad. Together with a size they stay below SIZE_MAX: glibc 2.36 does not check that sum
 * and damages its heap (CVE-2026-0861). */
static size_t chance_alignment(size_t size)
{
	size_t alignment;

	switch (chance(12)) {
	case 0:
		alignment = chance(200);
		break;
	case 1:
		alignment = (size_t)1 << chance(64);
		break;
	case 2:
		alignment = ((size_t)1 << chance(20)) + chance(64);
		break;
	case 3:
		alignment = 3 * sizeof(void *) << chance(8);
		break;
	case 4:
		alignment = chance(4) == 0 ? SIZE_MAX - chance(100) : 4096;
		break;
	default:
		alignment = (size_t)8 << chance(14);
	}
	/* Where 1 GiB and more must be found, it depends on the machine again. */
	if (alignment > (size_t)256 << 20 && alignment < (size_t)1 << 48)
		alignment >>= 20;
	if (size > PTRDIFF_MAX / 2 && alignment > (size_t)1 << 40)
		alignment = 64;
	return alignment;
}

/* Errors that were there before the call. */
static int chance_errno(void)
{
	static const int before[] = {0, EINTR, ENOMEM, EINVAL, 4095};

	return before[chance(sizeof(before) / sizeof(before[0]))];
}

/* After success errno is whatever: the manual promises it for failures and for free only. */
static int errno_of(bool failed)
{
	return failed ? errno : -1;
}

/* Contents: random bytes from a place that is the slot's own. Of a large block only some count:
 * both ends, and one here and there between. */

static unsigned char pattern[WHOLE_BYTES + UINT8_MAX];
static const unsigned char zeros[WHOLE_BYTES];

static size_t head_bytes(size_t size)
{
	return size <= WHOLE_BYTES ? size : EDGE_BYTES;
}

static size_t between_end(size_t size)
{
	size_t end = size <= WHOLE_BYTES ? 0 : size - EDGE_BYTES;

	return end < SPARSE_BYTES ? end : SPARSE_BYTES;
}

static void fill(struct slot *slot, size_t size)
{
	const unsigned char *source = pattern + (slot->salt = (unsigned char)chance64());

	memcpy(slot->block, source, head_bytes(size));
	for (size_t at = EDGE_BYTES; at < between_end(size); at += STRIDE_BYTES)
		slot->block[at] = source[0];
	if (size > WHOLE_BYTES)
		memcpy(slot->block + size - EDGE_BYTES, source, EDGE_BYTES);
}

/* Whether the first `kept` bytes are still there of a block of slot->size. */
static bool holds(const struct slot *slot, const unsigned char *source, size_t kept)
{
	size_t head = head_bytes(slot->size), tail = slot->size - EDGE_BYTES;

	if (memcmp(slot->block, source, kept < head ? kept : head) != 0)
		return false;
	for (size_t at = EDGE_BYTES; at < between_end(slot->size) && at < kept; at += STRIDE_BYTES)
		if (slot->block[at] != source[0])
			return false;
	return slot->size <= WHOLE_BYTES || kept <= tail ||
	       memcmp(slot->block + tail, source, kept - tail) == 0;
}

static const char *compare(const struct slot *slot, size_t kept)
{
	return holds(slot, pattern + slot->salt, kept) ? "kept" : "LOST";
}

static const char *zeroed(const struct slot *slot)
{
	return holds(slot, zeros, slot->size) ? "zero" : "NOT ZERO";
}

static bool is_aligned(const void *block, size_t alignment)
{
	return ((uintptr_t)block & (alignment - 1)) == 0;
}

static bool is_large_enough(void *block, size_t size)
{
	return malloc_usable_size(block) >= size;
}

/* What every new block is asked; then it is filled. Small ones up to what they may hold. */
static void take(struct slot *slot, void *block, size_t size, size_t alignment)
{
	size_t usable;

	slot->block = block;
	slot->size = size;
	say("  block: aligned %d, large enough %d", is_aligned(block, alignment),
		is_large_enough(block, size));
	usable = malloc_usable_size(block);
	fill(slot, chance(4) == 0 && usable <= WHOLE_BYTES ? usable : size);
}

static void drop(struct slot *slot)
{
	int before = chance_errno();

	if (slot->block == NULL)
		return;
	say("free(%zu bytes): %s", slot->size, compare(slot, slot->size));
	errno = before;
	free(slot->block);
	say("  errno kept %d", errno == before);
	slot->block = NULL;
}

static size_t round_up(size_t alignment)
{
	size_t power = 16;

	while (power < alignment)
		power *= 2;
	return power;
}

/* One function for each entry point. The slot is empty. */

static void call_malloc(struct slot *slot)
{
	size_t size = chance_size();
	void *block;

	errno = chance_errno();
	block = opaque(malloc(size));
	say("malloc(%zu): %d errno %d", size, block != NULL, errno_of(block == NULL));
	if (block != NULL)
		take(slot, block, size, 16);
}

static void call_calloc(struct slot *slot)
{
	static const size_t counts[] = {0, 1, 1, 1, 2, 3, 7, 64, (size_t)1 << 32, SIZE_MAX};
	size_t count = counts[chance(sizeof(counts) / sizeof(counts[0]))];
	size_t size = chance_size();
	void *block;

	/* Products that succeed stay small enough to be asked for anywhere. */
	if (count > 3 && size > 100000 && size < (size_t)1 << 40)
		size %= 100000;
	if (count == (size_t)1 << 32 && size < (size_t)1 << 16)
		size |= (size_t)1 << 16;
	errno = chance_errno();
	block = opaque(calloc(count, size));
	say("calloc(%zu, %zu): %d errno %d", count, size, block != NULL, errno_of(block == NULL));
	if (block == NULL)
		return;
	slot->block = block;
	slot->size = count * size;
	say("  block: %s", zeroed(slot));
	take(slot, block, count * size, 16);
}

static void call_aligned_alloc(struct slot *slot)
{
	size_t size = chance_size();
	size_t alignment = chance_alignment(size);
	void *block;

	if (refuses_odd_alignment) /* changed in 2.38; the heap models 2.36 */
		alignment = round_up(alignment & (((size_t)1 << 40) - 1));
	errno = chance_errno();
	block = opaque(aligned_alloc(alignment, size));
	say("aligned_alloc(%zu, %zu): %d errno %d", alignment, size, block != NULL,
		errno_of(block == NULL));
	if (block != NULL)
		take(slot, block, size, round_up(alignment));
}

static void call_memalign(struct slot *slot)
{
	size_t size = chance_size();
	size_t alignment = chance_alignment(size);
	void *block;

	errno = chance_errno();
	block = opaque(memalign(alignment, size));
	say("memalign(%zu, %zu): %d errno %d", alignment, size, block != NULL,
		errno_of(block == NULL));
	if (block != NULL)
		take(slot, block, size, round_up(alignment));
}

static void call_posix_memalign(struct slot *slot)
{
	size_t size = chance_size();
	size_t alignment = chance_alignment(size);
	void *mark = &mark, *block = mark;
	int before = chance_errno(), result;

	errno = before;
	result = posix_memalign(&block, alignment, size);
	say("posix_memalign(%zu, %zu): %d, pointer untouched %d", alignment, size, result,
		block == mark);
	if (result == 0)
		take(slot, block, size, round_up(alignment));
}

static void call_valloc(struct slot *slot)
{
	size_t size = chance_size();
	void *block;

	errno = chance_errno();
	block = opaque(valloc(size));
	say("valloc(%zu): %d errno %d", size, block != NULL, errno_of(block == NULL));
	if (block != NULL)
		take(slot, block, size, page_bytes);
}

static void call_pvalloc(struct slot *slot)
{
	size_t size = chance_size();
	size_t rounded = (size + page_bytes - 1) & ~(page_bytes - 1);
	void *block;

	errno = chance_errno();
	block = opaque(pvalloc(size));
	say("pvalloc(%zu): %d errno %d", size, block != NULL, errno_of(block == NULL));
	if (block != NULL)
		take(slot, block, rounded, page_bytes);
}

static void call_realloc_null(struct slot *slot)
{
	size_t size = chance_size();
	void *block;

	errno = chance_errno();
	block = opaque(realloc(NULL, size));
	say("realloc(NULL, %zu): %d errno %d", size, block != NULL, errno_of(block == NULL));
	if (block != NULL)
		take(slot, block, size, 16);
}

/* The slot is taken. */

/* Both ways over the threshold, by a little, to another size, to none, to what is refused. */
static size_t chance_new_size(size_t old)
{
	switch (chance(9)) {
	case 0:
		return near(131072);
	case 5:
		return old < 131072 ? 131072 + chance(300000) : chance(131072);
	case 1:
		return old + chance(old / 2 + 64);
	case 2:
		return old / (1 + chance(4));
	case 3:
		return old + chance(65) - (old > 32 ? 32 : 0);
	case 4:
		return old < (size_t)16 << 20 ? old * 2 : old / 2;
	default:
		return chance_size();
	}
}

static void resized(struct slot *slot, void *block, size_t size, bool refused)
{
	size_t old = slot->size;

	if (block == NULL && !refused) { /* size 0: freed */
		slot->block = NULL;
		return;
	}
	if (block == NULL) {
		say("  old block: %s", compare(slot, old));
		return;
	}
	slot->block = block;
	say("  block: %s", compare(slot, old < size ? old : size));
	take(slot, block, size, 16);
}

static void call_realloc(struct slot *slot)
{
	size_t size = chance_new_size(slot->size);
	void *block;

	errno = chance_errno();
	block = opaque(realloc(slot->block, size));
	say("realloc(%zu bytes, %zu): %d errno %d", slot->size, size, block != NULL,
		errno_of(block == NULL && size != 0));
	resized(slot, block, size, size != 0);
}

static void call_reallocarray(struct slot *slot)
{
	static const size_t counts[] = {0, 1, 1, 1, 2, 3, (size_t)1 << 33, SIZE_MAX / 2};
	size_t count = counts[chance(sizeof(counts) / sizeof(counts[0]))];
	size_t size = chance_new_size(slot->size);
	bool overflows, refused;
	size_t total;
	void *block;

	if (count > 3 && size < (size_t)1 << 20 && size != 0)
		size += (size_t)1 << 20;
	overflows = __builtin_mul_overflow(count, size, &total);
	refused = overflows || total != 0;
	errno = chance_errno();
	block = opaque(reallocarray(slot->block, count, size));
	say("reallocarray(%zu bytes, %zu, %zu): %d errno %d", slot->size, count, size,
		block != NULL, errno_of(block == NULL && refused));
	resized(slot, block, total, refused);
}

static void call_usable(struct slot *slot)
{
	int before = chance_errno();

	errno = before;
	say("malloc_usable_size: %d, of NULL %zu, errno kept %d",
		is_large_enough(slot->block, slot->size), malloc_usable_size(NULL),
		errno == before);
}

/* Any time. */

/* Whether there was something to give back is the heap's affair. */
static void call_trim(void)
{
	static const size_t pads[] = {0, 1, 4096, 100000, (size_t)1 << 20, PTRDIFF_MAX};
	size_t pad = pads[chance(sizeof(pads) / sizeof(pads[0]))];
	int result = malloc_trim(pad);

	say("malloc_trim(%zu): 0 or 1: %d", pad, result == 0 || result == 1);
}

struct option {
	const char *name;
	int parameter;
	int values[5];
};

/* Values that leave the program room: M_PERTURB only for sizes one can afford to fill, and no
 * M_TOP_PAD beyond what is there to be had. */
static const struct option options[] = {
	{"M_MXFAST", M_MXFAST, {0, 64, 160, 161, -1}},
	{"M_TRIM_THRESHOLD", M_TRIM_THRESHOLD, {0, 65536, 131072, 1 << 25, -1}},
	{"M_TOP_PAD", M_TOP_PAD, {0, 1, 4096, 131072, 1 << 20}},
	{"M_MMAP_THRESHOLD", M_MMAP_THRESHOLD, {4096, 131072, 1 << 20, 1 << 25, (1 << 25) + 1}},
	{"M_MMAP_THRESHOLD", M_MMAP_THRESHOLD, {131072, 131072, 131072, 0x7fffffff, -1}},
	{"M_MMAP_MAX", M_MMAP_MAX, {0, 1, 65536, 65536, 65536}},
	{"M_CHECK_ACTION", M_CHECK_ACTION, {0, 1, 3, 5, 0}},
	{"M_PERTURB", M_PERTURB, {0, 0, 0x55, 0, 255}},
	{"M_ARENA_TEST", M_ARENA_TEST, {1, 2, 8, 100, 8}},
	{"M_ARENA_MAX", M_ARENA_MAX, {1, 2, 8, 100, 8}},
	{"unknown", 12345, {0, 1, -1, 7, 8}},
	{"unknown", -77, {0, 1, -1, 7, 8}},
	{"unknown", 0, {0, 1, -1, 7, 8}},
};

static void call_mallopt(void)
{
	const struct option *option = &options[chance(sizeof(options) / sizeof(options[0]))];
	int value = option->values[chance(5)];

	say("mallopt(%s %d, %d): %d", option->name, option->parameter, value,
		mallopt(option->parameter, value));
}

static size_t held_bytes(void)
{
	size_t total = 0;

	for (size_t i = 0; i < SLOTS; i++)
		total += slots[i].block != NULL ? slots[i].size : 0;
	return total;
}

static void call_mallinfo(void)
{
	struct mallinfo2 info = mallinfo2();

	say("mallinfo2: used and free are all %d, blocks fit %d, mapped %d, top %d",
		info.uordblks + info.fordblks == info.arena,
		info.uordblks + info.hblkhd >= held_bytes(),
		(info.hblks == 0) == (info.hblkhd == 0), info.keepcost <= info.fordblks);
}

static void call_info(void)
{
	say("malloc_info: of 1 %d, of -1 %d, of 0 %d", malloc_info(1, nowhere),
		malloc_info(-1, nowhere), malloc_info(0, nowhere));
}

static void call_free_null(void)
{
	int before = chance_errno();

	errno = before;
	free(NULL);
	say("free(NULL): errno kept %d", errno == before);
}

static void call_for_nothing(void)
{
	size_t kind = chance(8);

	if (kind == 0)
		call_trim();
	else if (kind < 4)
		call_mallopt();
	else if (kind < 6)
		call_mallinfo();
	else if (kind < 7)
		call_info();
	else
		call_free_null();
}

static void (*const makers[])(struct slot *) = {call_malloc, call_malloc, call_malloc, call_calloc,
	call_calloc, call_realloc_null, call_aligned_alloc, call_memalign, call_posix_memalign,
	call_valloc, call_pvalloc};

static void (*const users[])(struct slot *) = {
	drop, drop, drop, drop, drop, call_realloc, call_realloc, call_reallocarray, call_usable};

static void *sequence(void *unused)
{
	size_t calls = CALLS_MIN + chance(CALLS_SPREAD);

	for (size_t i = 0; i < calls; i++) {
		struct slot *slot = &slots[chance(SLOTS)];

		call_number++;
		if (chance(16) == 0)
			call_for_nothing();
		else if (slot->block == NULL)
			makers[chance(sizeof(makers) / sizeof(makers[0]))](slot);
		else
			users[chance(sizeof(users) / sizeof(users[0]))](slot);
	}
	return unused;
}

static void run(uint64_t seed)
{
	pthread_t thread;

	chance_state = seed * 0x2545f4914f6cdd1d;
	seed_hash = 0xcbf29ce484222325;
	call_number = 0;
	if (seed % 6 == 5) {
		REQUIRE(pthread_create(&thread, NULL, sequence, NULL) == 0);
		REQUIRE(pthread_join(thread, NULL) == 0);
	} else {
		sequence(NULL);
	}
	for (size_t i = 0; i < SLOTS; i++)
		drop(&slots[i]);
	mallopt(M_PERTURB, 0);
	printf("seed %llu: %u calls, %016llx\n", (unsigned long long)seed, call_number,
		(unsigned long long)seed_hash);
}

int main(int argc, char **argv)
{
	uint64_t first, count, wanted;

	if (argc < 3) {
		fprintf(stderr, "usage: victim_differential FIRST COUNT [SEED]\n");
		return 2;
	}
	first = strtoull(argv[1], NULL, 10);
	count = strtoull(argv[2], NULL, 10);
	wanted = argc > 3 ? strtoull(argv[3], NULL, 10) : UINT64_MAX;
	page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	for (size_t at = 0; at < sizeof(pattern); at++)
		pattern[at] = (unsigned char)chance64();
	refuses_odd_alignment = strverscmp(gnu_get_libc_version(), "2.38") >= 0;
	setlinebuf(stdout); /* a crash must not take lines along */
	nowhere = fopen("/dev/null", "w");
	REQUIRE(nowhere != NULL);
	for (uint64_t seed = first; seed < first + count; seed++) {
		verbose = seed == wanted;
		run(seed);
	}
	fclose(nowhere);
	return 0;
}

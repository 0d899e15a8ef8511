/* SPDX-License-Identifier: MIT
 *
 * One misuse of the heap at a time, for test_hostile.py, which runs it on libc's allocator and on
 * ours and compares:
 *
 *     misuse NAME          says where it will happen, commits it, and says "unnoticed" if it can
 *     misuse NAME thread   the same in a second thread, whose arena is another
 *     misuse NAME [thread] late
 *                          goes on afterwards, until a fault that is found late has been found
 *     misuse               lists the names
 *
 * The line before the fault: "block ADDRESS caller FIRST LAST", FIRST and LAST around the code that
 * calls the allocator with the bad block.
 */
#include "victim.h"

#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define CALLS __attribute__((noinline, section("misuse_calls")))

extern char __start_misuse_calls[], __stop_misuse_calls[];

/* The calls that commit the fault lie in a section of their own. The barriers keep them from
 * becoming jumps, which would hide who called. */
static CALLS void bad_free(void *block)
{
	free(opaque(block));
	__asm__ volatile("");
}

static CALLS void *bad_realloc(void *block, size_t bytes)
{
	void *moved = realloc(opaque(block), bytes);

	__asm__ volatile("");
	return moved;
}

static CALLS void *bad_malloc(size_t bytes)
{
	void *block = malloc(bytes);

	__asm__ volatile("");
	return block;
}

static void announce(void *block)
{
	printf("block %p caller %p %p\n", block, (void *)__start_misuse_calls,
		(void *)__stop_misuse_calls);
	fflush(stdout);
}

static void *fresh(size_t bytes)
{
	void *block = opaque(malloc(bytes));

	REQUIRE(block != NULL);
	return block;
}

/* A block, and another one behind it so that it does not touch top. */
static char *fenced(size_t bytes)
{
	char *block = fresh(bytes);

	fresh(bytes);
	return block;
}

static size_t *head_of(void *block)
{
	return (size_t *)block - 1;
}

/* Fills the thread's cache for this size. */
static void fill_cache(size_t bytes)
{
	void *block[7];

	for (int i = 0; i < 7; i++)
		block[i] = fresh(bytes);
	for (int i = 0; i < 7; i++)
		free(block[i]);
}

/* Takes blocks of these sizes first, because what follows must not reuse what fill_cache freed. */
static char *behind_a_full_cache(size_t bytes)
{
	char *block[2] = {fresh(bytes), fresh(bytes)};

	fill_cache(bytes);
	return block[0];
}

static void free_twice(char *block)
{
	free(opaque(block));
	announce(block);
	bad_free(block);
}

static void twice_cached(void)
{
	free_twice(fenced(40));
}

/* Others lie before it in the cache. */
static void twice_cached_deep(void)
{
	char *block = fenced(40), *later[3] = {fresh(40), fresh(40), fresh(40)};

	free(block);
	for (int i = 0; i < 3; i++)
		free(later[i]);
	announce(block);
	bad_free(block);
}

static void twice_fast(void)
{
	free_twice(behind_a_full_cache(40));
}

static void twice_small_bin(void)
{
	free_twice(behind_a_full_cache(400));
}

static void twice_large(void)
{
	free_twice(fenced(5000));
}

/* The first free joins it with top. */
static void twice_at_top(void)
{
	fenced(5000);
	free_twice(fresh(5000));
}

static void twice_below_top(void)
{
	char *low = fresh(5000), *high = fresh(5000);

	free(low);
	free(high);
	announce(high);
	bad_free(high);
}

static void twice_mapped(void)
{
	free_twice(fresh(1 << 20));
}

static void wrong_place(void *place)
{
	announce(place);
	bad_free(place);
}

static void of_stack(void)
{
	char place[256] __attribute__((aligned(16)));

	memset(place, 0, sizeof(place));
	wrong_place(place + 64);
}

static void of_static(void)
{
	static char place[256] __attribute__((aligned(16)));

	wrong_place(place + 64);
}

static void middle(void)
{
	char *block = fenced(5000);

	memset(block, 0, 5000);
	wrong_place(block + 64);
}

/* What lies before the place looks like a size. */
static void middle_with_a_size(void)
{
	char *block = fenced(5000);

	memset(block, 0, 5000);
	*head_of(block + 64) = 0x801;
	wrong_place(block + 64);
}

static void misaligned(void)
{
	wrong_place(fenced(5000) + 8);
}

static void misaligned_small(void)
{
	char *block = fenced(40);

	memset(block, 0, 40);
	*head_of(block + 8) = 0x31;
	wrong_place(block + 8);
}

static void middle_mapped(void)
{
	char *block = fresh(1 << 20);

	*head_of(block + 512) = *head_of(block);
	wrong_place(block + 512);
}

static void overflow_small(void)
{
	char *block = fenced(5000);

	*head_of(block + malloc_usable_size(block) + 8) = 0;
	announce(block);
	bad_free(block);
}

static void overflow_by_letters(void)
{
	char *block = fenced(5000);

	memset(opaque(block), 'A', malloc_usable_size(block) + 8);
	announce(block);
	bad_free(block);
}

static void overflow_fast(void)
{
	char *block = behind_a_full_cache(40);

	memset(opaque(block), 'A', malloc_usable_size(block) + 8);
	announce(block);
	bad_free(block);
}

static void overflow_own_head(void)
{
	char *below = fresh(24), *block = fenced(5000);

	memset(opaque(below), 0xff, malloc_usable_size(below) + 8);
	announce(block);
	bad_free(block);
}

static void overflow_zero_head(void)
{
	char *below = fresh(24), *block = fenced(5000);

	memset(opaque(below), 0, malloc_usable_size(below) + 8);
	announce(block);
	bad_free(block);
}

/* Into a freed neighbour: its size, as the next free or allocation finds it. */
static void overflow_freed_size(void)
{
	char *freed = fenced(5000);

	free(freed);
	*head_of(freed) = 0xffffff1;
	announce(freed);
	bad_malloc(6000);
}

static void overflow_freed_joined(void)
{
	char *freed = fresh(5000), *block = fenced(5000);

	free(freed);
	*head_of(freed) += 64;
	announce(block);
	bad_free(block);
}

/* Links that lead to places of the program, as an attack would have them. */
static void lead_astray(char *block)
{
	static size_t elsewhere[8];
	void *links[2] = {elsewhere, elsewhere};

	memcpy(opaque(block), links, sizeof(links));
}

static void links_unsorted(void)
{
	char *freed = fenced(5000);

	free(freed);
	lead_astray(freed);
	announce(freed);
	bad_malloc(6000);
}

static void links_small(void)
{
	char *freed = behind_a_full_cache(400);
	void *cached[7];

	for (int i = 0; i < 7; i++)
		cached[i] = fresh(400);
	fill_cache(400);
	free(freed);
	fresh(6000); /* sorts it */
	for (int i = 0; i < 7; i++)
		cached[i] = fresh(400);
	(void)cached;
	lead_astray(freed);
	announce(freed);
	bad_malloc(400);
}

static void links_joined(void)
{
	char *freed = fresh(5000), *block = fenced(5000);

	free(freed);
	fresh(6000);
	lead_astray(freed);
	announce(block);
	bad_free(block);
}

/* Two large chunks of one bin: the ring of sizes is broken, then a third is sorted between them. */
static void links_of_sizes(void)
{
	char *small = fenced(5000), *large = fenced(5100), *between = fenced(5050);

	free(small);
	free(large);
	fresh(9000);
	lead_astray(large + 16);
	lead_astray(small + 16);
	free(between);
	announce(between);
	bad_malloc(9000);
}

static void overflow_fast_freed(void)
{
	char *block = behind_a_full_cache(40);

	for (int i = 0; i < 7; i++)
		fresh(40);
	free(fresh(40));
	fill_cache(40);
	free(block);
	for (int i = 0; i < 7; i++)
		fresh(40);
	*head_of(block) = 0x51;
	announce(block);
	bad_malloc(40);
}

static void overflow_fast_joined(void)
{
	char *block = behind_a_full_cache(40);

	free(block);
	*head_of(block) = 0x51;
	announce(block);
	bad_malloc(5000);
}

static void overflow_freed_behind(void)
{
	char *freed = fenced(5000);
	size_t end = malloc_usable_size(freed) - 8;

	free(freed);
	*(size_t *)(freed + end) = 77;
	announce(freed);
	bad_malloc(6000);
}

static void overflow_top(void)
{
	char *block = fresh(24);

	*head_of(block + malloc_usable_size(block) + 8) = SIZE_MAX & ~(size_t)6;
	announce(block + malloc_usable_size(block) + 8);
	bad_malloc(100000);
}

/* Both heaps mask these links; a flipped bit stays a flipped bit. */
static void misalign_link(char *block)
{
	*(size_t *)opaque(block) ^= 8;
}

static void cached_link(void)
{
	char *block = fenced(40), *other = fenced(40);

	free(other);
	free(block);
	misalign_link(block);
	announce(block);
	bad_malloc(40);
	bad_malloc(40);
	bad_malloc(40);
}

static void fast_link(void)
{
	char *one = fenced(40), *two = fenced(40);
	void *cached[7];

	fill_cache(40);
	free(one);
	free(two);
	misalign_link(two);
	announce(two);
	for (int i = 0; i < 7; i++)
		cached[i] = bad_malloc(40);
	(void)cached;
	bad_malloc(40);
	bad_malloc(40);
}

static void realloc_freed(void)
{
	char *block = fenced(5000);

	free(block);
	announce(block);
	bad_realloc(block, 6000);
}

static void realloc_freed_smaller(void)
{
	char *block = fenced(5000);

	free(block);
	announce(block);
	bad_realloc(block, 100);
}

static void realloc_freed_cached(void)
{
	char *block = fenced(40);

	free(block);
	announce(block);
	bad_realloc(block, 4000);
}

static void realloc_freed_fast(void)
{
	char *block = behind_a_full_cache(40);

	free(block);
	announce(block);
	bad_realloc(block, 4000);
}

static void realloc_freed_top(void)
{
	char *block;

	fenced(5000);
	block = fresh(5000);
	free(block);
	announce(block);
	bad_realloc(block, 6000);
}

static void realloc_of_stack(void)
{
	char place[256] __attribute__((aligned(16)));

	memset(place, 0, sizeof(place));
	announce(place + 64);
	bad_realloc(place + 64, 500);
}

static void realloc_misaligned(void)
{
	char *block = fenced(5000);

	announce(block + 8);
	bad_realloc(block + 8, 6000);
}

static void realloc_overflowed(void)
{
	char *block = fenced(5000);

	memset(opaque(block), 'A', malloc_usable_size(block) + 8);
	announce(block);
	bad_realloc(block, 9000);
}

/* What a head reads as where the program has written text. */
static void realloc_of_text(void)
{
	char *block = fenced(5000);

	memcpy(head_of(block), "textTEXT", sizeof(size_t));
	*head_of(block) &= ~(size_t)14; /* not mapped, of this arena, and aligned */
	announce(block);
	bad_realloc(block, 9000);
}

static void realloc_middle_mapped(void)
{
	char *block = fresh(1 << 20);

	*head_of(block + 512) = *head_of(block);
	announce(block + 512);
	bad_realloc(block + 512, 2 << 20);
}

/* clang-format off */
#define MISUSE(name) {#name, name}
/* clang-format on */

static const struct {
	const char *name;
	void (*commit)(void);
} misuses[] = {
	MISUSE(twice_cached),
	MISUSE(twice_cached_deep),
	MISUSE(twice_fast),
	MISUSE(twice_small_bin),
	MISUSE(twice_large),
	MISUSE(twice_at_top),
	MISUSE(twice_below_top),
	MISUSE(twice_mapped),
	MISUSE(of_stack),
	MISUSE(of_static),
	MISUSE(middle),
	MISUSE(middle_with_a_size),
	MISUSE(misaligned),
	MISUSE(misaligned_small),
	MISUSE(middle_mapped),
	MISUSE(overflow_small),
	MISUSE(overflow_by_letters),
	MISUSE(overflow_fast),
	MISUSE(overflow_own_head),
	MISUSE(overflow_zero_head),
	MISUSE(overflow_freed_size),
	MISUSE(overflow_freed_joined),
	MISUSE(overflow_freed_behind),
	MISUSE(overflow_top),
	MISUSE(links_unsorted),
	MISUSE(links_small),
	MISUSE(links_joined),
	MISUSE(links_of_sizes),
	MISUSE(overflow_fast_freed),
	MISUSE(overflow_fast_joined),
	MISUSE(cached_link),
	MISUSE(fast_link),
	MISUSE(realloc_freed),
	MISUSE(realloc_freed_smaller),
	MISUSE(realloc_freed_cached),
	MISUSE(realloc_freed_fast),
	MISUSE(realloc_freed_top),
	MISUSE(realloc_of_stack),
	MISUSE(realloc_misaligned),
	MISUSE(realloc_overflowed),
	MISUSE(realloc_of_text),
	MISUSE(realloc_middle_mapped),
};

/* What a program does next: it frees so much that the heap joins what is free, and allocates. */
static void go_on(void)
{
	free(fresh(100000));
	for (size_t bytes = 40; bytes <= 400; bytes += 360)
		for (int i = 0; i < 64; i++)
			fresh(bytes);
}

static bool late;

static void *commit_it(void *name)
{
	for (size_t i = 0; i < sizeof(misuses) / sizeof(*misuses); i++)
		if (strcmp(name, misuses[i].name) == 0)
			misuses[i].commit();
	if (late)
		go_on();
	return name;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	static char buffer[BUFSIZ];
	const struct rlimit no_core = {0, 0};

	setrlimit(RLIMIT_CORE, &no_core);
	/* Else the line before the fault would allocate, and meet it. */
	setvbuf(stdout, buffer, _IOFBF, sizeof(buffer));
	if (argc < 2) {
		for (size_t i = 0; i < sizeof(misuses) / sizeof(*misuses); i++)
			printf("%s\n", misuses[i].name);
		return 0;
	}
	late = strcmp(argv[argc - 1], "late") == 0;
	if (argc < 3 + late)
		commit_it(argv[1]);
	else if (pthread_create(&thread, NULL, commit_it, argv[1]) == 0)
		pthread_join(thread, NULL);
	if (write(STDERR_FILENO, "unnoticed\n", 10) < 0)
		return 1;
	_exit(3);
}

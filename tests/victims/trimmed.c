/* SPDX-License-Identifier: MIT
 *
 * Heaps that keep memory, for reasons that are known:
 *   trimmed MODE BLOCKS [trim | spike]
 *     cache    all blocks freed, in random order: what caches hold keeps the break up
 *     pages    of blocks of 20 KB every tenth stays
 *     checker  of blocks of 2 KB every other stays
 *     fast     blocks of 400 and of 100 bytes in turn, all freed: fast lists keep the small ones
 *     top      a trim threshold raised by a freed mapping, all freed from the end
 *     use      nothing freed
 *     none     all freed, all back
 *     thrash   so many times: 2 MB of small blocks, freed
 *     remap    so many times: a block of 1 MB, freed (with a fixed mmap_threshold each is mapped)
 * With `trim` it prints the anonymous memory in KiB before and after malloc_trim(0), as the kernel
 * counts it. With `spike`, of use and checker: then a block of 1 MiB more, so that this is the
 * peak; it prints a line, waits for a byte, and frees all.
 */
#include "victim.h"

#include <malloc.h>
#include <string.h>
#include <unistd.h>

static unsigned seed = 1;

static unsigned draw(unsigned limit)
{
	seed = seed * 1103515245 + 12345;
	return (seed >> 8) % limit;
}

static long resident_kib(void)
{
	char line[256];
	long kib = -1;
	FILE *file = fopen("/proc/self/smaps_rollup", "r");

	REQUIRE(file != NULL);
	while (fgets(line, sizeof(line), file) != NULL)
		if (strncmp(line, "Anonymous:", 10) == 0)
			kib = atol(line + 10);
	fclose(file);
	return kib;
}

__attribute__((noinline)) static char *fill(size_t bytes)
{
	char *block = opaque(malloc(bytes));

	REQUIRE(block != NULL);
	memset(block, 1, bytes);
	return block;
}

static void shuffle(char **blocks, int count)
{
	for (int i = count - 1; i > 0; i--) {
		int j = (int)draw((unsigned)i + 1);
		char *swap = blocks[i];

		blocks[i] = blocks[j];
		blocks[j] = swap;
	}
}

static void keep_some(char **blocks, int count, int of)
{
	for (int i = 0; i < count; i++)
		if (i % of != 0)
			free(blocks[i]);
}

static void free_large_first(char **blocks, int count)
{
	for (int i = 0; i < count; i += 2)
		free(blocks[i]);
	for (int i = 1; i < count; i += 2)
		free(blocks[i]);
}

static void thrash(int rounds)
{
	char *blocks[1000];

	for (int i = 0; i < rounds; i++) {
		for (int j = 0; j < 1000; j++)
			blocks[j] = fill(2000);
		for (int j = 1000; j-- > 0;)
			free(blocks[j]);
	}
}

static void remap(int rounds)
{
	for (int i = 0; i < rounds; i++)
		free(fill(1 << 20));
}

static void spike(char **blocks, int count, int of)
{
	char *more = fill(1 << 20);
	char byte;

	REQUIRE(write(STDOUT_FILENO, "peak\n", 5) == 5);
	REQUIRE(read(STDIN_FILENO, &byte, 1) == 1);
	free(more);
	for (int i = 0; i < count; i += of)
		free(blocks[i]);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 2 ? argv[1] : "";
	int count = argc > 2 ? atoi(argv[2]) : 0;
	char **blocks;

	if (strcmp(mode, "thrash") == 0 || strcmp(mode, "remap") == 0) {
		(strcmp(mode, "thrash") == 0 ? thrash : remap)(count);
		return 0;
	}
	blocks = malloc((size_t)count * sizeof(*blocks));

	REQUIRE(blocks != NULL && count > 0);
	if (strcmp(mode, "top") == 0)
		free(fill(30 << 20));
	for (int i = 0; i < count; i++)
		blocks[i] = fill(strcmp(mode, "pages") == 0     ? 20000
				 : strcmp(mode, "cache") == 0 ? 16 + draw(6700)
				 : strcmp(mode, "fast") == 0  ? (i % 2 == 0 ? 400 : 100)
							      : 2000);
	if (strcmp(mode, "cache") == 0)
		shuffle(blocks, count);
	if (strcmp(mode, "pages") == 0)
		keep_some(blocks, count, 10);
	else if (strcmp(mode, "checker") == 0)
		keep_some(blocks, count, 2);
	else if (strcmp(mode, "fast") == 0)
		free_large_first(blocks, count);
	else if (strcmp(mode, "use") != 0)
		for (int i = count; i-- > 0;)
			free(blocks[i]);
	if (argc > 3 && strcmp(argv[3], "spike") == 0)
		spike(blocks, count, strcmp(mode, "checker") == 0 ? 2 : 1);
	free(blocks);
	if (argc > 3 && strcmp(argv[3], "trim") == 0) {
		long before = resident_kib();

		malloc_trim(0);
		printf("%ld %ld\n", before, resident_kib());
	}
	return 0;
}

/* SPDX-License-Identifier: MIT
 *
 * With no more address space every call fails with ENOMEM and harms nothing; later calls work.
 */
#include "victim.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#define BLOCKS 100000

/* What is mapped already: a recording's buffers may be large. */
static size_t mapped_bytes(void)
{
	FILE *stream = fopen("/proc/self/statm", "r");
	size_t pages = 0;

	REQUIRE(stream != NULL);
	REQUIRE(fscanf(stream, "%zu", &pages) == 1);
	fclose(stream);
	return pages * 4096;
}

int main(void)
{
	static void *block[BLOCKS];
	struct rlimit limit = {.rlim_cur = 200 << 20, .rlim_max = RLIM_INFINITY};
	int count = 0;

	limit.rlim_cur += mapped_bytes();
	REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
	errno = 0;
	while (count < BLOCKS && (block[count] = malloc(count % 7 * 30000 + 1)) != NULL)
		memset(block[count++], 1, 1);
	REQUIRE(count < BLOCKS && errno == ENOMEM);
	REQUIRE(opaque(calloc(1000, 1000)) == NULL);
	REQUIRE(opaque(realloc(block[0], 100 << 20)) == NULL);
	REQUIRE(opaque(aligned_alloc(4096, 100 << 20)) == NULL);
	while (count > 0)
		free(block[--count]);
	block[0] = malloc(50 << 20);
	REQUIRE(block[0] != NULL);
	memset(block[0], 1, 50 << 20);
	free(block[0]);
	return 0;
}

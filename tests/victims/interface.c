/* SPDX-License-Identifier: MIT
 *
 * The promises of malloc(3), posix_memalign(3), mallopt(3), mallinfo(3) and malloc_info(3).
 */
#include "victim.h"

#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <string.h>

void cfree(void *block);
void free_sized(void *block, size_t size);
void free_aligned_sized(void *block, size_t alignment, size_t size);
#pragma weak cfree
#pragma weak free_sized
#pragma weak free_aligned_sized

static volatile size_t huge = SIZE_MAX;
static volatile size_t odd_alignments[] = {100, 48};

static void sizes(void)
{
	errno = 0;
	REQUIRE(opaque(malloc(huge)) == NULL && errno == ENOMEM);
	errno = 0;
	REQUIRE(opaque(malloc(huge / 2 + 1)) == NULL && errno == ENOMEM);
	errno = 0;
	REQUIRE(opaque(calloc(huge / 2, 3)) == NULL && errno == ENOMEM);
	errno = 0;
	REQUIRE(opaque(realloc(NULL, huge)) == NULL && errno == ENOMEM);
	errno = 0;
	REQUIRE(opaque(pvalloc(huge - 1)) == NULL && errno == ENOMEM);
	errno = 0;
	REQUIRE(opaque(reallocarray(NULL, huge / 2, 3)) == NULL && errno == ENOMEM);
	REQUIRE(opaque(malloc(0)) != NULL);
	REQUIRE(malloc_usable_size(NULL) == 0);
	REQUIRE(realloc(opaque(malloc(10)), 0) == NULL);
}

static void alignment(void)
{
	void *block = &block;

	for (size_t power = 8; power <= 65536; power *= 2) {
		REQUIRE(posix_memalign(&block, power, 100) == 0);
		REQUIRE((uintptr_t)block % power == 0);
		free(block);
	}
	block = &block;
	errno = EINTR;
	REQUIRE(posix_memalign(&block, 0, 1) == EINVAL);
	REQUIRE(posix_memalign(&block, 4, 1) == EINVAL);
	REQUIRE(posix_memalign(&block, 24, 1) == EINVAL);
	REQUIRE(posix_memalign(&block, 64, huge) == ENOMEM);
	REQUIRE(errno == EINTR && block == &block);
	block = memalign(odd_alignments[0], 1);
	REQUIRE((uintptr_t)block % 128 == 0);
	block = opaque(aligned_alloc(odd_alignments[1], 1)); /* 2.36 rounds up */
	REQUIRE(block != NULL && (uintptr_t)block % 64 == 0);
	REQUIRE((uintptr_t)valloc(1) % 4096 == 0);
	block = pvalloc(1);
	REQUIRE((uintptr_t)block % 4096 == 0 && malloc_usable_size(block) >= 4096);
}

static void errno_is_kept(void)
{
	void *large = malloc(64 << 20), *small = malloc(10);

	errno = EINTR;
	free(opaque(large));
	free(opaque(small));
	free(opaque(malloc(100000)));
	REQUIRE(errno == EINTR);
}

static void figures(void)
{
	struct mallinfo2 before = mallinfo2(), after;
	void *block = opaque(malloc(20480)), *large;

	after = mallinfo2();
	REQUIRE(after.uordblks >= before.uordblks + 20480);
	REQUIRE(after.uordblks + after.fordblks == after.arena);
	REQUIRE(after.hblkhd == before.hblkhd);
	large = opaque(malloc(256 << 20));
	after = mallinfo2();
	REQUIRE(after.hblks == before.hblks + 1);
	REQUIRE(after.hblkhd >= before.hblkhd + (256 << 20));
	free(large);
	REQUIRE(mallinfo2().hblks == before.hblks);
	free(block);
}

static void options(void)
{
	char text[64] = "";
	FILE *stream;

	REQUIRE(mallopt(M_MXFAST, 160) == 1);
	REQUIRE(mallopt(M_MXFAST, 161) == 0);
	REQUIRE(mallopt(M_ARENA_MAX, 2) == 1);
	REQUIRE(malloc_info(1, stdout) == EINVAL);
	stream = tmpfile();
	REQUIRE(stream != NULL);
	REQUIRE(malloc_info(0, stream) == 0);
	rewind(stream);
	REQUIRE(fgets(text, sizeof(text), stream) != NULL);
	REQUIRE(strcmp(text, "<malloc version=\"1\">\n") == 0);
	fclose(stream);
}

static void trim(void)
{
	static void *block[100];

	for (int i = 0; i < 100; i++) {
		block[i] = malloc(50000);
		memset(block[i], 1, 50000);
	}
	for (int i = 0; i < 100; i += 2)
		free(block[i]);
	REQUIRE(malloc_trim(0) == 1);
	for (int i = 1; i < 100; i += 2)
		free(block[i]);
}

int main(void)
{
	sizes();
	alignment();
	errno_is_kept();
	figures();
	options();
	trim();
	malloc_stats();
	if (free_sized != NULL && free_aligned_sized != NULL) { /* newer than the C library's own */
		free_sized(malloc(100), 100);
		free_aligned_sized(aligned_alloc(64, 128), 64, 128);
	}
	if (cfree != NULL)
		cfree(malloc(5));
	return 0;
}
